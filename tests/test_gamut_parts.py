"""What games of GAMUT are made of: graphs, and random functions of one variable."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nes_jax.games import gamut


def p_value(ours, theirs):
  """Kolmogorov-Smirnov, two samples."""
  stats = pytest.importorskip("scipy.stats")
  return stats.ks_2samp(np.round(ours, 6), np.round(theirs, 6)).pvalue


def draw_graphs(graph, n, count=2000):
  keys = jax.random.split(jax.random.key(4), count)
  found = np.asarray(jax.jit(jax.vmap(lambda key: graph(key, n)))(keys))
  assert not found[:, np.eye(n, dtype=bool)].any()
  np.testing.assert_array_equal(found, found.swapaxes(1, 2))
  return found


def test_random_graphs():
  found = draw_graphs(gamut._random_graph, 4)
  edges = found.sum((1, 2)) // 2
  # 2000 graphs over 6 sizes: 333 of each, standard deviation 17.
  counts = np.bincount(edges, minlength=7)
  assert counts[0] == 0 and np.all(abs(counts[1:] - 333) < 85)
  # Each pair as often as any other: 3.5 of 6, standard deviation 0.01.
  np.testing.assert_allclose(found.mean(0)[np.triu_indices(4, 1)], 3.5 / 6, atol=0.055)
  assert not draw_graphs(gamut._random_graph, 1, 3).any()
  assert draw_graphs(gamut._random_graph, 2, 9)[:, 0, 1].all()


def test_small_world_graphs():
  found = draw_graphs(gamut._small_world_graph, 8)
  edges = found.sum((1, 2)) // 2
  # An edge that moves stays one: 8 K of them, K ~ U{1, 2, 3}; 667 of each, standard deviation 21.
  counts = np.bincount(edges, minlength=25)
  assert counts[[8, 16, 24]].sum() == 2000 and np.all(abs(counts[[8, 16, 24]] - 667) < 105)
  # With K = 1 every edge is its own step. It stays if it is not moved, 1/2 on average, or if
  # another comes to lie on it, which happens to fewer than one in seven.
  i, j = np.indices((8, 8))
  kept = found[edges == 8][:, (j - i) % 8 == 1].mean()
  assert 0.5 < kept < 0.6
  # p is one for all: far more graphs than with independent moves keep nearly all, or hardly any.
  ring = found[edges == 8][:, (j - i) % 8 == 1].sum(1)
  assert (ring == 8).mean() > 0.07
  for n in (2, 3):
    found = draw_graphs(gamut._small_world_graph, n, 9)
    np.testing.assert_array_equal(found, [~np.eye(n, dtype=bool)] * 9)



def test_minimum_of_a_polynomial():
  rng = np.random.default_rng(0)
  coefficients = rng.uniform(-10, 10, (500, 10)) * (np.arange(10) <= rng.integers(0, 10, (500, 1)))
  low = rng.uniform(0, 0.5, 500)
  find = jax.jit(jax.vmap(gamut._minimum))
  found = find(jnp.asarray(coefficients, float), jnp.asarray(low, float))
  t = low[:, None] + np.linspace(0, 1, 4001) * (1 - low[:, None])
  expected = sum(c[:, None] * t**k for k, c in enumerate(coefficients.T)).min(1)
  # The grid may miss the minimum by its curvature, 400 at most, times the square of 1e-4.
  np.testing.assert_allclose(found, expected, atol=1e-4)


def increasing_table(rng, points):
  """The recursion as it is defined."""
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
  steps = 2 * increasing_table(rng, points) - 1
  table = np.append(0, np.cumsum(steps[:0:-1]))
  return (table - table.min()) / (table.max() - table.min())


def loose_table(rng, points):
  return rng.uniform(size=points)


@pytest.mark.parametrize("family", ["increasing_table", "concave_table", "table"])
def test_tables_against_the_recursion(family, monkeypatch):
  """Joint law of four values on [0, 3], 1500 tables of 2 to 150 points."""
  monkeypatch.setattr(gamut, "_MAX_POINTS", 150)
  make = {"increasing_table": increasing_table, "concave_table": concave_table}
  make = make.get(family, loose_table)
  x, rng = jnp.arange(4), np.random.default_rng(1)

  @jax.jit
  @jax.vmap
  def ours(key):
    draws = gamut._draw(key)
    table = gamut._lookup(draws, x, 3)
    values = getattr(gamut, "_" + family)(draws, x, 0, 3)[0]
    return (values - table.least) / (table.most - table.least), table

  found, tables = ours(jax.random.split(jax.random.key(6), 1500))
  found, points = np.asarray(found, np.float64), np.asarray(tables.points)
  # Few points and a narrow range lose digits.
  wide = np.asarray(tables.most - tables.least) > 1
  assert points.min() == 2 and points.max() == 150
  expected = np.stack(
      [make(rng, n)[np.minimum(n * np.arange(4) // 3, n - 1)] for n in np.repeat(points, 2)]
  )
  for column in range(4):
    assert p_value(found[wide, column], expected[:, column]) > 1e-3, column
  # Together: how values at neighbouring points differ, and fall together.
  assert p_value((found[:, 2] - found[:, 1])[wide], expected[:, 2] - expected[:, 1]) > 1e-3
  if family == "increasing_table":
    assert np.all(np.diff(found, axis=1) >= -1e-5)
  same = (points * 1 // 3 == points * 2 // 3) & wide
  if same.any():
    np.testing.assert_array_equal(found[same, 1], found[same, 2])


def test_levels_of_a_concave_table(monkeypatch):
  """Two more levels would change hardly anything: 2/9 of the variance is left by each."""

  def heights(levels):
    monkeypatch.setattr(gamut, "_CONCAVE_LEVELS", levels)
    draws = jax.vmap(gamut._draw)(jax.random.split(jax.random.key(7), 4000))
    values = lambda d: gamut._concave_table(d, jnp.arange(3), 0, 2)[0]
    table = jax.vmap(lambda d: gamut._lookup(d, jnp.arange(3), 2))(draws)
    return (np.asarray(jax.jit(jax.vmap(values))(draws))[:, 1] - table.least) / (
        table.most - table.least
    )

  usual, finer = heights(gamut._CONCAVE_LEVELS), heights(gamut._CONCAVE_LEVELS + 2)
  for power in (1, 2, 4):
    error = math.sqrt((np.var(usual**power) + np.var(finer**power)) / 4000)
    assert abs((usual**power).mean() - (finer**power).mean()) < 5 * error


@pytest.mark.parametrize("high", [2.0, 1e4])
def test_increasing_polynomials(high):
  """They increase, in float32 and up to degree 10 on [0, 10000], and the constant ones are 1/11."""
  x = jnp.linspace(0, high, 50)
  draw = lambda key: gamut._increasing_polynomial(gamut._draw(key), x, 0, high)
  values, shrink = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(8), 3000))
  values = np.asarray(values, np.float64)
  size = np.abs(values).max(1, keepdims=True)
  assert np.isfinite(values).all() and np.all(size < 200) and np.all(shrink <= 1)
  assert np.all(np.diff(values, axis=1) >= -2e-6 * size)
  flat = np.ptp(values, axis=1) == 0
  assert abs(flat.mean() - 1 / 11) < 0.03  # standard deviation 0.005
