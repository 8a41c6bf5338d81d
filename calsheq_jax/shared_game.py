"""The two-player game that sharing a policy plays (Vadori et al. 2020, section 2).

Its pure strategies are whole policies, its payoff V-hat(pi1, pi2) of (4) is what a uniformly random
agent earns that plays pi1 while all others play pi2. A shared equilibrium is a symmetric pure Nash
equilibrium of it (Definition 1).

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
