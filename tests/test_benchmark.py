"""Tests of launch.benchmark: a small entry from end to end, and operation counts by hand."""

import csv
import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from launch import benchmark
from launch.baselines import checkout, peers
from launch.bench import exact, neural, suite
from launch.runtime import tables
from launch.runtime.machine import ROOT
import nes_jax
from nes_jax import network
from nes_jax.games import spheres
from nes_jax.native import cpu

COLUMNS = (
    "size concept batch engine us_game compile_s jit_us first_ms iterations iterations_max"
    " converged_pct repeated residual before_us before_ratio ecos_us ecos_failed ecos_ratio"
    " clarabel_us clarabel_failed clarabel_ratio direct_us direct_failed direct_ratio moreau_us"
    " moreau_failed moreau_ratio polarix_us polarix_failed polarix_ratio distance floor_us"
    " over_floor"
).split()


GRADIENTS = ["gradient", "gradient:ce", "gradient:float64", "gradient:ce:float64"]


@pytest.mark.slow
def test_quick_entry_end_to_end(tmp_path, capsys):
  pytest.importorskip("cvxpy")
  (row,) = suite.run(
      "exact", tmp_path, only=["cce:4x4"], quick=True, before=ROOT
  )
  assert list(row) == COLUMNS
  assert 0 < row["floor_us"] <= row["us_game"]
  assert row["over_floor"] == pytest.approx(row["us_game"] / row["floor_us"])
  assert row["engine"] in nes_jax.engines()
  assert row["jit_us"] > 0 and row["first_ms"] > 0 and row["converged_pct"] == 100
  # Here the older version is this checkout, too.
  assert row["before_us"] > 0 and row["before_ratio"] > 0
  assert row["ecos_failed"] == row["direct_failed"] == "0/2" and row["clarabel_ratio"] > 0
  assert row["polarix_us"] is None  # Polarix solves for CEs only.
  # The distance of float32 at tolerance 1e-4 to Clarabel's default is usually at most 1e-3.
  assert row["distance"] < 2e-2
  printed = " ".join(capsys.readouterr().out.split())
  assert "| size | concept | batch |" in printed and "| 4x4 | cce | 16 |" in printed
  assert "polarix_us" not in printed
  record = json.loads((tmp_path / "exact.json").read_text())
  assert record["rows"] == [row]
  assert record["hardware"]["cores"] >= 1 and record["hardware"]["versions"]["jax"]
  with (tmp_path / "exact.csv").open() as file:
    (line,) = csv.DictReader(file)
  assert list(line) == COLUMNS and float(line["us_game"]) == row["us_game"]
  assert "QUICK" in (tmp_path / "exact.md").read_text()


@pytest.mark.parametrize("concept", ["cce", "ce"])
@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 2)])
def test_peers_agree(concept, shape):
  """Peers solve the same problem, stated by hand and by CVXPY. Joints usually differ by 1e-5."""
  payoffs = np.asarray(spheres.sample(jax.random.key(0), 3, shape))
  outcomes = {name: peers.measure(name, concept, payoffs) for name in ("clarabel", "direct")}
  outcomes["moreau"] = peers.measure("moreau", concept, payoffs)
  found = {name: outcome for name, outcome in outcomes.items() if outcome is not None}
  if "clarabel" not in found:
    pytest.skip("CVXPY and Clarabel are not installed")
  for outcome in found.values():
    assert outcome.failures == "0/3" and outcome.us > 0
    np.testing.assert_allclose(outcome.joints, found["clarabel"].joints, atol=1e-3)


def test_benchmark_goes_on_without_peers(monkeypatch, capsys):
  def absent(*_):
    raise ImportError

  def broken(*_):
    raise ValueError("out of order")

  monkeypatch.setattr(peers, "PEERS", {**dict.fromkeys(peers.PEERS, absent), "moreau": broken})
  games = np.zeros((3, 2, 4, 4), np.float32)
  row = exact._peer_columns(exact.ENTRIES[1], games, games[:, 0], 1.0, False)
  assert set(row.values()) == {None} and set(row) <= set(COLUMNS)
  assert "moreau failed: ValueError: out of order" in capsys.readouterr().out


