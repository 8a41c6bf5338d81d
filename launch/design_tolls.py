r"""Looks for tolls under which the worst equilibrium of a road network has a small social cost.

  python -m launch.design_tolls --network=pigou --tolls=driver --out=out/tolls

Drivers choose paths, and the travel time of an edge grows with the drivers on it. The tolls are
found by gradient (`nes_jax.design.minimise`) from many starts at once. Social cost is the sum of
travel times; tolls are no cost to society. A JSON file describes another network:

  {"edges": {"short": {"from": "s", "to": "t", "intercept": 0, "slope": 1},
             "long": {"from": "s", "to": "t", "intercept": 2.5, "slope": 0}},
   "drivers": [{"from": "s", "to": "t", "count": 3}]}

Writes into --out:

  selections.csv  social cost of the best, the maximum-entropy and the worst equilibrium, before and
                  after, with bounds and certificates
  tolls.csv       tolls of each edge
  history.csv     the three costs at each step of each start
  tolls.png       both as a picture

Exit code 0: done, and what is not certified is said; 1: the disk failed; 2: a flag or the file is
wrong.
"""

from collections.abc import Sequence
import sys

from launch.runtime import flags, program
from launch.tolls import work

SECTIONS = (flags.Section("Tolls", work.Config),)


def _config(values: flags.Values) -> work.Config:
  config = work.Config(**flags.read(values, SECTIONS[0]))
  work.check(config)
  return config


def main(argv: Sequence[str] | None = None) -> int:
  """The program; returns its exit code."""
  return program.main(
      argv, name="design_tolls", doc=__doc__, define=SECTIONS, prepare=_config, work=work.run
  )


if __name__ == "__main__":
  sys.exit(main())
