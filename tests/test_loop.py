"""launch.runtime.loop: what is left when a run ends before its time, and what continues it."""

import signal
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from launch.runtime import checkpoint, loop, stopping, writers
from launch.runtime.flags import UsageError


class Killed(Exception):
  """Stands for a kill: nothing runs after it."""


class Counting(loop.Training):
  """Six updates that count; functions in place of the methods may be given."""

  metric = "eval/state"
  total = 6

  def __init__(self, **changes):
    self.prepared = 0
    for name, value in changes.items():
      setattr(self, name, value)

  def metadata(self):
    return {"settings": {"rate": 1, "inner/gae_lambda": 0.5}}

  def init(self):
    return jnp.zeros(1)

  def describe(self, state, done):
    return [f"state {float(state[0]):g} after {done}"]

  def prepare(self):
    self.prepared += 1

  def place(self, state):
    return jnp.asarray(state)

  def advance(self, state, done):
    return state + 1, done + 1, {"train/state": float(state[0]) + 1}

  def evaluate(self, state):
    return {"eval/state": float(state[0])}


def options(directory, **changes):
  return loop.Options(directory, **{"save_every": 3, **changes})


def run(directory, check_stop=lambda: None, say=lambda line: None, training=None, **changes):
  """Six updates, evaluated every third."""
  training = training or Counting(**changes)
  return loop.run(training, options(directory), check_stop=check_stop, say=say)


def rows(directory):
  return [
      {k: v for k, v in row.items() if not k.startswith("time/")}
      for row in writers.read(directory)
  ]


@pytest.fixture
def whole(tmp_path):
  run(tmp_path / "whole")
  return rows(tmp_path / "whole")


def test_rows(whole):
  assert [row["step"] for row in whole] == [1, 2, 3, 4, 5, 6]
  assert [row.get("eval/state") for row in whole] == [None, None, 3, None, None, 6]


@pytest.mark.parametrize("at", [3, 6])
def test_a_kill_in_an_evaluation_loses_nothing(tmp_path, whole, at):
  def killed(state):
    if int(state[0]) == at:
      raise Killed
    return Counting().evaluate(state)

  with pytest.raises(Killed):
    run(tmp_path, evaluate=killed)
  assert checkpoint.load_metadata(checkpoint.latest(tmp_path))["step"] == at
  state, report = run(tmp_path)
  assert rows(tmp_path) == whole
  assert int(state[0]) == 6 and report == {"eval/state": 6.0}


@pytest.mark.parametrize("at", [3, 6])
def test_a_kill_after_an_evaluation_repeats_its_row(tmp_path, monkeypatch, whole, at):
  save = checkpoint.save

  def killed(*args, **kwargs):
    if kwargs["step"] == at and kwargs["config"]["pending"] is None:
      raise Killed
    save(*args, **kwargs)

  with monkeypatch.context() as patch, pytest.raises(Killed):
    patch.setattr(checkpoint, "save", killed)
    run(tmp_path)
  assert len(rows(tmp_path)) == at
  run(tmp_path)
  assert rows(tmp_path) == whole


@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_stop_saves(tmp_path, whole, at):
  calls = []

  def stop():
    calls.append(1)
    if len(calls) == at:
      raise stopping.Stopped(signal.SIGTERM)

  with pytest.raises(stopping.Stopped):
    run(tmp_path, check_stop=stop)
  assert checkpoint.load_metadata(checkpoint.latest(tmp_path))["step"] == at
  run(tmp_path)
  assert rows(tmp_path) == whole


def test_a_stop_after_the_last_update_is_too_late(tmp_path, whole):
  calls = []

  def stop():
    calls.append(1)
    if len(calls) == 6:
      raise stopping.Stopped(signal.SIGTERM)

  _, report = run(tmp_path, check_stop=stop)
  assert report == {"eval/state": 6.0} and rows(tmp_path) == whole


# Beginning of a run.


def test_a_run_says_where_it_begins_and_where_it_continues(tmp_path):
  lines = []
  with pytest.raises(stopping.Stopped):
    run(tmp_path, check_stop=stop_at_once, say=lines.append)
  training = Counting()
  run(tmp_path, say=lines.append, training=training)
  assert lines == ["state 0 after 0", "state 1 after 1"] and training.prepared == 1


