"""Coverage of intervals, and ranks of the truth, over many calibrations that run side by side.

Glossary: R runs, d parameters, K targets, P profiles of a design, E episodes, L draws.
"""

import functools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calsheq_jax import calsheq, posterior_checks, response, uncertainty
from launch.coverage.games import Game

# Probability of the intervals.
LEVEL = 0.9
# Draws of a posterior with which the truth is compared, and their largest number of bins.
DRAWS = 99
# Smallest expected number of ranks of a bin.
_LEAST = 5


class Runs(NamedTuple):
  """Calibrations of one game to known truths; coordinates of the box."""

  truths: np.ndarray  # [R, d]
  observed: np.ndarray  # [R, E, K]
  points: np.ndarray  # [R, d] calibrated profiles
  designs: np.ndarray  # [R, P, d]
  statistics: np.ndarray  # [R, P, E, K] with the policies' response
  seconds: float


class Coverage(NamedTuple):
  """Numbers of a study."""

  point_error: np.ndarray  # [d] root mean square distance of calibrated profiles from the truth
  error: np.ndarray  # [d] the same of the estimates after the Gauss-Newton step
  deviation: np.ndarray  # [d] root mean square of the standard deviations that are reported
  bias: np.ndarray  # [d] mean difference of estimate and truth, in standard errors of this mean
  covered: np.ndarray  # [d] part of the runs whose interval covers the truth
  covered_abc: np.ndarray  # [d] the same of approximate Bayesian computation
  identified: float  # part of all directions that are identified
  histograms: np.ndarray  # [d, bins] of the ranks
  p_values: np.ndarray  # [d] of uniform ranks
  misfit: float  # part of the runs with an overidentification p-value below 0.1
  disagreements: float  # part of all parameters whose two intervals differ by much


def calibrate(game: Game, runs: int, seed: int) -> Runs:
  """Draws truths, observes their equilibria, calibrates, and lets policies respond around."""
  began = time.perf_counter()
  truth_key, observe_key, run_key, respond_key = jax.random.split(jax.random.key(seed), 4)
  truths = game.truths(truth_key, runs)
  observed = jax.jit(jax.vmap(game.observe))(jax.random.split(observe_key, runs), truths)
  state = _calibrated(jax.random.split(run_key, runs), observed.mean(1), game)
  points = np.asarray(state.settled)
  designs = np.stack([response.design(point, game.design) for point in points])
  respond = functools.partial(
      response.respond, problem=game.problem, learning=game.config, config=game.design
  )
  statistics = jax.jit(jax.vmap(respond))(
      state.shared.agent, jax.random.split(respond_key, runs), designs
  )
  return Runs(
      np.asarray(truths, float), np.asarray(observed, float), points, designs,
      np.asarray(statistics, float), time.perf_counter() - began,
  )


@functools.partial(jax.jit, static_argnames="game")
def _calibrated(keys, goals, game):
  def one(key, goal):
    init_key, stage_key = jax.random.split(key)

    def step(state, _):
      state, _ = calsheq.stage(state, stage_key, goal, game.problem, game.config)
      return state, None

    state = calsheq.init(init_key, game.problem, game.config)
    return jax.lax.scan(step, state, length=game.stages)[0]

  return jax.vmap(one)(keys, goals)


def uncertainties(game: Game, runs: Runs) -> list[uncertainty.Uncertainty]:
  """The uncertainty of each run.

  Where the equilibrium is exact, observed agents take their mean actions while simulated ones
  explore. The covariance is then that of the observed episodes. Otherwise it is that of simulated
  ones.
  """
  space = game.problem.space
  found = []
  for k, observed in enumerate(runs.observed):
    found.append(uncertainty.from_episodes(
        runs.designs[k], runs.statistics[k], observed.mean(0),
        covariance=None if game.learned else np.cov(observed.T) / len(observed),
        count=len(observed), learned=game.learned,
        names=space.names, low=space.low, high=space.high, level=LEVEL, seed=k,
        episodes=game.design.cost(space.size),
    ))
  return found


def covered(runs: Runs, found: list[uncertainty.Uncertainty], game: Game, seed: int) -> Coverage:
  """Compares intervals and posteriors with the truths."""
  rng = np.random.default_rng(seed)
  space = game.problem.space
  truths = np.asarray(space.numbers(jnp.asarray(runs.truths)), float)

  def inside(name):
    bounds = np.array([[getattr(x, name)[n] for n in space.names] for x in found])  # [R, d, 2]
    return ((bounds[..., 0] <= truths) & (truths <= bounds[..., 1])).mean(0)

  rank = np.stack([
      posterior_checks.ranks(
          truth, rng.multivariate_normal(x.moments.estimate, x.moments.covariance, DRAWS)
      )
      for truth, x in zip(runs.truths, found)
  ])
  bins = max(b for b in (2, 4, 5, 10, 20) if b == 2 or len(found) >= _LEAST * b)
  tests = [posterior_checks.uniformity(column, DRAWS, bins) for column in rank.T]
  error = np.stack([x.moments.estimate for x in found]) - runs.truths
  return Coverage(
      point_error=np.sqrt(((runs.points - runs.truths) ** 2).mean(0)),
      error=np.sqrt((error**2).mean(0)),
      deviation=np.sqrt(np.mean([np.diag(x.moments.covariance) for x in found], 0)),
      bias=error.mean(0) / (error.std(0, ddof=1) / np.sqrt(len(error))),
      covered=inside("intervals"),
      covered_abc=inside("abc"),
      identified=float(np.mean([[y.identified for y in x.directions] for x in found])),
      histograms=np.stack([counts for counts, _ in tests]),
      p_values=np.array([p for _, p in tests]),
      misfit=float(np.mean([x.p_value < 0.1 for x in found])),
      disagreements=float(np.mean([len(x.disagreements) / space.size for x in found])),
  )
