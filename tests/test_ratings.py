"""Deviation ratings and equilibrium ratings."""

import pathlib

import jax
import numpy as np
import pytest
from scipy import optimize

import nes_jax
from nes_jax import metrics, ratings

# Three strategies each; all largest gains are equal in one linear program.
BIASED_SHAPLEY = np.array([
    [[-8.0, -2, 4], [2, -8, -1], [-4, 1, -8]], [[-8.0, 2, -4], [-2, -8, 1], [4, -1, -8]]
])
ROCK_PAPER_SCISSORS = np.array([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])
CHICKEN = np.array([[[0.0, 7.0], [2.0, 6.0]], [[0.0, 2.0], [7.0, 6.0]]])  # dare, yield
PRISONERS = np.array([[[3.0, 0.0], [4.0, 1.0]], [[3.0, 4.0], [0.0, 1.0]]])  # cooperate, defect


def rows_of(payoffs):
  """The matrix [D, |A|] of deviation gains."""
  rows = []
  for p, payoff in enumerate(payoffs):
    own = np.moveaxis(payoff, p, 0)
    rows += [np.moveaxis(own[k] - own, 0, p).ravel() for k in range(len(own))]
  return np.array(rows)


def ratings_by_programs(payoffs):
  """Deviation ratings by a sequence of linear programs, solved by HiGHS."""
  rows = rows_of(payoffs)
  count, size = rows.shape
  free, found = np.ones(count, bool), np.zeros(count)
  while free.any():
    for relaxed in (0, 1e-11, 1e-10, 1e-9):  # rounding can make what is held infeasible
      result = optimize.linprog(
          np.r_[np.zeros(size), 1],
          A_ub=np.c_[rows, -free.astype(float)],
          b_ub=np.where(free, 0, found + relaxed),
          A_eq=np.r_[np.ones(size), 0][None],
          b_eq=[1],
          bounds=[(0, None)] * size + [(None, None)],
          method="highs",
          options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
      )
      if result.status == 0:
        break
    assert result.status == 0, result.message
    binding = free & (-result.ineqlin.marginals > 1e-6)
    assert binding.any()
    found[binding] = result.x[-1]
    free &= ~binding
  return found


def together(rated):
  """All players' ratings [..., D]."""
  return np.concatenate(rated.ratings, -1)


def zero_sum(payoff):
  return np.stack([payoff, -payoff], -3)


def test_known_games():
  three = ratings.deviation(np.stack([BIASED_SHAPLEY, zero_sum(ROCK_PAPER_SCISSORS)]))
  np.testing.assert_allclose(together(three)[0], -2.8215767, atol=1e-6)
  np.testing.assert_allclose(together(three)[1], 0, atol=1e-9)
  two = ratings.deviation(np.stack([CHICKEN, PRISONERS]))
  np.testing.assert_allclose(together(two), [[-1, -0.5] * 2, [-1, 0] * 2], atol=1e-9)
  np.testing.assert_array_equal(two.order[0], [[1, 0], [1, 0]])
  assert three.converged.all() and two.converged.all()


@pytest.mark.parametrize("shape", [(6, 6), (4, 4, 4)])
def test_equals_a_sequence_of_linear_programs(shape):
  payoffs = np.random.default_rng(0).normal(size=(100, len(shape), *shape))
  rated = ratings.deviation(payoffs)
  assert rated.converged.all()
  expected = np.stack([ratings_by_programs(x) for x in payoffs])
  np.testing.assert_allclose(together(rated), expected, atol=1e-6)
  # The joint attains the ratings, and is a CCE.
  gains = np.stack([rows_of(x) @ joint.ravel() for x, joint in zip(payoffs, rated.joint)])
  np.testing.assert_allclose(gains, expected, atol=1e-6)
  assert rated.gap.max() < 1e-8


@pytest.mark.parametrize("kind", ["integers", "blotto", "ranking", "team", "duplicated"])
def test_games_with_ties(kind):
  payoffs = nes_jax.games.structured.sample(np.random.default_rng(1), kind, 20, 4)
  rated = ratings.deviation(payoffs)
  assert rated.converged.all()
  expected = np.stack([ratings_by_programs(x) for x in payoffs])
  scale = np.ptp(payoffs, axis=(1, 2, 3))[:, None]
  np.testing.assert_allclose(together(rated) / scale, expected / scale, atol=1e-6)


@pytest.mark.parametrize("player", [0, 1])
def test_a_strategy_that_is_there_twice_changes_nothing(player):
  games = np.concatenate([
      np.random.default_rng(2).normal(size=(4, 2, 3, 3)),
      BIASED_SHAPLEY[None],
      zero_sum(ROCK_PAPER_SCISSORS)[None],
  ])
  before = ratings.deviation(games).ratings
  for k in range(3):
    order = [*range(3), k]
    after = ratings.deviation(np.take(games, order, axis=2 + player))
    assert after.converged.all()
    for p in range(2):
      expected = before[p][:, order] if p == player else before[p]
      np.testing.assert_allclose(after.ratings[p], expected, atol=1e-6)


def test_scale_and_offsets():
  payoffs = np.random.default_rng(3).normal(size=(5, 2, 3, 3))
  rng = np.random.default_rng(4)
  moved = 1e6 * payoffs
  moved[:, 0] += rng.normal(size=(5, 1, 3))  # does not depend on the first player's own strategy
  moved[:, 1] += rng.normal(size=(5, 3, 1))
  np.testing.assert_allclose(
      together(ratings.deviation(moved)), 1e6 * together(ratings.deviation(payoffs)), atol=1e-2
  )


