"""Figure 3: learning curves of networks by selection, shape and concept, and ablations.

Every training is a run of `launch.nes_train` in a directory of its own, and continues like one.
"""

from collections.abc import Callable, Sequence
import hashlib
import json
import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from launch.evaluation.settings import Settings
from launch.runtime import checkpoint, loop, parallel, writers
from launch.training import network as trainer
from launch.training.settings import Run
from nes_jax import network, pretrained, selection, training
from nes_jax.network import pooling
from nes_jax.training import shape_name
from nes_jax.types import Concept

# A batch has at most so many games, and so many payoffs of each player.
_MAX_GAMES, _MAX_PAYOFFS = 256, 8192
# Muon learns faster than the paper's Adam, and a cosine schedule suits short runs.
_TRAINING: dict[str, Any] = {"optimiser": "muon", "learning_rate": 2e-2, "schedule": "cosine"}
_SMALL_NETWORK: dict[str, Any] = {
    "payoff_channels": (8,), "dual_channel": 16, "dual_channels": (8,)
}
# Rows of Table 3; match_target is min_relative_entropy under another name.
_SELECTIONS = tuple(row for row in selection.TABLE if row.name != "match_target")

PANELS = ("selection", "shape", "concept", "ablation")


class Curve(NamedTuple):
  """A curve of the figure."""

  panel: str  # one of PANELS
  label: str
  training: training.Config


class Learned(NamedTuple):
  """The data of a curve with S seeds and P points."""

  curve: Curve
  steps: np.ndarray  # [P] updates
  solver_gap: np.ndarray  # [S, P] means over held-out games
  gap: np.ndarray  # [S, P] means over held-out games


