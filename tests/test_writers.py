"""launch.runtime.writers: round trips of rows, late columns, kills and resumed runs."""

import csv
import json
import math
import sys

from hypothesis import given, settings
from hypothesis import strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from launch.runtime import parallel, writers

SETTINGS = settings(max_examples=40, deadline=None)
TIMES = (writers.SECONDS, writers.RATE)


class Clock:
  """A clock that the test advances."""

  now = 1000.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock():
  return Clock()


def open_writer(directory, **options):
  return writers.Writer(directory, **{"console_every": None} | options)


def table(directory):
  """The rows of metrics.csv, as the standard library reads them."""
  with open(directory / "metrics.csv", newline="") as file:
    return list(csv.DictReader(file))


def metrics(rows):
  """The rows without their times."""
  return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def assert_files_agree(directory):
  lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
  cells = [{name: float(cell) for name, cell in row.items() if cell} for row in table(directory)]
  assert repr(lines) == repr([
      {name: row[name] if name != "step" else int(row[name]) for name in line}
      for line, row in zip(lines, cells)
  ])
  assert len(lines) == len(cells)
  assert all(len(row) == len(line) for row, line in zip(cells, lines))


def test_rows_of_both_files(tmp_path, clock):
  with open_writer(tmp_path / "run", clock=clock) as writer:
    clock.now += 2
    writer.write(10, {"train/loss": 0.1, "train/gap": jnp.float32(0.5)})
    clock.now += 4
    writer.write(30, {"train/loss": np.float64(1e-300), "train/gap": jnp.ones((1, 1))})
  assert (tmp_path / "run" / "metrics.csv").read_text() == (
      "step,time/seconds,time/steps_per_second,train/loss,train/gap\n"
      "10,2.0,,0.1,0.5\n"
      "30,6.0,5.0,1e-300,1.0\n"
  )
  assert writers.read(tmp_path / "run") == [
      {"step": 10, "time/seconds": 2.0, "train/loss": 0.1, "train/gap": 0.5},
      {"step": 30, "time/seconds": 6.0, "time/steps_per_second": 5.0, "train/loss": 1e-300,
       "train/gap": 1.0},
  ]
  assert_files_agree(tmp_path / "run")


def test_not_a_number_and_infinity_are_written_as_such(tmp_path):
  with open_writer(tmp_path) as writer:
    writer.write(0, {"a": math.nan, "b": -math.inf, "c": jnp.bfloat16(jnp.inf), "d": True})
  row = table(tmp_path)[0]
  assert [row[name] for name in "abcd"] == ["nan", "-inf", "inf", "1.0"]
  assert math.isnan(writers.read(tmp_path)[0]["a"])
  assert_files_agree(tmp_path)


def test_a_late_metric_adds_a_column(tmp_path):
  with open_writer(tmp_path) as writer:
    writer.write(1, {"loss": 1.0})
    writer.write(2, {"loss": 2.0, 'odd, "name"': 3.0})
    writer.write(3, {"loss": 4.0})
  assert [row['odd, "name"'] for row in table(tmp_path)] == ["", "3.0", ""]
  assert [row["loss"] for row in table(tmp_path)] == ["1.0", "2.0", "4.0"]
  assert_files_agree(tmp_path)


def test_every_row_is_on_disk_before_the_next(tmp_path):
  writer = open_writer(tmp_path)
  for step in range(3):
    writer.write(step, {"loss": 0.0})
    assert len(table(tmp_path)) == len(writers.read(tmp_path)) == step + 1
  writer.close()
  writer.close()
  with pytest.raises(ValueError, match="closed"):
    writer.write(9, {})


@pytest.mark.parametrize(
    "step, values, message",
    [
        (5, {"a": 1.0}, "step 5 comes after step 5"),
        (4, {"a": 1.0}, "step 4 comes after step 5"),
        (6, {"step": 1.0}, "'step'"),
        (6, {"time/seconds": 1.0}, "time/seconds"),
        (6, {"a\nb": 1.0}, "printable"),
        (6, {"": 1.0}, "printable"),
        (6, {"a": np.zeros(2)}, "'a' has shape .2."),
        (6, {"a": "text"}, "'a'"),
        (6, {"a": None}, "'a'"),
        (6, {"a": 1j}, "'a'"),
    ],
)
def test_bad_rows_are_refused_and_leave_nothing(tmp_path, step, values, message):
  with open_writer(tmp_path) as writer:
    writer.write(5, {"a": 0.0})
    with pytest.raises(ValueError, match=message):
      writer.write(step, values)
    writer.write(7, {"a": 1.0})
  assert [row["step"] for row in table(tmp_path)] == ["5", "7"]
  assert_files_agree(tmp_path)


# Resumed runs.


def test_a_resumed_run_continues_the_file_and_its_time(tmp_path, clock):
  with open_writer(tmp_path, clock=clock) as writer:
    for step in (10, 20, 30):
      clock.now += 5
      writer.write(step, {"loss": step / 10})
  clock.now += 1000  # between the runs
  with open_writer(tmp_path, first_step=20, clock=clock) as writer:
    clock.now += 1
    writer.write(20, {"loss": -1.0, "new": 0.0})
  assert metrics(writers.read(tmp_path)) == [
      {"step": 10, "loss": 1.0}, {"step": 20, "loss": -1.0, "new": 0.0}
  ]
  assert [row[writers.SECONDS] for row in writers.read(tmp_path)] == [5.0, 6.0]
  assert_files_agree(tmp_path)


