"""envs.market: what has to add up, who trades with whom, and what a merchant should do."""

import dataclasses
import functools

import chex
from hypothesis import given, settings
from hypothesis import strategies as st
import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np
import pytest

from envs import market, matching
from launch.baselines import market_loop

N, CLUSTERS, CUSTOMERS, HORIZON = 4, 5, 40, 12
CONFIG = market.Config(
    num_merchants=N, clusters=CLUSTERS, customers=CUSTOMERS, horizon=HORIZON
)
QUANTITY = np.arange(1, CLUSTERS + 1)
ENV = market.Market(CONFIG)
SEEDS = st.integers(0, 2**31 - 1)
BATCH = 200  # of episodes, wherever there are many: each size is compiled for itself
def examples(count):
  return settings(max_examples=count, deadline=None, derandomize=True)


def uniform_actions(key, shape, dtype=None):
  """Rows within the bounds, half of the quotes better than the facility's."""
  low, high = ENV.action_space
  dtype = dtype or jnp.result_type(float)
  draws = jax.random.uniform(key, (*shape, 3), dtype)
  return low.astype(dtype) + draws * (high - low).astype(dtype)


def follow(env, key, profile, actions):
  """actions [T, n, 3] -> first state, final state, rewards [T, n], info [T, ...].

  The keys: reset, then one a step.
  """
  key_reset, key_steps = jax.random.split(key)
  first = env.reset(key_reset, profile)[1]

  def step(state, x):
    _, state, reward, _, info = env.step(x[0], state, x[1], profile)
    return state, (reward, info)

  keys = jax.random.split(key_steps, len(actions))
  state, (rewards, info) = jax.lax.scan(step, first, (keys, actions))
  return first, state, rewards, info


@functools.cache
def player(env):
  """`follow`, compiled once for an environment."""
  return jax.jit(lambda *args: follow(env, *args))


@functools.cache
def batch_player(env):
  """`follow` on keys [B] and actions [B, T, n, 3]."""
  return jax.jit(jax.vmap(lambda *args: follow(env, *args), (0, None, 0)))


@functools.cache
def stepper(env):
  return jax.jit(env.reset), jax.jit(env.step), jax.jit(env.outputs)


def outputs_of(state):
  return stepper(ENV)[2](state)


batch_outputs = jax.jit(jax.vmap(ENV.outputs))


def play(seed, env=ENV, profile=None, actions=None):
  key_play, key_actions = jax.random.split(jax.random.key(seed))
  if actions is None:
    actions = uniform_actions(key_actions, (env.config.horizon, env.num_agents))
  return player(env)(key_play, ENV.profile() if profile is None else profile, actions)


def random_profile(seed):
  names = ravel_pytree(ENV.profile())[1]
  low, high = (ravel_pytree(bound)[0] for bound in ENV.profile_space)
  return names(low + (high - low) * jax.random.uniform(jax.random.key(seed), low.shape))


def fixed(e_buy=0.0, e_sell=0.0, beta=0.0):
  """[T, N, 3]: what every merchant does, or each one, all the time."""
  one = [jnp.broadcast_to(jnp.asarray(x, jnp.float32), (N,)) for x in (e_buy, e_sell, beta)]
  return jnp.broadcast_to(jnp.stack(one, -1), (HORIZON, N, 3))


# What has to add up.


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
  assert error.max() < 2 * np.finfo(np.float32).eps  # usually below 0.3


@pytest.mark.parametrize("process", market.PROCESSES)
def test_cash_adds_up_to_the_last_digit_in_float64(x64, process):
  # The constants of the paper, so that sums are as large as they get.
  env = market.Market(market.Config(num_merchants=5, process=process))
  actions = uniform_actions(jax.random.key(1), (60, 5))
  first, state, rewards, info = player(env)(jax.random.key(0), env.profile(0.6), actions)
  assert rewards.dtype == state.cash.dtype == jnp.float64
  total, profit, turnover = money(first, state, info, env.config)
  assert turnover.min() > 1e4
  np.testing.assert_allclose(total, profit, rtol=0, atol=1e-9)
  # Rewards are that profit less the penalty, in units of a half-spread on the mean volume.
  unit = env.config.half_spread * env.config.volume
  np.testing.assert_allclose(rewards, (info["profit"] - info["penalty"]) / unit, rtol=1e-12)
  np.testing.assert_allclose(state.rewards, rewards.sum(0), rtol=1e-12)
  outputs = jax.jit(env.outputs)(state)
  assert {str(x.dtype) for x in outputs.values()} == {"int32", "float64"}
  # The formula of the module, term by term.
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
  # It quotes worse than the facility by as little as can be, and hedges whatever.
  actions = uniform_actions(jax.random.key(seed), (HORIZON, N))
  actions = actions.at[:, who, :2].set(np.finfo(np.float32).tiny)
  _, state, rewards, info = play(seed, actions=actions, profile=ENV.profile(0.9, tolerance))
  np.testing.assert_array_equal(rewards[:, who], 0)
  assert state.cash[who] == state.inventory[who] == state.rewards[who] == 0
  assert not info["bought"][:, who].any() and not info["sold"][:, who].any()


