"""Settings and fixtures of the whole suite. x64 stays off: a test that needs it asks for `x64`."""

import os
import socket
import subprocess
import sys
import tempfile

import jax
import pytest

# Modules that share assertions between files, whose failures show the values that they compared.
pytest.register_assert_rewrite("native_answers", "solutions", "solve_runs")

_MARKERS = ("slow: takes more than about ten seconds; `make test-fast` leaves it out",)
# Deprecations within other packages are ignored. A warning from this project stays visible.
_FILTERS = (
    r"ignore::DeprecationWarning:(haiku|distrax|chex|optax|tensorflow_probability|tf_keras)(\..*)?",
    r"ignore::DeprecationWarning:(cvxpy|ecos|bayes_opt|sklearn|matplotlib)(\..*)?",
)


# Variable of the folder in which processes of the suite share compiled programs.
_COMPILED = "JAX_COMPILATION_CACHE_DIR"
_WORTH_KEEPING = 0.3  # seconds of compilation


# Flags of XLA with which programs for CPUs compile in a third of the time. Most tests that are not
# slow compile for longer than they compute.
_QUICK_FLAGS = (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)
# Variable that is "quick" where programs are to compile with these flags, and round in other ways
# than those of users. The Makefile sets it for tests that are not slow.
_OPTIMISATION = "NES_JAX_TEST_OPTIMISATION"


def _compile_quickly() -> None:
  """Adds the quick flags to those of XLA, in this process and in those that it starts.

  XLA ends a process that has a flag which it does not know. Another process tries them first.
  """
  flags = os.environ.get("XLA_FLAGS", "")
  if os.environ.get(_OPTIMISATION) != "quick" or _QUICK_FLAGS[0] in flags:
    return
  quick = " ".join([flags, *_QUICK_FLAGS]).strip()
  tried = subprocess.run(
      [sys.executable, "-c", "import jax; assert jax.default_backend() == 'cpu'"],
      env={**os.environ, "XLA_FLAGS": quick},
      capture_output=True,
      check=False,
  )
  if tried.returncode == 0:
    os.environ["XLA_FLAGS"] = quick


def pytest_configure(config):
  if not hasattr(config, "workerinput"):  # workers inherit the environment
    _compile_quickly()
  if _COMPILED not in os.environ:
    config.compiled = tempfile.TemporaryDirectory(prefix="compiled-")
    os.environ[_COMPILED] = config.compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = str(_WORTH_KEEPING)
    jax.config.update("jax_compilation_cache_dir", config.compiled.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH_KEEPING)
  for marker in _MARKERS:
    config.addinivalue_line("markers", marker)
  for line in _FILTERS:
    config.addinivalue_line("filterwarnings", line)


@pytest.fixture
def x64():
  """Switches 64-bit types on for one test, and off again."""
  if hasattr(jax, "enable_x64"):
    enable = jax.enable_x64
  else:  # JAX 0.7
    from jax.experimental import enable_x64 as enable
  with enable(True):
    yield


@pytest.fixture
def coordinator():
  """HOST:PORT at which processes of one test can meet."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
  """Lets go of what a file has compiled: a process can only map so much memory."""
  yield
  jax.clear_caches()
