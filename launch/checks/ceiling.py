"""Searches for the best reward that any profile reaches at its own equilibrium, by experiment.

  python -m launch.checks.ceiling --out=out/ceiling
  python -m launch.checks.ceiling --experiments=1 --runs=out/1/calsheq --generations=150

A calibration has a small budget. This search tells how much more there is to find: CMA-ES over all
profiles, where each profile of a generation has a shared policy of its own that first learns to be
at the profile's equilibrium. It starts from designed profiles (`calsheq_jax.ceiling_starts`) and
from those of finished runs of calsheq_train (--runs). At the end the best profiles are trained
longer, and the winner is judged on fresh episodes and certified. What it finds is a lower bound.

Writes into --out:

  ceiling.json    the entry of each experiment; calsheq_report and calsheq_paper read it (--ceiling)
  ceiling.md      a table of the entries
  NAME/           checkpoints and metrics of the search of experiment NAME

Metrics of a generation:
  score/best, score/mean   rewards of its profiles on held-out episodes
  score/of_means           reward of the mean values at the best of them
  spread                   mean standard deviation of the search, in half-widths of the box
  calibrations             episodes so far, in units of a calibration of 400 stages of 64 episodes

The same command, given again, continues; SIGTERM and SIGINT save first. --generations may grow.
"""

from collections.abc import Sequence
import sys

from launch.runtime import flags, program
from launch.training.ceiling import find
from launch.training.ceiling_run import Plan

_SECTION = flags.Section("The search", Plan)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit code."""
  return program.main(
      argv, name="ceiling", doc=__doc__, define=[_SECTION],
      prepare=lambda values: flags.build(values, _SECTION), work=find,
  )


if __name__ == "__main__":
  sys.exit(main())
