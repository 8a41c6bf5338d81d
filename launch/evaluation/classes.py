"""Figure 4: games of 25 classes, two players, 8x8."""

from collections.abc import Mapping, Sequence
import concurrent.futures
import os
from typing import Any, NamedTuple

import jax
import numpy as np

from launch import demo
from launch.evaluation import measure, parts
from launch.evaluation.settings import STRATEGIES, Settings
from nes_jax.games import gamut, spheres
from nes_jax.types import CONCEPTS

# The paper's Table 4: three spheres, by their norm, and 22 classes of GAMUT.
SPHERES: Mapping[str, str] = {"L1 invariant": "l1", "L2 invariant": "l2", "Linf invariant": "linf"}
CLASSES: tuple[str, ...] = (*SPHERES, *gamut.NAMES)
METHODS: tuple[str, ...] = ("uniform", "neural", "refined", "exact", "ecos")


class Row(NamedTuple):
  """A class, a concept and a method."""

  concept: str
  name: str
  method: str
  games: int
  gap: measure.Spread
  solver_gap: measure.Spread
  failed: int | None  # games that the method itself reports as not solved; None: it does not judge
  iterations: float  # mean; NaN where there are none to count
  us_game: float  # a game, without compilation; of ECOS the median


class Failures(NamedTuple):
  """Games that the exact engine did not solve, of all classes."""

  concept: str
  games: int
  float64: int  # residual above 1e-8
  worst_residual: float  # in float64
  float32: int  # residual above 1e-4 after float32's iterations
  left: int  # of those, not solved in float64 either, as `nes_jax.solve` repeats them


def draw(store: parts.Parts, name: str, settings: Settings) -> tuple[np.ndarray, dict[str, Any]]:
  """-> normalised games [B, 2, 8, 8] float64 of a class, and what determines them."""
  key = {"class": name, "games": settings.games, "seed": settings.seed, "sources": parts.sources()}

  def compute():
    random = jax.random.fold_in(jax.random.key(settings.seed), CLASSES.index(name))
    if name in SPHERES:
      shape = (STRATEGIES, STRATEGIES)
      games = spheres.sample(random, settings.games, shape, SPHERES[name])
    else:
      games = gamut.sample(random, name, settings.games, STRATEGIES)
    return {"payoffs": demo.normalised(np.asarray(games))}

  return store.get(f"games-{name.replace(' ', '-')}", key, compute)["payoffs"], key


def evaluate(store: parts.Parts, name: str, settings: Settings) -> None:
  """Stores all that is wanted of a class."""
  for concept in CONCEPTS:
    measured(store, name, concept, settings)


def measured(
    store: parts.Parts, name: str, concept: str, settings: Settings
) -> tuple[list[Row], np.ndarray, parts.Arrays]:
  """One class and concept.

  Returns:
    A row for each method that can be had, the ground truth's residuals [B], and the float32
    engine's answers.
  """
  payoffs, key = draw(store, name, settings)
  label = name.replace(" ", "-")
  truth = measure.truth(store, label, payoffs, concept, key)
  joint = truth["joint"]
  rows = []

  def add(method, found, failed=None, iterations=np.nan, us_game=np.nan):
    spreads = measure.spread(found["gap"]), measure.spread(found["solver_gap"])
    failed = None if failed is None else int(failed.sum())
    rows.append(
        Row(concept, name, method, len(found["gap"]), *spreads, failed, iterations, us_game)
    )

  add("uniform", measure.uniform(payoffs, concept, joint))
  trained = measure.network_for(concept, payoffs.shape[2:])
  for method in ("neural", "refined", "exact") if trained else ("exact",):
    network = None if method == "exact" else trained
    found = measure.answers(store, label, payoffs, concept, method, joint, key, network)
    if method == "neural":
      add(method, found, us_game=float(found["us_game"]))
    else:
      steps = float(found["iterations"].mean())
      add(method, found, ~found["converged"], steps, float(found["us_game"]))
  exact = found
  few = slice(0, settings.reference_games)
  found = measure.ecos(store, label, payoffs[few], concept, joint[few], key)
  if found is not None:
    add("ecos", found, found["failed"], us_game=float(np.median(found["us"])))
  return rows, truth["residual"], exact


def draw_all(store: parts.Parts, names: Sequence[str], settings: Settings) -> None:
  """Draws the games of several classes at once: most of the time that takes is compilation."""
  with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:
    list(pool.map(lambda name: draw(store, name, settings), names))


def summary(store: parts.Parts, settings: Settings) -> tuple[list[Row], list[Failures]]:
  """Of all classes and concepts."""
  rows, failures = [], []
  for concept in CONCEPTS:
    residuals, repeated, converged = [], [], []
    for name in CLASSES:
      more, residual, exact = measured(store, name, concept, settings)
      rows += more
      residuals.append(residual)
      repeated.append(exact["repeated"])
      converged.append(exact["converged"])
    residual = np.concatenate(residuals)
    repeated, converged = np.concatenate(repeated), np.concatenate(converged)
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
