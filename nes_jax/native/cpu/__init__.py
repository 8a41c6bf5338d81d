"""Exact engine in C++ for CPUs, whose games lie in the lanes of vector registers.

It follows `nes_jax.exact` step by step, for two players (CE and CCE) and for CCEs of any number of
players, and compiles nothing at run time. The library is built when the package is installed, once
for each instruction set; the best one that the processor has is loaded at the first use.
"""

from collections.abc import Sequence
import ctypes
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nes_jax import exact
from nes_jax.native.cpu.layout import split_duals, split_marginals
from nes_jax.native.cpu.library import (
    LEVEL_VARIABLE,
    LEVELS,
    level,
    load,
    reason,
    reason_traced,
    threads,
)
from nes_jax.native.cpu.systems import solve_system
from nes_jax.types import Concept

__all__ = [
    "LEVELS",
    "LEVEL_VARIABLE",
    "Answers",
    "Inputs",
    "Options",
    "Stage",
    "level",
    "reason",
    "reason_traced",
    "serves",
    "solve",
    "solve_system",
    "solve_traced",
    "split_duals",
    "split_marginals",
]

# Largest number of players.
_MAX_PLAYERS = 16
# Largest number of stages of a call.
_MAX_STAGES = 4
# Alignment in bytes of arrays that JAX takes over without a copy.
_ALIGNMENT = 64
# Bytes that a thread may take for the games in its lanes.
_MAX_BYTES = 2**31
# Bytes of a number for all lanes of the widest registers.
_LANE_BYTES = 64
# Number of arrays of the size of a joint that a thread has.
_JOINT_ARRAYS = 24
# Messages for the library's negative return values.
_FAILURES = {
    -1: "the native engine ran out of memory",
    -2: "the native engine was given sizes that it cannot serve",
}


class _Pass(ctypes.Structure):
  """NesPass of batch.h."""

  _fields_ = [
      ("wide", ctypes.c_int32),
      ("max_iterations", ctypes.c_int32),
      ("resume", ctypes.c_int32),
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
      ("start_joint", ctypes.c_void_p),
      ("start_is_normalised", ctypes.c_int32),
      ("threads", ctypes.c_int32),
      ("rho", ctypes.c_double),
      ("epsilon_max", ctypes.c_double),
      ("num_passes", ctypes.c_int32),
      ("passes", _Pass * _MAX_STAGES),
      *((name, ctypes.c_void_p) for name in (
          "joint", "out_epsilon", "gap", "residual", "duals", "marginals", "converged",
          "repeated", "iterations", "variables_joint", "variables_bound", "variables_slack",
          "variables_duals", "variables_shift", "variables_room")),
  ]


class Stage(NamedTuple):
  """One attempt at the games that earlier stages have left unsolved."""

  config: exact.Config
  wide: bool  # in float64
  # Whether the stage goes on with all games from where earlier stages have ended. It is for calls
  # that return the variables.
  resume: bool = False


class Answers(NamedTuple):
  """Answers in the units of the payoffs. D counts the duals of all players, A their strategies."""

  joint: Any  # [B, A1, ..., AN]
  epsilon: Any  # [B, N]
  gap: Any  # [B]
  residual: Any  # [B]
  converged: Any  # [B] bool
  duals: Any  # [B, D]
  marginals: Any  # [B, A]
  iterations: Any  # [B] int32
  repeated: Any  # [B] bool


def serves(shape: Sequence[int], concept: Concept) -> bool:
  """Whether the engine solves games of strategy counts `shape`."""
  if reason() is not None or not 2 <= len(shape) <= _MAX_PLAYERS:
    return False
  if concept == "ce" and len(shape) > 2:
    return False
  size = math.prod(shape)
  side = size if concept == "ce" else sum(shape)
  return _LANE_BYTES * (_JOINT_ARRAYS * size + side**2) <= _MAX_BYTES


