"""launch.baselines.market_loop: the market against a plain loop in NumPy."""

import dataclasses

from hypothesis import given
import jax
from markets import (
  CLUSTERS,
  CONFIG,
  CUSTOMERS,
  HORIZON,
  SEEDS,
  N,
  examples,
  outputs_of,
  player,
  random_profile,
  uniform_actions,
)
import numpy as np
import pytest

from envs import market, matching
from launch.baselines import market_loop


@pytest.mark.parametrize("process", market.PROCESSES)
@examples(3)
@given(seed=SEEDS)
def test_an_episode_is_that_of_the_numpy_loop(process, seed):
  env = market.Market(dataclasses.replace(CONFIG, process=process))
  profile = random_profile(seed)
  actions = uniform_actions(jax.random.key(seed), (HORIZON, N))
  key = jax.random.key(seed)
  first, state, rewards, info = player(env)(key, profile, actions)
  linked = np.asarray(matching.unpack(first.links, CUSTOMERS))
  loop = market_loop.MarketLoop(env.config, linked, np.asarray(first.tolerance, float))
  lots = np.zeros(linked.shape)  # lots are not used, because no two prices tie
  for time, key_step in enumerate(jax.random.split(jax.random.split(key)[1], HORIZON)):
    key_customers, key_price = jax.random.split(key_step)
    key_sides, _ = jax.random.split(key_customers)
    buyers, _ = matching.sides(key_sides, CLUSTERS, CUSTOMERS)
    buys = np.asarray(matching.unpack(buyers, CUSTOMERS))
    noise = float(jax.random.normal(key_price, ()))
    assert loop.price == pytest.approx(float(info["price"][time]), rel=1e-6)
    expected = loop.step(np.asarray(actions[time], float), buys, lots, noise)
    np.testing.assert_allclose(rewards[time], expected, rtol=1e-3, atol=1e-5)
  np.testing.assert_array_equal(state.counts, loop.counts)
  np.testing.assert_array_equal(outputs_of(state)["facility_counts"], loop.facility)
  np.testing.assert_allclose(state.inventory, loop.inventory, rtol=1e-4, atol=1e-2)
  np.testing.assert_allclose(state.cash, loop.cash, rtol=1e-4, atol=1)
  np.testing.assert_allclose(state.rewards, rewards.sum(0), rtol=1e-4, atol=1e-5)


def test_the_numpy_loop_breaks_ties_evenly():
  rng = np.random.default_rng(0)
  config = dataclasses.replace(CONFIG, num_merchants=3, clusters=2, customers=4000)
  linked = np.ones((3, 2, 4000), bool)
  linked[2, 1] = False
  loop = market_loop.MarketLoop(config, linked, np.ones(3))
  buys = rng.random((2, 4000)) < 0.5
  loop.step(np.full((3, 3), -0.5), buys, rng.random(linked.shape), 0.0)
  np.testing.assert_allclose(loop.counts[:, 0] / 4000, 1 / 3, atol=0.03)
  np.testing.assert_allclose(loop.counts[:, 1] / 4000, [0.5, 0.5, 0], atol=0.03)
