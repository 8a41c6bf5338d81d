"""Deviation gains as a linear operator A on joint distributions, eqs. (1) and (3) of Marris et al.

The dense tensor A has D x |A| entries; nothing here forms it. What the dual problem needs of it is

  gains        A sigma           expected gain of each deviation under a joint
  logits       A' alpha          what the duals take from each joint strategy's logit
  dual_gram    A diag(w) A'      D x D, the dual's Hessian up to a rank-one term
  joint_gram   A' diag(t) A      |A| x |A|, the same system seen from the joint (CE only: smaller there)

All take trailing batch axes (`layout`). Blocks of duals are [Ap, *b] for CCE and
[Ap recommended, Ap deviation, *b] for CE.
"""

import jax.numpy as jnp

from nes_jax import layout
from nes_jax.layout import Stages, inline, product, sum_axis, total
from nes_jax.types import Array, Concept, Duals


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

  No deviation gain changes, since the mean depends on the others' strategies only; what is
  subtracted would only be cancelled later, at the cost of digits.
  """
  n = num_players(payoffs)
  return jnp.stack([payoffs[p] - payoffs[p].mean(p, keepdims=True) for p in range(n)])


def gains(payoffs: Array, joint: Array, concept: Concept, stage: Stages = inline) -> Duals:
  """A sigma: payoffs [N, A1, ..., AN, *b], joint [A1, ..., AN, *b] -> blocks of duals.

  `joint` may be any real weights; nothing is normalised.
  """
  n = num_players(payoffs)
  return tuple(
      _GAINS[concept](own_first(payoffs[p], p, n), own_first(joint, p, n), stage) for p in range(n)
  )


def _coarse_gains(g, s, stage):
  if g.ndim == 2:
    return layout.matmul(g, s.sum(0)) - jnp.vdot(g, s, precision="highest")
  others = stage(lambda s: sum_axis(s, 0, 2), s)
  return stage(lambda g, s, others: sum_axis(g * others[None], 1, 2) - total(g * s, 2), g, s, others)


def _correlated_gains(g, s, stage):
  # value[i, k]: what deviating to k is worth, summed over the times i is recommended.
  value = stage(lambda s, g: product(s, jnp.swapaxes(g, 0, 1)), s, g)
  kept = sum_axis(s * g, 1, 2)
  return value - kept[:, None]


_GAINS = {"cce": _coarse_gains, "ce": _correlated_gains}


def logits(payoffs: Array, duals: Duals, concept: Concept, stage: Stages = inline) -> Array:
  """A' alpha: blocks of duals -> [A1, ..., AN, *b], the sum over players in eq. (8)."""
  n, sizes = num_players(payoffs), strategy_counts(payoffs)
  terms = []
  for p in range(n):
    g = own_first(payoffs[p], p, n)
    terms.append(own_back(_LOGITS[concept](g, duals[p], stage), p, sizes))
  return sum(terms[1:], terms[0])


def _coarse_logits(g, a, stage):
  if g.ndim == 2:
    return layout.matmul(a, g) - a.sum() * g
  value, mass = stage(lambda g, a: (sum_axis(a[:, None] * g, 0, 2), total(a, 1)), g, a)
  return value[None] - mass * g


def _correlated_logits(g, a, stage):
  return stage(product, a, g) - sum_axis(a, 1, 2)[:, None] * g


_LOGITS = {"cce": _coarse_logits, "ce": _correlated_logits}


def dual_gram(payoffs: Array, weights: Array, concept: Concept, stage: Stages = inline):
  """A diag(w) A' as the lower triangle of its blocks: blocks[p][q], q <= p.

  CCE for two players costs about 6 n^3 flops on an n x n game, since with u = w summed over the
  own axis, A1 diag(w) A1' = G1 diag(u) G1' + terms of rank one, and the cross block is
  G1 w' G2 + terms of rank one.

  Args:
    payoffs: [N, A1, ..., AN, *b].
    weights: [A1, ..., AN, *b].
    concept: "cce" or "ce".

  Returns:
    blocks[p][q] of shape [np, nq, *b], np = Ap (CCE) or Ap * Ap (CE, row-major).
  """
  return (_coarse_gram if concept == "cce" else _correlated_gram)(payoffs, weights, stage)


