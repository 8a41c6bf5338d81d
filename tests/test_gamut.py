"""nes_jax.games.gamut: comparison with games of the original generator, and the definitions."""

import concurrent.futures
import functools
import itertools
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
LEGS = [name for name in gamut.NAMES if "LEG" in name]


@functools.cache
def original():
  """Games of GAMUT 1.0.1 by the name of their class: float64 [40, 2, 8, 8] each."""
  with np.load(DATA) as data:
    return {name: data[name] for name in data.files}


@functools.cache
def drawn():
  """Games drawn here by the name of their class: float32 [512, 2, 8, 8] each.

  Two threads share the compilation, which takes most of the time.
  """

  def draw(name):
    return np.asarray(gamut.sample(jax.random.key(0), name, COUNT, 8))

  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    return dict(zip(gamut.NAMES, pool.map(draw, gamut.NAMES)))


# Distributions.


@jax.jit
@jax.vmap
def simple_statistics(payoffs):
  """Statistics of [B, 2, A1, A2] that do not depend on a player's scale and offset, [B] each."""
  first, second = values = jax.vmap(lambda x: invariance.normalise(x).values)(payoffs)
  uniform = jnp.full(first.shape, 1 / first.size)
  best = [x >= x.max(axis=i, keepdims=True) - 1e-5 for i, x in enumerate(values)]
  return {
      "uniform play's CCE gap": metrics.cce_gap(values, uniform),
      "correlation": (first * second).mean(),
      "skewness": (first**3).mean(),
      "pure equilibria": (best[0] & best[1]).sum(),
      "largest payoff": values.max(),
  }


@functools.cache
def statistics():
  """Statistics by name: [22, 512] of the games drawn here and [22, 40] of the original's.

  All games are one batch, which is compiled once.
  """
  games = [np.concatenate([drawn()[n], original()[n]]) for n in gamut.NAMES]
  games = np.concatenate(games).astype(np.float32)
  found = dict(simple_statistics(games))
  solution = nes_jax.solve(games, concept="cce", selection="max_entropy", batched=True)
  assert np.all(solution.converged)
  joint = np.asarray(solution.joint, np.float64)
  found["entropy of the MECCE"] = -(joint * np.log(np.maximum(joint, 1e-30))).sum((1, 2))
  rows = {k: np.asarray(v, np.float64).reshape(len(gamut.NAMES), -1) for k, v in found.items()}
  return {k: (row[:, :COUNT], row[:, COUNT:]) for k, row in rows.items()}


def p_value(ours, theirs, digits=5):
  """P-value of the Kolmogorov-Smirnov test of two samples.

  The samples are rounded, so that a constant does not differ by the noise of float32.
  """
  stats = pytest.importorskip("scipy.stats")
  return stats.ks_2samp(np.round(ours, digits), np.round(theirs, digits)).pvalue


def test_names_are_those_of_the_data():
  assert gamut.NAMES == tuple(sorted(original())) and len(gamut.NAMES) == 22


@pytest.mark.parametrize("name", gamut.NAMES)
def test_distributed_like_the_original(name):
  """All statistics of a class are distributed like those of the original's games.

  The smallest of the 132 p-values is expected near 0.01. It is 0.003 here, and the next is 0.03.
  """
  row = gamut.NAMES.index(name)
  # The entropy has the accuracy of the equilibrium, which is the float32 engine's tolerance.
  found = {
      k: p_value(*(x[row] for x in both), digits=2 if "entropy" in k else 5)
      for k, both in statistics().items()
  }
  assert len(found) == 6 and min(found.values()) > 0.001, found


@pytest.mark.parametrize("name", gamut.NAMES)
def test_scale_like_the_original(name):
  """Statistics that depend on the units of the payoffs agree with the original's."""
  ours, theirs = drawn()[name], original()[name]
  assert ours.shape == (COUNT, 2, 8, 8) and ours.dtype == jnp.result_type(float)
  assert np.isfinite(ours).all()
  for feature in (np.std, np.max, np.min):
    assert p_value(*(feature(x, axis=(1, 2, 3)) for x in (ours, theirs))) > 0.001, feature


def effort_parameters(games):
  """Parameters a, b and c of two-player MinimumEffortGames: [B] each."""
  first = games[:, 0]
  c = first[:, 0, 0] - first[:, 1, 0]
  b = first[:, 1, 1] - first[:, 1, 0]
  return first[:, 0, 0] - b + c, b, c


def test_parameters():
  """Parameters are uniform as defined, and distributed like the original's."""
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
    # The estimate of r from 64 outcomes is biased towards 0, too little for the test to see.
    assert stats.kstest(samples[0], stats.uniform(low, high - low).cdf).pvalue > 0.001, name


def test_covariances():
  for name, r in (("CovariantGame-Pos", 0.9), ("CovariantGame-Zero", 0.0)):
    # There are 30,000 outcomes, so standard errors are at most 0.008.
    games = np.asarray(gamut.sample(jax.random.key(1), name, 500, (3, 4, 5), 3))
    covariance = np.cov(np.moveaxis(games, 1, 0).reshape(3, -1))
    np.testing.assert_allclose(covariance, np.where(np.eye(3), 1, r), atol=0.04)
  games = np.asarray(gamut.sample(jax.random.key(1), "CovariantGame", 500, 8, 3))
  r = np.array([np.corrcoef(x.reshape(3, -1))[0, 1] for x in games])
  assert -0.65 < r.min() < -0.4 and r.max() > 0.95 and abs(r.mean() - 0.25) < 0.1


