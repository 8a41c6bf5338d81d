"""launch.runtime.loop: what is left when a run ends before its time."""

import signal
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from launch.runtime import checkpoint, loop, stopping, writers


class Killed(Exception):
  """Stands for a kill: nothing runs after it."""


def advance(state, done):
  return state + 1, done + 1, {"train/state": float(state[0]) + 1}


def evaluate(state):
  return {"eval/state": float(state[0])}


def run(directory, **changes):
  """Six updates, evaluated every third."""
  last = checkpoint.latest(directory)
  state, done = jnp.zeros(1), 0
  if last is not None:
    state, done = checkpoint.restore(last, state), checkpoint.load_metadata(last)["step"]
  options = {"advance": advance, "evaluate": evaluate, "save_every": 3, "config": {}} | changes
  return loop.run(state, directory, done=done, total=6, metric="eval/state", **options)


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
    return evaluate(state)

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


class Counted(NamedTuple):
  """A state with the counts of a learner that skips."""

  optimiser: optax.OptState
  step: jax.Array


def counted(directory, finite, **changes):
  """Six updates, of which finite[i] or not."""
  optimiser = optax.apply_if_finite(optax.sgd(1.0), 10**6)
  params = jnp.zeros(2)

  def advance(state, done):
    gradient = jnp.full(2, 1.0 if finite[done] else np.nan)
    _, new = optimiser.update(gradient, state.optimiser, params)
    return Counted(new, state.step + 1), done + 1, {"train/loss": gradient[0]}

  options = {"done": 0, "total": 6, "advance": advance, "save_every": 3, "config": {}} | changes
  start = Counted(optimiser.init(params), jnp.zeros((), jnp.int32))
  return loop.run(start, directory, evaluate=lambda state: {}, **options)


def test_skipped_steps_are_counted_and_the_run_goes_on(tmp_path):
  counted(tmp_path, [True, False, False, True, False, True], patience=3)
  assert [row["skipped"] for row in rows(tmp_path)] == [0, 1, 2, 2, 3, 3]


def test_too_many_skipped_steps_in_a_row_end_the_run_and_are_saved(tmp_path):
  with pytest.raises(FloatingPointError, match="at update 5 the last 3 steps .* start anew"):
    counted(tmp_path, [True, True, False, False, False, True], patience=3)
  assert checkpoint.load_metadata(checkpoint.latest(tmp_path))["step"] == 5
  assert [row["skipped"] for row in rows(tmp_path)] == [0, 0, 1, 2]


def test_what_is_no_number_ends_the_run_before_it_is_saved(tmp_path):
  def diverges(state, done):
    return state + 1, done + 1, {"train/loss": np.float32("nan") if done == 4 else 0.0}

  with pytest.raises(FloatingPointError, match="train/loss is nan at update 5: start anew"):
    run(tmp_path, advance=diverges)
  assert checkpoint.load_metadata(checkpoint.latest(tmp_path))["step"] == 3
