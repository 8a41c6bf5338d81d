"""Checks intervals of calibrated profiles: their coverage of known truths, and rank histograms.

  python -m launch.checks.coverage --out=out/check_coverage
  python -m launch.checks.coverage --studies=recover --out=out/check_coverage

Three studies:

  linear_quadratic  200 calibrations of a game whose equilibrium, and so the truth, is known
  market            40 calibrations of a small market to the episodes of a policy that was trained
                    at a known profile
  recover           one profile of the experiment `recover`: the directions that its targets do not
                    identify, and what moving the profile along them changes

Writes into --out coverage.md, and for each of the first two studies ranks_NAME.png. Exit code 0:
all targets are met; 1: one is missed, and the last line says which; 2: a flag is wrong. The
targets: nominal 90% intervals of identified parameters cover the truth in 85% to 95% of the runs;
ranks are uniform with a chi-square p-value above 0.01; along the least identified direction of
`recover` nothing that is observed changes beyond noise, and along the most identified one it does.
"""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
import sys
from typing import Any

import numpy as np

from launch.coverage import games, moves, study
from launch.figures import coverage as picture
from launch.runtime import flags, program, tables

# Smallest and largest part of the runs whose 90% interval covers the truth.
COVERED = (0.85, 0.95)
# Smallest p-value of uniform ranks, and of no change along a direction.
P_VALUE = 0.01
_STUDIES = (*games.GAMES, "recover")


@dataclasses.dataclass(frozen=True)
class Run:
  """Sizes of the check."""

  out: pathlib.Path = flags.field(
      pathlib.Path("out/check_coverage"), "Directory of the results.", metavar="DIRECTORY"
  )
  studies: tuple[str, ...] = flags.field(_STUDIES, f"Studies to run, of {', '.join(_STUDIES)}.")
  linear_quadratic_runs: int = flags.field(200, "Number of calibrations of the first study.")
  market_runs: int = flags.field(40, "Number of calibrations of the second study.")
  recover_stages: int = flags.field(
      150, "Number of stages that train the policy of the third study."
  )
  seed: int = flags.field(0, "Seed of all random numbers.")

  def __post_init__(self):
    flags.at_least_one(self, "linear_quadratic_runs", "market_runs", "recover_stages")
    for name in self.studies:
      if name not in _STUDIES:
        raise ValueError(f"--studies={name} is not one of {', '.join(_STUDIES)}")


_SECTION = flags.Section("The check", Run)


def coverage(run: Run, name: str, runs: int) -> tuple[list[dict[str, Any]], list[str]]:
  """Runs a study of coverage and draws its ranks: rows of the table, and targets missed."""
  game = games.GAMES[name]()
  done = study.calibrate(game, runs, run.seed)
  found = study.uncertainties(game, done)
  result = study.covered(done, found, game, run.seed)
  names = game.problem.space.names
  histograms = {name: counts for name, counts in zip(names, result.histograms)}
  picture.draw(histograms, result.p_values).savefig(run.out / f"ranks_{name}.png", dpi=100)
  rows, missed = [], []
  for i, parameter in enumerate(names):
    rows.append({
        "game": name,
        "parameter": parameter,
        "runs": runs,
        "covered": result.covered[i],
        "covered by ABC": result.covered_abc[i],
        "rank p": result.p_values[i],
        "error of the point": result.point_error[i],
        "error of the estimate": result.error[i],
        "deviation reported": result.deviation[i],
        "bias, z": result.bias[i],
        "identified": result.identified,
        "misfit": result.misfit,
        "disagree": result.disagreements,
        "seconds": done.seconds,
    })
    if not COVERED[0] <= result.covered[i] <= COVERED[1]:
      missed.append(f"{name}: {parameter} is covered in {100 * result.covered[i]:.1f}% of runs")
    if not result.p_values[i] > P_VALUE:
      missed.append(f"{name}: ranks of {parameter} have p = {result.p_values[i]:.2g}")
  return rows, missed


def recover(run: Run) -> tuple[str, list[dict[str, Any]], list[str]]:
  """Runs the study of `recover`: the report, rows of the table, and targets missed."""
  found, moved = moves.study(run.recover_stages, run.seed)
  rows = [
      {
          "direction": move.direction.name,
          "identified": move.direction.identified,
          "half-widths moved": move.distance,
          "chi-square": move.statistic,
          "targets": move.freedom,
          "p": move.p_value,
          "predicted chi-square": move.predicted,
      }
      for move in moved
  ]
  missed = []
  for move in moved:
    if move.direction.identified == (move.p_value > P_VALUE):
      does = "does not change" if move.direction.identified else "changes"
      missed.append(f"recover: moving {move.direction.name} {does} what is observed")
  if not found.unidentified:
    missed.append("recover: every direction is identified")
  return found.report(), rows, missed


def measure(
    run: Run,
    *,
    check_stop: Callable[[], None] = lambda: None,
    say: Callable[[str], Any] = print,
) -> dict[str, float]:
  """Runs the studies, and writes tables and pictures.

  Returns:
    "worst_coverage", the part of covered runs that is farthest from 0.9.

  Raises:
    program.Failed: a target is missed.
  """
  run.out.mkdir(parents=True, exist_ok=True)
  missed: list[str] = []
  rows: list[dict[str, Any]] = []
  parts = ["# Coverage of intervals"]
  for name, runs in (
      ("linear_quadratic", run.linear_quadratic_runs), ("market", run.market_runs)
  ):
    if name in run.studies:
      check_stop()
      found, wrong = coverage(run, name, runs)
      rows += found
      missed += wrong
      shares = ", ".join(f"{100 * row['covered']:.1f}%" for row in found)
      say(f"{name}: covered {shares}")
  if rows:
    parts.append(tables.markdown(rows))
  if "recover" in run.studies:
    check_stop()
    report, moved, wrong = recover(run)
    missed += wrong
    parts += ["## recover", f"```text\n{report}\n```", tables.markdown(moved)]
  text = "\n\n".join(parts) + "\n"
  (run.out / "coverage.md").write_text(text)
  print(text)
  say(f"{run.out / 'coverage.md'} is written")
  if missed:
    raise program.Failed(f"missed: {'; '.join(missed)}")
  covered = np.array([row["covered"] for row in rows])
  if not len(covered):
    return {}
  return {"worst_coverage": float(covered[np.argmax(np.abs(covered - study.LEVEL))])}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit code."""
  return program.main(
      argv, name="check_coverage", doc=__doc__, define=[_SECTION],
      prepare=lambda values: flags.build(values, _SECTION), work=measure,
  )


if __name__ == "__main__":
  sys.exit(main())
