"""Equilibrium polytopes of 2x2 games: their geometry, and a picture of them.

Glossary: N players, A1, ..., AN strategies, |A| joint strategies, K inequalities of a polytope,
V extreme points (vertices).
"""

from collections.abc import Sequence
import itertools
import os
from typing import Any, NamedTuple

from matplotlib import axes, figure, lines, patches
import numpy as np

from launch.figures.style import ACCENT, DPI, GREEN, SIZE

# Distances below this one count as zero; the rows of the inequalities have unit norm.
_TOLERANCE = 1e-9
# Joints that differ by less than this are drawn as one mark.
_VISIBLE = 0.01
_FACE = "#6f9bd1"
_EDGE = "#1f3f6e"
# The corners of the joint simplex, [4, 3]: one for each joint strategy of a 2x2 game, at distance 1
# from the centre.
_CORNERS = np.array(
    [[0, 0, 1], [8**0.5 / 3, 0, -1 / 3], [-(2**0.5) / 3, (2 / 3) ** 0.5, -1 / 3],
     [-(2**0.5) / 3, -((2 / 3) ** 0.5), -1 / 3]]
)


class Game(NamedTuple):
  """A 2x2 game to draw."""

  name: str
  # Names of the strategies of player 1, who chooses the row, and of player 2.
  strategies: tuple[tuple[str, str], tuple[str, str]]
  payoffs: np.ndarray  # [2, 2, 2]
  # Direction in degrees from which the simplex is seen.
  azimuth: float = -15.0
  elevation: float = 26.0


class Selected(NamedTuple):
  """Equilibria that were selected in one 2x2 game; a joint of NaN is not drawn."""

  max_entropy: np.ndarray  # [2, 2] joint
  max_welfare: np.ndarray  # [2, 2] joint
  nearest_pure: np.ndarray  # [4, 2, 2] joints, one for each pure joint as the target


# Geometry.


def ce_constraints(payoffs: np.ndarray) -> np.ndarray:
  """Inequalities that define the CEs of a game: `rows @ joint.ravel() >= 0`.

  The first |A| rows say that probabilities are not negative. The others are eq. (1) of Marris et
  al. (2022): a player who is recommended a strategy gains nothing by playing another one.

  Args:
    payoffs: [N, A1, ..., AN].

  Returns:
    [K, |A|] with K = |A| + sum_p Ap (Ap - 1).
  """
  payoffs = np.asarray(payoffs, np.float64)
  shape = payoffs.shape[1:]
  rows = list(np.eye(int(np.prod(shape))))
  for p, count in enumerate(shape):
    own = np.moveaxis(payoffs[p], p, 0)  # [Ap, strategies of the others]
    for recommended, deviation in itertools.permutations(range(count), 2):
      row = np.zeros_like(own)
      row[recommended] = own[recommended] - own[deviation]
      rows.append(np.moveaxis(row, 0, p).ravel())
  return np.stack(rows)


def extreme_points(rows: np.ndarray) -> np.ndarray:
  """Extreme points of the polytope `rows @ x >= 0, sum x = 1`.

  They are the basic feasible solutions: the function tries every choice of n - 1 rows that hold
  with equality. There are K choose n - 1 choices, so that it is meant for small polytopes, such as
  those of 2x2 games.

  Args:
    rows: [K, n].

  Returns:
    [V, n] in lexicographic order, without repetition.
  """
  rows = _unit_rows(rows)
  size = rows.shape[1]
  right = np.append(np.zeros(size - 1), 1.0)
  found: list[np.ndarray] = []
  for tight in itertools.combinations(range(len(rows)), size - 1):
    basis = np.vstack([rows[list(tight)], np.ones(size)])
    if np.linalg.matrix_rank(basis, tol=_TOLERANCE) < size:
      continue
    point = np.linalg.solve(basis, right)
    new = all(np.abs(point - other).max() > _TOLERANCE for other in found)
    if new and (rows @ point).min() > -_TOLERANCE:
      found.append(np.abs(point))  # -0.0 becomes 0.0
  return np.array(sorted(found, key=tuple)).reshape(-1, size)


