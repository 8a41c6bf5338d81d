"""Checks `nes_jax.region`: how near the two hulls are, how fast, and how many vertices are found.

  python -m launch.checks.region --out=out/check_region

Four tables:

  hulls     relative difference of the areas of the inner and the outer hull, on uniform random
            games, with directions in four batches and in one, which has equal angles
  vertices  extreme equilibria that are found in uniform random games of two and of three strategies
            a player, of all that the double description method lists
  weights   linear programs of the largest welfare with an infinite weight and with finite ones, on
            uniform games and on games with payoffs that nearly tie
  chicken   largest error of the payoffs of Chicken's five extreme equilibria

Writes them into --out as region.md. Exit code 0: all targets are met; 1: one is missed, and the
last line says which; 2: a flag is wrong. The targets: 1% for every game and both concepts, within a
minute together; all vertices of 2x2 games and 90% of those of 3x3 games; 1e-6.
"""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
import sys
import time
from typing import Any

import numpy as np

from launch.runtime import flags, program, tables
from nes_jax import region
from nes_jax.region import bounds
from nes_jax.types import CONCEPTS, Concept

# Largest relative difference of the areas, and longest time in seconds for both concepts.
DIFFERENCE, SECONDS = 0.01, 60.0
# Numbers of strategies of a player -> smallest share of the vertices.
SHARES = {2: 1.0, 3: 0.9}
# Largest error of Chicken's payoffs.
ERROR = 1e-6
# Joints that differ by less than this are the same vertex.
_SAME = 1e-6
# Weights of the welfare that are compared, and the number of welfares of each game.
_WEIGHTS = (np.inf, 1e6, 1e3)
_DIRECTIONS = 16
# Standard deviation of the noise on payoffs of 0, 1 and 2 in the games that nearly tie.
_NOISE = 1e-6
_CHICKEN = np.array([[[0.0, 7], [2, 6]], [[0, 2], [7, 6]]])
CHICKEN_PAYOFFS = np.array([[2, 7], [3.6, 3.6], [14 / 3, 14 / 3], [5.25, 5.25], [7, 2]])


@dataclasses.dataclass(frozen=True)
class Run:
  """Sizes of the check."""

  out: pathlib.Path = flags.field(
      pathlib.Path("out/check_region"), "Directory of the results.", metavar="DIRECTORY"
  )
  games: int = flags.field(1000, "Number of games for the hulls.")
  strategies: int = flags.field(8, "Number of strategies of each player of these.")
  directions: int = flags.field(64, "Number of directions, at least 8.")
  small_games: int = flags.field(200, "Number of 2x2 games for the vertices.")
  larger_games: int = flags.field(50, "Number of 3x3 games for the vertices.")
  rounds: int = flags.field(8, "Number of rounds of the search for vertices.")
  seed: int = flags.field(0, "Seed of the games.")

  def __post_init__(self):
    flags.at_least_one(self, "games", "strategies", "small_games", "larger_games", "rounds")
    if self.directions < 8:
      raise ValueError("--directions must be at least 8")


_SECTION = flags.Section("The check", Run)


def hulls(run: Run, concept: Concept, batches: int) -> dict[str, Any]:
  """A row of the table of hulls."""
  shape = (run.games, 2, run.strategies, run.strategies)
  games = np.random.default_rng(run.seed).uniform(size=shape)
  region.payoffs(games[:2], run.directions, concept, batches=batches)  # starts JAX
  began = time.perf_counter()
  found = region.payoffs(games, run.directions, concept, batches=batches)
  seconds = time.perf_counter() - began
  return {
      "concept": concept,
      "games": run.games,
      "directions": run.directions,
      "batches": batches,
      "median": _percent(np.median(found.difference)),
      "worst": _percent(np.abs(found.difference).max()),
      "games above 1%": int((np.abs(found.difference) > DIFFERENCE).sum()),
      "worst distance": float(found.distance.max()),
      "worst gap": float(found.gap.max()),
      "not certified": int((~found.support.converged).sum()),
      "seconds": seconds,
  }


def vertices(run: Run, strategies: int, concept: Concept) -> dict[str, Any]:
  """A row of the table of vertices."""
  count = {2: run.small_games, 3: run.larger_games}[strategies]
  games = np.random.default_rng(run.seed).uniform(size=(count, 2, strategies, strategies))
  began = time.perf_counter()
  results = region.vertices(games, concept, run.rounds)
  seconds = time.perf_counter() - began
  assert isinstance(results, list)  # a batch was given
  total = known = wrong = complete = 0
  estimated = 0.0
  by_round = np.zeros(run.rounds, int)
  listing = 0.0
  for game, found in zip(games, results):
    began = time.perf_counter()
    wanted = region.enumerate_vertices(game, concept)
    listing += time.perf_counter() - began
    away = np.abs(wanted[:, None] - found.joints).max((2, 3))
    hit = (away < _SAME).any(1)
    total, known, complete = total + len(hit), known + int(hit.sum()), complete + bool(hit.all())
    wrong += int((away >= _SAME).all(0).sum())
    by_round[: len(found.found)] += found.found
    estimated += len(found.joints) / found.share
  return {
      "strategies": f"{strategies}x{strategies}",
      "concept": concept,
      "games": count,
      "vertices": total,
      "found": known,
      "share": known / total,
      "share, estimated": known / estimated,
      "complete games": complete,
      "not vertices": wrong,
      "by round": "+".join(map(str, by_round)),
      "seconds": seconds,
      "seconds to list": listing,
  }


