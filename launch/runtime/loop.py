"""The loop of training programs: chunks of updates, metrics, evaluations, checkpoints, stops."""

from collections.abc import Callable, Mapping, Sequence
import os
from typing import Any

import numpy as np

from launch.runtime import checkpoint, progress, stopping, writers
from launch.runtime.program import UsageError

State = Any
Row = dict[str, float]


def run(
    state: State,
    directory: str | os.PathLike,
    *,
    done: int,
    total: int,
    advance: Callable[[State, int], tuple[State, int, Row]],
    evaluate: Callable[[State], Row],
    save_every: int,
    config: Mapping[str, Any],
    keep: int = 3,
    metric: str | None = None,
    advice: str = "continue from the last checkpoint with a lower --learning_rate",
    shown: Sequence[str] | None = None,
    tensorboard: bool = False,
    check_stop: Callable[[], None] = lambda: None,
) -> tuple[State, Row]:
  """Trains from update `done` to `total`, and leaves what can be continued.

  Args:
    state: on the devices; `advance` may take its memory over.
    directory: of the run.
    done: updates that the state has had.
    total: updates that it is to have.
    advance: (state, done) -> state, how many updates it has then had, and their metrics.
    evaluate: at every `save_every`-th update and at the end: further metrics.
    save_every: updates between checkpoints.
    config: goes into them.
    keep: how many stay, beside the best.
    metric: of the evaluation; lower is better; None: none is the best.
    advice: what to do about a metric that is no number.
    shown: metrics of the console's line; None: all.
    tensorboard: whether to write its events.
    check_stop: raises `stopping.Stopped` when it is time.

  Returns:
    The state, and the last evaluation.

  Raises:
    FloatingPointError: a metric that is not finite; the last checkpoint is from before.
    stopping.Stopped: from check_stop; the state is saved.
  """
  report: Row = {}

  def save() -> None:
    checkpoint.save(
        directory, state, step=done, config=config, metric=report.get(metric), keep=keep
    )

  with (
      writers.Writer(
          directory, first_step=done + 1, shown=shown, tensorboard=tensorboard
      ) as writer,
      progress.bar(total, initial=done, unit="update") as bar,
  ):
    while done < total:
      before = done
      state, done, row = advance(state, done)
      bad = [name for name, value in row.items() if not np.isfinite(value)]
      if bad:
        raise FloatingPointError(f"{bad[0]} is {row[bad[0]]} at update {done}: {advice}")
      report = {}
      if done >= total or done // save_every > before // save_every:
        report = evaluate(state)
        save()
      writer.write(done, row | report)
      bar.update(done - before)
      try:
        check_stop()
      except stopping.Stopped:
        if not report:
          save()
        raise
  return state, report


def check_same(
    directory: str | os.PathLike, old: Mapping[str, Any], new: Mapping[str, Any]
) -> None:
  """Raises UsageError if a run in the directory had other settings: flat dictionaries of each."""
  different = [f"{k} {old.get(k)} -> {new[k]}" for k in new if old.get(k) != new[k]]
  if different:
    raise UsageError(
        f"--out={os.fspath(directory)} holds another run ({'; '.join(different)}): give the same"
        " flags, or another --out"
    )
