"""Deviation gains as a linear operator A on joint distributions, eqs. (1) and (3) of Marris et al.

The dense tensor A has D x |A| entries. Nothing here forms it; the dual problem needs only

  gains        A sigma         expected gain of each deviation under a joint
  logits       A' alpha        subtracted from the logit of each joint strategy
  covariance   of the gains    D x D, the dual's Hessian
  joint_gram   A' diag(t) A    |A| x |A|, the same system seen from the joint (smaller for CE)

All take trailing batch axes (`layout`). Blocks of duals are [Ap, *b] for CCE and
[Ap recommended, Ap deviation, *b] for CE.
"""

import jax
import jax.numpy as jnp

from nes_jax import layout
from nes_jax.layout import matmul, sum_axis, sum_over
from nes_jax.types import Array, Concept, Duals

# Regrets up to so many ulps of the best replies' payoffs are rounding.
_NOISE_ULPS = 8


def num_players(payoffs: Array) -> int:
  """Number of players of payoffs [N, A1, ..., AN, *b]."""
  return payoffs.shape[0]


def own_first(x: Array, player: int, num_players: int) -> Array:
  """[A1, ..., AN, *b] -> [Ap, R, *b], R = strategies of all the others, in order."""
  x = jnp.moveaxis(x, player, 0)
  return x.reshape((x.shape[0], -1) + x.shape[num_players:])


def own_back(x: Array, player: int, sizes: tuple[int, ...]) -> Array:
  """Inverse of `own_first`; `sizes` are the strategy counts of all players."""
  others = sizes[:player] + sizes[player + 1 :]
  return jnp.moveaxis(x.reshape(sizes[player : player + 1] + others + x.shape[2:]), 0, player)


def strategy_counts(payoffs: Array) -> tuple[int, ...]:
  """(A1, ..., AN) of payoffs [N, A1, ..., AN, *b]."""
  return payoffs.shape[1 : 1 + num_players(payoffs)]


def dual_axes(concept: Concept) -> int:
  """Number of game axes of a block of duals."""
  return 1 if concept == "cce" else 2


def centre_own(payoffs: Array) -> Array:
  """Subtracts from each player's payoff its mean over the player's own strategies.

  No deviation gain changes, since the mean depends on the others' strategies only. Gains would
  cancel it later, at the cost of digits.
  """
  n = num_players(payoffs)
  return jnp.stack([payoffs[p] - payoffs[p].mean(p, keepdims=True) for p in range(n)])


def alive(strategies: tuple[Array, ...]) -> Array:
  """Joint strategies whose parts all exist: per player [Ap, *b] -> [A1, ..., AN, *b] bool."""
  n = len(strategies)
  result = jnp.ones((), bool)
  for p, exists in enumerate(strategies):
    shape = (1,) * p + exists.shape[:1] + (1,) * (n - 1 - p) + exists.shape[1:]
    result = result & exists.reshape(shape)
  return result


def centre_near_mean(
    payoffs: Array, duals: Duals, concept: Concept, strategies: tuple[Array, ...] | None = None
) -> Array:
  """Subtracts the payoffs of one own strategy from a player's payoffs, per play of the others.

  No deviation gain changes. The strategy is the one whose payoff is nearest to the mean of all
  under the duals. Where duals are large, only strategies that nearly tie with this mean are played
  at all, and large duals multiply their differences, which then have all their digits.

  Args:
    payoffs: [N, A1, ..., AN, *b].
    duals: non-negative blocks; those of one player may all be 0.
    concept: "cce" or "ce".
    strategies: per player bool [Ap, *b], the strategies that exist; the others get payoff 0. None:
      all exist.
  """
  n = num_players(payoffs)
  result = []
  for p, block in enumerate(duals):
    weights = block if concept == "cce" else sum_axis(block, 0, 2)
    if strategies is not None:
      weights = weights * strategies[p]
    shares = weights / jnp.maximum(sum_over(weights, 1), jnp.finfo(payoffs.dtype).tiny)
    shares = _per_own_strategy(shares, n)
    own = jnp.moveaxis(payoffs[p], p, 0)
    base = own - own[:1]
    distance = jnp.abs(base - sum_axis(shares * base, 0, n)[None])
    if strategies is not None:
      distance = jnp.where(_per_own_strategy(strategies[p], n), distance, jnp.inf)
    # No gain depends on what is subtracted, so that derivatives may take it as constant.
    own = own - jax.lax.stop_gradient(layout.at_smallest(distance, own, own.ndim > n))[None]
    if strategies is not None:
      own = jnp.where(_per_own_strategy(strategies[p], n), own, 0)
    result.append(jnp.moveaxis(own, 0, p))
  return jnp.stack(result)


