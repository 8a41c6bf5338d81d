"""nes_jax.games.gamut: against games that the original wrote, and against the definitions."""

import concurrent.futures
import functools
import itertools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nes_jax
from nes_jax import invariance, metrics
from nes_jax.games import gamut

DATA = pathlib.Path(__file__).parent / "data" / "gamut_8x8.npz"
COUNT = 512
STATISTICS = ("cce_gap", "correlation", "skewness", "pure_nash", "entropy")
LEGS = [name for name in gamut.NAMES if "LEG" in name]


@functools.cache
def original():
  """name -> float64 [40, 2, 8, 8], by GAMUT 1.0.1."""
  with np.load(DATA) as data:
    return {name: data[name] for name in data.files}


@functools.cache
def drawn():
  """name -> float32 [512, 2, 8, 8], by us. Most of the time is compilation, which threads share."""
  draw = lambda name: np.asarray(gamut.sample(jax.random.key(0), name, COUNT, 8))
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    return dict(zip(gamut.NAMES, pool.map(draw, gamut.NAMES)))


@jax.jit
@jax.vmap
def simple_statistics(payoffs):
  """[2, A1, A2] -> all of STATISTICS but the entropy, of the normalised game."""
  first, second = values = jax.vmap(lambda x: invariance.normalise(x).values)(payoffs)
  uniform = jnp.full(first.shape, 1 / first.size)
  best = [x >= x.max(axis=i, keepdims=True) - 1e-5 for i, x in enumerate(values)]
  return {
      "cce_gap": metrics.cce_gap(values, uniform),
      "correlation": (first * second).mean(),
      "skewness": (first**3).mean(),
      "pure_nash": (best[0] & best[1]).sum(),
  }


@functools.cache
def statistics():
  """statistic -> [22, 512] of ours and [22, 40] of the original's: one batch, compiled once."""
  games = [np.concatenate([drawn()[n], original()[n]]) for n in gamut.NAMES]
  games = np.concatenate(games).astype(np.float32)
  found = dict(simple_statistics(games))
  solution = nes_jax.solve(games, batched=True)
  assert np.all(solution.converged)
  joint = np.asarray(solution.joint, np.float64)
  found["entropy"] = -(joint * np.log(np.maximum(joint, 1e-30))).sum((1, 2))
  rows = {k: np.asarray(v, np.float64).reshape(len(gamut.NAMES), -1) for k, v in found.items()}
  return {k: (row[:, :COUNT], row[:, COUNT:]) for k, row in rows.items()}


def p_value(ours, theirs):
  """Kolmogorov-Smirnov, two samples. Rounded: what is constant must not differ by float32 noise."""
  stats = pytest.importorskip("scipy.stats")
  return stats.ks_2samp(np.round(ours, 6), np.round(theirs, 6)).pvalue


def test_names_are_those_of_the_data():
  assert gamut.NAMES == tuple(sorted(original())) and len(gamut.NAMES) == 22


@pytest.mark.parametrize("name", gamut.NAMES)
def test_distributed_like_the_original(name):
  """The smallest of the 110 p-values lands between 0.001 and 0.03 if all is well: 0.003 here."""
  row = gamut.NAMES.index(name)
  found = {k: p_value(*(x[row] for x in statistics()[k])) for k in STATISTICS}
  assert min(found.values()) > 0.001, found


@pytest.mark.parametrize("name", gamut.NAMES)
def test_scale_like_the_original(name):
  """The statistics above do not see units; these do."""
  ours, theirs = drawn()[name], original()[name]
  assert ours.shape == (COUNT, 2, 8, 8) and ours.dtype == jnp.result_type(float)
  assert np.isfinite(ours).all()
  for feature in (np.std, np.max, np.min):
    assert p_value(*(feature(x, axis=(1, 2, 3)) for x in (ours, theirs))) > 0.001, feature


def effort_parameters(games):
  """a, b and c of two-player MinimumEffortGames: [3, B]."""
  first = games[:, 0]
  c = first[:, 0, 0] - first[:, 1, 0]
  b = first[:, 1, 1] - first[:, 1, 0]
  return first[:, 0, 0] - b + c, b, c


def test_travelers_dilemma_is_exact(x64):
  games = original()["TravelersDilemma"]
  reward = games[:, 0, 0, 1] - 1
  rebuilt = jax.vmap(lambda r: gamut.travelers_payoffs(r, (8, 8)))(jnp.asarray(reward))
  # The subtraction above may round the last bit.
  np.testing.assert_allclose(rebuilt, games, rtol=1e-15)


def test_minimum_effort_is_exact(x64):
  games = original()["MinimumEffortGame"]
  a, b, c = map(jnp.asarray, effort_parameters(games))
  rebuilt = jax.vmap(lambda *p: gamut.effort_payoffs(*p, (8, 8)))(a, b, c)
  np.testing.assert_allclose(rebuilt, games, atol=1e-11)


