"""Reader of tables of scores in CSV files."""

import csv
import pathlib
import re
from typing import NamedTuple

import numpy as np

from launch.runtime.flags import UsageError

# A score, and what may follow it: a standard error.
_CELL = re.compile(r"^\s*([^±\s]+?)\s*(?:(?:±|\+/?-)\s*(\S+))?\s*$")


class Scores(NamedTuple):
  """Scores of agents on tasks."""

  agents: tuple[str, ...]
  tasks: tuple[str, ...]
  mean: np.ndarray  # [agents, tasks]
  error: np.ndarray | None  # [agents, tasks] standard errors; None if the file has none


def read(path: pathlib.Path) -> Scores:
  """Reads a table whose first row names the tasks and whose first column names the agents.

  A cell is a number, or a number and its standard error: 12.5, 12.5±0.3, 12.5+-0.3 or 12.5+/-0.3. A
  score without a standard error counts as exact.

  Raises:
    UsageError: the file cannot be read or is no such table; the message names row and column.
  """
  try:
    with open(path, encoding="utf-8-sig", newline="") as file:
      rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
  except (OSError, UnicodeDecodeError, csv.Error) as fault:
    raise UsageError(f"--scores={path}: {fault}") from None
  if len(rows) < 3 or len(rows[0]) < 2:
    raise UsageError(
        f"--scores={path}: a row of names of tasks is expected, and below it a row for each of two"
        " or more agents: its name, then its score on each task"
    )
  tasks = tuple(cell.strip() for cell in rows[0][1:])
  agents = tuple(row[0].strip() for row in rows[1:])
  for what, names in (("agent", agents), ("task", tasks)):
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
      raise UsageError(f"--scores={path}: the {what} {twice[0]!r} is there twice")
  mean, error = np.zeros((2, len(agents), len(tasks)))
  given = False
  for i, row in enumerate(rows[1:]):
    if len(row) != len(rows[0]):
      raise UsageError(
          f"--scores={path}: the row of {agents[i]!r} has {len(row) - 1} scores, and there are"
          f" {len(tasks)} tasks"
      )
    for j, cell in enumerate(row[1:]):
      mean[i, j], found = _number(path, agents[i], tasks[j], cell)
      given = given or found is not None
      error[i, j] = found or 0
  return Scores(agents, tasks, mean, error if given else None)


def _number(path: pathlib.Path, agent: str, task: str, cell: str) -> tuple[float, float | None]:
  """The score of a cell, and its standard error if there is one."""
  match = _CELL.match(cell)
  try:
    if match is None:
      raise ValueError
    score = float(match[1])
    error = None if match[2] is None else float(match[2])
    if not np.isfinite(score) or (error is not None and not 0 <= error < np.inf):
      raise ValueError
  except ValueError:
    raise UsageError(
        f"--scores={path}: {cell.strip()!r}, the score of {agent!r} on {task!r}, is no finite"
        " number, nor a number and its standard error such as 12.5±0.3"
    ) from None
  return score, error