def test_games_of_many_shapes(monkeypatch, tmp_path):
  solved = []

  class Fake:
    def __init__(self, root):
      assert root == ROOT

    def solve(self, payoffs, concept, batched):
      assert not batched and payoffs.ndim == 3 and len(payoffs) == 2
      solved.append((concept, payoffs.shape[1:]))
      return {"seconds": 0.5, "converged": 1}

    def __enter__(self):
      return self

    def __exit__(self, *_):
      pass

  monkeypatch.setattr(checkout, "Process", Fake)
  row = exact.shapes_row(quick=False)
  assert row["cce_s"] == row["ce_s"] == 50 and row["converged"] == "200/200"
  assert len(set(solved)) == 200 and {min(s) for _, s in solved} | {16} <= set(range(2, 17))
  # The smaller table alone writes no table of entries.
  monkeypatch.setattr(suite, "machine_rate", lambda: 1e9)
  assert suite.run("exact", tmp_path, only=["shapes"], quick=True) == []
  record = json.loads((tmp_path / "exact.json").read_text())
  assert record["extras"]["shapes"]["shapes"] == 2 and not (tmp_path / "exact.csv").exists()
  # The smaller table is measured by default only if the engine compiles nothing.
  monkeypatch.setattr(exact, "engine", lambda *_: "native")
  assert suite.choose("exact", [])[1] == [*GRADIENTS, "shapes"]
  monkeypatch.setattr(exact, "engine", lambda *_: "jax")
  assert suite.choose("exact", [])[1] == GRADIENTS


def test_engine_is_the_one_that_serves(monkeypatch):
  serve = {"native": None, "cuda": "no GPU", "jax": None}
  monkeypatch.setattr(cpu, "reason", lambda: serve["native"])

  def serves(shape, concept):
    return cpu.reason() is None and concept == "cce"

  monkeypatch.setattr(cpu, "serves", serves)
  assert exact.engine((4, 4), "cce") == "native"
  assert exact.engine((4, 4), "ce") == "jax"
  serve["native"] = "not built"
  assert exact.engine((4, 4), "cce") == "jax"


@pytest.mark.slow
@pytest.mark.parametrize("concept,dtype", [("cce", np.float32), ("ce", np.float64)])
def test_gradients_are_those_of_layers(concept, dtype):
  row = exact.gradient_row(quick=True, concept=concept, dtype=dtype)
  assert row["one_us"] > 0 and row["us_game"] > 0 and row["largest"] > 1e-3
  if row["difference"] is None:
    pytest.skip("cvxpylayers is not installed")
  # The layers' own tolerance leaves this difference.
  assert row["difference"] < 0.01 * row["largest"]


def test_another_version_in_a_process_of_its_own(tmp_path):
  package = tmp_path / "nes_jax"
  package.mkdir()
  # The older version has no argument `batched`, and it prints.
  (package / "__init__.py").write_text(
      "import collections\n"
      "Answer = collections.namedtuple('Answer', ['converged'])\n"
      "def solve(payoffs, *, concept):\n"
      "  print(concept)\n"
      "  return Answer(payoffs[..., 0, 0, 0] > 0)\n"
  )
  payoffs = np.ones((3, 2, 2, 2), np.float32)
  payoffs[0] = -1
  with checkout.Process(tmp_path) as process:
    answers = [process.solve(payoffs, "cce", True) for _ in range(2)]
    answers.append(process.solve(payoffs[0], "ce", False))
  assert [(a["games"], a["converged"]) for a in answers] == [(3, 2), (3, 2), (1, 0)]
  assert all(answer["seconds"] > 0 for answer in answers)
  (package / "__init__.py").write_text("raise SystemExit(3)\n")
  with checkout.Process(tmp_path) as process:
    with pytest.raises(RuntimeError, match="has ended with exit code 3"):
      process.solve(payoffs, "cce", True)


def test_newton_flops_by_hand():
  n = 8
  matrix = 6 * n**3 + (2 * n) ** 3 / 3
  rest = 4 * (2 * n) ** 2 + 6 * 2 * n**2 * 2
  assert exact.newton_flops((n, n), "cce") == pytest.approx(matrix + rest)
  # A CE of 4x4 has 24 duals and 16 joint strategies, so that the joint's system is smaller.
  joint = 2 * 16 * 3 * 4 + 16**3 / 3 + 4 * 16**2 + 6 * (2 * 2 * 16 * 3)
  assert exact.newton_flops((4, 4), "ce") == pytest.approx(joint)
  # A CE of 2x2x2x2x2 has 10 duals and 32 joint strategies.
  dual = 5 * 32 + 10 * 2 * 32 + 10**3 / 3 + 4 * 10**2 + 6 * (5 * 2 * 32)
  assert exact.newton_flops((2,) * 5, "ce") == pytest.approx(dual)


def test_table_marks_what_was_not_measured():
  table = tables.markdown([{"size": "4x4", "us": 1234.5}, {"size": "128x128", "us": None}])
  assert table.splitlines() == [
      "|    size |   us |",
      "|--------:|-----:|",
      "|     4x4 | 1234 |",
      "| 128x128 |    - |",
  ]


