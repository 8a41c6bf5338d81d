"""Percentiles of the quantities of transactions, from a histogram of transactions.

Glossary: C quantities, 1 to C; *b any leading axes.
"""

import jax.numpy as jnp

from envs.base import Array

# The percentiles that are reported, in percent.
PERCENTILES: tuple[int, ...] = (10, 20, 30, 40, 50, 60, 70, 80, 90)


def percentiles(counts: Array) -> Array:
  """Exact percentiles: the least quantity that at least p% of the transactions do not exceed.

  Args:
    counts: [*b, C] integers; 100 times their sum must fit into their type.

  Returns:
    [*b, 9] int32 in 1..C, for each p of `PERCENTILES`; 0 if there was no transaction.
  """
  below = jnp.cumsum(counts, axis=-1)[..., None, :]  # [*b, 1, C]
  total = below[..., -1:]
  p = jnp.array(PERCENTILES, below.dtype)[:, None]
  short = jnp.sum(100 * below < p * total, axis=-1, dtype=jnp.int32)
  return jnp.where(total[..., 0] > 0, short + 1, 0)


def smooth_percentiles(counts: Array) -> Array:
  """Percentiles if the transactions of quantity q were spread evenly over q - 1/2 to q + 1/2.

  They are continuous in the quantities' shares as long as no share is 0, and within 1/2 of
  `percentiles`.

  Args:
    counts: [*b, C].

  Returns:
    [*b, 9] float in [1/2, C + 1/2], for each p of `PERCENTILES`; 0 if there was no transaction.
  """
  exact = percentiles(counts)  # [*b, 9]
  at = jnp.maximum(exact - 1, 0)
  total = jnp.cumsum(counts, axis=-1)

  def take(x):
    return jnp.take_along_axis(x, at, axis=-1)

  here, up_to = take(counts), take(total)
  p = jnp.array(PERCENTILES, counts.dtype)
  # The part (p N - 100 N_below) / (100 N_here) is in (0, 1]; its numerator is an exact integer.
  above = p * total[..., -1:] - 100 * (up_to - here)
  part = above.astype(jnp.result_type(float)) / (100 * jnp.maximum(here, 1))
  return jnp.where(exact > 0, exact - 0.5 + part, 0.0)
