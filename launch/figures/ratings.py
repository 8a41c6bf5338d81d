"""Picture of ratings: agents with intervals and ranks, and the tasks that decide."""

from collections.abc import Mapping, Sequence
import os
from typing import Any

from matplotlib import figure
import numpy as np

from launch.figures.style import BLUE, DPI, ORANGE, SIZE, shade_rows, tidy

# Number of tasks in the picture.
_TASKS = 12


def draw(
    path: str | os.PathLike,
    agents: Sequence[Mapping[str, Any]],
    tasks: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    ranks: np.ndarray | None,
) -> None:
  """Draws agents and their rank probabilities above the best tasks.

  Args:
    path: file of the picture.
    agents: rows with "agent", "rating" and perhaps "low" and "high", the best first.
    tasks: the same with "task"; the first rows are drawn.
    names: names of the agents in the order of the ranks.
    ranks: [agents, agents] probabilities of ranks; None leaves the panel out.
  """
  tasks = tasks[:_TASKS]
  heights = [len(agents), len(tasks)]
  fig = figure.Figure(figsize=(10, 2.4 + 0.34 * sum(heights)))
  grid = fig.add_gridspec(2, 2, height_ratios=heights, width_ratios=(1.6, 1))
  upper = fig.add_subplot(grid[0, 0] if ranks is not None else grid[0, :])
  lower = fig.add_subplot(grid[1, :])
  _draw_rows(upper, [row["agent"] for row in agents], agents, BLUE)
  upper.set_title("Agents: rating and interval", fontsize=SIZE, loc="left")
  _draw_rows(lower, [row["task"] for row in tasks], tasks, ORANGE)
  lower.set_title("Tasks: those that tell the played agents apart", fontsize=SIZE, loc="left")
  lower.set_xlabel("rating (0 is best)", fontsize=SIZE)
  if ranks is not None:
    order = [list(names).index(row["agent"]) for row in agents]
    _draw_ranks(fig.add_subplot(grid[0, 1], sharey=upper), ranks[order])
  fig.tight_layout()
  fig.savefig(path, dpi=DPI)


def _draw_rows(ax, labels: Sequence[str], rows: Sequence[Mapping[str, Any]], colour: str) -> None:
  """One row of a panel for each strategy, the best at the top."""
  places = range(len(rows))
  for y, row in zip(places, rows):
    if np.isfinite([row.get("low", np.nan), row.get("high", np.nan)]).all():
      ax.plot([row["low"], row["high"]], [y, y], color=colour, lw=5, alpha=0.35, zorder=1)
  ax.plot([row["rating"] for row in rows], places, ls="", marker="o", ms=7, color=colour, zorder=2)
  ax.set_yticks(places, labels)
  ax.set_ylim(len(rows) - 0.5, -0.5)
  tidy(ax)
  shade_rows(ax, len(rows))
  ax.axvline(0, color="0.7", lw=1, zorder=0)


def _draw_ranks(ax, ranks: np.ndarray) -> None:
  """Probabilities of ranks as shades, with percentages."""
  count = len(ranks)
  ax.imshow(ranks, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
  for y, x in np.argwhere(ranks >= 0.005):
    dark = ranks[y, x] > 0.6
    ax.text(x, y, f"{100 * ranks[y, x]:.0f}", ha="center", va="center", fontsize=SIZE - 3,
            color="white" if dark else "black")
  ax.set_xticks(range(count), range(1, count + 1))
  tidy(ax)
  ax.tick_params(axis="y", left=False, labelleft=False)
  ax.set_title("Probability of each rank, in %", fontsize=SIZE, loc="left")
