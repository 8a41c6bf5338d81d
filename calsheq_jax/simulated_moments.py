"""The method of simulated moments at a calibrated profile: estimate, errors, and identification.

Statistics s have been observed, with the mean m and covariance Omega of its error. A local model
(`local_model`) says what is simulated, a + J (theta - c) with errors of its own. With weights W,

  theta = c + (J' W J)^-1 J' W (m - a),                                              (estimate)
  Cov theta = (J' W J)^-1 J' W N W J (J' W J)^-1,    N = Omega + v R,                (sandwich)

where v R is the covariance of the simulated mean at the estimate. That is one Gauss-Newton step of
the estimator of McFadden (1989) and Pakes and Pollard (1989), with the covariance of Gourieroux and
Monfort (1996, section 2.3). The default W = N^-1 makes it efficient, and the sandwich (J' W J)^-1.

A direction of the box is not identified if the statistics say little about it: a uniform prior over
the box has the standard deviation 1 / sqrt(3) in coordinates.

Glossary: d parameters in coordinates of the box, K statistics.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from calsheq_jax.local_model import LocalModel

# Standard deviation of a uniform distribution over [-1, 1].
BOX = 3.0**-0.5
# Largest standard deviation of a direction that counts as identified, in those of the box.
_CLEARLY = 0.5
# Significance with which the derivative along a direction must differ from 0.
_SIGNIFICANCE = 0.05
# Smallest eigenvalue of a correlation matrix that is inverted. It is regularised to at least this
# part of the largest one; (sandwich) stays right with any weights.
_SMALLEST = 1e-4
# Smallest loading that is named, relative to the largest one, and the largest number of names.
_NAMED, _MOST_NAMES = 0.4, 4


class Direction(NamedTuple):
  """A direction of the box along which the statistics do, or do not, say where the truth is."""

  loadings: np.ndarray  # [d] unit vector in coordinates
  name: str  # its largest loadings, such as "a up with b down"
  deviation: float  # standard deviation by the statistics alone, in coordinates; may be infinite
  p_value: float  # of no statistic changing along it, given the error of the Jacobian
  identified: bool


class Moments(NamedTuple):
  """The estimate of the method of simulated moments, in coordinates."""

  estimate: np.ndarray  # [d]; along unidentified directions it is the centre
  covariance: np.ndarray  # [d, d]; along unidentified directions it is that of the box
  directions: tuple[Direction, ...]  # [d] from the least identified to the most identified one
  unidentified: np.ndarray  # [d] share of each parameter's axis in unidentified directions, 0 to 1
  noise: np.ndarray  # [K, K] N, covariance of observed less simulated statistics
  overidentification: float  # J statistic, with `freedom` degrees of freedom
  freedom: int
  p_value: float  # NaN where freedom is 0


def estimate(
    model: LocalModel,
    observed: np.ndarray,
    covariance: np.ndarray,
    names: Sequence[str],
    weights: np.ndarray | None = None,
) -> Moments:
  """Estimates the parameters that made the observed statistics.

  Args:
    model: local model of what is simulated.
    observed: [K] mean of the observed statistics.
    covariance: [K, K] covariance of its error, Omega.
    names: [d] names of the parameters.
    weights: [K, K] symmetric weights W; None takes the regularised inverse of the noise.

  Returns:
    The estimate. It may lie out of the box.

  Raises:
    ValueError: shapes do not agree, or values are not finite.
  """
  size = len(model.centre)
  observed = _checked("observed", observed, model.intercept.shape)
  covariance = _checked("covariance", covariance, model.residual.shape)
  if weights is not None:
    weights = _checked("weights", weights, model.residual.shape)
  if len(names) != size:
    raise ValueError(f"{len(names)} names for {size} parameters")
  difference, point = observed - model.intercept, model.centre
  # The noise of the simulated mean depends on the place: the second pass has it at the estimate.
  for _ in range(2):
    noise = covariance + model.variance_factor(np.clip(point, -1, 1)) * model.residual
    w = inverse(noise) if weights is None else weights
    directions = _directions(model, noise, names)
    basis = np.stack([x.loadings for x in directions], 1)  # [d, d]
    known = basis[:, [x.identified for x in directions]]
    reduced = model.jacobian @ known  # [K, r]
    gain = np.linalg.pinv(reduced.T @ w @ reduced, hermitian=True) @ reduced.T @ w  # [r, K]
    point = model.centre + known @ (gain @ difference)
  unknown = basis[:, [not x.identified for x in directions]]
  left = difference - model.jacobian @ (point - model.centre)
  statistic = float(left @ inverse(noise) @ left)
  freedom = rank(noise) - known.shape[1]
  return Moments(
      estimate=point,
      covariance=known @ gain @ noise @ gain.T @ known.T + BOX**2 * unknown @ unknown.T,
      directions=directions,
      unidentified=(unknown**2).sum(1),
      noise=noise,
      overidentification=statistic,
      freedom=max(freedom, 0),
      p_value=chi_square_tail(statistic, freedom) if freedom > 0 else float("nan"),
  )


def _checked(name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  values = np.asarray(values, float)
  if values.shape != shape:
    raise ValueError(f"{name} has the shape {list(values.shape)}: give {list(shape)}")
  if not np.isfinite(values).all():
    raise ValueError(f"{name} has values that are not finite: leave these statistics out")
  return values


def _directions(
    model: LocalModel, noise: np.ndarray, names: Sequence[str]
) -> tuple[Direction, ...]:
  """Finds the directions of the box by the information J' N^-1 J, the least identified first.

  The error of the Jacobian alone adds tr(N^-1 R) C to the information, where C is the covariance
  factor of the slopes. That is taken off. A direction u with no effect has (J u)' N^-1 (J u) / C_uu
  distributed as a weighted sum of chi-squares, whose tail is that of Satterthwaite (1946).
  """
  w = inverse(noise)
  error = w @ model.residual
  mean, square = np.trace(error), np.trace(error @ error)
  gram = model.gram[1:, 1:]
  information = model.jacobian.T @ w @ model.jacobian
  values, vectors = np.linalg.eigh(information - mean * gram)
  found = []
  for value, vector in zip(values, vectors.T):
    vector = vector * np.sign(vector[np.argmax(np.abs(vector))])
    effect = vector @ information @ vector / max(vector @ gram @ vector, 1e-300)
    # The sum has the mean `mean` and the variance 2 `square`: scale and freedom of a chi-square.
    p_value = chi_square_tail(effect * mean / square, mean**2 / square) if square > 0 else 0.0
    deviation = float(value**-0.5) if value > 0 else float("inf")
    found.append(Direction(
        loadings=vector,
        name=direction_name(vector, names),
        deviation=deviation,
        p_value=p_value,
        identified=bool(deviation < _CLEARLY * BOX and p_value < _SIGNIFICANCE),
    ))
  return tuple(found)


def direction_name(loadings: np.ndarray, names: Sequence[str]) -> str:
  """Names a direction [d] by its largest loadings, such as "a and b up with c down"."""
  size = np.abs(loadings)
  order = [i for i in np.argsort(-size) if size[i] >= _NAMED * size.max()][:_MOST_NAMES]
  parts = []
  for sign, word in ((1, "up"), (-1, "down")):
    chosen = [names[i] for i in order if sign * loadings[i] > 0]
    if chosen:
      parts.append(f"{' and '.join(chosen)} {word}")
  return " with ".join(parts)


def inverse(covariance: np.ndarray) -> np.ndarray:
  """The inverse of a covariance [K, K], with small eigenvalues of its correlation raised.

  Statistics without noise, which are constants, have the weight 0.
  """
  values, vectors, used = _correlation(covariance)
  result = np.zeros_like(covariance)
  if used.any():
    values = np.maximum(values, _SMALLEST * values[-1])
    result[np.ix_(used, used)] = (vectors / values) @ vectors.T
  return result


def rank(covariance: np.ndarray) -> int:
  """The number of eigenvalues of the correlation that `inverse` does not raise."""
  values, _, used = _correlation(covariance)
  return int((values > _SMALLEST * values[-1]).sum()) if used.any() else 0


def _correlation(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Eigenvalues and eigenvectors of the correlation of the statistics that have noise, a mask."""
  scale = np.sqrt(np.diag(covariance))
  used = scale > 1e-12 * max(scale.max(), 1e-300)
  s = scale[used]
  values, vectors = np.linalg.eigh(covariance[np.ix_(used, used)] / np.outer(s, s))
  return values, vectors / s[:, None], used


def intervals(
    point: np.ndarray, covariance: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
  """Two-sided normal intervals, clipped to the box.

  Args:
    point: [d] coordinates.
    covariance: [d, d].
    level: probability that an interval covers the truth, between 0 and 1.

  Returns:
    Lower and upper bounds [d], in coordinates.

  Raises:
    ValueError: the level does not lie between 0 and 1.
  """
  if not 0 < level < 1:
    raise ValueError(f"level={level} must lie between 0 and 1, such as 0.9")
  half = float(jax.scipy.stats.norm.ppf((1 + level) / 2)) * np.sqrt(np.diag(covariance))
  return np.clip(point - half, -1, 1), np.clip(point + half, -1, 1)


def chi_square_tail(statistic: float, freedom: float) -> float:
  """The probability that a chi-square variable is larger: 1 - F(statistic)."""
  return float(jax.scipy.special.gammaincc(freedom / 2, max(statistic, 0.0) / 2))
