"""Sets of equilibria: support functions, hulls of payoffs, extreme points."""

import itertools

import jax
import numpy as np
import pytest
from scipy import optimize

from launch.figures import polytopes as figure
from nes_jax import region
from nes_jax.games import structured
from nes_jax.region import bounds, polygons, polytope

CHICKEN = np.array([[[0.0, 7], [2, 6]], [[0, 2], [7, 6]]])
CHICKEN_PAYOFFS = np.array([[2, 7], [3.6, 3.6], [14 / 3, 14 / 3], [5.25, 5.25], [7, 2]])
# Each player wants to be at the next strategy of the other.
SHAPLEY = np.stack([np.eye(3), np.roll(np.eye(3), 1, 1)])
PENNIES = np.array([[[1.0, -1], [-1, 1]], [[-1, 1], [1, -1]]])
DILEMMA = np.array([[[3.0, 0], [5, 1]], [[3, 5], [0, 1]]])
CONCEPTS = ("cce", "ce")


def games(shape, count, seed=0):
  return np.random.default_rng(seed).uniform(-1, 1, size=(count, len(shape), *shape))


def deviations(game, concept):
  """Gains [deviations, |A|] of each deviation at each joint strategy, one by one."""
  shape = game.shape[1:]
  rows = []
  for p, count in enumerate(shape):
    recommended = [None] if concept == "cce" else range(count)
    for wanted, other in itertools.product(recommended, range(count)):
      row = np.zeros(shape)
      for joint in itertools.product(*map(range, shape)):
        if wanted in (None, joint[p]):
          row[joint] = game[(p, *joint[:p], other, *joint[p + 1 :])] - game[(p, *joint)]
      rows.append(row.ravel())
  return np.array(rows)


def highs(game, direction, concept):
  """The largest welfare of an equilibrium, by the simplex method of HiGHS."""
  welfare = np.tensordot(direction, game, 1).ravel()
  gains = deviations(game, concept)
  found = optimize.linprog(
      -welfare, A_ub=gains, b_ub=np.zeros(len(gains)), A_eq=np.ones((1, len(welfare))), b_eq=[1]
  )
  assert found.status == 0
  return -found.fun


def apart(one, other):
  """The largest distance of a point of either set from the nearest point of the other one."""
  away = np.abs(one[:, None] - other).max(2)
  return max(away.min(0).max(), away.min(1).max())


# Support functions.


@pytest.mark.parametrize(
    "shape, concept",
    [((3, 3), "cce"), ((3, 3), "ce"), ((2, 4), "ce"), ((2, 3, 2), "cce"),
     pytest.param((2, 2, 2), "ce", marks=pytest.mark.slow)],
)
def test_support_is_that_of_highs(shape, concept):
  batch = games(shape, 6)
  directions = np.random.default_rng(1).normal(size=(5, len(shape)))
  found = region.support(batch, directions, concept)
  wanted = np.array([[highs(game, d, concept) for d in directions] for game in batch])
  assert found.converged.all()
  np.testing.assert_allclose(found.attained, wanted, atol=1e-7)
  np.testing.assert_allclose(found.upper, wanted, atol=1e-7)
  assert (found.upper >= wanted - 1e-12).all()  # HiGHS itself rounds
  assert (found.gap <= 1e-7).all()


def test_attained_payoffs_are_those_of_the_joints():
  batch = games((2, 3), 4)
  directions = np.random.default_rng(1).normal(size=(4, 3, 2))  # of each game
  found = region.support(batch, directions)
  expected = np.einsum("bnij,bdij->bdn", batch, found.joint)
  np.testing.assert_allclose(found.payoffs, expected, atol=1e-12)
  np.testing.assert_allclose(found.attained, (directions * expected).sum(-1), atol=1e-12)
  for game, joints, gaps in zip(batch, found.joint, found.gap):
    gains = joints.reshape(3, -1) @ deviations(game, "cce").T
    per_player = gains[:, :2].max(1), gains[:, 2:].max(1)
    np.testing.assert_allclose(np.maximum(per_player, 0).sum(0), gaps, atol=1e-9)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_bounds_hold_for_any_duals(concept):
  batch, rng = games((3, 2), 20), np.random.default_rng(1)
  welfare = rng.normal(size=(20, 3, 2))
  duals = tuple(rng.exponential(size=(20,) + (k,) * (1 + (concept == "ce"))) for k in (3, 2))
  duals[0][0], duals[1][1] = np.nan, -1.0
  bound = bounds.upper_bound(batch, welfare, duals, concept)
  solution, tight = bounds.maximise(batch, welfare, concept)
  best = (solution.joint * welfare).sum((1, 2))
  assert (bound >= best - 1e-9).all() and (bound <= welfare.max((1, 2))).all()
  np.testing.assert_allclose(tight, best, atol=1e-8)