class Options(NamedTuple):
  """The options of a call, which are static under `jit`."""

  concept: Concept
  dtype: Any  # float32 or float64, of the answers
  stages: tuple[Stage, ...]  # one to four; each solves what the one before left
  rho: float  # weight of the approximation target, see `nes_jax.Selection`
  epsilon_max: float  # epsilon-plus, see `nes_jax.Selection`
  duals_are_normalised: bool = False  # whether given duals are those of the normalised problem


class Inputs(NamedTuple):
  """Arrays of a call: fields of `nes_jax.Selection` may lack the batch axis."""

  payoffs: Any  # [B, N, A1, ..., AN], float32 or float64
  epsilon: Any  # [], [N] or [B, N]
  target: Any = None  # [A1, ..., AN] or [B, A1, ..., AN]
  welfare: Any = None  # the same
  welfare_weight: Any = None  # [] or [B]
  strategies: Any = None  # per player bool [B, Ap], the strategies that exist
  duals: Any = None  # per player [B, Ap] or [B, Ap, Ap], a starting point
  joint: Any = None  # [B, A1, ..., AN], its joint; None: that of the duals, eq. (9)


def solve(inputs: Inputs, options: Options) -> tuple[Answers, int]:
  """Solves games given as NumPy arrays.

  Returns:
    The answers, as NumPy arrays, and how many games are marked as invalid: these hold NaN or
    infinity, or leave a player without a strategy.
  """
  payoffs = inputs.payoffs
  shape = payoffs.shape[2:]
  games, players, size = len(payoffs), len(shape), math.prod(shape)
  kind, dtype = payoffs.dtype, options.dtype
  keep = []  # arrays that the request points to

  def pointer(array, of) -> int:
    with np.errstate(over="ignore"):  # duals to start from may be infinite in float32
      array = np.require(array, of, ["C_CONTIGUOUS", "ALIGNED"])
    keep.append(array)
    return array.ctypes.data

  epsilon = inputs.epsilon
  request = _Request(
      games=games,
      counts=pointer(shape, np.int32),
      players=players,
      correlated=options.concept == "ce",
      wide_payoffs=kind == np.float64,
      wide_answers=dtype == np.float64,
      payoffs=pointer(payoffs, kind),
      epsilon=pointer(np.broadcast_to(epsilon, np.shape(epsilon) or (players,)), kind),
      epsilon_stride=players if np.ndim(epsilon) == 2 else 0,
      rho=options.rho,
      epsilon_max=options.epsilon_max,
      threads=threads(),
      num_passes=len(options.stages),
  )
  for at, numbers in enumerate(map(_pass_numbers, options.stages)):
    request.passes[at] = _Pass(*map(int, numbers[:3]), *numbers[3:])
  if inputs.target is not None:
    request.target = pointer(inputs.target, kind)
    request.target_stride = size if np.ndim(inputs.target) > players else 0
  if inputs.welfare is not None:
    request.welfare = pointer(inputs.welfare, kind)
    request.welfare_stride = size if np.ndim(inputs.welfare) > players else 0
    request.weight = pointer(inputs.welfare_weight, kind)
    request.weight_stride = np.ndim(inputs.welfare_weight)
  if inputs.strategies is not None:
    request.strategies = pointer(np.concatenate(inputs.strategies, 1), np.uint8)
  if inputs.duals is not None:
    request.start = pointer(_joined(np, inputs.duals, games), dtype)
    request.start_is_normalised = options.duals_are_normalised
    if inputs.joint is not None:
      request.start_joint = pointer(inputs.joint, dtype)
  answers = Answers(*(_aligned(*spec) for spec in _answer_specs(games, shape, options)))
  for name, array in answers._asdict().items():
    setattr(request, "out_epsilon" if name == "epsilon" else name, array.ctypes.data)
  library, _ = load()
  assert library is not None
  invalid = library.nes_cpu_solve(ctypes.byref(request))
  if invalid < 0:
    raise RuntimeError(_FAILURES[invalid])
  return answers, invalid


