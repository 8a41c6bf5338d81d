"""Games with numbered states and actions: from tables, and from environments with real numbers.

Learners that keep tables take an object with `reset`, `step` and `index`, for one episode:

  reset(key) -> state
  step(key, state, action int32 [n]) -> state, reward [n], ended [], cut []
  index(state) -> [] int32, from 0 to num_states - 1

`TableGame` makes such an object of a table of `envs.grid`. `Binned` makes one of any
`envs.base.Environment`, by a menu of actions and by bins of observations. `TableEnvironment` is an
`envs.base.Environment` whose states are those of a table.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs.base import Array, Box, Environment
from envs.grid import Table


class TableState(NamedTuple):
  """A state of a table, and the time."""

  number: Array  # [] int32
  time: Array  # [] int32


class TableGame:
  """Play of a table. Rewards are those of the table, the expectation over what follows."""

  def __init__(self, table: Table, horizon: int = 100):
    """Makes the game; an episode that does not end is cut after `horizon` steps."""
    if horizon < 1:
      raise ValueError(f"horizon={horizon} must be 1 or more")
    self.table, self.horizon = table, horizon

  def __eq__(self, other):
    return isinstance(other, TableGame) and self._content == other._content

  def __hash__(self):
    return hash(self._content)

  @functools.cached_property
  def _content(self):
    arrays = self.table.reward, self.table.transition, self.table.start, self.table.terminal
    return (self.horizon, *(x.shape for x in arrays), *(x.tobytes() for x in arrays))

  @property
  def num_states(self) -> int:
    """The number of states, S, with the absorbing one."""
    return self.table.num_states

  @property
  def num_actions(self) -> tuple[int, ...]:
    """The number of actions of each player."""
    return self.table.num_actions

  def reset(self, key: Array) -> TableState:
    """Draws the first state."""
    return TableState(_draw(key, jnp.asarray(self.table.start)), jnp.zeros((), jnp.int32))

  def step(
      self, key: Array, state: TableState, action: Array
  ) -> tuple[TableState, Array, Array, Array]:
    """Takes the actions int32 [n]; see the module."""
    place = (state.number, *(action[p] for p in range(len(self.num_actions))))
    number = _draw(key, jnp.asarray(self.table.transition)[place])
    reward = jnp.asarray(self.table.reward)[(state.number, slice(None), *place[1:])]
    after = TableState(number, state.time + 1)
    ended = jnp.asarray(self.table.terminal)[number]
    return after, reward, ended, ~ended & (after.time >= self.horizon)

  def index(self, state: TableState) -> Array:
    """The number of a state."""
    return state.number


def _draw(key: Array, probabilities: Array) -> Array:
  """Draws a number by probabilities [S]."""
  cumulated = jnp.cumsum(probabilities)
  drawn = (cumulated <= jax.random.uniform(key, (), cumulated.dtype) * cumulated[-1]).sum()
  return jnp.minimum(drawn, len(cumulated) - 1).astype(jnp.int32)


class TableEnvironment:
  """A table as an `envs.base.Environment`.

  An action is one number, rounded to the number of an action and clipped to those that the agent
  has. An agent observes which state it is in (one of S numbers is 1), and then which agent it is
  (one of n numbers is 1). There is one supertype, and nothing to calibrate.
  """

  def __init__(self, table: Table, horizon: int = 100):
    self._game = TableGame(table, horizon)

  def __eq__(self, other):
    return isinstance(other, TableEnvironment) and self._game == other._game

  def __hash__(self):
    return hash((TableEnvironment, self._game))

  supertype_names = ("player",)
  profile_names: tuple[str, ...] = ()

  @property
  def table(self) -> Table:
    """The table that is played."""
    return self._game.table

  @property
  def num_agents(self) -> int:
    return len(self._game.num_actions)

  @property
  def agent_names(self) -> tuple[str, ...]:
    return self.table.agent_names

  @property
  def supertypes(self) -> tuple[int, ...]:
    return (0,) * self.num_agents

  @property
  def horizon(self) -> int:
    return self._game.horizon

  @property
  def observation_size(self) -> int:
    return self._game.num_states + self.num_agents

  @property
  def observation_names(self) -> tuple[str, ...]:
    return (*self.table.state_names, *(f"is {name}" for name in self.agent_names))

  @property
  def action_space(self) -> Box:
    largest = np.array([max(self._game.num_actions) - 1], jnp.result_type(float))
    return Box(np.zeros_like(largest), largest)

  @property
  def profile_space(self) -> Box:
    return Box((), ())

  def profile(self) -> tuple[()]:
    """The only profile, which is empty."""
    return ()

  def reset(self, key: Array, profile: Any) -> tuple[Array, Any]:
    """Begins an episode; see `envs.base`."""
    del profile
    state = self._game.reset(key), jnp.zeros(self.num_agents)
    return self._observe(state), state

  def step(
      self, key: Array, state: Any, action: Array, profile: Any
  ) -> tuple[Array, Any, Array, Array, Mapping[str, Array]]:
    """Lets all agents act, with action [n, 1]; see `envs.base`."""
    del profile
    largest = jnp.array(self._game.num_actions) - 1
    chosen = jnp.clip(jnp.round(action[:, 0]), 0, largest).astype(jnp.int32)
    after, reward, ended, cut = self._game.step(key, state[0], chosen)
    reward = reward.astype(state[1].dtype)
    state = after, state[1] + reward
    return self._observe(state), state, reward, ended | cut, {"truncated": cut, "action": chosen}

  def outputs(self, state: Any) -> Mapping[str, Array]:
    """Statistics of the episode: rewards [n], and their mean, supertype_rewards [1]."""
    return {"rewards": state[1], "supertype_rewards": state[1].mean(keepdims=True)}

  def _observe(self, state: Any) -> Array:
    here = jax.nn.one_hot(state[0].number, self._game.num_states)
    here = jnp.broadcast_to(here, (self.num_agents, self._game.num_states))
    return jnp.concatenate([here, jnp.eye(self.num_agents)], 1)


@dataclasses.dataclass(frozen=True)
class Bins:
  """Bins of one number that one agent observes.

  Edges e1 < ... < ek make k + 1 bins. Bin 0 is below e1, bin j is from ej up to the next edge.
  """

  agent: int
  observation: int  # position in the observation
  edges: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Binned:
  """An `envs.base.Environment` with a menu of actions and with binned observations.

  What falls into the same bins counts as one state, so the game that a table learner sees is no
  Markov game in general, and what it learns is an approximation.
  """

  environment: Any
  menu: tuple[tuple[float, ...], ...]  # [K][A] the actions, which are the same for all agents
  bins: tuple[Bins, ...]
  profile: Any = None  # a hashable pytree of numbers; None: the environment's default

  def __post_init__(self):
    size = np.shape(self.environment.action_space.low)[0]
    if not self.menu or any(len(action) != size for action in self.menu):
      raise ValueError(
          f"menu must be one or more actions of {size} numbers each, not {self.menu!r}"
      )
    for item in self.bins:
      agents, length = self.environment.num_agents, self.environment.observation_size
      if not (0 <= item.agent < agents and 0 <= item.observation < length):
        raise ValueError(f"{item}: there are {agents} agents with {length} observations each")
      if list(item.edges) != sorted(set(item.edges)):
        raise ValueError(f"{item}: edges must be different and in rising order")

  @property
  def num_states(self) -> int:
    """The number of states, the product of the numbers of bins."""
    return math.prod(len(item.edges) + 1 for item in self.bins)

  @property
  def num_actions(self) -> tuple[int, ...]:
    """The number of actions of each agent."""
    return (len(self.menu),) * self.environment.num_agents

  def reset(self, key: Array) -> Any:
    """Begins an episode: a pair of the environment's observations and state."""
    return self.environment.reset(key, self._profile)

  def step(self, key: Array, state: Any, action: Array) -> tuple[Any, Array, Array, Array]:
    """Takes actions int32 [n] of the menu; see the module."""
    chosen = jnp.asarray(self.menu)[action]
    observed, after, reward, done, info = self.environment.step(
        key, state[1], chosen, self._profile
    )
    cut = done & info["truncated"]
    return (observed, after), reward, done & ~cut, cut

  def index(self, state: Any) -> Array:
    """The number of a state, by its observations."""
    number = jnp.zeros((), jnp.int32)
    for item in self.bins:
      edges = jnp.asarray(item.edges)
      bin_ = (state[0][item.agent, item.observation] >= edges).sum().astype(jnp.int32)
      number = number * (len(item.edges) + 1) + bin_
    return number

  @property
  def _profile(self) -> Any:
    default = self.environment.profile()
    return default if self.profile is None else jax.tree.map(jnp.asarray, self.profile)


def quantile_edges(values: Any, count: int) -> tuple[float, ...]:
  """Edges of `count` bins that hold about equal shares of the values, without repeats."""
  if count < 1:
    raise ValueError(f"count={count} must be 1 or more")
  shares = np.arange(1, count) / count
  return tuple(float(x) for x in np.unique(np.quantile(np.asarray(values), shares)))


def bins_for(environment: Environment, edges: Mapping[str, Sequence[float]]) -> tuple[Bins, ...]:
  """The same bins for every agent, by names of observations.

  Raises:
    ValueError: a name is no observation of the environment.
  """
  names = environment.observation_names
  unknown = [name for name in edges if name not in names]
  if unknown:
    raise ValueError(f"{unknown[0]!r} is no observation; these are {', '.join(names)}")
  return tuple(
      Bins(agent, names.index(name), tuple(float(x) for x in given))
      for agent in range(environment.num_agents)
      for name, given in edges.items()
  )
