"""calsheq_jax.local_model: least squares by hand, standard errors, and curvature."""

import numpy as np
import pytest

from calsheq_jax import local_model


def test_a_line_through_three_points_by_hand():
  # At -1, 0, 1 the statistic is 1, 2, 6: slope 5/2, mean 3, residuals 1/2, -1, 1/2.
  model = local_model.regression([[-1.0], [0.0], [1.0]], [[1.0], [2.0], [6.0]])
  np.testing.assert_allclose(model.intercept, [3])
  np.testing.assert_allclose(model.jacobian, [[2.5]])
  np.testing.assert_allclose(model.residual, [[1.5]])  # 3/2 with one degree of freedom
  assert model.freedom == 1
  np.testing.assert_allclose(model.jacobian_error, [[np.sqrt(1.5 / 2)]])
  np.testing.assert_allclose(model.gram, np.diag([1 / 3, 1 / 2]), atol=1e-12)
  np.testing.assert_allclose(model.variance_factor(np.array([2.0])), 1 / 3 + 4 / 2)
  np.testing.assert_allclose(model.mean(np.array([[2.0]])), [[8.0]])


def test_the_intercept_is_at_the_centre():
  x = np.random.default_rng(0).normal(size=(30, 2))
  y = x @ [[1.0, -2], [3, 0.5]] + [5, 6]
  model = local_model.regression(x, y, centre=np.array([0.5, -1.0]))
  np.testing.assert_allclose(model.jacobian, [[1, 3], [-2, 0.5]], atol=1e-10)
  np.testing.assert_allclose(model.intercept, [5 + 0.5 - 3, 6 - 1 - 0.5], atol=1e-10)
  np.testing.assert_allclose(model.residual, 0, atol=1e-10)


def test_standard_errors_are_those_of_repeated_samples():
  rng = np.random.default_rng(1)
  x = rng.uniform(-0.2, 0.2, (40, 2))
  noise = np.array([[1.0, 0.6], [0.6, 2.0]])
  models = [
      local_model.regression(x, x @ [[1.0, 0], [2, 1]] + rng.multivariate_normal([0, 0], noise, 40))
      for _ in range(800)
  ]
  found = np.std([m.jacobian for m in models], 0)
  claimed = np.sqrt(np.mean([m.jacobian_error**2 for m in models], 0))
  np.testing.assert_allclose(claimed, found, rtol=0.1)
  np.testing.assert_allclose(np.mean([m.residual for m in models], 0), noise, atol=0.1)


def test_squares_take_the_bias_from_the_intercept():
  corners = np.array([[a, b] for a in (-1.0, 1) for b in (-1.0, 1)] + [[0.0, 0.0]] * 2)
  y = (1 + corners @ [2.0, -3.0] + 4 * corners[:, 0] ** 2)[:, None]
  straight = local_model.regression(corners, y)
  curved = local_model.regression(corners, y, squares=True)
  # Four of six rows are 4 above the plane.
  np.testing.assert_allclose(straight.intercept, [1 + 4 * 4 / 6])
  np.testing.assert_allclose(curved.intercept, [1], atol=1e-9)
  np.testing.assert_allclose(curved.jacobian, [[2, -3]], atol=1e-9)
  # A two-level design knows only the sum of the squares' coefficients.
  np.testing.assert_allclose(curved.squares.sum(), 4, atol=1e-9)
  np.testing.assert_allclose(curved.mean(corners, quadratic=True), y, atol=1e-9)


@pytest.mark.parametrize(
    "x, y, message",
    [
        (np.zeros((5, 2)), np.zeros((4, 2)), r"shape \[5, 2\] and statistics \[4, 2\]"),
        (np.zeros((5, 2)), np.full((5, 2), np.nan), "10 values that are not finite"),
        (np.eye(3), np.zeros((3, 1)), "3 rows do not determine 3 derivatives"),
        (np.ones((9, 1)), np.zeros((9, 1)), "9 rows do not determine 1 derivatives"),
    ],
)
def test_bad_input(x, y, message):
  with pytest.raises(ValueError, match=message):
    local_model.regression(x, y)


def test_squares_need_points_at_the_centre():
  with pytest.raises(ValueError, match="and some at the centre"):
    local_model.regression([[-1.0], [1.0]] * 4, np.zeros((8, 1)), squares=True)
