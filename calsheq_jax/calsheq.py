"""CALSHEQ, Algorithm 1 of Vadori et al. (2020); one stage of it is one pure function.

A stage moves B profiles (persistent particles) by the calibrator's actions, plays an episode with
each profile, and updates the shared policy and the calibrator, each at its own rate:

  state = calsheq.init(key, problem, config)
  state, metrics = calsheq.stage(state, key, goals, problem, config)

`trial_stage` does the same without a calibrator, at one profile. Both take the same number of
environment steps, B T. `pairs` makes a run's result of the last states.

A vmap around a stage runs several seeds, and a scan runs several stages. With `axis_name` every
device holds the whole state, moves all B particles alike, and plays its own B / D episodes.

Glossary: B episodes of all D devices, b episodes of this device, d numbers that are calibrated,
K targets, s supertypes, n agents, T steps.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calsheq_jax import calibrator, minibatches, policy, ppo, rollout, targets
from calsheq_jax.calibrator import Config as CalibratorConfig
from calsheq_jax.problem import Problem
from calsheq_jax.schedules import Schedule, two_timescales
from calsheq_jax.types import Agent, Array, Rollout
from envs.base import Environment

# Power of the weights of the long average over stages: at stage m, an earlier stage m' has a weight
# of about (m' / m)^_LATE, so that early stages fade, and about the last m / _LATE stages count.
_LATE = 4.0

# The same power of the short average.
_RECENT = 40.0


@dataclasses.dataclass(frozen=True)
class Config:
  """The settings of Algorithm 1. With the default schedules Assumption 2 holds."""

  episodes: int = dataclasses.field(
      default=64, metadata={"help": "Number of episodes of one stage, over all devices."}
  )
  network: policy.Config = dataclasses.field(
      default=policy.Config(), metadata={"help": "Network of the shared policy."}
  )
  shared: ppo.Config = dataclasses.field(
      default=ppo.Config(), metadata={"help": "Settings of the shared policy's learning."}
  )
  calibrator: CalibratorConfig = dataclasses.field(
      default=CalibratorConfig(),
      metadata={"help": "Settings of the calibrator's actions and learning."},
  )
  shared_rate: Schedule = dataclasses.field(
      default=Schedule(0.6, 100),
      metadata={"help": "Schedule of the shared policy's learning rate."},
  )
  calibrator_rate: Schedule = dataclasses.field(
      default=Schedule(0.9, 100),
      metadata={"help": "Schedule of the calibrator's learning rate."},
  )
  wait: int = dataclasses.field(
      default=0,
      metadata={
          "help": "Number of first stages in which the calibrator acts and does not learn yet."
      },
  )
  starts: int = dataclasses.field(
      default=1,
      metadata={
          "help": "Number of independent starts, of which the best goes on after the trial."
      },
  )
  trial: int = dataclasses.field(
      default=160,
      metadata={"help": "Number of stages that each of several starts has before the choice."},
  )
  rest: int = dataclasses.field(
      default=40,
      metadata={
          "help": "Number of updates of each candidate's policy at the end of a run, at a profile"
          " that rests and with a learning rate that falls to 0."
      },
  )
  last_rest: int = dataclasses.field(
      default=120,
      metadata={
          "help": "Number of further updates of the chosen policy at its profile, with a learning"
          " rate that falls to 0. They bring it nearer to an equilibrium."
      },
  )
  rest_margin: float = dataclasses.field(
      default=0.02,
      metadata={
          "help": "Largest loss of reward for which a pair that has rested is preferred to one that"
          " has not, or that has rested for a shorter time."
      },
  )

  def __post_init__(self):
    if not self.rest_margin >= 0:
      raise ValueError(f"rest_margin={self.rest_margin} must be at least 0")
    for field, least in (("starts", 1), ("trial", 1), ("rest", 0), ("last_rest", 0)):
      if getattr(self, field) < least:
        raise ValueError(f"{field}={getattr(self, field)} must be at least {least}")
    if self.wait < 0:
      raise ValueError(f"wait={self.wait} must be at least 0")
    if self.episodes < 2:
      raise ValueError(f"episodes={self.episodes} must be at least 2")

  @property
  def two_timescales(self) -> bool:
    """Whether the learning rates meet Assumption 2."""
    return two_timescales(self.shared_rate, self.calibrator_rate)

  def played(self, stages: int) -> int:
    """Number of batches of `episodes` that the first stages of a run play, over all starts."""
    return stages + (self.starts - 1) * min(stages, self.trial)

  def rate_ratio(self, stage: int) -> float:
    """The calibrator's learning rate divided by the shared policy's, at a stage m."""
    calibrator = self.calibrator.learning.learning_rate * self.calibrator_rate(stage)
    return float(calibrator / (self.shared.learning_rate * self.shared_rate(stage)))

  def check(self, env: Environment, devices: int = 1) -> None:
    """Checks that the episodes divide over devices and minibatches.

    Raises:
      ValueError: they do not.
    """
    if self.episodes % devices:
      raise ValueError(
          f"episodes={self.episodes} do not divide over {devices} devices: give a multiple"
      )
    each = self.episodes // devices
    minibatches.check_batch(env.horizon * env.num_agents, each, self.shared.minibatches)
    try:
      minibatches.check_batch(1, each, self.calibrator.learning.minibatches)
    except ValueError as error:
      raise ValueError(f"the calibrator: {error}") from error

  def to_dict(self) -> dict[str, Any]:
    """The fields as nested dictionaries of plain values, for JSON."""
    return dataclasses.asdict(self)


class State(NamedTuple):
  """Everything that Algorithm 1 changes."""

  shared: ppo.State
  calibrator: ppo.State
  particles: Array  # [B, d] coordinates
  recent: Array  # [d] coordinates to which mean actions lead, averaged over the last few stages
  settled: Array  # [d] the same over the last fifth of the stages


def init(key: Array, problem: Problem, config: Config) -> State:
  """Makes new policies, with all particles at the start of the space."""
  shared_key, calibrator_key = jax.random.split(key)
  origin = problem.space.origin()
  moves = calibrator.policy_of(problem, config.calibrator)
  return State(
      init_shared(shared_key, problem.env, config),
      ppo.init(calibrator_key, moves, config.calibrator.learning),
      jnp.broadcast_to(origin, (config.episodes, problem.space.size)),
      jnp.asarray(origin),
      jnp.array(origin),
  )


def init_shared(key: Array, env: Environment, config: Config) -> ppo.State:
  """Makes a new shared policy."""
  return ppo.init(key, policy.for_environment(env, config.network), config.shared)


def stage(
    state: State,
    key: Array,
    goals: Array,
    problem: Problem,
    config: Config,
    axis_name: str | None = None,
) -> tuple[State, dict[str, Array]]:
  """Runs one stage m of Algorithm 1.

  Args:
    state: the result of `init`, or of the stage before.
    key: random key of the whole run; the key of this stage is folded in from the state's step.
    goals: [K] wanted values (`targets.goals_of`), traced.
    problem, config: static under jit.
    axis_name: name of the axis of devices that share the batch; None means a single device.

  Returns:
    The new state, and means over all episodes:
      reward []         the calibrator's reward, at the profiles that it sampled
      values [K]        the numbers that the targets are about
      profile [d]       mean of the particles, in the profile's units
      spread []         standard deviation of the particles in half-widths of the box, as a mean
                        over the d numbers
      variation []      distance that `profile` moved in widths of the box, as a mean over the d
                        numbers
      increment []      distance that a particle moved, in the same unit
      supertype_rewards [s]  an agent's undiscounted return
      shared/..., calibrator/...  metrics of `ppo.update`
  """
  moves = calibrator.policy_of(problem, config.calibrator)
  m = state.shared.step
  act_key, play_key, shared_key, calibrator_key = jax.random.split(jax.random.fold_in(key, m), 4)
  acting = calibrator.exploring(state.calibrator, config.calibrator.scale(m))
  # Every device computes this for all particles.
  decision = policy.act(moves, acting.agent, act_key, state.particles)
  particles = jnp.clip(state.particles + decision.action, -1, 1)
  mean_action = moves.distribution(decision.parameters).mean()
  led_to = jnp.clip(state.particles + mean_action, -1, 1).mean(0)
  recent = state.recent + _averaging(m, _RECENT) * (led_to - state.recent)
  settled = state.settled + _averaging(m, _LATE) * (led_to - state.settled)

  def mine(x):
    return _local_rows(x, axis_name)

  shared, shown, reward = _play(
      state.shared, play_key, shared_key, mine(particles), goals, problem, config, axis_name
  )
  trajectory = calibrator.one_step(
      jax.tree.map(mine, decision), mine(state.particles), reward
  )
  rate = config.calibrator_rate(m)
  learnt, report = ppo.update(
      acting, calibrator_key, trajectory, moves, config.calibrator.learning, rate,
      axis_name=axis_name,
  )
  if config.wait:
    # While the calibrator waits, only its normaliser of returns learns.
    waited = state.calibrator._replace(
        agent=state.calibrator.agent._replace(returns=learnt.agent.returns), step=learnt.step
    )
    learnt = jax.tree.map(lambda x, y: jnp.where(m < config.wait, x, y), waited, learnt)
  before, after = state.particles.mean(0), particles.mean(0)
  metrics = shown | {
      "profile": problem.space.numbers(after),
      "spread": particles.std(0).mean(),
      "variation": jnp.abs(after - before).mean() / 2,
      "increment": jnp.abs(particles - state.particles).mean() / 2,
      **{f"calibrator/{name}": value for name, value in report.items()},
  }
  return State(shared, learnt, particles, recent, settled), metrics


def _averaging(stage: Array, power: float) -> Array:
  """Weight of stage m = 0, 1, ... in an average to which about the last m / power stages count."""
  return (1 + power) / (1 + power + stage)


def trial_stage(
    shared: ppo.State,
    key: Array,
    coordinates: Array,
    goals: Array,
    problem: Problem,
    config: Config,
    axis_name: str | None = None,
    rate: Array | float = 1.0,
) -> tuple[ppo.State, dict[str, Array]]:
  """Runs one stage in which all episodes have one profile.

  Args:
    shared: the shared policy, which goes on learning from trial to trial.
    key: random key of the whole run.
    coordinates: [d] coordinates of the profile.
    goals, problem, config, axis_name: as in `stage`.
    rate: factor on the learning rate of the schedule.

  Returns:
    The new shared policy, and these metrics of `stage`: reward, values, supertype_rewards and
    shared/...
  """
  _, play_key, shared_key, _ = jax.random.split(jax.random.fold_in(key, shared.step), 4)
  everywhere = jnp.broadcast_to(coordinates, (config.episodes, problem.space.size))
  shared, metrics, _ = _play(
      shared, play_key, shared_key, _local_rows(everywhere, axis_name), goals, problem, config,
      axis_name, rate,
  )
  return shared, metrics


def _local_rows(x: Array, axis_name: str | None) -> Array:
  """Takes this device's rows: [B, ...] -> [b, ...]."""
  if axis_name is None:
    return x
  each = x.shape[0] // jax.lax.psum(1, axis_name)
  return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axis_name) * each, each)


