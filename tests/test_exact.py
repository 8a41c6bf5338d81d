"""nes_jax.exact: derivatives of an optimum that is given, whoever found it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nes_jax import deviation, exact, selection
from nes_jax.selection import Selection

SHAPE = (3, 4)
INPUTS = ("payoffs", "target", "epsilon", "welfare")


def some_problems(rho=np.inf, masked=False):
  """Three normalised games, the batch first; in each another strategy does not exist."""
  rng = np.random.default_rng(2)
  games = rng.normal(size=(3, 2) + SHAPE)
  target = rng.dirichlet(np.full(12, 5.0), size=3).reshape((3,) + SHAPE)
  welfare = rng.normal(size=(3,) + SHAPE)
  strategies = None
  if masked:
    strategies = tuple(np.arange(count) != np.arange(3)[:, None] for count in SHAPE)

  def normalise(game, target, welfare, strategies):
    chosen = Selection(target=target, welfare=welfare, epsilon=0.05, welfare_weight=0.5, rho=rho)
    return selection.problem(game, chosen, strategies)[0]

  given = jax.tree.map(jnp.asarray, (games, target, welfare, strategies))
  return jax.jit(jax.vmap(normalise))(*given)


def inputs_of(problem):
  return {name: getattr(problem, name) for name in INPUTS}


def some_direction(problem):
  """A direction for every input, in which targets stay distributions of what exists."""
  rng = np.random.default_rng(3)
  def draw(x):
    return jnp.asarray(rng.normal(size=x.shape))
  direction = jax.tree.map(draw, inputs_of(problem))
  if problem.strategies is not None:
    alive = jax.vmap(deviation.alive)(problem.strategies)
    direction["payoffs"] = direction["payoffs"] * alive[:, None]
    direction["welfare"] = direction["welfare"] * alive
  moved = 0.1 * problem.target * direction["target"]
  direction["target"] = moved - problem.target * moved.sum((1, 2), keepdims=True)
  return direction


@functools.partial(jax.jit, static_argnums=1)
def optimum(problem, concept):
  """-> the engine's last variables, and their error."""
  config = exact.Config.default(concept, jnp.dtype("float64"), problem.rho, tolerance=1e-11)
  return exact.engine._run(problem, None, jnp.int32(0), config, concept, 0, None)[:2]


@functools.partial(jax.jit, static_argnums=(4, 5))
def derivatives(problem, variables, tangents, weights, concept, batch_axis):
  """`exact.optimum_given` as a function of the inputs and the variables.

  Returns:
    its value; its tangent along those of the inputs and of the variables; and the gradients, by
    both, of its inner product with the weights.
  """

  def given(inputs, variables):
    moved = dataclasses.replace(problem, **inputs)
    return exact.optimum_given(moved, variables, concept, batch_axis)

  primals = inputs_of(problem), variables
  value, tangent = jax.jvp(given, primals, tangents)
  _, backward = jax.vjp(given, *primals)
  return value, tangent, backward(weights)


def random_like(tree, seed=4):
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), tree)


def inner(x, y):
  return float(sum(jax.tree.leaves(jax.tree.map(jnp.vdot, x, y))))


def slow(*values):
  return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "concept,rho,masked",
    [
        ("cce", np.inf, False),
        slow("cce", 1e2, False),
        slow("cce", np.inf, True),
        slow("ce", np.inf, False),
    ],
)
def test_derivatives_of_a_given_optimum(x64, concept, rho, masked):
  """Forward against central differences, and backward against forward."""
  problem = some_problems(rho, masked)
  variables, error = optimum(problem, concept)
  assert (error <= 1e-11).all()
  assert max(float(x.max()) for x in variables.duals) > 1e-2  # some row binds
  direction, weights = some_direction(problem), random_like(variables)
  tangents = direction, jax.tree.map(jnp.zeros_like, variables)
  value, tangent, (slope, own) = derivatives(problem, variables, tangents, weights, concept, 0)
  jax.tree.map(np.testing.assert_array_equal, value, variables)

  step = 1e-5
  ends = []
  for h in (step, -step):
    moved = jax.tree.map(lambda x, dx, h=h: x + h * dx, inputs_of(problem), direction)
    end, error = optimum(dataclasses.replace(problem, **moved), concept)
    assert (error <= 1e-11).all()
    ends.append(end)
  difference = jax.tree.map(lambda x, y: (x - y) / (2 * step), *ends)
  for name in ("joint", "duals", "mass_dual", "epsilon_slack"):
    found, expected = (jax.tree.leaves(getattr(x, name)) for x in (tangent, difference))
    for x, y in zip(found, expected, strict=True):
      np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4 * np.abs(y).max(), err_msg=name)
  assert np.abs(tangent.joint).max((1, 2)).min() > 1e-2  # every game moves

  np.testing.assert_allclose(inner(slope, direction), inner(weights, tangent), rtol=1e-5)
  # The variables' own tangents have no influence.
  assert all((x == 0).all() for x in jax.tree.leaves(own))
  moving = direction, jax.tree.map(jnp.ones_like, variables)
  _, same, _ = derivatives(problem, variables, moving, weights, concept, 0)
  jax.tree.map(np.testing.assert_array_equal, same, tangent)


@pytest.mark.slow
def test_both_layouts_have_the_same_derivatives(x64):
  problem = some_problems()
  variables, _ = optimum(problem, "cce")
  tangents = some_direction(problem), jax.tree.map(jnp.zeros_like, variables)
  given = problem, variables, tangents, random_like(variables)
  first = derivatives(*given, "cce", 0)
  last = derivatives(*jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), given), "cce", -1)
  for x, y in zip(jax.tree.leaves(last), jax.tree.leaves(first), strict=True):
    np.testing.assert_allclose(jnp.moveaxis(x, -1, 0), y, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_derivatives_of_solve_are_those_of_its_optimum(x64):
  """d joint / d payoffs, whatever the start is."""
  problem = some_problems()
  variables, _ = optimum(problem, "cce")
  config = exact.Config.default("cce", jnp.dtype("float64"), tolerance=1e-11)
  moves = some_direction(problem)["payoffs"]

  @jax.jit
  def tangent_of_solve(payoffs, moves, duals, start_moves):
    def joint(payoffs, duals):
      moved = dataclasses.replace(problem, payoffs=payoffs)
      return exact.solve(moved, config, "cce", exact.Start(duals), batch_axis=0).joint

    return jax.jvp(joint, (payoffs, duals), (moves, start_moves))[1]

  ones = jax.tree.map(jnp.ones_like, variables.duals)
  found = tangent_of_solve(problem.payoffs, moves, variables.duals, ones)
  still = jax.tree.map(jnp.zeros_like, (inputs_of(problem), variables))
  still[0]["payoffs"] = moves
  _, expected, _ = derivatives(problem, variables, still, random_like(variables), "cce", 0)
  np.testing.assert_allclose(found, expected.joint, rtol=1e-4, atol=1e-6)
