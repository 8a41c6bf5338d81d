"""Equivariant layers as Haiku modules (Marris et al. 2022, eqs. (12) to (15)).

Activations are one block a player, channels last: [B, A1, ..., AN, C] (payoffs), [B, Ap, C] (CCE
duals), [B, Ap, Ap, C] (CE duals). Weights are the same for every player and know nothing of N or
of the numbers of strategies, so one set of parameters serves games of every shape.

A layer multiplies each pooled feature by its own rows of the weight matrix where the feature is
small, and only then broadcasts and adds; it is the linear map of the concatenation of all
features at full size, which is never formed.
"""

from collections.abc import Callable, Sequence
import functools

import haiku as hk
import jax
import jax.numpy as jnp

from nes_jax.network import pooling
from nes_jax.network.pooling import Blocks
from nes_jax.types import Array

NORMS: tuple[str, ...] = ("batch", "rms", "none")
# Added to variances of activations, which are near one.
_VARIANCE_FLOOR = 1e-5
# Of the softplus, where the loss asks for more.
_LEAST_SLOPE = 0.05


@jax.custom_vjp
def product(x: Array, weights: Array) -> Array:
  """[..., C] times [C, D] -> [..., D].

  The rule that JAX derives for the weights' gradient has CPUs transpose the activations first; this
  one takes a third of the time.
  """
  return jnp.matmul(x, weights)


def _product_forward(x, weights):
  return product(x, weights), (x, weights)


def _product_backward(kept, gradient):
  x, weights = kept
  flat = [a.reshape(-1, a.shape[-1]) for a in (x, gradient)]
  return jnp.matmul(gradient, weights.T), jax.lax.dot_general(*flat, (((0,), (0,)), ((), ())))


product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def softplus(x: Array) -> Array:
  """log(1 + exp(x)), with a derivative that lets a dual leave 0.

  Duals that start at random go down together, and where all of them are 0 the true derivative is
  too: training would stay there. Where the loss asks for more, the derivative is at least
  `_LEAST_SLOPE`; where it asks for less, it is the true one. Neither moves a minimum.
  """
  return jax.nn.softplus(x)


def _softplus_forward(x):
  return jax.nn.softplus(x), jax.nn.sigmoid(x)


def _softplus_backward(slope, gradient):
  return (gradient * jnp.where(gradient < 0, jnp.maximum(slope, _LEAST_SLOPE), slope),)


softplus.defvjp(_softplus_forward, _softplus_backward)


def linear(features: Sequence[Blocks], weights: Array | Sequence[Array]) -> Blocks:
  """Sum over features of feature times its rows of the weights.

  Args:
    features: F features; each per player, of shapes that broadcast to one, channels C last.
    weights: [F * C, D], rows in the order of the features, or the rows as F arrays [C, D].

  Returns:
    Per player [..., D].
  """
  rows = jnp.split(weights, len(features)) if hasattr(weights, "shape") else weights
  done: dict[tuple[int, ...], Array] = {}  # what players share is multiplied once

  def one(mine: Sequence[Array]) -> Array:
    full = jnp.broadcast_shapes(*(x.shape for x in mine))
    # Pools of one shape share a matrix product; arrays of full size are not copied together.
    groups: dict[tuple, list[int]] = {}
    for index, x in enumerate(mine):
      groups.setdefault((x.shape, index if x.shape == full else None), []).append(index)
    terms = []
    for indices in groups.values():
      key = (*indices, *(id(mine[i]) for i in indices))
      if key not in done:
        x = jnp.concatenate([mine[i] for i in indices], axis=-1)
        done[key] = product(x, jnp.concatenate([rows[i] for i in indices]))
      terms.append(done[key])
    terms.sort(key=lambda x: x.size)
    return sum(terms[1:], terms[0])

  return tuple(map(one, zip(*features)))


