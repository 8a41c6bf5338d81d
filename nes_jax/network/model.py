"""The network: configuration, input channels and the stack of layers (Marris et al. 2022, 4.4).

Glossary: B games, N players, Ap strategies of player p, |A| joint strategies, C channels. Problems
here carry a leading batch axis on every array, e.g. payoffs [B, N, A1, ..., AN].
"""

from collections.abc import Mapping
import dataclasses
import functools
import math
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from nes_jax import deviation, invariance
from nes_jax.network import layers, pooling, rounds
from nes_jax.selection import LARGE_WELFARE_WEIGHT
from nes_jax.types import CONCEPTS, Array, Concept, Duals, Problem

INPUTS: tuple[str, ...] = ("target", "epsilon", "welfare")
CENTRES: tuple[str, ...] = ("own", "mean")
ACTIVATIONS: tuple[str, ...] = ("relu", "none")

# Mean and standard deviation of what the softplus first gets. Most duals of an equilibrium are near
# 0; and from duals spread at random the shortest way down is to make all of them 0, where the
# softplus is flat and training stays for long, or for ever.
LAST_START = -2.0
LAST_SPREAD = 0.1

# Payoffs of the games that go through the network at a time on a CPU (`infer`).
CPU_ENTRIES = 2**15

# Own-centred payoffs of less than this many ulps, where payoffs have unit variance, are rounding.
_CONSTANT_ULPS = 8


@dataclasses.dataclass(frozen=True)
class Config:
  """What the network is. Lists are taken for tuples; errors name the field that is wrong."""

  concept: Concept
  inputs: tuple[str, ...] = ()  # of INPUTS, beside the payoffs
  payoff_channels: tuple[int, ...] = (32, 32, 32, 32)
  dual_channel: int = 64  # of the layer from payoffs to duals
  dual_channels: tuple[int, ...] = (32, 32)  # of the dual layers before the last, which has one
  rounds: int = 0  # of descent: the duals so far and their gradient (11) go through a layer more
  newton: int = 0  # steps of the barrier method on what comes out, at inference
  centre: str = "own"  # what is subtracted from payoffs: "own" mean over own strategies, or "mean"
  activation: str = "relu"  # of all layers but the last; "none": for a linear network
  norm: str = "batch"  # of layers.NORMS
  payoff_pools: tuple[str, ...] = pooling.PAYOFF_POOLS
  to_dual_pools: tuple[str, ...] = pooling.TO_DUAL_POOLS
  dual_pools: tuple[str, ...] | None = None  # None: all those of the concept

  def __post_init__(self):
    _check_member("concept", self.concept, CONCEPTS)
    _check_member("centre", self.centre, CENTRES)
    _check_member("activation", self.activation, ACTIVATIONS)
    _check_member("norm", self.norm, layers.NORMS)
    if self.dual_pools is None:
      default = pooling.CCE_POOLS if self.concept == "cce" else pooling.CE_POOLS
      object.__setattr__(self, "dual_pools", default)
    for field, allowed in (
        ("inputs", INPUTS),
        ("payoff_pools", pooling.VALID["payoffs"]),
        ("to_dual_pools", pooling.VALID["to_duals"]),
        ("dual_pools", pooling.VALID[self.concept]),
    ):
      names = _as_tuple(field, getattr(self, field))
      object.__setattr__(self, field, names)
      for name in names:
        _check_member(field, name, allowed)
      if len(set(names)) < len(names):
        raise ValueError(f"{field}={names} names something twice")
    for field, needed in (("payoff_pools", "self"), ("dual_pools", "self")):
      if needed not in getattr(self, field):
        raise ValueError(f"{field}={getattr(self, field)} lacks {needed!r}, the identity")
    if not any("/rest/" in name or "/regret/" in name for name in self.to_dual_pools):
      raise ValueError(
          f"to_dual_pools={self.to_dual_pools} tells a player's strategies apart by nothing; add"
          " e.g. 'self/rest/mean'"
      )
    for field in ("payoff_channels", "dual_channels"):
      object.__setattr__(self, field, _as_tuple(field, getattr(self, field)))
    for field in ("payoff_channels", "dual_channels", "dual_channel"):
      value = getattr(self, field)
      for size in value if isinstance(value, tuple) else (value,):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
          raise ValueError(f"{field}={value!r}: channels are integers of at least 1")
    for field in ("rounds", "newton"):
      value = getattr(self, field)
      if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{field}={value!r} is not an integer of at least 0")

  def to_dict(self) -> dict[str, Any]:
    """Plain lists, strings and numbers, for JSON."""
    fields = dataclasses.asdict(self)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> "Config":
    """Inverse of `to_dict`. Raises ValueError on a field that does not exist."""
    check_fields(cls, fields)
    return cls(**fields)


def check_fields(cls: type, fields: Mapping[str, Any]) -> None:
  """Raises ValueError if the dataclass `cls` lacks one of `fields`."""
  known = [field.name for field in dataclasses.fields(cls)]
  unknown = sorted(set(fields) - set(known))
  if unknown:
    raise ValueError(
        f"unknown fields {unknown}; the fields of {cls.__name__} are {', '.join(known)}"
    )


