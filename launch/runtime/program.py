"""The frame of all programs: command line, exit codes, several hosts, stop signals.

A program has sections of flags, a function that makes the task from them, and one that does it:

  def main(argv):
    return program.main(
        argv, name="nes_train", doc=__doc__, define=SECTIONS, prepare=_run, work=network.train
    )
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import sys
import time
from typing import Any

from absl import flags as absl_flags

from launch.runtime import checkpoint, flags, parallel, stopping
from launch.runtime.flags import UsageError as UsageError

AGAIN = "the same command, given again, continues"


class Failed(RuntimeError):
  """A program checks something that does not hold; the message says where."""


@dataclasses.dataclass(frozen=True)
class Hosts:
  """Place of this process among the processes of a run on several hosts."""

  coordinator: str | None = dataclasses.field(
      default=None,
      metadata={
          "metavar": "HOST:PORT",
          "help": "Address of process 0; auto lets JAX find the processes by itself, as it can on"
                  " TPU pods and under Slurm.",
      },
  )
  num_processes: int | None = dataclasses.field(
      default=None, metadata={"help": "Number of processes on all hosts together."}
  )
  process_id: int | None = dataclasses.field(
      default=None, metadata={"help": "Number of this process, counted from 0."}
  )


HOSTS = flags.Section("Several hosts", Hosts)


def parse(argv: Sequence[str], define: Sequence[flags.Section]) -> flags.Values:
  """Reads a command line.

  Args:
    argv: the command line; the program's name comes first.
    define: the program's sections of flags. The flags of several hosts and --help are added here.

  Raises:
    UsageError: a flag is unknown or malformed, or an argument is no flag.
  """
  values = flags.Values()
  flags.define(values, [*define, HOSTS])
  absl_flags.DEFINE_bool(
      "help", False, "Show this text.", short_name="h", flag_values=values, module_name="Help"
  )
  try:
    rest = values(argv)[1:]
  except absl_flags.Error as error:
    raise UsageError(f"{error}: see --help") from None
  if rest:
    raise UsageError(f"unexpected argument {rest[0]!r}: flags are given as --name=value")
  return values


def main(
    argv: Sequence[str] | None,
    *,
    name: str,
    doc: str,
    define: Sequence[flags.Section],
    prepare: Callable[[flags.Values], Any],
    work: Callable[..., Mapping[str, float]],
    faults: tuple[type[Exception], ...] = (),
) -> int:
  """Runs a program.

  Args:
    argv: the command line; the program's name comes first. None: that of this process.
    name: the program's name, which begins its lines on stderr.
    doc: the text that --help shows above the flags.
    define: the program's flags, as in `parse`.
    prepare: makes the task from the flags, before JAX starts.
    work: does the task. It is called as work(task, check_stop=, say=) and returns numbers, which
      are printed at the end, one a line.
    faults: types of errors of `work` that the user can correct, beside those of every program.

  Returns:
    The exit code: 0 for success, 2 for an error that the user can correct, 1 for an error of the
    disk and for `Failed`, 130 or 143 for a stop. Other errors are faults of the program and keep
    their traceback.
  """

  correctable: tuple[type[Exception], ...] = (
      UsageError, checkpoint.CheckpointError, ImportError, FloatingPointError, *faults
  )

  def say(line: str) -> None:
    print(f"{name}: {line}", file=sys.stderr, flush=True)

  def blame(error: Exception) -> int:
    say(" ".join(str(error).split()))
    return 2

  try:
    values = parse(sys.argv if argv is None else argv, define)
    if values.help:
      print(f"{doc}\n{flags.help_text(values)}")
      return 0
    run = prepare(values)
    parallel.initialize(values.coordinator, values.num_processes, values.process_id)
  except (ValueError, ImportError) as error:
    return blame(error)
  say(parallel.describe())
  signals = stopping.StopSignals("saving; send it again to leave at once", f"left; {AGAIN}")
  started = time.monotonic()
  try:
    with signals:
      report = work(run, check_stop=signals.check, say=say)
  except stopping.Stopped as stopped:
    say(f"stopped by {stopped}, saved; {AGAIN}")
    return stopped.exit_code
  except correctable as error:
    return blame(error)
  except Failed as error:
    say(str(error))
    return 1
  except OSError as error:
    say(f"{error}; make room or check the disk; {AGAIN}")
    return 1
  say(f"done in {time.monotonic() - started:.0f} s")
  for key, value in report.items():
    print(f"{key} {value:.4f}")
  return 0


def reporting(
    compute: Callable[[Any, Callable[[str], None]], Any],
    write: Callable[[Any, Any], None],
    summary: Callable[[Any, Any], str],
) -> Callable[..., Mapping[str, float]]:
  """The work of a program that computes a report, writes it, and prints a summary of it.

  Args:
    compute: makes the report of the options, and says how far it is.
    write: writes the report into the directory `out` of the options.
    summary: text of the options and the report.

  Returns:
    An argument `work` of `main`.
  """

  def work(
      config: Any, *, check_stop: Callable[[], None], say: Callable[[str], None]
  ) -> Mapping[str, float]:
    report = compute(config, say)
    check_stop()
    write(config, report)
    print(summary(config, report))
    say(f"tables and picture are in {config.out}")
    return {}

  return work
