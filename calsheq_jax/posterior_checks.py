"""Checks of a posterior: approximate Bayesian computation, and ranks of known truths.

Glossary: M simulated pairs, d parameters in coordinates of the box, K statistics, R runs, L draws.
"""

from typing import NamedTuple

import numpy as np

from calsheq_jax.simulated_moments import chi_square_tail, inverse

# Smallest number of accepted pairs for each coefficient of the adjustment.
_EACH = 5
# Intervals differ if their middles are apart by more than this part of the larger width, or if
# the width of one is less than `_NARROW` of the other's.
_APART, _NARROW = 0.25, 2 / 3


class Accepted(NamedTuple):
  """The accepted parameters, weighted and adjusted."""

  parameters: np.ndarray  # [m, d] within the box
  weights: np.ndarray  # [m] positive numbers with the sum 1

  def interval(self, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Bounds [d] between which each parameter lies with the probability `level`."""
    tail = (1 - level) / 2
    return quantile(self, tail), quantile(self, 1 - tail)


def abc(
    parameters: np.ndarray,
    statistics: np.ndarray,
    observed: np.ndarray,
    noise: np.ndarray,
    accept: float = 0.1,
) -> Accepted:
  """Approximate Bayesian computation: rejection, with the adjustment by local linear regression.

  The pairs whose statistics are nearest to the observed ones in the metric noise^-1 are accepted.
  With the distance of the farthest of them as the width of an Epanechnikov kernel, parameters are
  regressed on statistics, and moved along the regression to the observed statistics (Beaumont et
  al. 2002).

  Args:
    parameters: [M, d] draws of the prior, in coordinates.
    statistics: [M, K] each simulated with all noise that the observed statistics have.
    observed: [K].
    noise: [K, K] covariance of the statistics at one point, for the metric.
    accept: part of the pairs that is accepted, at most 1.

  Returns:
    The accepted parameters, adjusted and clipped to the box.

  Raises:
    ValueError: there are too few pairs, or the part is not in (0, 1].
  """
  if not 0 < accept <= 1:
    raise ValueError(f"accept={accept} must lie above 0 and be at most 1")
  away = statistics - observed
  least = _EACH * (1 + away.shape[1])
  if len(away) < least:
    raise ValueError(
        f"{len(away)} pairs are too few for {away.shape[1]} statistics: simulate at least {least}"
    )
  distance = np.einsum("mk,kl,ml->m", away, inverse(noise), away)
  count = max(int(accept * len(away)), least)
  nearest = np.argsort(distance)[:count]
  width = distance[nearest[-1]]
  weights = np.maximum(1 - distance[nearest] / max(width, 1e-300), 1e-6)
  weights /= weights.sum()
  x = np.concatenate([np.ones((count, 1)), away[nearest]], 1)
  root = np.sqrt(weights)[:, None]
  slopes = np.linalg.lstsq(x * root, parameters[nearest] * root, rcond=1e-6)[0][1:]
  return Accepted(np.clip(parameters[nearest] - away[nearest] @ slopes, -1, 1), weights)


def quantile(accepted: Accepted, probability: float) -> np.ndarray:
  """Weighted quantiles of each parameter, [d]."""
  result = []
  for column in accepted.parameters.T:
    order = np.argsort(column)
    below = np.cumsum(accepted.weights[order]) - accepted.weights[order] / 2
    result.append(np.interp(probability, below, column[order]))
  return np.array(result)


def disagree(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
  """Whether two intervals of each parameter differ in place or width by much: [d] bool."""
  widths = np.stack([first[1] - first[0], second[1] - second[0]])
  larger, smaller = widths.max(0), widths.min(0)
  middles = np.abs(sum(first) - sum(second)) / 2
  return (middles > _APART * larger) | (smaller < _NARROW * larger)


# Simulation-based calibration.


def ranks(truth: np.ndarray, draws: np.ndarray) -> np.ndarray:
  """The rank of the truth among draws of its posterior: [d], [L, d] -> [d] integers 0 to L.

  If truths come from the prior and posteriors are right, all ranks are equally likely (Talts et al.
  2018, theorem 1).
  """
  return (draws < truth).sum(0)


def uniformity(rank: np.ndarray, draws: int, bins: int) -> tuple[np.ndarray, float]:
  """Tests whether ranks are uniform, by a chi-square test.

  Args:
    rank: [R] ranks, 0 to `draws`.
    draws: number of draws of each posterior, L; L + 1 must be a multiple of `bins`.
    bins: number of bins of the histogram.

  Returns:
    The histogram [bins] of counts, and the p-value.

  Raises:
    ValueError: L + 1 is not a multiple of the number of bins.
  """
  if (draws + 1) % bins:
    raise ValueError(
        f"{draws} draws have {draws + 1} ranks, which do not divide into {bins} bins of one size"
    )
  counts = np.bincount(np.asarray(rank) * bins // (draws + 1), minlength=bins)
  expected = len(rank) / bins
  statistic = float(((counts - expected) ** 2).sum() / expected)
  return counts, chi_square_tail(statistic, bins - 1)
