"""Baselines that search for the best profile, one trial after another, by ask and tell.

A searcher proposes a point of the box [-1, 1]^d, is told the point's score, and proposes the next:

  searcher = searchers.make("bo", size, seed)
  point = searcher.ask()
  searcher.tell(point, score)

The points depend only on the seed and on the points and scores told before. To restore a searcher,
make it anew and tell it everything again (`search`).

  bo      Bayesian optimisation with a Gaussian process, a Matern 5/2 kernel and expected
          improvement (package bayesian-optimization), the baseline of Vadori et al. (2020)
  cmaes   evolution of a Gaussian by covariance matrix adaptation (package cma)
  random  uniform random points

Glossary: d numbers of a point. Searchers maximise the score.
"""

import abc
from collections.abc import Callable, Sequence
from typing import Any, Protocol
import warnings

import numpy as np

METHODS: tuple[str, ...] = ("bo", "cmaes", "random")

# Standard deviation of cmaes at the start, in half-widths of the box.
_FIRST_SPREAD = 0.5

# Number of random points of bo before it fits a model.
_FIRST_POINTS = 10

# Variance of the noise that bo assumes in scores, relative to the variance of all scores so far.
_NOISE = 0.01

# Improvement of the score that bo asks for beyond the best one (xi of expected improvement).
_IMPROVEMENT = 0.0


class Searcher(Protocol):
  """A search for the point with the largest score."""

  def ask(self) -> np.ndarray:
    """The next point, [d] in [-1, 1]; the same point until its score is told."""

  def tell(self, point: np.ndarray, score: float) -> None:
    """Takes the score of the point that was asked for.

    Raises:
      ValueError: the point has another size, or the score is not finite.
    """

  def best(self) -> tuple[np.ndarray, float] | None:
    """The point with the largest score so far, and its score; None before the first score."""


def make(
    method: str, size: int, seed: int, start: Sequence[float] | np.ndarray | None = None
) -> Searcher:
  """Makes a searcher.

  Args:
    method: one of METHODS.
    size: d.
    seed: seed of the searcher's random numbers.
    start: [d] first point of bo and random, and first mean of cmaes; None takes the middle of the
      box.

  Raises:
    ValueError: the method is unknown, the start has another size or is out of the box, or cmaes has
      fewer than two numbers to search.
    ImportError: the method's package is not installed.
  """
  if method not in METHODS:
    raise ValueError(f"method={method!r} is not one of {', '.join(METHODS)}")
  point = np.zeros(size) if start is None else np.array(start, np.float64)
  if point.shape != (size,) or not (np.abs(point) <= 1).all():
    raise ValueError(f"start={point.tolist()}: {size} numbers within [-1, 1] are expected")
  makers: dict[str, Callable[[int, int, np.ndarray], Searcher]] = {
      "bo": Bayesian, "cmaes": Evolution, "random": Random
  }
  return makers[method](size, seed, point)


class _Searcher(abc.ABC):
  """A searcher that remembers all points and scores; methods override _propose and _learn."""

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
    """The start at first, then random points that depend on the number of scores told."""
    if not self._scores:
      return self._start
    return np.random.default_rng([self._seed, len(self._scores)]).uniform(-1, 1, self._size)

  @abc.abstractmethod
  def _propose(self) -> np.ndarray:
    """The next point [d]; it is clipped to the box afterwards."""

  def _learn(self, point: np.ndarray, score: float) -> None:
    """Updates the method's own state; by default there is none."""
    del point, score


class Random(_Searcher):
  """Uniform random points of the box."""

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
    # The optimiser is made anew for each point, so that the same history gives the same point.
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
      # The package warns about length scales at their bounds, and about points told twice.
      warnings.simplefilter("ignore")
      for point, score in zip(self._points, self._scores):
        optimiser.register(params=dict(zip(names, point)), target=score)
      found = optimiser.suggest()
    return np.array([found[name] for name in names])


class Evolution(_Searcher):
  """CMA-ES: points drawn from a Gaussian whose mean and covariance follow the best points."""

  def __init__(
      self,
      size: int,
      seed: int,
      start: np.ndarray,
      spread: float | np.ndarray = _FIRST_SPREAD,
      population: int | None = None,
  ):
    """Makes the search.

    Args:
      size, seed, start: as in `make`.
      spread: standard deviation of the first Gaussian in half-widths of the box, one for all
        numbers, or [d].
      population: number of points of a generation; None lets the package choose it by the size.

    Raises:
      ValueError: there are fewer than two numbers, the spread is not positive, or a generation has
        fewer than four points.
      ImportError: the package is not installed.
    """
    super().__init__(size, seed, start)
    try:
      import cma
    except ImportError as error:
      raise ImportError(_missing("cmaes", "cma")) from error
    if size < 2:
      raise ValueError("cmaes needs two numbers to calibrate, or more: use bo or random for one")
    deviations = np.array(spread, np.float64)
    if deviations.shape not in ((), (size,)):
      raise ValueError(f"spread has shape {list(deviations.shape)}: give one number, or {size}")
    if not ((deviations > 0) & (deviations < np.inf)).all():
      raise ValueError(f"spread={spread} must be positive and finite")
    if population is not None and population < 4:
      raise ValueError(f"population={population} must be at least 4")
    # The search has a generator of its own: by default cma seeds NumPy's global one and draws from
    # it.
    draw = np.random.RandomState(seed).randn
    options: dict[str, Any] = {
        "bounds": [-1.0, 1.0],
        "randn": lambda *shape: draw(*shape),
        "seed": np.nan,
        "verbose": -9,
        "maxiter": np.inf,
    }
    if population is not None:
      options["popsize"] = population
    if deviations.shape:
      options["CMA_stds"] = deviations / deviations.max()
    self._strategy = cma.CMAEvolutionStrategy(start, float(deviations.max()), options)
    self._population: list[np.ndarray] = []
    self._of_population: list[float] = []

  def generation(self) -> np.ndarray:
    """All points of the present generation, whose scores are then told in this order: [N, d]."""
    self._propose()
    return np.clip(np.array(self._population), -1, 1)

  def centre(self) -> np.ndarray:
    """Mean of the present Gaussian, [d], clipped to the box."""
    return np.clip(np.array(self._strategy.result.xfavorite), -1, 1)

  def spread(self) -> float:
    """Mean standard deviation of the present Gaussian, in half-widths of the box."""
    return float(np.mean(self._strategy.result.stds))

  def _propose(self) -> np.ndarray:
    if not self._population:
      self._population = self._strategy.ask()
    return self._population[len(self._of_population)]

  def _learn(self, point: np.ndarray, score: float) -> None:
    self._propose()  # in a replay, points are told that nobody has asked for
    self._of_population.append(-score)
    if len(self._of_population) == len(self._population):
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        self._strategy.tell(self._population, self._of_population)
      self._population, self._of_population = [], []


def _missing(method: str, package: str) -> str:
  """The message about a package that is not installed."""
  return (
      f"method {method} needs the package {package}, which is not installed: run"
      f' `pip install -e ".[baselines]"`, or `pip install {package}`'
  )
