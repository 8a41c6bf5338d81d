"""The program `launch.region`, its check, and the picture."""

import csv

import jax
import numpy as np
import pytest

from launch import region as program
from launch.checks import region as check
from launch.figures import region as picture
from launch.regions import games
from launch.runtime.flags import UsageError
from launch.runtime.program import Failed
from nes_jax import region
from nes_jax.games import files


def rows_of(path):
  with path.open(newline="") as file:
    return list(csv.DictReader(file))


def test_tables_and_picture(tmp_path, capsys):
  assert program.main(["region", "--game=chicken", f"--out={tmp_path}"]) == 0
  hulls = rows_of(tmp_path / "hulls.csv")
  inner = [row for row in hulls if row["concept"] == "ce" and row["hull"] == "inner"]
  corners = {(round(float(row["payoff_1"]), 6), round(float(row["payoff_2"]), 6)) for row in inner}
  assert corners == {(2, 7), (7, 2), (3.6, 3.6), (5.25, 5.25)}
  assert {row["hull"] for row in hulls} == {"inner", "outer"}
  vertices = rows_of(tmp_path / "vertices.csv")
  assert len(vertices) == 10  # five of each concept
  for row in vertices:
    joint = np.array([[float(row[f"joint_{i}_{j}"]) for j in (1, 2)] for i in (1, 2)])
    assert joint.sum() == pytest.approx(1)
    assert (games.NAMED["chicken"][0] * joint).sum() == pytest.approx(float(row["payoff_1"]))
  assert (tmp_path / "region.png").stat().st_size > 10_000
  printed = capsys.readouterr().out
  assert "8.25" in printed and "NOT CERTIFIED" not in printed and "5+0+0" in printed


def test_a_file_of_games_and_other_players(tmp_path):
  batch = np.random.default_rng(0).normal(size=(4, 3, 2, 2, 2))
  files.write_npz(tmp_path / "games.npz", batch)
  out = tmp_path / "out"
  out.mkdir()
  (out / "vertices.csv").write_text("that of an earlier run")
  flags = [f"--game={tmp_path / 'games.npz'}", "--index=3", "--batched", f"--out={out}"]
  flags += ["--players=3,1", "--concept=cce", "--rounds=0"]
  assert program.main(["region", *flags]) == 0
  assert not (out / "vertices.csv").exists()
  found = region.payoffs(batch[3], players=(2, 0), batched=False)
  outer = [row for row in rows_of(out / "hulls.csv") if row["hull"] == "outer"]
  corners = np.array([[float(row["payoff_3"]), float(row["payoff_1"])] for row in outer])
  np.testing.assert_allclose(corners, found.outer, atol=1e-9)


def test_titles():
  assert games.title("battle_of_the_sexes", 0) == "Battle of the sexes"
  assert games.title("random:8x8", 0) == "A random 8x8 game"
  assert games.title("some/games.npz", 3) == "games.npz, game 3"


def test_random_games():
  game = games.read("random:2x3x4", 0, 5, None)
  assert game.shape == (3, 2, 3, 4)
  np.testing.assert_array_equal(game, games.read("random:2x3x4", 0, 5, None))
  with pytest.raises(UsageError, match="at least one strategy"):
    games.read("random:0x2", 0, 0, None)


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "--game=NAME|FILE|DIRECTORY is needed"),
        (["--game=nothing"], "known by name are chicken"),
        (["--game=chicken", "--directions=3"], "at least 8"),
        (["--game=chicken", "--players=1,1"], "two different numbers"),
        (["--game=chicken", "--players=1,3"], "the game has 2 players"),
        (["--game=chicken", "--rounds=-1"], "0 or more"),
        (["--game=chicken", "--seed=-1"], "0 or more"),
        (["--game=chicken", "--concept="], "--concept= is empty"),
        (["--game=tests/data/gamut_8x8.npz", "--index=-1"], "holds games 0 to"),
    ],
)
def test_bad_options_are_named(flags, message, capsys):
  assert program.main(["region", *flags]) == 2
  assert message in capsys.readouterr().err


def test_bad_files_are_named(tmp_path):
  path = tmp_path / "games.npz"
  np.savez(path, payoffs=np.zeros((3, 2, 4, 4)))
  with pytest.raises(UsageError, match="pass --batched for 3 games"):
    games.read(str(path), 0, 0, None)
  assert games.read(str(path), 2, 0, True).shape == (2, 4, 4)
  np.savez(path, payoffs=np.full((2, 4, 4), np.nan))
  with pytest.raises(UsageError, match="NaN or infinite"):
    games.read(str(path), 0, 0, None)


def test_picture_shows_hulls_and_marks():
  found = {c.upper(): region.payoffs(games.NAMED["shapley"], 16, c) for c in ("cce", "ce")}
  figure = picture.draw(found, {"here": [0.4, 0.4]}, title="Shapley")
  (ax,) = figure.axes
  labels = [text.get_text() for text in ax.get_legend().get_texts()]
  assert "CCE, attained (inner hull)" in labels and "CE, bound (outer hull)" in labels
  assert labels[-2:] == ["joint strategies", "here"]
  point = picture.draw(region.payoffs(games.NAMED["prisoners_dilemma"], 16))
  (ax,) = point.axes
  labels = [text.get_text() for text in ax.get_legend().get_texts()]
  assert labels == ["equilibria: one point", "joint strategies"]


def test_picture_refuses_batches_and_many_marks():
  found = region.payoffs(games.NAMED["chicken"][None], 8)
  with pytest.raises(ValueError, match="batch of 1 games"):
    picture.draw(found)
  one = jax.tree.map(lambda x: x[0], found)
  with pytest.raises(ValueError, match="at most 4"):
    picture.draw(one, {str(k): [0, 0] for k in range(5)})
  assert picture.draw(one)


def test_check_meets_its_targets_and_says_which_are_missed(tmp_path, monkeypatch, capsys):
  run = check.Run(out=tmp_path, games=5, small_games=10, larger_games=2)
  assert check.measure(run)["seconds"] < check.SECONDS
  text = (tmp_path / "region.md").read_text()
  assert text.count("2x2") == 2 and text in capsys.readouterr().out
  monkeypatch.setattr(check, "DIFFERENCE", 0.0)
  monkeypatch.setattr(check, "ERROR", -1.0)
  with pytest.raises(Failed, match="hulls of cce differ by more.*Chicken, cce; Chicken, ce"):
    check.measure(run)
