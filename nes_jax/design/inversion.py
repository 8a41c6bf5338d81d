"""Inverse equilibrium problem: payoffs whose maximum-entropy CCE is a given joint.

The construction is direct, without descent. By eq. (9) of Marris et al. (2022), with a uniform
target, sigma is the maximum-entropy CCE of payoffs G if there are duals alpha >= 0 with

  (i)   log sigma = constant - sum_p A_p(G)' alpha_p
  (ii)  A_p(G) sigma = -slack_p,  slack_p >= 0,  and alpha_p * slack_p = 0

For fixed alpha and slack all of this is linear in G, and the nearest G to a given game is a least
squares problem with one linear system of size |A| + D. The system has a solution only if alpha and
slack fit to sigma:

  * Write alpha_p = S_p w_p with weights w_p that sum to one. The part of player p in (i) has a
    w_p-weighted mean of zero over its own strategies, so that log sigma has the same mean under the
    product of the weights as under sigma, where (ii) makes the parts zero. The mean rises from
    below to above that value as the weights move from the joint strategy of the smallest
    probability over uniform weights to the one of the largest.
  * With two players, (ii) multiplied with the marginals gives
      sum_p marginal_p . S_p slack_p = KL(m1 m2 || sigma) + KL(sigma || m1 m2)
    for the product m1 m2 of the marginals. Some constraints must therefore be slack, unless sigma
    is a product. About half of each player's constraints get the same slack, and weight zero.
  * With more players all constraints bind, and the slack is zero.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nes_jax import deviation
from nes_jax.solving import engines
from nes_jax.solving.solve import solve
from nes_jax.types import Array, Solution

# Largest total variation between target and solution at which payoffs count as found.
NEAR = 1e-3
# Steps of the bisection for the weights, one for each bit of float64.
_BISECTIONS = 60
# Sums of the duals that are tried, in units of one over the prior payoffs' standard deviation.
_DUAL_SUMS = tuple(4.0**k for k in range(-1, 4))
# Singular values of the linear system below this share of the largest are zero.
_RANK = 1e-12


class Inverse(NamedTuple):
  """Payoffs of given equilibria. With a batch, every array has a leading axis."""

  payoffs: np.ndarray  # [N, A1, ..., AN]
  solution: Solution  # maximum-entropy CCE of these payoffs, solved and certified in float64
  total_variation: np.ndarray  # [] half the L1 distance between its joint and the target
  found: np.ndarray  # [] bool: the solution is certified, and the distance is at most `NEAR`
  distance: np.ndarray  # [] root mean square difference between the payoffs and the prior


def inverse(target: Any, prior: Any = None, *, batched: bool = False) -> Inverse:
  """Payoffs whose maximum-entropy CCE is a given joint with full support.

  Payoffs are constructed directly (see `nes_jax.design.inversion`), and then solved: `found` says
  whether they are as asked for. With few strategies, such as two for each of three players, the
  construction may have no solution. Without a prior nearly all joints of 3x3 or more have one.

  Args:
    target: [A1, ..., AN], positive, sums to one; or [B, A1, ..., AN] with `batched`.
    prior: [N, A1, ..., AN] or [B, N, A1, ..., AN], payoffs to stay near to, in least squares. None:
      zeros, with duals whose sum is one for each player.
    batched: whether the target has a batch axis.

  Raises:
    ValueError: the target is no positive distribution, a player has fewer than three strategies in
      a two-player game, or the prior has the wrong shape or is not finite.
  """
  target = np.asarray(target, np.float64)
  joints = target if batched else target[None]
  _check_target(joints)
  n = joints.ndim - 1
  shape = joints.shape[1:]
  scale = np.ones((len(joints), 1))
  sums: tuple[float, ...] = (1.0,)
  if prior is None:
    games = np.zeros((len(joints), n, *shape))
  else:
    games = np.asarray(prior, np.float64)
    if games.shape not in ((n, *shape), (len(joints), n, *shape)):
      raise ValueError(
          f"prior must be {[n, *shape]} or {[len(joints), n, *shape]}, not {list(games.shape)}"
      )
    if not np.isfinite(games).all():
      raise ValueError("prior holds NaN or infinity")
    games, sums = np.broadcast_to(games, (len(joints), n, *shape)), _DUAL_SUMS
    spread = games.reshape(len(joints), n, -1).std(-1)
    scale = 1 / np.where(spread > 0, spread, 1)
  with engines.precision(np.dtype("float64")):
    nearest = _nearest(jnp.asarray(joints), jnp.asarray(games), jnp.asarray(sums), scale)
    payoffs, distance = map(np.asarray, nearest)
  solution = solve(payoffs, concept="cce", precision="float64", batched=True)
  assert isinstance(solution, Solution)  # payoffs are one array
  solution = jax.tree.map(np.asarray, solution)
  away = 0.5 * np.abs(solution.joint - joints).reshape(len(joints), -1).sum(1)
  found = solution.converged & (away <= NEAR)
  result = Inverse(payoffs, solution, away, found, distance)
  return result if batched else jax.tree.map(lambda x: x[0], result)


def _check_target(joints: np.ndarray) -> None:
  """Raises ValueError for joints [B, A1, ..., AN] that have no payoffs of this construction."""
  if joints.ndim < 3 or 0 in joints.shape:
    raise ValueError(
        "target must be [A1, ..., AN] with N >= 2 players, or [B, A1, ..., AN] and batched=True,"
        f" not {list(joints.shape)}"
    )
  if not np.isfinite(joints).all() or joints.min() <= 0:
    raise ValueError(
        "target must be positive everywhere: mix a joint with zeros with a small share of the"
        " uniform joint"
    )
  sums = joints.reshape(len(joints), -1).sum(1)
  if np.abs(sums - 1).max() > 1e-9:
    raise ValueError(f"target must sum to one, and sums to {sums[np.abs(sums - 1).argmax()]}")
  if joints.ndim == 3 and min(joints.shape[1:]) < 3:
    raise ValueError(
        "two players need three strategies or more each: with fewer the construction has no freedom"
        f" left; the target is {list(joints.shape[1:])}"
    )


@jax.jit
def _nearest(joints: Array, games: Array, sums: Array, scale: Array) -> tuple[Array, Array]:
  """Payoffs of each joint, for the sum of duals that leaves them nearest to the prior."""

  def one(joint, prior, scale):
    scale = jnp.broadcast_to(scale, prior.shape[:1])
    payoffs, error = jax.vmap(lambda s: _construct(joint, prior, s * scale))(sums)
    distance = jnp.sqrt(jnp.square(payoffs - prior).reshape(len(sums), -1).mean(1))
    # A system without a solution leaves an error, whatever the distance.
    best = jnp.argmin(jnp.where(error < 1e-8, distance, 1e30 * (1 + error)))
    return payoffs[best], distance[best]

  return jax.lax.map(lambda x: one(*x), (joints, games, scale), batch_size=64)


def _construct(joint: Array, prior: Array, sums: Array) -> tuple[Array, Array]:
  """The nearest payoffs [N, A1, ..., AN] to a prior, for sums [N] of the duals; and the error."""
  weights, slack = _multipliers(joint)
  duals = tuple(s * w for s, w in zip(sums, weights))
  log_joint = jnp.log(joint)
  wanted = (
      -(log_joint - jnp.sum(joint * log_joint)).ravel(),
      *(-block / s for block, s in zip(slack, sums)),
  )
  right = jnp.concatenate(wanted)

  def conditions(payoffs):
    taken = deviation.logits(payoffs, duals, "cce")
    return jnp.concatenate([taken.ravel(), *deviation.gains(payoffs, joint, "cce")])

  # Linear in the payoffs: its derivative is its matrix.
  matrix = jax.jacfwd(conditions)(prior).reshape(len(right), -1)
  missing = right - conditions(prior)
  values, vectors = jnp.linalg.eigh(matrix @ matrix.T)
  keep = values > _RANK * values[-1]
  inverted = jnp.where(keep, 1 / jnp.where(keep, values, 1), 0)
  change = matrix.T @ (vectors @ (inverted * (vectors.T @ missing)))
  payoffs = prior + change.reshape(prior.shape)
  return payoffs, jnp.abs(conditions(payoffs) - right).max()


def _multipliers(joint: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
  """Weights of the duals, which sum to one for each player, and slacks times the sum of duals."""
  shape = joint.shape
  n = len(shape)
  log_joint = jnp.log(joint)
  level = jnp.sum(joint * log_joint)
  marginals = [joint.sum(tuple(q for q in range(n) if q != p)) for p in range(n)]
  ends = jnp.argmin(joint), jnp.argmax(joint)
  trough, peak = (
      [jnp.arange(size) == k for size, k in zip(shape, jnp.unravel_index(end, shape))]
      for end in ends
  )
  binding = [jnp.ones(size, bool) for size in shape]
  if n == 2:
    # Among the strategies that are in neither end, the first, third, fifth, ... are free.
    others = [~(low | high) for low, high in zip(trough, peak)]
    binding = [~(x & (jnp.cumsum(x) % 2 == 1)) for x in others]

  def mixed(t):
    share = jnp.abs(t)
    return [
        (1 - share) * b / b.sum() + share * jnp.where(t < 0, low, high)
        for b, low, high in zip(binding, trough, peak)
    ]

  def mean(weights):
    value = log_joint
    for w in reversed(weights):
      value = value @ w
    return value

  def halve(_, ends):
    low, high = ends
    middle = (low + high) / 2
    below = mean(mixed(middle)) < level
    return jnp.where(below, middle, low), jnp.where(below, high, middle)

  low, _ = jax.lax.fori_loop(0, _BISECTIONS, halve, (-jnp.ones(()), jnp.ones(())))
  weights = mixed(low)
  if n > 2:
    return tuple(weights), tuple(jnp.zeros(size) for size in shape)
  product = marginals[0][:, None] * marginals[1]
  divergence = jnp.sum((joint - product) * (log_joint - jnp.log(product)))
  free = [~b for b in binding]
  share = sum(jnp.sum(jnp.where(f, m, 0)) for f, m in zip(free, marginals))
  return tuple(weights), tuple(jnp.where(f, divergence / share, 0) for f in free)

