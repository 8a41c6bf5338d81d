"""Rates agents by their scores on tasks, with intervals and rank probabilities.

  python -m launch.rate --scores=tests/data/agent57.csv --out=out/rate

Two agents meet on a task, which looks for large differences (`nes_jax.ratings.agent_vs_task`). An
agent's rating is what it gains in place of those that are played: 0 is best. Where the file has
standard errors, resamples of the scores give each rating an interval and each rank a probability.

Writes into --out:

  agents.csv   agents, the best first: rating, ends of the interval, probabilities of rank 1 and of
               ranks 1 to 3, probability of being played
  tasks.csv    the same of tasks; a task with a high rating tells the played agents apart
  ratings.png  both tables as a picture

Exit code 0: done, and what is not certified is said; 1: the disk failed; 2: a flag or the file is
wrong.
"""

from collections.abc import Sequence
import sys

from launch.rating import report
from launch.runtime import flags, program

SECTIONS = (flags.Section("Ratings", report.Config),)


def _config(values: flags.Values) -> report.Config:
  config = report.Config(**flags.read(values, SECTIONS[0]))
  report.check(config)
  return config


def main(argv: Sequence[str] | None = None) -> int:
  """The program; returns its exit code."""
  return program.main(
      argv, name="rate", doc=__doc__, define=SECTIONS, prepare=_config, work=report.run
  )


if __name__ == "__main__":
  sys.exit(main())
