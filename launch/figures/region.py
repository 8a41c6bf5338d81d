"""Picture of the payoffs that two players can have at equilibria."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import axes, figure
import matplotlib.patheffects
import numpy as np

from launch.figures.style import COLOURS, PURPLE, SIZE, tidy
from nes_jax.region import Region

# Regions with more joint strategies have smaller dots.
_MANY = 30
# Marker, size, colour and whether it is filled, of selected equilibria in the order in which these
# are given. The last two are hollow, so that the first two are seen within them.
_MARKS: tuple[tuple[str, float, str, bool], ...] = (
    ("P", 10, "black", True), ("*", 16, "black", True), ("o", 16, PURPLE, False),
    ("s", 17, PURPLE, False),
)
# Opacity of an inner hull.
_OPACITY = 0.3


def draw(
    regions: Region | Mapping[str, Region],
    marks: Mapping[str, Sequence[float] | np.ndarray] | None = None,
    *,
    title: str = "",
    axes_names: tuple[str, str] = ("payoff of player 1", "payoff of player 2"),
) -> figure.Figure:
  """Inner hulls filled, outer hulls as lines, and the payoffs of joint strategies as dots.

  The title, the axes and the legend name what is drawn; save it with `savefig`.

  Args:
    regions: a region of one game, as `nes_jax.region.payoffs` returns it; or several regions of
      that game by their labels, the largest first. "CCE" and "CE" have their usual colours.
    marks: payoffs [2] of selected equilibria, by their labels; at most four.
    title: text above the panel.
    axes_names: texts beside the axes.

  Returns:
    The figure.

  Raises:
    ValueError: a region is that of a batch, or there are too many marks.
  """
  if isinstance(regions, Region):
    regions = {"equilibria": regions}
  marks = marks or {}
  if len(marks) > len(_MARKS):
    raise ValueError(f"{len(marks)} marks are given: at most {len(_MARKS)} can be told apart")
  fig = figure.Figure(figsize=(9, 6))
  ax = fig.add_subplot()
  pure = _pure(regions)
  for place, (label, found) in enumerate(regions.items()):
    _draw_region(ax, label, found, COLOURS.get(label.lower(), COLOURS["cce"]), zorder=2 + place)
  dot = 7.5 if len(pure) <= _MANY else 4.5
  ax.plot(*pure.T, ls="", marker="o", ms=dot, color="0.45", mec="white", mew=0.8, zorder=6,
          label="joint strategies")
  for (label, point), (marker, size, colour, filled) in zip(marks.items(), _MARKS):
    edge: dict[str, Any] = {"mec": "white", "mew": 1.2}
    if not filled:
      edge = {"mfc": "none", "mec": colour, "mew": 2.0}
    ax.plot(*point, ls="", marker=marker, ms=size, color=colour, zorder=8, label=label,
            clip_on=False, **edge)
  ax.set_xlabel(axes_names[0], fontsize=SIZE)
  ax.set_ylabel(axes_names[1], fontsize=SIZE)
  ax.set_title(title, fontsize=SIZE + 2, weight="bold", loc="left", pad=12)
  ax.grid(color="0.92", lw=0.8, zorder=0)
  ax.set_axisbelow(True)
  ax.margins(0.06)
  tidy(ax)
  ax.legend(fontsize=SIZE, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5),
            handletextpad=0.6, labelspacing=0.8)
  fig.tight_layout()
  return fig


def _pure(regions: Mapping[str, Region]) -> np.ndarray:
  """Payoffs [n, 2] of the joint strategies. Raises ValueError for a batch."""
  if not regions:
    raise ValueError("no region is given")
  for label, found in regions.items():
    if found.inner.ndim != 2:
      raise ValueError(
          f"region {label!r} is that of a batch of {len(found.inner)} games: pick one, for example"
          " by jax.tree.map(lambda x: x[0], region)"
      )
  return next(iter(regions.values())).pure


def _draw_region(ax: axes.Axes, label: str, found: Region, colour: str, zorder: int) -> None:
  """The two hulls of one region, which look like a line or a dot where the set is flat."""
  inner, outer = found.inner[: found.inner_corners], found.outer[: found.outer_corners]
  spread = np.ptp(found.pure, 0)
  if (np.ptp(inner, 0) <= 1e-6 * np.where(spread > 0, spread, 1)).all():
    ax.plot(*inner[0], ls="", marker="o", ms=17, mfc="none", mec=colour, mew=2.2, zorder=7,
            label=f"{label}: one point")
    return
  # White below the colour keeps it from mixing with that of a region behind.
  ax.fill(*inner.T, facecolor="white", alpha=0.8, lw=0, zorder=zorder)
  ax.fill(*inner.T, facecolor=colour, alpha=_OPACITY, lw=0, zorder=zorder + 0.1,
          label=f"{label}, attained (inner hull)")
  halo: list[Any] = [matplotlib.patheffects.withStroke(linewidth=3.2, foreground="white")]
  ring = np.vstack([outer, outer[:1]])
  ax.plot(*ring.T, color=colour, lw=1.6, zorder=zorder + 0.5, path_effects=halo,
          solid_joinstyle="round", label=f"{label}, bound (outer hull)")
