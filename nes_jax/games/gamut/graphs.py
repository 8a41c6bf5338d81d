"""Graphs of GAMUT's games.

Each function takes a key and the number n of nodes, and returns a symmetric adjacency matrix, bool
[n, n], that is false on the diagonal.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from nes_jax.games.gamut.functions import to_integer
from nes_jax.types import Array

Graph = Callable[[Array, int], Array]


def complete_graph(key: Array, n: int) -> Array:
  """Graph with an edge between any two nodes."""
  del key
  return ~jnp.eye(n, dtype=bool)


def star_graph(key: Array, n: int) -> Array:
  """Graph with an edge from node 0 to each other node."""
  del key
  centre = jnp.arange(n) == 0
  return centre[:, None] != centre


def random_graph(key: Array, n: int) -> Array:
  """Random graph G(n, m) with m ~ U{1, ..., n (n - 1) / 2} edges; one node alone has no edge."""
  pairs = np.triu_indices(n, 1)
  size_key, pair_key = jax.random.split(key)
  size = jax.random.randint(size_key, (), 1, len(pairs[0]) + 1)
  chosen = jax.random.permutation(pair_key, len(pairs[0])) < size
  upper = jnp.zeros((n, n), bool).at[pairs].set(chosen)
  return upper | upper.T


def road_graph(key: Array, n: int) -> Array:
  """Ladder: node i has an edge to node i + 2, and node 2 k has an edge to node 2 k + 1."""
  del key
  i, j = jnp.indices((n, n))
  return (abs(i - j) == 2) | ((i // 2 == j // 2) & (i != j))


def small_world_graph(key: Array, n: int) -> Array:
  """Small world of Watts and Strogatz (1998): a ring of which some edges are moved.

  Each node of the ring has 2 K neighbours, K ~ U{1, ..., max(n / 2 - 1, 1)}. Each edge is moved
  with probability p ~ U(0, 1): the edge from a node to its k-th successor gets as its other end a
  node that is not yet a neighbour, unless there is none.
  """
  graph_key, step_key = jax.random.split(key)
  furthest = max(n // 2 - 1, 1)
  reach, probability = jax.random.uniform(graph_key, (2,))
  reach = 1 + to_integer(reach, furthest)
  node, other = jnp.indices((n, n))
  ahead = (other - node) % n
  ring = (jnp.minimum(ahead, n - ahead) <= reach) & (node != other)

  def rewire(step, adjacency):
    k, start = step // n + 1, step % n
    draws = jax.random.uniform(jax.random.fold_in(step_key, step), (n + 1,))
    free = ~adjacency[start] & (jnp.arange(n) != start)
    end = jnp.argmax(jnp.where(free, draws[1:], -1))
    moved = adjacency
    for target, value in (((start + k) % n, False), (end, True)):
      moved = moved.at[start, target].set(value).at[target, start].set(value)
    return jnp.where((k <= reach) & (draws[0] < probability) & free.any(), moved, adjacency)

  return jax.lax.fori_loop(0, furthest * n, rewire, ring)
