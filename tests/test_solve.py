"""nes_jax.solve: the public contract. Games are float64 NumPy with x64 off unless a test says so.

Compilation is what costs time here, so nearly all tests share one shape, [4, 2, 3, 3] or
[4, 2, 2, 2], and `EXACT`, the float64 engine.
"""

import functools

import chex
import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize
from test_deviation import flat_gains
from test_metrics import loop_violations

from launch.checks import census
import nes_jax
from nes_jax.games import gamut

CONCEPTS = ["cce", "ce"]
EXACT = {"precision": "float64"}

DILEMMA = [[[3, 0], [5, 1]], [[3, 5], [0, 1]]]
PENNIES = [[[1, -1], [-1, 1]], [[-1, 1], [1, -1]]]
CHICKEN = [[[6, 2], [7, 0]], [[6, 7], [2, 0]]]
BATTLE = [[[3, 0], [0, 2]], [[2, 0], [0, 3]]]
KNOWN = np.array([DILEMMA, PENNIES, CHICKEN, BATTLE], float)


def random_games(seed=0, count=4, shape=(2, 3, 3)):
  """Games whose scales and offsets differ from row to row and from player to player."""
  rng = np.random.default_rng(seed)
  games = rng.normal(size=(count,) + shape)
  ones = (1,) * (len(shape) - 1)
  scale = 10 ** rng.uniform(-2, 2, size=(count, shape[0]) + ones)
  return scale * (games + rng.normal(size=(count, shape[0]) + ones))


GAMES = random_games()


@functools.cache
def solved(concept):
  return nes_jax.solve(GAMES, concept=concept, **EXACT)


def reference(payoffs, concept, target=None):
  """Least relative entropy to the target: SciPy's L-BFGS-B on the dual with a dense matrix."""
  payoffs = np.asarray(payoffs, float)
  axes = tuple(range(1, payoffs.ndim))
  payoffs = payoffs - payoffs.mean(axes, keepdims=True)
  size = np.abs(payoffs).max(axes, keepdims=True)
  rows = np.concatenate(flat_gains(payoffs / np.where(size > 0, size, 1), concept))
  count = rows.shape[1]
  log_target = np.full(count, -np.log(count)) if target is None else np.log(np.ravel(target))

  def joint(duals):
    logits = log_target - duals @ rows
    weights = np.exp(logits - logits.max())
    return weights / weights.sum(), logits.max() + np.log(weights.sum())

  def loss(duals):
    sigma, value = joint(duals)
    return value, -rows @ sigma

  duals = np.zeros(len(rows))
  options = {"ftol": 1e-16, "gtol": 1e-11, "maxiter": 20_000, "maxfun": 50_000, "maxcor": 30}
  for _ in range(3):  # a fresh start of the quasi-Newton memory gains digits
    duals = optimize.minimize(
        loss, duals, jac=True, bounds=[(0, None)] * len(rows), method="L-BFGS-B", options=options
    ).x
  return joint(duals)[0].reshape(payoffs.shape[1:])


def assert_solution(solution, payoffs, concept, epsilon=0.0):
  """What must hold of any converged answer, whatever was selected."""
  payoffs = np.asarray(payoffs, float)
  n = payoffs.shape[1]
  assert np.all(solution.converged)
  joint, joint_bytes = np.asarray(solution.joint, float), solution.joint.dtype.itemsize
  assert (joint >= 0).all()
  np.testing.assert_allclose(joint.reshape(len(joint), -1).sum(1), 1, atol=1e-5)
  for p, marginal in enumerate(solution.marginals):
    others = tuple(1 + q for q in range(n) if q != p)
    np.testing.assert_allclose(marginal, joint.sum(others), atol=1e-6)
  size = np.abs(payoffs).max(tuple(range(2, payoffs.ndim)))
  gaps = [loop_violations(g, s, epsilon, concept).sum() for g, s in zip(payoffs, joint)]
  gap = np.asarray(solution.gap, float)
  rounding = {4: 3e-5, 8: 1e-13}[joint_bytes] * size.sum(1)
  assert (np.abs(gap - gaps) <= rounding + 1e-3 * np.array(gaps)).all()
  spread = payoffs.reshape(len(payoffs), n, -1).std(2).sum(1)
  # A converged residual bounds each player's violation in normalised units.
  tolerance = {4: 1e-4, 8: 1e-8}[joint_bytes]
  assert (np.array(gaps) <= 1.1 * tolerance * spread + rounding).all()


