"""Solves games of 22 classes and draws the results: the first program to run. It takes a minute.

  python -m launch.demo --out=out/demo

Writes gamut.png (gap and iterations of each class), polytopes.png (equilibria of three 2x2 games),
summary.csv and games.npz into --out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import csv
import dataclasses
import pathlib
import sys
import threading
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from launch.evaluation.games import GAMES_2X2, normalised, select_2x2, uniform_gaps
from launch.figures.games import ByClass, draw_classes
from launch.figures.polytopes import draw_polytopes
from launch.runtime import flags, program
from launch.runtime.progress import CompileClock
import nes_jax
from nes_jax.types import CONCEPTS

_GAMES = pathlib.Path(__file__).resolve().parents[1] / "tests" / "data" / "gamut_8x8.npz"
PRECISIONS = ("float64", "float32")
# Seconds. Shorter calls are timed again, since compilation cannot be subtracted precisely.
_SHORT = 2

NEXT = """\
Next
  python -m launch.nes_solve --games={out}/games.npz --concept=ce --selection=max_welfare \\
      --method=exact --out={out}/solved.npz
or, in Python,
  import numpy as np
  import nes_jax

  # Chicken: payoffs[p, a1, a2] is the payoff of player p; strategies are (dare, yield).
  payoffs = np.array([[[0.0, 7.0], [2.0, 6.0]], [[0.0, 2.0], [7.0, 6.0]]])
  sol = nes_jax.solve(payoffs, concept="cce", selection="max_entropy")
  print(sol.joint)      # the probability of each joint strategy
  print(sol.gap)        # the players' gains from their best deviations, in payoff units
  print(sol.converged)  # whether sol.residual is within the tolerance
  sols = nes_jax.solve(np.random.default_rng(0).normal(size=(1000, 3, 4, 3, 2)))  # 1000 at once"""


@dataclasses.dataclass(frozen=True)
class Run:
  """A run of this program."""

  out: pathlib.Path = dataclasses.field(
      default=pathlib.Path("out/demo"),
      metadata={"help": "Directory of the results.", "metavar": "DIRECTORY"},
  )
  games: pathlib.Path = dataclasses.field(
      default=_GAMES,
      metadata={
          "help": "Games as a .npz file with an array [games, N, A1, ..., AN] for each class.",
          "metavar": "FILE",
      },
  )
  games_per_class: int | None = dataclasses.field(
      default=None,
      metadata={"help": "Number of games to take of each class. Without this flag all are taken."},
  )

  def __post_init__(self):
    if self.games_per_class is not None:
      flags.at_least_one(self, "games_per_class")


_SECTION = flags.Section("The demo", Run)


class Timing(NamedTuple):
  """Seconds of a call that solves all games."""

  first: float  # first call, with compilation
  compiled: float  # call without compilation


class Results(NamedTuple):
  """Results with one concept and one precision."""

  by_class: ByClass
  total: ByClass  # over all classes: arrays of length 1
  timing: Timing

  @property
  def games_per_second(self) -> float:
    """Games per second without compilation."""
    return self.total.games[0] / self.timing.compiled


