"""Rates that fall with the stages of Algorithm 1, and the two-timescale condition on them.

Assumption 2 of Vadori et al. (2020): with beta_shared and beta_cal the learning rates at stage m,

  beta_cal(m) / beta_shared(m) -> 0,   sum beta = infinity,   sum beta^2 < infinity  (of both).

For rates b (1 + m / delay)^-power this means 1/2 < power_shared < power_cal <= 1.
"""

import dataclasses
import math

import jax.numpy as jnp

from calsheq_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Schedule:
  """The factor (1 + m / delay)^-power at stage m = 0, 1, ...; it is always 1 if power is 0.

  With delay 1 the factor is 1 / m^power, where m counts from 1. A longer delay does not change the
  limit: the factor reaches 2^-power after `delay` stages.
  """

  power: float = dataclasses.field(
      default=0.0,
      metadata={"help": "Power with which the factor falls; 0 keeps the factor at 1."},
  )
  delay: float = dataclasses.field(
      default=1.0,
      metadata={"help": "Number of stages after which the factor has fallen to 2^-power."},
  )

  def __post_init__(self):
    if not 0 <= self.power < math.inf:
      raise ValueError(f"power={self.power} of a schedule must be finite and at least 0")
    if not 0 < self.delay < math.inf:
      raise ValueError(f"delay={self.delay} of a schedule must be positive and finite")

  def __call__(self, stage: Array | float) -> Array:
    """The factor at stages [*], which count from 0."""
    return (1 + jnp.asarray(stage, jnp.result_type(float)) / self.delay) ** -self.power

  @property
  def robbins_monro(self) -> bool:
    """Whether the sum of the factors over all stages is infinite and that of squares is finite."""
    return 0.5 < self.power <= 1


def two_timescales(shared: Schedule, calibrator: Schedule) -> bool:
  """Whether two learning rates meet Assumption 2."""
  return (
      shared.robbins_monro and calibrator.robbins_monro and calibrator.power > shared.power
  )
