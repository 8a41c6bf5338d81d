"""Picture of a simulation-based calibration: rank histograms of known truths."""

from collections.abc import Mapping, Sequence

from matplotlib import figure
import numpy as np

from launch.figures.style import BLUE, SIZE, tidy

# Probability that the counts of a uniform histogram lie within the band that is drawn.
_BAND = (0.005, 0.995)
# Number of draws of the binomial distribution from which the band is read.
_DRAWS = 20_000


def draw(
    histograms: Mapping[str, Sequence[int] | np.ndarray], p_values: Sequence[float] | np.ndarray
) -> figure.Figure:
  """Draws a panel for each parameter: counts of ranks, and a band in which uniform ones lie.

  Args:
    histograms: counts of ranks [bins] of each parameter, by its name.
    p_values: p-value of each chi-square test, in the same order.

  Returns:
    The figure; save it with `savefig`.

  Raises:
    ValueError: there is no histogram.
  """
  if not histograms:
    raise ValueError("there are no histograms: give one or more")
  fig = figure.Figure(figsize=(4.5 * len(histograms), 3.4), layout="constrained")
  panels = fig.subplots(1, len(histograms), squeeze=False, sharey=True)[0]
  for ax, (name, counts), p_value in zip(panels, histograms.items(), p_values):
    counts = np.asarray(counts)
    bins, total = len(counts), int(counts.sum())
    draws = np.random.default_rng(0).binomial(total, 1 / bins, _DRAWS)
    low, high = np.quantile(draws, _BAND)
    ax.axhspan(low, high, color="0.9", lw=0, zorder=0)
    ax.axhline(total / bins, color="0.5", lw=1, zorder=1)
    ax.bar((np.arange(bins) + 0.5) / bins, counts, width=0.9 / bins, color=BLUE, zorder=2)
    ax.set_title(f"{name}, p = {p_value:.2g}", fontsize=SIZE, loc="left")
    ax.set_xlabel("rank of the truth among draws", fontsize=SIZE)
    ax.set_xlim(0, 1)
    tidy(ax)
  panels[0].set_ylabel("runs", fontsize=SIZE)
  return fig
