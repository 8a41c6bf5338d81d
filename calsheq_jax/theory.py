"""Theory of shared equilibria (Vadori et al. 2020, section 2), made to be checked on examples.

  Proposition 1   `gradient` is the shared policy gradient (3), and `slopes` estimates both sides of
                  (4) along a direction
  Definition 2    `self_play_sequence` follows improvements on a finite set of policies
  Assumption 1    `transitivity` decides whether such a set is extended transitive, and `skill_gain`
                  checks a given skill T
  Theorem 1       `step_bound` limits the length of every self-play sequence

The finite part is written in NumPy and takes payoffs u [k, k]: u[x, y] = V-hat(x, y) is what policy
x earns in a random seat while all others play y. `shared_game.matrix` estimates u by simulation.

Glossary: n agents, B episodes, K independent samples, T steps, k policies of a finite set; x and y
are policies.
"""

from collections.abc import Callable
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calsheq_jax import rollout
from calsheq_jax.policy import normalised
from calsheq_jax.shared_game import Estimate, Z, estimate, values
from calsheq_jax.types import Agent, Array, Params, Policy, Trajectory
from envs.base import Environment, Profile

# Proposition 1: the gradient of V-hat in its first argument.


def _weights(trajectory: Trajectory, discount: float, baseline: bool) -> Array:
  """[T, B, n]: what a score is multiplied by in (3), sum over t' >= t of gamma^t' reward."""
  reward = trajectory.reward * trajectory.weight
  powers = discount ** jnp.arange(len(reward), dtype=reward.dtype)
  powers = powers.reshape((-1,) + (1,) * (reward.ndim - 1))
  left = jnp.cumsum((powers * reward)[::-1], 0)[::-1]
  if baseline:
    left = left - powers * trajectory.value
  return left * trajectory.weight


def _log_prob(policy: Policy, agent: Agent, params: Params, trajectory: Trajectory) -> Array:
  parameters, _ = policy.apply(params, normalised(agent, trajectory.observation))
  return policy.distribution(parameters).log_prob(trajectory.action)


def gradient(
    policy: Policy,
    agent: Agent,
    trajectory: Trajectory,
    *,
    discount: float = 1.0,
    baseline: bool = False,
) -> Params:
  """The shared policy gradient (3): the mean over agents of each one's own-reward gradient.

  By Proposition 1 its expectation is that of V-hat(pi1, pi2) in the first argument, at pi1 = pi2.

  Args:
    policy: static under jit.
    agent: what all agents played.
    trajectory: [T, B, n, ...] from `rollout.collect`, none of it truncated.
    discount: gamma.
    baseline: whether the critic's values are subtracted, which leaves the expectation as it is.

  Returns:
    Like agent.params.
  """
  weights = _weights(trajectory, discount, baseline)
  surrogate = lambda params: jnp.mean(
      jnp.sum(weights * _log_prob(policy, agent, params, trajectory), 0)
  )
  return jax.grad(surrogate)(agent.params)


class Slopes(NamedTuple):
  """One directional derivative of V-hat in its first argument, in two ways."""

  gradient: Estimate  # [] of (3): scores times rewards, all agents on one policy
  difference: Estimate  # [] finite difference of V-hat(pi1, pi2) in pi1


def slopes(
    env: Environment,
    policy: Policy,
    agent: Agent,
    direction: Params,
    key: Array,
    profiles: Profile,
    *,
    step: float,
    discount: float = 1.0,
    baseline: bool = False,
) -> Slopes:
  """Proposition 1 along a direction: both sides of (4), from independent episodes.

  Args:
    agent: where, pi1 = pi2.
    direction: like agent.params.
    step: half of the finite difference, in units of `direction`.
    env, policy, key, profiles, discount: as in `values`.
    baseline: as in `gradient`.
  """
  gradient_key, difference_key = jax.random.split(key)
  trajectory = rollout.collect(env, policy, agent, gradient_key, profiles).trajectory
  score = jax.jvp(
      lambda params: _log_prob(policy, agent, params, trajectory), (agent.params,), (direction,)
  )[1]
  each = jnp.sum(_weights(trajectory, discount, baseline) * score, 0).mean(-1)  # [K]

  def moved(by):
    params = jax.tree.map(lambda x, d: x + by * d, agent.params, direction)
    return values(
        env, policy, agent._replace(params=params), agent, difference_key, profiles,
        discount=discount,
    )

  return Slopes(estimate(each), estimate((moved(step) - moved(-step)) / (2 * step)))


# Self-play on a finite set of policies, payoffs u [k, k], row the first argument. NumPy.


def improvements(payoff: np.ndarray, epsilon: float = 0.0) -> np.ndarray:
  """Which deviations pay: bool [k, k], at [x, y] whether u(y, x) - u(x, x) > epsilon."""
  payoff = _checked(payoff)
  return (payoff - np.diag(payoff)).T > epsilon


