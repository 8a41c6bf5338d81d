"""Empirical games: payoffs are means of noisy episodes, and answers have intervals.

  game = empirical.from_csv("episodes.csv")
  report = empirical.solve(game, concept="cce", resamples=1000)
  report.payoffs.point, report.payoffs.interval.low, report.payoffs.interval.high

`games` has the representation of a game, `files` its CSV files, and `solving` the bootstrap of its
equilibrium.
"""

from nes_jax.empirical.files import from_csv, to_csv
from nes_jax.empirical.games import EmpiricalGame, all_profiles, from_moments, from_samples
from nes_jax.empirical.solving import Bootstrapped, Report, regrets, resampled_means, solve

__all__ = [
    "Bootstrapped",
    "EmpiricalGame",
    "Report",
    "all_profiles",
    "from_csv",
    "from_moments",
    "from_samples",
    "regrets",
    "resampled_means",
    "solve",
    "to_csv",
]
