"""Deviation ratings of one game, by a sequence of linear programs.

Among all joints, deviation ratings pick those whose largest deviation gain is smallest, among these
those whose second largest gain is smallest, and so on (Marris et al. 2025, arXiv 2502.11645). Each
program (`minmax`) finds the next smallest largest gain, and the deviations that have it on all of
the optimal face: those are held at it from then on.

A program also says which joint strategies no joint of the optimal face plays, and the deviations
whose gains are the same on all of that face. Both end the sequence sooner.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from nes_jax import deviation
from nes_jax.ratings import minmax
from nes_jax.ratings.minmax import Program
from nes_jax.types import Array

# Smallest multiplier, in units of the payoffs' spread, that shows that a constraint binds.
_BINDING = 1e-5
# Share of a gain's variance, given the gains that are held, that is rounding.
_DEPENDENT = 1e-13


class Result(NamedTuple):
  """Deviation ratings of one game, in the units of its payoffs."""

  ratings: tuple[Array, ...]  # per player [Ap]
  joint: Array  # [A1, ..., AN] a joint that has these gains
  # [] The ratings are those of payoffs that differ by no more than this share of their spread.
  residual: Array


class _State(NamedTuple):
  program: Program
  joint: Array  # [A1, ..., AN]
  residual: Array  # [] the largest so far


def deviation_ratings(payoffs: Array) -> Result:
  """Deviation ratings of one game [N, A1, ..., AN], finite and in float64."""
  centred = deviation.centre_at_best(payoffs)
  spread = jnp.abs(centred).max()
  spread = jnp.where(spread > 0, spread, 1)
  shape = deviation.strategy_counts(payoffs)
  rows = sum(shape)
  program = Program(
      payoffs=centred / spread,
      free=jnp.ones(rows, bool),
      held=jnp.zeros(rows, bool),
      ratings=jnp.zeros(rows, payoffs.dtype),
      support=jnp.ones(shape, bool),
  )
  zero = jnp.zeros((), payoffs.dtype)
  begin = _State(program, jnp.zeros(shape, payoffs.dtype), zero)
  end = jax.lax.while_loop(lambda state: state.program.free.any(), _advance, begin)
  joint = end.joint / end.joint.sum()
  away = minmax.gains(end.program.payoffs, joint) - end.program.ratings
  residual = jnp.maximum(end.residual, jnp.abs(away).max())
  blocks = minmax.split(payoffs, spread * end.program.ratings)
  return Result(tuple(blocks), joint, residual)


def _advance(state: _State) -> _State:
  """Solves the next program, and holds what it determines. At least one deviation is held."""
  program = state.program
  point, error = minmax.solve(program)
  free, support = program.free, program.support
  chosen = jnp.argmax(jnp.where(free, point.duals, -1)) == jnp.arange(len(free))
  binding = free & (chosen | _binds(point.duals, point.slack))
  unplayed = support & _binds(point.bound, point.joint)
  # Whatever is taken for zero, and is not, counts as an error.
  zeros = jnp.where(binding, point.slack, 0).max(), jnp.where(unplayed, point.joint, 0).max()
  support = support & ~unplayed
  ratings = jnp.where(binding, point.largest, program.ratings)
  held, determined = _held(program.payoffs, support, ~free | binding)
  determined = determined & free & ~binding
  ratings = jnp.where(determined, minmax.gains(program.payoffs, point.joint), ratings)
  following = program._replace(
      free=free & ~binding & ~determined, held=held, ratings=ratings, support=support
  )
  return _State(
      program=following,
      joint=point.joint,
      residual=jnp.stack([state.residual, error, *zeros]).max(),
  )


def _binds(multiplier: Array, slack: Array) -> Array:
  """Whether a constraint holds with equality on all of the optimal face.

  Where this is not certain the answer is no, and a later program decides.
  """
  return (multiplier > _BINDING) & (slack <= minmax.TOLERANCE)


def _held(payoffs: Array, support: Array, wanted: Array) -> tuple[Array, Array]:
  """Parts the deviations by what is left of their gains' variance, uniformly on the support.

  Args:
    payoffs: [N, A1, ..., AN].
    support: bool [A1, ..., AN].
    wanted: bool [D], the deviations whose gains are known.

  Returns:
    Bool [D], a linearly independent part of the wanted ones, which implies the others; and bool
    [D], the deviations whose gains are functions of those of the wanted ones.
  """
  blocks, _, _ = minmax.matrix(payoffs, jnp.where(support, 1 / support.sum(), 0))
  variance = jnp.block([
      [row[q] if q < len(row) else blocks[q][p].T for q in range(len(blocks))]
      for p, row in enumerate(blocks)
  ])
  diagonal = jnp.diagonal(variance)
  varies = diagonal > _DEPENDENT**2 * jnp.maximum(diagonal.max(), 1e-200)
  scale = jnp.where(varies, jax.lax.rsqrt(jnp.where(varies, diagonal, 1)), 0)

  def eliminate(j, state):
    left, held = state
    pivot = left[j, j]
    use = wanted[j] & (pivot > _DEPENDENT)
    column = jnp.where(use, left[:, j] * jax.lax.rsqrt(jnp.where(use, pivot, 1)), 0)
    return left - column[:, None] * column, held.at[j].set(use)

  begin = variance * scale[:, None] * scale, jnp.zeros(len(wanted), bool)
  left, held = jax.lax.fori_loop(0, len(wanted), eliminate, begin)
  return held, jnp.diagonal(left) <= _DEPENDENT
