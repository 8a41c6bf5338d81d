"""The work of `launch.calsheq_paper`: all runs of the paper, one after another, and its figures."""

from collections.abc import Callable, Mapping
import dataclasses
import json
import pathlib
from typing import Any

from calsheq_jax import calsheq, experiments
from launch.runtime import flags, loop, parallel, stopping
from launch.training import calibration, ceiling_report
from launch.training.calibration_run import METHODS, Plan, Run

# Part of the directory of all runs for the pictures and the table.
FIGURES = "figures"


@dataclasses.dataclass(frozen=True)
class Suite:
  """The experiments and methods, and the directory of all runs."""

  out: pathlib.Path = dataclasses.field(
      metadata={
          "metavar": "DIRECTORY",
          "help": "Directory of all runs. A run is in EXPERIMENT/METHOD, and the pictures and the"
                  f" table of all runs are in {FIGURES}.",
      }
  )
  experiments: tuple[str, ...] = flags.field(
      ("1", "2", "3", "4", "5"), "Experiments.", choices=tuple(experiments.EXPERIMENTS),
      metavar="NAME,...",
  )
  methods: tuple[str, ...] = flags.field(
      ("calsheq",), "Methods of calibration.", choices=METHODS, metavar="NAME,..."
  )
  ceiling: pathlib.Path | None = flags.field(
      None, "File ceiling.json of launch.checks.ceiling, to compare with.", metavar="FILE.json"
  )

  def __post_init__(self):
    for field in ("experiments", "methods"):
      names = getattr(self, field)
      if not names:
        raise ValueError(f"{field}=: name one or more")
      for name in names:
        if names.count(name) > 1:
          raise ValueError(f"{field}={','.join(names)}: {name} is there twice")


@dataclasses.dataclass(frozen=True)
class Task:
  """All runs of a command line."""

  suite: Suite
  runs: tuple[Run, ...]
  ceilings: Mapping[str, Mapping[str, Any]]  # entries of ceiling.json by experiment


def task(suite: Suite, plan: Plan, config: calsheq.Config, options: loop.Options) -> Task:
  """Makes the runs: for each experiment all methods.

  Args:
    suite: which runs.
    plan: the plan of each run, but for its experiment and method.
    config: the settings of each run.
    options: those of each run, but for its directory.

  Raises:
    UsageError: a run is not possible with these settings, or the ceiling cannot be read.
  """
  ceilings = {} if suite.ceiling is None else ceiling_report.read(suite.ceiling)
  runs = []
  for name in suite.experiments:
    for method in suite.methods:
      own = dataclasses.replace(plan, experiment=name, method=method, figures=False)
      where = dataclasses.replace(options, out=suite.out / name / method)
      runs.append(Run(own.chosen(), own, config, where))
  return Task(suite, tuple(runs), ceilings)


def finished(run: Run) -> bool:
  """Whether the directory of a run holds its summary.

  Raises:
    UsageError: it holds the summary of a run with other settings.
  """
  path = run.options.out / "summary.json"
  try:
    summary = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return False
  loop.check_same(run.options.out, summary["settings"], run.settings())
  return summary["stages"] == run.plan.stages


def train(
    task: Task,
    *,
    check_stop: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
  """Does all runs that are not finished, and draws the figures of all of them.

  Returns:
    The mean reward of each run.

  Raises:
    UsageError, ImportError, FloatingPointError: as `calibration.train`, for one of the runs.
    stopping.Stopped: raised by check_stop; the state of the present run is saved.
  """
  count = len(task.runs)
  for place, run in enumerate(task.runs, start=1):
    stopping.check_together(check_stop)
    name = f"run {place} of {count}, experiment {run.plan.experiment} with {run.plan.method}"
    if finished(run):
      say(f"{name}: finished before")
      continue
    say(f"{name}: into {run.options.out}")
    calibration.train(run, check_stop=check_stop, say=say)
  if not parallel.is_main():
    return {}
  rewards = {}
  for run in task.runs:
    summary = json.loads((run.options.out / "summary.json").read_text(encoding="utf-8"))
    rewards[f"reward/{run.plan.experiment}/{run.plan.method}"] = summary["mean"]["reward"]
  draw(task, say)
  return rewards


def draw(task: Task, say: Callable[[str], None]) -> None:
  """Draws the figures and writes the table of all runs, if matplotlib is installed."""
  try:
    from launch.figures import calibration as figures
  except ImportError as error:
    say(f"no pictures: {error}; install the `programs` extra")
    return
  results = figures.read([run.options.out for run in task.runs])
  out = task.suite.out / FIGURES
  written = figures.draw(results, out, task.ceilings)
  say(f"wrote {', '.join(map(str, written))}")
  print((out / "table.md").read_text(encoding="utf-8"))
