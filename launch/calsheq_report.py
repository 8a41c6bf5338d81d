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
import sys
from typing import Any

from absl import flags

from launch.figures import calibration
from launch.runtime import program
from launch.runtime.program import UsageError


def _define_flags(values: flags.FlagValues) -> None:
  own: dict[str, Any] = {"flag_values": values}
  flags.DEFINE_list("runs", [], "The directories of finished runs.", **own)
  flags.DEFINE_string("out", None, "The directory for the pictures and the table.", **own)


def _prepare(v: flags.FlagValues) -> tuple[list[calibration.Result], str]:
  if not v.runs or v.out is None:
    raise UsageError("--runs=DIRECTORY,... and --out=DIRECTORY are needed")
  return calibration.read(v.runs), v.out


def _work(
    asked: tuple[list[calibration.Result], str], *, check_stop=lambda: None, say=print
) -> dict[str, float]:
  say(f"wrote {', '.join(map(str, calibration.draw(*asked)))}")
  return {}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit code."""
  return program.main(
      argv, name="calsheq_report", doc=__doc__, define=_define_flags, prepare=_prepare, work=_work
  )


if __name__ == "__main__":
  sys.exit(main())
