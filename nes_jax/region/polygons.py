"""Convex polygons: hulls of points, intersections of half planes, areas.

Polygons of a batch are arrays [B, M, 2] of corners in anticlockwise order with a number of corners
for each. Beyond that number the last corner is repeated, so that areas and pictures need not look
at the numbers.
"""

import numpy as np

# Detail below this size, in units of `scale`, is the solver's: corners so near to another one, or
# to the line between two others, are left out of a hull, and half planes that cut off no more are
# left out of an intersection. A hull only becomes smaller by that, and an intersection larger.
_DETAIL = 1e-8
# Half planes are moved outwards by this fraction of the size of the coordinates, so that rounding
# never cuts off a point that lies on the boundary of all of them.
_ROUNDING = 1e-14


def hull(points: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Convex hulls, by Andrew's monotone chain.

  Args:
    points: [B, M, 2].
    scale: [B, 2] units of the coordinates, in which a polygon has a size near 1.

  Returns:
    Corners [B, H, 2], and their numbers [B].
  """
  chains = [_hull_of_one(row, size) for row, size in zip(points, scale)]
  counts = np.array([len(chain) for chain in chains])
  corners = np.stack([
      points[b][chain + chain[-1:] * (counts.max() - len(chain))] for b, chain in enumerate(chains)
  ])
  return corners, counts


def _hull_of_one(points: np.ndarray, scale: np.ndarray) -> list[int]:
  """Indices of the corners of one hull."""
  order = np.lexsort((points[:, 1], points[:, 0])).tolist()
  scaled = [complex(x, y) for x, y in (points / scale).tolist()]

  def half(order: list[int]) -> list[int]:
    chain: list[int] = []
    for k in order:
      while len(chain) > 1:
        i, j = chain[-2:]
        if ((scaled[j] - scaled[i]).conjugate() * (scaled[k] - scaled[i])).imag > 0:
          break
        chain.pop()
      chain.append(k)
    return chain

  corners = half(order)[:-1] + half(order[::-1])[:-1]
  return _without_detail(corners or order[:1], scaled)


def _without_detail(corners: list[int], scaled: list[complex]) -> list[int]:
  """The corners of a hull that are away from the line between their two neighbours."""
  kept: list[int] = []
  for number, k in enumerate(corners):
    after = scaled[corners[number + 1] if number + 1 < len(corners) else (kept or corners)[0]]
    before = scaled[kept[-1] if kept else corners[-1]]
    side = after - before
    length = abs(side)
    along = 0.0
    if length > 0:
      along = min(1.0, max(0.0, (side.conjugate() * (scaled[k] - before)).real / length**2))
    if abs(scaled[k] - before - along * side) > _DETAIL:
      kept.append(k)
  return kept or corners[:1]


def intersection(
    normals: np.ndarray, offsets: np.ndarray, lowest: np.ndarray, highest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Intersections of half planes `normal . x <= offset` with a box, by clipping it with each.

  Args:
    normals: [B, D, 2], of unit length in units of `scale`: their products with it are unit vectors.
    offsets: [B, D].
    lowest: [B, 2] the corner of the box where both coordinates are smallest.
    highest: [B, 2] the opposite corner.

  Returns:
    Corners [B, H, 2], and their numbers [B]: at least 1 if the half planes share a point.
  """
  pick = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], bool)
  corners = np.where(pick, highest[:, None], lowest[:, None])
  counts = np.full(len(normals), 4)
  size = np.maximum(np.abs(lowest), np.abs(highest))
  slack = _ROUNDING * (np.abs(normals) @ size[..., None])[..., 0]
  for k in range(normals.shape[1]):
    furthest = (corners @ normals[:, k, :, None]).max((1, 2))
    idle = furthest - offsets[:, k] <= _DETAIL
    offset = np.where(idle, furthest, offsets[:, k]) + slack[:, k]
    corners, counts = _clip(corners, counts, normals[:, k], offset)
  return corners, counts


def _clip(
    corners: np.ndarray, counts: np.ndarray, normal: np.ndarray, offset: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The parts of polygons in one half plane each (Sutherland and Hodgman 1974)."""
  width = corners.shape[1]
  exists = np.arange(width) < counts[:, None]
  inside_by = offset[:, None] - (corners @ normal[..., None])[..., 0]  # [B, M]
  wraps = np.arange(width) + 1 == counts[:, None]
  following = np.where(wraps, 0, np.minimum(np.arange(width) + 1, width - 1))
  rows = np.arange(len(corners))[:, None]
  next_by, next_corner = inside_by[rows, following], corners[rows, following]
  inside = inside_by >= 0
  crosses = exists & (inside != (next_by >= 0))
  difference = inside_by - next_by
  share = np.clip(inside_by / np.where(difference == 0, 1, difference), 0, 1)[..., None]
  crossing = corners + share * (next_corner - corners)
  # Each corner that is kept comes before the crossing on the edge that it begins.
  both = np.stack([corners, crossing], 2).reshape(len(corners), 2 * width, 2)
  kept = np.stack([exists & inside, crosses], 2).reshape(len(corners), 2 * width)
  counts = kept.sum(1)
  order = np.argsort(~kept, axis=1, kind="stable")[:, : max(1, counts.max())]
  place = np.minimum(np.arange(order.shape[1]), np.maximum(counts - 1, 0)[:, None])
  return both[rows, order[rows, place]], counts


def area(corners: np.ndarray) -> np.ndarray:
  """Areas [B] of polygons [B, M, 2] whose corners are in anticlockwise order."""
  centred = corners - corners.mean(1, keepdims=True)
  x, y = centred[..., 0], centred[..., 1]
  return np.abs((x * np.roll(y, -1, 1) - np.roll(x, -1, 1) * y).sum(1)) / 2


def distance(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
  """Distances [B, K] of points [B, K, 2] from convex polygons [B, M, 2]; 0 within them."""
  following = np.roll(corners, -1, 1)
  edge = (following - corners)[:, None]  # [B, 1, M, 2]
  offset = points[:, :, None] - corners[:, None]  # [B, K, M, 2]
  length = (edge**2).sum(-1)
  along = np.clip((offset * edge).sum(-1) / np.where(length > 0, length, 1), 0, 1)
  away = np.sqrt(((offset - along[..., None] * edge) ** 2).sum(-1)).min(-1)
  turn = edge[..., 0] * offset[..., 1] - edge[..., 1] * offset[..., 0]
  within = (turn >= 0).all(-1) & (length > 0).any(-1)
  return np.where(within, 0, away)
