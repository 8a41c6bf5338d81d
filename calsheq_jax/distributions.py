"""Distributions over a box of actions; the only file that imports distrax.

A head turns the outputs of a network into a distribution over a unit box, which is then mapped to
the box of the environment. Log-probabilities and entropies are those of actions in the
environment's units.

  gaussian        a diagonal Gaussian whose scale does not depend on the observation
  gaussian_state  a diagonal Gaussian whose scale depends on the observation
  beta            a unimodal Beta distribution for each component, which never leaves the box

A Gaussian's samples may lie beyond the box. Environments clip them, and log-probabilities are those
of the samples before clipping.

Glossary: A length of an action, P length of the parameters.
"""

import math

import distrax
import jax
import jax.numpy as jnp
import numpy as np

from calsheq_jax.types import Array
from envs.base import Box

HEADS: tuple[str, ...] = ("gaussian", "gaussian_state", "beta")

# Bounds of a Gaussian's scale, in half-widths of the box.
SCALES = (1e-3, 2.0)

# Distance from 0 and 1 at which the density of a Beta is evaluated for samples that float32 has
# rounded to 0 or 1.
_EDGE = 1e-6


class OverBox:
  """A distribution over reals, shifted and scaled: a `Distribution` with event shape [A]."""

  def __init__(self, base: distrax.Distribution, offset: Array, scale: Array):
    """Makes the distribution of offset + scale * x, where x follows `base`.

    Args:
      base: batch shape [*, A], event shape [].
      offset, scale: [A] in the environment's units.
    """
    self._base = base
    self._offset, self._scale = offset, scale

  def sample(self, *, seed: Array) -> Array:
    return self._offset + self._scale * self._base.sample(seed=seed)

  def log_prob(self, value: Array) -> Array:
    density = self._base.log_prob((value - self._offset) / self._scale)
    return jnp.sum(density - jnp.log(self._scale), -1)

  def entropy(self) -> Array:
    return jnp.sum(self._base.entropy() + jnp.log(self._scale), -1)

  def kl_divergence(self, other: "OverBox") -> Array:
    """KL(self || other) of two distributions with the same head and box: [*]."""
    return jnp.sum(self._base.kl_divergence(other._base), -1)

  def mean(self) -> Array:
    return self._offset + self._scale * self._base.mean()


class _InnerBeta(distrax.Beta):
  """A Beta distribution whose log-density is finite at 0 and 1."""

  def log_prob(self, value):
    return super().log_prob(jnp.clip(value, _EDGE, 1 - _EDGE))


def check_box(low, high) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Converts the bounds [A] of a box to tuples of floats.

  Raises:
    ValueError: the bounds are not two vectors of one length, are not finite, or low is not below
      high.
  """
  low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
  if low.ndim != 1 or low.shape != high.shape or not low.size:
    raise ValueError(
        f"the bounds of an action have shapes {list(low.shape)} and {list(high.shape)}: two vectors"
        " of one length are expected"
    )
  if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
    raise ValueError(
        f"bounds of actions {low.tolist()} to {high.tolist()}: they must be finite, with low <"
        " high"
    )
  return tuple(low.tolist()), tuple(high.tolist())


def num_parameters(head: str, action_size: int) -> int:
  """The number of distribution parameters P.

  It is 2 A for every head: a location and a scale, or two shapes, for each component.

  Raises:
    ValueError: the head is unknown.
  """
  if head not in HEADS:
    raise ValueError(f"head={head!r} is not one of {', '.join(HEADS)}")
  return 2 * action_size


def scale_offset(initial_scale: float) -> float:
  """The raw parameter of a Gaussian with this scale, in half-widths of the box.

  Raises:
    ValueError: the scale is outside `SCALES`.
  """
  low, high = SCALES
  if not low < initial_scale < high:
    raise ValueError(f"initial_scale={initial_scale} must lie between {low:g} and {high:g}")
  part = math.log(initial_scale / low) / math.log(high / low)
  return math.log(part / (1 - part))


def distribution(head: str, parameters: Array, box: Box) -> OverBox:
  """Makes the distribution of a head.

  Args:
    head: one of HEADS.
    parameters: [*, 2 A] any reals. A Gaussian has means, in half-widths of the box from its middle,
      and then raw scales, which a sigmoid maps between the logarithms of SCALES. A Beta has raw
      shapes x, from which the shapes are 1 + softplus(x).
    box: finite bounds [A].
  """
  low, high = jnp.asarray(box.low), jnp.asarray(box.high)
  first, second = jnp.split(parameters, 2, axis=-1)
  if head == "beta":
    base = _InnerBeta(1 + jax.nn.softplus(first), 1 + jax.nn.softplus(second))
    return OverBox(base, low, high - low)
  smallest, largest = SCALES
  log_scale = math.log(smallest) + math.log(largest / smallest) * jax.nn.sigmoid(second)
  return OverBox(distrax.Normal(first, jnp.exp(log_scale)), (low + high) / 2, (high - low) / 2)
