"""launch.solving.parts and launch.solving.report: the size of a part, and the summary of a run."""

import dataclasses

import numpy as np
import pytest

from launch.runtime import store
from launch.solving.answers import answer_schema
from launch.solving.parts import part_size
from launch.solving.report import Report, summary
from launch.solving.settings import Config
from nes_jax.games import files


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
