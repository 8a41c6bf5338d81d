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
  """The factors of the scores in (3), sum over t' >= t of gamma^t' reward: [T, B, n]."""
  reward = trajectory.reward * trajectory.weight
  powers = discount ** jnp.arange(len(reward), dtype=reward.dtype)
  powers = powers.reshape((-1,) + (1,) * (reward.ndim - 1))
  left = jnp.cumsum((powers * reward)[::-1], 0)[::-1]
  if baseline:
    left = left - powers * trajectory.value
  return left * trajectory.weight


def _log_prob(policy: Policy, agent: Agent, params: Params, trajectory: Trajectory) -> Array:
  """Log-probabilities of a trajectory's actions under other parameters: [T, B, n]."""
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
  """The shared policy gradient (3): the mean over agents of each agent's own-reward gradient.

  By Proposition 1 its expectation is the gradient of V-hat(pi1, pi2) in pi1, taken at pi1 = pi2.

  Args:
    policy: static under jit.
    agent: the agent that all seats played.
    trajectory: [T, B, n, ...] from `rollout.collect`, without truncated episodes.
    discount: gamma for each step.
    baseline: whether the critic's values are subtracted, which does not change the expectation.

  Returns:
    A pytree like agent.params.
  """
  weights = _weights(trajectory, discount, baseline)

  def surrogate(params):
    return jnp.mean(jnp.sum(weights * _log_prob(policy, agent, params, trajectory), 0))

  return jax.grad(surrogate)(agent.params)


class Slopes(NamedTuple):
  """One directional derivative of V-hat in its first argument, estimated in two ways."""

  gradient: Estimate  # [] from (3): scores times rewards, with all agents on one policy
  difference: Estimate  # [] from a finite difference of V-hat(pi1, pi2) in pi1


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
  """Estimates both sides of (4) in Proposition 1 along a direction, from independent episodes.

  Args:
    env, policy: static under jit.
    agent: the agent with pi1 = pi2.
    direction: a pytree like agent.params.
    key: random key of all episodes.
    profiles: leading axis [K], one profile for each sample.
    step: half of the width of the finite difference, in units of `direction`.
    discount: gamma for each step.
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


# Self-play on a finite set of policies.


def improvements(payoff: np.ndarray, epsilon: float = 0.0) -> np.ndarray:
  """Finds the deviations that pay.

  Args:
    payoff: [k, k] u.
    epsilon: number that a deviation must gain more than.

  Returns:
    [k, k] bool: whether u(y, x) - u(x, x) > epsilon, at [x, y].

  Raises:
    ValueError: the payoffs are not a square matrix of finite numbers.
  """
  payoff = _checked(payoff)
  return (payoff - np.diag(payoff)).T > epsilon


def _checked(payoff) -> np.ndarray:
  """Converts payoffs to float64, or raises ValueError."""
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
  """Follows a (u, epsilon)-self-play sequence (Definition 2) until nothing improves by epsilon.

  Args:
    payoff: [k, k] u.
    start: the first policy z_0.
    epsilon: number, at least 0, that every step must gain more than.
    choose: (candidates, their gains) -> one of the candidates; None takes the largest gain.

  Returns:
    The policies z_0, z_1, ...; the last is an epsilon-shared equilibrium among the k policies.

  Raises:
    ValueError: the sequence returns to an earlier policy, so that it can go on for ever and the
      game is not extended transitive; or the payoffs are no square matrix of finite numbers.
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
  """delta_epsilon of Assumption 1 for a skill T: the least T(y) - T(x) of deviations that pay.

  Args:
    payoff: [k, k] u.
    skill: [k] T.
    epsilon: number that a deviation must gain more than.

  Returns:
    A positive number shows that the game on these policies is extended transitive at this epsilon.
    It is infinite if no deviation pays. Other numbers mean that T does not show transitivity.
  """
  skill = np.asarray(skill, np.float64)
  x, y = np.nonzero(improvements(payoff, epsilon))
  return float((skill[y] - skill[x]).min()) if len(x) else math.inf


def step_bound(skill: np.ndarray, delta: float) -> float:
  """Bound (sup T - inf T) / delta on the steps of every self-play sequence (Theorem 1).

  Args:
    skill: [k] T.
    delta: the result of `skill_gain`.

  Raises:
    ValueError: delta is not positive.
  """
  if not delta > 0:
    raise ValueError(f"delta={delta} must be positive: T does not show extended transitivity")
  return float(np.ptp(np.asarray(skill, np.float64)) / delta)


class Transitivity(NamedTuple):
  """The answer to whether a finite set of policies is extended transitive at one epsilon."""

  holds: bool
  skill: np.ndarray | None  # [k] a T with delta = 1: length of the longest self-play path to x
  longest: int | None  # number of steps of the longest self-play sequence
  cycle: list[int] | None  # if it does not hold: deviations that pay and lead back to their start


def transitivity(
    payoff: np.ndarray, epsilon: float = 0.0, error: np.ndarray | float = 0.0, z: float = Z
) -> Transitivity:
  """Tests Assumption 1 on a finite set of policies.

  Assumption 1 asks for a T such that T(y) - T(x) > 0 wherever deviating from x to y pays; on a
  finite set these differences then exceed some delta > 0. Such a T exists if and only if deviations
  that pay never lead back to their start. T(x) is then the number of steps of the longest path to
  x.

  Args:
    payoff: [k, k] u, or estimates of it.
    epsilon: number that a deviation must gain more than.
    error: [k, k] standard errors of the gains u(y, x) - u(x, x), at [x, y] (`gains`).
    z: number of standard errors by which a gain must exceed epsilon to count. A set that is found
      not transitive is then so up to chance; a set that is found transitive may still have gains
      that are too small to be seen.

  Raises:
    ValueError: the payoffs are not a square matrix of finite numbers.
  """
  gain = (_checked(payoff) - np.diag(payoff)).T
  better = gain - z * np.asarray(error) > epsilon
  np.fill_diagonal(better, False)
  skill, order = _longest_paths(better)
  if len(order) == len(better):
    return Transitivity(True, skill.astype(float), int(skill.max()), None)
  return Transitivity(False, None, None, _cycle(better, order))


def _longest_paths(better: np.ndarray) -> tuple[np.ndarray, list[int]]:
  """Sorts a directed graph topologically, as far as it has no cycles.

  Args:
    better: [k, k] bool, an edge from x to y at [x, y].

  Returns:
    Numbers of edges [k] of the longest paths that end in each vertex, and the vertices in order.
    Vertices on cycles and behind cycles are not in the order.
  """
  skill, into = np.zeros(len(better), int), better.sum(0)
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
  return skill, order


def _cycle(better: np.ndarray, order: list[int]) -> list[int]:
  """Finds a cycle among the vertices that are not in `order`."""
  left = [x for x in range(len(better)) if x not in order]
  path = [left[0]]
  while True:
    # Every vertex that is left has an edge from another one, so that going back must come round.
    before = next(x for x in left if better[x, path[-1]])
    if before in path:
      return path[path.index(before) :][::-1]
    path.append(before)


def gains(samples: np.ndarray) -> Estimate:
  """Estimates the gain of each deviation from paired samples.

  Args:
    samples: [k, k, K] of `shared_game.matrix`.

  Returns:
    The gain u(y, x) - u(x, x), [k, k] at [x, y].
  """
  samples = np.asarray(samples, np.float64)
  own = np.einsum("xxs->xs", samples)
  return estimate((samples - own[None]).transpose(1, 0, 2))
