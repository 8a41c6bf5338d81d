"""calsheq_jax.problem: spaces of profiles, and targets that an environment does not have."""

import dataclasses

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from calsheq_jax import problem
from calsheq_jax.targets import Target
from envs import linear_quadratic, market

ENV = market.Market(market.Config(num_merchants=3, clusters=2, customers=4, horizon=2))


# Space.


def test_only_what_is_named_moves_and_it_stays_in_its_box():
  start = ENV.profile(0.3, 0.5, 0.01, connection1=[0.2, 0.6])
  space = problem.space(
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
    problem.space(ENV, ENV.profile(), **more)


def test_boxes_name_numbers_or_patterns():
  space = problem.space_of(
      ENV, {"supertype_1/connection_1": (0.5, 0.6), "*/connection_1": (0.1, 0.9)}
  )
  assert space.names == ("supertype_1/connection_1", "supertype_2/connection_1")
  assert space.low == (0.5, 0.1) and space.high == (0.6, 0.9)
  # The default of 0.3 is out of the first bounds, and begins at the nearest one.
  np.testing.assert_allclose(space.first, (0.5, 0.3), rtol=1e-6)
  np.testing.assert_allclose(space.profile(space.origin()).supertype1.connection, [0.5, 0.3])
  assert problem.space_of(ENV).names == ENV.profile_names
  given = problem.space_of(ENV, {"*/connection_1": (0, 1)}, ENV.profile(0.7))
  np.testing.assert_allclose(given.profile(given.origin()).supertype2.connection, 0.7, rtol=1e-6)
  with pytest.raises(ValueError, match="starts at 0.7, out of its bounds 0.0 to 0.5"):
    problem.space_of(ENV, {"*/connection_1": (0, 0.5)}, ENV.profile(0.7))
  with pytest.raises(ValueError, match="'share' matches no number"):
    problem.space_of(ENV, {"share": (0, 1)})
  with pytest.raises(ValueError, match="bounds -1.0 to 1.0 of supertype_1/tolerance"):
    problem.space_of(ENV, {"supertype_1/tolerance": (-1, 1)})


def test_profiles_that_are_not_of_real_numbers():
  with pytest.raises(ValueError, match="not of real numbers"):
    problem.space(toys.Countdown(), toys.rules())


# Problems.


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
    problem.Problem(problem.space(ENV, ENV.profile()), targets)


def test_problems_are_hashable_and_equal_where_they_say_the_same():
  def make(value):
    env = linear_quadratic.LinearQuadratic()
    space = problem.space(env, env.profile())
    return problem.Problem(space, (Target("supertype_action", value, 1.0, index=(0,)),))

  assert hash(make(1.0)) == hash(make(1.0)) and make(1.0) == make(1.0)
  assert make(1.0) != make(2.0)
  assert dataclasses.replace(make(1.0), targets=make(2.0).targets) == make(2.0)
