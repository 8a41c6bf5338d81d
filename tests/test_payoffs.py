"""nes_jax.solve: payoffs of unusual types, in JAX's strict modes, and huge penalties."""

import contextlib
import fractions

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from solutions import CHICKEN, CONCEPTS, DILEMMA, EXACT, KNOWN, assert_solution, reference

import nes_jax

# Types.


@pytest.mark.parametrize(
    "convert",
    [np.ndarray.tolist, lambda x: x.astype(int), lambda x: jnp.asarray(x, jnp.int32).tolist()],
    ids=["list", "int", "python ints"],
)
def test_lists_and_integers(convert):
  solution = nes_jax.solve(convert(KNOWN), concept="cce")
  assert_solution(solution, KNOWN, "cce")


def test_booleans_are_zero_and_one():
  games = KNOWN > 1
  found = nes_jax.solve(games).joint
  np.testing.assert_array_equal(found, nes_jax.solve(games.astype(float)).joint)


def to_fractions(games):
  return np.vectorize(fractions.Fraction, otypes=[object])(games)


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.astype(np.longdouble),
        lambda x: x.astype(np.float16),
        lambda x: x.astype(ml_dtypes.bfloat16),
        lambda x: x.astype(ml_dtypes.float8_e4m3fn),
        lambda x: x.astype(int).astype(object),
        to_fractions,
        lambda x: to_fractions(x).tolist(),
        lambda x: jnp.asarray(x, jnp.bfloat16),
        lambda x: x.astype(np.int8),
    ],
    ids="longdouble float16 bfloat16 float8 objects fractions list jax int8".split(),
)
def test_types_of_payoffs(convert):
  solution = nes_jax.solve(convert(KNOWN))
  assert_solution(solution, KNOWN, "cce")
  assert solution.joint.dtype == np.float32
  np.testing.assert_allclose(solution.joint[0], [[0, 0], [0, 1]], atol=1e-2)
  np.testing.assert_allclose(solution.joint[2], reference(CHICKEN, "cce"), atol=1e-2)


def test_python_booleans():
  games = (KNOWN > 1).tolist()
  assert type(games[0][0][0][0]) is bool
  found = nes_jax.solve(games)
  assert_solution(found, KNOWN > 1, "cce")


@pytest.mark.parametrize(
    "payoffs",
    [
        np.array(DILEMMA, object).astype(str).astype(object) + "x",
        np.full((2, 2, 2), None),
        np.array(DILEMMA, complex),
        np.array(DILEMMA, complex).astype(object),
        np.array(DILEMMA).astype("timedelta64[s]"),
    ],
    ids=["strings", "none", "complex", "complex objects", "durations"],
)
def test_types_that_are_no_real_numbers(payoffs):
  with pytest.raises(ValueError, match="real numbers"):
    nes_jax.solve(payoffs)


@pytest.mark.slow
def test_strict_promotion():
  plain = nes_jax.solve(KNOWN)
  with contextlib.ExitStack() as stack:
    stack.enter_context(jax.numpy_dtype_promotion("strict"))
    stack.enter_context(jax.numpy_rank_promotion("raise"))
    found = nes_jax.solve(KNOWN)

    def loss(games):
      joint = nes_jax.solve(games).joint
      return joint[2, 0, 0], joint

    games = jnp.asarray(KNOWN, jnp.float32)
    jitted = jax.jit(lambda games: nes_jax.solve(games).joint)(games)
    gradient, joint = jax.jit(jax.grad(loss, has_aux=True))(games)
  for x in (found.joint, jitted, joint):
    np.testing.assert_allclose(x, plain.joint, atol=1e-3)
  assert np.isfinite(gradient).all() and np.abs(gradient[2]).max() > 1e-3
  assert (gradient[np.array([0, 1, 3])] == 0).all()


# Penalties.

PENALTIES = (-1e5, -1e6, -1e9, -1e12)


def forbidden_by(b):
  rows = np.array([[3.0, 0, 5], [5, 1, 5], [b, b, b]])
  return np.stack([rows, rows.T])


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("precision", [pytest.param("float32", marks=pytest.mark.slow), "float64"])
@pytest.mark.parametrize("values", [PENALTIES, (-np.inf,) + PENALTIES[1:]], ids=["finite", "mixed"])
def test_strategies_forbidden_by_a_penalty(concept, precision, values):
  """Without the third strategy the game is a prisoner's dilemma. Its payoffs of 5 tempt nobody."""
  games = np.stack([forbidden_by(b) for b in values])
  solution = nes_jax.solve(games, concept=concept, precision=precision)
  atol, tolerance = {"float32": (5e-3, 2e-3), "float64": (1e-6, 1e-6)}[precision]
  expected = np.zeros((4, 3, 3))
  expected[:, 1, 1] = 1
  assert solution.converged.all()
  np.testing.assert_allclose(solution.joint, expected, atol=atol)
  assert (solution.gap <= 4 * tolerance).all() and (solution.gap >= 0).all()


@pytest.mark.parametrize("concept", CONCEPTS)
def test_collisions(concept):
  """Chicken, where to dare against a player who dares costs ever more."""
  games = np.array([CHICKEN] * 4, float)
  games[:, :, 1, 1] = np.array(PENALTIES)[:, None]
  solution = nes_jax.solve(games, concept=concept, **EXACT)
  assert solution.converged.all()
  # The players never both dare. To swerve is obeyed where 6 s + 2 m >= 7 s. (1/3, 1/3, 1/3) meets
  # this, and has the maximum entropy of the rest.
  np.testing.assert_allclose(solution.joint, [[[1 / 3, 1 / 3], [1 / 3, 0]]] * 4, atol=1e-4)
  assert (solution.gap <= 1e-6 * 4).all()


@pytest.mark.parametrize("concept", CONCEPTS)
def test_two_strategies_forbidden_by_different_penalties(concept):
  """A 2x2 game in which each player has a third strategy with random huge penalties."""
  rng = np.random.default_rng(13)
  games = np.zeros((4, 2, 3, 3))
  games[:, :, :2, :2] = KNOWN
  games[:, 0, :2, 2] = rng.uniform(0, 5, size=(4, 2))
  games[:, 1, 2, :2] = rng.uniform(0, 5, size=(4, 2))
  games[:, 0, 2] = -(10 ** rng.uniform(6, 10, size=(4, 3)))
  games[:, 1, :, 2] = -(10 ** rng.uniform(6, 10, size=(4, 3)))
  solution = nes_jax.solve(games, concept=concept, **EXACT)
  alone = nes_jax.solve(KNOWN, concept=concept, **EXACT)
  assert solution.converged.all()
  np.testing.assert_allclose(solution.joint[:, :2, :2], alone.joint, atol=1e-4)
  assert (solution.joint[:, 2] < 1e-6).all() and (solution.joint[:, :, 2] < 1e-6).all()


def test_differences_next_to_a_large_offset():
  """float32 would round payoffs near 1e9 to multiples of 64."""
  games = KNOWN + 1e9
  found = nes_jax.solve(games, precision="float32")
  assert found.joint.dtype == np.float32 and found.converged.all()
  np.testing.assert_allclose(found.joint[0], [[0, 0], [0, 1]], atol=1e-2)
  np.testing.assert_allclose(found.joint[2], reference(CHICKEN, "cce"), atol=1e-2)