# Known answers.


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_known_games(concept, precision):
  solution = nes_jax.solve(KNOWN, concept=concept, precision=precision)
  assert solution.joint.dtype == precision
  assert_solution(solution, KNOWN, concept)
  # A face is reached like the root of the tolerance in the worst case; usually 1e-5 and 1e-8.
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
  """sigma is proportional to exp(-A' alpha), with payoffs and duals as given and returned."""
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
  """600 games go in the last axis, in two chunks, the second of them filled up."""
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
  # Four games of three players are also one game of four.
  solution = nes_jax.solve(games, concept=concept, batched=True, **EXACT)
  assert_solution(solution, games, concept)
  for found, payoffs in zip(solution.joint, games, strict=True):
    np.testing.assert_allclose(found, reference(payoffs, concept), atol=1e-4)


@pytest.mark.parametrize(
    "shape, concept", [((2, 1, 1), "cce"), ((2, 1, 1), "ce"), ((2, 1, 3), "cce"), ((2, 1, 3), "ce")]
)
def test_one_strategy(shape, concept):
  """Who has one strategy cannot deviate; the other plays a best response."""
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
  # Under jit nothing can be raised: a bad game is marked and leaves the others alone.
  marked = run(jnp.asarray(GAMES).at[1, 0, 0, 0].set(jnp.nan))
  np.testing.assert_array_equal(marked.converged, [True, False, True, True])
  assert np.isnan(marked.joint[1]).all() and np.isnan(marked.residual[1])
  others = np.array([0, 2, 3])
  np.testing.assert_allclose(marked.joint[others], first.joint[others], atol=1e-6)


def interior_inputs():
  """A game with a moderate epsilon, so that some rows bind and the answer is interior."""
  rng = np.random.default_rng(7)
  target = rng.dirichlet(np.full(9, 5.0)).reshape(3, 3)
  return (
      jnp.asarray(3 * rng.normal(size=(2, 3, 3)) + 1),
      jnp.asarray(target),
      jnp.asarray(rng.normal(size=(3, 3))),
      jnp.asarray([0.5, 0.6]),
  )


@pytest.mark.slow
@pytest.mark.parametrize("rho", [np.inf, 1e3])
@pytest.mark.parametrize("concept", CONCEPTS)
def test_gradients(x64, concept, rho):
  """Reverse and forward mode against central differences, for every differentiable input."""
  inputs = interior_inputs()
  rng = np.random.default_rng(8)
  weights = jnp.asarray(rng.normal(size=(3, 3)))
  directions = [rng.normal(size=x.shape) for x in inputs]
  directions[1] -= directions[1].mean()  # stays a distribution
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
  assert max(x.max() for x in solution.duals) > 1e-2  # some row binds
  products = [float(jnp.vdot(g, d)) for g, d in zip(gradients, directions, strict=True)]
  # The Newton matrix is ill-conditioned where rows bind: usually 1e-8 (CCE) and 1e-6 (CE).
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
  """float32, the defaults: d joint[b] / d payoffs[c] is zero for b != c, and finite for b == c."""
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
  # Duals may run to infinity and then depend on where the engine stops, but those of one game
  # certify the answer to the other. Normalised units differ by a factor below 2.
  factors = [scale[:, p].reshape((-1,) + (1,) * (x.ndim - 1)) for p, x in enumerate(moved.duals)]
  duals = tuple(x * factor for x, factor in zip(moved.duals, factors))
  residual, _ = census.recompute(games, moved._replace(duals=duals), concept)
  assert (residual[both] <= 2e-8).all()


@pytest.mark.parametrize("concept", CONCEPTS)
@few
@hypothesis.given(seed=seeds)
def test_permutations(concept, seed):
  """Strategies in another order, and the players exchanged."""
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


