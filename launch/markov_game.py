"""Solves a Markov game of two players by value iteration with selected equilibria, and by learning.

  python -m launch.markov_game --game=grid2 --weights=1.01,1 --out=out/grid2
  python -m launch.markov_game --game=grid2 --weights=2,1 --seeds=32

Each sweep solves the stage games of all states for the equilibrium that --selection names. Values
may cycle; then the period is said. The policy is judged by the gain of each player's best
deviation from it. With --seeds, tabular learners play the game besides.

Writes into --out:

  values.csv    states: value, value of the stationary policy, and gain of each player
  policy.csv    states and joint actions with their probabilities
  learning.csv  with --seeds: the course of each learner
  markov.png    values at the start by sweep, and by step of the learners

Exit code 0: done, and what does not converge is said; 1: the disk failed; 2: a flag or the file is
wrong.
"""

from collections.abc import Sequence
import sys

from launch.markov import report
from launch.runtime import flags, program

SECTIONS = (flags.Section("The game and its solution", report.Config),)


def main(argv: Sequence[str] | None = None) -> int:
  """The program; returns its exit code."""
  return program.main(
      argv, name="markov_game", doc=__doc__, define=SECTIONS,
      prepare=lambda values: flags.build(values, SECTIONS[0]), work=report.run,
  )


if __name__ == "__main__":
  sys.exit(main())
