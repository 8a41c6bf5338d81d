"""The uncertainty of a calibrated profile: intervals, unidentified directions, and checks of them.

  found = uncertainty.of_equilibrium(
      problem, config, result.state.shared.agent, point, observed, jax.random.key(0), count=64)
  print(found.report())

`of_equilibrium` is for learning agents: the policy responds to each profile that is tried.
`of_simulator` is for a function from parameters to statistics. Both regress statistics on
parameters near the point (`local_model`), apply the method of simulated moments
(`simulated_moments`), and compare with approximate Bayesian computation (`posterior_checks`).

Glossary: d parameters, K statistics, P profiles of a design, E episodes of each; M pairs.
"""

from collections.abc import Callable, Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from calsheq_jax import calsheq, local_model, posterior_checks, response, simulated_moments
from calsheq_jax.problem import Problem
from calsheq_jax.simulated_moments import Moments
from calsheq_jax.types import Agent, Array
from calsheq_jax.uncertainty_report import Uncertainty, conclude

# (key, parameters [d] in their units) -> statistics [K]
Simulator = Callable[[Array, Array], Array]

# Half-width of the cloud of approximate Bayesian computation, in standard deviations.
_CLOUD = 4.0
# Largest number of episodes of a pair where the observed covariance is given.
_MOST_EPISODES = 256
# Number of parameters that are simulated side by side.
_BATCH = 1024


def of_equilibrium(
    problem: Problem,
    config: calsheq.Config,
    agent: Agent,
    point: ArrayLike,
    observed: ArrayLike,
    key: Array,
    *,
    covariance: ArrayLike | None = None,
    count: int | None = None,
    level: float = 0.9,
    design: response.Config | None = None,
    learned: bool = False,
    seed: int = 0,
) -> Uncertainty:
  """The uncertainty of a profile that was calibrated with learning agents.

  Args:
    problem, config: those of the calibration.
    agent: the shared policy of the calibration.
    point: [d] coordinates of the calibrated profile.
    observed: [K] observed statistics, in the order of the problem's targets; NaN where one is
      missing.
    key: random key of the episodes.
    covariance: [K, K] covariance of the error of `observed`.
    count: number of episodes of which `observed` is the mean; it is needed without a covariance,
      which then is that of simulated episodes divided by `count`.
    level: probability of the intervals.
    design: profiles around the point and the learning there; None takes the defaults.
    learned: whether the observed agents are themselves one outcome of such learning, and not at the
      exact equilibrium. The variation between policies that learned at the design's profiles then
      counts as noise of the observed statistics, too.
    seed: seed of the resampling in approximate Bayesian computation.

  Returns:
    The result.

  Raises:
    ValueError: shapes do not agree, neither covariance nor count is given, or values are not
      finite.
  """
  design = response.Config() if design is None else design
  centre, seen = np.asarray(point, float), np.asarray(observed, float)
  check(centre, seen, covariance, count, level, problem.space.size, len(problem.targets))
  points = response.design(centre, design)
  statistics = respond(agent, key, points, problem, config, design)
  space = problem.space
  return from_episodes(
      points, np.asarray(statistics), seen, covariance=covariance, count=count,
      level=level, names=space.names, low=space.low, high=space.high, learned=learned, seed=seed,
      episodes=design.cost(space.size),
  )


@functools.partial(jax.jit, static_argnames=("problem", "learning", "design"))
def respond(agent, key, points, problem, learning, design):
  """Computes `response.respond`, compiled once for each problem and size."""
  return response.respond(agent, key, points, problem, learning, design)


