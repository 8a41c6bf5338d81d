"""Quality of an answer: solver gap, (C)CE gap and KKT residual.

Unbatched: use `vmap`. `payoffs` may be in any units; gaps come out in the same.
"""

import math

import jax.numpy as jnp

from nes_jax import deviation, layout
from nes_jax.types import Array, Concept, Duals, Problem

# Violations of a constraint, in normalised units, that a residual need not count.
RESOLUTION = 1e-9


def solver_gap(joint: Array, reference: Array) -> Array:
  """Half the L1 distance between two joints (section 5): in [0, 1]."""
  return 0.5 * jnp.abs(joint - reference).sum()


def violations(
    payoffs: Array,
    joint: Array,
    epsilon: Array | float,
    concept: Concept,
    strategies: tuple[Array, ...] | None = None,
) -> Array:
  """[N]: each player's largest expected deviation gain above its epsilon, at least 0.

  Args:
    payoffs: [N, A1, ..., AN], finite.
    joint: [A1, ..., AN].
    epsilon: [] or [N].
    concept: "cce" or "ce".
    strategies: per player bool [Ap], the strategies that exist. None: all do.
  """
  payoffs = deviation.centre_at_best(payoffs, strategies)  # the same gains, and more digits
  worst = []
  for p, g in enumerate(deviation.gains(payoffs, joint, concept)):
    # The zero diagonal of a CE block is no deviation: with a negative epsilon it must not count.
    if concept == "ce":
      g = jnp.where(jnp.eye(len(g), dtype=bool), -jnp.inf, g)
    if strategies is not None:
      g = jnp.where(strategies[p], g, -jnp.inf)  # the last axis is the strategy deviated to
    worst.append(g.max())
  return jnp.maximum(jnp.stack(worst) - epsilon, 0)


def gap(
    payoffs: Array,
    joint: Array,
    epsilon: Array | float,
    concept: Concept,
    strategies: tuple[Array, ...] | None = None,
) -> Array:
  """CCE or CE gap (section 5): the violations summed over players. Zero inside the polytope."""
  return violations(payoffs, joint, epsilon, concept, strategies).sum()


def cce_gap(payoffs: Array, joint: Array, epsilon: Array | float = 0.0) -> Array:
  """CCE gap of a joint [A1, ..., AN]."""
  return gap(payoffs, joint, epsilon, "cce")


def ce_gap(payoffs: Array, joint: Array, epsilon: Array | float = 0.0) -> Array:
  """CE gap of a joint [A1, ..., AN]."""
  return gap(payoffs, joint, epsilon, "ce")


def entropy_gap(
    joint: Array, log_target: Array, utility: Array, peak: Array, temperature: Array
) -> Array:
  """tau KL(joint || sigma), sigma the softmax of log_target + utility / tau, also in the limit 0.

  Args:
    joint: [A1, ..., AN, *b], non-negative; where its sum differs from one, so does the answer.
    log_target: [A1, ..., AN, *b].
    utility: [A1, ..., AN, *b], the weighted welfare less what the duals take.
    peak: [*b], the largest utility.
    temperature: [*b] tau >= 0; at 0 the gap is max(utility) - joint . utility.

  Returns:
    [*b].
  """
  n = joint.ndim - temperature.ndim
  info = jnp.finfo(joint.dtype)
  # A peak computed elsewhere may differ in its last bit, which a temperature of 0 would blow up.
  below = jnp.minimum(utility - peak, 0)
  safe = jnp.maximum(temperature, info.tiny)
  log_partition = jnp.log(layout.sum_over(jnp.exp(log_target + below / safe), n))
  log_joint = jnp.log(jnp.maximum(joint, info.tiny))
  divergence = layout.sum_over(joint * (log_joint - log_target), n)
  # No joint strategy without mass counts, nor does 0 times an infinite utility.
  lost = layout.sum_over(jnp.where(joint > 0, joint * below, 0), n)
  return temperature * (divergence + log_partition) - lost


def epsilon_gap(epsilon_slack: Array, log_target: Array, sums: Array, rho: Array) -> Array:
  """rho times the divergence of epsilon from the epsilon of eq. (10), summed over players.

  Args:
    epsilon_slack: [N, *b] epsilon-plus - epsilon, positive.
    log_target: [N, *b] log of epsilon-plus - epsilon-hat.
    sums: [N, *b] sum of each player's duals.
    rho: [*b].

  Returns:
    [*b].
  """
  distance = jnp.log(epsilon_slack) - log_target + sums / rho
  return rho * layout.sum_over(epsilon_slack * (jnp.expm1(-distance) + distance), 1)


def counted(slack: Array, resolution: float | Array) -> Array:
  """Slack as the duality gap counts it: violations up to the resolution are none."""
  return jnp.maximum(slack, jnp.minimum(slack + resolution, 0))


def residual(
    problem: Problem, joint: Array, epsilon: Array, duals: Duals, concept: Concept
) -> Array:
  """KKT residual of a primal-dual answer: the larger of its infeasibility and its duality gap.

    gap = tau KL(joint || sigma(duals)) + tau rho sum_p KL(x_p || y_p) + duals . slack

  where sigma(duals) is eq. (9), x_p = epsilon-plus - epsilon_p, y_p is the same of eq. (10), and
  KL(x || y) = x log(x / y) - x + y. For a feasible joint, tau KL(joint || optimum) <= gap: by
  Pinsker's inequality the solver gap is at most sqrt(gap / (2 tau)).

  Where payoffs nearly tie, duals are so large that rounding of the joint alone makes a negative
  slack times a dual more than any tolerance. Where that makes the gap smaller, violations up to
  `RESOLUTION` therefore count as none: the gap is then that of the problem whose epsilon is larger
  by so much.

  Args:
    problem: the normalised problem.
    joint: [A1, ..., AN], non-negative, sums to one.
    epsilon: [N], right sides of the constraints.
    duals: non-negative, of the problem.
    concept: "cce" or "ce".

  Returns:
    [], non-negative; NaN if anything is not finite.
  """
  tau, exist = problem.temperature, problem.strategies
  payoffs = deviation.centre_near_mean(problem.payoffs, duals, concept, exist)
  gains = deviation.gains(payoffs, joint, concept)
  slacks = [e - g for e, g in zip(epsilon, gains)]
  infeasibility = violations(problem.payoffs, joint, epsilon, concept, exist).max()
  utility = problem.welfare_weight * problem.welfare - deviation.logits(payoffs, duals, concept)
  log_target = jnp.log(problem.target)
  if exist is not None:
    alive = deviation.alive(exist)
    utility = jnp.where(alive, utility, -jnp.inf)
    log_target = jnp.where(alive, log_target, 0)
  gap = entropy_gap(joint, log_target, utility, utility.max(), tau)
  if not math.isinf(problem.rho):
    answered, target = (problem.epsilon_max - e for e in (epsilon, problem.epsilon))
    sums = jnp.stack([block.sum() for block in duals])
    gap = gap + epsilon_gap(answered, jnp.log(target), sums, tau * problem.rho)

  def total_gap(resolution):
    return jnp.abs(gap + sum((a * counted(s, resolution)).sum() for a, s in zip(duals, slacks)))

  return jnp.maximum(jnp.minimum(total_gap(0.0), total_gap(RESOLUTION)), infeasibility)
