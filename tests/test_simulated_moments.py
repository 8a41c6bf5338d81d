"""calsheq_jax.simulated_moments: the estimate by hand, the sandwich, and directions."""

import numpy as np
import pytest

from calsheq_jax import simulated_moments as msm
from calsheq_jax.local_model import LocalModel


def model_of(jacobian, residual=0.0, gram=0.0, intercept=None):
  jacobian = np.array(jacobian, float)
  count, size = jacobian.shape
  return LocalModel(
      centre=np.zeros(size),
      intercept=np.zeros(count) if intercept is None else np.array(intercept, float),
      jacobian=jacobian,
      squares=np.zeros_like(jacobian),
      residual=residual * np.eye(count),
      gram=gram * np.eye(1 + size),
      freedom=100,
  )


def test_one_parameter_and_two_statistics_by_hand():
  # Both statistics have the slope 1 and the variances 0.01 and 0.03: weights 3/4 and 1/4.
  found = msm.estimate(
      model_of([[1.0], [1.0]]), np.array([0.1, 0.3]), np.diag([0.01, 0.03]), ["a"]
  )
  np.testing.assert_allclose(found.estimate, [0.15])
  np.testing.assert_allclose(found.covariance, [[0.0075]])
  # (0.05)^2 / 0.01 + (0.15)^2 / 0.03 = 1, and the tail of a chi-square with one degree is 0.317.
  np.testing.assert_allclose(found.overidentification, 1.0)
  assert found.freedom == 1
  np.testing.assert_allclose(found.p_value, 0.31731, rtol=1e-4)


def test_the_sandwich_of_equal_weights_by_hand():
  found = msm.estimate(
      model_of([[1.0], [1.0]]), np.array([0.1, 0.3]), np.diag([0.01, 0.03]), ["a"], np.eye(2)
  )
  np.testing.assert_allclose(found.estimate, [0.2])
  np.testing.assert_allclose(found.covariance, [[0.01]])  # (0.01 + 0.03) / 4


def test_the_noise_of_simulated_means_counts():
  # The variance factor at the estimate 0.5 is 0.1 + 0.1 * 0.25 = 0.125.
  found = msm.estimate(
      model_of([[2.0]], residual=0.4, gram=0.1), np.array([1.0]), np.array([[0.01]]), ["a"]
  )
  np.testing.assert_allclose(found.noise, [[0.01 + 0.125 * 0.4]])
  np.testing.assert_allclose(found.covariance, [[0.06 / 4]])


def test_a_direction_without_effect_keeps_the_box():
  found = msm.estimate(model_of([[1.0, 1.0]]), np.array([0.4]), np.array([[0.0002]]), ["a", "b"])
  low, high = found.directions
  assert (low.identified, high.identified) == (False, True)
  assert low.name in ("a up with b down", "b up with a down") and high.name == "a and b up"
  np.testing.assert_allclose(found.estimate, [0.2, 0.2])
  # Along (1, 1) / sqrt(2) the variance is 0.0001, across it 1/3.
  np.testing.assert_allclose(
      found.covariance, np.array([[1, -1], [-1, 1]]) / 6 + 0.00005, rtol=1e-6
  )
  np.testing.assert_allclose(found.unidentified, [0.5, 0.5])
  np.testing.assert_allclose(high.deviation, 0.01)
  assert np.isinf(low.deviation) or low.deviation > 1e3


def test_slopes_within_their_error_do_not_identify():
  # The slope 1 is 20 noises of the statistic, but only one error of its own, sqrt(0.25 * 4).
  noisy = model_of([[1.0]], residual=0.25, gram=0.0)
  noisy = noisy._replace(gram=np.diag([0.0, 4.0]))
  found = msm.estimate(noisy, np.array([0.0]), np.array([[0.0025]]), ["a"])
  assert not found.directions[0].identified
  np.testing.assert_allclose(found.directions[0].p_value, 0.3173, rtol=1e-3)
  exact = noisy._replace(gram=np.zeros((2, 2)))
  assert msm.estimate(exact, np.array([0.0]), np.array([[0.0025]]), ["a"]).directions[0].identified


def test_a_statistic_that_says_nothing_does_not_identify():
  # The deviation 0.4 is not clearly below that of the box, 0.577; 0.2 is.
  for deviation, identified in ((0.4, False), (0.2, True)):
    found = msm.estimate(model_of([[1.0]]), np.zeros(1), np.array([[deviation**2]]), ["a"])
    assert found.directions[0].identified == identified


def test_constants_and_copies_do_not_break_the_inverse():
  covariance = np.array([[4.0, 4.0, 0], [4.0, 4.0, 0], [0, 0, 0]])
  inverse = msm.inverse(covariance)
  assert np.isfinite(inverse).all() and (inverse[2] == 0).all()
  assert msm.rank(covariance) == 1
  np.testing.assert_allclose(msm.inverse(np.diag([4.0, 0.25])), np.diag([0.25, 4.0]))
  assert msm.rank(np.zeros((2, 2))) == 0


def test_names_of_directions():
  names = ["a", "b", "c", "d", "e", "f"]
  assert msm.direction_name(np.array([0.7, -0.7, 0.1, 0, 0, 0]), names) == "a up with b down"
  assert msm.direction_name(np.array([0.1, 0, 0, 1, 0, 0]), names) == "d up"
  long = msm.direction_name(np.array([0.6, 0.5, -0.55, 0.45, 0.4, 0.3]), names)
  assert long == "a and b and d up with c down"


def test_intervals_are_normal_and_within_the_box():
  low, high = msm.intervals(np.array([0.0, 0.99]), np.diag([0.01, 0.01]), 0.9)
  np.testing.assert_allclose(low, [-0.164485, 0.825515], rtol=1e-4)
  np.testing.assert_allclose(high, [0.164485, 1.0], rtol=1e-4)
  with pytest.raises(ValueError, match="level=0"):
    msm.intervals(np.zeros(1), np.eye(1), 0)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"observed": np.zeros(3)}, r"observed has the shape \[3\]: give \[2\]"),
        ({"observed": np.array([0, np.nan])}, "observed has values that are not finite"),
        ({"covariance": np.eye(1)}, r"covariance has the shape"),
        ({"weights": np.eye(3)}, "weights has the shape"),
        ({"names": ["a", "b"]}, "2 names for 1 parameters"),
    ],
)
def test_bad_input(changes, message):
  given = {"observed": np.zeros(2), "covariance": np.eye(2), "names": ["a"]} | changes
  with pytest.raises(ValueError, match=message):
    msm.estimate(model_of([[1.0], [1.0]]), **given)
