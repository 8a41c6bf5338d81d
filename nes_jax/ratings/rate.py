"""Ratings of all strategies of a game, from a joint play of it."""

import concurrent.futures
import os
import string
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nes_jax.ratings import lexicographic, minmax
from nes_jax.selection import Selection
from nes_jax.solving import checks, engines
from nes_jax.solving.solve import solve
from nes_jax.types import Array, Concept, Solution

# Numbers of games that are rated at a time. A chunk waits for its slowest game, and each number is
# compiled by itself.
_CHUNKS = (1, 8, 64)


class Ratings(NamedTuple):
  """Ratings of the strategies of each game. With a batch, every array has a leading axis.

  The rating of player p's strategy k is its expected deviation gain under the joint sigma,

    ratings[p][k] = sum_a sigma(a) (G_p(k, a_-p) - G_p(a))

  the row of strategy k in eq. (3) of Marris et al. (2022), in the units of the payoffs.
  """

  ratings: tuple[Array, ...]  # per player [Ap]; at most 0 at an equilibrium
  joint: Array  # [A1, ..., AN] sigma
  order: tuple[Array, ...]  # per player [Ap] strategies, the best first; ties are in any order
  # contributions[p][q]: [Ap, Aq]. Column k holds the terms of the ratings in which q plays k.
  contributions: tuple[tuple[Array, ...], ...]
  gap: Array  # [] CCE gap or CE gap of the joint
  converged: Array  # [] bool


def deviation(payoffs: Any, *, batched: bool | None = None) -> Ratings:
  """Deviation ratings (Marris et al. 2025, arXiv 2502.11645).

  The joint is one whose largest deviation gain is as small as possible; among these, one whose
  second largest gain is as small as possible; and so on. The ratings, these gains, are unique and
  at most 0. They stay the same if a strategy is there twice, or if payoffs change by an amount
  that does not depend on the own strategy. In a two-player zero-sum game they are the payoffs
  against the other's maximum-entropy Nash equilibrium, less the value.

  Works under `jit` and `vmap` where JAX's x64 mode is on. With concrete arrays it does not need
  that mode, and then returns NumPy arrays.

  Args:
    payoffs: [N, A1, ..., AN] or [B, N, A1, ..., AN], finite, of any scale.
    batched: whether payoffs have a batch axis, where the shape can be read both ways.

  Returns:
    `Ratings`. `converged` says that the ratings are exact for payoffs that differ from those given
    by 1e-9 of their spread or less. `gap` is the CCE gap of the joint.

  Raises:
    ValueError: payoffs are not games, or not finite; or x64 is off under `jit`.
  """
  traced = isinstance(payoffs, jax.core.Tracer)
  payoffs = checks.as_real(payoffs)
  shape = checks.strategy_counts(payoffs.shape, batched)
  single = payoffs.ndim == len(shape) + 1
  if traced:
    if not engines.x64_enabled():
      raise ValueError(
          "deviation ratings need float64: call jax.config.update('jax_enable_x64', True), or pass"
          " a concrete array"
      )
    games = (payoffs[None] if single else payoffs).astype(jnp.float64)
    result = jax.vmap(lexicographic.deviation_ratings)(games)
  else:
    games = np.asarray(payoffs[None] if single else payoffs, np.float64)
    checks.check_finite_games(games, "deviation ratings need finite payoffs")
    result = _in_chunks(games)
  converged = result.residual <= minmax.TOLERANCE
  rated = _measured(games, result.joint, "cce", converged)
  order = tuple((-x).argsort(-1) for x in result.ratings)
  rated = rated._replace(ratings=result.ratings, order=order)
  return jax.tree.map(lambda x: x[0], rated) if single else rated


