"""Support functions of the sets of equilibrium payoffs, bounded from both sides.

The set of payoffs of all equilibria is convex, since the equilibria are. Its support function

    h(d) = max over equilibria sigma of  W . sigma        with  W(a) = sum_p d_p G_p(a)

is a linear program. `nes_jax.solve` with the welfare W of infinite weight solves it, and its duals
alpha >= 0 bound it from above by weak duality, whatever their accuracy: for every equilibrium,
A sigma <= 0, and therefore

    W . sigma <= (W - A' alpha) . sigma <= max_a (W - A' alpha)(a).
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from nes_jax.region import inputs
from nes_jax.selection import Selection
from nes_jax.solving import checks
from nes_jax.solving.solve import solve
from nes_jax.types import Concept, Duals, Solution

# Weight of the welfare where an infinite one does not converge, or gives a loose bound. Its entropy
# term takes less than log(|A|) / weight from the welfare, in units of its standard deviation.
FINITE_WEIGHT = 1e6
# A bound is computed again with the finite weight if it exceeds the welfare attained by more than
# this, in standard deviations of the welfare.
_LOOSE = 1e-6
# Number of payoffs that are solved at a time: 512 MiB.
_PART = 2**26


class Support(NamedTuple):
  """Support functions. Without a batch, arrays lack the axis B. All are NumPy arrays of float64."""

  directions: np.ndarray  # [B, D, N] d
  attained: np.ndarray  # [B, D] d . payoffs, a lower bound of h(d) but for the gap of the joint
  upper: np.ndarray  # [B, D] a certified upper bound of h(d)
  payoffs: np.ndarray  # [B, D, N] expected payoffs of the joint
  joint: np.ndarray  # [B, D, A1, ..., AN] the equilibrium that attains them
  gap: np.ndarray  # [B, D] CE gap or CCE gap of the joint, in units of the payoffs
  converged: np.ndarray  # [B, D] bool: `nes_jax.solve` certifies the joint


def support(
    payoffs: Any,
    directions: Any,
    concept: Concept = "cce",
    *,
    batched: bool | None = None,
) -> Support:
  """The support function h(d) of the set of equilibrium payoffs, with bounds from both sides.

  All directions of all games are one batch of linear programs, in float64.

  Args:
    payoffs: [N, A1, ..., AN] or [B, N, A1, ..., AN], finite, of any scale.
    directions: [D, N] for all games, or [B, D, N], of any length; h(2 d) is 2 h(d).
    concept: "cce" or "ce".
    batched: whether payoffs have a batch axis, where the shape can be read both ways.

  Returns:
    `Support`: h(d) is at most `upper`, and `attained` is within the tolerance of the solver.

  Raises:
    ValueError: payoffs, directions or the concept are wrong.
  """
  checks.check_concept(concept)
  games, many = inputs.games(payoffs, batched)
  given = inputs.directions(directions, len(games), games.shape[1])
  found = solve_directions(games, given, concept)
  return found if many else Support(*(x[0] for x in found))


def solve_directions(games: np.ndarray, directions: np.ndarray, concept: Concept) -> Support:
  """`support` without checks: games [B, N, A1, ..., AN], directions [B, D, N]."""
  step = max(1, _PART // (math.prod(games.shape[1:]) * directions.shape[1]))
  parts = []
  for start in range(0, len(games), step):
    part = slice(start, start + step)
    parts.append(_solve_part(games[part], directions[part], concept))
  return Support(*(np.concatenate(x) for x in zip(*parts)))


def _solve_part(games: np.ndarray, directions: np.ndarray, concept: Concept) -> Support:
  count, num = directions.shape[:2]
  shape = games.shape[2:]
  welfare = directions @ games.reshape(count, len(shape), -1)
  welfare = welfare.reshape(count * num, *shape)
  repeated = np.repeat(games, num, 0)
  solution, upper = maximise(repeated, welfare, concept)
  joint = np.asarray(solution.joint).reshape(count, num, *shape)
  values = np.einsum(
      "bnk,bdk->bdn", games.reshape(count, len(shape), -1), joint.reshape(count, num, -1)
  )
  return Support(
      directions=np.array(directions),
      attained=np.einsum("bdn,bdn->bd", directions, values),
      upper=upper.reshape(count, num),
      payoffs=values,
      joint=joint,
      gap=np.asarray(solution.gap).reshape(count, num),
      converged=np.asarray(solution.converged).reshape(count, num),
  )


def maximise(
    games: np.ndarray, welfare: np.ndarray, concept: Concept
) -> tuple[Solution, np.ndarray]:
  """Equilibria of largest welfare, and upper bounds of it.

  Args:
    games: [B, N, A1, ..., AN].
    welfare: [B, A1, ..., AN].
    concept: "cce" or "ce".

  Returns:
    The solution in float64, and the bounds [B]. Where the solution with an infinite weight is not
    certified, or its bound is loose, the bound is the smaller one of two.
  """
  solution = solve_weighted(games, welfare, math.inf, concept)
  upper = upper_bound(games, welfare, solution.duals, concept)
  flat = welfare.reshape(len(welfare), -1)
  between = upper - (flat * solution.joint.reshape(flat.shape)).sum(1)
  tight = solution.converged & (between <= _LOOSE * flat.std(1))
  left = np.flatnonzero(~tight)
  if len(left):
    again = solve_weighted(games[left], welfare[left], FINITE_WEIGHT, concept)
    bound = upper_bound(games[left], welfare[left], again.duals, concept)
    upper[left] = np.minimum(upper[left], bound)
    better = np.asarray(again.converged) & ~np.asarray(solution.converged)[left]
    for old, new in zip(jax.tree.leaves(solution), jax.tree.leaves(again)):
      old[left[better]] = new[better]
  return solution, upper


def solve_weighted(
    games: np.ndarray, welfare: np.ndarray, weight: float, concept: Concept
) -> Solution:
  """Solves in float64; the duals become those of max W . sigma, in the units of the welfare."""
  solution = solve(
      games,
      concept=concept,
      selection=Selection(welfare=welfare, welfare_weight=weight),
      precision="float64",
      batched=True,
  )
  assert isinstance(solution, Solution)  # games are one array
  solution = jax.tree.map(np.array, solution)
  unit = welfare.reshape(len(welfare), -1).std(1) / (1.0 if math.isinf(weight) else weight)
  duals = tuple(x * unit.reshape((-1,) + (1,) * (x.ndim - 1)) for x in solution.duals)
  return solution._replace(duals=duals)


def upper_bound(
    games: np.ndarray, welfare: np.ndarray, duals: Duals, concept: Concept
) -> np.ndarray:
  """max_a (W - A' alpha)(a), which no equilibrium's welfare exceeds.

  Rounding is allowed for, and so are duals that are not numbers or of the wrong sign: they count as
  0. The bound is never above max_a W(a), that of duals 0.

  Args:
    games: [B, N, A1, ..., AN].
    welfare: [B, A1, ..., AN].
    duals: per player [B, Ap] (CCE) or [B, Ap, Ap] (CE), in units of the welfare over the payoffs.
    concept: "cce" or "ce".

  Returns:
    [B].
  """
  size = np.abs(welfare)  # the largest terms of every sum, of which rounding is a fraction
  bound, terms = welfare, 1
  for p, block in enumerate(duals):
    own = np.moveaxis(games[:, p], p + 1, 1)
    flat = own.reshape(*own.shape[:2], -1)  # [B, Ap, strategies of the others]
    alpha = np.maximum(np.nan_to_num(np.asarray(block), nan=0.0, posinf=0.0), 0)
    if concept == "cce":
      alpha = np.broadcast_to(alpha[:, None], (*alpha.shape[:1], alpha.shape[1], alpha.shape[1]))
    total = alpha.sum(2, keepdims=True)
    taken, large = alpha @ flat - total * flat, alpha @ np.abs(flat) + total * np.abs(flat)
    bound = bound - np.moveaxis(taken.reshape(own.shape), 1, p + 1)
    size = size + np.moveaxis(large.reshape(own.shape), 1, p + 1)
    terms += 2 * alpha.shape[1]
  bound = bound + terms * np.finfo(float).eps * size
  axes = tuple(range(1, welfare.ndim))
  return np.minimum(bound.max(axes), welfare.max(axes))
