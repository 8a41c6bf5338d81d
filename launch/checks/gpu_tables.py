"""Tables of `launch.checks.gpu_report`, from the files that its parts write."""

from collections.abc import Callable, Mapping, Sequence
import pathlib
import re
from typing import Any

from launch.runtime import writers
from launch.runtime.tables import text

Row = Mapping[str, Any]


def count(value: float) -> str:
  """A number with three digits, with commas between thousands."""
  return f"{float(f'{value:.3g}'):,.0f}" if value >= 1000 else text(value)


def _size(row: Row) -> str:
  return f"{row['concept'].upper()} {row['size']}"


def _rounds(row: Row) -> str:
  return f"{row['rounds']}" + f", Newton {row['newton']}" * bool(row["newton"])


def _whole(name: str) -> Callable[[Row], str]:
  """A cell with a whole number, with commas between thousands."""
  return lambda row: f"{row[name]:,}"


def _number(name: str) -> Callable[[Row], str]:
  return lambda row: text(row[name])


def _count(name: str) -> Callable[[Row], str]:
  return lambda row: "-" if row[name] is None else count(row[name])


# For each suite the columns of its table: heading -> function that makes a cell from a row.
COLUMNS: Mapping[str, Mapping[str, Callable[[Row], str]]] = {
    "exact": {
        "size": _size,
        "batch": _whole("batch"),
        "engine": _number("engine"),
        "a call, us a game": _number("us_game"),
        "in `jit`, us a game": _number("jit_us"),
        "Newton steps, mean / most": (
            lambda row: f"{row['iterations']:.1f} / {row['iterations_max']}"
        ),
        "converged": lambda row: f"{text(row['converged_pct'])}%",
        "solved again": _number("repeated"),
        "first call, ms": _count("first_ms"),
        "floor, us": _number("floor_us"),
        "call / floor": _number("over_floor"),
    },
    "neural": {
        "size": _size,
        "parameters": _whole("parameters"),
        "rounds": _rounds,
        "batch": _whole("batch"),
        "a pass, us a game": _number("infer_us"),
        "floor": _number("infer_floor_us"),
        "exact engine": _number("exact_us"),
        "batch of an update": _whole("train_batch"),
        "an update, us a game": _number("train_us"),
        "its floor": _number("train_floor_us"),
    },
    "market": {
        "merchants": _number("merchants"),
        "markets at once": _whole("batch"),
        "steps a second, random actions": _count("random_s"),
        "over dense": _number("over_dense"),
        "over NumPy": _number("over_numpy"),
        "us a step / floor": _number("over_floor"),
        "with the policy": _count("policy_s"),
        "updates a second": _number("updates_s"),
    },
    "train": {
        "updates": _whole("updates"),
        "games an update": _whole("batch"),
        "games a second": _count("games_s"),
        "solver gap after them": _number("solver_gap"),
    },
}


def table(suite: str, rows: Sequence[Row]) -> str:
  """The rows of a suite as a Markdown table."""
  columns = COLUMNS[suite]
  lines = [list(columns), ["---"] * len(columns)]
  lines += [[cell(row) for cell in columns.values()] for row in rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("| --- ", "|---")


def trained(folder: pathlib.Path, batch: int) -> list[Row]:
  """The row of a training: its best rate and its last gap. There is none if it wrote no metrics.

  Args:
    folder: the directory of the run.
    batch: the number of games of an update.
  """
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


def tests_of(log: str) -> dict[str, list[str]]:
  """The names of tests by outcome, from the output of pytest -v, which may be cut off."""
  found: dict[str, list[str]] = {}
  ended = r"^(tests/\S+\.py(?:::.+?)?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b"
  for name, outcome in re.findall(ended, log, re.MULTILINE):
    found.setdefault(outcome.lower(), []).append(name)
  # A file that cannot be imported has no tests, but a line of its own.
  errors = re.findall(r"^ERROR (tests/\S+)", log, re.MULTILINE)
  known = found.get("error", [])
  if errors := sorted({name for name in errors if name not in known}):
    found["error"] = known + errors
  return found
