"""The program launch.markov_game: its games, answers and files, and the measurements."""

import csv

import numpy as np
import pytest

from launch import markov_game
from launch.checks import markov as check
from launch.markov import games, measure, report
from launch.runtime.flags import UsageError


def rows_of(path):
  with open(path, encoding="utf-8", newline="") as file:
    return list(csv.DictReader(file))


def test_program_writes_tables_and_picture(tmp_path, capsys):
  assert markov_game.main([
      "markov_game", "--game=grid2", "--weights=1.01,1", f"--out={tmp_path}", "--seeds=2",
      "--steps=200", "--concept=cce",
  ]) == 0
  values = {row["state"]: row for row in rows_of(tmp_path / "values.csv")}
  assert len(values) == 57
  start = values["A00 B20"]
  assert abs(float(start["value_A"]) - 98.01) < 1e-2
  assert abs(float(start["value_B"]) - 49.005) < 1e-2
  assert abs(float(start["gain_A"])) < 1e-4
  policy = [row for row in rows_of(tmp_path / "policy.csv") if row["state"] == "A00 B20"]
  assert [(row["A"], row["B"]) for row in policy] == [("east", "north")]
  assert abs(float(policy[0]["probability"]) - 1) < 1e-3
  learning = rows_of(tmp_path / "learning.csv")
  assert len(learning) == 200 and learning[-1]["steps"] == "200" and learning[-1]["seed"] == "1"
  assert (tmp_path / "markov.png").stat().st_size > 10_000
  printed = capsys.readouterr().out
  assert "the values are stationary" in printed and "2 learners: 400 steps" in printed


def test_a_cycle_is_said(tmp_path, capsys):
  assert markov_game.main(["markov_game", f"--out={tmp_path}"]) == 0
  assert "CYCLE with period 16" in capsys.readouterr().out
  assert not (tmp_path / "learning.csv").exists()
  assert markov_game.main(["markov_game", f"--out={tmp_path}", "--sweeps=3"]) == 0
  assert "NEITHER" in capsys.readouterr().out


def test_games_come_from_files(tmp_path):
  path = tmp_path / "game.npz"
  reward, transition = np.zeros((2, 2, 2, 2)), np.zeros((2, 2, 2, 2))
  reward[0, 0] = 1
  transition[..., 1] = 1
  np.savez(path, reward=reward, transition=transition, start=np.array([1.0, 0.0]), discount=0.5)
  table = games.read(path, None)
  assert table.discount == 0.5 and table.terminal.tolist() == [False, True]
  assert games.read(path, 0.25).discount == 0.25
  found = report.compute(report.Config(file=path, selection="max_entropy"), lambda _: None)
  np.testing.assert_allclose(table.start @ found.result.values, (1, 0), atol=1e-9)


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"reward": np.zeros((1, 2, 2, 2))}, "no array 'transition'"),
        ({"reward": np.zeros((1, 2, 2, 2)), "transition": np.ones((1, 2, 2, 1))}, "no discount"),
        (
            {"reward": np.zeros((1, 2, 2, 2)), "transition": np.ones((1, 2, 2, 1)) / 2,
             "discount": 0.5},
            "4 rows of transition",
        ),
        (
            {"reward": np.zeros((1, 2, 2, 2)), "transition": np.ones((1, 2, 2, 1)),
             "discount": 0.5, "start": np.ones(2)},
            "start must be 1 probabilities",
        ),
        (
            {"reward": np.zeros((1, 3, 2, 2, 2)), "transition": np.ones((1, 2, 2, 2, 1)),
             "discount": 0.5},
            "two players are expected, not 3",
        ),
    ],
)
def test_bad_files_are_named(tmp_path, arrays, message):
  path = tmp_path / "game.npz"
  np.savez(path, **arrays)
  with pytest.raises(UsageError, match=message):
    games.read(path, None)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--game=chess"], "grid1"),
        (["--weights=1"], "each of 2 players"),
        (["--seeds=1", "--steps=150"], "multiple of 100"),
        (["--discount=1"], "less than 1"),
        (["--explore_last=2"], "probability"),
        (["--file=nothing.npz"], "nothing.npz"),
    ],
)
def test_bad_options_are_named(tmp_path, flags, message, capsys):
  assert markov_game.main(["markov_game", f"--out={tmp_path}", *flags]) == 2
  assert message in capsys.readouterr().err


def test_pathfinding_of_openspiel_is_a_table():
  pytest.importorskip("pyspiel")
  table = games.from_openspiel(games.PATHFINDING, 0.99)
  np.testing.assert_allclose(table.transition.sum(-1), 1)
  assert table.num_states == 72 and table.num_actions == (5, 5)
  assert table.reward.min() < 0 < table.reward.max()


def test_scores_are_undiscounted_and_cut():
  table = games.named("grid1")
  joint = np.zeros((58, 4, 4))
  joint[:, 2, 3] = 1  # east and west: the players collide for ever
  np.testing.assert_allclose(games.scores(table, joint, 7), (-7, -7))


def test_known_and_random_games_are_measured(tmp_path, capsys):
  assert check.main([
      "markov", "--parts=known,random", "--games=20", f"--out={tmp_path}",
  ]) == 0
  known = rows_of(tmp_path / "known.csv")
  assert len(known) == 2 * len(measure.KNOWN)
  assert max(float(row["error"]) for row in known if row["error"]) < 1e-2
  assert {row["cycle"] for row in known if row["game"] == "grid2" and not row["error"]} == {"16"}
  for row in rows_of(tmp_path / "random.csv"):
    assert int(row["stationary"]) + int(row["cyclic"]) + int(row["neither"]) == 20
    assert float(row["stage_gap"]) < 1e-6
  assert "random" in capsys.readouterr().out
