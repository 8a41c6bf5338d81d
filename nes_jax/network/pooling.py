"""Equivariant pooling functions (Marris et al. 2022, appendix C).

A pooling function is named "source/axes/phi", where the source says whose activations are pooled,
the axes say over which strategies, and phi is "mean", "max", "sum" or "min". The name "self" alone
is the identity.

Payoff layers, eqs. (18a) to (18l), pool g(p, a) with three sources and four sets of axes.

  source     self      g(p, a)
             others    phi over the other players q of g(q, a)
             everyone  phi over all players q of g(q, a)
  axes       none      no axis
             own       a_p, the strategies of the player who receives the result
             rest      a_-p, the strategies of all other players
             all       a

The layer from payoffs to duals pools over "rest" or "all", which give the shape of duals, and over
two more sets:

  axes       best      phi over a_-q of max over a_q of g(q, a), the value of best responses
             regret    phi over a_-p of max over a_p of g(p, a) minus g(p, a) ("self" only)

CCE duals, eqs. (19a) to (19d), pool alpha(p, a_p). The printed (19c) pools over players who play
the strategy of equal index, which is not equivariant to renumbering the strategies of one player.
Pooling over all strategies of the other players ("others/all") takes its place.

  source     self, others, everyone
  axes       all       all strategies of these players

CE duals, eqs. (20a) to (20h), pool alpha(p, r, d) for recommendation r and deviation d.

  source     self, others, everyone, or transpose for alpha(p, d, r)
  axes       none      no axis ("self" and "transpose")
             deviation, recommended   that axis ("self" and "transpose")
             all       both axes

Phi over several players is phi over the players of each player's phi, so that a mean does not
depend on the numbers of strategies. CE activations are non-negative. Their diagonal is zero and
stands for no deviation: means are over the A - 1 or A (A - 1) entries off the diagonal, and a
maximum may include it.

Shapes: N players. Activations of a layer are one block a player, [B, A1, ..., AN, C] (payoffs),
[B, Ap, C] (CCE) or [B, Ap, Ap, C] (CE). Pooled axes keep size 1, to be broadcast.
"""

from collections.abc import Callable, Sequence
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nes_jax.types import Array

# One array a player, channels last.
Blocks = tuple[Array, ...]

# Functions phi.
PHIS: tuple[str, ...] = ("mean", "max", "sum", "min")
# Name of the identity.
IDENTITY = "self"
# Pools that are linear in the sum over all players, see `summed`.
OTHERS_SUMS: tuple[str, ...] = ("others/none/mean", "others/none/sum")


def _mean_and_max(*names: str) -> tuple[str, ...]:
  """Names of two pools for each "source/axes", with mean and with max."""
  return tuple(f"{name}/{phi}" for name in names for phi in ("mean", "max"))


# Pools of payoff layers in a network without other instructions.
PAYOFF_POOLS: tuple[str, ...] = (
    (IDENTITY,)
    + _mean_and_max("self/own", "self/rest", "self/all")
    + ("others/none/mean",)
    + _mean_and_max("everyone/all")
)
# Pools of the layer from payoffs to duals.
TO_DUAL_POOLS: tuple[str, ...] = _mean_and_max(
    "self/rest", "others/rest", "self/all", "others/all", "everyone/all"
) + ("self/best/mean", "self/regret/max", "self/regret/min")
# Pools of layers of CCE duals.
CCE_POOLS: tuple[str, ...] = (IDENTITY,) + _mean_and_max("self/all", "others/all", "everyone/all")
# Pools of layers of CE duals.
CE_POOLS: tuple[str, ...] = (IDENTITY, "transpose") + _mean_and_max(
    "self/deviation",
    "self/recommended",
    "transpose/deviation",
    "transpose/recommended",
    "self/all",
    "everyone/all",
)


class Pool(NamedTuple):
  """Parts of the name of a pooling function."""

  source: str
  axes: str
  phi: str


def _names(sources: Sequence[str], axes: Sequence[str]) -> set[str]:
  """Names of all combinations of sources, axes and phi."""
  return {"/".join(parts) for parts in itertools.product(sources, axes, PHIS)}


_PLAYERS = ("self", "others", "everyone")
# Names that exist, by the layer in which they are used.
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
  """Splits "source/axes/phi", or "source" for no pooling, into its parts."""
  source, axes, phi = name.split("/") if "/" in name else (name, "none", "mean")
  return Pool(source, axes, phi)


