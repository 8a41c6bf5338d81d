"""launch.baselines.brock_hommes and agent_based: black-it's own paths, and the comparison."""

import json
import pathlib
import sys

import jax
import numpy as np
import pytest

from launch.baselines import agent_based, black_it, brock_hommes
from launch.checks import agent_based as program

# Series of the example of black-it, made by its own code, and their moments, made by
# black_it.utils.time_series.get_mom_ts_1d.
DATA = np.load(pathlib.Path(__file__).parent / "data" / "brock_hommes.npz")


def test_paths_and_moments_are_those_of_black_it():
  """In float64: along a path, errors of rounding grow."""
  for i, theta in enumerate(DATA["theta"]):
    plain = brock_hommes.plain_series(theta, DATA["noise"][i])
    np.testing.assert_allclose(plain, DATA["series"][i], atol=1e-10)
  with jax.enable_x64(True):
    found = jax.jit(jax.vmap(brock_hommes.series))(DATA["theta"], DATA["noise"])
    np.testing.assert_allclose(found, DATA["series"], atol=1e-10)
    moments = jax.jit(jax.vmap(brock_hommes.moments))(DATA["series"])
    np.testing.assert_allclose(moments, DATA["moments"], atol=1e-10)
  assert len(brock_hommes.NAMES) == len(set(brock_hommes.NAMES)) == DATA["moments"].shape[1]


def test_the_model_that_black_it_gets_is_the_same():
  request = {"noise_scale": brock_hommes.NOISE, "choice": brock_hommes.CHOICE}
  found = black_it.model(request)(brock_hommes.TRUTH, brock_hommes.LENGTH, 0)
  assert found.shape == (500, 1)
  np.testing.assert_allclose(found[:, 0], brock_hommes.observed(0), atol=1e-10)


def test_summary():
  row = {"method": "ours", "error": 0.5, "seconds": 2.0, "cpu seconds": 1.0}
  rows = [
      {**row, "loss": 1.0, "seconds compiled": 1.0}, {**row, "loss": 3.0, "seconds compiled": None}
  ]
  assert agent_based.summary(rows) == [{
      "method": "ours", "runs": 2, "worst loss": 3.0, "loss": 2.0, "error": 0.5, "seconds": 2.0,
      "cpu seconds": 1.0, "seconds compiled": None,
  }]


def test_the_answer_of_the_other_process(tmp_path, monkeypatch):
  """A stand-in for the Python that has black-it answers with what it was asked."""
  stand_in = tmp_path / "python"
  stand_in.write_text(
      f"#!{sys.executable}\nimport json, sys\nr = json.load(sys.stdin)\n"
      "print(json.dumps({'parameters': r['low'], 'loss': r['seed'], 'seconds': 1.5,"
      " 'simulations': len(r['observed']), 'cpu_seconds': 1.0}))\n"
  )
  stand_in.chmod(0o755)
  prices = np.arange(7.0)
  found = agent_based._black_it(str(stand_in), prices, 3, 150, "mixture")
  assert found["parameters"] == [0, 0, 0, -1] and found["simulations"] == 7
  assert found["seconds"] == found["seconds compiled"] == 1.5
  assert json.loads(json.dumps(found)) == found


def test_a_python_without_black_it():
  with pytest.raises(ImportError, match="cannot run black-it: .*black_it.*pip install black-it"):
    agent_based._black_it(sys.executable, np.zeros(5), 0, 150, "mixture")


@pytest.mark.parametrize("flag", ["--simulations=27", "--seeds=0", "--strategies=grid"])
def test_bad_flags(flag, capsys):
  assert program.main(["agent_based", flag]) == 2
  assert flag.split("=")[0].strip("-") in capsys.readouterr().err
