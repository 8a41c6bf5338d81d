"""The exact engine in C++ for CPUs: the batch lies in the lanes of vector registers.

It follows `nes_jax.exact` step by step, for two players (CE and CCE) and for CCEs of any number of
players, and needs no compilation. The library is built when the package is installed, once for each
instruction set; the best one that the processor has is loaded at the first use.
"""

from collections.abc import Sequence
import ctypes
import functools
import math
import os
import pathlib
import platform
from typing import Any, NamedTuple

import numpy as np

from nes_jax import exact
from nes_jax.types import Concept

# Set to "avx512", "avx2" or "baseline" to load that library, or to "none" for none at all.
LEVEL_VARIABLE = "NES_JAX_CPU"
# From the oldest to the newest; a number says which the processor has.
LEVELS = ("baseline", "avx2", "avx512")
_FOLDER = pathlib.Path(__file__).parent
_MAX_PLAYERS = 16
# Numbers of the Newton matrix of one game, and bytes that the lanes of a thread may take.
_MAX_MATRIX = 2**26
_FAILURES = {
    -1: "the native engine ran out of memory",
    -2: "the native engine was given sizes that it cannot serve",
}


class _Pass(ctypes.Structure):
  """NesPass of batch.h."""

  _fields_ = [
      ("wide", ctypes.c_int32),
      ("max_iterations", ctypes.c_int32),
      *((name, ctypes.c_double) for name in (
          "tolerance", "margin", "start_dual", "start_bound", "start_slack", "warm_start",
          "relaxation")),
  ]


class _Request(ctypes.Structure):
  """NesRequest of batch.h."""

  _fields_ = [
      ("games", ctypes.c_int64),
      ("counts", ctypes.c_void_p),
      *((name, ctypes.c_int32) for name in (
          "players", "correlated", "wide_payoffs", "wide_answers")),
      *((name, ctypes.c_void_p) for name in (
          "payoffs", "target", "welfare", "epsilon", "weight")),
      *((name, ctypes.c_int64) for name in (
          "target_stride", "welfare_stride", "epsilon_stride", "weight_stride")),
      ("strategies", ctypes.c_void_p),
      ("start", ctypes.c_void_p),
      ("start_is_normalised", ctypes.c_int32),
      ("threads", ctypes.c_int32),
      ("rho", ctypes.c_double),
      ("epsilon_max", ctypes.c_double),
      ("num_passes", ctypes.c_int32),
      ("passes", _Pass * 3),
      *((name, ctypes.c_void_p) for name in (
          "joint", "out_epsilon", "gap", "residual", "duals", "marginals", "converged",
          "repeated", "iterations", "variables_joint", "variables_bound", "variables_slack",
          "variables_duals", "variables_shift", "variables_room")),
  ]


class Stage(NamedTuple):
  """How the games are solved that the stages before this one left."""

  config: exact.Config
  wide: bool  # in float64


class Answers(NamedTuple):
  """What the engine returns, in the units of the payoffs; D and A count all players' numbers."""

  joint: Any  # [B, A1, ..., AN]
  epsilon: Any  # [B, N]
  gap: Any  # [B]
  residual: Any  # [B]
  converged: Any  # [B] bool
  duals: Any  # [B, D]
  marginals: Any  # [B, A]
  iterations: Any  # [B] int32
  repeated: Any  # [B] bool


def _library_path(level: str) -> pathlib.Path:
  return _FOLDER / f"_cpu_{level}.so"


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
  """-> the library and the name of its instruction set, or None and why there is none."""
  wanted = os.environ.get(LEVEL_VARIABLE, "")
  if wanted and wanted not in (*LEVELS, "none"):
    return None, f"{LEVEL_VARIABLE}={wanted} is not one of {', '.join(LEVELS)}, none"
  if wanted == "none":
    return None, f"{LEVEL_VARIABLE}=none"
  try:
    library = ctypes.CDLL(str(_library_path("baseline")))
  except OSError as error:
    return None, (
        f"it was not built for {platform.machine()} when the package was installed; install it"
        f" again where there is a C++17 compiler ({error})"
    )
  chosen = wanted
  if not chosen:
    has = library.nes_cpu_level()
    chosen = next(
        level for level in reversed(LEVELS[: has + 1]) if _library_path(level).exists()
    )
  try:
    library = ctypes.CDLL(str(_library_path(chosen)))
  except OSError as error:
    return None, f"the library for {chosen} cannot be loaded ({error})"
  library.nes_cpu_solve.restype = ctypes.c_int64
  library.nes_cpu_solve.argtypes = [ctypes.POINTER(_Request)]
  return library, chosen


def reason() -> str | None:
  """Why there is no native CPU engine on this machine; None if there is one."""
  library, text = _load()
  return None if library is not None else text


def level() -> str | None:
  """The instruction set in use, of `LEVELS`; None without an engine."""
  library, text = _load()
  return text if library is not None else None


