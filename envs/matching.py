"""The matching of the market's customers to merchants, in a dense form and in a faster, packed one.

Customers are bits of 32-bit words, with W words in a cluster. The words of all clusters form one
axis, and random bits are drawn along it, because XLA vectorises a long last axis but not one of
length W. Both forms read the same random bits. They agree exactly in every step in which no two
merchants quote the same price, and in distribution in every other step. The dense form is the
reference for the packed one.

Glossary: n merchants, C clusters, m customers in each cluster, W = ceil(m / 32) words.
"""

import functools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs.base import Array

# Number of bits in a word.
_WORD = 32


class Trades(NamedTuple):
  """Numbers of transactions in one step, by cluster, int32."""

  bought: Array  # [n, C] transactions in which the merchant buys
  sold: Array  # [n, C] transactions in which the merchant sells
  facility_bought: Array  # [C] transactions in which the facility buys
  facility_sold: Array  # [C] transactions in which the facility sells
  buyers: Array  # [C] customers who wanted to buy
  sellers: Array  # [C] customers who wanted to sell


def words(customers: int) -> int:
  """The number of words for m customers, W."""
  return -(-customers // _WORD)


def pack(customers: Array) -> Array:
  """Packs flags of customers into words: bool [..., C, m] -> uint32 [..., C W].

  Customer k of a cluster is bit k % 32 of the cluster's word k // 32.
  """
  *lead, m = customers.shape
  padded = jnp.pad(customers, [(0, 0)] * len(lead) + [(0, words(m) * _WORD - m)])
  bits = padded.reshape(*lead[:-1], -1, _WORD).astype(jnp.uint32)
  return jnp.sum(bits << jnp.arange(_WORD, dtype=jnp.uint32), axis=-1, dtype=jnp.uint32)


def unpack(packed: Array, customers: int) -> Array:
  """The inverse of `pack`: uint32 [..., C W] -> bool [..., C, m]."""
  bits = (packed[..., None] >> jnp.arange(_WORD, dtype=jnp.uint32)) & 1
  padded = bits.reshape(*packed.shape[:-1], -1, words(customers) * _WORD)
  return padded[..., :customers].astype(bool)


def sides(key: Array, clusters: int, customers: int) -> tuple[Array, Array]:
  """Draws whether each customer buys or sells, with probability 1/2 each.

  Returns:
    Buyers and sellers, uint32 [C W].
  """
  everyone = np.tile(_everyone(customers), clusters)
  coins = jax.random.bits(key, everyone.shape, jnp.uint32)
  return coins & everyone, ~coins & everyone


def match_dense(key: Array, links: Array, e_buy: Array, e_sell: Array, customers: int) -> Trades:
  """Matches customers to merchants with n C m comparisons of prices.

  Args:
    key: random key.
    links: [n, C W] uint32, a bit for each pair of a merchant and a customer.
    e_buy: [n] distance of the bid below the facility's, in half-spreads; the lowest is the best
      bid.
    e_sell: [n] distance of the ask above the facility's, in half-spreads; the lowest is the best
      ask.
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

  def count(who):  # [..., C, m] -> [..., C]
    return jnp.sum(who, axis=-1, dtype=jnp.int32)

  return Trades(
      bought=count(chosen & sellers),
      sold=count(chosen & buyers),
      facility_bought=count(sellers & ~served),
      facility_sold=count(buyers & ~served),
      buyers=count(buyers),
      sellers=count(sellers),
  )


def match_packed(key: Array, links: Array, e_buy: Array, e_sell: Array, customers: int) -> Trades:
  """Matches customers to merchants like `match_dense`, with n^2 C W operations on words.

  A merchant can win the linked customers who are linked to no merchant with a better price. If
  several merchants with the same price are left for a customer, each of them tosses a coin, and
  those with tails drop out if another one has heads. The tosses repeat until one merchant is left.
  """
  key_sides, key_ties = jax.random.split(key)
  n, clusters = len(links), links.shape[1] // words(customers)
  buyers, sellers = sides(key_sides, clusters, customers)

  def winners(quote):  # [n] -> [n, C W]

    def mask(condition):  # bool [...] -> words of ones or zeros [..., 1]
      return jnp.where(condition, ~jnp.uint32(0), jnp.uint32(0))[..., None]

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
  """Leaves each customer one of its merchants, uniformly at random: [n, C W] -> [n, C W]."""

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
  """The bitwise or of several arrays of words."""
  return functools.reduce(operator.or_, words)


def _everyone(customers: int) -> np.ndarray:
  """Words with a bit for each of m customers: uint32 [W]."""
  bits = np.zeros(words(customers) * _WORD, np.uint64)
  bits[:customers] = 1
  weights = np.uint64(1) << np.arange(_WORD, dtype=np.uint64)
  return (bits.reshape(-1, _WORD) * weights).sum(axis=1).astype(np.uint32)
