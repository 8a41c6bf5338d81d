"""calsheq_jax.posterior_checks: a known posterior, ranks by hand, and the chi-square test."""

import numpy as np
import pytest

from calsheq_jax import posterior_checks as checks


def pairs(rng, count, deviation):
  x = rng.uniform(-1, 1, (count, 1))
  return x, x + deviation * rng.normal(size=(count, 1))


def test_abc_has_the_known_posterior():
  x, y = pairs(np.random.default_rng(0), 20_000, 0.1)
  found = checks.abc(x, y, np.array([0.2]), np.array([[0.01]]))
  low, high = found.interval(0.9)
  np.testing.assert_allclose([low[0], high[0]], [0.2 - 0.1645, 0.2 + 0.1645], atol=0.02)
  np.testing.assert_allclose(found.weights.sum(), 1)


def test_abc_keeps_to_the_box():
  x, y = pairs(np.random.default_rng(0), 20_000, 0.1)
  found = checks.abc(x, y, np.array([1.0]), np.array([[0.01]]))
  assert found.parameters.max() <= 1
  # Half of a normal lies within the box: quantiles at 1 - 0.1 * 1.96 and 1 - 0.1 * 0.0627.
  low, high = found.interval(0.9)
  np.testing.assert_allclose([low[0], high[0]], [0.804, 0.994], atol=0.03)


def test_weighted_quantiles_by_hand():
  three = checks.Accepted(np.array([[3.0], [1.0], [2.0]]), np.array([0.25, 0.25, 0.5]))
  # Middles of the weights: 1 at 0.125, 2 at 0.5, 3 at 0.875.
  np.testing.assert_allclose(checks.quantile(three, 0.5), [2])
  np.testing.assert_allclose(checks.quantile(three, 0.3125), [1.5])


def test_intervals_that_differ():
  one = (np.array([0.0, 0, 0]), np.array([1.0, 1, 1]))
  other = (np.array([0.05, 0.4, 0.2]), np.array([1.05, 1.4, 0.8]))
  np.testing.assert_array_equal(checks.disagree(one, other), [False, True, True])


@pytest.mark.parametrize(
    "changes, message", [({"accept": 0.0}, "accept=0.0"), ({"count": 9}, "9 pairs are too few")]
)
def test_bad_input(changes, message):
  x, y = pairs(np.random.default_rng(0), changes.get("count", 100), 0.1)
  with pytest.raises(ValueError, match=message):
    checks.abc(x, y, np.zeros(1), np.eye(1), changes.get("accept", 0.1))


def test_ranks_by_hand():
  draws = np.array([[0.0, 5], [1, 6], [2, 7]])
  np.testing.assert_array_equal(checks.ranks(np.array([1.5, 4.0]), draws), [2, 0])


def test_uniformity_by_hand():
  counts, p_value = checks.uniformity(np.array([0, 1, 2, 3, 4, 4, 4, 4]), 4, 5)
  np.testing.assert_array_equal(counts, [1, 1, 1, 1, 4])
  # Expected 1.6 each: the statistic is (4 * 0.36 + 5.76) / 1.6 = 4.5; e^-2.25 (1 + 2.25) = 0.3425.
  np.testing.assert_allclose(p_value, np.exp(-2.25) * 3.25, rtol=1e-5)
  with pytest.raises(ValueError, match="do not divide into 3 bins"):
    checks.uniformity(np.array([0]), 4, 3)


def test_ranks_tell_a_right_posterior_from_a_narrow_one():
  rng = np.random.default_rng(0)
  for scale, uniform in ((1.0, True), (0.6, False)):
    found = []
    for _ in range(400):
      truth = rng.normal(size=1)
      estimate = truth + rng.normal(size=1)
      found.append(checks.ranks(truth, estimate + scale * rng.normal(size=(99, 1)))[0])
    assert (checks.uniformity(np.array(found), 99, 10)[1] > 0.01) == uniform
