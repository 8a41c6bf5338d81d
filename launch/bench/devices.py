"""Suite `devices` of `launch.benchmark`: the same work on more devices, and its communication.

  python -m launch.benchmark --suite=devices --out=out/benchmark

The work is an update of `nes_train` (the paper's network, 8x8 games) or a stage of `calsheq_train`
(experiment 1). Its global batch is the same on any number of devices. The devices of a CPU are
virtual and share its cores, so that more of them cannot be faster in total; the suite then shows
the cost of splitting the work. Entries with more devices than the machine has are left out.
Columns:

  work, devices           what is measured, and on how many devices
  batch                   games or episodes of all devices together
  step_ms                 milliseconds of an update or a stage
  examples_second         games or episodes per second of all devices together
  over_one                this rate over the rate of one device
  alone_ms                milliseconds of a step without communication, in which each device takes
                          means over its own part of the batch
  talking_pct             (step - alone) / step in percent: the part of communication, with the time
                          in which devices wait for the slowest one
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools

import jax
from jax.sharding import Mesh

from calsheq_jax import calsheq, experiments
from calsheq_jax.targets import goals_of
from launch.bench.record import Row
from launch.bench.suite import Suite
from launch.runtime import parallel
from launch.runtime.timing import median_seconds
from nes_jax import network, training

DEVICES: tuple[int, ...] = (1, 2, 4, 8)

_CALLS = 5
# Updates or stages of a call.
_STEPS = 4


@dataclasses.dataclass(frozen=True)
class Entry:
  """An entry of the suite."""

  work: str  # one of WORK
  devices: int
  batch: int  # games or episodes of all devices together

  @property
  def name(self) -> str:
    """The name for --only."""
    return f"{self.work}:{self.devices}"


def _training(batch: int, axis_name: str | None):
  """The functions init and steps of updates of a network."""
  config = training.Config(network.Config("cce"), batches=(batch,))

  def init(key):
    return training.init(key, config)

  steps = functools.partial(training.cycles, config=config, count=_STEPS, axis_name=axis_name)
  return init, steps


def _calibration(batch: int, axis_name: str | None):
  """The functions init and steps of stages of a calibration."""
  problem = experiments.named("1").problem()
  config = calsheq.Config(episodes=batch)
  goals = goals_of(problem.targets)

  def init(key):
    return calsheq.init(key, problem, config)

  def steps(state, key):
    def stage(state, _):
      return calsheq.stage(state, key, goals, problem, config, axis_name)

    return jax.lax.scan(stage, state, length=_STEPS)

  return init, steps


# By name a function of the batch and the axis of devices. It returns init(key) -> state and
# steps(state, key) -> state, metrics.
WORK: Mapping[str, Callable[[int, str | None], tuple[Callable, Callable]]] = {
    "nes_train": _training,
    "calsheq_train": _calibration,
}
ENTRIES = tuple(
    Entry(work, devices, batch)
    for work, batch in (("nes_train", 1024), ("calsheq_train", 64))
    for devices in DEVICES
)


def row(entry: Entry, rate: float, *, quick: bool = False) -> Row:
  """Measures an entry. The rate is not used, since the other suites have floors."""
  del rate
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
  """Seconds of a step on so many devices."""
  return _measure(*WORK[work](batch, parallel.AXIS), _mesh(devices), calls)


def _alone_seconds(entry: Entry, batch: int, calls: int) -> float:
  """Seconds of a step without communication."""
  alone = WORK[entry.work](batch // entry.devices, None)
  return _measure(*alone, _mesh(entry.devices), calls)


def _measure(init: Callable, steps: Callable, mesh: Mesh, calls: int) -> float:
  """Median seconds of a step on the devices of the mesh."""
  everywhere = (parallel.REPLICATED,) * 2
  run = parallel.spmd(steps, mesh, everywhere, parallel.REPLICATED)
  state, key = parallel.replicate((jax.jit(init)(jax.random.key(0)), jax.random.key(1)), mesh)
  return median_seconds(lambda: run(state, key), calls) / _STEPS


SUITE = Suite(ENTRIES, row, possible=lambda entry: entry.devices <= jax.device_count())