# Zero-sum games.


def linear_program_value(payoffs):
  """Value to the row player, by SciPy."""
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
  games[1, 1] += 50  # constant-sum
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
  # Counted together: one step in float32, then those of float64, to the tolerance of float32.
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
  """Payoffs are normalised as given before they become float32."""
  plain = nes_jax.solve(GAMES)
  offset = 1e8 * GAMES.std((2, 3), keepdims=True)
  np.testing.assert_allclose(nes_jax.solve(GAMES + offset).joint, plain.joint, atol=1e-4)
  assert plain.joint.dtype == np.float32


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
  games[0, :, 2] = games[0, :, 1]  # player 1's strategies 1 and 2 are the same
  games[1, 0, 0] = games[1, 0].max(0) + 0.1 * games[1, 0].std()  # strategy 0 dominates
  games[2, 0, 2] = games[2, 0, 1]  # same to player 1, not to player 2
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
  """To undercut gains 0.5 or 4e-4 and never loses: no joint meets all constraints strictly.

  Each claim that is ruled out multiplies an error of the next by 1 / 4e-4, so joints that are CEs
  to the last digit of float64 are far from the exact one; the answer is one of these.
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
  """The welfare is made of the payoffs: that it is not finite is the same fault."""
  broken = KNOWN.copy()
  broken[1, 0, 0, 0] = np.nan
  marked = nes_jax.solve(broken, selection="max_welfare", invalid="mark", **EXACT)
  np.testing.assert_array_equal(np.isnan(marked.residual), [False, True, False, False])


# Selections.


def test_match_target():
  """A target that is an equilibrium is its own answer; zeros are read as 0+; rows may differ."""
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
    # Weight 1000: within log(4) / 1000 standard deviations of the welfare.
    assert -best.fun - 2e-3 * max(game.sum(0).std(), 1e-9) - 1e-6 < welfare < -best.fun + 1e-6


@pytest.mark.slow
def test_max_strength():
  """The sum over players, in normalised units, of epsilon is as small as a linear program's."""
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
    # rho 1e4 against epsilon-plus 1e3: usually within 1e-2.
    assert abs(np.sum(solution.epsilon[b] / scale) - best.fun) < 5e-2


@pytest.mark.parametrize("concept", CONCEPTS)
def test_infeasible_epsilon_is_reported(concept):
  """Pennies has no equilibrium with margin; the dilemma's margin is 1 (CCE told nothing: 1)."""
  selection = nes_jax.Selection(epsilon=np.array([-0.5, -0.5]))
  solution = nes_jax.solve(KNOWN, concept=concept, selection=selection, **EXACT)
  assert not solution.converged[1]
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(solution))
  np.testing.assert_array_equal(solution.epsilon, np.full((4, 2), -0.5))
  assert solution.gap[1] > 0.5


# Bad input.


def assert_refused(match, payoffs=None, **options):
  with pytest.raises(ValueError, match=match):
    nes_jax.solve(KNOWN if payoffs is None else payoffs, **options)


def select(**fields):
  return {"selection": nes_jax.Selection(**fields)}


def spoilt(value, index):
  games = KNOWN.copy()
  games[index] = value
  return games


@pytest.mark.parametrize(
    "payoffs, match",
    [
        (spoilt(np.nan, (2, 0, 1, 1)), r"1 of 4 games .*NaN or infinite .*game 2.*invalid='mark'"),
        (spoilt(np.inf, (slice(1, 3), 0)), "2 of 4 games .*game 1"),
        (spoilt(-np.inf, (0, 1, 0, 1))[0], r"1 payoffs are NaN or infinite .*\[1, 0, 1\]"),
        (np.zeros(()), "payoffs must be"),
        (np.zeros(3), "payoffs must be"),
        (np.zeros((2, 2)), r"\[2, 2\]"),
        (np.zeros((1, 3)), r"\[1, 3\] has a single player"),
        (np.zeros((5, 1, 3)), r"\[5, 1, 3\] has a single player"),
        (np.zeros((3, 2, 2)), "one axis of strategies for each player"),
        (np.zeros((4, 3, 2, 2)), r"\[4, 3, 2, 2\]"),
        (np.zeros((0, 2, 2, 2)), "no games"),
        (np.zeros((2, 0, 3)), "without strategies"),
        (np.zeros((3, 2, 8, 8)), "both ways: pass batched=True for 3 games of 2 players"),
        (np.zeros((2, 2, 2), complex), "real numbers, not complex128"),
        ([[["a", "b"]] * 2] * 2, "real numbers, not <U1"),
        ([[[1, 2], [3]], [[1, 2], [3, 4]]], "rectangular"),
        (None, "real numbers"),
        ([[[1, None], [3, 4]], [[1, 2], [3, 4]]], "not all real numbers"),
        (np.zeros((2, 2, 2), "datetime64[s]"), "real numbers"),
    ],
)
def test_bad_payoffs(payoffs, match):
  with pytest.raises(ValueError, match=match):
    nes_jax.solve(payoffs)


