"""envs.symmetric: each game meets its definition, and self-play ends within the bound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import symmetric

KINKED = symmetric.piecewise_potential(above=0.8, below=0.1)
GAMES = [*symmetric.GAMES.values(), KINKED]
IDS = [*symmetric.GAMES, "kinked"]
GRID = np.linspace(0, 1, 201)
X, Y = np.meshgrid(GRID, GRID, indexing="ij")


@pytest.fixture(params=GAMES, ids=IDS)
def game(request):
  return request.param


def test_gains_above_epsilon_raise_the_skill_by_more_than_delta(game):
  """Assumption 1 holds on a grid, at every epsilon."""
  u = np.asarray(game.payoff(X, Y), float)
  gain = u - np.diag(u)  # [y, x]: gain of y over x against x
  skill = np.asarray(game.skill(GRID), float)
  rise = skill[:, None] - skill
  ratios = []
  for epsilon in (0.003, 0.01, 0.05, 0.2):
    worst = rise[gain > epsilon].min()
    assert worst > float(game.delta(epsilon)) - 1e-6
    ratios.append(float(game.delta(epsilon)) / worst)
  assert max(ratios) > 0.7  # the bound is nearly reached
  np.testing.assert_allclose([skill.min(), skill.max()], game.skills, atol=1e-6)


def test_the_equilibrium_is_the_only_one(game):
  u = np.asarray(game.payoff(X, Y), float)
  best = (u - np.diag(u)).max(axis=0)  # gain of the best deviation at each x
  at = GRID[best < 1e-6]
  np.testing.assert_allclose(at, game.equilibrium, atol=1e-9)


@pytest.mark.parametrize("epsilon", [0.02, 0.05])
def test_self_play_ends_within_the_bound(game, epsilon):
  """Each step of the slowest sequence takes the least gain that is above epsilon."""
  u = np.asarray(game.payoff(X, Y), float)
  gain = u - np.diag(u)
  x, steps = int(np.argmin(game.skill(GRID))), 0
  while (gain[:, x] > epsilon).any():
    x = min(np.flatnonzero(gain[:, x] > epsilon), key=lambda y: gain[y, x])
    steps += 1
    assert steps <= game.steps(epsilon)
  assert steps > 0.3 * game.steps(epsilon)
  # At its end no strategy gains more than epsilon; in the piecewise game the end is near x = 1.
  if game.name == "piecewise_potential":
    assert GRID[x] > 1 - epsilon


@pytest.mark.parametrize("name", ["transitive", "monotonic"])
def test_the_first_two_are_of_zero_sum(name):
  u = np.asarray(symmetric.GAMES[name].payoff(X, Y), float)
  np.testing.assert_allclose(u, -u.T, atol=1e-6)


@pytest.mark.parametrize("slopes", [(0.5, 0.5), (0.8, 0.1), (0.0, 1.0)])
def test_piecewise_potentials(slopes):
  """By the paper's definition, deviations upwards follow P_1, and those downwards follow P_2."""
  game = symmetric.piecewise_potential(*slopes)
  u = np.asarray(game.payoff(X, Y), float)
  first, second = (np.asarray(p, float) for p in symmetric.piecewise_potentials(X, Y, *slopes))
  skill = np.asarray(game.skill(GRID), float)
  for potential in (first, second):
    np.testing.assert_allclose(potential, potential.T, atol=1e-6)
    np.testing.assert_allclose(np.diag(potential), skill, atol=1e-6)
  here = np.diag(u)
  for x in range(0, 201, 20):
    for y in range(x, 201, 15):
      assert here[x] <= u[y, x] + 1e-9 and u[x, y] <= here[y] + 1e-9  # x comes before y
      assert u[y, x] - here[x] == pytest.approx(first[y, x] - first[x, x], abs=1e-6)
      assert here[y] - u[x, y] == pytest.approx(second[y, y] - second[x, y], abs=1e-6)


def test_piecewise_games_are_potential_games_as_well():
  # Gains around a cycle (x, y), (z, y), (z, w), (x, w), (x, y) of single moves add up to 0
  # (Monderer and Shapley 1996).
  def cycle(u, x, y, z, w):
    first = u(z, y) - u(x, y) + u(x, w) - u(z, w)
    return first + u(w, z) - u(y, z) + u(y, x) - u(w, x)

  points = 0.1, 0.9, 0.3, 0.6
  for game in (symmetric.PIECEWISE_POTENTIAL, KINKED):
    assert abs(cycle(game.payoff, *points)) < 1e-6
  # The game with another h is no exact potential game.
  assert abs(cycle(lambda x, y: (1 + (x + y) ** 2) * (1 + (x - y) / 2), *points)) > 0.01


def test_payoffs_by_hand():
  u = symmetric.PIECEWISE_POTENTIAL.payoff
  assert float(u(0.75, 0.25)) == pytest.approx(2 * 1.25)
  assert float(u(0.25, 0.75)) == pytest.approx(2 * 0.75)
  assert symmetric.PIECEWISE_POTENTIAL.steps(0.1) == pytest.approx(2 / 0.08)
  assert symmetric.TRANSITIVE.steps(0.1) == pytest.approx(4.9)


def test_the_environment_pays_both_players(game):
  env = symmetric.SymmetricGame(game)
  profile = env.profile(2.0)
  _, state = env.reset(jax.random.key(0), profile)
  _, state, reward, done, info = env.step(
      jax.random.key(0), state, jnp.array([[0.2], [0.9]]), profile
  )
  expected = [2 * float(game.payoff(0.2, 0.9)), 2 * float(game.payoff(0.9, 0.2))]
  np.testing.assert_allclose(reward, expected, rtol=1e-6)
  assert done and not info["truncated"]
  np.testing.assert_allclose(env.outputs(state)["supertype_action"], [0.55], rtol=1e-6)
  np.testing.assert_allclose(env.outputs(state)["rewards"], expected, rtol=1e-6)


def test_what_is_refused():
  with pytest.raises(ValueError, match="epsilon=0 must be positive"):
    symmetric.TRANSITIVE.steps(0)
  with pytest.raises(ValueError, match="below=1.5"):
    symmetric.piecewise_potential(below=1.5)
