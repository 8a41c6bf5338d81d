"""Measurements of answers to games: their gaps, and their distance from the exact equilibrium.

Payoffs are normalised to zero mean and unit variance for each player, whatever the class of games,
so that gaps are in these units, as in the paper.

Glossary: B games of a batch, N players, A1, ..., AN strategies.
"""

from collections.abc import Mapping
import dataclasses
import functools
import math
from typing import Any, NamedTuple
import warnings

import jax
import numpy as np

from launch.baselines import convex
from launch.evaluation import fingerprints
from launch.evaluation.cache import Arrays, Cache
from launch.evaluation.games import uniform_gaps
from launch.runtime import timing
import nes_jax
from nes_jax import pretrained
from nes_jax.types import Concept

# Tolerance of the ground truth's KKT residual. By Pinsker's inequality its joint is then within
# 2.3e-5 of the equilibrium, in solver gap.
TRUTH_TOLERANCE = 1e-9
# A game counts as failed above this residual, the engine's default tolerance.
FAILED_RESIDUAL = 1e-8


@dataclasses.dataclass(frozen=True)
class Games:
  """Normalised games of one kind, as the cache knows them."""

  name: str  # name for people, part of file names
  payoffs: np.ndarray  # [B, N, A1, ..., AN]
  key: Mapping[str, Any]  # everything that determines the payoffs, as JSON

  def first(self, count: int) -> "Games":
    """The first `count` games."""
    return dataclasses.replace(self, payoffs=self.payoffs[:count])


class Spread(NamedTuple):
  """Worst, mean and best value of a number over games."""

  worst: float
  mean: float
  best: float


def spread(values: np.ndarray) -> Spread:
  """The spread of the values that are not NaN; NaN if there are none."""
  values = values[~np.isnan(values)]
  if not len(values):
    return Spread(math.nan, math.nan, math.nan)
  return Spread(float(values.max()), float(values.mean()), float(values.min()))


def solver_gap(joint: np.ndarray, truth: np.ndarray) -> np.ndarray:
  """The solver gap of Marris et al. (2022): half the L1 distance between joints.

  Args:
    joint: [B, A1, ..., AN], or [A1, ..., AN] for all games.
    truth: [B, A1, ..., AN].

  Returns:
    [B].
  """
  return 0.5 * np.abs(joint - truth).sum(tuple(range(1, truth.ndim)))


def network_for(
    concept: Concept, shape: tuple[int, ...], inputs: frozenset[str] = frozenset()
) -> pretrained.Pretrained | None:
  """The network in `nes_jax/weights` for games of this concept, shape and these inputs, or None."""
  try:
    return pretrained.choose(concept, shape, inputs)
  except ValueError:
    return None


def solve(payoffs: np.ndarray, **options: Any) -> nes_jax.Solution:
  """`nes_jax.solve` on a batch, with the solution in NumPy arrays."""
  return jax.tree.map(np.asarray, nes_jax.solve(payoffs, batched=True, **options))


def truth(cache: Cache, games: Games, concept: str) -> Arrays:
  """Maximum-entropy equilibria by the exact engine in float64.

  Args:
    cache: the place of the results.
    games: the B games.
    concept: "cce" or "ce".

  Returns:
    "joint" [B, A1, ..., AN]; "residual", "iterations" and "failed" [B].
  """

  def compute():
    solution = solve(
        games.payoffs, concept=concept, precision="float64", tolerance=TRUTH_TOLERANCE
    )
    return {
        "joint": solution.joint,
        "residual": solution.residual,
        "iterations": solution.iterations,
        "failed": ~(solution.residual <= FAILED_RESIDUAL),
    }

  key = {"truth": dict(games.key), "concept": concept, "tolerance": TRUTH_TOLERANCE}
  key |= {"sources": fingerprints.sources(), "machine": fingerprints.machine()}
  return cache.get(f"truth-{concept}-{games.name}", key, compute)