def test_support_scales_and_reads_one_game():
  one = region.support(CHICKEN, [[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]])
  np.testing.assert_allclose(one.upper, [10.5, -7.2, 0], atol=1e-6)
  np.testing.assert_allclose(one.payoffs[:2], [[5.25, 5.25], [3.6, 3.6]], atol=1e-6)
  assert one.converged.all() and one.joint.shape == (3, 2, 2)
  large = region.support(1e6 * CHICKEN - 3e6, [[1.0, 1.0]])
  np.testing.assert_allclose(large.upper, 10.5e6 - 6e6, rtol=1e-6)


def test_parts_of_a_batch_are_put_together(monkeypatch):
  batch, directions = games((2, 2), 5), np.eye(2)
  whole = region.support(batch, directions)
  monkeypatch.setattr(bounds, "_PART", 40)
  parts = region.support(batch, directions)
  for one, other in zip(whole, parts):
    np.testing.assert_allclose(one, other, atol=1e-9)


def test_a_finite_weight_helps_where_an_infinite_one_fails(monkeypatch):
  solve, weights = bounds.solve, []

  def failing(payoffs, **options):
    solution = solve(payoffs, **options)
    weights.append(options["selection"].welfare_weight)
    failed = np.isinf(weights[-1]) & (np.arange(len(payoffs)) == 1)
    return solution._replace(converged=np.asarray(solution.converged) & ~failed)

  monkeypatch.setattr(bounds, "solve", failing)
  batch = games((3, 3), 4)
  found = region.support(batch, [[1.0, 0.5]])
  assert weights == [np.inf, bounds.FINITE_WEIGHT] and found.converged.all()
  wanted = [highs(game, [1.0, 0.5], "cce") for game in batch]
  np.testing.assert_allclose(found.upper[:, 0], wanted, atol=1e-4)
  assert (found.upper[:, 0] >= np.array(wanted) - 1e-12).all()


# Polygons.


def test_hull_and_area_of_a_square():
  rng = np.random.default_rng(0)
  square = np.array([[0.0, 0], [2, 0], [2, 1], [0, 1]])
  points = np.vstack([square, square, rng.uniform([0, 0], [2, 1], (20, 2)), [[1.0, 1e-10]]])
  points = rng.permutation(points)
  line = np.stack([np.linspace(0, 1, len(points))] * 2, 1)
  dot = np.full_like(points, 3.0)
  corners, counts = polygons.hull(np.stack([points, line, dot]), np.ones((3, 2)))
  assert counts.tolist() == [4, 2, 1]
  np.testing.assert_array_equal(corners[0], square)
  np.testing.assert_allclose(polygons.area(corners), [2, 0, 0], atol=1e-12)


def test_intersection_of_half_planes():
  normals = np.array([[1.0, 1], [-1, 0], [0, -1], [1, 0]]) / np.array([[2**0.5], [1], [1], [1]])
  offsets = np.array([1 / 2**0.5, -0.25, 0, 5])  # x + y <= 1, x >= 1/4, y >= 0
  corners, counts = polygons.intersection(
      normals[None], offsets[None], np.full((1, 2), -2.0), np.full((1, 2), 3.0)
  )
  assert counts.tolist() == [3]
  assert apart(corners[0], np.array([[0.25, 0], [1, 0], [0.25, 0.75]])) < 1e-12
  np.testing.assert_allclose(polygons.area(corners), 0.75**2 / 2)
  away = polygons.distance(np.array([[[0.5, 0.25], [0, 0], [2, 0]]]), corners)
  np.testing.assert_allclose(away, [[0, 0.25, 1]], atol=1e-12)


# Hulls.


@pytest.mark.parametrize("concept", CONCEPTS)
def test_hulls_of_chicken(concept):
  found = region.payoffs(CHICKEN, concept=concept)
  wanted = CHICKEN_PAYOFFS[[0, 1, 3, 4]]  # (14/3, 14/3) lies within
  assert found.inner_corners == 4
  assert apart(found.inner[:4], wanted) < 1e-6 and apart(found.outer, wanted) < 1e-6
  np.testing.assert_allclose([found.inner_area, found.outer_area], 8.25, atol=1e-6)
  assert abs(found.difference) < 1e-6 and found.distance < 1e-6 and found.converged


def test_sets_that_are_points():
  for game, point in ((DILEMMA, [1, 1]), (PENNIES, [0, 0]), (np.zeros((2, 2, 3)), [0, 0])):
    found = region.payoffs(game, concept="ce")
    np.testing.assert_allclose(found.inner, [point] * len(found.inner), atol=1e-6)
    assert found.distance < 1e-6 and abs(found.difference) < 1e-3


