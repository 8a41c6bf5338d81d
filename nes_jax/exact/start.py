"""The starting point of the exact engine."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nes_jax import deviation
from nes_jax.exact.config import Config
from nes_jax.exact.program import MINUS_INFINITY, Program, Variables, centred, where_alive
from nes_jax.layout import fold, max_over, sum_over
from nes_jax.types import Array, Concept, Duals, Problem

# A warm start begins this far inside, times the largest violation of the given joint.
_WARMTH = 0.3
# Least product of a slack and its dual at a warm start, over that of a cold start as far inside.
_CENTRING = 1 / 30


class Start(NamedTuple):
  """A starting point that is given, in the units of the problem."""

  duals: Duals
  joint: Array | None = None  # [A1, ..., AN, *b]; None: that of the duals, eq. (9)


def starting_point(
    program: Program, problem: Problem, config: Config, concept: Concept, start: Start | None
) -> Variables:
  """A point near the target joint or near a given start, with every multiplier well inside."""
  n = deviation.num_players(program.payoffs)
  program = centred(program, tuple(map(jnp.ones_like, program.limit)), concept)
  size: Array | int = math.prod(problem.target.shape[:n])
  if program.alive is not None:
    size = sum_over(program.alive.astype(problem.target.dtype), n)
  factor: Array | float = 1.0
  if start is None:
    # A target may be near the boundary.
    joint = where_alive(program, 0.9 * problem.target + 0.1 / size, 0)
    duals = tuple(jnp.full_like(limit, config.start_dual) for limit in program.limit)
  else:
    given = start.joint
    joint = _joint_of(program, start.duals, config, concept) if given is None else given
    factor = _depth(program, joint, config, concept)
    duals = start.duals
  bound, slack, least = (
      factor * x for x in (config.start_bound, config.start_slack, config.start_dual)
  )
  if start is not None:
    joint = where_alive(program, jnp.maximum(joint, factor * bound / size), 0)
  gains = deviation.gains(program.payoffs, joint, concept)
  if program.rho is None:
    epsilon_slack = jnp.ones_like(problem.epsilon)
  else:
    epsilon_slack, growth = _epsilon_slack(program, problem, config, concept, gains, slack)
    gains = tuple(g + e for g, e in zip(gains, epsilon_slack))
    duals, bound = tuple(jnp.maximum(a, growth * least) for a in duals), growth * bound
  left = tuple(limit - g for limit, g in zip(program.limit, gains))
  if start is None:
    slacks = tuple(jnp.maximum(x, slack) for x in left)
  else:
    product = _CENTRING * factor * config.start_slack * config.start_dual
    slacks, duals = zip(*(_centred_pair(x, a, product) for x, a in zip(left, duals)))
  return Variables(
      joint=joint,
      bound=where_alive(program, bound / (size * where_alive(program, joint, 1)), 1),
      slack=slacks,
      duals=duals,
      mass_dual=jnp.zeros_like(program.temperature),
      epsilon_slack=epsilon_slack,
  )


def _centred_pair(slack: Array, dual: Array, product: Array | float) -> tuple[Array, Array]:
  """Slacks and duals raised until their products are at least `product` [*b].

  The smaller of the two rises, and where both are small, both do. The engine takes more steps from
  products that differ much.
  """
  root = jnp.sqrt(product)
  return (
      jnp.maximum(slack, product / jnp.maximum(dual, root)),
      jnp.maximum(dual, product / jnp.maximum(slack, root)),
  )


def _joint_of(program: Program, duals: Duals, config: Config, concept: Concept) -> Array:
  """The joint of given duals by eq. (9).

  Where there is next to no entropy, a temperature that is not zero takes its place.
  """
  n = deviation.num_players(program.payoffs)
  logits = program.welfare - deviation.logits(program.payoffs, duals, concept)
  logits = where_alive(program, logits, MINUS_INFINITY)
  warmth = jnp.maximum(program.temperature, config.warm_start)
  return jax.nn.softmax(program.log_target + logits / warmth, axis=tuple(range(n)))


def _depth(program: Program, joint: Array, config: Config, concept: Concept) -> Array:
  """The factor [*b] on the multipliers at the start, which grows with the largest violation."""
  axes = deviation.dual_axes(concept)
  gains = deviation.gains(program.payoffs, joint, concept)
  worst = fold(jnp.maximum, [max_over(g - x, axes) for g, x in zip(gains, program.limit)])
  return jnp.clip(_WARMTH * worst, config.warm_start, 1)


def _epsilon_slack(
    program: Program,
    problem: Problem,
    config: Config,
    concept: Concept,
    gains: Duals,
    slack: float | Array,
) -> tuple[Array, Array]:
  """e [N, *b] where the joint is feasible, or as far as epsilon-plus lets it; and a factor [*b].

  The factor brings the multipliers to the size that eq. (10) gives to this e.
  """
  assert program.rho is not None
  axes = deviation.dual_axes(concept)
  worst = jnp.stack([max_over(g, axes) for g in gains])
  target = problem.epsilon_max - problem.epsilon
  chosen = jnp.clip(problem.epsilon_max - worst - slack, 0.1 * target, target)
  count = max(math.prod(limit.shape[:axes]) for limit in program.limit)
  growth = program.rho * max_over(jnp.log(target / chosen), 1) / (count * config.start_dual)
  return chosen, jnp.maximum(growth, 1)
