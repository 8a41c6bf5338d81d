"""One source for two memory layouts: a single game, and a batch of small games in the last axis.

The exact engine writes every formula once, for arrays whose leading axes belong to the game and
whose trailing axes `*b`, if any, are a batch:

  * without trailing axes the functions below are the ordinary matrix product, sum and maximum, and
    the caller uses `vmap`. This suits large games, whose own axes fill the vector units, and all
    games on a CPU;
  * with one trailing axis they are unrolled over the game's axes, so that every instruction works
    on a contiguous run of games. This suits small games on accelerators, where arrays lie in tiles
    along their last axes: an 8x8 matrix would leave 15/16 of a TPU's tile of 8x128 empty, while a
    batch fills it.

Unrolled formulas are slow on a CPU. XLA fuses cheap producers into every consumer, so a sum that
is broadcast over a matrix is computed again for each element: 256 games took 3 to 50 times as long
as in the other layout. The caller chooses the layout
(`nes_jax.solving.batches`).
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from nes_jax.types import Array

Item = TypeVar("Item")

# Matrix product of arrays without trailing batch axes, in full precision on every device.
dense_matmul = functools.partial(jnp.matmul, precision="highest")


def fold(function: Callable[[Item, Item], Item], items: Sequence[Item]) -> Item:
  """Balanced pairwise reduction: fewer dependent steps and less rounding than left to right."""
  items = list(items)
  while len(items) > 1:
    pairs = [function(a, b) for a, b in zip(items[::2], items[1::2])]
    items = pairs + items[len(pairs) * 2 :]
  return items[0]


def sum_over(x: Array, num_axes: int) -> Array:
  """Sum over the first `num_axes` axes: [n1, ..., nk, *b] -> [*b]."""
  if x.ndim == num_axes:
    return x.sum()
  return fold(jnp.add, list(x.reshape((-1,) + x.shape[num_axes:])))


def sum_axis(x: Array, axis: int, num_axes: int) -> Array:
  """Sum over one of the first `num_axes` axes: [n1, ..., nk, *b] -> the rest."""
  if x.ndim == num_axes:
    return x.sum(axis)
  slices = range(x.shape[axis])
  return fold(jnp.add, [jax.lax.index_in_dim(x, i, axis, keepdims=False) for i in slices])


def max_over(x: Array, num_axes: int) -> Array:
  """Maximum over the first `num_axes` axes: [n1, ..., nk, *b] -> [*b]."""
  if x.ndim == num_axes:
    return x.max()
  return fold(jnp.maximum, list(x.reshape((-1,) + x.shape[num_axes:])))


def at_smallest(key: Array, values: Array, unrolled: bool) -> Array:
  """Values where the key is smallest along the first axis: [n, ...], [n, ...] -> [...]."""
  if not unrolled:
    first = jnp.argmin(key, 0)
    rows = jnp.arange(len(key)).reshape((-1,) + (1,) * first.ndim)
    return jnp.where(rows == first, values, 0).sum(0)

  def nearer(x, y):
    return tuple(jnp.where(x[0] <= y[0], a, b) for a, b in zip(x, y))

  return fold(nearer, list(zip(key, values)))[1]


def matmul(x: Array, y: Array) -> Array:
  """Matrix product: [i, c, *b], [c, k, *b] -> [i, k, *b]."""
  if x.ndim == 2:
    return dense_matmul(x, y)
  # Left to right, not pairwise: each term is one fused multiply-add on an accumulator.
  result = x[:, 0, None] * y[0][None]
  for c in range(1, x.shape[1]):
    result = result + x[:, c, None] * y[c][None]
  return result


def over_batch(function: Callable[..., Any], batch_axis: int | None) -> Callable[..., Any]:
  """A function of one game as a function of games with this batch axis: None, 0 or -1.

  Functions for arrays with trailing batch axes need nothing for None and -1.
  """
  return jax.vmap(function) if batch_axis == 0 else function