def serves(shape: Sequence[int], concept: Concept) -> bool:
  """Whether the engine solves games of strategy counts `shape`."""
  if reason() is not None or not 2 <= len(shape) <= _MAX_PLAYERS:
    return False
  if concept == "ce":
    return len(shape) == 2 and math.prod(shape) ** 2 <= _MAX_MATRIX
  return sum(shape) ** 2 <= _MAX_MATRIX and math.prod(shape) <= _MAX_MATRIX


def solve(
    payoffs: np.ndarray,
    *,
    concept: Concept,
    dtype: Any,
    stages: Sequence[Stage],
    epsilon: np.ndarray,
    rho: float,
    epsilon_max: float,
    target: np.ndarray | None = None,
    welfare: np.ndarray | None = None,
    welfare_weight: np.ndarray | None = None,
    strategies: Sequence[np.ndarray] | None = None,
    duals: Sequence[np.ndarray] | None = None,
    duals_are_normalised: bool = False,
) -> tuple[Answers, int]:
  """Solves games given as NumPy arrays.

  Args:
    payoffs: [B, N, A1, ..., AN], float32 or float64.
    concept: "cce" or "ce".
    dtype: float32 or float64, of the answers.
    stages: one to three; each solves what the one before left.
    epsilon, target, welfare, welfare_weight: fields of `nes_jax.Selection` with or without a
      leading batch axis.
    rho, epsilon_max: of `nes_jax.Selection`.
    strategies: per player bool [B, Ap], those that exist.
    duals: per player [B, Ap] or [B, Ap, Ap], where to start from.
    duals_are_normalised: whether these are duals of the normalised problem.

  Returns:
    The answers, as NumPy arrays, and how many games are marked as invalid: these hold NaN or
    infinity, or leave a player without a strategy.
  """
  shape = payoffs.shape[2:]
  games, players, size = len(payoffs), len(shape), math.prod(shape)
  correlated = concept == "ce"
  kind = payoffs.dtype
  keep = []  # arrays that the request points to

  def pointer(array, of) -> int:
    array = np.ascontiguousarray(array, of)
    keep.append(array)
    return array.ctypes.data

  request = _Request(
      games=games,
      counts=pointer(shape, np.int32),
      players=players,
      correlated=correlated,
      wide_payoffs=kind == np.float64,
      wide_answers=dtype == np.float64,
      payoffs=pointer(payoffs, kind),
      epsilon=pointer(_per_game(epsilon, (players,)), kind),
      epsilon_stride=players if np.ndim(epsilon) == 2 else 0,
      rho=rho,
      epsilon_max=epsilon_max,
      threads=_threads(),
      num_passes=len(stages),
  )
  for at, stage in enumerate(stages):
    config = stage.config
    request.passes[at] = _Pass(
        stage.wide, config.max_iterations, config.tolerance, config.margin, config.start_dual,
        config.start_bound, config.start_slack, config.warm_start, _relaxation(config),
    )
  if target is not None:
    request.target = pointer(target, kind)
    request.target_stride = size if np.ndim(target) > players else 0
  if welfare is not None:
    request.welfare, request.weight = pointer(welfare, kind), pointer(welfare_weight, kind)
    request.welfare_stride = size if np.ndim(welfare) > players else 0
    request.weight_stride = np.ndim(welfare_weight)
  if strategies is not None:
    request.strategies = pointer(np.concatenate(strategies, 1), np.uint8)
  if duals is not None:
    request.start = pointer(np.concatenate([x.reshape(games, -1) for x in duals], 1), dtype)
    request.start_is_normalised = duals_are_normalised
  num_duals = sum(count**2 if correlated else count for count in shape)
  answers = Answers(
      joint=np.empty((games, *shape), dtype),
      epsilon=np.empty((games, players), dtype),
      gap=np.empty(games, dtype),
      residual=np.empty(games, dtype),
      converged=np.empty(games, bool),
      duals=np.empty((games, num_duals), dtype),
      marginals=np.empty((games, sum(shape)), dtype),
      iterations=np.empty(games, np.int32),
      repeated=np.empty(games, bool),
  )
  for name, array in answers._asdict().items():
    setattr(request, "out_epsilon" if name == "epsilon" else name, array.ctypes.data)
  invalid = _load()[0].nes_cpu_solve(ctypes.byref(request))
  if invalid < 0:
    raise RuntimeError(_FAILURES[invalid])
  return answers, invalid


def _per_game(epsilon: Any, shape: tuple[int, ...]) -> np.ndarray:
  """[] or [N] or [B, N] -> [N] or [B, N]."""
  return np.broadcast_to(epsilon, shape) if np.ndim(epsilon) == 0 else epsilon


def _threads() -> int:
  """Threads that a call may use: the cores that this process may run on."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _relaxation(config):
  return min(exact._RELAXATION * config.tolerance, 5e-10) if config.relaxed else 0.0
