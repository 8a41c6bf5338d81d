"""nes_jax.native.cuda: what it serves, compilation, and calls from JAX to the kernels."""

import os
import pathlib
import subprocess
import sys

from emulated import built, centred, compile_host, run, spheres
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nes_jax.native import cuda


@pytest.fixture(scope="module")
def launcher():
  """The library that launches kernels, as setup.py builds it."""
  return compile_host("launch.cpp", "_launch.so", "-isystem", jax.ffi.include_dir())


@pytest.fixture
def cache(monkeypatch, tmp_path):
  """An empty folder for compiled kernels."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  cuda._library.cache_clear()
  yield tmp_path / "nes_jax"
  cuda._library.cache_clear()


def test_reasons_are_given(monkeypatch):
  if jax.default_backend() == "cpu":
    assert "not on a GPU" in cuda.available()
  monkeypatch.setenv(cuda.VARIABLE, "none")
  assert cuda.VARIABLE in cuda.available()
  assert cuda.serves((16, 9), "cce") is None and cuda.serves((8, 8), "ce") is None
  assert "16 x 16" in cuda.serves((17, 2), "cce")
  assert "8 x 8" in cuda.serves((9, 2), "ce")
  assert "two players" in cuda.serves((2, 2, 2), "cce")
  assert "float32" in cuda.serves((2, 2), "cce", np.float64)


def test_what_is_missing_is_named(launcher, cache):
  with pytest.raises(OSError):
    cuda._library(launcher.parent / "absent.so")
  missing = cuda._missing(cuda._library(launcher))
  if missing is None:
    pytest.skip("this machine has a driver")
  assert "libcuda.so.1" in missing or "libnvrtc" in missing


def test_calls_are_lowered_for_gpus(launcher, cache, monkeypatch):
  monkeypatch.setattr(cuda, "_LIBRARY", launcher)

  def one(payoffs, epsilon, rows, columns, target):
    options = dict(tolerance=1e-4, margin=0.8, max_iterations=20)
    first = cuda.solve(payoffs, None, epsilon, concept="cce", **options)
    second = cuda.solve(payoffs, target, epsilon, (rows, columns), concept="ce", **options)
    return first, second

  shapes = [(5, 2, 4, 3), (5, 2), (5, 4), (5, 3), (5, 4, 3)]
  given = [jnp.ones(shape, bool if i in (2, 3) else jnp.float32) for i, shape in enumerate(shapes)]
  first, second = jax.eval_shape(one, *given)
  assert [x.shape for x in first[1]] == [(5, 4), (5, 3)]
  assert [x.shape for x in second[1]] == [(5, 4, 4), (5, 3, 3)]
  many = jax.vmap(one, in_axes=(0, None, None, None, None))
  given[0] = jnp.ones((7, 5, 2, 4, 3))
  text = jax.jit(many).trace(*given).lower(lowering_platforms=("cuda",)).as_text()
  assert text.count(f"@{cuda._TARGET}") == 2 and "7x5x4x3xf32" in text


def test_nvrtc_compiles_the_kernels(launcher, cache):
  """NVRTC compiles without a GPU. The test is skipped where NVRTC is not installed."""
  library = cuda._library(launcher)
  try:
    cuda._compile(library, "cce", 4, True, (9, 0))
  except RuntimeError as error:
    if "cannot be opened" not in str(error):
      raise
    pytest.skip(str(error))
  (kept,) = cache.iterdir()
  written = kept.stat().st_mtime_ns
  cuda._compile(library, "cce", 4, True, (9, 0))
  assert kept.stat().st_mtime_ns == written
  with pytest.raises(RuntimeError, match="sm_10"):
    cuda._compile(library, "cce", 4, True, (1, 0))


# A program for a process of its own, whose CUDA driver is emulated_driver.cpp.
HOST_CALLS = """
import ctypes, os, pathlib, sys
import jax
import numpy as np
folder = pathlib.Path(sys.argv[1])
ctypes.CDLL(str(folder / "driver.so"))  # its name is libcuda.so.1
from nes_jax.native import cuda
cuda._LIBRARY, cuda._PLATFORM = folder / "host.so", "cpu"
cuda._compilers = lambda: [str(folder / "driver.so")]
given = np.load(folder / "given.npz")
payoffs, target, epsilon, rows, columns = (given[str(i)] for i in range(5))
options = dict(tolerance=1e-4, margin=0.8)
cce = lambda *x: cuda.solve(*x, concept="cce", max_iterations=20, **options)
ce = lambda *x: cuda.solve(*x, concept="ce", max_iterations=30, **options)
half = lambda x: x.reshape(2, -1, *x.shape[1:])
answers = {
    "cce": jax.jit(cce)(payoffs, None, epsilon),
    "cce target": jax.jit(cce)(payoffs, target, epsilon),
    "ce masks": jax.jit(ce)(payoffs, target, epsilon, (rows, columns)),
    "many": jax.jit(jax.vmap(cce, in_axes=(0, None, 0)))(half(payoffs), None, half(epsilon)),
}
leaves = {f"{k} {i}": x for k, v in answers.items() for i, x in enumerate(jax.tree.leaves(v))}
np.savez(folder / "found.npz", **leaves)
os.environ["NES_EMULATED"] = "absent"
try:
  jax.block_until_ready(jax.jit(cce)(np.zeros((3, 2, 9, 9)), None, np.zeros((3, 2))))