def equilibrium(
    payoffs: Any,
    concept: Concept = "cce",
    selection: str | Selection = "max_entropy",
    *,
    batched: bool | None = None,
    precision: Literal["float32", "float64"] | None = None,
) -> Ratings:
  """Ratings under the equilibrium that `nes_jax.solve` selects.

  With the CE of maximum entropy these are the ratings of Marris et al. (2025, arXiv 2502.20170).
  They depend on the selection, and on strategies that are there twice. CEs of a player with many
  strategies take long: 57 of them have 3,192 duals, a CCE has 57.

  Args:
    payoffs: [N, A1, ..., AN] or [B, N, A1, ..., AN].
    concept: "cce" or "ce".
    selection: as in `nes_jax.solve`.
    batched: whether payoffs have a batch axis, where the shape can be read both ways.
    precision: None computes in float64 with concrete arrays, and in the type of the payoffs under
      `jit`.

  Returns:
    `Ratings`; `converged` and `gap` are those of the solution.

  Raises:
    ValueError: as `nes_jax.solve`.
  """
  traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((payoffs, selection)))
  payoffs = checks.as_real(payoffs)
  shape = checks.strategy_counts(payoffs.shape, batched)
  single = payoffs.ndim == len(shape) + 1
  solution = solve(
      payoffs,
      concept=concept,
      selection=selection,
      batched=batched,
      precision=precision or (None if traced else "float64"),
  )
  assert isinstance(solution, Solution)  # payoffs are one array
  if not traced:
    solution = jax.tree.map(np.asarray, solution)
    payoffs = np.asarray(payoffs, solution.joint.dtype)
  if single:
    solution, payoffs = jax.tree.map(lambda x: x[None], (solution, payoffs))
  rated = _measured(payoffs, solution.joint, concept, solution.converged)
  rated = rated._replace(gap=solution.gap)
  return jax.tree.map(lambda x: x[0], rated) if single else rated


_rate_chunk = jax.jit(jax.vmap(lexicographic.deviation_ratings))


def _in_chunks(games: np.ndarray) -> lexicographic.Result:
  """Deviation ratings of concrete games [B, N, A1, ..., AN], on all cores."""
  size = next((x for x in _CHUNKS if x >= len(games)), _CHUNKS[-1])
  padded = np.concatenate([games, np.repeat(games[-1:], -len(games) % size, 0)])

  def rate(chunk):
    with engines.precision(np.float64):
      return jax.tree.map(np.asarray, _rate_chunk(chunk))

  chunks = np.split(padded, len(padded) // size)
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    parts = list(pool.map(rate, chunks))
  return jax.tree.map(lambda *x: np.concatenate(x)[: len(games)], *parts)


def _measured(payoffs: Array, joint: Array, concept: Concept, converged: Array) -> Ratings:
  """Ratings of a batch under joints [B, A1, ..., AN]."""
  numpy = np if isinstance(joint, np.ndarray) else jnp
  players = range(joint.ndim - 1)
  contributions = tuple(
      tuple(_contribution(numpy, payoffs, joint, p, q) for q in players) for p in players
  )
  ratings = tuple(own[p].sum(-1) for p, own in enumerate(contributions))
  worst = [own[p] if concept == "ce" else r[..., None] for p, (own, r) in
           enumerate(zip(contributions, ratings))]
  return Ratings(
      ratings=ratings,
      joint=joint,
      order=tuple((-x).argsort(-1) for x in ratings),
      contributions=contributions,
      gap=sum(numpy.maximum(x.max((-1, -2)), 0) for x in worst),
      converged=converged,
  )


def _contribution(numpy: Any, payoffs: Array, joint: Array, p: int, q: int) -> Array:
  """Terms of player p's ratings by the strategy of player q: [B, Ap, Aq]."""
  axes = string.ascii_lowercase[: joint.ndim - 1]
  deviating = axes[:p] + "Z" + axes[p + 1 :]
  played = numpy.einsum(f"Y{deviating},Y{axes}->YZ{axes[q]}", payoffs[:, p], joint)
  kept = numpy.einsum(f"Y{axes},Y{axes}->Y{axes[q]}", payoffs[:, p], joint)
  return played - kept[:, None]
