"""nes_jax.solve: known answers, shapes, transformations, properties, precision, degenerate games.

Games are float64 NumPy with x64 off unless a test says so. Compilation is what costs time here, so
nearly all tests share one shape, [4, 2, 3, 3] or [4, 2, 2, 2], and `EXACT`, the float64 engine.
"""

import functools

import chex
import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solutions import (
  CONCEPTS,
  EXACT,
  GAMES,
  KNOWN,
  assert_solution,
  interior_inputs,
  random_games,
  reference,
)
from test_deviation import flat_gains
from test_metrics import loop_violations

from launch.checks import census
import nes_jax
from nes_jax.games import gamut


@functools.cache
def solved(concept):
  return nes_jax.solve(GAMES, concept=concept, **EXACT)


# Known answers.


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_known_games(concept, precision):
  solution = nes_jax.solve(KNOWN, concept=concept, precision=precision)
  assert solution.joint.dtype == precision
  assert_solution(solution, KNOWN, concept)
  # On a face the error is about the root of the tolerance at worst, and usually 1e-5 and 1e-8.
  atol = {"float32": 1e-2, "float64": 1e-5}[precision]
  np.testing.assert_allclose(solution.joint[0], [[0, 0], [0, 1]], atol=atol)
  np.testing.assert_allclose(solution.joint[1], np.full((2, 2), 0.25), atol=atol)
  for row in (2, 3):
    expected = reference(KNOWN[row], concept)
    np.testing.assert_allclose(solution.joint[row], expected, atol=atol)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_random_games_against_scipy(concept):
  solution = solved(concept)
  assert_solution(solution, GAMES, concept)
  assert not solution.repeated.any() and (solution.epsilon == 0).all()
  for found, payoffs in zip(solution.joint, GAMES, strict=True):
    np.testing.assert_allclose(found, reference(payoffs, concept), atol=1e-4)


def test_chicken_by_hand():
  """Maximum entropy CE of chicken, with s, m, m, d on (swerve, swerve), mixed, (dare, dare).

  Swerving is obeyed if 6 s + 2 m >= 7 s, that is s <= 2 m; daring if 7 m >= 6 m + 2 d, m >= 2 d.
  Uniform play breaks the second, so m = 2 d and s = 1 - 5 d. The entropy of (s, 2 d, 2 d, d) is
  stationary at 5 log s = 4 log 2 d + log d: s = 2^(4/5) d, which is below 2 m.
  """
  swerve = 2**0.8
  expected = np.array([[swerve, 2], [2, 1]]) / (swerve + 5)
  found = nes_jax.solve(KNOWN, concept="ce", **EXACT).joint[2]
  np.testing.assert_allclose(found, expected, atol=1e-5)


# Shapes and batches.


def test_unbatched_in_unbatched_out():
  solution = nes_jax.solve(GAMES[2], **EXACT)
  batch = solved("cce")
  assert solution.joint.shape == (3, 3) and solution.gap.shape == ()
  assert solution.converged.shape == () and solution.epsilon.shape == (2,)
  assert [x.shape for x in solution.duals] == [(3,), (3,)]
  assert [x.shape for x in solution.marginals] == [(3,), (3,)]
  np.testing.assert_allclose(solution.joint, batch.joint[2], atol=1e-9)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_fields(concept):
  solution = solved(concept)
  assert isinstance(solution, nes_jax.Solution)
  axes = (3,) if concept == "cce" else (3, 3)
  assert [x.shape for x in solution.duals] == [(4, *axes)] * 2
  assert all((x >= 0).all() for x in solution.duals)
  if concept == "ce":
    assert all((np.diagonal(x, axis1=1, axis2=2) == 0).all() for x in solution.duals)
  assert solution.converged.dtype == bool and solution.iterations.dtype == np.int32
  assert ((solution.iterations > 0) & (solution.iterations < 60)).all()
  assert (solution.residual <= 1e-8).all()


