"""The CUDA kernels, compiled for this host, for tests of nes_jax.native.cuda."""

import ctypes
import functools
import pathlib
import shutil
import subprocess
import tempfile

import numpy as np
import pytest

from nes_jax.native import cuda

SOURCES = pathlib.Path(cuda.__file__).parent
EMULATION = pathlib.Path(__file__).parent / "native"
# Tolerance of a residual, and the part of it at which a kernel stops.
TOLERANCE, MARGIN = 1e-4, 0.8
# Largest number of steps by concept.
STEPS = {"cce": 20, "ce": 30}
# Names of the C++ classes by concept.
CLASSES = {"cce": "Coarse", "ce": "Correlated"}


@functools.cache
def built():
  """A folder for the libraries that this run compiles."""
  return tempfile.TemporaryDirectory(prefix="emulated-")


def compile_host(source, name, *options):
  """Compiles a shared library for this host, and returns its path."""
  compiler = shutil.which("g++")
  if compiler is None:
    pytest.skip("needs g++")
  library = pathlib.Path(built().name) / name
  command = [compiler, "-O2", "-std=c++17", "-shared", "-fPIC", "-Wno-unknown-pragmas", *options]
  command += [f"-I{folder}" for folder in (SOURCES, EMULATION)]
  folder = SOURCES if (SOURCES / source).exists() else EMULATION
  command += [str(folder / source), "-o", str(library), "-ldl"]
  subprocess.run(command, check=True, timeout=300)
  return library


@functools.cache
def emulated(concept, size, padded):
  """The kernel as a host function."""
  name = f"{CLASSES[concept]}_{size}_{'true' if padded else 'false'}.so"
  library = compile_host("emulate.cpp", name, *macros(concept, size, padded))
  return ctypes.CDLL(str(library)).nes_emulate


def macros(concept, size, padded):
  """The options of the compiler that choose a kernel."""
  padded = "true" if padded else "false"
  return [f"-DNES_CONCEPT={CLASSES[concept]}", f"-DNES_SIZE={size}", f"-DNES_PADDED={padded}"]


def aligned(shape, dtype=np.float32, values=None):
  """An array whose address is a multiple of 64, as on a GPU. Without values it holds garbage."""
  count = int(np.prod(shape)) * np.dtype(dtype).itemsize
  memory = np.full(count + 64, 255, np.uint8)
  first = -memory.ctypes.data % 64
  array = memory[first : first + count].view(dtype).reshape(shape)
  if values is not None:
    array[...] = values
  return array


def run(concept, size, padded, payoffs, epsilon, log_target=None, masks=None, chunk=8):
  """Joint, duals, residual and iterations of a kernel for centred payoffs [B, 2, n, m]."""
  batch, _, n, m = payoffs.shape
  given = [aligned(payoffs.shape, values=payoffs)]
  given.append(None if log_target is None else aligned(log_target.shape, values=log_target))
  given.append(aligned(epsilon.shape, values=epsilon))
  for p in range(2):
    given.append(None if masks is None else aligned(masks[p].shape, np.uint8, masks[p]))
  joint = aligned((batch, n, m))
  duals = [aligned((batch,) + (k,) * (1 if concept == "cce" else 2)) for k in (n, m)]
  residual, iterations = aligned((batch,)), aligned((batch,), np.int32)
  arrays = [*given, joint, *duals, residual, iterations]
  pointers = [None if x is None else x.ctypes.data_as(ctypes.c_void_p) for x in arrays]
  threshold = ctypes.c_float(MARGIN * TOLERANCE)
  blocks = 2 if chunk < batch else 1
  emulated(concept, size, padded)(
      *pointers, batch, n, m, threshold, STEPS[concept], blocks, chunk
  )
  return joint, duals, residual, iterations


def spheres(rng, count, n, m):
  return rng.standard_normal((count, 2, n, m))


def centred(games):
  """The result of `deviation.centre_at_best` for games [B, 2, n, m]."""
  first, second = games[:, 0], games[:, 1]
  best = first - first.max(1, keepdims=True), second - second.max(2, keepdims=True)
  return np.stack(best, 1).astype(np.float32)
