"""Equivariant pooling functions (Marris et al. 2022, appendix C).

A pooling function says whose activations are pooled, over which strategies, and with which phi
("mean", "max", "sum" or "min"). It is named "source/axes/phi"; "self" alone is the identity.

Payoff layers, eqs. (18a) to (18l): g(p, a) has four axes sets and three sources.

  source     self      g(p, a)
             others    phi over the other players q of g(q, a)
             everyone  phi over all players q of g(q, a)
  axes       none      nothing
             own       a_p, the strategies of the player who receives
             rest      a_-p, those of all the other players
             all       a

Into the duals only "rest" and "all" have the right shape, and two more are of use there:

  axes       best      phi over a_-q of max over a_q of g(q, a): what best responses are worth
             regret    phi over a_-p of max over a_p of g(p, a) minus g(p, a) ("self" only)

CCE duals, eqs. (19a) to (19d): alpha(p, a_p). The printed (19c) pools over players who play the
strategy of equal index, which changes when one player's strategies are renumbered; pooling over all
strategies of the other players ("others/all") takes its place.

  source     self, others, everyone
  axes       all       every strategy of those players

CE duals, eqs. (20a) to (20h): alpha(p, r, d), r recommended and d deviated to.

  source     self, others, everyone, transpose: alpha(p, d, r)
  axes       none      nothing ("self" and "transpose" alone)
             deviation, recommended   that axis ("self" and "transpose")
             all       both

Phi over several players is phi over players of each player's phi, so that a mean does not depend
on who has how many strategies. CE activations are non-negative with a zero diagonal, which is no
deviation: means are over the A - 1 or A (A - 1) entries beside it, and the maximum may include it.

Shapes: N players; a layer's activations are one block a player, [B, A1, ..., AN, C] (payoffs),
[B, Ap, C] (CCE) or [B, Ap, Ap, C] (CE). Pooled axes stay, with size 1, to be broadcast.
"""

from collections.abc import Callable, Sequence
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nes_jax.types import Array

Blocks = tuple[Array, ...]  # one array a player, channels last

PHIS: tuple[str, ...] = ("mean", "max", "sum", "min")
IDENTITY = "self"
OTHERS_SUMS: tuple[str, ...] = ("others/none/mean", "others/none/sum")


def _both(*names: str) -> tuple[str, ...]:
  """Mean and max of each."""
  return tuple(f"{name}/{phi}" for name in names for phi in ("mean", "max"))


PAYOFF_POOLS: tuple[str, ...] = (
    (IDENTITY,)
    + _both("self/own", "self/rest", "self/all")
    + ("others/none/mean",)
    + _both("everyone/all")
)
TO_DUAL_POOLS: tuple[str, ...] = _both(
    "self/rest", "others/rest", "self/all", "others/all", "everyone/all"
) + ("self/best/mean", "self/regret/max", "self/regret/min")
CCE_POOLS: tuple[str, ...] = (IDENTITY,) + _both("self/all", "others/all", "everyone/all")
CE_POOLS: tuple[str, ...] = (IDENTITY, "transpose") + _both(
    "self/deviation",
    "self/recommended",
    "transpose/deviation",
    "transpose/recommended",
    "self/all",
    "everyone/all",
)


class Pool(NamedTuple):
  """A parsed name."""

  source: str
  axes: str
  phi: str


def _names(sources: Sequence[str], axes: Sequence[str]) -> set[str]:
  return {"/".join(parts) for parts in itertools.product(sources, axes, PHIS)}


_PLAYERS = ("self", "others", "everyone")
VALID: dict[str, set[str]] = {
    "payoffs": {IDENTITY}
    | _names(("others", "everyone"), ("none",))
    | _names(_PLAYERS, ("own", "rest", "all")),
    "to_duals": _names(_PLAYERS, ("rest", "all", "best")) | _names(("self",), ("regret",)),
    "cce": {IDENTITY} | _names(_PLAYERS, ("all",)),
    "ce": {IDENTITY, "transpose"}
    | _names(("self", "transpose"), ("deviation", "recommended"))
    | _names(_PLAYERS, ("all",)),
}


def parse(name: str) -> Pool:
  """Reads "source/axes/phi", or "source" for no pooling."""
  source, axes, phi = name.split("/") if "/" in name else (name, "none", "mean")
  return Pool(source, axes, phi)


