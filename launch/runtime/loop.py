"""The loop of training programs: chunks of updates, metrics, evaluations, checkpoints, stops.

Learners skip steps that are not finite, and count them in their state by `optax.apply_if_finite`.
The loop reads these counts: "skipped" of every row is the number of steps since the run's
beginning; after `patience` in a row it stops. What is saved then is the last good state.
"""

from collections.abc import Callable, Mapping, Sequence
import os
from typing import Any

import numpy as np
import optax

from launch.runtime import checkpoint, progress, stopping, writers
from launch.runtime.program import UsageError

State = Any
Row = dict[str, float]

PATIENCE = 100
PATIENCE_MEANS = "steps in a row that may be skipped for not being finite"
SKIPPED = "skipped"


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
    patience: int = PATIENCE,
    advice: str = "start anew, in another --out, with a lower --learning_rate",
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
    patience: steps in a row that may be skipped, looked at after every `advance`.
    advice: what to do about a metric that is no number.
    shown: metrics of the console's line; None: all.
    tensorboard: whether to write its events.
    check_stop: raises `stopping.Stopped` when it is time.

  Returns:
    The state, and the last evaluation.

  Raises:
    FloatingPointError: a metric that is not finite though no step was skipped, the last checkpoint
      is from before; or too many steps were skipped, the state is saved.
    stopping.Stopped: from check_stop; the state is saved.
  """
  report: Row = {}
  last = checkpoint.latest(directory) if done else None
  # Of a run that was killed between the two saves about an evaluation: the metrics of its chunk.
  pending = None if last is None else checkpoint.load_metadata(last)["config"].get("pending")

  def save(pending: Row | None = None) -> None:
    checkpoint.save(
        directory,
        state,
        step=done,
        config={**config, "pending": pending},
        metric=report.get(metric),
        keep=keep,
    )

  def judge(row: Row) -> None:
    """Evaluations may take long: what they are of is saved before."""
    nonlocal report
    report = {}
    save(row)
    report = evaluate(state)
    writer.write(done, row | report)
    save()

  first_step = done + (pending is None)  # a pending row is written anew
  with (
      writers.Writer(
          directory, first_step=first_step, shown=shown, tensorboard=tensorboard
      ) as writer,
      progress.bar(total, initial=done, unit="update") as bar,
  ):
    if pending is not None:
      judge(pending)
    skipped, _ = _skipped(state)
    while done < total:
      before, skipped_before = done, skipped
      state, done, metrics = advance(state, done)
      row = {name: float(value) for name, value in metrics.items()}
      skipped, in_a_row = _skipped(state)
      if in_a_row >= patience:
        report = {}
        save()
        raise FloatingPointError(
            f"at update {done} the last {in_a_row} steps were skipped, as their loss or gradient"
            f" was not finite; the state before them is saved: {advice}"
        )
      bad = [name for name, value in row.items() if not np.isfinite(value)]
      if bad and skipped == skipped_before:
        raise FloatingPointError(f"{bad[0]} is {row[bad[0]]} at update {done}: {advice}")
      row[SKIPPED] = skipped
      due = done >= total or done // save_every > before // save_every
      if due:
        judge(row)
      else:
        report = {}
        writer.write(done, row)
      bar.update(done - before)
      if done < total:
        try:
          stopping.check_together(check_stop)
        except stopping.Stopped:
          if not due:
            save()
          raise
  return state, report


def _skipped(state: State) -> tuple[int, int]:
  """Steps that were not finite: all, and the longest row that has not ended."""
  counts = lambda name: [np.asarray(x) for _, x in optax.tree.get_all_with_path(state, name)]
  total, in_a_row = counts("total_notfinite"), counts("notfinite_count")
  return sum(int(x.sum()) for x in total), max((int(x.max()) for x in in_a_row), default=0)


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