except Exception as error:
  print(error)
"""


def test_calls_reach_the_kernels(launcher):
  """A call goes from JAX to the kernels and back, with an emulated driver and NVRTC."""
  rng = np.random.default_rng(0)
  payoffs = centred(spheres(rng, 40, 4, 3))
  log_target = np.log(rng.dirichlet(np.ones(12), 40).reshape(40, 4, 3)).astype(np.float32)
  epsilon = rng.uniform(0, 0.1, (40, 2)).astype(np.float32)
  rows, columns = np.ones((40, 4), bool), np.ones((40, 3), bool)
  rows[::2, 1] = columns[::3, 2] = False
  masked = np.where(rows[:, None, :, None] & columns[:, None, None], payoffs, 0)
  direct = {
      "cce": run("cce", 4, True, payoffs, epsilon),
      "cce target": run("cce", 4, True, payoffs, epsilon, log_target),
      "ce masks": run("ce", 4, True, masked, epsilon, log_target, (rows, columns)),
  }
  direct["many"] = direct["cce"]
  folder = pathlib.Path(built().name)
  compile_host("launch.cpp", "host.so", "-DNES_ON_HOST", "-isystem", jax.ffi.include_dir())
  compile_host("emulated_driver.cpp", "driver.so", "-Wl,-soname,libcuda.so.1")
  arrays = payoffs, log_target, epsilon, rows, columns
  np.savez(folder / "given.npz", **{str(i): x for i, x in enumerate(arrays)})
  environment = os.environ | {
      "JAX_PLATFORMS": "cpu", "NES_EMULATED": str(folder), "XDG_CACHE_HOME": str(folder / "cache")
  }
  process = subprocess.run(
      [sys.executable, "-c", HOST_CALLS, str(folder)],
      env=environment, capture_output=True, text=True, timeout=300,
  )
  assert process.returncode == 0, process.stderr
  # The last call finds no kernel. The error says what failed, and what to do.
  assert "loading a kernel failed: no such kernel" in process.stdout and cuda.VARIABLE in (
      process.stdout
  )
  found = np.load(folder / "found.npz")
  for name, answer in direct.items():
    joint, *others = (found[f"{name} {i}"] for i in range(len(jax.tree.leaves(answer))))
    raw, *rest = jax.tree.leaves(answer)
    # A call divides joints by their sums once more.
    divided = raw / raw.sum((1, 2), keepdims=True)
    np.testing.assert_allclose(joint.reshape(raw.shape), divided, rtol=1e-6)
    for x, y in zip(others, rest):
      np.testing.assert_array_equal(x.reshape(y.shape), y, err_msg=name)
