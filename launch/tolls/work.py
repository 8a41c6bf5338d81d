"""Tolls of a road network: descent, report, tables and files."""

from collections.abc import Callable
import dataclasses
import math
import pathlib
import time
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from launch.runtime import flags, program, tables
from launch.runtime.flags import UsageError
from launch.tolls import networks
from nes_jax import design
from nes_jax.types import Concept

# Largest number of joint strategies of a network.
_LARGEST = 100_000


@dataclasses.dataclass(frozen=True)
class Config:
  """Options of a run."""

  network: str = flags.field(
      "pigou", "Name of a network, pigou or braess, or a JSON file.", metavar="NAME|FILE.json"
  )
  out: pathlib.Path = flags.field(
      pathlib.Path("out/tolls"), "Directory of the results.", metavar="DIRECTORY"
  )
  tolls: Literal["anonymous", "driver"] = flags.field(
      "anonymous",
      "Tolls to look for: the same for all drivers of an edge, or one for each driver and edge.",
      choices=("anonymous", "driver"),
  )
  concept: Concept = flags.field("cce", "Solution concept.", choices=("cce", "ce"))
  aggregate: Literal["worst_case", "max_entropy", "best_case", "mean"] = flags.field(
      "worst_case",
      "Equilibrium whose social cost is made small, or the mean over the three.",
      choices=("worst_case", "max_entropy", "best_case", "mean"),
  )
  steps: int = flags.field(300, "Number of gradient steps.")
  starts: int = flags.field(10, "Number of random starts, which go down side by side.")
  largest_start: float = flags.field(1.0, "Largest toll at a start.")
  rate: float = flags.field(0.05, "Learning rate of Adam in the first step; it falls to 0.")
  seed: int = flags.field(0, "Seed of the starts.")


class Report(NamedTuple):
  """Tolls, and what they do."""

  network: design.routing.Network
  before: tuple[design.Row, ...]  # without tolls
  found: design.Design
  optimum: float  # smallest social cost of any play
  seconds: float


def check(config: Config) -> None:
  """Raises UsageError for options that are wrong."""
  for name in ("steps", "starts"):
    if getattr(config, name) < 1:
      raise UsageError(f"--{name}={getattr(config, name)}: one or more is expected")
  for name in ("rate", "largest_start"):
    value = getattr(config, name)
    if not 0 < value < math.inf:
      raise UsageError(f"--{name}={value}: a positive number is expected")


def compute(config: Config, say: Callable[[str], None]) -> Report:
  """Looks for tolls. Raises UsageError for a network that is wrong."""
  net = networks.read(config.network)
  size = math.prod(map(len, net.paths))
  if size > _LARGEST:
    raise UsageError(
        f"--network={config.network}: {size} joint strategies, and at most {_LARGEST} are expected;"
        " use fewer drivers"
    )
  say(f"{len(net.paths)} drivers, {len(net.edges)} edges, {size} joint strategies")
  cost = design.routing.social_cost(net)

  def loss(joint, payoffs, tolls):
    return jnp.sum(joint * cost)

  def payoffs(tolls):
    return design.routing.payoffs(net, tolls)

  shape: tuple[int, ...] = (len(net.edges),)
  if config.tolls == "driver":
    shape = (len(net.paths), *shape)
  start = np.random.default_rng(config.seed).uniform(
      0, config.largest_start, (config.starts, *shape)
  )
  begun = time.monotonic()
  before = design.evaluate(loss, payoffs, np.zeros(shape), concept=config.concept)
  found = design.minimise(
      loss,
      payoffs,
      start,
      concept=config.concept,
      aggregate=config.aggregate,
      optimiser=optax.adam(optax.cosine_decay_schedule(config.rate, config.steps)),
      steps=config.steps,
      starts=True,
      projection=_not_negative,
  )
  return Report(net, before, found, float(cost.min()), time.monotonic() - begun)


def _not_negative(tolls: Any) -> Any:
  return jnp.maximum(tolls, 0)


def selection_rows(report: Report) -> list[dict[str, Any]]:
  """Rows of the table of selections, before and after."""
  return [
      {
          "equilibrium": old.selection,
          "cost without tolls": f"{old.loss:.4f}",
          "cost with tolls": f"{new.loss:.4f}",
          "bound": "" if np.isnan(new.bound) else f"{new.bound:.4f}",
          "gap": f"{new.gap:.1e}",
          "strictness": f"{new.strictness:.1e}",
          "certified": "yes" if old.certified and new.certified else "NO",
      }
      for old, new in zip(report.before, report.found.report)
  ]


def toll_rows(report: Report) -> list[dict[str, Any]]:
  """Rows of the table of tolls: one an edge, with a column for all drivers or for each."""
  tolls = report.found.params
  names = ["all drivers"] if tolls.ndim == 1 else [f"driver {p}" for p in range(len(tolls))]
  columns = np.atleast_2d(tolls)
  return [
      {"edge": edge} | {name: f"{x[k]:.4f}" for name, x in zip(names, columns)}
      for k, edge in enumerate(report.network.edges)
  ]


def history_rows(report: Report) -> list[dict[str, Any]]:
  """Rows of the history: one a step and a start."""
  history = report.found.history
  steps, starts = next(iter(history.values())).shape
  return [
      {"step": k, "start": s} | {name: float(x[k, s]) for name, x in history.items()}
      for k in range(steps)
      for s in range(starts)
  ]


def write(config: Config, report: Report) -> None:
  """Writes the tables and the picture."""
  from launch.figures import tolls as figure

  config.out.mkdir(parents=True, exist_ok=True)
  for name, rows in (
      ("selections", selection_rows(report)),
      ("tolls", toll_rows(report)),
      ("history", history_rows(report)),
  ):
    tables.write_csv(config.out / f"{name}.csv", list(rows[0]), rows)
  figure.draw(
      config.out / "tolls.png", report.before, report.found, report.optimum
  )


def summary(config: Config, report: Report) -> str:
  """The text that the program prints."""
  found = report.found
  mine = [x for x in found.active_set_changed if x.start == found.start]
  places = sorted({x.step for x in mine})
  losses = np.sort(found.losses)
  spread = (
      f"{losses[0]:.4f} at best, {np.median(losses):.4f} in the median, {losses[-1]:.4f} at worst"
  )
  lines = [
      tables.markdown(toll_rows(report)),
      "",
      tables.markdown(selection_rows(report)),
      "",
      f"The smallest social cost of any play is {report.optimum:g}. Certified losses of the starts:"
      f" {spread}.",
      f"Of the start that was taken (number {found.start}) the active set changed at"
      f" {len(places)} steps" + (f", last at step {places[-1]}." if places else "."),
      f"{found.skipped} gradients left out; {report.seconds:.1f} s, compilation included.",
  ]
  return "\n".join(lines)


run = program.reporting(compute, write, summary)
