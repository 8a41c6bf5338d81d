"""nes_jax.selection: the nine rows of Table 3, their defaults, and problems on the sphere."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nes_jax import selection
from nes_jax.selection import Selection

PAYOFFS = np.random.default_rng(0).normal(size=(2, 2, 3))
TARGET = np.random.default_rng(1).dirichlet(np.ones(6)).reshape(2, 3)
WELFARE = np.random.default_rng(2).normal(size=(2, 3))
GIVEN = {"target": TARGET, "welfare": WELFARE, "epsilon": np.array([0.5, -0.25])}

# name, abbreviation, what the user gives, and where the rest departs from maximum entropy.
ROWS = [
    ("max_entropy", "ME", (), {}),
    ("match_target", "MT", ("target",), {}),
    ("max_welfare", "MU", (), {"welfare_weight": 1e3}),
    ("max_welfare_max_entropy", "MWME", ("welfare",), {"welfare_weight": 1e3}),
    ("min_relative_entropy", "MRE", ("target",), {}),
    ("max_strength", "MS", (), {"epsilon": -math.inf, "rho": 3e4, "epsilon_max": 5e2}),
    ("epsilon_max_entropy", "eps-ME", ("epsilon",), {"rho": 1e4}),
    (
        "epsilon_max_welfare_max_entropy",
        "eps-MWME",
        ("epsilon", "welfare"),
        {"welfare_weight": 1e3, "rho": 1e4},
    ),
    ("epsilon_min_relative_entropy", "eps-MRE", ("epsilon", "target"), {"rho": 1e4}),
]


def test_nine_names():
  assert selection.NAMES == tuple(name for name, *_ in ROWS)


@pytest.mark.parametrize("name, abbreviation, needs, departs", ROWS, ids=[r[1] for r in ROWS])
def test_rows(name, abbreviation, needs, departs):
  inputs = {field: GIVEN[field] for field in needs}
  expected = {**dataclasses.asdict(Selection()), **inputs, **departs}
  if name == "max_welfare":
    expected["welfare"] = PAYOFFS.sum(0)
  for key in (name, abbreviation):
    found = dataclasses.asdict(selection.named(key, PAYOFFS, **inputs))
    assert found.keys() == expected.keys()
    for field, value in expected.items():
      np.testing.assert_array_equal(found[field], value, err_msg=field)
  for field in needs:
    left = {k: v for k, v in inputs.items() if k != field}
    with pytest.raises(ValueError, match=rf"'{name}' needs .*{field}.*named\('{name}', payoffs"):
      selection.named(abbreviation, PAYOFFS, **left)


def test_row_defaults_can_be_overridden():
  found = selection.named("max_welfare", PAYOFFS, welfare_weight=3.0, epsilon=0.1)
  assert found.welfare_weight == 3.0 and found.epsilon == 0.1 and math.isinf(found.rho)


def test_defaults_are_hard_maximum_entropy():
  plain = Selection()
  assert plain.target is None and plain.welfare is None and plain.epsilon == 0
  assert math.isinf(plain.rho) and plain.epsilon_max == 1
  with pytest.raises(TypeError):
    Selection(TARGET)  # keyword only


def test_unknown_name_lists_all():
  with pytest.raises(ValueError, match="unknown selection 'maxent'") as caught:
    selection.named("maxent", PAYOFFS)
  for name, abbreviation, *_ in ROWS:
    assert f"{name} ({abbreviation})" in str(caught.value)


def test_max_welfare_sums_over_players_of_each_game():
  batch = np.stack([PAYOFFS, 3 * PAYOFFS + 1])
  np.testing.assert_array_equal(selection.named("MU", batch).welfare, batch.sum(1))
  # [3, 3, 2, 2]: no game of three players, so a batch; [3, 2, 2, 2] needs to be told.
  both = np.arange(24.0).reshape(3, 2, 2, 2)
  for axis in (0, 1):
    found = selection.named("MU", both, player_axis=axis).welfare
    np.testing.assert_array_equal(found, both.sum(axis))


def test_problem(x64):
  given = Selection(**GIVEN, welfare_weight=4.0, rho=1e3, epsilon_max=2.0)
  units = 50 * jnp.asarray(PAYOFFS) - 7
  problem, scale = selection.problem(units, given)
  root = math.sqrt(6)
  for p in range(2):
    centred = units[p] - units[p].mean()
    np.testing.assert_allclose(problem.payoffs[p], centred / scale[p], atol=1e-12)
    np.testing.assert_allclose(jnp.linalg.norm(problem.payoffs[p]), root)
  np.testing.assert_allclose(problem.epsilon, GIVEN["epsilon"] / scale)
  np.testing.assert_allclose(problem.epsilon_max, 2 * root)
  np.testing.assert_allclose(problem.target, TARGET)
  np.testing.assert_allclose(problem.welfare, (WELFARE - WELFARE.mean()) / WELFARE.std())
  assert problem.welfare_weight == 1 and problem.temperature == 0.25 and problem.rho == 1e3


@pytest.mark.parametrize(
    "mu, temperature, weight", [(0.0, 1, 0), (0.5, 1, 0.5), (4.0, 0.25, 1), (math.inf, 0, 1)]
)
def test_the_objective_is_divided_by_the_larger_weight(x64, mu, temperature, weight):
  given = Selection(**{**GIVEN, "welfare_weight": mu})
  problem, _ = selection.problem(jnp.asarray(PAYOFFS), given)
  np.testing.assert_allclose((problem.temperature, problem.welfare_weight), (temperature, weight))
  slope = jax.grad(
      lambda mu: selection.problem(
          jnp.asarray(PAYOFFS), dataclasses.replace(given, welfare_weight=mu)
      )[0].welfare_weight
  )(mu)
  assert slope == (1 if 0 < mu < 1 else 0) or mu == 0


def test_problem_defaults(x64):
  problem, _ = selection.problem(jnp.asarray(PAYOFFS), Selection())
  np.testing.assert_allclose(problem.target, np.full((2, 3), 1 / 6))
  assert (problem.welfare == 0).all()
  assert problem.welfare_weight == 0 and problem.temperature == 1
  assert (problem.epsilon == 0).all()


@pytest.mark.parametrize("rho", [1e3, math.inf])
def test_epsilon_is_clipped_where_soft_only(x64, rho):
  given = Selection(epsilon=jnp.array([1e9, -1e9]), rho=rho)
  problem, scale = selection.problem(jnp.asarray(PAYOFFS), given)
  if math.isinf(rho):
    np.testing.assert_allclose(problem.epsilon, given.epsilon / scale)
  else:
    np.testing.assert_allclose(problem.epsilon, [math.sqrt(6), -math.sqrt(6)], rtol=1e-5)
    assert (problem.epsilon < problem.epsilon_max).all()


def test_target_zeros_become_small(x64):
  problem, _ = selection.problem(
      jnp.asarray(PAYOFFS), Selection(target=jnp.zeros((2, 3)).at[1, 2].set(1.0))
  )
  assert (problem.target > 0).all()
  np.testing.assert_allclose(problem.target.sum(), 1)
  assert problem.target[1, 2] > 1 - 1e-10


# Units with hard and with soft constraints.

FORBIDDEN = np.array([[3.0, 0, 5], [5, 1, 5], [-1e9, -1e9, -1e9]])


def power_of_two(x):
  return bool((np.frexp(np.asarray(x))[0] == 0.5).all())


@pytest.mark.parametrize("size", [1.0, 3e-200, 7e150])
def test_hard_constraints_round_no_payoff(x64, size):
  """Payoffs are divided by a power of two near their norm, and nothing is subtracted."""
  units = size * (jnp.asarray(PAYOFFS) + 5)
  problem, scale = selection.problem(units, Selection())
  assert power_of_two(scale)
  np.testing.assert_array_equal(problem.payoffs * scale[:, None, None], units)
  ratio = size * PAYOFFS.std((1, 2)) / scale
  assert ((ratio > 0.7) & (ratio < 1.42)).all()


def test_no_penalty_sets_the_scale(x64):
  payoffs = jnp.asarray(np.stack([FORBIDDEN, FORBIDDEN.T]))
  for b in (-1e5, -1e9, -1e12):
    game = jnp.where(payoffs == -1e9, b, payoffs)
    hard, scale = selection.problem(game, Selection())
    # The second strategy is dominant, the first loses 2 at most: 4 times 2.
    np.testing.assert_array_equal(scale, [8, 8])
    np.testing.assert_array_equal(hard.payoffs * 8, game)


def test_who_cannot_gain_or_lose_has_scale_zero(x64):
  payoffs = jnp.asarray(PAYOFFS).at[0].set(jnp.array([1.0, -2, 7]))  # depends on player 1 alone
  problem, scale = selection.problem(payoffs, Selection())
  assert scale[0] == 0 and scale[1] > 0
  assert (problem.payoffs[0] == 0).all() and (problem.payoffs[1] != 0).any()


@pytest.mark.parametrize("rho", [1e3, math.inf])
def test_problem_of_strategies_that_exist(x64, rho):
  """Units, target and epsilon-plus are those of the game without the other strategies."""
  given = Selection(**GIVEN, welfare_weight=4.0, rho=rho, epsilon_max=2.0)
  alone, scale = selection.problem(jnp.asarray(PAYOFFS), given)
  rows, columns = np.array([1, 2]), np.array([0, 1, 3])
  def pad(x, fill):
    return np.full(x.shape[:-2] + (3, 4), fill)
  inside = (..., rows[:, None], columns)
  payoffs, target, welfare = pad(PAYOFFS, 1e6), pad(TARGET, 0.0), pad(WELFARE, -50.0)
  for outer, inner in ((payoffs, PAYOFFS), (target, TARGET), (welfare, WELFARE)):
    outer[inside] = inner
  strategies = (jnp.array([False, True, True]), jnp.array([True, True, False, True]))
  padded, padded_scale = selection.problem(
      jnp.asarray(payoffs),
      dataclasses.replace(given, target=target, welfare=welfare),
      strategies,
  )
  np.testing.assert_allclose(padded_scale, scale, rtol=1e-12)
  for name in ("payoffs", "target", "welfare"):
    found = np.asarray(getattr(padded, name))
    np.testing.assert_allclose(found[inside], getattr(alone, name), rtol=1e-10, atol=1e-12)
    if name != "welfare":
      rest = found.copy()
      rest[inside] = 0
      assert (rest == 0).all()
  for name in ("epsilon", "epsilon_max", "welfare_weight", "temperature"):
    np.testing.assert_allclose(getattr(padded, name), getattr(alone, name), rtol=1e-12)
