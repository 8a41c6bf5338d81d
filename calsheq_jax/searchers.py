"""Baselines that look for the best profile by trying one after another: ask and tell.

A searcher proposes a point of the box [-1, 1]^d, is told what it scored, and proposes the next:

  searcher = searchers.make("bo", size, seed)
  point = searcher.ask()
  searcher.tell(point, score)

What is asked for depends on the seed and on what was told before, and on nothing else: to restore a
searcher, make it anew and tell it everything again.

  bo      Bayesian optimisation: a Gaussian process with a Matern 5/2 kernel and the largest
          expected improvement (package bayesian-optimization), the baseline of Vadori et al. (2020)
  cmaes   evolution of a Gaussian by covariance matrix adaptation (package cma)
  random  uniform

Glossary: d numbers of a point; scores are to be large.
"""

from collections.abc import Sequence
from typing import Protocol
import warnings

import numpy as np

METHODS: tuple[str, ...] = ("bo", "cmaes", "random")

# Of cmaes at the start, in half-widths of the box.
_FIRST_SPREAD = 0.5
# Points of bo that are drawn before there is a model.
_FIRST_POINTS = 10
# Variance of the noise that bo takes scores to have, of that of all scores so far.
_NOISE = 0.01
# By how much of a score bo wants to improve.
_IMPROVEMENT = 0.0


class Searcher(Protocol):
  """One search for the largest score."""

  def ask(self) -> np.ndarray:
    """The next point, [d] in [-1, 1]; the same until it is told about."""

  def tell(self, point: np.ndarray, score: float) -> None:
    """What the point asked for has scored."""

  def best(self) -> tuple[np.ndarray, float] | None:
    """The point told of with the largest score, and that; None if none was told of."""


def make(method: str, size: int, seed: int, start: Sequence[float] | None = None) -> Searcher:
  """A searcher.

  Args:
    method: one of METHODS.
    size: d.
    seed: of its random numbers.
    start: [d], the first point of bo and random, and the first mean of cmaes; None: the middle.

  Raises:
    ValueError: an unknown method, or a start of another size or out of the box.
    ImportError: the package of a method is not installed.
  """
  if method not in METHODS:
    raise ValueError(f"method={method!r} is not one of {', '.join(METHODS)}")
  start = np.zeros(size) if start is None else np.array(start, np.float64)
  if start.shape != (size,) or not (np.abs(start) <= 1).all():
    raise ValueError(f"start={start.tolist()}: {size} numbers within [-1, 1] are expected")
  return {"bo": Bayesian, "cmaes": Evolution, "random": Random}[method](size, seed, start)


class _Searcher:
  """Remembers what was told."""

  def __init__(self, size: int, seed: int, start: np.ndarray):
    self._size, self._seed, self._start = size, seed, start
    self._points: list[np.ndarray] = []
    self._scores: list[float] = []
    self._asked: np.ndarray | None = None

  def ask(self) -> np.ndarray:
    if self._asked is None:
      self._asked = np.clip(self._propose(), -1, 1)
    return self._asked.copy()

  def tell(self, point: np.ndarray, score: float) -> None:
    point = np.array(point, np.float64)
    if point.shape != (self._size,) or not np.isfinite(score):
      raise ValueError(
          f"told of a point of shape {list(point.shape)} and the score {score}: {self._size}"
          " numbers and a finite score are expected"
      )
    self._learn(point, float(score))
    self._points.append(point)
    self._scores.append(float(score))
    self._asked = None

  def best(self) -> tuple[np.ndarray, float] | None:
    if not self._scores:
      return None
    index = int(np.argmax(self._scores))
    return self._points[index].copy(), self._scores[index]

  def _uniform(self) -> np.ndarray:
    """The start at first, then draws that depend on how much was told."""
    if not self._scores:
      return self._start
    return np.random.default_rng([self._seed, len(self._scores)]).uniform(-1, 1, self._size)

  def _propose(self) -> np.ndarray:
    raise NotImplementedError

  def _learn(self, point: np.ndarray, score: float) -> None:
    pass


class Random(_Searcher):
  """Uniform over the box."""

  def _propose(self) -> np.ndarray:
    return self._uniform()


class Bayesian(_Searcher):
  """Expected improvement over a Gaussian process with a Matern 5/2 kernel."""

  def __init__(self, size: int, seed: int, start: np.ndarray):
    super().__init__(size, seed, start)
    try:
      import bayes_opt
    except ImportError as error:
      raise ImportError(_missing("bo", "bayesian-optimization")) from error
    self._package = bayes_opt

  def _propose(self) -> np.ndarray:
    told = len(self._scores)
    if told < _FIRST_POINTS:
      return self._uniform()
    # Made anew each time, so that the same history makes the same proposal.
    names = [f"x{i:04d}" for i in range(self._size)]
    optimiser = self._package.BayesianOptimization(
        None,
        {name: (-1.0, 1.0) for name in names},
        acquisition_function=self._package.acquisition.ExpectedImprovement(xi=_IMPROVEMENT),
        random_state=int(np.random.default_rng([self._seed, told]).integers(2**31)),
        verbose=0,
        allow_duplicate_points=True,
    )
    optimiser.set_gp_params(alpha=_NOISE, n_restarts_optimizer=2)
    with warnings.catch_warnings():
      # Of length scales at their bounds, and of points told twice.
      warnings.simplefilter("ignore")
      for point, score in zip(self._points, self._scores):
        optimiser.register(params=dict(zip(names, point)), target=score)
      found = optimiser.suggest()
    return np.array([found[name] for name in names])


class Evolution(_Searcher):
  """CMA-ES: populations drawn from a Gaussian whose mean and covariance follow the best of each."""

  def __init__(self, size: int, seed: int, start: np.ndarray):
    super().__init__(size, seed, start)
    try:
      import cma
    except ImportError as error:
      raise ImportError(_missing("cmaes", "cma")) from error
    if size < 2:
      raise ValueError("cmaes needs two numbers to calibrate, or more: use bo or random for one")
    # A generator of its own: by default cma draws from, and seeds, NumPy's global one.
    draw = np.random.RandomState(seed).randn
    options = {
        "bounds": [-1.0, 1.0],
        "randn": lambda *shape: draw(*shape),
        "seed": np.nan,
        "verbose": -9,
        "maxiter": np.inf,
    }
    self._strategy = cma.CMAEvolutionStrategy(start, _FIRST_SPREAD, options)
    self._population: list[np.ndarray] = []
    self._of_population: list[float] = []

  def _propose(self) -> np.ndarray:
    if not self._population:
      self._population = self._strategy.ask()
    return self._population[len(self._of_population)]

  def _learn(self, point: np.ndarray, score: float) -> None:
    self._propose()  # when everything is told again, nobody has asked
    self._of_population.append(-score)
    if len(self._of_population) == len(self._population):
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        self._strategy.tell(self._population, self._of_population)
      self._population, self._of_population = [], []


def _missing(method: str, package: str) -> str:
  return (
      f"method {method} needs the package {package}, which is not installed: run"
      f' `pip install -e ".[baselines]"`, or `pip install {package}`'
  )
