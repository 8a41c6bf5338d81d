"""calsheq_jax.calibrator: targets and reward by hand, boxes, the policy over increments."""

import dataclasses

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np
import pytest

from calsheq_jax import calibrator, policy, ppo
from calsheq_jax.calibrator import Target
from envs import linear_quadratic, market
from tests import toys

ENV = market.Market(market.Config(num_merchants=3, clusters=2, customers=4, horizon=2))


# Targets.


def test_reward_by_hand():
  targets = (
      Target("share", 0.2, scale=0.1, weight=3.0, index=(1,)),
      Target("ratio", 2.0, scale=4.0, function=lambda out: out["share"][0] / out["share"][1]),
      Target("height", 5.0, scale=1.0, weight=4.0, tolerance=0.5),
  )
  outputs = {"share": jnp.array([0.6, 0.3]), "height": jnp.array(3.5)}
  values = calibrator.values_of(targets, outputs)
  np.testing.assert_allclose(values, [0.3, 2.0, 3.5], rtol=1e-6)
  goals = calibrator.goals_of(targets)
  # Errors 0.1, 0 and 1.5 - 0.5; weights 3, 1 and 4 of 8.
  np.testing.assert_allclose(calibrator.fits(targets, values, goals), [1 / 2, 1, 1 / 2], rtol=1e-6)
  expected = (3 * 0.5 + 1 * 1 + 4 * 0.5) / 8
  np.testing.assert_allclose(calibrator.reward(targets, values, goals), expected, rtol=1e-6)
  assert [target.name for target in targets] == ["share[1]", "ratio", "height"]


def test_a_perfect_fit_is_paid_one_and_nothing_else_is():
  targets = calibrator.vector("percentiles", (1, 2, 3), scale=0.5, weight=2.0, index=(1,))
  assert [target.index for target in targets] == [(1, 0), (1, 1), (1, 2)]
  np.testing.assert_allclose([target.weight for target in targets], 2 / 3)
  goals = calibrator.goals_of(targets)
  off = goals + 0.3 * jnp.concatenate([jnp.eye(3), -jnp.eye(3)])
  np.testing.assert_allclose(calibrator.reward(targets, goals, goals), 1.0, rtol=1e-6)
  rewards = calibrator.reward(targets, off, goals)
  np.testing.assert_allclose(rewards, (2 + 1 / 1.6) / 3, rtol=1e-6)  # the same on either side


@pytest.mark.parametrize(
    "change, message",
    [
        ({"value": float("nan")}, r"target of share\[0\] is nan"),
        ({"scale": 0.0}, r"scale=0.0 of the target share\[0\] must be positive"),
        ({"weight": -1.0}, "weight=-1.0"),
        ({"tolerance": -0.1}, "tolerance=-0.1"),
    ],
)
def test_bad_targets(change, message):
  with pytest.raises(ValueError, match=message):
    Target(**{"output": "share", "value": 0.0, "scale": 1.0, "index": (0,), **change})


@pytest.mark.parametrize(
    "targets, message",
    [
        ((), "there are no targets"),
        ((Target("shares", 0, 1),), "the target shares is on no output of Market: it has"),
        ((Target("share", 0, 1),), r"the target share has the shape \[3\]: give the index"),
        ((Target("x", 0, 1, function=lambda out: out["share"]),), r"x has the shape \[3\]"),
        ((Target("share", 0, 1, index=(0, 0)),), r"share\[0,0\] is beyond the output's shape"),
        ((Target("share", 0, 1, index=(3,)),), r"share\[3\] is beyond the output's shape \[3\]"),
    ],
)
def test_targets_that_the_environment_does_not_have(targets, message):
  with pytest.raises(ValueError, match=message):
    calibrator.Problem(calibrator.space(ENV, ENV.profile()), targets)


# Space.


def test_only_what_is_named_moves_and_it_stays_in_its_box():
  start = ENV.profile(0.3, 0.5, 0.01, connection1=[0.2, 0.6])
  space = calibrator.space(
      ENV, start, ("supertype_1/*", "*variance"), high={"supertype_1/connection_2": 0.7}
  )
  assert space.names == (
      "supertype_1/connection_1", "supertype_1/connection_2", "supertype_1/tolerance",
      "supertype_2/tolerance_variance",
  )
  here = space.profile(space.origin())
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), here, start)
  for end, first, second in ((-1.0, [0, 0, 0], 0), (1.0, [1, 0.7, 1], 0.25)):
    moved = space.profile(jnp.full(4, end))
    np.testing.assert_allclose(ravel_pytree(moved.supertype1)[0], first, atol=1e-7)
    np.testing.assert_allclose(moved.supertype2.tolerance_variance, second)
    np.testing.assert_array_equal(moved.supertype2.connection, start.supertype2.connection)
    np.testing.assert_array_equal(
        moved.supertype2.tolerance_mean, start.supertype2.tolerance_mean
    )
  # Bounds hold exactly, whatever the rounding.
  low, high = np.float32(space.low), np.float32(space.high)
  dense = space.numbers(jnp.linspace(-1, 1, 1001)[:, None])
  assert (dense >= low).all() and (dense <= high).all()
  middle = space.numbers(space.from_numbers(0.3 * low + 0.7 * high))
  np.testing.assert_allclose(middle, 0.3 * low + 0.7 * high, atol=1e-6)


