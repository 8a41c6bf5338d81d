"""Tests of launch.bench.devices: an entry from end to end."""

import pytest

from launch.bench import suite


@pytest.mark.slow
def test_quick_entry_end_to_end(tmp_path):
  (row,) = suite.run("devices", str(tmp_path), only=["nes_train:1"], quick=True)
  assert row["devices"] == 1 and row["over_one"] == 1
  assert row["examples_second"] == pytest.approx(row["batch"] / row["step_ms"] * 1e3)
  assert row["talking_pct"] < 100 and row["alone_ms"] > 0


def test_entries_of_devices_that_are_not_there_are_left_out(tmp_path):
  with pytest.raises(ValueError, match="they are nes_train:1, calsheq_train:1"):
    suite.run("devices", str(tmp_path), only=["nes_train:8"])
