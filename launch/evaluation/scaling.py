"""Tables 1 and 2: maximum-entropy CCEs of two-player games of growing size."""

from typing import NamedTuple

import jax
import numpy as np

from launch.evaluation import fingerprints, measure
from launch.evaluation.cache import Arrays, Cache
from launch.evaluation.games import normalised
from launch.evaluation.measure import Games
from launch.evaluation.settings import Settings
from nes_jax import pretrained
from nes_jax.games import spheres
from nes_jax.training import shape_name


class Row(NamedTuple):
  """Results of one size: means over games; None for what was not measured."""

  size: str
  games: int
  network: str | None
  trained_on: str | None
  uniform_gap: float | None
  network_gap: float | None
  uniform_solver_gap: float | None
  network_solver_gap: float | None
  failed: int  # games without a ground truth
  ecos_games: int
  ecos_solved: float | None  # fraction of `ecos_games`
  network_us: float | None  # microseconds per game without compilation
  exact_us: float | None


def row(
    cache: Cache, settings: Settings, size: int, trained: pretrained.Pretrained | None
) -> Row:
  """Results on games of `size` strategies for each player.

  Args:
    cache: the place of the results.
    settings: the numbers of games.
    size: strategies of each player.
    trained: the network; None leaves its columns out.
  """
  games = _draw(cache, settings, size)
  truth = measure.truth(cache, games, "cce")
  joint = truth["joint"]
  exact = measure.answers(cache, games, "cce", "exact", joint)
  network = None
  if trained is not None:
    network = measure.answers(cache, games, "cce", "neural", joint, trained)
  solved = None
  if size <= settings.largest_reference:
    few = games.first(settings.table_reference_games)
    solved = measure.ecos(cache, few, "cce", joint[: len(few.payoffs)])
  uniform = measure.uniform(games.payoffs, "cce", joint)
  return Row(
      size=games.name,
      games=len(games.payoffs),
      network=None if trained is None else trained.name,
      trained_on=None if trained is None else ", ".join(map(shape_name, trained.training.shapes)),
      uniform_gap=_mean(uniform, "gap"),
      network_gap=_mean(network, "gap"),
      uniform_solver_gap=_mean(uniform, "solver_gap"),
      network_solver_gap=_mean(network, "solver_gap"),
      failed=int(truth["failed"].sum()),
      ecos_games=0 if solved is None else len(solved["failed"]),
      ecos_solved=None if solved is None else 1 - float(solved["failed"].mean()),
      network_us=_mean(network, "us_game"),
      exact_us=_mean(exact, "us_game"),
  )


def _draw(cache: Cache, settings: Settings, size: int) -> Games:
  """Normalised games of the L2 sphere."""
  shape = (size, size)
  key = {"shape": shape, "games": settings.table_games, "seed": settings.seed}
  key |= {"sources": fingerprints.sources()}

  def compute():
    random = jax.random.fold_in(jax.random.key(settings.seed), 1000 + size)
    return {"payoffs": normalised(np.asarray(spheres.sample(random, settings.table_games, shape)))}

  name = shape_name(shape)
  return Games(name, cache.get(f"games-{name}", key, compute)["payoffs"], key)


def _mean(found: Arrays | None, name: str) -> float | None:
  return None if found is None else float(found[name].mean())
