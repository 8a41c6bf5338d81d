"""Messages of a running program: start line, progress bar, and compile time."""

import platform
import sys
import threading
import time
from typing import Any

import jax
import jaxlib
import numpy as np

_COMPILE_EVENTS = "/jax/core/compile/"


def versions() -> str:
  """Versions of Python and of the packages that compute, in one line."""
  return (
      f"Python {platform.python_version()}, jax {jax.__version__}, jaxlib {jaxlib.__version__},"
      f" NumPy {np.__version__}"
  )


def start_line(program: str) -> str:
  """Versions, platform, devices and hosts of a program, in one line. Starts JAX's backend."""
  devices = jax.devices()
  kinds = ", ".join(sorted({device.device_kind for device in devices}))
  return (
      f"{program}: {versions()}; platform {jax.default_backend()}, {len(devices)} device(s)"
      f" ({kinds}), {jax.process_count()} host(s)"
  )


class _Quiet:
  """A bar that shows nothing, for an environment without tqdm (of the `programs` extra)."""

  def __enter__(self) -> "_Quiet":
    return self

  def __exit__(self, *_) -> None:
    pass

  def update(self, n: int) -> None:
    pass


def bar(total: int, *, initial: int = 0, unit: str = "it") -> Any:
  """A progress bar on stderr with rate and time left; it is quiet where stderr is no terminal.

  Args:
    total: number of steps of the whole work.
    initial: number of steps that an earlier run has done; they do not count for the rate.
    unit: the name of a step.

  Returns:
    A context manager with `update(n)`.
  """
  try:
    import tqdm
  except ImportError:
    return _Quiet()
  return tqdm.tqdm(
      total=total, initial=initial, unit=unit, unit_scale=True, disable=None, file=sys.stderr
  )


class CompileClock:
  """A context manager that measures the time in which JAX traces, lowers or compiles.

  Spans may nest (a jitted function within another) and overlap (in threads). The length of their
  union counts.
  """

  def __init__(self) -> None:
    self._spans: list[tuple[float, float]] = []
    self._lock = threading.Lock()

  def __enter__(self) -> "CompileClock":
    listen: Any = self._listen
    jax.monitoring.register_event_duration_secs_listener(listen)
    return self

  def __exit__(self, *_) -> None:
    unregister = getattr(jax.monitoring, "unregister_event_duration_listener", None)
    if unregister is not None:
      unregister(self._listen)

  def _listen(self, event: str, duration: float, **_) -> None:
    if event.startswith(_COMPILE_EVENTS):
      end = time.perf_counter()
      with self._lock:
        self._spans.append((end - duration, end))

  def seconds(self) -> float:
    """The seconds of compilation up to now."""
    with self._lock:
      spans = sorted(self._spans)
    total, reached = 0.0, -float("inf")
    for start, end in spans:
      total += max(0.0, end - max(start, reached))
      reached = max(reached, end)
    return total