@pytest.mark.parametrize("concept", CONCEPTS)
def test_duals_are_in_payoff_units(concept):
  """sigma is proportional to exp(-A' alpha) in the payoffs as given and the duals as returned."""
  solution = solved(concept)
  for b in range(4):
    rows = flat_gains(GAMES[b], concept)
    logits = -sum(np.ravel(a[b]) @ m for a, m in zip(solution.duals, rows, strict=True))
    weights = np.exp(logits - logits.max())
    np.testing.assert_allclose(
        solution.joint[b].ravel(), weights / weights.sum(), atol=1e-4
    )


def test_order_of_the_batch_does_not_matter():
  order = [2, 0, 3, 1]
  moved = nes_jax.solve(GAMES[order], **EXACT)
  jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y[np.array(order)], rtol=1e-6, atol=1e-9),
      moved._asdict(),
      solved("cce")._asdict(),
  )


@pytest.mark.slow
@pytest.mark.parametrize("concept", CONCEPTS)
def test_large_batches_in_chunks(concept):
  """600 games lie in the last axis. They form two chunks, and the second chunk is filled up."""
  games = random_games(1, 600, (2, 2, 2))
  games[-4:] = KNOWN
  solution = nes_jax.solve(games, concept=concept)
  assert solution.joint.shape == (600, 2, 2)
  done = np.flatnonzero(solution.converged)
  assert len(done) > 590
  assert_solution(jax.tree.map(lambda x: x[done], solution), games[done], concept)
  small = nes_jax.solve(KNOWN, concept=concept)
  np.testing.assert_allclose(solution.joint[-4:], small.joint, atol=2e-3)


@pytest.mark.parametrize("shape, concept", [((3, 2, 1, 3), "cce"), ((2, 2, 3), "ce")])
def test_unequal_counts(shape, concept):
  games = random_games(2, 4, shape)
  # Without `batched`, four games of three players could be one game of four players.
  solution = nes_jax.solve(games, concept=concept, batched=True, **EXACT)
  assert_solution(solution, games, concept)
  for found, payoffs in zip(solution.joint, games, strict=True):
    np.testing.assert_allclose(found, reference(payoffs, concept), atol=1e-4)


@pytest.mark.parametrize(
    "shape, concept", [((2, 1, 1), "cce"), ((2, 1, 1), "ce"), ((2, 1, 3), "cce"), ((2, 1, 3), "ce")]
)
def test_one_strategy(shape, concept):
  """A player with one strategy cannot deviate. The other player plays a best response."""
  games = np.arange(np.prod(shape), dtype=float).reshape(shape)
  games[1] = games[1] ** 2
  solution = nes_jax.solve(games, concept=concept)
  assert_solution(jax.tree.map(lambda x: x[None], solution), games[None], concept)
  expected = np.zeros(shape[1:])
  expected[0, -1] = 1
  np.testing.assert_allclose(solution.joint, expected, atol=1e-3)


# Transformations.