def reduce(x: Array, axes: Sequence[int], phi: str) -> Array:
  """Phi over axes, which stay with size 1."""
  if phi in ("max", "min"):
    return _extreme(x, tuple(axes), phi)
  function = {"mean": jnp.mean, "sum": jnp.sum}[phi]
  return function(x, axis=tuple(axes), keepdims=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _extreme(x: Array, axes: tuple[int, ...], phi: str) -> Array:
  """Largest or smallest entry. Entries that tie share the gradient.

  JAX's own rule does too, but keeps a mask in floating point of each pool for the way back; here
  the mask is made again from what is kept anyway, in a third of the time.
  """
  return (jnp.max if phi == "max" else jnp.min)(x, axis=axes, keepdims=True)


def _extreme_forward(x, axes, phi):
  top = _extreme(x, axes, phi)
  return top, (x, top)


def _extreme_backward(axes, phi, kept, gradient):
  del phi
  x, top = kept
  tied = x == top
  # Counted as integers: CPUs would write the mask out before adding floats.
  count = tied.sum(axes, keepdims=True, dtype=jnp.int32).astype(x.dtype)
  return (jnp.where(tied, gradient / count, 0),)


_extreme.defvjp(_extreme_forward, _extreme_backward)


def across(values: Sequence[Array], phi: str) -> Array:
  """Phi over players: arrays of equal shape -> one."""
  function = {"max": jnp.maximum, "min": jnp.minimum}.get(phi, jnp.add)
  result = functools.reduce(function, values)
  return result / len(values) if phi == "mean" else result


def _from_source(pool: Pool, num_players: int, value: Callable[[int], Array]) -> Callable:
  """Player p -> what it receives, where value(q) is what player q gives."""

  def received(p: int) -> Array:
    sources = {
        "others": [q for q in range(num_players) if q != p],
        "everyone": range(num_players),
    }.get(pool.source, [p])
    return across([value(q) for q in sources], pool.phi)

  return received


def payoffs(blocks: Blocks, names: Sequence[str]) -> list[Blocks]:
  """Pools of payoff activations, for payoff layers and into the duals.

  Args:
    blocks: per player [B, A1, ..., AN, C], own axis of player p at 1 + p.
    names: of VALID["payoffs"] or VALID["to_duals"].

  Returns:
    For each name, per player, [B, A1 or 1, ..., AN or 1, C].
  """
  n = len(blocks)
  every = frozenset(range(1, n + 1))

  @functools.cache
  def pooled(q: int, axes: frozenset[int], phi: str) -> Array:
    if not axes:
      return blocks[q]
    if axes == every:  # from what is small already
      return reduce(pooled(q, every - {1 + q}, phi), (1 + q,), phi)
    return reduce(blocks[q], sorted(axes), phi)

  @functools.cache
  def value(axes: str, phi: str, p: int, q: int) -> Array:
    own, rest = frozenset({1 + p}), every - {1 + p}
    if axes == "best":
      top = pooled(q, frozenset({1 + q}), "max")
      return reduce(top, sorted(every - {1 + q}), phi)
    if axes == "regret":
      return reduce(pooled(p, own, "max") - blocks[p], sorted(rest), phi)
    chosen = {"none": frozenset(), "own": own, "rest": rest, "all": every}[axes]
    return pooled(q, chosen, phi)

  features = []
  for pool in map(parse, names):
    received = [
        _from_source(pool, n, functools.partial(value, pool.axes, pool.phi, p)) for p in range(n)
    ]
    if pool.source == "everyone" and pool.axes not in ("own", "rest"):
      features.append((received[0](0),) * n)  # the same array for all, multiplied once
    else:
      features.append(tuple(received[p](p) for p in range(n)))
  return features


def summed(names: Sequence[str]) -> tuple[str, ...]:
  """Names with what can be had from the sum over all players, one full-size array, put so.

  `layers.summed_linear` puts the weights right: the others' sum is everyone's minus one's own.
  """
  return tuple("everyone/none/sum" if name in OTHERS_SUMS else name for name in names)


def cce_duals(blocks: Blocks, names: Sequence[str]) -> list[Blocks]:
  """Pools of CCE dual activations: per player [B, Ap, C] -> for each name [B, Ap or 1, C]."""

  @functools.cache
  def value(phi: str, q: int) -> Array:
    return reduce(blocks[q], (1,), phi)

  features = []
  for pool in map(parse, names):
    if pool.axes == "none":
      features.append(blocks)
    else:
      received = _from_source(pool, len(blocks), functools.partial(value, pool.phi))
      features.append(tuple(map(received, range(len(blocks)))))
  return features


def _off_diagonal(x: Array, axes: Sequence[int], phi: str) -> Array:
  """Phi over entries beside the diagonal of x [B, A, A, C], which is non-negative there."""
  size = x.shape[1]
  if phi == "mean":
    count = size - 1 if len(axes) == 1 else size * (size - 1)
    return reduce(x, axes, "sum") / max(count, 1)
  if phi == "min":
    diagonal = jnp.eye(size, dtype=bool)[:, :, None]
    return reduce(jnp.where(diagonal, jnp.inf, x), axes, "min") if size > 1 else x
  return reduce(x, axes, phi)


def ce_duals(blocks: Blocks, names: Sequence[str]) -> list[Blocks]:
  """Pools of CE dual activations: per player [B, Ap, Ap, C] -> [B, Ap or 1, Ap or 1, C]."""

  @functools.cache
  def value(axes: str, phi: str, q: int) -> Array:
    chosen = {"deviation": (2,), "recommended": (1,), "all": (1, 2)}[axes]
    return _off_diagonal(blocks[q], chosen, phi)

  features = []
  for pool in map(parse, names):
    if pool.axes == "none":
      feature = blocks
    else:
      received = _from_source(
          pool, len(blocks), functools.partial(value, pool.axes, pool.phi)
      )
      feature = tuple(map(received, range(len(blocks))))
    if pool.source == "transpose":
      feature = tuple(jnp.swapaxes(x, 1, 2) for x in feature)
    features.append(feature)
  return features
