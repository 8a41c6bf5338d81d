"""Bootstrap resamples and percentile intervals."""

import jax
import numpy as np
import pytest

from nes_jax import resampling


def test_interval_holds_the_share_that_is_asked_for():
  samples = np.arange(1001.0)
  found = resampling.interval(samples, np.ones(1001, bool), 0.5)
  assert (found.low, found.mean, found.high) == (250, 500, 750)


def test_resamples_without_certificate_only_widen():
  rng = np.random.default_rng(0)
  samples, certified = rng.normal(size=(1000, 3)), np.arange(1000) >= 10
  whole = resampling.interval(samples, np.ones(1000, bool))
  found = resampling.interval(samples, certified)
  assert np.all(found.low <= whole.low) and np.all(found.high >= whole.high)
  np.testing.assert_allclose(found.mean, samples[10:].mean(0))
  lost = resampling.interval(samples, np.arange(1000) >= 30)
  assert np.all(lost.low == -np.inf) and np.all(lost.high == np.inf)


def test_no_certified_resample_has_no_mean():
  found = resampling.interval(np.zeros(10), np.zeros(10, bool))
  assert np.isnan(found.mean) and found.low == -np.inf and found.high == np.inf


@pytest.mark.parametrize("level", [0.0, 1.0, 95])
def test_level_is_checked(level):
  with pytest.raises(ValueError, match="between 0 and 1"):
    resampling.interval(np.zeros(3), np.ones(3, bool), level)


def test_normal_has_mean_and_deviation():
  found = resampling.normal(jax.random.key(0), [1.0, -2.0], [0.5, 0.0], 20_000)
  # 0.5 / sqrt(20,000) is 0.0035.
  np.testing.assert_allclose(found.mean(0), [1, -2], atol=0.015)
  np.testing.assert_allclose(found.std(0), [0.5, 0], atol=0.015)


def test_weights_are_counts_of_a_draw_with_replacement():
  found = resampling.weights(jax.random.key(1), 500, 40)
  np.testing.assert_allclose(found.sum(1), 1)
  counts = found * 40
  np.testing.assert_allclose(counts, counts.round(), atol=1e-12)
  # The variance of a count is 1 - 1/40; 20,000 counts have an error of about 0.01.
  assert abs(counts.var() - 39 / 40) < 0.05
