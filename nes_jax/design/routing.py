"""Atomic congestion games on road networks, with tolls.

Each driver takes one of its paths. The travel time of an edge is affine in the number of drivers
on it, and a driver's cost is the travel time of its path plus the tolls on it (Rosenthal 1973).

Glossary: E edges; N drivers, who are the players; Ap paths of driver p, which are its strategies.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nes_jax.types import Array


class Network(NamedTuple):
  """A road network and the paths of its drivers."""

  edges: tuple[str, ...]  # names of the edges
  intercept: np.ndarray  # [E] travel time of an edge without drivers
  slope: np.ndarray  # [E] what each driver on an edge adds to its travel time
  paths: tuple[tuple[str, ...], ...]  # per driver [Ap], names of the paths
  uses: tuple[np.ndarray, ...]  # per driver [Ap, E], 1 where a path has an edge, else 0


class Edge(NamedTuple):
  """A directed edge of a graph."""

  tail: str
  head: str
  intercept: float
  slope: float


def network(
    edges: Mapping[str, tuple[float, float]], paths: Sequence[Sequence[Sequence[str]]]
) -> Network:
  """A network whose paths are listed.

  Args:
    edges: intercept and slope of each edge, by name.
    paths: per driver its paths; a path is a list of names of edges.

  Raises:
    ValueError: a path has an unknown edge, a driver has no path, there are fewer than two drivers,
      or a number is negative or not finite.
  """
  names = tuple(edges)
  numbers = np.array([edges[name] for name in names], np.float64)
  if numbers.shape != (len(names), 2) or not names:
    raise ValueError("edges need two numbers each: the intercept and the slope of the travel time")
  if not np.isfinite(numbers).all() or numbers.min() < 0:
    raise ValueError("intercepts and slopes of travel times must be finite and not negative")
  if len(paths) < 2:
    raise ValueError(f"a routing game needs two drivers or more, not {len(paths)}")
  uses = []
  for driver, choices in enumerate(paths):
    if not choices:
      raise ValueError(f"driver {driver} has no path")
    table = np.zeros((len(choices), len(names)))
    for row, path in enumerate(choices):
      for edge in path:
        if edge not in edges:
          raise ValueError(
              f"a path of driver {driver} has the unknown edge {edge!r}; the edges are"
              f" {', '.join(names)}"
          )
        table[row, names.index(edge)] = 1
    uses.append(table)
  labels = tuple(tuple("-".join(path) for path in choices) for choices in paths)
  return Network(names, numbers[:, 0], numbers[:, 1], labels, tuple(uses))


def from_graph(edges: Mapping[str, Edge], trips: Sequence[tuple[str, str]]) -> Network:
  """A network whose drivers may take any path that visits no node twice.

  Args:
    edges: the edges of the graph by name.
    trips: origin and destination of each driver.

  Raises:
    ValueError: a trip has no path, or as `network`.
  """
  paths = []
  for driver, (origin, destination) in enumerate(trips):
    found = list(_simple_paths(edges, origin, destination, (origin,)))
    if not found or origin == destination:
      raise ValueError(f"driver {driver} has no path from {origin!r} to {destination!r}")
    paths.append(found)
  return network({name: (edge.intercept, edge.slope) for name, edge in edges.items()}, paths)


def _simple_paths(
    edges: Mapping[str, Edge], node: str, goal: str, visited: tuple[str, ...]
) -> Iterator[tuple[str, ...]]:
  """Names of the edges of each path from a node to the goal, in the order of the edges."""
  if node == goal:
    yield ()
    return
  for name, edge in edges.items():
    if edge.tail == node and edge.head not in visited:
      for rest in _simple_paths(edges, edge.head, goal, (*visited, edge.head)):
        yield (name, *rest)


def loads(net: Network) -> np.ndarray:
  """Number of drivers on each edge: [A1, ..., AN, E]."""
  n = len(net.uses)
  total = np.zeros(())
  for p, table in enumerate(net.uses):
    total = total + table.reshape((1,) * p + (len(table),) + (1,) * (n - 1 - p) + (-1,))
  return total


def times(net: Network) -> np.ndarray:
  """Travel time of each driver, without tolls: [N, A1, ..., AN]."""
  return _path_sums(net, net.intercept + net.slope * loads(net))


def social_cost(net: Network) -> np.ndarray:
  """Sum of the drivers' travel times, without tolls: [A1, ..., AN]."""
  return times(net).sum(0)


def externality(net: Network) -> np.ndarray:
  """Time that a driver's presence costs the other drivers: [N, A1, ..., AN].

  Each driver on an edge adds its slope to the travel time of every other driver there, so that the
  sum over the edges of the path is sum_e slope_e (load_e - 1). Marginal-cost tolls charge this
  amount, which depends on the loads. Subtracted from -`times`, it makes the game one of common
  interest up to terms that no deviation changes, and the social optimum a Nash equilibrium.
  """
  return _path_sums(net, net.slope * (loads(net) - 1))


def payoffs(net: Network, tolls: Any = 0.0) -> Array:
  """Payoffs of the drivers, minus travel time and tolls: [N, A1, ..., AN].

  Traceable in the tolls. A NumPy array where the tolls are no JAX array.

  Args:
    net: the network.
    tolls: [E], what all drivers pay on an edge; or [N, E], what each driver pays; in units of time.

  Raises:
    ValueError: the tolls have another shape.
  """
  n, count = len(net.uses), len(net.edges)
  numpy: Any = jnp if isinstance(tolls, jax.Array) else np
  tolls = numpy.asarray(tolls)
  if tolls.shape not in ((), (count,), (n, count)):
    raise ValueError(
        f"tolls must be [{count}], one for each edge, or [{n}, {count}], one for each driver and"
        f" edge, not {list(tolls.shape)}"
    )
  tolls = numpy.broadcast_to(tolls, (n, count))
  paid = [
      (numpy.asarray(table) @ toll).reshape((-1,) + (1,) * (n - 1 - p))
      for p, (table, toll) in enumerate(zip(net.uses, tolls))
  ]
  return numpy.stack([-(time + toll) for time, toll in zip(times(net), paid)])


def _path_sums(net: Network, values: np.ndarray) -> np.ndarray:
  """Sums over the edges of each driver's path: values [A1, ..., AN, E] -> [N, A1, ..., AN]."""
  n = len(net.uses)
  return np.stack([
      (values * table.reshape((1,) * p + (len(table),) + (1,) * (n - 1 - p) + (-1,))).sum(-1)
      for p, table in enumerate(net.uses)
  ])


def pigou(drivers: int = 3, constant: float = 2.5) -> Network:
  """Pigou's two roads: "narrow" takes as long as it has drivers, "wide" always the same time."""
  roads = {"narrow": (0.0, 1.0), "wide": (constant, 0.0)}
  return network(roads, [[["narrow"], ["wide"]]] * drivers)


def braess(drivers: int = 4, constant: float = 4.5) -> Network:
  """Braess' network, from s over u or v to t, with a free road from u to v.

  Roads "su" and "vt" take as long as they have drivers; "sv" and "ut" take the constant time. With
  the defaults, all four drivers use the free road and need 32 together; without the road they need
  26.
  """
  graph = {
      "su": Edge("s", "u", 0.0, 1.0),
      "sv": Edge("s", "v", constant, 0.0),
      "uv": Edge("u", "v", 0.0, 0.0),
      "ut": Edge("u", "t", constant, 0.0),
      "vt": Edge("v", "t", 0.0, 1.0),
  }
  return from_graph(graph, [("s", "t")] * drivers)
