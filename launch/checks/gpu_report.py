"""Checks and measures a machine with one NVIDIA GPU, in six minutes, and writes a report.

  python -m launch.checks.gpu_report --out=out/gpu

Needs JAX with CUDA and what the libraries need; of the extras pytest alone, and does without. The
parts run one after another, each as a process of its own. Each part has its share of --seconds; a
part that ends early leaves the rest to those after it. A part that fails, or is stopped because
its time is over, keeps none of the others from running, and what it has written by then counts.

  exact   some entries of `launch.benchmark --suite=exact`
  neural  of --suite=neural
  market  of --suite=market
  train   some updates of `launch.nes_train`, 4096 games of 8x8 each
  tests   a choice of quick tests on the GPU, with JAX_DEFAULT_MATMUL_PRECISION=highest: products of
          float32 matrices have TF32's 10 bits otherwise, and tests compare more digits

Writes into --out: report.md (hardware, parts, tests that failed, a table a suite), report.json with
the same figures, a log NAME.txt of each part, and what the programs write. Earlier results there
are removed first. Exits with 1 if a part or a test failed, with 2 where JAX has no GPU.

--quick tries the program anywhere, on small sizes; its figures mean nothing. --only=tests,exact
runs some of the parts.
"""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import datetime
from importlib import metadata
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

from absl import flags

from launch.runtime import program, tables, writers
from launch.runtime.program import UsageError

Row = Mapping[str, Any]

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECONDS = 345
_BATCH = 4096  # of `train`
# Seconds in which a part that is stopped may save what it has.
_GRACE = 5
_SOLVE = (
    "known_games", "random_games_against_scipy", "chicken_by_hand", "fields", "unequal_counts",
    "one_strategy", "order_of_the_batch", "unconverged_float32", "marked_rows_leave",
)
_TESTS = ("cuda", "dual", "metrics", "selection", "invariance", "deviation", "spheres")


@dataclasses.dataclass(frozen=True)
class Part:
  """A program that is run."""

  name: str
  seconds: float  # its share of the time
  command: Sequence[str]  # after the interpreter
  environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Result:
  """The outcome of one part of the run."""

  name: str
  command: str
  seconds: float
  code: int | None  # None: its time was over

  @property
  def outcome(self) -> str:
    return {None: "stopped: its time was over", 0: "done"}.get(self.code, f"failed ({self.code})")


def parts(out: pathlib.Path, quick: bool) -> list[Part]:
  """All parts in the order in which they run; they write into `out`."""

  def suite(name: str, seconds: float, only: str, only_quick: str) -> Part:
    flags = [f"--suite={name}", f"--only={only_quick if quick else only}", f"--out={out}"]
    return Part(name, seconds, ["-m", "launch.benchmark", *flags, *["--quick"] * quick])

  training = ["-m", "launch.nes_train", "--shapes=8x8", f"--out={out / 'train'}"]
  if quick:
    training += ["--batch=16", "--updates=4", "--report_every=2", "--eval_games=4"]
    training += ["--payoff_channels=4", "--dual_channel=4", "--dual_channels=4"]
  else:
    training += [f"--batch={_BATCH}", "--updates=400", "--report_every=100", "--eval_games=256"]
  return [
      suite("exact", 130, "cce:4x4,cce:8x8,cce:16x16,cce:64x64,ce:4x4,ce:8x8", "cce:2x2"),
      suite("neural", 50, "cce:8x8,cce:8x8:4:4,ce:8x8:6:8", "cce:4x4"),
      suite("market", 45, "n5:2048,n10:2048", "n5:32"),
      Part("train", 35, training),
      Part("tests", 85, _pytest(quick), {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}),
  ]


def _pytest(quick: bool) -> list[str]:
  """Arguments that run the tests one after another, and print a line for each."""
  command = ["-m", "pytest", "-v", "--tb=short", "--color=no", "-p", "no:cacheprovider"]
  command += ["-m", "not slow", "--continue-on-collection-errors"]
  if quick:
    return [*command, "tests/test_invariance.py", "-k", "radius or constant"]
  paths = [ROOT / "tests" / f"test_{name}.py" for name in _TESTS]
  command += [f"tests/{path.name}" for path in paths if path.exists()]
  if importlib.util.find_spec("hypothesis"):
    command += ["tests/test_solve.py", "-k", " or ".join(("not test_solve", *_SOLVE))]
  return command


