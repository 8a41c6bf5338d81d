"""Extreme points of equilibrium polytopes, found by many selections.

Section 6 of Marris et al. (2022) sketches the method: every selection of an equilibrium by a
welfare ends at an extreme point, and welfares or targets that are one at one joint strategy are a
first batch of them. Later batches here take welfares from what was found. An extreme point is best
for all welfares c = -sum_j w_j r_j with weights w >= 0 on its active inequalities r_j . x >= 0;
with one weight negative, c leads to a neighbour.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from nes_jax.region import inputs, polytope
from nes_jax.region.bounds import maximise
from nes_jax.selection import Selection
from nes_jax.solving import checks
from nes_jax.solving.solve import solve
from nes_jax.types import Concept, Solution

# Two points whose probabilities differ by less than this are one.
_SAME = 1e-7
# Welfares of a game and round for each joint strategy.
_WELFARES = 24
# Share of the welfares of a round that lead away from what was found; the others are random.
_AWAY = 0.75
# Selections that are solved at a time, in payoffs: 256 MiB.
_PART = 2**25


class Vertices(NamedTuple):
  """Extreme points of the equilibrium polytope of one game, in float64."""

  joints: np.ndarray  # [V, A1, ..., AN], in the order in which they were found
  payoffs: np.ndarray  # [V, N] expected payoffs at these
  # [rounds] number of extreme points that each round added.
  found: np.ndarray
  # [V] number of times that each one was found.
  hits: np.ndarray
  # Estimated share of all extreme points that was found (Chao 1984), 1 if none was found once only.
  share: float
  # Number of selections that did not end at a verified extreme point.
  unverified: int


def vertices(
    payoffs: Any,
    concept: Concept = "cce",
    rounds: int = 8,
    *,
    seed: int = 0,
    batched: bool | None = None,
) -> Vertices | list[Vertices]:
  """Extreme points of the set of equilibria, by rounds of selections.

  The first round has the one-hot welfares, with both signs, and the pure targets. Each later round
  has random welfares and such that lead from the points found to their neighbours; its number of
  them is proportional to that of joint strategies. A round of all games is one batch of
  `nes_jax.solve`. Each answer is moved to an extreme point next to it, and kept if that point is
  verified: n - 1 inequalities and the sum of the probabilities, linearly independent, hold with
  equality, and no inequality (whose coefficients have unit norm) is violated by more than 1e-9.

  Numbers of extreme points grow exponentially with the size of games: a 3x3 game has some ten CEs
  or fifty CCEs that are extreme, and at 8x8 no method can list them. `share` says what is missing.
  `enumerate_vertices` lists all extreme points of a small game.

  Args:
    payoffs: [N, A1, ..., AN] or [B, N, A1, ..., AN], finite.
    concept: "cce" or "ce".
    rounds: number of rounds, at least 1. A game in which two rounds in a row add nothing is done.
    seed: seed of the random welfares.
    batched: whether payoffs have a batch axis, where the shape can be read both ways.

  Returns:
    `Vertices`, or a list of them for a batch.

  Raises:
    ValueError: payoffs, the concept or the number of rounds are wrong.
  """
  checks.check_concept(concept)
  inputs.at_least("rounds", rounds, 1)
  games, many = inputs.games(payoffs, batched)
  finders = [_Finder(game, concept, np.random.default_rng([seed, b]))
             for b, game in enumerate(games)]
  for number in range(rounds):
    open_ = [finder for finder in finders if not finder.done]
    if open_:
      _round(open_, concept, first=number == 0)
  results = [finder.result() for finder in finders]
  return results if many else results[0]


def enumerate_vertices(payoffs: Any, concept: Concept = "cce") -> np.ndarray:
  """All extreme points of the equilibria of one small game, without the solver.

  The double description method cuts the joint simplex by one inequality after the other. Its time
  grows exponentially: milliseconds for 3x3 games, half a second for CCEs of 3x4 games.

  Args:
    payoffs: [N, A1, ..., AN], finite.
    concept: "cce" or "ce".

  Returns:
    float64 [V, A1, ..., AN], in lexicographic order.

  Raises:
    ValueError: payoffs are not one game, or the concept is unknown.
  """
  checks.check_concept(concept)
  games, _ = inputs.games(payoffs, False)
  found = polytope.enumerate_all(polytope.constraints(games[0], concept))
  return found.reshape(-1, *games.shape[2:])


class _Finder:
  """Search for the extreme points of one game."""

  def __init__(self, game: np.ndarray, concept: Concept, rng: np.random.Generator):
    self.game = game
    self.rng = rng
    self.shape = game.shape[1:]
    self.size = math.prod(self.shape)
    self.rows = polytope.constraints(game, concept)
    self.points = np.zeros((0, self.size))
    self.hits = np.zeros(0, np.int64)
    self.found: list[int] = []
    self.unverified = 0

  @property
  def done(self) -> bool:
    """Whether two rounds in a row added nothing."""
    return self.found[-2:] == [0, 0]

  def welfares(self) -> np.ndarray:
    """Welfares [W, n] of a later round."""
    total = _WELFARES * self.size
    away = int(_AWAY * total) if len(self.points) else 0
    rows = self.rng.normal(size=(total - away, self.size))
    if not away:
      return rows
    # Points that were seldom found come first: their neighbours were looked for least.
    rank = np.argsort(self.hits + self.rng.random(len(self.hits)), kind="stable")
    chosen = self.points[np.resize(rank, away)]
    active = np.abs(chosen @ self.rows.T) <= polytope.TOLERANCE
    weights = self.rng.exponential(size=active.shape) ** 2 * active
    pick = np.where(active, self.rng.random(active.shape), -1).argmax(1)
    weights[np.arange(away), pick] *= -1
    return np.vstack([rows, -weights @ self.rows])

  def add(self, joints: np.ndarray) -> None:
    """Takes the answers [W, n] of a round."""
    points, good = polytope.polish(self.rows, joints, self.rng)
    self.unverified += int((~good).sum())
    before = len(self.points)
    for point in points[good]:
      away = np.abs(self.points - point).max(1) if len(self.points) else np.array([np.inf])
      nearest = int(away.argmin())
      if away[nearest] < _SAME:
        self.hits[nearest] += 1
      else:
        self.points = np.vstack([self.points, point])
        self.hits = np.append(self.hits, 1)
    self.found.append(len(self.points) - before)

  def result(self) -> Vertices:
    joints = np.maximum(self.points, 0).reshape(-1, *self.shape)
    values = self.points @ self.game.reshape(len(self.game), -1).T
    return Vertices(
        joints=joints,
        payoffs=values,
        found=np.array(self.found),
        hits=self.hits,
        share=_share(self.hits),
        unverified=self.unverified,
    )


def _share(hits: np.ndarray) -> float:
  """Share of the species of a population that was seen, by the estimator of Chao (1984)."""
  if not len(hits):
    return 0.0
  once, twice = int((hits == 1).sum()), int((hits == 2).sum())
  unseen = once * (once - 1) / (2 * (twice + 1))
  return len(hits) / (len(hits) + unseen)


def _round(finders: list[_Finder], concept: Concept, first: bool) -> None:
  """One round of games of one shape: a batch of selections."""
  shape, size = finders[0].shape, finders[0].size
  if first:
    corners = np.eye(size)
    welfares = [np.vstack([corners, -corners])] * len(finders)
  else:
    welfares = [finder.welfares() for finder in finders]
  step = max(1, _PART // (len(welfares[0]) * finders[0].game.size))
  for start in range(0, len(finders), step):
    part = slice(start, start + step)
    games = np.stack([finder.game for finder in finders[part]])
    joints = _maximisers(games, np.stack(welfares[part]).reshape(len(games), -1, *shape), concept)
    if first:
      joints = np.concatenate([joints, _nearest_pure(games, concept)], 1)
    for finder, found in zip(finders[part], joints):
      finder.add(found)


def _maximisers(games: np.ndarray, welfares: np.ndarray, concept: Concept) -> np.ndarray:
  """Equilibria [B, W, n] of the largest welfare, for welfares [B, W, A1, ..., AN] of games."""
  num = welfares.shape[1]
  flat = welfares.reshape(-1, *welfares.shape[2:])
  solution, _ = maximise(np.repeat(games, num, 0), flat, concept)
  return _answers(solution, len(games))


def _nearest_pure(games: np.ndarray, concept: Concept) -> np.ndarray:
  """Equilibria [B, n, n] nearest to each pure joint, in relative entropy."""
  shape = games.shape[2:]
  size = math.prod(shape)
  solution = solve(
      np.repeat(games, size, 0),
      concept=concept,
      selection=Selection(target=np.tile(np.eye(size), (len(games), 1)).reshape(-1, *shape)),
      precision="float64",
      batched=True,
  )
  assert isinstance(solution, Solution)  # games are one array
  return _answers(solution, len(games))


def _answers(solution: Solution, count: int) -> np.ndarray:
  """Joints [count, *, n]; those that are not numbers become uniform."""
  joints = np.asarray(solution.joint).reshape(count, -1, math.prod(solution.joint.shape[1:]))
  return np.where(np.isfinite(joints).all(-1, keepdims=True), joints, 1 / joints.shape[-1])
