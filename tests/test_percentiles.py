"""envs.percentiles: against the transactions one by one."""

from hypothesis import given
from hypothesis import strategies as st
import jax.numpy as jnp
from markets import examples
import numpy as np

from envs.percentiles import percentiles, smooth_percentiles


@examples(100)
@given(st.lists(st.integers(0, 40), min_size=10, max_size=10))
def test_percentiles_are_those_of_the_transactions(counts):
  exact = np.asarray(percentiles(jnp.array(counts, jnp.int32)))
  smooth = np.asarray(smooth_percentiles(jnp.array(counts, jnp.int32)))
  if sum(counts) == 0:
    assert not exact.any() and not smooth.any()
    return
  sample = np.repeat(np.arange(1, 11), counts)
  expected = np.percentile(sample, np.arange(10, 100, 10), method="inverted_cdf")
  np.testing.assert_array_equal(exact, expected)
  assert (np.abs(smooth - exact) <= 0.5).all()
  assert (np.diff(smooth) >= 0).all()
  # Linear interpolation of the distribution function that grows evenly about each quantity.
  edges = np.append(0, np.cumsum(counts)) / sum(counts)
  np.testing.assert_allclose(
      np.interp(smooth, np.arange(0.5, 11), edges), np.arange(0.1, 1, 0.1), atol=1e-5
  )
