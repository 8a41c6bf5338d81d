"""What a round of descent knows of the problem: the loss at the duals so far, and a step down it.

Duals are per player [B, Ap, 1] (CCE) or [B, Ap, Ap, 1] (CE) in the network's units; `scale` [B, N]
takes them to duals with respect to problem.payoffs. Problems have a leading batch axis.
"""

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg

from nes_jax import deviation, dual
from nes_jax.types import Array, Concept, Duals, Problem

# Of the dual loss, in the network's units.
_CURVATURE_FLOOR = 1e-9

# Of the Newton step: what a dual and its slack are to multiply to, what duals of zero are taken
# for, in the network's units, and how near a step may come to zero, as a fraction.
_BARRIER = 1e-3
_LEAST = 3e-4
_TO_BOUNDARY = 0.9


def features(
    duals: tuple[Array, ...], scale: Array, problem: Problem, concept: Concept
) -> tuple[Array, ...]:
  """What a round sees of the duals so far, in the network's units.

  That is log(1 + duals); minus the loss's derivative by them, eq. (11), where the loss is divided
  by max(1, mu) as in training; and the step that makes it vanish if no other dual moves and the
  derivative is linear, as its inverse hyperbolic sine. What is seldom recommended has a small
  derivative, and a step that is not small.

  Returns:
    Per player [B, Ap, 3] or [B, Ap, Ap, 3].
  """
  own = tuple(x[..., 0] for x in duals)

  def derivatives(problem: Problem, duals: Duals) -> tuple[Duals, Duals]:
    joint = dual.joint(problem, duals, concept)
    squares = deviation.squares(problem.payoffs, jax.lax.stop_gradient(joint), concept)
    return dual.gradient(problem, duals, concept), squares

  slack, squares = jax.vmap(derivatives)(problem, in_units(own, scale))
  weight = jnp.maximum(problem.welfare_weight, 1)[:, None]
  slope = in_units(slack, scale / weight)
  curvature = in_units(squares, scale**2 / weight)
  return tuple(
      jnp.stack([jnp.log1p(x), -y, -jnp.arcsinh(y / (z + _CURVATURE_FLOOR))], -1).astype(x.dtype)
      for x, y, z in zip(own, slope, curvature)
  )


def newton(
    duals: tuple[Array, ...], scale: Array, problem: Problem, concept: Concept, iterations: int
) -> tuple[Array, ...]:
  """Duals after a step of the barrier method, as good as a few conjugate gradients make it.

  The step is Newton's on the loss (7) less `_BARRIER` times the sum of the duals' logarithms, with
  the loss's own second derivatives, which are the covariance of gains under the joint (9):

    (A cov(sigma) A' + barrier / alpha^2) d = barrier / alpha - (epsilon - A sigma)

  It goes no further than nine tenths of the way to the first dual that it takes to zero. Duals of
  CEs are correlated over all pairs of strategies: steps of one dual at a time, or what a layer
  pools, come no further than the best conditioned of them.

  Returns:
    Duals like those given, positive. What does not count, a CE's diagonal, is positive too.
  """

  def one(problem: Problem, alpha: Duals, least: Duals) -> Duals:
    alpha = tuple(map(jnp.maximum, alpha, least))
    barrier = _BARRIER * jnp.maximum(problem.welfare_weight, 1)
    counts = tuple(map(jnp.ones_like, alpha))
    if concept == "ce":
      counts = tuple(1 - jnp.eye(len(x), dtype=x.dtype) for x in alpha)
    at = tuple(map(jnp.multiply, alpha, counts))
    slack, curve = jax.linearize(lambda x: dual.gradient(problem, x, concept), at)
    joint = dual.joint(problem, at, concept)
    squares = deviation.squares(problem.payoffs, joint, concept)
    bend = tuple(barrier / a**2 for a in alpha)
    right = tuple(c * (barrier / a - s) for a, s, c in zip(alpha, slack, counts))
    step, _ = cg(
        lambda x: tuple(h + b * d for h, b, d in zip(curve(x), bend, x)),
        right,
        maxiter=iterations,
        M=lambda x: tuple(d / (s + b) for d, s, b in zip(x, squares, bend)),
    )
    shrink = jnp.stack([jnp.max(-d / a) for d, a in zip(step, alpha)]).max()
    length = jnp.minimum(1, _TO_BOUNDARY / jnp.maximum(shrink, _TO_BOUNDARY))
    ahead = tuple(a + length * d for a, d in zip(alpha, step))
    sound = jnp.isfinite(shrink)
    return tuple(jnp.where(sound, x, a) for x, a in zip(ahead, alpha))

  own = tuple(x[..., 0] for x in duals)
  least = tuple(jnp.full_like(x, _LEAST) for x in own)
  ahead = jax.vmap(one)(problem, in_units(own, scale), in_units(least, scale))
  return tuple(x[..., None] for x in in_units(ahead, 1 / scale))


def in_units(blocks: Duals, scale: Array) -> Duals:
  """Multiplies the blocks of player p by scale[:, p]: scale [B, N]."""
  return tuple(
      x.astype(scale.dtype) * scale[:, p].reshape((-1,) + (1,) * (x.ndim - 1))
      for p, x in enumerate(blocks)
  )
