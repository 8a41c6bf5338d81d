"""A one-step game whose shared equilibrium is known, and in which calibration has a known answer.

Agent i has a type theta_i, its ideal action, drawn uniformly from its supertype's mean +- `spread`.
It observes its type and its supertype, takes the action a_i, and earns

  a_i (theta_i + coupling * mean of the others' actions) - a_i^2 / 2.

Equilibrium. An agent's reward is strictly concave in its own action and linear in the others'
actions, which it can neither see nor influence. If all others play a policy whose actions have the
mean A_s for supertype s, the best action is therefore deterministic:

  a(theta, s) = theta + coupling m_s,    m_1 = ((n_1 - 1) A_1 + n_2 A_2) / (n - 1),
                                         m_2 = (n_1 A_1 + (n_2 - 1) A_2) / (n - 1),

with n_s agents of supertype s. The means over theta of a policy that is best against itself solve
A_s = mu_s + coupling m_s, which is A = mu + coupling W A, where W has rows that sum to one and no
negative entry. For |coupling| < 1 this has one solution, so there is one shared equilibrium. Its
expected reward is half the mean of a(theta, s)^2,

  (A_s^2 + spread^2 / 3) / 2.

Conversely, mu = A - coupling W A is the only profile whose equilibrium has the means A. It is the
answer of a calibration whose targets are A.

Glossary: n agents, the first n_1 of supertype 1 and n_2 = n - n_1 of supertype 2.
"""

from collections.abc import Mapping
import dataclasses
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs.base import Array, Box

# Bound of actions, relative to the largest action of any equilibrium.
_MARGIN = 1.2


@dataclasses.dataclass(frozen=True)
class Config:
  """The constants of the game."""

  num_agents: int = dataclasses.field(default=4, metadata={"help": "Number of agents."})
  first: int = dataclasses.field(
      default=1,
      metadata={"help": "Number of agents of supertype 1; each supertype has at least one agent."},
  )
  coupling: float = dataclasses.field(
      default=0.5,
      metadata={
          "help": "Weight of the mean of the other agents' actions in the ideal action, between -1"
          " and 1."
      },
  )
  spread: float = dataclasses.field(
      default=0.5,
      metadata={"help": "Half of the width of a supertype's range of types, in units of actions."},
  )
  largest_mean: float = dataclasses.field(
      default=1.0,
      metadata={"help": "Largest absolute value of a mean of types, in units of actions."},
  )

  def __post_init__(self):
    for field in ("num_agents", "first"):
      try:
        object.__setattr__(self, field, operator.index(getattr(self, field)))
      except TypeError:
        raise ValueError(f"{field}={getattr(self, field)!r} must be an integer") from None
    if not 1 <= self.first < self.num_agents:
      raise ValueError(
          f"first={self.first}, num_agents={self.num_agents}: each supertype needs an agent, so"
          " take 1 <= first < num_agents"
      )
    if not -1 < self.coupling < 1:
      raise ValueError(
          f"coupling={self.coupling} must be between -1 and 1: beyond, equilibria are not unique"
      )
    for field in ("spread", "largest_mean"):
      if not 0 < getattr(self, field) < float("inf"):
        raise ValueError(f"{field}={getattr(self, field)} must be positive and finite")


class Profile(NamedTuple):
  """The supertype profile."""

  mean1: Array  # [] mu_1, mean of the types of supertype 1
  mean2: Array  # [] mu_2, mean of the types of supertype 2


class State(NamedTuple):
  """The game before or after its step."""

  time: Array  # [] int32, 0 or 1
  type: Array  # [n] theta
  action: Array  # [n] 0 before the step
  rewards: Array  # [n] 0 before the step


