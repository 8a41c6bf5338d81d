"""Tables 1 and 2: maximum-entropy CCE of two-player games of growing size."""

from typing import NamedTuple

import jax
import numpy as np

from launch import demo
from launch.evaluation import measure, parts
from launch.evaluation.settings import Settings
from nes_jax import pretrained
from nes_jax.games import spheres
from nes_jax.training import shape_name


class Row(NamedTuple):
  """A size. Means over games; None: not measured."""

  size: str
  games: int
  network: str | None
  trained_on: str | None
  uniform_gap: float
  network_gap: float | None
  uniform_solver_gap: float
  network_solver_gap: float | None
  failed: int  # of the ground truth
  ecos_games: int
  ecos_solved: float | None  # fraction
  network_us: float | None  # a game, without compilation
  exact_us: float


def row(
    store: parts.Parts, settings: Settings, size: int, trained: pretrained.Pretrained | None
) -> Row:
  """Games of `size` strategies a player, and what a network makes of them."""
  shape = (size, size)
  key = {"shape": shape, "games": settings.table_games, "seed": settings.seed}
  key |= {"sources": parts.sources()}

  def draw():
    random = jax.random.fold_in(jax.random.key(settings.seed), 1000 + size)
    games = spheres.sample(random, settings.table_games, shape)
    return {"payoffs": demo.normalised(np.asarray(games))}

  name = shape_name(shape)
  payoffs = store.get(f"games-{name}", key, draw)["payoffs"]
  truth = measure.truth(store, name, payoffs, "cce", key)
  joint = truth["joint"]
  common = store, name, payoffs, "cce"
  exact = measure.answers(*common, "exact", joint, key)
  network = None
  if trained is not None:
    network = measure.answers(*common, "neural", joint, key, trained)
  solved = None
  if size <= settings.largest_reference:
    few = slice(0, settings.table_reference_games)
    solved = measure.ecos(store, name, payoffs[few], "cce", joint[few], key)
  uniform = measure.uniform(payoffs, "cce", joint)
  mean = lambda found, what: None if found is None else float(found[what].mean())
  return Row(
      size=name,
      games=len(payoffs),
      network=None if trained is None else trained.name,
      trained_on=None if trained is None else ", ".join(map(shape_name, trained.training.shapes)),
      uniform_gap=mean(uniform, "gap"),
      network_gap=mean(network, "gap"),
      uniform_solver_gap=mean(uniform, "solver_gap"),
      network_solver_gap=mean(network, "solver_gap"),
      failed=int(truth["failed"].sum()),
      ecos_games=0 if solved is None else len(solved["failed"]),
      ecos_solved=None if solved is None else 1 - float(solved["failed"].mean()),
      network_us=mean(network, "us_game"),
      exact_us=mean(exact, "us_game"),
  )
