"""launch.market_train: files, certificate, continuing, flags."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from calsheq_jax import policy, ppo
from envs import market
from launch import market_train
from launch.runtime import checkpoint, stopping, writers
from launch.runtime.flags import UsageError
from launch.training import market as market_training
from launch.training import market_run, market_summary

ROOT = pathlib.Path(__file__).parent.parent


def command(out, *more):
  return [
      "market_train", f"--out={out}", "--merchants=3", "--clusters=2", "--customers=4",
      "--horizon=4", "--seeds=2", "--updates=12", "--episodes=8", "--report_every=2",
      "--save_every=4", "--certify_every=8", "--response_updates=2", "--response_episodes=8",
      "--judge_episodes=8", "--hidden=4", "--minibatches=4", "--epochs=1", *more,
  ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A finished run of the program."""
  out = tmp_path_factory.mktemp("run")
  assert market_train.main(command(out)) == 0
  return out


def states(out):
  run = market_train.run_of(command(out))
  net = policy.for_environment(run.env, run.network)
  like = jax.eval_shape(
      jax.vmap(lambda key: ppo.init(key, net, run.learning)), jax.random.split(jax.random.key(0))
  )
  return checkpoint.restore(checkpoint.latest(out), like)


def test_run_writes_metrics_checkpoints_and_pictures(trained):
  rows = writers.read(trained)
  assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]
  assert [row["step"] for row in rows if "eval/supertype_1/share" in row] == [4, 8, 12]
  assert [row["step"] for row in rows if "eval/epsilon" in row] == [8, 12]
  last = rows[-1]
  shares = [last[f"eval/{who}/share"] for who in ("supertype_1", "supertype_2", "facility")]
  np.testing.assert_allclose(sum(shares), 1, rtol=1e-5)
  assert last["eval/supertype_1/ask"] > 0 > last["eval/supertype_1/bid"]
  assert checkpoint.load_metadata(checkpoint.latest(trained))["step"] == 12
  assert checkpoint.best(trained) is not None
  for name in ("training", "policy", "episode"):
    assert (trained / f"{name}.png").stat().st_size > 10_000
  # Two seeds have two policies.
  weights = states(trained).agent.params["policy_0"]["w"]
  assert np.abs(weights[0] - weights[1]).max() > 0.01


def test_summary_and_certificate(trained, capsys):
  summary = json.loads((trained / "summary.json").read_text())
  assert [seed["seed"] for seed in summary["seeds"]] == [0, 1]
  for seed in summary["seeds"]:
    low, high = seed["epsilon_interval"]
    assert low <= seed["epsilon"] <= high and len(seed["rewards"]) == 3
    np.testing.assert_allclose(np.mean(seed["rewards"]), seed["value"], rtol=1e-4, atol=1e-6)
  assert summary["settings"]["num_merchants"] == 3
  # A second call has nothing left to do, and prints the certificate.
  before = checkpoint.latest(trained).read_bytes()
  assert market_train.main(command(trained)) == 0
  printed = capsys.readouterr()
  assert "is finished" in printed.err and checkpoint.latest(trained).read_bytes() == before
  value = summary["seeds"][1]["epsilon"]
  assert f"seed 1: {value:.4f}" in printed.err
  assert f"eval/epsilon {summary['report']['eval/epsilon']:.4f}" in printed.out


@pytest.mark.parametrize("after", [1, 5])
def test_continued_run_is_bit_equal(trained, tmp_path, after):
  calls = []

  def stop():
    calls.append(1)
    if len(calls) == after:
      raise stopping.Stopped(signal.SIGTERM)

  with pytest.raises(stopping.Stopped):
    market_training.train(market_train.run_of(command(tmp_path)), check_stop=stop)
  assert checkpoint.load_metadata(checkpoint.latest(tmp_path))["step"] == 2 * after
  assert market_train.main(command(tmp_path, "--nofigures")) == 0
  jax.tree.map(np.testing.assert_array_equal, states(trained), states(tmp_path))

  def drop(row):
    return {k: v for k, v in row.items() if not k.startswith("time/")}

  assert [drop(row) for row in writers.read(tmp_path)] == [
      drop(row) for row in writers.read(trained)
  ]
  assert not (tmp_path / "training.png").exists()


def test_older_checkpoints_are_continued(trained, tmp_path, monkeypatch, capsys):
  """A run that was stopped when gae_lambda was called trace goes on."""
  run = market_train.run_of(command(tmp_path))
  now = run.settings()
  then = {("trace" if name == "gae_lambda" else name): value for name, value in now.items()}
  assert "trace" in then and len(then) == len(now)

  def stop():
    raise stopping.Stopped(signal.SIGTERM)

  with monkeypatch.context() as patched:
    patched.setattr(market_run.Run, "settings", lambda self: then)
    with pytest.raises(stopping.Stopped):
      market_training.train(run, check_stop=stop)
  assert checkpoint.load_metadata(checkpoint.latest(tmp_path))["config"]["settings"] == then
  assert market_train.main(command(tmp_path, "--nofigures")) == 0
  jax.tree.map(np.testing.assert_array_equal, states(trained), states(tmp_path))
  assert market_train.main(command(tmp_path, "--trace=0.9")) == 2
  assert "holds another run (gae_lambda 0.95 -> 0.9)" in capsys.readouterr().err


