"""The loop of training programs: chunks of updates, metrics, evaluations, checkpoints, stops.

A program describes what it trains as a `Training`; `run` restores the last checkpoint, trains to
the end, and leaves a directory from which the same command continues.

Learners skip an update whose loss or gradient is not finite, and count such updates in their state
by `optax.apply_if_finite`. The loop reads these counts: "skipped" of every row is the number of
updates that were skipped since the beginning of the run. When `Options.patience` updates in a row
were skipped, the loop saves the state, which is the last good one, and raises FloatingPointError.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
import pathlib
from typing import Any, ClassVar

import jax
import numpy as np
import optax

from launch.runtime import checkpoint, flags, progress, stopping, writers
from launch.runtime.flags import UsageError

State = Any  # a pytree of arrays
Row = dict[str, float]

SKIPPED = "skipped"


@dataclasses.dataclass(frozen=True)
class Options:
  """The directory of a training run, and how often the run writes into it."""

  out: pathlib.Path = dataclasses.field(
      metadata={
          "metavar": "DIRECTORY",
          "help": "Directory of the run: checkpoints, metrics and results. A directory that holds a"
                  " part of the same run is continued.",
      }
  )
  report_every: int = dataclasses.field(
      default=100, metadata={"help": "Number of updates between two rows of metrics."}
  )
  save_every: int = dataclasses.field(
      default=1000,
      metadata={"help": "Number of updates between two evaluations, each with a checkpoint."},
  )
  keep: int = dataclasses.field(
      default=3,
      metadata={"help": "Number of recent checkpoints that are kept, besides the best one."},
  )
  patience: int = dataclasses.field(
      default=100,
      metadata={
          "help": "Number of updates in a row that may be skipped, because their loss or gradient"
                  " is not finite, before the run gives up."
      },
  )
  tensorboard: bool = dataclasses.field(
      default=False, metadata={"help": "Write the metrics as events for TensorBoard, too."}
  )

  def __post_init__(self):
    flags.at_least_one(self, "report_every", "save_every", "keep", "patience")


class Training(abc.ABC):
  """A piece of training that `run` can stop and continue.

  Its state is a pytree of arrays. Its progress is counted in updates, or in stages that take their
  place.
  """

  # Number of updates of the whole run.
  total: int
  # Name of an update in the plural. The flag of this name sets `total`.
  unit: ClassVar[str] = "updates"
  # Metric of the evaluation that chooses the best checkpoint; lower is better. None: no best one.
  metric: ClassVar[str | None] = None
  # Metrics of the line on the console; None stands for all of them.
  shown: Sequence[str] | None = None
  # Advice to the user for a loss that is not finite.
  advice: ClassVar[str] = "start anew, in another --out, with a lower --learning_rate"
  # Advice to the user for training beyond the end of the run.
  longer: str = "a longer run needs another --out: schedules stretch to --updates"
  # Former names of settings, in older checkpoints, and their names of today. A name has no part
  # before "/".
  old_names: ClassVar[Mapping[str, str]] = {}

  @abc.abstractmethod
  def metadata(self) -> dict[str, Any]:
    """The facts about the run that a checkpoint holds, for JSON.

    Where they are {"settings": a flat dictionary}, `settings` needs no method of its own.
    """

  def settings(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that identify the run with such `metadata`, as a flat dictionary.

    The metadata may be of an older checkpoint; the result has today's names.
    """
    return renamed(metadata["settings"], self.old_names)

  @abc.abstractmethod
  def init(self) -> State:
    """The state before the first update."""

  def like(self, done: int) -> State:
    """A state with the structure, shapes and dtypes of one that has had `done` updates.

    Leaves may be jax.ShapeDtypeStruct.
    """
    del done
    return jax.eval_shape(self.init)

  def describe(self, state: State, done: int) -> Sequence[str]:
    """Lines for the user when the run begins or continues with a state of `done` updates."""
    del state, done
    return ()

  def prepare(self) -> None:
    """Makes what evaluations need: called once, before the clock starts, if any work is left."""
    return

  @abc.abstractmethod
  def place(self, state: State) -> State:
    """Puts a state of `init` or of a checkpoint (NumPy arrays) onto the devices."""

  @abc.abstractmethod
  def advance(self, state: State, done: int) -> tuple[State, int, Row]:
    """Trains for one chunk of updates.

    Args:
      state: on the devices; its memory may be reused.
      done: the number of updates that the state has had.

    Returns:
      The new state, the number of updates that it has had, and the metrics of the chunk.
    """

  @abc.abstractmethod
  def evaluate(self, state: State) -> Row:
    """Further metrics, at every `save_every`-th update and at the end. It may take long."""


def run(
    training: Training,
    options: Options,
    *,
    check_stop: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = print,
) -> tuple[State, Row]:
  """Trains to the end, from the last checkpoint of the directory if there is one.

  A checkpoint is written before every evaluation and after it. The one before holds the metrics
  of the evaluation's chunk, so that a run that is killed in an evaluation loses none.

  Args:
    training: what is trained.
    options: the directory, and how often it is written.
    check_stop: raises `stopping.Stopped` when the run is to stop; called after every chunk.
    say: gets lines for the user.

  Returns:
    The state on the devices, and the metrics of the last evaluation; these are empty if the run was
    finished before.

  Raises:
    UsageError: the directory holds another run, or one that is longer.
    FloatingPointError: a metric is not finite though no update was skipped, and the last checkpoint
      is older than that; or too many updates were skipped in a row, and the state is saved.
    stopping.Stopped: raised by check_stop; the state is saved.
  """
  total = training.total
  state, done, pending = _start(training, options, say)
  state = training.place(state)
  if done == total and pending is None:
    say(f"{options.out} is finished; {training.longer}")
    return state, {}
  training.prepare()
  first_step = done + (pending is None)  # a pending row is written anew
  with (
      writers.Writer(
          options.out,
          first_step=first_step,
          shown=training.shown,
          tensorboard=options.tensorboard,
      ) as writer,
      progress.bar(total, initial=done, unit="update") as bar,
  ):
    work = _Work(training, options, writer, state, done)
    if pending is not None:
      work.judge(pending)
    while work.done < total:
      before = work.done
      saved = work.advance()
      bar.update(work.done - before)
      if work.done < total:
        try:
          stopping.check_together(check_stop)
        except stopping.Stopped:
          if not saved:
            work.save()
          raise
  return work.state, work.report