def test_ce_and_cce_differ():
  coarse, fine = (region.payoffs(SHAPLEY, concept=concept) for concept in CONCEPTS)
  np.testing.assert_allclose(coarse.outer_area, 1 / 18, atol=1e-7)
  np.testing.assert_allclose(fine.outer_area, 0, atol=1e-7)
  ends = np.array([[1 / 3, 1 / 3], [1 / 2, 1 / 2]])
  assert apart(fine.inner, ends) < 1e-6


@pytest.mark.parametrize("concept", CONCEPTS)
def test_hulls_within_one_percent(concept):
  found = region.payoffs(games((8, 8), 40), 64, concept)
  assert found.converged.all() and found.difference.max() < 0.01
  assert found.support.directions.shape == (40, 64, 2)
  uniform = region.payoffs(games((8, 8), 40), 64, concept, batches=1)
  assert np.median(found.difference) < np.median(uniform.difference) / 10


def test_hulls_enclose_the_support_function():
  batch = games((4, 3), 10)
  found = region.payoffs(batch, 32)
  angles = np.linspace(0, 2 * np.pi, 50)
  directions = np.stack([np.cos(angles), np.sin(angles)], 1)
  exact = region.support(batch, directions)
  inner, outer = ((directions @ x.swapaxes(1, 2)).max(2) for x in (found.inner, found.outer))
  assert (inner <= exact.upper + 1e-7).all()
  assert (outer >= exact.attained - 1e-7).all()


