"""calsheq_jax.moments: moments of parts against those of the whole, and forgetting."""

import jax.numpy as jnp
import numpy as np

from calsheq_jax.moments import update_moments, weighted_moments
from calsheq_jax.types import Moments


def test_moments_of_parts_are_those_of_the_whole():
  rng = np.random.default_rng(0)
  x = (rng.normal(size=(50, 3)) * [1, 5, 0.1] + [0, 100, -3]).astype(np.float32)
  weight = (rng.random(50) < 0.7).astype(np.float32)
  nothing = Moments(jnp.zeros(()), jnp.zeros(3), jnp.ones(3))
  parts = nothing
  for rows in (slice(0, 5), slice(5, 30), slice(30, 50)):
    parts = update_moments(parts, weighted_moments(jnp.asarray(x[rows]), jnp.asarray(weight[rows])))
  kept = np.float64(x[weight > 0])
  assert float(parts.count) == len(kept)
  np.testing.assert_allclose(parts.mean, kept.mean(0), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(parts.variance, kept.var(0), rtol=1e-3)


def test_moments_forget():
  """After a million steps that were 0, the next million that are 1 count half, not less."""
  million = jnp.float32(1e6)
  old = Moments(jnp.float32(1e9), jnp.zeros(()), jnp.zeros(()))
  for _ in range(2):
    old = update_moments(old, Moments(million, jnp.zeros(()), jnp.zeros(())))
  new = update_moments(old, Moments(million, jnp.ones(()), jnp.zeros(())))
  np.testing.assert_allclose([new.mean, new.variance], [0.5, 0.25])
