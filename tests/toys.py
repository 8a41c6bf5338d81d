"""Small environments and helpers for tests of calsheq_jax."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from calsheq_jax.types import Agent, Moments
from envs.base import Box


class Rules(NamedTuple):
  """Profile of `Countdown`."""

  length: jax.Array  # [] steps after which the episode ends
  cut: jax.Array  # [] whether the episode is then truncated in place of terminated
  scale: jax.Array  # [] factor on rewards


class Place(NamedTuple):
  """State of `Countdown`."""

  time: jax.Array  # []
  position: jax.Array  # [n]


@dataclasses.dataclass(frozen=True)
class Countdown:
  """Agents move along a line by their actions, and earn scale times their position.

  Actions are two numbers in [-1, 3] and [0, 1]; the first is the move.
  """

  num_agents: int = 3
  horizon: int = 6

  agent_names = ("a", "b", "c")
  supertype_names = ("all",)
  supertypes = (0, 0, 0)
  observation_size = 4

  @property
  def action_space(self):
    return Box(jnp.array([-1.0, 0.0]), jnp.array([3.0, 1.0]))

  @property
  def profile_space(self):
    return Box(
        Rules(jnp.int32(1), jnp.bool_(False), jnp.float32(-1)),
        Rules(jnp.int32(self.horizon), jnp.bool_(True), jnp.float32(1)),
    )

  def _observe(self, state):
    time = jnp.broadcast_to(state.time.astype(jnp.float32), (self.num_agents,))
    seat = jnp.arange(self.num_agents) / self.num_agents
    return jnp.stack([time, state.position, seat, jnp.ones(self.num_agents)], -1)

  def reset(self, key, profile):
    state = Place(jnp.zeros((), jnp.int32), jax.random.normal(key, (self.num_agents,)))
    return self._observe(state), state

  def step(self, key, state, action, profile):
    move = jnp.clip(action[:, 0], -1, 3) + 0.1 * jax.random.normal(key, (self.num_agents,))
    state = Place(state.time + 1, state.position + move)
    done = state.time >= profile.length
    return (
        self._observe(state), state, profile.scale * state.position, done,
        {"truncated": done & profile.cut},
    )

  def outputs(self, state):
    return {"position": state.position, "time": state.time}


def rules(length=6, cut=False, scale=1.0):
  return Rules(jnp.int32(length), jnp.bool_(cut), jnp.float32(scale))


def stacked(*profiles):
  return jax.tree.map(lambda *x: jnp.stack(x), *profiles)


class Constant:
  """A policy without random numbers whose parameters are its action."""

  observation_size = 1

  def __init__(self, action_size=1):
    self.action_size = action_size

  def apply(self, params, observation):
    shape = (*observation.shape[:-1], self.action_size)
    return jnp.broadcast_to(params, shape), observation[..., 0] * 0

  def distribution(self, parameters):
    return _Point(parameters)


class _Point:
  def __init__(self, at):
    self.at = at

  def sample(self, *, seed):
    return self.at

  def mean(self):
    return self.at

  def log_prob(self, value):
    return value[..., 0] * 0


def constant(action, observation_size=1):
  """Makes an agent for `Constant` from an action [*, A]."""
  action = jnp.asarray(action, jnp.float32)
  batch = action.shape[:-1]

  def zeros(*shape):
    return jnp.zeros((*batch, *shape))

  return Agent(
      action,
      Moments(zeros(), zeros(observation_size), 1 + zeros(observation_size)),
      Moments(zeros(), zeros(), 1 + zeros()),
  )
