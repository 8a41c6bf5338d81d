"""launch.nes_train and launch.training.network: runs, checkpoints, flags and trained networks.

Most tests share one finished run of the program, among them those of its network in nes_jax.solve.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch import nes_train
from launch.runtime import checkpoint, writers
from launch.training.network import NetworkTraining
import nes_jax
from nes_jax import pretrained, training

ROOT = pathlib.Path(__file__).parent.parent


def test_a_run_that_diverges_stops_with_a_state_that_is_finite(tmp_path, capsys):
  flags = ["--shapes=2x2", "--batch=8", "--updates=60", "--report_every=10", "--eval_games=8",
           "--payoff_channels=4", "--dual_channel=4", "--dual_channels=4"]
  code = nes_train.main(["nes_train", *flags, f"--out={tmp_path}", "--learning_rate=1e30",
                         "--schedule=cosine", "--patience=15"])
  assert code == 2
  assert "at update 20 the last 1" in capsys.readouterr().err
  last = checkpoint.latest(tmp_path)
  assert checkpoint.load_metadata(last)["step"] == 20
  run = nes_train.run_of(["nes_train", *flags, f"--out={tmp_path}"])
  like = jax.eval_shape(lambda key: training.init(key, run.training), jax.random.key(0))
  state = checkpoint.restore(last, like)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
  assert [row["skipped"] for row in writers.read(tmp_path)][0] in range(5, 10)


def command(out, *more):
  return [
      "nes_train", f"--out={out}", "--shapes=3x3,2x4", "--batch=16,8", "--updates=40",
      "--report_every=4", "--save_every=12", "--eval_games=16", "--payoff_channels=6",
      "--dual_channel=8", "--dual_channels=6", "--norm=rms", *more,
  ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A finished run of the program, with an export."""
  out = tmp_path_factory.mktemp("run")
  assert nes_train.main(command(out, f"--export={out}/net.npz", "--notes=a note")) == 0
  return out


def test_run_writes_metrics_checkpoints_and_a_network(trained):
  rows = writers.read(trained)
  assert [row["step"] for row in rows] == list(range(4, 41, 4))
  assert np.isfinite([row["train/3x3/loss"] for row in rows]).all()
  assert "eval/solver_gap" in rows[-1] and rows[-1]["eval/2x4/gap"] >= 0
  assert checkpoint.load_metadata(checkpoint.latest(trained))["step"] == 40
  assert checkpoint.best(trained) is not None
  net = pretrained.load(trained / "net.npz")
  assert net.players == 2 and net.config.concept == "cce"
  card = (trained / "net.md").read_text()
  assert "a note" in card and "| 3x3 | 16 |" in card
  solver_gap = net.facts["table"]["3x3"]["solver_gap"]
  best = min(row["eval/solver_gap"] for row in rows if "eval/solver_gap" in row)
  assert 0 < solver_gap < 1 and best < 1


@pytest.mark.slow
def test_resumed_run_is_bit_equal(trained, tmp_path):
  """A run that SIGTERM stops, and that continues, ends in the same state as one without a stop."""
  environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
  line = [sys.executable, "-m", "launch.nes_train", *command(tmp_path)[1:]]
  process = subprocess.Popen(line, cwd=ROOT, env=environment, stderr=subprocess.PIPE)
  deadline = time.monotonic() + 240
  while not len(writers.read(tmp_path)) and time.monotonic() < deadline:
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  _, error = process.communicate(timeout=240)
  assert process.returncode == 143, error.decode()
  assert checkpoint.load_metadata(checkpoint.latest(tmp_path))["step"] < 40
  assert nes_train.main(command(tmp_path)) == 0
  assert [row["step"] for row in writers.read(tmp_path)] == list(range(4, 41, 4))
  config = nes_train.run_of(command(tmp_path)).training
  like = jax.eval_shape(lambda key: training.init(key, config), jax.random.key(0))
  one, two = (checkpoint.restore(checkpoint.latest(d), like) for d in (trained, tmp_path))
  jax.tree.map(np.testing.assert_array_equal, one, two)


def test_finished_run_runs_again_without_harm(trained, capsys):
  before = checkpoint.latest(trained).read_bytes()
  assert nes_train.main(command(trained)) == 0
  assert "is finished" in capsys.readouterr().err
  assert checkpoint.latest(trained).read_bytes() == before


def test_run_starts_from_a_network(trained, tmp_path):
  """A run starts from a network of another run, and its card names both runs."""
  flags = ("--learning_rate=1e-9", "--updates=12", f"--start={trained}/net.npz")
  assert nes_train.main(command(tmp_path, *flags, f"--export={tmp_path}/on.npz")) == 0
  old, new = (pretrained.load(d / n) for d, n in ((trained, "net.npz"), (tmp_path, "on.npz")))
  for x, y in zip(jax.tree.leaves(old.params), jax.tree.leaves(new.params)):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
  assert [past["updates"] for past in new.facts["earlier"]] == [old.facts["updates"]]
  assert f"Before that, {old.facts['updates']} updates" in (tmp_path / "on.md").read_text()