def solve_traced(
    inputs: Inputs, options: Options, with_variables: bool = False
) -> tuple[Answers, exact.Variables | None]:
  """Solves games under transformations of JAX. It serves where `reason_traced` is None.

  Derivatives are for the caller.

  Returns:
    The answers; and, if `with_variables`, the point of the interior in normalised units, batch axis
    first.
  """
  payoffs = inputs.payoffs
  shape = payoffs.shape[2:]
  games, players = len(payoffs), len(shape)
  kind, dtype = payoffs.dtype, options.dtype

  def per_game(array, tail):
    if array is None:
      return jnp.zeros((games, 0), kind)
    return jnp.broadcast_to(jnp.asarray(array).astype(kind), (games, *tail))

  strategies = jnp.zeros((games, 0), np.uint8)
  if inputs.strategies is not None:
    strategies = jnp.concatenate(inputs.strategies, 1).astype(np.uint8)
  start = joint = jnp.zeros((games, 0), dtype)
  if inputs.duals is not None:
    start = _joined(jnp, inputs.duals, games).astype(dtype)
    joint = joint if inputs.joint is None else inputs.joint.astype(dtype)
  specs = _answer_specs(games, shape, options)
  if with_variables:
    num_duals = specs[Answers._fields.index("duals")][0][1]
    sizes = [(games, *shape)] * 2 + [(games, num_duals)] * 2 + [(games,), (games, players)]
    specs += [(size, dtype) for size in sizes]
  call = jax.ffi.ffi_call(
      "nes_jax_cpu_solve",
      tuple(jax.ShapeDtypeStruct(*spec) for spec in specs),
      vmap_method="broadcast_all",
  )
  results = call(
      payoffs,
      per_game(inputs.epsilon, (players,)),
      per_game(inputs.welfare_weight, ()) if inputs.welfare is not None else per_game(None, ()),
      per_game(inputs.target, shape),
      per_game(inputs.welfare, shape),
      strategies,
      start,
      joint,
      counts=np.array(shape, np.int64),
      correlated=options.concept == "ce",
      rho=float(options.rho),
      epsilon_max=float(options.epsilon_max),
      passes=np.concatenate([_pass_numbers(stage) for stage in options.stages]),
      start_is_normalised=options.duals_are_normalised,
      threads=np.int64(threads()),
  )
  answers = Answers(*results[: len(Answers._fields)])
  if not with_variables:
    return answers, None
  joint, bound, slack, alpha, shift, room = results[len(Answers._fields) :]
  split = functools.partial(split_duals, shape=shape, concept=options.concept)
  variables = exact.Variables(joint, bound, split(slack), split(alpha), shift, room)
  return answers, variables


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
  """An empty array that JAX takes over without a copy."""
  size = math.prod(shape) * np.dtype(dtype).itemsize
  memory = np.empty(size + _ALIGNMENT, np.uint8)
  start = -memory.ctypes.data % _ALIGNMENT
  return memory[start : start + size].view(dtype).reshape(shape)


def _joined(numpy: Any, blocks: Sequence[Any], games: int) -> Any:
  return numpy.concatenate([x.reshape(games, math.prod(x.shape[1:])) for x in blocks], 1)


def _answer_specs(games: int, shape: Sequence[int], options: Options) -> list[tuple[Any, Any]]:
  """Shapes and types of `Answers`."""
  dtype = options.dtype
  num_duals = sum(count if options.concept == "cce" else count**2 for count in shape)
  return [
      ((games, *shape), dtype),
      ((games, len(shape)), dtype),
      ((games,), dtype),
      ((games,), dtype),
      ((games,), bool),
      ((games, num_duals), dtype),
      ((games, sum(shape)), dtype),
      ((games,), np.int32),
      ((games,), bool),
  ]


def _pass_numbers(stage: Stage) -> np.ndarray:
  """The fields of NesPass."""
  config = stage.config
  return np.array([
      stage.wide,
      config.max_iterations,
      stage.resume,
      config.tolerance,
      config.margin,
      config.start_dual,
      config.start_bound,
      config.start_slack,
      config.warm_start,
      config.relaxation,
  ], np.float64)
