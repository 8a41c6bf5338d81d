"""launch.solving.inputs: games that differ in shape, masks, and arrays with two readings."""

import dataclasses
import json
import os
import pathlib

import numpy as np
import pytest
from solve_runs import NUM, PART, Counting, Fake, argv, assert_same, load, new_config, payoffs_of

from launch import nes_solve
from launch.runtime import store
from launch.solving.report import summary
from launch.solving.settings import Config
from launch.solving.work import run
import nes_jax
from nes_jax.games import files

SHAPES = ((2, 3), (1, 2), (3, 1), (2, 3), (2, 3))


@pytest.fixture
def config(tmp_path):
  return new_config(tmp_path)


@pytest.fixture
def ragged(tmp_path):
  """The configuration for a directory of SHAPES in parts of three, and the games."""
  directory = tmp_path / "ragged"
  directory.mkdir()
  rng = np.random.default_rng(0)
  games = [rng.normal(size=(2, *shape)) for shape in SHAPES]
  for k, game in enumerate(games):
    files.write_nfg(directory / f"{k}.nfg", game)
  config = Config(games=str(directory), out=str(tmp_path / "out.npz"), part_size=3)
  return config, games


@pytest.mark.parametrize("concept", ["cce", "ce"])
def test_games_of_different_shapes(ragged, concept):
  config, games = ragged
  games[1][1, 0, 1] = np.nan
  files.write_nfg(pathlib.Path(config.games, "1.nfg"), games[1])
  fake = Fake()
  report, names = run(dataclasses.replace(config, concept=concept), solve=fake)
  assert names == tuple(f"{k}.nfg" for k in range(5))
  # Games of the first part differ in shape. The second part is a batch, filled up to a whole part.
  (first, options), (second, others) = fake.calls
  assert isinstance(first, list) and "batched" not in options and others["batched"] is True
  assert options["selection"] == "max_entropy" and options["invalid"] == "mark"
  for given, game in zip(first, games[:3]):
    np.testing.assert_array_equal(given, game)
  np.testing.assert_array_equal(second, np.stack([games[3], games[4], games[4]]))
  answers = load(config.out)
  assert answers["strategies"].dtype == np.int32
  np.testing.assert_array_equal(answers["strategies"], SHAPES)
  assert list(answers["invalid"]) == [False, True, False, False, False]
  for k, (game, (rows, columns)) in enumerate(zip(games, SHAPES)):
    mark = np.nan if k == 1 else 1
    joint = np.zeros((3, 3), np.float32)
    joint[:rows, :columns] = mark / (rows * columns)
    np.testing.assert_array_equal(answers["joint"][k], joint)
    for p, count in enumerate((rows, columns)):
      there = np.arange(3) < count
      np.testing.assert_array_equal(
          answers[f"marginals_{p}"][k], np.where(there, np.float32(mark / count), 0)
      )
      there = np.outer(there, there) if concept == "ce" else there
      np.testing.assert_array_equal(answers[f"duals_{p}"][k], np.where(there, mark, 0))
    np.testing.assert_array_equal(answers["gap"][k], np.float32(game[0, 0, 0] * mark))
  assert (report.converged, report.invalid, report.first_invalid) == (4, 1, [1])
  assert "5 of 2 players, at most 3x3 strategies" in summary(report, names)


def test_games_of_different_shapes_continue(ragged):
  config, _ = ragged
  run(config, solve=Fake())
  whole = load(config.out)
  os.unlink(config.out)
  fake = Fake()

  def stop(payoffs, **options):
    if fake.calls:
      raise RuntimeError("killed")
    return fake(payoffs, **options)

  with pytest.raises(RuntimeError, match="killed"):
    run(config, solve=stop)
  again = Fake()
  run(config, solve=again)
  assert len(again.calls) == 1
  assert_same(load(config.out), whole)


