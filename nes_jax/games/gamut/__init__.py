"""Games of GAMUT (Nudelman et al. 2004): the 22 classes of Table 4 of Marris et al. (2022).

Distributions are those of the original generator, release 1.0.1, with random parameters; payoffs
are in its units. They are exact up to rounding, except for `functions.concave_table`, whose
docstring gives its error. Strategies count from 1 in the formulas.

`independent` has classes with independent outcomes, `symmetric` has classes in which all players
choose from the same strategies, `graph_games` has classes on the graphs of `graphs`, and
`functions` has the random functions of one variable that some of the classes need.

Glossary of the package: B games, N players, Ap strategies of player p, A where all have as many,
X points at which a function is evaluated, U uniform.
"""

from collections.abc import Callable, Sequence
import functools
import operator
from typing import Any, NamedTuple

import jax
import numpy as np

from nes_jax.games.gamut import graph_games, graphs, independent, symmetric
from nes_jax.games.gamut.symmetric import effort_payoffs, travelers_payoffs
from nes_jax.keys import example_keys
from nes_jax.types import Array

__all__ = ["NAMES", "effort_payoffs", "sample", "sample_one", "travelers_payoffs"]


def sample(
    key: Array,
    name: str,
    batch: int,
    num_strategies: int | Sequence[int],
    num_players: int = 2,
) -> Array:
  """Draws games of one class.

  Each game has a key of its own (`nes_jax.keys`): a game does not depend on the batch's size.

  Args:
    key: PRNG key.
    name: one of `NAMES`.
    batch: B >= 1, number of games. Under jit this argument is static, and so are the name and the
      arguments that follow.
    num_strategies: one number for every player, or (A1, ..., AN). Players may have different
      numbers in RandomGame, CovariantGame, GraphicalGame and PolymatrixGame. One strategy is legal.
    num_players: N >= 2.

  Returns:
    [B, N, A1, ..., AN] finite payoffs, not normalised, of JAX's default floating type.

  Raises:
    ValueError: unknown name, a batch below 1, fewer than two players, a player without strategies,
      or numbers of strategies that differ in number from the players, or among them where the
      class has one set of strategies for all.
  """
  shape, batch = _check(name, num_strategies, num_players), operator.index(batch)
  if batch < 1:
    raise ValueError(f"batch {batch}: give the number of games, at least 1")
  return _sample(key, name, batch, shape)


def sample_one(
    key: Array, name: str, num_strategies: int | Sequence[int], num_players: int = 2
) -> Array:
  """Draws the game of one key: [N, A1, ..., AN]. Arguments and errors are those of `sample`."""
  return _sample_one(key, name, _check(name, num_strategies, num_players))


def _check(name: str, num_strategies: int | Sequence[int], num_players: int) -> tuple[int, ...]:
  """Checks the arguments of `sample`, and returns (A1, ..., AN)."""
  if name not in _CLASSES:
    raise ValueError(f"unknown class {name!r}; the classes are {', '.join(NAMES)}")
  num_players = operator.index(num_players)
  if num_players < 2:
    raise ValueError(f"num_players {num_players}: a game needs at least two players")
  counts: Any = num_strategies
  if np.ndim(counts):
    shape = tuple(operator.index(a) for a in counts)
  else:
    shape = (operator.index(counts),) * num_players
  if len(shape) != num_players:
    raise ValueError(
        f"num_strategies {shape} is for {len(shape)} players and num_players is {num_players};"
        " give one number a player"
    )
  if min(shape) < 1:
    raise ValueError(f"num_strategies {shape}: every player needs at least one strategy")
  if _CLASSES[name].shared and len(set(shape)) > 1:
    raise ValueError(
        f"num_strategies {shape}: in {name} all players choose from the same strategies; give one"
        " number"
    )
  return shape


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _sample(key: Array, name: str, batch: int, shape: tuple[int, ...]) -> Array:
  return jax.vmap(lambda k: _sample_one(k, name, shape))(example_keys(key, batch))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _sample_one(key: Array, name: str, shape: tuple[int, ...]) -> Array:
  return _CLASSES[name].build(key, shape)


class _Class(NamedTuple):
  """One class of games."""

  # Function (key, (A1, ..., AN)) -> payoffs [N, A1, ..., AN].
  build: Callable[[Array, tuple[int, ...]], Array]
  # Whether all players choose from the same strategies.
  shared: bool


def _local_effect_game(graph: graphs.Graph, indices: Callable[[int], np.ndarray]) -> _Class:
  build = functools.partial(graph_games.local_effect_game, graph=graph, indices=indices)
  return _Class(build, shared=True)


def _graphical_game(graph: graphs.Graph) -> _Class:
  return _Class(functools.partial(graph_games.graphical_game, graph=graph), shared=False)


def _polymatrix_game(graph: graphs.Graph) -> _Class:
  return _Class(functools.partial(graph_games.polymatrix_game, graph=graph), shared=False)


def _covariant_game(correlation: float | None) -> _Class:
  build = functools.partial(independent.covariant_game, correlation=correlation)
  return _Class(build, shared=False)


_BIDIRECTIONAL = graph_games.bidirectional_effects
_UNIFORM = graph_games.uniform_effects

_CLASSES: dict[str, _Class] = {
    "BertrandOligopoly": _Class(symmetric.bertrand_oligopoly, shared=True),
    "BidirectionalLEG-CG": _local_effect_game(graphs.complete_graph, _BIDIRECTIONAL),
    "BidirectionalLEG-RG": _local_effect_game(graphs.random_graph, _BIDIRECTIONAL),
    "BidirectionalLEG-SG": _local_effect_game(graphs.star_graph, _BIDIRECTIONAL),
    "CovariantGame": _covariant_game(None),
    "CovariantGame-Pos": _covariant_game(0.9),
    "CovariantGame-Zero": _covariant_game(0.0),
    "DispersionGame": _Class(symmetric.dispersion_game, shared=True),
    "GraphicalGame-RG": _graphical_game(graphs.random_graph),
    "GraphicalGame-Road": _graphical_game(graphs.road_graph),
    "GraphicalGame-SG": _graphical_game(graphs.star_graph),
    "GraphicalGame-SW": _graphical_game(graphs.small_world_graph),
    "MinimumEffortGame": _Class(symmetric.minimum_effort_game, shared=True),
    "PolymatrixGame-CG": _polymatrix_game(graphs.complete_graph),
    "PolymatrixGame-RG": _polymatrix_game(graphs.random_graph),
    "PolymatrixGame-Road": _polymatrix_game(graphs.road_graph),
    "PolymatrixGame-SW": _polymatrix_game(graphs.small_world_graph),
    "RandomGame": _Class(independent.random_game, shared=False),
    "TravelersDilemma": _Class(symmetric.travelers_dilemma, shared=True),
    "UniformLEG-CG": _local_effect_game(graphs.complete_graph, _UNIFORM),
    "UniformLEG-RG": _local_effect_game(graphs.random_graph, _UNIFORM),
    "UniformLEG-SG": _local_effect_game(graphs.star_graph, _UNIFORM),
}

# Names of the classes in alphabetical order.
NAMES: tuple[str, ...] = tuple(_CLASSES)
