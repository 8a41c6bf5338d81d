"""envs.market: accounts, trades, outputs, observations, prices, and best responses."""

import dataclasses

import chex
from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
from markets import (
  BATCH,
  CLUSTERS,
  CONFIG,
  CUSTOMERS,
  ENV,
  HORIZON,
  QUANTITY,
  SEEDS,
  N,
  batch_outputs,
  batch_player,
  examples,
  fixed,
  outputs_of,
  play,
  player,
  random_profile,
  stepper,
  uniform_actions,
)
import numpy as np
import pytest

from envs import market, matching

# Accounts.


def money(first, state, info, config):
  """Cash and marked inventory gained; what merchants were paid in sum of each step's profit; and
  all money that changed hands, in whose roundings the two may differ."""
  total = state.cash + state.inventory * state.price - first.cash - first.inventory * first.price
  turnover = info["bought"] * info["bid"] + info["sold"] * info["ask"]
  turnover += jnp.abs(info["hedge"]) * info["price"][:, None]
  return total, info["profit"].sum(0), turnover.sum(0)


@examples(15)
@given(SEEDS)
def test_cash_and_marked_inventory_add_up(seed):
  first, state, _, info = play(seed, profile=random_profile(seed))
  total, profit, turnover = money(first, state, info, CONFIG)
  error = np.abs(total - profit) / np.maximum(turnover, 1)
  assert error.max() < 2 * np.finfo(np.float32).eps  # usually below 0.3 eps


@pytest.mark.parametrize("process", market.PROCESSES)
def test_cash_adds_up_to_the_last_digit_in_float64(x64, process):
  # With the paper's constants sums are large.
  env = market.Market(market.Config(num_merchants=5, process=process))
  actions = uniform_actions(jax.random.key(1), (60, 5))
  first, state, rewards, info = player(env)(jax.random.key(0), env.profile(0.6), actions)
  assert rewards.dtype == state.cash.dtype == jnp.float64
  total, profit, turnover = money(first, state, info, env.config)
  assert turnover.min() > 1e4
  np.testing.assert_allclose(total, profit, rtol=0, atol=1e-9)
  # Rewards are this profit minus the penalty, in units of a half-spread on the mean volume.
  unit = env.config.half_spread * env.config.volume
  np.testing.assert_allclose(rewards, (info["profit"] - info["penalty"]) / unit, rtol=1e-12)
  np.testing.assert_allclose(state.rewards, rewards.sum(0), rtol=1e-12)
  outputs = jax.jit(env.outputs)(state)
  assert {str(x.dtype) for x in outputs.values()} == {"int32", "float64"}
  # This is the module's formula, term by term.
  margin = info["bought"] * (info["price"][:, None] - info["bid"])
  margin += info["sold"] * (info["ask"] - info["price"][:, None])
  held = np.cumsum(info["bought"] - info["sold"] - info["hedge"], axis=0)
  moves = np.diff(np.append(info["price"], state.price))[:, None]
  np.testing.assert_allclose(
      info["profit"], margin - np.abs(info["hedge"]) + held * moves, atol=1e-9
  )
  np.testing.assert_allclose(info["inventory"], held, atol=1e-9)
  np.testing.assert_allclose(
      info["penalty"], 0.5 * (1 - first.tolerance) * np.abs(held), atol=1e-9
  )


@pytest.mark.parametrize("kind", market.MATCHINGS)
@examples(10)
@given(seed=SEEDS)
def test_every_unit_has_a_buyer_and_a_seller(kind, seed):
  env = market.Market(dataclasses.replace(CONFIG, matching=kind))
  first, state, _, info = play(seed, env, random_profile(seed))
  for done, wanted, facility in (
      ("sold", "customers_bought", "facility_sold"),
      ("bought", "customers_sold", "facility_bought"),
  ):
    np.testing.assert_array_equal(info[done].sum(1) + info[facility], info[wanted])
  everyone = CUSTOMERS * QUANTITY.sum()
  np.testing.assert_array_equal(info["customers_bought"] + info["customers_sold"], everyone)
  moved = (info["bought"] - info["sold"] - info["hedge"]).sum(0)
  np.testing.assert_allclose(state.inventory - first.inventory, moved, atol=1e-2)
  units = (info["bought"] + info["sold"]).sum(0)
  np.testing.assert_array_equal(state.counts @ QUANTITY, units)
  np.testing.assert_allclose(state.hedged, np.abs(info["hedge"]).sum(0), rtol=1e-5)