def test_jit_of_vmap_traces_once():
  @jax.jit
  @chex.assert_max_traces(n=1)
  def run(games):
    return jax.vmap(nes_jax.solve)(games)

  first = run(jnp.asarray(GAMES))
  assert_solution(first, np.asarray(jnp.asarray(GAMES)), "cce")
  np.testing.assert_allclose(first.joint, solved("cce").joint, atol=2e-2)
  second = run(jnp.asarray(GAMES[::-1]))
  np.testing.assert_allclose(second.joint, first.joint[::-1], atol=1e-5)
  # A program under jit raises no error. It marks a bad game and leaves the others unchanged.
  marked = run(jnp.asarray(GAMES).at[1, 0, 0, 0].set(jnp.nan))
  np.testing.assert_array_equal(marked.converged, [True, False, True, True])
  assert np.isnan(marked.joint[1]).all() and np.isnan(marked.residual[1])
  others = np.array([0, 2, 3])
  np.testing.assert_allclose(marked.joint[others], first.joint[others], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("rho", [np.inf, 1e3])
@pytest.mark.parametrize("concept", CONCEPTS)
def test_gradients(x64, concept, rho):
  """Reverse and forward mode agree with central differences, for every differentiable input."""
  inputs = interior_inputs()
  rng = np.random.default_rng(8)
  weights = jnp.asarray(rng.normal(size=(3, 3)))
  directions = [rng.normal(size=x.shape) for x in inputs]
  directions[1] -= directions[1].mean()  # The target stays a distribution.
  directions = tuple(map(jnp.asarray, directions))

  def value(payoffs, target, welfare, epsilon):
    selection = nes_jax.Selection(
        target=target, welfare=welfare, epsilon=epsilon, welfare_weight=0.5, rho=rho
    )
    solution = nes_jax.solve(payoffs, concept=concept, selection=selection, tolerance=1e-11)
    return jnp.sum(weights * solution.joint), solution

  @jax.jit
  def run(*inputs):
    (result, solution), gradients = jax.value_and_grad(value, range(4), has_aux=True)(*inputs)

    def scalar(*x):
      return value(*x)[0]

    _, tangent = jax.jvp(scalar, inputs, directions)
    return result, solution, gradients, tangent

  _, solution, gradients, tangent = run(*inputs)
  assert solution.converged and solution.joint.min() > 1e-5
  assert max(x.max() for x in solution.duals) > 1e-2  # Some constraint binds.
  products = [float(jnp.vdot(g, d)) for g, d in zip(gradients, directions, strict=True)]
  # The Newton matrix is ill-conditioned where constraints bind. The error is usually 1e-8 (CCE)
  # and 1e-6 (CE).
  np.testing.assert_allclose(sum(products), tangent, rtol=1e-5)
  step = 1e-4
  for i, product in enumerate(products):
    def at(h):
      return inputs[:i] + (inputs[i] + h * directions[i],) + inputs[i + 1 :]

    difference = float(run(*at(step))[0] - run(*at(-step))[0]) / (2 * step)
    assert abs(difference) > 1e-4, "the input has no influence: the test tests nothing"
    np.testing.assert_allclose(product, difference, rtol=1e-4, err_msg=f"input {i}")


@pytest.mark.slow
def test_gradient_of_a_batch_keeps_rows_apart():
  """By default, d joint[b] / d payoffs[c] is zero for b != c, and finite for b == c."""

  def loss(g):
    return nes_jax.solve(g).joint[1, 0].sum()

  gradient = np.asarray(jax.jit(jax.grad(loss))(jnp.asarray(random_games(3))))
  assert np.isfinite(gradient).all()
  assert (gradient[[0, 2, 3]] == 0).all() and np.abs(gradient[1]).max() > 0


# Properties.

seeds = st.integers(0, 2**31 - 1)
few = hypothesis.settings(max_examples=6, deadline=None, derandomize=True)


@pytest.mark.parametrize("concept", CONCEPTS)
@few
@hypothesis.given(seed=seeds, power=st.floats(-6, 6))
def test_positive_scale_and_offset_do_not_matter(concept, seed, power):
  games = random_games(seed)
  rng = np.random.default_rng(seed + 1)
  offset = 10 * rng.normal(size=(4, 2, 1, 1)) * games.std((2, 3), keepdims=True)
  scale = 10 ** (power * rng.uniform(size=(4, 2, 1, 1)))
  plain = nes_jax.solve(games, concept=concept, **EXACT)
  moved = nes_jax.solve(scale * (games + offset), concept=concept, **EXACT)
  np.testing.assert_array_equal(plain.converged, moved.converged)
  both = np.flatnonzero(plain.converged)
  assert len(both) >= 3
  np.testing.assert_allclose(moved.joint[both], plain.joint[both], atol=1e-5)
  # Duals may run to infinity, and then depend on the step at which the engine stops. Yet the duals
  # of one game certify the answer to the other. Normalised units differ by a factor below 2.
  factors = [scale[:, p].reshape((-1,) + (1,) * (x.ndim - 1)) for p, x in enumerate(moved.duals)]
  duals = tuple(x * factor for x, factor in zip(moved.duals, factors))
  residual, _ = census.recompute(games, moved._replace(duals=duals), concept)
  assert (residual[both] <= 2e-8).all()


@pytest.mark.parametrize("concept", CONCEPTS)
@few
@hypothesis.given(seed=seeds)
def test_permutations(concept, seed):
  """A new order of strategies, or an exchange of the players, does the same to the answer."""
  games = random_games(seed)
  rng = np.random.default_rng(seed + 1)
  rows, columns = rng.permutation(3), rng.permutation(3)
  plain = nes_jax.solve(games, concept=concept, **EXACT)
  both = np.flatnonzero(plain.converged)
  assert len(both) >= 3
  moved = nes_jax.solve(games[:, :, rows][..., columns], concept=concept, **EXACT)
  expected = plain.joint[:, rows][..., columns]
  np.testing.assert_allclose(moved.joint[both], expected[both], atol=1e-5)
  swapped = nes_jax.solve(games[:, ::-1].swapaxes(2, 3), concept=concept, **EXACT)
  np.testing.assert_allclose(
      swapped.joint[both], plain.joint[both].swapaxes(1, 2), atol=1e-5
  )


@pytest.mark.parametrize("concept", CONCEPTS)
@few
@hypothesis.given(seed=seeds)
def test_certificates(concept, seed):
  games = random_games(seed)
  solution = nes_jax.solve(games, concept=concept, **EXACT)
  done = np.flatnonzero(solution.converged)
  assert len(done) >= 3
  rows = jax.tree.map(lambda x: x[done], solution)
  assert_solution(rows, games[done], concept)


# Precision, warm starts, repetition.


def test_warm_start():
  cold = solved("cce")
  warm = nes_jax.solve(GAMES, duals=cold.duals, **EXACT)
  assert warm.converged.all()
  np.testing.assert_allclose(warm.joint, cold.joint, atol=1e-5)
  assert (warm.iterations <= cold.iterations).all()
  assert warm.iterations.sum() < cold.iterations.sum()


def test_unconverged_float32_games_are_solved_again():
  first = nes_jax.solve(GAMES, precision="float32", max_iterations=1)
  assert first.converged.all() and first.repeated.all()
  assert first.joint.dtype == np.float32
  # The count adds one step in float32 to the steps in float64 to the tolerance of float32.
  again = nes_jax.solve(GAMES, tolerance=1e-4, **EXACT)
  np.testing.assert_array_equal(first.iterations, again.iterations + 1)
  np.testing.assert_allclose(first.joint, again.joint, atol=1e-6)


def test_what_has_not_converged_says_so():
  solution = nes_jax.solve(GAMES, max_iterations=2, **EXACT)
  assert not solution.converged.any() and (solution.residual > 1e-8).all()
  assert (solution.iterations == 2).all() and not solution.repeated.any()
  assert np.isfinite(solution.joint).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float64_without_x64(dtype):
  assert not jax.config.jax_enable_x64
  solution = nes_jax.solve(GAMES.astype(dtype), **EXACT)
  for x in (solution.joint, solution.gap, solution.residual, *solution.duals):
    assert isinstance(x, np.ndarray) and x.dtype == np.float64
  assert solution.converged.all() and (solution.residual <= 1e-8).all()


def test_large_offset_in_float64_loses_nothing():
  """Payoffs are normalised in their own type before they become float32."""
  plain = nes_jax.solve(GAMES)
  offset = 1e8 * GAMES.std((2, 3), keepdims=True)
  np.testing.assert_allclose(nes_jax.solve(GAMES + offset).joint, plain.joint, atol=1e-4)
  assert plain.joint.dtype == np.float32


# Degenerate games.


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_constant_and_extreme_games(concept, precision):
  flat = np.full((2, 2, 2), 5.0)
  games = np.stack([flat, 0 * flat, 1e-30 * KNOWN[2], 1e30 * KNOWN[2]])
  solution = nes_jax.solve(games, concept=concept, precision=precision)
  assert solution.converged.all()
  atol = {"float32": 1e-2, "float64": 1e-5}[precision]
  for row in (0, 1):
    np.testing.assert_allclose(solution.joint[row], np.full((2, 2), 0.25), atol=atol)
    assert solution.gap[row] == 0
  for row, scale in ((2, 1e-30), (3, 1e30)):
    np.testing.assert_allclose(solution.joint[row], reference(KNOWN[2], concept), atol=atol)
    assert solution.gap[row] <= 1e-3 * scale


@pytest.mark.parametrize("concept", CONCEPTS)
def test_one_constant_player(concept):
  games = KNOWN.copy()
  games[:, 1] = np.array([0, 3, -1, 1e6])[:, None, None]
  solution = nes_jax.solve(games, concept=concept, **EXACT)
  assert_solution(solution, games, concept)
  for found, payoffs in zip(solution.joint, games, strict=True):
    np.testing.assert_allclose(found, reference(payoffs, concept), atol=1e-4)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_duplicated_and_dominated_strategies(concept):
  games = random_games(6)
  games[0, :, 2] = games[0, :, 1]  # Strategies 1 and 2 of player 1 are the same.
  games[1, 0, 0] = games[1, 0].max(0) + 0.1 * games[1, 0].std()  # Strategy 0 dominates.
  games[2, 0, 2] = games[2, 0, 1]  # They are the same to player 1 only.
  solution = nes_jax.solve(games, concept=concept, **EXACT)
  assert_solution(solution, games, concept)
  np.testing.assert_allclose(solution.joint[0, 1], solution.joint[0, 2], atol=1e-5)
  np.testing.assert_allclose(solution.marginals[0][1], [1, 0, 0], atol=1e-5)
  for row in (0, 2):
    np.testing.assert_allclose(solution.joint[row], reference(games[row], concept), atol=1e-4)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_nearly_degenerate_games(concept):
  """Small games whose equilibrium lies close to a vertex, with duals in the thousands."""
  games = random_games(1, 600, (2, 2, 2))[np.array([9, 255, 348, 500])]
  solution = nes_jax.solve(games, concept=concept, **EXACT)
  assert_solution(solution, games, concept)


def test_travelers_whose_reward_is_next_to_nothing():
  """A player who undercuts gains 0.5 or 4e-4 and never loses, so no joint is strictly feasible.

  Each claim that is ruled out multiplies an error of the next one by 1 / 4e-4. Joints that are CEs
  to the last digit of float64 are therefore far from the exact CE, and the answer is one of them.
  """
  games = np.asarray(gamut.travelers_payoffs(1.0007, (8, 8)), np.float64)
  solution = nes_jax.solve(games, concept="ce", **EXACT)
  assert solution.converged and solution.repeated and solution.residual <= 1e-8
  assert loop_violations(games, solution.joint, 0.0, "ce").max() <= 5e-9
  residual, _ = census.recompute(games[None], jax.tree.map(lambda x: x[None], solution), "ce")
  assert residual[0] <= 1e-8


def test_marked_rows_leave_others_alone():
  broken = GAMES.copy()
  broken[1, 0, 2, 2] = np.nan
  broken[3, 1] = np.inf
  plain, marked = nes_jax.solve(GAMES), nes_jax.solve(broken, invalid="mark")
  np.testing.assert_array_equal(marked.converged, [True, False, True, False])
  for field, x in marked._asdict().items():
    jax.tree.map(
        lambda x, y: np.testing.assert_array_equal(x[np.array([0, 2])], y[np.array([0, 2])]),
        x,
        getattr(plain, field),
    )
  for x in (marked.joint, marked.gap, marked.residual, *marked.duals, *marked.marginals):
    assert np.isnan(x[np.array([1, 3])]).all()


def test_marked_rows_under_max_welfare():
  """A welfare that is not finite is no second error, since it is the sum of the payoffs."""
  broken = KNOWN.copy()
  broken[1, 0, 0, 0] = np.nan
  marked = nes_jax.solve(broken, selection="max_welfare", invalid="mark", **EXACT)
  np.testing.assert_array_equal(np.isnan(marked.residual), [False, True, False, False])
