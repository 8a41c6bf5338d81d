"""The best reward of a calibration that a profile reaches at its own shared equilibrium.

A calibration finds a good profile on a small budget. To know how good it is, a ceiling is searched
for with many times the budget: a population of profiles is tried side by side, each with a shared
policy of its own. A generation of the search does the following:

  1. Each new profile takes over the policy of the nearest profile of the generation before
     (`inherit`), which is almost at the equilibrium of the new profile.
  2. The policy learns at the profile, until it is there (`adapt`).
  3. Held-out episodes, from which nothing learns, score the profile (`calsheq.judge`).

`generation` does the last two, and a search by evolution (`searchers.Evolution`) chooses profiles.
The best reward found is a lower bound on the ceiling, since no search proves that there is nothing
better.

`detail` splits the distance to a perfect fit into the misfit of the mean values, and the noise of
single episodes.

Glossary: N profiles side by side, d numbers that are calibrated, K targets, B episodes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from calsheq_jax import calsheq, ppo, targets
from calsheq_jax.problem import Problem
from calsheq_jax.types import Agent, Array


def nearest(points: Array, parents: Array) -> Array:
  """Index of the nearest parent of each point: [N, d], [M, d] -> [N] int32."""
  distance = jnp.square(points[:, None] - parents).sum(-1)  # [N, M]
  return jnp.argmin(distance, axis=-1)


def inherit(shared: ppo.State, parents: Array, points: Array) -> ppo.State:
  """The policy of the nearest parent for each point.

  Args:
    shared: policies of M parents, leading axis [M].
    parents: [M, d] profiles of the parents.
    points: [N, d] new profiles.

  Returns:
    Policies with leading axis [N].
  """
  chosen = nearest(points, parents)
  return jax.tree.map(lambda x: x[chosen], shared)


def adapt(
    shared: ppo.State,
    key: Array,
    coordinates: Array,
    goals: Array,
    problem: Problem,
    config: calsheq.Config,
    updates: Array | int,
    falling: bool = False,
) -> ppo.State:
  """Trains a shared policy at one profile.

  Args:
    shared: the policy with its optimiser.
    key: random key; the number of updates that the policy has had is folded in.
    coordinates: [d] coordinates of the profile.
    goals: [K] wanted values, which only metrics depend on.
    problem, config: static under jit.
    updates: number of updates, each on config.episodes episodes; it may be traced.
    falling: whether the learning rate falls to 0 over these updates, as in `pairs.rest`; static.
  """

  def step(i, state):
    rate = 1 - i / updates if falling else 1.0
    return calsheq.trial_stage(state, key, coordinates, goals, problem, config, rate=rate)[0]

  return jax.lax.fori_loop(0, updates, step, shared)


def generation(
    shared: ppo.State,
    points: Array,
    key: Array,
    goals: Array,
    problem: Problem,
    config: calsheq.Config,
    updates: Array | int,
    judge_episodes: int,
    falling: bool = False,
) -> tuple[ppo.State, dict[str, Array]]:
  """Trains policies at N profiles and judges them.

  All profiles have the same random numbers, so that differences of their rewards have small errors.

  Args:
    shared: a policy for each profile, leading axis [N].
    points: [N, d] profiles.
    key: random key of the training and of the judging.
    goals: [K] wanted values.
    problem, config: static under jit.
    updates: number of updates of each policy; it may be traced.
    judge_episodes: number of held-out episodes of each profile; static under jit.
    falling: as in `adapt`.

  Returns:
    The policies, leading axis [N], and the results of `calsheq.judge`, [N].
  """
  train_key, judge_key = jax.random.split(key)

  def one(state, point):
    state = adapt(state, train_key, point, goals, problem, config, updates, falling)
    judged = calsheq.judge(
        state.agent, judge_key, point, goals, problem, config, judge_episodes
    )
    return state, judged

  return jax.vmap(one)(shared, points)


class Detail(NamedTuple):
  """The rewards of held-out episodes at one profile, and each target's part in them.

  The distance to a perfect fit is 1 - reward = (1 - reward_of_means) + (reward_of_means - reward).
  The first term is the misfit of the mean values, and the second is the noise of single episodes.
  """

  reward: Array  # [] mean of the episodes' rewards
  reward_error: Array  # [] standard error of this mean
  reward_of_means: Array  # [] reward of the mean values
  values: Array  # [K] mean values
  deviations: Array  # [K] standard deviations of the values over episodes
  fits: Array  # [K] mean of the episodes' fits
  fits_of_means: Array  # [K] fits of the mean values


def detail_of(values: Array, goals: Array, problem: Problem) -> Detail:
  """Describes the values [B, K] of B episodes, two or more, whose goals are [K]."""
  count, wanted = len(values), problem.targets
  rewards = targets.reward(wanted, values, goals)
  means = values.mean(0)
  return Detail(
      reward=rewards.mean(),
      reward_error=rewards.std(ddof=1) / count**0.5,
      reward_of_means=targets.reward(wanted, means, goals),
      values=means,
      deviations=values.std(0, ddof=1),
      fits=targets.fits(wanted, values, goals).mean(0),
      fits_of_means=targets.fits(wanted, means, goals),
  )


def detail(
    agent: Agent,
    key: Array,
    coordinates: Array,
    goals: Array,
    problem: Problem,
    config: calsheq.Config,
    count: int,
) -> Detail:
  """Plays `count` held-out episodes at one profile, and describes them.

  Args:
    agent: parameters and normalisers of the shared policy.
    key: random key of the episodes.
    coordinates: [d] coordinates of the profile.
    goals: [K] wanted values.
    problem, config: static under jit.
    count: number of episodes, two or more; static under jit.
  """
  played = calsheq.held_out(agent, key, coordinates, problem, config, count)
  return detail_of(problem.values(played.states), goals, problem)