@pytest.mark.parametrize(
    "changes, has_welfare",
    [
        ({"selection": "eps-ME", "epsilon": 0.25, "rho": 50.0}, False),
        ({"selection": "max_strength", "rho": 70.0}, False),
        ({"welfare": "sum"}, True),
        ({"selection": "max_welfare", "welfare_weight": 7.0}, True),
        ({"selection": "eps-MWME", "epsilon": 0.25, "welfare": "sum"}, True),
    ],
)
def test_selections_of_games_of_different_shapes(ragged, changes, has_welfare):
  config, games = ragged
  games[0][0, 1], games[2][1, 2, 0] = -np.inf, np.nan
  for k in (0, 2):
    files.write_nfg(pathlib.Path(config.games, f"{k}.nfg"), games[k])
  fake = Fake()
  run(dataclasses.replace(config, **changes), solve=fake)
  selection = fake.calls[0][1]["selection"]
  assert isinstance(selection, list) == has_welfare
  every = selection if has_welfare else [selection]
  for name in ("epsilon", "rho", "welfare_weight"):
    if name in changes:
      assert [getattr(chosen, name) for chosen in every] == [changes[name]] * len(every)
  if has_welfare:
    # The second strategy of player 1 does not exist in game 0, and game 2 is invalid.
    first, third = games[0].sum(0), games[2].sum(0)
    first[1], third[2] = 0, 0
    for chosen, welfare in zip(every, (first, games[1].sum(0), third), strict=True):
      np.testing.assert_array_equal(chosen.welfare, welfare)


def test_max_welfare_alone_goes_by_name(ragged):
  config, _ = ragged
  fake = Fake()
  run(dataclasses.replace(config, selection="MU"), solve=fake)
  assert fake.calls[0][1]["selection"] == "MU"


@pytest.mark.parametrize(
    "name, selection, advice",
    [("target", "MT", "leave out --target"), ("welfare", "MWME", "or pass --welfare=sum")],
)
def test_files_do_not_fit_games_of_different_shapes(
    ragged, tmp_path, capfd, monkeypatch, name, selection, advice
):
  def compiled(*_, **__):
    raise AssertionError("reached the solver")

  monkeypatch.setattr("launch.solving.answers.solve_part", compiled)
  config, _ = ragged
  path = tmp_path / "array.npy"
  np.save(path, np.full((3, 3), 1 / 9))
  assert nes_solve.main(argv(config, selection=selection, **{name: str(path)})) == 2
  error = capfd.readouterr().err
  assert f"--{name}={path}: the games of --games={config.games} differ in shape" in error
  assert advice in error and not pathlib.Path(config.out + ".parts").exists()


def test_games_of_different_shapes_have_the_answers_of_each_alone(ragged):
  config, games = ragged
  report, _ = run(dataclasses.replace(config, precision="float64"))
  assert report.converged == 5
  answers = load(config.out)
  # One player has a single strategy, so the other one takes the best of two or three.
  expected = np.zeros((5, 3, 3))
  expected[1, 0, np.argmax(games[1][1, 0])] = 1
  expected[2, np.argmax(games[2][0, :, 0]), 0] = 1
  alone = nes_jax.solve(
      np.stack([games[k] for k in (0, 3, 4)]), precision="float64", batched=True
  )
  expected[[0, 3, 4], :2] = alone.joint
  np.testing.assert_allclose(answers["joint"], expected, atol=1e-3)
  np.testing.assert_allclose(answers["marginals_0"], expected.sum(2), atol=1e-3)
  np.testing.assert_allclose(answers["marginals_1"], expected.sum(1), atol=1e-3)
  assert not answers["duals_0"][1, 1:].any() and not answers["duals_1"][2, 1:].any()


