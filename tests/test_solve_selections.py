"""nes_jax.solve: selections by name, against linear programs, and infeasible epsilons."""

import jax
import numpy as np
import pytest
from scipy import optimize
from solutions import CONCEPTS, EXACT, KNOWN, assert_solution
from test_deviation import flat_gains

import nes_jax


def test_match_target():
  """A target that is an equilibrium is the answer. Zeros count as 0+. Games have own targets."""
  pure = np.zeros((4, 2, 2))
  pure[0, 1, 1] = pure[2, 0, 1] = pure[3, 0, 0] = 1
  pure[1] = 0.25
  selection = nes_jax.Selection(target=pure)
  solution = nes_jax.solve(KNOWN, selection=selection, **EXACT)
  assert_solution(solution, KNOWN, "cce")
  np.testing.assert_allclose(solution.joint, pure, atol=1e-5)


@pytest.mark.slow
def test_max_welfare():
  solution = nes_jax.solve(KNOWN, selection="max_welfare", **EXACT)
  assert_solution(solution, KNOWN, "cce")
  for b, game in enumerate(KNOWN):
    rows = np.concatenate(flat_gains(game, "cce"))
    best = optimize.linprog(
        -game.sum(0).ravel(), A_ub=rows, b_ub=np.zeros(len(rows)), A_eq=np.ones((1, 4)), b_eq=[1]
    )
    welfare = np.sum(solution.joint[b] * game.sum(0))
    # The weight 1000 leaves at most log(4) / 1000 standard deviations of the welfare.
    assert -best.fun - 2e-3 * max(game.sum(0).std(), 1e-9) - 1e-6 < welfare < -best.fun + 1e-6


@pytest.mark.slow
def test_max_strength():
  """The sum of epsilon over players, in normalised units, is as small as in a linear program."""
  solution = nes_jax.solve(KNOWN, selection="max_strength", **EXACT)
  assert solution.converged.all()
  for b, game in enumerate(KNOWN):
    scale = game.std((1, 2))
    rows = np.concatenate([m / s for m, s in zip(flat_gains(game, "cce"), scale)])
    owner = -np.repeat(np.eye(2), 2, 0)
    best = optimize.linprog(
        [0] * 4 + [1, 1],
        A_ub=np.column_stack([rows, owner]),
        b_ub=np.zeros(4),
        A_eq=[[1] * 4 + [0, 0]],
        b_eq=[1],
        bounds=[(0, 1)] * 4 + [(-2, None)] * 2,
    )
    # With rho 1e4 and epsilon-plus 1e3 the difference is usually below 1e-2.
    assert abs(np.sum(solution.epsilon[b] / scale) - best.fun) < 5e-2


@pytest.mark.parametrize("concept", CONCEPTS)
def test_infeasible_epsilon_is_reported(concept):
  """Matching pennies has no equilibrium with a margin, and the answer says so."""
  selection = nes_jax.Selection(epsilon=np.array([-0.5, -0.5]))
  solution = nes_jax.solve(KNOWN, concept=concept, selection=selection, **EXACT)
  assert not solution.converged[1]
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(solution))
  np.testing.assert_array_equal(solution.epsilon, np.full((4, 2), -0.5))
  assert solution.gap[1] > 0.5
