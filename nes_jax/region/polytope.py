"""The polytope of equilibria: its inequalities, and its extreme points.

A CE or CCE polytope is {x : rows @ x >= 0, sum(x) = 1}, where the rows are those of joint
probabilities that are not negative and of deviations that gain nothing.

Glossary: n joint strategies, K inequalities, V points.
"""

import itertools
import math

import numpy as np

from nes_jax.types import Concept

# Slacks and pivots below this number count as zero; the rows have unit norm.
TOLERANCE = 1e-9
# Slacks of the solver's answers below this number are tried first as zeros.
_NEAR = 1e-6
# A basis whose inverse is larger than this is too close to singular to be solved with.
_WORST = 1e8


def constraints(payoffs: np.ndarray, concept: Concept) -> np.ndarray:
  """Inequalities that define the equilibria of a game: `rows @ joint.ravel() >= 0`.

  The first n rows say that probabilities are not negative. The others say that deviations gain
  nothing: eq. (1) of Marris et al. (2022) for CE, eq. (3) for CCE. Rows that are zero, since the
  strategies have the same payoffs, are left out.

  Args:
    payoffs: [N, A1, ..., AN].
    concept: "cce" or "ce".

  Returns:
    [K, n], each row of unit norm.
  """
  payoffs = np.asarray(payoffs, np.float64)
  shape = payoffs.shape[1:]
  rows = []
  for p, count in enumerate(shape):
    own = np.moveaxis(payoffs[p], p, 0)  # [Ap, strategies of the others]
    for deviation in range(count):
      loss = own - own[deviation]
      if concept == "cce":
        rows.append(np.moveaxis(loss, 0, p).ravel())
        continue
      for recommended in range(count):
        row = np.zeros_like(own)
        row[recommended] = loss[recommended]
        rows.append(np.moveaxis(row, 0, p).ravel())
  found = np.array(rows)
  norms = np.linalg.norm(found, axis=1)
  kept = norms > 0
  return np.vstack([np.eye(math.prod(shape)), found[kept] / norms[kept, None]])


def polish(
    rows: np.ndarray, points: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """Extreme points next to given points of the polytope.

  A point moves along a line on which all its active inequalities stay active, up to the next
  inequality, until n - 1 independent ones are active. They and the sum are then solved for the
  point.

  Args:
    rows: [K, n] of unit norm.
    points: [V, n], inside the polytope up to the tolerance of a solver.
    rng: random numbers, for the directions of the lines.

  Returns:
    Points [V, n], and whether each is verified: n - 1 inequalities and the sum, linearly
    independent, hold with equality, and no inequality is violated by more than `TOLERANCE`.
  """
  num, size = points.shape
  x = np.maximum(points, 0)
  x = x / x.sum(1, keepdims=True)
  # Projection onto the directions along which the active inequalities and the sum stay as they are.
  free = np.broadcast_to(np.eye(size) - 1 / size, (num, size, size)).copy()
  basis = np.zeros((num, size - 1), np.int64)
  rank = np.zeros(num, np.int64)
  every = np.arange(num)

  def activate(which: np.ndarray, index: np.ndarray) -> None:
    """Makes the inequality `index` active at the points `which` where it is independent."""
    left = np.einsum("vij,vj->vi", free[which], rows[index])
    length = np.linalg.norm(left, axis=1)
    good = (length > _NEAR) & (rank[which] < size - 1)
    which, unit = which[good], left[good] / length[good, None]
    free[which] -= unit[:, :, None] * unit[:, None]
    basis[which, rank[which]] = index[good]
    rank[which] += 1

  slack = x @ rows.T
  order = np.argsort(slack, axis=1)
  for k in range(len(rows)):
    near = every[slack[every, order[:, k]] < _NEAR]
    if not len(near):
      break
    activate(near, order[near, k])
  for _ in range(size - 1):
    open_ = every[rank < size - 1]
    if not len(open_):
      break
    line = np.einsum("vij,vj->vi", free[open_], rng.normal(size=(len(open_), size)))
    slope = line @ rows.T
    ahead = slope < -TOLERANCE * np.linalg.norm(line, axis=1, keepdims=True)
    away = np.maximum(x[open_] @ rows.T, 0) / np.where(ahead, -slope, 1)
    away = np.where(ahead, away, np.inf)
    hit = away.argmin(1)
    x[open_] += away[np.arange(len(open_)), hit][:, None] * line
    activate(open_, hit)
  return _solve_bases(rows, basis, rank == size - 1)


def _solve_bases(
    rows: np.ndarray, basis: np.ndarray, full: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The points [V, n] at which bases [V, n - 1] hold with equality, and whether each is one."""
  size = rows.shape[1]
  matrix = np.concatenate([rows[basis], np.ones((len(basis), 1, size))], 1)
  right = np.append(np.zeros(size - 1), 1.0)
  matrix = np.where(full[:, None, None], matrix, np.eye(size))
  with np.errstate(all="ignore"):
    smallest = np.linalg.svd(matrix, compute_uv=False)[:, -1]
  full = full & (smallest > 1 / _WORST)
  matrix = np.where(full[:, None, None], matrix, np.eye(size))
  x = np.linalg.solve(matrix, np.broadcast_to(right, (len(basis), size))[..., None])[..., 0]
  x = x + np.linalg.solve(matrix, (right - np.einsum("vij,vj->vi", matrix, x))[..., None])[..., 0]
  x = np.where(np.abs(x) < 1e-13, 0.0, x)
  return x, full & ((x @ rows.T).min(1) >= -TOLERANCE)


def enumerate_all(rows: np.ndarray) -> np.ndarray:
  """All extreme points, by the double description method (Motzkin et al. 1953).

  The polytope is cut out of the simplex by one inequality after the other. A cut keeps the extreme
  points on its right side, and adds one on each edge that it crosses. Numbers of points, and with
  them the time, grow exponentially with n: this is for games of some ten joint strategies.

  Args:
    rows: [K, n] of `constraints`; the first n are the unit vectors.

  Returns:
    [V, n] in lexicographic order.
  """
  size = rows.shape[1]
  points = np.eye(size)
  tight = points == 0  # [V, inequalities so far]
  for row in rows[size:]:
    value = points @ row
    zero = np.abs(value) <= TOLERANCE
    above, below = (np.flatnonzero(~zero & (sign * value > 0)) for sign in (1, -1))
    crossings, tight_crossings = [], []
    for i, j in itertools.product(above, below):
      common = tight[i] & tight[j]
      if common.sum() < size - 2:
        continue
      # Two extreme points share an edge if no third one has all inequalities that they share.
      if tight[:, common].all(1).sum() > 2:
        continue
      share = value[i] / (value[i] - value[j])
      crossings.append(points[i] + share * (points[j] - points[i]))
      tight_crossings.append(np.append(common, True))
    kept = zero | (value > 0)
    tight = np.column_stack([tight, zero])[kept]
    points = points[kept]
    if crossings:
      points = np.vstack([points, crossings])
      tight = np.vstack([tight, tight_crossings])
  points = np.where(points < 1e-13, 0.0, points)
  return points[np.lexsort(points.T[::-1])]