@examples(15)
@given(seed=SEEDS, who=st.integers(0, N - 1), tolerance=st.floats(0, 1))
def test_who_never_trades_earns_exactly_nothing(seed, who, tolerance):
  # The merchant quotes worse than the facility by the least possible amount, and hedges at random.
  actions = uniform_actions(jax.random.key(seed), (HORIZON, N))
  actions = actions.at[:, who, :2].set(np.finfo(np.float32).tiny)
  _, state, rewards, info = play(seed, actions=actions, profile=ENV.profile(0.9, tolerance))
  np.testing.assert_array_equal(rewards[:, who], 0)
  assert state.cash[who] == state.inventory[who] == state.rewards[who] == 0
  assert not info["bought"][:, who].any() and not info["sold"][:, who].any()


def test_at_the_facilitys_price_merchants_trade():
  _, state, rewards, _ = play(0, actions=fixed(0.0, 0.0, 1.0), profile=ENV.profile(1.0))
  assert int(state.counts.sum()) == HORIZON * CUSTOMERS * CLUSTERS
  # All inventory goes to the facility at once, at a cost equal to the margin on the excess.
  assert (rewards >= 0).all() and (rewards.sum(0) > 0).all()


@examples(15)
@given(seed=SEEDS, who=st.integers(0, N - 1))
def test_an_unconnected_merchant_trades_nothing(seed, who):
  profile = random_profile(seed)
  none, half = jnp.zeros(CLUSTERS), jnp.full(CLUSTERS, 0.5)
  first, second = (none, half) if who == 0 else (half, none)
  profile = profile._replace(
      supertype1=profile.supertype1._replace(connection=first),
      supertype2=profile.supertype2._replace(connection=second),
  )
  _, state, rewards, _ = play(seed, profile=profile)
  out = [0] if who == 0 else list(range(1, N))
  assert not state.counts[np.array(out)].any() and not rewards[:, np.array(out)].any()
  rest = np.delete(np.arange(N), out)
  assert state.counts[rest].any()


@examples(15)
@given(seed=SEEDS)
def test_more_connections_never_lower_a_share(seed):
  """This holds for the same random numbers, not only in expectation: links are only added."""
  low = random_profile(seed)
  up = jax.random.uniform(jax.random.key(seed + 1), (CLUSTERS,)) ** 3
  more = low.supertype1.connection + up * (1 - low.supertype1.connection)
  high = low._replace(supertype1=low.supertype1._replace(connection=more))
  before, after = (play(seed, profile=profile)[1] for profile in (low, high))
  assert (after.counts[0] >= before.counts[0]).all()
  assert (after.counts[1:] <= before.counts[1:]).all()
  shares = [outputs_of(state)["share"] for state in (before, after)]
  assert shares[1][0] >= shares[0][0]


def test_more_connections_raise_the_expected_share():
  keys = jax.random.split(jax.random.key(0), BATCH)
  actions = uniform_actions(jax.random.key(1), (BATCH, HORIZON, N))
  shares = []
  for probability in (0.1, 0.5, 0.9):
    profile = ENV.profile(0.3, connection1=probability)
    state = batch_player(ENV)(keys, profile, actions)[1]
    shares.append(float(batch_outputs(state)["share"][:, 0].mean()))
  assert shares[0] * 3 < shares[1] and shares[1] * 1.5 < shares[2]


# Symmetry of merchants.


@pytest.mark.parametrize("kind", market.MATCHINGS)
@examples(10)
@given(seed=SEEDS)
def test_permuting_merchants_permutes_results(kind, seed):
  env = market.Market(dataclasses.replace(CONFIG, matching=kind))
  rng = np.random.default_rng(seed)
  order = np.append(0, 1 + rng.permutation(N - 1))  # merchants of supertype 2 are permuted
  profile = random_profile(seed)
  actions = uniform_actions(jax.random.key(seed), (HORIZON, N))
  shared = {"time", "price", "move"}

  def permute(state):
    return state._replace(
        **{name: x[order] for name, x in state._asdict().items() if name not in shared}
    )

  reset, step, outputs = stepper(env)
  obs, state = reset(jax.random.key(seed), profile)
  mirror = permute(state)
  for time in range(3):
    key = jax.random.key(seed + time)
    obs, state, reward, done, info = step(key, state, actions[time], profile)
    obs2, mirror, reward2, done2, info2 = step(key, mirror, actions[time][order], profile)
    chex.assert_trees_all_close(permute(state), mirror, rtol=1e-6)
    chex.assert_trees_all_close((obs[order], reward[order]), (obs2, reward2), rtol=1e-6)
    for name, x in info.items():
      np.testing.assert_allclose(x[order] if x.ndim else x, info2[name], rtol=1e-6)
    assert done == done2
  for name, x in outputs(state).items():
    y = outputs(mirror)[name]
    same = name.startswith(("supertype_", "facility_"))
    np.testing.assert_allclose(x if same else x[order], y, rtol=1e-5)