def test_a_start_may_lack_newton_steps():
  """A network fits a run with more Newton steps, since these have no parameters."""
  config = pretrained.load("me_cce_2p").config
  flags = ["--start=me_cce_2p", f"--rounds={config.rounds}", f"--newton={config.newton + 1}"]
  run = nes_train.run_of(["nes_train", "--out=x", *flags])
  assert run.training.network.newton == config.newton + 1 and run.start.name == "me_cce_2p"


def test_checkpoints_with_former_names_are_continued():
  """Fields of the training were once called `bend` and `norm`."""
  job = NetworkTraining(nes_train.run_of(command("x", "--bend=3", "--sphere=l1")))
  now = job.metadata()
  before = {**now, "training": dict(now["training"])}
  for old, new in (("bend", "log_loss_above"), ("norm", "sphere")):
    before["training"][old] = before["training"].pop(new)
  settings = job.settings(now)
  assert job.settings(before) == settings
  assert (settings["log_loss_above"], settings["sphere"], settings["norm"]) == (3, "l1", "rms")


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--start=no_such"], "--start=no_such: unknown network 'no_such'; those that ship"),
        (["--start=me_ce_2p"], "another network: concept ce there, cce here; payoff_channels"),
        (["--shapes=3x3,4x2"], r"--out=.* holds another run .shapes"),
        (["--seed=5"], "holds another run .seed 0 -> 5."),
        (["--shapes=3by3"], "--shapes=3by3: '3by3' is no shape"),
        (["--batch=many"], "--batch=many: integers"),
        (["--batch=1,2,3"], "--batch=.*one positive size for each"),
        (["--export=net"], "ends in .npz"),
        (["--concept=nash"], "--concept"),
        (["--norm=instance"], "--norm=instance: use one of batch, rms, none"),
        (["--save_every=0"], "--save_every=0 must be at least 1"),
        (["more"], "unexpected argument 'more'"),
    ],
)
def test_bad_flags(trained, capsys, flags, message):
  assert nes_train.main(command(trained, *flags)) == 2
  assert re.search(message, capsys.readouterr().err)


# The trained network in `nes_jax.solve`.


def test_own_network_in_solve(trained):
  payoffs = np.random.default_rng(0).normal(size=(6, 2, 3, 3)).astype(np.float32)
  exact = nes_jax.solve(payoffs, batched=True)
  answer = nes_jax.solve(payoffs, batched=True, method="neural", trained=trained / "net.npz")
  assert (np.asarray(answer.iterations) == 0).all() and not answer.repeated.any()
  np.testing.assert_allclose(np.asarray(answer.joint).sum((1, 2)), 1, rtol=1e-5)
  # The certificate is that of the answer, and only answers that have converged say so.
  for game, joint, gap in zip(payoffs, np.asarray(answer.joint), np.asarray(answer.gap)):
    kept = (joint * game).sum((1, 2))
    row = (game[0] @ joint.sum(0)).max() - kept[0]
    column = (joint.sum(1) @ game[1]).max() - kept[1]
    np.testing.assert_allclose(gap, max(row, 0) + max(column, 0), atol=1e-5)
  np.testing.assert_array_equal(answer.converged, np.asarray(answer.residual) <= 1e-4)
  refined = nes_jax.solve(payoffs, batched=True, method="refined", trained=trained / "net.npz")
  assert refined.converged.all()
  np.testing.assert_allclose(refined.joint, exact.joint, atol=5e-3)
  one = nes_jax.solve(payoffs[0], method="neural", trained=trained / "net.npz")
  np.testing.assert_allclose(one.joint, answer.joint[0], atol=1e-5)


def test_solve_takes_a_network_under_jit_and_grad(trained):
  net = pretrained.load(trained / "net.npz")
  payoffs = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 3)), jnp.float32)

  def first(g):
    return nes_jax.solve(g, method="neural", trained=net).joint[0, 0]

  np.testing.assert_allclose(jax.jit(first)(payoffs), first(payoffs), rtol=1e-4)
  assert np.isfinite(jax.grad(first)(payoffs)).all()


@pytest.mark.parametrize(
    "options, match",
    [
        ({"concept": "ce"}, "gives the cce.*a ce with"),
        (
            {"selection": nes_jax.Selection(target=np.full((3, 3), 1 / 9))},
            "with .'target'. is wanted",
        ),
        ({"duals": (np.zeros(3), np.zeros(3))}, "duals are where method 'exact' starts"),
        ({"method": "exact"}, "a network is for method 'neural' or 'refined'"),
        (
            {"selection": nes_jax.Selection(welfare=np.eye(3), welfare_weight=np.inf)},
            "no infinite welfare_weight",
        ),
    ],
)
def test_wrong_network(trained, options, match):
  payoffs = np.random.default_rng(1).normal(size=(2, 3, 3))
  net = pretrained.load(trained / "net.npz")
  with pytest.raises(ValueError, match=match):
    nes_jax.solve(payoffs, **{"method": "neural", "trained": net, **options})


def test_no_network_fits():
  payoffs = np.random.default_rng(1).normal(size=(7,) + (2,) * 7)
  with pytest.raises(ValueError, match="no shipped network.*7-player.*use method='exact'"):
    nes_jax.solve(payoffs, method="neural")