def _start(
    training: Training, options: Options, say: Callable[[str], None]
) -> tuple[State, int, Row | None]:
  """Restores the last checkpoint, or makes the first state.

  Returns:
    The state, the number of updates that it has had, and the metrics of its last chunk if the run
    was killed before they were written. None: they were.
  """
  last = checkpoint.latest(options.out)
  done, pending = 0, None
  if last is not None:
    metadata = checkpoint.load_metadata(last)
    done, old = metadata["step"], metadata["config"]
    # At step 0 there are no metrics yet.
    pending = old.get("pending") if done else None
    check_same(options.out, training.settings(old), training.settings(training.metadata()))
    state = checkpoint.restore(last, training.like(done))
  else:
    state = training.init()
  for line in training.describe(state, done):
    say(line)
  if done > training.total:
    raise UsageError(
        f"--{training.unit}={training.total}: {options.out} has had {done}; give as many or more"
    )
  return state, done, pending


class _Work:
  """The state of a run under way, with the number of its updates and its last evaluation."""

  def __init__(
      self,
      training: Training,
      options: Options,
      writer: writers.Writer,
      state: State,
      done: int,
  ):
    self.state, self.done = state, done
    self.report: Row = {}
    self._training, self._options, self._writer = training, options, writer
    self._skipped, _ = _count_skipped(state)

  def save(self, pending: Row | None = None) -> None:
    """Writes a checkpoint; `pending` are metrics that are not written yet."""
    checkpoint.save(
        self._options.out,
        self.state,
        step=self.done,
        config={**self._training.metadata(), "pending": pending},
        metric=self.report.get(self._training.metric or ""),
        keep=self._options.keep,
    )

  def judge(self, row: Row) -> None:
    """Evaluates the state, and writes its metrics together with those of its chunk, `row`.

    Evaluations may take long: the state is saved before.
    """
    self.report = {}
    self.save(row)
    self.report = self._training.evaluate(self.state)
    self._writer.write(self.done, row | self.report)
    self.save()

  def advance(self) -> bool:
    """Trains for one chunk and writes its metrics; returns whether the state is saved."""
    before = self.done
    self.state, self.done, metrics = self._training.advance(self.state, self.done)
    row = {name: float(value) for name, value in metrics.items()}
    row[SKIPPED] = self._check_finite(row)
    every = self._options.save_every
    saved = self.done >= self._training.total or self.done // every > before // every
    if saved:
      self.judge(row)
    else:
      self.report = {}
      self._writer.write(self.done, row)
    return saved

  def _check_finite(self, row: Row) -> int:
    """The number of updates that were skipped since the beginning of the run.

    Raises:
      FloatingPointError: as in `run`.
    """
    advice = self._training.advice
    skipped, in_a_row = _count_skipped(self.state)
    if in_a_row >= self._options.patience:
      self.report = {}
      self.save()
      raise FloatingPointError(
          f"at update {self.done} the last {in_a_row} steps were skipped, as their loss or"
          f" gradient was not finite; the state before them is saved: {advice}"
      )
    bad = [name for name, value in row.items() if not np.isfinite(value)]
    if bad and skipped == self._skipped:
      raise FloatingPointError(f"{bad[0]} is {row[bad[0]]} at update {self.done}: {advice}")
    self._skipped = skipped
    return skipped


def _count_skipped(state: State) -> tuple[int, int]:
  """The number of all updates that were skipped, and of those in a row up to now."""

  def counts(name: str) -> list[np.ndarray]:
    return [np.asarray(x) for _, x in optax.tree.get_all_with_path(state, name)]

  total, in_a_row = counts("total_notfinite"), counts("notfinite_count")
  return sum(int(x.sum()) for x in total), max((int(x.max()) for x in in_a_row), default=0)


def renamed(settings: Mapping[str, Any], new_names: Mapping[str, str]) -> dict[str, Any]:
  """Settings under their names of today.

  Args:
    settings: a flat dictionary; the part of a name before its last "/" stays.
    new_names: old name -> new name.
  """
  found = {}
  for name, value in settings.items():
    prefix, slash, last = name.rpartition("/")
    found[prefix + slash + new_names.get(last, last)] = value
  return found


def check_same(
    directory: str | os.PathLike, old: Mapping[str, Any], new: Mapping[str, Any]
) -> None:
  """Compares the settings of a run in the directory with those of the run that is to continue it.

  Args:
    directory: of the run.
    old: flat dictionary of the settings that the directory's run had.
    new: the same of the run that is asked for; names that only `old` has are ignored.

  Raises:
    UsageError: the settings differ; the message says in what.
  """
  different = [f"{k} {old.get(k)} -> {new[k]}" for k in new if old.get(k) != new[k]]
  if different:
    raise UsageError(
        f"--out={os.fspath(directory)} holds another run ({'; '.join(different)}): give the same"
        " flags, or another --out"
    )
