"""Targets of a calibration, and the calibrator's reward for meeting them.

An episode shows values f_k, and each target has a value f*_k, a tolerance_k, a scale_k and a weight
w_k, where the weights sum to 1. The reward is

  r = sum_k w_k / (1 + max(|f*_k - f_k| - tolerance_k, 0) / scale_k),                   (reward)

which is 1 for a perfect fit. Vadori et al. (2020, section 3) have r = sum_k w_k l_k^-1(f*_k - f_k)
and do not print the functions l_k, so that (reward) is a choice of ours.

Where the covariance S of the observed values is known, errors that go together count once. With the
whitened error

  z = L^-1 (f* - f),    S = L L^T,    r = 1 / (1 + |z| / sqrt(K)),                   (whitened)

|z|^2 is the squared Mahalanobis distance (f* - f)^T S^-1 (f* - f). For one target, (whitened) is
(reward) with the standard error as its scale.

A calibration without agents needs no reward of single episodes. It minimises the squared distance
of mean values, which is |z|^2 / K, or without a covariance sum_k w_k ((f*_k - f_k) / scale_k)^2
(`residuals`), as in the simulated method of moments (McFadden 1989).

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
  whitening: tuple[float, ...] = ()  # this target's row of L^-1 [K, K], see (whitened)

  def __post_init__(self):
    object.__setattr__(self, "index", tuple(self.index))
    object.__setattr__(self, "whitening", tuple(self.whitening))
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


def whitener_of(targets: Sequence[Target]) -> np.ndarray | None:
  """The matrix L^-1 [K, K] of (whitened), or None if no covariance is known.

  Raises:
    ValueError: the rows that the targets have are no square matrix.
  """
  if not any(target.whitening for target in targets):
    return None
  for target in targets:
    if len(target.whitening) != len(targets):
      raise ValueError(
          f"the target {target.name} has {len(target.whitening)} numbers of a whitening matrix, but"
          f" there are {len(targets)} targets: make them together, from one covariance"
      )
  return np.array([target.whitening for target in targets], np.float64)


def _errors(targets: Sequence[Target], values: Array, goals: Array) -> Array:
  """Errors f* - f beyond the tolerance, with their sign: [*, K]."""
  error = goals - values
  tolerance = np.array([target.tolerance for target in targets], np.float32)
  return jnp.sign(error) * jnp.maximum(jnp.abs(error) - tolerance, 0)


def _shares(targets: Sequence[Target]) -> np.ndarray:
  """The weights [K], which sum to 1."""
  weight = np.array([target.weight for target in targets])
  return weight / weight.sum()


def residuals(targets: Sequence[Target], values: Array, goals: Array) -> Array:
  """Errors in a unit in which their squares add up to the squared distance.

  They are z / sqrt(K) of (whitened) where a covariance is known, and otherwise
  sqrt(w_k) (f*_k - f_k) / scale_k.

  Args:
    targets: K targets.
    values: [*, K] numbers that were shown.
    goals: [*, K] numbers that they should have been.

  Returns:
    [*, K].
  """
  error = _errors(targets, values, goals)
  whitener = whitener_of(targets)
  if whitener is None:
    scale = np.array([target.scale for target in targets])
    return error * jnp.asarray(np.sqrt(_shares(targets)) / scale, error.dtype)
  return error @ jnp.asarray(whitener.T / np.sqrt(len(targets)), error.dtype)


def fits(targets: Sequence[Target], values: Array, goals: Array) -> Array:
  """The fit 1 / (1 + error / scale) of each target, in (0, 1].

  Args:
    targets: K targets, of which scales and tolerances are used.
    values: [*, K] numbers that episodes have shown.
    goals: [*, K] numbers that they should have shown.

  Returns:
    [*, K].
  """

  scale = np.array([target.scale for target in targets], np.float32)
  return 1 / (1 + jnp.abs(_errors(targets, values, goals)) / scale)


def reward(targets: Sequence[Target], values: Array, goals: Array) -> Array:
  """The calibrator's reward in (0, 1], (whitened) or (reward): values, goals [*, K] -> [*]."""
  if whitener_of(targets) is not None:
    return 1 / (1 + jnp.linalg.norm(residuals(targets, values, goals), axis=-1))
  return fits(targets, values, goals) @ jnp.asarray(_shares(targets), values.dtype)
