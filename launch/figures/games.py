"""Pictures: equilibrium polytopes of 2x2 games, and how classes of games were solved.

  C  classes of games
  V  extreme points (vertices) of a polytope
"""

from collections.abc import Mapping, Sequence
import itertools
from typing import NamedTuple

from matplotlib import axes, figure, lines, patches
import numpy as np

# Points. In a picture 9 inches wide, shown at the 830 pixels of a README, as large as its text.
SIZE = 12.5
DPI = 200
_TOLERANCE = 1e-9
# Largest difference of joints that a picture does not show.
_SEEN = 0.01
COLOURS = {"cce": "#1f5fa8", "ce": "#b8501a"}
ACCENT = "#b3123a"
_GREEN = "#0b6b3a"
_FACE = "#6f9bd1"
_EDGE = "#1f3f6e"
# The corners of the joint simplex, one for each joint strategy of a 2x2 game, at distance 1 from
# its centre: [4, 3].
_CORNERS = np.array(
    [[0, 0, 1], [8**0.5 / 3, 0, -1 / 3], [-(2**0.5) / 3, (2 / 3) ** 0.5, -1 / 3],
     [-(2**0.5) / 3, -((2 / 3) ** 0.5), -1 / 3]]
)


# Polytopes.


def ce_constraints(payoffs: np.ndarray) -> np.ndarray:
  """The rows of a CE's inequalities, `rows @ joint.ravel() >= 0`: positivity, then incentives.

  Args:
    payoffs: [N, A1, ..., AN].

  Returns:
    [K, |A|] with K = |A| + sum_p Ap (Ap - 1).
  """
  payoffs = np.asarray(payoffs, np.float64)
  shape = payoffs.shape[1:]
  rows = list(np.eye(int(np.prod(shape))))
  for p, count in enumerate(shape):
    own = np.moveaxis(payoffs[p], p, 0)  # [Ap, others...]
    for recommended, deviation in itertools.permutations(range(count), 2):
      row = np.zeros_like(own)
      row[recommended] = own[recommended] - own[deviation]
      rows.append(np.moveaxis(row, 0, p).ravel())
  return np.stack(rows)


def extreme_points(rows: np.ndarray) -> np.ndarray:
  """Basic feasible solutions of `rows @ x >= 0, sum x = 1`: every way of making n - 1 rows tight.

  Meant for polytopes as small as those of 2x2 games: the ways are counted by K choose n - 1.

  Args:
    rows: [K, n].

  Returns:
    [V, n], in lexicographic order, without repetition.
  """
  rows = _unit_rows(rows)
  size = rows.shape[1]
  right = np.append(np.zeros(size - 1), 1.0)
  found = []
  for tight in itertools.combinations(range(len(rows)), size - 1):
    basis = np.vstack([rows[list(tight)], np.ones(size)])
    if np.linalg.matrix_rank(basis, tol=_TOLERANCE) < size:
      continue
    point = np.linalg.solve(basis, right)
    new = all(np.abs(point - other).max() > _TOLERANCE for other in found)
    if new and (rows @ point).min() > -_TOLERANCE:
      found.append(np.abs(point))  # no -0.0
  return np.array(sorted(found, key=tuple)).reshape(-1, size)


