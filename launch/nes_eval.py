"""Evaluates the engines as in Marris et al. (2022), and fills the cells that the paper left empty.

  python -m launch.nes_eval --out=out/eval

Writes report.md, its pictures, and every table as .csv into --out. The ground truth is the exact
engine in float64. Beside it runs the paper's solver, ECOS through CVXPY, if it is installed. The
networks are those of nes_jax/weights. Sections:

  figure4  worst, mean and best gaps on 25 classes of games, maximum-entropy CCE and CE; failures
  tables   Tables 1 and 2: games from 4x4 to 128x128
  figure1  equilibria of 2x2 games
  figure3  learning curves by selection, shape and concept, and ablations; trains small networks

Results are stored under --out/parts as soon as they are known, with everything that determines
them. Each training has a directory under --out/curves. The same command, given again, continues: it
computes what is missing and what new networks, new code or new flags change. New code does not
repeat trainings; delete --out/curves for that. SIGTERM and SIGINT stop the program so that it can
continue. --quick does everything on small samples in minutes; its results mean little.

Several processes (--coordinator, --num_processes, --process_id) share the directory --out, the
classes and the sizes of games. They train together, and process 0 writes the report.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import datetime
import pathlib
import sys
import time
from typing import Any

import jax

from launch.baselines import peers
from launch.evaluation import (
  classes,
  curves,
  fingerprints,
  measure,
  polytopes,
  report,
  scaling,
)
from launch.evaluation.cache import Cache
from launch.evaluation.settings import QUICK, Settings
from launch.runtime import flags, parallel, program, progress, stopping
from launch.runtime.machine import hardware
from nes_jax import pretrained

SECTIONS = ("figure1", "figure4", "tables", "figure3")


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags that are not settings."""

  out: pathlib.Path = dataclasses.field(
      default=pathlib.Path("out/eval"),
      metadata={"help": "Directory of the report.", "metavar": "DIRECTORY"},
  )
  quick: bool = dataclasses.field(
      default=False, metadata={"help": "Use small samples, which take a few minutes."}
  )
  only: tuple[str, ...] = dataclasses.field(
      default=(),
      metadata={
          "help": "Sections of the report. Without this flag all are evaluated.",
          "choices": SECTIONS,
          "repeated": True,
      },
  )


# Settings that are flags. Their defaults depend on --quick.
_COUNTS = ("games", "reference_games", "table_games", "sizes", "updates", "seeds", "seed")
_OPTIONS = flags.Section("The evaluation", Options)


def _with_defaults(name: str) -> str:
  """The help of a setting with its default in both forms."""
  (field,) = (field for field in dataclasses.fields(Settings) if field.name == name)
  full, quick = (getattr(settings, name) for settings in (Settings(), QUICK))
  if name == "sizes":
    full, quick = (",".join(map(str, sizes)) for sizes in (full, quick))
  also = "" if full == quick else f"; {quick} with --quick"
  return f"{field.metadata['help']} Default: {full}{also}."


_SETTINGS = flags.Section(
    "The amount of work",
    Settings,
    only=_COUNTS,
    defaults=dict.fromkeys(_COUNTS),
    help={name: _with_defaults(name) for name in _COUNTS},
)


@dataclasses.dataclass(frozen=True)
class Run:
  """A run of this program."""

  out: pathlib.Path
  settings: Settings = Settings()
  only: Sequence[str] = SECTIONS
  command: str = ""  # the command line, for the report


