"""Episodes: a scan over an environment in which all agents share a policy, or act as they are told.

Random numbers belong to episodes: the same key plays the same B episodes on any number of devices.

Glossary: B episodes of the global batch, b episodes of this device, T steps, n agents, O length of
an observation, A length of an action.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from calsheq_jax import policy as policy_lib
from calsheq_jax.types import Agent, Array, Decision, Policy, Rollout, Trajectory
from envs.base import Environment, Profile

# (key, observations [n, O]) -> decisions [n, ...]
Act = Callable[[Array, Array], Decision]

# (state after a step, info of the step) -> a pytree of arrays to record
Watch = Callable[[Any, Mapping[str, Array]], Any]


def keys_of(key: Array, count: int, axis_name: str | None = None) -> Array:
  """Makes a key for each of `count` consecutive rows of this device: [count].

  The key of a row depends on the row's place among the rows of all devices, and not on the number
  of devices.
  """
  first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * count
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(count))


def episode(
    env: Environment, key: Array, profile: Profile, act: Act, watch: Watch | None = None
) -> Rollout:
  """Plays one episode for env.horizon steps, and masks the steps that follow its end.

  Args:
    env: the environment.
    key: random key of the episode.
    profile: the supertype profile.
    act: decides for all agents; it is called once a step with a key of its own.
    watch: chooses what else to record of each step; None records nothing else.

  Returns:
    The trajectory without the batch axis [T, n, ...], the state in which the episode ended, and
    what was watched [T, ...].
  """
  reset_key, act_key, step_key = jax.random.split(key, 3)
  observation, state = env.reset(reset_key, profile)
  over = jnp.zeros((), bool)

  def step(carry, t):
    observation, state, over = carry
    decision = act(jax.random.fold_in(act_key, t), observation)
    following, next_state, reward, done, info = env.step(
        jax.random.fold_in(step_key, t), state, decision.action, profile
    )

    def unless_over(old, new):
      return jnp.where(over, old, new)

    def for_each_agent(flag):
      return jnp.broadcast_to(flag, reward.shape)

    following, next_state = jax.tree.map(
        unless_over, (observation, state), (following, next_state)
    )
    record = Trajectory(
        observation=observation,
        action=decision.action,
        log_prob=decision.log_prob,
        parameters=decision.parameters,
        value=decision.value,
        reward=jnp.where(over, 0, reward),
        done=for_each_agent(over | done),
        truncated=for_each_agent(done & info["truncated"] & ~over),
        weight=for_each_agent(1 - over.astype(reward.dtype)),
        last_value=None,
    )
    seen = None if watch is None else watch(next_state, info)
    return (following, next_state, over | done), (record, seen)

  carry, (steps, watched) = jax.lax.scan(step, (observation, state, over), jnp.arange(env.horizon))
  observation, state, _ = carry
  last = act(jax.random.fold_in(act_key, env.horizon), observation)
  return Rollout(steps._replace(last_value=last.value), state, watched)


def batched(function: Callable[..., Rollout], *args: Any) -> Rollout:
  """Maps a function that plays one episode over the leading axis [b] of all arguments.

  Time stays the first axis of the trajectory and of what was watched: [T, b, ...].
  """
  axes = Trajectory._make(0 if name == "last_value" else 1 for name in Trajectory._fields)
  return jax.vmap(function, out_axes=Rollout(axes, 0, 1))(*args)


def collect(
    env: Environment,
    policy: Policy,
    agent: Agent,
    key: Array,
    profiles: Profile,
    *,
    mean_action: bool = False,
    watch: Watch | None = None,
    axis_name: str | None = None,
) -> Rollout:
  """Plays one episode for each profile, with all agents on one policy.

  Args:
    env: the environment.
    policy: the policy that all agents share.
    agent: its parameters and normalisers.
    key: random key of the batch, the same on all devices.
    profiles: leading axis [b], one profile for each of this device's episodes (`repeated`).
    mean_action: whether agents take the mean action in place of a sample.
    watch: as in `episode`.
    axis_name: name of the axis of devices that share the batch; None means a single device.

  Returns:
    Trajectory [T, b, n, ...], final states [b, ...], and what was watched [T, b, ...].
  """
  count = jax.tree.leaves(profiles)[0].shape[0]

  def play(key, profile):
    def act(key, observation):
      return policy_lib.act(policy, agent, None if mean_action else key, observation)

    return episode(env, key, profile, act, watch)

  return batched(play, keys_of(key, count, axis_name), profiles)


def repeated(profile: Profile, count: int) -> Profile:
  """Repeats one profile for `count` episodes, which adds a leading axis [count]."""
  return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), profile)


def episode_returns(trajectory: Trajectory, discount: float = 1.0) -> Array:
  """Sums discount^t reward over time: [T, *] -> [*]."""
  steps = len(trajectory.reward)
  powers = discount ** jnp.arange(steps, dtype=trajectory.reward.dtype)
  return jnp.tensordot(powers, trajectory.reward * trajectory.weight, 1)
