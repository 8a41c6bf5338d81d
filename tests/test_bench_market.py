"""Tests of launch.bench.market: a small entry from end to end, and operation counts by hand."""

import jax
import numpy as np
import pytest
from scipy import stats

from envs import market
from launch.bench import market as market_suite
from launch.bench import suite


@pytest.mark.slow
def test_quick_entry_end_to_end(tmp_path):
  (row,) = suite.run("market", str(tmp_path), only=["n5:32"], quick=True)
  assert row["merchants"] == 5 and row["batch"] == 8
  assert row["over_dense"] == pytest.approx(row["random_s"] / row["dense_s"])
  assert row["over_floor"] == pytest.approx(1e6 / row["random_s"] / row["floor_us"])
  assert row["over_floor"] > 1
  assert min(row.values()) > 0
  assert (tmp_path / "market.md").exists() and (tmp_path / "market.csv").exists()


def test_step_work_by_hand():
  config = market.Config(num_merchants=2, clusters=3, customers=40, horizon=10)
  # There are 6 words of customers. A step draws 6 + 6 + 1 + 6 random words, and 24 for connections.
  drawn = 116 * (6 + 6 + 1 + 6 + 24) + 3 * 24
  assert market_suite.step_work(config) == drawn + 4 * 2 * 1 * 6 + 16 * 2 * 6


def test_state_bytes_by_hand():
  env = market.Market(market.Config(num_merchants=2, clusters=3, customers=40, horizon=10))
  # Counts are in words. What changes counts twice, types and links count once.
  changing = 3 + 2 * (2 + 2 + 3 + 3 + 3)
  constant = 2 * 3 + 2 + 2 * 6
  assert market_suite.state_bytes(env) == 4 * (2 * changing + constant + 2 * 12 + 2)


def test_random_episodes_and_the_loop_play_the_same_market():
  """A two-sample test compares a merchant's rewards in both. Its p-value is 0.40 here.

  `random_episodes` draws tolerances and the loop takes their mean; 1,500 episodes do not show the
  difference.
  """
  config = market.Config(num_merchants=3, clusters=3, customers=20, horizon=8)
  play = market_suite.random_episodes(market.Market(config), 1000)
  ours, share, total = play(jax.random.key(0))
  assert ours.shape == share.shape == (1000, 3) and total.shape == (1000,)
  rng = np.random.default_rng(0)
  loop = np.array([market_suite.numpy_episode(config, rng) for _ in range(500)])
  assert loop.shape == (500, 3)
  p_value = stats.ks_2samp(np.asarray(ours[:, 0]), loop[:, 0]).pvalue
  assert p_value > 0.001
  # The test would see rewards that are half as large again, with a p-value of 2e-5.
  assert stats.ks_2samp(np.asarray(ours[:, 0]) * 1.5, loop[:, 0]).pvalue < 0.001