def reduce(x: Array, axes: Sequence[int], phi: str) -> Array:
  """Applies phi over axes, which keep size 1."""
  if phi in ("max", "min"):
    return _max_or_min(x, tuple(axes), phi)
  function = {"mean": jnp.mean, "sum": jnp.sum}[phi]
  return function(x, axis=tuple(axes), keepdims=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_or_min(x: Array, axes: tuple[int, ...], phi: str) -> Array:
  """Largest or smallest entry, with a gradient that equal entries share.

  JAX's own rule gives the same gradient, but stores a floating-point mask of each pool for the
  backward pass. The rule here computes the mask again from the input and the result, which takes a
  third of the time.
  """
  return (jnp.max if phi == "max" else jnp.min)(x, axis=axes, keepdims=True)


def _max_or_min_forward(x, axes, phi):
  top = _max_or_min(x, axes, phi)
  return top, (x, top)


def _max_or_min_backward(axes, phi, residuals, gradient):
  del phi
  x, top = residuals
  tied = x == top
  # The count is of integers: a CPU would write the mask to memory before it adds floats.
  count = tied.sum(axes, keepdims=True, dtype=jnp.int32).astype(x.dtype)
  return (jnp.where(tied, gradient / count, 0),)


_max_or_min.defvjp(_max_or_min_forward, _max_or_min_backward)


def _reduce_players(values: Sequence[Array], phi: str) -> Array:
  """Applies phi over players, to one array of each; the arrays have one shape."""
  function = {"max": jnp.maximum, "min": jnp.minimum}.get(phi, jnp.add)
  result = functools.reduce(function, values)
  return result / len(values) if phi == "mean" else result


def _pool_from_source(pool: Pool, num_players: int, value: Callable[[int], Array]) -> Callable:
  """Makes the function that pools over the players of a source.

  Args:
    pool: parts of the name.
    num_players: N.
    value: function of player q that gives the pool of q's activations.

  Returns:
    Function of the receiving player p that gives phi over the values of p's source.
  """

  def received(p: int) -> Array:
    sources = {
        "others": [q for q in range(num_players) if q != p],
        "everyone": range(num_players),
    }.get(pool.source, [p])
    return _reduce_players([value(q) for q in sources], pool.phi)

  return received


def payoffs(blocks: Blocks, names: Sequence[str]) -> list[Blocks]:
  """Pools payoff activations, for payoff layers and for the layer from payoffs to duals.

  Args:
    blocks: for each player [B, A1, ..., AN, C]; axis 1 + p has the strategies of player p.
    names: members of VALID["payoffs"] or VALID["to_duals"].

  Returns:
    For each name and player [B, A1 or 1, ..., AN or 1, C].
  """
  n = len(blocks)
  every = frozenset(range(1, n + 1))

  @functools.cache
  def pooled(q: int, axes: frozenset[int], phi: str) -> Array:
    if not axes:
      return blocks[q]
    if axes == every:
      # The pool over the others' strategies is smaller than the activations, and pooled already.
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
        _pool_from_source(pool, n, functools.partial(value, pool.axes, pool.phi, p))
        for p in range(n)
    ]
    if pool.source == "everyone" and pool.axes not in ("own", "rest"):
      # All players get one and the same array, so that `layers.linear` multiplies it once.
      features.append((received[0](0),) * n)
    else:
      features.append(tuple(received[p](p) for p in range(n)))
  return features


def summed(names: Sequence[str]) -> tuple[str, ...]:
  """Replaces sums and means over the other players by the sum over all players.

  The sum over all players is a single array of full size. `layers.summed_linear` adapts the
  weights: the sum over the others is the sum over all players minus the player's own activations.
  """
  return tuple("everyone/none/sum" if name in OTHERS_SUMS else name for name in names)


def cce_duals(blocks: Blocks, names: Sequence[str]) -> list[Blocks]:
  """Pools CCE dual activations, [B, Ap, C] for each player.

  Args:
    blocks: activations of each player.
    names: members of VALID["cce"].

  Returns:
    For each name and player [B, Ap or 1, C].
  """

  @functools.cache
  def value(phi: str, q: int) -> Array:
    return reduce(blocks[q], (1,), phi)

  features = []
  for pool in map(parse, names):
    if pool.axes == "none":
      features.append(blocks)
    else:
      received = _pool_from_source(pool, len(blocks), functools.partial(value, pool.phi))
      features.append(tuple(map(received, range(len(blocks)))))
  return features


def _reduce_off_diagonal(x: Array, axes: Sequence[int], phi: str) -> Array:
  """Applies phi over the entries off the diagonal of x [B, A, A, C], which are non-negative."""
  size = x.shape[1]
  if phi == "mean":
    count = size - 1 if len(axes) == 1 else size * (size - 1)
    return reduce(x, axes, "sum") / max(count, 1)
  if phi == "min":
    diagonal = jnp.eye(size, dtype=bool)[:, :, None]
    return reduce(jnp.where(diagonal, jnp.inf, x), axes, "min") if size > 1 else x
  return reduce(x, axes, phi)


def ce_duals(blocks: Blocks, names: Sequence[str]) -> list[Blocks]:
  """Pools CE dual activations, [B, Ap, Ap, C] for each player.

  Args:
    blocks: activations of each player.
    names: members of VALID["ce"].

  Returns:
    For each name and player [B, Ap or 1, Ap or 1, C].
  """

  @functools.cache
  def value(axes: str, phi: str, q: int) -> Array:
    chosen = {"deviation": (2,), "recommended": (1,), "all": (1, 2)}[axes]
    return _reduce_off_diagonal(blocks[q], chosen, phi)

  features = []
  for pool in map(parse, names):
    if pool.axes == "none":
      feature = blocks
    else:
      received = _pool_from_source(
          pool, len(blocks), functools.partial(value, pool.axes, pool.phi)
      )
      feature = tuple(map(received, range(len(blocks))))
    if pool.source == "transpose":
      feature = tuple(jnp.swapaxes(x, 1, 2) for x in feature)
    features.append(feature)
  return features
