"""calsheq_jax.pairs: the best pair is kept, candidates rest at their profiles, one is taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calsheq_jax import calibrator, calsheq, experiments, pairs, policy, ppo
from calsheq_jax.targets import goals_of

PROBLEM = experiments.named("linear_quadratic").problem()
GOALS = goals_of(PROBLEM.targets)
CONFIG = calsheq.Config(
    episodes=64,
    network=policy.Config(hidden=(8,)),
    shared=ppo.Config(epochs=2, minibatches=4),
    calibrator=calibrator.Config(hidden=(4,)),
)


@pytest.fixture(scope="module")
def states():
  """The states after stages 1 and 2."""
  state = calsheq.init(jax.random.key(0), PROBLEM, CONFIG)
  step = jax.jit(lambda s: calsheq.stage(s, jax.random.key(1), GOALS, PROBLEM, CONFIG)[0])
  first = step(state)
  return first, step(first)


def test_start_keys_differ_and_begin_with_the_runs_key():
  key = jax.random.key(3)
  keys = jax.random.key_data(pairs.start_keys(key, 4))
  np.testing.assert_array_equal(keys[0], jax.random.key_data(key))
  assert len(np.unique(np.asarray(keys), axis=0)) == 4
  assert pairs.start_keys(key, 1).shape == (1,)


def test_the_best_pair_is_kept(states):
  first, second = states
  kept = pairs.keep(pairs.unchecked(first), first, jnp.array(0.4))
  assert float(kept.reward) == np.float32(0.4)
  worse = pairs.keep(kept, second, jnp.array(0.3))
  np.testing.assert_array_equal(worse.pair.point, first.recent)
  better = pairs.keep(kept, second, jnp.array(0.5))
  np.testing.assert_array_equal(better.pair.point, second.recent)
  assert int(better.pair.shared.step) == 2 and int(worse.pair.shared.step) == 1
  unequal = pairs.keep(kept, second, jnp.array(jnp.nan))
  assert float(unequal.reward) == np.float32(0.4)  # a reward that is no number is not kept


def test_candidates_are_named_in_order(states):
  first, second = states
  kept = pairs.keep(pairs.unchecked(first), first, jnp.array(0.4))
  found = pairs.candidates(second, kept)
  assert pairs.CANDIDATES == ("recent", "settled", "kept")
  np.testing.assert_array_equal(found.point, [second.recent, second.settled, first.recent])
  np.testing.assert_array_equal(found.shared.step, [2, 2, 1])


@pytest.mark.parametrize(
    "rested, before, name",
    [
        ([0.7, 0.8, 0.75], [0.81, 0.7, 0.7], "settled"),
        ([0.7, 0.8, 0.75], [0.7, 0.7, 0.85], "kept before rest"),
        ([0.8, 0.8, 0.75], [0.7, 0.7, 0.7], "recent"),
    ],
)
def test_a_pair_that_rested_is_preferred(rested, before, name):
  """Rest may cost 0.02 of the reward."""
  found = pairs.choose(jnp.array(rested), jnp.array(before), 0.02)
  assert pairs.RESULTS[int(found)] == name


@pytest.mark.parametrize("after, wanted", [(0.79, 1), (0.77, 0), (float("nan"), 0)])
def test_a_longer_rest_may_cost_the_margin(states, after, wanted):
  given = [pairs.of_state(state) for state in states]
  found = pairs.longer(*given, jnp.array(0.8), jnp.array(after), 0.02)
  jax.tree.map(np.testing.assert_array_equal, found, given[wanted])


def test_the_averages_are_of_places_that_mean_actions_lead_to():
  """The recent place is nearly the last one, and the settled one has a longer memory."""
  weights = [np.array([calsheq._averaging(jnp.array(m), p) for m in range(200)]) for p in (40, 4)]
  for power, each in zip((40, 4), weights):
    assert each[0] == 1
    # The weight of stage m' is proportional to (m' + 1) (m' + 2) ... (m' + power).
    share = each * np.append(np.cumprod((1 - each)[:0:-1])[::-1], 1)
    np.testing.assert_allclose(share.sum(), 1, rtol=1e-4)
    steps = np.arange(1, power + 1)
    expected = np.prod((180 + steps) / (199 + steps))
    np.testing.assert_allclose(share[180] / share[199], expected, rtol=1e-3)
  assert weights[0][-1] > 5 * weights[1][-1]


@pytest.mark.slow
def test_a_policy_at_rest_comes_to_the_equilibrium_of_its_profile(states):
  """The equilibrium of the linear-quadratic game is known: mean actions come near it."""
  first, _ = states
  updates = 240
  pair = pairs.Pair(first.shared, jnp.array([0.5, 0.1]))
  rest = jax.jit(
      lambda pair: pairs.rest(pair, jax.random.key(2), GOALS, PROBLEM, CONFIG, updates)
  )
  rested = rest(pair)
  np.testing.assert_array_equal(rested.point, pair.point)
  assert int(rested.shared.step) == int(first.shared.step) + updates
  wanted = np.array(PROBLEM.env.equilibrium_means(PROBLEM.space.profile(pair.point)))

  def distance(shared):
    found = calsheq.judge(
        shared.agent, jax.random.key(4), pair.point, GOALS, PROBLEM, CONFIG, 1024
    )
    return np.abs(np.array(found["values"]) - wanted).max()

  assert distance(rested.shared) < 0.05 < 0.2 < distance(pair.shared)


def test_without_rest_nothing_changes(states):
  first, _ = states
  pair = pairs.of_state(first)
  same = pairs.rest(pair, jax.random.key(2), GOALS, PROBLEM, CONFIG, updates=0)
  jax.tree.map(np.testing.assert_array_equal, same, pair)
