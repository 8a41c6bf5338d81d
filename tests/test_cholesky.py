"""nes_jax.exact.cholesky: both memory layouts against NumPy, and matrices at the limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nes_jax.exact import cholesky

BATCH = 3
SIZES = [(3,), (2, 5), (20, 17)]


def rows(x):
  """[..., b] -> list over b."""
  return list(np.moveaxis(np.asarray(x), -1, 0))


def spd(sizes, condition, seed):
  """A symmetric positive definite matrix of that condition, and a right side."""
  rng = np.random.default_rng(seed)
  count = sum(sizes)
  basis, _ = np.linalg.qr(rng.normal(size=(count, count)))
  matrix = (basis * np.geomspace(1, 1 / condition, count)) @ basis.T
  return (matrix + matrix.T) / 2, rng.normal(size=count)


def blocks_of(matrix, sizes):
  """[D, D, *b] -> its lower triangle of blocks."""
  ends = np.cumsum(sizes)
  def cut(p):
    return slice(ends[p] - sizes[p], ends[p])
  return [[matrix[cut(p), cut(q)] for q in range(p + 1)] for p in range(len(sizes))]


@functools.partial(jax.jit, static_argnums=(2, 3))
def solve(matrix, right, sizes, floor):
  splits = np.cumsum(sizes)[:-1]
  run = cholesky.factor(blocks_of(matrix, sizes), floor)
  return jnp.concatenate(run(jnp.split(right, splits)))


@pytest.mark.parametrize("sizes", SIZES)
def test_cholesky_of_one(x64, sizes):
  matrix, right = spd(sizes, 1e4, 2)
  found = solve(jnp.asarray(matrix), right, sizes, 0.0)
  np.testing.assert_allclose(found, np.linalg.solve(matrix, right), rtol=1e-9)


@pytest.mark.parametrize(
    "sizes", [(3,), (2, 5), pytest.param((20, 17), marks=pytest.mark.slow)]
)
def test_cholesky_of_a_batch(x64, sizes):
  cases = [spd(sizes, 10.0**b, b) for b in range(1, BATCH + 1)]
  scales = [1.0, 1e-8, 1e8]
  matrix = jnp.stack([s * m for s, (m, _) in zip(scales, cases)], -1)
  right = np.stack([r for _, r in cases], -1)
  # Compiled as one program, 37 unrolled columns take a minute; step by step, seconds.
  run = solve if sum(sizes) < 10 else solve.__wrapped__
  found = run(matrix, right, sizes, 0.0)
  for x, m, r in zip(rows(found), rows(matrix), rows(right), strict=True):
    np.testing.assert_allclose(x, np.linalg.solve(m, r), rtol=1e-9)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_singular_matrix_stays_finite(x64, batched, dtype):
  """Rank one plus rounding: without a floor the later pivots are zero or negative."""
  sizes = (2, 3)
  ray = np.array([1.0, 2, -1, 3, 0.5])
  matrix = jnp.asarray(np.outer(ray, ray), dtype)
  right = np.asarray(3 * ray, dtype)  # in the range: any exact solution x has ray . x = 3
  floor = float(np.finfo(dtype).eps)
  if batched:
    matrix = jnp.stack([matrix, jnp.eye(5, dtype=dtype), 4 * matrix], -1)
    right = np.stack([right, right, right], -1)
  found = np.asarray(solve(matrix, right, sizes, floor))
  assert np.isfinite(found).all()
  first = found[:, 0] if batched else found
  # Consistent up to what the floor takes away; usually a few ulps times the condition.
  assert abs(ray @ first - 3) < 1e-2
  if batched:
    np.testing.assert_allclose(found[:, 1], 3 * ray, rtol=1e-5)  # its neighbours are singular


def test_floor_is_relative(x64):
  """A matrix of tiny numbers is solved like its multiple."""
  matrix, right = spd((2, 5), 1e2, 5)
  floor = float(np.finfo(np.float64).eps)
  plain = solve(jnp.asarray(matrix), right, (2, 5), floor)
  tiny = solve(jnp.asarray(1e-200 * matrix), 1e-200 * right, (2, 5), floor)
  np.testing.assert_allclose(tiny, plain, rtol=1e-9)


def test_dense_layout_vmaps(x64):
  sizes = (2, 5)
  cases = [spd(sizes, 10.0**b, 20 + b) for b in range(BATCH)]
  matrices, rights = (jnp.stack([jnp.asarray(x) for x in xs]) for xs in zip(*cases))
  found = jax.vmap(lambda m, r: solve(m, r, sizes, 0.0))(matrices, rights)
  expected = np.linalg.solve(matrices, rights[..., None])[..., 0]
  np.testing.assert_allclose(found, expected, rtol=1e-9)