def configure(
    settings: Settings,
    shape: tuple[int, ...],
    *,
    concept: Concept = "cce",
    chosen: str = "max_entropy",
    sphere: str = "l2",
    **changes: Any,
) -> training.Config:
  """The training of one curve.

  Args:
    settings: the amount of work.
    shape: (A1, ..., AN) of the games.
    concept: "cce" or "ce".
    chosen: the selection, a name of Table 3.
    sphere: the sphere of the games, or `training.UNIFORM`.
    **changes: fields in which the network differs from the paper's.
  """
  size: dict[str, Any] = _SMALL_NETWORK if settings.small else {}
  net = network.Config(concept, inputs=training.inputs(chosen), **size, **changes)
  batch = 32 if settings.small else min(_MAX_GAMES, _MAX_PAYOFFS // math.prod(shape))
  return training.Config(
      net,
      selection=chosen,
      shapes=(shape,),
      batches=(batch,),
      updates=settings.updates,
      sphere=sphere,
      **_TRAINING,
  )


def linear(concept: str) -> dict[str, Any]:
  """Changes that make a network linear up to its last softplus: no ReLU, and means in all pools."""
  to_duals = [name for name in _means(pooling.TO_DUAL_POOLS) if "/best/" not in name]
  return {
      "activation": "none",
      "payoff_pools": _means(pooling.PAYOFF_POOLS),
      "to_dual_pools": tuple(to_duals),
      "dual_pools": _means(pooling.CCE_POOLS),
  }


def _means(names: Sequence[str]) -> tuple[str, ...]:
  """The pools that are linear."""
  return tuple(name for name in names if name == "self" or name.endswith("/mean"))


def square(settings: Settings) -> training.Config:
  """The training of the network of Table 2: on 8x8, as in the paper, or on 3x3 if it is small."""
  return configure(settings, (3, 3) if settings.small else (8, 8))


def curves(settings: Settings) -> list[Curve]:
  """The curves of all panels. Several curves may have the same training."""
  small = settings.small
  rows = [row for row in _SELECTIONS if not small or row.abbreviation in ("ME", "MRE")]
  plane, cube = ((3, 3), (2, 2, 2)) if small else ((4, 4), (4, 4, 4))
  found = [
      Curve("selection", row.abbreviation, configure(settings, plane, chosen=row.name))
      for row in rows
  ]
  shapes = (plane, cube) if small else (
      (2, 2), (4, 4), (8, 8), (16, 16), (2, 2, 2), (4, 4, 4), (2, 2, 2, 2)
  )
  found += [Curve("shape", shape_name(shape), configure(settings, shape)) for shape in shapes]
  for concept in ("cce", "ce"):
    shape = plane if small else (8, 8)
    found.append(Curve("concept", concept.upper(), configure(settings, shape, concept=concept)))
  found += [
      Curve("ablation", "as the paper's", configure(settings, cube)),
      Curve("ablation", "linear network", configure(settings, cube, **linear("cce"))),
      Curve(
          "ablation",
          "no invariant preprocessing,\nuniform payoffs",
          configure(settings, cube, sphere=training.UNIFORM, centre="mean"),
      ),
  ]
  return found


def trainings(settings: Settings) -> list[tuple[training.Config, int]]:
  """All different trainings with their seeds: first all trainings with seed 0, then with seed 1."""
  configs = list(dict.fromkeys(curve.training for curve in curves(settings)))
  return [(config, seed) for seed in range(settings.seeds) for config in configs]


def directory(
    root: pathlib.Path, config: training.Config, seed: int, settings: Settings
) -> pathlib.Path:
  """The directory of a training, whose name depends on everything that determines the training."""
  key = [config.to_dict(), seed, settings.points, settings.curve_games]
  digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
  name = f"{config.network.concept}-{shape_name(config.shapes[0])}-{config.selection}"
  return root / f"{name}-{seed}-{digest}"


def train(
    root: pathlib.Path,
    config: training.Config,
    seed: int,
    settings: Settings,
    check_stop: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = lambda line: None,
) -> None:
  """Trains to the end, and continues a training that was stopped. All processes call it together.

  Args:
    root: the directory that holds the directories of all trainings.
    config: the training.
    seed: its seed.
    settings: the amount of work.
    check_stop: raises `stopping.Stopped` when the program is to stop.
    say: prints a line.
  """
  out = directory(root, config, seed, settings)
  if _evaluations(out, config)[0][-1:] == [config.updates]:
    return
  every = max(config.updates // settings.points, 1)
  options = loop.Options(out, report_every=every, save_every=every, keep=1)
  run = Run(config, options, seed, eval_games=settings.curve_games)
  trainer.train(run, check_stop=check_stop, say=lambda line: say(f"{out.name}: {line}"))
  # Process 0 writes the files that all processes read.
  parallel.sync_processes()


def _evaluations(out: pathlib.Path, config: training.Config) -> tuple[list[float], ...]:
  """Steps, solver gaps and gaps of the evaluations that a training has made so far."""
  name = f"eval/{shape_name(config.shapes[0])}"
  names = writers.STEP, f"{name}/solver_gap", f"{name}/gap"
  rows = [row for row in writers.read(out) if names[1] in row]
  return tuple([row[what] for row in rows] for what in names)


def learned(root: pathlib.Path, settings: Settings) -> list[Learned]:
  """The data of all curves, whose trainings must be finished."""
  found = []
  for curve in curves(settings):
    runs = [
        _evaluations(directory(root, curve.training, seed, settings), curve.training)
        for seed in range(settings.seeds)
    ]
    steps, solver_gap, gap = (np.array(x) for x in zip(*runs))
    found.append(Learned(curve, steps[0], solver_gap, gap))
  return found


def network_of(
    root: pathlib.Path, config: training.Config, seed: int, settings: Settings
) -> pretrained.Pretrained:
  """The best network of a finished training."""
  path = checkpoint.best(directory(root, config, seed, settings))
  assert path is not None  # the training is finished
  like = jax.eval_shape(lambda key: training.init(key, config), jax.random.key(0))
  state = jax.tree.map(jnp.asarray, checkpoint.restore(path, like))
  name = f"{shape_name(config.shapes[0])} of Figure 3"
  return pretrained.Pretrained(name, state.params, {}, config, {})


def square_network(
    root: pathlib.Path,
    settings: Settings,
    check_stop: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = print,
) -> pretrained.Pretrained:
  """The network of Table 2, which was trained on one size of games alone.

  It is one of nes_jax/weights if one was trained on this size alone, and one of Figure 3 otherwise,
  which is trained if need be.

  Args:
    root: the directory that holds the directories of all trainings.
    settings: the amount of work.
    check_stop: raises `stopping.Stopped` when the program is to stop.
    say: prints a line.
  """
  config = square(settings)
  for name in pretrained.names():
    shipped = pretrained.load(name)
    kind = shipped.config.concept, shipped.training.selection
    if kind == ("cce", "max_entropy") and shipped.training.shapes == config.shapes:
      return shipped
  train(root, config, 0, settings, check_stop, say)
  return network_of(root, config, 0, settings)