@pytest.mark.parametrize(
    "more, message",
    [
        ({"patterns": ("merchant_*",)}, r"'merchant_\*' matches no number of a profile: supertype"),
        ({"low": {"supertype_1/size": 0.1}}, "a bound on 'supertype_1/size', which is none of"),
        ({"low": {"*/tolerance": 0.1}}, r"a bound on '\*/tolerance', which is none of"),
        ({"low": {"supertype_1/tolerance": -0.1}}, "bounds -0.1 to 1.0 of supertype_1/tolerance"),
        ({"low": {"supertype_1/tolerance": 0.6}}, "starts at 0.5, out of its bounds 0.6 to 1.0"),
        ({"high": {"supertype_1/tolerance": 0.0}}, "must not be empty"),
    ],
)
def test_bad_spaces(more, message):
  with pytest.raises(ValueError, match=message):
    calibrator.space(ENV, ENV.profile(), **more)


def test_profiles_that_are_not_of_real_numbers():
  with pytest.raises(ValueError, match="not of real numbers"):
    calibrator.space(toys.Countdown(), toys.rules())


# Policy.


def policy_and_params(**changes):
  moves = calibrator.Increments(start=(-1.0, 0.0, 0.5), **{"hidden": (8,), **changes})
  return moves, moves.init(jax.random.key(0))


def test_mean_increments_pull_towards_a_place_that_may_lie_beyond_the_walls():
  moves, params = policy_and_params(pull=0.3)
  x = jax.random.uniform(jax.random.key(1), (50, 3), minval=-1, maxval=1)
  # At the start g is about the start, on a wall or not.
  place = moves.place(params, x)
  np.testing.assert_allclose(place, np.tile([-1, 0, 0.5], (50, 1)), atol=0.05)
  mean = moves.distribution(moves.apply(params, x)[0]).mean()
  np.testing.assert_allclose(mean, 0.3 * (place - x), atol=1e-6)
  # However large the network's numbers, the place is near the box; walls are reached.
  wild = jax.tree.map(lambda w: 1e3 * (w + 0.1), params)
  place = jnp.abs(moves.place(wild, x))
  assert 1.2 < place.max() <= 1.5


@pytest.mark.parametrize("scale", [0.02, 0.5])
def test_noise_has_the_scale_of_the_schedule_and_is_not_learnt(scale):
  moves, _ = policy_and_params()
  learning = calibrator.Config().learning
  state = ppo.init(jax.random.key(2), moves, learning)
  state = calibrator.exploring(state, jnp.float32(scale))
  x = jnp.zeros((20_000, 3))
  decision = policy.act(moves, state.agent, jax.random.key(3), x)
  centred = decision.action - moves.distribution(decision.parameters).mean()
  # A standard deviation of 60,000 draws is about 0.3% off.
  np.testing.assert_allclose(centred.std(), scale, rtol=0.02)
  gradient = jax.grad(lambda p: moves.apply(p, x)[0].sum())(state.agent.params)
  assert gradient["raw_scale"] == 0
  assert jnp.abs(gradient["network"]["place_head"]["b"]).min() > 0


def test_exploration_shrinks_to_its_least():
  config = calibrator.Config(exploration=0.4, least_exploration=0.05)
  scales = np.array(config.scale(jnp.arange(20_000)))
  np.testing.assert_allclose(scales[0], 0.4)
  assert (np.diff(scales) <= 0).all() and scales[-1] == np.float32(0.05)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"pull": 0.0}, "pull=0.0 must lie"),
        ({"hidden": (0,)}, "hidden=.0,.: sizes"),
        ({"exploration": 3.0}, "initial_scale=3.0 must lie"),
        ({"least_exploration": 0.5}, "least_exploration=0.5 is above exploration=0.3"),
        ({"learning": ppo.Config()}, "normalise_observations must be False"),
    ],
)
def test_bad_configs(change, message):
  with pytest.raises(ValueError, match=message):
    calibrator.Config(**change)


def test_one_step_problems():
  moves, params = policy_and_params()
  state = ppo.init(jax.random.key(2), moves, calibrator.Config().learning)
  x, reward = jnp.zeros((4, 3)), jnp.arange(4.0)
  decision = policy.act(moves, state.agent, jax.random.key(0), x)
  mine = calibrator.one_step(decision, x, reward)
  given = {**decision._asdict(), "observation": x, "reward": reward}
  for name, value in given.items():
    np.testing.assert_array_equal(getattr(mine, name), value[None])
  assert mine.done.all() and not mine.truncated.any() and (mine.weight == 1).all()
  assert mine.last_value.shape == (4,) and not mine.last_value.any()
  # Nothing follows: advantages are rewards less values.
  got = ppo.advantages(
      mine.reward, mine.value, mine.last_value, mine.done, mine.truncated, 1.0, 0.95
  )
  np.testing.assert_allclose(got[0], reward - decision.value, rtol=1e-6)


def test_problems_are_hashable_and_equal_where_they_say_the_same():
  def problem(value):
    env = linear_quadratic.LinearQuadratic()
    space = calibrator.space(env, env.profile())
    return calibrator.Problem(space, (Target("supertype_action", value, 1.0, index=(0,)),))

  assert hash(problem(1.0)) == hash(problem(1.0)) and problem(1.0) == problem(1.0)
  assert problem(1.0) != problem(2.0)
  assert dataclasses.replace(problem(1.0), targets=problem(2.0).targets) == problem(2.0)