class LinearQuadratic:
  """The game as an `envs.base.Environment`; it has no state, and compares by its config."""

  def __init__(self, config: Config | None = None):
    self._config = Config() if config is None else config

  def __eq__(self, other):
    return isinstance(other, LinearQuadratic) and self._config == other._config

  def __hash__(self):
    return hash((LinearQuadratic, self._config))

  def __repr__(self):
    return f"LinearQuadratic({self._config})"

  @property
  def config(self) -> Config:
    return self._config

  @property
  def num_agents(self) -> int:
    return self._config.num_agents

  @property
  def agent_names(self) -> tuple[str, ...]:
    return tuple(f"agent_{i + 1}" for i in range(self.num_agents))

  @property
  def supertype_names(self) -> tuple[str, ...]:
    return ("supertype_1", "supertype_2")

  @property
  def supertypes(self) -> tuple[int, ...]:
    first = self._config.first
    return (0,) * first + (1,) * (self.num_agents - first)

  @property
  def horizon(self) -> int:
    return 1

  @property
  def observation_size(self) -> int:
    return 2

  @property
  def observation_names(self) -> tuple[str, ...]:
    """The names of the two observed numbers; the supertype is -1 or 1."""
    return ("type", "supertype")

  @property
  def action_space(self) -> Box:
    config = self._config
    ideal = config.largest_mean + config.spread
    others = config.largest_mean / (1 - abs(config.coupling))
    largest = np.array(
        [_MARGIN * (ideal + abs(config.coupling) * others)], jnp.result_type(float)
    )
    return Box(-largest, largest)

  @property
  def profile_space(self) -> Box:
    largest = self._config.largest_mean
    return Box(self.profile(-largest, -largest), self.profile(largest, largest))

  @property
  def profile_names(self) -> tuple[str, ...]:
    return ("supertype_1/mean", "supertype_2/mean")

  def profile(self, mean1=0.8, mean2=0.4) -> Profile:
    """Makes a profile."""
    dtype = jnp.result_type(float)
    return Profile(jnp.asarray(mean1, dtype), jnp.asarray(mean2, dtype))

  def reset(self, key: Array, profile: Profile) -> tuple[Array, State]:
    """Draws types; see `envs.base`."""
    dtype = jnp.result_type(float)
    mean = jnp.stack(profile).astype(dtype)[jnp.array(self.supertypes)]
    noise = jax.random.uniform(key, mean.shape, dtype, -1.0, 1.0)
    state = State(
        time=jnp.zeros((), jnp.int32),
        type=mean + self._config.spread * noise,
        action=jnp.zeros_like(mean),
        rewards=jnp.zeros_like(mean),
    )
    return self._observe(state), state

  def step(
      self, key: Array, state: State, action: Array, profile: Profile
  ) -> tuple[Array, State, Array, Array, Mapping[str, Array]]:
    """Takes the only step, with action [n, 1]; see `envs.base`."""
    del key, profile
    low, high = self.action_space
    action = jnp.clip(jnp.asarray(action, state.type.dtype), low, high)[:, 0]
    others = (action.sum() - action) / (self.num_agents - 1)
    reward = action * (state.type + self._config.coupling * others) - action**2 / 2
    state = state._replace(time=state.time + 1, action=action, rewards=state.rewards + reward)
    return (
        self._observe(state), state, reward, state.time >= self.horizon,
        {"truncated": jnp.zeros((), bool), "action": action},
    )

  def outputs(self, state: State) -> Mapping[str, Array]:
    """Statistics of the episode.

    Returns:
      action [n], rewards [n], and their means over the agents of each supertype, supertype_action
      [2] and supertype_rewards [2].
    """
    first = self._config.first

    def means(x):
      return jnp.stack([x[:first].mean(), x[first:].mean()])

    return {
        "action": state.action,
        "supertype_action": means(state.action),
        "rewards": state.rewards,
        "supertype_rewards": means(state.rewards),
    }

  def equilibrium_means(self, profile: Profile) -> Array:
    """The mean action of each supertype at the shared equilibrium, A [2]."""
    mean = jnp.stack(profile)
    return jnp.linalg.solve(jnp.eye(2) - self._config.coupling * self._weights, mean)

  def equilibrium(self, observation: Array, profile: Profile) -> Array:
    """The action of the shared equilibrium: observations [*, 2] -> [*, 1]."""
    offset = self._config.coupling * (self._weights @ self.equilibrium_means(profile))
    chosen = jnp.where(observation[..., 1] < 0, offset[0], offset[1])
    return (observation[..., 0] + chosen)[..., None]

  def equilibrium_value(self, profile: Profile) -> Array:
    """The expected reward of an agent of each supertype at the shared equilibrium, [2]."""
    return (self.equilibrium_means(profile) ** 2 + self._config.spread**2 / 3) / 2

  def profile_of(self, means: Array) -> Profile:
    """The profile whose equilibrium has the mean actions [2]; it may lie out of the bounds."""
    return Profile(*(means - self._config.coupling * (self._weights @ means)))

  @property
  def _weights(self) -> np.ndarray:
    """The weights W [2, 2] of the supertypes' mean actions in the mean of an agent's opponents."""
    first = self._config.first
    second = self.num_agents - first
    return np.array([[first - 1, second], [first, second - 1]]) / (self.num_agents - 1)

  def _observe(self, state: State) -> Array:
    sign = jnp.array([-1.0, 1.0], state.type.dtype)[jnp.array(self.supertypes)]
    return jnp.stack([state.type, sign], axis=1)
