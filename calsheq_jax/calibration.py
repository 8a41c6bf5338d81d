"""Calibration of a problem in one call, without files: CALSHEQ, judging and a certificate.

  problem = experiments.named("linear_quadratic").problem()
  result = calsheq_jax.calibrate(problem, stages=600, seed=0)
  print(result.numbers, result.reward, result.epsilon)

`launch.calsheq_train` does the same with several seeds, checkpoints, metrics, pictures and the
baselines.

Glossary: d numbers that are calibrated, K targets, s supertypes, M stages.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from calsheq_jax import calsheq, minibatches, policy, shared_game
from calsheq_jax.problem import Problem
from calsheq_jax.shared_game import Certificate
from calsheq_jax.targets import goals_of
from calsheq_jax.types import Array
from envs.base import Profile

# (stages done, metrics of the last stage) -> nothing
Progress = Callable[[int, Mapping[str, Array]], Any]


class Calibration(NamedTuple):
  """The result of a calibration. Means are over held-out episodes at the calibrated profile."""

  profile: Profile  # the calibrated profile, a pytree of arrays
  numbers: dict[str, float]  # the d calibrated numbers by name, in the profile's units
  reward: float  # mean of the episodes' rewards of the calibrator, 1 for a perfect fit
  reward_of_means: float  # reward of the mean values
  values: dict[str, float]  # mean values that the episodes show, by the name of the target
  supertype_rewards: dict[str, float]  # an agent's mean undiscounted return, by supertype
  epsilon: float | None  # gain of the best deviation tried; None without a certificate
  certificate: Certificate | None  # the certificate of the shared policy at the profile
  history: dict[str, np.ndarray]  # metrics of `calsheq.stage` for each stage, [M, ...]
  state: calsheq.State  # the learners after the last stage


def calibrate(
    problem: Problem,
    config: calsheq.Config | None = None,
    *,
    stages: int,
    seed: int = 0,
    judge_episodes: int = 256,
    response_updates: int = 120,
    response_episodes: int = 64,
    report_every: int = 10,
    progress: Progress | None = None,
) -> Calibration:
  """Moves the supertype profile until the shared equilibrium meets the targets.

  The same arguments give the same result on the same machine.

  Args:
    problem: the profile's numbers that may move, and the targets.
    config: settings of Algorithm 1; None takes the defaults.
    stages: number of stages, M.
    seed: seed of all random numbers.
    judge_episodes: number of held-out episodes on which the result and each deviation are judged.
    response_updates: number of updates of the deviator that looks for a profitable deviation; 0
      leaves the certificate out.
    response_episodes: number of episodes of each of these updates.
    report_every: number of stages between two calls of `progress`.
    progress: is called with the number of stages done and the metrics of the last stage.

  Returns:
    The result.

  Raises:
    ValueError: a number is too small, or episodes do not divide into minibatches.
    FloatingPointError: the reward of a stage is not finite.
  """
  config = calsheq.Config() if config is None else config
  _check(problem, config, stages, judge_episodes, response_updates, response_episodes, report_every)
  init_key, stage_key, judge_key, certify_key = jax.random.split(jax.random.key(seed), 4)
  goals = goals_of(problem.targets)
  state = _init(init_key, problem, config)
  chunks = []
  for done in range(0, stages, report_every):
    count = min(report_every, stages - done)
    state, metrics = _stages(state, stage_key, goals, problem, config, count)
    chunks.append(jax.tree.map(np.asarray, metrics))
    if not np.isfinite(chunks[-1]["reward"]).all():
      raise FloatingPointError(
          f"the reward is not finite within stages {done + 1} to {done + count}: take lower"
          " learning rates in the config"
      )
    if progress is not None:
      progress(done + count, {name: x[-1] for name, x in chunks[-1].items()})
  agent, point = state.shared.agent, state.settled
  judged = _judge(agent, judge_key, point, goals, problem, config, judge_episodes)
  certificate = None
  if response_updates:
    certificate = _certify(
        agent, certify_key, point, problem, config, response_updates, response_episodes,
        judge_episodes,
    )
  return Calibration(
      profile=problem.space.profile(point),
      numbers=_named(problem.space.names, judged["profile"]),
      reward=float(judged["reward"]),
      reward_of_means=float(judged["reward_of_means"]),
      values=_named([target.name for target in problem.targets], judged["values"]),
      supertype_rewards=_named(problem.env.supertype_names, judged["supertype_rewards"]),
      epsilon=None if certificate is None else float(certificate.epsilon.mean),
      certificate=certificate,
      history={name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]},
      state=state,
  )


def _check(
    problem: Problem,
    config: calsheq.Config,
    stages: int,
    judge_episodes: int,
    response_updates: int,
    response_episodes: int,
    report_every: int,
) -> None:
  """Raises ValueError for arguments of `calibrate` that cannot be."""
  for name, value, least in (
      ("stages", stages, 1),
      ("judge_episodes", judge_episodes, 4),
      ("response_updates", response_updates, 0),
      ("report_every", report_every, 1),
  ):
    if value < least:
      raise ValueError(f"{name}={value} must be at least {least}")
  config.check(problem.env)
  if response_updates:
    try:
      minibatches.check_batch(problem.env.horizon, response_episodes, config.shared.minibatches)
    except ValueError as error:
      raise ValueError(f"response_episodes: {error}") from error


def _named(names, values: Array) -> dict[str, float]:
  return {name: float(value) for name, value in zip(names, values)}


# Jitted once for each problem and config, however often `calibrate` is called.


@functools.partial(jax.jit, static_argnames=("problem", "config"))
def _init(key, problem, config):
  return calsheq.init(key, problem, config)


@functools.partial(jax.jit, static_argnames=("problem", "config", "count"), donate_argnums=0)
def _stages(state, key, goals, problem, config, count):
  """Runs `count` stages: -> state, metrics [count, ...]."""

  def step(state, _):
    return calsheq.stage(state, key, goals, problem, config)

  return jax.lax.scan(step, state, length=count)


@functools.partial(jax.jit, static_argnames=("problem", "config", "count"))
def _judge(agent, key, point, goals, problem, config, count):
  return calsheq.judge(agent, key, point, goals, problem, config, count)


@functools.partial(
    jax.jit, static_argnames=("problem", "config", "updates", "episodes", "judge_episodes")
)
def _certify(agent, key, point, problem, config, updates, episodes, judge_episodes):
  env = problem.env
  net = policy.for_environment(env, config.network)
  return shared_game.certify(
      env, net, agent, key, problem.space.profile(point), config.shared,
      updates=updates, episodes=episodes, judge_episodes=judge_episodes,
  )
