"""envs.matching: packing, ties, and the packed form against the dense one."""

import dataclasses
import functools

import chex
from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
from markets import (
  BATCH,
  CONFIG,
  ENV,
  HORIZON,
  SEEDS,
  N,
  batch_outputs,
  batch_player,
  examples,
  uniform_actions,
)
import numpy as np
import pytest

from envs import market, matching


@examples(20)
@given(
    seed=SEEDS,
    shape=st.sampled_from([(2, 3, 7), (5, 10, 50), (10, 2, 64)]),
)
def test_packed_and_dense_agree_exactly_where_no_prices_tie(seed, shape):
  n, clusters, customers = shape
  links, e_buy, e_sell = draw_match(seed, shape)
  for quotes in (e_buy, e_sell):
    assert len(set(quotes.tolist())) == n
  packed, dense = (
      matcher(kind, customers)(jax.random.key(seed), links, e_buy, e_sell)
      for kind in ("packed", "dense")
  )
  chex.assert_trees_all_equal(packed, dense)
  assert int(packed.buyers.sum() + packed.sellers.sum()) == clusters * customers


@functools.cache
def matcher(kind, customers):
  return jax.jit(lambda *args: market.MATCHINGS[kind](*args, customers))


def draw_match(seed, shape):
  n, clusters, customers = shape
  key_links, key_buy, key_sell = jax.random.split(jax.random.key(seed), 3)
  links = matching.pack(jax.random.uniform(key_links, shape) < 0.4)
  quotes = (jax.random.uniform(key, (n,), minval=-1, maxval=0.3) for key in (key_buy, key_sell))
  return links, *quotes


@pytest.mark.parametrize("kind", market.MATCHINGS)
def test_ties_are_broken_evenly_and_for_each_customer_by_itself(kind):
  """If g merchants tie for m customers, each wins Binomial(m, 1/g) of them."""
  n, customers, draws = 5, 60, 3000
  linked = np.zeros((n, 4, customers), bool)
  for cluster, group in enumerate(([0, 1], [1, 2, 4], [0, 1, 2, 3, 4], [3])):
    linked[group, cluster] = True
  links = matching.pack(jnp.asarray(linked))
  e = jnp.full((n,), -1.0)
  keys = jax.random.split(jax.random.key(3), draws)
  trades = jax.jit(jax.vmap(lambda key: market.MATCHINGS[kind](key, links, e, e, customers)))(keys)
  np.testing.assert_array_equal(trades.facility_bought + trades.facility_sold, 0)
  won = np.asarray(trades.bought + trades.sold)  # [draws, n, 4]
  np.testing.assert_array_equal(won.sum(1), customers)
  for cluster in range(4):
    share = 1 / linked[:, cluster, 0].sum()
    mine = won[:, linked[:, cluster, 0], cluster]
    variance = customers * share * (1 - share)
    # The tolerances are 4.5 standard errors of a mean and of a variance.
    np.testing.assert_allclose(
        mine.mean(0), customers * share, atol=4.5 * (variance / draws) ** 0.5 + 1e-9
    )
    np.testing.assert_allclose(
        mine.var(0), variance, atol=4.5 * variance * (2 / draws) ** 0.5 + 1e-9
    )
    assert not won[:, ~linked[:, cluster, 0], cluster].any()


def test_packed_and_dense_agree_in_distribution_where_prices_tie():
  """Two-sample tests compare whole episodes of merchants who quote one of three prices.

  The two draw different lots for ties, so that episodes with the same key are independent enough
  only across keys: each form gets its own. With 40 tests, the least p-value of a true agreement
  is below 0.0005 once in 50 sets of keys; it is 0.13 here.
  """
  from scipy import stats

  actions = uniform_actions(jax.random.key(1), (BATCH, HORIZON, N))
  actions = actions.at[..., :2].set(jnp.round(actions[..., :2]))
  results = []
  for seed, kind in enumerate(("packed", "dense")):
    env = market.Market(dataclasses.replace(CONFIG, matching=kind, volatility=0.0))
    keys = jax.random.split(jax.random.key(seed), BATCH)
    state = batch_player(env)(keys, ENV.profile(0.5, variance=0.0), actions)[1]
    outputs = batch_outputs(state)
    names = ("rewards", "share", "counts", "hedged")
    columns = [outputs[name].reshape(BATCH, -1) for name in names]
    columns += [state.cash, state.inventory]
    results.append(np.concatenate(columns, axis=1))
  pairs = zip(results[0].T, results[1].T)
  p_values = [stats.ks_2samp(a, b, method="asymp").pvalue for a, b in pairs]
  assert len(p_values) == 40
  assert min(p_values) > 0.0005


def test_packing():
  rng = np.random.default_rng(0)
  for customers in (32, 50):
    who = rng.random((3, 2, customers)) < 0.5
    packed = matching.pack(jnp.asarray(who))
    assert packed.dtype == jnp.uint32
    assert packed.shape == (3, 2 * matching.words(customers))
    np.testing.assert_array_equal(matching.unpack(packed, customers), who)
    buyers, sellers = matching.sides(jax.random.key(0), 2, customers)
    np.testing.assert_array_equal(buyers & sellers, 0)
    both = matching.unpack(buyers | sellers, customers)
    assert both.shape == (2, customers) and both.all()
    assert jax.lax.population_count(buyers | sellers).sum() == 2 * customers
