"""nes_jax.invariance: the sphere, the way back, and magnitudes at the ends of both types."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nes_jax import invariance

ORDERS = {"l1": 1, "l2": 2, "linf": np.inf}
SHAPE = (3, 4)


def tensor(seed=0, shape=SHAPE):
  return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("norm", invariance.NORMS)
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2), (1, 5)])
def test_mean_and_norm(x64, norm, shape):
  given = 7 * tensor(1, shape) - 40
  found = invariance.normalise(jnp.asarray(given), norm)
  np.testing.assert_allclose(found.values.mean(), 0, atol=1e-13)
  length = np.linalg.norm(np.ravel(found.values), ORDERS[norm])
  np.testing.assert_allclose(length, invariance.radius(given.size, norm))
  np.testing.assert_allclose(found.scale * found.values + found.offset, given, rtol=1e-13)
  np.testing.assert_allclose(found.offset, given.mean())
  assert found.scale > 0


@pytest.mark.parametrize("norm", invariance.NORMS)
def test_radius_gives_unit_variance(norm):
  """A coordinate of a uniform point of the sphere has second moment one. 200,000 points."""
  size = 6
  rng = np.random.default_rng(0)
  count = 200_000
  if norm == "l2":
    points = rng.normal(size=(count, size))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
  elif norm == "l1":
    points = rng.dirichlet(np.ones(size), count) * rng.choice([-1, 1], (count, size))
  else:
    points = rng.uniform(-1, 1, (count, size))
    points[np.arange(count), rng.integers(size, size=count)] = rng.choice([-1, 1], count)
  variance = np.mean((invariance.radius(size, norm) * points) ** 2)
  assert abs(variance - 1) < 0.01  # usually 0.002


@pytest.mark.parametrize("scale", [1e-3, 1.0, 2e5])
@pytest.mark.parametrize("offset", [-3.0, 0.0, 1e4])
def test_invariant(x64, scale, offset):
  plain = invariance.normalise(jnp.asarray(tensor()))
  moved = invariance.normalise(jnp.asarray(scale * (tensor() + offset)))
  np.testing.assert_allclose(moved.values, plain.values, atol=1e-10)
  np.testing.assert_allclose(moved.scale, scale * plain.scale, rtol=1e-10)
  flipped = invariance.normalise(jnp.asarray(-tensor()))
  np.testing.assert_allclose(flipped.values, -plain.values, atol=1e-14)


@pytest.mark.parametrize("norm", invariance.NORMS)
@pytest.mark.parametrize("value", [0.0, 5.0, -1e30, 1e-30, 0.1])
def test_constant(norm, value):
  found = invariance.normalise(jnp.full(SHAPE, value, jnp.float32), norm)
  np.testing.assert_array_equal(found.values, np.zeros(SHAPE))
  assert found.scale == 0
  np.testing.assert_allclose(found.offset, value, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_noise_is_constant(x64, dtype):
  noise = 1 + np.finfo(dtype).eps * np.random.default_rng(0).integers(-1, 2, SHAPE)
  found = invariance.normalise(jnp.asarray(noise, dtype))
  assert found.scale == 0 and (found.values == 0).all()
  # A difference that the type does resolve is a game.
  real = np.where(np.eye(*SHAPE), 1 + 1e3 * np.finfo(dtype).eps, 1)
  assert invariance.normalise(jnp.asarray(real, dtype)).scale > 0


@pytest.mark.parametrize("norm", invariance.NORMS)
@pytest.mark.parametrize(
    "dtype, size",
    [(np.float32, 1e-30), (np.float32, 1e30), (np.float32, 3e38), (np.float64, 1e-300),
     (np.float64, 1e300)],
)
def test_extreme_magnitudes(x64, norm, dtype, size):
  bounded = tensor() / np.abs(tensor()).max()
  given = jnp.asarray((size * bounded).astype(dtype))
  found = invariance.normalise(given, norm)
  plain = invariance.normalise(jnp.asarray(bounded), norm)
  tolerance = 100 * np.finfo(dtype).eps
  np.testing.assert_allclose(found.values, plain.values, atol=tolerance)
  np.testing.assert_allclose(float(found.scale) / size, plain.scale, rtol=tolerance)


def test_epsilon(x64):
  """Eq. (16b): dividing epsilon like the payoffs leaves gain <= epsilon as it was."""
  given = jnp.asarray(250 * tensor() + 3)
  found = invariance.normalise(given)
  gain = given[0, 0] - given[1, 1]
  small = invariance.normalise_epsilon(gain, found.scale)
  np.testing.assert_allclose(small, found.values[0, 0] - found.values[1, 1])
  scales = jnp.array([2.0, 0.0, 0.0, 0.0])
  epsilon = jnp.array([-3.0, -3.0, 0.0, 1e9])
  np.testing.assert_array_equal(
      invariance.normalise_epsilon(epsilon, scales), [-1.5, -1, 0, 1]
  )


@pytest.mark.parametrize("norm", invariance.NORMS)
def test_gradient(x64, norm):
  weights = jnp.asarray(tensor(9))
  def value(x):
    return jnp.sum(weights * invariance.normalise(x, norm).values)
  x = tensor()
  found = jax.grad(value)(jnp.asarray(x))
  direction = tensor(8)
  step = 1e-6
  difference = (value(x + step * direction) - value(x - step * direction)) / (2 * step)
  np.testing.assert_allclose(np.sum(found * direction), difference, rtol=1e-6)
  # The values do not change along scale and offset.
  assert abs(np.sum(found)) < 1e-12 and abs(np.sum(found * x)) < 1e-11


@pytest.mark.parametrize("norm", invariance.NORMS)
@pytest.mark.parametrize("given", [np.zeros(SHAPE), np.ones(SHAPE), np.eye(*SHAPE)])
def test_gradient_is_finite_at_corners(norm, given):
  def everything(x):
    found = invariance.normalise(x, norm)
    scaled = invariance.normalise_epsilon(jnp.float32(0.5), found.scale)
    return jnp.sum(found.values**2 * jnp.arange(12.0).reshape(SHAPE)) + scaled

  gradient = jax.grad(everything)(jnp.asarray(given, jnp.float32))
  assert np.isfinite(gradient).all()
