"""The libraries of the CPU engine: which of them this processor loads, and their version.

They are built when the package is installed, one for each instruction set.
"""

import ctypes
import functools
import os
import pathlib
import platform

import jax

# Environment variable that chooses a library: "avx512", "avx2", "baseline", or "none" for none.
LEVEL_VARIABLE = "NES_JAX_CPU"
# Instruction sets from the oldest to the newest. The library returns a position in this tuple.
LEVELS = ("baseline", "avx2", "avx512")
_FOLDER = pathlib.Path(__file__).parent
# Number of the interface between the library and this package, as in api.cpp.
_INTERFACE = 2
# Names in XLA of the library's functions.
_TARGETS = {"nes_jax_cpu_solve": "NesCpuSolve", "nes_jax_cpu_systems": "NesCpuSolveSystems"}


def library_path(level: str) -> pathlib.Path:
  """The file of a level's library."""
  return _FOLDER / f"_cpu_{level}.so"


@functools.cache
def load() -> tuple[ctypes.CDLL | None, str]:
  """-> the library and the name of its instruction set, or None and why there is none."""
  wanted = os.environ.get(LEVEL_VARIABLE, "")
  if wanted and wanted not in (*LEVELS, "none"):
    return None, f"{LEVEL_VARIABLE}={wanted} is not one of {', '.join(LEVELS)}, none"
  if wanted == "none":
    return None, f"{LEVEL_VARIABLE}=none"
  try:
    library = ctypes.CDLL(str(library_path("baseline")))
  except OSError as error:
    return None, (
        f"it was not built for {platform.machine()} when the package was installed; install it"
        f" again where there is a C++17 compiler ({error})"
    )
  has = LEVELS[: library.nes_cpu_level() + 1]
  if wanted and wanted not in has:
    return None, f"{LEVEL_VARIABLE}={wanted}, which this processor has not: it has {', '.join(has)}"
  built = [level for level in has if library_path(level).exists()]
  chosen = wanted or built[-1]
  try:
    library = ctypes.CDLL(str(library_path(chosen)))
  except OSError as error:
    return None, f"the library for {chosen} cannot be loaded ({error})"
  if not hasattr(library, "nes_cpu_interface") or library.nes_cpu_interface() != _INTERFACE:
    return None, (
        f"{library_path(chosen)} was built from other sources: install nes_jax again, or run python"
        " setup.py build_ext --inplace"
    )
  library.nes_cpu_solve.restype = ctypes.c_int64
  library.nes_cpu_solve.argtypes = [ctypes.c_void_p]
  return library, chosen


def reason() -> str | None:
  """Reason why this machine has no native CPU engine; None if it has one."""
  library, text = load()
  return None if library is not None else text


def level() -> str | None:
  """The instruction set in use, of `LEVELS`; None without an engine."""
  library, text = load()
  return text if library is not None else None


@functools.cache
def reason_traced() -> str | None:
  """Reason why the engine does not serve under transformations such as `jit`; None if it does."""
  library, text = load()
  if library is None:
    return text
  if not hasattr(library, "NesCpuSolve"):
    return "it was built without the headers of jaxlib"
  try:
    for target, name in _TARGETS.items():
      capsule = jax.ffi.pycapsule(getattr(library, name))
      jax.ffi.register_ffi_target(target, capsule, platform="cpu")
  except Exception as error:  # XLA does not say which, for another version of its interface
    return f"it was built for another jaxlib, install nes_jax again ({error})"
  return None


def threads() -> int:
  """Threads that a call may use: the cores that this process may run on."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