def test_scales_do_not_matter():
  batch = games((3, 3), 5)
  scale, shift = np.array([1e3, 1e-2])[:, None, None], np.array([5.0, -1])[:, None, None]
  one, other = region.payoffs(batch), region.payoffs(batch * scale + shift)
  np.testing.assert_allclose(other.inner_area, 10 * one.inner_area, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(other.outer_area, 10 * one.outer_area, rtol=1e-4, atol=1e-6)


def test_two_of_three_players():
  game = games((2, 2, 2), 1, seed=3)[0]
  found = region.payoffs(game, players=(2, 0), batched=False)
  wanted = [highs(game, d, "cce") for d in ([1, 0, 0], [-1, 0, 0], [0, 0, 1], [0, 0, -1])]
  x, y = found.outer.T
  np.testing.assert_allclose([y.max(), -y.min(), x.max(), -x.min()], wanted, atol=1e-6)


# Extreme points.


@pytest.mark.parametrize("concept", CONCEPTS)
def test_vertices_of_chicken(concept):
  found = region.vertices(CHICKEN, concept)
  assert len(found.joints) == 5 and found.unverified == 0 and found.share == 1
  assert apart(found.payoffs, CHICKEN_PAYOFFS) < 1e-6
  assert found.found.sum() == 5 and found.found[-2:].tolist() == [0, 0]
  assert found.hits.sum() > 5
  assert apart(region.enumerate_vertices(CHICKEN, concept).reshape(5, 4),
               found.joints.reshape(5, 4)) < 1e-9


def check_vertices(batch, concept, share):
  """Every point found is extreme, and so many of all extreme points are found."""
  wanted = known = 0
  for game, found in zip(batch, region.vertices(batch, concept, batched=True)):
    every = region.enumerate_vertices(game, concept).reshape(-1, game[0].size)
    away = np.abs(every[:, None] - found.joints.reshape(-1, game[0].size)).max(2)
    assert (away.min(0) < 1e-7).all()
    wanted, known = wanted + len(every), known + (away.min(1) < 1e-7).sum()
  assert known >= share * wanted


@pytest.mark.parametrize("concept", CONCEPTS)
def test_all_vertices_of_2x2_games(concept):
  check_vertices(games((2, 2), 40), concept, 1.0)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_most_vertices_of_3x3_games(concept):
  check_vertices(games((3, 3), 6), concept, 0.9)


@pytest.mark.slow
@pytest.mark.parametrize("concept", CONCEPTS)
def test_vertices_of_many_games(concept):
  check_vertices(games((2, 2), 200, seed=1), concept, 1.0)
  check_vertices(games((3, 3), 50, seed=1), concept, 0.9)


def test_points_found_are_verified():
  game = games((3, 3), 1, seed=4)[0]
  found = region.vertices(game, "ce", 4)
  gains = deviations(game, "ce")
  gains = gains[np.abs(gains).max(1) > 0]
  rows = np.vstack([np.eye(9), -gains / np.linalg.norm(gains, axis=1, keepdims=True)])
  for joint in found.joints.reshape(-1, 9):
    slack = rows @ joint
    assert slack.min() > -1e-9 and abs(joint.sum() - 1) < 1e-12
    active = np.vstack([rows[np.abs(slack) < 1e-9], np.ones(9)])
    assert np.linalg.matrix_rank(active, tol=1e-7) == 9


def by_bases(rows):
  """Extreme points by trying every basis; the polytope's rows are [K, n]."""
  size = rows.shape[1]
  found = np.zeros((0, size))
  chosen = np.array(list(itertools.combinations(range(len(rows)), size - 1)))
  for part in np.array_split(chosen, max(1, len(chosen) // 20000)):
    basis = np.concatenate([rows[part], np.ones((len(part), 1, size))], 1)
    basis = basis[np.linalg.svd(basis, compute_uv=False)[:, -1] > 1e-9]
    right = np.broadcast_to(np.append(np.zeros(size - 1), 1.0)[:, None], (len(basis), size, 1))
    points = np.linalg.solve(basis, right)[..., 0]
    for point in points[(points @ rows.T).min(1) > -1e-9]:
      if not len(found) or np.abs(found - point).max(1).min() > 1e-7:
        found = np.vstack([found, point])
  return found


@pytest.mark.parametrize("shape", [(2, 2), (2, 3)])
def test_double_description_lists_all(shape):
  for game, concept in itertools.product(games(shape, 15, seed=2), CONCEPTS):
    wanted = by_bases(polytope.constraints(game, concept))
    found = region.enumerate_vertices(game, concept).reshape(-1, wanted.shape[1])
    assert len(found) == len(wanted) and apart(found, wanted) < 1e-7
  for game in games((2, 2), 20):
    wanted = figure.extreme_points(figure.ce_constraints(game))
    assert apart(region.enumerate_vertices(game, "ce").reshape(-1, 4), wanted) < 1e-7


@pytest.mark.slow
def test_double_description_of_3x3_games():
  for game in games((3, 3), 2, seed=12):
    wanted = by_bases(polytope.constraints(game, "ce"))
    found = region.enumerate_vertices(game, "ce").reshape(-1, 9)
    assert len(found) == len(wanted) and apart(found, wanted) < 1e-7


def test_degenerate_games_have_vertices():
  # In a game of constant payoffs every joint is an equilibrium: its pure joints are extreme.
  found = region.vertices(np.zeros((2, 2, 3)), "ce")
  assert apart(found.joints.reshape(-1, 6), np.eye(6)) < 1e-12
  found = region.vertices(SHAPLEY, "ce")
  wanted = region.enumerate_vertices(SHAPLEY, "ce").reshape(-1, 9)
  assert apart(found.joints.reshape(-1, 9), wanted) < 1e-9


@pytest.mark.parametrize("kind", ["all_pay_auction", "congestion", "duplicated", "traveller"])
def test_all_vertices_of_games_with_ties(kind):
  batch = structured.sample(np.random.default_rng(0), kind, 2, 3, 2)
  for concept in CONCEPTS:
    check_vertices(batch, concept, 1.0)


def test_seeds_repeat():
  game = games((2, 3), 1)[0]
  one, other = (region.vertices(game, rounds=2, seed=5) for _ in range(2))
  np.testing.assert_array_equal(one.joints, other.joints)


# Arguments.


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: region.payoffs(CHICKEN, concept="nash"), "unknown concept 'nash'"),
        (lambda: region.payoffs(CHICKEN, 4), "num_directions must be"),
        (lambda: region.payoffs(CHICKEN, batches=0), "batches must be"),
        (lambda: region.payoffs(CHICKEN, players=(0, 2)), "players must be two different"),
        (lambda: region.payoffs(CHICKEN, players=(1, 1)), "players must be two different"),
        (lambda: region.payoffs(np.full((4, 2, 2, 2), np.nan)), "4 of 4 games hold NaN"),
        (lambda: region.payoffs(np.zeros((3, 2, 8, 8))), "can be read both ways"),
        (lambda: region.payoffs([["a"]]), "real numbers"),
        (lambda: region.support(CHICKEN, [1.0, 2.0]), r"directions must be \[D, 2\]"),
        (lambda: region.support(CHICKEN, [[1.0, 2.0, 3.0]]), r"directions must be \[D, 2\]"),
        (lambda: region.support(CHICKEN, np.ones((2, 4, 2))), r"\[1, D, 2\]"),
        (lambda: region.support(CHICKEN, [[np.inf, 2.0]]), r"the first at \[0, 0\]"),
        (lambda: region.vertices(CHICKEN, rounds=0), "rounds must be"),
        (lambda: region.vertices(CHICKEN, "nash"), "unknown concept"),
        (lambda: region.enumerate_vertices(CHICKEN[None]), "fits not the first"),
        (lambda: jax.jit(region.payoffs)(CHICKEN), "takes concrete arrays"),
    ],
)
def test_bad_arguments_are_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()
