"""The first thing to run: solves games of 22 kinds and draws the answers. About a minute.

  python -m launch.demo --out=out/demo

Writes gamut.png (how well and in how many steps), polytopes.png (what is being selected),
summary.csv and games.npz.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import csv
import functools
import os
import pathlib
import platform
import threading
import time
from typing import NamedTuple

from absl import app, flags, logging
import jax
import matplotlib
import numpy as np

from launch.figures import games as figures
from launch.figures import polytopes
import nes_jax

_GAMES = pathlib.Path(__file__).resolve().parents[1] / "tests" / "data" / "gamut_8x8.npz"
CONCEPTS = ("cce", "ce")
PRECISIONS = ("float64", "float32")

GAMES_2X2 = (
    polytopes.Game(
        "Chicken",
        (("dare", "yield"), ("dare", "yield")),
        np.array([[[0.0, 7], [2, 6]], [[0, 2], [7, 6]]]),
        elevation=38,
    ),
    polytopes.Game(
        "Battle of the sexes",
        (("opera", "boxing"), ("opera", "boxing")),
        np.array([[[3.0, 0], [0, 2]], [[2, 0], [0, 3]]]),
        azimuth=-25,
        elevation=30,
    ),
    # Selten (1978): the polytope is a triangle, for fighting an entrant is never rational.
    polytopes.Game(
        "Chain store",
        (("enter", "stay out"), ("share", "fight")),
        np.array([[[2.0, 0], [1, 1]], [[2, 0], [5, 5]]]),
    ),
)

NEXT = """\
Next
  python -m launch.nes_solve --games={out}/games.npz --concept=ce --selection=max_welfare \\
      --method=exact --out={out}/solved.npz
or, in Python,
  import numpy as np
  import nes_jax

  # Chicken: payoffs[p, a1, a2] is what player p gets; strategies are (dare, yield).
  payoffs = np.array([[[0.0, 7.0], [2.0, 6.0]], [[0.0, 2.0], [7.0, 6.0]]])
  sol = nes_jax.solve(payoffs, concept="cce", selection="max_entropy")
  print(sol.joint)      # probability of each joint strategy
  print(sol.gap)        # what the players can still gain by deviating, in payoff units
  print(sol.converged)  # and sol.residual: the certificate
  sols = nes_jax.solve(np.random.default_rng(0).normal(size=(1000, 3, 4, 3, 2)))  # 1000 at once"""


class Timing(NamedTuple):
  """Seconds of one batched call."""

  first: float  # the first call, with compilation
  compiled: float  # the same without


def start_line() -> str:
  devices = ", ".join(sorted({device.device_kind for device in jax.devices()}))
  return (
      f"demo: python {platform.python_version()}, jax {jax.__version__}, numpy {np.__version__},"
      f" matplotlib {matplotlib.__version__}; {jax.default_backend()}, {jax.device_count()}"
      f" device(s) ({devices}), {jax.process_count()} host(s), {os.cpu_count()} cores"
  )