def summed_linear(names: Sequence[str]) -> Callable[[Sequence[Blocks], Array], Blocks]:
  """`linear` for `pooling.payoffs(blocks, pooling.summed(names))`, weights in the order of `names`.

  The sum over the other players q of g(q) W is (sum over all q of g(q)) W - g(p) W: a product a
  player less, and no full-size sum for each player.
  """

  def transform(features: Sequence[Blocks], weights: Array) -> Blocks:
    rows = jnp.split(weights, len(names))
    identity = names.index(pooling.IDENTITY)
    own = rows[identity]
    for index, name in enumerate(names):
      if name in pooling.OTHERS_SUMS:
        count = len(features[0]) - 1 if name.endswith("mean") else 1
        rows[index] = rows[index] / count
        own = own - rows[index]
    rows[identity] = own
    return linear(features, rows)

  return transform


def _moments(blocks: Blocks, mask: Blocks | None) -> tuple[Array, Array]:
  """Mean and mean of squares a channel, [C] each, over batch, players and strategies.

  `mask` [..., 1] a player, zero or one, says which entries count; the batch axis is not in it.
  """
  count = 0.0
  sums = squares = 0.0
  for p, x in enumerate(blocks):
    axes = tuple(range(x.ndim - 1))
    entries = x.size // x.shape[-1]
    masked = x
    if mask is not None:
      masked = x * mask[p]
      entries = x.shape[0] * mask[p].sum()
    count = count + entries
    sums, squares = sums + masked.sum(axes), squares + (masked * x).sum(axes)
  count = jnp.maximum(count, 1)
  return sums / count, squares / count


def _deviation(mean: Array, square: Array) -> Array:
  """Standard deviation a channel, one for a channel that does not vary."""
  variance = square - mean**2
  varies = variance > _VARIANCE_FLOOR * square
  return jnp.where(varies, jnp.sqrt(jnp.where(varies, variance, 1)), 1)


class Norm(hk.Module):
  """Normalisation with learned scale and offset, or the offset alone.

  "batch": by mean and variance a channel over batch, players and strategies; those of a batch seen
  in training are what the module remembers, and inference uses what it remembers. "rms": each game
  by the root mean square over all its players, strategies and channels; nothing is remembered.
  "none": the offset only.

  Scale and offset start so that what comes out has mean `start` and unit variance a channel on the
  batch given at initialisation.
  """

  def __init__(self, kind: str, start: float = 0.0, name: str | None = None):
    super().__init__(name=name)
    self._kind = kind
    self._start = start

  def __call__(
      self, blocks: Blocks, mask: Blocks | None, is_training: bool, axis_name: str | None
  ) -> Blocks:
    channels = blocks[0].shape[-1:]
    inverse, shift = 1.0, 0.0
    if self._kind == "batch":
      mean, variance = self._batch_moments(blocks, mask, is_training, axis_name)
      inverse = jax.lax.rsqrt(variance + _VARIANCE_FLOOR)
      shift = -mean * inverse
    elif self._kind == "rms":
      blocks = _game_rms(blocks, mask)

    # A batch normalised by its own moments has zero mean and unit variance already.
    given = functools.cache(lambda: (0.0, 1.0) if self._kind == "batch" else _moments(blocks, mask))
    scale = 1.0
    if self._kind != "none":
      init = lambda shape, dtype: jnp.broadcast_to(1 / _deviation(*given()), shape).astype(dtype)
      scale = hk.get_parameter("scale", channels, init=init)
    init = lambda shape, dtype: jnp.broadcast_to(self._start - scale * given()[0], shape).astype(
        dtype
    )
    offset = hk.get_parameter("offset", channels, init=init)
    factor, offset = scale * inverse, scale * shift + offset
    return tuple(x * factor + offset for x in blocks)

  def _batch_moments(self, blocks, mask, is_training, axis_name):
    channels = blocks[0].shape[-1:]
    if not (is_training or hk.running_init()):
      return hk.get_state("mean", channels), hk.get_state("variance", channels)
    mean, square = _moments(blocks, mask)
    if axis_name is not None and not hk.running_init():
      mean, square = jax.lax.pmean((mean, square), axis_name)
    variance = jnp.maximum(square - mean**2, 0)
    for key, value in (("mean", mean), ("variance", variance)):
      hk.set_state(key, jax.lax.stop_gradient(value).astype(blocks[0].dtype))
    return mean, variance