def test_zero_sum_ratings_are_payoffs_against_the_equilibrium_less_the_value():
  payoff = np.random.default_rng(5).normal(size=(6, 3, 3))
  rated = ratings.deviation(zero_sum(payoff))
  for k, game in enumerate(payoff):
    rows, columns = nes_jax.nash_zero_sum(game, precision="float64").marginals
    value = rows @ game @ columns
    np.testing.assert_allclose(rated.ratings[0][k], game @ columns - value, atol=1e-6)
    np.testing.assert_allclose(rated.ratings[1][k], value - rows @ game, atol=1e-6)


def test_nash_averaging_of_openspiel():
  pytest.importorskip("pyspiel")
  pytest.importorskip("cvxpy")
  from open_spiel.python.algorithms import nash_averaging

  scores = np.random.default_rng(6).normal(size=(4, 3))
  (_, tasks), (rows, columns) = nash_averaging.nash_averaging_avt_matrix(scores)
  game = ratings.agent_vs_task(scores, pairwise=False)
  rated = ratings.deviation(game)
  value = float(rows.max())
  assert value == pytest.approx(-float(columns.max()), abs=1e-5)
  # The solver of the other side is right to about 1e-5.
  np.testing.assert_allclose(rated.ratings[0], rows.ravel() - value, atol=1e-4)
  np.testing.assert_allclose(rated.ratings[1], columns.ravel() + value, atol=1e-4)


def test_constant_players():
  payoffs = np.zeros((2, 3, 3))
  payoffs[0] = np.array([0.0, 1.0, 2.0])[:, None]  # the second player's payoffs are constant
  rated = ratings.deviation(payoffs)
  np.testing.assert_allclose(rated.ratings[0], [-2, -1, 0], atol=1e-9)
  np.testing.assert_allclose(rated.ratings[1], 0, atol=1e-9)
  assert rated.converged


def test_under_jit():
  payoffs = np.random.default_rng(7).normal(size=(5, 2, 2, 2))
  expected = ratings.deviation(payoffs)
  with jax.enable_x64(True):
    traced = jax.jit(ratings.deviation)(payoffs)
  for x, y in zip(jax.tree.leaves(expected), jax.tree.leaves(traced)):
    np.testing.assert_allclose(x, y, atol=1e-9)
  with pytest.raises(ValueError, match="need float64"):
    jax.jit(ratings.deviation)(payoffs.astype(np.float32))


def test_bad_payoffs_are_named():
  payoffs = np.zeros((5, 2, 2, 2))
  payoffs[1, 0, 0, 0] = np.nan
  with pytest.raises(ValueError, match="the first is game 1"):
    ratings.deviation(payoffs)
  with pytest.raises(ValueError, match="payoffs must be"):
    ratings.deviation(np.zeros((2, 2)))


# Equilibrium ratings.


@pytest.mark.parametrize("concept", ["cce", "ce"])
def test_equilibrium_ratings_are_gains_under_the_solution(concept):
  payoffs = np.random.default_rng(8).normal(size=(5, 3, 3, 2, 4))
  rated = ratings.equilibrium(payoffs, concept)
  solution = nes_jax.solve(payoffs, concept=concept, precision="float64")
  np.testing.assert_array_equal(rated.joint, solution.joint)
  gains = np.stack([rows_of(x) @ joint.ravel() for x, joint in zip(payoffs, rated.joint)])
  np.testing.assert_allclose(together(rated), gains, atol=1e-12)
  assert rated.converged.all() and together(rated).max() < 1e-7
  for p, row in enumerate(rated.contributions):
    for q, block in enumerate(row):
      assert block.shape == (5, payoffs.shape[2 + p], payoffs.shape[2 + q])
      np.testing.assert_allclose(block.sum(-1), rated.ratings[p], atol=1e-12)
    assert np.all(np.diff(np.take_along_axis(rated.ratings[p], rated.order[p], -1)) <= 0)


def test_own_contributions_are_the_gains_of_a_ce():
  payoffs = np.random.default_rng(9).normal(size=(2, 3, 4))
  rated = ratings.equilibrium(payoffs, "ce", "max_welfare")
  gaps = metrics.gap(payoffs, rated.joint, 0.0, "ce")
  own = [rated.contributions[p][p] for p in range(2)]
  assert sum(max(x.max(), 0) for x in own) == pytest.approx(float(gaps), abs=1e-6)


def test_equilibrium_under_jit():
  payoffs = np.random.default_rng(10).normal(size=(2, 3, 3)).astype(np.float32)
  traced = jax.jit(lambda x: ratings.equilibrium(x).ratings[0])(payoffs)
  np.testing.assert_allclose(traced, ratings.equilibrium(payoffs).ratings[0], atol=1e-3)


def test_ratings_are_differentiable_in_the_selection():
  payoffs = np.random.default_rng(11).normal(size=(2, 3, 3)).astype(np.float32)

  def rating(weight):
    welfare = payoffs.sum(0)
    selection = nes_jax.Selection(welfare=welfare, welfare_weight=weight)
    return ratings.equilibrium(payoffs, selection=selection).ratings[0].sum()

  slope = jax.grad(rating)(1.0)
  assert np.isfinite(slope)
  assert slope == pytest.approx((rating(1.05) - rating(0.95)) / 0.1, abs=0.02)


def test_ratings_of_polarix():
  """Ratings by `ce_maxent` of polarix 0.1.2 with tol=2e-6, where it says that it has finished."""
  stored = np.load(pathlib.Path(__file__).parent / "data" / "polarix.npz")
  for name in ("two", "three"):
    rated = ratings.equilibrium(stored[f"payoffs_{name}"], "ce", batched=True)
    for p, found in enumerate(rated.ratings):
      np.testing.assert_allclose(found, stored[f"ratings_{name}_{p}"], atol=1e-3)
