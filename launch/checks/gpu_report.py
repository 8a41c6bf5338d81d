"""Tests and measures a machine with an NVIDIA GPU in six minutes, and writes a report.

  python -m launch.checks.gpu_report --out=out/gpu

The program needs JAX with CUDA and the packages of the libraries. Of the extras it uses pytest
alone, and only if it is there. Its parts run one after another, each as a process of its own:

  exact   some entries of `launch.benchmark --suite=exact`
  neural  some entries of `launch.benchmark --suite=neural`
  market  some entries of `launch.benchmark --suite=market`
  train   some updates of `launch.nes_train` with 4096 games of 8x8 each
  tests   quick tests on the GPU, with JAX_DEFAULT_MATMUL_PRECISION=highest, since float32 matrix
          products have the 10 bits of TF32 otherwise, and tests compare more digits

Each part has its share of --seconds. A part that ends early leaves its time to the parts after it.
A part that fails, or is stopped because its time is over, does not keep the others from running,
and the results that it has written count.

Writes into --out: report.md (machine, parts, tests that failed, a table for each suite),
report.json with the same results, a log NAME.txt of each part, and the files that the parts write.
Earlier results there are removed first. The exit code is 1 if a part or a test failed, and 2 if JAX
has no GPU.

--quick tries the program on any machine with small sizes; its figures mean nothing.
--only=tests,exact runs some of the parts.
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
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

from launch.checks.gpu_tables import Row, count, table, tests_of, trained
from launch.runtime import flags, program
from launch.runtime.flags import UsageError
from launch.runtime.machine import ROOT

# Number of games of an update of the part train.
_BATCH = 4096
# Seconds that a part has to save its results after it is told to stop.
_GRACE = 5
# Parts of the names of those tests of test_solve.py that run.
_SOLVE = (
    "known_games", "random_games_against_scipy", "chicken_by_hand", "fields", "unequal_counts",
    "one_strategy", "order_of_the_batch", "unconverged_float32", "marked_rows_leave",
)
# Names of the other files of tests.
_TESTS = (
    "cuda", "cuda_calls", "dual", "metrics", "selection", "invariance", "deviation", "spheres",
)


@dataclasses.dataclass(frozen=True)
class Part:
  """A program that runs as a part of the report."""

  name: str
  seconds: float  # share of the time
  command: Sequence[str]  # arguments of the interpreter
  environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Result:
  """The outcome of a part."""

  name: str
  command: str
  seconds: float
  code: int | None  # exit code; None if the part was stopped because its time was over

  @property
  def outcome(self) -> str:
    """The outcome in words."""
    return {None: "stopped: its time was over", 0: "done"}.get(self.code, f"failed ({self.code})")


def parts(out: pathlib.Path, quick: bool) -> list[Part]:
  """All parts in the order in which they run, with results in the directory `out`."""

  def suite(name: str, seconds: float, only: str, only_quick: str) -> Part:
    options = [f"--suite={name}", f"--only={only_quick if quick else only}", f"--out={out}"]
    return Part(name, seconds, ["-m", "launch.benchmark", *options, *["--quick"] * quick])

  training = ["-m", "launch.nes_train", "--shapes=8x8", f"--out={out / 'train'}"]
  if quick:
    training += ["--batch=16", "--updates=4", "--report_every=2", "--eval_games=4"]
    training += ["--payoff_channels=4", "--dual_channel=4", "--dual_channels=4"]
  else:
    training += [f"--batch={_BATCH}", "--updates=400", "--report_every=100", "--eval_games=256"]
  return [
      suite("exact", 130, "cce:4x4,cce:8x8,cce:16x16,cce:64x64,ce:4x4,ce:8x8", "cce:2x2"),
      suite("neural", 50, "cce:8x8,cce:8x8:small,ce:8x8:small", "cce:4x4"),
      suite("market", 45, "n5:2048,n10:2048", "n5:32"),
      Part("train", 35, training),
      Part("tests", 85, _pytest(quick), {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}),
  ]


def _pytest(quick: bool) -> list[str]:
  """Arguments of the interpreter that run the tests and print a line for each."""
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
  """Runs a part for at most `limit` seconds, and ends all its processes.

  Args:
    part: the part.
    log: the file for its output.
    limit: seconds.
    environment: the environment variables, to which the part adds its own.
  """
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
  """Stops the group of a process that leads it."""
  for number in (signal.SIGTERM, signal.SIGKILL):
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, number)
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(_GRACE)


def machine() -> dict[str, Any]:
  """The GPUs that the driver knows, versions, and the date.

  JAX is not started, since it would take the memory of the GPU.
  """
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
  """Checks that there is a GPU, and that JAX computes on it.

  Raises:
    UsageError: it is not so.
  """
  if not machine()["gpus"]:
    raise UsageError("nvidia-smi finds no GPU here; --quick tries the program without one")
  command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
  answer = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
  if answer.stdout.strip() != "gpu":
    raise UsageError(
        f"JAX computes on {answer.stdout.strip() or 'nothing'}, not on the GPU: run this with a"
        " Python that has jax[cuda12] or jax[cuda13], such as make gpu PYTHON=..."
    )


def collect(out: pathlib.Path, results: Sequence[Result], quick: bool) -> dict[str, Any]:
  """The results of all parts that have run, from the files that they have written.

  Args:
    out: the directory of the files.
    results: the outcomes of the parts.
    quick: whether sizes are small.

  Returns:
    "suites", the rows by suite; "tests", the names of tests by outcome; "notes", the machine by
    suite.
  """
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
  """The page of the report.

  Args:
    facts: the facts of `machine`.
    results: the outcomes of the parts.
    found: the results of `collect`.
    quick: whether sizes are small.
  """
  gpus = "; ".join(", ".join(gpu.values()) for gpu in facts["gpus"]) or "no GPU"
  versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
  lines = ["# Report of a machine with a GPU", "", f"{gpus}; {versions}; {facts['date']}."]
  if quick:
    lines += ["", "**QUICK: small sizes, to see that all works. The figures mean nothing.**"]
  lines += ["", "| part | seconds | outcome |", "|---|---|---|"]
  lines += [f"| {r.name} | {r.seconds:.0f} | {r.outcome} |" for r in results]
  if any(result.name == "tests" for result in results):
    lines += _tests_section(found["tests"])
  for suite, rows in found["suites"].items():
    (command,) = (result.command for result in results if result.name == suite)
    lines += ["", f"## {suite.capitalize()}", "", f"`{command}`{_place(found['notes'].get(suite))}"]
    lines += ["", table(suite, rows) if rows else "Nothing was measured: see its log."]
  return "\n".join(lines) + "\n"


def _tests_section(tests: Mapping[str, Sequence[str]]) -> list[str]:
  """The lines on the tests: numbers by outcome, and the names of those that failed."""
  total = ", ".join(f"{len(names)} {outcome}" for outcome, names in tests.items()) or "none ended"
  lines = ["", "## Tests", ""]
  lines += [f"{total}; float32 matrix products at precision `highest`, not in TF32."]
  bad = [name for kind in ("failed", "error") for name in tests.get(kind, ())]
  return lines + [""] * bool(bad) + [f"- `{name}`" for name in bad]


def _place(facts: Row | None) -> str:
  """The machine of a suite, as the end of a line."""
  if not facts:
    return ""
  return (
      f" on {facts['devices']} {facts['device']} ({facts['platform']}), {facts['cpu']},"
      f" {facts['cores']} cores, commit {facts['commit']}; float32 matrix products"
      f" {count(facts['float32_matmul_gflops'])} Gflop/s"
  )


def measure(out: pathlib.Path, seconds: float, wanted: Sequence[Part], quick: bool) -> bool:
  """Runs parts, and writes the report after each of them.

  Args:
    out: the directory of the results. It is created if it does not exist.
    seconds: the time of all parts together.
    wanted: the parts, in the order in which they run.
    quick: whether sizes are small.

  Returns:
    Whether no part and no test failed.
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
  """Removes the results that an earlier run has left of these parts."""
  for folder in (out / "train", compiled):
    shutil.rmtree(folder, ignore_errors=True)
  for part in wanted:
    for kind in ("txt", "json", "md", "csv"):
      (out / f"{part.name}.{kind}").unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class Run:
  """A run of this program."""

  out: pathlib.Path = dataclasses.field(
      default=pathlib.Path("out/gpu"),
      metadata={"help": "Directory of the report.", "metavar": "DIRECTORY"},
  )
  seconds: int = dataclasses.field(
      default=345, metadata={"help": "Seconds for all parts together."}
  )
  only: tuple[str, ...] = dataclasses.field(
      default=(),
      metadata={
          "help": "Parts to run. Without this flag all run.",
          "choices": ("exact", "neural", "market", "train", "tests"),
      },
  )
  quick: bool = dataclasses.field(
      default=False,
      metadata={"help": "Try the program with small sizes, also on a machine without a GPU."},
  )

  def __post_init__(self):
    flags.at_least_one(self, "seconds")


_SECTION = flags.Section("The report", Run)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit code.

  Unlike other programs it does not start JAX, which would take the memory of the GPU from its
  parts.
  """
  try:
    values = program.parse(sys.argv if argv is None else argv, [_SECTION])
    if values.help:
      print(f"{__doc__}\n{flags.help_text(values)}")
      return 0
    run = flags.build(values, _SECTION)
    if not run.quick:
      check_gpu()
  except UsageError as error:
    print(f"gpu_report: {error}", file=sys.stderr)
    return 2
  out = run.out.resolve()
  wanted = [part for part in parts(out, run.quick) if not run.only or part.name in run.only]
  well = measure(out, run.seconds, wanted, run.quick)
  print((out / "report.md").read_text(encoding="utf-8"))
  return 0 if well else 1


if __name__ == "__main__":
  sys.exit(main())
