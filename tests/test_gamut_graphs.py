"""nes_jax.games.gamut.graphs: random graphs and small worlds against their definitions."""

import jax
import numpy as np

from nes_jax.games.gamut import graphs


def draw_graphs(graph, n, count=2000):
  """Draws adjacency matrices, checks that they are symmetric, and returns them: [count, n, n]."""
  keys = jax.random.split(jax.random.key(4), count)
  found = np.asarray(jax.jit(jax.vmap(lambda key: graph(key, n)))(keys))
  assert not found[:, np.eye(n, dtype=bool)].any()
  np.testing.assert_array_equal(found, found.swapaxes(1, 2))
  return found


def test_random_graphs():
  found = draw_graphs(graphs.random_graph, 4)
  edges = found.sum((1, 2)) // 2
  # There are 2000 graphs of 6 numbers of edges: 333 of each, with a standard deviation of 17.
  counts = np.bincount(edges, minlength=7)
  assert counts[0] == 0 and np.all(abs(counts[1:] - 333) < 85)
  # Each pair of nodes has an edge in 3.5 of 6 graphs, with a standard deviation of 0.01.
  np.testing.assert_allclose(found.mean(0)[np.triu_indices(4, 1)], 3.5 / 6, atol=0.055)
  assert not draw_graphs(graphs.random_graph, 1, 3).any()
  assert draw_graphs(graphs.random_graph, 2, 9)[:, 0, 1].all()


def test_small_world_graphs():
  found = draw_graphs(graphs.small_world_graph, 8)
  edges = found.sum((1, 2)) // 2
  # Moving an edge does not change the number of edges, 8 K with K ~ U{1, 2, 3}. Each number occurs
  # 667 times, with a standard deviation of 21.
  counts = np.bincount(edges, minlength=25)
  assert counts[[8, 16, 24]].sum() == 2000 and np.all(abs(counts[[8, 16, 24]] - 667) < 105)
  # With K = 1 every edge is moved in a step of its own. An edge of the ring is there at the end if
  # it was not moved, which has probability 1/2 on average, or if another edge was moved to its
  # place, which happens to fewer than one in seven.
  i, j = np.indices((8, 8))
  kept = found[edges == 8][:, (j - i) % 8 == 1].mean()
  assert 0.5 < kept < 0.6
  # All edges of a graph have the same p. So far more graphs keep nearly all edges of the ring, or
  # hardly any, than if edges moved independently.
  ring = found[edges == 8][:, (j - i) % 8 == 1].sum(1)
  assert (ring == 8).mean() > 0.07
  for n in (2, 3):
    found = draw_graphs(graphs.small_world_graph, n, 9)
    np.testing.assert_array_equal(found, [~np.eye(n, dtype=bool)] * 9)