def test_parameters():
  """Uniform where they should be, and distributed like the original's."""
  stats = pytest.importorskip("scipy.stats")
  reward = [g["TravelersDilemma"][:, 0, 0, 1] - 1 for g in (drawn(), original())]
  efforts = [effort_parameters(g["MinimumEffortGame"]) for g in (drawn(), original())]
  uniform = {
      "R": (reward, 1, 8),
      "a": ([a for a, _, _ in efforts], -100, 100),
      "b": ([b for _, b, _ in efforts], 0, 100),
      "c / b": ([c / b for _, b, c in efforts], 0, 1),
      "r": ([np.array([np.corrcoef(*x.reshape(2, -1))[0, 1] for x in g["CovariantGame"]])
             for g in (drawn(), original())], -1, 1),
  }
  for name, (samples, low, high) in uniform.items():
    assert p_value(*samples) > 0.001, name
    # An estimate from 64 outcomes shrinks little enough for r to pass as uniform.
    assert stats.kstest(samples[0], stats.uniform(low, high - low).cdf).pvalue > 0.001, name


def test_covariances():
  for name, r in (("CovariantGame-Pos", 0.9), ("CovariantGame-Zero", 0.0)):
    # 30,000 outcomes: standard errors up to 0.008.
    games = np.asarray(gamut.sample(jax.random.key(1), name, 500, (3, 4, 5), 3))
    covariance = np.cov(np.moveaxis(games, 1, 0).reshape(3, -1))
    np.testing.assert_allclose(covariance, np.where(np.eye(3), 1, r), atol=0.04)
  games = np.asarray(gamut.sample(jax.random.key(1), "CovariantGame", 500, 8, 3))
  r = np.array([np.corrcoef(x.reshape(3, -1))[0, 1] for x in games])
  assert -0.65 < r.min() < -0.4 and r.max() > 0.95 and abs(r.mean() - 0.25) < 0.1


@pytest.mark.parametrize("name", [*LEGS[::3], "BertrandOligopoly"])
def test_player_symmetry(name):
  """Exchanging two players exchanges their payoffs, and the third does not see it."""
  games = np.asarray(gamut.sample(jax.random.key(2), name, 20, 4, 3))
  for p, q in itertools.combinations(range(3), 2):
    order = list(range(3))
    order[p], order[q] = q, p
    swapped = games[:, order].transpose(0, 1, *(2 + i for i in order))
    np.testing.assert_allclose(swapped, games, rtol=1e-4, atol=1e-2)


def test_local_effects_follow_the_graph():
  """With two players u_1(a, c) for c not a is F_a(1) + E_ac(1) + what does not depend on c."""
  for name in LEGS:
    games = drawn()[name].astype(np.float64)
    np.testing.assert_array_equal(games[:, 1], games[:, 0].swapaxes(1, 2))
  # A leaf of the star is touched by the centre only: where else the other is does not matter.
  for name in ("BidirectionalLEG-SG", "UniformLEG-SG"):
    leaf = drawn()[name][:, 0, 3]
    elsewhere = np.delete(leaf, [0, 3], axis=1)
    np.testing.assert_allclose(elsewhere, elsewhere[:, :1] + 0 * elsewhere, rtol=1e-5, atol=1e-3)
  # The effect E_ac(1) - E_ac(0), recovered from the complete graph: one function a pair, or a node.
  difference = lambda name: (lambda u: u[:, 0, 1, 2] - u[:, 0, 1, 3])(drawn()[name])
  back = lambda name: (lambda u: u[:, 0, 2, 1] - u[:, 0, 2, 3])(drawn()[name])
  assert not np.allclose(difference("UniformLEG-CG"), back("UniformLEG-CG"), atol=1e-2)
  one, other = (drawn()["UniformLEG-CG"][:, 0, a].astype(np.float64) for a in (1, 4))
  np.testing.assert_allclose(one[:, 2] - one[:, 3], other[:, 2] - other[:, 3], rtol=1e-3, atol=2e-2)


def test_bertrand():
  games = drawn()["BertrandOligopoly"]
  first = games[:, 0]
  i, j = np.indices((8, 8))
  assert np.all(first[:, i > j] == 0)
  # Whoever is alone at the lowest price gets the same whatever the other asks.
  for price in range(7):
    assert np.all(first[:, price, price + 1 :] == first[:, price, -1:])
  # Demand at price 0 is 10,000, and falls.
  assert np.all(first.max((1, 2)) <= 8 * 10_000)


def interaction(payoffs, axes):
  """What of a tensor cannot be written as a sum of terms that each lack one of the axes."""
  for axis in axes:
    payoffs = payoffs - payoffs.mean(axis, keepdims=True)
  return np.abs(payoffs).max()


EDGES = {
    "SG": [(0, 1), (0, 2), (0, 3)],
    "Road": [(0, 1), (0, 2), (1, 3), (2, 3)],
    "CG": list(itertools.combinations(range(4), 2)),
}


