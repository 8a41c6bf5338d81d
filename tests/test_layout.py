"""nes_jax.layout: both memory layouts against NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from nes_jax import layout

BATCH = 3


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_fold(count):
  items = [str(i) for i in range(count)]
  # Every item once; the order is kept up to pairing.
  assert sorted(layout.fold(lambda a, b: a + b, items)) == items


@pytest.mark.parametrize("batch", [(), (BATCH,)])
def test_reductions(x64, batch):
  x = np.random.default_rng(0).normal(size=(2, 3, 4) + batch)
  given = jnp.asarray(x)
  np.testing.assert_allclose(layout.sum_over(given, 3), x.sum((0, 1, 2)), atol=1e-13)
  np.testing.assert_array_equal(layout.max_over(given, 3), x.max((0, 1, 2)))
  for axis in range(3):
    np.testing.assert_allclose(layout.sum_axis(given, axis, 3), x.sum(axis), atol=1e-13)


@pytest.mark.parametrize("batch", [(), (BATCH,)])
def test_matmul(x64, batch):
  rng = np.random.default_rng(1)
  x, y = rng.normal(size=(2, 3) + batch), rng.normal(size=(3, 4) + batch)
  expected = np.einsum("ic...,ck...->ik...", x, y)
  np.testing.assert_allclose(layout.matmul(jnp.asarray(x), jnp.asarray(y)), expected, atol=1e-13)
