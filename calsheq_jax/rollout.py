"""Episodes: a scan over an environment, all agents on one policy or each as told.

Random numbers belong to episodes: the same key plays the same B episodes on any number of devices.

Glossary: B episodes of the global batch, b those of this device, T steps, n agents, O observation,
A action.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from calsheq_jax.policy import decide
from calsheq_jax.types import Agent, Array, Decision, Policy, Rollout, Trajectory
from envs.base import Environment, Profile

# (key, observations [n, O]) -> decisions [n, ...]
Act = Callable[[Array, Array], Decision]


def keys_of(key: Array, count: int, axis_name: str | None = None) -> Array:
  """A key for each of `count` consecutive rows of this device: [count].

  A row's key depends on where it stands among the rows of all devices, and not on their number.
  """
  first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * count
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(count))


def episode(
    env: Environment,
    key: Array,
    profile: Profile,
    act: Act,
    watch: Callable[[Any, Mapping[str, Array]], Any] | None = None,
) -> Rollout:
  """Plays one episode for env.horizon steps; what follows its end is masked.

  Args:
    env: the environment.
    key: of the episode.
    profile: the supertype profile.
    act: what the agents do; called once a step with a key of its own.
    watch: (state after a step, its info) -> what else to record of the step; None: nothing.

  Returns:
    The trajectory without the batch's axis, [T, n, ...], the state that the episode ended in, and
    what was watched, [T, ...].
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
    stay = lambda old, new: jnp.where(over, old, new)
    following, next_state = jax.tree.map(stay, (observation, state), (following, next_state))
    per_agent = lambda flag: jnp.broadcast_to(flag, reward.shape)
    record = Trajectory(
        observation=observation,
        action=decision.action,
        log_prob=decision.log_prob,
        parameters=decision.parameters,
        value=decision.value,
        reward=jnp.where(over, 0, reward),
        done=per_agent(over | done),
        truncated=per_agent(done & info["truncated"] & ~over),
        weight=per_agent(1 - over.astype(reward.dtype)),
        last_value=None,
    )
    seen = None if watch is None else watch(next_state, info)
    return (following, next_state, over | done), (record, seen)

  carry, (steps, watched) = jax.lax.scan(step, (observation, state, over), jnp.arange(env.horizon))
  observation, state, _ = carry
  last = act(jax.random.fold_in(act_key, env.horizon), observation)
  return Rollout(steps._replace(last_value=last.value), state, watched)


def batched(function: Callable[..., Rollout], *args: Any) -> Rollout:
  """vmaps a function that plays one episode over the leading axis [b] of all args.

  Time stays the first axis of the trajectory and of what was watched: [T, b, ...].
  """
  leaves = Trajectory(*[1] * len(Trajectory._fields))._replace(last_value=0)
  return jax.vmap(function, out_axes=Rollout(leaves, 0, 1))(*args)


def collect(
    env: Environment,
    policy: Policy,
    agent: Agent,
    key: Array,
    profiles: Profile,
    *,
    mean_action: bool = False,
    watch: Callable[[Any, Mapping[str, Array]], Any] | None = None,
    axis_name: str | None = None,
) -> Rollout:
  """Plays one episode for each profile, all agents on one policy.

  Args:
    env: the environment.
    policy: what agents share.
    agent: its parameters and normalisers.
    key: of the batch, the same on all devices.
    profiles: leading axis [b], one for each of this device's episodes (`repeated`).
    mean_action: whether the mean action is taken in place of a sample.
    watch: as in `episode`.
    axis_name: of the devices that share the batch; None: there is one.

  Returns:
    Trajectory [T, b, n, ...], final states [b, ...], and what was watched [T, b, ...].
  """
  count = jax.tree.leaves(profiles)[0].shape[0]

  def play(key, profile):
    act = lambda k, observation: decide(policy, agent, None if mean_action else k, observation)
    return episode(env, key, profile, act, watch)

  return batched(play, keys_of(key, count, axis_name), profiles)


def repeated(profile: Profile, count: int) -> Profile:
  """One profile for `count` episodes: a leading axis [count]."""
  return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), profile)


def episode_returns(trajectory: Trajectory, discount: float = 1.0) -> Array:
  """Sum over time of discount^t reward: [T, *] -> [*]."""
  steps = len(trajectory.reward)
  powers = discount ** jnp.arange(steps, dtype=trajectory.reward.dtype)
  return jnp.tensordot(powers, trajectory.reward * trajectory.weight, 1)
