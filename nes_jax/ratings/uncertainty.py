"""Ratings with intervals and rank probabilities, by the bootstrap.

Glossary: R resamples, E episodes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from nes_jax import resampling
from nes_jax.ratings.games import agent_vs_task, check_finite
from nes_jax.ratings.rate import Ratings, deviation
from nes_jax.types import Array

# Ratings that differ by less than this share of the payoffs' range are ties.
_TIE = 1e-6


class Uncertain(NamedTuple):
  """Ratings of a game whose scores were measured with noise."""

  point: Ratings  # ratings of the scores themselves
  intervals: tuple[resampling.Interval, ...]  # per player, of [Ap] ratings
  # Per player [Ap, Ap]: probability that strategy a has rank k + 1. Strategies that tie share the
  # best of their ranks. A row sums to one less the share of resamples that are not certified.
  ranks: tuple[np.ndarray, ...]
  uncertified: float  # share of the resamples that are not certified


def bootstrap(
    key: Array,
    scores: Any = None,
    stddev: Any = None,
    *,
    samples: Any = None,
    num: int = 1000,
    game: Callable[[np.ndarray], np.ndarray] = agent_vs_task,
    rate: Callable[..., Ratings] = deviation,
    level: float = resampling.LEVEL,
) -> Uncertain:
  """Rates many resamples of a table of scores, in one call.

  Args:
    key: random key.
    scores: [agents, tasks], or any other array that `game` takes.
    stddev: standard errors of the scores, of a shape that broadcasts to theirs. Resamples are
      normal. The standard error of a mean of n episodes is their standard deviation over sqrt(n).
    samples: [E, agents, tasks], in place of the two: the scores of each episode. Resamples are
      means over episodes that are drawn with replacement.
    num: R, the number of resamples.
    game: makes payoffs [R, N, A1, ..., AN] of scores [R, agents, tasks].
    rate: rates games, such as `deviation` or a partial of `equilibrium`.
    level: share of the resamples inside an interval.

  Raises:
    ValueError: neither standard errors nor samples are given, or both; or they hold NaN.
  """
  if num < 1:
    raise ValueError(f"num={num}: one resample or more is expected")
  if samples is not None:
    if scores is not None or stddev is not None:
      raise ValueError("give either scores with stddev, or samples")
    samples = np.asarray(samples, np.float64)
    check_finite(samples, "samples")
    scores = samples.mean(0)
    drawn = np.einsum("re,e...->r...", resampling.weights(key, num, len(samples)), samples)
  else:
    if scores is None or stddev is None:
      raise ValueError("a bootstrap needs the scores and their stddev, or samples of the scores")
    scores, stddev = np.asarray(scores, np.float64), np.asarray(stddev, np.float64)
    check_finite(scores, "scores")
    check_finite(stddev, "stddev")
    if np.any(stddev < 0):
      raise ValueError("stddev must not be negative")
    drawn = resampling.normal(key, scores, stddev, num)
  payoffs = np.asarray(game(np.concatenate([scores[None], drawn])))
  rated = rate(payoffs, batched=True)
  certified = np.asarray(rated.converged)[1:]
  spread = np.ptp(payoffs.reshape(len(payoffs), -1), axis=1)[1:]
  ratings = [np.asarray(x)[1:] for x in rated.ratings]
  return Uncertain(
      point=jax.tree.map(lambda x: x[0], rated),
      intervals=tuple(resampling.interval(x, certified, level) for x in ratings),
      ranks=tuple(_ranks(x, certified, _TIE * spread) for x in ratings),
      uncertified=float(1 - certified.mean()),
  )


def _ranks(ratings: np.ndarray, certified: np.ndarray, tie: np.ndarray) -> np.ndarray:
  """Frequencies of ranks: ratings [R, A], certified [R], tie [R] -> [A, A]."""
  better = ratings[:, None, :] > ratings[:, :, None] + tie[:, None, None]
  place = better.sum(-1)  # [R, A]
  count = ratings.shape[1]
  hits = (place[..., None] == np.arange(count)) & certified[:, None, None]
  return hits.mean(0)
