"""Random examples that do not depend on how a batch is spread over devices.

A learner that draws its own data gives each example of the global batch a key of its own, so that
the same seed draws the same batch on any number of devices.

Glossary: B examples of the global batch, D devices, b = B / D examples of one device.
"""

import jax
import jax.numpy as jnp


def example_slice(global_batch: int, axis_name: str | None = None) -> jax.Array:
  """Indices of this device's examples in the global batch; `axis_name` must be bound.

  Args:
    global_batch: B, a Python int that the devices divide.
    axis_name: mapped axis of the devices; None: there is one device.

  Returns:
    int32 [b] consecutive indices: device d has d b, ..., d b + b - 1.

  Raises:
    ValueError: D does not divide B.
  """
  if axis_name is None:
    return jnp.arange(global_batch, dtype=jnp.int32)
  count = jax.lax.axis_size(axis_name)
  if global_batch % count:
    raise ValueError(f"{global_batch} examples do not divide over {count} devices")
  size = global_batch // count
  return jax.lax.axis_index(axis_name) * size + jnp.arange(size, dtype=jnp.int32)


def example_keys(key: jax.Array, global_batch: int, axis_name: str | None = None) -> jax.Array:
  """One key for each example of `example_slice`, [b], the same for any number of devices.

  Args:
    key: PRNG key of the global batch, equal on all devices.
    global_batch: B.
    axis_name: mapped axis of the devices; None: there is one device.
  """
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(example_slice(global_batch, axis_name))