def run_part(part: Part, log: pathlib.Path, limit: float, environment: Mapping[str, str]) -> Result:
  """Runs a part for at most `limit` seconds, and ends all its processes."""
  started = time.monotonic()
  with log.open("w", encoding="utf-8") as file:
    process = subprocess.Popen(
        [sys.executable, *part.command], cwd=ROOT, env={**environment, **part.environment},
        stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
    )
    try:
      code = process.wait(limit)
    except subprocess.TimeoutExpired:
      code = None
    finally:
      _end(process)
  command = " ".join(["python", *part.command])
  return Result(part.name, command, time.monotonic() - started, code)


def _end(process: subprocess.Popen) -> None:
  """Stops a process, if need be, and all that it has started."""
  for number in (signal.SIGTERM, signal.SIGKILL):
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, number)
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(_GRACE)


def tests_of(log: str) -> dict[str, list[str]]:
  """The output of pytest -v, maybe cut off -> names of tests by what became of them."""
  found: dict[str, list[str]] = {}
  ended = r"^(tests/\S+\.py(?:::.+?)?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b"
  for name, outcome in re.findall(ended, log, re.MULTILINE):
    found.setdefault(outcome.lower(), []).append(name)
  # A file that cannot be imported has no tests.
  errors = re.findall(r"^ERROR (tests/\S+)", log, re.MULTILINE)
  known = found.get("error", [])
  if errors := sorted({name for name in errors if name not in known}):
    found["error"] = known + errors
  return found


def machine() -> dict[str, Any]:
  """GPUs by the driver, versions and date; JAX is not started, as it would take a GPU's memory."""
  asked = ("name", "driver_version", "memory.total", "clocks.max.sm")
  command = ["nvidia-smi", f"--query-gpu={','.join(asked)}", "--format=csv,noheader"]
  try:
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
  except (OSError, subprocess.SubprocessError):
    lines = ""
  versions = {"python": sys.version.split()[0]}
  for name in ("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin"):
    with contextlib.suppress(metadata.PackageNotFoundError):
      versions[name] = metadata.version(name)
  return {
      "gpus": [dict(zip(asked, line.split(", "))) for line in lines.splitlines()],
      "versions": versions,
      "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
  }


def check_gpu() -> None:
  """Raises UsageError where there is no GPU, or JAX would compute without it."""
  if not machine()["gpus"]:
    raise UsageError("nvidia-smi finds no GPU here; --quick tries the program without one")
  command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
  answer = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
  if answer.stdout.strip() != "gpu":
    raise UsageError(
        f"JAX computes on {answer.stdout.strip() or 'nothing'}, not on the GPU: run this with a"
        " Python that has jax[cuda12] or jax[cuda13], such as make gpu PYTHON=..."
    )


# Tables, in the form of those in README.md: heading -> how a row of the suite fills it.

_text = tables.text


def _count(value: float) -> str:
  """Three digits, thousands set off."""
  return f"{float(f'{value:.3g}'):,.0f}" if value >= 1000 else _text(value)


def _size(row: Row) -> str:
  return f"{row['concept'].upper()} {row['size']}"