@pytest.mark.slow
def test_sigterm_saves(tmp_path):
  environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
  line = [
      sys.executable, "-m", "launch.market_train",
      *command(tmp_path, "--updates=100000", "--save_every=100000", "--certify_every=100000")[1:],
  ]
  process = subprocess.Popen(line, cwd=ROOT, env=environment, stderr=subprocess.PIPE)
  deadline = time.monotonic() + 240
  while not writers.read(tmp_path) and time.monotonic() < deadline:
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  _, error = process.communicate(timeout=240)
  assert process.returncode == 143, error.decode()
  assert checkpoint.load_metadata(checkpoint.latest(tmp_path))["step"] >= 2


def test_profile_of_numbers():
  env = market.Market(market.Config(clusters=2))
  numbers = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.07)
  assert market_run.profile_of(env, numbers) == market.Profile(
      market.Supertype1(*(pytest.approx(x) for x in ([0.1, 0.2], 0.3))),
      market.Supertype2(*(pytest.approx(x) for x in ([0.4, 0.5], 0.6, 0.07))),
  )
  with pytest.raises(UsageError, match="has 6 numbers; 7 are expected, in the order"):
    market_run.profile_of(env, numbers[:-1])
  with pytest.raises(UsageError, match="2/tolerance_variance=0.7.*0 and 0.25"):
    market_run.profile_of(env, (*numbers[:-1], 0.7))


def test_flags_of_the_profile(tmp_path):
  run = market_train.run_of(command("x", "--connection1=1", "--connection=0", "--variance=0.02"))
  assert run.profile == (1, 1, 0.5, 0, 0, 0.5, 0.02)
  path = tmp_path / "profile.json"
  path.write_text("[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.07]")
  assert market_train.run_of(command("x", f"--profile={path}")).profile[-1] == 0.07


@pytest.mark.slow
def test_where_one_supertype_has_no_customers(tmp_path):
  """Its merchants never hold anything, and pictures must cope with that."""
  few = ("--seeds=1", "--updates=4", "--certify_every=4", "--connection=0", "--connection1=1")
  assert market_train.main(command(tmp_path, *few)) == 0
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert summary["report"]["eval/supertype_2/share"] == 0
  assert (tmp_path / "policy.png").exists()


@pytest.mark.slow
def test_where_nobody_has_customers(tmp_path, capsys):
  few = ("--seeds=1", "--updates=4", "--certify_every=4", "--connection=0")
  assert market_train.main(command(tmp_path, *few)) == 0
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert summary["report"]["eval/value"] == 0
  assert "eval/relative_epsilon" not in summary["report"]
  assert "of a mean reward of 0.0000; the policy" in capsys.readouterr().err


def test_names_of_deviations():
  names = [market_summary.deviation_name(i) for i in range(6)]
  assert names[1] == "the policy, its mean action" and names[4] == "a deviator fully trained"
  assert len(set(names)) == 6


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--hidden=5"], r"--out=.* holds another run .hidden \[4\] -> \[5\]"),
        (["--connection=0.4"], "holds another run .profile"),
        (["--episodes=7", "--minibatches=8"], "--episodes: 7 episodes of 12 steps"),
        (["--response_episodes=1", "--minibatches=8"], "--response_episodes: 1 episodes of 4"),
        (["--connection=2"], "supertype_1/connection_1=2.0 of the profile must lie between 0"),
        (["--profile=/nowhere.json"], "--profile=/nowhere.json: .*a JSON list"),
        (["--merchants=1"], "--merchants=1 must be at least 2"),
        (["--head=normal"], "--head"),
        (["--hidden=four"], "--hidden=four: integers"),
        (["--discount=2"], "--discount=2.0 must lie"),
        (["--judge_episodes=2"], "--judge_episodes=2 must be at least 4"),
        (["--seeds=0"], "--seeds=0 must be at least 1"),
        (["--save_every=3"], "--save_every=3 must be a multiple of --report_every=2"),
        (["--last_rate=2"], "--last_rate=2.0 must lie between 0 and 1"),
        (["more"], "unexpected argument 'more'"),
    ],
)
def test_bad_flags(trained, capsys, flags, message):
  assert market_train.main(command(trained, *flags)) == 2
  assert re.search(message, capsys.readouterr().err)


def test_help(capsys):
  assert market_train.main(["market_train", "--help"]) == 0
  printed = capsys.readouterr().out
  assert "--response_updates" in printed and "lower bound on the epsilon" in printed
  assert market_train.main(["market_train"]) == 2
  assert "--out=DIRECTORY is needed" in capsys.readouterr().err
