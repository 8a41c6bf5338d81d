"""Encloses the payoffs that two players can have at equilibria, and finds extreme equilibria.

  python -m launch.region --game=chicken --out=out/region
  python -m launch.region --game=games.npz --index=3 --concept=ce

Writes into --out:

  hulls.csv     corners of the inner hull, whose payoffs equilibria attain, and of the outer hull,
                which holds the payoffs of all equilibria; in anticlockwise order
  vertices.csv  extreme points of the set of equilibria: how often each was found, payoffs of all
                players, and the joint; joint_1_2 is the probability of strategies 1 and 2
  region.png    both hulls, payoffs of all joint strategies, and selected equilibria

Exit code 0: done, and what is not certified is said; 1: the disk failed; 2: a flag or the file is
wrong.
"""

from collections.abc import Sequence
import sys

from launch.regions import report
from launch.runtime import flags, program

SECTIONS = (flags.Section("The set of equilibria", report.Config),)


def _config(values: flags.Values) -> report.Config:
  config = report.Config(**flags.read(values, SECTIONS[0]))
  report.check(config)
  return config


def main(argv: Sequence[str] | None = None) -> int:
  """The program; returns its exit code."""
  return program.main(
      argv, name="region", doc=__doc__, define=SECTIONS, prepare=_config, work=report.run
  )


if __name__ == "__main__":
  sys.exit(main())