@contextlib.contextmanager
def working(text: str) -> Iterator[None]:
  """Prints what is being done, a dot every two seconds while it lasts, and how long it took."""
  done, start = threading.Event(), time.perf_counter()

  def dots():
    while not done.wait(2):
      print(".", end="", flush=True)

  print(f"{text} ..", end="", flush=True)
  thread = threading.Thread(target=dots, daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
    print(f" {time.perf_counter() - start:.1f} s", flush=True)


@functools.cache
def _compile_seconds() -> list[float]:
  """Grows by one entry for each thing that JAX traces, lowers or compiles from now on."""
  seconds: list[float] = []

  def listen(event: str, duration: float, **_):
    if event.startswith("/jax/core/compile/"):
      seconds.append(duration)

  jax.monitoring.register_event_duration_secs_listener(listen)
  return seconds


def read_classes(path: str, per_class: int | None) -> dict[str, np.ndarray]:
  """-> name: payoffs [games, N, A1, ..., AN], all of one shape but for the number of games."""
  with np.load(path) as data:
    classes = {name: data[name][:per_class] for name in data.files}
  shapes = {payoffs.shape[1:] for payoffs in classes.values()}
  if len(shapes) != 1 or any(len(shape) != shape[0] + 1 for shape in shapes):
    raise ValueError(
        f"{path} must hold one array [games, N, A1, ..., AN] a class, with the same N, A1, ..., AN;"
        f" it holds {({name: list(x.shape) for name, x in classes.items()})}"
    )
  return classes


def normalised(payoffs: np.ndarray) -> np.ndarray:
  """`invariance.normalise` in float64: zero mean, unit variance a player. [B, N, A1, ..., AN]."""
  axes = tuple(range(2, payoffs.ndim))
  centred = payoffs - payoffs.mean(axes, keepdims=True, dtype=np.float64)
  spread = centred.std(axes, keepdims=True)
  return np.where(spread > 0, centred / np.where(spread > 0, spread, 1), 0)


def solve_timed(
    payoffs: np.ndarray, concept: str, precision: str
) -> tuple[nes_jax.Solution, Timing]:
  """Maximum entropy, all games in one call."""

  def call():
    start = time.perf_counter()
    solution = nes_jax.solve(payoffs, concept=concept, precision=precision, batched=True)
    return jax.tree.map(np.asarray, solution), time.perf_counter() - start

  spent = _compile_seconds()
  before = sum(spent)
  solution, first = call()
  compiled = first - (sum(spent) - before)
  if compiled < 2:  # too little to be told by a difference
    solution, compiled = call()
  return solution, Timing(first, compiled)


def by_class(solution: nes_jax.Solution, counts: list[int]) -> figures.ByClass:
  """Splits a batch into classes of `counts` games."""
  ends = np.cumsum(counts)[:-1]

  def reduce(function, values):
    return np.array([function(part) for part in np.split(values, ends)])

  return figures.ByClass(
      games=np.array(counts),
      converged=reduce(np.sum, solution.converged),
      repeated=reduce(np.sum, solution.repeated),
      gap_mean=reduce(np.mean, solution.gap.astype(np.float64)),
      gap_worst=reduce(np.max, solution.gap),
      iterations_mean=reduce(np.mean, solution.iterations),
      iterations_max=reduce(np.max, solution.iterations),
  )


def uniform_gaps(payoffs: np.ndarray, concept: str) -> np.ndarray:
  """The gap of uniform play, in NumPy's float64. [B, N, A1, ..., AN] -> [B]."""
  total = np.zeros(len(payoffs))
  for p, count in enumerate(payoffs.shape[2:]):
    others = tuple(1 + q for q in range(payoffs.ndim - 2) if q != p)
    value = payoffs[:, p].mean(others)  # [B, Ap] of each strategy, against uniform play
    worst = value.mean(1) if concept == "cce" else value.min(1)
    total += (value.max(1) - worst) / (1 if concept == "cce" else count)
  return total


def print_table(
    concept: str,
    classes: Sequence[str],
    results: Mapping[tuple[str, str], figures.ByClass],
    totals: Mapping[tuple[str, str], figures.ByClass],
    timings: Mapping[tuple[str, str], Timing],
) -> None:
  """One concept, float64 beside float32, and under it what all games took."""
  width = max(map(len, [*classes, "games per second"]))
  columns = f"{'converged':>9}{'gap mean':>9}{'worst':>9}{'iterations':>11}{'max':>5}"
  print(f"\n{concept.upper() + ', ' + PRECISIONS[0]:{width + len(columns)}}  {PRECISIONS[1]}")
  print(f"{'':{width}}{columns}  {columns}")
  rows = [(name, results, i) for i, name in enumerate(classes)] + [("all", totals, 0)]
  for name, source, i in rows:
    cells = []
    for precision in PRECISIONS:
      r = source[concept, precision]
      done = f"{r.converged[i]}/{r.games[i]}"
      cells.append(
          f"{done:>9}{r.gap_mean[i]:>9.0e}{r.gap_worst[i]:>9.0e}{r.iterations_mean[i]:>11.1f}"
          f"{r.iterations_max[i]:>5}"
      )
    print(f"{name:{width}}{'  '.join(cells)}")
  for precision in PRECISIONS:
    timing, total = timings[concept, precision], totals[concept, precision]
    rate = total.games[0] / timing.compiled
    print(
        f"{precision}: {rate:,.0f} games per second ({timing.compiled:.2f} s; the first call took"
        f" {timing.first:.1f} s); {total.repeated[0]} solved again in float64;"
        f" {total.games[0] - total.converged[0]} not converged"
    )


def write_summary(path: str, classes, results, totals, timings, uniform) -> None:
  """summary.csv: a line for each concept, precision and class, and one for all classes."""
  with open(path, "w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    writer.writerow(
        ["concept", "precision", "class", *figures.ByClass._fields, "uniform_gap_mean",
         "seconds_first_call", "seconds_compiled", "games_per_second"]
    )
    for key, result in results.items():
      for i, name in enumerate(classes):
        cells = [field[i] for field in result]
        writer.writerow([*key, name, *cells, uniform[key[0]][i], "", "", ""])
      total, timing = [field[0] for field in totals[key]], timings[key]
      mean = np.average(uniform[key[0]], weights=result.games)
      rate = total[0] / timing.compiled
      writer.writerow([*key, "all", *total, mean, timing.first, timing.compiled, rate])


def select_2x2(games: Sequence[polytopes.Game] = GAMES_2X2) -> list[polytopes.Selected]:
  """Six equilibria of each game in one call: a selection is data, and a batch can mix them.

  Joints that did not converge come back as NaN, and are not drawn.
  """
  payoffs = np.stack([game.payoffs for game in games])  # [G, 2, 2, 2]
  uniform, pure = np.full((2, 2), 0.25), np.eye(4).reshape(4, 2, 2)
  target = np.stack([uniform, uniform, *pure])  # [6, 2, 2]: max entropy, max welfare, four targets
  weight = np.array([0, nes_jax.selection.LARGE_WELFARE_WEIGHT, 0, 0, 0, 0])  # [6]
  repeated = np.repeat(payoffs, 6, axis=0)  # [6 G, 2, 2, 2]
  selection = nes_jax.Selection(
      target=np.tile(target, (len(games), 1, 1)),
      welfare=repeated.sum(1),
      welfare_weight=np.tile(weight, len(games)),
  )
  solution = nes_jax.solve(repeated, selection=selection, precision="float64", batched=True)
  joints = np.where(np.asarray(solution.converged)[:, None, None], solution.joint, np.nan)
  joints = joints.reshape(len(games), 6, 2, 2)
  return [polytopes.Selected(joint[0], joint[1], joint[2:]) for joint in joints]


def run(games: str, out: str, per_class: int | None = None) -> None:
  begin = time.perf_counter()
  print(start_line())
  os.makedirs(out, exist_ok=True)
  classes = read_classes(games, per_class)
  names, counts = list(classes), [len(x) for x in classes.values()]
  given = np.concatenate(list(classes.values()))
  np.savez_compressed(os.path.join(out, "games.npz"), payoffs=given)
  payoffs = normalised(given)
  shape = "x".join(map(str, payoffs.shape[2:]))
  print(f"{len(payoffs)} games of {len(names)} classes, {shape}: {games}")
  native = nes_jax.engines()["native"]
  if native is not None:
    print(f"The native engine does not serve: {native}.")
    print("The JAX engine compiles for each shape of games, which takes most of the time.")

  results, totals, timings, uniform = {}, {}, {}, {}
  for concept in CONCEPTS:
    for precision in PRECISIONS:
      key = concept, precision
      with working(f"{concept.upper():3} {precision}: solve {len(payoffs)} games"):
        solution, timings[key] = solve_timed(payoffs, concept, precision)
      results[key], totals[key] = by_class(solution, counts), by_class(solution, [len(payoffs)])
    gaps = np.split(uniform_gaps(payoffs, concept), np.cumsum(counts)[:-1])
    uniform[concept] = np.array([part.mean() for part in gaps])
  with working(f"{len(GAMES_2X2)} 2x2 games: six selections each in one call"):
    selected = select_2x2()
  missing = sum(int(np.isnan(x).any((-1, -2)).sum()) for game in selected for x in game)
  if missing:
    print(f"  {missing} of {6 * len(GAMES_2X2)} did not converge and are not drawn")
  with working("drawing"):
    figures.draw_classes(os.path.join(out, "gamut.png"), names, results, uniform)
    picture = os.path.join(out, "polytopes.png")
    polytopes.draw_polytopes(picture, GAMES_2X2, selected)
  write_summary(os.path.join(out, "summary.csv"), names, results, totals, timings, uniform)

  print("\nMaximum-entropy equilibria. Gap: what players can still gain by deviating, summed")
  print("over players, in standard deviations of their payoffs. Iterations: interior-point steps.")
  for concept in CONCEPTS:
    print_table(concept, names, results, totals, timings)
  print(f"\nWritten in {time.perf_counter() - begin:.0f} s:")
  for name, what in (
      ("gamut.png", "gap and iterations by class of games"),
      ("polytopes.png", "three 2x2 games: all their (C)CE, and those that selections pick"),
      ("summary.csv", "the tables above"),
      ("games.npz", "the games, as nes_solve reads them"),
  ):
    print(f"  {os.path.join(out, name):32} {what}")
  print("\n" + NEXT.format(out=out))


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments {argv[1:]}; see python -m launch.demo --help")
  logging.set_verbosity(logging.WARNING)  # JAX says at INFO which plugins it did not find
  values = flags.FLAGS
  run(values.games, values.out, values.games_per_class)


def _define_flags() -> None:
  flags.DEFINE_string("out", "out/demo", "Directory to write to.")
  flags.DEFINE_string(
      "games", str(_GAMES), ".npz file with one array [games, N, A1, ..., AN] for each class."
  )
  flags.DEFINE_integer(
      "games_per_class", None, "Take only the first games of each class.", lower_bound=1
  )


if __name__ == "__main__":
  _define_flags()
  app.run(main)
