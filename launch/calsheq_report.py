"""Compares runs of calsheq_train: the three figures of Vadori et al. (2020), and a table.

  python -m launch.calsheq_report --runs=out/1/calsheq,out/1/bo,out/2/calsheq,out/2/bo --out=out/all

Writes into --out:
  rewards.png         Figure 1: rewards of the calibrator and of each supertype in training
  targets_NAME.png    Figure 2 for experiment NAME: the outputs, with a line at each target
  profile_NAME.png    Figure 3 for experiment NAME: each number of the profile
  table.md            a row for each run

Lines are means over seeds, bands are +- one standard deviation over seeds, and thin lines are
single seeds. The pictures say how many seeds there are. Runs of all methods are compared at equal
numbers of environment steps.

With --ceiling, Figure 1 has a dashed line at the best reward that `python -m launch.checks.ceiling`
found for the experiment, and the table has the runs' rewards in percent of it.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
import sys
from typing import Any, NamedTuple

from launch.figures import calibration
from launch.runtime import flags, program
from launch.training import ceiling_report


@dataclasses.dataclass(frozen=True)
class Options:
  """The runs that are compared, and the directory of the comparison."""

  runs: tuple[str, ...] = dataclasses.field(
      metadata={"metavar": "DIRECTORY,...", "help": "Directories of finished runs."}
  )
  out: pathlib.Path = dataclasses.field(
      metadata={"metavar": "DIRECTORY", "help": "Directory for the pictures and the table."}
  )
  ceiling: pathlib.Path | None = flags.field(
      None, "File ceiling.json of launch.checks.ceiling, to compare with.", metavar="FILE.json"
  )

  def __post_init__(self):
    if not self.runs:
      raise ValueError("runs=: name one run or more")


_SECTION = flags.Section("The comparison", Options)


class _Task(NamedTuple):
  """The finished runs, the directory of their comparison, and the entries of ceiling.json."""

  results: list[calibration.Result]
  out: pathlib.Path
  ceilings: Mapping[str, Mapping[str, Any]]


def _prepare(values: flags.Values) -> _Task:
  options = flags.build(values, _SECTION)
  ceilings = {} if options.ceiling is None else ceiling_report.read(options.ceiling)
  return _Task(calibration.read(options.runs), options.out, ceilings)


def _work(task: _Task, *, check_stop=lambda: None, say=print) -> dict[str, float]:
  say(f"wrote {', '.join(map(str, calibration.draw(*task)))}")
  return {}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit code."""
  return program.main(
      argv, name="calsheq_report", doc=__doc__, define=[_SECTION], prepare=_prepare, work=_work
  )


if __name__ == "__main__":
  sys.exit(main())
