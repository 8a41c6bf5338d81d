"""launch.nes_solve: every input, the same answers as nes_jax.solve, stops, damage and bad flags."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from launch import nes_solve
from launch.runtime import progress, store
from launch.runtime.flags import UsageError
from launch.solving.answers import answer_schema
from launch.solving.parts import part_size
from launch.solving.report import Report, summary
from launch.solving.settings import Config
from launch.solving.work import run
import nes_jax
from nes_jax.games import files

# One number of games and one part size, so that most tests share one compiled program.
NUM, PART = 40, 16
KEYS = ("joint", "epsilon", "gap", "residual", "converged", "iterations", "repeated", "invalid")
ROOT = pathlib.Path(__file__).parent.parent


def payoffs_of(num_games=NUM, seed=0):
  return np.random.default_rng(seed).normal(size=(num_games, 2, 4, 4))


@pytest.fixture
def config(tmp_path):
  files.write_npz(tmp_path / "games.npz", payoffs_of())
  return Config(
      games=str(tmp_path / "games.npz"), out=str(tmp_path / "out.npz"), part_size=PART
  )


def argv(config, **changes):
  values = dataclasses.asdict(dataclasses.replace(config, **changes))
  flags = [f"--{name}={value}" for name, value in values.items() if value is not None]
  return ["nes_solve", *flags]


def load(path):
  with np.load(path, allow_pickle=False) as archive:
    return dict(archive)


def assert_same(a, b):
  assert a.keys() == b.keys()
  for key in a.keys() - {"meta"}:
    np.testing.assert_array_equal(a[key], b[key], err_msg=key)
    assert a[key].dtype == b[key].dtype


class Counting:
  """nes_jax.solve that counts its calls, and fails at one of them."""

  def __init__(self, fail_at=None):
    self.calls, self.fail_at = 0, fail_at

  def __call__(self, payoffs, **options):
    if self.calls == self.fail_at:
      raise RuntimeError("killed")
    self.calls += 1
    return nes_jax.solve(payoffs, **options)


def test_npz_end_to_end(config, capfd):
  assert nes_solve.main(argv(config)) == 0
  printed = capfd.readouterr()
  answers = load(config.out)
  payoffs = payoffs_of()
  for start in (0, 16):
    sol = nes_jax.solve(payoffs[start : start + PART], batched=True)
    for key in KEYS[:-1]:
      np.testing.assert_array_equal(answers[key][start : start + PART], getattr(sol, key))
    for p in range(2):
      np.testing.assert_array_equal(answers[f"duals_{p}"][start : start + PART], sol.duals[p])
      np.testing.assert_array_equal(
          answers[f"marginals_{p}"][start : start + PART], sol.marginals[p]
      )
  # The last part is filled up for the solver, and its answers are cut again.
  last = nes_jax.solve(payoffs[-PART:], batched=True)
  np.testing.assert_allclose(answers["joint"][-8:], last.joint[-8:], atol=1e-4)
  assert answers["joint"].shape == (NUM, 4, 4) and answers["converged"].all()
  assert not answers["invalid"].any()
  meta = json.loads(str(answers["meta"]))
  assert meta["task"]["--concept"] == "cce" and "jax" in meta["versions"][0]
  assert not pathlib.Path(config.out + ".parts").exists()
  assert "NOT CONVERGED" not in printed.out and "games a second" in printed.out
  assert "platform" in printed.err and "it/s" not in printed.err


def test_existing_answers_are_kept(config, capfd):
  out = pathlib.Path(config.out)
  out.write_bytes(b"precious")
  assert nes_solve.main(argv(config)) == 2
  assert "--overwrite" in capfd.readouterr().err and out.read_bytes() == b"precious"
  assert nes_solve.main(argv(config, overwrite=True)) == 0
  assert len(load(out)["gap"]) == NUM


def test_directory(config, tmp_path):
  directory = tmp_path / "games"
  directory.mkdir()
  payoffs = payoffs_of(PART)
  for k, game in enumerate(payoffs):
    files.write_nfg(directory / f"game{k:02d}.nfg", game)
  run(dataclasses.replace(config, games=str(directory)))
  answers = load(config.out)
  assert list(answers["names"][:2]) == ["game00.nfg", "game01.nfg"]
  sol = nes_jax.solve(payoffs, batched=True)
  np.testing.assert_array_equal(answers["joint"], sol.joint)


def test_openspiel(config):
  pytest.importorskip("pyspiel")
  report, _ = run(dataclasses.replace(config, games="openspiel:matrix_pd"))
  assert report.converged == 1
  # Defection dominates.
  np.testing.assert_allclose(load(config.out)["joint"], [[[0, 0], [0, 1]]], atol=1e-3)


def test_continues_with_the_same_bytes(config):
  run(config)
  whole = pathlib.Path(config.out).read_bytes()
  os.unlink(config.out)
  with pytest.raises(RuntimeError, match="killed"):
    run(config, solve=Counting(fail_at=2))
  parts = pathlib.Path(config.out + ".parts")
  assert sorted(p.name for p in parts.glob("part*")) == ["part-000000.npz", "part-000001.npz"]
  assert not pathlib.Path(config.out).exists()
  lines, counting = [], Counting()
  # Without --part_size, the run takes the part size of the stopped one.
  again = dataclasses.replace(config, part_size=None)
  report, _ = run(again, solve=counting, say=lines.append)
  assert counting.calls == 1 and report.solved_here == 8 and report.converged == NUM
  assert lines == ["continuing at game 32 of 40"]
  assert pathlib.Path(config.out).read_bytes() == whole
  assert not parts.exists()


def test_two_hosts_write_the_same_answers(config, tmp_path, coordinator):
  """Three parts over two processes of two devices each."""
  assert nes_solve.main(argv(config)) == 0
  out = str(tmp_path / "two.npz")
  flags = [f"--coordinator={coordinator}", "--num_processes=2"]
  command = [sys.executable, "-m", "launch.nes_solve", *argv(config, out=out)[1:], *flags]
  devices = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
  both = [
      subprocess.Popen(
          [*command, f"--process_id={me}"], cwd=ROOT, env=devices, stdout=subprocess.PIPE,
          text=True,
      )
      for me in range(2)
  ]
  said = [process.communicate(timeout=300)[0] for process in both]
  assert [process.returncode for process in both] == [0, 0]
  assert f"{NUM} of 2 players" in said[0] and "players" not in said[1]
  assert_same(load(config.out), load(out))
  assert not list((tmp_path / "two.npz.parts").glob("part-*"))


@pytest.mark.parametrize("damage", ["cut", "flip", "other"])
def test_damaged_part_is_solved_again(config, damage):
  run(config)
  whole = load(config.out)
  os.unlink(config.out)
  with pytest.raises(RuntimeError):
    run(config, solve=Counting(fail_at=2))
  part = pathlib.Path(config.out + ".parts", "part-000000.npz")
  content = bytearray(part.read_bytes())
  if damage == "cut":
    content = content[: len(content) // 2]
  elif damage == "flip":
    content[600] ^= 1  # a byte of the joints
  part.write_bytes(content)
  if damage == "other":
    np.savez(part, joint=np.zeros(3))
  lines, counting = [], Counting()
  run(config, solve=counting, say=lines.append)
  assert counting.calls == 2 and "damaged" in lines[0]
  assert_same(load(config.out), whole)


def test_other_options_or_games_are_refused(config, capfd):
  with pytest.raises(RuntimeError):
    run(config, solve=Counting(fail_at=1))
  assert nes_solve.main(argv(config, tolerance=1e-3)) == 2
  error = capfd.readouterr().err
  assert "--tolerance was not given and is now 0.001" in error and "delete the directory" in error
  assert nes_solve.main(argv(config, part_size=8)) == 2
  assert "--part_size was 16 and is now 8" in capfd.readouterr().err
  files.write_npz(config.games, payoffs_of(seed=1))
  assert nes_solve.main(argv(config)) == 2
  assert "--games was" in capfd.readouterr().err
  # A store without parts may be replaced.
  os.unlink(pathlib.Path(config.out + ".parts", "part-000000.npz"))
  assert nes_solve.main(argv(config)) == 0


def test_two_runs_at_once_are_refused(config):
  with pytest.raises(RuntimeError):
    run(config, solve=Counting(fail_at=1))
  directory = pathlib.Path(config.out + ".parts")
  task = store.read_manifest(directory)["task"]
  schema = answer_schema((2, 4, 4), config)
  with store.Parts(directory, schema, NUM, PART) as parts:
    parts.open(task, "")
    with pytest.raises(store.StoreError, match="another run is at work"):
      run(config)
  run(config)


def test_invalid_games_are_marked(config, capfd):
  payoffs = payoffs_of()
  payoffs[3, 0, 1, 1], payoffs[20, 1] = np.nan, np.inf
  files.write_npz(config.games, payoffs)
  assert nes_solve.main(argv(config)) == 0
  printed = capfd.readouterr().out
  answers = load(config.out)
  assert list(np.flatnonzero(answers["invalid"])) == [3, 20]
  assert np.isnan(answers["joint"][[3, 20]]).all() and not answers["converged"][[3, 20]].any()
  others = np.delete(np.arange(NUM), [3, 20])
  assert np.isfinite(answers["joint"][others]).all() and answers["converged"][others].all()
  assert "INVALID" in printed and "2 (game 3, game 20)" in printed and "WARNING" not in printed


def test_invalid_games_do_not_spoil_the_welfare_of_others(config):
  payoffs = payoffs_of()
  payoffs[3, 0, 1, 1] = np.nan
  files.write_npz(config.games, payoffs)
  welfares = []

  def solve(payoffs, **options):
    welfares.append(options["selection"].welfare)
    return nes_jax.solve(payoffs, batched=True, invalid="mark")

  run(dataclasses.replace(config, selection="max_welfare"), solve=solve)
  assert np.isfinite(welfares[0]).all()
  np.testing.assert_array_equal(welfares[0][4:], payoffs[4:PART].sum(1))


# Games that differ in shape, and strategies that do not exist.

SHAPES = ((2, 3), (1, 2), (3, 1), (2, 3), (2, 3))


class Fake:
  """Answers at once: uniform joints, duals of one, and a gap that is the game's first payoff.

  A game that holds NaN is marked; one whose first payoff is above 100 does not converge.
  """

  def __init__(self):
    self.calls = []  # pairs of payoffs and options

  def __call__(self, payoffs, **options):
    self.calls.append((payoffs, options))
    answers = [self.answer(game, options) for game in payoffs]
    if isinstance(payoffs, list):
      return answers
    return nes_jax.Solution(*(
        tuple(map(np.stack, zip(*field))) if isinstance(field[0], tuple) else np.stack(field)
        for field in zip(*answers)
    ))

  def answer(self, game, options):
    real, counts = np.dtype(options["precision"]), game.shape[1:]
    first = game[(0,) * game.ndim]
    mark = real.type(np.nan if np.isnan(game).any() else 1)
    residual = np.inf if first > 100 else 0
    square = options["concept"] == "ce"
    return nes_jax.Solution(
        joint=np.full(counts, mark / np.prod(counts), real),
        epsilon=np.zeros(len(counts), real),
        gap=real.type(first * mark),
        residual=real.type(residual * mark if residual else mark - 1),
        converged=np.bool_(residual == 0 and not np.isnan(mark)),
        duals=tuple(np.full((count, count) if square else count, mark, real) for count in counts),
        marginals=tuple(np.full(count, mark / count, real) for count in counts),
        iterations=np.int32(3),
        repeated=np.bool_(False),
    )


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
  # The first part is of different shapes. The second is a batch, filled up to a whole part.
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
    # Player 1's second strategy does not exist in game 0, and game 2 is invalid.
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
  payoffs[5, 0, 1:] = -np.inf  # player 1 has one strategy
  payoffs[6, 1, :, 3] = -np.inf  # player 2 has three
  payoffs[7, 0, 1, 1] = -np.inf  # invalid: no strategy explains it
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
  payoffs[2, 0, 1] = -np.inf  # a strategy that does not exist
  payoffs[3, 0, 0, 0] = 101  # the fake does not converge
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
  # The shape of the other games has one reading, which is not that of one game.
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


def test_summary_is_loud_about_what_did_not_converge():
  report = Report(10, (2, 4, 4))
  arrays = {
      "invalid": np.zeros(10, bool),
      "converged": np.arange(10) >= 7,
      "repeated": np.zeros(10, bool),
      "gap": np.full(10, 0.5),
      "residual": np.where(np.arange(10) == 1, np.nan, 0.1),
      "iterations": np.arange(10),
  }
  report.add(0, arrays)
  text = summary(report)
  assert "NOT CONVERGED" in text and "(game 0, game 1, game 2, game 3, game 4, ...)" in text
  assert "WARNING: 7 of 10" in text and "mean 4.5, most 9" in text and "worst nan" in text
  assert "one.nfg" in summary(report, ("zero.nfg", "one.nfg") + ("x",) * 8)


def test_target_and_scalars_reach_solve(config, tmp_path):
  target = np.random.default_rng(1).dirichlet(np.ones(16), NUM).reshape(NUM, 4, 4)
  np.save(tmp_path / "target.npy", target)
  seen = []

  def solve(payoffs, **options):
    seen.append(options)
    return nes_jax.solve(payoffs)

  changed = dataclasses.replace(
      config,
      selection="eps-MRE",
      target=str(tmp_path / "target.npy"),
      epsilon=0.25,
      rho=50.0,
      welfare="sum",
      tolerance=1e-3,
  )
  run(changed, solve=solve)
  selection = seen[1]["selection"]
  np.testing.assert_array_equal(selection.target, target[16:32])
  np.testing.assert_array_equal(seen[2]["selection"].target[8:], np.repeat(target[-1:], 8, 0))
  np.testing.assert_allclose(selection.welfare, payoffs_of()[16:32].sum(1))
  assert (selection.epsilon, selection.rho, seen[1]["tolerance"]) == (0.25, 50.0, 1e-3)
  assert seen[1]["invalid"] == "mark" and seen[1]["batched"] is True
  task = json.loads(str(load(config.out)["meta"]))["task"]
  assert "fingerprint" in task["--target"] and task["--epsilon"] == "0.25"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"concept": "nash"}, "--concept=nash"),
        ({"selection": "best"}, "--selection=best: use one of max_entropy"),
        ({"selection": "match_target"}, "needs --target"),
        ({"method": "magic"}, "--method=magic: use one of auto, exact, neural, refined"),
        ({"precision": "float16"}, "--precision"),
        ({"tolerance": -1.0}, "--tolerance=-1.0: must be positive"),
        ({"tolerance": float("nan")}, "--tolerance=nan"),
        ({"max_iterations": 0}, "--max_iterations=0: must be at least 1"),
        ({"part_size": "many"}, "--part_size"),
        ({"part_size": 0}, "--part_size=0: must be at least 1"),
        ({"rho": 0.0}, "--rho=0.0"),
        ({"epsilon": -float("inf")}, "needs a finite --rho"),
        ({"welfare_weight": 2.0}, "without a welfare"),
        ({"target": "absent.npy"}, "--target=absent.npy cannot be read"),
        ({"games": None}, "--games is missing"),
        ({"games": "absent.npz"}, "absent.npz: no such file"),
        ({"games": "openspiel:absent"}, "openspiel:absent: OpenSpiel"),
        ({"out": None}, "--out is missing"),
        ({"out": "answers.txt"}, "--out=answers.txt: give a name that ends in .npz"),
    ],
)
def test_bad_flags(config, changes, message, capfd, monkeypatch):
  def compiled(*_, **__):
    raise AssertionError("reached the solver")

  monkeypatch.setattr("launch.solving.answers.solve_part", compiled)
  assert nes_solve.main(argv(config, **changes)) == 2
  error = capfd.readouterr().err
  assert "Traceback" not in error
  # The start line and messages of OpenSpiel may stand beside the error.
  lines = [line for line in error.splitlines() if line.startswith("nes_solve: ")]
  lines = [line for line in lines if "platform" not in line]
  assert len(lines) == 1 and message in lines[0]
  assert not pathlib.Path(config.out + ".parts").exists()


def test_unknown_flags_arguments_and_help(capfd):
  assert nes_solve.main(["nes_solve", "--game=x"]) == 2
  assert "game" in capfd.readouterr().err
  assert nes_solve.main(["nes_solve", "games.npz"]) == 2
  assert "unexpected argument 'games.npz'" in capfd.readouterr().err
  assert nes_solve.main(["nes_solve", "--help"]) == 0
  assert "python -m launch.nes_solve --games=games.npz" in capfd.readouterr().out


def test_bad_targets(config, tmp_path):
  path = str(tmp_path / "t.npy")
  changed = dataclasses.replace(config, selection="MT", target=path)
  np.save(path, np.ones((3, 3)) / 9)
  with pytest.raises(UsageError, match=r"has shape \[3, 3\]: it must be \[4, 4\]"):
    run(changed)
  rows = np.full((NUM, 4, 4), 1 / 16)
  rows[5] = 1
  np.save(path, rows)
  with pytest.raises(UsageError, match="row 5: must be non-negative"):
    run(changed)
  pathlib.Path(path).write_bytes(b"no array")
  with pytest.raises(UsageError, match="not a .npy or .npz"):
    run(changed)


def test_truth_values_are_a_target(config, tmp_path):
  np.save(tmp_path / "t.npy", np.arange(16).reshape(4, 4) == 5)
  fake = Fake()
  changed = dataclasses.replace(config, selection="MT", target=str(tmp_path / "t.npy"))
  run(changed, solve=fake)
  target = fake.calls[0][1]["selection"].target
  assert target.dtype == np.float64 and target[1, 1] == 1 and target.sum() == 1


def test_unwritable_and_full_disks(config, tmp_path, capfd, monkeypatch):
  # A file stands where a directory is needed. Root may write everywhere else.
  assert nes_solve.main(argv(config, out=f"{config.games}/out.npz")) == 2
  assert "cannot write in" in capfd.readouterr().err
  assert nes_solve.main(argv(config, out=config.games, overwrite=True)) == 2
  assert "the same file" in capfd.readouterr().err
  usage = shutil.disk_usage(tmp_path)._replace(free=100)
  monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
  assert nes_solve.main(argv(config)) == 2
  assert "make room" in capfd.readouterr().err
  monkeypatch.undo()

  def full(*_):
    raise OSError(28, "No space left on device", "part")

  monkeypatch.setattr("os.fsync", full)
  monkeypatch.setattr(store.Parts, "open", lambda self, *_: self.directory.mkdir(exist_ok=True))
  assert nes_solve.main(argv(config)) == 1
  error = capfd.readouterr().err
  assert "No space left" in error and "continues" in error
  assert not list(tmp_path.glob("out.npz.parts/*"))  # no incomplete file


def test_sigterm_stops_where_it_continues(config):
  many = payoffs_of(1600)
  files.write_npz(config.games, many)
  command = [sys.executable, "-m", "launch.nes_solve", *argv(config)[1:]]
  process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
  marker = pathlib.Path(config.out + ".parts", "part-000000.npz")
  deadline = time.monotonic() + 120
  while not marker.exists() and process.poll() is None and time.monotonic() < deadline:
    time.sleep(0.002)
  process.send_signal(signal.SIGTERM)
  _, error = process.communicate(timeout=120)
  assert process.returncode == 143, error
  assert "SIGTERM: saving; send it again" in error and "given again, continues" in error
  done = len(list(marker.parent.glob("part-*")))
  assert 1 <= done < 100 and not list(marker.parent.glob(".*.tmp"))
  counting = Counting()
  run(config, solve=counting)
  assert counting.calls == 100 - done
  resumed = load(config.out)
  run(dataclasses.replace(config, overwrite=True))
  assert_same(resumed, load(config.out))


@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 64, 64), (3, 8, 8, 8)])
@pytest.mark.parametrize("concept", ["cce", "ce"])
def test_default_parts_fit(shape, concept, tmp_path):
  source = files.Source(1_000_003, shape)
  config = Config(games="", out="", concept=concept)
  size = part_size(config, source, tmp_path)
  schema = answer_schema(shape, config)
  assert 1 <= size <= 65536
  assert size * (8 * np.prod(shape) + store.row_bytes(schema)) <= 2**28
  # Parts have almost equal sizes, so that filling up the last one costs next to nothing.
  parts = -(-1_000_003 // size)
  assert parts * size - 1_000_003 < parts


@pytest.mark.parametrize("games, parts", [(100_000, 8), (3000, 3), (10, 1)])
def test_every_device_has_a_part_that_is_worth_it(monkeypatch, tmp_path, games, parts):
  monkeypatch.setattr("jax.device_count", lambda: 8)
  source = files.Source(games, (2, 2, 2))
  size = part_size(Config(games="", out=""), source, tmp_path)
  assert -(-games // size) == parts


def test_the_rate_counts_what_was_not_compiled():
  report = Report(10, (2, 4, 4), solved_here=10, seconds=5.0)
  assert "games a second       2 in all\n" in summary(report) + "\n"
  report = dataclasses.replace(report, steady_games=4, steady_seconds=0.5)
  assert "2 in all, 8 where nothing was compiled" in summary(report)


def test_compile_clock_counts_overlapping_spans_once():
  clock = progress.CompileClock()
  clock._spans = [(0.0, 4.0), (1.0, 2.0), (3.0, 5.0), (7.0, 8.0)]
  assert clock.seconds() == 6.0
