"""Suite `devices` of `launch.benchmark`: the same work on more devices, and what talking costs.

  python -m launch.benchmark --suite=devices --out=out/benchmark

Work is one update of `nes_train` (the paper's network, 8x8) or one stage of `calsheq_train`
(experiment 1), of a global batch that is the same on any number of devices. On a CPU the devices
are virtual: they share its cores, so that the total rate can only stay what it is; what falls is
the price of splitting. Entries of more devices than there are are left out. Columns:

  work, devices, batch    examples, games or episodes, of all devices together
  step_ms                 an update or a stage
  examples_second         of all devices together
  over_one                this rate over that of one device
  alone_ms                a step of devices that do not talk: each takes means over its own part
  talking_pct             (step - alone) / step, percent: what communication takes, waiting for the
                          slowest device included
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import statistics
from typing import Any

import jax
from jax.sharding import Mesh

from calsheq_jax import calibrator, calsheq, experiments
from launch.runtime import parallel
from launch.runtime.timing import seconds
from nes_jax import network
from nes_jax import training as learner

DEVICES: tuple[int, ...] = (1, 2, 4, 8)

_CALLS = 5
_STEPS = 4  # of a call


@dataclasses.dataclass(frozen=True)
class Entry:
  """A line of the suite."""

  work: str  # one of WORK
  devices: int
  batch: int

  @property
  def name(self) -> str:
    return f"{self.work}:{self.devices}"


def _training(batch: int, axis_name: str | None):
  config = learner.Config(network.Config("cce"), batches=(batch,))
  init = lambda key: learner.init(key, config)
  step = functools.partial(learner.cycles, config=config, count=_STEPS, axis_name=axis_name)
  return init, step


def _calibration(batch: int, axis_name: str | None):
  problem = experiments.named("1").problem()
  config = calsheq.Config(episodes=batch)
  goals = calibrator.goals_of(problem.targets)

  def steps(state, key):
    step = lambda state, _: calsheq.stage(state, key, goals, problem, config, axis_name)
    return jax.lax.scan(step, state, length=_STEPS)

  return lambda key: calsheq.init(key, problem, config), steps


# name -> (examples of a step, axis) -> (key -> state), (state, key -> state, metrics).
WORK: Mapping[str, Callable[[int, str | None], tuple[Callable, Callable]]] = {
    "nes_train": _training,
    "calsheq_train": _calibration,
}
ENTRIES = tuple(
    Entry(work, devices, batch)
    for work, batch in (("nes_train", 1024), ("calsheq_train", 64))
    for devices in DEVICES
)


def possible(entry: Entry) -> bool:
  """Whether there are so many devices."""
  return entry.devices <= jax.device_count()


def row(entry: Entry, rate: float, *, quick: bool = False) -> dict[str, Any]:
  """Measures one entry."""
  del rate  # no floor: what a step needs is in the other suites
  batch = 8 * DEVICES[-1] if quick else entry.batch
  calls = 1 if quick else _CALLS
  step = _step_seconds(entry.work, entry.devices, batch, calls)
  one = _step_seconds(entry.work, 1, batch, calls)
  alone = _alone_seconds(entry, batch, calls)
  return {
      "work": entry.work,
      "devices": entry.devices,
      "batch": batch,
      "step_ms": 1e3 * step,
      "examples_second": batch / step,
      "over_one": one / step,
      "alone_ms": 1e3 * alone,
      "talking_pct": 100 * (step - alone) / step,
  }


def _mesh(devices: int) -> Mesh:
  return parallel.mesh(jax.devices()[:devices])


@functools.cache
def _step_seconds(work: str, devices: int, batch: int, calls: int) -> float:
  return _measured(*WORK[work](batch, parallel.AXIS), _mesh(devices), calls)


def _alone_seconds(entry: Entry, batch: int, calls: int) -> float:
  alone = WORK[entry.work](batch // entry.devices, None)
  return _measured(*alone, _mesh(entry.devices), calls)


def _measured(init: Callable, steps: Callable, mesh: Mesh, calls: int) -> float:
  """Seconds of a step on each device of the mesh: the median call's."""
  everywhere = (parallel.REPLICATED,) * 2
  run = parallel.spmd(steps, mesh, everywhere, parallel.REPLICATED)
  state, key = parallel.replicate((jax.jit(init)(jax.random.key(0)), jax.random.key(1)), mesh)
  return statistics.median(seconds(lambda: run(state, key), calls)[1:]) / _STEPS