def from_episodes(
    points: np.ndarray,
    statistics: np.ndarray,
    observed: np.ndarray,
    *,
    names: Sequence[str],
    low: Sequence[float],
    high: Sequence[float],
    covariance: ArrayLike | None = None,
    count: int | None = None,
    level: float = 0.9,
    learned: bool = False,
    seed: int = 0,
    pairs: int = 4000,
    episodes: int | None = None,
) -> Uncertainty:
  """The uncertainty of parameters from episodes at the profiles of a symmetric design.

  A row of the regression is the mean of a profile's episodes. Its residuals therefore hold the
  noise of the episodes and that of the learning at each profile.

  Args:
    points: [P, d] coordinates; their mean is the middle, at which the local model is centred.
    statistics: [P, E, K].
    observed, covariance, count, level, learned, seed: as in `of_equilibrium`.
    names, low, high: [d] names and bounds of the parameters.
    pairs: number of pairs of approximate Bayesian computation. They are emulated: the local model
      with squared terms, and the errors of episodes drawn from the nearest profile.
    episodes: number of episodes to report; None takes P E.

  Returns:
    The result.

  Raises:
    ValueError: as in `of_equilibrium`, or the points do not determine the model.
  """
  size = points.shape[1]
  check(points[0], observed, covariance, count, level, size, statistics.shape[-1])
  seen = np.isfinite(observed)
  observed, statistics = np.asarray(observed, float)[seen], np.asarray(statistics, float)[..., seen]
  means = statistics.mean(1)
  errors = statistics - means[:, None]
  of_one = np.einsum("pek,pel->kl", errors, errors) / (len(points) * (statistics.shape[1] - 1))
  omega = _observed_covariance(covariance, count, seen, of_one)
  model = local_model.regression(points, means, points.astype(float).mean(0), squares=True)
  learning = np.zeros_like(omega)
  if learned:
    learning = _positive(model.residual - of_one / statistics.shape[1])
  moments = simulated_moments.estimate(model, observed, omega + learning, names)
  rng = np.random.default_rng(seed)
  candidates = _cloud(rng, moments, pairs)
  simulated = model.mean(candidates, quadratic=True)
  factor = model.variance_factor(np.clip(moments.estimate, -1, 1))
  simulated += rng.multivariate_normal(
      np.zeros(len(observed)), factor * model.residual + learning, pairs, method="eigh"
  )
  if covariance is None:
    assert count is not None  # as `check` makes sure
    nearest = np.argmin(((candidates[:, None] - points) ** 2).sum(-1), 1)
    which = rng.integers(statistics.shape[1], size=(pairs, count))
    for i in range(pairs):
      simulated[i] += errors[nearest[i], which[i]].mean(0)
  else:
    simulated += rng.multivariate_normal(np.zeros(len(observed)), omega, pairs, method="eigh")
  accepted = posterior_checks.abc(candidates, simulated, observed, moments.noise)
  episodes = statistics.shape[0] * statistics.shape[1] if episodes is None else episodes
  reach = float(np.abs(points - model.centre).max())
  return conclude(model, moments, accepted, names, low, high, level, episodes, reach)


