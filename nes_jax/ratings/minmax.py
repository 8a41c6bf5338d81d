"""The linear program behind deviation ratings: make the largest of some deviation gains small.

    minimise    e   over a joint sigma and e
    subject to  g_i . sigma <= e     for the free deviations i
                g_i . sigma = r_i    for the deviations that are held
                sigma >= 0, sum(sigma) = 1, and sigma = 0 outside its support

where g_i . sigma is the expected gain of deviation i before any recommendation, the rows of eq. (3)
of Marris et al. (2022). The method is a primal-dual interior point one with Mehrotra's steps, like
`nes_jax.exact`. Its central path ends in the relative interior of the optimal face, so that a dual
is positive wherever a constraint holds with equality on that whole face.

Arrays are those of one game: use `vmap`. Computations need float64.

Glossary: D deviations, the sum of Ap over players; |A| joint strategies.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nes_jax import deviation
from nes_jax.exact import cholesky
from nes_jax.types import Array

# Largest residual of a program that counts as solved, in units of the payoffs' spread.
TOLERANCE = 1e-9
# The iteration goes on to this residual, so that zeros and positive numbers lie far apart.
_TARGET = 1e-14
# Largest number of steps.
_MAX_STEPS = 100
# Below the tolerance, this many steps in a row that do not halve the residual end the iteration.
_MAX_STALLED = 6
# Weight of the quadratic terms in sigma and in the duals that keep the Newton matrix definite.
# Refinement takes their influence out of the directions.
_REGULARISATION = 1e-7
# Rounds of iterative refinement of a direction.
_REFINEMENTS = 2
# Fraction of the diagonal by which the Newton matrix is raised.
_FLOOR = 1e-16
# Fraction of the way to the boundary that a step may go.
_TO_BOUNDARY = 0.99


class Program(NamedTuple):
  """The data of one program."""

  payoffs: Array  # [N, A1, ..., AN], of a spread near 1
  free: Array  # bool [D], the deviations whose largest gain is made small
  held: Array  # bool [D], the deviations whose gains are held; none of them is free
  ratings: Array  # [D] r, read where gains are held
  support: Array  # bool [A1, ..., AN], the joint strategies that may be played


class Point(NamedTuple):
  """A primal and dual point. Numbers that no constraint has are 0."""

  joint: Array  # [A1, ..., AN] sigma, positive on its support
  bound: Array  # [A1, ..., AN] z, the multipliers of sigma >= 0, positive on the support
  slack: Array  # [D] e - gain of the free deviations, positive
  duals: Array  # [D] multipliers of the deviations, positive where they are free
  largest: Array  # [] e
  mass_dual: Array  # [] multiplier of sum(sigma) = 1


class Residuals(NamedTuple):
  """Violations of the optimality conditions."""

  stationarity: Array  # [A1, ..., AN]
  gain: Array  # [D]
  mass: Array  # []
  duals: Array  # [] the duals of the free deviations must sum to one
  complementarity: Array  # [] sigma . z + slack . duals, the duality gap


def gains(payoffs: Array, joint: Array) -> Array:
  """Expected gains [D] of all players' deviations."""
  return jnp.concatenate(deviation.gains(payoffs, joint, "cce"))


def matrix(payoffs: Array, weights: Array) -> tuple[list[list[Array]], Array, Array]:
  """`deviation.covariance` of the gains, with the means as one array [D]."""
  blocks, means, mass = deviation.covariance(payoffs, weights, "cce")
  return blocks, jnp.concatenate(means), mass


def _taken(program: Program, duals: Array) -> Array:
  """The sum over deviations of duals_i g_i: [D] -> [A1, ..., AN], 0 outside the support."""
  taken = deviation.logits(program.payoffs, tuple(split(program.payoffs, duals)), "cce")
  return jnp.where(program.support, taken, 0)


def split(payoffs: Array, rows: Array) -> list[Array]:
  """[D] -> one block [Ap] a player."""
  ends, end = [], 0
  for count in deviation.strategy_counts(payoffs)[:-1]:
    end += count
    ends.append(end)
  return jnp.split(rows, ends)


