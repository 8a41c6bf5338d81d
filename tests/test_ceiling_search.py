"""launch.checks.ceiling: continuing, finalists, ceiling.json, bad flags."""

import json
import signal
import types

import jax
import numpy as np
import pytest

from calsheq_jax import experiments, shared_game
from calsheq_jax.ceiling import Detail
from launch.checks import ceiling as program_
from launch.runtime import checkpoint, program, stopping, writers
from launch.training import ceiling, ceiling_report

NAME = "linear_quadratic"


def command(out, *more):
  return ["ceiling", f"--out={out}", f"--experiments={NAME}", "--population=4", "--generations=3",
          "--episodes=8", "--start_updates=2", "--steer_every=1", "--updates=1",
          "--judge_episodes=4",
          "--final_updates=2", "--final_episodes=16", "--response_updates=2", *more]


def plan_of(line):
  return program_.flags.build(program.parse(line, [program_._SECTION]), program_._SECTION)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
  """The directory of a finished search."""
  out = tmp_path_factory.mktemp("ceiling")
  assert program_.main(command(out)) == 0
  return out


@pytest.mark.slow
def test_entry(found):
  entry = ceiling_report.read(found / ceiling_report.FILE)[NAME]
  assert 0 < entry["reward"] < 1 and 0 < entry["reward_of_means"] < 1
  np.testing.assert_allclose(entry["misfit"] + entry["noise"], 1 - entry["reward"])
  # Two numbers of one output have the same weight; their fits make up the reward.
  part = entry["parts"]["supertype_action[0]"]
  np.testing.assert_allclose(part["weight"], 0.5)
  fits = [target["fit"] for target in entry["targets"]]
  np.testing.assert_allclose(np.mean(fits), entry["reward"], rtol=1e-5)
  assert set(entry["profile"]) == {"supertype_1/mean", "supertype_2/mean"}
  # 4 profiles with 2 x (8 + 4) episodes, twice 4 with 8 + 4, 3 finalists with 2 x 8 + 4 + 16, and
  # 16 episodes for the winner: 96 + 96 + 108 + 16.
  np.testing.assert_allclose(entry["calibrations"], 316 / (400 * 64))
  assert entry["env_steps"] == 316
  assert np.isfinite(entry["epsilon"]) and entry["epsilon_error"] > 0
  assert f"| {NAME} |" in (found / ceiling_report.TABLE).read_text()


@pytest.mark.slow
def test_generations(found):
  """The first generation has the starts, and the finalists are the best points."""
  search = ceiling.Search(NAME, plan_of(command(found)), print)
  state = search.place(checkpoint.restore(checkpoint.latest(found / NAME), search.like(3)))
  points, scores = np.asarray(state.points), np.asarray(state.scores)
  assert points.shape == (3, 4, 2) and scores.shape == (3, 4)
  np.testing.assert_allclose(points[0, 0], search._problem.space.origin())
  np.testing.assert_array_equal(state.parents, points[-1])
  finalists = search.finalists(state)
  np.testing.assert_array_equal(finalists[1], points.reshape(-1, 2)[scores.argmax()])
  np.testing.assert_array_equal(finalists[2], points[0, scores[0].argmax()])
  # Two updates at the start, and one in each generation that follows.
  np.testing.assert_array_equal(state.shared.step, [4, 4, 4, 4])
  best = [row["score/best"] for row in writers.read(found / NAME)]
  np.testing.assert_allclose(best, scores.max(1))


@pytest.mark.slow
def test_continued_search_is_equal(found, tmp_path):
  calls = []

  def stop():
    calls.append(1)
    if len(calls) == 3:  # one check before the search, and one after each generation
      raise stopping.Stopped(signal.SIGTERM)

  with pytest.raises(stopping.Stopped):
    ceiling.find(plan_of(command(tmp_path)), check_stop=stop)
  assert checkpoint.load_metadata(checkpoint.latest(tmp_path / NAME))["step"] == 2
  assert not (tmp_path / ceiling_report.FILE).exists()
  assert program_.main(command(tmp_path)) == 0
  one, other = (
      ceiling_report.read(out / ceiling_report.FILE)[NAME] for out in (found, tmp_path)
  )
  assert {**one, "seconds": 0} == {**other, "seconds": 0}


@pytest.mark.slow
def test_profiles_together_give_the_same(found):
  """Two profiles in one call learn as they do one by one."""
  alone, both = (
      ceiling.Search(NAME, plan_of(command(found, f"--together={n}")), print) for n in (1, 2)
  )
  state = alone.init()
  key, points = jax.random.key(5), np.array([[0.1, 0.2], [-0.3, 0.4], [0.5, 0.0]], np.float32)
  policies = jax.tree.map(lambda x: x[:3], state.shared)
  one, other = (search._train(policies, points, key, 1) for search in (alone, both))
  assert other[1]["reward"].shape == (3,)
  for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(np.asarray(x), np.asarray(y), atol=1e-4)


