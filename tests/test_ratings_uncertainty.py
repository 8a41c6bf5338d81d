"""Bootstrapped ratings."""

import functools

import jax
import numpy as np
import pytest

from nes_jax import ratings

SCORES = np.array([[1.0, 0.0, 0.2], [0.0, 1.0, 0.3], [0.1, 0.1, 0.0]])  # [agents, tasks]
rate = functools.partial(ratings.equilibrium, concept="cce")


def test_without_noise_intervals_are_points():
  found = ratings.bootstrap(jax.random.key(0), SCORES, 0.0, num=5, rate=rate)
  expected = rate(ratings.agent_vs_task(SCORES))
  for p, interval in enumerate(found.intervals):
    np.testing.assert_allclose(found.point.ratings[p], expected.ratings[p], atol=1e-12)
    np.testing.assert_allclose(interval.low, expected.ratings[p], atol=1e-7)
    np.testing.assert_allclose(interval.high, expected.ratings[p], atol=1e-7)
  assert found.uncertified == 0


def test_rank_probabilities_follow_the_noise():
  # Two equal agents and a bad one, in one game of an agent against a task.
  scores = np.array([[1.0], [1.0], [0.0]])
  game = functools.partial(ratings.agent_vs_task, pairwise=False, normaliser="none")
  found = ratings.bootstrap(jax.random.key(1), scores, 0.1, num=2000, game=game, rate=rate)
  agents = found.ranks[0]
  np.testing.assert_allclose(agents.sum(1), 1)
  # The standard error is 0.011.
  np.testing.assert_allclose(agents[:2, :2], 0.5, atol=0.05)
  assert agents[2, 2] == 1
  # The rating of the second agent is the smaller of 0 and the difference to the first.
  difference = found.intervals[0].mean[1]
  assert difference == pytest.approx(-0.1 * np.sqrt(2) / np.sqrt(2 * np.pi), abs=0.01)


def test_ties_share_the_best_rank():
  scores = np.array([[1.0, 0.5], [1.0, 0.5], [0.0, 0.5]])
  found = ratings.bootstrap(jax.random.key(2), scores, 0.0, num=3, rate=rate)
  np.testing.assert_allclose(found.ranks[1], [[1, 0, 0], [1, 0, 0], [0, 0, 1]])


def test_samples_are_drawn_with_replacement():
  samples = SCORES + 0.1 * np.random.default_rng(0).normal(size=(50, 3, 3))
  found = ratings.bootstrap(jax.random.key(3), samples=samples, num=500, rate=rate)
  error = samples.std(0) / np.sqrt(50)
  normal = ratings.bootstrap(jax.random.key(4), samples.mean(0), error, num=500, rate=rate)
  for x, y in zip(found.intervals, normal.intervals):
    np.testing.assert_allclose(x.low, y.low, atol=0.03)
    np.testing.assert_allclose(x.high, y.high, atol=0.03)


def test_resamples_without_a_certificate_are_counted():
  def every_tenth(payoffs, batched):
    rated = rate(payoffs, batched=batched)
    return rated._replace(converged=np.arange(len(payoffs)) % 10 != 1)

  found = ratings.bootstrap(jax.random.key(5), SCORES, 0.1, num=100, rate=every_tenth)
  assert found.uncertified == pytest.approx(0.1)
  np.testing.assert_allclose(found.ranks[1].sum(1), 0.9)
  assert np.all(found.intervals[1].low == -np.inf)


def test_deviation_ratings_of_resamples():
  found = ratings.bootstrap(jax.random.key(6), SCORES, 0.05, num=20)
  assert found.uncertified == 0
  assert np.all(found.intervals[1].low <= found.intervals[1].high)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "needs the scores"),
        ({"scores": SCORES}, "needs the scores"),
        ({"scores": SCORES, "samples": SCORES[None]}, "either"),
        ({"scores": SCORES, "stddev": -1.0}, "negative"),
        ({"scores": SCORES, "stddev": np.nan}, "stddev hold NaN"),
        ({"samples": np.full((2, 1, 1), np.nan)}, r"samples hold NaN .* \[0, 0, 0\]"),
        ({"scores": SCORES, "stddev": 1.0, "num": 0}, "one resample or more"),
    ],
)
def test_bad_input_is_named(arguments, message):
  with pytest.raises(ValueError, match=message):
    ratings.bootstrap(jax.random.key(0), **arguments)