def _per_own_strategy(x: Array, num_players: int) -> Array:
  """x [Ap, *b] as an array that broadcasts against payoffs [Ap, other players' axes, *b]."""
  return x.reshape(x.shape[:1] + (1,) * (num_players - 1) + x.shape[1:])


def centre_at_best(payoffs: Array, strategies: tuple[Array, ...] | None = None) -> Array:
  """Subtracts the payoff of the best reply from a player's payoffs, per play of the others.

  No deviation gain changes. The result is minus the regret, 0 or less. It keeps its digits in a
  narrower type, however large the payoffs' mean or a penalty is. Derivatives take the payoff that
  is subtracted as constant, which changes no derivative of a gain.

  Args:
    payoffs: [N, A1, ..., AN], finite; unbatched.
    strategies: per player bool [Ap], the strategies that exist. None: all do.
  """
  n = num_players(payoffs)
  exist = True if strategies is None else alive(strategies)
  result = []
  for p in range(n):
    best = jnp.where(exist, payoffs[p], -jnp.inf).max(p, keepdims=True)
    best = jax.lax.stop_gradient(jnp.where(jnp.isfinite(best), best, 0))
    result.append(jnp.where(exist, payoffs[p] - best, 0))
  return jnp.stack(result)


def fill_missing(payoffs: Array, strategies: tuple[Array, ...]) -> Array:
  """Gives strategies that do not exist the lowest own payoff of those that do, per play of others.

  To deviate to such a strategy never gains more than to deviate to one that exists.

  Args:
    payoffs: [N, A1, ..., AN, *b].
    strategies: per player bool [Ap, *b], the strategies that exist, at least one.
  """
  n = num_players(payoffs)
  result = []
  for p, exists in enumerate(strategies):
    exists = _per_own_strategy(exists, n)
    own = jnp.moveaxis(payoffs[p], p, 0)
    lowest = jnp.where(exists, own, jnp.inf).min(0, keepdims=True)
    result.append(jnp.moveaxis(jnp.where(exists, own, lowest), 0, p))
  return jnp.stack(result)


def least_regret(payoffs: Array, strategies: tuple[Array, ...] | None = None) -> Array:
  """Smallest, over a player's strategies that are not dominant, of their largest regret.

  The regret of a strategy against a play of the others is the gain of the best reply over it. In a
  (C)CE a player's expected regret is at most the largest regret of any one strategy, so this is the
  size of the payoff differences that matter. A payoff far below all others does not set it.

  Args:
    payoffs: [N, A1, ..., AN], finite; unbatched.
    strategies: per player bool [Ap], the strategies that exist. None: all do.

  Returns:
    [N], 0 for a player who can never gain or lose by deviating.
  """
  n = num_players(payoffs)
  regrets = -centre_at_best(payoffs, strategies)
  least = []
  for p in range(n):
    worst = own_first(regrets[p], p, n).max(1)
    noise = _NOISE_ULPS * jnp.finfo(payoffs.dtype).eps * jnp.abs(payoffs[p] + regrets[p]).max()
    found = jnp.where(worst > noise, worst, jnp.inf).min()
    least.append(jnp.where(jnp.isfinite(found), found, 0))
  return jnp.stack(least)


def gains(payoffs: Array, joint: Array, concept: Concept) -> Duals:
  """A sigma: payoffs [N, A1, ..., AN, *b], joint [A1, ..., AN, *b] -> blocks of duals.

  `joint` may be any real weights; nothing is normalised.
  """
  return (_coarse_gains if concept == "cce" else _correlated_gains)(payoffs, joint)


def _coarse_gains(payoffs, joint):
  n = num_players(payoffs)
  blocks = []
  for p in range(n):
    g = own_first(payoffs[p], p, n)
    others = sum_axis(own_first(joint, p, n), 0, 2)
    kept = sum_over(payoffs[p] * joint, n)
    if g.ndim == 2:
      deviating = layout.dense_matmul(g, others)
    else:
      deviating = sum_axis(g * others[None], 1, 2)
    blocks.append(deviating - kept)
  return tuple(blocks)


def _correlated_gains(payoffs, joint):
  n = num_players(payoffs)
  blocks = []
  for p in range(n):
    g, s = own_first(payoffs[p], p, n), own_first(joint, p, n)
    if _exact_differences(g):
      blocks.append(jnp.einsum("ir,ikr->ik", s, _gain_table(g), precision="highest"))
      continue
    # [i, k]: what deviating to k is worth, summed over the times that i is recommended.
    deviating = matmul(s, jnp.swapaxes(g, 0, 1))
    blocks.append(deviating - sum_axis(s * g, 1, 2)[:, None])
  return tuple(blocks)


