"""The program launch.design_tolls: networks, tables, files and errors."""

import csv
import json

import numpy as np
import pytest

from launch import design_tolls
from launch.runtime.flags import UsageError
from launch.tolls import networks, work
from nes_jax import design

ROADS = {
    "edges": {
        "short": {"from": "s", "to": "t", "intercept": 0, "slope": 1},
        "long": {"from": "s", "to": "t", "intercept": 2.5, "slope": 0},
    },
    "drivers": [{"from": "s", "to": "t", "count": 2}, {"from": "s", "to": "t"}],
}


def test_files_and_names(tmp_path):
  path = tmp_path / "roads.json"
  path.write_text(json.dumps(ROADS), encoding="utf-8")
  found, named = networks.read(str(path)), networks.read("pigou")
  np.testing.assert_array_equal(design.routing.times(found), design.routing.times(named))
  assert found.edges == ("short", "long")
  assert len(networks.read("braess").paths) == 4


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "a JSON file is expected"),
        ("{}", "'edges' is missing"),
        (json.dumps(ROADS | {"drivers": [{"from": "t", "to": "s", "count": 2}]}), "no path"),
        (json.dumps({"edges": {"a": {"from": "s", "to": "t", "intercept": 0}}}), "'slope'"),
    ],
)
def test_wrong_files(tmp_path, content, message):
  path = tmp_path / "roads.json"
  path.write_text(content, encoding="utf-8")
  with pytest.raises(UsageError, match=message):
    networks.read(str(path))
  with pytest.raises(UsageError, match="pigou, braess or a JSON file"):
    networks.read("nowhere")


@pytest.mark.parametrize(
    "options, message",
    [({"steps": 0}, "--steps=0"), ({"rate": -1.0}, "--rate=-1"), ({"starts": 0}, "--starts=0")],
)
def test_wrong_options(options, message):
  with pytest.raises(UsageError, match=message):
    work.check(work.Config(**options))


def test_wrong_flags_have_exit_code_2():
  assert design_tolls.main(["design_tolls", "--network=nowhere"]) == 2


@pytest.mark.slow
def test_writes_tables_and_picture(tmp_path, capsys):
  code = design_tolls.main(
      ["design_tolls", "--steps=60", "--starts=2", f"--out={tmp_path}", "--rate=0.1"]
  )
  assert code == 0
  with open(tmp_path / "selections.csv", encoding="utf-8") as file:
    rows = {row["equilibrium"]: row for row in csv.DictReader(file)}
  assert rows["worst_case"]["cost without tolls"] == "7.5000"
  assert float(rows["worst_case"]["cost with tolls"]) == pytest.approx(6.656, abs=2e-3)
  with open(tmp_path / "history.csv", encoding="utf-8") as file:
    assert len(list(csv.DictReader(file))) == 120
  assert (tmp_path / "tolls.png").stat().st_size > 10_000
  assert "active set changed" in capsys.readouterr().out