# Structure.


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


def test_bertrand():
  for games in (drawn()["BertrandOligopoly"], original()["BertrandOligopoly"]):
    first = games[:, 0]
    i, j = np.indices((8, 8))
    assert np.all(first[:, i > j] == 0)
    # A player alone at the lowest price gets the same, no matter what the other player asks.
    for price in range(7):
      assert np.all(first[:, price, price + 1 :] == first[:, price, -1:])
    # The demand falls from 10,000 at price 0, so that nobody earns more than 8 times 10,000.
    assert np.all(first.max((1, 2)) <= 8 * 10_000)


@pytest.mark.parametrize("name", ["BidirectionalLEG-CG", "UniformLEG-SG", "BertrandOligopoly"])
def test_player_symmetry(name):
  """Exchanging two players exchanges their payoffs, and does not change those of the third."""
  games = np.asarray(gamut.sample(jax.random.key(2), name, 20, 4, 3))
  for p, q in itertools.combinations(range(3), 2):
    order = list(range(3))
    order[p], order[q] = q, p
    swapped = games[:, order].transpose(0, 1, *(2 + i for i in order))
    np.testing.assert_allclose(swapped, games, rtol=1e-4, atol=1e-2)


def largest(values):
  """Largest magnitude of each game: [B, ...] -> [B]."""
  return np.abs(values).reshape(len(values), -1).max(1)


def broken_leg(name, first):
  """Distance of two-player payoffs [B, A, A] of player 1 from the local effects of a class: [B].

  For c other than a, u(a, c) = base_a + touch_ac. Here base_a contains F_a(1) and the effects of
  the strategies that nobody plays, and touch_ac is how much the effect of c on a changes when c is
  played; it is 0 where c is no neighbour of a. In Bidirectional games touch is symmetric, and in
  Uniform games it depends on c only.
  """
  kind, graph = name.split("LEG-")
  strategies = range(first.shape[1])
  broken = np.zeros(len(first))
  if graph == "SG":  # A leaf has one neighbour, the centre.
    elsewhere = first[:, 1:, 1:][:, ~np.eye(len(strategies) - 1, dtype=bool)]
    base = elsewhere.reshape(len(first), len(strategies) - 1, -1)
    broken = largest(base - base[..., :1])
    if kind == "Bidirectional":
      # touch_0c - touch_c0 = u(0, c) - base_0 - u(c, 0) + base_c = 0
      centre = first[:, 0, 1:] - first[:, 1:, 0] + base[..., 0]
      broken = np.maximum(broken, largest(centre - centre[:, :1]))
  elif graph == "CG" and kind == "Bidirectional":
    # u(a, c) - u(c, a) = base_a - base_c, so the differences around every triangle add up to 0.
    apart = first - first.swapaxes(1, 2)
    broken = largest(apart[:, :, :, None] + apart[:, None] - apart[:, :, None, :])
  elif graph == "CG":
    for a, b in itertools.combinations(strategies, 2):
      others = [c for c in strategies if c not in (a, b)]
      base = first[:, a, others] - first[:, b, others]
      broken = np.maximum(broken, largest(base - base[:, :1]))
  else:
    # The base of a row is the value that occurs twice in it. Rows without such a value are skipped.
    base = np.full(first.shape[:2], np.nan)
    for a in strategies:
      row = np.sort(np.delete(first[:, a], a, axis=1))
      # The entries are equal to the last bit, because strategies that do not touch a add the same.
      twice = np.diff(row) == 0
      base[:, a] = np.where(twice.any(1), row[np.arange(len(row)), twice.argmax(1)], np.nan)
    touch = first - base[..., None]
    for a, b in itertools.permutations(strategies, 2):
      if kind == "Bidirectional":
        broken = np.fmax(broken, np.abs(touch[:, a, b] - touch[:, b, a]))
      else:
        # The effect of c is 0, or the same on all its neighbours.
        for c in set(strategies) - {a, b}:
          one, other = np.abs(touch[:, a, c]), np.abs(touch[:, b, c])
          same = np.abs(touch[:, a, c] - touch[:, b, c])
          broken = np.fmax(broken, np.minimum(same, np.minimum(one, other)))
  return broken / largest(first)


@pytest.mark.parametrize("name", LEGS)
def test_local_effects(name):
  """Games have the structure of their class, to a tolerance relative to the largest payoff.

  It is 1e-6 for games drawn here (3.4e-7 found) and 1e-14 for the original's (8e-16 found).
  """
  for games, tolerance in ((drawn()[name].astype(np.float64), 1e-6), (original()[name], 1e-14)):
    np.testing.assert_array_equal(games[:, 1], games[:, 0].swapaxes(1, 2))
    assert broken_leg(name, games[:, 0]).max() < tolerance


