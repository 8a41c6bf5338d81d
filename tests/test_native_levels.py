"""nes_jax.native.cpu: levels of instructions, machines without the engine, and sanitizers."""

import ctypes
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys

from native_answers import (
  HERE,
  ROOT,
  assert_same_answers,
  assert_same_steps,
  assert_same_verdicts,
  in_a_process,
  stored,
)
import numpy as np
import pytest

import nes_jax
from nes_jax.native import cpu

pytestmark = pytest.mark.skipif(cpu.reason() is not None, reason=str(cpu.reason()))


@functools.cache
def levels_here():
  """The levels that were built and that this processor supports."""
  library = ctypes.CDLL(str(cpu.library.library_path("baseline")))
  has = cpu.LEVELS[: library.nes_cpu_level() + 1]
  return [level for level in has if cpu.library.library_path(level).exists()]


def answers_of_a_level(level, out):
  """Writes the answers of a level to a file. A process of its own runs this function."""
  assert cpu.level() == level, cpu.reason()
  found = {f"{name}/{field}": x for name, (_, answers, _) in stored().items()
           for field, x in answers.items()}
  np.savez(out, **found)


@pytest.mark.parametrize("level", cpu.LEVELS)
def test_levels_agree(level, tmp_path):
  if level not in levels_here():
    pytest.skip(f"no {level} on this machine")
  out = tmp_path / "level.npz"
  code = f"import test_native_levels as t; t.answers_of_a_level({level!r}, {str(out)!r})"
  in_a_process(code, NES_JAX_CPU=level)
  with np.load(out) as archive:
    arrays = dict(archive)
  for name, (case, in_use, _) in stored().items():
    found = {field: arrays[f"{name}/{field}"] for field in in_use}
    assert_same_verdicts(case, found, in_use)
    assert_same_answers(case, found, in_use)
    assert_same_steps(case, found, in_use)


def test_the_best_level_is_in_use():
  if not os.environ.get("NES_JAX_CPU"):
    assert cpu.level() == levels_here()[-1]
  assert nes_jax.engines()["native"] is None and nes_jax.engines()["jax"] is None
  assert set(nes_jax.engines()) == {"native", "cuda", "jax"}


def test_no_native_engine():
  """Without the engine calls go to the JAX engine, and `engines` gives the reason."""
  code = """
import jax, numpy as np, nes_jax
from solutions import KNOWN
print(nes_jax.engines()["native"])
print(nes_jax.native.cpu.level(), nes_jax.native.cpu.reason_traced())
found = nes_jax.solve(KNOWN)
assert found.converged.all() and nes_jax.engines()["jax"] is None
np.testing.assert_allclose(found.joint[1], 0.25, atol=1e-2)
print(len(str(jax.jit(nes_jax.solve).lower(KNOWN.astype(np.float32)).as_text()).split("nes_jax_cpu")))
"""
  expected = ["NES_JAX_CPU=none", "None NES_JAX_CPU=none", "1"]
  assert in_a_process(code, NES_JAX_CPU="none").splitlines() == expected


@pytest.mark.parametrize("level", ["sse9", "AVX2"])
def test_unknown_levels(level):
  code = "import nes_jax; print(nes_jax.engines()['native'])"
  found = in_a_process(code, NES_JAX_CPU=level).strip()
  assert found == f"NES_JAX_CPU={level} is not one of baseline, avx2, avx512, none"


def test_levels_that_the_processor_has_not():
  """A level that the processor lacks gives a reason, and no illegal instruction."""
  missing = [level for level in cpu.LEVELS if level not in levels_here()]
  if not missing:
    pytest.skip("this processor has all")
  code = """
import numpy as np, nes_jax
from solutions import KNOWN
print(nes_jax.engines()["native"])
if nes_jax.engines()["native"] is None:
  nes_jax.solve(KNOWN, precision="float64")
"""
  assert missing[-1] in in_a_process(code, NES_JAX_CPU=missing[-1])


# Sanitizers.


@functools.cache
def build_settings():
  """The options of the compiler in setup.py, and those of each level, under NES_JAX_SANITIZE."""
  code = (
      "import json, os, runpy, setuptools\n"
      "setuptools.setup = lambda **_: None\n"
      "names = runpy.run_path('setup.py')\n"
      "print(json.dumps([names['COMPILE'], names['CPU_LEVELS']]))"
  )
  done = subprocess.run(
      [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "NES_JAX_SANITIZE": "1"},
      capture_output=True, text=True, check=True,
  )
  return json.loads(done.stdout)


@pytest.mark.slow
def test_sanitizers_find_nothing(tmp_path):
  """A library that is built with AddressSanitizer and UBSan is called at random on four threads."""
  compiler = shutil.which("g++")
  if compiler is None:
    pytest.skip("needs g++")

  def find(name):
    return subprocess.run(
        [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()

  # The sanitizer needs the C++ library to be loaded from the start.
  runtime = [find("libasan.so"), find("libstdc++.so")]
  if not all(pathlib.Path(path).is_absolute() for path in runtime):
    pytest.skip("needs the libasan of g++")
  flags, levels = build_settings()
  assert any("-fsanitize=address" in flag for flag in flags)
  library = tmp_path / "sanitized.so"
  source = ROOT / "nes_jax" / "native" / "cpu" / "api.cpp"
  command = [compiler, *flags, *levels[cpu.level()], str(source), "-o", str(library)]
  subprocess.run(command, check=True, timeout=900)
  environment = {
      **os.environ,
      "LD_PRELOAD": " ".join(runtime),
      "ASAN_OPTIONS": "detect_leaks=0",
      "UBSAN_OPTIONS": "print_stacktrace=1",
      "PYTHONPATH": str(ROOT),
      "NES_JAX_CPU": cpu.level(),
      "JAX_PLATFORMS": "cpu",
  }
  program = [sys.executable, "-X", "faulthandler", str(HERE / "native" / "calls.py")]
  done = subprocess.run(
      [*program, "100", str(library)],
      env=environment, capture_output=True, text=True, timeout=900, check=False,
  )
  assert done.returncode == 0, done.stderr[-5000:]
  assert f"100 calls of the level {cpu.level()}" in done.stdout


def test_a_library_of_other_sources_is_refused(monkeypatch):
  cpu.library.load.cache_clear()
  monkeypatch.setattr(cpu.library, "_INTERFACE", 0)
  try:
    assert "was built from other sources" in cpu.library.load()[1]
  finally:
    cpu.library.load.cache_clear()