def squares(payoffs: Array, joint: Array, concept: Concept) -> Duals:
  """Expected squares of the gains, in blocks like `gains`."""
  n = num_players(payoffs)
  blocks = []
  for p in range(n):
    g, s = own_first(payoffs[p], p, n), own_first(joint, p, n)
    # (deviating - kept)^2, multiplied out.
    kept = sum_axis(s * g**2, 1, 2)
    if concept == "cce":
      own = sum_axis(g**2 * sum_axis(s, 0, 2)[None] - 2 * g * sum_axis(s * g, 0, 2)[None], 1, 2)
      blocks.append(own + sum_over(kept, 1)[None])
    else:
      transposed = jnp.swapaxes(g, 0, 1)
      own = matmul(s, transposed**2) - 2 * matmul(s * g, transposed)
      blocks.append(own + kept[:, None])
  return tuple(jnp.maximum(x, 0) for x in blocks)


def logits(payoffs: Array, duals: Duals, concept: Concept) -> Array:
  """A' alpha: blocks of duals -> [A1, ..., AN, *b], the sum over players in eq. (8)."""
  return (_coarse_logits if concept == "cce" else _correlated_logits)(payoffs, duals)


def _coarse_logits(payoffs, duals):
  n, sizes = num_players(payoffs), strategy_counts(payoffs)
  terms = []
  for p in range(n):
    g = own_first(payoffs[p], p, n)
    if g.ndim == 2:
      deviating = layout.dense_matmul(duals[p], g)
    else:
      deviating = sum_axis(duals[p][:, None] * g, 0, 2)
    deviating = deviating.reshape(sizes[:p] + (1,) + sizes[p + 1 :] + deviating.shape[1:])
    terms.append(deviating - sum_over(duals[p], 1) * payoffs[p])
  return sum(terms[1:], terms[0])


def _correlated_logits(payoffs, duals):
  n, sizes = num_players(payoffs), strategy_counts(payoffs)
  terms = []
  for p in range(n):
    g = own_first(payoffs[p], p, n)
    if _exact_differences(g):
      term = jnp.einsum("ik,ikr->ir", duals[p], _gain_table(g), precision="highest")
    else:
      term = matmul(duals[p], g) - sum_axis(duals[p], 1, 2)[:, None] * g
    terms.append(own_back(term, p, sizes))
  return sum(terms[1:], terms[0])


def covariance(payoffs: Array, weights: Array, concept: Concept):
  """A diag(w) A' - (A w)(A w)' / sum(w), the dual's Hessian, with A w and sum(w).

  It is sum(w) times the covariance of the deviation gains under the measure w, and is computed from
  centred gains: written as the difference it loses float32 where w is concentrated on few joint
  strategies. CCE for two players costs about 6 n^3 flops on an n x n game.

  Args:
    payoffs: [N, A1, ..., AN, *b].
    weights: [A1, ..., AN, *b], positive.
    concept: "cce" or "ce".

  Returns:
    (blocks, means, mass): blocks[p][q] of shape [np, nq, *b] for q <= p, np = Ap (CCE) or Ap * Ap
    (CE, row-major); means[p] [np, *b], A w; mass [*b], sum(w).
  """
  return (_coarse_covariance if concept == "cce" else _correlated_covariance)(payoffs, weights)


def _coarse_covariance(payoffs, w):
  """Blocks of `covariance` for CCE.

  With payoffs h(i, a_-p) centred both over p's own strategies and over the others', all under w,

  block pp = h diag(w_-p) h' + var, block pq = sum_a w h_p h_q - cross_pq - cross_qp' + cov,
  where cross_pq[i] = sum_a w h_p(i, a_-p) g_q(a) and g is centred over the own axis only.
  """
  n = num_players(payoffs)
  centred, others = [], []  # g [A1, ..., AN, *b]; w_-p [R, *b]
  for p in range(n):
    weight = sum_axis(w, p, n)
    # Strategies that do not exist have no mass.
    safe = jnp.maximum(weight, jnp.finfo(weight.dtype).tiny)
    own = sum_axis(payoffs[p] * w, p, n) / safe
    centred.append(payoffs[p] - jnp.expand_dims(own, p))
    others.append(weight.reshape((-1,) + weight.shape[n - 1 :]))
  mass = sum_over(others[0], 1)
  means, h = [], []
  for p, g in enumerate(centred):
    g = own_first(g, p, n)
    means.append(sum_axis(g * others[p][None], 1, 2))
    h.append(g - (means[p] / mass)[:, None])

  def cross(p, q):
    carried = sum_axis(own_first(w * centred[q], p, n), 0, 2)
    return sum_axis(h[p] * carried[None], 1, 2)

  blocks = []
  for p in range(n):
    row = []
    for q in range(p):
      both = sum_over(w * centred[p] * centred[q], n)
      main = _coarse_cross(h[p], h[q], w, p, q)
      row.append(main - cross(p, q)[:, None] - cross(q, p)[None] + both)
    scaled = h[p] * others[p][None]
    both = sum_over(w * centred[p] * centred[p], n)
    row.append(matmul(scaled, jnp.swapaxes(h[p], 0, 1)) + both)
    blocks.append(row)
  return blocks, means, mass


