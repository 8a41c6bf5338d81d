"""Changes that a move of the profile along a direction makes, with a policy trained at each place.

The experiment is `recover`: 20 connection probabilities of the market, and 20 targets that hang
together. A policy is trained at a hidden profile, and its episodes are observed. The hidden profile
is also the point, so that the study is about identification and not about the search.

Glossary: d parameters, K targets, E episodes.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import numpy as np

from calsheq_jax import calsheq, experiments, response, simulated_moments, uncertainty
from calsheq_jax.local_model import LocalModel
from calsheq_jax.problem import Problem
from calsheq_jax.schedules import Schedule
from calsheq_jax.simulated_moments import Direction
from calsheq_jax.targets import goals_of

# Number of episodes of which the observed statistics are the mean.
OBSERVED = 64
# Largest distance of a move in coordinates, and the margin that it leaves to the box.
_FARTHEST, _MARGIN = 0.6, 0.02


class Move(NamedTuple):
  """A move of the profile along a direction, from one end to the other through the point."""

  direction: Direction
  distance: float  # between both ends, in coordinates
  statistic: float  # squared distance of the statistics of both ends, in their noise
  freedom: int
  p_value: float  # of no change
  predicted: float  # the statistic that the local model predicts, without noise


def study(stages: int, seed: int) -> tuple[uncertainty.Uncertainty, list[Move]]:
  """Finds the directions of `recover`, and moves along the least and the most identified one.

  Args:
    stages: number of stages that train the first policy.
    seed: seed of all random numbers.

  Returns:
    The uncertainty of the hidden profile, and both moves.
  """
  problem = experiments.named("recover").problem()
  config = calsheq.Config()
  hidden_key, init_key, learn_key, observe_key, key, move_key = jax.random.split(
      jax.random.key(seed), 6
  )
  point = np.asarray(experiments.hidden_coordinates(hidden_key, problem))
  shared = calsheq.init_shared(init_key, problem.env, config)
  trained = dataclasses.replace(config, shared_rate=Schedule(1.0, max(1, stages // 4)))
  shared = _train(shared, learn_key, point, problem, trained, stages)
  goals = goals_of(problem.targets)
  observed = _judge(shared.agent, observe_key, point, goals, problem, config)["values"]
  found = uncertainty.of_equilibrium(
      problem, config, shared.agent, point, np.asarray(observed), key, count=OBSERVED,
      learned=True,
  )
  chosen = (found.directions[0], found.directions[-1])
  return found, move(shared.agent, move_key, point, chosen, found, problem, config)


@functools.partial(jax.jit, static_argnames=("problem", "config", "stages"))
def _train(shared, key, point, problem, config, stages):
  goals = goals_of(problem.targets)

  def step(shared, _):
    shared, _ = calsheq.trial_stage(shared, key, point, goals, problem, config)
    return shared, None

  return jax.lax.scan(step, shared, length=stages)[0]


@functools.partial(jax.jit, static_argnames=("problem", "config"))
def _judge(agent, key, point, goals, problem, config):
  return calsheq.judge(agent, key, point, goals, problem, config, OBSERVED)


def move(
    agent,
    key,
    point: np.ndarray,
    directions: tuple[Direction, ...],
    found: uncertainty.Uncertainty,
    problem: Problem,
    config: calsheq.Config,
) -> list[Move]:
  """Trains policies at both ends of each move, and compares the statistics of their episodes.

  A difference counts in the noise of an observation: the covariance of the observed statistics and
  that of the means that are compared.
  """
  design = response.Config()
  # The number of policies is that of a design, so that the compiled function is used again.
  total = design.points(len(point))
  learners = total // (2 * len(directions))
  ends, distances = [], []
  for direction in directions:
    low, high = _ends(point, direction.loadings)
    distances.append(float(np.linalg.norm(high - low)))
    ends += [low] * learners + [high] * learners
  used = len(ends)
  ends += [point] * (total - used)
  statistics = np.asarray(
      uncertainty.respond(
          agent, key, np.stack(ends).astype(np.float32), problem, config, design
      ),
      float,
  )
  by_end = statistics[:used].mean(1).reshape(len(directions), 2, learners, -1)
  moved = []
  for direction, distance, means in zip(directions, distances, by_end):
    moved.append(_compared(direction, distance, means, found.model, found.moments.noise))
  return moved


def _compared(
    direction: Direction,
    distance: float,
    means: np.ndarray,
    model: LocalModel,
    noise: np.ndarray,
) -> Move:
  """Compares the statistics [2, m, K] of m policies at each of two ends."""
  change = means[1].mean(0) - means[0].mean(0)
  error = noise + 2 / means.shape[1] * model.residual
  weights = simulated_moments.inverse(error)
  expected = distance * model.jacobian @ direction.loadings
  statistic, freedom = float(change @ weights @ change), simulated_moments.rank(error)
  return Move(
      direction, distance, statistic, freedom,
      simulated_moments.chi_square_tail(statistic, freedom),
      float(expected @ weights @ expected),
  )


def _ends(point: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Two places on the line through a point, within the box and at most `_FARTHEST` away."""
  room = 1 - _MARGIN
  with np.errstate(divide="ignore"):
    up = np.where(direction > 0, room - point, room + point) / np.abs(direction)
    down = np.where(direction > 0, room + point, room - point) / np.abs(direction)
  return (
      point - min(_FARTHEST, down.min()) * direction, point + min(_FARTHEST, up.min()) * direction
  )
