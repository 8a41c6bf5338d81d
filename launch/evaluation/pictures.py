"""Pictures of Figures 3 and 4."""

from collections.abc import Mapping, Sequence
import math
import os
from typing import NamedTuple

from matplotlib import axes, figure, lines, patches, ticker

from launch.evaluation import classes, curves, measure
from launch.figures.style import (
  ACCENT,
  BLUE,
  COLOURS,
  DPI,
  GREEN,
  ORANGE,
  PURPLE,
  RED,
  SIZE,
  shade_rows,
  tidy,
)
from nes_jax.training import shape_name

# Smaller gaps are drawn at this value.
_FLOOR = 1e-8
# Colour of the band for uniform play.
_BAND = "0.78"
# Colours of the curves of a panel, in their order.
_WHEEL = (BLUE, ORANGE, GREEN, RED, PURPLE, "#8a6d00", "#2f9aa0", "#7a7a7a")
# Labels of ticks of times, by the exponent of ten microseconds.
_UNITS = {0: "1 μs", 1: "10 μs", 2: "0.1 ms", 3: "1 ms", 4: "10 ms", 5: "0.1 s", 6: "1 s"}

# Rows of the table by class and method.
Rows = Mapping[tuple[str, str], classes.Row]


class _Style(NamedTuple):
  """The way in which a method is drawn."""

  label: str
  colour: str
  face: str  # colour of the marker's inside
  shift: float = 0.0  # vertical shift within the row of a class


# Figure 4.


def draw_classes(path: str | os.PathLike, rows: Sequence[classes.Row], concept: str) -> None:
  """Figure 4 for one concept: for each class the worst, mean and best game of each method.

  Args:
    path: file of the picture.
    rows: the rows of `classes.summary`.
    concept: "cce" or "ce"; rows of the other concept are left out.
  """
  found = {(row.name, row.method): row for row in rows if row.concept == concept}
  names = [name for name in classes.CLASSES if (name, "uniform") in found]
  styles = {
      method: style for method, style in _styles(concept).items()
      if any((name, method) in found for name in names)
  }
  fig = figure.Figure(figsize=(9, 2.3 + 0.33 * len(names)))
  panels = fig.subplots(1, 4, sharey=True, width_ratios=(1.35, 1.35, 0.75, 0.95))
  titles = f"{concept.upper()} gap", "solver gap", "ECOS fails", "time per game"
  gaps, distances = "standard deviations\nof the payoffs", "half L1 distance\nto the equilibrium"
  for ax, title, unit in zip(panels, titles, (gaps, distances, "% of games", "")):
    ax.set_title(title, fontsize=SIZE, weight="bold", color=COLOURS[concept])
    ax.set_xlabel(unit, fontsize=SIZE)
    tidy(ax)
    shade_rows(ax, len(names))
  _draw_spreads(panels[0], names, found, styles, "gap")
  _draw_spreads(panels[1], names, found, styles, "solver_gap")
  _draw_failures(panels[2], names, found)
  _draw_times(panels[3], names, found, styles)
  panels[0].set_yticks(range(len(names)), names, fontsize=SIZE)
  panels[0].set_ylim(len(names) - 0.4, -0.6)
  fig.legend(
      handles=_legend(styles), loc="upper center", ncols=3, fontsize=SIZE, frameon=False,
      columnspacing=1.4, handletextpad=0.5,
  )
  fig.tight_layout(rect=(0, 0, 1, 1 - 0.62 / fig.get_figheight()), w_pad=0.6)
  fig.savefig(path, dpi=DPI, facecolor="white")


def _styles(concept: str) -> dict[str, _Style]:
  """The styles of all methods but uniform play, which is a band."""
  colour = COLOURS[concept]
  return {
      "neural": _Style("network", ACCENT, ACCENT, -0.27),
      "refined": _Style("network, then exact steps", colour, "white"),
      "exact": _Style("exact engine", colour, colour, 0.27),
      "ecos": _Style("ECOS", PURPLE, PURPLE),
  }


def _legend(styles: Mapping[str, _Style]) -> list[lines.Line2D | patches.Patch]:
  handles: list[lines.Line2D | patches.Patch] = [
      lines.Line2D([], [], color=s.colour, marker="o", ms=5, markerfacecolor=s.face, label=s.label,
                   ls="" if method == "ecos" else "-")
      for method, s in styles.items()
  ]
  return [*handles, patches.Patch(facecolor=_BAND, label="uniform play")]


def _draw_spreads(
    ax: axes.Axes, names: Sequence[str], found: Rows, styles: Mapping[str, _Style], what: str
) -> None:
  """Draws a line from the best to the worst game with a dot at the mean; uniform play as a band.

  Args:
    ax: the panel.
    names: classes in the order of the rows.
    found: the results.
    styles: the methods to draw.
    what: "gap" or "solver_gap".
  """
  for row, name in enumerate(names):
    best, mean, worst = _clipped(getattr(found[name, "uniform"], what))
    ax.fill_betweenx([row - 0.44, row + 0.44], best, worst, color=_BAND, lw=0, zorder=1)
    ax.plot([mean] * 2, [row - 0.44, row + 0.44], color="0.45", lw=1.4, zorder=2)
    for method, style in styles.items():
      if method == "ecos" or (name, method) not in found:
        continue
      best, mean, worst = _clipped(getattr(found[name, method], what))
      y = row + style.shift
      ax.hlines(y, best, worst, color=style.colour, lw=1.3, zorder=3)
      ax.plot(
          mean, y, marker="o", ms=4.5, mew=1.2, color=style.colour, markerfacecolor=style.face,
          zorder=4,
      )
  ax.set(xscale="log", xlim=(_FLOOR / 4, 40 if what == "gap" else 2))
  ax.set_xticks([_FLOOR, 1e-4, 1.0], ["$\\leq 10^{-8}$", "$10^{-4}$", "$10^{0}$"])
  ax.minorticks_off()
  ax.axvline(_FLOOR, color="0.75", lw=0.8, ls=":", zorder=0)


