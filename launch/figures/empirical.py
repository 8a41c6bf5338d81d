"""Picture of an empirical game: who plays what, what they earn, and what a deviation gains."""

from collections.abc import Mapping
import os

from matplotlib import axes, figure
import numpy as np

from calsheq_jax.empirical import Deviation
from launch.figures.style import ACCENT, BLUE, DPI, GREEN, ORANGE, PURPLE, SIZE, tidy
from nes_jax.empirical import EmpiricalGame, Report

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
# Share of the resamples from which on a policy counts as played in all of them.
_ALWAYS = 0.995
# Font size of labels.
_SMALL = SIZE - 1.5


def draw_report(
    path: str | os.PathLike,
    game: EmpiricalGame,
    report: Report,
    names: Mapping[int, str],
    deviations: Mapping[str, Deviation],
    level: float,
) -> None:
  """Draws weights, payoffs and regrets of each role, with intervals, and deviators' gains.

  Args:
    path: file of the picture.
    game: the game.
    report: its solution.
    names: role -> name.
    deviations: deviators by name of the role.
    level: share of the resamples that an interval holds.
  """
  seats = [game.roles.index(role) for role in sorted(set(game.roles))]
  who = [names[game.roles[seat]] for seat in seats]
  fig = figure.Figure(figsize=(10, 4.2))
  weights, payoffs, regret = fig.subplots(1, 3, width_ratios=(2, 1, 1.15))
  _draw_weights(weights, game, report, seats, who)
  _draw_intervals(payoffs, report.payoffs, seats)
  _label(payoffs, "Earnings", "reward of an episode", who)
  _draw_intervals(regret, report.regret, seats)
  drawn = [(i, deviations[name]) for i, name in enumerate(who) if name in deviations]
  for i, found in drawn:
    low, high = (float(x) for x in found.gain.interval())
    gain = float(found.gain.mean)
    regret.errorbar(
        i + 0.25, gain, [[gain - low], [high - gain]], color=ACCENT, marker="D", ms=5, capsize=3,
        lw=1.4, label="a policy trained\nagainst them" if i == drawn[0][0] else None,
    )
  regret.axhline(0, color="0.8", lw=0.8, zorder=-1)
  _label(regret, "Gain by deviating", "gain in reward", who)
  handles, _ = regret.get_legend_handles_labels()
  if handles:
    regret.margins(y=0.35)
    regret.legend(fontsize=SIZE - 2.5, frameon=False, loc="upper left")
  fig.text(
      0.01, 0.015,
      f"Bars and dots: estimate. Whiskers: {100 * level:g}% of {report.resamples:,} resamples."
      " Percentages: share of the resamples that play the policy, if not all.",
      fontsize=SIZE - 2.5, color="0.35",
  )
  fig.tight_layout(rect=(0, 0.05, 1, 1), w_pad=1.4)
  fig.savefig(path, dpi=DPI, facecolor="white")


def _draw_weights(ax: axes.Axes, game, report, seats, who) -> None:
  """Draws a group of bars for each policy, with a bar for each role."""
  labels = game.labels[seats[0]]
  width = 0.8 / len(seats)
  for i, (seat, name) in enumerate(zip(seats, who)):
    of = report.weights[seat]
    x = np.arange(len(labels)) + (i - (len(seats) - 1) / 2) * width
    ax.bar(x, of.point, 0.9 * width, color=_COLOURS[i % len(_COLOURS)], alpha=0.85, label=name)
    ax.vlines(x, of.interval.low, of.interval.high, color="black", lw=1.2)
    for place, height, share in zip(x, of.interval.high, report.support[seat]):
      if share < _ALWAYS:
        ax.text(
            place, height + 0.01, f"{100 * share:.0f}%", ha="center", va="bottom",
            fontsize=SIZE - 4.5, color="0.35",
        )
  ax.set_xticks(range(len(labels)), [label.replace(" ", "\n") for label in labels])
  ax.set_ylim(0, 1.15 * max(report.weights[seat].interval.high.max() for seat in seats))
  ax.set_title("How often they play each policy", fontsize=SIZE, weight="bold", loc="left")
  ax.set_ylabel("probability", fontsize=_SMALL)
  tidy(ax, _SMALL)
  ax.legend(fontsize=SIZE - 2.5, frameon=False)


def _draw_intervals(ax: axes.Axes, of, seats) -> None:
  """Draws the estimate and the interval of each role."""
  for i, seat in enumerate(seats):
    colour = _COLOURS[i % len(_COLOURS)]
    ax.vlines(i, of.interval.low[seat], of.interval.high[seat], color=colour, lw=3, alpha=0.6)
    ax.plot(i, of.point[seat], "o", color=colour, ms=7)


def _label(ax: axes.Axes, title: str, y: str, who: list[str]) -> None:
  ax.set_title(title, fontsize=SIZE, weight="bold", loc="left")
  ax.set_ylabel(y, fontsize=_SMALL)
  tidy(ax, _SMALL)
  ax.set_xticks(range(len(who)), [name.replace(" ", "\n") for name in who], fontsize=SIZE - 3)
  ax.set_xlim(-0.6, len(who) - 0.3)
