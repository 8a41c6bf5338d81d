"""The files in which a suite of `launch.benchmark` keeps its results."""

import json
import os
import pathlib
from typing import Any

from launch.runtime.tables import filled, markdown, text, write_csv
from nes_jax.games.files import replacing

Row = dict[str, Any]


class Record:
  """The rows that a run has measured so far."""

  def __init__(self, suite: str, out: str | os.PathLike, facts: Row):
    """Starts a record without rows.

    Args:
      suite: the name of the suite, and of its files.
      out: the directory of the files. It is created if it does not exist.
      facts: machine, versions and date, as in `note`.
    """
    self._path = pathlib.Path(out) / suite
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self._facts = facts
    self.rows: list[Row] = []
    self.extras: dict[str, Row] = {}  # the row of each smaller table

  def text(self) -> str:
    """The tables in Markdown, and a note on the machine."""
    tables = [markdown(filled(self.rows))] if self.rows else []
    tables += [f"{name}:\n\n{markdown(filled([row]))}" for name, row in self.extras.items()]
    return "\n\n".join([*tables, note(self._facts)])

  def write(self) -> None:
    """Replaces the files SUITE.md, SUITE.json and, if there are rows, SUITE.csv."""
    content = {"hardware": self._facts, "rows": self.rows}
    if self.extras:
      content["extras"] = self.extras
    self._replace(".md", f"{self.text()}\n")
    self._replace(".json", json.dumps(content, indent=2) + "\n")
    if self.rows:
      write_csv(self._path.with_suffix(".csv"), list(self.rows[0]), self.rows)

  def _replace(self, suffix: str, content: str) -> None:
    with replacing(self._path.with_suffix(suffix)) as file:
      file.write(content.encode())


def note(facts: Row) -> str:
  """One line on the machine, the versions and the date of a measurement.

  Args:
    facts: the facts of `machine.hardware` and "quick"; "before" and "float32_matmul_gflops" may be
      missing.
  """
  place = f"{facts['cpu']}, {facts['cores']} core(s)"
  if facts["platform"] != "cpu":
    place = f"{facts['devices']} {facts['device']}; {place}"
  versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
  parts = [place, versions, facts["date"], f"load {text(facts['load_average'])}"]
  names = ("commit", "before", "float32_matmul_gflops")
  parts += [f"{name} {text(facts[name])}" for name in names if facts.get(name) is not None]
  return "; ".join(parts) + "; QUICK, not a measurement" * facts["quick"]
