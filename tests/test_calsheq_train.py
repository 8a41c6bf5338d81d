"""launch.calsheq_train and calsheq_report: files, continuing, equal budgets, flags."""

import json
import re
import shutil
import signal

import numpy as np
import pytest

from calsheq_jax import pairs, searchers
from launch import calsheq_report, calsheq_train
from launch.figures import calibration as figures
from launch.runtime import checkpoint, stopping, writers
from launch.training import calibration, calibration_run

# Stages of a run. Two starts have a trial of 6 stages each, so that CALSHEQ plays 18 batches, too.
STAGES = {"calsheq": 12, "random": 18, "bo": 18, "cmaes": 18}


def command(out, *more, method="calsheq"):
  return [
      "calsheq_train", f"--out={out}", "--experiment=linear_quadratic", f"--method={method}",
      "--seeds=2", f"--stages={STAGES[method]}", "--starts=2", "--trial=6", "--rest=2",
      "--last_rest=2", "--episodes=8", "--hold=3", "--report_every=3",
      "--save_every=6", "--judge_episodes=4", "--response_updates=2", "--response_episodes=8",
      "--hidden=4", "--calibrator_hidden=4", "--shared_epochs=1", "--shared_minibatches=2",
      "--calibrator_epochs=1", "--calibrator_minibatches=2", *more,
  ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """Finished runs, by method."""
  out = tmp_path_factory.mktemp("runs")
  for method in ("calsheq", "random"):
    assert calsheq_train.main(command(out / method, method=method)) == 0
  return out


def last_state(directory, method):
  """The state of the last checkpoint of a finished run."""
  run = calsheq_train.run_of(command(directory, method=method))
  kind = calibration.Searching if run.searches else calibration.Calibrating
  training = kind(run, check_stop=lambda: None, say=print)
  return run, checkpoint.restore(checkpoint.latest(directory), training.like(STAGES[method]))


def saved(directory):
  """All arrays of the last checkpoint."""
  with np.load(checkpoint.latest(directory)) as archive:
    return {name: archive[name] for name in archive.files if name.startswith("leaf")}


def without_time(directory):
  def drop(row):
    return {k: v for k, v in row.items() if not k.startswith("time/")}

  return [drop(row) for row in writers.read(directory)]


@pytest.mark.parametrize("method", ["calsheq", "random"])
def test_run_writes_metrics_checkpoints_and_pictures(runs, method):
  rows = writers.read(runs / method)
  steps = {"calsheq": [48, 96, 120, 144], "random": [24, 48, 72, 96, 120, 144]}[method]
  assert [row["step"] for row in rows] == list(range(3, STAGES[method] + 1, 3))
  assert [row["env_steps"] for row in rows] == steps
  for row in rows:
    for name in ("train/reward", "judged/reward"):
      assert 0 < row[name] <= 1
      np.testing.assert_allclose(
          row[name], (row[f"seed_0/{name}"] + row[f"seed_1/{name}"]) / 2, rtol=1e-6
      )
    assert row["lowest/supertype_1/reward"] <= row["train/supertype_1/reward"]
    assert -1 <= row["profile/supertype_1/mean"] <= 1
    assert f"target/supertype_action[{1}]" in row
  assert checkpoint.load_metadata(checkpoint.latest(runs / method))["step"] == STAGES[method]
  for name in ("rewards", "targets_linear_quadratic", "profile_linear_quadratic"):
    assert (runs / method / f"{name}.png").stat().st_size > 10_000


def test_methods_take_the_same_environment_steps(runs):
  """The normalisers of the shared policies agree with the rows on their number."""
  agents, seen = 6, {}
  for method in ("calsheq", "random"):
    run, state = last_state(runs / method, method)
    shared = state.learners if run.searches else state.learners.shared
    assert (shared.step == STAGES[method]).all()
    counts = np.asarray(shared.agent.observations.count)
    np.testing.assert_array_equal(counts, STAGES[method] * 8 * agents)
    seen[method] = counts[0] + (0 if run.searches else 6 * 8 * agents)  # the other start's trial
    assert writers.read(runs / method)[-1]["env_steps"] * agents == seen[method]
  assert seen["calsheq"] == seen["random"]


def test_the_result_is_a_candidate_at_rest(runs):
  """The best candidate of each seed is chosen, and its profile stays while its policy learns."""
  run, state = last_state(runs / "calsheq", "calsheq")
  training = calibration.Calibrating(run, check_stop=lambda: None, say=print)
  candidates = training.candidates(state)
  assert candidates.point.shape == (2, len(pairs.CANDIDATES), 2)
  np.testing.assert_array_equal(candidates.point[:, 0], state.learners.recent)
  np.testing.assert_array_equal(candidates.point[:, 1], state.learners.settled)
  np.testing.assert_array_equal(candidates.point[:, 2], state.kept.pair.point)
  summary = json.loads((runs / "calsheq" / "summary.json").read_text())
  rows = writers.read(runs / "calsheq")
  for i, seed in enumerate(summary["seeds"]):
    chosen = candidates.point[i, int(seed["candidate"]) % len(pairs.CANDIDATES)]
    found = [seed[f"profile/{name}"] for name in run.problem.space.names]
    np.testing.assert_allclose(run.problem.space.numbers(chosen), found, rtol=1e-6)
    assert seed["rested"] == (seed["candidate"] < len(pairs.CANDIDATES))
    # Checks and rows are on different episodes, and the kept pair is the best of the checks.
    assert np.isfinite(state.kept.reward[i]) and len(rows) == 4


def test_summary(runs):
  summary = json.loads((runs / "calsheq" / "summary.json").read_text())
  rows = writers.read(runs / "calsheq")
  assert [seed["seed"] for seed in summary["seeds"]] == [0, 1]
  for i, seed in enumerate(summary["seeds"]):
    values = [row[f"seed_{i}/variation"] for row in rows]
    np.testing.assert_allclose(seed["variation"], np.mean(values))
    values = [row[f"seed_{i}/increment"] for row in rows]
    np.testing.assert_allclose(seed["increment"], np.mean(values))
    enough = [r[f"seed_{i}/judged/reward"] >= 0.9 * seed["reward"] for r in rows]
    kept = [r["env_steps"] for n, r in enumerate(rows) if all(enough[n:])]
    assert seed["steps_to_reach"] == (kept[0] if kept else None)
    lowest = min(row[f"seed_{i}/lowest/supertype_1/reward"] for row in rows)
    assert seed["lowest/supertype_1/reward"] == lowest
    # The right profile is known here; the distance to it is in widths of the box.
    off = [seed["profile/supertype_1/mean"] - 0.6, seed["profile/supertype_2/mean"] - 0.3]
    np.testing.assert_allclose(seed["distance"], np.abs(off).mean() / 2, atol=1e-5)
    assert np.isfinite(seed["epsilon"]) and seed["epsilon_error"] > 0
  two = [seed["reward"] for seed in summary["seeds"]]
  np.testing.assert_allclose(summary["mean"]["reward"], np.mean(two))
  np.testing.assert_allclose(summary["sd"]["reward"], np.std(two, ddof=1))
  np.testing.assert_allclose([t["value"] for t in summary["targets"]], [57 / 55, 42 / 55])


def test_finished_run_says_so(runs, capsys):
  before = checkpoint.latest(runs / "calsheq").read_bytes()
  told = json.loads((runs / "calsheq" / "summary.json").read_text())
  assert calsheq_train.main(command(runs / "calsheq", "--nofigures")) == 0
  printed = capsys.readouterr()
  assert "is finished" in printed.err and "Assumption 2 holds" in printed.err
  assert checkpoint.latest(runs / "calsheq").read_bytes() == before
  assert f"eval/reward {told['mean']['reward']:.4f}" in printed.out
  again = json.loads((runs / "calsheq" / "summary.json").read_text())
  assert again["seeds"] == told["seeds"]


@pytest.mark.parametrize("method, after", [("calsheq", 1), ("calsheq", 3), ("random", 3)])
def test_continued_run_is_bit_equal(runs, tmp_path, method, after):
  calls = []

  def stop():
    calls.append(1)
    if len(calls) == after:
      raise stopping.Stopped(signal.SIGTERM)

  line = command(tmp_path, "--nofigures", method=method)
  with pytest.raises(stopping.Stopped):
    calibration.train(calsheq_train.run_of(line), check_stop=stop)
  assert checkpoint.load_metadata(checkpoint.latest(tmp_path))["step"] == 3 * after
  assert calsheq_train.main(line) == 0
  assert without_time(tmp_path) == without_time(runs / method)
  one, other = saved(tmp_path), saved(runs / method)
  assert one.keys() == other.keys()
  for name in one:
    np.testing.assert_array_equal(one[name], other[name])
  assert not (tmp_path / "rewards.png").exists()


@pytest.mark.parametrize("method", ["calsheq", "random"])
def test_older_checkpoints_are_continued(runs, tmp_path, monkeypatch, method):
  """A run that was stopped when gae_lambda was called trace goes on."""
  line = command(tmp_path, "--nofigures", method=method)
  run = calsheq_train.run_of(line)
  then = {name.replace("gae_lambda", "trace"): value for name, value in run.settings().items()}
  assert {"shared/trace", "calibrator/learning/trace"} <= set(then)

  def stop():
    raise stopping.Stopped(signal.SIGTERM)

  with monkeypatch.context() as patched:
    patched.setattr(calibration_run.Run, "settings", lambda self: then)
    with pytest.raises(stopping.Stopped):
      calibration.train(run, check_stop=stop)
  assert checkpoint.load_metadata(checkpoint.latest(tmp_path))["config"]["settings"] == then
  assert calsheq_train.main(line) == 0
  assert without_time(tmp_path) == without_time(runs / method)


def test_fewer_stages_than_a_run_has_had(runs, capsys):
  line = command(runs / "calsheq", "--nofigures", "--stages=9")
  assert calsheq_train.main(line) == 2
  assert re.search("--stages=9: .* has had 12; give as many or more", capsys.readouterr().err)


def test_a_searcher_holds_its_profiles_and_the_best_at_the_end(runs):
  run, state = last_state(runs / "random", "random")
  assert state.points.shape == (2, 5, 2) and state.scores.shape == (2, 5)
  rows = writers.read(runs / "random")
  low, high = np.array(run.problem.space.low), np.array(run.problem.space.high)
  for i in range(2):
    best = state.points[i][state.scores[i].argmax()]
    np.testing.assert_array_equal(state.held[i], best)
    # A searcher with this seed proposes the same points.
    searcher = searchers.make("random", 2, i, run.problem.space.origin())
    for point, score in zip(state.points[i], state.scores[i]):
      np.testing.assert_allclose(searcher.ask(), point, atol=1e-6)
      searcher.tell(point, float(score))
  asked = low + (high - low) * (state.points[0] + 1) / 2
  told = [[row[f"seed_0/profile/{name}"] for name in run.problem.space.names] for row in rows]
  np.testing.assert_allclose(told[:5], asked, atol=1e-6)
  # A jump counts once for all stages of a trial; the first trial holds the start.
  jump = np.abs(state.points[0][1] - state.points[0][0]).mean() / 2
  np.testing.assert_allclose(rows[1]["seed_0/variation"], jump / 3, rtol=1e-5)
  assert rows[0]["seed_0/variation"] == 0


def test_report_compares_runs(runs, tmp_path, capsys):
  line = ["calsheq_report", f"--runs={runs / 'calsheq'},{runs / 'random'}", f"--out={tmp_path}"]
  assert calsheq_report.main(line) == 0
  for name in ("rewards", "targets_linear_quadratic", "profile_linear_quadratic"):
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000
  table = (tmp_path / "table.md").read_text().splitlines()
  assert [row.split(" | ")[1] for row in table[2:4]] == ["CALSHEQ", "random search"]
  mean = json.loads((runs / "random" / "summary.json").read_text())["mean"]["reward"]
  assert f"| {mean:.3f} +- " in table[3]
  assert calsheq_report.main(["calsheq_report", "--runs=/nowhere", f"--out={tmp_path}"]) == 2
  assert "/nowhere holds no finished run" in capsys.readouterr().err
  assert calsheq_report.main(["calsheq_report"]) == 2
  other = tmp_path / "other"
  shutil.copytree(runs / "random", other)
  summary = json.loads((other / "summary.json").read_text())
  (other / "summary.json").write_text(json.dumps(summary | {"env_steps": 1}))
  line[1] = f"--runs={runs / 'calsheq'},{other}"
  assert calsheq_report.main(line) == 2
  assert "other: its environment, targets or number" in capsys.readouterr().err


def test_two_runs_of_one_method_are_told_apart(runs):
  results = figures.read([runs / "calsheq", runs / "random", runs / "calsheq"])
  assert [r.label for r in results] == [
      "CALSHEQ, calsheq", "random search", "CALSHEQ, calsheq"
  ]
  assert results[0].colour != results[2].colour


@pytest.mark.parametrize("method", ["bo", "cmaes"])
def test_other_searchers_run(tmp_path, method):
  more = ("--nofigures", "--nocertify", "--seeds=2")
  assert calsheq_train.main(command(tmp_path, *more, method=method)) == 0
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert summary["method"] == method and "epsilon" not in summary["mean"]


@pytest.mark.slow
def test_recover_on_a_small_market(tmp_path):
  line = command(
      tmp_path, "--customers=2", "--horizon=2", "--hidden_updates=2", "--nofigures", "--nocertify"
  )
  line[2] = "--experiment=recover"
  assert calsheq_train.main(line) == 0
  summary = json.loads((tmp_path / "summary.json").read_text())
  first, second = summary["seeds"]
  name = "supertype_share[0]"
  # Each seed has its own hidden profile, and so its own targets.
  assert first[f"goal/{name}"] != second[f"goal/{name}"]
  for seed in (first, second):
    assert 0 < seed["answer_reward"] <= 1 and 0 < seed["distance"] < 1


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--pull=0.5"], r"--out=.* holds another run .calibrator/pull 0.3 -> 0.5"),
        (["--seeds=1"], "holds another run .seeds 2 -> 1"),
        (["--episodes=7"], "--episodes: the calibrator: 7 episodes of 1 steps"),
        (["--response_episodes=1"], "--response_episodes: 1 episodes of 1 steps"),
        (["--pull=2"], "pull=2.0 must lie"),
        (["--shared_power=-1"], "power=-1.0 of a schedule"),
        (["--method=bo", "--stages=13"], "--stages=13 with --hold=3.*such as --stages=15"),
        (["--method=annealing"], "--method"),
        (["--experiment=6"], "--experiment"),
        (["--horizon=3"], "linear_quadratic is not of the market: horizon"),
        (["--calibrator_hidden=a"], "--calibrator_hidden=a: integers"),
        (["--hold=0"], "--hold=0 must be at least 1"),
        (["--starts=0"], "starts=0 must be at least 1"),
        (["--rest=-1"], "rest=-1 must be at least 0"),
    ],
)
def test_bad_flags(runs, capsys, flags, message):
  assert calsheq_train.main(command(runs / "calsheq", *flags)) == 2
  assert re.search(message, capsys.readouterr().err)


def test_help(capsys):
  assert calsheq_train.main(["calsheq_train", "--help"]) == 0
  printed = capsys.readouterr().out
  assert "--hold" in printed and "judged/reward" in printed
  assert calsheq_train.main(["calsheq_train"]) == 2
  assert "--out=DIRECTORY is needed" in capsys.readouterr().err