@contextlib.contextmanager
def working(text: str) -> Iterator[None]:
  """Prints a text, a dot every two seconds while the block runs, and the seconds that it took."""
  done, start = threading.Event(), time.perf_counter()

  def print_dots():
    while not done.wait(2):
      print(".", end="", flush=True)

  print(f"{text} ..", end="", flush=True)
  thread = threading.Thread(target=print_dots, daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
    print(f" {time.perf_counter() - start:.1f} s", flush=True)


def read_classes(path: pathlib.Path, per_class: int | None) -> dict[str, np.ndarray]:
  """Reads the games of all classes.

  Args:
    path: a .npz file with an array for each class.
    per_class: the number of games to take of each class; None takes all.

  Returns:
    name -> payoffs [games, N, A1, ..., AN]; the shape of the games is the same for all classes.

  Raises:
    ValueError: the file holds arrays of other shapes.
  """
  with np.load(path) as data:
    classes = {name: data[name][:per_class] for name in data.files}
  shapes = {payoffs.shape[1:] for payoffs in classes.values()}
  if len(shapes) != 1 or any(len(shape) != shape[0] + 1 for shape in shapes):
    raise ValueError(
        f"{path} must hold one array [games, N, A1, ..., AN] a class, with the same N, A1, ..., AN;"
        f" it holds {({name: list(x.shape) for name, x in classes.items()})}"
    )
  return classes


def solve_timed(
    payoffs: np.ndarray, concept: str, precision: str
) -> tuple[nes_jax.Solution, Timing]:
  """Solves games [B, N, A1, ..., AN] for maximum-entropy equilibria in one call."""

  def call():
    start = time.perf_counter()
    solution = nes_jax.solve(payoffs, concept=concept, precision=precision, batched=True)
    return jax.tree.map(np.asarray, solution), time.perf_counter() - start

  with CompileClock() as clock:
    solution, first = call()
    compiled = first - clock.seconds()
  if compiled < _SHORT:
    solution, compiled = call()
  return solution, Timing(first, compiled)


def by_class(solution: nes_jax.Solution, counts: list[int]) -> ByClass:
  """Statistics of each class, of a batch that holds `counts` games of the classes in turn."""
  ends = np.cumsum(counts)[:-1]

  def reduce(function, values):
    return np.array([function(part) for part in np.split(values, ends)])

  return ByClass(
      games=np.array(counts),
      converged=reduce(np.sum, solution.converged),
      repeated=reduce(np.sum, solution.repeated),
      gap_mean=reduce(np.mean, solution.gap.astype(np.float64)),
      gap_worst=reduce(np.max, solution.gap),
      iterations_mean=reduce(np.mean, solution.iterations),
      iterations_max=reduce(np.max, solution.iterations),
  )


def print_table(
    concept: str, classes: Sequence[str], results: Mapping[tuple[str, str], Results]
) -> None:
  """Prints a concept's table, float64 beside float32, and the times of all games below it."""
  width = max(map(len, [*classes, "games per second"]))
  columns = f"{'converged':>9}{'gap mean':>9}{'worst':>9}{'iterations':>11}{'max':>5}"
  print(f"\n{concept.upper() + ', ' + PRECISIONS[0]:{width + len(columns)}}  {PRECISIONS[1]}")
  print(f"{'':{width}}{columns}  {columns}")
  for i, name in enumerate([*classes, "all"]):
    cells = []
    for precision in PRECISIONS:
      found = results[concept, precision]
      r, row = (found.by_class, i) if i < len(classes) else (found.total, 0)
      done = f"{r.converged[row]}/{r.games[row]}"
      cells.append(
          f"{done:>9}{r.gap_mean[row]:>9.0e}{r.gap_worst[row]:>9.0e}"
          f"{r.iterations_mean[row]:>11.1f}{r.iterations_max[row]:>5}"
      )
    print(f"{name:{width}}{'  '.join(cells)}")
  for precision in PRECISIONS:
    found = results[concept, precision]
    total, timing = found.total, found.timing
    print(
        f"{precision}: {found.games_per_second:,.0f} games per second ({timing.compiled:.2f} s; the"
        f" first call took {timing.first:.1f} s); {total.repeated[0]} solved again in float64;"
        f" {total.games[0] - total.converged[0]} not converged"
    )


def write_summary(
    path: pathlib.Path,
    classes: Sequence[str],
    results: Mapping[tuple[str, str], Results],
    uniform: Mapping[str, np.ndarray],
) -> None:
  """Writes a row for each concept, precision and class, and one for all classes together.

  Args:
    path: a .csv file.
    classes: the names of the classes.
    results: by concept and precision.
    uniform: by concept, the mean gap of uniform play of each class.
  """
  with path.open("w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    writer.writerow(
        ["concept", "precision", "class", *ByClass._fields, "uniform_gap_mean",
         "seconds_first_call", "seconds_compiled", "games_per_second"]
    )
    for key, found in results.items():
      gaps = uniform[key[0]]
      for i, name in enumerate(classes):
        cells = [field[i] for field in found.by_class]
        writer.writerow([*key, name, *cells, gaps[i], "", "", ""])
      total = [field[0] for field in found.total]
      mean = np.average(gaps, weights=found.by_class.games)
      writer.writerow([*key, "all", *total, mean, *found.timing, found.games_per_second])


def solve_classes(
    classes: Mapping[str, np.ndarray],
) -> tuple[dict[tuple[str, str], Results], dict[str, np.ndarray]]:
  """Solves normalised games of all classes with both concepts and both precisions.

  Returns:
    The results by concept and precision, and by concept the mean gap of uniform play of each class.
  """
  counts = [len(payoffs) for payoffs in classes.values()]
  payoffs = np.concatenate(list(classes.values()))
  results: dict[tuple[str, str], Results] = {}
  uniform: dict[str, np.ndarray] = {}
  for concept in CONCEPTS:
    for precision in PRECISIONS:
      with working(f"{concept.upper():3} {precision}: solve {len(payoffs)} games"):
        solution, timing = solve_timed(payoffs, concept, precision)
      total = by_class(solution, [len(payoffs)])
      results[concept, precision] = Results(by_class(solution, counts), total, timing)
    gaps = np.split(uniform_gaps(payoffs, concept), np.cumsum(counts)[:-1])
    uniform[concept] = np.array([part.mean() for part in gaps])
  return results, uniform


def demonstrate(
    run: Run, *, check_stop: Callable[[], None] = lambda: None, say: Callable[[str], Any] = print
) -> Mapping[str, float]:
  """Solves the games, writes the results, and prints tables.

  Raises:
    UsageError: the file of games cannot be read.
  """
  begin = time.perf_counter()
  try:
    classes = read_classes(run.games, run.games_per_class)
  except (OSError, ValueError) as error:
    raise flags.UsageError(f"--games={run.games}: {error}") from error
  run.out.mkdir(parents=True, exist_ok=True)
  given = np.concatenate(list(classes.values()))
  np.savez_compressed(run.out / "games.npz", payoffs=given)
  shape = "x".join(map(str, given.shape[2:]))
  print(f"{len(given)} games of {len(classes)} classes, {shape}: {run.games}")
  native = nes_jax.engines()["native"]
  if native is not None:
    print(f"The native engine is not available: {native}.")
    print("The JAX engine compiles for each shape of games, which takes most of the time.")
  results, uniform = solve_classes({name: normalised(x) for name, x in classes.items()})
  check_stop()
  with working(f"{len(GAMES_2X2)} 2x2 games: six selections each in one call"):
    selected = select_2x2()
  missing = sum(int(np.isnan(x).any((-1, -2)).sum()) for game in selected for x in game)
  if missing:
    print(f"  {missing} of {6 * len(GAMES_2X2)} did not converge and are not drawn")
  with working("drawing"):
    statistics = {key: found.by_class for key, found in results.items()}
    draw_classes(run.out / "gamut.png", list(classes), statistics, uniform)
    draw_polytopes(run.out / "polytopes.png", GAMES_2X2, selected)
  write_summary(run.out / "summary.csv", list(classes), results, uniform)

  print("\nMaximum-entropy equilibria. Gap: the sum over players of the largest gain from a")
  print("deviation, in standard deviations of the payoffs. Iterations: interior-point steps.")
  for concept in CONCEPTS:
    print_table(concept, list(classes), results)
  print_files(run.out, time.perf_counter() - begin)
  return {}


def print_files(out: pathlib.Path, seconds: float) -> None:
  """Prints the files that were written, and commands to try next."""
  print(f"\nWritten in {seconds:.0f} s:")
  files = {
      "gamut.png": "gap and iterations of each class of games",
      "polytopes.png": "three 2x2 games: all their (C)CEs, and those that selections choose",
      "summary.csv": "the tables above",
      "games.npz": "the games, as nes_solve reads them",
  }
  width = max(len(str(out / name)) for name in files)
  for name, text in files.items():
    print(f"  {out / name!s:{width}}  {text}")
  print("\n" + NEXT.format(out=out))


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit code."""
  return program.main(
      argv, name="demo", doc=__doc__, define=[_SECTION],
      prepare=lambda values: flags.build(values, _SECTION), work=demonstrate,
  )


if __name__ == "__main__":
  sys.exit(main())