COLUMNS: Mapping[str, Mapping[str, Any]] = {
    "exact": {
        "size": _size,
        "batch": lambda row: f"{row['batch']:,}",
        "engine": lambda row: row["engine"],
        "a call, us a game": lambda row: _text(row["us_game"]),
        "in `jit`, us a game": lambda row: _text(row["jit_us"]),
        "Newton steps, mean / most": (
            lambda row: f"{row['iterations']:.1f} / {row['iterations_max']}"
        ),
        "converged": lambda row: f"{_text(row['converged_pct'])}%",
        "solved again": lambda row: str(row["repeated"]),
        "first call, ms": lambda row: _count(row["first_ms"]),
        "floor, us": lambda row: _text(row["floor_us"]),
        "call / floor": lambda row: _text(row["over_floor"]),
    },
    "neural": {
        "size": _size,
        "rounds": (
            lambda row: f"{row['rounds']}" + f", Newton {row['newton']}" * bool(row["newton"])
        ),
        "batch": lambda row: f"{row['batch']:,}",
        "a pass, us a game": lambda row: _text(row["infer_us"]),
        "floor": lambda row: _text(row["infer_floor_us"]),
        "exact engine": lambda row: _text(row["exact_us"]),
        "batch of an update": lambda row: f"{row['train_batch']:,}",
        "an update, us a game": lambda row: _text(row["train_us"]),
        "its floor": lambda row: _text(row["train_floor_us"]),
    },
    "market": {
        "merchants": lambda row: str(row["merchants"]),
        "markets at once": lambda row: f"{row['batch']:,}",
        "steps a second, random actions": lambda row: _count(row["random_s"]),
        "over dense": lambda row: _text(row["over_dense"]),
        "over NumPy": lambda row: _text(row["over_numpy"]),
        "us a step / floor": lambda row: _text(row["over_floor"]),
        "with the policy": lambda row: _count(row["policy_s"]),
        "updates a second": lambda row: _text(row["updates_s"]),
    },
    "train": {
        "updates": lambda row: f"{row['updates']:,}",
        "games an update": lambda row: f"{row['batch']:,}",
        "games a second": lambda row: "-" if row["games_s"] is None else _count(row["games_s"]),
        "solver gap after them": lambda row: _text(row["solver_gap"]),
    },
}