@pytest.mark.parametrize(
    "options, match",
    [
        ({"concept": "nash"}, "unknown concept 'nash'; use 'cce' or 'ce'"),
        ({"selection": "maxent"}, "unknown selection 'maxent'.*max_entropy"),
        ({"selection": "match_target"}, "needs target"),
        ({"selection": 3}, "a name or a nes_jax.Selection"),
        ({"method": "newton"}, "unknown method 'newton'; use one of auto, exact"),
        ({"precision": "float16"}, "precision must be None, 'float32' or 'float64', not 'float16'"),
        ({"tolerance": 0.0}, "tolerance must be positive, not 0.0"),
        ({"tolerance": -1e-3}, "tolerance must be positive"),
        ({"tolerance": np.nan}, "tolerance must be positive"),
        ({"max_iterations": 0}, "max_iterations must be at least 1"),
        ({"invalid": "ignore"}, "invalid must be 'raise' or 'mark'"),
        ({"batched": False}, r"\[4, 2, 2, 2\] fits not the first"),
        (select(target=np.eye(2)), r"sum to one.*sums lie in \[2, 2\]"),
        (select(target=np.array([[1.5, -0.5], [0, 0]])), "non-negative.*least entry is -0.5"),
        (select(target=np.full((2, 2), np.nan)), "non-negative and sum to one"),
        (select(target=np.full((3, 3), 1 / 9)), r"target must have shape \[2, 2\] or \[4, 2, 2\]"),
        (select(target=np.full((3, 2, 2), 0.25)), r"not \[3, 2, 2\]"),
        (select(epsilon=np.zeros(3)), r"shape \[\] or \[2\] or \[4, 2\], not \[3\]"),
        (select(epsilon=np.nan), "epsilon is NaN"),
        (select(epsilon=-np.inf), "infinite epsilon needs a finite rho"),
        (select(welfare=np.full((2, 2), np.nan)), "welfare holds NaN"),
        (select(welfare=np.zeros(4)), "welfare must have shape"),
        (select(welfare=np.eye(2), welfare_weight=-1.0), "welfare_weight must not be negative"),
        (select(welfare=np.eye(2), welfare_weight=np.nan), "welfare_weight must not be negative"),
        (select(rho=0.0), "rho must be positive"),
        (select(rho=-1.0), "rho must be positive"),
        (select(rho=float("nan")), "rho must be positive"),
        (select(epsilon_max=0.0), "epsilon_max must be positive"),
        ({"duals": (np.zeros((4, 3)), np.zeros((4, 2)))}, r"shapes \[\[4, 2\], \[4, 2\]\]"),
    ],
)
def test_bad_options(options, match):
  assert_refused(match, **options)


def test_float64_under_jit_without_x64():
  with pytest.raises(ValueError, match="needs jax_enable_x64"):
    jax.jit(lambda g: nes_jax.solve(g, precision="float64").joint)(jnp.asarray(KNOWN))


def test_ambiguous_shapes_are_read_as_told():
  games = random_games(8, 1, (3, 2, 2, 2))[0]
  assert nes_jax.solve(games, batched=True).joint.shape == (3, 2, 2)
  assert nes_jax.solve(games, batched=False).joint.shape == (2, 2, 2)
