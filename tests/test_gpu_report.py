"""Tests of launch.checks.gpu_report: that it goes on when parts fail, and a quick run."""

import json
import sys
import time

import pytest

from launch.bench import suite
from launch.checks import gpu_report, gpu_tables
from launch.checks.gpu_report import Part
from launch.runtime import writers

# The part of the files of `launch.benchmark` that the report reads.
EXACT = {
    "hardware": {
        "devices": 1, "device": "NVIDIA X", "platform": "gpu", "cpu": "Y", "cores": 16,
        "commit": "abc", "float32_matmul_gflops": 51234.0,
    },
    "rows": [{
        "size": "8x8", "concept": "cce", "batch": 65536, "engine": "cuda", "us_game": 0.0123,
        "jit_us": 0.00543, "iterations": 4.31, "iterations_max": 7, "converged_pct": 100.0,
        "repeated": 2, "first_ms": 12345.6, "floor_us": 0.00161, "over_floor": 7.6,
    }],
}
TESTS = """
tests/test_dual.py::test_one[ab c] PASSED                          [ 25%]
tests/test_dual.py::test_two FAILED                                [ 50%]
tests/test_dual.py::test_three SKIPPED (no GPU)                    [ 75%]
tests/test_dual.py::test_four
"""


def script(text: str) -> list[str]:
  return ["-c", text]


def test_goes_on_when_parts_fail(tmp_path, monkeypatch):
  monkeypatch.setattr(gpu_report, "machine", lambda: {
      "gpus": [{"name": "NVIDIA X", "driver_version": "580"}], "versions": {"jax": "0.9"},
      "date": "2026-11-26",
  })
  (tmp_path / "market.json").write_text("of an earlier run")
  wanted = [
      Part("tests", 1, script(f"print({TESTS!r}, flush=True); raise SystemExit(1)")),
      Part("exact", 1, script(
          f"import pathlib, time; pathlib.Path({str(tmp_path / 'exact.json')!r})"
          f".write_text({json.dumps(EXACT)!r}); time.sleep(600)"
      )),
      Part("market", 1, script("raise SystemExit(3)")),
      Part("train", 1, script("import os; print(os.environ['MORE'])"), {"MORE": "more"}),
  ]
  began = time.monotonic()
  assert not gpu_report.measure(tmp_path, 12, wanted, quick=False)
  assert time.monotonic() - began < 60
  page = (tmp_path / "report.md").read_text()
  assert "NVIDIA X, 580; jax 0.9; 2026-11-26." in page
  outcomes = ("tests", "failed (1)"), ("exact", "stopped: its time was over"), (
      "market", "failed (3)"), ("train", "done")
  for name, outcome in outcomes:
    (line,) = [x for x in page.splitlines() if x.startswith(f"| {name} | ")]
    assert line.endswith(f" | {outcome} |")
  assert "1 passed, 1 failed, 1 skipped; float32" in page
  assert "- `tests/test_dual.py::test_two`" in page and "test_four" not in page
  assert (
      "| CCE 8x8 | 65,536 | cuda | 0.0123 | 0.00543 | 4.3 / 7 | 100% | 2 | 12,300 | 0.00161 | 7.6 |"
  ) in page
  assert "1 NVIDIA X (gpu), Y, 16 cores, commit abc; float32 matrix products 51,200 Gflop/s" in page
  assert "QUICK" not in page
  content = json.loads((tmp_path / "report.json").read_text())
  assert content["suites"] == {"exact": EXACT["rows"], "train": []}
  assert [part["code"] for part in content["parts"]] == [1, None, 3, 0]
  assert (tmp_path / "train.txt").read_text().split() == ["more"]
  # A part that was stopped without a failure counts as well.
  wanted = [Part("tests", 1, script(f"print({TESTS.replace('FAILED', 'PASSED')!r})")), wanted[-1]]
  assert gpu_report.measure(tmp_path, 60, wanted, quick=True)
  assert "QUICK" in (tmp_path / "report.md").read_text()


def test_files_of_tests_that_cannot_be_imported():
  log = "ERROR tests/test_solve.py\ntests/test_dual.py::test_one PASSED [100%]\n"
  log += "ERROR tests/test_solve.py - ModuleNotFoundError: No module named 'x'\n"
  assert gpu_tables.tests_of(log) == {
      "passed": ["tests/test_dual.py::test_one"], "error": ["tests/test_solve.py"]
  }


def test_all_columns_are_there(tmp_path):
  """Parts measure entries that exist, and a quick part measures one."""
  for quick in (False, True):
    for part in gpu_report.parts(tmp_path, quick):
      if part.command[1] != "launch.benchmark":
        continue
      values = dict(flag.lstrip("-").split("=") for flag in part.command[2:] if "=" in flag)
      entries, extras = suite.choose(values["suite"], values["only"].split(","))
      assert values["suite"] == part.name and part.name in gpu_tables.COLUMNS and not extras
      assert len(entries) == 1 or not quick
      assert ("--quick" in part.command) == quick


def test_bad_flags(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv("PATH", str(tmp_path))  # This directory has no nvidia-smi.
  for flags, message in (
      ([], "nvidia-smi finds no GPU here; --quick tries the program without one"),
      (["--quick", "--only=fast"], "--only=fast: use one of exact, neural"),
      (["--seconds=0"], "--seconds=0 must be at least 1"),
  ):
    assert gpu_report.main(["gpu_report", f"--out={tmp_path / 'out'}", *flags]) == 2
    assert message in capsys.readouterr().err
  # There is a GPU, but JAX computes on the CPU.
  nvidia_smi = tmp_path / "nvidia-smi"
  nvidia_smi.write_text("#!/bin/sh\necho NVIDIA X, 580, 80000 MiB, 1980 MHz\n")
  nvidia_smi.chmod(0o755)
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  assert gpu_report.main(["gpu_report", f"--out={tmp_path / 'out'}"]) == 2
  assert "JAX computes on cpu, not on the GPU" in capsys.readouterr().err
  assert not (tmp_path / "out").exists()


def test_what_a_training_has_come_to(tmp_path):
  assert gpu_tables.trained(tmp_path / "none", 8) == []
  clock = iter((0.0, 2.0, 3.0)).__next__
  with writers.Writer(tmp_path, console_every=None, clock=clock) as writer:
    writer.write(100, {"train/loss": 1.0})
    writer.write(200, {"train/loss": 1.0, "eval/solver_gap": 0.25})
  (row,) = gpu_tables.trained(tmp_path, 8)
  assert row == {"updates": 200, "batch": 8, "games_s": 800.0, "solver_gap": 0.25}
  assert gpu_tables.table("train", [row]).splitlines()[-1] == "| 200 | 8 | 800 | 0.25 |"


@pytest.mark.slow
def test_quick_form_end_to_end(tmp_path):
  code = gpu_report.main(
      [sys.argv[0], f"--out={tmp_path}", "--quick", "--only=tests,exact", "--seconds=600"]
  )
  page = (tmp_path / "report.md").read_text()
  assert code == 0, page
  assert "| CCE 2x2 | 16 |" in page and "QUICK" in page
  content = json.loads((tmp_path / "report.json").read_text())
  assert len(content["tests"]["passed"]) > 5
  assert content["suites"]["exact"][0]["us_game"] > 0
