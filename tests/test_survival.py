"""Tests of launch.checks.survival: a short run, and that it sees differences."""

import numpy as np
import pytest

from launch.checks import survival


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nes_train", "nes_solve"])
def test_kills_lose_nothing(tmp_path, name):
  run = survival.Run(tmp_path / name, name, kills=2)
  report = survival.survive(run)
  assert report["kills"] == 2 and report["jobs"] >= 1 and report["different"] == 0


def test_differences_are_seen():
  one = {"a": np.zeros(2), "b": np.ones(1), "c": np.array(np.nan)}
  assert survival.differing(one, {k: v.copy() for k, v in one.items()}) == []
  two = {"a": np.array([0.0, -0.0]), "c": one["c"].astype(np.float32), "d": np.ones(1)}
  assert survival.differing(one, two) == ["a", "b", "c", "d"]


def test_bad_flags(tmp_path, capsys):
  (tmp_path / "file").touch()
  for flags, message in (
      ([], "--out=DIRECTORY is needed"),
      ([f"--out={tmp_path}", "--kills=0"], "--kills=0 must be at least 1"),
      ([f"--out={tmp_path}"], "is not empty: give a new directory"),
  ):
    assert survival.main(["survival", *flags]) == 2
    assert message in capsys.readouterr().err