@pytest.mark.parametrize("changes", [{}, {"selection": "max_welfare"}])
def test_masked_strategies_of_an_array_are_valid(config, changes):
  payoffs = payoffs_of(PART)
  payoffs[5, 0, 1:] = -np.inf  # Player 1 has one strategy.
  payoffs[6, 1, :, 3] = -np.inf  # Player 2 has three strategies.
  payoffs[7, 0, 1, 1] = -np.inf  # The game is invalid, since no missing strategy explains this.
  files.write_npz(config.games, payoffs)
  run(dataclasses.replace(config, **changes))
  answers = load(config.out)
  assert list(np.flatnonzero(answers["invalid"])) == [7]
  assert answers["converged"][[5, 6]].all()
  assert not answers["joint"][5, 1:].any() and not answers["joint"][6, :, 3].any()
  # The best response of player 2 to the only strategy of player 1.
  best = np.argmax(payoffs[5, 1, 0])
  np.testing.assert_allclose(answers["joint"][5, 0, best], 1, atol=1e-2)
  np.testing.assert_allclose(answers["joint"][[5, 6]].sum((1, 2)), 1, atol=1e-4)
  np.testing.assert_array_equal(answers["strategies"], [[4, 4]] * PART)


def test_invalid_is_what_solve_marks(config):
  payoffs = payoffs_of()
  payoffs[2, 0, 1] = -np.inf  # This strategy does not exist.
  payoffs[3, 0, 0, 0] = 101  # `Fake` does not converge.
  payoffs[4, 1, 2, 2] = np.nan
  files.write_npz(config.games, payoffs)
  fake = Fake()
  report, _ = run(dataclasses.replace(config, welfare="sum"), solve=fake)
  answers = load(config.out)
  assert list(np.flatnonzero(answers["invalid"])) == [4]
  assert list(np.flatnonzero(~answers["converged"])) == [3, 4]
  assert (report.converged, report.not_converged, report.invalid) == (NUM - 2, 1, 1)
  welfare = fake.calls[0][1]["selection"].welfare
  assert not welfare[2, 1].any() and welfare[4, 2, 2] == 0
  np.testing.assert_array_equal(welfare[2, 0], payoffs[2, :, 0].sum(0))


# Arrays with two readings.


def ambiguous(config):
  payoffs = np.random.default_rng(3).normal(size=(3, 2, 2, 2))
  np.savez(config.games, payoffs=payoffs)
  return payoffs


def test_two_readings_are_refused(config, capfd, monkeypatch):
  def compiled(*_, **__):
    raise AssertionError("reached the solver")

  monkeypatch.setattr("launch.solving.answers.solve_part", compiled)
  ambiguous(config)
  assert nes_solve.main(argv(config)) == 2
  assert (
      f"--games={config.games} holds an array of shape [3, 2, 2, 2], which can be read as 3 games"
      " of 2 players and as one game of 3 players: pass --batched for 3 games of 2 players, or"
      " --nobatched for one game of 3 players\n"
      in capfd.readouterr().err
  )
  assert not pathlib.Path(config.out + ".parts").exists()
  # The shape of these games has one reading, which is a batch.
  files.write_npz(config.games, payoffs_of())
  assert nes_solve.main([*argv(config), "--nobatched"]) == 2
  assert "can only be a batch, and one game was asked for" in capfd.readouterr().err


@pytest.mark.parametrize("flag, batched", [("--batched", True), ("--nobatched", False)])
def test_flags_choose_a_reading(config, flag, batched):
  payoffs = ambiguous(config)
  chosen = nes_solve.config_of([*argv(config), flag])
  assert chosen.batched is batched
  fake = Fake()
  report, _ = run(chosen, solve=fake)
  assert report.num_games == (3 if batched else 1)
  np.testing.assert_array_equal(fake.calls[0][0], payoffs if batched else payoffs[None])
  answers = load(config.out)
  assert json.loads(str(answers["meta"]))["task"]["--batched"] == str(batched)
  assert answers["strategies"].tolist() == ([[2, 2]] * 3 if batched else [[2, 2, 2]])


def test_the_reading_belongs_to_the_task(config):
  fake = Fake()
  run(config, solve=fake)
  assert "--batched" not in json.loads(str(load(config.out)["meta"]))["task"]
  os.unlink(config.out)
  with pytest.raises(RuntimeError):
    run(config, solve=Counting(fail_at=1))
  with pytest.raises(store.StoreError, match="--batched was not given and is now True"):
    run(dataclasses.replace(config, batched=True), solve=fake)