def stop_at_once():
  raise stopping.Stopped(signal.SIGTERM)


def test_a_finished_run_is_left_as_it_is(tmp_path, whole):
  run(tmp_path)
  before = checkpoint.latest(tmp_path).read_bytes()
  lines, training = [], Counting()
  state, report = run(tmp_path, say=lines.append, training=training)
  assert int(state[0]) == 6 and report == {} and training.prepared == 0
  assert lines[1] == f"{tmp_path} is finished; {Counting.longer}"
  assert checkpoint.latest(tmp_path).read_bytes() == before and rows(tmp_path) == whole


def test_a_run_with_other_settings_is_refused(tmp_path):
  run(tmp_path)
  other = Counting(metadata=lambda: {"settings": {"rate": 2, "inner/gae_lambda": 0.5}})
  with pytest.raises(UsageError, match="holds another run .rate 1 -> 2.: give the same flags"):
    run(tmp_path, training=other)


def test_a_run_that_is_longer_is_refused(tmp_path):
  run(tmp_path)
  with pytest.raises(UsageError, match="--updates=4: .* has had 6; give as many or more"):
    run(tmp_path, total=4)


def test_settings_may_have_older_names(tmp_path, whole):
  """A checkpoint from before a setting was renamed is continued."""
  old = Counting(metadata=lambda: {"settings": {"rate": 1, "inner/trace": 0.5}})
  with pytest.raises(stopping.Stopped):
    run(tmp_path, check_stop=stop_at_once, training=old)
  with pytest.raises(UsageError, match="inner/gae_lambda None -> 0.5"):
    run(tmp_path)
  run(tmp_path, old_names={"trace": "gae_lambda"})
  assert rows(tmp_path) == whole


@pytest.mark.parametrize("name", ["report_every", "save_every", "keep", "patience"])
def test_options_are_checked(tmp_path, name):
  with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
    options(tmp_path, **{name: 0})


# Updates that are not finite.


class Counted(NamedTuple):
  """A state with the counts of a learner that skips."""

  optimiser: optax.OptState
  step: jax.Array


class Skipping(Counting):
  """Six updates, of which finite[i] or not."""

  def __init__(self, finite):
    super().__init__()
    self.finite = finite
    self.optimiser = optax.apply_if_finite(optax.sgd(1.0), 10**6)

  def init(self):
    return Counted(self.optimiser.init(jnp.zeros(2)), jnp.zeros((), jnp.int32))

  def describe(self, state, done):
    return ()

  def place(self, state):
    return state

  def advance(self, state, done):
    gradient = jnp.full(2, 1.0 if self.finite[done] else np.nan)
    _, new = self.optimiser.update(gradient, state.optimiser, jnp.zeros(2))
    return Counted(new, state.step + 1), done + 1, {"train/loss": gradient[0]}

  def evaluate(self, state):
    return {}


def skipping(directory, finite, patience):
  return loop.run(Skipping(finite), options(directory, patience=patience))


def test_skipped_steps_are_counted_and_the_run_goes_on(tmp_path):
  skipping(tmp_path, [True, False, False, True, False, True], patience=3)
  assert [row["skipped"] for row in rows(tmp_path)] == [0, 1, 2, 2, 3, 3]


def test_too_many_skipped_steps_in_a_row_end_the_run_and_are_saved(tmp_path):
  with pytest.raises(FloatingPointError, match="at update 5 the last 3 steps .* start anew"):
    skipping(tmp_path, [True, True, False, False, False, True], patience=3)
  assert checkpoint.load_metadata(checkpoint.latest(tmp_path))["step"] == 5
  assert [row["skipped"] for row in rows(tmp_path)] == [0, 0, 1, 2]


def test_what_is_no_number_ends_the_run_before_it_is_saved(tmp_path):
  def diverges(state, done):
    return state + 1, done + 1, {"train/loss": np.float32("nan") if done == 4 else 0.0}

  with pytest.raises(FloatingPointError, match="train/loss is nan at update 5: start anew"):
    run(tmp_path, advance=diverges)
  assert checkpoint.load_metadata(checkpoint.latest(tmp_path))["step"] == 3
