"""Newton systems of the exact engine.

A step solves

  [ P   A'       1 ] [d sigma]   [h1]       P  = diag((tau + z) / sigma)
  [ A  -s/alpha  0 ] [d alpha] = [h2]
  [ 1'  0        0 ] [d lambda]  [h3]

and one row more for each e_p, reduced to the duals, A P^-1 A' + s/alpha, or to the joint,
P + A' (alpha/s) A, whichever is smaller.
"""

from collections.abc import Callable
import math

import jax.numpy as jnp

from nes_jax import deviation
from nes_jax.exact import cholesky
from nes_jax.exact.program import Program, Variables, eye
from nes_jax.layout import dense_matmul, fold, sum_over
from nes_jax.types import Array, Concept

# The matrix's diagonal is raised by this many ulps of itself.
DAMPING_ULPS = 0.5
# In the system of the joint, a row's slack is raised by this many ulps of the row's own diagonal.
_ROW_ULPS = 1.0

# (h1, h2, h3, h4) -> (d sigma, d alpha, d lambda, d e); h4 [N, *b] belongs to e.
Solver = Callable[..., tuple]


def factor(program: Program, v: Variables, damping: Array, concept: Concept) -> Solver:
  """Factors the system at a point; the result solves it for any right side."""
  counts = deviation.strategy_counts(program.payoffs)
  num_duals = sum(count ** deviation.dual_axes(concept) for count in counts)
  single = v.mass_dual.ndim == 0
  if concept == "ce" and single and math.prod(counts) < num_duals:
    return _factor_joint(program, v, damping)
  return _factor_duals(program, v, damping, concept)


def _epsilon_weights(program: Program, v: Variables) -> Array:
  """Inverse second derivative of e's term [N, *b]; 0 with hard constraints, where e is fixed."""
  if program.rho is None:
    return jnp.zeros_like(v.epsilon_slack)
  return v.epsilon_slack / program.rho


def _factor_duals(program: Program, v: Variables, damping: Array, concept: Concept) -> Solver:
  """The system of the duals, for one game or a batch in the last axis."""
  n = v.joint.ndim - v.mass_dual.ndim
  batch = v.mass_dual.shape

  def flat(blocks):
    return [x.reshape((-1,) + batch) for x in blocks]

  weights = v.joint / (program.temperature + v.bound)
  ratios = flat([s / a for s, a in zip(v.slack, v.duals)])
  epsilon_weights = _epsilon_weights(program, v)
  blocks, border, mass = deviation.covariance(program.payoffs, weights, concept)
  for p, row in enumerate(blocks):
    diagonal = eye(len(ratios[p]), row[p])
    block = row[p] + epsilon_weights[p] + jnp.where(diagonal, ratios[p], 0)
    row[p] = jnp.where(diagonal, block * (1 + damping), block)
  floor = DAMPING_ULPS * float(jnp.finfo(mass.dtype).eps)
  factored = cholesky.factor(blocks, floor)

  def solve(h1, h2, h3, h4):
    weighted = weights * h1
    gains = deviation.gains(program.payoffs, weighted, concept)
    first = sum_over(weighted, n) - h3
    rights = [
        g - h - u * (first / mass) + epsilon_weights[p] * h4[p]
        for p, (g, h, u) in enumerate(zip(flat(gains), flat(h2), border))
    ]
    flat_duals = factored(rights)
    carried = fold(jnp.add, [sum_over(u * a, 1) for u, a in zip(border, flat_duals)])
    mass_dual = (first - carried) / mass
    epsilon_slack = epsilon_weights * (h4 - jnp.stack([sum_over(a, 1) for a in flat_duals]))
    duals = tuple(a.reshape(s.shape) for a, s in zip(flat_duals, v.duals))
    taken = deviation.logits(program.payoffs, duals, concept)
    return weights * (h1 - taken - mass_dual), duals, mass_dual, epsilon_slack

  return solve


def _factor_joint(program: Program, v: Variables, damping: Array) -> Solver:
  """The system of the joint, for one CE.

  It is scaled by sqrt(P^-1), which makes it the identity plus a positive semidefinite matrix.
  """
  payoffs, shape = program.payoffs, v.joint.shape
  weights = v.joint / (program.temperature + v.bound)
  root = jnp.sqrt(weights)
  # Rows that can hold with equality only have slack that runs to 0 and duals that are rounding
  # noise: one ulp of the row's own diagonal in A P^-1 A' keeps them from growing.
  own = deviation.squares(payoffs, weights, "ce")
  ulp = _ROW_ULPS * float(jnp.finfo(root.dtype).eps)
  ratios = tuple(a / (s + a * ulp * x) for a, s, x in zip(v.duals, v.slack, own))
  inner = deviation.joint_gram(payoffs, ratios)
  hard = program.rho is None
  if not hard:
    # Eliminating e_p leaves a term of rank one for each player.
    epsilon_weights = _epsilon_weights(program, v)
    coupling = epsilon_weights / (1 + epsilon_weights * jnp.stack([t.sum() for t in ratios]))
    alone = [tuple(t * (q == p) for q, t in enumerate(ratios)) for p in range(len(ratios))]
    rays = jnp.stack([deviation.logits(payoffs, t, "ce").ravel() for t in alone])
    inner = inner - dense_matmul(rays.T * coupling, rays)
  flat_root = root.ravel()
  matrix = inner * flat_root[:, None] * flat_root
  matrix = matrix + jnp.diag(1 + damping * (1 + jnp.diagonal(matrix)))
  floor = DAMPING_ULPS * float(jnp.finfo(root.dtype).eps)
  factored = cholesky.factor([[matrix]], floor)
  (ones,) = factored([flat_root])
  mass = jnp.vdot(flat_root, ones)

  def solve(h1, h2, h3, h4):
    pushed = tuple(t * h for t, h in zip(ratios, h2))
    right = (h1 + deviation.logits(payoffs, pushed, "ce")).ravel()
    if not hard:
      sums = jnp.stack([x.sum() for x in pushed])
      right = right - dense_matmul(coupling * (h4 + sums), rays)
    (x,) = factored([flat_root * right])
    mass_dual = (jnp.vdot(flat_root, x) - h3) / mass
    joint = (flat_root * (x - ones * mass_dual)).reshape(shape)
    gains = deviation.gains(payoffs, joint, "ce")
    excess = [g - h for g, h in zip(gains, h2)]
    epsilon_slack = jnp.zeros_like(h4)
    if not hard:
      epsilon_slack = coupling * (h4 - jnp.stack([(t * x).sum() for t, x in zip(ratios, excess)]))
    duals = tuple(t * (x + e) for t, x, e in zip(ratios, excess, epsilon_slack))
    return joint, duals, mass_dual, epsilon_slack

  return solve
