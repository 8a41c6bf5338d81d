"""Stops by SIGTERM and SIGINT, at a point from which the program can be continued."""

from collections.abc import Callable
import os
import signal
from typing import Any

from launch.runtime import parallel

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
  """The program was asked to stop, and stopped where it can be continued."""

  def __init__(self, signum: int):
    super().__init__(signal.Signals(signum).name)
    self.signum = signum

  @property
  def exit_code(self) -> int:
    """The exit code that a shell reports: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + self.signum


class StopSignals:
  """A context manager that notes the first signal, for `check`; a second one ends the process.

  The second signal ends it without clean-up, which is safe where files appear by a rename, as in
  `store`. Python allows signal handlers in the main thread only.
  """

  def __init__(self, say: str, say_again: str):
    """Takes the lines for stderr at the first and at the second signal."""
    self._say, self._say_again = say, say_again
    self._signum: int | None = None
    self._before: dict[signal.Signals, Any] = {}

  def __enter__(self) -> "StopSignals":
    self._before = {signum: signal.signal(signum, self._handle) for signum in SIGNALS}
    return self

  def __exit__(self, *_) -> None:
    for signum, handler in self._before.items():
      signal.signal(signum, handler)

  def _handle(self, signum: int, _) -> None:
    # The signal may have come in the middle of a print, so this writes past Python's buffers.
    again = self._signum is not None
    line = self._say_again if again else self._say
    os.write(2, f"\n{signal.Signals(signum).name}: {line}\n".encode())
    if again:
      os._exit(128 + signum)
    self._signum = signum

  def check(self) -> None:
    """Raises `Stopped` if a signal has come."""
    if self._signum is not None:
      raise Stopped(self._signum)


def check_together(check_stop: Callable[[], None]) -> None:
  """Raises `Stopped` on all processes if `check_stop` does so on one of them.

  All processes of a run must call this together.
  """
  try:
    check_stop()
    mine = 0
  except Stopped as stopped:
    mine = stopped.signum
  signum = parallel.max_over_processes(mine)
  if signum:
    raise Stopped(signum)
