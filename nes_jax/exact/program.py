"""The convex program of the exact engine, and how far a point is from its optimum.

Eq. (6) of Marris et al. (2022), with the objective as `nes_jax.types.Problem` states it, is

  minimise    tau KL(sigma || target) - omega W . sigma + rho' sum_p (e_p log(e_p / E_p) - e_p)
  subject to  A_p sigma + e_p + slack_p = limit_p,   sum sigma = 1,   sigma >= 0,   slack >= 0

where e_p = epsilon-plus - epsilon_p, E_p = epsilon-plus - epsilon-hat, rho' = tau rho, and limit_p
is epsilon-plus. With rho = infinity there is no e_p, and limit_p is the target epsilon.

All arrays carry trailing batch axes `*b` (see `layout`).
"""

import math
from typing import NamedTuple

import jax.numpy as jnp

from nes_jax import deviation, metrics
from nes_jax.layout import fold, max_over, sum_over
from nes_jax.types import Array, Concept, Duals, Problem

# Below every utility, and inside float32.
MINUS_INFINITY = -1e19


class Variables(NamedTuple):
  """A point of the interior."""

  joint: Array  # [A1, ..., AN, *b] sigma > 0; sums to one at the end only
  bound: Array  # [A1, ..., AN, *b] z > 0, the multiplier of sigma >= 0
  slack: Duals  # s > 0, in blocks like the duals
  duals: Duals  # alpha > 0
  mass_dual: Array  # [*b] lambda, the multiplier of sum sigma = 1
  epsilon_slack: Array  # [N, *b] e > 0; unused with hard constraints


class Residuals(NamedTuple):
  """Optimality conditions. They are zero at the optimum but for complementarity."""

  stationarity: Array  # [A1, ..., AN, *b]
  feasibility: Duals
  mass: Array  # [*b]
  epsilon_slack: Array  # [N, *b]


class Program(NamedTuple):
  """The data of the convex program in the module's docstring."""

  payoffs: Array  # [N, A1, ..., AN, *b]
  strategies: tuple[Array, ...] | None  # masks of strategies, see `Problem`
  alive: Array | None  # [A1, ..., AN, *b] bool, joint strategies that exist; None: all do
  log_target: Array  # [A1, ..., AN, *b]
  welfare: Array  # [A1, ..., AN, *b] omega W
  temperature: Array  # [*b] tau
  limit: Duals  # right sides, in blocks like the duals
  binding: Duals  # 1, or 0 for rows that can never bind: a CE diagonal, a player with no choice
  relaxation: Array  # [*b] amount by which the limits are above those of the problem
  rho: Array | None  # [*b] rho' = tau rho, or None: hard constraints
  log_epsilon_slack: Array  # [N, *b] log E_p


def make(problem: Problem, concept: Concept, relaxation: float = 0.0) -> Program:
  """Problem [..., *b] -> Program [..., *b], whose limits are raised by the relaxation."""
  hard = math.isinf(problem.rho)
  target = problem.epsilon if hard else problem.epsilon_max
  exist = problem.strategies
  alive = None if exist is None else deviation.alive(exist)
  limit, binding = [], []
  for p in range(deviation.num_players(problem.payoffs)):
    row, binds = _limit(problem, p, concept, target[p], relaxation)
    limit.append(row)
    binding.append(binds)
  payoffs = problem.payoffs
  if payoffs.dtype != jnp.float64:  # float64 is centred at every step
    payoffs = deviation.centre_at_best(payoffs, exist)
    if exist is not None:
      payoffs = deviation.fill_missing(payoffs, exist)
  return Program(
      payoffs=payoffs,
      strategies=exist,
      alive=alive,
      log_target=jnp.log(problem.target if alive is None else jnp.where(alive, problem.target, 1)),
      welfare=problem.welfare_weight * problem.welfare,
      temperature=problem.temperature,
      limit=tuple(limit),
      binding=tuple(binding),
      relaxation=jnp.full_like(problem.temperature, relaxation),
      rho=None if hard else problem.temperature * problem.rho,
      log_epsilon_slack=0 * target if hard else jnp.log(problem.epsilon_max - problem.epsilon),
  )


def _limit(
    problem: Problem, player: int, concept: Concept, target: Array, relaxation: float
) -> tuple[Array, Array]:
  """Right sides of a player's rows, and which rows bind, as in `Program`; target [*b]."""
  hard, exist = math.isinf(problem.rho), problem.strategies
  count = deviation.strategy_counts(problem.payoffs)[player]
  binds = jnp.ones_like(target)
  if hard:
    # A row of zeros, "0 <= epsilon", binds nothing but would pin its slack to zero: its limit is
    # 1. A negative epsilon stays as it is, and cannot be met.
    binds = jnp.where(_moves(problem, player) | (target < 0), 1, 0).astype(target.dtype)
    target = jnp.where(binds > 0, target + relaxation, 1)
  shape = (count,) * deviation.dual_axes(concept)
  row, binds = (jnp.broadcast_to(x, shape + x.shape) for x in (target, binds))
  idle = _idle(None if exist is None else exist[player], count, row, concept)
  if idle is None:
    return row, binds
  if not hard:
    free = 3 * row  # e never exceeds twice epsilon-plus
  else:
    free = jnp.ones_like(row) if exist is None else 1 + jnp.maximum(row, 0)
  return jnp.where(idle, free, row), jnp.where(idle, 0, binds)


def _moves(problem: Problem, player: int) -> Array:
  """Whether a player's payoff depends on its own strategy: bool [*b]."""
  n = deviation.num_players(problem.payoffs)
  own = jnp.moveaxis(problem.payoffs[player], player, 0)
  differs = own != own[:1]
  if problem.strategies is not None:
    exists = problem.strategies[player]
    exists = exists.reshape(exists.shape[:1] + (1,) * (n - 1) + exists.shape[1:])
    top = jnp.where(exists, own, -jnp.inf).max(0, keepdims=True)
    differs = exists & (own != top)
  return jnp.any(differs, tuple(range(n)))