def _play(
    shared: ppo.State,
    play_key: Array,
    learn_key: Array,
    coordinates: Array,
    goals: Array,
    problem: Problem,
    config: Config,
    axis_name: str | None,
    factor: Array | float = 1.0,
) -> tuple[ppo.State, dict[str, Array], Array]:
  """Plays episodes at coordinates [b, d], and updates the shared policy.

  Returns:
    The new shared policy, the metrics over all devices, and the calibrator's rewards [b].
  """
  env = problem.env
  net = policy.for_environment(env, config.network)
  profiles = jax.vmap(problem.space.profile)(coordinates)
  rate = factor * config.shared_rate(shared.step)
  played = rollout.collect(env, net, shared.agent, play_key, profiles, axis_name=axis_name)
  values = problem.values(played.states)  # [b, K]
  reward = targets.reward(problem.targets, values, goals)
  shared, report = ppo.update(
      shared, learn_key, played.trajectory, net, config.shared, rate, axis_name=axis_name
  )
  shown = {
      "reward": reward,
      "values": values,
      "supertype_rewards": _by_supertype(env, rollout.episode_returns(played.trajectory)),
  }
  means = jax.tree.map(lambda x: x.mean(0), shown)
  if axis_name is not None:
    means = jax.lax.pmean(means, axis_name)
  return shared, means | {f"shared/{k}": v for k, v in report.items()}, reward


