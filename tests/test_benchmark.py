"""launch.benchmark: a small entry from end to end, and the flop counts by hand."""

import csv
import dataclasses
import json

import pytest

from launch import benchmark
from nes_jax import network

COLUMNS = (
    "size concept batch us_game compile_s iterations iterations_max converged_pct repeated residual"
    " ecos_us ecos_failed clarabel_us clarabel_failed ecos_ratio clarabel_ratio distance floor_us"
    " over_floor"
).split()


@pytest.mark.slow
def test_quick_entry_end_to_end(tmp_path, capsys):
  pytest.importorskip("cvxpy")
  (row,) = benchmark.run("exact", str(tmp_path), only=["cce:4x4"], quick=True)
  assert list(row) == COLUMNS
  assert 0 < row["floor_us"] <= row["us_game"]
  assert row["over_floor"] == pytest.approx(row["us_game"] / row["floor_us"])
  assert row["converged_pct"] == 100
  assert row["ecos_failed"] == "0/2" and row["clarabel_ratio"] > 0
  # float32 at tolerance 1e-4 against Clarabel's default: usually 1e-3 or less.
  assert row["distance"] < 2e-2
  printed = " ".join(capsys.readouterr().out.split())
  assert "| size | concept | batch |" in printed and "| 4x4 | cce | 16 |" in printed
  record = json.loads((tmp_path / "exact.json").read_text())
  assert record["rows"] == [row]
  assert record["hardware"]["cores"] >= 1 and record["hardware"]["versions"]["jax"]
  with (tmp_path / "exact.csv").open() as file:
    (line,) = csv.DictReader(file)
  assert list(line) == COLUMNS and float(line["us_game"]) == row["us_game"]
  assert "QUICK" in (tmp_path / "exact.md").read_text()


def test_newton_flops_by_hand():
  n = 8
  matrix = 6 * n**3 + (2 * n) ** 3 / 3
  rest = 4 * (2 * n) ** 2 + 6 * 2 * n**2 * 2
  assert benchmark.newton_flops((n, n), "cce") == pytest.approx(matrix + rest)
  # CE 4x4: D = 24 duals against 16 joint strategies: the joint's system is the smaller.
  joint = 2 * 16 * 3 * 4 + 16**3 / 3 + 4 * 16**2 + 6 * (2 * 2 * 16 * 3)
  assert benchmark.newton_flops((4, 4), "ce") == pytest.approx(joint)
  # CE 2x2x2x2x2: D = 10 duals against 32.
  dual = 5 * 32 + 10 * 2 * 32 + 10**3 / 3 + 4 * 10**2 + 6 * (5 * 2 * 32)
  assert benchmark.newton_flops((2,) * 5, "ce") == pytest.approx(dual)


def test_table_marks_what_was_not_measured():
  table = benchmark.markdown([{"size": "4x4", "us": 1234.5}, {"size": "128x128", "us": None}])
  assert table.splitlines() == [
      "|    size |   us |",
      "|--------:|-----:|",
      "|     4x4 | 1234 |",
      "| 128x128 |    - |",
  ]


def test_unknown_entry_is_named(tmp_path):
  with pytest.raises(ValueError, match="cce:5x5 names no entry.*cce:4x4"):
    benchmark.run("exact", str(tmp_path), only=["cce:5x5"])


@pytest.mark.slow
def test_quick_neural_entry_end_to_end(tmp_path):
  (row,) = benchmark.run("neural", str(tmp_path), only=["cce:8x8:4:4"], quick=True)
  assert row["rounds"] == row["newton"] == 4
  assert 0 < row["infer_floor_us"] < row["infer_us"]
  assert 0 < row["train_floor_us"] < row["train_us"]
  assert row["exact_us"] > 0 and row["games_second"] == pytest.approx(1e6 / row["train_us"])


def test_network_work_by_hand():
  config = network.Config("cce", payoff_channels=(3,), dual_channel=5, dual_channels=(7,))
  flops, written = benchmark.network_work(config, (2, 4))
  # A layer of 3 products of 8 entries, 1 -> 3; dual layers of 6 entries, 5 -> 7 -> 1.
  assert flops == 2 * 3 * 8 * 3 + 2 * 6 * (5 * 7 + 7)
  assert written == 2 * 8 * 3 + 6 * (5 + 7 + 1)
  rounds = dataclasses.replace(config, rounds=2)
  more, wider = benchmark.network_work(rounds, (2, 4))
  # Of a round: three passes over 2 players' 8 payoffs, layers 7 + 3 -> 7 -> 1 of 6 entries.
  assert more - flops == 2 * 2 * (3 * 2 * 8 + 6 * (10 * 7 + 7))
  assert wider - written == 2 * 6 * (7 + 1)
  # Of a Newton step: three passes, two for each of 16 conjugate gradients, one a length.
  most, _ = benchmark.network_work(dataclasses.replace(rounds, newton=3), (2, 4))
  assert most - more == 3 * 2 * (3 + 2 * 16 + 5) * 2 * 8
