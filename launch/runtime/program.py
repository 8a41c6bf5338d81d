"""What programs have in common: flags, exit codes, several hosts, stops.

A program has its own flags and a piece of work:

  def main(argv):
    return program.main(
        argv, name="nes_train", doc=__doc__, define=_define_flags, prepare=_run, work=train
    )
"""

from collections.abc import Callable, Mapping, Sequence
import sys
import time
from typing import Any

from absl import flags

from launch.runtime import checkpoint, parallel, stopping

AGAIN = "the same command, given again, continues"


class UsageError(ValueError):
  """A flag is wrong; the message says which, and what to do."""


class Failed(RuntimeError):
  """What a program is there to show is not so; the message says where."""


def parse(argv: Sequence[str], define: Callable[[flags.FlagValues], None]) -> flags.FlagValues:
  """Reads a command line.

  Args:
    argv: the program's name first.
    define: adds the program's own flags to what it is given; --help and those of several hosts
      are there already.

  Raises:
    UsageError: a flag is unknown or malformed, or there is something else than flags.
  """
  values = flags.FlagValues()
  own: dict[str, Any] = {"flag_values": values}
  flags.DEFINE_bool("help", False, "show this", short_name="h", **own)
  flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, or auto", **own)
  flags.DEFINE_integer("num_processes", None, "of all hosts", **own)
  flags.DEFINE_integer("process_id", None, "of this one", **own)
  define(values)
  try:
    rest = values(argv)[1:]
  except flags.Error as error:
    raise UsageError(f"{error}: see --help") from None
  if rest:
    raise UsageError(f"unexpected argument {rest[0]!r}: flags are given as --name=value")
  return values


def integers(name: str, texts: Sequence[str]) -> tuple[int, ...]:
  """The value of a list flag whose items are integers. Raises UsageError."""
  try:
    return tuple(int(text) for text in texts)
  except ValueError:
    raise UsageError(f"--{name}={','.join(texts)}: integers are expected") from None


def at_least_one(values: flags.FlagValues, *names: str) -> None:
  """Raises UsageError if one of these flags is below 1."""
  for name in names:
    if getattr(values, name) < 1:
      raise UsageError(f"--{name}={getattr(values, name)} must be at least 1")


def main(
    argv: Sequence[str],
    *,
    name: str,
    doc: str,
    define: Callable[[flags.FlagValues], None],
    prepare: Callable[[flags.FlagValues], Any],
    work: Callable[..., Mapping[str, float]],
    faults: tuple[type[Exception], ...] = (),
) -> int:
  """Runs a program; returns its exit code: 2 where the user can do something about it, 1 for the
  disk and for `Failed`. Other errors are the program's and keep their traceback.

  Args:
    argv: the program's name first.
    name: for the lines on stderr.
    doc: shown by --help, above the flags.
    define: as in `parse`.
    prepare: flags -> what to do; before JAX starts.
    work: (what to do, check_stop=, say=) -> what to print at the end, a line each.
    faults: errors of `work`, beside those of every program, about which the user can do something.
  """

  def say(line: str) -> None:
    print(f"{name}: {line}", file=sys.stderr, flush=True)

  def blame(error: Exception) -> int:
    say(" ".join(str(error).split()))
    return 2

  try:
    values = parse(argv, define)
    if values.help:
      print(f"{doc}\n{values.get_help(include_special_flags=False)}")
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
  except (
      UsageError, checkpoint.CheckpointError, ImportError, FloatingPointError, *faults
  ) as error:
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
