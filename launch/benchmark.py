"""How fast: measured against reference solvers and against the arithmetic that has to be done.

  python -m launch.benchmark --suite=exact --out=out/benchmark

Prints a table and writes SUITE.csv, SUITE.md and SUITE.json (rows, hardware, versions) into --out.
--quick runs small batches once, to see that all works; its figures mean nothing.

Suite `exact`: maximum-entropy equilibria of uniform games on the L2 sphere, `nes_jax.solve` in
float32 with its default tolerance, beside one core of ECOS and Clarabel through a parametrised
CVXPY problem with their default tolerances, on the first games of the same batch. Columns:

  size, concept, batch        what was solved
  us_game, compile_s          ours: median call / batch; first call less a median one
  iterations, iterations_max  Newton steps a game: mean, largest
  converged_pct               games with residual within the tolerance, %
  repeated                    games of the batch that float32 left and float64 took over
  residual                    worst KKT residual
  ecos_us, ecos_failed        median of the reference, and how many of its games it did not solve
  clarabel_us, clarabel_failed
  ecos_ratio, clarabel_ratio  reference time / our time, a game
  distance                    worst half L1 distance between our joint and Clarabel's
  floor_us, over_floor        flops of the Newton steps / measured rate; our time / floor

Suite `neural`: fresh parameters, uniform games of the L2 sphere. Columns:

  size, concept               what went through
  rounds, newton              of descent, and Newton steps after them: none is the paper's network,
                              some is one like those that ship
  batch                       games of a pass
  infer_us, infer_floor_us    a pass a game, and flops / measured rate
  exact_us                    `nes_jax.solve` with the exact engine on the same games
  train_batch, train_us       an update, a game: drawing, both passes, optimiser
  games_second                of training
  train_floor_us              three passes' flops / measured rate
  activations_kb              written by a pass a game, at least

Suite `market`: env steps and updates a second; see `launch.benchmark_market`.

Suite `devices`: updates and stages on 1, 2, 4, 8 devices; see `launch.benchmark_devices`.
"""

from collections.abc import Callable, Mapping, Sequence
import csv
import dataclasses
import datetime
from importlib import metadata
import io
import itertools
import json
import math
import os
import pathlib
import platform
import statistics
from typing import Any

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np

from launch import benchmark_devices, benchmark_market
from launch.runtime import reference
from launch.runtime.timing import seconds
import nes_jax
from nes_jax import learner, network
from nes_jax.games import spheres
from nes_jax.network import descent

Row = dict[str, Any]

# Side of the float32 matrix product whose rate is the machine's.
_PRODUCT_SIDE = 1024
_CALLS = 5


@dataclasses.dataclass(frozen=True)
class Entry:
  """A line of the suite `exact`."""

  concept: str
  shape: tuple[int, ...]
  batch: int  # chosen so that the entry takes seconds
  # Games given to each reference solver; 0: too slow, or CVXPY wants 32 GiB (`reference`).
  references: int

  @property
  def size(self) -> str:
    return learner.shape_name(self.shape)

  @property
  def name(self) -> str:
    return f"{self.concept}:{self.size}"


EXACT = (
    Entry("cce", (4, 4), 4096, 20),
    Entry("cce", (8, 8), 4096, 20),
    Entry("cce", (16, 16), 2048, 10),
    Entry("cce", (32, 32), 512, 5),
    Entry("cce", (64, 64), 128, 0),
    Entry("cce", (128, 128), 32, 0),
    Entry("cce", (4, 4, 4), 2048, 20),
    Entry("ce", (4, 4), 4096, 20),
    Entry("ce", (8, 8), 1024, 20),
    Entry("ce", (16, 16), 64, 5),
    Entry("ce", (4, 4, 4), 1024, 20),
)


