"""Routing games: travel times by hand, tolls, Braess' paradox, graphs, errors."""

import jax
import numpy as np
import pytest

from nes_jax.design import routing


def test_two_roads_by_hand():
  net = routing.pigou()
  assert net.paths[0] == ("narrow", "wide")
  cost = routing.social_cost(net)
  # Drivers on the narrow road: 3, 2, 1, 0.
  assert [cost[0, 0, 0], cost[0, 0, 1], cost[0, 1, 1], cost[1, 1, 1]] == [9.0, 6.5, 6.0, 7.5]
  np.testing.assert_allclose(routing.loads(net)[0, 1, 0], [2, 1])
  np.testing.assert_allclose(routing.times(net)[:, 0, 1, 0], [2, 2.5, 2])
  np.testing.assert_allclose(routing.externality(net)[:, 0, 1, 0], [1, 0, 1])


def test_tolls_for_all_and_for_each():
  net = routing.pigou()
  plain = routing.payoffs(net)
  np.testing.assert_allclose(plain, -routing.times(net))
  same = routing.payoffs(net, np.array([0.5, 0.1]))
  np.testing.assert_allclose(plain[0, 0] - same[0, 0], 0.5)
  np.testing.assert_allclose(plain[0, 1] - same[0, 1], 0.1)
  each = routing.payoffs(net, np.array([[0, 0], [0.75, 0], [0, 0.2]]))
  np.testing.assert_allclose(plain[0], each[0])
  np.testing.assert_allclose((plain - each)[1, :, 0], 0.75)
  np.testing.assert_allclose((plain - each)[2, :, :, 1], 0.2)
  traced = jax.jit(lambda x: routing.payoffs(net, x))(np.array([0.5, 0.1]))
  np.testing.assert_allclose(traced, same, rtol=1e-6)


def test_externality_makes_the_interest_common():
  """A driver's cost with it is the social cost, up to a term without its own path."""
  net = routing.braess(3)
  charged = routing.times(net) + routing.externality(net)
  for p in range(3):
    rest = routing.social_cost(net) - charged[p]
    np.testing.assert_allclose(rest, rest.take([0], axis=p) + 0 * rest, atol=1e-12)


def test_braess():
  net = routing.braess()
  assert set(net.paths[0]) == {"su-uv-vt", "su-ut", "sv-vt"}
  cost = routing.social_cost(net)
  bridge = net.paths[0].index("su-uv-vt")
  assert cost[(bridge,) * 4] == 32.0
  upper, lower = net.paths[0].index("su-ut"), net.paths[0].index("sv-vt")
  assert cost[upper, upper, lower, lower] == cost.min() == 26.0
  # Nobody leaves the bridge alone.
  times = routing.times(net)
  assert times[(0, upper, *(bridge,) * 3)] > times[(0, *(bridge,) * 4)]


def test_graphs_and_lists_agree():
  edges = {
      "ab": routing.Edge("a", "b", 1.0, 0.5),
      "bc": routing.Edge("b", "c", 0.0, 2.0),
      "ac": routing.Edge("a", "c", 3.0, 0.0),
      "ba": routing.Edge("b", "a", 0.0, 0.0),
  }
  graph = routing.from_graph(edges, [("a", "c"), ("b", "c")])
  assert graph.paths == (("ab-bc", "ac"), ("bc", "ba-ac"))
  listed = routing.network(
      {name: (edge.intercept, edge.slope) for name, edge in edges.items()},
      [[["ab", "bc"], ["ac"]], [["bc"], ["ba", "ac"]]],
  )
  np.testing.assert_array_equal(routing.times(graph), routing.times(listed))
  np.testing.assert_allclose(routing.times(graph)[:, 0, 0], [1.5 + 4, 4])


EDGES = {"a": (0.0, 1.0), "b": (1.0, 0.0)}


@pytest.mark.parametrize(
    "edges, paths, message",
    [
        ({}, [[["a"]], [["a"]]], "two numbers each"),
        ({"a": (1.0, -1.0)}, [[["a"]], [["a"]]], "not negative"),
        (EDGES, [[["a"]]], "two drivers or more"),
        (EDGES, [[["a"]], []], "driver 1 has no path"),
        (EDGES, [[["a"]], [["c"]]], "unknown edge 'c'"),
    ],
)
def test_wrong_networks(edges, paths, message):
  with pytest.raises(ValueError, match=message):
    routing.network(edges, paths)


def test_wrong_trips_and_tolls():
  with pytest.raises(ValueError, match="driver 0 has no path from 's' to 'x'"):
    routing.from_graph({"e": routing.Edge("s", "t", 0.0, 1.0)}, [("s", "x"), ("s", "t")])
  with pytest.raises(ValueError, match="tolls must be"):
    routing.payoffs(routing.pigou(), np.zeros(3))
