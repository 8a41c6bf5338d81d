"""Picture of how classes of games were solved.

Glossary: C classes of games.
"""

from collections.abc import Mapping, Sequence
import os
from typing import Any, NamedTuple

from matplotlib import axes, figure, lines
import numpy as np

from launch.figures.style import ACCENT, COLOURS, DPI, SIZE, shade_rows, tidy

CONCEPTS = ("cce", "ce")
# Vertical shift of a precision's marks within the row of a class.
_SHIFTS = {"float64": -0.17, "float32": 0.17}


class ByClass(NamedTuple):
  """Results of each class, with one concept and one precision; arrays are [C]."""

  games: np.ndarray  # number of games
  converged: np.ndarray  # number of games that converged
  repeated: np.ndarray  # number of games that were solved again in float64
  gap_mean: np.ndarray  # in standard deviations of the payoffs
  gap_worst: np.ndarray
  iterations_mean: np.ndarray
  iterations_max: np.ndarray


def draw_classes(
    path: str | os.PathLike,
    classes: Sequence[str],
    results: Mapping[tuple[str, str], ByClass],
    uniform: Mapping[str, np.ndarray],
    floor: float = 1e-16,
) -> None:
  """Gaps and iterations by class, CCE beside CE; classes with the most iterations at the bottom.

  Args:
    path: file of the picture.
    classes: names of the C classes.
    results: by concept ("cce", "ce") and precision ("float64", "float32").
    uniform: by concept, the mean gap of uniform play [C], in standard deviations of the payoffs.
    floor: smaller gaps are drawn at this value.
  """
  order = np.argsort(sum(results[concept, "float64"].iterations_mean for concept in CONCEPTS))
  fig = figure.Figure(figsize=(9, 2.1 + 0.27 * len(classes)))
  panels = fig.subplots(1, 4, sharey=True, width_ratios=(1.25, 1.25, 1, 1))
  for i, concept in enumerate(CONCEPTS):
    gaps, steps = panels[i], panels[2 + i]
    for precision in _SHIFTS:
      result = ByClass(*(np.asarray(x)[order] for x in results[concept, precision]))
      ends = np.maximum(result.gap_mean, floor), np.maximum(result.gap_worst, floor)
      _draw_ranges(gaps, *ends, concept, precision)
      _draw_ranges(steps, result.iterations_mean, result.iterations_max, concept, precision)
      _count_unconverged(steps, result, precision)
    naive = np.maximum(np.asarray(uniform[concept])[order], floor)
    gaps.plot(naive, range(len(classes)), ls="", marker="D", ms=5, color="0.6", zorder=1)
    for ax, title in ((gaps, "gap"), (steps, "steps")):
      title = f"{concept.upper()} {title}"
      ax.set_title(title, fontsize=SIZE, weight="bold", color=COLOURS[concept])
  for ax in panels:
    tidy(ax)
    shade_rows(ax, len(classes))
  _scale_gaps(panels[:2], floor)
  _scale_steps(panels[2:], max(float(np.max(r.iterations_max)) for r in results.values()))
  panels[0].set_yticks(range(len(classes)), [classes[i] for i in order], fontsize=SIZE)
  panels[0].set_ylim(len(classes) - 0.4, -0.6)
  fig.legend(handles=_legend(), loc="upper center", ncols=2, fontsize=SIZE, frameon=False)
  fig.tight_layout(rect=(0, 0, 1, 1 - 0.6 / fig.get_figheight()), w_pad=0.9)
  fig.savefig(path, dpi=DPI, facecolor="white")


def _draw_ranges(
    ax: axes.Axes, mean: np.ndarray, worst: np.ndarray, concept: str, precision: str
) -> None:
  """Draws a line from the mean [C] to the worst game [C] of each class."""
  y, colour = np.arange(len(mean)) + _SHIFTS[precision], COLOURS[concept]
  face = colour if precision == "float64" else "white"
  ax.hlines(y, mean, worst, color=colour, lw=1.1, zorder=2)
  ax.plot(worst, y, ls="", marker="|", ms=5, mew=1.3, color=colour, zorder=2)
  ax.plot(
      mean, y, ls="", marker="o", ms=4.2, mew=1.1, color=colour, markerfacecolor=face, zorder=3
  )


def _count_unconverged(ax: axes.Axes, result: ByClass, precision: str) -> None:
  """Writes how many games of a class did not converge, beside the worst game."""
  missing = result.games - result.converged
  for row in np.flatnonzero(missing):
    ax.annotate(
        f"{missing[row]}", (result.iterations_max[row], row + _SHIFTS[precision]), (5, 0),
        textcoords="offset points", va="center", fontsize=SIZE, color=ACCENT, weight="bold",
    )


def _scale_gaps(panels: Sequence[axes.Axes], floor: float) -> None:
  """Sets logarithmic axes for gaps; the lowest tick stands for everything down to 0."""
  exponents = (-8, 0)
  labels = [f"$\\leq 10^{{{np.log10(floor):.0f}}}$", *(f"$10^{{{e}}}$" for e in exponents)]
  for ax in panels:
    ax.set_xscale("log")
    ax.set_xlim(floor / 8, 40)
    ax.set_xticks([floor] + [10.0**e for e in exponents], labels)
    ax.minorticks_off()
    ax.axvline(floor, color="0.75", lw=0.8, ls=":", zorder=0)
    ax.set_xlabel("standard deviations\nof the payoffs", fontsize=SIZE)


def _scale_steps(panels: Sequence[axes.Axes], most: float) -> None:
  """Sets logarithmic axes for iterations up to `most`."""
  known = (5, 20, 50) if most < 100 else (5, 20, 100, 500)
  ticks = [t for t in known if t <= 1.4 * most]
  for ax in panels:
    ax.set_xscale("log")
    ax.set_xlim(3, 1.9 * max(most, 10))
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    ax.set_xlabel("Newton steps\nper game", fontsize=SIZE)


def _legend() -> list[lines.Line2D]:
  """Entries of the legend."""
  style: dict[str, Any] = {"color": "0.15", "marker": "o", "ms": 5}
  return [
      lines.Line2D([], [], label="float64: mean to worst game", **style),
      lines.Line2D([], [], label="float32: mean to worst game", markerfacecolor="white", **style),
      lines.Line2D([], [], color="0.6", marker="D", ms=5, ls="", label="uniform play, mean gap"),
      lines.Line2D([], [], color=ACCENT, marker="$n$", ms=6, ls="", label="n games not converged"),
  ]
