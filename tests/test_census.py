"""Tests of launch.checks.census: a small census, and that it continues."""

import csv

import numpy as np
import pytest

from launch.checks import census
import nes_jax


def read(path):
  with path.open(newline="") as file:
    return list(csv.DictReader(file))


def test_rows_are_right_and_computed_once(tmp_path, monkeypatch, capsys):
  calls = []
  solve = nes_jax.solve

  def one_game_fails(payoffs, **options):
    calls.append(options["concept"])
    solution = solve(payoffs, **options)
    if len(calls) > 1:
      return solution
    # The last game of the first row gets a wrong answer that is marked as converged.
    joint = solution.joint.copy()
    joint[-1] = 0
    joint[-1, 0, 0] = 1
    return solution._replace(joint=joint)

  monkeypatch.setattr(nes_jax, "solve", one_game_fails)
  flags = [
      "census", f"--out={tmp_path}", "--kinds=shapley,ranking", "--noises=0", "--games=4",
      "--strategies=3",
  ]
  assert census.main([*flags, "--concepts=cce"]) == 0
  rows = read(tmp_path / "census.csv")
  assert [tuple(row) for row in rows] == [census.COLUMNS] * 2
  for row, kind, recomputed in zip(rows, ("shapley", "ranking"), ("3", "4")):
    assert tuple(row[name] for name in census.SETTINGS) == (
        kind, "0.0", "cce", "4", "3", "2", "float64"
    )
    assert (row["converged"], row["recomputed"], row["repeated"]) == ("4", recomputed, "0")
    assert 0 < float(row["steps_mean"]) <= int(row["steps_max"]) < 100
    assert 0 <= float(row["seconds"]) < 30
  assert float(rows[0]["residual"]) > 0.1 and float(rows[1]["residual"]) <= 1e-8
  assert float(rows[1]["gap"]) <= 1e-8
  # The joint is the first cell, from which the gains of the best deviations follow by hand.
  payoffs = census.draw(census.Run(tmp_path, games=4, strategies=3), "shapley", 0.0)
  first, second = payoffs[-1]
  gap = (first[:, 0].max() - first[0, 0]) + (second[0].max() - second[0, 0])
  assert float(rows[0]["gap"]) == pytest.approx(gap / np.ptp(payoffs[-1]), rel=0.01) and gap > 0
  with np.load(tmp_path / "left.npz") as left:
    assert left.files == ["shapley_0.0_cce"]
    np.testing.assert_array_equal(left["shapley_0.0_cce"], payoffs[-1:])
  table = (tmp_path / "census.md").read_text().splitlines()
  assert [line.split(" | ")[0] for line in table[-2:]] == ["| shapley", "| ranking"]

  # With one more concept, only its rows are computed.
  assert census.main([*flags, "--concepts=cce,ce"]) == 0
  assert calls == ["cce", "cce", "ce", "ce"]
  again = read(tmp_path / "census.csv")
  assert again[:2] == rows and [row["recomputed"] for row in again] == ["3", "4", "4", "4"]
  assert "left 1.0000" in capsys.readouterr().out
  assert census.main([*flags, "--kinds=ranking,blotto", "--players=3", "--concepts=none"]) == 2
  assert "--concepts=none: use one of cce, ce" in capsys.readouterr().err