def _game_rms(blocks: Blocks, mask: Blocks | None) -> Blocks:
  squares, count = 0.0, 0.0
  for p, x in enumerate(blocks):
    square = x * x if mask is None else x * x * mask[p]
    entries = x[0].size if mask is None else x.shape[-1] * mask[p].sum()
    squares = squares + square.sum(tuple(range(1, x.ndim)))
    count = count + entries
  factor = jax.lax.rsqrt(squares / jnp.maximum(count, 1) + _VARIANCE_FLOOR)  # [B]
  return tuple(x * factor.reshape((-1,) + (1,) * (x.ndim - 1)) for x in blocks)


class Layer(hk.Module):
  """A linear map of pooled features, then normalisation; the nonlinearity is the caller's.

  The weights are scaled a channel so that the map's result has unit variance on the batch given
  at initialisation (appendix D.1 of the paper).
  """

  def __init__(
      self,
      channels: int,
      norm: str,
      start: float = 0.0,
      spread: float = 1.0,
      name: str | None = None,
  ):
    """start, spread: mean and standard deviation that the map's result starts with."""
    super().__init__(name=name)
    self._channels = channels
    self._norm = norm
    self._start = start
    self._spread = spread

  def __call__(
      self,
      features: Sequence[Blocks],
      *,
      is_training: bool,
      axis_name: str | None,
      transform: Callable[[Sequence[Blocks], Array], Blocks] = linear,
      copies: int = 1,
      mask: Blocks | None = None,
  ) -> Blocks:
    """Features as in `linear`, weights [copies * F * C, D] -> blocks of D channels.

    Args:
      features: as in `linear`.
      is_training: moments of this batch (true) or remembered ones.
      axis_name: devices over which batch moments are averaged.
      transform: (features, weights) -> blocks.
      copies: sets of weights that `transform` takes, one below the other.
      mask: per player [..., 1], zero or one, no batch axis: entries that count in moments.
    """
    fan_in = copies * len(features) * features[0][0].shape[-1]

    shape = (fan_in, self._channels)
    if hk.running_init():
      draw = hk.initializers.VarianceScaling(1.0, "fan_in", "truncated_normal")
      weights = draw(shape, features[0][0].dtype)
      blocks = transform(features, weights)
      deviation = _deviation(*_moments(blocks, mask)) / self._spread
      hk.get_parameter("w", shape, init=lambda shape, dtype: (weights / deviation).astype(dtype))
      blocks = tuple(x / deviation for x in blocks)
    else:
      blocks = transform(features, hk.get_parameter("w", shape))
    norm = Norm(self._norm, self._start, name="norm")
    return norm(blocks, mask, is_training, axis_name)


def outer_sum(features: Sequence[Blocks], weights: Array) -> Blocks:
  """Eq. (13): two CCE duals u and v, and u(r) + v(d) from them: per player [B, Ap, Ap, D]."""
  first, second = (linear(features, half) for half in jnp.split(weights, 2))
  return tuple(u[:, :, None] + v[:, None] for u, v in zip(first, second))


def off_diagonal(sizes: Sequence[int], dtype) -> Blocks:
  """Per player [Ap, Ap, 1], zero on the diagonal and one beside it."""
  return tuple((1 - jnp.eye(size, dtype=dtype))[:, :, None] for size in sizes)


def to_dual_features(blocks: Blocks, names: Sequence[str]) -> list[Blocks]:
  """Pools payoff activations into the shape of CCE duals: for each name [B, Ap or 1, C]."""
  return [
      tuple(x.reshape(x.shape[0], -1, x.shape[-1]) for x in feature)
      for feature in pooling.payoffs(blocks, names)
  ]
