"""A linear model of statistics near a profile, by least squares.

Glossary: E rows of a sample, d parameters in coordinates of the box, K statistics.
"""

from typing import NamedTuple

import numpy as np

# Singular values of the regressors below this part of the largest one count as 0.
_RANK = 1e-6
# Largest distance from the regressors' span of a coefficient that rows determine.
_SPAN = 1e-6


class LocalModel(NamedTuple):
  """A linear model: statistics = intercept + jacobian (parameters - centre) + error.

  The covariance of the coefficients is that of ordinary least squares with several responses: two
  coefficients i, j of statistics k, l have the covariance gram[i, j] residual[k, l].
  """

  centre: np.ndarray  # [d] coordinates
  intercept: np.ndarray  # [K] statistics at the centre
  jacobian: np.ndarray  # [K, d] derivatives by coordinates
  squares: np.ndarray  # [K, d] coefficients of squared coordinates, 0 if they are left out
  residual: np.ndarray  # [K, K] covariance of the error of one row
  gram: np.ndarray  # [1 + d, 1 + d] factor of the covariance of (intercept, jacobian)
  freedom: int  # degrees of freedom of `residual`

  @property
  def jacobian_error(self) -> np.ndarray:
    """The standard errors of the Jacobian, [K, d]."""
    variance = np.outer(np.diag(self.residual), np.diag(self.gram)[1:])
    return np.sqrt(np.maximum(variance, 0))

  def mean(self, coordinates: np.ndarray, quadratic: bool = False) -> np.ndarray:
    """The statistics at coordinates [*, d]: [*, K]; `quadratic` adds the squared terms."""
    away = coordinates - self.centre
    linear = self.intercept + away @ self.jacobian.T
    return linear + away**2 @ self.squares.T if quadratic else linear

  def variance_factor(self, coordinates: np.ndarray) -> float:
    """The factor v of the covariance v `residual` of the linear model's value at [d]."""
    row = np.concatenate([[1.0], coordinates - self.centre])
    return float(row @ self.gram @ row)


def regression(
    parameters: np.ndarray,
    statistics: np.ndarray,
    centre: np.ndarray | None = None,
    squares: bool = False,
) -> LocalModel:
  """Regresses statistics on parameters.

  Args:
    parameters: [E, d] coordinates of the box, in which it is [-1, 1]^d.
    statistics: [E, K].
    centre: [d] place of the intercept; None takes the mean of the parameters.
    squares: adds the d squared coordinates to the regressors, so that curvature does not bias the
      intercept. Products of two coordinates are left out: in a design that is symmetric about its
      centre they are not correlated with the rest.

  Returns:
    The model.

  Raises:
    ValueError: shapes do not agree, a value is not finite, or there are too few different rows.
  """
  x, y = np.asarray(parameters, float), np.asarray(statistics, float)
  if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
    raise ValueError(
        f"parameters have the shape {list(x.shape)} and statistics {list(y.shape)}: give [E, d] and"
        " [E, K], with a row for each episode"
    )
  for name, values in (("parameters", x), ("statistics", y)):
    if not np.isfinite(values).all():
      raise ValueError(f"{name} have {(~np.isfinite(values)).sum()} values that are not finite")
  size = x.shape[1]
  centre = x.mean(0) if centre is None else np.asarray(centre, float)
  away = x - centre
  columns = [np.ones((len(x), 1)), away] + ([away**2] if squares else [])
  regressors = np.concatenate(columns, 1)
  left, singular, right = np.linalg.svd(regressors, full_matrices=False)
  kept = singular > _RANK * singular[0]
  left, singular, right = left[:, kept], singular[kept], right[kept]
  outside = 1 - (right[:, : 1 + size] ** 2).sum(0)
  freedom = len(x) - len(singular)
  if (outside > _SPAN).any() or freedom < 1:
    raise ValueError(
        f"{len(x)} rows do not determine {size} derivatives and their errors: give more rows, at"
        " points that differ in every parameter" + (", and some at the centre" if squares else "")
    )
  coefficients = right.T @ ((left.T @ y) / singular[:, None])  # [1 + d or 1 + 2d, K]
  error = y - regressors @ coefficients
  gram = (right.T / singular**2) @ right
  return LocalModel(
      centre=centre,
      intercept=coefficients[0],
      jacobian=coefficients[1 : 1 + size].T,
      squares=coefficients[1 + size :].T if squares else np.zeros((y.shape[1], size)),
      residual=error.T @ error / freedom,
      gram=gram[: 1 + size, : 1 + size],
      freedom=freedom,
  )