def _over(numerator: Array, denominator: Array, where: Array) -> Array:
  """The quotient, and 0 elsewhere."""
  return jnp.where(where, numerator / jnp.where(where, denominator, 1), 0)


def _residuals(program: Program, v: Point) -> Residuals:
  gain = gains(program.payoffs, v.joint)
  away = jnp.where(program.free, gain + v.slack - v.largest, gain - program.ratings)
  stationarity = _taken(program, v.duals) + v.mass_dual - v.bound
  return Residuals(
      stationarity=jnp.where(program.support, stationarity, 0),
      gain=jnp.where(program.free | program.held, away, 0),
      mass=v.joint.sum() - 1,
      duals=jnp.where(program.free, v.duals, 0).sum() - 1,
      complementarity=jnp.vdot(v.joint, v.bound) + jnp.vdot(v.slack, v.duals),
  )


def _error(residuals: Residuals) -> Array:
  """The largest residual []; infinite if it is not a number."""
  error = jnp.stack([jnp.abs(x).max() for x in residuals]).max()
  return jnp.where(jnp.isnan(error), jnp.inf, error)


def _start(program: Program) -> Point:
  """Uniform play on the support, and uniform duals."""
  free, support = program.free, program.support
  joint = jnp.where(support, 1 / support.sum(), 0)
  gain = gains(program.payoffs, joint)
  largest = jnp.where(free, gain, -jnp.inf).max() + 1
  return Point(
      joint=joint,
      bound=jnp.where(support, jnp.ones_like(joint), 0),
      slack=jnp.where(free, largest - gain, 0),
      duals=jnp.where(free, 1 / free.sum(), 0).astype(joint.dtype),
      largest=largest,
      mass_dual=jnp.zeros_like(largest),
  )


# One step.


def _newton(program: Program, v: Point) -> Callable[..., tuple]:
  """Factors the Newton system at a point; the result solves it.

    [ z/sigma   G'            1   0 ] [d sigma ]   [h1]
    [ G        -slack/duals   0  -f ] [d duals ] = [h2]     f: indicator of the free deviations
    [ 1'        0             0   0 ] [d lambda]   [h3]
    [ 0         f'            0   0 ] [d e     ]   [h4]
  """
  free, rows = program.free, program.free | program.held
  curvature = _over(v.bound, v.joint, program.support)
  ratio = _over(v.slack, v.duals, free)
  indicator = free.astype(ratio.dtype)
  weights = jnp.where(program.support, 1 / (curvature + _REGULARISATION), 0)
  blocks, border, mass = matrix(program.payoffs, weights)
  diagonal = split(program.payoffs, jnp.where(rows, ratio + _REGULARISATION, 1))
  present = split(program.payoffs, rows)
  for p, row in enumerate(blocks):
    for q, block in enumerate(row):
      row[q] = jnp.where(present[p][:, None] & present[q], block, 0)
    row[p] = row[p] + jnp.diag(diagonal[p])
  factored = cholesky.factor(blocks, _FLOOR)

  def solve_duals(right):
    return jnp.concatenate(factored(split(program.payoffs, jnp.where(rows, right, 0))))

  along = solve_duals(indicator)

  def regularised(h1, h2, h3, h4):
    weighted = weights * h1
    total = weighted.sum() - h3
    first = solve_duals(gains(program.payoffs, weighted) - h2 - border * (total / mass))
    largest = (jnp.vdot(indicator, first) - h4) / jnp.vdot(indicator, along)
    duals = first - along * largest
    mass_dual = (total - jnp.vdot(jnp.where(rows, border, 0), duals)) / mass
    joint = weights * (h1 - _taken(program, duals) - mass_dual)
    return joint, duals, mass_dual, largest

  def product(joint, duals, mass_dual, largest):
    first = _taken(program, duals) + jnp.where(program.support, mass_dual, 0) + curvature * joint
    second = gains(program.payoffs, joint) - ratio * duals - indicator * largest
    return first, jnp.where(rows, second, 0), joint.sum(), jnp.vdot(indicator, duals)

  def refine(_, state):
    right, x = state
    left = jax.tree.map(jnp.subtract, right, product(*x))
    return right, jax.tree.map(jnp.add, x, regularised(*left))

  def solve(*right):
    nothing = v.joint * 0, v.duals * 0, v.mass_dual * 0, v.largest * 0
    # A loop, not its steps in a row, since these would all be compiled.
    return jax.lax.fori_loop(0, 1 + _REFINEMENTS, refine, (right, nothing))[1]

  return solve


