"""The evaluation of Marris et al. (2022): its figures and tables, and the cells it left empty.

  python -m launch.nes_eval --out=out/eval

Writes report.md with pictures beside it, and every table as .csv, into --out. The truth is the
exact engine's in float64; the paper's solver, ECOS through CVXPY, runs beside it where it is
installed; networks are those that ship.

  figure4  worst, mean and best gaps on 25 classes of games, maximum-entropy CCE and CE; failures
  tables   Tables 1 and 2: sizes from 4x4 to 128x128
  figure1  equilibria of 2x2 games
  figure3  learning curves by selection, shape and concept, and ablations: trains small networks

--only takes some of these. Results are stored as they come, under --out/parts by all that
determines them and under --out/curves a directory a training: the same command, given again,
continues, and recomputes what a new network, new code or new flags change. Training runs are not
repeated for new code: delete --out/curves for that. SIGTERM and SIGINT stop it where it can go on.
--quick does the whole on small samples, in minutes; its figures mean little.

Several processes (--coordinator, --num_processes, --process_id) share the directory of --out and
the classes and sizes of games, train together, and process 0 writes the report.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import datetime
import pathlib
import sys
import time
from typing import Any

from absl import flags
import jax

from launch import benchmark
from launch.evaluation import classes, curves, measure, parts, polytopes, report, scaling
from launch.evaluation.settings import QUICK, Settings
from launch.runtime import parallel, program, progress, stopping
from launch.runtime.program import UsageError
from nes_jax import pretrained

SECTIONS = ("figure1", "figure4", "tables", "figure3")


@dataclasses.dataclass(frozen=True)
class Run:
  """What is evaluated, and where to."""

  out: pathlib.Path
  settings: Settings = Settings()
  only: Sequence[str] = SECTIONS
  command: str = ""  # for the report


def square_network(
    curves_at: pathlib.Path,
    settings: Settings,
    check_stop: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = print,
) -> pretrained.Pretrained:
  """For Table 2: a network that ships and was trained on 8x8 alone, or that of Figure 3."""
  config = curves.square(settings)
  for name in pretrained.names():
    one = pretrained.load(name)
    same = (one.config.concept, one.training.selection) == ("cce", "max_entropy")
    if same and one.training.shapes == config.shapes:
      return one
  curves.train(curves_at, config, 0, settings, check_stop, say)
  return curves.network_of(curves_at, config, 0, settings)


def evaluate(
    run: Run, *, check_stop: Callable[[], None] = lambda: None, say: Callable[[str], None] = print
) -> Mapping[str, float]:
  """Evaluates and writes the report; nothing is left to say then.

  What takes time is stored under run.out by all processes, each its own; process 0 then makes the
  report of what is there.

  Raises:
    UsageError: the batch of a training does not divide over the devices.
    stopping.Stopped: asked to stop; what is done is kept.
  """
  settings, curves_at = run.settings, run.out / "curves"
  store = parts.Parts(run.out / "parts")
  begin = time.perf_counter()

  def section(name: str, steps: int, unit: str):
    say(f"{name} ({time.perf_counter() - begin:.0f} s so far)")
    return progress.bar(steps, unit=unit)

  def share(name: str, items: Sequence[Any], work: Callable[[Any], None]) -> None:
    with section(name, len(items), "part") as bar:
      for item in parallel.own(items):
        stopping.check_together(check_stop)
        if item is not None:
          work(item)
        bar.update(jax.process_count())
    parallel.meet()

  if "figure4" in run.only:
    mine = [name for name in parallel.own(classes.CLASSES) if name is not None]
    classes.draw_all(store, mine, settings)
    share("figure4", classes.CLASSES, lambda name: classes.evaluate(store, name, settings))
  networks = []
  if "tables" in run.only:
    square = square_network(curves_at, settings, check_stop, say)
    networks = [lambda size: measure.network_for("cce", (size, size)), lambda size: square]
    share(
        "tables",
        settings.sizes,
        lambda size: [scaling.row(store, settings, size, choose(size)) for choose in networks],
    )
  if "figure3" in run.only:
    runs = curves.trainings(settings)
    with section("figure3", len(runs), "training") as bar:
      for config, seed in runs:
        stopping.check_together(check_stop)
        curves.train(curves_at, config, seed, settings, check_stop, say)
        bar.update(1)
  if parallel.is_main():
    print(_report(run, store, networks).read_text(encoding="utf-8"))
    print(f"Written into {run.out}: report.md, its pictures, and its tables as .csv")
  parallel.meet()
  return {}


def _report(
    run: Run,
    store: parts.Parts,
    networks: Sequence[Callable[[int], pretrained.Pretrained | None]],
) -> pathlib.Path:
  """Writes the report of what is stored -> its path."""
  facts = benchmark.hardware()
  versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
  head = [
      "# Evaluation after Marris et al. (2022)",
      f"`{run.command}`, {datetime.date.today().isoformat()}; {parts.machine()}; {versions}.",
  ]
  settings = run.settings
  if settings.small:
    head.append("**Small samples, to see that all works: the figures mean little.**")
  page = report.Report(run.out, "\n\n".join(head))
  if "figure1" in run.only:
    page.figure1(*polytopes.run())
  if "figure4" in run.only:
    page.figure4(*classes.summary(store, settings))
  if "tables" in run.only:
    page.tables(*(
        [scaling.row(store, settings, size, choose(size)) for size in settings.sizes]
        for choose in networks
    ))
  if "figure3" in run.only:
    page.figure3(curves.learned(run.out / "curves", settings))
  return page.write()


# Flags that are fields of Settings.
_COUNTS = {
    "games": "games of each class, Figure 4",
    "reference_games": "of them, how many ECOS gets",
    "table_games": "games of each size, Tables 1 and 2",
    "updates": "of each training, Figure 3",
    "seeds": "of each training, Figure 3",
    "seed": "of the games",
}


def _define_flags(values: flags.FlagValues) -> None:
  own = {"flag_values": values}
  flags.DEFINE_string("out", "out/eval", "directory to write to", **own)
  flags.DEFINE_bool("quick", False, "small samples: a few minutes", **own)
  flags.DEFINE_multi_enum("only", [], SECTIONS, "sections, each with a flag; none: all", **own)
  flags.DEFINE_list("sizes", [], "strategies of two players, Tables 1 and 2; none: 4 to 128", **own)
  for name, text in _COUNTS.items():
    flags.DEFINE_integer(name, None, f"{text}; none: {getattr(Settings(), name)}", **own)


def _run(v: flags.FlagValues) -> Run:
  base = QUICK if v.quick else Settings()
  given: dict[str, Any] = {
      name: getattr(v, name) for name in _COUNTS if getattr(v, name) is not None
  }
  if v.sizes:
    given["sizes"] = program.integers("sizes", v.sizes)
  try:
    settings = dataclasses.replace(base, **given)
  except ValueError as error:
    raise UsageError(str(error)) from error
  command = " ".join(["python -m launch.nes_eval", *sys.argv[1:]])
  return Run(pathlib.Path(v.out), settings, v.only or SECTIONS, command)


def main(argv: Sequence[str]) -> int:
  """The program; returns its exit code."""
  return program.main(
      argv, name="nes_eval", doc=__doc__, define=_define_flags, prepare=_run, work=evaluate
  )


if __name__ == "__main__":
  sys.exit(main(sys.argv))