@pytest.mark.slow
def test_finished_search_is_read_again(found, capsys):
  before = (found / ceiling_report.FILE).read_text()
  assert program_.main(command(found)) == 0
  assert "is finished" in capsys.readouterr().err
  assert (found / ceiling_report.FILE).read_text() == before
  assert program_.main(command(found, "--seed=1")) == 2
  assert "holds another run (seed 0 -> 1)" in capsys.readouterr().err


def test_profiles_of_runs_are_starts(tmp_path):
  space = experiments.named(NAME).problem().space
  rewards, values = (0.5, 0.7, 0.6), (0.1, 0.2, 0.3)
  seeds = [
      {"reward": reward, "profile/supertype_1/mean": value, "profile/supertype_2/mean": -value}
      for reward, value in zip(rewards, values)
  ]
  summary = {"experiment": NAME, "profile": list(space.names), "seeds": seeds}
  (tmp_path / "summary.json").write_text(json.dumps(summary))
  line = command(tmp_path, f"--runs={tmp_path}")
  starts = ceiling.Search(NAME, plan_of(line), print)._starts
  # The two best seeds come first, the best of them before the other.
  np.testing.assert_allclose(space.numbers(starts[:2]), [[0.2, -0.2], [0.3, -0.3]], atol=1e-6)
  np.testing.assert_array_equal(starts[2], space.origin())


def test_designed_starts_are_steered(tmp_path, monkeypatch):
  """Corrections follow what the market shows, and the last rounds have none."""
  line = command(tmp_path, "--horizon=2", "--customers=2", "--start_updates=7")
  line[2] = "--experiments=1"
  search = ceiling.Search("1", plan_of(line), lambda line: None)
  assert sorted(search._wanted) == [0, 1, 2, 3]
  seen = np.full((2, 10), 0.5)
  rewards = iter(range(7))
  monkeypatch.setattr(ceiling, "_shown", lambda *_: lambda *_: seen)
  monkeypatch.setattr(
      search, "_train",
      lambda shared, points, key, updates: (shared, {"reward": np.full(4, next(rewards))}),
  )
  policies = types.SimpleNamespace(agent=np.zeros((4, 1)))
  _, points, judged = search._train_starts(policies, jax.random.key(0))
  np.testing.assert_array_equal(judged["reward"], np.full(4, (2 + 3 + 4 + 5 + 6) / 5))
  space, start = search._problem.space, search._starts[0]
  wanted = search._wanted[0]
  for turn in range(2):
    start = ceiling.ceiling_starts.steered(space, start, wanted, seen, 0.5 / (1 + turn / 15))
  np.testing.assert_allclose(points[0], start)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--experiments=6"], "experiment='6' is not one of"),
        (["--experiments=recover"], "--experiments=recover: its goals differ"),
        (["--customers=2"], "linear_quadratic is not of the market: customers"),
        (["--population=3"], "--population=3 must be at least 4"),
        (["--together=3"], "--together=3 must divide the population"),
        (["--spread=0"], "--spread=0.0 must be positive"),
        (["--episodes=3"], "--episodes: "),
        (["--runs=/nowhere"], "--runs: /nowhere/summary.json is no summary"),
    ],
)
def test_bad_flags(tmp_path, capsys, flags, message):
  assert program_.main(command(tmp_path, *flags)) == 2
  assert message in capsys.readouterr().err


def test_entry_by_hand(tmp_path):
  """Misfit and noise, and the epsilon in parts of the mean reward."""
  experiment = experiments.named(NAME)
  detail = Detail(
      reward=0.7, reward_error=0.01, reward_of_means=0.9, values=[1.0, 0.8],
      deviations=[0.1, 0.2], fits=[0.6, 0.8], fits_of_means=[0.8, 1.0],
  )
  estimate = shared_game.Estimate
  certificate = shared_game.Certificate(estimate(0.5, 0.1), estimate(-20.0, 0.2), None, None)
  final = ceiling_report.Final(detail, np.array([0.6, 0.3]), certificate, np.zeros(3), 0.65)
  row = ceiling_report.flat(final)
  entry = ceiling_report.entry(experiment, experiment.problem(), row)
  np.testing.assert_allclose(
      [entry["misfit"], entry["noise"], entry["relative_epsilon"]], [0.1, 0.2, 0.025]
  )
  assert entry["profile"] == {"supertype_1/mean": 0.6, "supertype_2/mean": 0.3}
  part = {"weight": 0.5, "fit": 0.6, "fit_of_means": 0.8}
  assert {k: round(v, 6) for k, v in entry["parts"]["supertype_action[0]"].items()} == part
  # Entries are added to those that are there.
  spent = {"calibrations": 20.0, "seconds": 1.0}
  for name in ("2", "1"):
    ceiling_report.add(tmp_path, name, entry | spent)
  assert list(ceiling_report.read(tmp_path / ceiling_report.FILE)) == ["1", "2"]
  text = (tmp_path / ceiling_report.TABLE).read_text()
  assert "0.700 +- 0.010" in text and "2.5%" in text


def test_a_file_that_is_no_ceiling(tmp_path):
  path = tmp_path / "other.json"
  path.write_text('{"experiments": {"1": {}}}')
  with pytest.raises(ValueError, match="other.json is no result of launch.checks.ceiling"):
    ceiling_report.read(path)
