"""Picture of a Markov game: values by sweep, and learning curves."""

from collections.abc import Sequence
import os

from matplotlib import figure
import numpy as np

from launch.figures.style import BLUE, DPI, ORANGE, SIZE, tidy
from nes_jax.markov import Curves

_COLOURS = (BLUE, ORANGE)


def draw(
    path: str | os.PathLike,
    agents: Sequence[str],
    course: np.ndarray,
    cycle: int,
    curves: Curves | None,
) -> None:
  """Draws the values at the start after each sweep and, beside them, those that were learnt.

  Args:
    path: file of the picture.
    agents: names of the two players.
    course: [T, 2] values at the start after each sweep.
    cycle: period of the values, 0 if there is none.
    curves: course of the training; None leaves the panel out.
  """
  panels = 1 if curves is None else 2
  fig = figure.Figure(figsize=(5 * panels, 3.6))
  axes = np.atleast_1d(fig.subplots(1, panels, sharey=True))
  sweeps = np.arange(1, len(course) + 1)
  for p, (agent, colour) in enumerate(zip(agents, _COLOURS)):
    # Equal values of both players stay visible: the second line is dashed.
    axes[0].plot(sweeps, course[:, p], color=colour, ls="-" if p == 0 else "--", label=agent)
  title = "Value iteration" + (f", period {cycle}" if cycle else "")
  axes[0].set_title(title, fontsize=SIZE, loc="left")
  axes[0].set_xlabel("sweep", fontsize=SIZE)
  axes[0].set_ylabel("value at the start", fontsize=SIZE)
  axes[0].legend(fontsize=SIZE, frameon=False)
  if curves is not None:
    for p, colour in enumerate(_COLOURS):
      for values in curves.values[:, :, p]:
        axes[1].plot(curves.steps, values, color=colour, lw=0.8, alpha=0.5)
    axes[1].set_title(f"Learning, {len(curves.values)} seeds", fontsize=SIZE, loc="left")
    axes[1].set_xlabel("step", fontsize=SIZE)
  for ax in axes:
    tidy(ax)
  fig.tight_layout()
  fig.savefig(path, dpi=DPI)