def _check_member(field, value, allowed):
  if value not in allowed:
    raise ValueError(f"{field}={value!r} is not one of {', '.join(sorted(allowed))}")


def _as_tuple(field, value):
  if isinstance(value, str) or not hasattr(value, "__iter__"):
    raise ValueError(f"{field}={value!r} is not a list or tuple")
  return tuple(value)


class Variables(NamedTuple):
  """What `apply` needs beside the configuration."""

  params: hk.Params
  state: hk.State  # batch moments for inference; empty unless norm is "batch"


class Features(NamedTuple):
  """Input channels, and the way back to the problem's units."""

  values: Array  # [B, N, A1, ..., AN, C]
  scale: Array  # [B, N] network's duals times this are duals with respect to problem.payoffs


def features(problem: Problem, config: Config) -> Features:
  """Preprocessing: payoffs first, then the channels of `config.inputs` (section 4.1, appendix B).

  Every channel is of order one. With centre="own" the payoffs' mean over own strategies goes,
  which no deviation gain contains, and the rest is brought back to norm sqrt(|A|) a player. That
  divides payoffs and epsilon by the norm lost, and so multiplies the duals.

  The welfare's channel grows with the logarithm of its weight mu, and the duals with max(1, mu), as
  those of the objective do.
  """
  payoffs = problem.payoffs
  shape = payoffs.shape  # (B, N, A1, ..., AN)
  size = math.prod(shape[2:])
  axes = tuple(range(2, payoffs.ndim))
  scale = jnp.ones(shape[:2], payoffs.dtype)
  # Problems with hard constraints are not on the sphere (`selection.problem`).
  if config.centre == "own" or math.isinf(problem.rho):
    if config.centre == "own":
      payoffs = jax.vmap(deviation.centre_own)(payoffs)
    else:
      payoffs = payoffs - payoffs.mean(axes, keepdims=True)
    square = jnp.mean(payoffs**2, axes)
    varies = square > (_CONSTANT_ULPS * jnp.finfo(payoffs.dtype).eps) ** 2
    scale = jnp.where(varies, jax.lax.rsqrt(jnp.where(varies, square, 1)), 1)
    payoffs = jnp.where(_fit(varies, payoffs), payoffs * _fit(scale, payoffs), 0)
  mu = problem.welfare_weight
  channels = [payoffs]
  for name in config.inputs:
    if name == "target":
      # Eqs. (16d) and (17): unit variance where the target is a flat Dirichlet's.
      z = size * math.sqrt((size + 1) / max(size - 1, 1))
      values = (z * (problem.target - 1 / size))[:, None]
    elif name == "epsilon":
      values = _fit(problem.epsilon * scale / invariance.radius(size), payoffs)
    else:
      strength = jnp.log1p(mu) / math.log1p(LARGE_WELFARE_WEIGHT)
      values = _fit(strength, problem.welfare)[:, None] * problem.welfare[:, None]
    channels.append(jnp.broadcast_to(values, shape))
  scale = scale * _typical_dual(shape[2:], config.concept) * jnp.maximum(mu, 1)[:, None]
  return Features(jnp.stack(channels, axis=-1).astype(jnp.float32), scale)


def _typical_dual(counts: tuple[int, ...], concept: Concept) -> Array:
  """Size of a player's larger duals on uniform games, up to a constant: [N].

  Gains against uniform play are of order 1 / sqrt(R), R = |A| / Ap, and the duals with them. Those
  of a CE weigh gains on the 1 / Ap of the time that a strategy is recommended.
  """
  size = math.prod(counts)
  return jnp.array([
      math.sqrt(count / size) * (count if concept == "ce" else 1) for count in counts
  ])


def _fit(x, like):
  """[B, N] -> [B, N, 1, ..., 1], or [B] -> [B, 1, ..., 1]."""
  return x.reshape(x.shape + (1,) * (like.ndim - x.ndim))


