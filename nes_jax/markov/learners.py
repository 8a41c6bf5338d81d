"""Tabular Q-learners of Markov games: correlated Q-learning, and minimax Q-learning.

Every function is written for one learner, and is pure. `jax.vmap` runs many at once: their stage
games are then one call of the solver in each step, since the native engine takes all axes of a
batch together. Everything is in float64.

Glossary: S states, N players, Ap actions of player p.
"""

import dataclasses
import math
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nes_jax.markov import games, stage
from nes_jax.solving import engines
from nes_jax.solving.solve import nash_zero_sum
from nes_jax.types import Array, Concept, Solution


class State(NamedTuple):
  """The knowledge of a learner. Values and joints are those of the tables `q`, state by state."""

  q: Array  # [S, N, A1, ..., AN] payoffs of the stage games
  values: Array  # [S, N]
  joint: Array  # [S, A1, ..., AN]
  visits: Array  # int32 [S, A1, ..., AN]
  steps: Array  # [] int32
  uncertified: Array  # [] int32 steps whose stage game was not solved to the tolerance
  gap: Array  # [] largest gap of a stage game


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learner:
  """Options that all learners share. Learners are hashable, and have no state of their own.

  The step size of the k-th update of an entry of the table is

    alpha_k = step_size / (1 + (k - 1) / delay)^decay

  which is step_size / k^decay for a delay of 1, and near step_size for about `delay` updates.
  """

  num_states: int
  num_actions: tuple[int, ...]
  discount: float = 0.99
  step_size: float = 1.0
  decay: float = 0.6
  delay: float = 1.0
  # Probability that a player takes a random action in place of its part of the joint action.
  exploration: float = 1.0

  def __post_init__(self):
    try:
      counts = tuple(operator.index(count) for count in self.num_actions)
      states = operator.index(self.num_states)
    except TypeError:
      raise ValueError(
          f"num_states={self.num_states!r}, num_actions={self.num_actions!r}: an integer and a"
          " tuple of integers, one a player, are expected"
      ) from None
    object.__setattr__(self, "num_actions", counts)
    if states < 1 or len(counts) < 2 or min(counts) < 1:
      raise ValueError(
          f"num_states={states}, num_actions={counts}: at least one state, two players, and one"
          " action of each are expected"
      )
    games.check_discount(self.discount)
    if not (0 < self.step_size <= 1 and 0 <= self.decay <= 1 and 0 < self.delay < math.inf):
      raise ValueError(
          f"step_size={self.step_size}, decay={self.decay}, delay={self.delay}: step_size and decay"
          " from 0 to 1 are expected, step_size above 0, and a positive delay"
      )
    if not 0 <= self.exploration <= 1:
      raise ValueError(f"exploration={self.exploration} must be a probability")

  @property
  def num_players(self) -> int:
    """The number of players, N."""
    return len(self.num_actions)

  def init(self) -> State:
    """The state before the first step: zeros, and uniform joints. Raises ValueError without x64."""
    _need_x64()
    states, counts = self.num_states, self.num_actions
    return State(
        q=jnp.zeros((states, self.num_players, *counts)),
        values=jnp.zeros((states, self.num_players)),
        joint=jnp.full((states, *counts), 1 / math.prod(counts)),
        visits=jnp.zeros((states, *counts), jnp.int32),
        steps=jnp.zeros((), jnp.int32),
        uncertified=jnp.zeros((), jnp.int32),
        gap=jnp.zeros(()),
    )

  def act(self, state: State, at: Array, key: Array, exploration: Any = None) -> Array:
    """Draws a joint action from the joint of a state, and explores.

    Args:
      state: the learner's state.
      at: [] number of the environment's state.
      key: random key.
      exploration: [] probability that takes the place of the learner's.

    Returns:
      int32 [N], the action of each player.
    """
    share = self.exploration if exploration is None else exploration
    draws = jax.random.uniform(key, (1 + 2 * self.num_players,), state.q.dtype)
    cumulated = jnp.cumsum(state.joint[at].ravel())
    drawn = (cumulated <= draws[0] * cumulated[-1]).sum()
    drawn = jnp.minimum(drawn, len(cumulated) - 1)
    told = jnp.stack(jnp.unravel_index(drawn, self.num_actions))
    other = jnp.floor(draws[1 :: 2] * jnp.array(self.num_actions))
    return jnp.where(draws[2::2] < share, other, told).astype(jnp.int32)

  def update(
      self, state: State, at: Array, action: Array, reward: Array, following: Array, ended: Array
  ) -> State:
    """Learns from one step, and solves the stage game that it has changed.

      Q_p(s, a) <- (1 - alpha) Q_p(s, a) + alpha (r_p + gamma V_p(s'))

    Args:
      state: the learner's state.
      at: [] number of the environment's state s.
      action: int [N] joint action a that was taken.
      reward: [N] r.
      following: [] number of the next state s'.
      ended: [] bool, whether nothing follows, so that s' has no value.

    Returns:
      The next state of the learner.

    Raises:
      ValueError: x64 is off.
    """
    _need_x64()
    place = (at, *(action[p] for p in range(self.num_players)))
    visits = state.visits.at[place].add(1)
    alpha = self.step_size / (1 + (visits[place] - 1) / self.delay) ** self.decay
    target = reward + self.discount * jnp.where(ended, 0, state.values[following])
    entry = (at, slice(None), *place[1:])
    q = state.q.at[entry].add(alpha * (target - state.q[entry]))
    found = self.solve(q[at][None])
    return State(
        q=q,
        values=state.values.at[at].set(found.values[0]),
        joint=state.joint.at[at].set(found.joint[0]),
        visits=visits,
        steps=state.steps + 1,
        uncertified=state.uncertified + ~found.converged[0],
        gap=jnp.maximum(state.gap, found.gap[0]),
    )

  def solve(self, payoffs: Array) -> stage.Stage:
    """Solves stage games [G, N, A1, ..., AN]; each kind of learner has its own way."""
    raise NotImplementedError(type(self).__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorrelatedQ(Learner):
  """Correlated Q-learning (Greenwald & Hall 2003), with CEs or CCEs.

  `selection` is a name of `nes_jax.markov.SELECTIONS`. `weights` [N] are those of the players'
  payoffs in the welfare; None: ones.
  """

  selection: str = "utilitarian"
  concept: Concept = "ce"
  weights: tuple[float, ...] | None = None

  def __post_init__(self):
    super().__post_init__()
    if not isinstance(self.selection, str):
      raise ValueError(f"selection must be a name: one of {', '.join(stage.NAMES)}")
    stage.check(self.concept, self.selection)
    weights = games.weights_of(self.weights, self.num_players)
    object.__setattr__(self, "weights", tuple(float(x) for x in weights))

  def solve(self, payoffs: Array) -> stage.Stage:
    """Selected equilibria of stage games [G, N, A1, ..., AN]."""
    return stage.equilibria(payoffs, self.concept, self.selection, self.weights)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinimaxQ(Learner):
  """Nash Q-learning of two-player zero-sum games, which is minimax Q-learning (Littman 1994).

  Stage games are solved for the values of their minimax strategies, which are unique. Where the
  rewards of the two players do not add up to zero, half of their difference is what counts.
  """

  def __post_init__(self):
    super().__post_init__()
    if self.num_players != 2:
      raise ValueError(f"MinimaxQ is for two players, not {self.num_players}: use CorrelatedQ")

  def solve(self, payoffs: Array) -> stage.Stage:
    """Minimax strategies of stage games [G, 2, A1, A2]."""
    half = (payoffs[:, 0] - payoffs[:, 1]) / 2
    solution = nash_zero_sum(jnp.stack([half, -half], 1), batched=True)
    assert isinstance(solution, Solution)  # payoffs are one array
    value = (half * solution.joint).sum((1, 2))
    return stage.Stage(
        solution.joint, jnp.stack([value, -value], 1), solution.gap, solution.converged
    )


def _need_x64() -> None:
  """Raises ValueError if JAX has no float64 here."""
  if not engines.x64_enabled():
    raise ValueError(
        "learners compute in float64: call jax.config.update('jax_enable_x64', True), or use"
        " nes_jax.markov.train, which needs no setting"
    )
