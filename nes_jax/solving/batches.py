"""Batches of games in normalised units, and their answers in the units of the payoffs.

All arrays have the batch axis first. The arguments are checked already (`solving.checks`).
"""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from nes_jax import deviation, exact, metrics, network
from nes_jax import selection as selections
from nes_jax.selection import Selection
from nes_jax.types import Array, Concept, Duals, Problem, Solution

Engine = Literal["jax", "native", "cuda"]


class Axes(NamedTuple):
  """vmap axes of a selection's arrays: 0, or None where one value serves all games."""

  target: int | None
  epsilon: int | None
  welfare: int | None
  welfare_weight: int | None


class Task(NamedTuple):
  """Options of a batch. They are static under `jit`."""

  concept: Concept
  config: exact.Config
  rho: float
  epsilon_max: float
  axes: Axes
  method: str = "exact"
  network_config: network.Config | None = None
  width: int | None = None  # games that are iterated on at a time; None: all
  engine: Engine = "jax"  # engine of method "exact"


class Inputs(NamedTuple):
  """Arrays of a batch."""

  payoffs: Any  # [B, N, A1, ..., AN]
  selection: Selection  # with arrays as fields
  duals: Duals | None  # a starting point, in the units of the payoffs
  variables: network.Variables | None  # variables of the network
  strategies: tuple[Any, ...] | None = None  # per player bool [B, Ap]; None: all exist
  joint: Any = None  # [B, A1, ..., AN] of the starting point; None: that of its duals


class Normalised(NamedTuple):
  """A batch in normalised units."""

  problem: Problem  # [B, ...]
  scale: Array  # [B, N] divisors of the payoffs, as from `selection.problem`
  finite: Array  # [B] bool; other games are marked, and their problem has payoffs of 0


def normalise(inputs: Inputs, task: Task, dtype: Any) -> Normalised:
  """Puts a batch into normalised units, in the type of the payoffs; the problem has `dtype`."""
  payoffs = jnp.asarray(inputs.payoffs)
  exist = inputs.strategies
  if exist is not None:
    exist = tuple(map(jnp.asarray, exist))
    payoffs = jnp.where(jax.vmap(deviation.alive)(exist)[:, None], payoffs, 0)
  finite = jnp.isfinite(payoffs).reshape(len(payoffs), -1).all(1)
  payoffs = jnp.where(per_game(finite, payoffs), payoffs, 0)
  fields = {name: getattr(inputs.selection, name) for name in Axes._fields}
  names = [name for name, value in fields.items() if value is not None]
  arrays = [jnp.asarray(fields[name]).astype(payoffs.dtype) for name in names]
  narrower = jnp.finfo(dtype).bits < jnp.finfo(payoffs.dtype).bits

  def one(payoffs, exist, *values):
    chosen = Selection(rho=task.rho, epsilon_max=task.epsilon_max, **dict(zip(names, values)))
    problem, scale = selections.problem(payoffs, chosen, exist)
    if narrower:
      centred = deviation.centre_at_best(problem.payoffs, exist)
      problem = dataclasses.replace(problem, payoffs=centred)
    floats = dataclasses.replace(problem, strategies=None)
    floats = jax.tree.map(lambda x: x.astype(dtype), floats)
    return dataclasses.replace(floats, strategies=problem.strategies), scale

  in_axes = [0, 0] + [getattr(task.axes, name) for name in names]
  problem, scale = jax.vmap(one, in_axes)(payoffs, exist, *arrays)
  return Normalised(problem, scale, finite)


def to_normalised(duals: Duals, batch: Normalised) -> Duals:
  """Duals in the units of `Solution.duals` -> duals of the normalised problems."""
  dtype, stretch = batch.problem.payoffs.dtype, stretch_of(batch.problem)
  return tuple(
      (x * per_game(batch.scale[:, p], x) / per_game(stretch, x)).astype(dtype)
      for p, x in enumerate(duals)
  )


def to_solution(
    inputs: Inputs, task: Task, dtype: Any, batch: Normalised, answer: exact.Answer
) -> Solution:
  """Answers of normalised problems, in the units of the payoffs."""
  problem, scale, finite = batch
  n = inputs.payoffs.ndim - 2

  def gap_of(problem, answer, scale):
    args = problem.payoffs, answer.joint, answer.epsilon, task.concept, problem.strategies
    return jnp.sum(metrics.violations(*args) * scale)

  def mark(x):
    return jnp.where(per_game(finite, x), x, jnp.nan)

  gap = jax.vmap(gap_of)(problem, answer, scale.astype(dtype))
  joint = mark(answer.joint)
  # A player with constant payoffs has scale 0: report the epsilon asked for, and no duals.
  epsilon = answer.epsilon * scale
  if inputs.selection.epsilon is not None and math.isinf(task.rho):
    epsilon = jnp.broadcast_to(jnp.asarray(inputs.selection.epsilon), scale.shape)
  duals, stretch = [], stretch_of(problem)
  for p, x in enumerate(answer.duals):
    factor = jnp.where(scale[:, p] > 0, stretch / jnp.where(scale[:, p] > 0, scale[:, p], 1), 0)
    duals.append(mark(x * per_game(factor, x)).astype(dtype))
  marginals = tuple(joint.sum(tuple(1 + q for q in range(n) if q != p)) for p in range(n))
  residual = jnp.where(finite, answer.residual, jnp.nan)
  return Solution(
      joint=joint,
      epsilon=mark(epsilon.astype(dtype)),
      gap=mark(gap),
      residual=residual,
      converged=residual <= task.config.tolerance,
      duals=tuple(duals),
      marginals=marginals,
      iterations=answer.iterations,
      repeated=jnp.zeros(finite.shape, bool),
  )


def stretch_of(problem: Problem) -> Array:
  """Factor [] or [B] from duals of `Problem` to the paper's, max(1, mu); 1 where mu is infinite."""
  temperature = problem.temperature
  return jnp.where(temperature > 0, 1 / jnp.where(temperature > 0, temperature, 1), 1)


def per_game(x: Array, like: Array) -> Array:
  """x [B] as an array [B, 1...] that broadcasts against `like` [B, ...]."""
  return x.reshape((-1,) + (1,) * (like.ndim - 1))


def take(inputs: Inputs, axes: Axes, index: Any) -> Inputs:
  """The games of a batch at an index: an array of numbers, or a slice."""
  chosen = {
      name: getattr(inputs.selection, name)[index]
      for name in Axes._fields
      if getattr(axes, name) == 0
  }
  return inputs._replace(
      payoffs=inputs.payoffs[index],
      selection=dataclasses.replace(inputs.selection, **chosen),
      duals=jax.tree.map(lambda x: x[index], inputs.duals),
      strategies=jax.tree.map(lambda x: x[index], inputs.strategies),
      joint=jax.tree.map(lambda x: x[index], inputs.joint),
  )
