"""The two-player game that sharing a policy plays (Vadori et al. 2020, section 2).

Its pure strategies are whole policies, its payoff V-hat(pi1, pi2) of (4) is what a uniformly random
agent earns that plays pi1 while all others play pi2. A shared equilibrium is a symmetric pure Nash
equilibrium of it (Definition 1).

Here: V-hat by simulation; the gradient (3) and Proposition 1; the certificate of an epsilon-shared
equilibrium; and, on a finite set of policies, self-play sequences (Definition 2), extended
transitivity (Assumption 1) and the number of steps of Theorem 1.

Glossary: n agents, K independent samples, T steps, k policies of a finite set; x and y are
policies, u(x, y) is V-hat(x, y).
"""

from collections.abc import Callable
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calsheq_jax import ppo, rollout
from calsheq_jax.policy import decide, normalised
from calsheq_jax.self_play import best_response, mixed
from calsheq_jax.types import Agent, Array, Params, Policy, Trajectory
from envs.base import Environment, Profile

# Standard errors on either side of a mean: 95% of a normal.
Z = 1.96


class Estimate(NamedTuple):
  """A mean of independent samples."""

  mean: Array  # [*]
  error: Array  # [*] standard error

  def interval(self, z: float = Z) -> tuple[Array, Array]:
    """Confidence interval, 95% unless told: low [*], high [*]."""
    return self.mean - z * self.error, self.mean + z * self.error


def estimate(samples: Array) -> Estimate:
  """Of samples [*, K], K at least 2 -> [*]."""
  count = samples.shape[-1]
  if count < 2:
    raise ValueError(f"{count} sample(s): a standard error needs two or more")
  return Estimate(samples.mean(-1), samples.std(-1, ddof=1) / math.sqrt(count))


# V-hat.


def values(
    env: Environment,
    policy: Policy,
    first: Agent,
    second: Agent,
    key: Array,
    profiles: Profile,
    *,
    discount: float = 1.0,
    mean_action: bool = False,
) -> Array:
  """Independent samples of V-hat(first, second), (4): [K].

  A sample is the mean over seats of what the agent there earns that plays `first` while the others
  play `second`: the expectation over the random seat is exact. The seats of a sample, and samples
  with the same key and row of other policies, share their random numbers, so that differences of
  such samples have small errors.

  Args:
    env, policy, discount, mean_action: static under jit.
    first, second: what the two play.
    key: of all samples.
    profiles: leading axis [K].
    discount: gamma, a step.
    mean_action: whether `first` takes its mean action in place of a sample.
  """
  seats = jnp.arange(env.num_agents)

  def sample(key, profile):
    def play(seat):
      act = mixed(policy, first, second, seat, mean_action=mean_action)
      played = rollout.episode(env, key, profile, act)
      return rollout.episode_returns(played.trajectory, discount)[seat]

    return jax.vmap(play)(seats).mean()

  return jax.vmap(sample)(_keys(key, profiles), profiles)


def symmetric_values(
    env: Environment,
    policy: Policy,
    agent: Agent,
    key: Array,
    profiles: Profile,
    *,
    discount: float = 1.0,
    mean_action: bool = False,
) -> Array:
  """What each agent earns where all play one policy: [K, n].

  The mean over agents is `values` of the policy against itself, from one n-th of the episodes.
  """

  def sample(key, profile):
    act = lambda k, x: decide(policy, agent, None if mean_action else k, x)
    played = rollout.episode(env, key, profile, act)
    return rollout.episode_returns(played.trajectory, discount)

  return jax.vmap(sample)(_keys(key, profiles), profiles)


def _keys(key: Array, profiles: Profile) -> Array:
  return rollout.keys_of(key, jax.tree.leaves(profiles)[0].shape[0])


