"""nes_jax.nash_zero_sum: Nash equilibria of zero-sum games, against linear programs."""

import numpy as np
import pytest
from scipy import optimize
from solutions import EXACT, KNOWN, random_games
from test_metrics import loop_violations

import nes_jax


def linear_program_value(payoffs):
  """The value of a zero-sum game to the row player, by SciPy."""
  rows, columns = payoffs.shape
  found = optimize.linprog(
      np.append(np.zeros(rows), -1.0),
      A_ub=np.column_stack([-payoffs.T, np.ones(columns)]),
      b_ub=np.zeros(columns),
      A_eq=np.append(np.ones(rows), 0.0)[None],
      b_eq=[1],
      bounds=[(0, 1)] * rows + [(None, None)],
  )
  return -found.fun


def zero_sum_games():
  biased = np.array([[0, -1, 2], [1, 0, -3], [-1, 4, 0.5]])
  first = np.stack([biased, 100 * biased.T + 7, np.eye(3), random_games(5, 1)[0, 0]])
  return np.stack([first, -first], 1)


def test_nash_zero_sum():
  games = zero_sum_games()
  games[1, 1] += 50  # The game stays constant-sum.
  solution = nes_jax.nash_zero_sum(games, **EXACT)
  assert solution.converged.all()
  for b, game in enumerate(games):
    x, y = (m[b] for m in solution.marginals)
    size = np.ptp(game[0])
    np.testing.assert_allclose(solution.joint[b], np.outer(x, y), atol=1e-12)
    value = linear_program_value(game[0])
    assert abs(x @ game[0] @ y - value) < 1e-6 * size
    assert (game[0] @ y).max() < value + 1e-6 * size
    assert (x @ game[0]).min() > value - 1e-6 * size
    expected = loop_violations(game, solution.joint[b], 0.0, "cce").sum()
    np.testing.assert_allclose(solution.gap[b], expected, atol=1e-12 * size)


def test_nash_zero_sum_of_one_matrix():
  game = zero_sum_games()[0, 0]
  solution = nes_jax.nash_zero_sum(game)
  assert solution.joint.shape == (3, 3)
  x, y = (np.asarray(m, float) for m in solution.marginals)
  assert abs(x @ game @ y - linear_program_value(game)) < 1e-3


def test_nash_zero_sum_refuses():
  with pytest.raises(ValueError, match="3 of 4 games are not constant-sum .*game 0.*nes_jax.solve"):
    nes_jax.nash_zero_sum(KNOWN)
  with pytest.raises(ValueError, match="leave out concept"):
    nes_jax.nash_zero_sum(KNOWN, concept="ce")
  with pytest.raises(ValueError, match=r"\[B, A1, A2\] payoffs, not \[4, 3, 2, 2\]"):
    nes_jax.nash_zero_sum(np.zeros((4, 3, 2, 2)))