def test_at_the_facilitys_price_merchants_trade():
  _, state, rewards, _ = play(0, actions=fixed(0.0, 0.0, 1.0), profile=ENV.profile(1.0))
  assert int(state.counts.sum()) == HORIZON * CUSTOMERS * CLUSTERS
  # All inventory goes to the facility at once: what it costs is what was earned on the excess.
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
  """With the same random numbers, not only in expectation: links are only added."""
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


# Merchants are told apart by what they are and do, not by where they stand.


@pytest.mark.parametrize("kind", market.MATCHINGS)
@examples(10)
@given(seed=SEEDS)
def test_permuting_merchants_permutes_results(kind, seed):
  env = market.Market(dataclasses.replace(CONFIG, matching=kind))
  rng = np.random.default_rng(seed)
  order = np.append(0, 1 + rng.permutation(N - 1))  # those of supertype 2
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
  # A normal of s.d. 0.2 about 0.5 loses 1.2% to the bounds; 4,000 draws, 5 standard errors.
  np.testing.assert_allclose(drawn.mean(0), 0.5, atol=0.016)
  np.testing.assert_allclose(drawn.std(0), 0.198, atol=0.012)
  assert abs(np.corrcoef(drawn.T) - np.eye(N - 1)).max() < 0.08
  links = matching.unpack(state.links, CUSTOMERS).mean((0, 3))
  np.testing.assert_array_equal(links[0], 0)
  expected = np.broadcast_to(np.linspace(0.1, 0.9, CLUSTERS), (N - 1, CLUSTERS))
  np.testing.assert_allclose(links[1:], expected, atol=0.01)  # standard error 0.0013


def test_a_variance_at_its_bound_is_clipped():
  profile = ENV.profile(0.3, 0.5, 0.25)
  keys = jax.random.split(jax.random.key(0), 2000)
  tolerance = jax.jit(jax.vmap(lambda key: ENV.reset(key, profile)[1].tolerance))(keys)[:, 1:]
  assert tolerance.min() == 0 and tolerance.max() == 1
  # P(normal of s.d. 1/2 about 1/2 is beyond a bound) = 0.159 on each side.
  np.testing.assert_allclose([(tolerance == 0).mean(), (tolerance == 1).mean()], 0.159, atol=0.02)


# Who trades with whom.


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
  """Where g merchants tie for m customers, each wins Binomial(m, 1/g) of them."""
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
    # 4.5 standard errors of a mean, and of a variance.
    np.testing.assert_allclose(
        mine.mean(0), customers * share, atol=4.5 * (variance / draws) ** 0.5 + 1e-9
    )
    np.testing.assert_allclose(
        mine.var(0), variance, atol=4.5 * variance * (2 / draws) ** 0.5 + 1e-9
    )
    assert not won[:, ~linked[:, cluster, 0], cluster].any()