def _pair_first(x, p, q, n):
  """[A1, ..., AN, *b] -> [Ap, Aq, R, *b], R = strategies of everyone else."""
  x = jnp.moveaxis(x, (p, q), (0, 1))
  return x.reshape(x.shape[:2] + (-1,) + x.shape[n:])


def _coarse_cross(hp, hq, w, p, q):
  """[i, k] = sum over a of w(a) h_p(i, a_-p) h_q(k, a_-q); h [Ap, R, *b], w [A1, ..., AN, *b]."""
  n = w.ndim - (hp.ndim - 2)
  sizes = w.shape[:n]
  tensors = own_back(hp, p, sizes), own_back(hq, q, sizes), w
  hp, hq, w = (_pair_first(x, p, q, n) for x in tensors)
  if hp.ndim == 3:
    inner = jnp.einsum("ijr,ajr->iar", hp, w, precision="highest")
    return jnp.einsum("iar,akr->ik", inner, hq, precision="highest")
  terms = []
  for r in range(w.shape[2]):
    inner = matmul(hp[:, :, r], jnp.swapaxes(w[:, :, r], 0, 1))
    terms.append(matmul(inner, hq[:, :, r]))
  return layout.fold(jnp.add, terms)


def _exact_differences(g: Array) -> bool:
  """Whether gains of a CE are differences of payoffs, not of sums over payoffs [Ap, R, *b].

  The former keep the digits of near-ties between any two strategies, at a higher cost.
  """
  return g.ndim == 2 and g.dtype == jnp.float64


def _gain_table(g):
  """[Ap, R, *b] -> [Ap recommended, Ap deviation, R, *b]: G(k, r) - G(i, r)."""
  return g[None] - g[:, None]


def _correlated_covariance(payoffs, w):
  n = num_players(payoffs)
  blocks = []
  for p in range(n):
    row = []
    for q in range(p):
      gp, gq, wpq = (_pair_first(x, p, q, n) for x in (payoffs[p], payoffs[q], w))
      # table_p[i, k, j, r]: p is told i and plays k while q plays j; table_q the other way round.
      table_p, table_q = _gain_table(gp), _gain_table(jnp.swapaxes(gq, 0, 1))
      block = jnp.einsum(
          "ijr...,ikjr...,jlir...->ikjl...", wpq, table_p, table_q, precision="highest"
      )
      size_p, size_q = gp.shape[0], gq.shape[1]
      row.append(block.reshape((size_p * size_p, size_q * size_q) + block.shape[4:]))
    g, s = own_first(payoffs[p], p, n), own_first(w, p, n)
    table = _gain_table(g)
    same = jnp.einsum("ir...,ikr...,ilr...->ikl...", s, table, table, precision="highest")
    size = g.shape[0]
    eye = jnp.eye(size, dtype=g.dtype).reshape((size, 1, size, 1) + (1,) * (g.ndim - 2))
    block = eye * same[:, :, None]
    row.append(block.reshape((size * size, size * size) + block.shape[4:]))
    blocks.append(row)
  mass = sum_over(w, n)
  means = [x.reshape((-1,) + mass.shape) for x in gains(payoffs, w, "ce")]
  blocks = [
      [x - m[:, None] * (means[q] / mass)[None] for q, x in enumerate(row)]
      for row, m in zip(blocks, means)
  ]
  return blocks, means, mass


def joint_gram(payoffs: Array, weights: Duals) -> Array:
  """A' diag(t) A for the CE operator, unbatched: weights t like duals -> [|A|, |A|].

  Player p's part couples only joint strategies in which p plays the same.
  """
  n, sizes = num_players(payoffs), strategy_counts(payoffs)
  result = jnp.zeros((), payoffs.dtype)
  for p in range(n):
    table = _gain_table(own_first(payoffs[p], p, n))
    same = layout.dense_matmul(jnp.swapaxes(table * weights[p][:, :, None], 1, 2), table)
    eye = jnp.eye(sizes[p], dtype=same.dtype)[:, None, :, None]
    full = eye * same[:, :, None, :]  # [Ap, R, Ap, R]
    others = sizes[:p] + sizes[p + 1 :]
    full = full.reshape((sizes[p],) + others + (sizes[p],) + others)
    result = result + jnp.moveaxis(full, (0, n), (p, n + p))
  count = result.size
  side = int(round(count**0.5))
  return result.reshape(side, side)
