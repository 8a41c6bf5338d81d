"""launch.checks.jpsro: gaps by hand, medians, flags, and short runs."""

import csv

import numpy as np
import pytest

from launch.checks import jpsro

CHICKEN = np.array([[[0.0, 7.0], [2.0, 6.0]], [[0.0, 2.0], [7.0, 6.0]]])


def test_gap_within_a_meta_game():
  # At (dare, dare) each player gains 2 by yielding; at (dare, yield) nobody gains.
  assert jpsro.gap_within(CHICKEN, np.array([[1.0, 0.0], [0.0, 0.0]]), "cce") == 4
  assert jpsro.gap_within(CHICKEN, np.array([[0.0, 1.0], [0.0, 0.0]]), "ce") == 0
  # Both are told to do the same. On "dare" a player gains 2 half of the time, on "yield" 1. Without
  # the advice, daring is worth 3.5 and yielding 4 to a player who has 3.
  both = np.diag([0.5, 0.5])
  assert jpsro.gap_within(CHICKEN, both, "ce") == 2
  assert jpsro.gap_within(CHICKEN, both, "cce") == 2


def test_names_of_meta_solvers():
  assert [jpsro.concept_of(x) for x in ("mgcce", "mwce", "uni", "max_entropy_ce")] == [
      "cce", "ce", "cce", "ce"
  ]
  assert jpsro.is_ours("max_entropy_cce") and not jpsro.is_ours("min_epsilon_mgcce")


def test_medians_are_over_seeds():
  names = ("train_gap", "eval_gap", "value", "solver_worst", "solver_seconds", "seconds")
  rows = []
  for seed, number in ((1, "5"), (2, "0.1"), (3, "0.2")):
    rows.append(dict.fromkeys(jpsro.SETTINGS, "x") | dict.fromkeys(names, number) | {"seed": seed})
  rows.append(rows[0] | {"train": "y"})
  first, second = jpsro.medians(rows)
  assert (first["seeds"], first["train_gap"], first["worst eval_gap"]) == (3, 0.2, 5.0)
  assert (second["seeds"], second["train"], second["value"]) == (1, "y", 5.0)


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--pairs=mgcce", "TRAIN+EVAL"),
        ("--pairs=mgcce+mwce", "both CEs and CCEs"),
        ("--games=chess", "kuhn_poker_3p"),
        ("--seeds=0", "at least 1"),
        ("--iterations=0", "at least 1"),
    ],
)
def test_wrong_flags(flag, message, tmp_path, capsys):
  assert jpsro.main(["jpsro", f"--out={tmp_path}", flag]) == 2
  assert message in capsys.readouterr().err


def test_a_short_run_and_its_continuation(tmp_path, capsys, monkeypatch):
  pytest.importorskip("open_spiel.python.algorithms.jpsro")
  flags = [
      "jpsro", f"--out={tmp_path}", "--games=trade_comm_2p_2i", "--iterations=3", "--seeds=2",
      "--pairs=max_entropy_cce+max_welfare_cce,uni+uni",
  ]
  assert jpsro.main(flags) == 0
  assert "runs 3.0000\nuncertified 0.0000\n" in capsys.readouterr().out
  with (tmp_path / "jpsro.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["seed"] for row in rows] == ["1", "2", "1"]
  assert [row["uncertified"] for row in rows] == ["0", "0", "-"]
  for row in rows:
    assert row["checked"] == "6" and float(row["disagree"]) < 1e-8
    assert 0 <= float(row["value"]) <= 2
    assert 0 < float(row["solver_seconds"]) < float(row["seconds"])
  assert all(float(row["meta_gap"]) < 1e-7 for row in rows[:2])
  assert "| trade_comm_2p_2i |" in (tmp_path / "jpsro.md").read_text()

  monkeypatch.setattr(jpsro, "run_one", None)  # no run is made again
  assert jpsro.main(flags) == 0
  assert jpsro.main([*flags[:-1], "--pairs=gini_cce+uni"]) == 2
  assert "unknown selection 'gini'" in capsys.readouterr().err
  assert jpsro.main([*flags[:-1], "--pairs=best+uni"]) == 2
  assert "no meta-solver 'best'" in capsys.readouterr().err


@pytest.mark.slow
def test_times_by_number_of_seeds(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(jpsro, "_REPEATS", 2)
  assert jpsro.main(["jpsro", f"--out={tmp_path}", "--normal_form", "--iterations=2"]) == 0
  assert "later " in capsys.readouterr().out
  lines = (tmp_path / "seeds.md").read_text().splitlines()
  assert [line.split("|")[1].strip() for line in lines[-3:]] == ["1", "8", "64"]
