"""The dictionary interface of JaxMARL (Rutherford et al. 2024) for any environment of this package.

  env = jaxmarl.DictionaryEnv(market.Market(), market.Market().profile())
  obs, state = env.reset(key)
  obs, state, rewards, dones, infos = env.step(key, state, actions)

Observations, actions and rewards are dictionaries by agent; `dones` has the key "__all__", too. As
in JaxMARL, `step` begins a new episode after an episode has ended, and `step_env` does not. JaxMARL
is not imported.
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
  """A box with the attributes and methods of JaxMARL's `spaces.Box`."""

  low: Array  # lower bounds of shape `shape`, or []
  high: Array  # upper bounds of shape `shape`, or []
  shape: tuple[int, ...]
  dtype: Any

  def sample(self, key: Array) -> Array:
    """Draws a uniform point of the box, which must be bounded."""
    return jax.random.uniform(key, self.shape, self.dtype, self.low, self.high)

  def contains(self, x: Array) -> Array:
    """Whether x lies in the box, [] bool; False also for another shape."""
    if jnp.shape(x) != self.shape:
      return jnp.zeros((), bool)
    return jnp.all((x >= self.low) & (x <= self.high))


class State(NamedTuple):
  """The state of an episode, from which it continues."""

  env: Any  # the environment's state
  observation: Array  # [n, observation_size]


class DictionaryEnv:
  """An `Environment` under one supertype profile, with dictionaries by agent."""

  def __init__(self, env: Environment, profile: Profile):
    """Makes the environment.

    Args:
      env: any environment of this package.
      profile: the supertype profile; it may be traced if this object is made inside the traced
        function.
    """
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
    """The agents of each supertype."""
    members: dict[str, list[str]] = {name: [] for name in self._env.supertype_names}
    for agent, supertype in zip(self.agents, self._env.supertypes):
      members[self._env.supertype_names[supertype]].append(agent)
    return members

  def observation_space(self, agent: str) -> Space:
    return self.observation_spaces[agent]

  def action_space(self, agent: str) -> Space:
    return self.action_spaces[agent]

  def reset(self, key: Array) -> tuple[ByAgent, State]:
    """Begins an episode: observations by agent, state."""
    observation, state = self._env.reset(key, self._profile)
    return self._by_agent(observation), State(state, observation)

  def step_env(
      self, key: Array, state: State, actions: ByAgent
  ) -> tuple[ByAgent, State, ByAgent, ByAgent, Mapping[str, Array]]:
    """Takes one step, without a new episode after the last step.

    Args:
      key: random key.
      state: the state before the step.
      actions: an action [A] for each agent.

    Returns:
      Observations, state, rewards, dones, infos. All dones are alike, and infos["truncated"] tells
      an end by the clock from a true end. Infos have a leading axis of agents, along which numbers
      that belong to no agent are repeated.

    Raises:
      KeyError: an agent has no action.
    """
    missing = [agent for agent in self.agents if agent not in actions]
    if missing:
      raise KeyError(f"no action for {', '.join(missing)}; give one for each of env.agents")
    action = jnp.stack([actions[agent] for agent in self.agents])
    observation, following, reward, done, info = self._env.step(
        key, state.env, action, self._profile
    )
    dones = dict.fromkeys([*self.agents, "__all__"], done)

    def for_each_agent(x):
      return jnp.broadcast_to(x, (self.num_agents,)) if x.ndim == 0 else x

    infos = jax.tree.map(for_each_agent, dict(info))
    state = State(following, observation)
    return self._by_agent(observation), state, self._by_agent(reward), dones, infos

  def step(
      self, key: Array, state: State, actions: ByAgent, reset_state: State | None = None
  ) -> tuple[ByAgent, State, ByAgent, ByAgent, Mapping[str, Array]]:
    """Takes one step, and begins a new episode if the last one has ended.

    Observations and state are then those of `reset_state`, or of a new episode if that is None.
    Only `step_env` gives the last observation of an episode, which the value of a truncated end
    needs. Arguments and results are otherwise those of `step_env`.
    """
    key, key_reset = jax.random.split(key)
    _, stepped, rewards, dones, infos = self.step_env(key, state, actions)
    fresh = self.reset(key_reset)[1] if reset_state is None else reset_state

    def pick(new, old):
      return jnp.where(dones["__all__"], new, old)

    state = jax.tree.map(pick, fresh, stepped)
    return self.get_obs(state), state, rewards, dones, infos

  def get_obs(self, state: State) -> ByAgent:
    return self._by_agent(state.observation)

  def get_avail_actions(self, state: State) -> ByAgent:
    """The available components of actions, by agent: all of them, [A] bool."""
    del state
    return {agent: jnp.ones(self.action_spaces[agent].shape, bool) for agent in self.agents}

  def _by_agent(self, values: Array) -> ByAgent:
    """Splits the axis of agents: [n, ...] -> {agent: [...]}."""
    return dict(zip(self.agents, values))