def edges_and_faces(
    rows: np.ndarray, points: np.ndarray
) -> tuple[list[tuple[int, int]], list[list[int]]]:
  """Edges and faces of a polytope of at most three dimensions.

  Two extreme points share an edge if the rows that hold with equality at both leave one dimension.
  A face is the set of points at which one row holds with equality, if they span a plane. Both rules
  also hold for flat polytopes.

  Args:
    rows: [K, 4] as in `extreme_points`.
    points: [V, 4] the extreme points.

  Returns:
    Edges as pairs of indices into `points`; faces as lists of indices in the order of the outline.
  """
  rows = _unit_rows(rows)
  tight = np.abs(points @ rows.T) < _TOLERANCE  # [V, K]
  edges, faces = [], {}
  for i, j in itertools.combinations(range(len(points)), 2):
    basis = np.vstack([rows[tight[i] & tight[j]], np.ones(rows.shape[1])])
    if np.linalg.matrix_rank(basis, tol=_TOLERANCE) == rows.shape[1] - 1:
      edges.append((i, j))
  for on_row in tight.T:
    index = np.flatnonzero(on_row)
    if len(index) < 3:
      continue
    centred = points[index] - points[index].mean(0)
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    if np.sum(sizes > _TOLERANCE) == 2:
      x, y = directions[:2] @ centred.T
      faces[tuple(index)] = index[np.argsort(np.arctan2(y, x))].tolist()
  return edges, list(faces.values())


def _unit_rows(rows: np.ndarray) -> np.ndarray:
  norms = np.linalg.norm(rows, axis=1, keepdims=True)
  return rows / np.where(norms > 0, norms, 1)


# The picture.


def draw_polytopes(
    path: str | os.PathLike,
    games: Sequence[Game],
    selected: Sequence[Selected],
    exact: Sequence[Selected] | None = None,
    note: str = "",
) -> None:
  """Figure 1 of Marris et al. (2022): equilibrium polytopes on the joint simplex, and selections.

  Args:
    path: file of the picture.
    games: one column each. CEs and CCEs of these games are the same, since every player has two
      strategies.
    selected: the equilibria to mark, one item for each game.
    exact: the equilibria that `selected` approximates. A dot marks each one that differs.
    note: text for the foot of the picture.
  """
  foot = 0.28 * (note.count("\n") + 1 if note else 0)  # inches
  fig = figure.Figure(figsize=(3 * len(games), 5.2 + foot))
  height = fig.get_figheight()
  for i, (game, chosen) in enumerate(zip(games, selected)):
    width = 1 / len(games)
    _write_payoffs(fig, game, (i + 0.5) * width)
    ax = fig.add_axes((i * width, (0.9 + foot) / height, width, 2.9 / height))
    _draw_panel(ax, game, chosen, None if exact is None else exact[i])
  fig.legend(
      handles=_legend(with_exact=exact is not None), loc="lower center", ncols=3, fontsize=SIZE,
      frameon=False, bbox_to_anchor=(0.5, foot / height), columnspacing=1.2, handletextpad=0.5,
  )
  if note:
    fig.text(0.5, 0.1 / height, note, ha="center", va="bottom", fontsize=SIZE, color="0.25")
  fig.savefig(path, dpi=DPI, facecolor="white")


def _legend(with_exact: bool) -> list[lines.Line2D | patches.Patch]:
  """Entries of the legend, drawn as `_draw_panel` draws what they stand for."""

  def mark(marker: str, colour: str, label: str) -> lines.Line2D:
    style: dict[str, Any] = {"ls": "", "ms": 8, "mew": 1.8, "markerfacecolor": "none"}
    return lines.Line2D([], [], marker=marker, color=colour, label=label, **style)

  handles: list[lines.Line2D | patches.Patch] = [
      patches.Patch(facecolor=_FACE, alpha=0.6, label="all equilibria (CE and CCE)"),
      mark("+", "black", "maximum entropy"),
      mark("x", ACCENT, "maximum welfare"),
      mark("o", GREEN, "nearest to a pure joint"),
      lines.Line2D([], [], color=GREEN, ls=":", label="from that pure joint"),
  ]
  if with_exact:
    label = "exact, where it differs"
    handles.append(lines.Line2D([], [], marker="o", color="0.15", ls="", ms=4, label=label))
  return handles


def _write_payoffs(fig: figure.Figure, game: Game, centre: float) -> None:
  """Writes the name of a game and its payoff table: player 1 has the rows, player 2 the columns."""
  height = fig.get_figheight()
  heights = [1 - inches / height for inches in (0.24, 0.55, 0.8, 1.05)]
  columns = centre - 0.055, centre + 0.01, centre + 0.095
  fig.text(centre, heights[0], game.name, ha="center", va="center", fontsize=14, weight="bold")
  font: dict[str, Any] = {"va": "center", "fontsize": SIZE}
  name = {**font, "style": "italic"}
  for j in range(2):
    fig.text(columns[1 + j], heights[1], game.strategies[1][j], ha="center", **name)
  for i in range(2):
    fig.text(columns[0], heights[2 + i], game.strategies[0][i], ha="right", **name)
    for j in range(2):
      pair = f"{game.payoffs[0, i, j]:g}, {game.payoffs[1, i, j]:g}"
      fig.text(columns[1 + j], heights[2 + i], pair, ha="center", **font)


