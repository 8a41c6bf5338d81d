"""Classes of GAMUT on graphs: GraphicalGame, PolymatrixGame and the local-effect games (LEG).

Each function takes a key, the shape (A1, ..., AN) and a graph of `graphs`, and returns payoffs
[N, A1, ..., AN].
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from nes_jax.games.gamut import functions
from nes_jax.games.gamut.graphs import Graph
from nes_jax.games.gamut.independent import random_game
from nes_jax.games.gamut.symmetric import player_counts
from nes_jax.types import Array


def graphical_game(key: Array, shape: tuple[int, ...], graph: Graph) -> Array:
  """GraphicalGame: nodes are players, and u_p depends on the strategies of p and its neighbours.

  u_p is a table of U(-100, 100) over these strategies.
  """
  n = len(shape)
  graph_key, table_key = jax.random.split(key)
  matters = graph(graph_key, n) | jnp.eye(n, dtype=bool)
  payoffs = random_game(table_key, shape)
  for q in range(n):
    # A player q who is no neighbour does not matter: the slice of the table for the first strategy
    # of q takes the place of the slices for the others.
    first = jax.lax.slice_in_dim(payoffs, 0, 1, axis=q + 1)
    payoffs = jnp.where(matters[:, q].reshape(n, *(1,) * n), payoffs, first)
  return payoffs


def polymatrix_game(key: Array, shape: tuple[int, ...], graph: Graph) -> Array:
  """PolymatrixGame: nodes are players, and each edge is a RandomGame between its two players.

  u_p is the sum of p's payoffs in the games of its edges.
  """
  n = len(shape)
  graph_key, edge_key = jax.random.split(key)
  adjacency = graph(graph_key, n)
  payoffs = jnp.zeros((n, *shape))
  for p, q in zip(*np.triu_indices(n, 1)):
    game = random_game(jax.random.fold_in(edge_key, p * n + q), (shape[p], shape[q]))
    game = jnp.where(adjacency[p, q], game, 0)
    # [2, Ap, Aq] -> [2, 1, ..., Ap, ..., Aq, ..., 1]
    aligned = [shape[i] if i in (p, q) else 1 for i in range(n)]
    payoffs = payoffs.at[np.array([p, q])].add(game.reshape(2, *aligned))
  return payoffs


def local_effect_game(
    key: Array, shape: tuple[int, ...], graph: Graph, indices: Callable[[int], np.ndarray]
) -> Array:
  """Local-effect game: nodes are strategies, and u_p depends on the players on and next to a_p.

  With a = a_p and n_c players on strategy c,

    u_p = -(F_a(n_a) + sum over the neighbours c of a of E_ac(n_c)).

  All functions F and E are of one family, which is drawn for the game. E counts at n_c = 0 too.

  Args:
    key: PRNG key.
    shape: (A, ..., A).
    graph: graph of the strategies.
    indices: function A -> int [A, A] that says which of the drawn functions is E_ac, and F_a on the
      diagonal: `bidirectional_effects` or `uniform_effects`.

  Returns:
    [N, A, ..., A].
  """
  n, a = len(shape), shape[0]
  kind_key, graph_key, function_key = jax.random.split(key, 3)
  kind = jax.random.randint(kind_key, (), 0, len(functions.FAMILIES) + 1)
  index = indices(a)
  costs = jax.vmap(lambda k: _cost(k, kind, n))(jax.random.split(function_key, index.max() + 1))
  present = graph(graph_key, a) | jnp.eye(a, dtype=bool)
  effects = jnp.where(present[..., None], costs[index], 0)  # [A, A, N + 1]
  source = jnp.arange(a).reshape(a, *(1,) * n)
  first = -effects[jnp.indices(shape)[0], source, player_counts(shape)].sum(axis=0)
  return jnp.stack([jnp.swapaxes(first, 0, p) for p in range(n)])


def _cost(key: Array, kind: Array, n: int) -> Array:
  """Draws the function of a node or an edge, and evaluates it at 0, ..., n: [n + 1].

  `kind` is an index of `functions.FAMILIES`; the index after the last means a falling function.
  """
  draws = functions.draw(key)
  falls = kind == len(functions.FAMILIES)
  increasing = functions.to_integer(draws.family, len(functions.INCREASING))
  kind = jnp.where(falls, increasing, kind)
  values, shrink = jax.lax.switch(kind, functions.FAMILIES, draws, jnp.arange(n + 1), 0, n)
  return jnp.where(falls, functions.falling(draws, values, shrink), values) / shrink


def bidirectional_effects(a: int) -> np.ndarray:
  """Indices of functions for a BidirectionalLEG, where E_ac = E_ca: int [A, A]."""
  i, j = np.indices((a, a))
  low, high = np.minimum(i, j), np.maximum(i, j)
  return high * (high + 1) // 2 + low


def uniform_effects(a: int) -> np.ndarray:
  """Indices of functions for a UniformLEG, where E_ac depends on c only: int [A, A]."""
  i, j = np.indices((a, a))
  return np.where(i == j, a + i, j)