def _by_supertype(env: Environment, x: Array) -> Array:
  """Means over the agents of each supertype: [b, n] -> [b, s]."""
  which = np.array(env.supertypes)[:, None] == np.arange(len(env.supertype_names))  # [n, s]
  return x @ jnp.asarray(which / which.sum(0), x.dtype)


# Judging.


def held_out(
    agent: Agent, key: Array, coordinates: Array, problem: Problem, config: Config, count: int
) -> Rollout:
  """Plays `count` episodes at coordinates [d], with arguments as in `judge`."""
  net = policy.for_environment(problem.env, config.network)
  profiles = rollout.repeated(problem.space.profile(coordinates), count)
  return rollout.collect(problem.env, net, agent, key, profiles)


def judge(
    agent: Agent,
    key: Array,
    coordinates: Array,
    goals: Array,
    problem: Problem,
    config: Config,
    count: int,
) -> dict[str, Array]:
  """Judges the shared policy at one profile, in episodes that nothing learns from.

  Args:
    agent: parameters and normalisers of the shared policy.
    key: random key of the episodes.
    coordinates: [d] coordinates of the profile.
    goals: [K] wanted values.
    problem, config: static under jit.
    count: number of episodes; static.

  Returns:
    reward []           mean of the episodes' rewards
    reward_of_means []  reward of the mean values
    values [K]          mean of the numbers that the targets are about
    supertype_rewards [s]  an agent's undiscounted return
    profile [d]         the profile in its units
  """
  played = held_out(agent, key, coordinates, problem, config, count)
  values = problem.values(played.states)
  returns = rollout.episode_returns(played.trajectory)
  return {
      "reward": targets.reward(problem.targets, values, goals).mean(),
      "reward_of_means": targets.reward(problem.targets, values.mean(0), goals),
      "values": values.mean(0),
      "supertype_rewards": _by_supertype(problem.env, returns).mean(0),
      "profile": problem.space.numbers(coordinates),
  }