def edges_and_faces(rows: np.ndarray, points: np.ndarray) -> tuple[list, list]:
  """What to draw of a polytope of at most three dimensions.

  Two extreme points share an edge if the rows tight on both leave one dimension; a face is what
  lies on one tight row and spans a plane. Flat polytopes need no special case.

  Args:
    rows: [K, 4] as in `extreme_points`.
    points: [V, 4] its extreme points.

  Returns:
    Pairs of indices into points; lists of indices, each going round a face.
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


class Game(NamedTuple):
  """A 2x2 game to draw."""

  name: str
  strategies: tuple[tuple[str, str], tuple[str, str]]  # of player 1 (rows), of player 2 (columns)
  payoffs: np.ndarray  # [2, 2, 2]
  azimuth: float = -15.0  # degrees; from where the simplex is seen
  elevation: float = 26.0


class Selected(NamedTuple):
  """Equilibria selected in one 2x2 game; NaN: there is none to show."""

  max_entropy: np.ndarray  # [2, 2] joint
  max_welfare: np.ndarray  # [2, 2] joint
  nearest_pure: np.ndarray  # [4, 2, 2] joints, one for each pure joint as the target


def draw_polytopes(
    path: str,
    games: Sequence[Game],
    selected: Sequence[Selected],
    exact: Sequence[Selected] | None = None,
    note: str = "",
) -> None:
  """Figure 1 of Marris et al. (2022): (C)CE polytopes on the joint simplex, and selections.

  Args:
    path: of the picture.
    games: their CE and CCE are the same, having two strategies a player.
    selected: of each game.
    exact: what `selected` approximates, for a dot each; None: nothing.
    note: for the foot of the picture.
  """
  foot = 0.28 * (note.count("\n") + 1 if note else 0)  # inches
  fig = figure.Figure(figsize=(3 * len(games), 5.2 + foot))
  high = fig.get_figheight()
  for i, (game, chosen) in enumerate(zip(games, selected)):
    width = 1 / len(games)
    _payoff_table(fig, game, (i + 0.5) * width)
    place = fig.add_axes([i * width, (0.9 + foot) / high, width, 2.9 / high])
    _draw_polytope(place, game, chosen, None if exact is None else exact[i])
  handles = [
      patches.Patch(facecolor=_FACE, alpha=0.6, label="all equilibria (CE and CCE)"),
      _mark("+", "black", "maximum entropy"),
      _mark("x", ACCENT, "maximum welfare"),
      _mark("o", _GREEN, "nearest to a pure joint"),
      lines.Line2D([], [], color=_GREEN, ls=":", label="from that pure joint"),
  ]
  if exact is not None:
    handles.append(_dot("0.15", "exact, where it differs"))
  fig.legend(
      handles=handles, loc="lower center", ncols=3, fontsize=SIZE, frameon=False,
      bbox_to_anchor=(0.5, foot / high), columnspacing=1.2, handletextpad=0.5,
  )
  if note:
    fig.text(0.5, 0.1 / high, note, ha="center", va="bottom", fontsize=SIZE, color="0.25")
  fig.savefig(path, dpi=DPI, facecolor="white")


def _dot(colour: str, label: str) -> lines.Line2D:
  return lines.Line2D([], [], marker="o", color=colour, ls="", ms=4, label=label)


def _mark(marker: str, colour: str, label: str) -> lines.Line2D:
  return lines.Line2D(
      [], [], marker=marker, color=colour, ls="", ms=8, mew=1.8, markerfacecolor="none", label=label
  )


def _payoff_table(fig: figure.Figure, game: Game, centre: float) -> None:
  """The name and, under it, the payoffs as the usual table: rows player 1, columns player 2."""
  high = fig.get_figheight()
  heights = [1 - inches / high for inches in (0.24, 0.55, 0.8, 1.05)]
  columns = centre - 0.055, centre + 0.01, centre + 0.095
  fig.text(centre, heights[0], game.name, ha="center", va="center", fontsize=14, weight="bold")
  font = {"va": "center", "fontsize": SIZE}
  name = {**font, "style": "italic"}
  for j in range(2):
    fig.text(columns[1 + j], heights[1], game.strategies[1][j], ha="center", **name)
  for i in range(2):
    fig.text(columns[0], heights[2 + i], game.strategies[0][i], ha="right", **name)
    for j in range(2):
      pair = f"{game.payoffs[0, i, j]:g}, {game.payoffs[1, i, j]:g}"
      fig.text(columns[1 + j], heights[2 + i], pair, ha="center", **font)


def _projection(azimuth: float, elevation: float) -> np.ndarray:
  """[3, 3]: `points @ it` are to the right, up, and towards the viewer; no perspective."""
  a, e = np.radians([azimuth, elevation])
  right = [-np.sin(a), np.cos(a), 0]
  up = [-np.sin(e) * np.cos(a), -np.sin(e) * np.sin(a), np.cos(e)]
  towards = [np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)]
  return np.array([right, up, towards]).T


def _draw_polytope(
    ax: axes.Axes, game: Game, chosen: Selected, exact: Selected | None
) -> None:
  seen = _CORNERS @ _projection(game.azimuth, game.elevation)
  corners, back = seen[:, :2], int(np.argmin(seen[:, 2]))
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
  for k, (i, j) in enumerate(itertools.product(range(2), range(2))):
    name = f"{game.strategies[0][i]}, {game.strategies[1][j]}"
    x, y = corners[k]
    above = k in (0, back)
    half = 0.036 * len(name)  # of the text's width, about
    ax.text(
        np.clip(x, half - 1.2, 1.2 - half), y + (0.09 if above else -0.1), name, fontsize=SIZE,
        ha="center", va="bottom" if above else "top", color="0.25", zorder=3.5,
        bbox={"facecolor": "white", "alpha": 0.7, "lw": 0, "pad": 0.5},
    )
  for corner, joint in zip(corners, np.reshape(chosen.nearest_pure, (4, 4))):
    point = joint @ corners
    ax.plot(*np.stack([corner, point]).T, color=_GREEN, lw=1.1, ls=":", zorder=5)
    _point(ax, point, "o", _GREEN, 8.5)
  _point(ax, np.ravel(chosen.max_welfare) @ corners, "x", ACCENT, 7)
  _point(ax, np.ravel(chosen.max_entropy) @ corners, "+", "black", 9.5)
  for mine, known in zip(chosen, exact or ()):
    for joint, wanted in zip(np.reshape(mine, (-1, 4)), np.reshape(known, (-1, 4))):
      if np.abs(joint - wanted).max() > _SEEN:
        ends = np.stack([joint, wanted]) @ corners
        ax.plot(*ends.T, color="0.15", lw=0.8, zorder=5.5)
        ax.plot(*ends[1], ls="", marker="o", ms=4, color="0.15", zorder=5.5)
  ax.set_aspect("equal")
  ax.set(xlim=(-1.2, 1.2), ylim=(-0.95, 1.2))
  ax.set_axis_off()


def _point(ax: axes.Axes, point: np.ndarray, marker: str, colour: str, size: float) -> None:
  ax.plot(
      *point, marker=marker, ms=size, mew=1.8, color=colour, ls="", zorder=6,
      markerfacecolor="none",
  )


# Classes of games.


class ByClass(NamedTuple):
  """How the games of each class were solved, with one concept in one precision; arrays are [C]."""

  games: np.ndarray
  converged: np.ndarray  # how many of them
  repeated: np.ndarray  # how many were solved again in float64
  gap_mean: np.ndarray  # normalised units
  gap_worst: np.ndarray
  iterations_mean: np.ndarray
  iterations_max: np.ndarray


def draw_classes(
    path: str,
    classes: Sequence[str],
    results: Mapping[tuple[str, str], ByClass],
    uniform: Mapping[str, np.ndarray],
    floor: float = 1e-16,
) -> None:
  """Gap and iterations by class, CCE beside CE; the classes with most iterations at the bottom.

  Args:
    path: of the picture.
    classes: their C names.
    results: by concept ("cce", "ce") and precision ("float64", "float32").
    uniform: by concept, the mean gap of uniform play [C], normalised units.
    floor: smaller gaps are drawn here.
  """
  order = np.argsort(sum(results[c, "float64"].iterations_mean for c in ("cce", "ce")))
  y = np.arange(len(classes))
  fig = figure.Figure(figsize=(9, 2.1 + 0.27 * len(classes)))
  panels = fig.subplots(1, 4, sharey=True, width_ratios=(1.25, 1.25, 1, 1))
  for i, concept in enumerate(("cce", "ce")):
    colour = COLOURS[concept]
    for precision, shift, face in (("float64", -0.17, colour), ("float32", 0.17, "white")):
      result = ByClass(*(np.asarray(x)[order] for x in results[concept, precision]))
      for ax, kind, mean, worst in (
          (panels[i], "gap", result.gap_mean, result.gap_worst),
          (panels[2 + i], "iterations", result.iterations_mean, result.iterations_max),
      ):
        if kind == "gap":
          mean, worst = np.maximum(mean, floor), np.maximum(worst, floor)
        ax.hlines(y + shift, mean, worst, color=colour, lw=1.1, zorder=2)
        ax.plot(worst, y + shift, ls="", marker="|", ms=5, mew=1.3, color=colour, zorder=2)
        ax.plot(
            mean, y + shift, ls="", marker="o", ms=4.2, mew=1.1, color=colour,
            markerfacecolor=face, zorder=3,
        )
      missing = result.games - result.converged
      for row in np.flatnonzero(missing):
        panels[2 + i].annotate(
            f"{missing[row]}", (result.iterations_max[row], row + shift), (5, 0),
            textcoords="offset points", va="center", fontsize=SIZE, color=ACCENT, weight="bold",
        )
    panels[i].plot(
        np.maximum(np.asarray(uniform[concept])[order], floor), y, ls="", marker="D", ms=5,
        color="0.6", zorder=1,
    )
    for ax, kind in ((panels[i], "gap"), (panels[2 + i], "iterations")):
      ax.set_title(f"{concept.upper()} {kind}", fontsize=SIZE, weight="bold", color=colour)
  exponents = (-8, 0)
  for ax in panels[:2]:
    ax.set_xscale("log")
    ax.set_xlim(floor / 8, 40)
    labels = [f"$10^{{{e}}}$" for e in exponents]
    below = f"$\\leq 10^{{{np.log10(floor):.0f}}}$"
    ax.set_xticks([floor] + [10.0**e for e in exponents], [below, *labels])
    ax.axvline(floor, color="0.75", lw=0.8, ls=":", zorder=0)
    ax.set_xlabel("gain left, std.\ndev. of payoffs", fontsize=SIZE)
  most = max(float(np.max(result.iterations_max)) for result in results.values())
  ticks = [t for t in (5, 20, 100, 500) if t <= 1.4 * most]
  for ax in panels[2:]:
    ax.set_xscale("log")
    ax.set_xlim(3, 1.9 * max(most, 10))
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.set_xlabel("steps a game\n(log scale)", fontsize=SIZE)
  for ax in panels:
    ax.minorticks_off()
    ax.tick_params(labelsize=SIZE, length=3)
    ax.tick_params(axis="y", length=0)
    for row in y[::2]:
      ax.axhspan(row - 0.5, row + 0.5, color="0.955", zorder=-1)
    ax.spines[["top", "right", "left"]].set_visible(False)
  panels[0].set_yticks(y, [classes[i] for i in order], fontsize=SIZE)
  panels[0].set_ylim(len(classes) - 0.4, -0.6)
  handles = [
      lines.Line2D([], [], color="0.15", marker="o", ms=5, label="float64: mean to worst game"),
      lines.Line2D(
          [], [], color="0.15", marker="o", ms=5, markerfacecolor="white",
          label="float32: mean to worst game",
      ),
      lines.Line2D([], [], color="0.6", marker="D", ms=5, ls="", label="uniform play, mean gap"),
      lines.Line2D(
          [], [], color=ACCENT, marker="$n$", ms=6, ls="", label="n games not converged"
      ),
  ]
  fig.legend(handles=handles, loc="upper center", ncols=2, fontsize=SIZE, frameon=False)
  fig.tight_layout(rect=(0, 0, 1, 1 - 0.6 / fig.get_figheight()), w_pad=0.9)
  fig.savefig(path, dpi=DPI, facecolor="white")
