"""The two-player game that sharing a policy plays (Vadori et al. 2020, section 2).

The pure strategies of this game are whole policies. Its payoff V-hat(pi1, pi2) of (4) is the
expected return of a uniformly random agent that plays pi1 while all others play pi2. A shared
equilibrium is a symmetric pure Nash equilibrium of the game (Definition 1).

This module estimates V-hat by simulation, and certifies an epsilon-shared equilibrium. The gradient
of V-hat, self-play sequences and extended transitivity are in `theory`.

Glossary: n agents, K independent samples, T steps, k policies of a finite set.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from calsheq_jax import policy as policy_lib
from calsheq_jax import ppo, rollout
from calsheq_jax.self_play import best_response, mixed
from calsheq_jax.types import Agent, Array, Policy
from envs.base import Environment, Profile

# Half-width of a 95% confidence interval, in standard errors of a normal distribution.
Z = 1.96


class Estimate(NamedTuple):
  """A mean of independent samples, with its standard error."""

  mean: Array  # [*]
  error: Array  # [*] standard error of the mean

  def interval(self, z: float = Z) -> tuple[Array, Array]:
    """Confidence interval of z standard errors, by default 95%: low [*], high [*]."""
    return self.mean - z * self.error, self.mean + z * self.error


def estimate(samples: Array) -> Estimate:
  """Estimates the mean of independent samples: [*, K] -> [*].

  Raises:
    ValueError: K is below 2.
  """
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
  """Draws independent samples of V-hat(first, second), (4): [K].

  A sample is the mean over all seats of the return of an agent that plays `first` there while the
  others play `second`, so that the expectation over the random seat is exact. The seats of a sample
  share their random numbers, and so do samples of other policies with the same key and row. The
  differences of such samples therefore have small errors.

  Args:
    env, policy, discount, mean_action: static under jit.
    first: the agent in one seat.
    second: the agent in all other seats.
    key: random key of all samples.
    profiles: leading axis [K], one profile for each sample.
    discount: gamma for each step.
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
  """Draws samples of each agent's return when all agents play one policy: [K, n].

  The mean over agents equals `values` of the policy against itself, and takes only one n-th of the
  episodes. Arguments are as in `values`.
  """

  def sample(key, profile):
    def act(key, observation):
      return policy_lib.act(policy, agent, None if mean_action else key, observation)

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
  """Draws `values` of every pair of k policies: [k, k, K].

  The row is the first argument of V-hat, and the column is the second.

  Args:
    agents: leading axis [k].
    env, policy, key, profiles, discount, mean_action: as in `values`.
  """
  count = jax.tree.leaves(agents)[0].shape[0]

  def take(i):
    return jax.tree.map(lambda x: x[i], agents)

  def pair(index):
    return values(
        env, policy, take(index // count), take(index % count), key, profiles,
        discount=discount, mean_action=mean_action,
    )

  return jax.lax.map(pair, jnp.arange(count**2)).reshape(count, count, -1)


class Certificate(NamedTuple):
  """The distance of a policy from a shared equilibrium, as far as the tried deviations show it.

  `epsilon` is the gain of the best tried deviation. It is a lower bound on the epsilon of
  Definition 1, since a better deviation may exist. An epsilon below zero means that no deviation
  gained.
  """

  epsilon: Estimate  # [] V-hat(response, policy) - V-hat(policy, policy), from paired samples
  value: Estimate  # [] V-hat(policy, policy)
  rewards: Estimate  # [n] return of each agent when all play the policy
  chosen: Array  # [] int32, the best deviation: 2 i is response i, 2 i + 1 is its mean action


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
  """Judges deviations on episodes on which they were not trained.

  Each response is tried as it is and at its mean action. The first half of the episodes chooses the
  best deviation, and the second half measures its gain, so that the choice does not bias the gain.

  Args:
    env, policy: static under jit.
    responses: deviators with leading axis [k], such as those of `self_play.best_response`.
    frozen: the policy that is judged.
    key: a random key that differs from those of the responses' training.
    profiles: leading axis [K], one profile for each episode.
    discount: gamma for each step; static under jit.

  Raises:
    ValueError: K is below 4.
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
  """Trains a deviator from the policy, and judges it halfway through the training and at its end.

  The deviation to the mean action of the policy itself is tried, too.

  Args:
    env, policy: static under jit.
    agent: the policy that is judged.
    key: random key of the training and of the judging.
    profile: the supertype profile of all episodes.
    config: settings of the deviator's learning; static under jit, like the arguments that follow.
    updates: number of updates of the deviator, over which its learning rate falls to 0.
    episodes: number of episodes of one update on this device.
    judge_episodes: number of episodes in which deviations are judged.
    axis_name: name of the axis of devices that train the deviator; None means a single device.

  Returns:
    The certificate. `chosen` counts the policy itself, the deviator halfway through, and the
    deviator at the end.
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