def _step(program: Program, v: Point) -> Point:
  """One predictor-corrector step."""
  free, support = program.free, program.support
  residuals = _residuals(program, v)
  solve = _newton(program, v)

  def direction(joint_change, slack_change):
    """Newton's direction along which sigma z and slack . duals change by these amounts."""
    joint, duals, mass_dual, largest = solve(
        _over(joint_change, v.joint, support) - residuals.stationarity,
        -residuals.gain - _over(slack_change, v.duals, free),
        -residuals.mass,
        -residuals.duals,
    )
    bound = _over(joint_change - v.bound * joint, v.joint, support)
    slack = _over(slack_change - v.slack * duals, v.duals, free)
    return Point(joint, bound, slack, duals, largest, mass_dual)

  def lengths(d):
    """Reciprocals of the primal and of the dual step at which a number reaches zero."""
    primal = _over(-d.joint, v.joint, support).max(), _over(-d.slack, v.slack, free).max()
    dual = _over(-d.bound, v.bound, support).max(), _over(-d.duals, v.duals, free).max()
    return jnp.maximum(*primal), jnp.maximum(*dual)

  predictor = direction(-v.joint * v.bound, -v.slack * v.duals)
  primal, dual = (1 / jnp.maximum(x, 1) for x in lengths(predictor))
  ahead = _moved(v, predictor, primal, dual)
  now, then = residuals.complementarity, _residuals(program, ahead).complementarity
  aim = jnp.clip((then / now) ** 3, 1e-6, 1) * now / (support.sum() + free.sum())
  corrector = direction(
      jnp.where(support, aim - v.joint * v.bound - predictor.joint * predictor.bound, 0),
      jnp.where(free, aim - v.slack * v.duals - predictor.slack * predictor.duals, 0),
  )
  primal, dual = (
      jnp.minimum(1, _TO_BOUNDARY / jnp.maximum(x, 1e-3)) for x in lengths(corrector)
  )
  return _moved(v, corrector, primal, dual)


def _moved(v: Point, d: Point, primal: Array, dual: Array) -> Point:
  return Point(
      joint=v.joint + primal * d.joint,
      bound=v.bound + dual * d.bound,
      slack=v.slack + primal * d.slack,
      duals=v.duals + dual * d.duals,
      largest=v.largest + primal * d.largest,
      mass_dual=v.mass_dual + dual * d.mass_dual,
  )


# The loop.


class _State(NamedTuple):
  point: Point
  best: Point
  error: Array  # [] residual of the best point
  stalled: Array  # [] int32, steps in a row that have not halved it
  steps: Array  # [] int32


def solve(program: Program) -> tuple[Point, Array]:
  """Solves the program.

  Returns:
    The best point, whose joint sums to one up to the residual, and its largest residual [].
  """

  def running(state):
    hopeful = (state.stalled < _MAX_STALLED) | (state.error > TOLERANCE)
    return (state.error > _TARGET) & hopeful & (state.steps < _MAX_STEPS)

  def advance(state):
    point = _step(program, state.point)
    error = _error(_residuals(program, point))
    better = error < state.error
    return _State(
        point=point,
        best=jax.tree.map(lambda x, y: jnp.where(better, y, x), state.best, point),
        error=jnp.where(better, error, state.error),
        stalled=jnp.where(error < state.error / 2, 0, state.stalled + 1),
        steps=state.steps + 1,
    )

  start = _start(program)
  zero = jnp.zeros((), jnp.int32)
  begin = _State(start, start, _error(_residuals(program, start)), zero, zero)
  end = jax.lax.while_loop(running, advance, begin)
  return end.best, end.error
