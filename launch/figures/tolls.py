"""Picture of a search for tolls: costs along the descent, and before and after."""

from collections.abc import Sequence
import os
from typing import Any

from matplotlib import figure
import numpy as np

from launch.figures.style import BLUE, DPI, GREEN, RED, SIZE, tidy

_COLOURS = {"best_case": GREEN, "max_entropy": BLUE, "worst_case": RED}
_LABELS = {
    "best_case": "best equilibrium",
    "max_entropy": "largest entropy",
    "worst_case": "worst equilibrium",
}


def draw(
    path: str | os.PathLike, before: Sequence[Any], found: Any, optimum: float
) -> None:
  """Draws the descent of the start that was taken, and the ranges of cost before and after.

  Args:
    path: file of the picture.
    before: rows of `nes_jax.design.evaluate` without tolls.
    found: `nes_jax.design.Design`.
    optimum: smallest social cost of any play.
  """
  fig = figure.Figure(figsize=(10, 4))
  left, right = fig.subplots(1, 2, width_ratios=(2, 1), sharey=True)
  for name, losses in found.history.items():
    left.plot(losses, color=_COLOURS[name], lw=0.8, alpha=0.25)
    left.plot(
        losses[:, found.start], color=_COLOURS[name], lw=2.2, label=_LABELS[name]
    )
  left.set_xscale("symlog", linthresh=10, linscale=0.5)
  left.set_xticks([0, 10, 100], ["0", "10", "100"])
  left.set_xlabel("gradient step", fontsize=SIZE)
  left.set_ylabel("social cost", fontsize=SIZE)
  left.set_title("Descent of all starts; the one taken is thick", fontsize=SIZE, loc="left")
  left.legend(fontsize=SIZE - 1.5, frameon=False)
  for place, rows in enumerate((before, found.report)):
    losses = [row.loss for row in rows]
    right.plot([place, place], [min(losses), max(losses)], color="0.8", lw=9, zorder=0,
               solid_capstyle="round")
    labels = {f"{row.loss:.3f}": row.loss for row in rows}  # equal costs get one label
    for row in rows:
      right.plot(place, row.loss, "o", ms=9, color=_COLOURS[row.selection])
    for label, loss in labels.items():
      right.annotate(label, (place, loss), (12, -4), textcoords="offset points",
                     fontsize=SIZE - 1.5, bbox={"fc": "white", "ec": "none", "pad": 1})
  right.set_xticks([0, 1], ["no tolls", "tolls found"])
  right.set_xlim(-0.4, 1.7)
  for ax in (left, right):
    ax.axhline(optimum, color="0.5", lw=1, ls=":", zorder=0)
    tidy(ax)
  right.set_title("Before and after", fontsize=SIZE, loc="left")
  high = max(np.max(x) for x in found.history.values())
  high = max(high, *(row.loss for row in before))
  left.set_ylim(optimum - 0.07 * (high - optimum), high + 0.07 * (high - optimum))
  fig.tight_layout()
  fig.savefig(path, dpi=DPI)
