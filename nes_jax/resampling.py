"""Bootstrap resamples of noisy payoffs, and percentile intervals of what is computed from them.

The statistics are plain NumPy on the host, in float64; the solver is what takes time.

Glossary: R resamples, E episodes (independent samples of everything that was measured).
"""

from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from nes_jax.types import Array

# Share of the resamples that an interval is to cover.
LEVEL = 0.95


class Interval(NamedTuple):
  """A percentile interval of a bootstrap (Efron 1979), and the mean of the resamples."""

  mean: np.ndarray  # [...] mean of the certified resamples; NaN if there is none
  low: np.ndarray  # [...] lower end; minus infinity if too many resamples are not certified
  high: np.ndarray  # [...] upper end; infinity if too many resamples are not certified


def interval(samples: ArrayLike, certified: ArrayLike, level: float = LEVEL) -> Interval:
  """Percentile interval over resamples.

  A resample that is not certified has no known value. It counts as minus infinity at the lower end
  and as infinity at the upper end, so that it can make an interval wider, and never narrower.

  Args:
    samples: [R, ...], one value for each resample.
    certified: bool [R], the resamples whose values are answers.
    level: share of the resamples that is to lie inside, between 0 and 1.

  Raises:
    ValueError: the level is not between 0 and 1, or there is no resample.
  """
  samples, certified = np.asarray(samples, np.float64), np.asarray(certified, bool)
  if not 0 < level < 1:
    raise ValueError(f"level={level}: a number between 0 and 1, such as 0.95, is expected")
  if not len(samples):
    raise ValueError("an interval needs one resample or more, and there is none")
  known = certified.reshape((-1,) + (1,) * (samples.ndim - 1))
  tail = (1 - level) / 2
  # Order statistics, since interpolation between infinities would give NaN.
  low = np.quantile(np.where(known, samples, -np.inf), tail, axis=0, method="lower")
  high = np.quantile(np.where(known, samples, np.inf), 1 - tail, axis=0, method="higher")
  if not certified.any():
    return Interval(np.full_like(low, np.nan), low, high)
  return Interval(np.where(known, samples, 0).sum(0) / certified.sum(), low, high)


def normal(key: Array, mean: ArrayLike, stddev: ArrayLike, num: int) -> np.ndarray:
  """Parametric resamples: independent normal numbers, [num, ...].

  Args:
    key: random key.
    mean: [...] estimates.
    stddev: standard errors of the estimates, of a shape that broadcasts to that of the mean.
    num: the number of resamples.
  """
  mean = np.asarray(mean, np.float64)
  noise = np.asarray(jax.random.normal(key, (num, *mean.shape)), np.float64)
  return mean + np.asarray(stddev, np.float64) * noise


def weights(key: Array, num: int, episodes: int) -> np.ndarray:
  """Weights of the nonparametric bootstrap: [num, episodes], each row sums to one.

  A resample draws as many episodes as there are, with replacement. The weighted sum over episodes
  is its mean. One row serves everything that was measured in the same episodes, which keeps the
  correlations between them.
  """
  drawn = np.asarray(jax.random.randint(key, (num, episodes), 0, episodes))
  offsets = np.arange(num)[:, None] * episodes
  counts = np.bincount((drawn + offsets).ravel(), minlength=num * episodes)
  return counts.reshape(num, episodes) / episodes
