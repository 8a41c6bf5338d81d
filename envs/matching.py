"""Which merchant each customer of the market trades with: a plain form and a fast one.

Customers are bits of 32-bit words, W words a cluster. The words of all clusters stand in one axis,
and random numbers are drawn in one: XLA makes vector instructions of a long last axis, of W alone
it does not. Both forms read the same random bits, so they agree exactly in every step in which no
two merchants quote the same price, and in distribution in any other; the plain one is the reference
for the other.

Glossary: n merchants, C clusters, m customers in each, W = ceil(m / 32).
"""

import functools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs.base import Array

_WORD = 32


class Trades(NamedTuple):
  """Transactions of one step, by cluster, int32."""

  bought: Array  # [n, C] those in which the merchant buys
  sold: Array  # [n, C] those in which it sells
  facility_bought: Array  # [C] the same of the facility
  facility_sold: Array  # [C]
  buyers: Array  # [C] customers who wanted to buy
  sellers: Array  # [C] to sell


def words(customers: int) -> int:
  """m -> W."""
  return -(-customers // _WORD)


def pack(customers: Array) -> Array:
  """Bool [..., C, m] -> uint32 [..., C W]; a cluster's customer k is bit k % 32 of word k // 32."""
  *lead, m = customers.shape
  padded = jnp.pad(customers, [(0, 0)] * len(lead) + [(0, words(m) * _WORD - m)])
  bits = padded.reshape(*lead[:-1], -1, _WORD).astype(jnp.uint32)
  return jnp.sum(bits << jnp.arange(_WORD, dtype=jnp.uint32), axis=-1, dtype=jnp.uint32)


def unpack(packed: Array, customers: int) -> Array:
  """Inverse of `pack`: uint32 [..., C W] -> bool [..., C, m]."""
  bits = (packed[..., None] >> jnp.arange(_WORD, dtype=jnp.uint32)) & 1
  padded = bits.reshape(*packed.shape[:-1], -1, words(customers) * _WORD)
  return padded[..., :customers].astype(bool)


def sides(key: Array, clusters: int, customers: int) -> tuple[Array, Array]:
  """Each customer buys or sells, with probability 1/2 -> buyers, sellers, uint32 [C W]."""
  everyone = np.tile(_everyone(customers), clusters)
  coins = jax.random.bits(key, everyone.shape, jnp.uint32)
  return coins & everyone, ~coins & everyone


def match_dense(key: Array, links: Array, e_buy: Array, e_sell: Array, customers: int) -> Trades:
  """Every customer looks at every merchant: n C m comparisons of prices.

  Args:
    key: PRNG key.
    links: [n, C W] uint32, who is connected to whom.
    e_buy: [n] how far the bid is below the facility's, in half-spreads; the lowest is the best bid.
    e_sell: [n] how far the ask is above the facility's; the lowest is the best ask.
    customers: m.
  """
  key_sides, key_ties = jax.random.split(key)
  linked = unpack(links, customers)  # [n, C, m]
  n, clusters, _ = linked.shape
  buyers, sellers = (unpack(x, customers) for x in sides(key_sides, clusters, customers))
  quote = jnp.where(buyers, e_sell[:, None, None], e_buy[:, None, None])  # [n, C, m]
  offer = jnp.where(linked & (quote <= 0), quote, jnp.inf)
  best = (offer == offer.min(axis=0)) & (offer < jnp.inf)
  lot = jnp.where(best, jax.random.uniform(key_ties, best.shape), -1.0)
  served = best.any(axis=0)
  chosen = (jnp.argmax(lot, axis=0) == jnp.arange(n)[:, None, None]) & served
  count = lambda who: jnp.sum(who, axis=-1, dtype=jnp.int32)
  return Trades(
      bought=count(chosen & sellers),
      sold=count(chosen & buyers),
      facility_bought=count(sellers & ~served),
      facility_sold=count(buyers & ~served),
      buyers=count(buyers),
      sellers=count(sellers),
  )


def match_packed(key: Array, links: Array, e_buy: Array, e_sell: Array, customers: int) -> Trades:
  """As `match_dense`, 32 customers at a time: n^2 C W operations on words.

  A merchant can win the customers whom it is connected to and no merchant with a better price is.
  Where merchants with the same price are left, each tosses a coin for each such customer, and
  those with tails are out where another has heads; so on until one is left.
  """
  key_sides, key_ties = jax.random.split(key)
  n, clusters = len(links), links.shape[1] // words(customers)
  buyers, sellers = sides(key_sides, clusters, customers)

  def winners(quote):  # [n] -> [n, C W]
    mask = lambda condition: jnp.where(condition, ~jnp.uint32(0), jnp.uint32(0))[..., None]
    better = mask(quote[:, None] < quote)  # [n, n, 1]: the first has the better price
    taken = _any(links[j] & better[j] for j in range(n))
    return links & ~taken & mask(quote <= 0)

  best = (winners(e_sell) & buyers) | (winners(e_buy) & sellers)
  best = _toss(key_ties, best)
  served = _any(best)

  def count(who):  # [..., C W] -> [..., C]
    bits = jax.lax.population_count(who).astype(jnp.int32)
    return bits.reshape(*who.shape[:-1], clusters, -1).sum(-1, dtype=jnp.int32)

  return Trades(
      bought=count(best & sellers),
      sold=count(best & buyers),
      facility_bought=count(sellers & ~served),
      facility_sold=count(buyers & ~served),
      buyers=count(buyers),
      sellers=count(sellers),
  )


def _toss(key: Array, best: Array) -> Array:
  """Leaves each customer one of its merchants, evenly at random: [n, C W] -> [n, C W]."""

  def undecided(carry):
    once = twice = jnp.zeros_like(best[0])
    for who in carry[1]:
      once, twice = once | who, twice | (once & who)
    return jnp.any(twice != 0)

  def toss(carry):
    key, best = carry
    key, key_coins = jax.random.split(key)
    heads = best & jax.random.bits(key_coins, (best.size,), jnp.uint32).reshape(best.shape)
    return key, heads | (best & ~_any(heads))

  return jax.lax.while_loop(undecided, toss, (key, best))[1]


def _any(words) -> Array:
  return functools.reduce(operator.or_, words)


def _everyone(customers: int) -> np.ndarray:
  """[W] uint32: a bit for each of m customers."""
  bits = np.zeros(words(customers) * _WORD, np.uint64)
  bits[:customers] = 1
  weights = np.uint64(1) << np.arange(_WORD, dtype=np.uint64)
  return (bits.reshape(-1, _WORD) * weights).sum(axis=1).astype(np.uint32)
