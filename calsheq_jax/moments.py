"""Weighted moments of a batch that is spread over devices, and running moments.

Glossary: d numbers, * any leading axes.
"""

import jax
import jax.numpy as jnp

from calsheq_jax.types import Array, Moments

# Weight at which running moments stop growing, so that older steps fade.
_MEMORY = 1e6


def weighted_moments(x: Array, weight: Array, axis_name: str | None = None) -> Moments:
  """Weighted mean and variance over the batch of all devices.

  Args:
    x: [*, d] or [*], this device's part of the batch.
    weight: [*].
    axis_name: name of the axis of devices that share the batch; None means a single device.

  Returns:
    The total weight [], and mean and biased variance, [d] or [].
  """
  axes = tuple(range(weight.ndim))
  spread = weight.reshape(weight.shape + (1,) * (x.ndim - weight.ndim))

  def total(x):
    x = jnp.sum(x, axes)
    return x if axis_name is None else jax.lax.psum(x, axis_name)

  count = total(weight)
  mean = total(x * spread) / jnp.maximum(count, 1)
  variance = total(jnp.square(x - mean) * spread) / jnp.maximum(count, 1)
  return Moments(count, mean, variance)


def update_moments(old: Moments, new: Moments) -> Moments:
  """Updates running moments with those of a new batch (Chan et al. 1983).

  The weight of what is remembered is at most a million steps. New moments that are not finite leave
  the old ones as they are.
  """
  finite = jnp.isfinite(new.mean).all() & jnp.isfinite(new.variance).all()
  new = jax.tree.map(lambda x: jnp.where(finite, x, 0), new)
  count = old.count + new.count
  part = new.count / jnp.maximum(count, 1)
  shift = new.mean - old.mean
  variance = (1 - part) * old.variance + part * new.variance + part * (1 - part) * shift**2
  return Moments(jnp.minimum(count, _MEMORY), old.mean + part * shift, variance)
