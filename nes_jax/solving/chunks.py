"""Batches in chunks that fit in memory, and repeats of games that have failed."""

import concurrent.futures
import dataclasses
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nes_jax import deviation, exact
from nes_jax.native import cpu
from nes_jax.solving import engines
from nes_jax.solving.batches import Inputs, Task, take
from nes_jax.types import Array, Concept, Solution

# Working memory of a chunk on a CPU, in bytes: about a core's share of the last cache.
_CPU_CHUNK_BYTES = 2**23
# Working memory of a chunk on an accelerator that does not report its memory, in bytes. On others a
# chunk takes a quarter of the memory.
_ACCELERATOR_CHUNK_BYTES = 2**31
# Number of parts of a batch that the JAX engine iterates on in turn, under `jit`.
_TURNS = 8
# Smallest number of games in a batch that is solved in turns on a CPU.
_MIN_CPU_TURNS = 2**6
# The same on an accelerator, where a step takes as long for few games as for a small batch.
_MIN_ACCELERATOR_TURNS = 2**14


def solve_traced(inputs: Inputs, task: Task, dtype: Any) -> Solution:
  """Solves a batch some of whose arrays are traced."""
  shape, games = tuple(inputs.payoffs.shape[2:]), len(inputs.payoffs)
  task = task._replace(
      engine=engines.choose_engine(inputs, task, dtype, traced=True),
      width=_turn_width(shape, games, task.concept, dtype),
  )
  return solve_compiled(inputs, 0, task, dtype)


def solve_concrete(inputs: Inputs, task: Task, dtype: Any) -> tuple[Solution, int]:
  """-> the solution, as NumPy or JAX arrays, and the number of games that are marked as invalid."""
  task = task._replace(engine=engines.choose_engine(inputs, task, dtype))
  if task.engine == "native":
    if task.method == "refined":
      # The network's answer is where the engine starts from.
      guess = _solve_chunks(inputs, task._replace(method="neural", engine="jax"), dtype)
      assert task.network_config is not None
      joint = engines.joint_of(task.network_config, guess.joint)
      inputs = inputs._replace(duals=guess.duals, joint=joint, variables=None)
    given = jax.tree.map(np.asarray, engines.native_inputs(inputs))
    answers, num_invalid = cpu.solve(given, engines.native_options(task, dtype))
    return engines.native_solution(answers, task, tuple(inputs.payoffs.shape[2:])), num_invalid
  # Normalise in the precision given, so that float64 payoffs with a large offset lose nothing.
  with engines.precision(_wider(inputs.payoffs.dtype, dtype)):
    solution = _solve_chunks(inputs, task, dtype)
    num_failed, num_invalid = np.asarray(_counts(solution))
  if task.method != "neural" and num_failed:
    solution = _repeat_failed(inputs, task, dtype, solution)
  return solution, int(num_invalid)


solve_compiled = jax.jit(engines.solve_batch, static_argnums=(2, 3))


@jax.jit
def _counts(solution: Solution) -> Array:
  """Numbers of games that have not converged, and that are marked. Only they leave a device."""
  invalid = jnp.isnan(solution.residual)
  return jnp.stack([jnp.sum(~solution.converged & ~invalid), jnp.sum(invalid)])


def _wider(given: Any, dtype: Any) -> Any:
  return given if jnp.finfo(given).bits > jnp.finfo(dtype).bits else dtype


# Chunks.


def _turn_width(shape: tuple[int, ...], games: int, concept: Concept, dtype) -> int | None:
  """The number of games of a batch under `jit` that the JAX engine iterates on at a time."""
  on_cpu = jax.default_backend() == "cpu"
  if games < (_MIN_CPU_TURNS if on_cpu else _MIN_ACCELERATOR_TURNS):
    return None
  width = math.ceil(games / _TURNS)
  if on_cpu:
    width = max(width, _chunk_size(shape, games, concept, dtype))
  return min(width, games)


