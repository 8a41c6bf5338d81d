"""Derivatives of an optimum by the implicit function theorem, whichever engine has found it."""

from collections.abc import Callable
import dataclasses
import functools

import jax
import jax.numpy as jnp

from nes_jax import deviation
from nes_jax.exact import newton, program
from nes_jax.exact.program import Variables, where_alive
from nes_jax.layout import over_batch, sum_over
from nes_jax.types import Concept, Problem

# Rounds of iterative refinement of the linear system.
_REFINEMENTS = 10


# (payoffs, temperature, rho, variables, right sides, concept) -> solution of a Newton system, where
# the first three are fields of a `program.Program`; see `nes_jax.native.cpu.solve_system`.
SystemSolver = Callable[..., tuple]


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def optimum_given(
    problem: Problem,
    variables: Variables,
    concept: Concept,
    batch_axis: int | None,
    system_solver: SystemSolver | None = None,
) -> Variables:
  """`variables` as they are, with the derivatives that the optimum has in the problem's arrays.

  Forward and backward, by the implicit function theorem. Derivatives of the variables themselves
  are ignored. An engine that JAX cannot differentiate should be given the problem behind a
  `jax.lax.stop_gradient`.

  Args:
    problem: a normalised game, or a batch of them.
    variables: the optimum, inside: every number that `Variables` calls positive is, also those of
      rows that bind nothing; but the joint is 0 where a strategy does not exist.
    concept: "cce" or "ce".
    batch_axis: None, 0 or -1, of the problem and of the variables, as in `exact.solve`.
    system_solver: solves the linear systems, without trailing batch axes. None: JAX does.
  """
  return variables


@optimum_given.defjvp
def _optimum_jvp(concept, batch_axis, system_solver, primals, tangents):
  problem, variables = primals
  # The tangent depends on the optimum, which gives derivatives of higher order.
  optimum = optimum_given(problem, variables, concept, batch_axis, system_solver)
  differential = over_batch(functools.partial(_differential, concept, system_solver), batch_axis)
  direction = dataclasses.replace(tangents[0], strategies=None)
  return optimum, differential(problem, direction, optimum)


def _conditions(problem: Problem, v: Variables, concept: Concept):
  """Left sides of the optimality conditions, at fixed complementarity products.

  `newton.factor` solves with their Jacobian in (sigma, alpha, lambda, e).
  """
  found, _, _ = program.residuals(program.make(problem, concept), v, concept)
  return found.stationarity, found.feasibility, found.mass, found.epsilon_slack


def _differential(
    concept: Concept,
    system_solver: SystemSolver | None,
    problem: Problem,
    direction: Problem,
    v: Variables,
) -> Variables:
  """Tangent of the optimum `v` along a direction of the problem's arrays."""
  exist = problem.strategies

  def conditions(x):
    return _conditions(dataclasses.replace(x, strategies=exist), v, concept)

  moved = jax.jvp(conditions, (dataclasses.replace(problem, strategies=None),), (direction,))[1]
  given = program.centred(program.make(problem, concept), v.duals, concept)
  # The solve's transpose wants every right side to depend on the tangents, also those that are 0.
  touch = 0 * sum(jnp.sum(x) for x in jax.tree.leaves(moved))
  moved = jax.tree.map(lambda x: x + touch, moved)

  def jacobian(x):
    joint, alpha, mass_dual, epsilon_slack = x
    n, axes = v.joint.ndim - v.mass_dual.ndim, deviation.dual_axes(concept)
    curvature = (given.temperature + v.bound) / where_alive(given, v.joint, 1)
    taken = deviation.logits(given.payoffs, alpha, concept)
    stationarity = curvature * joint + where_alive(given, taken + mass_dual, 0)
    gains = deviation.gains(given.payoffs, joint, concept)
    feasibility = tuple(
        g - s / a * d + (0 if given.rho is None else e)
        for g, s, a, d, e in zip(gains, v.slack, v.duals, alpha, epsilon_slack)
    )
    if given.rho is not None:
      sums = jnp.stack([sum_over(d, axes) for d in alpha])
      epsilon_slack = given.rho / v.epsilon_slack * epsilon_slack + sums
    return stationarity, feasibility, sum_over(joint, n), epsilon_slack

  def solve(matvec, right):
    if system_solver is not None:
      return system_solver(given.payoffs, given.temperature, given.rho, v, right, concept)
    # The factors lose digits where rows bind, since s / alpha is next to nothing there.
    solver = newton.factor(given, v, jnp.zeros_like(v.mass_dual), concept)

    def refine(_, x):
      return jax.tree.map(jnp.add, x, solver(*jax.tree.map(jnp.subtract, right, matvec(x))))

    return jax.lax.fori_loop(0, _REFINEMENTS, refine, solver(*right))

  joint, alpha, mass_dual, epsilon_slack = jax.lax.custom_linear_solve(
      jacobian, jax.tree.map(jnp.negative, moved), solve, symmetric=True
  )
  return Variables(
      joint=joint,
      # Complementarity products stay as they are.
      bound=-v.bound / where_alive(given, v.joint, 1) * joint,
      slack=tuple(-s / a * d for s, a, d in zip(v.slack, v.duals, alpha)),
      duals=alpha,
      mass_dual=mass_dual,
      epsilon_slack=epsilon_slack,
  )