@functools.cache
def _network(config: Config) -> hk.TransformedWithState:
  """`Features`, the problem -> per player [B, Ap] or [B, Ap, Ap], non-negative."""

  def forward(inputs, problem, is_training, axis_name):
    values = inputs.values
    nonlinear = jax.nn.relu if config.activation == "relu" else lambda x: x

    def layer(channels, name, norm=config.norm, start=0.0, spread=1.0):
      module = layers.Layer(channels, norm, start, spread, name=name)
      return functools.partial(module, is_training=is_training, axis_name=axis_name)

    sizes = values.shape[2:-1]
    blocks = tuple(values[:, p] for p in range(len(sizes)))
    for index, channels in enumerate(config.payoff_channels):
      pooled = pooling.payoffs(blocks, pooling.summed(config.payoff_pools))
      transform = layers.summed_linear(config.payoff_pools)
      blocks = layer(channels, f"payoffs_{index}")(pooled, transform=transform)
      blocks = tuple(map(nonlinear, blocks))
    pooled = layers.to_dual_features(blocks, config.to_dual_pools)
    to_duals = layer(config.dual_channel, "to_duals")
    if config.concept == "cce":
      mask, pool = None, pooling.cce_duals
      blocks = to_duals(pooled)
    else:
      mask, pool = layers.off_diagonal(sizes, values.dtype), pooling.ce_duals
      blocks = to_duals(pooled, transform=layers.outer_sum, copies=2, mask=mask)

    def activate(function, blocks):
      blocks = map(function, blocks)
      return tuple(blocks if mask is None else (x * m for x, m in zip(blocks, mask)))

    def dual_layer(blocks, channels, name):
      pooled = pool(blocks, config.dual_pools)
      return activate(nonlinear, layer(channels, name)(pooled, mask=mask))

    def last_layer(blocks, name, start, spread):
      pooled = pool(blocks, config.dual_pools)
      return layer(1, name, "none", start, spread)(pooled, mask=mask)

    blocks = activate(nonlinear, blocks)
    for index, channels in enumerate(config.dual_channels):
      blocks = dual_layer(blocks, channels, f"duals_{index}")
    raw = last_layer(blocks, "last", LAST_START, LAST_SPREAD)
    for index in range(config.rounds):
      duals = activate(layers.softplus, raw)
      seen = rounds.features(duals, inputs.scale, problem, config.concept)
      blocks = tuple(jnp.concatenate(parts, axis=-1) for parts in zip(blocks, seen))
      blocks = dual_layer(blocks, config.dual_channels[-1], f"round_{index}")
      change = last_layer(blocks, f"change_{index}", 0.0, LAST_SPREAD)
      raw = tuple(x + y for x, y in zip(raw, change))
    return tuple(x[..., 0] for x in activate(layers.softplus, raw))

  return hk.transform_with_state(forward)


def init(key: Array, config: Config, problem: Problem) -> Variables:
  """Parameters and state, from a batch of problems like those to be solved.

  Args:
    key: PRNG key.
    config: what the network is.
    problem: arrays with a leading batch axis; its moments set the scale of the weights and are
      the state, so a few dozen games or more.
  """
  inputs = features(problem, config)
  return Variables(*_network(config).init(key, inputs, problem, True, None))


def apply(
    variables: Variables,
    config: Config,
    problem: Problem,
    *,
    is_training: bool = False,
    axis_name: str | None = None,
) -> tuple[Duals, hk.State]:
  """The network's duals of a batch of problems.

  Args:
    variables: from `init`; games of any shape may use the same ones.
    config: what the network is; static under jit.
    problem: arrays with a leading batch axis.
    is_training: normalise by this batch's moments, which are the new state; the state given does
      not matter then, and may be empty.
    axis_name: mapped axis over which the moments of a training batch are averaged, or None.

  Returns:
    Duals with respect to problem.payoffs, per player [B, Ap] (CCE) or [B, Ap, Ap] (CE), and the
    new state.
  """
  inputs = features(problem, config)
  blocks, state = _network(config).apply(
      variables.params, variables.state, None, inputs, problem, is_training, axis_name
  )
  return rounds.in_units(blocks, inputs.scale), state


def infer(
    variables: Variables, config: Config, problem: Problem, *, entries: int | None = CPU_ENTRIES
) -> Duals:
  """Inference: `apply`, and the Newton steps if there are any (`rounds.newton`).

  A chunk of the batch goes at a time, so that memory stays small. On a CPU activations then stay in
  its caches, which is up to twice as fast. An accelerator wants the whole batch at once, as far as
  it has the memory: entries=None.

  Args:
    variables: from `init`.
    config: what the network is.
    problem: arrays with a leading batch axis.
    entries: payoffs (N times |A| a game) in a chunk at most, if that is not less than a game.

  Returns:
    Duals with respect to problem.payoffs, as from `apply`.
  """
  batch, game = problem.payoffs.shape[0], math.prod(problem.payoffs.shape[1:])
  chunks = 1 if entries is None else -(-batch // max(entries // game, 1))

  def answer(problem: Problem) -> Duals:
    duals, _ = apply(variables, config, problem)
    return rounds.newton(duals, problem, config.concept, config.newton)

  if chunks <= 1:
    return answer(problem)
  size = -(-batch // chunks)

  def split(x):  # [B, ...] -> [chunks, size, ...]; the last game fills up the last chunk
    filled = jnp.pad(x, [(0, chunks * size - batch)] + [(0, 0)] * (x.ndim - 1), mode="edge")
    return filled.reshape((chunks, size) + x.shape[1:])

  duals = jax.lax.map(answer, jax.tree_util.tree_map(split, problem))
  return tuple(x.reshape((chunks * size,) + x.shape[2:])[:batch] for x in duals)


def num_parameters(params: hk.Params) -> int:
  """Number of trainable scalars."""
  return sum(math.prod(x.shape) for x in jax.tree_util.tree_leaves(params))
