"""The dual of eq. (6): loss (7), logits (8), primal recovery (9) and (10), gradient (11).

Unbatched: use `vmap`. The problem and its duals are those of `nes_jax.types.Problem`, whose
objective is the paper's divided by max(1, mu) = 1 / tau. The duals are therefore the paper's times
tau, and the loss is the paper's times tau, so that its derivative is eq. (11) as printed. The
temperature tau must be positive here, since the recovery of the joint divides by it.
"""

import math

import jax
import jax.numpy as jnp

from nes_jax import deviation
from nes_jax.types import Array, Concept, Duals, Problem


def logits(problem: Problem, duals: Duals, concept: Concept) -> Array:
  """Eq. (8), with the welfare as appendix A derives it: -> [A1, ..., AN]."""
  taken = deviation.logits(problem.payoffs, duals, concept)
  return (problem.welfare_weight * problem.welfare - taken) / problem.temperature


def joint(problem: Problem, duals: Duals, concept: Concept) -> Array:
  """Eq. (9): the joint [A1, ..., AN] that maximises the Lagrangian at these duals."""
  x = jnp.log(problem.target) + logits(problem, duals, concept)
  return jax.nn.softmax(x.ravel()).reshape(x.shape)


def total_duals(duals: Duals) -> Array:
  """S_p [N]: sum of each player's duals."""
  return jnp.stack([block.sum() for block in duals])


def epsilon(problem: Problem, duals: Duals) -> Array:
  """Eq. (10): [N], in a form that does not lose the small difference to the target."""
  if math.isinf(problem.rho):
    return problem.epsilon
  largest = problem.epsilon_max - problem.epsilon
  exponent = -total_duals(duals) / (problem.temperature * problem.rho)
  return problem.epsilon - largest * jnp.expm1(exponent)


def loss(problem: Problem, duals: Duals, concept: Concept) -> Array:
  """Eq. (7) times tau, up to a constant: convex in the duals, smallest at the equilibrium.

  The paper's form holds the constant rho epsilon-plus, which swallows float32 when rho is large;
  here it is subtracted analytically. With rho = infinity the penalty is epsilon . S.
  """
  log_partition = problem.temperature * jax.nn.logsumexp(
      (jnp.log(problem.target) + logits(problem, duals, concept)).ravel()
  )
  sums = total_duals(duals)
  if math.isinf(problem.rho):
    return log_partition + jnp.sum(problem.epsilon * sums)
  rho = problem.temperature * problem.rho
  largest = problem.epsilon_max - problem.epsilon
  penalty = problem.epsilon_max * sums + rho * largest * jnp.expm1(-sums / rho)
  return log_partition + penalty.sum()


def gradient(problem: Problem, duals: Duals, concept: Concept) -> Duals:
  """Eq. (11): derivative of the loss, epsilon_p - A_p sigma, in blocks like the duals.

  For CE the diagonal, which is no deviation, is 0.
  """
  return slack(problem, joint(problem, duals, concept), epsilon(problem, duals), concept)


def slack(problem: Problem, joint: Array, epsilon: Array, concept: Concept) -> Duals:
  """epsilon_p - A_p sigma at any joint [A1, ..., AN], in blocks like the duals; epsilon [N].

  For CE the diagonal, which is no deviation, is 0.
  """
  gains = deviation.gains(problem.payoffs, joint, concept)
  blocks = [e - block for e, block in zip(epsilon, gains)]
  if concept == "ce":
    blocks = [block * (1 - jnp.eye(len(block), dtype=block.dtype)) for block in blocks]
  return tuple(blocks)