def of_simulator(
    simulator: Simulator,
    low: Sequence[float],
    high: Sequence[float],
    point: ArrayLike,
    observed: ArrayLike,
    key: Array,
    *,
    covariance: ArrayLike | None = None,
    count: int | None = None,
    names: Sequence[str] | None = None,
    level: float = 0.9,
    reach: float = 0.2,
    simulations: int = 8192,
    pairs: int = 2048,
) -> Uncertainty:
  """The uncertainty of parameters that were calibrated to the statistics of a simulator.

  Args:
    simulator: a function (key, parameters [d] in their units) -> statistics [K] of one episode,
      which JAX can trace and vmap.
    low, high: [d] bounds of the box.
    point: [d] the calibrated parameters, in their units.
    observed: [K] observed statistics; NaN where one is missing.
    key: random key.
    covariance: [K, K] covariance of the error of `observed`.
    count: number of episodes of which `observed` is the mean; needed without a covariance.
    names: [d] names of the parameters; None numbers them.
    level: probability of the intervals.
    reach: half-width of the cloud of the regression, in half-widths of the box.
    simulations: number of episodes for the regression.
    pairs: number of pairs of approximate Bayesian computation. With `count` and no covariance, each
      is a mean of `count` episodes. With a covariance, each is a mean of as many episodes as have
      no more noise than the covariance, and noise is added to make up for the rest.

  Returns:
    The result.

  Raises:
    ValueError: shapes do not agree, neither covariance nor count is given, the point is out of the
      box, or statistics are not finite.
  """
  bottom, top = np.asarray(low, float), np.asarray(high, float)
  if bottom.shape != top.shape or bottom.ndim != 1 or not (bottom < top).all():
    raise ValueError(f"low={low}, high={high}: give [d] bounds each, low below high")
  size = len(bottom)
  names = tuple(f"parameter_{i + 1}" for i in range(size)) if names is None else tuple(names)
  place, wanted = np.asarray(point, float), np.asarray(observed, float)
  check(place, wanted, covariance, count, level, size, wanted.size)
  if not ((bottom <= place) & (place <= top)).all():
    raise ValueError(f"point={place} is out of the box {bottom} to {top}")
  if not 0 < reach < 1:
    raise ValueError(f"reach={reach} must lie between 0 and 1, in half-widths of the box")

  def units(x):
    return bottom + (top - bottom) * (np.asarray(x) + 1) / 2

  seen = np.isfinite(wanted)
  wanted = wanted[seen]
  near_key, cloud_key, seed_key = jax.random.split(key, 3)
  rng = np.random.default_rng(int(jax.random.bits(seed_key)))
  middle = np.clip(2 * (place - bottom) / (top - bottom) - 1, -1 + reach, 1 - reach)
  moves = reach * rng.uniform(-1, 1, ((simulations + 1) // 2, size))
  near = middle + np.concatenate([moves, -moves])
  statistics = _simulate(simulator, near_key, units(near), 1)[:, 0, seen]
  model = local_model.regression(near, statistics, middle, squares=True)
  omega = _observed_covariance(covariance, count, seen, model.residual)
  moments = simulated_moments.estimate(model, wanted, omega, names)
  candidates = _cloud(rng, moments, pairs)
  each = count if covariance is None else _episodes_for(omega, model.residual)
  assert each is not None  # as `check` makes sure
  simulated = _simulate(simulator, cloud_key, units(candidates), each).mean(1)[:, seen]
  # A mean of episodes already has a part of the noise, or all of it.
  simulated += rng.multivariate_normal(
      np.zeros(len(wanted)), _positive(omega - model.residual / each), len(simulated),
      method="eigh",
  )
  accepted = posterior_checks.abc(candidates, simulated, wanted, moments.noise)
  episodes = len(near) + pairs * each
  return conclude(model, moments, accepted, names, low, high, level, episodes, reach)


# Parts of both.


def check(
    point: np.ndarray,
    observed: np.ndarray,
    covariance: ArrayLike | None,
    count: int | None,
    level: float,
    size: int,
    statistics: int,
) -> None:
  """Checks the arguments of `of_equilibrium`, before anything is compiled.

  Raises:
    ValueError: a shape or a value is wrong; the message says which.
  """
  if np.shape(point) != (size,) or not np.isfinite(point).all():
    raise ValueError(f"the point is {point}: give {size} finite coordinates")
  if np.shape(observed) != (statistics,):
    raise ValueError(
        f"observed has the shape {list(np.shape(observed))}: give [{statistics}], NaN where a"
        " statistic was not observed"
    )
  if not np.isfinite(observed).any():
    raise ValueError("no statistic was observed: all are NaN")
  if covariance is None and count is None:
    raise ValueError(
        "neither covariance nor count is given: intervals need the error of the observed"
        " statistics, or the number of episodes of which they are the mean"
    )
  if count is not None and count < 1:
    raise ValueError(f"count={count} must be at least 1")
  if covariance is not None and np.shape(covariance) != (statistics, statistics):
    raise ValueError(
        f"covariance has the shape {list(np.shape(covariance))}: give"
        f" [{statistics}, {statistics}]"
    )
  if not 0 < level < 1:
    raise ValueError(f"level={level} must lie between 0 and 1, such as 0.9")


def _observed_covariance(
    covariance: ArrayLike | None, count: int | None, seen: np.ndarray, of_one: np.ndarray
) -> np.ndarray:
  """The covariance of the observed statistics that are not missing."""
  if covariance is not None:
    return np.asarray(covariance, float)[np.ix_(seen, seen)]
  assert count is not None  # as `check` makes sure
  return of_one / count


def _positive(matrix: np.ndarray) -> np.ndarray:
  """The nearest positive semidefinite matrix: negative eigenvalues become 0."""
  values, vectors = np.linalg.eigh(matrix)
  return (vectors * np.maximum(values, 0)) @ vectors.T


def _episodes_for(omega: np.ndarray, of_one: np.ndarray) -> int:
  """The number of episodes whose mean has no more noise than `omega` in any direction."""
  ratio = np.linalg.eigvals(simulated_moments.inverse(omega) @ of_one).real.max()
  return int(np.clip(np.ceil(ratio), 1, _MOST_EPISODES))


def _cloud(rng: np.random.Generator, moments: Moments, count: int) -> np.ndarray:
  """Draws uniform coordinates [count, d] in the part of the box around the estimate."""
  half = _CLOUD * np.sqrt(np.diag(moments.covariance))
  middle = np.clip(moments.estimate, -1, 1)
  low, high = np.maximum(middle - half, -1), np.minimum(middle + half, 1)
  return rng.uniform(low, high, (count, len(half)))


def _simulate(simulator: Simulator, key: Array, parameters: np.ndarray, each: int) -> np.ndarray:
  """Simulates `each` episodes of each row: [M, d] -> [M, each, K].

  Raises:
    ValueError: a statistic is not finite.
  """

  @jax.jit
  def run(key, rows):
    def one(x):
      key, row = x
      return jax.vmap(lambda k: jnp.atleast_1d(simulator(k, row)))(jax.random.split(key, each))

    keys = jax.random.split(key, len(rows))
    return jax.lax.map(one, (keys, rows), batch_size=max(1, _BATCH // each))

  result = np.asarray(run(key, jnp.asarray(parameters, jnp.result_type(float))), float)
  if not np.isfinite(result).all():
    bad = parameters[~np.isfinite(result).all((1, 2))][0]
    raise ValueError(f"the simulator's statistics are not finite at the parameters {bad}")
  return result
