"""nes_jax.dual: eqs. (7) to (11) against NumPy, autodiff and finite differences.

The equations in NumPy are in the paper's units: its duals and its loss are those of nes_jax times
max(1, mu).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_deviation import flat_gains

from nes_jax import dual, selection

CASES = [((3, 2), "cce"), ((3, 2), "ce"), ((2, 2, 3), "cce"), ((2, 2, 3), "ce")]
RHOS = [math.inf, 50.0]
MU = 1.7


def case(shape, concept, rho, seed=0):
  """A problem with every term present, and duals without a CE diagonal."""
  rng = np.random.default_rng(seed)
  n = len(shape)
  chosen = selection.Selection(
      target=rng.dirichlet(np.ones(math.prod(shape))).reshape(shape),
      epsilon=jnp.asarray(rng.normal(size=n)) / 3,
      welfare=rng.normal(size=shape),
      welfare_weight=MU,
      rho=rho,
  )
  problem, _ = selection.problem(jnp.asarray(rng.normal(size=(n,) + shape)), chosen)
  duals = []
  for count in shape:
    block = rng.exponential(size=(count,) if concept == "cce" else (count, count))
    duals.append(jnp.asarray(block if concept == "cce" else block * (1 - np.eye(count))))
  return problem, tuple(duals)


def numpy_logits(problem, duals, concept):
  tensor = flat_gains(problem.payoffs, concept)
  taken = sum(MU * np.ravel(a) @ m for a, m in zip(duals, tensor, strict=True))
  return MU * np.ravel(problem.welfare) - taken


def paper_loss(problem, duals, concept):
  """Eq. (7) as printed, the constant rho epsilon-plus included."""
  logits = numpy_logits(problem, duals, concept)
  value = np.log(np.sum(np.ravel(problem.target) * np.exp(logits)))
  for p, block in enumerate(duals):
    total, most = MU * float(block.sum()), float(problem.epsilon_max[p])
    room = most - float(problem.epsilon[p])
    value += most * total + problem.rho * room * np.exp(-total / problem.rho) - problem.rho * most
  return value


@pytest.mark.parametrize("shape, concept", CASES)
def test_logits_and_joint(x64, shape, concept):
  problem, duals = case(shape, concept, math.inf)
  expected = numpy_logits(problem, duals, concept)
  np.testing.assert_allclose(
      np.ravel(dual.logits(problem, duals, concept)), expected, atol=1e-12
  )
  weights = np.ravel(problem.target) * np.exp(expected)
  joint = dual.joint(problem, duals, concept)
  np.testing.assert_allclose(joint, (weights / weights.sum()).reshape(shape), rtol=1e-11)


@pytest.mark.parametrize("shape, concept", CASES)
def test_epsilon(x64, shape, concept):
  problem, duals = case(shape, concept, 50.0)
  most, target = np.asarray(problem.epsilon_max), np.asarray(problem.epsilon)
  sums = np.array([MU * np.sum(a) for a in duals])
  expected = (target - most) * np.exp(-sums / 50.0) + most
  np.testing.assert_allclose(dual.epsilon(problem, duals), expected, rtol=1e-12)
  hard = dataclasses.replace(problem, rho=math.inf)
  np.testing.assert_array_equal(dual.epsilon(hard, duals), target)


@pytest.mark.parametrize("shape, concept", CASES)
def test_loss_is_the_papers_up_to_a_constant(x64, shape, concept):
  problem, first = case(shape, concept, 50.0)
  _, second = case(shape, concept, 50.0, seed=1)
  ours = dual.loss(problem, first, concept) - dual.loss(problem, second, concept)
  theirs = paper_loss(problem, first, concept) - paper_loss(problem, second, concept)
  assert abs(theirs) > 0.1
  np.testing.assert_allclose(MU * ours, theirs, rtol=1e-9)


@pytest.mark.parametrize("rho", RHOS)
@pytest.mark.parametrize("shape, concept", CASES)
def test_gradient(x64, shape, concept, rho):
  problem, duals = case(shape, concept, rho)
  loss = jax.jit(lambda duals: dual.loss(problem, duals, concept))
  found = dual.gradient(problem, duals, concept)
  automatic = jax.grad(loss)(duals)
  for p, (mine, theirs) in enumerate(zip(found, automatic, strict=True)):
    deviations = np.ones(mine.shape, bool)
    if concept == "ce":
      deviations = ~np.eye(len(mine), dtype=bool)
      assert (np.diagonal(mine) == 0).all()
    np.testing.assert_allclose(mine[deviations], theirs[deviations], atol=1e-12)
    step = 1e-5
    for index in np.argwhere(deviations)[:3]:
      def nudge(h):
        return duals[:p] + (duals[p].at[tuple(index)].add(h),) + duals[p + 1 :]
      difference = (loss(nudge(step)) - loss(nudge(-step))) / (2 * step)
      np.testing.assert_allclose(mine[tuple(index)], difference, atol=1e-8)


@pytest.mark.parametrize("rho", RHOS)
@pytest.mark.parametrize("concept", ["cce", "ce"])
def test_loss_is_convex(x64, concept, rho):
  problem, first = case((3, 2), concept, rho)
  _, second = case((3, 2), concept, rho, seed=1)
  middle = jax.tree.map(lambda x, y: (x + y) / 2, first, second)
  ends = [dual.loss(problem, x, concept) for x in (first, second)]
  assert dual.loss(problem, middle, concept) < np.mean(ends) - 1e-3


@pytest.mark.parametrize("concept", ["cce", "ce"])
def test_hard_constraints_are_the_limit(x64, concept):
  problem, duals = case((3, 2), concept, math.inf)
  errors = []
  for rho in (1e4, 1e6, 1e8):
    soft = dataclasses.replace(problem, rho=rho)
    loss = abs(dual.loss(soft, duals, concept) - dual.loss(problem, duals, concept))
    epsilon = jnp.abs(dual.epsilon(soft, duals) - problem.epsilon).max()
    errors.append([float(loss), float(epsilon)])
  errors = np.array(errors)
  # First order in 1 / rho.
  np.testing.assert_allclose(errors[:-1] / errors[1:], 100, rtol=0.05)
  assert errors[-1].max() < 1e-5


def test_large_rho_survives_float32():
  """The paper's form would lose differences below rho eps = 1e8 * 6e-8."""
  with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
    problem, first = case((3, 2), "cce", 1e8)
    _, second = case((3, 2), "cce", 1e8, seed=1)
    wide = dual.loss(problem, first, "cce") - dual.loss(problem, second, "cce")
    def narrow(tree):
      return jax.tree.map(lambda x: x.astype(jnp.float32), tree)
    problem, first, second = narrow(problem), narrow(first), narrow(second)
    found = dual.loss(problem, first, "cce") - dual.loss(problem, second, "cce")
  np.testing.assert_allclose(found, wide, rtol=1e-5)


def test_total_duals():
  blocks = (jnp.array([1.0, 2.0]), jnp.array([[0.0, 3.0], [4.0, 0.0]]))
  np.testing.assert_array_equal(dual.total_duals(blocks), [3, 7])
