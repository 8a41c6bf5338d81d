"""launch.calsheq_paper: the order of runs, finished ones, interruptions, the table and figures."""

import json
import signal

import pytest

from launch import calsheq_paper
from launch.runtime import program, stopping, writers
from launch.training import paper


def command(out, *more):
  return ["calsheq_paper", f"--out={out}", "--experiments=1,linear_quadratic", "--seeds=2",
          "--methods=calsheq,random", "--stages=20", *more]


def task_of(line):
  return calsheq_paper._task(program.parse(line, calsheq_paper.SECTIONS))


@pytest.fixture
def trained(monkeypatch):
  """Replaces the training by a record of it, which writes a summary."""
  done = []

  def train(run, *, check_stop, say):
    check_stop()
    done.append(str(run.options.out))
    run.options.out.mkdir(parents=True)
    summary = {
        "experiment": run.plan.experiment, "stages": run.plan.stages, "settings": run.settings(),
        "mean": {"reward": 0.25 * len(done)},
    }
    writers.write_json(run.options.out / "summary.json", summary)

  monkeypatch.setattr(paper.calibration, "train", train)
  monkeypatch.setattr(paper, "draw", lambda task, say: done.append("figures"))
  return done


def test_all_runs_one_after_another(trained, tmp_path, capsys):
  assert calsheq_paper.main(command(tmp_path)) == 0
  names = ["1/calsheq", "1/random", "linear_quadratic/calsheq", "linear_quadratic/random"]
  assert trained == [*(str(tmp_path / name) for name in names), "figures"]
  printed = capsys.readouterr()
  assert "reward/1/random 0.5000" in printed.out
  assert "run 3 of 4, experiment linear_quadratic with calsheq: into" in printed.err


def test_interrupted_runs_continue_and_finished_ones_are_kept(trained, tmp_path, capsys):
  calls = []

  def stop():
    calls.append(1)
    if len(calls) == 4:  # in the second run: one check before a run, and one in it
      raise stopping.Stopped(signal.SIGTERM)

  with pytest.raises(stopping.Stopped):
    paper.train(task_of(command(tmp_path)), check_stop=stop)
  assert trained == [str(tmp_path / "1/calsheq")]
  assert calsheq_paper.main(command(tmp_path)) == 0
  assert len(trained) == 5 and trained[1] == str(tmp_path / "1/random")
  assert "experiment 1 with calsheq: finished before" in capsys.readouterr().err
  # More stages make runs unfinished, and other settings are refused.
  assert not any(paper.finished(run) for run in task_of(command(tmp_path, "--stages=40")).runs[:1])
  assert calsheq_paper.main(command(tmp_path, "--seeds=3")) == 2
  assert "1/calsheq holds another run (seeds 2 -> 3)" in capsys.readouterr().err


def test_defaults_are_the_five_experiments_with_five_seeds(tmp_path):
  runs = task_of(["calsheq_paper", f"--out={tmp_path}"]).runs
  assert [run.plan.experiment for run in runs] == ["1", "2", "3", "4", "5"]
  for run in runs:
    assert (run.plan.method, run.plan.seeds, run.plan.stages) == ("calsheq", 5, 400)
    assert run.options.out == tmp_path / run.plan.experiment / "calsheq"


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--experiments=1,1"], "--experiments=1,1: 1 is there twice"),
        (["--methods="], "--methods=: name one or more"),
        (["--methods=annealing"], "--methods"),
        (["--customers=3"], "linear_quadratic is not of the market: customers"),
        (["--stages=25"], "--stages=25 with --hold=10"),
        (["--ceiling=/nowhere"], "/nowhere is no result of launch.checks.ceiling"),
    ],
)
def test_bad_flags(tmp_path, capsys, flags, message):
  assert calsheq_paper.main(command(tmp_path, *flags)) == 2
  assert message in capsys.readouterr().err


@pytest.mark.slow
def test_small_runs_with_a_ceiling(tmp_path, capsys):
  ceiling = tmp_path / "ceiling.json"
  entry = {"reward": 0.9, "reward_of_means": 0.95}
  ceiling.write_text(json.dumps({"experiments": {"linear_quadratic": entry}}))
  line = ["calsheq_paper", f"--out={tmp_path / 'runs'}", "--experiments=linear_quadratic",
          "--methods=calsheq,random", "--seeds=2", "--stages=4", "--hold=2", "--report_every=2",
          "--episodes=8", "--judge_episodes=4", "--nocertify", f"--ceiling={ceiling}"]
  assert calsheq_paper.main(line) == 0
  printed = capsys.readouterr().out
  for method in ("calsheq", "random"):
    summary = json.loads(
        (tmp_path / "runs" / "linear_quadratic" / method / "summary.json").read_text()
    )
    assert f"| {100 * summary['mean']['reward'] / 0.9:.1f}% (worst" in printed
  for name in ("rewards", "targets_linear_quadratic", "profile_linear_quadratic"):
    assert (tmp_path / "runs" / paper.FIGURES / f"{name}.png").stat().st_size > 10_000
