"""Times of calls."""

from collections.abc import Callable
import statistics
import time
from typing import Any

import jax


def seconds(function: Callable[[], Any], calls: int) -> list[float]:
  """Measures a first call, and then `calls` more.

  Args:
    function: what is timed; its result is a pytree, whose arrays are waited for.
    calls: number of calls after the first, which compiles.

  Returns:
    The seconds of each call, calls + 1 numbers.
  """
  times = []
  for _ in range(calls + 1):
    start = time.perf_counter()
    jax.block_until_ready(function())
    times.append(time.perf_counter() - start)
  return times


def median_seconds(function: Callable[[], Any], calls: int) -> float:
  """The median of the seconds of `calls` calls after a first one, which compiles."""
  return statistics.median(seconds(function, calls)[1:])
