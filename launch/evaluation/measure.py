"""What is measured of answers to games: against the exact engine in float64, and by their gaps.

  B games, N players, A1, ..., AN strategies

Payoffs are normalised to zero mean and unit variance a player, whatever the class: gaps are in
these units, as in the paper.
"""

from collections.abc import Mapping
import functools
import math
from typing import Any, NamedTuple
import warnings

import jax
import numpy as np

from launch import demo
from launch.baselines import convex
from launch.evaluation import parts
from launch.runtime import timing
import nes_jax
from nes_jax import pretrained

# Of the ground truth's KKT residual: by Pinsker's inequality its joint is within 2.3e-5 of the
# equilibrium, in solver gap. A game counts as failed beyond the engine's default, 1e-8.
TRUTH_TOLERANCE = 1e-9
FAILED_RESIDUAL = 1e-8


class Spread(NamedTuple):
  """Of one number over games."""

  worst: float
  mean: float
  best: float


def spread(values: np.ndarray) -> Spread:
  """NaN, of games without an answer, is left out; NaN if that leaves nothing."""
  values = values[~np.isnan(values)]
  if not len(values):
    return Spread(math.nan, math.nan, math.nan)
  return Spread(float(values.max()), float(values.mean()), float(values.min()))


def solver_gap(joint: np.ndarray, truth: np.ndarray) -> np.ndarray:
  """Half the L1 distance: [B, A1, ..., AN] twice, or one game's joint for all -> [B]."""
  return 0.5 * np.abs(joint - truth).sum(tuple(range(1, truth.ndim)))


def network_for(
    concept: str, shape: tuple[int, ...], inputs: frozenset[str] = frozenset()
) -> pretrained.Pretrained | None:
  """The network that ships for such games; None if there is none."""
  try:
    return pretrained.choose(concept, shape, inputs)
  except ValueError:
    return None


def solve(payoffs: np.ndarray, **options: Any) -> nes_jax.Solution:
  """`nes_jax.solve` on a batch, in NumPy arrays."""
  return jax.tree.map(np.asarray, nes_jax.solve(payoffs, batched=True, **options))


def truth(
    store: parts.Parts, name: str, payoffs: np.ndarray, concept: str, key: Mapping[str, Any]
) -> parts.Arrays:
  """Maximum-entropy equilibria by the exact engine in float64.

  Args:
    store: where results are.
    name: of the games, for people.
    payoffs: [B, N, A1, ..., AN] normalised.
    concept: "cce" or "ce".
    key: what determines the games.

  Returns:
    joint [B, A1, ..., AN], residual, iterations and failed [B].
  """

  def compute():
    solution = solve(payoffs, concept=concept, precision="float64", tolerance=TRUTH_TOLERANCE)
    return {
        "joint": solution.joint,
        "residual": solution.residual,
        "iterations": solution.iterations,
        "failed": ~(solution.residual <= FAILED_RESIDUAL),
    }

  key = {"truth": dict(key), "concept": concept, "tolerance": TRUTH_TOLERANCE}
  key |= {"sources": parts.sources(), "machine": parts.machine()}
  return store.get(f"truth-{concept}-{name}", key, compute)


def answers(
    store: parts.Parts,
    name: str,
    payoffs: np.ndarray,
    concept: str,
    method: str,
    joint: np.ndarray,
    key: Mapping[str, Any],
    trained: pretrained.Pretrained | None = None,
) -> parts.Arrays:
  """What users get, in float32 with default tolerances.

  Args:
    store, name, payoffs, concept, key: as for `truth`.
    method: "exact", or with a network "neural" or "refined".
    joint: [B, A1, ..., AN] the ground truth.
    trained: the network.

  Returns:
    gap, solver_gap, iterations, converged and repeated [B]; us_game [], microseconds a game of a
    second call, which compiles nothing.
  """

  def compute():
    options = {"concept": concept, "method": method, "precision": "float32", "trained": trained}
    solution = solve(payoffs, **options)
    (once_more,) = timing.seconds(lambda: solve(payoffs, **options), 0)
    return {
        "gap": solution.gap,
        "solver_gap": solver_gap(solution.joint, joint),
        "iterations": solution.iterations,
        "converged": solution.converged,
        "repeated": solution.repeated,
        "us_game": once_more / len(payoffs) * 1e6,
    }

  key = {"answers": dict(key), "concept": concept, "method": method, "timed": "second"}
  key |= {
      "network": None if trained is None else parts.network(trained),
      "sources": parts.sources(learned=trained is not None),
      "machine": parts.machine(),
  }
  return store.get(f"{method}-{concept}-{name}", key, compute)


def ecos(
    store: parts.Parts,
    name: str,
    payoffs: np.ndarray,
    concept: str,
    joint: np.ndarray,
    key: Mapping[str, Any],
) -> parts.Arrays | None:
  """The paper's iterative solver, ECOS through CVXPY, with its default tolerances on one core.

  Args:
    store, name, payoffs, concept, joint, key: as for `answers`; as many games as it is to solve.

  Returns:
    gap and solver_gap [B], NaN where it left no answer; failed [B], all that it does not call
    optimal; us [B]. None where CVXPY or ECOS is not installed.
  """

  def compute():
    solver = _ecos(payoffs.shape[2:], concept)
    with warnings.catch_warnings():  # of inaccurate solutions, which are counted
      warnings.simplefilter("ignore", UserWarning)
      solved = [solver.solve(game) for game in payoffs]
    found = np.stack([answer.joint for answer in solved])
    return {
        "gap": [gap(game, answer, concept) for game, answer in zip(payoffs, found)],
        "solver_gap": solver_gap(found, joint),
        "failed": [answer.status != "optimal" for answer in solved],
        "us": [answer.seconds * 1e6 for answer in solved],
    }

  key = {"ecos": dict(key), "concept": concept, "games": len(payoffs)}
  key |= {"sources": parts.sources(), "machine": parts.machine()}
  try:
    return store.get(f"ecos-{concept}-{name}", key, compute)
  except ImportError:
    return None


@functools.cache
def _ecos(shape: tuple[int, ...], concept: str) -> convex.Reference:
  return convex.Reference(shape, concept, solver="ECOS")


def gap(payoffs: np.ndarray, joint: np.ndarray, concept: str) -> float:
  """(C)CE gap of a joint, by the dense matrix of deviation gains."""
  gains = convex.deviation_matrix(payoffs, concept) @ joint.ravel()
  players = np.array([row[0] for row in convex.deviation_rows(payoffs.shape[1:], concept)])
  return float(sum(max(gains[players == p].max(), 0.0) for p in range(len(payoffs))))


def uniform(payoffs: np.ndarray, concept: str, joint: np.ndarray) -> parts.Arrays:
  """Uniform play, the naive baseline: gap and solver_gap [B]."""
  return {
      "gap": demo.uniform_gaps(payoffs, concept),
      "solver_gap": solver_gap(np.full(joint.shape[1:], 1 / joint[0].size), joint),
  }