def _checked(payoff) -> np.ndarray:
  payoff = np.asarray(payoff, np.float64)
  if payoff.ndim != 2 or payoff.shape[0] != payoff.shape[1] or not np.isfinite(payoff).all():
    raise ValueError(
        f"payoffs of shape {list(payoff.shape)}: a square matrix of finite numbers is expected, row"
        " the first argument"
    )
  return payoff


def self_play_sequence(
    payoff: np.ndarray,
    start: int,
    epsilon: float = 0.0,
    choose: Callable[[np.ndarray, np.ndarray], int] | None = None,
) -> list[int]:
  """A (u, epsilon)-self-play sequence (Definition 2), until nothing improves by epsilon.

  Args:
    payoff: [k, k].
    start: z_0.
    epsilon: at least 0: what a step must gain.
    choose: (candidates, their gains) -> one of the candidates; None: the one that gains most.

  Returns:
    z_0, z_1, ...; the last is an epsilon-shared equilibrium among the k.

  Raises:
    ValueError: the sequence returns to where it was, so that it can go on for ever: the game is
      not extended transitive.
  """
  payoff = _checked(payoff)
  better = improvements(payoff, epsilon)
  sequence = [start]
  while better[sequence[-1]].any():
    here = sequence[-1]
    candidates = np.flatnonzero(better[here])
    gains = payoff[candidates, here] - payoff[here, here]
    following = int(candidates[gains.argmax()] if choose is None else choose(candidates, gains))
    if following in sequence:
      cycle = sequence[sequence.index(following) :]
      raise ValueError(f"self-play goes round policies {cycle}: there is no end to reach")
    sequence.append(following)
  return sequence


def skill_gain(payoff: np.ndarray, skill: np.ndarray, epsilon: float = 0.0) -> float:
  """delta_epsilon of Assumption 1 for a function T: least T(y) - T(x) over deviations that pay.

  Args:
    payoff: [k, k].
    skill: [k] T.
    epsilon: of the deviations.

  Returns:
    Positive: T shows that the game on these policies is extended transitive at this epsilon.
    Infinite: nothing pays. Else: T does not show it.
  """
  skill = np.asarray(skill, np.float64)
  x, y = np.nonzero(improvements(payoff, epsilon))
  return float((skill[y] - skill[x]).min()) if len(x) else math.inf


def step_bound(skill: np.ndarray, delta: float) -> float:
  """Steps after which every self-play sequence has ended, (sup T - inf T) / delta (Theorem 1)."""
  if not delta > 0:
    raise ValueError(f"delta={delta} must be positive: T does not show extended transitivity")
  return float(np.ptp(np.asarray(skill, np.float64)) / delta)


class Transitivity(NamedTuple):
  """Whether a finite set of policies is extended transitive at one epsilon."""

  holds: bool
  skill: np.ndarray | None  # [k] a T with delta = 1: most steps of self-play that lead to x
  longest: int | None  # steps of the longest self-play sequence
  cycle: list[int] | None  # where it does not hold: deviations that pay and come back


def transitivity(
    payoff: np.ndarray, epsilon: float = 0.0, error: np.ndarray | float = 0.0, z: float = Z
) -> Transitivity:
  """Tests Assumption 1 on a finite set of policies.

  There, some T has T(y) - T(x) > 0 wherever deviating from x to y pays, and then all by some delta,
  just if such deviations never lead back to where they began. T is then the number of steps of the
  longest way to x.

  Args:
    payoff: [k, k] u, or estimates.
    epsilon: what a deviation must gain.
    error: [k, k] standard errors of the gains u(y, x) - u(x, x), at [x, y] (`gains`).
    z: standard errors that a gain must lie above epsilon to count. What is found to fail then fails
      but for chance; what is found to hold may still fail by gains too small to be seen.
  """
  gain = (_checked(payoff) - np.diag(payoff)).T
  better = gain - z * np.asarray(error) > epsilon
  np.fill_diagonal(better, False)
  count = len(better)
  skill, into = np.zeros(count, int), better.sum(0)
  ready = list(np.flatnonzero(into == 0))
  order = []
  while ready:
    x = int(ready.pop())
    order.append(x)
    for y in np.flatnonzero(better[x]):
      skill[y] = max(skill[y], skill[x] + 1)
      into[y] -= 1
      if into[y] == 0:
        ready.append(y)
  if len(order) == count:
    return Transitivity(True, skill.astype(float), int(skill.max()), None)
  # What is left has a way in from what is left: going backwards must come round.
  left = [x for x in range(count) if x not in order]
  way = [left[0]]
  while True:
    before = next(x for x in left if better[x, way[-1]])
    if before in way:
      return Transitivity(False, None, None, way[way.index(before) :][::-1])
    way.append(before)


def gains(samples: np.ndarray) -> Estimate:
  """What each deviation gains, from paired samples of `matrix`: [k, k, K] -> [k, k] at [x, y]."""
  samples = np.asarray(samples, np.float64)
  own = np.einsum("xxs->xs", samples)
  return estimate((samples - own[None]).transpose(1, 0, 2))
