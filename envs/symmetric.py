"""Symmetric two-player games in which self-play can be followed by hand (Vadori et al. 2020).

Both players choose a number x in [0, 1]; against y it earns u(x, y). Each game is extended
transitive (Assumption 1): there is a skill T with

  u(y, x) - u(x, x) > epsilon   implies   T(y) - T(x) > delta(epsilon),

so that a self-play sequence, whose every strategy gains more than epsilon against the one before
it when that plays itself, has at most (sup T - inf T) / delta(epsilon) steps (Theorem 1).

  transitive            u = t(x) - t(y), T = t, delta(e) = e: the example of Balduzzi et al. that
                        the paper takes up, with t(x) = 1 - (x - 0.7)^2; equilibrium x = 0.7
  monotonic             u = tanh(t(x) - t(y)), T = t, delta(e) = arctanh(e); equilibrium x = 0.7
  piecewise_potential   u = h(x + y) g(x - y), h(s) = 1 + s; g(z) = g_1(z) = 1 + a z where z >= 0,
                        g_2(|z|) = 1 - b |z| elsewhere; T(x) = h(2 x). With d = y - x > 0,

                          u(y, x) - u(x, x) = d (1 + a (1 + x + y)),    T(y) - T(x) = 2 d

                        A lower y only loses, so x = 1 is the only symmetric equilibrium, and gains
                        above epsilon need d > epsilon / (1 + 3 a): delta(e) = 2 e / (1 + 3 a).
                        `PIECEWISE_POTENTIAL` has a = b = 1/2. With this h it is an exact potential
                        game, too, at any slopes: u(x, y) - u(y, x) = (a + b) (t(x) - t(y)) with
                        t(x) = x + x^2
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
  """A symmetric game of two players on [0, 1]. Functions work on arrays of any shape."""

  name: str
  payoff: Callable[[Array, Array], Array]  # u(x, y): what x earns against y
  skill: Callable[[Array], Array]  # T
  delta: Callable[[Array], Array]  # epsilon -> delta
  skills: tuple[float, float]  # inf T and sup T
  equilibrium: float  # the only x that no strategy gains against

  def steps(self, epsilon: float) -> float:
    """Most steps of a self-play sequence whose every step gains more than epsilon.

    Raises:
      ValueError: epsilon is not positive.
    """
    if not epsilon > 0:
      raise ValueError(f"epsilon={epsilon} must be positive: without it there is no bound")
    low, high = self.skills
    return (high - low) / float(self.delta(epsilon))


_BEST = 0.7


def _ability(x: Array) -> Array:
  """t(x) of the transitive and the monotonic game."""
  return 1 - (x - _BEST) ** 2


@functools.cache  # games compare by their functions
def piecewise_potential(above: float = 0.5, below: float = 0.5) -> Game:
  """The piecewise potential game with slopes a = above and b = below.

  Raises:
    ValueError: a negative slope, or b above 1, where payoffs may be negative.
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
  """P_1(x, y) and P_2(x, y), both symmetric: h(x + y) g_j(|x - y|); T(x) = P_j(x, x)."""
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
    delta=lambda epsilon: jnp.arctanh(jnp.minimum(epsilon, 1.0)),  # no gain is above 1
    skills=(1 - _BEST**2, 1.0),
    equilibrium=_BEST,
)
PIECEWISE_POTENTIAL = piecewise_potential()
GAMES: Mapping[str, Game] = {
    game.name: game for game in (TRANSITIVE, MONOTONIC, PIECEWISE_POTENTIAL)
}


class Profile(NamedTuple):
  """There are no types; what payoffs are multiplied by."""

  scale: Array  # [] positive


class State(NamedTuple):
  """The game before or after its step."""

  time: Array  # [] int32, 0 or 1
  action: Array  # [2] 0 before the step
  rewards: Array  # [2] 0 before the step


@dataclasses.dataclass(frozen=True)
class SymmetricGame:
  """A `Game` as a one-step environment (`envs.base.Environment`); both players see [1]."""

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
    """Nothing is drawn; see `envs.base`."""
    del key, profile
    zeros = lambda: jnp.zeros(2, jnp.result_type(float))
    return self._observe(), State(jnp.zeros((), jnp.int32), zeros(), zeros())

  def step(
      self, key: Array, state: State, action: Array, profile: Profile
  ) -> tuple[Array, State, Array, Array, Mapping[str, Array]]:
    """The only step: action [2, 1]; see `envs.base`. Nothing follows it."""
    del key
    action = jnp.clip(jnp.asarray(action, state.action.dtype), 0, 1)[:, 0]
    reward = profile.scale.astype(action.dtype) * self.game.payoff(action, action[::-1])
    state = State(state.time + 1, action, state.rewards + reward)
    return (
        self._observe(), state, reward, state.time >= self.horizon,
        {"truncated": jnp.zeros((), bool), "action": action},
    )

  def outputs(self, state: State) -> Mapping[str, Array]:
    """action [2], rewards [2] and their means, supertype_action [1], supertype_rewards [1]."""
    mean = lambda x: x.mean(keepdims=True)
    return {
        "action": state.action,
        "supertype_action": mean(state.action),
        "rewards": state.rewards,
        "supertype_rewards": mean(state.rewards),
    }

  def _observe(self) -> Array:
    return jnp.ones((2, 1), jnp.result_type(float))
