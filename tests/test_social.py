"""nes_jax.solving.social, and selections beyond the paper's Table 3: against linear programs."""

import jax
import numpy as np
import programs
import pytest
from scipy import optimize

import nes_jax
from nes_jax.selection import named


def largest_smallest(game, concept):
  """The largest smallest payoff of an equilibrium, by HiGHS."""
  rows = programs.deviation_rows(game, concept)
  flat = game.reshape(len(game), -1)
  found = optimize.linprog(
      np.r_[np.zeros(flat.shape[1]), -1],
      A_ub=np.block([[rows, np.zeros((len(rows), 1))], [-flat, np.ones((len(flat), 1))]]),
      b_ub=np.zeros(len(rows) + len(flat)),
      A_eq=[np.r_[np.ones(flat.shape[1]), 0]],
      b_eq=[1],
      bounds=[(0, None)] * flat.shape[1] + [(None, None)],
  )
  return -found.fun


def solved(games, concept, selection):
  """The solution in float64, and expected payoffs [B, N]."""
  solution = nes_jax.solve(
      games, concept=concept, selection=selection, precision="float64", batched=True
  )
  values = (games * np.asarray(solution.joint)[:, None]).sum(tuple(range(2, games.ndim)))
  return solution, values


@pytest.mark.parametrize("shape,concept", [
    ((3, 4), "cce"), ((2, 3, 2), "cce"), pytest.param((3, 3), "ce", marks=pytest.mark.slow)
])
def test_egalitarian(shape, concept):
  games = np.random.default_rng(0).normal(size=(4, len(shape), *shape))
  solution, values = solved(games, concept, "egalitarian")
  assert solution.converged.all() and solution.joint.shape == (4, *shape)
  assert [x.shape for x in solution.marginals] == [(4, count) for count in shape]
  assert len(solution.duals) == len(shape) == solution.epsilon.shape[1]
  wanted = [largest_smallest(game, concept) for game in games]
  # The entropy term takes log(size) / 1000 of a payoff's standard deviation at most.
  np.testing.assert_allclose(values.min(1), wanted, atol=5e-3)
  for game, joint, gap in zip(games, solution.joint, solution.gap):
    assert float(nes_jax.metrics.gap(game, joint, 0.0, concept)) <= gap + 1e-6


@pytest.mark.parametrize("concept", ["cce", "ce"])
def test_republican_and_payoffs_of_players(concept):
  games = np.random.default_rng(1).normal(size=(4, 2, 3, 4))
  solution, values = solved(games, concept, "republican")
  best = np.array([[programs.largest(game, own, concept) for own in game] for game in games])
  assert solution.converged.all()
  np.testing.assert_allclose(values.max(1), best.max(1), atol=5e-3)
  for player in (0, 1):
    chosen = named("player_payoff", games, player_axis=1, player=player)
    _, values = solved(games, concept, chosen)
    np.testing.assert_allclose(values[:, player], best[:, player], atol=5e-3)


def test_smallest_welfare():
  games = np.random.default_rng(2).normal(size=(4, 2, 3, 3))
  _, values = solved(games, "cce", "min_welfare")
  wanted = [programs.cost_range(game, game.sum(0))[0] for game in games]
  np.testing.assert_allclose(values.sum(1), wanted, atol=5e-3)


@pytest.mark.parametrize("name", ["egalitarian", "republican"])
def test_one_game_of_a_batch_and_a_list(name):
  games = np.random.default_rng(3).normal(size=(4, 2, 3, 3))
  together, _ = solved(games, "cce", name)
  options = dict(selection=name, precision="float64")
  one = nes_jax.solve(games[1], **options)
  np.testing.assert_allclose(one.joint, together.joint[1], atol=1e-6)
  first, second = nes_jax.solve([games[2][:, :, :2], games[1]], **options)
  assert first.joint.shape == (3, 2)
  np.testing.assert_allclose(second.joint, together.joint[1], atol=1e-6)
  traced = jax.jit(lambda x: nes_jax.solve(x, selection=name).joint)(games.astype(np.float32))
  np.testing.assert_allclose(traced, together.joint, atol=5e-2)


@pytest.mark.parametrize("name", ["egalitarian", "republican"])
def test_strategies_that_do_not_exist(name):
  whole = np.random.default_rng(4).normal(size=(2, 2, 3, 3))
  games = np.pad(whole, [(0, 0), (0, 0), (0, 1), (0, 0)])
  games[:, 0, 3] = -np.inf
  solution = nes_jax.solve(games, selection=name, precision="float64")
  expected, _ = solved(whole, "cce", name)
  np.testing.assert_allclose(solution.joint[:, :3], expected.joint, atol=1e-6)
  assert (solution.joint[:, 3] == 0).all()
  games[0, 0, 0, 0] = np.nan
  with pytest.raises(ValueError, match="NaN or infinite"):
    nes_jax.solve(games, selection=name)
  marked = nes_jax.solve(games, selection=name, invalid="mark")
  assert list(marked.converged) == [False, True] and np.isnan(marked.joint[0]).all()


def test_what_is_wrong_is_named():
  game = np.zeros((2, 2, 2))
  with pytest.raises(ValueError, match="'egalitarian' takes no duals"):
    nes_jax.solve(game, selection="egalitarian", duals=(np.zeros(2), np.zeros(2)))
  with pytest.raises(ValueError, match="no network"):
    nes_jax.solve(game, selection="republican", method="neural")
  with pytest.raises(ValueError, match="needs player"):
    nes_jax.solve(game, selection="player_payoff")
  with pytest.raises(ValueError, match="from 0 to 1, not 2"):
    named("player_payoff", game, player=2)