def test_merchants_of_a_supertype_are_drawn_alike():
  profile = ENV.profile(np.linspace(0.1, 0.9, CLUSTERS), 0.5, 0.04, connection1=0.0, tolerance1=0.9)
  keys = jax.random.split(jax.random.key(0), 4000)
  state = jax.jit(jax.vmap(lambda key: ENV.reset(key, profile)[1]))(keys)
  np.testing.assert_allclose(state.tolerance[:, 0], 0.9, rtol=1e-6)
  drawn = state.tolerance[:, 1:]
  assert ((drawn >= 0) & (drawn <= 1)).all()
  # A normal of standard deviation 0.2 about 0.5 loses 1.2% to the bounds. The tolerance is 5
  # standard errors of 4,000 draws.
  np.testing.assert_allclose(drawn.mean(0), 0.5, atol=0.016)
  np.testing.assert_allclose(drawn.std(0), 0.198, atol=0.012)
  assert abs(np.corrcoef(drawn.T) - np.eye(N - 1)).max() < 0.08
  links = matching.unpack(state.links, CUSTOMERS).mean((0, 3))
  np.testing.assert_array_equal(links[0], 0)
  expected = np.broadcast_to(np.linspace(0.1, 0.9, CLUSTERS), (N - 1, CLUSTERS))
  np.testing.assert_allclose(links[1:], expected, atol=0.01)  # the standard error is 0.0013


def test_a_variance_at_its_bound_is_clipped():
  profile = ENV.profile(0.3, 0.5, 0.25)
  keys = jax.random.split(jax.random.key(0), 2000)
  tolerance = jax.jit(jax.vmap(lambda key: ENV.reset(key, profile)[1].tolerance))(keys)[:, 1:]
  assert tolerance.min() == 0 and tolerance.max() == 1
  # A normal of standard deviation 1/2 about 1/2 is beyond each bound with probability 0.159.
  np.testing.assert_allclose([(tolerance == 0).mean(), (tolerance == 1).mean()], 0.159, atol=0.02)


# Trades.


def test_connections_last_for_the_episode():
  # A merchant without competitors serves the same customers in every step.
  profile = ENV.profile(0.0, connection1=0.5)
  first, state, _, info = play(5, actions=fixed(), profile=profile)
  linked = matching.unpack(first.links[0], CUSTOMERS).sum(-1)
  assert 0 < linked.min() and linked.max() < CUSTOMERS
  np.testing.assert_array_equal(state.counts[0], HORIZON * linked)
  np.testing.assert_array_equal(info["bought"][:, 0] + info["sold"][:, 0], linked @ QUANTITY)
  # The side of each customer is drawn anew in every step.
  assert len(set(np.asarray(info["bought"][:, 0]).tolist())) > HORIZON // 2


def test_the_best_price_wins():
  profile = ENV.profile(1.0)
  _, state, _, info = play(0, profile=profile, actions=fixed(
      e_buy=[-0.2, -0.1, 0.0, 0.5], e_sell=[0.0, -0.3, -0.30001, -1.0]))
  np.testing.assert_array_equal(info["sold"][:, 3], info["customers_bought"])
  np.testing.assert_array_equal(info["bought"][:, 0], info["customers_sold"])
  assert not info["sold"][:, :3].any() and not info["bought"][:, 1:].any()
  # The last merchant sells at the mid price.
  np.testing.assert_allclose(info["ask"][:, 3], info["price"])
  np.testing.assert_allclose(info["bid"][:, 0], info["price"] - 0.8, rtol=1e-6)


# Outputs.