def test_columns_without_values_are_left_out():
  rows = [{"a": 1, "b": None, "c": None}, {"a": 2, "b": None, "c": 0.0}]
  assert tables.filled(rows) == [{"a": 1, "c": None}, {"a": 2, "c": 0.0}]


def test_what_cannot_be_measured_is_named(tmp_path):
  with pytest.raises(ValueError, match="cce:5x5 names no entry.*cce:4x4.*gradient"):
    suite.run("exact", tmp_path, only=["ce:4x4", "cce:5x5"])
  with pytest.raises(ValueError, match="a directory that holds nes_jax"):
    suite.run("exact", tmp_path, only=["ce:4x4"], before=str(tmp_path))


def test_bad_flags(tmp_path, capsys):
  for flags, message in (
      (["--suite=x"], "use one of exact, neural, market, devices"),
      (["--only=cce:5x5"], "cce:5x5 names no entry of suite exact"),
      (["--suite=neural", f"--before={ROOT}"], "and the suite exact"),
  ):
    assert benchmark.main(["benchmark", f"--out={tmp_path}", *flags]) == 2
    assert message in capsys.readouterr().err


def test_suites_do_not_need_the_packages_of_others():
  code = (
      "import sys; sys.modules |= dict.fromkeys(('distrax', 'calsheq_jax', 'envs', 'cvxpy'));"
      "from launch import benchmark; from launch.bench import suite;"
      "print(len(suite.load('exact').entries), len(suite.load('neural').entries))"
  )
  command = [sys.executable, "-c", code]
  found = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
  assert found.stdout.split() == ["12", "10"]


@pytest.mark.slow
def test_quick_neural_entry_end_to_end(tmp_path):
  (row,) = suite.run("neural", str(tmp_path), only=["cce:8x8:4:4"], quick=True)
  assert row["rounds"] == row["newton"] == 4
  assert 0 < row["infer_floor_us"] < row["infer_us"]
  assert 0 < row["train_floor_us"] < row["train_us"]
  assert row["exact_us"] > 0 and row["games_second"] == pytest.approx(1e6 / row["train_us"])


def test_network_work_by_hand():
  config = network.Config("cce", payoff_channels=(3,), dual_channel=5, dual_channels=(7,))
  flops, written = neural.network_work(config, (2, 4))
  # The payoff layer has 3 products of 8 entries, with 1 -> 3 channels. The dual layers have 6
  # entries, with 5 -> 7 -> 1 channels.
  assert flops == 2 * 3 * 8 * 3 + 2 * 6 * (5 * 7 + 7)
  assert written == 2 * 8 * 3 + 6 * (5 + 7 + 1)
  rounds = dataclasses.replace(config, rounds=2)
  more, wider = neural.network_work(rounds, (2, 4))
  # A round makes three passes over the 8 payoffs of 2 players, and has layers of 6 entries with
  # 7 + 3 -> 7 -> 1 channels.
  assert more - flops == 2 * 2 * (3 * 2 * 8 + 6 * (10 * 7 + 7))
  assert wider - written == 2 * 6 * (7 + 1)
  # A Newton step makes three passes, two for each of 16 conjugate gradients, and one for each of 5
  # lengths.
  most, _ = neural.network_work(dataclasses.replace(rounds, newton=3), (2, 4))
  assert most - more == 3 * 2 * (3 + 2 * 16 + 5) * 2 * 8


def test_network_work_of_a_joint_by_hand():
  config = network.Config(
      "cce", payoff_channels=(3,), dual_channel=5, dual_channels=(7,), answer="joint"
  )
  plain, _ = neural.network_work(dataclasses.replace(config, answer="duals"), (2, 4))
  flops, _ = neural.network_work(config, (2, 4))
  # The logits are one product of 8 entries for each player, and one for their sum: 3 -> 1 channels.
  assert flops - plain == 2 * 3 * 8 * 3
  more, _ = neural.network_work(dataclasses.replace(config, rounds=2), (2, 4))
  # A round makes three passes over the payoffs at each of two joints, and a product for each of 4
  # channels to the duals, of 4 more times the joint, and of 4 back. The dual layer sees 7
  # activations, 5 features and 8 channels; the payoff layer 3 activations, 1 input, 4 channels and
  # 3 logits.
  duals = 6 * ((7 + 5 + 8) * 7 + 7 + 4)
  payoffs = 3 * 8 * ((3 + 1 + 4 + 3) * 3 + 3) + 2 * 8 * 3 * 4
  assert more - flops == 2 * 2 * ((6 + 3 * 4) * 2 * 8 + duals + payoffs)
  # A Newton step is one of the exact engine.
  most, _ = neural.network_work(dataclasses.replace(config, rounds=2, newton=3), (2, 4))
  assert most - more == 3 * exact.newton_flops((2, 4), "cce")
