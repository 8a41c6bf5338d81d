"""launch.solving.settings: flags that reach nes_jax.solve, and flags that are refused."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from solve_runs import NUM, Fake, argv, load, new_config, payoffs_of

from launch import nes_solve
from launch.runtime.flags import UsageError
from launch.solving.work import run
import nes_jax


@pytest.fixture
def config(tmp_path):
  return new_config(tmp_path)


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
