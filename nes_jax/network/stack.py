"""The stack of layers, from input channels to duals and a joint (Marris et al. 2022, section 4.4).

Names of layers are part of the files of trained weights.

Glossary: B games, N players, Ap strategies of player p, |A| joint strategies, C channels.
"""

from collections.abc import Callable
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from nes_jax import dual
from nes_jax.network import layers, pooling, rounds
from nes_jax.network.config import Config
from nes_jax.network.pooling import Blocks
from nes_jax.types import Array, Problem

# Mean of the softplus's inputs at the start of training. Most duals of an equilibrium are near 0.
LAST_START = -2.0
# Standard deviation of these inputs, and of logits. From duals that are spread widely, the shortest
# way down makes all of them 0, where the softplus is flat and training stays for long, or for ever.
LAST_SPREAD = 0.1
# Number of channels that a round with a joint passes from the joint to the duals, and back.
MESSAGES = 4


class Stack:
  """The layers of one pass through a network."""

  def __init__(
      self,
      config: Config,
      values: Array,
      scale: Array,
      problem: Problem,
      is_training: bool,
      axis_name: str | None,
  ):
    """Takes the inputs of the pass.

    Args:
      config: configuration of the network.
      values: [B, N, A1, ..., AN, C] input channels, payoffs first.
      scale: [B, N] factors that make the network's duals those of the problem.
      problem: arrays with a leading batch axis.
      is_training: whether to normalise by the moments of this batch, or by those kept.
      axis_name: mapped axis over which moments of a training batch are averaged, or None.
    """
    self._config, self._values, self._scale, self._problem = config, values, scale, problem
    self._options: dict[str, Any] = {"is_training": is_training, "axis_name": axis_name}
    self._nonlinear: Callable[[Array], Array] = (
        jax.nn.relu if config.activation == "relu" else lambda x: x
    )
    correlated = config.concept == "ce"
    self._mask = layers.off_diagonal(values.shape[2:-1], values.dtype) if correlated else None
    pool = pooling.ce_duals if correlated else pooling.cce_duals
    assert config.dual_pools is not None  # `Config` has filled them in
    self._pool = functools.partial(pool, names=config.dual_pools)

  def answer(self) -> tuple[Blocks, Array | None]:
    """Duals in the network's units, and logits of the joint if it is part of the answer.

    Returns:
      Non-negative duals, per player [B, Ap] (CCE) or [B, Ap, Ap] (CE); and [B, A1, ..., AN] or
      None.
    """
    payoffs = self._payoff_layers()
    blocks = self._dual_layers(payoffs)
    raw = self._last_layer(blocks, "last", LAST_START, LAST_SPREAD)
    logits = None
    if self._config.answer == "joint":
      logits = self._logits(payoffs, "logits")
    for index in range(self._config.rounds):
      if logits is None:
        raw, blocks = self._round(index, raw, blocks)
      else:
        raw, logits, blocks, payoffs = self._joint_round(index, raw, logits, blocks, payoffs)
    return tuple(x[..., 0] for x in self._duals(raw)), logits

  # Layers.

  def _layer(self, channels: int, name: str, norm=None, start=0.0, spread=1.0):
    norm = self._config.norm if norm is None else norm
    module = layers.Layer(channels, norm, start, spread, name=name)
    return lambda features, **options: module(features, **self._options, **options)

  def _payoff_layer(self, blocks: Blocks, name: str, channels: int, **more) -> Blocks:
    pools = self._config.payoff_pools
    pooled = pooling.payoffs(blocks, pooling.summed(pools))
    return self._layer(channels, name, **more)(pooled, transform=layers.summed_linear(pools))

  def _payoff_layers(self) -> Blocks:
    blocks: Blocks = tuple(self._values[:, p] for p in range(self._values.shape[1]))
    for index, channels in enumerate(self._config.payoff_channels):
      blocks = tuple(map(self._nonlinear, self._payoff_layer(blocks, f"payoffs_{index}", channels)))
    return blocks

  def _dual_layers(self, payoffs: Blocks) -> Blocks:
    pooled = layers.to_dual_features(payoffs, self._config.to_dual_pools)
    layer = self._layer(self._config.dual_channel, "to_duals")
    if self._mask is None:
      blocks = layer(pooled)
    else:
      blocks = layer(pooled, transform=layers.outer_sum, copies=2, mask=self._mask)
    blocks = self._masked(map(self._nonlinear, blocks))
    for index, channels in enumerate(self._config.dual_channels):
      blocks = self._dual_layer(blocks, channels, f"duals_{index}")
    return blocks

  def _masked(self, blocks) -> Blocks:
    return tuple(blocks if self._mask is None else (x * m for x, m in zip(blocks, self._mask)))

  def _dual_layer(self, blocks: Blocks, channels: int, name: str) -> Blocks:
    pooled = self._pool(blocks)
    mapped = self._layer(channels, name)(pooled, mask=self._mask)
    return self._masked(map(self._nonlinear, mapped))

  def _last_layer(self, blocks: Blocks, name: str, start: float, spread: float) -> Blocks:
    pooled = self._pool(blocks)
    return self._layer(1, name, "none", start, spread)(pooled, mask=self._mask)

  def _logits(self, payoffs: Blocks, name: str) -> Array:
    """A number for each joint strategy, [B, A1, ..., AN], from activations of all players."""
    blocks = self._payoff_layer(payoffs, name, 1, norm="none", spread=LAST_SPREAD)
    return sum(x[..., 0] for x in blocks[1:]) + blocks[0][..., 0]

  def _duals(self, raw: Blocks) -> Blocks:
    return self._masked(map(layers.softplus, raw))

  # Rounds.

  def _round(self, index: int, raw: Blocks, blocks: Blocks) -> tuple[Blocks, Blocks]:
    """One more dual layer, which sees the duals so far, and changes them."""
    duals, concept = self._duals(raw), self._config.concept
    seen = rounds.features(duals, self._scale, self._problem, concept)
    return self._changed(index, raw, blocks, seen)

  def _changed(
      self, index: int, raw: Blocks, blocks: Blocks, seen: tuple[Array, ...]
  ) -> tuple[Blocks, Blocks]:
    """The duals, before their softplus, and the activations of the dual layers after a round."""
    blocks = tuple(jnp.concatenate(parts, axis=-1) for parts in zip(blocks, seen))
    blocks = self._dual_layer(blocks, self._config.dual_channels[-1], f"round_{index}")
    change = self._last_layer(blocks, f"change_{index}", 0.0, LAST_SPREAD)
    return tuple(x + y for x, y in zip(raw, change)), blocks

  def _joint_round(
      self, index: int, raw: Blocks, logits: Array, blocks: Blocks, payoffs: Blocks
  ) -> tuple[Blocks, Array, Blocks, Blocks]:
    """A round of a network that answers with a joint, too.

    A dual layer sees the derivatives (11) at the joint of the duals and at the network's own joint.
    A payoff layer then sees the logits, those of the duals, eq. (8), and their difference. Each of
    the two layers also sees a few channels of the other one, multiplied by A or A'.

    Returns:
      The duals before their softplus, the logits, and the activations of dual and payoff layers.
    """
    concept, games = self._config.concept, self._values[..., 0]
    axes = tuple(range(1, logits.ndim))
    joint = jax.nn.softmax(jnp.log(self._problem.target) + logits, axis=axes)
    told = self._layer(MESSAGES, f"from_joint_{index}", "none")([payoffs])
    weights = sum(told[1:], told[0]) / math.sqrt(len(told))
    played = joint[..., None] * joint[0].size
    both = jnp.concatenate([weights, played * weights], axis=-1)
    messages = rounds.to_duals(games, both, concept)
    slopes = rounds.features(self._duals(raw), self._scale, self._problem, concept, joint)
    inputs = self._masked(jnp.concatenate(parts, axis=-1) for parts in zip(slopes, messages))
    raw, blocks = self._changed(index, raw, blocks, inputs)
    told = self._layer(MESSAGES, f"from_duals_{index}", "none")([blocks], mask=self._mask)
    message = rounds.to_joint(games, self._masked(told), concept)
    given = rounds.in_units(tuple(x[..., 0] for x in self._duals(raw)), self._scale)
    recovered = jax.vmap(lambda x, y: dual.logits(x, y, concept))(self._problem, given)
    missing = jnp.arcsinh(_centred(recovered - logits))
    seen = jnp.stack([_centred(logits), jnp.arcsinh(_centred(recovered)), missing], axis=-1)
    message = jnp.concatenate([message, seen.astype(message.dtype)], axis=-1)
    payoffs = tuple(
        jnp.concatenate([x, self._values[:, p], message], axis=-1) for p, x in enumerate(payoffs)
    )
    payoffs = self._payoff_layer(payoffs, f"joint_{index}", self._config.payoff_channels[-1])
    payoffs = tuple(map(self._nonlinear, payoffs))
    return raw, logits + self._logits(payoffs, f"logits_{index}"), blocks, payoffs


def _centred(x: Array) -> Array:
  """x [B, ...] without each game's mean."""
  return x - x.mean(tuple(range(1, x.ndim)), keepdims=True)
