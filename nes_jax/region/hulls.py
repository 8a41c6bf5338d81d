"""The set of payoffs that two players can have at equilibria, between two polygons.

The points that the equilibria of `support` attain span an inner polygon, and their upper bounds
are half planes that make an outer one. Between two neighbouring directions the two differ by a
triangle. Later directions are the normals of the longest sides of the largest triangles (sandwich
algorithm, Rote 1992), which is much better than as many directions at equal angles.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from nes_jax.region import inputs, polygons
from nes_jax.region.bounds import Support, solve_directions
from nes_jax.solving import checks
from nes_jax.types import Concept

# Areas below this fraction of the rectangle of all payoffs count as flat: their difference is
# divided by that fraction of the rectangle.
FLAT = 1e-5
# Directions whose angle, in radians, is less than this have no triangle between them.
_PARALLEL = 1e-7


class Region(NamedTuple):
  """Inner and outer hull of the equilibrium payoffs of two players. NumPy arrays of float64.

  Without a batch, arrays lack the axis B. Corners are in anticlockwise order. A polygon with fewer
  corners than another one of the batch repeats its last one.
  """

  inner: np.ndarray  # [B, I, 2] corners of the convex hull of payoffs that equilibria attain
  outer: np.ndarray  # [B, O, 2] corners of a polygon that holds the payoffs of all equilibria
  inner_corners: np.ndarray  # [B] numbers of corners
  outer_corners: np.ndarray  # [B]
  inner_area: np.ndarray  # [B], in units of the one's payoffs times those of the other
  outer_area: np.ndarray  # [B]
  # [B] difference of the areas over the outer one. An outer area below 1e-5 of the rectangle of all
  # payoffs is replaced by that. It is negative where the gaps of joints, which are not quite zero,
  # make the inner hull larger than the outer one; where payoffs nearly tie, that can be by much.
  difference: np.ndarray
  # [B] largest distance of a corner of the outer hull from the inner one, in units of each player's
  # range of payoffs; it also tells where both are flat.
  distance: np.ndarray
  pure: np.ndarray  # [B, |A|, 2] payoffs of the joint strategies
  gap: np.ndarray  # [B] largest gap of the joints that span the inner hull, in payoff units
  converged: np.ndarray  # [B] bool: all of these are certified; the outer hull always is
  support: Support  # directions [B, D, N], joints and bounds behind the hulls


def payoffs(
    payoffs: Any,
    num_directions: int = 64,
    concept: Concept = "cce",
    *,
    players: tuple[int, int] = (0, 1),
    batches: int = 4,
    batched: bool | None = None,
) -> Region:
  """The set of equilibrium payoffs of two players, from within and from without.

  The first batch of directions has equal angles, in units of the players' ranges of payoffs. Those
  of the further batches, which are of the same size, go where the two hulls differ most.

  Args:
    payoffs: [N, A1, ..., AN] or [B, N, A1, ..., AN], finite, of any scale.
    num_directions: number of linear programs for each game, at least 8, in all batches together.
    concept: "cce" or "ce".
    players: the two players. For N > 2 the set is the projection on their payoffs.
    batches: number of batches of directions. The first one has at least 4 directions. With 1, all
      directions have equal angles.
    batched: whether payoffs have a batch axis, where the shape can be read both ways.

  Returns:
    `Region`. Each corner of the inner hull is the payoffs of a joint whose gap is at most `gap`;
    no equilibrium has payoffs outside of the outer hull.

  Raises:
    ValueError: an argument is wrong.
  """
  checks.check_concept(concept)
  inputs.at_least("num_directions", num_directions, 8)
  inputs.at_least("batches", batches, 1)
  games, many = inputs.games(payoffs, batched)
  pair = inputs.players(players, games.shape[1])
  pure = games[:, pair].reshape(len(games), 2, -1).swapaxes(1, 2)
  lowest, highest = pure.min(1), pure.max(1)
  span = np.where(highest > lowest, highest - lowest, 1)
  found = _sandwich(games, num_directions, batches, concept, pair, span)
  inner, inner_corners = polygons.hull(found.payoffs[..., pair], span)
  outer, outer_corners = polygons.intersection(
      found.directions[..., pair], found.upper, lowest, highest
  )
  units = span[:, None]
  smaller, larger = polygons.area(inner / units), polygons.area(outer / units)
  scale = span.prod(1)
  result = Region(
      inner=inner,
      outer=outer,
      inner_corners=inner_corners,
      outer_corners=outer_corners,
      inner_area=smaller * scale,
      outer_area=larger * scale,
      difference=(larger - smaller) / np.maximum(larger, FLAT),
      distance=polygons.distance(outer / units, inner / units).max(1),
      pure=pure,
      gap=found.gap.max(1),
      converged=np.asarray(found.converged.all(1)),
      support=found,
  )
  return result if many else jax.tree.map(lambda x: x[0], result)


def _sandwich(
    games: np.ndarray,
    num: int,
    batches: int,
    concept: Concept,
    pair: tuple[int, int],
    span: np.ndarray,
) -> Support:
  """Support functions of `num` directions, the later ones where the hulls differ most."""
  batches = min(batches, num // 4)
  sizes = np.diff(np.arange(batches + 1) * num // batches)[::-1]
  angles = np.arange(sizes[0]) * 2 * np.pi / sizes[0]
  units = np.broadcast_to(
      np.stack([np.cos(angles), np.sin(angles)], 1), (len(games), sizes[0], 2)
  )
  parts: list[Support] = []
  for size in sizes:
    if parts:
      so_far = Support(*(np.concatenate(x, 1) for x in zip(*parts)))
      units = _where_they_differ(so_far, pair, span, size)
    directions = np.zeros((len(games), size, games.shape[1]))
    directions[..., pair] = units / span[:, None]
    parts.append(solve_directions(games, directions, concept))
  return Support(*(np.concatenate(x, 1) for x in zip(*parts)))


def _where_they_differ(
    found: Support, pair: tuple[int, int], span: np.ndarray, num: int
) -> np.ndarray:
  """Unit directions [B, num, 2], in units of the span, for the next batch.

  The points that two neighbouring directions attain make a triangle with the point in which their
  half planes meet. The set may or may not reach into it.
  """
  rows = np.arange(len(span))[:, None]
  normal = found.directions[..., pair] * span[:, None]
  length = np.linalg.norm(normal, axis=-1)
  order = np.argsort(np.arctan2(normal[..., 1], normal[..., 0]), axis=1)
  normal = (normal / length[..., None])[rows, order]
  offset = (found.upper / length)[rows, order]
  point = (found.payoffs[..., pair] / span[:, None])[rows, order]
  next_normal, next_offset, next_point = (np.roll(x, -1, 1) for x in (normal, offset, point))
  sine = _cross(normal, next_normal)
  apart = sine > _PARALLEL
  numerator = offset[..., None] * next_normal - next_offset[..., None] * normal
  meeting = np.stack([numerator[..., 1], -numerator[..., 0]], -1)
  meeting = meeting / np.where(apart, sine, 1)[..., None]
  side = next_point - point
  triangle = np.where(apart, np.abs(_cross(side, meeting - point)), 0)
  pick = np.argsort(-triangle, axis=1, kind="stable")[:, :num]
  outward = np.stack([side[..., 1], -side[..., 0]], -1)[rows, pick]
  norm = np.linalg.norm(outward, axis=-1, keepdims=True)
  between = (normal + next_normal)[rows, pick]
  between = between / np.maximum(np.linalg.norm(between, axis=-1, keepdims=True), _PARALLEL)
  return np.where(norm > _PARALLEL, outward / np.where(norm > 0, norm, 1), between)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  return x[..., 0] * y[..., 1] - x[..., 1] * y[..., 0]
