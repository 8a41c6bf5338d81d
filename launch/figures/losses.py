"""Picture of a comparison of losses: errors of networks over updates."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import figure

from launch.figures.style import BLUE, GREEN, ORANGE, SIZE, tidy

# Colours of the ways to train, in the order in which they first appear.
_COLOURS = (BLUE, ORANGE, GREEN)
# Names of the problems in titles.
_TITLES = {"cce": "CCE", "ce": "CE", "all": "CCE, all inputs"}


def draw(curves: Mapping[Any, Sequence[tuple[float, float]]]) -> figure.Figure:
  """Draws a panel for each problem and size, with a line for each way to train.

  Args:
    curves: pairs of updates and mean solver gap, for keys with the fields problem, size and way.

  Returns:
    The figure; save it with `savefig`.

  Raises:
    ValueError: there is no curve.
  """
  if not curves:
    raise ValueError("there are no curves: give one or more")
  problems = list(dict.fromkeys(key.problem for key in curves))
  sizes = list(dict.fromkeys(key.size for key in curves))
  ways = list(dict.fromkeys(key.way for key in curves))
  fig = figure.Figure(
      figsize=(3.6 * len(sizes) + 0.6, 2.8 * len(problems) + 0.6), layout="constrained"
  )
  panels = fig.subplots(len(problems), len(sizes), squeeze=False, sharex=True, sharey="row")
  for key, points in curves.items():
    ax = panels[problems.index(key.problem)][sizes.index(key.size)]
    colour = _COLOURS[ways.index(key.way) % len(_COLOURS)]
    ax.plot(*zip(*points), color=colour, label=key.way)
    ax.set_title(f"{_TITLES.get(key.problem, key.problem)} {key.size}x{key.size}", fontsize=SIZE,
                 loc="left")
    ax.set_yscale("log")
    tidy(ax)
  for row in panels:
    row[0].set_ylabel("solver gap", fontsize=SIZE)
  for ax in panels[-1]:
    ax.set_xlabel("updates", fontsize=SIZE)
  for ax in panels.flat:
    if not ax.lines:
      ax.set_axis_off()
  panels[0][0].legend(fontsize=SIZE, frameon=False)
  return fig