def _coarse_gram(payoffs, w, stage):
  n = num_players(payoffs)
  g = [own_first(payoffs[p], p, n) for p in range(n)]
  ws = [own_first(w, p, n) for p in range(n)]
  weighted = stage(lambda payoffs, w: payoffs * w[None], payoffs, w)
  # carried[p][q]: [R_p], sum over p's own strategy of w G_q.
  carried = stage(
      lambda weighted: [
          [sum_axis(own_first(weighted[q], p, n), 0, 2) for q in range(n)] for p in range(n)
      ],
      weighted,
  )
  others = stage(lambda ws: [sum_axis(s, 0, 2) for s in ws], ws)
  # cross[p][q]: [Ap], sum_a w G_p(i, a_-p) G_q(a).  both[p][q]: sum_a w G_p G_q.
  cross, both = stage(
      lambda g, carried, payoffs, weighted: (
          [[sum_axis(g[p] * carried[p][q][None], 1, 2) for q in range(n)] for p in range(n)],
          [[total(payoffs[p] * weighted[q], n) for q in range(p + 1)] for p in range(n)],
      ),
      g,
      carried,
      payoffs,
      weighted,
  )

  def assemble(main, row, column, constant):
    return main - row[:, None] - column[None] + constant

  blocks = []
  for p in range(n):
    row = []
    for q in range(p):
      main = _coarse_cross(payoffs, w, p, q, stage)
      row.append(stage(assemble, main, cross[p][q], cross[q][p], both[p][q]))
    scaled = stage(lambda g, u: g * u[None], g[p], others[p])
    main = stage(lambda x, y: product(x, jnp.swapaxes(y, 0, 1)), scaled, g[p])
    row.append(stage(assemble, main, cross[p][p], cross[p][p], both[p][p]))
    blocks.append(row)
  return blocks


def _pair_first(x, p, q, n):
  """[A1, ..., AN, *b] -> [Ap, Aq, R, *b], R = strategies of everyone else."""
  x = jnp.moveaxis(x, (p, q), (0, 1))
  return x.reshape(x.shape[:2] + (-1,) + x.shape[n:])


def _coarse_cross(payoffs, w, p, q, stage):
  """[i, k] = sum over a of w(a) G_p(i, a_-p) G_q(k, a_-q)."""
  n = num_players(payoffs)
  gp, gq, w = (_pair_first(x, p, q, n) for x in (payoffs[p], payoffs[q], w))
  if gp.ndim == 3:
    inner = jnp.einsum("ijr,ajr->iar", gp, w, precision="highest")
    return jnp.einsum("iar,akr->ik", inner, gq, precision="highest")
  parts = []
  for r in range(gp.shape[2]):
    inner = stage(lambda x, y: product(x, jnp.swapaxes(y, 0, 1)), gp[:, :, r], w[:, :, r])
    parts.append(stage(product, inner, gq[:, :, r]))
  return layout.fold(jnp.add, parts)


def _gain_table(g):
  """[Ap, R, *b] -> [Ap recommended, Ap deviation, R, *b]: G(k, r) - G(i, r)."""
  return g[None] - g[:, None]


def _correlated_gram(payoffs, w, stage):
  del stage
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
  return blocks


def joint_gram(payoffs: Array, weights: Duals) -> Array:
  """A' diag(t) A for the CE operator, unbatched: weights t like duals -> [|A|, |A|].

  Player p's part couples only joint strategies in which p plays the same.
  """
  n, sizes = num_players(payoffs), strategy_counts(payoffs)
  result = 0.0
  for p in range(n):
    table = _gain_table(own_first(payoffs[p], p, n))
    same = jnp.matmul(jnp.swapaxes(table * weights[p][:, :, None], 1, 2), table, precision="highest")
    eye = jnp.eye(sizes[p], dtype=same.dtype)[:, None, :, None]
    full = eye * same[:, :, None, :]  # [Ap, R, Ap, R]
    others = sizes[:p] + sizes[p + 1 :]
    full = full.reshape((sizes[p],) + others + (sizes[p],) + others)
    result = result + jnp.moveaxis(full, (0, n), (p, n + p))
  count = result.size
  side = int(round(count**0.5))
  return result.reshape(side, side)
