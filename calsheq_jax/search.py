"""Search by ask and tell: the loop of the baselines, in which the shared policy keeps learning.

The stages of a run are cut into trials of `hold` stages. In a trial one profile is held, and the
reward of the trial's last stage is the profile's score. A searcher proposes the profile of each
trial; the last trial holds the profile with the best score.

  search = Search("bo", Trials(stages=400, hold=10), start, seeds=(0, 1))
  history = search.history()
  for done in range(0, 400, 10):
    points = search.ask(done)  # [S, d]
    ...  # hold the points for 10 stages, which gives scores [S]
    history = search.tell(done, points, scores, history)

A search restarts from its history alone: `replay` tells new searchers everything in it.

Glossary: S searches side by side, d numbers of a point, t trials told so far.
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import NamedTuple

import numpy as np

from calsheq_jax import searchers


@dataclasses.dataclass(frozen=True)
class Trials:
  """The division of a run into trials.

  Raises:
    ValueError: the stages are not a multiple of the hold, or are fewer than two trials.
  """

  stages: int  # stages of the whole run
  hold: int  # stages of a trial

  def __post_init__(self):
    if self.hold < 1:
      raise ValueError(f"hold={self.hold} must be at least 1")
    if self.stages % self.hold or self.stages < 2 * self.hold:
      nearest = max(2, math.ceil(self.stages / self.hold)) * self.hold
      raise ValueError(
          f"stages={self.stages} with hold={self.hold}: a searcher needs a multiple of the hold,"
          f" two of them or more, such as stages={nearest}"
      )

  @property
  def told(self) -> int:
    """The number of trials whose scores a searcher is told: all but the last."""
    return self.stages // self.hold - 1

  def told_after(self, done: int) -> int:
    """The number of trials whose scores were told when `done` stages are over."""
    return min(done // self.hold, self.told)

  def is_last(self, done: int) -> bool:
    """Whether the trial that begins after `done` stages is the last one."""
    return done + self.hold >= self.stages


class History(NamedTuple):
  """The points and scores that searchers were told; their dtype is float32."""

  points: np.ndarray  # [S, t, d] coordinates in [-1, 1]
  scores: np.ndarray  # [S, t]


class Search:
  """Searches side by side, each with a searcher of its own."""

  def __init__(self, method: str, trials: Trials, start: np.ndarray, seeds: Sequence[int]):
    """Makes the searchers.

    Args:
      method: one of `searchers.METHODS`.
      trials: the division of the run.
      start: [d] point from which the searches start.
      seeds: [S] seeds of the searchers' random numbers.

    Raises:
      ValueError: `searchers.make` refuses the method or the start.
      ImportError: the method's package is not installed.
    """
    self._trials, self._size = trials, len(start)
    self._searchers = [searchers.make(method, len(start), seed, start) for seed in seeds]

  def history(self) -> History:
    """The history before the first trial."""
    count = len(self._searchers)
    return History(
        np.zeros((count, 0, self._size), np.float32), np.zeros((count, 0), np.float32)
    )

  def replay(self, history: History) -> None:
    """Tells the searchers a history, after which they go on as they would have without a stop."""
    for searcher, points, scores in zip(self._searchers, history.points, history.scores):
      for point, score in zip(points, scores):
        searcher.tell(point, float(score))

  def ask(self, done: int) -> np.ndarray:
    """The points of the trial that begins after `done` stages: [S, d] float32."""
    last = self._trials.is_last(done)
    points = [_best_point(s) if last else s.ask() for s in self._searchers]
    return np.stack(points).astype(np.float32)

  def tell(
      self, done: int, points: np.ndarray, scores: np.ndarray, history: History
  ) -> History:
    """Tells the searchers the scores of a trial.

    Scores of the last trial are not told. If a score is not finite, none is told.

    Args:
      done: number of stages before the trial.
      points: [S, d] result of `ask`.
      scores: [S] reward of the trial's last stage.
      history: history before the trial.

    Returns:
      The history after the trial.
    """
    if self._trials.is_last(done) or not np.isfinite(scores).all():
      return history
    for searcher, point, score in zip(self._searchers, points, scores):
      searcher.tell(point, float(score))
    return History(
        np.concatenate([history.points, points[:, None]], 1),
        np.concatenate([history.scores, scores[:, None]], 1),
    )


def _best_point(searcher: searchers.Searcher) -> np.ndarray:
  """The point [d] with the largest score so far; the searcher knows a score."""
  best = searcher.best()
  assert best is not None, "a trial is told before the last one, as Trials makes sure"
  return best[0]
