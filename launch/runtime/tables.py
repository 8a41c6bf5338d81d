"""Rows of numbers as Markdown tables and as CSV files."""

from collections.abc import Iterable, Mapping, Sequence
import csv
import io
import pathlib
from typing import Any

from launch.runtime.flags import UsageError
from nes_jax.games.files import replacing

Row = Mapping[str, Any]


def text(value: Any) -> str:
  """The text of a cell: three significant digits of a float, "-" for None."""
  if value is None:
    return "-"
  if isinstance(value, float):
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
  return str(value)


def markdown(rows: Sequence[Row]) -> str:
  """A Markdown table whose columns line up in a terminal, too. All rows have the same keys."""
  table = [list(rows[0])] + [[text(value) for value in row.values()] for row in rows]
  widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
  lines = ["| " + " | ".join(c.rjust(w) for c, w in zip(line, widths)) + " |" for line in table]
  lines.insert(1, "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|")
  return "\n".join(lines)


def filled(rows: Sequence[Row]) -> list[Row]:
  """The rows without the columns in which every row has None."""
  kept = [name for name in rows[0] if any(row[name] is not None for row in rows)]
  return [{name: row[name] for name in kept} for row in rows]


def write_csv(path: pathlib.Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
  """Writes a CSV file in place of one of the same name, which stays if writing fails."""
  content = io.StringIO()
  writer = csv.DictWriter(content, columns, lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  with replacing(path) as file:
    file.write(content.getvalue().encode())


def read_csv(
    path: pathlib.Path, columns: Sequence[str], settings: Sequence[str]
) -> dict[tuple[str, ...], dict[str, str]]:
  """The rows of earlier runs of a program, by their settings; none if there is no file.

  Args:
    path: a file that `write_csv` has written.
    columns: all columns.
    settings: the columns that tell one row from another.

  Raises:
    UsageError: the file has other columns.
  """
  if not path.exists():
    return {}
  with path.open(newline="") as file:
    reader = csv.DictReader(file)
    if tuple(reader.fieldnames or ()) != tuple(columns):
      raise UsageError(f"{path} has other columns than this version writes: give another --out")
    return {tuple(row[name] for name in settings): row for row in reader}
