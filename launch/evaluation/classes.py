"""Figure 4: two-player games of 25 classes, 8x8.

Glossary: B games of a class.
"""

from collections.abc import Mapping, Sequence
import concurrent.futures
import os
from typing import NamedTuple

import jax
import numpy as np

from launch.evaluation import fingerprints, measure
from launch.evaluation.cache import Arrays, Cache
from launch.evaluation.games import normalised
from launch.evaluation.measure import Games
from launch.evaluation.settings import STRATEGIES, Settings
from nes_jax.games import gamut, spheres
from nes_jax.types import CONCEPTS, Concept

# The classes of the paper's Table 4: three spheres with their norms, and 22 classes of GAMUT.
SPHERES: Mapping[str, str] = {"L1 invariant": "l1", "L2 invariant": "l2", "Linf invariant": "linf"}
CLASSES: tuple[str, ...] = (*SPHERES, *gamut.NAMES)
METHODS: tuple[str, ...] = ("uniform", "neural", "refined", "exact", "ecos")


class Row(NamedTuple):
  """Results of one method on one class with one concept."""

  concept: Concept
  name: str  # name of the class
  method: str
  games: int
  gap: measure.Spread
  solver_gap: measure.Spread
  failed: int | None  # games that the method reports as not solved; None if it reports nothing
  iterations: float  # mean; NaN for methods without iterations
  us_game: float  # microseconds per game without compilation; for ECOS the median


class Failures(NamedTuple):
  """Numbers of games of all classes that the exact engine did not solve."""

  concept: Concept
  games: int  # all games
  float64: int  # residual above 1e-8 in float64
  worst_residual: float  # in float64
  float32: int  # residual above 1e-4 after the iterations in float32
  left: int  # residual above 1e-4 also after `nes_jax.solve` repeated the game in float64


def draw(cache: Cache, name: str, settings: Settings) -> Games:
  """The normalised 8x8 games of a class, in float64."""
  key = {"class": name, "games": settings.games, "seed": settings.seed}
  key |= {"sources": fingerprints.sources()}

  def compute():
    random = jax.random.fold_in(jax.random.key(settings.seed), CLASSES.index(name))
    if name in SPHERES:
      shape = (STRATEGIES, STRATEGIES)
      payoffs = spheres.sample(random, settings.games, shape, SPHERES[name])
    else:
      payoffs = gamut.sample(random, name, settings.games, STRATEGIES)
    return {"payoffs": normalised(np.asarray(payoffs))}

  label = name.replace(" ", "-")
  return Games(label, cache.get(f"games-{label}", key, compute)["payoffs"], key)


def draw_all(cache: Cache, names: Sequence[str], settings: Settings) -> None:
  """Draws the games of several classes in threads, since most of the time is compilation."""
  with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:
    list(pool.map(lambda name: draw(cache, name, settings), names))


def evaluate(cache: Cache, name: str, settings: Settings) -> None:
  """Puts all results of a class into the cache."""
  for concept in CONCEPTS:
    measured(cache, name, concept, settings)


def measured(
    cache: Cache, name: str, concept: Concept, settings: Settings
) -> tuple[list[Row], np.ndarray, Arrays]:
  """Results of one class with one concept.

  Returns:
    A row for each method that is available, the residuals of the ground truth [B], and the answers
    of the exact engine in float32.
  """
  games = draw(cache, name, settings)
  truth = measure.truth(cache, games, concept)
  joint = truth["joint"]
  rows = []

  def add(method, found, failed=None, iterations=np.nan, us_game=np.nan):
    spreads = measure.spread(found["gap"]), measure.spread(found["solver_gap"])
    failed = None if failed is None else int(failed.sum())
    rows.append(
        Row(concept, name, method, len(found["gap"]), *spreads, failed, iterations, us_game)
    )

  add("uniform", measure.uniform(games.payoffs, concept, joint))
  trained = measure.network_for(concept, games.payoffs.shape[2:])
  for method in ("neural", "refined", "exact") if trained else ("exact",):
    network = None if method == "exact" else trained
    found = measure.answers(cache, games, concept, method, joint, network)
    if method == "neural":
      add(method, found, us_game=float(found["us_game"]))
    else:
      steps = float(found["iterations"].mean())
      add(method, found, ~found["converged"], steps, float(found["us_game"]))
  exact = found
  few = games.first(settings.reference_games)
  ecos = measure.ecos(cache, few, concept, joint[: len(few.payoffs)])
  if ecos is not None:
    add("ecos", ecos, ecos["failed"], us_game=float(np.median(ecos["us"])))
  return rows, truth["residual"], exact


def summary(cache: Cache, settings: Settings) -> tuple[list[Row], list[Failures]]:
  """The rows of all classes and concepts, and for each concept the failures of the exact engine."""
  rows, failures = [], []
  for concept in CONCEPTS:
    residuals, repeats, convergences = [], [], []
    for name in CLASSES:
      more, residual, exact = measured(cache, name, concept, settings)
      rows += more
      residuals.append(residual)
      repeats.append(exact["repeated"])
      convergences.append(exact["converged"])
    residual = np.concatenate(residuals)
    repeated, converged = np.concatenate(repeats), np.concatenate(convergences)
    failures.append(
        Failures(
            concept=concept,
            games=len(residual),
            float64=int((~(residual <= measure.FAILED_RESIDUAL)).sum()),
            worst_residual=float(residual.max()),
            float32=int((repeated | ~converged).sum()),
            left=int((~converged).sum()),
        )
    )
  return rows, failures
