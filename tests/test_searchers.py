"""calsheq_jax.searchers: boxes, restoring, search on a hill, and missing packages."""

import sys

import numpy as np
import pytest

from calsheq_jax import searchers

SIZE = 3
BEST = np.array([0.4, -0.3, 0.1])


def score(point):
  """A smooth hill with its top, 1, at BEST."""
  return float(1 / (1 + np.sum((point - BEST) ** 2)))


def search(method, tells, seed=0, **more):
  searcher = searchers.make(method, SIZE, seed, **more)
  points = []
  for _ in range(tells):
    points.append(searcher.ask())
    searcher.tell(points[-1], score(points[-1]))
  return searcher, np.array(points)


@pytest.mark.parametrize("method, tells", [("bo", 13), ("cmaes", 40), ("random", 40)])
def test_points_are_in_the_box_and_the_best_is_remembered(method, tells):
  searcher, points = search(method, tells)
  assert points.shape == (tells, SIZE) and np.abs(points).max() <= 1
  assert len(np.unique(points, axis=0)) == tells
  scores = [score(point) for point in points]
  point, value = searcher.best()
  assert value == max(scores) and (point == points[np.argmax(scores)]).all()
  assert searchers.make(method, SIZE, 0).best() is None
  # The point stays the same until its score is told.
  np.testing.assert_array_equal(searcher.ask(), searcher.ask())


@pytest.mark.parametrize("method, tells", [("bo", 11), ("cmaes", 23), ("random", 5)])
def test_a_searcher_that_is_told_everything_again_goes_on_the_same(method, tells):
  searcher, points = search(method, tells)
  again = searchers.make(method, SIZE, 0)
  for point in points:
    again.tell(point, score(point))
  for _ in range(2):
    np.testing.assert_array_equal(again.ask(), searcher.ask())
    for one in (again, searcher):
      one.tell(one.ask(), score(one.ask()))
  _, other = search(method, min(tells, 5), seed=1)
  assert np.abs(other[1:] - points[1 : len(other)]).max() > 0.01


def test_points_may_be_told_rounded():
  """Points come back from a checkpoint in float32, and cmaes keeps its own populations."""
  searcher, points = search("cmaes", 20)
  again = searchers.make("cmaes", SIZE, 0)
  for point in points:
    again.tell(point.astype(np.float32), score(point))
  np.testing.assert_array_equal(again.ask(), searcher.ask())


def test_cmaes_leaves_the_global_generator_alone():
  np.random.seed(5)
  expected = np.random.random()
  np.random.seed(5)
  search("cmaes", 15)
  assert np.random.random() == expected


def test_searches_find_what_chance_does_not():
  """After 120 points 1 - score is about 0.02 for random, and 1e-6 for cmaes."""

  def missed(method, tells):
    return 1 - search(method, tells)[0].best()[1]

  assert missed("cmaes", 120) < 0.1 * missed("random", 120)
  # After ten random points and four of the model, bo has about 0.001 to 0.01, and random has 0.1.
  assert missed("bo", 14) < 0.5 * missed("random", 14)


def test_bayesian_optimisation_is_the_one_of_the_paper(monkeypatch):
  """The model has a Matern 5/2 kernel, and proposals have the largest expected improvement."""
  import bayes_opt
  from sklearn.gaussian_process import kernels

  made = []

  class Spy(bayes_opt.BayesianOptimization):
    def __init__(self, *args, **kwargs):
      super().__init__(*args, **kwargs)
      made.append(self)

  monkeypatch.setattr(bayes_opt, "BayesianOptimization", Spy)
  searcher, _ = search("bo", 10)
  assert not made
  searcher.ask()
  model = made[-1]._gp
  assert isinstance(model.kernel, kernels.Matern) and model.kernel.nu == 2.5
  improvement = bayes_opt.acquisition.ExpectedImprovement
  assert isinstance(made[-1].acquisition_function, improvement)
  assert len(made[-1].res) == 10


@pytest.mark.parametrize("method", ["bo", "random"])
def test_the_first_point_is_the_start(method):
  start = [0.5, -1.0, 1.0]
  np.testing.assert_array_equal(searchers.make(method, SIZE, 0, start).ask(), start)


@pytest.mark.parametrize(
    "method, module, package",
    [("bo", "bayes_opt", "bayesian-optimization"), ("cmaes", "cma", "cma")],
)
def test_a_missing_package(monkeypatch, method, module, package):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(ImportError, match=f"method {method} needs the package {package}, .*baseline"):
    searchers.make(method, SIZE, 0)
  searchers.make("random", SIZE, 0)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: searchers.make("sobol", 2, 0), "method='sobol' is not one of bo, cmaes, random"),
        (lambda: searchers.make("random", 2, 0, [0, 2]), "2 numbers within"),
        (lambda: searchers.make("cmaes", 1, 0), "two numbers to calibrate"),
        (lambda: searchers.make("random", 2, 0).tell([0.0], 1.0), "2 numbers and a finite score"),
        (lambda: searchers.make("random", 1, 0).tell([0.0], float("nan")), "the score nan"),
    ],
)
def test_bad_calls(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_generation_of_evolution_is_what_it_asks_for():
  one, other = (searchers.Evolution(3, 0, np.zeros(3), 0.1, 6) for _ in range(2))
  points = one.generation()
  assert points.shape == (6, 3)
  for point in points:
    np.testing.assert_array_equal(other.ask(), point)
    for search in (one, other):
      search.tell(point, -float(point @ point))
  assert not np.allclose(one.generation(), points)
  np.testing.assert_array_equal(one.centre(), other.centre())


def test_evolution_takes_a_spread_for_each_number():
  start, spread = np.array([0.0, 0.5, -0.5]), np.array([0.1, 0.001, 0.05])
  search = searchers.Evolution(3, 1, start, spread, 200)
  np.testing.assert_allclose(search.spread(), spread.mean(), rtol=1e-4)
  points = search.generation()
  np.testing.assert_allclose(points.std(0), spread, rtol=0.25)
  np.testing.assert_allclose(points.mean(0), start, atol=0.03)


@pytest.mark.parametrize(
    "spread, population, message",
    [(0.0, 6, "spread=0.0"), (np.ones(2), 6, "shape"), (0.1, 3, "population=3")],
)
def test_evolution_refuses(spread, population, message):
  with pytest.raises(ValueError, match=message):
    searchers.Evolution(3, 0, np.zeros(3), spread, population)
