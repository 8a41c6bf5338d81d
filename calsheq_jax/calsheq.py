"""CALSHEQ, Algorithm 1 of Vadori et al. (2020): one stage of it is one pure function.

A stage moves B profiles (particles, which persist) by what the calibrator does, plays an episode
with each, and updates the shared policy and the calibrator at their own rates:

  state = calsheq.init(key, problem, config)
  state, metrics = calsheq.stage(state, key, goals, problem, config)

`trial_stage` is the same for one profile that somebody else has chosen and no calibrator: what a
searcher (`searchers`) is given. Both take the same number of environment steps, B T.

Seeds are one more vmap, stages a scan. With `axis_name` every device holds the whole state, moves
all B particles alike, and plays its own B / D of the episodes.

Glossary: B episodes of all devices, b those of this one, d numbers that are calibrated, K targets,
s supertypes, n agents, T steps.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calsheq_jax import calibrator, minibatches, policy, ppo, rollout
from calsheq_jax.calibrator import Config as CalibratorConfig
from calsheq_jax.calibrator import Problem
from calsheq_jax.schedules import Schedule, two_timescales
from calsheq_jax.types import Agent, Array
from envs.base import Environment

# Averages over stages give stage m' a weight of about (m' / m)^_LATE: early ones fade.
_LATE = 4.0


@dataclasses.dataclass(frozen=True)
class Config:
  """How Algorithm 1 runs."""

  episodes: int = 64  # B, of all devices
  network: policy.Config = policy.Config()
  shared: ppo.Config = ppo.Config()
  calibrator: CalibratorConfig = CalibratorConfig()
  # Of the learning rates in `shared` and in `calibrator.learning`. Assumption 2 holds.
  shared_rate: Schedule = Schedule(0.6, 100)
  calibrator_rate: Schedule = Schedule(0.9, 100)
  wait: int = 0  # stages in which the calibrator acts and does not learn yet

  def __post_init__(self):
    if self.wait < 0:
      raise ValueError(f"wait={self.wait} must be at least 0")
    if self.episodes < 2:
      raise ValueError(f"episodes={self.episodes} must be at least 2")

  @property
  def two_timescales(self) -> bool:
    """Whether the learning rates meet Assumption 2."""
    return two_timescales(self.shared_rate, self.calibrator_rate)

  def rate_ratio(self, stage: int) -> float:
    """Learning rate of the calibrator over that of the shared policy, at a stage m."""
    calibrator = self.calibrator.learning.learning_rate * self.calibrator_rate(stage)
    return float(calibrator / (self.shared.learning_rate * self.shared_rate(stage)))

  def check(self, env: Environment, devices: int = 1) -> None:
    """Raises ValueError if the episodes do not divide over devices and minibatches."""
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
    """Nested plain numbers, for JSON."""
    return dataclasses.asdict(self)


class State(NamedTuple):
  """All that Algorithm 1 changes."""

  shared: ppo.State
  calibrator: ppo.State
  particles: Array  # [B, d] coordinates
  settled: Array  # [d] coordinates where mean actions lead, averaged over late stages


def init(key: Array, problem: Problem, config: Config) -> State:
  """New policies; all particles are where the space starts."""
  shared_key, calibrator_key = jax.random.split(key)
  origin = problem.space.origin()
  moves = calibrator.policy_of(problem, config.calibrator)
  return State(
      init_shared(shared_key, problem.env, config),
      ppo.init(calibrator_key, moves, config.calibrator.learning),
      jnp.broadcast_to(origin, (config.episodes, problem.space.size)),
      jnp.asarray(origin),
  )


def init_shared(key: Array, env: Environment, config: Config) -> ppo.State:
  """A new shared policy."""
  return ppo.init(key, policy.for_environment(env, config.network), config.shared)


def stage(
    state: State,
    key: Array,
    goals: Array,
    problem: Problem,
    config: Config,
    axis_name: str | None = None,
) -> tuple[State, dict[str, Array]]:
  """One stage m of Algorithm 1.

  Args:
    state: from `init`, or a stage before.
    key: of the whole run; the state's step makes the key of this stage from it.
    goals: [K] values of the targets (`calibrator.goals_of`), traced.
    problem, config: static under jit.
    axis_name: of the devices that share the batch; None: there is one.

  Returns:
    The new state, and means over all episodes:
      reward []         of the calibrator, at what it sampled
      values [K]        what targets are set on
      profile [d]       mean of the particles, in the profile's units
      spread []         s.d. of the particles, in half-widths of the box, a mean over the d
      variation []      how far `profile` moved, in widths of the box, a mean over the d
      increment []      how far a particle moved, likewise
      supertype_rewards [s]  an agent's undiscounted reward of the episode
      shared/..., calibrator/...  of `ppo.update`
  """
  moves = calibrator.policy_of(problem, config.calibrator)
  m = state.shared.step
  act_key, play_key, shared_key, calibrator_key = jax.random.split(jax.random.fold_in(key, m), 4)
  acting = calibrator.exploring(state.calibrator, config.calibrator.scale(m))
  # Alike on all devices, for all particles.
  decision = policy.act(moves, acting.agent, act_key, state.particles)
  particles = jnp.clip(state.particles + decision.action, -1, 1)
  mean_action = moves.distribution(decision.parameters).mean()
  led_to = jnp.clip(state.particles + mean_action, -1, 1).mean(0)
  settled = state.settled + _averaging(m) * (led_to - state.settled)
  mine = lambda x: _own(x, axis_name)
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
    # Of a calibrator that waits only the normalisers learn.
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
  return State(shared, learnt, particles, settled), metrics


def _averaging(stage: Array) -> Array:
  """Weight of stage m = 0, 1, ... in the average: about the last 1 / _LATE of all count."""
  return (1 + _LATE) / (1 + _LATE + stage)


def trial_stage(
    shared: ppo.State,
    key: Array,
    coordinates: Array,
    goals: Array,
    problem: Problem,
    config: Config,
    axis_name: str | None = None,
) -> tuple[ppo.State, dict[str, Array]]:
  """One stage in which all episodes have the profile that a searcher has chosen.

  Args:
    shared: the shared policy, which carries on from trial to trial.
    key: of the whole run.
    coordinates: [d] of the profile.
    goals, problem, config, axis_name: as in `stage`.

  Returns:
    The new shared policy, and of the metrics of `stage` reward, values, supertype_rewards and
    shared/...
  """
  _, play_key, shared_key, _ = jax.random.split(jax.random.fold_in(key, shared.step), 4)
  everywhere = jnp.broadcast_to(coordinates, (config.episodes, problem.space.size))
  shared, metrics, _ = _play(
      shared, play_key, shared_key, _own(everywhere, axis_name), goals, problem, config, axis_name
  )
  return shared, metrics


def _own(x: Array, axis_name: str | None) -> Array:
  """This device's rows: [B, ...] -> [b, ...]."""
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
) -> tuple[ppo.State, dict[str, Array], Array]:
  """Episodes at [b, d], and the shared policy's update -> state, metrics, rewards [b]."""
  env = problem.env
  net = policy.for_environment(env, config.network)
  profiles = jax.vmap(problem.space.profile)(coordinates)
  rate = config.shared_rate(shared.step)
  played = rollout.collect(env, net, shared.agent, play_key, profiles, axis_name=axis_name)
  values = problem.values(played.states)  # [b, K]
  reward = calibrator.reward(problem.targets, values, goals)
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
  """[b, n] -> means over the agents of each supertype, [b, s]."""
  which = np.array(env.supertypes)[:, None] == np.arange(len(env.supertype_names))  # [n, s]
  return x @ jnp.asarray(which / which.sum(0), x.dtype)


# Judging.


def judge(
    agent: Agent,
    key: Array,
    coordinates: Array,
    goals: Array,
    problem: Problem,
    config: Config,
    count: int,
) -> dict[str, Array]:
  """What the shared policy shows at one profile, in episodes that nothing learns from.

  Args:
    agent: the shared policy's.
    key: of the episodes.
    coordinates: [d].
    goals: [K].
    problem, config: static under jit.
    count: of episodes; static.

  Returns:
    reward [], the mean of what episodes score; reward_of_means [], the score of the mean values;
    values [K]; supertype_rewards [s]; profile [d] in its units.
  """
  env = problem.env
  net = policy.for_environment(env, config.network)
  profiles = rollout.repeated(problem.space.profile(coordinates), count)
  played = rollout.collect(env, net, agent, key, profiles)
  values = problem.values(played.states)
  returns = rollout.episode_returns(played.trajectory)
  return {
      "reward": calibrator.reward(problem.targets, values, goals).mean(),
      "reward_of_means": calibrator.reward(problem.targets, values.mean(0), goals),
      "values": values.mean(0),
      "supertype_rewards": _by_supertype(env, returns).mean(0),
      "profile": problem.space.numbers(coordinates),
  }