@pytest.mark.parametrize("name", ["GraphicalGame-SG", "GraphicalGame-Road"])
def test_graphical_games_depend_on_neighbours_only(name):
  games = np.asarray(gamut.sample(jax.random.key(3), name, 5, (2, 3, 2, 4), 4))
  edges = EDGES[name.split("-")[1]]
  for p, q in itertools.permutations(range(4), 2):
    varies = np.ptp(games[:, p], axis=q + 1).max((1, 2, 3)) > 0
    assert np.all(varies == (tuple(sorted((p, q))) in edges)), (p, q)


@pytest.mark.parametrize("name", ["PolymatrixGame-CG", "PolymatrixGame-Road"])
def test_polymatrix_games_are_sums_over_edges(name):
  games = np.asarray(gamut.sample(jax.random.key(3), name, 5, (2, 3, 2, 4), 4), np.float64)
  edges = EDGES[name.split("-")[1]]
  for game, p in itertools.product(games, range(4)):
    for others in itertools.combinations([q for q in range(4) if q != p], 2):
      assert interaction(game[p], others) < 1e-3
      assert interaction(game[p], (p, *others)) < 1e-3
    for q in set(range(4)) - {p}:
      assert (interaction(game[p], (p, q)) > 1) == (tuple(sorted((p, q))) in edges), (p, q)


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
    np.testing.assert_array_equal(draw_graphs(gamut._small_world_graph, n, 9)[0], ~np.eye(n, dtype=bool))


def test_dispersion():
  games = np.asarray(gamut.sample(jax.random.key(5), "DispersionGame", 50, 3, 4))
  np.testing.assert_array_equal(games, games[:, :1] + 0 * games)
  level = {}
  for joint in itertools.product(range(3), repeat=4):
    crowds = tuple(sorted((joint.count(a) for a in range(3)), reverse=True))
    payoff = level.setdefault(crowds, games[:, 0][:, *joint])
    np.testing.assert_array_equal(games[:, 0][:, *joint], payoff)
  by_entropy = np.stack([level[c] for c in ((4, 0, 0), (3, 1, 0), (2, 2, 0), (2, 1, 1))])
  assert len(level) == 4 and np.all(np.diff(by_entropy, axis=0) > 0)
  # 6 players on 6: 11 partitions, of which (4, 1, 1) and (3, 3) differ in entropy, as all do but
  # (4, 1, 1) and (2, 2, 2)'s neighbours; counted by hand below.
  partitions = gamut._partitions(6, 6, 6)
  assert len(partitions) == 11 and all(sum(p) == 6 for p in partitions)
  assert len(gamut._partitions(6, 2, 6)) == 4


def test_minimum_of_a_polynomial():
  rng = np.random.default_rng(0)
  coefficients = rng.uniform(-10, 10, (500, 10)) * (np.arange(10) <= rng.integers(0, 10, (500, 1)))
  low = rng.uniform(0, 0.5, 500)
  found = jax.jit(jax.vmap(gamut._minimum))(jnp.asarray(coefficients, float), jnp.asarray(low, float))
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


def test_a_game_belongs_to_its_key():
  many = np.asarray(gamut.sample(jax.random.key(0), "RandomGame", COUNT, 8))
  few = np.asarray(gamut.sample(jax.random.key(0), "RandomGame", 3, 8))
  np.testing.assert_array_equal(few, many[:3])
  assert len(np.unique(many)) > 0.99 * many.size
  key = nes_jax.examples.example_keys(jax.random.key(0), 3)[1]
  np.testing.assert_array_equal(gamut.sample_one(key, "RandomGame", 8), many[1])
  inside = jax.jit(lambda key: gamut.sample(key, "RandomGame", 3, (8, 8)))(jax.random.key(0))
  np.testing.assert_array_equal(inside, few)


@pytest.mark.parametrize("name", ["BertrandOligopoly", "DispersionGame", "BidirectionalLEG-RG"])
def test_one_strategy(name):
  games = np.asarray(gamut.sample(jax.random.key(0), name, 3, 1))
  assert games.shape == (3, 2, 1, 1) and np.isfinite(games).all()


def test_float64(x64):
  games = gamut.sample(jax.random.key(0), "MinimumEffortGame", 3, 4)
  assert games.dtype == jnp.float64


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("Chicken", 4, 8), "unknown class 'Chicken'; the classes are BertrandOligopoly, "),
        (("RandomGame", 0, 8), "at least 1"),
        (("RandomGame", 4, 8, 1), "at least two players"),
        (("RandomGame", 4, 0), "at least one strategy"),
        (("RandomGame", 4, (2, 0)), "at least one strategy"),
        (("RandomGame", 4, (2, 3, 4)), "is for 3 players and num_players is 2"),
        (("TravelersDilemma", 4, (2, 3)), "same strategies"),
        (("UniformLEG-SG", 4, (2, 3)), "same strategies"),
    ],
)
def test_errors(arguments, message):
  with pytest.raises(ValueError, match=message):
    gamut.sample(jax.random.key(0), *arguments)