def table(suite: str, rows: Sequence[Row]) -> str:
  """Rows of a suite as README.md shows them."""
  columns = COLUMNS[suite]
  lines = [list(columns), ["---"] * len(columns)]
  lines += [[cell(row) for cell in columns.values()] for row in rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("| --- ", "|---")


def trained(folder: pathlib.Path, batch: int) -> list[Row]:
  """The rate and the last gap of a training, in one row; no row if it wrote no metrics."""
  rows = writers.read(folder)
  if not rows:
    return []
  rates = [row[writers.RATE] for row in rows if writers.RATE in row]
  gaps = [row["eval/solver_gap"] for row in rows if "eval/solver_gap" in row]
  return [{
      "updates": rows[-1][writers.STEP],
      "batch": batch,
      "games_s": max(rates) * batch if rates else None,
      "solver_gap": gaps[-1] if gaps else None,
  }]


def collect(out: pathlib.Path, results: Sequence[Result], quick: bool) -> dict[str, Any]:
  """Figures of all parts that have run, from the files that they have left."""
  found: dict[str, Any] = {"suites": {}, "tests": {}, "notes": {}}
  for result in results:
    if result.name == "tests":
      log = (out / "tests.txt").read_text(encoding="utf-8", errors="replace")
      found["tests"] = tests_of(log)
    elif result.name == "train":
      found["suites"]["train"] = trained(out / "train", 16 if quick else _BATCH)
    elif (path := out / f"{result.name}.json").exists():
      content = json.loads(path.read_text(encoding="utf-8"))
      found["suites"][result.name] = content["rows"]
      found["notes"][result.name] = content["hardware"]
  return found


def report(
    facts: Row, results: Sequence[Result], found: Mapping[str, Any], quick: bool
) -> str:
  """The page of the report, from the facts of `machine` and the figures of `collect`."""
  gpus = "; ".join(", ".join(gpu.values()) for gpu in facts["gpus"]) or "no GPU"
  versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
  lines = ["# Report of a machine with a GPU", "", f"{gpus}; {versions}; {facts['date']}."]
  if quick:
    lines += ["", "**QUICK: small sizes, to see that all works. The figures mean nothing.**"]
  lines += ["", "| part | seconds | outcome |", "|---|---|---|"]
  lines += [f"| {r.name} | {r.seconds:.0f} | {r.outcome} |" for r in results]
  if any(result.name == "tests" for result in results):
    counts = {name: len(names) for name, names in found["tests"].items()}
    total = ", ".join(f"{count} {name}" for name, count in counts.items()) or "none ended"
    lines += ["", "## Tests", ""]
    lines += [f"{total}; float32 matrix products at precision `highest`, not in TF32."]
    bad = [name for kind in ("failed", "error") for name in found["tests"].get(kind, ())]
    lines += [""] * bool(bad) + [f"- `{name}`" for name in bad]
  for suite, rows in found["suites"].items():
    (command,) = (result.command for result in results if result.name == suite)
    lines += ["", f"## {suite.capitalize()}", "", f"`{command}`"]
    if note := found["notes"].get(suite):
      rate = note["float32_matmul_gflops"]
      lines[-1] += (
          f" on {note['devices']} {note['device']} ({note['platform']}), {note['cpu']},"
          f" {note['cores']} cores, commit {note['commit']}; float32 matrix products"
          f" {_count(rate)} Gflop/s"
      )
    lines += ["", table(suite, rows) if rows else "Nothing was measured: see its log."]
  return "\n".join(lines) + "\n"


def measure(out: pathlib.Path, seconds: float, wanted: Sequence[Part], quick: bool) -> bool:
  """Runs parts and writes the report anew after each -> whether all is well.

  Args:
    out: directory, made if need be.
    seconds: for all parts together.
    wanted: what to run, in this order.
    quick: to be noted.
  """
  facts = machine()
  out.mkdir(parents=True, exist_ok=True)
  compiled = out / "compiled"
  _clear(out, wanted, compiled)
  environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
  environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(compiled))
  end = time.monotonic() + seconds
  results, found = [], {}
  for i, part in enumerate(wanted):
    left = max(1.0, end - time.monotonic())
    limit = left * part.seconds / sum(other.seconds for other in wanted[i:])
    print(f"gpu_report: {part.name}, for at most {limit:.0f} s ...", file=sys.stderr, flush=True)
    results.append(run_part(part, out / f"{part.name}.txt", limit, environment))
    print(f"gpu_report: {part.name}: {results[-1].outcome}", file=sys.stderr, flush=True)
    found = collect(out, results, quick)
    content = {"machine": facts, "quick": quick} | found
    content["parts"] = [dataclasses.asdict(result) for result in results]
    (out / "report.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (out / "report.md").write_text(report(facts, results, found, quick), encoding="utf-8")
  shutil.rmtree(compiled, ignore_errors=True)
  return all(result.code in (0, None) for result in results) and not (
      {"failed", "error"} & found["tests"].keys()
  )


def _clear(out: pathlib.Path, wanted: Sequence[Part], compiled: pathlib.Path) -> None:
  """Removes what an earlier run has left of these parts."""
  for folder in (out / "train", compiled):
    shutil.rmtree(folder, ignore_errors=True)
  for part in wanted:
    for kind in ("txt", "json", "md", "csv"):
      (out / f"{part.name}.{kind}").unlink(missing_ok=True)


def _define_flags(values: flags.FlagValues) -> None:
  own = {"flag_values": values}
  flags.DEFINE_string("out", "out/gpu", "directory to write to", **own)
  flags.DEFINE_integer("seconds", SECONDS, "for all parts together", **own)
  flags.DEFINE_list("only", [], "names of parts; none: all", **own)
  flags.DEFINE_bool("quick", False, "small sizes, also without a GPU: does it work?", **own)


def main(argv: Sequence[str]) -> int:
  """The program; returns its exit code."""
  try:
    values = program.parse(argv, _define_flags)
    if values.help:
      print(f"{__doc__}\n{values.get_help(include_special_flags=False)}")
      return 0
    program.at_least_one(values, "seconds")
    out = pathlib.Path(values.out).resolve()
    known = parts(out, values.quick)
    names = [part.name for part in known]
    if unknown := [name for name in values.only if name not in names]:
      raise UsageError(f"--only: unknown {unknown[0]!r}; use some of {', '.join(names)}")
    if not values.quick:
      check_gpu()
  except UsageError as error:
    print(f"gpu_report: {error}", file=sys.stderr)
    return 2
  wanted = [part for part in known if not values.only or part.name in values.only]
  well = measure(out, values.seconds, wanted, values.quick)
  print((out / "report.md").read_text(encoding="utf-8"))
  return 0 if well else 1


if __name__ == "__main__":
  sys.exit(main(sys.argv))
