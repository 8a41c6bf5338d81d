"""How fast: measured against other solvers and against the arithmetic that has to be done.

  python -m launch.benchmark --suite=exact --out=out/benchmark

Prints a table and writes SUITE.csv, SUITE.md and SUITE.json (rows, hardware, versions) into --out,
anew after every row. Columns without any value are in the files only. --quick runs small batches
once, to see that all works; its figures mean nothing.

Suite `exact`: our engine beside the solvers of others; see `launch.bench.exact`.

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

Suite `market`: env steps and updates a second; see `launch.bench.market`.

Suite `devices`: updates and stages on 1, 2, 4, 8 devices; see `launch.bench.devices`.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import csv
import dataclasses
import datetime
from importlib import metadata
import io
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
from typing import Any

from absl import app, flags
import jax
import jax.numpy as jnp

from launch.baselines import checkout, peers
from launch.bench import devices, exact, market
from launch.runtime.tables import filled, markdown, text
from launch.runtime.timing import seconds
import nes_jax
from nes_jax import network
from nes_jax import training as learner
from nes_jax.games import spheres
from nes_jax.games.files import replacing
from nes_jax.network import rounds

Row = dict[str, Any]

# Side of the float32 matrix product whose rate is the machine's, on a CPU and elsewhere.
_PRODUCT_SIDE, _LARGE_PRODUCT_SIDE = 1024, 8192
_CALLS = 5
_QUICK_GAMES = 16
# An accelerator gets so many times the games of the suite `neural`.
_ACCELERATOR_GAMES = 16


def machine_rate() -> float:
  """Floating-point operations a second of a float32 matrix product on the whole device."""
  side = _PRODUCT_SIDE if jax.default_backend() == "cpu" else _LARGE_PRODUCT_SIDE
  x = jax.random.normal(jax.random.key(0), (side, side))
  product = jax.jit(lambda x: jnp.matmul(x, x, precision=jax.lax.Precision.HIGHEST))
  times = seconds(lambda: product(x), 10)[1:]
  return 2 * side**3 / min(times)


@dataclasses.dataclass(frozen=True)
class NeuralEntry:
  """A line of the suite `neural`."""

  concept: str
  shape: tuple[int, ...]
  batch: int
  train_batch: int
  rounds: int = 0  # of descent
  newton: int = 0  # steps after them

  @property
  def size(self) -> str:
    return learner.shape_name(self.shape)

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
  flops += config.newton * 2 * gains * (3 + 2 * rounds.CONJUGATE + len(rounds.LENGTHS))
  written += config.rounds * entries * (last + 1)
  return float(flops), float(written)


def neural_row(entry: NeuralEntry, rate: float, *, quick: bool = False) -> Row:
  """Measures one entry; `rate` is `machine_rate()`."""
  batch, train_batch, calls = entry.batch, entry.train_batch, _CALLS
  if jax.default_backend() != "cpu":
    batch, train_batch = _ACCELERATOR_GAMES * batch, _ACCELERATOR_GAMES * train_batch
  if quick:
    batch, train_batch, calls = min(batch, _QUICK_GAMES), min(train_batch, _QUICK_GAMES), 1
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
    "exact": (exact.ENTRIES, exact.row),
    "neural": (NEURAL, neural_row),
    "market": (market.ENTRIES, market.row),
    "devices": (devices.ENTRIES, devices.row),
}


def chosen(suite: str, only: Sequence[str]) -> tuple[list[Any], list[str]]:
  """-> the suite's entries and the names of its smaller tables that --only asks for; none: all."""
  entries = SUITES[suite][0]
  if suite == "devices":
    entries = tuple(filter(devices.possible, entries))
  extras = exact.EXTRAS if suite == "exact" else {}
  names = [e.name for e in entries] + list(extras)
  if not set(only) <= set(names):
    unknown = [name for name in only if name not in names]
    raise ValueError(
        f"--only: {', '.join(unknown)} names no entry of suite {suite}; they are"
        f" {', '.join(names)}"
    )
  if not only:
    return list(entries), [name for name, (_, wanted) in extras.items() if wanted()]
  return [e for e in entries if e.name in only], [name for name in extras if name in only]


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
      "commit": _commit(exact.ROOT),
      "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
  }


def _versions() -> dict[str, str]:
  found = {}
  for name in ("jax", "jaxlib", "numpy", *peers.PACKAGES):
    try:
      found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      pass
  return found


def _commit(root: pathlib.Path) -> str | None:
  """The commit of a checkout, with a plus sign if files have changed since; None without git."""
  command = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--dirty=+"]
  try:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
  except OSError:
    return None
  return result.stdout.strip() or None


