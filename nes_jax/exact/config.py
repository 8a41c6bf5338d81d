"""Settings of the exact engine."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from nes_jax import metrics
from nes_jax.types import Concept

# Hard limits are raised by no more than this fraction of the tolerance.
_RELAXATION = 0.05
# Largest number of steps in float32. Games that take longer are solved in float64.
_MAX_ITERATIONS_FLOAT32 = {"cce": 20, "ce": 30}
# Largest number of steps in float64.
_MAX_ITERATIONS_FLOAT64 = 200
# Residuals to which games are solved whose answers are differentiated, by the bits of a number.
# Derivatives tell the rows that bind from the others by their slacks and duals, which the residuals
# of answers leave blurred. The first is at the limit of what float32 reaches.
_DIFFERENTIATED_TOLERANCE = {32: 1e-6, 64: 1e-11}
# Number of steps that may be added to reach them.
_DIFFERENTIATED_ITERATIONS = 15


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings of a run. The starting values give the fewest iterations on GAMUT games."""

  # Largest KKT residual of a game that counts as converged.
  tolerance: float
  # The loop goes on to this fraction of the tolerance. Rounding in the certificate, and the sum
  # over players in a gap, then do not undo it. Steps in float32 cost more, and need less of it.
  margin: float
  # Largest number of steps.
  max_iterations: int
  # Value of the duals at the start.
  start_dual: float
  # Sum of sigma z at the start.
  start_bound: float
  # Smallest slack at the start.
  start_slack: float
  # Factor on the three values above when duals are given to start from.
  warm_start: float
  # Whether hard limits are raised by half of what `metrics.residual` does not count.
  relaxed: bool = False

  @property
  def relaxation(self) -> float:
    """The amount by which hard limits are raised."""
    return min(_RELAXATION * self.tolerance, metrics.RESOLUTION / 2) if self.relaxed else 0.0

  def differentiated(self, dtype: jnp.dtype) -> "Config":
    """The settings for games whose answers are differentiated."""
    return dataclasses.replace(
        self,
        tolerance=min(self.tolerance, _DIFFERENTIATED_TOLERANCE[jnp.finfo(dtype).bits]),
        margin=1.0,
        max_iterations=self.max_iterations + _DIFFERENTIATED_ITERATIONS,
    )

  @staticmethod
  def default(concept: Concept, dtype: jnp.dtype, rho: float = math.inf, **overrides) -> "Config":
    """The settings for a concept, a floating-point type, and hard or soft constraints."""
    single = jnp.finfo(dtype).bits <= 32
    settings: dict[str, Any] = dict(
        tolerance=1e-4 if single else 1e-8,
        margin=0.8 if single else 0.4,
        max_iterations=_MAX_ITERATIONS_FLOAT32[concept] if single else _MAX_ITERATIONS_FLOAT64,
        warm_start=3e-4 if concept == "cce" else 3e-5,
        **(
            dict(start_dual=0.1, start_bound=0.5, start_slack=0.3)
            if concept == "cce" and math.isinf(rho)
            else dict(start_dual=3.0, start_bound=3.0, start_slack=1.0)
        ),
    )
    settings.update(overrides)
    return Config(**settings)
