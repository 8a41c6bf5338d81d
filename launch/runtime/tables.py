"""Tables of numbers that both Markdown and a terminal show well."""

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def text(value: Any) -> str:
  """The text of a cell: three significant digits, or "-" for None, which was not measured."""
  if value is None:
    return "-"
  if isinstance(value, float):
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
  return str(value)


def markdown(rows: Sequence[Row]) -> str:
  """A Markdown table, whose columns also line up in a terminal, of rows with the same keys."""
  table = [list(rows[0])] + [[text(value) for value in row.values()] for row in rows]
  widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
  lines = ["| " + " | ".join(c.rjust(w) for c, w in zip(line, widths)) + " |" for line in table]
  lines.insert(1, "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|")
  return "\n".join(lines)


def filled(rows: Sequence[Row]) -> list[Row]:
  """The same rows without columns in which no row has a value."""
  kept = [name for name in rows[0] if any(row[name] is not None for row in rows)]
  return [{name: row[name] for name in kept} for row in rows]
