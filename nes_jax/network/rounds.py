"""Rounds of descent: what the network is told of its duals so far."""

import jax
import jax.numpy as jnp

from nes_jax import deviation, dual
from nes_jax.types import Array, Concept, Duals, Problem

# Smallest curvature of the dual loss, in the network's units.
_CURVATURE_FLOOR = 1e-9


def features(
    duals: tuple[Array, ...], scale: Array, problem: Problem, concept: Concept
) -> tuple[Array, ...]:
  """Input channels of a round, computed from the duals so far, in the network's units.

  There are three: log(1 + duals); minus the loss's derivative by them, eq. (11); and the inverse
  hyperbolic sine of the step that makes this derivative vanish if no other dual moves and the
  derivative is linear. A strategy that is seldom recommended has a small derivative, and a step
  that is not small.

  Args:
    duals: the network's, per player [B, Ap, 1] (CCE) or [B, Ap, Ap, 1] (CE).
    scale: [B, N], factors that make them duals of the problem.
    problem: arrays with a leading batch axis.
    concept: "cce" or "ce".

  Returns:
    Per player [B, Ap, 3] or [B, Ap, Ap, 3].
  """
  own = tuple(x[..., 0] for x in duals)

  def derivatives(problem: Problem, duals: Duals) -> tuple[Duals, Duals]:
    joint = dual.joint(problem, duals, concept)
    squares = deviation.squares(problem.payoffs, jax.lax.stop_gradient(joint), concept)
    return dual.gradient(problem, duals, concept), squares

  slack, squares = jax.vmap(derivatives)(problem, in_units(own, scale))
  slope = in_units(slack, scale)
  curvature = in_units(squares, scale**2 / problem.temperature[:, None])
  return tuple(
      jnp.stack([jnp.log1p(x), -y, -jnp.arcsinh(y / (z + _CURVATURE_FLOOR))], -1).astype(x.dtype)
      for x, y, z in zip(own, slope, curvature)
  )


def in_units(blocks: Duals, scale: Array) -> Duals:
  """Blocks of duals [B, ...] with those of player p multiplied by scale[:, p]; scale [B, N]."""
  return tuple(
      x.astype(scale.dtype) * scale[:, p].reshape((-1,) + (1,) * (x.ndim - 1))
      for p, x in enumerate(blocks)
  )
