"""Newton steps of the barrier method on the duals that the network puts out."""

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg

from nes_jax import deviation, dual
from nes_jax.types import Array, Concept, Duals, Problem

# Product of a dual and its slack that the first step aims at, and the one that the last aims at.
# The latter is the smallest dual, too.
BARRIERS = {"cce": (1e-4, 1e-5), "ce": (1e-3, 1e-4)}
# Conjugate gradients of a step.
CONJUGATE = 16
# Relative residual at which conjugate gradients stop. They do not divide by a residual of zero.
_CONJUGATE_TOLERANCE = 1e-9
# Fraction of the way to a dual of zero that a step may go.
_TO_BOUNDARY = 0.9
# Fractions of a step that are tried.
LENGTHS = (0.0, 0.125, 0.25, 0.5, 1.0)


def descend(duals: Duals, problem: Problem, concept: Concept, steps: int) -> Duals:
  """Improves duals that are near the optimum by steps of the barrier method.

  Each is a Newton step on the loss (7) less b sum log alpha, whose minimum has alpha times slack
  equal to b,

    (A cov(sigma) A' / tau + b / alpha^2) d = b / alpha - (epsilon - A sigma),

  with the joint (9). A few conjugate gradients solve it, which need no more than products with A
  and A'. The best of a few lengths is taken. Zero is among them, so that no step does harm. The
  barrier b falls from step to step.

  Duals of CEs are coupled over all pairs of strategies. Layers that pool, and steps of one dual at
  a time, only solve for the best conditioned of them.

  Args:
    duals: per player [B, Ap] (CCE) or [B, Ap, Ap] (CE), of the problem.
    problem: arrays with a leading batch axis.
    concept: "cce" or "ce".
    steps: number of steps; with 0 the duals are returned as they are.

  Returns:
    Duals like those given.
  """
  if not steps:
    return duals
  barriers = jnp.geomspace(*BARRIERS[concept], steps, dtype=duals[0].dtype)

  def one_game(problem, duals):
    def step(duals, barrier):
      return _step(problem, duals, concept, barrier), None

    return jax.lax.scan(step, duals, barriers)[0]

  return jax.vmap(one_game)(problem, duals)


def _step(problem: Problem, duals: Duals, concept: Concept, barrier: Array) -> Duals:
  """One Newton step on the duals of one game."""
  alpha = tuple(jnp.maximum(x, BARRIERS[concept][1]) for x in duals)
  counts = tuple(map(jnp.ones_like, alpha))
  if concept == "ce":  # the diagonal is no deviation
    counts = tuple(1 - jnp.eye(len(x), dtype=x.dtype) for x in alpha)

  def masked(blocks) -> Duals:
    return tuple(map(jnp.multiply, counts, blocks))

  def height(x: Duals) -> Array:
    logs = sum(jnp.sum(block) for block in masked(map(jnp.log, x)))
    return dual.loss(problem, masked(x), concept) - barrier * logs

  slack, curve = jax.linearize(lambda x: dual.gradient(problem, masked(x), concept), alpha)
  squares = deviation.squares(
      problem.payoffs, dual.joint(problem, masked(alpha), concept), concept
  )
  diagonal = tuple(x / problem.temperature for x in squares)
  barrier_curvature = tuple(barrier / x**2 for x in alpha)
  step, _ = cg(
      lambda d: tuple(h + b * x for h, b, x in zip(masked(curve(d)), barrier_curvature, d)),
      masked(barrier / x - s for x, s in zip(alpha, slack)),
      tol=_CONJUGATE_TOLERANCE,
      maxiter=CONJUGATE,
      M=lambda d: tuple(x / (s + b) for x, s, b in zip(d, diagonal, barrier_curvature)),
  )
  shrink = jnp.stack([jnp.max(-d / x) for d, x in zip(step, alpha)]).max()
  lengths = jnp.array(LENGTHS, alpha[0].dtype) * _TO_BOUNDARY / jnp.maximum(shrink, _TO_BOUNDARY)

  def ahead(length) -> Duals:
    return tuple(x + length * d for x, d in zip(alpha, step))

  heights = jax.vmap(lambda length: height(ahead(length)))(lengths)
  best = lengths[jnp.argmin(jnp.where(jnp.isnan(heights), jnp.inf, heights))]
  # The product best * d would spread a step that is not finite to duals that stay.
  return masked(jnp.where(best > 0, y, x) for x, y in zip(alpha, ahead(best)))
