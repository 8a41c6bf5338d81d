"""Compares runs of calsheq_train: the three figures of Vadori et al. (2020), and a table.

  python -m launch.calsheq_report --runs=out/1/calsheq,out/1/bo,out/2/calsheq,out/2/bo --out=out/all

Writes into --out:
  rewards.png         Figure 1: rewards of the calibrator and of each supertype in training
  targets_NAME.png    Figure 2 for experiment NAME: the outputs, with a line at each target
  profile_NAME.png    Figure 3 for experiment NAME: each number of the profile
  table.md            a row for each run

Lines are means over seeds, and bands are +- one standard deviation over seeds. The pictures say how
many seeds there are. Runs of all methods are compared at equal numbers of environment steps.
"""

from collections.abc import Sequence
import dataclasses
import pathlib
import sys

from launch.figures import calibration
from launch.runtime import flags, program


@dataclasses.dataclass(frozen=True)
class Options:
  """The runs that are compared, and the directory of the comparison."""

  runs: tuple[str, ...] = dataclasses.field(
      metadata={"metavar": "DIRECTORY,...", "help": "Directories of finished runs."}
  )
  out: pathlib.Path = dataclasses.field(
      metadata={"metavar": "DIRECTORY", "help": "Directory for the pictures and the table."}
  )

  def __post_init__(self):
    if not self.runs:
      raise ValueError("runs=: name one run or more")


_SECTION = flags.Section("The comparison", Options)


def _prepare(values: flags.Values) -> tuple[list[calibration.Result], pathlib.Path]:
  options = flags.build(values, _SECTION)
  return calibration.read(options.runs), options.out


def _work(
    task: tuple[list[calibration.Result], pathlib.Path], *, check_stop=lambda: None, say=print
) -> dict[str, float]:
  say(f"wrote {', '.join(map(str, calibration.draw(*task)))}")
  return {}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit code."""
  return program.main(
      argv, name="calsheq_report", doc=__doc__, define=[_SECTION], prepare=_prepare, work=_work
  )


if __name__ == "__main__":
  sys.exit(main())