def _chunk_size(shape: tuple[int, ...], games: int, concept: Concept, dtype) -> int:
  """Games that one device is to iterate on at a time."""
  size = math.prod(shape)
  num_duals = sum(count ** deviation.dual_axes(concept) for count in shape)
  newton = size if concept == "ce" and size < num_duals else num_duals
  numbers = 40 * len(shape) * size + 8 * newton**2
  if concept == "ce":
    numbers += 4 * size * max(shape) * len(shape)
  limit = _CPU_CHUNK_BYTES
  if jax.default_backend() != "cpu":
    stats = jax.local_devices()[0].memory_stats() or {}
    limit = stats.get("bytes_limit", 4 * _ACCELERATOR_CHUNK_BYTES) // 4
  return max(1, limit // (numbers * jnp.dtype(dtype).itemsize))


def _solve_chunks(
    inputs: Inputs, task: Task, dtype, patience: float = exact.PATIENCE
) -> Solution:
  """Concrete batches by the JAX engine: chunks that fit, on a CPU on all cores.

  On a CPU that fraction of a chunk may be left running, to be solved again with that of others.
  """
  games = len(inputs.payoffs)
  shape = tuple(inputs.payoffs.shape[2:])
  chunk = _chunk_size(shape, games, task.concept, dtype)
  accelerated = engines.on_accelerator(inputs.payoffs)
  if accelerated:
    task = task._replace(width=_turn_width(shape, min(games, chunk), task.concept, dtype))
    patience = 0
  if games <= chunk:
    return solve_compiled(inputs, 0, task, dtype)

  # A chunk does not wait for its slowest games: those of all chunks are solved together, from the
  # start, so that an answer does not depend on its neighbours.
  def one(start: int) -> Solution:
    # The last chunk is filled up with its last game, so that one program serves all.
    index = np.minimum(np.arange(start, start + chunk), games - 1)
    whole = start + chunk <= games
    with engines.precision(_wider(inputs.payoffs.dtype, dtype)):
      part = take(inputs, task.axes, slice(start, start + chunk) if whole else index)
      solution = solve_compiled(part, int(patience * chunk), task, dtype)
    if not accelerated:
      solution = jax.tree.map(np.asarray, solution)
    return solution if whole else jax.tree.map(lambda x: x[: games - start], solution)

  starts = range(0, games, chunk)
  if accelerated:
    return jax.tree.map(lambda *xs: jnp.concatenate(xs), *map(one, starts))
  # A chunk keeps about one core busy, and calls no library that waits for XLA's threads
  # (`exact.cholesky`), so chunks can run side by side.
  with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, len(starts))) as pool:
    parts = list(pool.map(one, starts))
  solution = jax.tree.map(lambda *xs: np.concatenate(xs), *parts)
  left = np.flatnonzero(solution.residual > task.config.tolerance)
  if not patience or task.method == "neural" or not len(left):
    return solution
  filled = np.resize(left, max(len(left), chunk))
  again = _solve_chunks(take(inputs, task.axes, filled), task, dtype, patience=0)
  return _replace_games(solution, left, again)


# Repeats.


def _repeat_failed(inputs: Inputs, task: Task, dtype, solution: Solution) -> Solution:
  """Solves again, in float64 and to the same tolerance, the games that have not converged.

  What float32 has left comes first; then what float64 has left, with hard limits raised by less
  than `metrics.residual` counts.
  """
  wide = jnp.dtype("float64")
  config = exact.Config.default(task.concept, wide, task.rho, tolerance=task.config.tolerance)
  if dtype == wide and task.config.max_iterations < config.max_iterations:
    return solution  # the caller wants no more steps than these
  task = task._replace(method="exact", network_config=None, engine="jax")
  left = _failed(solution)
  if len(left) and dtype != wide:
    task = task._replace(config=config)
    solution = _repeat(inputs, task, solution, left)
    left = _failed(solution)
  if len(left) and math.isinf(task.rho):
    relaxed = dataclasses.replace(task.config, relaxed=True)
    solution = _repeat(inputs, task._replace(config=relaxed), solution, left)
  return solution


def _failed(solution: Solution) -> np.ndarray:
  """Indices of games that have not converged. The residual of a marked game is NaN."""
  return np.flatnonzero(~np.asarray(solution.converged) & ~np.isnan(solution.residual))


def _filled(left: np.ndarray) -> np.ndarray:
  """Filled up to a power of four, so that few programs serve any number of games."""
  return np.resize(left, 4 ** math.ceil(((len(left) - 1).bit_length()) / 2))


def _repeat(inputs: Inputs, task: Task, solution: Solution, left: np.ndarray) -> Solution:
  """Solves the games `left` in float64 and writes those into the solution that came nearer."""
  wide = jnp.dtype("float64")
  with engines.precision(wide):
    part = take(inputs, task.axes, _filled(left))
    part = part._replace(duals=None, joint=None, variables=None)
    again = jax.tree.map(lambda x: np.asarray(x)[: len(left)], _solve_chunks(part, task, wide))
    before = jax.tree.map(lambda x: np.asarray(x[left]), solution)
    better = ~(again.residual > before.residual)
    chosen = jax.tree.map(
        lambda old, new: np.where(better.reshape((-1,) + (1,) * (old.ndim - 1)), new, old),
        before,
        again,
    )
    chosen = chosen._replace(
        repeated=np.ones_like(before.repeated), iterations=before.iterations + again.iterations
    )
    return _replace_games(solution, left, chosen)


def _replace_games(solution: Solution, index: np.ndarray, again: Solution) -> Solution:
  """The solution with the games at `index` replaced by the first of `again`, where it is."""

  def merge(old, new):
    with np.errstate(over="ignore"):  # a dual of float64 may be infinite in float32
      new = np.asarray(new)[: len(index)].astype(old.dtype)
    if engines.on_accelerator(old):
      return old.at[index].set(new)
    old = np.array(old)
    old[index] = new
    return old

  return jax.tree.map(merge, solution, again)
