"""Equivariant layers as Haiku modules (Marris et al. 2022, eqs. (12) to (15)).

Activations are one block a player, channels last: [B, A1, ..., AN, C] (payoffs), [B, Ap, C] (CCE
duals), [B, Ap, Ap, C] (CE duals). Weights are the same for every player and depend neither on N nor
on the numbers of strategies, so that one set of parameters serves games of every shape.

A layer is the linear map of the concatenation of all pooled features at full size, which is never
formed: each feature is multiplied by its own rows of the weight matrix while it is small, and the
products are broadcast and added.

Names of modules and parameters are part of the files of trained weights.
"""

from collections.abc import Callable, Sequence
import functools

import haiku as hk
import jax
import jax.numpy as jnp

from nes_jax.network import pooling
from nes_jax.network.pooling import Blocks
from nes_jax.types import Array

# Kinds of normalisation, see `Norm`.
NORMS: tuple[str, ...] = ("batch", "rms", "none")
# Number added to variances of activations, which are near one.
_VARIANCE_FLOOR = 1e-5
# Least derivative of the softplus where the loss asks for a larger dual.
_LEAST_SLOPE = 0.05


@jax.custom_vjp
def matmul(x: Array, weights: Array) -> Array:
  """Product of activations [..., C] and weights [C, D]: [..., D].

  The rule that JAX derives for the weights' gradient makes CPUs transpose the activations first.
  The rule here takes a third of the time.
  """
  return jnp.matmul(x, weights)


def _matmul_forward(x, weights):
  return matmul(x, weights), (x, weights)


def _matmul_backward(residuals, gradient):
  x, weights = residuals
  flat = [a.reshape(-1, a.shape[-1]) for a in (x, gradient)]
  return jnp.matmul(gradient, weights.T), jax.lax.dot_general(*flat, (((0,), (0,)), ((), ())))


matmul.defvjp(_matmul_forward, _matmul_backward)


@jax.custom_vjp
def softplus(x: Array) -> Array:
  """Softplus log(1 + exp(x)), with a derivative that lets a dual leave 0.

  Duals that start at random decrease together, and where all of them are 0 the true derivative is 0
  too, so that training would stay there. Where the loss asks for a larger dual, the derivative is
  at least `_LEAST_SLOPE`; where it asks for a smaller one, the derivative is the true one. Neither
  moves a minimum of the loss.
  """
  return jax.nn.softplus(x)


def _softplus_forward(x):
  return jax.nn.softplus(x), jax.nn.sigmoid(x)


def _softplus_backward(slope, gradient):
  return (gradient * jnp.where(gradient < 0, jnp.maximum(slope, _LEAST_SLOPE), slope),)


softplus.defvjp(_softplus_forward, _softplus_backward)


def linear(features: Sequence[Blocks], weights: Array | Sequence[Array]) -> Blocks:
  """Linear map of features: the sum of each feature times its rows of the weights.

  Args:
    features: F features, each with one array a player. Arrays of a player have shapes that
      broadcast to one shape, with C channels in the last axis.
    weights: [F * C, D], rows in the order of the features, or the rows as F arrays [C, D].

  Returns:
    For each player [..., D].
  """
  rows = weights if isinstance(weights, Sequence) else jnp.split(weights, len(features))
  # Products by the features in them: an array that players share is multiplied once.
  products: dict[tuple[int, ...], Array] = {}

  def transform(arrays: Sequence[Array]) -> Array:
    full = jnp.broadcast_shapes(*(x.shape for x in arrays))
    # Features of one shape share a matrix product. Those of full size do not, because putting them
    # into one array would copy them.
    groups: dict[tuple, list[int]] = {}
    for index, x in enumerate(arrays):
      groups.setdefault((x.shape, index if x.shape == full else None), []).append(index)
    terms = []
    for indices in groups.values():
      key = (*indices, *(id(arrays[i]) for i in indices))
      if key not in products:
        x = jnp.concatenate([arrays[i] for i in indices], axis=-1)
        products[key] = matmul(x, jnp.concatenate([rows[i] for i in indices]))
      terms.append(products[key])
    terms.sort(key=lambda x: x.size)
    return sum(terms[1:], terms[0])

  return tuple(map(transform, zip(*features)))