@pytest.mark.parametrize(
    "check, other",
    [
        ("BidirectionalLEG-SG", "BidirectionalLEG-RG"),
        ("BidirectionalLEG-SG", "UniformLEG-SG"),
        ("BidirectionalLEG-RG", "UniformLEG-RG"),
        ("UniformLEG-SG", "UniformLEG-RG"),
        ("UniformLEG-RG", "BidirectionalLEG-RG"),
        ("UniformLEG-CG", "BidirectionalLEG-CG"),
    ],
)
def test_local_effects_of_other_classes_are_told_apart(check, other):
  """The structure of one class is not that of another, so that the test above can fail.

  A Uniform game on the complete graph is also a Bidirectional one, so that this pair is left out.
  """
  assert np.mean(broken_leg(check, drawn()[other][:, 0].astype(np.float64)) > 1e-6) > 0.4


def interaction(payoffs, axes):
  """Size of the part of a tensor that is not a sum of terms which each lack one of the axes."""
  for axis in axes:
    payoffs = payoffs - payoffs.mean(axis, keepdims=True)
  return np.abs(payoffs).max()


EDGES = {
    "SG": [(0, 1), (0, 2), (0, 3)],
    "Road": [(0, 1), (0, 2), (1, 3), (2, 3)],
    "CG": list(itertools.combinations(range(4), 2)),
}


@functools.cache
def neighbours(name):
  """Whether p's payoffs depend on q's strategy, in 100 games of four players: bool [100, 4, 4]."""
  games = np.asarray(gamut.sample(jax.random.key(3), name, 100, (2, 3, 2, 4), 4))
  varies = [[np.ptp(games[:, p], axis=q + 1).max((1, 2, 3)) > 1e-3 for q in range(4)]
            for p in range(4)]
  return np.moveaxis(np.array(varies), 2, 0) & ~np.eye(4, dtype=bool)


@pytest.mark.parametrize("game", ["GraphicalGame", "PolymatrixGame"])
def test_graphs_of_players(game):
  """Graphs of four players are those of their class.

  The star, the road and the complete graph are known, and a small world has four edges (K = 1).
  """
  for graph in ("SG", "Road") if game == "GraphicalGame" else ("CG", "Road"):
    wanted = np.zeros((4, 4), bool)
    wanted[tuple(zip(*EDGES[graph]))] = True
    np.testing.assert_array_equal(neighbours(f"{game}-{graph}"), [wanted | wanted.T] * 100)
  found = {graph: neighbours(f"{game}-{graph}") for graph in ("RG", "SW")}
  for graphs in found.values():
    np.testing.assert_array_equal(graphs, graphs.swapaxes(1, 2))
    assert len(np.unique(graphs, axis=0)) > 10
  assert set(found["RG"].sum((1, 2)) // 2) == {1, 2, 3, 4, 5, 6}
  assert set(found["SW"].sum((1, 2)) // 2) == {4}


@pytest.mark.parametrize("name", ["PolymatrixGame-CG", "PolymatrixGame-Road"])
def test_polymatrix_games_are_sums_over_edges(name):
  games = np.asarray(gamut.sample(jax.random.key(3), name, 100, (2, 3, 2, 4), 4), np.float64)[:5]
  edges = EDGES[name.split("-")[1]]
  for p in range(4):
    others = [q for q in range(4) if q != p]
    for pair in itertools.combinations(others, 2):
      assert max(interaction(game[p], pair) for game in games) < 1e-3
    for q in others:
      # One game may be nearly additive by chance (one in fifty at 2x2), but not all five of them.
      found = max(interaction(game[p], (p, q)) for game in games)
      assert found > 1 if tuple(sorted((p, q))) in edges else found < 1e-3, (p, q)


def test_players_of_an_edge_have_independent_payoffs():
  games = np.asarray(gamut.sample(jax.random.key(3), "PolymatrixGame-CG", 100, (2, 3, 2, 4), 4))
  own = games - games.mean((2, 3, 4, 5), keepdims=True)
  variance = (own[:, :2] ** 2).mean((0, 2, 3, 4, 5))
  correlation = (own[:, 0] * own[:, 1]).mean() / np.sqrt(variance.prod())
  # The standard deviation of the correlation is 0.04.
  assert abs(correlation) < 0.15


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
  for ours in (drawn()["DispersionGame"], original()["DispersionGame"]):
    same = np.eye(8, dtype=bool)
    assert np.all(np.ptp(ours[:, :, same], axis=2) == 0)
    assert np.all(ours[:, :, ~same] == ours[:, :, :1, 1])
    assert np.all(ours[:, 0, 0, 1] > ours[:, 0, 0, 0])


# The call.


def test_a_game_belongs_to_its_key():
  many = np.asarray(gamut.sample(jax.random.key(0), "RandomGame", COUNT, 8))
  few = np.asarray(gamut.sample(jax.random.key(0), "RandomGame", 3, 8))
  np.testing.assert_array_equal(few, many[:3])
  assert len(np.unique(many)) > 0.99 * many.size
  key = nes_jax.keys.example_keys(jax.random.key(0), 3)[1]
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
