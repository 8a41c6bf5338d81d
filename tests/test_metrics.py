"""nes_jax.metrics: gaps by loops, and a residual that is zero at optima and bounds distances."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_deviation import dense_gains

from nes_jax import deviation, dual, metrics, selection

PENNIES = np.array([[[1.0, -1], [-1, 1]], [[-1, 1], [1, -1]]])
CONCEPTS = ["cce", "ce"]


def loop_violations(payoffs, joint, epsilon, concept):
  """Largest expected gain of a real deviation less epsilon, at least 0, for each player."""
  worst = []
  for p, tensor in enumerate(dense_gains(payoffs, concept)):
    gains = np.tensordot(tensor, joint, joint.ndim)
    if concept == "ce":
      gains = gains[~np.eye(len(gains), dtype=bool)]
    least = np.broadcast_to(epsilon, len(payoffs))[p]
    worst.append(max(gains.max(initial=-np.inf) - least, 0))
  return np.array(worst)


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("shape", [(3, 2), (2, 3, 2)])
@pytest.mark.parametrize("epsilon", [0.0, -0.5, 0.2])
def test_gaps(x64, shape, concept, epsilon):
  rng = np.random.default_rng(0)
  payoffs = 5 * rng.normal(size=(len(shape),) + shape)
  joint = rng.dirichlet(np.ones(math.prod(shape))).reshape(shape)
  epsilon = epsilon + 0.1 * np.arange(len(shape))
  expected = loop_violations(payoffs, joint, epsilon, concept)
  found = metrics.violations(jnp.asarray(payoffs), jnp.asarray(joint), epsilon, concept)
  np.testing.assert_allclose(found, expected, atol=1e-12)
  gap = {"cce": metrics.cce_gap, "ce": metrics.ce_gap}[concept]
  np.testing.assert_allclose(gap(payoffs, jnp.asarray(joint), epsilon), expected.sum())


def test_gaps_by_hand():
  # Prisoner's dilemma, both cooperate: each gains 2 by defecting.
  payoffs = jnp.array([[[3.0, 0], [5, 1]], [[3, 5], [0, 1]]])
  both = jnp.array([[1.0, 0], [0, 0]])
  assert metrics.cce_gap(payoffs, both) == 4
  assert metrics.ce_gap(payoffs, both) == 4
  assert metrics.ce_gap(payoffs, both, 0.5) == 3
  assert metrics.cce_gap(payoffs, jnp.array([[0.0, 0], [0, 1]])) == 0


def test_solver_gap():
  one, other = jnp.array([[1.0, 0], [0, 0]]), jnp.array([[0.0, 0], [0, 1]])
  assert metrics.solver_gap(one, other) == 1
  assert metrics.solver_gap(one, one) == 0
  np.testing.assert_allclose(metrics.solver_gap(one, jnp.full((2, 2), 0.25)), 0.75)


def problem_of(payoffs, **fields):
  return selection.problem(jnp.asarray(payoffs), selection.Selection(**fields))[0]


def zeros(shape, concept):
  return tuple(jnp.zeros((c,) if concept == "cce" else (c, c)) for c in shape)


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_residual_is_zero_at_matching_pennies(x64, concept, scale):
  problem = problem_of(scale * PENNIES)
  none = zeros((2, 2), concept)
  uniform = jnp.full((2, 2), 0.25)
  assert metrics.residual(problem, uniform, problem.epsilon, none, concept) < 1e-14
  moved = uniform + 0.05 * jnp.array([[1.0, -1], [0, 0]])
  assert metrics.residual(problem, moved, problem.epsilon, none, concept) > 1e-2
  wrong = tuple(x.at[..., 0].set(0.3) for x in none)
  if concept == "ce":
    wrong = tuple(x * (1 - jnp.eye(2)) for x in wrong)
  assert metrics.residual(problem, uniform, problem.epsilon, wrong, concept) > 1e-3


def test_residual_of_not_a_number(x64):
  problem = problem_of(PENNIES)
  joint = jnp.full((2, 2), jnp.nan)
  found = metrics.residual(problem, joint, problem.epsilon, zeros((2, 2), "cce"), "cce")
  assert not found <= 1e9


@functools.partial(jax.jit, static_argnames="concept")
def descend(problem, steps, concept):
  """Projected gradient on the dual (7): slow, simple and independent of the engine."""

  def body(_, duals):
    slope = dual.gradient(problem, duals, concept)
    return jax.tree.map(lambda a, g: jnp.maximum(a - 0.1 * g, 0), duals, slope)

  start = zeros(problem.target.shape, concept)
  return jax.lax.fori_loop(0, steps, body, start)


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("rho", [math.inf, 30.0])
def test_residual_certifies(x64, concept, rho):
  """Zero at the optimum; elsewhere positive and, by Pinsker, a bound on the distance to it."""
  rng = np.random.default_rng(3)
  payoffs = rng.normal(size=(2, 3, 3))

  def selected(steps):
    target = rng.dirichlet(np.full(9, 3.0)).reshape(3, 3)
    # An epsilon above 0 keeps the duals moderate.
    problem = problem_of(payoffs, epsilon=0.05, rho=rho, target=target)
    duals = descend(problem, steps, concept)
    return problem, dual.joint(problem, duals, concept), dual.epsilon(problem, duals), duals

  problem, optimum, epsilon, duals = selected(60_000)
  assert max(float(a.max()) for a in duals) > 0.1  # constraints do bind
  assert metrics.residual(problem, optimum, epsilon, duals, concept) < 1e-8

  early = descend(problem, 30, concept)
  joint = dual.joint(problem, early, concept)
  args = joint, dual.epsilon(problem, early), early, concept
  assert metrics.residual(problem, *args) > 1e-5

  for _ in range(4):  # other points of the polytope: answers for other targets, and mixtures
    _, other, _, others_duals = selected(60_000)
    for weight in (1.0, 0.1, 0.01):
      joint = (1 - weight) * optimum + weight * other
      distance = metrics.solver_gap(joint, optimum)
      for given in (duals, others_duals, zeros((3, 3), concept)):
        residual = metrics.residual(problem, joint, epsilon, given, concept)
        assert residual > 1e-6
        if math.isinf(rho):
          assert metrics.violations(problem.payoffs, joint, epsilon, concept).max() < 1e-8
          assert distance <= np.sqrt(residual / 2)


@pytest.mark.parametrize("tau", [1.0, 1e-2, 0.0])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_entropy_gap(x64, tau, batch):
  rng = np.random.default_rng(4)
  joint = rng.dirichlet(np.ones(6), size=batch)
  target = rng.dirichlet(np.ones(6), size=batch)
  utility = rng.normal(size=batch + (6,))
  if tau:
    scores = np.log(target) + utility / tau
    best = scores - np.log(np.exp(scores - scores.max(-1, keepdims=True)).sum(-1, keepdims=True))
    best -= scores.max(-1, keepdims=True)
    expected = tau * (joint * (np.log(joint) - best)).sum(-1)
  else:
    expected = utility.max(-1) - (joint * utility).sum(-1)
  def back(x):
    return jnp.asarray(np.moveaxis(x, -1, 0).reshape((2, 3) + batch))
  found = metrics.entropy_gap(
      back(joint),
      jnp.log(back(target)),
      back(utility),
      jnp.asarray(utility.max(-1)),
      jnp.full(batch, tau),
  )
  np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_residual_of_an_epsilon_that_the_duals_do_not_have(x64, concept):
  """The term of epsilon in the duality gap, by NumPy, where it is not eq. (10) of the duals."""
  rng = np.random.default_rng(5)
  problem = problem_of(
      rng.normal(size=(2, 3, 3)),
      epsilon=0.05,
      rho=30.0,
      welfare=rng.normal(size=(3, 3)),
      welfare_weight=2.0,
  )
  duals = tuple(rng.exponential(0.1, size=x.shape) for x in zeros((3, 3), concept))
  if concept == "ce":
    duals = tuple(x * (1 - np.eye(3)) for x in duals)
  duals = tuple(map(jnp.asarray, duals))
  joint = dual.joint(problem, duals, concept)
  epsilon = dual.epsilon(problem, duals) + np.array([1.0, 0.5])
  most = np.asarray(problem.epsilon_max)
  left, right = most - np.asarray(epsilon), most - np.asarray(dual.epsilon(problem, duals))
  expected = 0.5 * 30 * np.sum(left * np.log(left / right) - left + right)
  assert expected > 0.1
  for block, gains, limit in zip(duals, deviation.gains(problem.payoffs, joint, concept), epsilon):
    expected += np.sum(block * (limit - gains))
  found = metrics.residual(problem, joint, epsilon, duals, concept)
  np.testing.assert_allclose(found, expected, rtol=1e-10)
