"""The exact engine as CUDA kernels, for two-player games: the whole method in one kernel.

It follows `nes_jax.exact` in float32 step by step, for hard constraints and no welfare: CCEs of up
to 16 x 16 strategies and CEs of up to 8 x 8. Each kernel is compiled by NVRTC the first time that a
device needs it and is kept in the user's cache directory.
"""

from collections.abc import Sequence
import ctypes
import functools
import importlib.util
import os
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nes_jax.types import Array, Concept, Duals

# Environment variable that switches this engine off when it is "none".
VARIABLE = "NES_JAX_CUDA"
# Largest number of strategies of a player.
LARGEST = {"cce": 16, "ce": 8}
# Name of the library's function in XLA.
_TARGET = "nes_jax_cuda_solve"
# Name of the platform in XLA.
_PLATFORM = "CUDA"
_FOLDER = pathlib.Path(__file__).parent
_LIBRARY = _FOLDER / "_launch.so"
# Largest length of a message of the library.
_MESSAGE_BYTES = 4096
# Major versions of NVRTC that are looked for.
_NVRTC_VERSIONS = (13, 12)
# Folders of NVRTC within NVIDIA's Python packages.
_NVRTC_FOLDERS = ("cu13/lib", "cuda_nvrtc/lib")
# Folders of NVRTC within a CUDA toolkit.
_TOOLKIT_FOLDERS = ("/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib")


def available() -> str | None:
  """Reason why this engine cannot run here, and advice; None if it can run."""
  if os.environ.get(VARIABLE) == "none":
    return f"the environment variable {VARIABLE} is none"
  where = jax.default_backend()
  if where not in ("gpu", "cuda"):
    return f"JAX computes on {where}, not on a GPU: install jax[cuda13] or jax[cuda12]"
  version = jax.devices()[0].client.platform_version
  if "cuda" not in version.lower():
    return f"JAX's GPU is not one of NVIDIA's, its platform being {version.splitlines()[-1]}"
  try:
    library = _library(_LIBRARY)
  except OSError as error:
    return (
        f"the library {_LIBRARY} cannot be loaded ({error}): install nes_jax with a C++ compiler at"
        " hand"
    )
  return _missing(library)


def serves(shape: Sequence[int], concept: Concept, dtype: Any = np.float32) -> str | None:
  """Reason why games cannot be served; None if they can.

  Args:
    shape: (n, m), the players' numbers of strategies.
    concept: "cce" or "ce".
    dtype: the type to compute in.
  """
  if np.dtype(dtype) != np.float32:
    return f"the kernels compute in float32, not {np.dtype(dtype)}"
  if len(shape) != 2:
    return f"the kernels are for two players, not {len(shape)}"
  if max(shape) > LARGEST[concept]:
    largest = LARGEST[concept]
    return f"the kernels serve {concept.upper()}s of up to {largest} x {largest} strategies"
  return None


def solve(
    payoffs: Array,
    log_target: Array | None,
    epsilon: Array,
    strategies: tuple[Array, ...] | None = None,
    *,
    concept: Concept,
    tolerance: float,
    margin: float,
    max_iterations: int,
) -> tuple[Array, Duals, Array, Array]:
  """Equilibria of normalised games, by the kernels. Traceable; call it where `available` is None.

  Args:
    payoffs: float32 [B, 2, n, m] in normalised units, centred by `deviation.centre_at_best`; 0
      where a strategy does not exist.
    log_target: float32 [B, n, m], finite where strategies exist; None: the maximum entropy.
    epsilon: float32 [B, 2], in normalised units.
    strategies: bool [B, n] and [B, m], the strategies that exist; None: all do.
    concept: "cce" or "ce".
    tolerance: largest KKT residual of an answer.
    margin: the loop ends at this fraction of the tolerance.
    max_iterations: largest number of steps of a game.

  Returns:
    joint [B, n, m], which sums to one; duals [B, n] and [B, m] (CCE) or [B, n, n] and [B, m, m]
    (CE), in normalised units; residual [B], infinite for games that are not numbers; steps taken,
    int32 [B].
  """
  batch, _, n, m = payoffs.shape
  dtype = jnp.float32
  if log_target is None:
    log_target = jnp.zeros((batch, 0), dtype)
  rows, columns = strategies or (jnp.zeros((batch, 0), bool),) * 2
  power = 1 if concept == "cce" else 2
  results = [(n, m), (n,) * power, (m,) * power, ()]
  outputs = [jax.ShapeDtypeStruct((batch, *shape), dtype) for shape in results]
  outputs += [jax.ShapeDtypeStruct((batch,), jnp.int32), jax.ShapeDtypeStruct((1,), jnp.int32)]
  _register()
  call = jax.ffi.ffi_call(_TARGET, outputs, vmap_method="broadcast_all")
  joint, *duals, residual, iterations, _ = call(
      payoffs.astype(dtype),
      log_target.astype(dtype),
      epsilon.astype(dtype),
      rows.astype(bool),
      columns.astype(bool),
      correlated=concept == "ce",
      threshold=np.float32(margin * tolerance),
      max_iterations=np.int32(max_iterations),
  )
  # A kernel divides by a sum that it has rounded, which shows where a game has diverged.
  joint = joint / joint.sum((1, 2), keepdims=True)
  return joint, tuple(duals), residual, iterations