def answers(
    cache: Cache,
    games: Games,
    concept: str,
    method: str,
    joint: np.ndarray,
    trained: pretrained.Pretrained | None = None,
) -> Arrays:
  """Answers of `nes_jax.solve` in float32 with its default tolerances.

  Args:
    cache: the place of the results.
    games: the B games.
    concept: "cce" or "ce".
    method: "exact"; with a network also "neural" or "refined".
    joint: [B, A1, ..., AN] the ground truth.
    trained: the network.

  Returns:
    "gap", "solver_gap", "iterations", "converged" and "repeated" [B]; "us_game" [], microseconds
    per game of a second call, which compiles nothing.
  """

  def compute():
    options = {"concept": concept, "method": method, "precision": "float32", "trained": trained}
    solution = solve(games.payoffs, **options)
    (second_call,) = timing.seconds(lambda: solve(games.payoffs, **options), 0)
    return {
        "gap": solution.gap,
        "solver_gap": solver_gap(solution.joint, joint),
        "iterations": solution.iterations,
        "converged": solution.converged,
        "repeated": solution.repeated,
        "us_game": second_call / len(games.payoffs) * 1e6,
    }

  key: dict[str, Any] = {
      "answers": dict(games.key), "concept": concept, "method": method, "timed": "second"
  }
  key |= {
      "network": None if trained is None else fingerprints.network(trained),
      "sources": fingerprints.sources(learned=trained is not None),
      "machine": fingerprints.machine(),
  }
  return cache.get(f"{method}-{concept}-{games.name}", key, compute)


def ecos(cache: Cache, games: Games, concept: str, joint: np.ndarray) -> Arrays | None:
  """Answers of the paper's iterative solver: ECOS through CVXPY, default tolerances, one core.

  Args:
    cache: the place of the results.
    games: the B games.
    concept: "cce" or "ce".
    joint: [B, A1, ..., AN] the ground truth.

  Returns:
    "gap" and "solver_gap" [B], NaN for games without an answer; "failed" [B], True for games whose
    status is not "optimal"; "us" [B], microseconds. None if CVXPY or ECOS is not installed.
  """

  def compute():
    solver = _ecos(games.payoffs.shape[2:], concept)
    with warnings.catch_warnings():
      # CVXPY warns of inaccurate solutions, which are counted here.
      warnings.simplefilter("ignore", UserWarning)
      solved = [solver.solve(game) for game in games.payoffs]
    found = np.stack([answer.joint for answer in solved])
    return {
        "gap": [gap(game, answer, concept) for game, answer in zip(games.payoffs, found)],
        "solver_gap": solver_gap(found, joint),
        "failed": [answer.status != "optimal" for answer in solved],
        "us": [answer.seconds * 1e6 for answer in solved],
    }

  key = {"ecos": dict(games.key), "concept": concept, "games": len(games.payoffs)}
  key |= {"sources": fingerprints.sources(), "machine": fingerprints.machine()}
  try:
    return cache.get(f"ecos-{concept}-{games.name}", key, compute)
  except ImportError:
    return None


@functools.cache
def _ecos(shape: tuple[int, ...], concept: str) -> convex.Reference:
  return convex.Reference(shape, concept, solver="ECOS")


def gap(payoffs: np.ndarray, joint: np.ndarray, concept: str) -> float:
  """The (C)CE gap of a joint, from the dense matrix of deviation gains.

  Args:
    payoffs: [N, A1, ..., AN].
    joint: [A1, ..., AN].
    concept: "cce" or "ce".

  Returns:
    The sum over players of the largest gain of a deviation, in units of the payoffs.
  """
  gains = convex.deviation_matrix(payoffs, concept) @ joint.ravel()
  players = np.array([row[0] for row in convex.deviation_rows(payoffs.shape[1:], concept)])
  return float(sum(max(gains[players == p].max(), 0.0) for p in range(len(payoffs))))


def uniform(payoffs: np.ndarray, concept: str, joint: np.ndarray) -> Arrays:
  """Uniform play, the naive baseline.

  Args:
    payoffs: [B, N, A1, ..., AN].
    concept: "cce" or "ce".
    joint: [B, A1, ..., AN] the ground truth.

  Returns:
    "gap" and "solver_gap" [B].
  """
  return {
      "gap": uniform_gaps(payoffs, concept),
      "solver_gap": solver_gap(np.full(joint.shape[1:], 1 / joint[0].size), joint),
  }
