"""calsheq_jax.uncertainty and response: known posteriors, designs, and a known equilibrium."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calsheq_jax import calsheq, experiments, local_model, policy, ppo, response, uncertainty

SLOPES = np.array([[1.0, 0.5], [0.0, 2.0], [1.0, 1.0]])
NOISE = 0.5


def linear(key, parameters):
  """Statistics SLOPES parameters with independent noise."""
  return jnp.asarray(SLOPES) @ parameters + NOISE * jax.random.normal(key, (3,))


def summed(key, parameters):
  """Statistics that depend on the sum of the first two parameters, and on the third."""
  mean = jnp.stack([parameters[0] + parameters[1], parameters[2]])
  return mean + 0.2 * jax.random.normal(key, (2,))


@functools.cache
def of_linear():
  observed = SLOPES @ [0.3, -0.2] + [0.01, -0.02, 0.03]
  return observed, uncertainty.of_simulator(
      linear, [-1, -2], [1, 2], [0.25, -0.1], observed, jax.random.key(0), count=25
  )


# Simulators.


def test_a_linear_simulator_has_the_posterior_of_least_squares():
  observed, found = of_linear()
  exact = np.linalg.lstsq(SLOPES, observed, rcond=None)[0]
  covariance = np.linalg.inv(SLOPES.T @ SLOPES) * NOISE**2 / 25
  # The simulated mean and slopes have an error of their own: some percent of the deviation.
  np.testing.assert_allclose(
      np.sqrt(np.diag(found.covariance)), np.sqrt(np.diag(covariance)), rtol=0.12
  )
  for i, name in enumerate(found.names):
    deviation = covariance[i, i] ** 0.5
    assert abs(found.estimate[name] - exact[i]) < 0.35 * deviation
    low, high = found.intervals[name]
    np.testing.assert_allclose(high - low, 2 * 1.645 * found.covariance[i, i] ** 0.5, rtol=1e-3)
    # The posterior by approximate Bayesian computation is the same.
    np.testing.assert_allclose(found.abc[name], exact[i] + [-1.645 * deviation, 1.645 * deviation],
                               atol=0.4 * deviation)
  assert not found.disagreements and not found.unidentified
  assert found.freedom == 1 and found.p_value > 0.05


def test_units_do_not_matter():
  def scaled(key, parameters):
    return 100 * linear(key, parameters / np.array([10.0, 0.1]))

  observed, found = of_linear()
  other = uncertainty.of_simulator(
      scaled, [-10, -0.2], [10, 0.2], [2.5, -0.01], 100 * observed, jax.random.key(0), count=25
  )
  for (a, b), factor in zip(zip(found.intervals.values(), other.intervals.values()), (10, 0.1)):
    np.testing.assert_allclose(np.array(a) * factor, b, rtol=1e-2, atol=1e-3 * factor)
  np.testing.assert_allclose(found.overidentification, other.overidentification, rtol=0.02)


def test_a_direction_that_is_not_identified_is_named():
  found = uncertainty.of_simulator(
      summed, [-1, -1, -1], [1, 1, 1], [0.25, -0.1, 0.0], [0.2, 0.0], jax.random.key(0),
      covariance=np.eye(2) * 0.01, names=("a", "b", "c"),
  )
  assert [x.name for x in found.unidentified] == ["a up with b down"]
  np.testing.assert_allclose(list(found.shares.values()), [0.5, 0.5, 0.0], atol=0.05)
  # Half of the variance 1/3 of the box is that of a, and c has the deviation 0.1.
  np.testing.assert_allclose(np.diag(found.covariance), [1 / 6, 1 / 6, 0.01], rtol=0.15)
  report = found.report()
  assert "not identified: a up with b down" in report
  a, b, c = report.splitlines()[1:4]
  assert "not identified" in a and "not identified" in b and "not identified" not in c


def test_missing_statistics_are_left_out():
  found = uncertainty.of_simulator(
      summed, [-1, -1, -1], [1, 1, 1], [0.0, 0.0, 0.0], [0.2, np.nan], jax.random.key(1), count=16,
      names=("a", "b", "c"),
  )
  assert sum(x.identified for x in found.directions) == 1
  assert found.shares["c"] > 0.95


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"count": None}, "neither covariance nor count"),
        ({"count": 0}, "count=0"),
        ({"observed": [0.0, 0.0, np.nan, 0.0]}, r"shape \[4, 4\]: give \[3, 3\]|covariance"),
        ({"observed": [np.nan] * 3}, "no statistic was observed"),
        ({"level": 1.0}, "level=1.0"),
        ({"point": [0.0]}, "give 2 finite coordinates"),
        ({"point": [0.0, 3.0]}, "out of the box"),
        ({"low": [-1, 2]}, "low below high"),
        ({"reach": 1.0}, "reach=1.0"),
    ],
)
def test_bad_input(changes, message):
  given = {"low": [-1, -2], "high": [1, 2], "point": [0.0, 0.0], "observed": [0.0] * 3, "count": 9}
  given |= changes
  if len(given["observed"]) == 4:
    given["covariance"] = np.eye(3)
  with pytest.raises(ValueError, match=message):
    uncertainty.of_simulator(linear, key=jax.random.key(0), **given)


def test_statistics_that_are_not_finite_are_refused():
  def broken(key, parameters):
    return jnp.log(parameters)

  with pytest.raises(ValueError, match="not finite at the parameters"):
    uncertainty.of_simulator(
        broken, [-1], [1], [0.0], [0.0], jax.random.key(0), count=1, simulations=64, pairs=64
    )


# Designs.


@pytest.mark.parametrize("size", [1, 2, 3, 5, 20])
def test_designs_are_orthogonal_and_symmetric(size):
  config = response.Config(reach=0.25, profiles=9, centres=3)
  point = np.linspace(-0.5, 0.5, size)
  points = response.design(point, config)
  away = points - point
  assert len(points) == config.points(size)
  np.testing.assert_allclose(away.sum(0), 0, atol=1e-5)
  np.testing.assert_allclose(
      away.T @ away, (len(points) - 3) * 0.25**2 * np.eye(size), atol=1e-5
  )
  np.testing.assert_allclose(np.abs(away[:-3]), 0.25, atol=1e-6)
  np.testing.assert_allclose(away[-3:], 0, atol=1e-6)
  assert np.abs(response.design(np.full(size, 0.95), config)).max() <= 1


def test_the_default_design_costs_no_more_than_a_calibration():
  assert response.Config().cost(20) <= 400 * 64


@pytest.mark.parametrize(
    "changes", [{"reach": 0.0}, {"profiles": 0}, {"centres": 1}, {"episodes": 1}, {"stages": -1}]
)
def test_sizes_of_designs_are_checked(changes):
  with pytest.raises(ValueError, match=next(iter(changes))):
    response.Config(**changes)


# Equilibria.

PROBLEM = experiments.named("linear_quadratic").problem()
LEARNING = calsheq.Config(
    network=policy.Config(hidden=(16,)), shared=ppo.Config(minibatches=4)
)


def test_intervals_of_episodes_at_a_known_equilibrium():
  """Episodes of the exact equilibrium at each profile of a design, and so a known posterior."""
  env, space = PROBLEM.env, PROBLEM.space
  design = response.Config(profiles=8, centres=8)
  points = response.design(np.array([0.1, -0.2]), design)
  rng = np.random.default_rng(0)
  means = np.asarray(jax.vmap(lambda x: env.equilibrium_means(space.profile(x)))(points))
  deviation = 0.2 / 3  # of the mean of three types, uniform within 0.2 of their mean
  statistics = means[:, None] + deviation * rng.normal(size=(len(points), 200, 2))
  truth = np.array([0.15, -0.1])
  observed = np.asarray(env.equilibrium_means(space.profile(truth)))
  found = uncertainty.from_episodes(
      points, statistics, observed, count=25, names=space.names, low=space.low, high=space.high
  )
  weights = np.array([[2, 3], [3, 2]]) / 5
  slopes = np.linalg.inv(np.eye(2) - 0.5 * weights)
  np.testing.assert_allclose(found.model.jacobian, slopes, atol=0.05)
  exact = np.linalg.inv(slopes.T @ slopes) * deviation**2 / 25
  np.testing.assert_allclose(found.covariance, exact, atol=0.12 * exact[0, 0])
  np.testing.assert_allclose(list(found.estimate.values()), truth, atol=0.005)
  assert found.freedom == 0 and np.isnan(found.p_value)
  assert not found.unidentified and not found.disagreements


@pytest.mark.slow
def test_the_derivative_is_that_of_the_equilibrium_and_not_of_a_frozen_policy():
  space = PROBLEM.space
  point = np.array([0.1, -0.2], np.float32)
  design = response.Config(profiles=32, centres=8, stages=150, episodes=32, held_out=64)
  untrained = calsheq.init_shared(jax.random.key(0), PROBLEM.env, LEARNING).agent
  points = response.design(point, design)
  # All policies learn from scratch here, and the model is fitted to where they have come to.
  statistics = uncertainty.respond(
      untrained, jax.random.key(1), points, PROBLEM, LEARNING, design
  )
  responding = local_model.regression(points, np.asarray(statistics).mean(1), point)
  slopes = np.linalg.inv(np.eye(2) - 0.5 * np.array([[2, 3], [3, 2]]) / 5)
  np.testing.assert_allclose(
      responding.jacobian, slopes, atol=4 * responding.jacobian_error.max()
  )
  assert responding.jacobian_error.max() < 0.1
  np.testing.assert_allclose(responding.intercept, slopes @ point, atol=0.03)
  # A frozen policy that plays the equilibrium at the point follows types, with the slope 1.
  exact = PROBLEM.env.equilibrium(jnp.array([[0.5, -1.0]]), space.profile(point))
  higher = PROBLEM.env.equilibrium(jnp.array([[0.6, -1.0]]), space.profile(point))
  np.testing.assert_allclose(higher - exact, 0.1, atol=1e-6)
  assert np.abs(responding.jacobian - np.eye(2)).min() > 0.25


@pytest.mark.slow
def test_a_policy_that_does_not_learn_keeps_its_own_derivative():
  design = response.Config(profiles=32, stages=0, held_out=256)
  point = np.zeros(2, np.float32)
  agent = calsheq.init_shared(jax.random.key(0), PROBLEM.env, LEARNING).agent
  points = response.design(point, design)
  statistics = uncertainty.respond(agent, jax.random.key(1), points, PROBLEM, LEARNING, design)
  found = local_model.regression(points, np.asarray(statistics).mean(1), point)
  # The last layer of a new policy is near 0, so that actions do not depend on types.
  np.testing.assert_allclose(found.jacobian, 0, atol=0.3)
  assert np.isfinite(statistics).all() and statistics.shape == (40, 256, 2)
