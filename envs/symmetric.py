"""Symmetric two-player games in which self-play can be followed by hand (Vadori et al. 2020).

Each player chooses a number in [0, 1], and x earns u(x, y) against y. Each game is extended
transitive (Assumption 1): there is a skill T with

  u(y, x) - u(x, x) > epsilon   implies   T(y) - T(x) > delta(epsilon).

In a self-play sequence every strategy y gains more than epsilon over the strategy x before it, in
the sense u(y, x) - u(x, x) > epsilon. Such a sequence therefore has at most
(sup T - inf T) / delta(epsilon) steps (Theorem 1).

  transitive            u = t(x) - t(y), T = t, delta(e) = e: an example of Balduzzi et al. that
                        the paper uses, with t(x) = 1 - (x - 0.7)^2; equilibrium x = 0.7
  monotonic             u = tanh(t(x) - t(y)), T = t, delta(e) = arctanh(e); equilibrium x = 0.7
  piecewise_potential   u = h(x + y) g(x - y), h(s) = 1 + s; g(z) = g_1(z) = 1 + a z where z >= 0,
                        g_2(|z|) = 1 - b |z| elsewhere; T(x) = h(2 x). With d = y - x > 0,

                          u(y, x) - u(x, x) = d (1 + a (1 + x + y)),    T(y) - T(x) = 2 d

                        A lower y only loses, so that x = 1 is the only symmetric equilibrium. A
                        gain above epsilon needs d > epsilon / (1 + 3 a), so that
                        delta(e) = 2 e / (1 + 3 a). `PIECEWISE_POTENTIAL` has a = b = 1/2. With
                        this h the game is also an exact potential game for all slopes:
                        u(x, y) - u(y, x) = (a + b) (t(x) - t(y)) with t(x) = x + x^2
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from envs.base import Array, Box


@dataclasses.dataclass(frozen=True)
class Game:
  """A symmetric game of two players on [0, 1]. Its functions take arrays of any shape."""

  name: str
  payoff: Callable[[Array, Array], Array]  # u(x, y), the reward of x against y
  skill: Callable[[Array], Array]  # T
  delta: Callable[[Array | float], Array | float]  # epsilon -> delta
  skills: tuple[float, float]  # inf T and sup T
  equilibrium: float  # the only x against which no strategy gains

  def steps(self, epsilon: float) -> float:
    """Bound on the steps of a self-play sequence in which every step gains more than epsilon.

    Raises:
      ValueError: epsilon is not positive.
    """
    if not epsilon > 0:
      raise ValueError(f"epsilon={epsilon} must be positive: without it there is no bound")
    low, high = self.skills
    return (high - low) / float(self.delta(epsilon))


# Equilibrium of the transitive and the monotonic game.
_BEST = 0.7


def _ability(x: Array) -> Array:
  """t(x) of the transitive and the monotonic game."""
  return 1 - (x - _BEST) ** 2


# The cache makes equal arguments give the same object, because games compare by their functions.
@functools.cache
def piecewise_potential(above: float = 0.5, below: float = 0.5) -> Game:
  """Makes the piecewise potential game with slopes a = above and b = below.

  Raises:
    ValueError: a slope is negative, or b is above 1, where payoffs may be negative.
  """
  if not (0 <= above < float("inf") and 0 <= below <= 1):
    raise ValueError(f"above={above}, below={below}: take above >= 0 and below in [0, 1]")

  def payoff(x, y):
    first, second = piecewise_potentials(x, y, above, below)
    return jnp.where(x >= y, first, second)

  return Game(
      name="piecewise_potential",
      payoff=payoff,
      skill=lambda x: 1 + 2 * x,
      delta=lambda epsilon: 2 * epsilon / (1 + 3 * above),
      skills=(1.0, 3.0),
      equilibrium=1.0,
  )


def piecewise_potentials(
    x: Array, y: Array, above: float = 0.5, below: float = 0.5
) -> tuple[Array, Array]:
  """The symmetric potentials P_j(x, y) = h(x + y) g_j(|x - y|), j = 1, 2; T(x) = P_j(x, x)."""
  gap = jnp.abs(x - y)
  return (1 + x + y) * (1 + above * gap), (1 + x + y) * (1 - below * gap)


TRANSITIVE = Game(
    name="transitive",
    payoff=lambda x, y: _ability(x) - _ability(y),
    skill=_ability,
    delta=lambda epsilon: epsilon,
    skills=(1 - _BEST**2, 1.0),
    equilibrium=_BEST,
)
MONOTONIC = Game(
    name="monotonic",
    payoff=lambda x, y: jnp.tanh(_ability(x) - _ability(y)),
    skill=_ability,
    delta=lambda epsilon: jnp.arctanh(jnp.minimum(epsilon, 1.0)),  # gains are at most 1
    skills=(1 - _BEST**2, 1.0),
    equilibrium=_BEST,
)
PIECEWISE_POTENTIAL = piecewise_potential()
GAMES: Mapping[str, Game] = {
    game.name: game for game in (TRANSITIVE, MONOTONIC, PIECEWISE_POTENTIAL)
}


class Profile(NamedTuple):
  """A profile without types, which only scales the payoffs."""

  scale: Array  # [] positive factor on payoffs


class State(NamedTuple):
  """The game before or after its step."""

  time: Array  # [] int32, 0 or 1
  action: Array  # [2] 0 before the step
  rewards: Array  # [2] 0 before the step


@dataclasses.dataclass(frozen=True)
class SymmetricGame:
  """A `Game` as a one-step `envs.base.Environment`; both players observe the constant 1."""

  game: Game = PIECEWISE_POTENTIAL

  num_agents = 2
  agent_names = ("player_1", "player_2")
  supertype_names = ("player",)
  supertypes = (0, 0)
  horizon = 1
  observation_size = 1
  observation_names = ("one",)
  profile_names = ("player/scale",)

  @property
  def action_space(self) -> Box:
    return Box(*np.array([[0], [1]], jnp.result_type(float)))

  @property
  def profile_space(self) -> Box:
    return Box(self.profile(0.1), self.profile(10.0))

  def profile(self, scale=1.0) -> Profile:
    """Makes a profile."""
    return Profile(jnp.asarray(scale, jnp.result_type(float)))

  def reset(self, key: Array, profile: Profile) -> tuple[Array, State]:
    """Begins an episode, without any random numbers; see `envs.base`."""
    del key, profile
    dtype = jnp.result_type(float)
    state = State(jnp.zeros((), jnp.int32), action=jnp.zeros(2, dtype), rewards=jnp.zeros(2, dtype))
    return self._observe(), state

  def step(
      self, key: Array, state: State, action: Array, profile: Profile
  ) -> tuple[Array, State, Array, Array, Mapping[str, Array]]:
    """Takes the only step, with action [2, 1]; see `envs.base`."""
    del key
    action = jnp.clip(jnp.asarray(action, state.action.dtype), 0, 1)[:, 0]
    reward = profile.scale.astype(action.dtype) * self.game.payoff(action, action[::-1])
    state = State(state.time + 1, action, state.rewards + reward)
    return (
        self._observe(), state, reward, state.time >= self.horizon,
        {"truncated": jnp.zeros((), bool), "action": action},
    )

  def outputs(self, state: State) -> Mapping[str, Array]:
    """Statistics of the episode.

    Returns:
      action [2], rewards [2], and their means, supertype_action [1] and supertype_rewards [1].
    """

    def mean(x):
      return x.mean(keepdims=True)

    return {
        "action": state.action,
        "supertype_action": mean(state.action),
        "rewards": state.rewards,
        "supertype_rewards": mean(state.rewards),
    }

  def _observe(self) -> Array:
    return jnp.ones((2, 1), jnp.result_type(float))
