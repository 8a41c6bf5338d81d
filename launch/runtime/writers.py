"""Metrics of a run: a line on the console, metrics.csv, metrics.jsonl, and TensorBoard's events.

A row is a step and its metrics, by names such as `train/loss`, together with

  time/seconds           seconds since the run began; a run that continues another adds to them
  time/steps_per_second  rate since the row before, in the same process

A row is on disk, whole, before `write` returns; TensorBoard's events follow within seconds. A kill
loses at most the last row, and the next `Writer` removes an incomplete one. A metric that appears
late adds a column, for which the .csv is written anew.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import csv
import datetime
import io
import json
import math
import os
import pathlib
import sys
import time
from typing import IO, Any

import numpy as np

from launch.runtime import parallel
from nes_jax.games.files import replacing

STEP = "step"
SECONDS = "time/seconds"
RATE = "time/steps_per_second"

# A row: STEP, which is an int, SECONDS, and metrics. Rows may have different metrics.
Row = dict[str, float]

_CSV, _JSONL = "metrics.csv", "metrics.jsonl"
# Seconds between two writes of TensorBoard's events.
_EVENT_SECONDS = 10
# Columns that the writer itself fills.
_OWN = (STEP, SECONDS, RATE)


class Writer:
  """Writes the metrics of one run into a directory; a context manager.

  It does nothing on processes other than process 0.
  """

  def __init__(
      self,
      directory: str | os.PathLike,
      *,
      first_step: int = 0,
      console_every: float | None = 5.0,
      shown: Sequence[str] | None = None,
      tensorboard: bool = False,
      clock: Callable[[], float] = time.monotonic,
  ):
    """Opens the files, and continues those of an earlier run.

    Args:
      directory: the directory of the run; it is made if it does not exist.
      first_step: the lowest step that this run will write. Rows of an earlier run at this step or
        beyond it are removed; with 0 these are all of them.
      console_every: least number of seconds between two lines on stderr; None stands for no lines.
      shown: metrics of the console's line; None stands for all.
      tensorboard: whether to write events for TensorBoard, too.
      clock: function that gives the time in seconds, from any origin.

    Raises:
      ImportError: TensorBoard was asked for, and tensorboardX is not installed.
      OSError: the directory cannot be written.
    """
    self._active = parallel.is_main()
    self._clock, self._shown = clock, shown
    self._console_every = console_every
    self._events: Any = None
    if not self._active:
      return
    self._directory = pathlib.Path(directory)
    make_events = _summary_writer() if tensorboard else None
    self._directory.mkdir(parents=True, exist_ok=True)
    rows = [row for row in read(self._directory) if row[STEP] < first_step]
    self._columns = _columns(rows)
    with replacing(self._directory / _JSONL) as file:
      file.write("".join(map(_json_line, rows)).encode())
    self._jsonl: IO[bytes] = open(self._directory / _JSONL, "ab")
    self._csv: IO[bytes] | None = None
    self._write_csv(rows)
    if make_events is not None:
      self._events = make_events(
          str(self._directory), purge_step=first_step, flush_secs=_EVENT_SECONDS
      )
    self._last_step = rows[-1][STEP] if rows else None
    self._began = clock() - (rows[-1].get(SECONDS, 0.0) if rows else 0.0)
    self._last: tuple[int, float] | None = None  # step and time of this process's last row
    self._unsaid: tuple[Row, list[str]] | None = None  # the last row, if the console has not had it
    self._said = -math.inf

  def write(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Appends a row.

    Args:
      step: number of the step, which is larger than that of the row before. All metrics of one
        step are written at once.
      metrics: numbers, or arrays of one element. NaN and infinity are allowed.

    Raises:
      ValueError: the step is not larger, a name is reserved or not printable, a value is not one
        number, or the writer is closed.
      OSError: the disk failed.
    """
    if not self._active:
      return
    if self._jsonl.closed or self._csv is None:
      raise ValueError("the writer is closed")
    if self._last_step is not None and step <= self._last_step:
      raise ValueError(
          f"step {step} comes after step {self._last_step}: steps must increase; write all metrics"
          " of a step at once, and give first_step to go back"
      )
    now = self._clock()
    row: Row = {STEP: int(step), SECONDS: now - self._began}
    if self._last is not None and now > self._last[1]:
      row[RATE] = (step - self._last[0]) / (now - self._last[1])
    row |= {_checked_name(name): _number(name, value) for name, value in metrics.items()}
    self._jsonl.write(_json_line(row).encode())
    self._jsonl.flush()
    if row.keys() <= set(self._columns):
      self._csv.write(_csv_line(self._cells(row)).encode())
      self._csv.flush()
    else:
      self._columns = _columns([dict.fromkeys(self._columns), row])
      self._write_csv(read(self._directory))
    if self._events is not None:
      for name in metrics:
        self._events.add_scalar(name, row[name], int(step))
    self._last_step, self._last = int(step), (int(step), now)
    self._unsaid = row, list(metrics)
    if self._console_every is not None and now - self._said >= self._console_every:
      self._say(now)

  def close(self) -> None:
    """Shows the last row and closes the files; a second call does nothing."""
    if not self._active or self._jsonl.closed:
      return
    if self._unsaid is not None and self._console_every is not None:
      self._say(self._clock())
    self._jsonl.close()
    if self._csv is not None:
      self._csv.close()
    if self._events is not None:
      self._events.close()

  def __enter__(self) -> "Writer":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _write_csv(self, rows: Iterable[Row]) -> None:
    """Writes the .csv anew, with these rows under all columns that are known by now."""
    if self._csv is not None:
      self._csv.close()
    path = self._directory / _CSV
    with replacing(path) as file:
      file.write(_csv_line(self._columns).encode())
      for row in rows:
        file.write(_csv_line(self._cells(row)).encode())
    self._csv = open(path, "ab")

  def _cells(self, row: Row) -> list[str]:
    return [repr(row[name]) if name in row else "" for name in self._columns]

  def _say(self, now: float) -> None:
    assert self._unsaid is not None
    row, names = self._unsaid
    shown = [name for name in (names if self._shown is None else self._shown) if name in row]
    parts = [f"step {row[STEP]}", str(datetime.timedelta(seconds=round(row[SECONDS])))]
    if RATE in row:
      parts.append(f"{row[RATE]:.4g} steps/s")
    parts += [f"{name} {row[name]:.4g}" for name in shown]
    print("  ".join(parts), file=sys.stderr, flush=True)
    self._said, self._unsaid = now, None