def test_packed_and_dense_agree_in_distribution_where_prices_tie():
  """Whole episodes of merchants who quote one of three prices: what comes out, by two-sample tests.

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


def test_connections_last_for_the_episode():
  # A merchant alone with its customers serves the same ones in every step.
  profile = ENV.profile(0.0, connection1=0.5)
  first, state, _, info = play(5, actions=fixed(), profile=profile)
  linked = matching.unpack(first.links[0], CUSTOMERS).sum(-1)
  assert 0 < linked.min() and linked.max() < CUSTOMERS
  np.testing.assert_array_equal(state.counts[0], HORIZON * linked)
  np.testing.assert_array_equal(info["bought"][:, 0] + info["sold"][:, 0], linked @ QUANTITY)
  # And whoever of them buys is drawn anew.
  assert len(set(np.asarray(info["bought"][:, 0]).tolist())) > HORIZON // 2


def test_the_best_price_wins():
  profile = ENV.profile(1.0)
  _, state, _, info = play(0, profile=profile, actions=fixed(
      e_buy=[-0.2, -0.1, 0.0, 0.5], e_sell=[0.0, -0.3, -0.30001, -1.0]))
  np.testing.assert_array_equal(info["sold"][:, 3], info["customers_bought"])
  np.testing.assert_array_equal(info["bought"][:, 0], info["customers_sold"])
  assert not info["sold"][:, :3].any() and not info["bought"][:, 1:].any()
  np.testing.assert_allclose(info["ask"][:, 3], info["price"])  # it sells at the mid
  np.testing.assert_allclose(info["bid"][:, 0], info["price"] - 0.8, rtol=1e-6)


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


# Against a plain loop.


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
  lots = np.zeros(linked.shape)  # no two prices tie
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


# What comes out.


def test_outputs_by_hand():
  """Two merchants, clusters of 1, 2 and 3 units; what they traded is set."""
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
  np.testing.assert_array_equal(one["facility_counts"], [-1, 0, -2])  # 33 of 30: they were set
  np.testing.assert_allclose(one["share"], np.array([10, 16, 41]) / 60, rtol=1e-6)
  np.testing.assert_allclose(one["count_share"], np.array([6, 11, 16]) / 30, rtol=1e-6)
  two = outputs(state._replace(time=jnp.int32(2)))
  np.testing.assert_array_equal(two["facility_counts"], [9, 10, 8])
  np.testing.assert_allclose(two["supertype_share"], np.array([10, 57]) / 120, rtol=1e-6)
  np.testing.assert_allclose(two["facility_share"], 53 / 120, rtol=1e-6)
  np.testing.assert_allclose(two["supertype_count_share"], np.array([6, 27]) / 60, rtol=1e-6)
  np.testing.assert_allclose(two["facility_count_share"], 27 / 60, rtol=1e-6)
  np.testing.assert_array_equal(
      two["percentiles"][0], [1, 1, 1, 1, 1, 1, 3, 3, 3]  # of 1 1 1 1 3 3
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


@examples(100)
@given(st.lists(st.integers(0, 40), min_size=10, max_size=10))
def test_percentiles_are_those_of_the_transactions(counts):
  exact = np.asarray(market.percentiles(jnp.array(counts, jnp.int32)))
  smooth = np.asarray(market.smooth_percentiles(jnp.array(counts, jnp.int32)))
  if sum(counts) == 0:
    assert not exact.any() and not smooth.any()
    return
  sample = np.repeat(np.arange(1, 11), counts)
  expected = np.percentile(sample, np.arange(10, 100, 10), method="inverted_cdf")
  np.testing.assert_array_equal(exact, expected)
  assert (np.abs(smooth - exact) <= 0.5).all()
  assert (np.diff(smooth) >= 0).all()
  # Linear interpolation of the distribution function that grows evenly about each quantity.
  edges = np.append(0, np.cumsum(counts)) / sum(counts)
  np.testing.assert_allclose(
      np.interp(smooth, np.arange(0.5, 11), edges), np.arange(0.1, 1, 0.1), atol=1e-5
  )


# What a merchant sees.


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
  # Two states that differ in the others' types, quotes and books: merchant 1 sees the same.
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
  # 2,400 moves: the standard error of their s.d. is 1.4%, of their mean 2% of the s.d.
  if process == "arithmetic":
    moves = np.diff(prices)
    np.testing.assert_allclose(moves.mean(), 0, atol=0.4)
  else:
    moves = 100 * np.diff(np.log(prices))
    np.testing.assert_allclose(moves.mean(), -0.125, atol=0.4)
    # The mean's last digits by the exact law of what was drawn: a martingale in each step.
    np.testing.assert_allclose(np.exp(moves / 100).mean(), 1, atol=0.004)
  np.testing.assert_allclose(moves.std(), 5, rtol=0.06)
  assert abs(np.corrcoef(moves[:, 0], moves[:, 1])[0, 1]) < 0.3
  np.testing.assert_allclose(state.move, prices[:, -1] - prices[:, -2], atol=1e-4)


# What a merchant should do: best responses among simple policies.


def earned(env, profile, actions):
  """Mean reward of merchant 1 over episodes in which all do `actions` [T, n, 3]; final states."""
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
  # At the facility's prices its share is that of all merchants: N a step.
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
  # About (1 - tolerance) penalty, as the module says: 0.5, 0.25, 0.1, 0. Here 0.5, 0.2, 0.1, 0.
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


# Profiles and errors.


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