def test_a_run_from_the_start_drops_the_rows_of_the_one_before(tmp_path):
  for loss in (1.0, 2.0):
    with open_writer(tmp_path) as writer:
      writer.write(0, {"loss": loss})
  assert metrics(writers.read(tmp_path)) == [{"step": 0, "loss": 2.0}]


@pytest.mark.parametrize("lost", ["metrics.csv", "metrics.jsonl"])
def test_either_file_restores_the_other(tmp_path, lost):
  with open_writer(tmp_path) as writer:
    writer.write(1, {"a": 0.1})
    writer.write(2, {"b": math.nan})
  before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
  (tmp_path / lost).unlink()
  open_writer(tmp_path, first_step=3).close()
  assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["metrics.csv", "metrics.jsonl"])
def test_a_line_that_is_not_whole_is_never_believed(tmp_path, name):
  with open_writer(tmp_path) as writer:
    writer.write(1, {"loss": 0.25})
    writer.write(2, {"loss": 0.75})
  for path in tmp_path.iterdir():
    if path.name != name:
      path.unlink()
  content = (tmp_path / name).read_bytes()
  first = content[: content.rindex(b"\n", 0, -1) + 1]
  for size in range(len(first), len(content)):
    (tmp_path / name).write_bytes(content[:size])
    assert metrics(writers.read(tmp_path)) == [{"step": 1, "loss": 0.25}]
  (tmp_path / name).write_bytes(first + b"\x00\xff,,\n[1]\n7\n{}\n" + content[len(first) :])
  assert metrics(writers.read(tmp_path)) == [
      {"step": 1, "loss": 0.25}, {"step": 2, "loss": 0.75}
  ]


VALUES = st.dictionaries(st.sampled_from("abc"), st.floats(), max_size=3)


def text(rows):
  """A form for comparisons: NaN differs from itself, and the files order names differently."""
  return repr([sorted(row.items()) for row in rows])


@SETTINGS
@given(rows=st.lists(VALUES, min_size=1, max_size=6), data=st.data())
def test_a_kill_at_any_byte_loses_at_most_the_last_row(tmp_path_factory, rows, data):
  directory = tmp_path_factory.mktemp("kill")
  clock = Clock()  # a fresh clock makes equal files when Hypothesis repeats an example
  writer = open_writer(directory, clock=clock)
  for step, row in enumerate(rows):
    writer.write(step, row)
  writer.close()
  everything = metrics(writers.read(directory))
  # A kill may leave either file in the middle of its last line.
  for path in sorted(directory.iterdir()):
    content = path.read_bytes()
    start = content[:-1].rfind(b"\n") + 1
    cut = data.draw(st.integers(start, len(content)), path.name)
    path.write_bytes(content[:cut])
  survivors = metrics(writers.read(directory))
  assert text(survivors) in (text(everything), text(everything[:-1]))

  first_step = data.draw(st.integers(0, len(rows)), "first_step")
  with open_writer(directory, first_step=first_step, clock=clock) as writer:
    writer.write(len(rows), {"a": 1.0, "z": 2.0})
  final = metrics(writers.read(directory))
  kept = [row for row in survivors if row["step"] < first_step]
  assert text(final) == text([*kept, {"step": len(rows), "a": 1.0, "z": 2.0}])
  assert_files_agree(directory)


# Console, other processes and TensorBoard.


def test_the_console_gets_a_line_every_few_seconds_and_the_last_row(tmp_path, clock, capsys):
  with open_writer(tmp_path, console_every=5.0, shown=["loss", "gap"], clock=clock) as writer:
    for step in range(8):
      writer.write(step, {"loss": step / 3, "other": 1.0})
      clock.now += 2
  captured = capsys.readouterr()
  lines = captured.err.splitlines()
  assert captured.out == ""
  assert [line.split()[1] for line in lines] == ["0", "3", "6", "7"]
  assert lines[2] == "step 6  0:00:12  0.5 steps/s  loss 2"


def test_quiet_means_quiet(tmp_path, capsys):
  with open_writer(tmp_path) as writer:
    writer.write(0, {"loss": 1.0})
  assert capsys.readouterr() == ("", "")


def test_other_processes_write_nothing(tmp_path, monkeypatch):
  monkeypatch.setattr(parallel, "is_main", lambda: False)
  with writers.Writer(tmp_path / "run", tensorboard=True) as writer:
    writer.write(0, {"loss": 1.0})
  assert not (tmp_path / "run").exists()


def test_missing_tensorboard_names_the_extra(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorboardX", None)
  with pytest.raises(ImportError, match=r"\[tensorboard\]"):
    open_writer(tmp_path / "run", tensorboard=True)
  assert not (tmp_path / "run").exists()


def test_tensorboard_events(tmp_path):
  pytest.importorskip("tensorboardX")
  with open_writer(tmp_path, tensorboard=True) as writer:
    writer.write(3, {"train/loss": 0.5, "train/gap": math.nan})
  (path,) = tmp_path.glob("events*")
  events = path.read_bytes()
  assert b"train/loss" in events and b"train/gap" in events
  assert len(writers.read(tmp_path)) == 1