def newton_flops(shape: Sequence[int], concept: str) -> float:
  """Least floating-point operations of one interior-point step on one game.

  Forming the Newton matrix, its Cholesky factor, and what a predictor and a corrector take: two
  solves, and three products each with A and A' (one for the residual). Elementwise work is left
  out, and the symmetric half of a product counted once: this is a floor. With a = |A|, counts A_p,
  R_p = a / A_p:

    CCE, D x D    a A_p a player, 4 a min(A_p, A_q) a pair; two players n x n: 6 n^3 + (2n)^3 / 3
    CE,  D x D    a (A_p - 1)^2 a player, 2 a (A_p - 1) (A_q - 1) a pair
    CE,  a x a    a (A_p - 1) R_p a player; taken where it is the cheaper of the two
  """
  size, pairs = math.prod(shape), list(itertools.combinations(shape, 2))

  def step(form: float, unknowns: int, product: float) -> float:
    return form + unknowns**3 / 3 + 2 * 2 * unknowns**2 + 6 * product

  if concept == "cce":
    form = sum(size * n for n in shape) + sum(4 * size * min(pair) for pair in pairs)
    return step(form, sum(shape), 2 * size * len(shape))
  product = sum(2 * size * (n - 1) for n in shape)
  dual = sum(size * (n - 1) ** 2 for n in shape)
  dual += sum(2 * size * (n - 1) * (m - 1) for n, m in pairs)
  joint = sum(size * (n - 1) * (size // n) for n in shape)
  num_duals = sum(n * (n - 1) for n in shape)
  return min(step(dual, num_duals, product), step(joint, size, product))


def machine_rate() -> float:
  """Floating-point operations a second of a float32 matrix product on the whole device."""
  x = jax.random.normal(jax.random.key(0), (_PRODUCT_SIDE, _PRODUCT_SIDE))
  product = jax.jit(lambda x: jnp.matmul(x, x, precision=jax.lax.Precision.HIGHEST))
  times = seconds(lambda: product(x), 10)[1:]
  return 2 * _PRODUCT_SIDE**3 / min(times)


def exact_row(entry: Entry, rate: float, *, quick: bool = False) -> Row:
  """Measures one entry; `rate` is `machine_rate()`."""
  batch = min(entry.batch, 16) if quick else entry.batch
  count = min(entry.references, 2) if quick else entry.references
  payoffs = spheres.sample(jax.random.key(1), batch, entry.shape, dtype=jnp.float32)

  def solve():
    return nes_jax.solve(payoffs, concept=entry.concept, precision="float32", batched=True)

  first, *times = seconds(solve, 1 if quick else _CALLS)
  solution, median = solve(), statistics.median(times)
  ours = median / batch * 1e6
  iterations = np.asarray(solution.iterations)
  floor = newton_flops(entry.shape, entry.concept) * float(iterations.mean()) / rate * 1e6
  ecos, clarabel = (_reference(entry, payoffs[:count], name) for name in ("ECOS", "CLARABEL"))
  distance = None
  if clarabel["joints"]:
    pairs = zip(np.asarray(solution.joint), clarabel["joints"])
    distances = [0.5 * float(np.abs(a - b).sum()) for a, b in pairs]
    distance = max((d for d in distances if not math.isnan(d)), default=None)
  return {
      "size": entry.size,
      "concept": entry.concept,
      "batch": batch,
      "us_game": ours,
      "compile_s": max(first - median, 0.0),
      "iterations": float(iterations.mean()),
      "iterations_max": int(iterations.max()),
      "converged_pct": 100 * float(np.asarray(solution.converged).mean()),
      "repeated": int(np.asarray(solution.repeated).sum()),
      "residual": float(np.asarray(solution.residual).max()),
      "ecos_us": ecos["us"],
      "ecos_failed": ecos["failed"],
      "clarabel_us": clarabel["us"],
      "clarabel_failed": clarabel["failed"],
      "ecos_ratio": ecos["us"] and ecos["us"] / ours,
      "clarabel_ratio": clarabel["us"] and clarabel["us"] / ours,
      "distance": distance,
      "floor_us": floor,
      "over_floor": ours / floor,
  }


def _reference(entry: Entry, payoffs: jax.Array, solver: str) -> Mapping[str, Any]:
  """-> us, median microseconds a game; failed, "1/20"; joints. None where there is no game."""
  if not len(payoffs):
    return {"us": None, "failed": None, "joints": []}
  problem = reference.Reference(entry.shape, entry.concept, solver=solver)
  answers = [problem.solve(game) for game in np.asarray(payoffs, np.float64)]
  failed = sum(answer.status != "optimal" for answer in answers)
  return {
      "us": statistics.median(answer.seconds for answer in answers) * 1e6,
      "failed": f"{failed}/{len(answers)}",
      "joints": [answer.joint for answer in answers],
  }


@dataclasses.dataclass(frozen=True)
class NeuralEntry:
  """A line of the suite `neural`."""

  concept: str
  shape: tuple[int, ...]
  batch: int
  train_batch: int
  rounds: int = 0  # of descent
  newton: int = 0  # steps after them

  size = Entry.size

  @property
  def name(self) -> str:
    extras = [str(x) for x in (self.rounds, self.newton) if x]
    return ":".join([self.concept, self.size, *extras])

  @property
  def network(self) -> network.Config:
    return network.Config(self.concept, rounds=self.rounds, newton=self.newton)


NEURAL = (
    NeuralEntry("cce", (4, 4), 4096, 512),
    NeuralEntry("cce", (8, 8), 4096, 256),
    NeuralEntry("cce", (16, 16), 1024, 64),
    NeuralEntry("cce", (32, 32), 256, 16),
    NeuralEntry("ce", (8, 8), 4096, 128),
    NeuralEntry("cce", (8, 8), 4096, 256, rounds=4, newton=4),
    NeuralEntry("cce", (16, 16), 1024, 64, rounds=4, newton=4),
    NeuralEntry("ce", (8, 8), 4096, 128, rounds=6, newton=8),
)


def network_work(config: network.Config, shape: Sequence[int]) -> tuple[float, float]:
  """Least flops of a pass a game, and numbers written: products of full-size features only.

  Each payoff layer multiplies a player's own activations and the sum over players, of |A| entries;
  each dual layer its identity (CE: and transpose), of Ap or Ap^2 entries. A round has a dual layer
  and makes the joint, its gains and their squares, a multiplication and an addition a payoff each
  (CE: and alternative); so does a Newton step, which then has two such products for each of its
  conjugate gradients and one for each length that it tries. Pools are small.
  """
  size, n = math.prod(shape), len(shape)
  widths = (1 + len(config.inputs), *config.payoff_channels)
  flops = sum(2 * (n + 1) * size * a * b for a, b in zip(widths, widths[1:]))
  written = sum(n * size * b for b in widths[1:])
  power, copies = (1, 1) if config.concept == "cce" else (2, 2)
  entries = sum(count**power for count in shape)
  duals = (config.dual_channel, *config.dual_channels, 1)
  flops += sum(2 * copies * entries * a * b for a, b in zip(duals, duals[1:]))
  written += sum(entries * b for b in duals)
  last = config.dual_channels[-1]
  gains = sum(size * (1 if config.concept == "cce" else count) for count in shape)
  products = copies * entries * ((last + 3) * last + last)
  flops += config.rounds * 2 * (3 * gains + products)
  flops += config.newton * 2 * gains * (3 + 2 * descent.CONJUGATE + len(descent.LENGTHS))
  written += config.rounds * entries * (last + 1)
  return float(flops), float(written)


def neural_row(entry: NeuralEntry, rate: float, *, quick: bool = False) -> Row:
  """Measures one entry; `rate` is `machine_rate()`."""
  batch = min(entry.batch, 16) if quick else entry.batch
  train_batch = min(entry.train_batch, 16) if quick else entry.train_batch
  calls = 1 if quick else _CALLS
  config = learner.Config(entry.network, shapes=(entry.shape,), batches=(train_batch,))
  state = jax.jit(learner.init, static_argnums=1)(jax.random.key(0), config)
  payoffs = spheres.sample(jax.random.key(1), batch, entry.shape, dtype=jnp.float32)
  chosen = nes_jax.Selection()
  problem = jax.jit(jax.vmap(lambda game: nes_jax.selection.problem(game, chosen)[0]))(payoffs)
  entries = network.CPU_ENTRIES if jax.default_backend() == "cpu" else None
  infer = jax.jit(lambda variables, x: network.infer(variables, config.network, x, entries=entries))
  update = jax.jit(learner.update, static_argnums=2)
  key = jax.random.key(2)
  median = lambda function: statistics.median(seconds(function, calls)[1:])
  variables = learner.inference(state.params, config, entry.shape)
  passing = median(lambda: infer(variables, problem)) / batch * 1e6
  training = median(lambda: update(state, key, config)) / train_batch * 1e6
  exactly = median(
      lambda: nes_jax.solve(payoffs, concept=entry.concept, precision="float32", batched=True)
  )
  flops, written = network_work(config.network, entry.shape)
  # Training goes without Newton steps.
  trained, _ = network_work(dataclasses.replace(config.network, newton=0), entry.shape)
  return {
      "size": entry.size,
      "concept": entry.concept,
      "rounds": entry.rounds,
      "newton": entry.newton,
      "batch": batch,
      "infer_us": passing,
      "infer_floor_us": flops / rate * 1e6,
      "exact_us": exactly / batch * 1e6,
      "train_batch": train_batch,
      "train_us": training,
      "games_second": 1e6 / training,
      "train_floor_us": 3 * trained / rate * 1e6,
      "activations_kb": written * 4 / 1e3,
  }


# name -> its entries, and what measures one at the machine's rate.
SUITES: Mapping[str, tuple[Sequence[Any], Callable[..., Row]]] = {
    "exact": (EXACT, exact_row),
    "neural": (NEURAL, neural_row),
    "market": (benchmark_market.ENTRIES, benchmark_market.row),
    "devices": (benchmark_devices.ENTRIES, benchmark_devices.row),
}


def measure(suite: str, only: Sequence[str], quick: bool) -> tuple[list[Row], Row]:
  """-> rows of a suite, and facts to note beside them."""
  known, row = SUITES[suite]
  if suite == "devices":
    known = tuple(filter(benchmark_devices.possible, known))
  entries = [e for e in known if not only or e.name in only]
  if not entries:
    listing = ", ".join(e.name for e in known)
    raise ValueError(
        f"--only={','.join(only)} names no entry of suite {suite}; they are {listing}"
    )
  rate = machine_rate()
  rows = []
  for entry in entries:
    print(f"  {entry.name} ...", flush=True)
    rows.append(row(entry, rate, quick=quick))
  return rows, {"float32_matmul_gflops": rate / 1e9}


def hardware() -> Row:
  """What it ran on, with versions and date."""
  device = jax.devices()[0]
  names = []
  cpuinfo = pathlib.Path("/proc/cpuinfo")
  if cpuinfo.exists():
    lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
  affinity = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
  return {
      "cpu": names[0] if names else platform.processor() or platform.machine(),
      "cores": len(affinity(0)),
      "platform": device.platform,
      "device": device.device_kind,
      "devices": jax.device_count(),
      "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
      "versions": {"python": platform.python_version()} | _versions(),
      "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
  }


def _versions() -> dict[str, str]:
  found = {}
  for name in ("jax", "jaxlib", "numpy", "cvxpy", "ecos", "clarabel"):
    try:
      found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      pass
  return found


def text(value: Any) -> str:
  """A cell: three significant digits, "-" for what was not measured."""
  if value is None:
    return "-"
  if isinstance(value, float):
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
  return str(value)


def markdown(rows: Sequence[Row]) -> str:
  """Rows with the same keys -> a Markdown table whose columns also line up in a terminal."""
  table = [list(rows[0])] + [[text(value) for value in row.values()] for row in rows]
  widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
  lines = ["| " + " | ".join(c.rjust(w) for c, w in zip(line, widths)) + " |" for line in table]
  lines.insert(1, "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|")
  return "\n".join(lines)


def run(suite: str, out: str, *, only: Sequence[str] = (), quick: bool = False) -> list[Row]:
  """Runs a suite, prints its table and writes SUITE.csv, .md and .json into `out`."""
  folder = pathlib.Path(out)
  folder.mkdir(parents=True, exist_ok=True)
  facts = hardware()
  versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
  place = f"{facts['cpu']}, {facts['cores']} core(s)"
  if facts["platform"] != "cpu":
    place = f"{facts['devices']} {facts['device']}; {place}"
  print(f"benchmark {suite}: {place}; {versions}; load {text(facts['load_average'])}", flush=True)
  rows, more = measure(suite, only, quick)
  facts |= more | {"suite": suite, "quick": quick}
  table = markdown(rows)
  notes = "; ".join(f"{name} {text(value)}" for name, value in more.items())
  note = f"{place}; {versions}; {facts['date']}; {notes}{'; QUICK, not a measurement' * quick}"
  print(f"{table}\n\n{note}", flush=True)
  (folder / f"{suite}.md").write_text(f"{table}\n\n{note}\n", encoding="utf-8")
  sheet = io.StringIO()
  writer = csv.DictWriter(sheet, list(rows[0]), lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  (folder / f"{suite}.csv").write_text(sheet.getvalue(), encoding="utf-8")
  record = json.dumps({"hardware": facts, "rows": rows}, indent=2)
  (folder / f"{suite}.json").write_text(record + "\n", encoding="utf-8")
  return rows


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments {argv[1:]}")
  values = flags.FLAGS
  if values.suite == "devices":
    jax.config.update("jax_num_cpu_devices", max(benchmark_devices.DEVICES))
  try:
    run(values.suite, values.out, only=values.only, quick=values.quick)
  except (ImportError, ValueError) as error:
    raise app.UsageError(str(error)) from error


def _define_flags() -> None:
  flags.DEFINE_enum("suite", "exact", sorted(SUITES), "What to measure.")
  flags.DEFINE_string("out", "out/benchmark", "Folder for the tables.")
  flags.DEFINE_list("only", [], "Entries to run, e.g. cce:8x8,ce:4x4, or n10:256. Empty: all.")
  flags.DEFINE_bool("quick", False, "Small batches, once: does it work?")


if __name__ == "__main__":
  _define_flags()
  app.run(main)
