"""Figure 3: how networks learn, by selection, shape and concept, and what the paper leaves out.

Every run is one of `launch.nes_train` in a directory of its own, and continues like one.
"""

from collections.abc import Callable
import hashlib
import json
import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from launch import nes_train
from launch.evaluation.settings import Settings
from launch.runtime import checkpoint, parallel, writers
from nes_jax import network, pretrained, selection
from nes_jax import training as learner
from nes_jax.network import pooling
from nes_jax.training import shape_name

# Payoffs of a player in an update, and games at most.
_ENTRIES, _GAMES = 8192, 256
# Muon learns faster than the paper's Adam, and a cosine schedule suits short runs.
_TRAINING = {"optimiser": "muon", "learning_rate": 2e-2, "schedule": "cosine"}
_SMALL = {"payoff_channels": (8,), "dual_channel": 16, "dual_channels": (8,)}
# The rows of Table 3 that differ: match_target is min_relative_entropy under another name.
_SELECTIONS = tuple(row for row in selection.TABLE if row.name != "match_target")


class Curve(NamedTuple):
  """A line of a panel."""

  panel: str
  label: str
  training: learner.Config


PANELS = ("selection", "shape", "concept", "ablation")


class Learned(NamedTuple):
  """What a line shows; S seeds, P points."""

  curve: Curve
  steps: np.ndarray  # [P] updates
  solver_gap: np.ndarray  # [S, P] means over held-out games
  gap: np.ndarray  # [S, P]


def training(
    settings: Settings,
    shape: tuple[int, ...],
    *,
    concept: str = "cce",
    chosen: str = "max_entropy",
    norm: str = "l2",
    **changes: Any,
) -> learner.Config:
  """Of one curve. `changes` are of the network, the paper's otherwise."""
  size = _SMALL if settings.small else {}
  net = network.Config(concept, inputs=learner.inputs(chosen), **size, **changes)
  batch = 32 if settings.small else min(_GAMES, _ENTRIES // math.prod(shape))
  return learner.Config(
      net,
      selection=chosen,
      shapes=(shape,),
      batches=(batch,),
      updates=settings.updates,
      sphere=norm,
      **_TRAINING,
  )


def linear(concept: str) -> dict[str, Any]:
  """Changes that leave nothing but the last softplus that is not linear: no ReLU, no maxima."""
  means = lambda names: tuple(n for n in names if n == "self" or n.endswith("/mean"))
  to_duals = [name for name in means(pooling.TO_DUAL_POOLS) if "/best/" not in name]
  return {
      "activation": "none",
      "payoff_pools": means(pooling.PAYOFF_POOLS),
      "to_dual_pools": tuple(to_duals),
      "dual_pools": means(pooling.CCE_POOLS),
  }


def square(settings: Settings) -> learner.Config:
  """The network that Table 2 takes to other sizes: of 8x8, as in the paper, if not small."""
  return training(settings, (3, 3) if settings.small else (8, 8))


def curves(settings: Settings) -> list[Curve]:
  """Those of all panels. The same training may be in several."""
  small = settings.small
  rows = [row for row in _SELECTIONS if not small or row.abbreviation in ("ME", "MRE")]
  plane, cube = ((3, 3), (2, 2, 2)) if small else ((4, 4), (4, 4, 4))
  found = [
      Curve("selection", row.abbreviation, training(settings, plane, chosen=row.name))
      for row in rows
  ]
  shapes = (plane, cube) if small else (
      (2, 2), (4, 4), (8, 8), (16, 16), (2, 2, 2), (4, 4, 4), (2, 2, 2, 2)
  )
  found += [Curve("shape", shape_name(shape), training(settings, shape)) for shape in shapes]
  for concept in ("cce", "ce"):
    shape = plane if small else (8, 8)
    found.append(Curve("concept", concept.upper(), training(settings, shape, concept=concept)))
  found += [
      Curve("ablation", "as the paper's", training(settings, cube)),
      Curve("ablation", "linear network", training(settings, cube, **linear("cce"))),
      Curve(
          "ablation",
          "no invariant preprocessing,\nuniform payoffs",
          training(settings, cube, norm=learner.UNIFORM, centre="mean"),
      ),
  ]
  return found


def trainings(settings: Settings) -> list[tuple[learner.Config, int]]:
  """What has to be trained, with the seed: the first seed of all comes first."""
  configs = list(dict.fromkeys(curve.training for curve in curves(settings)))
  return [(one, seed) for seed in range(settings.seeds) for one in configs]


def directory(root: pathlib.Path, config: learner.Config, seed: int, settings: Settings):
  """Of a run, named after all that determines it."""
  key = [config.to_dict(), seed, settings.points, settings.curve_games]
  digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
  name = f"{config.network.concept}-{shape_name(config.shapes[0])}-{config.selection}"
  return root / f"{name}-{seed}-{digest}"


def train(
    root: pathlib.Path,
    config: learner.Config,
    seed: int,
    settings: Settings,
    check_stop: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = lambda line: None,
) -> None:
  """Trains to the end, from where an earlier run stopped; returns at once if it is there.

  All processes call it together, and share the work.
  """
  out = directory(root, config, seed, settings)
  if _evaluations(out, config)[0][-1:] == [config.updates]:
    return
  every = max(config.updates // settings.points, 1)
  run = nes_train.Run(
      config, out, seed, report_every=every, save_every=every, keep=1,
      eval_games=settings.curve_games,
  )
  nes_train.train(run, check_stop=check_stop, say=lambda line: say(f"{out.name}: {line}"))
  parallel.meet()  # what process 0 has written is there for all


def _evaluations(out: pathlib.Path, config: learner.Config) -> tuple[list[int], ...]:
  """Steps, solver gaps and gaps of a run's evaluations so far."""
  name = f"eval/{shape_name(config.shapes[0])}"
  names = writers.STEP, f"{name}/solver_gap", f"{name}/gap"
  rows = [row for row in writers.read(out) if names[1] in row]
  return tuple([row[what] for row in rows] for what in names)


def learned(root: pathlib.Path, settings: Settings) -> list[Learned]:
  """All curves, of runs that are finished."""
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
    root: pathlib.Path, config: learner.Config, seed: int, settings: Settings
) -> pretrained.Pretrained:
  """The best network of a finished run."""
  path = checkpoint.best(directory(root, config, seed, settings))
  like = jax.eval_shape(lambda key: learner.init(key, config), jax.random.key(0))
  state = jax.tree.map(jnp.asarray, checkpoint.restore(path, like))
  name = f"{shape_name(config.shapes[0])} of Figure 3"
  return pretrained.Pretrained(name, state.params, {}, config, {})