def test_outputs_by_hand():
  """Two merchants have given counts of trades with clusters of 1, 2 and 3 units."""
  env = market.Market(market.Config(num_merchants=3, clusters=3, customers=10, horizon=2))
  reset, _, outputs = stepper(env)
  _, state = reset(jax.random.key(0), env.profile())
  before = outputs(state)
  assert before["share"].sum() == before["facility_share"] == before["count_share"].sum() == 0
  counts = jnp.array([[4, 0, 2], [6, 5, 0], [1, 5, 10]])
  state = state._replace(
      time=jnp.int32(1), counts=counts, rewards=jnp.array([1.0, 2.0, 5.0]),
      hedged=jnp.array([3.0, 0.0, 1.0]), held=jnp.array([8.0, 6.0, 4.0]),
  )
  one = outputs(state)
  np.testing.assert_array_equal(one["supertype_counts"], [[4, 0, 2], [7, 10, 10]])
  # The given counts exceed the numbers of customers.
  np.testing.assert_array_equal(one["facility_counts"], [-1, 0, -2])
  np.testing.assert_allclose(one["share"], np.array([10, 16, 41]) / 60, rtol=1e-6)
  np.testing.assert_allclose(one["count_share"], np.array([6, 11, 16]) / 30, rtol=1e-6)
  two = outputs(state._replace(time=jnp.int32(2)))
  np.testing.assert_array_equal(two["facility_counts"], [9, 10, 8])
  np.testing.assert_allclose(two["supertype_share"], np.array([10, 57]) / 120, rtol=1e-6)
  np.testing.assert_allclose(two["facility_share"], 53 / 120, rtol=1e-6)
  np.testing.assert_allclose(two["supertype_count_share"], np.array([6, 27]) / 60, rtol=1e-6)
  np.testing.assert_allclose(two["facility_count_share"], 27 / 60, rtol=1e-6)
  np.testing.assert_array_equal(
      two["percentiles"][0], [1, 1, 1, 1, 1, 1, 3, 3, 3]  # percentiles of 1 1 1 1 3 3
  )
  np.testing.assert_allclose(two["supertype_rewards"], [1, 3.5])
  np.testing.assert_allclose(two["hedged"], [1.5, 0, 0.5])
  np.testing.assert_allclose(two["inventory"], [4, 3, 2])


@examples(10)
@given(seed=SEEDS)
def test_shares_add_up(seed):
  outputs = outputs_of(play(seed, profile=random_profile(seed))[1])
  for kind in ("share", "count_share"):
    whole = outputs[kind].sum() + outputs[f"facility_{kind}"]
    np.testing.assert_allclose(whole, 1, rtol=1e-6)
    assert outputs[f"facility_{kind}"] >= 0


# Observations.


def test_observations_are_named_and_scaled():
  profile = ENV.profile(np.linspace(0.2, 0.8, CLUSTERS), 0.3, connection1=0.9, tolerance1=0.6)
  reset, step, _ = stepper(ENV)
  obs, state = reset(jax.random.key(0), profile)
  index = {name: i for i, name in enumerate(ENV.observation_names)}
  assert not obs[:, index["inventory"] : index["time_left"]].any()
  np.testing.assert_array_equal(obs[:, index["time_left"]], 1)
  action = uniform_actions(jax.random.key(1), (N,)) * jnp.array([-1, -1, 1])
  obs, state, _, _, info = step(jax.random.key(2), state, action, profile)
  expected = {
      "connection_1": state.connection[:, 0],
      f"connection_{CLUSTERS}": state.connection[:, -1],
      "tolerance": state.tolerance,
      "inventory": state.inventory / CONFIG.volume,
      "bought": info["bought"] / CONFIG.volume,
      "sold": info["sold"] / CONFIG.volume,
      "e_buy": action[:, 0],
      "e_sell": action[:, 1],
      "beta": action[:, 2],
      "price_move": (state.price - info["price"]) / CONFIG.volatility,
      "time_left": 1 - 1 / HORIZON,
  }
  for name, values in expected.items():
    np.testing.assert_allclose(obs[:, index[name]], values, rtol=1e-4, atol=1e-6, err_msg=name)
  np.testing.assert_allclose(obs[0, :CLUSTERS], 0.9, rtol=1e-6)
  assert np.abs(obs).max() < 5


@examples(10)
@given(seed=SEEDS)
def test_others_quotes_and_types_are_not_seen(seed):
  # Merchant 1 observes the same in two states that differ only in the other merchants.
  _, state, *_ = play(seed, profile=random_profile(seed))
  _, other, *_ = play(seed + 1, profile=random_profile(seed + 1))
  shared = {"time", "price", "move"}
  mixed = {
      name: x if name in shared else jnp.concatenate([x[:1], getattr(other, name)[1:]])
      for name, x in state._asdict().items()
  }
  see = jax.jit(ENV._observe)
  one, two = see(state), see(market.State(**mixed))
  np.testing.assert_array_equal(one[0], two[0])
  assert not np.allclose(one[1:], two[1:])


# Prices.


