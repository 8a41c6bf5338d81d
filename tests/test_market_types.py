"""envs.market_types and Market.profile: the paper's numbers, and errors."""

import chex
from jax.flatten_util import ravel_pytree
from markets import CONFIG
import numpy as np
import pytest

from envs import market


def test_a_profile_has_the_papers_23_numbers():
  env = market.Market()
  profile = env.profile(0.3, 0.5, 0.02, connection1=np.linspace(0, 0.9, 10), tolerance1=0.7)
  flat, back = ravel_pytree(profile)
  assert len(flat) == len(env.profile_names) == 23
  named = dict(zip(env.profile_names, np.asarray(flat).tolist()))
  expected = {
      "supertype_1/connection_1": 0.0,
      "supertype_1/connection_10": 0.9,
      "supertype_1/tolerance": 0.7,
      "supertype_2/connection_4": 0.3,
      "supertype_2/tolerance_mean": 0.5,
      "supertype_2/tolerance_variance": 0.02,
  }
  assert {name: named[name] for name in expected} == pytest.approx(expected)
  chex.assert_trees_all_equal(back(flat), profile)
  plain = env.profile()
  chex.assert_trees_all_equal(plain.supertype1.connection, plain.supertype2.connection)
  with pytest.raises(ValueError, match=r"shape \[3\]; give one number, or 10"):
    env.profile([0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"num_merchants": 1}, "num_merchants=1 must be at least 2"),
        ({"clusters": 0}, "clusters=0 must be at least 1"),
        ({"customers": 2.5}, "customers=2.5 must be an integer"),
        ({"horizon": 0}, "horizon=0 must be at least 1"),
        ({"half_spread": 0.0}, "half_spread=0.0 must be positive and finite"),
        ({"initial_price": float("nan")}, "initial_price=nan must be positive and finite"),
        ({"volatility": -1.0}, "volatility=-1.0 must be finite and not negative"),
        ({"penalty": "much"}, "penalty='much' must be a number"),
        ({"process": "levy"}, "process='levy' is not one of arithmetic, geometric"),
        ({"matching": "fast"}, "matching='fast' is not one of packed, dense"),
        ({"horizon": 10**6}, "int32"),
    ],
)
def test_what_a_config_refuses(fields, message):
  with pytest.raises(ValueError, match=message):
    market.Config(**fields)


def test_a_market_wants_a_config():
  with pytest.raises(TypeError, match="give a market.Config"):
    market.Market({"num_merchants": 3})
  assert market.Market() == market.Market(market.Config())
  assert market.Market(CONFIG) != market.Market()