@functools.cache
def _register() -> None:
  handler = jax.ffi.pycapsule(_library(_LIBRARY).nes_cuda_solve)
  jax.ffi.register_ffi_target(_TARGET, handler, platform=_PLATFORM)


@functools.cache
def _library(path: pathlib.Path) -> ctypes.CDLL:
  """The built library, configured with the folders of sources, cache and compilers.

  Raises:
    OSError: it is not there, or cannot be loaded.
  """
  library = ctypes.CDLL(str(path))
  message = ctypes.create_string_buffer(_MESSAGE_BYTES)
  given = (str(_FOLDER), str(_cache_folder()), "\n".join(_compilers()))
  encoded = (os.fsencode(x) for x in given)
  if library.nes_cuda_configure(*encoded, message, len(message)):
    raise OSError(message.value.decode(errors="replace"))
  return library


def _missing(library: ctypes.CDLL) -> str | None:
  """Message about a library of CUDA that cannot be opened; None if all can."""
  message = ctypes.create_string_buffer(_MESSAGE_BYTES)
  if library.nes_cuda_missing(message, len(message)):
    return message.value.decode(errors="replace")
  return None


def _compile(
    library: ctypes.CDLL, concept: Concept, size: int, padded: bool, capability: tuple[int, int]
) -> None:
  """Compiles a kernel into the cache, for a device that need not be here.

  Raises:
    RuntimeError: NVRTC is missing or does not compile it.
  """
  message = ctypes.create_string_buffer(_MESSAGE_BYTES)
  wanted = concept == "ce", size, padded, *capability
  if library.nes_cuda_compile(*map(int, wanted), message, len(message)):
    raise RuntimeError(message.value.decode(errors="replace"))


def _cache_folder() -> pathlib.Path:
  """Folder in which compiled kernels are kept."""
  base = os.environ.get("XDG_CACHE_HOME")
  return (pathlib.Path(base) if base else pathlib.Path.home() / ".cache") / "nes_jax"


def _compilers() -> list[str]:
  """Files and names that may be NVRTC. The version of the CUDA that JAX uses comes first."""
  used = re.search(r"cuda (\d+)\d{3}", jax.devices()[0].client.platform_version)
  versions = sorted(_NVRTC_VERSIONS, key=lambda x: used is not None and x != int(used[1]))
  folders = []
  try:
    found = importlib.util.find_spec("nvidia")
  except (ImportError, ValueError):
    found = None
  if found is not None:
    places = [pathlib.Path(place) for place in found.submodule_search_locations or ()]
    folders += [place / folder for place in places for folder in _NVRTC_FOLDERS]
  folders += [pathlib.Path(folder) for folder in _TOOLKIT_FOLDERS]
  candidates = []
  for version in versions:
    name = f"libnvrtc.so.{version}"
    candidates += [str(folder / name) for folder in folders if (folder / name).exists()] + [name]
  return candidates + ["libnvrtc.so"]
