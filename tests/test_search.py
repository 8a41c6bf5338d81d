"""calsheq_jax.search: trials, scores, the best profile at the end, and replays."""

import numpy as np
import pytest

from calsheq_jax import search, searchers

START = np.array([0.5, -0.25])
TRIALS = search.Trials(stages=15, hold=3)


def score(points):
  """The larger, the nearer to a corner: [S, d] -> [S]."""
  return -np.abs(points - 1).sum(-1).astype(np.float32)


def run(found, first=0, history=None, until=15):
  """Plays trials, and returns the points of each and the history."""
  history = found.history() if history is None else history
  asked = []
  for done in range(first, until, TRIALS.hold):
    points = found.ask(done)
    asked.append(points)
    history = found.tell(done, points, score(points), history)
  return np.stack(asked), history


def make(seeds=(3, 4), method="random"):
  return search.Search(method, TRIALS, START, seeds)


def test_trials():
  assert TRIALS.told == 4
  assert [TRIALS.told_after(done) for done in (0, 2, 3, 11, 12, 15)] == [0, 0, 1, 3, 4, 4]
  assert [TRIALS.is_last(done) for done in (0, 9, 12)] == [False, False, True]
  with pytest.raises(ValueError, match="stages=13 with hold=3.*such as stages=15"):
    search.Trials(13, 3)
  with pytest.raises(ValueError, match="stages=3 with hold=3.*such as stages=6"):
    search.Trials(3, 3)
  with pytest.raises(ValueError, match="hold=0 must be at least 1"):
    search.Trials(3, 0)


def test_the_best_point_is_held_last():
  asked, history = run(make())
  assert asked.shape == (5, 2, 2) and asked.dtype == np.float32
  assert history.points.shape == (2, 4, 2) and history.scores.shape == (2, 4)
  np.testing.assert_array_equal(history.points, np.moveaxis(asked[:4], 0, 1))
  np.testing.assert_allclose(asked[0], np.tile(START, (2, 1)))
  for i in range(2):
    np.testing.assert_array_equal(asked[-1, i], history.points[i][history.scores[i].argmax()])
  # The searches have seeds of their own.
  assert np.abs(asked[1, 0] - asked[1, 1]).max() > 0.01


def test_points_are_the_searchers():
  _, history = run(make())
  for i, seed in enumerate((3, 4)):
    searcher = searchers.make("random", 2, seed, START)
    for point, value in zip(history.points[i], history.scores[i]):
      np.testing.assert_allclose(searcher.ask(), point, atol=1e-6)
      searcher.tell(point, float(value))


@pytest.mark.parametrize("stop", [3, 9, 12])
def test_a_replay_goes_on_as_without_a_stop(stop):
  asked, history = run(make())
  _, before = run(make(), until=stop)
  again = make()
  again.replay(before)
  rest, after = run(again, first=stop, history=before)
  np.testing.assert_array_equal(rest, asked[stop // 3 :])
  np.testing.assert_array_equal(after.points, history.points)
  np.testing.assert_array_equal(after.scores, history.scores)


def test_scores_that_are_not_finite_are_not_told():
  found = make()
  points = found.ask(0)
  history = found.tell(0, points, np.array([1.0, np.nan], np.float32), found.history())
  assert history.scores.shape == (2, 0)
  np.testing.assert_array_equal(found.ask(0), points)