def _clipped(spread: measure.Spread) -> tuple[float, float, float]:
  """Best, mean and worst value, each at least _FLOOR."""
  return max(spread.best, _FLOOR), max(spread.mean, _FLOOR), max(spread.worst, _FLOOR)


def _draw_failures(ax: axes.Axes, names: Sequence[str], found: Rows) -> None:
  """Draws the percentage of games that ECOS did not solve."""
  reference = [found.get((name, "ecos")) for name in names]
  percent = [0 if row is None else 100 * (row.failed or 0) / row.games for row in reference]
  ax.barh(range(len(names)), percent, height=0.55, color=PURPLE)
  ax.set_xlim(0, max(10, 1.08 * max(percent)))
  if not any(reference):
    ax.text(
        0.5, 0.5, "not\ninstalled", transform=ax.transAxes, ha="center", fontsize=SIZE, color="0.4"
    )


def _draw_times(
    ax: axes.Axes, names: Sequence[str], found: Rows, styles: Mapping[str, _Style]
) -> None:
  """Draws the microseconds per game of each method, on a logarithmic axis from 1."""
  times = []
  for row, name in enumerate(names):
    for method, style in styles.items():
      if (name, method) in found:
        times.append(max(found[name, method].us_game, 1))
        ax.plot(
            times[-1], row, marker="o", ms=5, mew=1.2, color=style.colour,
            markerfacecolor=style.face,
        )
  ax.set_xscale("log")
  low, high = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))
  ax.set_xlim(10.0**low / 1.5, 10.0**high * 1.5)
  ticks = [e for e in (1, 3, 5) if low <= e <= high] or [low]
  ax.set_xticks([10.0**e for e in ticks], [_UNITS[e] for e in ticks])
  ax.minorticks_off()


# Figure 3.


def draw_curves(path: str | os.PathLike, learned: Sequence[curves.Learned]) -> None:
  """Figure 3: the solver gap over updates; lines are means over seeds, and bands are ranges.

  Args:
    path: file of the picture.
    learned: the data of `curves.learned`.
  """
  fig = figure.Figure(figsize=(9, 9.2))
  panels = fig.subplots(2, 2, sharey=True)
  for ax, panel, letter in zip(panels.flat, curves.PANELS, "abcd"):
    _draw_panel(ax, panel, letter, [one for one in learned if one.curve.panel == panel])
  lowest = min(one.solver_gap.min() for one in learned)
  highest = max(one.solver_gap.max() for one in learned)
  panels[0, 0].set(yscale="log", ylim=(lowest / 1.1, highest * 1.1))
  ticks = [digit * 10.0**e for e in range(-5, 1) for digit in (1, 2, 5)]
  ticks = [tick for tick in ticks if lowest / 1.1 < tick < highest * 1.1]
  panels[0, 0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
  for ax in panels.flat:
    ax.minorticks_off()
    ax.tick_params(axis="x", labelbottom=True)
  for ax in panels[:, 0]:
    ax.set_ylabel("solver gap", fontsize=SIZE)
  fig.tight_layout(h_pad=1.5)
  fig.savefig(path, dpi=DPI, facecolor="white")


def _draw_panel(
    ax: axes.Axes, panel: str, letter: str, learned: Sequence[curves.Learned]
) -> None:
  """Draws the curves of one panel, with their legend below it."""
  for colour, one in zip(_WHEEL, learned):
    ax.plot(one.steps, one.solver_gap.mean(0), color=colour, lw=1.8, label=one.curve.label)
    low, high = one.solver_gap.min(0), one.solver_gap.max(0)
    ax.fill_between(one.steps, low, high, color=colour, alpha=0.2, lw=0)
  shape = shape_name(learned[0].curve.training.shapes[0])
  title = {
      "selection": f"({letter}) {shape} CCE, by selection",
      "shape": f"({letter}) MECCE, by shape",
      "concept": f"({letter}) {shape}, by concept",
      "ablation": f"({letter}) {shape} MECCE, ablations",
  }[panel]
  ax.set_title(title, fontsize=SIZE, weight="bold", loc="left")
  ax.set_xlabel("updates", fontsize=SIZE)
  ax.set_xlim(0, max(one.steps[-1] for one in learned))
  ax.xaxis.set_major_locator(ticker.MaxNLocator(4, integer=True))
  ax.grid(color="0.9", lw=0.8)
  tidy(ax)
  ax.legend(
      fontsize=SIZE, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.17),
      ncols=1 if panel == "ablation" else 3, columnspacing=1.0, handlelength=1.2,
      handletextpad=0.4, labelspacing=0.25,
  )
