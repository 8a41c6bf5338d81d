"""Targets of a calibration, and the calibrator's reward for meeting them.

An episode shows values f_k, and each target has a value f*_k, a tolerance_k, a scale_k and a weight
w_k, where the weights sum to 1. The reward is

  r = sum_k w_k / (1 + max(|f*_k - f_k| - tolerance_k, 0) / scale_k),                   (reward)

which is 1 for a perfect fit. Vadori et al. (2020, section 3) have r = sum_k w_k l_k^-1(f*_k - f_k)
and do not print the functions l_k, so that (reward) is a choice of ours.

Glossary: K targets, B episodes; * any leading axes.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from calsheq_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Target:
  """A value that one number of an episode's outputs should have."""

  output: str  # name in env.outputs; with a function, any name
  value: float  # the value wanted
  scale: float  # error beyond the tolerance at which half of the reward is lost
  weight: float = 1.0  # relative weight; weights of all targets are divided by their sum
  index: tuple[int, ...] = ()  # index of the number within the output
  tolerance: float = 0.0  # errors up to this size count as no error
  function: Callable[[Mapping[str, Array]], Array] | None = None  # outputs -> number []

  def __post_init__(self):
    object.__setattr__(self, "index", tuple(self.index))
    if not math.isfinite(self.value):
      raise ValueError(f"the target of {self.name} is {self.value}: it must be finite")
    for field in ("scale", "weight"):
      if not 0 < getattr(self, field) < math.inf:
        raise ValueError(
            f"{field}={getattr(self, field)} of the target {self.name} must be positive and finite"
        )
    if not 0 <= self.tolerance < math.inf:
      raise ValueError(
          f"tolerance={self.tolerance} of the target {self.name} must be finite and at least 0"
      )

  @property
  def name(self) -> str:
    """The output with the index, such as supertype_percentiles[0,3]."""
    return self.output + (f"[{','.join(map(str, self.index))}]" if self.index else "")

  def read(self, outputs: Mapping[str, Array]) -> Array:
    """Reads the number [] that the target is about from an episode's outputs."""
    value = outputs[self.output][self.index] if self.function is None else self.function(outputs)
    return jnp.asarray(value, jnp.result_type(float))


def vector_targets(
    output: str,
    values: Sequence[float],
    weight: float = 1.0,
    index: tuple[int, ...] = (),
    **more: Any,
) -> tuple[Target, ...]:
  """Makes a `Target` for each number of a vector.

  Args:
    output: name in env.outputs.
    values: wanted values of the vector.
    weight: weight of all these targets together, which is shared out evenly.
    index: index of the vector within the output.
    **more: further fields of each target.
  """
  each = weight / len(values)
  return tuple(
      Target(output, value, weight=each, index=(*index, i), **more)
      for i, value in enumerate(values)
  )


def values_of(targets: Sequence[Target], outputs: Mapping[str, Array]) -> Array:
  """Reads the numbers that all targets are about from an episode's outputs: [K]."""
  return jnp.stack([target.read(outputs) for target in targets])


def goals_of(targets: Sequence[Target]) -> Array:
  """The values that the targets want: [K]."""
  return jnp.array([target.value for target in targets], jnp.result_type(float))


def fits(targets: Sequence[Target], values: Array, goals: Array) -> Array:
  """The fit 1 / (1 + error / scale) of each target, in (0, 1].

  Args:
    targets: K targets, of which scales and tolerances are used.
    values: [*, K] numbers that episodes have shown.
    goals: [*, K] numbers that they should have shown.

  Returns:
    [*, K].
  """

  def column(name):
    return np.array([getattr(target, name) for target in targets], np.float32)

  error = jnp.maximum(jnp.abs(goals - values) - column("tolerance"), 0)
  return 1 / (1 + error / column("scale"))


def reward(targets: Sequence[Target], values: Array, goals: Array) -> Array:
  """The calibrator's reward (reward), in (0, 1]: values [*, K], goals [*, K] -> [*]."""
  weight = np.array([target.weight for target in targets])
  return fits(targets, values, goals) @ jnp.asarray(weight / weight.sum(), values.dtype)
