"""The dictionary interface of JaxMARL (Rutherford et al. 2024) for any environment of this package.

  env = jaxmarl.DictionaryEnv(market.Market(), market.Market().profile())
  obs, state = env.reset(key)
  obs, state, rewards, dones, infos = env.step(key, state, actions)

Observations, actions and rewards are dictionaries by agent; `dones` has "__all__" besides. `step`
begins a new episode where one has ended, as JaxMARL's does; `step_env` does not. Nothing of JaxMARL
is imported.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from envs.base import Array, Environment, Profile

ByAgent = Mapping[str, Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Space:
  """A box, with what JaxMARL's `spaces.Box` is asked for."""

  low: Array  # of shape `shape`, or []
  high: Array
  shape: tuple[int, ...]
  dtype: Any

  def sample(self, key: Array) -> Array:
    """Uniform in the box, which has to be bounded."""
    return jax.random.uniform(key, self.shape, self.dtype, self.low, self.high)

  def contains(self, x: Array) -> Array:
    """[] bool; False also where the shape is another."""
    if jnp.shape(x) != self.shape:
      return jnp.zeros((), bool)
    return jnp.all((x >= self.low) & (x <= self.high))


class State(NamedTuple):
  """What an episode goes on from."""

  env: Any  # the environment's state
  observation: Array  # [n, observation_size]


class DictionaryEnv:
  """An `Environment` under one supertype profile."""

  def __init__(self, env: Environment, profile: Profile):
    """The profile may be traced if the object is made inside the traced function."""
    self._env = env
    self._profile = profile
    self.agents = list(env.agent_names)
    self.num_agents = env.num_agents
    dtype = jnp.result_type(float)
    size = env.observation_size
    observation = Space(jnp.array(-jnp.inf), jnp.array(jnp.inf), (size,), dtype)
    low, high = env.action_space
    action = Space(low, high, low.shape, dtype)
    self.observation_spaces = dict.fromkeys(self.agents, observation)
    self.action_spaces = dict.fromkeys(self.agents, action)

  @property
  def name(self) -> str:
    return type(self._env).__name__

  @property
  def agent_classes(self) -> dict[str, list[str]]:
    """Agents by supertype."""
    members: dict[str, list[str]] = {name: [] for name in self._env.supertype_names}
    for agent, supertype in zip(self.agents, self._env.supertypes):
      members[self._env.supertype_names[supertype]].append(agent)
    return members

  def observation_space(self, agent: str) -> Space:
    return self.observation_spaces[agent]

  def action_space(self, agent: str) -> Space:
    return self.action_spaces[agent]

  def reset(self, key: Array) -> tuple[ByAgent, State]:
    """-> observations, state."""
    observation, state = self._env.reset(key, self._profile)
    return self._by_agent(observation), State(state, observation)

  def step_env(
      self, key: Array, state: State, actions: ByAgent
  ) -> tuple[ByAgent, State, ByAgent, ByAgent, Mapping[str, Array]]:
    """One step, without a new episode after the last: -> obs, state, rewards, dones, infos.

    `dones` are all alike; infos["truncated"] tells an end by the clock from a true one. Infos have
    a leading axis of agents, along which what belongs to none of them is repeated.

    Raises:
      KeyError: an agent without an action.
    """
    missing = [agent for agent in self.agents if agent not in actions]
    if missing:
      raise KeyError(f"no action for {', '.join(missing)}; give one for each of env.agents")
    action = jnp.stack([actions[agent] for agent in self.agents])
    observation, following, reward, done, info = self._env.step(
        key, state.env, action, self._profile
    )
    dones = dict.fromkeys([*self.agents, "__all__"], done)
    each = lambda x: jnp.broadcast_to(x, (self.num_agents,)) if x.ndim == 0 else x
    infos = jax.tree.map(each, dict(info))
    state = State(following, observation)
    return self._by_agent(observation), state, self._by_agent(reward), dones, infos

  def step(
      self, key: Array, state: State, actions: ByAgent, reset_state: State | None = None
  ) -> tuple[ByAgent, State, ByAgent, ByAgent, Mapping[str, Array]]:
    """As `step_env`, but where the episode has ended, observations and state are those of
    `reset_state`, or of a new episode if that is None. The last observation of the episode, which
    a value after a truncated end needs, is `step_env`'s alone.
    """
    key, key_reset = jax.random.split(key)
    _, stepped, rewards, dones, infos = self.step_env(key, state, actions)
    fresh = self.reset(key_reset)[1] if reset_state is None else reset_state
    pick = lambda new, old: jnp.where(dones["__all__"], new, old)
    state = jax.tree.map(pick, fresh, stepped)
    return self.get_obs(state), state, rewards, dones, infos

  def get_obs(self, state: State) -> ByAgent:
    return self._by_agent(state.observation)

  def get_avail_actions(self, state: State) -> ByAgent:
    """All of every agent's action."""
    del state
    everything = lambda agent: jnp.ones(self.action_spaces[agent].shape, bool)
    return {agent: everything(agent) for agent in self.agents}

  def _by_agent(self, values: Array) -> ByAgent:
    """[n, ...] -> {agent: [...]}"""
    return dict(zip(self.agents, values))