def summed_linear(names: Sequence[str]) -> Callable[[Sequence[Blocks], Array], Blocks]:
  """Makes the map that is `linear` on the pools `names`, from sums over all players.

  The sum over the other players q of g(q) W is (sum over all q of g(q)) W - g(p) W. This saves a
  matrix product for each player, and the sum over the others at full size.

  Args:
    names: pools of payoff activations; the identity is one of them.

  Returns:
    Function (features, weights) -> blocks, for the features
    `pooling.payoffs(blocks, pooling.summed(names))` and weights in the order of `names`.
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
  """Mean and mean square of each channel over batch, players and strategies: [C] each.

  Args:
    blocks: for each player [B, ..., C].
    mask: for each player [..., 1] without the batch axis, one where an entry counts and zero where
      it does not; None if all entries count.
  """
  count: Array | float = 0.0
  # Numbers of Python leave the type of the blocks as it is.
  sums: Array | float = 0.0
  squares: Array | float = 0.0
  for p, x in enumerate(blocks):
    axes = tuple(range(x.ndim - 1))
    entries: Array | int = x.size // x.shape[-1]
    masked = x
    if mask is not None:
      masked = x * mask[p]
      entries = x.shape[0] * mask[p].sum()
    count = count + entries
    sums, squares = sums + masked.sum(axes), squares + (masked * x).sum(axes)
  count = jnp.maximum(count, 1)
  return sums / count, squares / count


def _standard_deviation(mean: Array, square: Array) -> Array:
  """Standard deviation of each channel from its moments; one for a channel that does not vary."""
  variance = square - mean**2
  varies = variance > _VARIANCE_FLOOR * square
  return jnp.where(varies, jnp.sqrt(jnp.where(varies, variance, 1)), 1)


class Norm(hk.Module):
  """Normalisation with learned scale and offset.

  "batch": normalises each channel by its mean and variance over batch, players and strategies. The
    module keeps the moments of the last training batch, and inference uses them.
  "rms": divides each game by the root mean square over its players, strategies and channels. The
    module keeps nothing.
  "none": adds a learned offset, without normalisation and scale.

  Initial scale and offset give each channel the mean `initial_mean` and unit variance on the batch
  given at initialisation.
  """

  def __init__(self, kind: str, initial_mean: float = 0.0, name: str | None = None):
    super().__init__(name=name)
    self._kind = kind
    self._initial_mean = initial_mean

  def __call__(
      self, blocks: Blocks, mask: Blocks | None, is_training: bool, axis_name: str | None
  ) -> Blocks:
    """Normalises activations.

    Args:
      blocks: for each player [B, ..., C].
      mask: entries that count in moments, as in `Layer`.
      is_training: whether to use the moments of this batch, or those kept.
      axis_name: mapped axis over which moments of a training batch are averaged, or None.

    Returns:
      Blocks of the same shapes.
    """
    channels = blocks[0].shape[-1:]
    inverse: Array | float = 1.0
    shift: Array | float = 0.0
    if self._kind == "batch":
      mean, variance = self._batch_moments(blocks, mask, is_training, axis_name)
      inverse = jax.lax.rsqrt(variance + _VARIANCE_FLOOR)
      shift = -mean * inverse
    elif self._kind == "rms":
      blocks = _divide_by_rms(blocks, mask)

    @functools.cache
    def input_moments():
      # A batch normalised by its own moments has zero mean and unit variance already.
      return (0.0, 1.0) if self._kind == "batch" else _moments(blocks, mask)

    def init_scale(shape, dtype):
      return jnp.broadcast_to(1 / _standard_deviation(*input_moments()), shape).astype(dtype)

    def init_offset(shape, dtype):
      offset = self._initial_mean - scale * input_moments()[0]
      return jnp.broadcast_to(offset, shape).astype(dtype)

    scale: Array | float = 1.0
    if self._kind != "none":
      scale = hk.get_parameter("scale", channels, init=init_scale)
    offset = hk.get_parameter("offset", channels, init=init_offset)
    factor, offset = scale * inverse, scale * shift + offset
    return tuple(x * factor + offset for x in blocks)

  def _batch_moments(self, blocks, mask, is_training, axis_name):
    """Mean and variance of each channel, of this batch or those kept: [C] each."""
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


def _divide_by_rms(blocks: Blocks, mask: Blocks | None) -> Blocks:
  """Divides each game by the root mean square of its entries; see `_moments` for the arguments."""
  squares: Array | float = 0.0
  count: Array | float = 0.0
  for p, x in enumerate(blocks):
    square = x * x if mask is None else x * x * mask[p]
    entries = x[0].size if mask is None else x.shape[-1] * mask[p].sum()
    squares = squares + square.sum(tuple(range(1, x.ndim)))
    count = count + entries
  factor = jax.lax.rsqrt(squares / jnp.maximum(count, 1) + _VARIANCE_FLOOR)  # [B]
  return tuple(x * factor.reshape((-1,) + (1,) * (x.ndim - 1)) for x in blocks)


class Layer(hk.Module):
  """A linear map of pooled features, then normalisation; the caller applies the nonlinearity.

  Each channel of the weights is scaled so that the result of the map has unit variance on the batch
  given at initialisation (appendix D.1 of the paper).
  """

  def __init__(
      self,
      channels: int,
      norm: str,
      initial_mean: float = 0.0,
      initial_std: float = 1.0,
      name: str | None = None,
  ):
    """Makes a layer.

    Args:
      channels: D, number of channels of the result.
      norm: kind of normalisation, one of `NORMS`.
      initial_mean: mean of each channel of the result at initialisation.
      initial_std: standard deviation of each channel of the map's result at initialisation.
      name: name of the Haiku module.
    """
    super().__init__(name=name)
    self._channels = channels
    self._norm = norm
    self._initial_mean = initial_mean
    self._initial_std = initial_std

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
    """Applies the map and the normalisation.

    Args:
      features: F features of C channels, as in `linear`.
      is_training: whether normalisation uses the moments of this batch, or those kept.
      axis_name: mapped axis over which moments of a training batch are averaged, or None.
      transform: function (features, weights) -> blocks, with weights [copies * F * C, D].
      copies: number of weight matrices [F * C, D] that `transform` takes, one below the other.
      mask: for each player [..., 1] without the batch axis, one for entries that count in moments
        and zero for the others; None if all count.

    Returns:
      Blocks of D channels.
    """
    fan_in = copies * len(features) * features[0][0].shape[-1]

    shape = (fan_in, self._channels)
    if hk.running_init():
      draw = hk.initializers.VarianceScaling(1.0, "fan_in", "truncated_normal")
      weights = draw(shape, features[0][0].dtype)
      blocks = transform(features, weights)
      divisor = _standard_deviation(*_moments(blocks, mask)) / self._initial_std
      hk.get_parameter("w", shape, init=lambda shape, dtype: (weights / divisor).astype(dtype))
      blocks = tuple(x / divisor for x in blocks)
    else:
      blocks = transform(features, hk.get_parameter("w", shape))
    norm = Norm(self._norm, self._initial_mean, name="norm")
    return norm(blocks, mask, is_training, axis_name)


def outer_sum(features: Sequence[Blocks], weights: Array) -> Blocks:
  """Makes CE activations u(r) + v(d) from two linear maps u and v (eq. (13)).

  Args:
    features: F features of the shape of CCE duals, [B, Ap or 1, C] for each player.
    weights: [2 * F * C, D], those of u above those of v.

  Returns:
    For each player [B, Ap, Ap, D].
  """
  first, second = (linear(features, half) for half in jnp.split(weights, 2))
  return tuple(u[:, :, None] + v[:, None] for u, v in zip(first, second))


def off_diagonal(sizes: Sequence[int], dtype) -> Blocks:
  """Masks that are zero on the diagonal and one off it: for each player [Ap, Ap, 1]."""
  return tuple((1 - jnp.eye(size, dtype=dtype))[:, :, None] for size in sizes)


def to_dual_features(blocks: Blocks, names: Sequence[str]) -> list[Blocks]:
  """Pools payoff activations into the shape of CCE duals.

  Args:
    blocks: for each player [B, A1, ..., AN, C].
    names: members of `pooling.VALID["to_duals"]`.

  Returns:
    For each name and player [B, Ap or 1, C].
  """
  return [
      tuple(x.reshape(x.shape[0], -1, x.shape[-1]) for x in feature)
      for feature in pooling.payoffs(blocks, names)
  ]
