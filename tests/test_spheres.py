"""nes_jax.games.spheres: points lie on the sphere, and are uniform there."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nes_jax import invariance
from nes_jax.games import spheres

LENGTHS = {
    "l1": lambda x: np.abs(x).sum(-1),
    "l2": lambda x: np.sqrt((x * x).sum(-1)),
    "linf": lambda x: np.abs(x).max(-1),
}


@functools.lru_cache
def draw(n, norm):
  """Points of the sphere in dimension n, divided by its radius, from 10,000 games: [20000, n]."""
  games = spheres.sample(jax.random.key(2), 10_000, (n, 1), norm)
  flat = np.asarray(games, np.float64).reshape(20_000, n)
  return flat / invariance.radius(n, norm)


def rejection_sample(seed, count, n, norm, thickness):
  """Points of the sphere by rejection, [about count, n], and their weights, [about count].

  Points uniform in the unit ball of the norm, within the zero-mean hyperplane, are kept if they are
  close to the surface, and scaled onto it. They have the cone measure, which differs from the
  surface measure of a polytope by the distance of each face from the origin. The weights correct
  that.
  """
  rng = np.random.default_rng(seed)
  basis = np.linalg.svd(np.ones((1, n)))[2][1:]  # [n - 1, n] orthonormal, zero sum
  kept, total = [], 0
  while total < count:
    x = rng.uniform(-1, 1, (400_000, n - 1)) @ basis * (1 if norm == "l1" else math.sqrt(n))
    length = LENGTHS[norm](x)
    inside = (length <= 1) & (length > 1 - thickness)
    kept.append(x[inside] / length[inside, None])
    total += len(kept[-1])
  x = np.concatenate(kept)
  if norm == "l2":
    return x, np.ones(len(x))
  # The distance of the face {g.x = 1} from the origin is 1 / |projection of g|, and the area of the
  # face is proportional to the volume of its cone divided by that distance.
  if norm == "l1":
    gradient = np.sign(x)
  else:
    gradient = np.sign(x) * (np.abs(x) == np.abs(x).max(-1, keepdims=True))
  return x, np.linalg.norm(gradient - gradient.mean(-1, keepdims=True), axis=-1)


@pytest.mark.parametrize("norm", invariance.NORMS)
@pytest.mark.parametrize("shape", [(2, 1), (1, 3), (3, 2, 4)])
def test_on_the_sphere(norm, shape):
  games = spheres.sample(jax.random.key(0), 500, shape, norm)
  assert games.shape == (500, len(shape), *shape)
  assert games.dtype == jnp.result_type(float)
  flat = np.asarray(games, np.float64).reshape(500, len(shape), -1)
  z = invariance.radius(math.prod(shape), norm)
  # In float32 the relative error is a few 1e-7, and the sum of the cube's coordinates drifts by
  # about 1e-6.
  np.testing.assert_allclose(LENGTHS[norm](flat), z, rtol=2e-6)
  np.testing.assert_allclose(flat.mean(-1), 0, atol=3e-6)
  if math.prod(shape) == 2:
    # There are two possible games, equally likely. 1000 fair coins have a standard deviation of 16.
    np.testing.assert_allclose(np.abs(flat), z / LENGTHS[norm](np.ones(2)), rtol=2e-6)
    assert abs((flat[..., 0] > 0).sum() - 500) < 80


@pytest.mark.parametrize("norm", invariance.NORMS)
def test_players_and_games_are_independent(norm):
  x = draw(5, norm).reshape(10_000, 2, 5)
  own = x / np.linalg.norm(x, axis=-1, keepdims=True)
  # Cosines of independent isotropic vectors in 4 dimensions have mean 0 and standard deviation 1/2.
  assert abs((own[:, 0] * own[:, 1]).sum(-1).mean()) < 5 * 0.5 / math.sqrt(10_000)
  assert abs((own[1:, 0] * own[:-1, 0]).sum(-1).mean()) < 5 * 0.5 / math.sqrt(10_000)


@pytest.mark.parametrize("norm", invariance.NORMS)
@pytest.mark.parametrize("n", [4, 5])
def test_uniform_against_rejection(norm, n):
  """Moments and marginal quantiles of 20,000 points agree with those of 30,000 by rejection."""
  x = draw(n, norm)
  y, weights = rejection_sample(3, 30_000, n, norm, 0.25)
  weights = weights / weights.sum()
  effective = 1 / (weights**2).sum()
  spread = math.sqrt(1 / len(x) + 1 / effective)
  # No threshold may be a value of positive probability, such as 1/2 on the L1 sphere.
  features = {
      "second moment": lambda v: v[:, 0] ** 2,
      "fourth moment": lambda v: v[:, 0] ** 4,
      "cross moment": lambda v: v[:, 0] ** 2 * v[:, 1] ** 2,
      "third moments": lambda v: v[:, 0] ** 2 * v[:, 1],
      "positive coordinates": lambda v: (v > 0).sum(-1) / n,
      "largest": lambda v: v.max(-1),
      "below 0.2": lambda v: v[:, 0] < 0.2,
      "below 0.45": lambda v: v[:, 0] < 0.45,
  }
  for name, feature in features.items():
    a, b = feature(x).astype(float), feature(y).astype(float)
    # The difference is usually within 2.5 standard errors.
    error = abs(a.mean() - weights @ b) / (spread * max(a.std(), b.std()) + 1e-6)
    assert error < 5, (name, a.mean(), weights @ b, error)


@pytest.mark.parametrize("norm", invariance.NORMS)
def test_coordinates_are_exchangeable(norm):
  x = draw(5, norm)
  second = (x**2).mean(0)
  assert np.all(np.abs(x.mean(0)) < 5 * x.std() / math.sqrt(len(x)))
  assert np.all(np.abs(second - second.mean()) < 5 * (x**2).std() / math.sqrt(len(x)))
  # Zero sum and exchangeability together imply that every correlation is -1 / (n - 1).
  correlations = np.corrcoef(x.T)[~np.eye(5, dtype=bool)]
  np.testing.assert_allclose(correlations, -1 / 4, atol=5 / math.sqrt(len(x)))


def test_l2_marginal_is_a_beta():
  """x_1^2 n / (n - 1) of the unit sphere in n - 1 dimensions is Beta(1/2, (n - 2) / 2)."""
  stats = pytest.importorskip("scipy.stats")
  # Points of one player are independent.
  x = draw(5, "l2")[::2, 0]
  # The p-value is uniform, so that 1e-4 is a false alarm once in ten thousand seeds.
  assert stats.kstest(x**2 * 5 / 4, stats.beta(0.5, 1.5).cdf).pvalue > 1e-4


def test_l1_faces_against_their_areas():
  """The sphere is a hexagon with equal sides at n = 3, and a cuboctahedron at n = 4."""
  np.testing.assert_allclose(spheres._face_probabilities(2), [1])
  np.testing.assert_allclose(spheres._face_probabilities(3), [0.5, 0.5])
  # Areas of the 8 triangles and of the 6 squares of a cuboctahedron with edges of length 1.
  triangles, squares = 8 * math.sqrt(3) / 4, 6
  expected = np.array([triangles / 2, squares, triangles / 2]) / (triangles + squares)
  np.testing.assert_allclose(spheres._face_probabilities(4), expected)
  large = spheres._face_probabilities(4096)
  assert np.isfinite(large).all() and large.argmax() == 2047


@pytest.mark.parametrize("n", [4, 33])
def test_gibbs_sweep_count(n, monkeypatch):
  """Half the number of sweeps gives the same moments, so that the chain has mixed."""

  def moments(sweeps):
    monkeypatch.setattr(spheres, "_num_sweeps", lambda _: sweeps)
    x = jax.jit(lambda key: spheres._cube_slice(key, (20_000,), n, jnp.float32))(jax.random.key(7))
    x = np.asarray(x, np.float64)
    return np.stack([x[:, 0] ** 2, x[:, 0] ** 4, x.max(-1), (np.abs(x) ** 3).mean(-1)])

  sweeps = spheres._num_sweeps(n)
  usual, half = moments(sweeps), moments(sweeps // 2)
  error = np.sqrt((usual.var(-1) + half.var(-1)) / usual.shape[-1]) + 1e-12
  assert np.all(np.abs(usual.mean(-1) - half.mean(-1)) < 5 * error)


@pytest.mark.parametrize("m", [2, 3, 4, 7, 8])
def test_a_sweep_halves_the_distance_from_the_mean(m):
  """E[x' - mean] = (x - mean) / 2, by enumeration of c; `_num_sweeps` relies on it."""
  x = np.random.default_rng(0).normal(size=m)
  x -= x.mean()
  j = np.arange(m)
  expected = np.mean([(x + x[(c - j) % m]) / 2 for c in range(m)], axis=0)
  np.testing.assert_allclose(expected, x / 2, atol=1e-14)


@pytest.mark.parametrize("norm", invariance.NORMS)
def test_under_jit_and_by_key(norm):
  inside = jax.jit(lambda key: spheres.sample(key, 500, [1, 3], norm))(jax.random.key(8))
  outside = spheres.sample(jax.random.key(8), 500, (1, 3), norm)
  np.testing.assert_allclose(inside, outside, rtol=1e-5, atol=1e-5)
  assert not np.allclose(outside, spheres.sample(jax.random.key(9), 500, (1, 3), norm))


@pytest.mark.parametrize("norm", ["l1", "linf"])
def test_float64(norm):
  with jax.enable_x64(True):
    games = np.asarray(spheres.sample(jax.random.key(0), 3, (4, 4), norm, jnp.float64))
  assert games.dtype == np.float64
  flat = games.reshape(3, 2, 16)
  np.testing.assert_allclose(LENGTHS[norm](flat), invariance.radius(16, norm), rtol=1e-14)
  np.testing.assert_allclose(flat.mean(-1), 0, atol=1e-14)


def test_half_precision_and_empty_batch():
  games = spheres.sample(jax.random.key(0), 3, (2, 2), "l2", jnp.bfloat16)
  assert games.dtype == jnp.bfloat16 and bool(jnp.isfinite(games).all())
  assert spheres.sample(jax.random.key(0), 0, (2, 2)).shape == (0, 2, 2, 2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((4, (2, 2), "l3"), "unknown norm 'l3'"),
        ((4, (8,)), "at least two"),
        ((4, ()), "at least two"),
        ((4, (2, 0)), "at least one strategy"),
        ((-1, (2, 2)), "cannot be negative"),
        ((4, (1, 1)), "one joint strategy"),
        ((4, (2, 2), "l2", jnp.int32), "not a floating type"),
    ],
)
def test_errors(arguments, message):
  with pytest.raises(ValueError, match=message):
    spheres.sample(jax.random.key(0), *arguments)
