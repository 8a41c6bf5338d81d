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
"""

from collections.abc import Callable, Sequence
import dataclasses
import datetime
import pathlib
import sys
import time
from typing import Any

from absl import app, flags, logging

from launch import benchmark
from launch.evaluation import classes, curves, measure, parts, polytopes, report, scaling
from launch.evaluation.settings import QUICK, Settings
from launch.runtime import progress, stopping
from nes_jax import pretrained

SECTIONS = ("figure1", "figure4", "tables", "figure3")


def say(line: str) -> None:
  print(f"nes_eval: {line}", file=sys.stderr, flush=True)


def square_network(
    curves_at: pathlib.Path, settings: Settings, check_stop: Callable[[], None]
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


def run(
    out: pathlib.Path,
    settings: Settings,
    only: Sequence[str] = SECTIONS,
    *,
    command: str = "",
    check_stop: Callable[[], None] = lambda: None,
) -> pathlib.Path:
  """Evaluates and writes the report -> its path.

  Args:
    out: directory to write to.
    settings: how much.
    only: which of SECTIONS.
    command: for the report.
    check_stop: may raise to stop.
  """
  begin = time.perf_counter()
  facts = benchmark.hardware()
  versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
  head = [
      "# Evaluation after Marris et al. (2022)",
      f"`{command}`, {datetime.date.today().isoformat()}; {parts.machine()}; {versions}.",
  ]
  if settings.small:
    head.append("**Small samples, to see that all works: the figures mean little.**")
  page = report.Report(out, "\n\n".join(head))
  curves_at = out / "curves"
  store = parts.Parts(out / "parts", check_stop=check_stop)

  def section(name: str, steps: int):
    say(f"{name} ({time.perf_counter() - begin:.0f} s so far)")
    return progress.bar(steps, unit="part")

  if "figure1" in only:
    with section("figure1", 1):
      page.figure1(*polytopes.run())
    page.write()
  if "figure4" in only:
    with section("figure4", 2 * len(classes.CLASSES)) as bar:
      page.figure4(*classes.run(store, settings, lambda: bar.update(1)))
    page.write()
  if "tables" in only:
    with section("tables", 2 * len(settings.sizes)) as bar:
      one = square_network(curves_at, settings, check_stop)
      advance = lambda: bar.update(1)
      choose = lambda shape: measure.network_for("cce", shape)
      first = scaling.table(store, settings, choose, advance)
      page.tables(first, scaling.table(store, settings, lambda shape: one, advance))
    page.write()
  if "figure3" in only:
    runs = curves.trainings(settings)
    with section("figure3", len(runs)) as bar:
      for config, seed in runs:
        check_stop()
        curves.train(curves_at, config, seed, settings, check_stop, say)
        bar.update(1)
      page.figure3(curves.learned(curves_at, settings))
    page.write()
  say(f"done in {time.perf_counter() - begin:.0f} s")
  return page.write()


def _settings(values: flags.FlagValues) -> Settings:
  base = QUICK if values.quick else Settings()
  given: dict[str, Any] = {
      name: getattr(values, name) for name in _COUNTS if getattr(values, name) is not None
  }
  if values.sizes:
    given["sizes"] = tuple(int(size) for size in values.sizes)
  return dataclasses.replace(base, **given)


# Flags that are fields of Settings.
_COUNTS = {
    "games": "Games of each class, Figure 4.",
    "reference_games": "Of them, how many ECOS gets.",
    "table_games": "Games of each size, Tables 1 and 2.",
    "updates": "Of each training, Figure 3.",
    "seeds": "Of each training, Figure 3.",
    "seed": "Of the games.",
}


def _define_flags() -> None:
  flags.DEFINE_string("out", "out/eval", "Directory to write to.")
  flags.DEFINE_bool("quick", False, "Small samples: a few minutes.")
  flags.DEFINE_multi_enum("only", [], SECTIONS, "Sections, each with a flag; none: all.")
  flags.DEFINE_list("sizes", [], "Strategies of two players, Tables 1 and 2; none: 4 to 128.")
  for name, text in _COUNTS.items():
    flags.DEFINE_integer(name, None, f"{text} None: {getattr(Settings(), name)}.")


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments {argv[1:]}")
  logging.set_verbosity(logging.WARNING)  # JAX says at INFO which plugins it did not find
  values = flags.FLAGS
  try:
    settings = _settings(values)
  except ValueError as error:
    raise app.UsageError(str(error)) from error
  print(progress.start_line("nes_eval"), flush=True)
  command = " ".join(["python -m launch.nes_eval", *sys.argv[1:]])
  signals = stopping.StopSignals("stopping soon", "left; the same command continues")
  try:
    with signals:
      path = run(
          pathlib.Path(values.out), settings, values.only or SECTIONS, command=command,
          check_stop=signals.check,
      )
  except stopping.Stopped as stopped:
    say(f"stopped by {stopped}; the same command continues")
    sys.exit(stopped.exit_code)
  print(path.read_text(encoding="utf-8"))
  print(f"Written into {values.out}: report.md, its pictures, and its tables as .csv")


if __name__ == "__main__":
  _define_flags()
  app.run(main)
