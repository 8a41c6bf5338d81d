"""How long calls take."""

from collections.abc import Callable
import time
from typing import Any

import jax


def seconds(function: Callable[[], Any], calls: int) -> list[float]:
  """Seconds of a first call and of `calls` more, each until its arrays are there."""
  times = []
  for _ in range(calls + 1):
    start = time.perf_counter()
    jax.block_until_ready(function())
    times.append(time.perf_counter() - start)
  return times
