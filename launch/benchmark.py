"""Measures speed, beside other solvers and beside the arithmetic operations that are needed.

  python -m launch.benchmark --suite=exact --out=out/benchmark

Prints a table and writes SUITE.csv, SUITE.md and SUITE.json (rows, machine, versions) into --out,
again after every row. Columns in which every row is empty are in the .csv and .json only. Suites,
whose columns the modules explain:

  exact    the exact engine beside other solvers (launch.bench.exact)
  neural   inference and training of networks (launch.bench.neural)
  market   steps of the market and updates of its policy (launch.bench.market)
  devices  training and calibration on 1, 2, 4 and 8 devices (launch.bench.devices)

--quick measures small batches once, to see that everything works; its figures mean nothing.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import pathlib
import sys

import jax

from launch.bench import suite
from launch.runtime import flags, program

# Number of virtual devices of a CPU in the suite `devices`.
_VIRTUAL_DEVICES = 8


@dataclasses.dataclass(frozen=True)
class Run:
  """A run of this program."""

  suite: str = dataclasses.field(
      default="exact", metadata={"help": "The suite to measure.", "choices": suite.NAMES}
  )
  out: pathlib.Path = dataclasses.field(
      default=pathlib.Path("out/benchmark"),
      metadata={"help": "Directory of the tables.", "metavar": "DIRECTORY"},
  )
  only: tuple[str, ...] = dataclasses.field(
      default=(),
      metadata={
          "help": "Entries to measure, such as cce:8x8,ce:4x4 or n10:256. Without this flag all are"
                  " measured.",
          "metavar": "ENTRY,...",
      },
  )
  quick: bool = dataclasses.field(
      default=False, metadata={"help": "Measure small batches once, to see that everything works."}
  )
  before: pathlib.Path | None = dataclasses.field(
      default=None,
      metadata={
          "help": "Checkout of an older version, which the suite exact measures beside this one.",
          "metavar": "DIRECTORY",
      },
  )


_SECTION = flags.Section("The benchmark", Run)


def _prepare(values: flags.Values) -> Run:
  run = flags.build(values, _SECTION)
  if run.suite == "devices":
    jax.config.update("jax_num_cpu_devices", _VIRTUAL_DEVICES)
  return run


def measure(
    run: Run, *, check_stop: Callable[[], None] = lambda: None, say: Callable[[str], None] = print
) -> Mapping[str, float]:
  """Measures the suite of a run.

  Raises:
    UsageError: an entry is unknown, or the older version cannot be measured.
    ImportError: the suite needs a package that is not installed.
  """
  suite.run(
      run.suite, run.out, only=run.only, quick=run.quick, before=run.before, check_stop=check_stop
  )
  return {}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit code."""
  return program.main(
      argv, name="benchmark", doc=__doc__, define=[_SECTION], prepare=_prepare, work=measure
  )


if __name__ == "__main__":
  sys.exit(main())