@pytest.mark.parametrize("process", market.PROCESSES)
def test_prices_move_as_the_process_says(process):
  env = market.Market(dataclasses.replace(CONFIG, process=process, volatility=5.0))
  keys = jax.random.split(jax.random.key(0), BATCH)
  _, state, _, info = batch_player(env)(keys, ENV.profile(), jnp.zeros((BATCH, HORIZON, N, 3)))
  np.testing.assert_array_equal(info["price"][:, 0], 100)
  prices = np.concatenate([info["price"], state.price[:, None]], axis=1, dtype=float)
  assert prices.min() > 0
  # There are 2,400 moves. In units of their standard deviation, its estimate has a standard error
  # of 1.4%, and the mean has one of 2%.
  if process == "arithmetic":
    moves = np.diff(prices)
    np.testing.assert_allclose(moves.mean(), 0, atol=0.4)
  else:
    moves = 100 * np.diff(np.log(prices))
    np.testing.assert_allclose(moves.mean(), -0.125, atol=0.4)
    # The price is a martingale in each step.
    np.testing.assert_allclose(np.exp(moves / 100).mean(), 1, atol=0.004)
  np.testing.assert_allclose(moves.std(), 5, rtol=0.06)
  assert abs(np.corrcoef(moves[:, 0], moves[:, 1])[0, 1]) < 0.3
  np.testing.assert_allclose(state.move, prices[:, -1] - prices[:, -2], atol=1e-4)


# Best responses among simple policies.


def earned(env, profile, actions):
  """Mean reward of merchant 1 if all take `actions` [T, n, 3], and the final states."""
  keys = jax.random.split(jax.random.key(0), BATCH)
  many = jnp.broadcast_to(actions, (BATCH, *actions.shape))
  state = batch_player(env)(keys, profile, many)[1]
  return float(state.rewards[:, 0].mean()), state


def test_a_merchant_alone_does_best_at_the_outside_option():
  profile = ENV.profile(0.0, 1.0, 0.0, connection1=1.0)
  quotes = (-1.0, -0.6, -0.2, -0.05, 0.0, 0.05, 0.5)
  rewards = [earned(ENV, profile, fixed(e, e))[0] for e in quotes]
  assert np.argmax(rewards) == quotes.index(0.0)
  assert (np.diff(rewards[:5]) > 0).all() and rewards[5] == rewards[6] == 0
  # At the facility's prices it serves all customers, and earns N in each step.
  np.testing.assert_allclose(rewards[4], N * HORIZON, rtol=0.02)


@pytest.mark.parametrize("common", [-0.1, -0.4, -0.8])
def test_among_equals_without_risk_to_undercut_pays_down_to_the_mid(common):
  env = market.Market(dataclasses.replace(CONFIG, volatility=0.0))
  profile = ENV.profile(1.0, 1.0, 0.0)

  def mine(e):
    return fixed([e] + [common] * 3, [e] + [common] * 3)

  tied, lower, higher = (earned(env, profile, mine(common + d))[0] for d in (0, -0.05, 0.05))
  np.testing.assert_allclose(tied, (1 + common) * HORIZON, rtol=0.02)
  np.testing.assert_allclose(lower, N * (1 + common - 0.05) * HORIZON, rtol=0.02)
  assert lower > tied > higher == 0


def test_less_tolerance_makes_hedging_worth_more():
  env = market.Market(dataclasses.replace(CONFIG, horizon=60))
  shares = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
  best, inventories = [], []
  for tolerance in (0.0, 0.5, 0.8, 1.0):
    profile = ENV.profile(0.3, tolerance, 0.0)
    actions = [jnp.resize(fixed(-0.5, -0.5, beta), (60, N, 3)) for beta in shares]
    played = [earned(env, profile, each) for each in actions]
    chosen = int(np.argmax([reward for reward, _ in played]))
    best.append(shares[chosen])
    inventories.append(float(played[chosen][1].held[:, 0].mean()))
  # The module says about (1 - tolerance) penalty: 0.5, 0.25, 0.1, 0. Found are 0.5, 0.2, 0.1, 0.
  assert best[0] in (0.4, 0.5, 0.7) and best[1] in (0.2, 0.3) and best[2] in (0.05, 0.1, 0.2)
  assert best[3] == 0
  assert (np.diff(inventories) > 0).all()


@examples(10)
@given(seed=SEEDS)
def test_tolerance_acts_through_the_reward_and_only_there(seed):
  low, high = (ENV.profile(0.5, tolerance, 0.0) for tolerance in (0.2, 0.9))
  actions = uniform_actions(jax.random.key(seed), (HORIZON, N))
  (_, one, _, info), (_, two, _, info2) = (play(seed, profile=p, actions=actions)
                                           for p in (low, high))
  np.testing.assert_array_equal(one.counts, two.counts)
  np.testing.assert_array_equal(one.cash, two.cash)
  held = (info["penalty"] > 0) == (info2["penalty"] > 0)
  assert held.all()
  np.testing.assert_allclose(info["penalty"], 8 * info2["penalty"], rtol=1e-4)
  assert (one.rewards <= two.rewards).all()