def matrix(
    env: Environment,
    policy: Policy,
    agents: Agent,
    key: Array,
    profiles: Profile,
    *,
    discount: float = 1.0,
    mean_action: bool = False,
) -> Array:
  """`values` of every pair of k policies: [k, k, K], row the first, column the second.

  Args:
    agents: leading axis [k].
    env, policy, key, profiles, discount, mean_action: as in `values`.
  """
  count = jax.tree.leaves(agents)[0].shape[0]
  take = lambda i: jax.tree.map(lambda x: x[i], agents)

  def pair(index):
    return values(
        env, policy, take(index // count), take(index % count), key, profiles,
        discount=discount, mean_action=mean_action,
    )

  return jax.lax.map(pair, jnp.arange(count**2)).reshape(count, count, -1)


class Certificate(NamedTuple):
  """How far a policy is from a shared equilibrium, as far as the deviations tried show.

  `epsilon` is what the best of them gains: a lower bound on the epsilon of Definition 1, since a
  better deviation may exist. Below zero, none of them shows anything.
  """

  epsilon: Estimate  # [] V-hat(response, policy) - V-hat(policy, policy), paired samples
  value: Estimate  # [] V-hat(policy, policy)
  rewards: Estimate  # [n] what each agent earns where all play the policy
  chosen: Array  # [] int32, which deviation: 2 i is response i, 2 i + 1 its mean action


def certificate(
    env: Environment,
    policy: Policy,
    responses: Agent,
    frozen: Agent,
    key: Array,
    profiles: Profile,
    *,
    discount: float = 1.0,
) -> Certificate:
  """Judges deviations on episodes that they were not trained on.

  Each response is tried as it is and at its mean action. The first half of the episodes chooses
  the best of these, the second half says what it gains: that it was chosen biases nothing.

  Args:
    responses: leading axis [k]: deviators, from `self_play.best_response`, say.
    frozen: the policy that is judged.
    key: other than those of the responses' training.
    env, policy, profiles [K], discount: as in `values`.
  """
  count = jax.tree.leaves(profiles)[0].shape[0]
  if count < 4:
    raise ValueError(f"{count} profile(s): a certificate needs four or more, the more the better")
  rewards = symmetric_values(env, policy, frozen, key, profiles, discount=discount)
  together = rewards.mean(-1)

  def tried(response):
    options = [
        values(
            env, policy, response, frozen, key, profiles, discount=discount, mean_action=mean
        )
        for mean in (False, True)
    ]
    return jnp.stack(options) - together

  gained = jax.lax.map(tried, responses).reshape(-1, count)  # [2 k, K]
  half = count // 2
  chosen = jnp.argmax(gained[:, :half].mean(-1))
  return Certificate(
      estimate(gained[chosen, half:]), estimate(together), estimate(rewards.T), chosen
  )


def certify(
    env: Environment,
    policy: Policy,
    agent: Agent,
    key: Array,
    profile: Profile,
    config: ppo.Config,
    *,
    updates: int,
    episodes: int,
    judge_episodes: int,
    axis_name: str | None = None,
) -> Certificate:
  """Trains a deviator from the policy, and judges it halfway through and at the end.

  Args:
    agent: the policy that is judged.
    key: of all that is random here.
    profile: one, of all episodes.
    config: of the deviator's learning; static under jit, as what follows.
    updates: of the deviator, over which its learning rate falls to 0.
    episodes: of an update, on this device.
    judge_episodes: in which deviations are judged.
    axis_name: of the devices that train the deviator.
  """
  train_key, judge_key = jax.random.split(key)
  profiles = rollout.repeated(profile, episodes)

  responses, _ = best_response(
      agent, train_key, env, policy, config, profiles, updates, axis_name=axis_name
  )
  responses = jax.tree.map(lambda x, y: jnp.concatenate([x[None], y]), agent, responses)
  return certificate(
      env, policy, responses, agent, judge_key, rollout.repeated(profile, judge_episodes),
      discount=config.discount,
  )


# Gradient (4).


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
