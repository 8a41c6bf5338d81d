"""Training of a network on random games, with evaluations on held-out ones."""

from collections.abc import Callable, Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from launch.runtime import loop, parallel
from launch.runtime.flags import UsageError
from launch.training import card
from launch.training.held_out import HeldOut, draw, judge
from launch.training.settings import Run
from nes_jax import network, training
from nes_jax.training import shape_name
from nes_jax.training.config import FORMER_NAMES


def train(run: Run, *, check_stop=lambda: None, say=print) -> dict[str, float]:
  """Trains to the end of the run, from the last checkpoint of its directory if there is one.

  Args:
    run: the run. Its network is exported at the end if it says so.
    check_stop: raises `stopping.Stopped` when the run is to stop.
    say: gets lines for the user.

  Returns:
    The metrics of the last evaluation; none if the run was finished before.

  Raises:
    UsageError: the directory holds another run, or a batch does not divide over the devices.
    FloatingPointError: too many updates are not finite, as in `loop.run`.
    stopping.Stopped: raised by check_stop; the state is saved.
  """
  job = NetworkTraining(run)
  _, report = loop.run(job, run.options, check_stop=check_stop, say=say)
  if run.export is not None:
    card.export(run, job.held_out, say)
  return report


class NetworkTraining(loop.Training):
  """Updates of one network, which take the shapes of games in turn.

  Its metrics are, for each shape such as 8x8, train/8x8/... of `nes_jax.training.cycles`, and
  eval/8x8/solver_gap and eval/8x8/gap, means over held-out games. The mean of the solver gaps over
  all shapes is eval/solver_gap, which chooses the best checkpoint.
  """

  metric = "eval/solver_gap"

  def __init__(self, run: Run):
    """Raises UsageError if a batch does not divide over the devices."""
    self._run, self._config = run, run.training
    self._mesh = parallel.mesh()
    try:
      for batch in self._config.batches:
        parallel.per_device_batch(batch, self._mesh)
    except ValueError as error:
      raise UsageError(f"--batch: {error}") from error
    self.total = self._config.updates
    self._key = jax.random.key(run.seed)
    self._cycles = functools.cache(self._compile_cycles)
    self._update_key = parallel.replicate(jax.random.fold_in(self._key, 1), self._mesh)

  @functools.cached_property
  def held_out(self) -> dict[tuple[int, ...], HeldOut]:
    """The held-out games of each shape."""
    shapes = self._run.eval_shapes or self._config.shapes
    return {shape: draw(self._config, shape, self._run.eval_games) for shape in shapes}

  def metadata(self) -> dict[str, Any]:
    return {
        "training": self._config.to_dict(),
        "seed": self._run.seed,
        "start": card.earlier(self._run.start),
    }

  def settings(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
    trained = loop.renamed(metadata["training"], FORMER_NAMES)
    net = trained.pop("network")
    return trained | net | {"seed": metadata["seed"], "start": len(metadata["start"])}

  def init(self) -> training.State:
    init = jax.jit(training.init, static_argnums=1)
    state = init(jax.random.fold_in(self._key, 0), self._config)
    if self._run.start is not None:
      state = state._replace(params=jax.tree.map(jnp.array, self._run.start.params))
    return state

  def describe(self, state: training.State, done: int) -> list[str]:
    config = self._config
    batches = (f"{shape_name(s)} {b}" for s, b in zip(config.shapes, config.batches))
    return [
        f"{network.num_parameters(state.params)} parameters; updates {done} to {config.updates},"
        f" games a batch {', '.join(batches)}"
    ]

  def prepare(self) -> None:
    _ = self.held_out

  def place(self, state: training.State) -> training.State:
    return parallel.replicate(state, self._mesh)

  def advance(
      self, state: training.State, done: int
  ) -> tuple[training.State, int, dict[str, float]]:
    per_cycle = len(self._config.shapes)
    count = max(1, min(self._run.options.report_every, self.total - done) // per_cycle)
    state, reports = self._cycles(count)(state, self._update_key)
    row = {
        f"train/{shape}/{name}": float(value)
        for shape, values in reports.items()
        for name, value in values.items()
    }
    return state, done + count * per_cycle, row

  def _compile_cycles(self, count: int) -> Callable[..., Any]:
    """The compiled function of `count` cycles, from (state, key) to state and metrics."""
    cycles = functools.partial(
        training.cycles, config=self._config, count=count, axis_name=parallel.AXIS
    )
    inputs = (parallel.REPLICATED, parallel.REPLICATED)
    return parallel.spmd(cycles, self._mesh, inputs, parallel.REPLICATED, donate=(0,))

  def evaluate(self, state: training.State) -> dict[str, float]:
    here = parallel.gather(state)
    report, gaps = {}, []
    for shape, games in self.held_out.items():
      values = judge(here, self._config, shape, games)
      for name in ("solver_gap", "gap"):
        report[f"eval/{shape_name(shape)}/{name}"] = float(values[name].mean())
      gaps.append(report[f"eval/{shape_name(shape)}/solver_gap"])
    return report | {"eval/solver_gap": float(np.mean(gaps))}