def weights(run: Run) -> list[dict[str, Any]]:
  """The table of weights: a tenth of the games of the hulls, and as many that nearly tie."""
  count = max(1, run.games // 10)
  rng = np.random.default_rng(run.seed)
  shape = (count, 2, run.strategies, run.strategies)
  ties = rng.integers(0, 3, size=shape) + _NOISE * rng.normal(size=shape)
  rows = []
  for kind, games in (("uniform", rng.uniform(size=shape)), ("near ties", ties)):
    welfare = np.einsum("dn,bnij->bdij", rng.normal(size=(_DIRECTIONS, 2)), games)
    welfare = welfare.reshape(-1, *shape[2:])
    unit = welfare.std((1, 2))
    repeated = np.repeat(games, _DIRECTIONS, 0)
    for concept in CONCEPTS:
      for weight in _WEIGHTS:
        began = time.perf_counter()
        solution = bounds.solve_weighted(repeated, welfare, weight, concept)
        seconds = time.perf_counter() - began
        upper = bounds.upper_bound(repeated, welfare, solution.duals, concept)
        between = (upper - (welfare * solution.joint).sum((1, 2))) / unit
        rows.append({
            "games": kind,
            "concept": concept,
            "weight": weight,
            "programs": len(welfare),
            "us each": 1e6 * seconds / len(welfare),
            "not certified": int((~solution.converged).sum()),
            "bound less attained, median": float(np.median(between)),
            "largest": float(between.max()),
        })
  return rows


def chicken(concept: Concept, rounds: int) -> float:
  """The largest error of the payoffs of Chicken's vertices; infinite if one is missing."""
  found = region.vertices(_CHICKEN, concept, rounds)
  assert isinstance(found, region.Vertices)  # one game was given
  if len(found.payoffs) != len(CHICKEN_PAYOFFS):
    return np.inf
  away = np.abs(found.payoffs[:, None] - CHICKEN_PAYOFFS).max(2)
  return float(max(away.min(0).max(), away.min(1).max()))


def _percent(value: float) -> str:
  return f"{100 * value:.2g}%"


def measure(
    run: Run,
    *,
    check_stop: Callable[[], None] = lambda: None,
    say: Callable[[str], Any] = print,
) -> dict[str, float]:
  """Runs all checks, and writes the tables.

  Returns:
    "seconds", the time of the hulls in four batches, both concepts together.

  Raises:
    program.Failed: a target is missed.
  """
  run.out.mkdir(parents=True, exist_ok=True)
  missed = []
  rows = []
  for batches in (4, 1):
    for concept in CONCEPTS:
      check_stop()
      rows.append(hulls(run, concept, batches))
  placed = rows[: len(CONCEPTS)]
  seconds = sum(row["seconds"] for row in placed)
  for row in placed:
    if row["games above 1%"]:
      missed.append(f"{row['games above 1%']} hulls of {row['concept']} differ by more than 1%")
  if seconds > SECONDS:
    missed.append(f"the hulls took {seconds:.0f} s")
  found = []
  for strategies, share in SHARES.items():
    for concept in CONCEPTS:
      check_stop()
      row = vertices(run, strategies, concept)
      found.append(row)
      if row["share"] < share or row["not vertices"]:
        missed.append(f"vertices of {row['strategies']} {concept}: share {row['share']:.3f}")
  errors: list[dict[str, Any]] = [
      {"concept": concept, "error": chicken(concept, run.rounds)} for concept in CONCEPTS
  ]
  missed += [f"Chicken, {row['concept']}" for row in errors if not row["error"] <= ERROR]
  check_stop()
  written = map(tables.markdown, (rows, found, weights(run), errors))
  text = "\n\n".join(["# Sets of equilibria", *written]) + "\n"
  (run.out / "region.md").write_text(text)
  print(text)
  say(f"{run.out / 'region.md'} is written")
  if missed:
    raise program.Failed(f"missed: {'; '.join(missed)}")
  return {"seconds": seconds}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit code."""
  return program.main(
      argv, name="check_region", doc=__doc__, define=[_SECTION],
      prepare=lambda values: flags.build(values, _SECTION), work=measure,
  )


if __name__ == "__main__":
  sys.exit(main())
