"""What the network is told of the problem between its rounds, and the steps after the last."""

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg

from nes_jax import deviation, dual
from nes_jax.types import Array, Concept, Duals, Problem

# Of the dual loss, in the network's units.
_CURVATURE_FLOOR = 1e-9

# Of the Newton steps: what a dual and its slack multiply to in the first and in the last of them,
# and the latter the smallest dual, too; conjugate gradients, which stop before they divide by a
# residual of zero; how near a step may come to a dual of zero; parts of a step that are tried.
BARRIERS = {"cce": (1e-4, 1e-5), "ce": (1e-3, 1e-4)}
CONJUGATE = 16
_CONJUGATE_TOLERANCE = 1e-9
_TO_BOUNDARY = 0.9
LENGTHS = (0.0, 0.125, 0.25, 0.5, 1.0)


def features(
    duals: tuple[Array, ...], scale: Array, problem: Problem, concept: Concept
) -> tuple[Array, ...]:
  """What a round sees of the duals so far, in the network's units.

  That is log(1 + duals); minus the loss's derivative by them, eq. (11), where the loss is divided
  by max(1, mu) as in training; and the step that makes it vanish if no other dual moves and the
  derivative is linear, as its inverse hyperbolic sine. What is seldom recommended has a small
  derivative, and a step that is not small.

  Args:
    duals: the network's, per player [B, Ap, 1] (CCE) or [B, Ap, Ap, 1] (CE).
    scale: [B, N], takes them to duals with respect to problem.payoffs.
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
  weight = jnp.maximum(problem.welfare_weight, 1)[:, None]
  slope = in_units(slack, scale / weight)
  curvature = in_units(squares, scale**2 / weight)
  return tuple(
      jnp.stack([jnp.log1p(x), -y, -jnp.arcsinh(y / (z + _CURVATURE_FLOOR))], -1).astype(x.dtype)
      for x, y, z in zip(own, slope, curvature)
  )


def newton(duals: Duals, problem: Problem, concept: Concept, steps: int) -> Duals:
  """Steps of the barrier method from duals that are near: what a network has left to do.

  Each is Newton's on the loss (7) less b sum log alpha, whose minimum has alpha times slack = b,

    (A cov(sigma) A' + b / alpha^2) d = b / alpha - (epsilon - A sigma),

  with the joint (9), as good as a few conjugate gradients make it: all that is needed are products
  with A and A'. The best of a few lengths is taken, none among them, so that no step does harm, and
  b falls from step to step. Duals of CEs are coupled over all pairs of strategies; layers that
  pool, and steps of one dual at a time, come no further than the best conditioned of them.

  Args:
    duals: per player [B, Ap] (CCE) or [B, Ap, Ap] (CE), with respect to problem.payoffs.
    problem: arrays with a leading batch axis.
    concept: "cce" or "ce".
    steps: how many; 0: the duals are returned.

  Returns:
    Duals like those given.
  """
  if not steps:
    return duals
  barriers = jnp.geomspace(*BARRIERS[concept], steps, dtype=duals[0].dtype)
  step = lambda problem: lambda duals, barrier: (_step(problem, duals, concept, barrier), None)
  return jax.vmap(lambda problem, duals: jax.lax.scan(step(problem), duals, barriers)[0])(
      problem, duals
  )


def _step(problem: Problem, duals: Duals, concept: Concept, barrier: Array) -> Duals:
  """One of them, for one game."""
  weight = jnp.maximum(problem.welfare_weight, 1)
  barrier, least = barrier * weight, BARRIERS[concept][1] * weight
  alpha = tuple(jnp.maximum(x, least) for x in duals)
  counts = tuple(map(jnp.ones_like, alpha))
  if concept == "ce":  # the diagonal is no deviation
    counts = tuple(1 - jnp.eye(len(x), dtype=x.dtype) for x in alpha)
  masked = lambda blocks: tuple(map(jnp.multiply, counts, blocks))

  def height(x: Duals) -> Array:
    logs = sum(jnp.sum(block) for block in masked(map(jnp.log, x)))
    return dual.loss(problem, masked(x), concept) - barrier * logs

  slack, curve = jax.linearize(lambda x: dual.gradient(problem, masked(x), concept), alpha)
  squares = deviation.squares(
      problem.payoffs, dual.joint(problem, masked(alpha), concept), concept
  )
  bend = tuple(barrier / x**2 for x in alpha)
  step, _ = cg(
      lambda d: tuple(h + b * x for h, b, x in zip(masked(curve(d)), bend, d)),
      masked(barrier / x - s for x, s in zip(alpha, slack)),
      tol=_CONJUGATE_TOLERANCE,
      maxiter=CONJUGATE,
      M=lambda d: tuple(x / (s + b) for x, s, b in zip(d, squares, bend)),
  )
  shrink = jnp.stack([jnp.max(-d / x) for d, x in zip(step, alpha)]).max()
  lengths = jnp.array(LENGTHS) * _TO_BOUNDARY / jnp.maximum(shrink, _TO_BOUNDARY)
  ahead = lambda length: tuple(x + length * d for x, d in zip(alpha, step))
  heights = jax.vmap(lambda length: height(ahead(length)))(lengths)
  best = lengths[jnp.argmin(jnp.where(jnp.isnan(heights), jnp.inf, heights))]
  # Not best * d: a step that is not finite is not to spoil what stays where it is.
  return masked(jnp.where(best > 0, y, x) for x, y in zip(alpha, ahead(best)))


def in_units(blocks: Duals, scale: Array) -> Duals:
  """Multiplies the blocks of player p by scale[:, p]: scale [B, N]."""
  return tuple(
      x.astype(scale.dtype) * scale[:, p].reshape((-1,) + (1,) * (x.ndim - 1))
      for p, x in enumerate(blocks)
  )
