"""Convex polygons: hulls of points, intersections of half planes, areas.

Polygons of a batch are arrays [B, M, 2] of corners in anticlockwise order with a number of corners
for each. Beyond that number the last corner is repeated, so that areas and pictures need not look
at the numbers.
"""

import numpy as np

# Half planes are moved outwards by this fraction of the size of the coordinates, so that rounding
# never cuts off a point that lies on the boundary of all of them.
_ROUNDING = 1e-14


def hull(points: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Convex hulls, by Andrew's monotone chain.

  Args:
    points: [B, M, 2].
    scale: [B, 2] sizes of the coordinates, which say what is near.

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
  """Indices of the corners of one hull; corners closer than a millionth of a millionth are one."""
  order = np.lexsort((points[:, 1], points[:, 0])).tolist()
  xs, ys = (points / scale).T.tolist()

  def half(order):
    chain: list[int] = []
    for k in order:
      while len(chain) > 1:
        i, j = chain[-2:]
        turn = (xs[j] - xs[i]) * (ys[k] - ys[i]) - (ys[j] - ys[i]) * (xs[k] - xs[i])
        if turn > 0:
          break
        chain.pop()
      if not chain or max(abs(xs[chain[-1]] - xs[k]), abs(ys[chain[-1]] - ys[k])) > 1e-12:
        chain.append(k)
    return chain

  lower, upper = half(order), half(order[::-1])
  return (lower[:-1] + upper[:-1]) or lower[:1]


def intersection(
    normals: np.ndarray, offsets: np.ndarray, lowest: np.ndarray, highest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Intersections of half planes `normal . x <= offset` with a box, by clipping it with each.

  Args:
    normals: [B, D, 2], of any length.
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
    corners, counts = _clip(corners, counts, normals[:, k], offsets[:, k] + slack[:, k])
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
