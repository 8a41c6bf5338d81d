# `make demo` and `make test` need Python 3.11 or later and PyPI; they make their own .venv.
# `make gpu` installs nothing: PYTHON is one that has JAX with CUDA.

PYTHON ?= python3
PYTEST_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(wildcard nes_jax/native/*/*.cpp nes_jax/native/*/*.h)
RUFF_ARGS := \
  --config 'line-length = 100' \
  --config 'indent-width = 2' \
  --config 'target-version = "py311"' \
  --config 'lint.isort.force-sort-within-sections = true' \
  --select E,F,I,UP,B --ignore B905,B023

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo evaluate test test-fast lint docs pictures gpu clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

demo: $(VENV)/.installed-programs  ## solve games, calibrate a market; into out/demo
	$(BIN)/python -m launch.demo --out=out/demo
	$(BIN)/python -m launch.calsheq_train --experiment=1 --seeds=2 --stages=100 --last_rest=0 --nocertify --out=out/demo/market

evaluate: $(VENV)/.installed-programs  ## evaluate engines and networks on small samples; into out/eval
	$(BIN)/python -m launch.nes_eval --quick --out=out/eval

test: test-fast  ## run the whole test suite
	$(BIN)/python -m pytest -q -n auto --dist loadfile -m slow tests $(PYTEST_ARGS)

test-fast: $(VENV)/.installed-dev  ## run the tests not marked slow
	NES_JAX_TEST_OPTIMISATION=quick $(BIN)/python -m pytest -q -n auto --dist loadfile -m 'not slow' tests $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev  ## check the code with ruff and mypy
	$(BIN)/ruff check --isolated $(RUFF_ARGS) .
	$(BIN)/mypy

docs: $(VENV)/.installed-docs  ## build the documentation, without a warning; into out/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/mkdocs/mkdocs.yml

pictures: demo  ## make the pictures of README.md and docs/ anew; into docs/images
	$(BIN)/python -m launch.rate --scores=tests/data/agent57.csv --method=cce --out=out/pictures/rate
	$(BIN)/python -m launch.calsheq_train --experiment=1 --seeds=2 --stages=240 --nocertify --out=out/pictures/market
	$(BIN)/python -m launch.market_game --out=out/pictures/market_game
	$(BIN)/python -m launch.region --game=random:8x8 --seed=7 --out=out/pictures/region
	$(BIN)/python docs/mkdocs/pictures.py

gpu:  ## test and measure a machine with an NVIDIA GPU, in six minutes; into out/gpu
	$(PYTHON) -m launch.checks.gpu_report --out=out/gpu

clean:  ## remove .venv, out/demo, out/eval, out/pictures, out/docs, out/gpu, build and caches
	rm -rf $(VENV) out/demo out/eval out/pictures out/docs out/gpu build nes_jax/native/*.so nes_jax/native/*/*.so *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each extra of setup.py; a stamp as new as that and the C++ sources means that nothing
# is to be done.
$(VENV)/.installed-%: setup.py $(NATIVE) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit( \
	  f"Python 3.11 or later is needed and $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