def read(directory: str | os.PathLike) -> list[Row]:
  """Reads the rows of a run from both of its files, sorted by step; [] if there are none.

  Incomplete lines are left out. The dict of a row has only the metrics of this row.
  """
  directory = pathlib.Path(directory)
  rows: dict[int, Row] = {}
  for row in [*_read_csv(directory / _CSV), *_read_jsonl(directory / _JSONL)]:
    rows[int(row[STEP])] = row
  return [rows[step] for step in sorted(rows)]


def _whole_lines(path: pathlib.Path) -> list[str]:
  """The lines of a file without the last one if that has no end; [] if there is no file."""
  if not path.exists():
    return []
  return path.read_bytes().decode("utf-8", "replace").split("\n")[:-1]


def _read_csv(path: pathlib.Path) -> Iterable[Row]:
  lines = [next(csv.reader([line]), []) for line in _whole_lines(path)]
  header = lines[0] if lines else []
  for cells in lines[1:]:
    if len(cells) == len(header) and STEP in header:
      row = {name: cell for name, cell in zip(header, cells) if cell}
      try:
        yield {name: _typed(name, cell) for name, cell in row.items()} | {STEP: int(row[STEP])}
      except (KeyError, ValueError):
        continue


def _read_jsonl(path: pathlib.Path) -> Iterable[Row]:
  for line in _whole_lines(path):
    try:
      row = json.loads(line)
      yield {name: _typed(name, value) for name, value in row.items()} | {STEP: int(row[STEP])}
    except (AttributeError, KeyError, TypeError, ValueError):
      continue


def _typed(name: str, value: Any) -> float:
  return int(value) if name == STEP else float(value)


def _columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
  """Names of columns: first the writer's own, then all others in the order of appearance."""
  return list(dict.fromkeys([*_OWN, *(name for row in rows for name in row)]))


def _json_line(row: Row) -> str:
  return json.dumps(row) + "\n"


def _csv_line(cells: Sequence[str]) -> str:
  text = io.StringIO()
  csv.writer(text, lineterminator="\n").writerow(cells)
  return text.getvalue()


def _checked_name(name: str) -> str:
  if name in _OWN or not name or not name.isprintable():
    raise ValueError(
        f"a metric cannot be called {name!r}: choose a printable name other than"
        f" {', '.join(_OWN)}, such as train/loss"
    )
  return name


def _number(name: str, value: Any) -> float:
  array = np.asarray(value)
  if array.size != 1 or array.dtype.kind not in "biufV":
    raise ValueError(
        f"metric {name!r} has shape {list(array.shape)} and dtype {array.dtype}: it must be one"
        " real number; take a mean"
    )
  return float(array.reshape(()))


def _summary_writer() -> Callable[..., Any]:
  try:
    import tensorboardX
  except ImportError as error:
    raise ImportError(
        "TensorBoard was asked for and tensorboardX is not installed: run"
        ' `pip install -e ".[tensorboard]"`, or do without'
    ) from error
  return tensorboardX.SummaryWriter


def over_seeds(name: str, values: Any) -> dict[str, float]:
  """The mean of values [S] over seeds as NAME, and their standard deviation as NAME_sd if S > 1."""
  row = {name: float(values.mean())}
  return row | {f"{name}_sd": float(values.std(ddof=1))} if len(values) > 1 else row


def write_json(path: str | os.PathLike, content: Any) -> None:
  """Writes a JSON file, complete or not at all."""
  text = json.dumps(content, indent=2, allow_nan=False) + "\n"
  with replacing(path) as file:
    file.write(text.encode())
