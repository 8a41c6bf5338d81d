"""launch.nes_solve: answers of every kind of input, runs that continue, damage, and stops."""

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
from solve_runs import NUM, PART, ROOT, Counting, argv, assert_same, load, new_config, payoffs_of

from launch import nes_solve
from launch.runtime import store
from launch.solving.answers import answer_schema
from launch.solving.work import run
import nes_jax
from nes_jax.games import files

KEYS = ("joint", "epsilon", "gap", "residual", "converged", "iterations", "repeated", "invalid")


@pytest.fixture
def config(tmp_path):
  return new_config(tmp_path)


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
  # The solver gets a last part that is filled up, and the surplus answers are dropped.
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
  # In the prisoner's dilemma both players defect.
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
  """Two processes of two devices each solve three parts, with the answers of one process."""
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
    content[600] ^= 1  # This byte belongs to the joints.
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
  assert not list(tmp_path.glob("out.npz.parts/*"))  # No incomplete file is left.


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
