"""Input channels of the network's rounds, computed from the answer so far.

Glossary: B games, N players, Ap strategies of player p, C channels. Problems carry a leading batch
axis on every array.
"""

import math

import jax
import jax.numpy as jnp

from nes_jax import deviation, dual
from nes_jax.types import Array, Concept, Duals, Problem

# Smallest curvature of the dual loss, in the network's units.
_CURVATURE_FLOOR = 1e-9


def features(
    duals: tuple[Array, ...],
    scale: Array,
    problem: Problem,
    concept: Concept,
    joint: Array | None = None,
) -> tuple[Array, ...]:
  """Input channels of a round, computed from the duals so far, in the network's units.

  There are three: log(1 + duals); minus the loss's derivative by them, eq. (11); and the inverse
  hyperbolic sine of the step that makes this derivative vanish if no other dual moves and the
  derivative is linear. A strategy that is seldom recommended has a small derivative, and a step
  that is not small.

  With a joint of the network's own there are two more: the derivative and the step there.

  Args:
    duals: the network's, per player [B, Ap, 1] (CCE) or [B, Ap, Ap, 1] (CE).
    scale: [B, N], factors that make them duals of the problem.
    problem: arrays with a leading batch axis.
    concept: "cce" or "ce".
    joint: [B, A1, ..., AN] or None.

  Returns:
    Per player [B, Ap, 3 or 5] or [B, Ap, Ap, 3 or 5].
  """
  own = tuple(x[..., 0] for x in duals)
  given = in_units(own, scale)
  recovered = jax.vmap(lambda x, y: dual.joint(x, y, concept))(problem, given)
  parts = [tuple(map(jnp.log1p, own))]
  for at in (recovered,) if joint is None else (recovered, joint):
    parts += _slope_and_step(at, given, scale, problem, concept)
  return tuple(jnp.stack(x, -1).astype(own[0].dtype) for x in zip(*parts))


def _slope_and_step(
    joint: Array, duals: Duals, scale: Array, problem: Problem, concept: Concept
) -> tuple[Duals, Duals]:
  """Minus eq. (11) at a joint, and the inverse hyperbolic sine of the step along each dual."""

  def derivatives(problem: Problem, duals: Duals, joint: Array) -> tuple[Duals, Duals]:
    squares = deviation.squares(problem.payoffs, jax.lax.stop_gradient(joint), concept)
    return dual.slack(problem, joint, dual.epsilon(problem, duals), concept), squares

  slack, squares = jax.vmap(derivatives)(problem, duals, joint)
  slope = in_units(slack, scale)
  curvature = in_units(squares, scale**2 / problem.temperature[:, None])
  steps = tuple(-jnp.arcsinh(y / (z + _CURVATURE_FLOOR)) for y, z in zip(slope, curvature))
  return tuple(-x for x in slope), steps


def to_duals(payoffs: Array, weights: Array, concept: Concept) -> tuple[Array, ...]:
  """Deviation gains, summed over weighted joint strategies: a product with A for each channel.

  Args:
    payoffs: [B, N, A1, ..., AN].
    weights: [B, A1, ..., AN, C].
    concept: "cce" or "ce".

  Returns:
    Per player [B, Ap, C] (CCE) or [B, Ap, Ap, C] (CE), about as large as the weights.
  """
  size = math.prod(payoffs.shape[2:])

  def one(payoffs, weights):
    return deviation.gains(payoffs, weights, concept)

  blocks = jax.vmap(jax.vmap(one, (None, -1), -1))(payoffs, weights)
  axes = deviation.dual_axes(concept)
  return tuple(x * math.sqrt((x.shape[1] if axes == 2 else 1) / size) for x in blocks)


def to_joint(payoffs: Array, weights: tuple[Array, ...], concept: Concept) -> Array:
  """Deviation gains at each joint strategy, summed over weighted deviations: a product with A'.

  Args:
    payoffs: [B, N, A1, ..., AN].
    weights: per player [B, Ap, C] (CCE) or [B, Ap, Ap, C] (CE).
    concept: "cce" or "ce".

  Returns:
    [B, A1, ..., AN, C], about as large as the weights.
  """

  def one(payoffs, weights):
    return deviation.logits(payoffs, weights, concept)

  joint = jax.vmap(jax.vmap(one, (None, -1), -1))(payoffs, weights)
  return joint / math.sqrt(max(x.shape[1] for x in weights))


def in_units(blocks: Duals, scale: Array) -> Duals:
  """Blocks of duals [B, ...] with those of player p multiplied by scale[:, p]; scale [B, N]."""
  return tuple(
      x.astype(scale.dtype) * scale[:, p].reshape((-1,) + (1,) * (x.ndim - 1))
      for p, x in enumerate(blocks)
  )