def _idle(exists: Array | None, count: int, like: Array, concept: Concept) -> Array | None:
  """Rows that are no deviation: a CE's diagonal, or a strategy that does not exist.

  None says that there are no such rows. The gain of such a row is 0 or, by
  `deviation.fill_missing`, at most that of a row that is a deviation.
  """
  missing = None if exists is None else ~exists
  if concept == "cce":
    return missing
  diagonal = jnp.broadcast_to(eye(count, like), like.shape)
  return diagonal if missing is None else diagonal | missing[:, None] | missing[None]


def eye(count: int, like: Array) -> Array:
  """Boolean identity [count, count, 1...] that broadcasts against `like` [count, count, *b]."""
  return jnp.eye(count, dtype=bool).reshape((count, count) + (1,) * (like.ndim - 2))


def where_alive(program: Program, x: Array, other: float) -> Array:
  """x [A1, ..., AN, *b], with `other` in the place of joint strategies that do not exist."""
  return x if program.alive is None else jnp.where(program.alive, x, other)


def centred(program: Program, duals: Duals, concept: Concept) -> Program:
  """The program with the payoffs of `deviation.centre_near_mean`, in float64 alone.

  In float64 a player's payoffs lose, for each play of the others, those of one own strategy before
  every step, so that differences of near-ties keep their digits. In float32 no tolerance asks for
  duals that are so large that this matters.
  """
  if program.temperature.dtype != jnp.float64:
    return program
  exist = program.strategies
  payoffs = deviation.centre_near_mean(program.payoffs, duals, concept, exist)
  if exist is not None:
    payoffs = deviation.fill_missing(payoffs, exist)
  return program._replace(payoffs=payoffs)


def complementarity(v: Variables, players: int, axes: int) -> Array:
  """s . alpha + sigma . z: [*b]."""
  slack = [sum_over(s * a, axes) for s, a in zip(v.slack, v.duals)]
  return fold(jnp.add, slack) + sum_over(v.joint * v.bound, players)


def residuals(program: Program, v: Variables, concept: Concept) -> tuple[Residuals, Array, Array]:
  """Optimality conditions, certificate and merit of a point.

  Returns:
    The residuals; the error [*b], `metrics.residual` of the joint scaled to sum to one; and the
    merit [*b], complementarity plus infeasibility, which falls along the central path. Error and
    merit are infinite where they are not a number.
  """
  n, axes = v.joint.ndim - v.mass_dual.ndim, deviation.dual_axes(concept)
  program = centred(program, v.duals, concept)
  taken = deviation.logits(program.payoffs, v.duals, concept)
  gains = deviation.gains(program.payoffs, v.joint, concept)
  log_joint = jnp.log(where_alive(program, v.joint, 1))
  stationarity = (
      program.temperature * (log_joint - program.log_target)
      - program.welfare
      + taken
      + v.mass_dual
      - v.bound
  )
  feasibility = tuple(g + s - limit for g, s, limit in zip(gains, v.slack, program.limit))
  epsilon_slack = jnp.zeros_like(v.epsilon_slack)
  if program.rho is not None:
    feasibility = tuple(f + e for f, e in zip(feasibility, v.epsilon_slack))
    sums = jnp.stack([sum_over(a, axes) for a in v.duals])
    epsilon_slack = program.rho * (jnp.log(v.epsilon_slack) - program.log_epsilon_slack) + sums
  found = Residuals(
      stationarity=where_alive(program, stationarity, 0),
      feasibility=feasibility,
      mass=sum_over(v.joint, n) - 1,
      epsilon_slack=epsilon_slack,
  )
  error = _certificate(program, v, gains, taken, found.mass, concept)
  infeasible = [max_over(jnp.abs(f), axes) for f in feasibility]
  merit = fold(jnp.add, [complementarity(v, n, axes), jnp.abs(found.mass)] + infeasible)
  # A not-a-number must never look converged or win a comparison.
  error, merit = (jnp.where(jnp.isnan(x), jnp.inf, x) for x in (error, merit))
  return found, error, merit


def _certificate(
    program: Program, v: Variables, gains: Duals, taken: Array, excess: Array, concept: Concept
) -> Array:
  """`metrics.residual` [*b] of a point whose joint sums to 1 + excess."""
  n, axes = v.joint.ndim - v.mass_dual.ndim, deviation.dual_axes(concept)
  mass = excess + 1
  left = [limit - program.relaxation - g / mass for limit, g in zip(program.limit, gains)]
  if program.rho is not None:
    left = [x - e for x, e in zip(left, v.epsilon_slack)]
  bound = [a * b for a, b in zip(v.duals, program.binding)]
  counted = [metrics.counted(x, 2 * program.relaxation) for x in left]
  gap = fold(jnp.add, [sum_over(a * x, axes) for a, x in zip(bound, counted)])
  utility = where_alive(program, program.welfare - taken, MINUS_INFINITY)
  gap = gap + metrics.entropy_gap(
      v.joint / mass, program.log_target, utility, max_over(utility, n), program.temperature
  )
  if program.rho is not None:
    sums = jnp.stack([sum_over(a, axes) for a in bound])
    gap = gap + metrics.epsilon_gap(
        v.epsilon_slack, program.log_epsilon_slack, sums, program.rho
    )
  worst = fold(jnp.maximum, [max_over(-x, axes) for x in left])
  return fold(jnp.maximum, [jnp.abs(gap), worst, jnp.abs(excess)])
