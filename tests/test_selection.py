"""nes_jax.selection: the nine rows of Table 3, their defaults, and problems on the sphere."""

import dataclasses
import math

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
  assert problem.welfare_weight == 4 and problem.rho == 1e3


def test_problem_defaults(x64):
  problem, _ = selection.problem(jnp.asarray(PAYOFFS), Selection())
  np.testing.assert_allclose(problem.target, np.full((2, 3), 1 / 6))
  assert (problem.welfare == 0).all() and problem.welfare_weight == 0
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


def test_on_face_keeps_the_targets_weights(x64):
  dilemma = jnp.array([[[3.0, 0, 0], [5, 1, 1]], [[3.0, 5, 5], [0, 1, 1]]])
  target = jnp.array([[0.6, 0.0, 0.1], [0.1, 0.05, 0.15]])
  problem, _ = selection.problem(dilemma, Selection(target=target))
  for concept in ("cce", "ce"):
    on_face = selection.on_face(problem, concept)
    np.testing.assert_allclose(on_face.target, [[0, 0, 0], [0, 0.25, 0.75]], atol=1e-11)
    assert (on_face.target > 0).all()
  soft, _ = selection.problem(dilemma, Selection(target=target, rho=1e4))
  assert selection.on_face(soft, "cce") is soft