class Record:
  """The rows that a run has measured so far, kept in the files of its suite."""

  def __init__(self, suite: str, out: str | os.PathLike, facts: Row):
    self._path = pathlib.Path(out) / suite
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self._facts = facts
    self.rows: list[Row] = []
    self.extras: dict[str, Row] = {}

  def text(self) -> str:
    """The tables, and a note on where the figures are from."""
    tables = [markdown(filled(self.rows))] if self.rows else []
    tables += [f"{name}:\n\n{markdown(filled([row]))}" for name, row in self.extras.items()]
    return "\n\n".join([*tables, note(self._facts)])

  def write(self) -> None:
    """Replaces the files."""
    content = {"hardware": self._facts, "rows": self.rows}
    if self.extras:
      content["extras"] = self.extras
    self._replace(".md", f"{self.text()}\n")
    self._replace(".json", json.dumps(content, indent=2) + "\n")
    if self.rows:
      sheet = io.StringIO()
      writer = csv.DictWriter(sheet, list(self.rows[0]), lineterminator="\n")
      writer.writeheader()
      writer.writerows(self.rows)
      self._replace(".csv", sheet.getvalue())

  def _replace(self, suffix: str, content: str) -> None:
    with replacing(self._path.with_suffix(suffix)) as file:
      file.write(content.encode())


def note(facts: Row) -> str:
  """Where and when figures were taken, in a line."""
  place = f"{facts['cpu']}, {facts['cores']} core(s)"
  if facts["platform"] != "cpu":
    place = f"{facts['devices']} {facts['device']}; {place}"
  versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
  parts = [place, versions, facts["date"], f"load {text(facts['load_average'])}"]
  names = ("commit", "before", "float32_matmul_gflops")
  parts += [f"{name} {text(facts[name])}" for name in names if facts.get(name) is not None]
  return "; ".join(parts) + "; QUICK, not a measurement" * facts["quick"]


def run(
    suite: str,
    out: str | os.PathLike,
    *,
    only: Sequence[str] = (),
    quick: bool = False,
    before: str | None = None,
) -> list[Row]:
  """Runs a suite, prints its tables and writes SUITE.csv, .md and .json into `out`.

  Args:
    suite: one of `SUITES`.
    out: directory, made if need be.
    only: names of entries; none: all of them.
    quick: small batches, once.
    before: of suite "exact": the checkout of an older version, to measure beside this one.

  Returns:
    The rows.

  Raises:
    ValueError: an unknown entry, or an older version that cannot be measured.
  """
  entries, extras = chosen(suite, only)
  facts = hardware() | {"suite": suite, "quick": quick}
  options: dict[str, Any] = {"quick": quick}
  with contextlib.ExitStack() as stack:
    if before is not None:
      root = pathlib.Path(before).resolve()
      if suite != "exact" or not (root / "nes_jax").is_dir():
        raise ValueError(
            f"--before={before} must be a directory that holds nes_jax, and the suite exact"
        )
      facts["before"] = f"{_commit(root) or root}"
      options["before"] = stack.enter_context(checkout.Process(root))
    print(f"benchmark {suite}: {note(facts)}", flush=True)
    rate = machine_rate()
    record = Record(suite, out, facts | {"float32_matmul_gflops": rate / 1e9})
    for entry in entries:
      print(f"  {entry.name} ...", flush=True)
      record.rows.append(SUITES[suite][1](entry, rate, **options))
      record.write()
    for name in extras:
      print(f"  {name} ...", flush=True)
      record.extras[name] = exact.EXTRAS[name][0](quick)
      record.write()
  print(record.text(), flush=True)
  return record.rows


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments {argv[1:]}")
  values = flags.FLAGS
  if values.suite == "devices":
    jax.config.update("jax_num_cpu_devices", max(devices.DEVICES))
  try:
    run(
        values.suite, values.out, only=values.only, quick=values.quick, before=values.before
    )
  except (ImportError, ValueError) as error:
    raise app.UsageError(str(error)) from error


def _define_flags() -> None:
  flags.DEFINE_enum("suite", "exact", sorted(SUITES), "What to measure.")
  flags.DEFINE_string("out", "out/benchmark", "Folder for the tables.")
  flags.DEFINE_list("only", [], "Entries to run, e.g. cce:8x8,ce:4x4, or n10:256. Empty: all.")
  flags.DEFINE_bool("quick", False, "Small batches, once: does it work?")
  flags.DEFINE_string("before", None, "Checkout of an older version to measure beside this one.")


if __name__ == "__main__":
  _define_flags()
  app.run(main)