def _projection(azimuth: float, elevation: float) -> np.ndarray:
  """Parallel projection [3, 3]: `points @ it` has the coordinates right, up, towards the viewer."""
  a, e = np.radians([azimuth, elevation])
  right = [-np.sin(a), np.cos(a), 0]
  up = [-np.sin(e) * np.cos(a), -np.sin(e) * np.sin(a), np.cos(e)]
  towards = [np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)]
  return np.array([right, up, towards]).T


def _draw_panel(ax: axes.Axes, game: Game, chosen: Selected, exact: Selected | None) -> None:
  """Draws the simplex, the polytope and the marks of one game."""
  seen = _CORNERS @ _projection(game.azimuth, game.elevation)
  corners, back = seen[:, :2], int(np.argmin(seen[:, 2]))
  _draw_polytope(ax, game, corners, back)
  _name_corners(ax, game, corners, back)
  for corner, joint in zip(corners, np.reshape(chosen.nearest_pure, (4, 4))):
    point = joint @ corners
    ax.plot(*np.stack([corner, point]).T, color=GREEN, lw=1.1, ls=":", zorder=5)
    _draw_mark(ax, point, "o", GREEN, 8.5)
  _draw_mark(ax, np.ravel(chosen.max_welfare) @ corners, "x", ACCENT, 7)
  _draw_mark(ax, np.ravel(chosen.max_entropy) @ corners, "+", "black", 9.5)
  for approximate, known in zip(chosen, exact or ()):
    for joint, wanted in zip(np.reshape(approximate, (-1, 4)), np.reshape(known, (-1, 4))):
      if np.abs(joint - wanted).max() > _VISIBLE:
        ends = np.stack([joint, wanted]) @ corners
        ax.plot(*ends.T, color="0.15", lw=0.8, zorder=5.5)
        ax.plot(*ends[1], ls="", marker="o", ms=4, color="0.15", zorder=5.5)
  ax.set_aspect("equal")
  ax.set(xlim=(-1.2, 1.2), ylim=(-0.95, 1.2))
  ax.set_axis_off()


def _draw_polytope(ax: axes.Axes, game: Game, corners: np.ndarray, back: int) -> None:
  """Draws the edges of the simplex and, within it, the polytope of all equilibria.

  Args:
    ax: the panel.
    game: the game.
    corners: [4, 2] projected corners of the simplex.
    back: index of the corner that is furthest from the viewer; its edges are dashed.
  """
  rows = ce_constraints(game.payoffs)
  joints = extreme_points(rows)
  edges, faces = edges_and_faces(rows, joints)
  points = joints @ corners  # [V, 2]
  for i, j in itertools.combinations(range(4), 2):
    style = (0, (5, 4)) if back in (i, j) else "-"
    ax.plot(*corners[[i, j]].T, color="0.62", lw=0.9, ls=style, zorder=1)
  for face in faces:
    ax.add_patch(patches.Polygon(points[face], facecolor=_FACE, alpha=0.3, lw=0, zorder=2))
  for i, j in edges:
    ax.plot(*points[[i, j]].T, color=_EDGE, lw=1.1, zorder=3)
  ax.plot(*points.T, ls="", marker="o", ms=3, color=_EDGE, zorder=4)


def _name_corners(ax: axes.Axes, game: Game, corners: np.ndarray, back: int) -> None:
  """Writes the joint strategy at each corner of the simplex; arguments as in `_draw_polytope`."""
  for k, (i, j) in enumerate(itertools.product(range(2), range(2))):
    name = f"{game.strategies[0][i]}, {game.strategies[1][j]}"
    x, y = corners[k]
    above = k in (0, back)
    half = 0.036 * len(name)  # about half of the text's width
    ax.text(
        np.clip(x, half - 1.2, 1.2 - half), y + (0.09 if above else -0.1), name, fontsize=SIZE,
        ha="center", va="bottom" if above else "top", color="0.25", zorder=3.5,
        bbox={"facecolor": "white", "alpha": 0.7, "lw": 0, "pad": 0.5},
    )


def _draw_mark(ax: axes.Axes, point: np.ndarray, marker: str, colour: str, size: float) -> None:
  ax.plot(
      *point, marker=marker, ms=size, mew=1.8, color=colour, ls="", zorder=6,
      markerfacecolor="none",
  )
