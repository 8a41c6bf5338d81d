"""Compares ways to train a network: the paper's dual loss, and labels of the exact engine.

  python -m launch.checks.losses --out=out/losses

For each problem and size it trains three networks from the same seed on the same games:

  dual    the paper's loss, and duals as the answer
  labels  the divergence from the exact engine's joint, and duals as the answer
  joint   the same loss, and duals and a separate joint as the answer

The problems are maximum-entropy CCEs (cce) and CEs (ce), and CCEs with all inputs (all). Held-out
games judge the networks by the solver gap, with and without the Newton steps that follow a network.

Writes into --out:

  losses.md      a table of the final errors of all runs
  losses.png     solver gap without Newton steps over updates
  NAME/          what nes_train writes for the run NAME, such as ce-8x8-joint, and row.json, its row
                 of the table

The same command, given again, continues; SIGTERM and SIGINT save first.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import pathlib
import sys
from typing import Any, NamedTuple

import jax
import numpy as np

from launch.figures import losses as figure
from launch.figures.style import DPI
from launch.runtime import flags, loop, parallel, program, stopping, tables, writers
from launch.training.held_out import judge
from launch.training.network import NetworkTraining
from launch.training.settings import Run
from nes_jax import network, training
from nes_jax.types import Concept

# Concept, selection, finite rho of the dual loss, and number of Newton steps of a network of duals.
PROBLEMS: dict[str, tuple[Concept, str, float, int]] = {
    "cce": ("cce", "max_entropy", 1e5, 4),
    "ce": ("ce", "max_entropy", 1e8, 8),
    "all": ("cce", training.ALL_INPUTS, 1e5, 4),
}
# Settings of the ways to train, for the training and for the network.
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dual": ({"loss": "dual"}, {}),
    "labels": ({"loss": "labels"}, {}),
    "joint": ({"loss": "labels", "label_duals": 0.05}, {"answer": "joint"}),
}
# Number of Newton steps of a network that answers with a joint.
_JOINT_STEPS = 4
# Number of games in an update, by the number of strategies of a player.
_BATCHES = {2: 512, 4: 256, 8: 96, 16: 24}


@dataclasses.dataclass(frozen=True)
class Plan:
  """The runs of the comparison."""

  out: pathlib.Path = flags.field(
      pathlib.Path("out/losses"), "Directory of the results.", metavar="DIRECTORY"
  )
  problems: tuple[str, ...] = flags.field(tuple(PROBLEMS), "Problems.", metavar="NAME,...")
  sizes: tuple[str, ...] = flags.field(
      ("4", "8", "16"), "Numbers of strategies of each of two players.", metavar="NUMBER,..."
  )
  ways: tuple[str, ...] = flags.field(tuple(WAYS), "Ways to train.", metavar="NAME,...")
  updates: int = flags.field(1500, "Number of updates of each network.")
  rounds: int = flags.field(4, "Number of rounds of each network.")
  games: int = flags.field(512, "Number of held-out games.")
  seed: int = flags.field(0, "Seed of the parameters and of the games.")

  def __post_init__(self):
    flags.at_least_one(self, "updates", "games")
    for name, given, known in (
        ("problems", self.problems, PROBLEMS),
        ("sizes", self.sizes, [str(size) for size in _BATCHES]),
        ("ways", self.ways, WAYS),
    ):
      wrong = [x for x in given if x not in known]
      if wrong or not given:
        raise ValueError(f"{name}={','.join(given)}: take some of {', '.join(known)}")


_SECTION = flags.Section("The comparison", Plan)


class Cell(NamedTuple):
  """One run of the comparison."""

  problem: str
  size: int
  way: str

  @property
  def name(self) -> str:
    return f"{self.problem}-{self.size}x{self.size}-{self.way}"


def run_of(cell: Cell, plan: Plan) -> Run:
  """The training of a cell."""
  concept, selection, rho, _ = PROBLEMS[cell.problem]
  settings, answer = WAYS[cell.way]
  net = network.Config(
      concept, inputs=training.inputs(selection), rounds=plan.rounds, **answer
  )
  config = training.Config(
      net, selection=selection, shapes=((cell.size, cell.size),), batches=(_BATCHES[cell.size],),
      updates=plan.updates, optimiser="muon", learning_rate=2e-2, schedule="cosine", rho=rho,
      log_loss_above=1.0, **settings,
  )
  tenth = max(plan.updates // 10, 1)
  options = loop.Options(plan.out / cell.name, report_every=tenth, save_every=tenth, keep=1)
  return Run(config, options, seed=plan.seed, eval_games=plan.games)


def measure(
    plan: Plan,
    *,
    check_stop: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = print,
) -> Mapping[str, float]:
  """Trains all networks, and writes the table and the picture.

  Returns:
    The mean solver gap with Newton steps of each run.

  Raises:
    UsageError: a directory holds another run.
    stopping.Stopped: raised by check_stop; the state is saved.
  """
  rows, curves = [], {}
  for problem in plan.problems:
    for size in map(int, plan.sizes):
      for way in plan.ways:
        stopping.check_together(check_stop)
        cell = Cell(problem, size, way)
        say(f"{cell.name}:")
        rows.append(_stored_row(cell, plan, check_stop, say))
        metrics = writers.read(plan.out / cell.name)
        key = f"eval/{size}x{size}/solver_gap"
        curves[cell] = [(x["step"], x[key]) for x in metrics if key in x]
  (plan.out / "losses.md").write_text(tables.markdown(rows) + "\n", encoding="utf-8")
  figure.draw(curves).savefig(plan.out / "losses.png", dpi=DPI)
  say(f"wrote {plan.out / 'losses.md'} and losses.png")
  return {row["run"]: row["solver gap with steps"] for row in rows}


def _stored_row(cell: Cell, plan: Plan, check_stop: Callable, say: Callable) -> dict[str, Any]:
  """The row of a cell, from its file if the same run has written one."""
  path = plan.out / cell.name / "row.json"
  made_by = run_of(cell, plan).training.to_dict() | {"seed": plan.seed, "games": plan.games}
  if path.exists():
    stored = json.loads(path.read_text(encoding="utf-8"))
    if stored["made_by"] == made_by:
      return stored["row"]
  row = _row(cell, plan, check_stop, say)
  path.write_text(json.dumps({"made_by": made_by, "row": row}), encoding="utf-8")
  jax.clear_caches()  # a process can only map so much memory
  return row


def _row(cell: Cell, plan: Plan, check_stop: Callable, say: Callable) -> dict[str, Any]:
  """Trains the network of a cell, and makes its row of the table."""
  run = run_of(cell, plan)
  job = NetworkTraining(run)
  trained, _ = loop.run(job, run.options, check_stop=check_stop, say=say)
  state = parallel.gather(trained)
  (shape,) = run.training.shapes
  _, _, _, steps = PROBLEMS[cell.problem]
  steps = _JOINT_STEPS if run.training.network.answer == "joint" else steps
  found = {}
  for newton in (0, steps):
    net = dataclasses.replace(run.training.network, newton=newton)
    config = dataclasses.replace(run.training, network=net)
    found[newton] = jax.tree.map(np.asarray, judge(state, config, shape, job.held_out[shape]))
  plain, polished = (found[newton]["solver_gap"] for newton in (0, steps))
  seconds = max(x[writers.SECONDS] for x in writers.read(run.options.out))
  return {
      "run": cell.name,
      "parameters": network.num_parameters(state.params),
      "solver gap": float(plain.mean()),
      "median": float(np.median(plain)),
      "gap": float(found[0]["gap"].mean()),
      "steps": steps,
      "solver gap with steps": float(polished.mean()),
      "its median": float(np.median(polished)),
      "minutes": seconds / 60,
  }


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit code."""
  return program.main(
      argv, name="losses", doc=__doc__, define=[_SECTION],
      prepare=lambda values: flags.build(values, _SECTION), work=measure,
  )


if __name__ == "__main__":
  sys.exit(main())
