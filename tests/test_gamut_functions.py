"""nes_jax.games.gamut.functions: polynomials and tables against their definitions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nes_jax.games.gamut import functions


def p_value(ours, theirs):
  """P-value of the Kolmogorov-Smirnov test of two samples."""
  stats = pytest.importorskip("scipy.stats")
  return stats.ks_2samp(np.round(ours, 6), np.round(theirs, 6)).pvalue


def test_minimum_of_a_polynomial():
  rng = np.random.default_rng(0)
  coefficients = rng.uniform(-10, 10, (500, 10)) * (np.arange(10) <= rng.integers(0, 10, (500, 1)))
  low = rng.uniform(0, 0.5, 500)
  find = jax.jit(jax.vmap(functions._polynomial_minimum))
  found = find(jnp.asarray(coefficients, float), jnp.asarray(low, float))
  t = low[:, None] + np.linspace(0, 1, 4001) * (1 - low[:, None])
  expected = sum(c[:, None] * t**k for k, c in enumerate(coefficients.T)).min(1)
  # The grid may miss the minimum by its curvature, 400 at most, times the square of 1e-4.
  np.testing.assert_allclose(found, expected, atol=1e-4)


def increasing_table(rng, points):
  """An increasing table on [0, 1] by the recursion of its definition."""
  table = np.empty(points)
  table[0], table[-1] = 0, 1
  gaps = [(0, points - 1)]
  while gaps:
    left, right = gaps.pop()
    if right - left > 1:
      entry = rng.integers(left + 1, right)
      table[entry] = rng.uniform(table[left], table[right])
      gaps += [(left, entry), (entry, right)]
  return table


def concave_table(rng, points):
  """A concave table on [0, 1]: sums of the steps, the largest first."""
  steps = 2 * increasing_table(rng, points) - 1
  table = np.append(0, np.cumsum(steps[:0:-1]))
  return (table - table.min()) / (table.max() - table.min())


def random_table(rng, points):
  """A table of independent entries on [0, 1]."""
  return rng.uniform(size=points)


@pytest.mark.parametrize("reference", [increasing_table, concave_table, random_table])
def test_tables_against_the_recursion(reference, monkeypatch):
  """Four values on [0, 3] have the joint law of the definition; 1500 tables of 2 to 150 points."""
  monkeypatch.setattr(functions, "_MAX_POINTS", 150)
  x, rng = jnp.arange(4), np.random.default_rng(1)

  @jax.jit
  @jax.vmap
  def ours(key):
    draws = functions.draw(key)
    table = functions.lookup(draws, x, 3)
    values = getattr(functions, reference.__name__)(draws, x, 0, 3)[0]
    return (values - table.least) / (table.most - table.least), table

  found, tables = ours(jax.random.split(jax.random.key(6), 1500))
  found, points = np.asarray(found, np.float64), np.asarray(tables.points)
  # A narrow range loses digits of the height.
  wide = np.asarray(tables.most - tables.least) > 1
  assert points.min() == 2 and points.max() == 150
  expected = np.stack(
      [reference(rng, n)[np.minimum(n * np.arange(4) // 3, n - 1)] for n in np.repeat(points, 2)]
  )
  for column in range(4):
    assert p_value(found[wide, column], expected[:, column]) > 1e-3, column
  # The difference of two neighbouring values depends on their joint law.
  assert p_value((found[:, 2] - found[:, 1])[wide], expected[:, 2] - expected[:, 1]) > 1e-3
  if reference is increasing_table:
    assert np.all(np.diff(found, axis=1) >= -1e-5)
  same = (points * 1 // 3 == points * 2 // 3) & wide
  if same.any():
    np.testing.assert_array_equal(found[same, 1], found[same, 2])


def test_levels_of_a_concave_table(monkeypatch):
  """Two more levels change hardly anything, because each leaves 2/9 of the variance."""

  def heights(levels):
    monkeypatch.setattr(functions, "_CONCAVE_LEVELS", levels)
    draws = jax.vmap(functions.draw)(jax.random.split(jax.random.key(7), 4000))
    table = jax.vmap(lambda d: functions.lookup(d, jnp.arange(3), 2))(draws)

    @jax.jit
    @jax.vmap
    def values(draws):
      return functions.concave_table(draws, jnp.arange(3), 0, 2)[0]

    return (np.asarray(values(draws))[:, 1] - table.least) / (table.most - table.least)

  usual, finer = heights(functions._CONCAVE_LEVELS), heights(functions._CONCAVE_LEVELS + 2)
  for power in (1, 2, 4):
    error = math.sqrt((np.var(usual**power) + np.var(finer**power)) / 4000)
    assert abs((usual**power).mean() - (finer**power).mean()) < 5 * error


@pytest.mark.parametrize("high", [2.0, 1e4])
def test_increasing_polynomials(high):
  """They increase in float32, up to degree 10 on [0, 10000]; a share of 1/11 is constant."""
  x = jnp.linspace(0, high, 50)

  @jax.jit
  @jax.vmap
  def draw(key):
    return functions.increasing_polynomial(functions.draw(key), x, 0, high)

  values, shrink = draw(jax.random.split(jax.random.key(8), 3000))
  values = np.asarray(values, np.float64)
  size = np.abs(values).max(1, keepdims=True)
  assert np.isfinite(values).all() and np.all(size < 200) and np.all(shrink <= 1)
  assert np.all(np.diff(values, axis=1) >= -2e-6 * size)
  flat = np.ptp(values, axis=1) == 0
  assert abs(flat.mean() - 1 / 11) < 0.03  # standard deviation 0.005
