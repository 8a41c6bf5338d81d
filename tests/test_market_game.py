"""launch.market_game and its plain bootstrap: files, tables, stored policies, flags."""

import re

import jax
import numpy as np
import pytest

from launch import market_game
from launch.empirical import plain
from launch.runtime.flags import UsageError
from launch.training import market_stored
from nes_jax import empirical


def command(out, *more):
  return [
      "market_game", f"--out={out}", "--merchants=3", "--clusters=2", "--customers=4",
      "--horizon=4", "--updates=4", "--train_episodes=8", "--hidden=4", "--minibatches=2",
      "--epochs=1", "--quotes=0.5", "--episodes=8", "--resamples=40", "--response_updates=1",
      "--response_episodes=8", "--judge_episodes=8", *more,
  ]


@pytest.mark.slow
def test_program_writes_tables_and_a_picture(tmp_path, capsys):
  assert market_game.main(command(tmp_path)) == 0
  shown = capsys.readouterr().out
  assert "supertype 2: weight of never trade" in shown
  assert re.search(r"uncertified resamples: \d", shown)
  assert len(re.findall(r"deviator as supertype \d: gains", shown)) == 2
  assert (tmp_path / "market_game.png").stat().st_size > 10_000
  lines = (tmp_path / "report.csv").read_text().splitlines()
  # 3 policies of 2 roles, payoff and regret of 2, 2 sums, 2 deviators, and the header.
  assert len(lines) == 6 + 4 + 2 + 2 + 1
  game = empirical.from_csv(tmp_path / "episodes.csv", roles=(0, 1, 1))
  assert game.labels[0] == ("quote 0.5", "never trade", "trained")
  assert game.samples.shape == (8, 18, 3)
  # A merchant that never trades earns nothing.
  np.testing.assert_array_equal(game.mean[(game.profiles == 1).all(1)], 0)
  # The stored policy gives the same episodes.
  again = tmp_path / "again"
  more = (f"--policy={tmp_path / 'policy'}", "--response_updates=0")
  assert market_game.main(command(again, *more)) == 0
  assert (again / "episodes.csv").read_text() == (tmp_path / "episodes.csv").read_text()
  env = market_game.task_of(command(again, "--clusters=3")).training.env
  with pytest.raises(UsageError, match="for 2 clusters, and --clusters=3"):
    market_stored.stored_agent(tmp_path / "policy", env)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--episodes=1"], "--episodes=1 must be at least 2"),
        (["--quotes=3"], "--quotes=.*between 0 and 2"),
        (["--quotes=0.5,0.5"], "--quotes=.*must be different"),
        (["--hedge=2"], "--hedge=2.0 must lie between 0 and 1"),
        (["--level=95"], "--level=95.0 must lie between 0 and 1"),
        (["--resamples=0"], "--resamples=0 must be at least 1"),
        (["--judge_episodes=2"], "--judge_episodes=2 must be at least 4"),
        (["--merchants=20"], "--merchants=20 with 3 policies have 3486784401 profiles"),
        (["--policy=/nowhere"], "/nowhere holds no checkpoint"),
    ],
)
def test_bad_flags(tmp_path, capsys, flags, message):
  assert market_game.main(command(tmp_path, *flags)) == 2
  assert re.search(message, capsys.readouterr().err)


def test_help(capsys):
  assert market_game.main(["market_game", "--help"]) == 0
  printed = capsys.readouterr().out
  assert "--train_episodes" in printed and "reported as a violation" in printed


@pytest.mark.parametrize("roles", [(0, 0, 0), (0, 1, 1)])
def test_plain_bootstrap_is_an_oracle(roles):
  """The same intervals within sampling error, and the same answers of whole and reduced games."""
  pytest.importorskip("cvxpy")
  rng = np.random.default_rng(0)
  profiles = empirical.all_profiles((3, 3, 3), roles)
  truth = rng.normal(size=(len(profiles), 3))
  samples = truth + 0.3 * rng.normal(size=(60, len(profiles), 3))
  game = empirical.from_samples(samples, profiles, roles=roles)
  report = empirical.solve(game, resamples=2000, key=jax.random.key(1))
  joint = report.solution.joint
  whole, reduced = (
      plain.bootstrap(game, joint, 0, count, reduced=small)
      for count, small in ((5, False), (400, True))
  )
  np.testing.assert_allclose(whole.payoffs, reduced.payoffs[:5], atol=1e-4)
  np.testing.assert_allclose(whole.weights, reduced.weights[:5], atol=1e-4)
  np.testing.assert_allclose(whole.regret, reduced.regret[:5], atol=1e-9)
  for ours, theirs in (
      (report.payoffs, reduced.payoffs),
      (report.regret, reduced.regret),
      (report.weights[0], reduced.weights[:, 0]),
      (report.weights[2], reduced.weights[:, 2]),
  ):
    # The end of an interval errs by 0.15 standard deviations with 400 resamples.
    apart = 4 * 0.15 * theirs.std(0) + 1e-4
    low, high = np.quantile(theirs, [0.025, 0.975], axis=0)
    np.testing.assert_array_less(abs(ours.interval.low - low), apart)
    np.testing.assert_array_less(abs(ours.interval.high - high), apart)
