"""Rates that fall with the stages of Algorithm 1, and the two-timescale condition on them.

Assumption 2 of Vadori et al. (2020): with beta_shared and beta_cal the learning rates at stage m,

  beta_cal(m) / beta_shared(m) -> 0,   sum beta = infinity,   sum beta^2 < infinity  (of both).

For rates b (1 + m / delay)^-power that is 1/2 < power_shared < power_cal <= 1.
"""

import dataclasses
import math

import jax.numpy as jnp

from calsheq_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Schedule:
  """A factor (1 + m / delay)^-power at stage m = 0, 1, ...; 1 for ever where power is 0.

  With delay 1 it is 1 / m^power, counted from 1. A longer delay changes no limit: it is the number
  of stages that the factor takes to fall to 2^-power.
  """

  power: float = 0.0
  delay: float = 1.0  # stages

  def __post_init__(self):
    if not 0 <= self.power < math.inf:
      raise ValueError(f"power={self.power} of a schedule must be finite and at least 0")
    if not 0 < self.delay < math.inf:
      raise ValueError(f"delay={self.delay} of a schedule must be positive and finite")

  def __call__(self, stage: Array | float) -> Array:
    """The factor at stages [*], from 0."""
    return (1 + jnp.asarray(stage, jnp.result_type(float)) / self.delay) ** -self.power

  @property
  def robbins_monro(self) -> bool:
    """Whether the sum over all stages is infinite and that of the squares finite."""
    return 0.5 < self.power <= 1


def two_timescales(shared: Schedule, calibrator: Schedule) -> bool:
  """Whether two learning rates meet Assumption 2."""
  return (
      shared.robbins_monro and calibrator.robbins_monro and calibrator.power > shared.power
  )