class _Evaluation:
  """The evaluation of a run: sections that compute, and the report of what they have stored."""

  def __init__(self, run: Run, check_stop: Callable[[], None], say: Callable[[str], None]):
    self._run, self._check_stop, self._say = run, check_stop, say
    self._cache, self._curves = Cache(run.out / "parts"), run.out / "curves"
    self._start = time.perf_counter()
    # For each table a function: number of strategies -> the network, or None.
    self._networks: list[Callable[[int], pretrained.Pretrained | None]] = []

  def figure4(self) -> None:
    """Evaluates the classes of games."""
    cache, settings = self._cache, self._run.settings
    mine = [name for name in parallel.local_items(classes.CLASSES) if name is not None]
    classes.draw_all(cache, mine, settings)
    self._share(
        "figure4", classes.CLASSES, lambda name: classes.evaluate(cache, name, settings)
    )

  def tables(self) -> None:
    """Evaluates the sizes of games."""
    settings = self._run.settings
    square = curves.square_network(self._curves, settings, self._check_stop, self._say)
    self._networks = [
        lambda size: measure.network_for("cce", (size, size)),
        lambda size: square,
    ]
    self._share("tables", settings.sizes, self._rows)

  def figure3(self) -> None:
    """Trains the networks of the learning curves; all processes train together."""
    trainings = curves.trainings(self._run.settings)
    with self._bar("figure3", len(trainings), "training") as bar:
      for config, seed in trainings:
        stopping.check_together(self._check_stop)
        settings = self._run.settings
        curves.train(self._curves, config, seed, settings, self._check_stop, self._say)
        bar.update(1)

  def report(self) -> pathlib.Path:
    """Writes the report of the results in the cache, and returns its path."""
    run, settings = self._run, self._run.settings
    page = report.Report(run.out, _head(run))
    if "figure1" in run.only:
      page.figure1(polytopes.figure())
    if "figure4" in run.only:
      page.figure4(*classes.summary(self._cache, settings))
    if "tables" in run.only:
      page.tables(*zip(*map(self._rows, settings.sizes)))
    if "figure3" in run.only:
      page.figure3(curves.learned(self._curves, settings))
    return page.write()

  def _rows(self, size: int) -> list[scaling.Row]:
    """The rows of both tables for one size."""
    return [
        scaling.row(self._cache, self._run.settings, size, network(size))
        for network in self._networks
    ]

  def _bar(self, name: str, steps: int, unit: str) -> Any:
    self._say(f"{name} ({time.perf_counter() - self._start:.0f} s so far)")
    return progress.bar(steps, unit=unit)

  def _share(self, name: str, items: Sequence[Any], work: Callable[[Any], Any]) -> None:
    """Does work(item) for each item in one of the processes, and waits for all of them."""
    with self._bar(name, len(items), "part") as bar:
      for item in parallel.local_items(items):
        stopping.check_together(self._check_stop)
        if item is not None:
          work(item)
        bar.update(jax.process_count())
    parallel.sync_processes()


def evaluate(
    run: Run, *, check_stop: Callable[[], None] = lambda: None, say: Callable[[str], None] = print
) -> Mapping[str, float]:
  """Evaluates, writes the report, and prints it.

  All processes compute and store results. Process 0 then makes the report from them.

  Raises:
    UsageError: the batch of a training cannot be divided among the devices.
    stopping.Stopped: the program is to stop; results so far are stored.
  """
  evaluation = _Evaluation(run, check_stop, say)
  for name in ("figure4", "tables", "figure3"):
    if name in run.only:
      getattr(evaluation, name)()
  if parallel.is_main():
    print(evaluation.report().read_text(encoding="utf-8"))
    print(f"The directory {run.out} has report.md, its pictures, and its tables as .csv.")
  parallel.sync_processes()
  return {}


def _head(run: Run) -> str:
  """The head of the report: command, date, machine and versions."""
  versions = hardware(peers.PACKAGES)["versions"]
  shown = ", ".join(f"{name} {version}" for name, version in versions.items())
  today = datetime.date.today().isoformat()
  lines = [
      "# Evaluation after Marris et al. (2022)",
      f"`{run.command}`, {today}; {fingerprints.machine()}; {shown}.",
  ]
  if run.settings.small:
    lines.append("**Small samples, to see that all works: the figures mean little.**")
  return "\n\n".join(lines)


def _prepare(values: flags.Values) -> Run:
  options = flags.build(values, _OPTIONS)
  given = flags.read(values, _SETTINGS)
  settings = dataclasses.replace(
      QUICK if options.quick else Settings(),
      **{name: value for name, value in given.items() if value is not None},
  )
  command = " ".join(["python -m launch.nes_eval", *sys.argv[1:]])
  return Run(options.out, settings, options.only or SECTIONS, command)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit code."""
  return program.main(
      argv, name="nes_eval", doc=__doc__, define=(_OPTIONS, _SETTINGS), prepare=_prepare,
      work=evaluate,
  )


if __name__ == "__main__":
  sys.exit(main())
