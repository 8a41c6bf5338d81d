"""Calibration of a plain simulator, a function (key, parameters [d]) -> statistics, without agents.

A stage simulates at B points, drawn from a Gaussian cloud, and moves the cloud. It regresses the
residuals of all simulations so far on the parameters, with weights for nearness,

  residual(x) ~ a + J u,   x = c + F u,                                            (regression)

where c is the centre of the cloud, F F^T is its covariance, and residuals are those of
`targets.residuals`, whose squares add up to the squared distance. Its step is that of Gauss and
Newton, with the cloud as the prior, and tau the mean square of the regression's own errors:

  H = I + J^T J / tau,   c' = c - F H^-1 J^T a / tau,   F' F'^T = F H^-1 F^T.            (step)

So (step) is a Kalman update, as in ensemble Kalman inversion (Iglesias et al. 2013), but with
weights of the user, and with the regression's own errors as noise: where the simulator is not
linear over the cloud, tau is large, and the step is short. The cloud closes in on the minimum of
the squared distance of mean values, and stays wide in directions that the statistics do not show.

The weight of a simulation at u with a squared distance of l is

  exp(-|u|^2 / (2 locality^2)) exp(-l / (2 median l)),                              (weights)

with the median under the first factor alone. Simulations that are not finite have a weight of 0.

The calibrator of `calibrator` is not used: on the market of `launch.baselines.brock_hommes`, policy
gradients took 40,000 simulations to come where the regression is after 150, since they use each
simulation once, and of it only the reward.

Glossary: d parameters, K targets, B simulations of a stage, M stages.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calsheq_jax import targets as targets_lib
from calsheq_jax.problem import Parameters, check_targets
from calsheq_jax.targets import Target
from calsheq_jax.types import Array

# (key, parameters [d]) -> statistics by name, or an array of them [K]
Simulator = Callable[[Array, Array], Mapping[str, Array] | Array]

# Part of the identity that is added to the matrix of the regression, of features of size 1.
_RIDGE = 1e-4

# Squared distances from here on count as infinite.
_FAR = 1e12

# Seed of the order of the first stage's points.
_HYPERCUBE_SEED = 0

# Least tau, which keeps a regression without errors from dividing by 0.
_LEAST_NOISE = 1e-12


@dataclasses.dataclass(frozen=True)
class Config:
  """The settings of the calibration of a plain simulator."""

  simulations: int = dataclasses.field(
      default=64, metadata={"help": "Number of simulations of one stage."}
  )
  locality: float = dataclasses.field(
      default=3.0,
      metadata={
          "help": "Distance from the centre, in standard deviations of the cloud, at which the"
          " weight of a simulation has fallen to 0.61."
      },
  )
  least_spread: float = dataclasses.field(
      default=1e-3,
      metadata={
          "help": "Lower bound of the cloud's standard deviations, in half-widths of the box."
      },
  )

  def __post_init__(self):
    if self.simulations < 2:
      raise ValueError(f"simulations={self.simulations} must be at least 2")
    for field in ("locality", "least_spread"):
      if not 0 < getattr(self, field) < float("inf"):
        raise ValueError(f"{field}={getattr(self, field)} must be positive and finite")


@dataclasses.dataclass(frozen=True)
class Simulation:
  """A simulator, its parameters and the targets. Hashable: static under jit.

  Raises:
    ValueError: the simulator cannot be traced with such parameters, its statistics are no mapping
      and no vector of the right length, or a target is on none of them.
  """

  simulator: Simulator
  parameters: Parameters
  targets: tuple[Target, ...]
  names: tuple[str, ...] = ()  # names of the statistics, if the simulator gives an array

  def __post_init__(self):
    object.__setattr__(self, "targets", tuple(self.targets))
    name = getattr(self.simulator, "__name__", type(self.simulator).__name__)
    theta = jnp.zeros(self.parameters.size)
    try:
      outputs = jax.eval_shape(self.simulator, jax.random.key(0), theta)
    except Exception as error:
      raise ValueError(
          f"{name}(key, theta) cannot be traced by JAX with theta of the shape"
          f" {[self.parameters.size]}: {error}"
      ) from error
    if not isinstance(outputs, Mapping):
      shape = getattr(outputs, "shape", None)
      if shape != (len(self.names),):
        found = type(outputs).__name__ if shape is None else f"an array of the shape {list(shape)}"
        raise ValueError(
            f"{name} gives {found}: it must give a mapping from name to number, or an array of the"
            f" {len(self.names)} observed statistics in their order"
        )
    check_targets(self.targets, jax.eval_shape(self._named, outputs), name)

  def _named(self, outputs: Mapping[str, Array] | Array) -> Mapping[str, Array]:
    """The statistics by name."""
    if isinstance(outputs, Mapping):
      return outputs
    return {name: outputs[k] for k, name in enumerate(self.names)}

  def values(self, key: Array, numbers: Array) -> Array:
    """Simulates once, with parameters [d] in their units, and reads the targets' numbers [K]."""
    return targets_lib.values_of(self.targets, self._named(self.simulator(key, numbers)))


class State(NamedTuple):
  """Everything that a stage changes."""

  step: Array  # [] int32, stages done
  centre: Array  # [d] coordinates: the calibrated point
  factor: Array  # [d, d] F, whose F F^T is the covariance of the cloud
  points: Array  # [M, B, d] coordinates of all simulations; 0 for stages to come
  values: Array  # [M, B, K] what they showed


def init(problem: Simulation, config: Config, stages: int) -> State:
  """Makes the state before the first of M stages: a cloud as wide as the box."""
  d, b, k = problem.parameters.size, config.simulations, len(problem.targets)
  return State(
      jnp.zeros((), jnp.int32),
      jnp.zeros(d),
      jnp.eye(d) / np.sqrt(3),  # variance of a uniform distribution on [-1, 1]
      jnp.zeros((stages, b, d)),
      jnp.zeros((stages, b, k)),
  )


def stage(
    state: State, key: Array, goals: Array, problem: Simulation, config: Config
) -> tuple[State, dict[str, Array]]:
  """Runs one stage: B simulations, one regression and one step.

  Args:
    state: the result of `init`, or of the stage before. No more than its M stages fit.
    key: random key of the whole run; the key of this stage is folded in from the state's step.
    goals: [K] wanted values, traced.
    problem, config: static under jit.

  Returns:
    The new state, and the metrics of `learn`.
  """
  points, keys = propose(state, key)
  values = simulate(keys, problem.parameters.numbers(points), problem)
  return learn(state, points, values, goals, problem.parameters, problem.targets, config)


def propose(state: State, key: Array) -> tuple[Array, Array]:
  """Draws the points [B, d] of the next stage, and the keys [B] of its simulations."""
  point_key, play_key = jax.random.split(jax.random.fold_in(key, state.step))
  count, size = state.points.shape[1:]
  points = jnp.where(
      state.step == 0,
      _spread_evenly(point_key, count, size),
      _drawn(point_key, state.centre, state.factor, count),
  )
  return points, jax.random.split(play_key, count)


def simulate(keys: Array, numbers: Array, problem: Simulation) -> Array:
  """Simulates with parameters [B, d] in their units: -> values [B, K]."""
  return jax.vmap(problem.values)(keys, numbers)


def learn(
    state: State,
    points: Array,
    values: Array,
    goals: Array,
    parameters: Parameters,
    targets: tuple[Target, ...],
    config: Config,
) -> tuple[State, dict[str, Array]]:
  """Ends a stage: learns from what its simulations showed.

  Args:
    state: the state before the stage.
    points: [B, d] coordinates of the simulations.
    values: [B, K] what they showed.
    goals: [K] wanted values.
    parameters, targets, config: static under jit.

  Returns:
    The new state, and
      reward []    mean reward of this stage's simulations, over those that are finite
      distance []  distance of the mean values at the new centre, by the regression
      values [K]   mean values of this stage's finite simulations
      profile [d]  the new centre in the parameters' units
      spread []    standard deviation of the cloud, as a mean over the parameters
      finite []    part of this stage's simulations that were finite
  """
  m = state.step
  new = state._replace(
      step=m + 1,
      points=state.points.at[m].set(points),
      values=state.values.at[m].set(values.astype(state.values.dtype)),
  )
  residuals = targets_lib.residuals(targets, new.values, goals)
  known = jnp.arange(len(new.points)) <= m
  centre, factor, distance = _moved(new, residuals, known, config)
  finite = jnp.isfinite(values).all(-1)
  count = jnp.maximum(finite.sum(), 1)
  shown = jnp.where(finite[:, None], values, 0)
  rewards = targets_lib.reward(targets, shown, goals)
  return new._replace(centre=centre, factor=factor), {
      "reward": (rewards * finite).sum() / count,
      "distance": distance,
      "values": shown.sum(0) / count,
      "profile": parameters.numbers(centre),
      "spread": jnp.sqrt((factor**2).sum(1)).mean(),
      "finite": finite.mean(),
  }


def _spread_evenly(key: Array, count: int, size: int) -> Array:
  """A Latin hypercube: points [B, d], each coordinate of which has one point in each B-th part.

  The order of the parts is always the same; the points are shifted at random, around the box.
  """
  generator = np.random.RandomState(_HYPERCUBE_SEED)
  cells = np.stack([generator.permutation(count) for _ in range(size)], 1)
  shift = jax.random.uniform(key, (size,))
  return 2 * jnp.mod(cells / np.float32(count) + shift, 1) - 1


def _drawn(key: Array, centre: Array, factor: Array, count: int) -> Array:
  """Points [B, d] of the cloud, which are reflected by the walls of the box."""
  noise = jax.random.normal(key, (count, len(centre)))
  beyond = jnp.mod(centre + noise @ factor.T + 1, 4)
  return jnp.where(beyond > 2, 4 - beyond, beyond) - 1


def _moved(
    state: State, residuals: Array, known: Array, config: Config
) -> tuple[Array, Array, Array]:
  """Makes (step) from all simulations so far.

  Args:
    state: the state with the points, before the step.
    residuals: [M, B, K].
    known: [M] bool, whether a stage is over.
    config: the settings.

  Returns:
    The new centre [d], the new factor [d, d], and the distance [] at the new centre.
  """
  d = len(state.centre)
  points = state.points.reshape(-1, d)
  residuals = residuals.reshape(len(points), -1)
  loss = (residuals**2).sum(1)
  usable = jnp.repeat(known, state.points.shape[1]) & (loss < _FAR)  # False where loss is NaN
  residuals = jnp.where(usable[:, None], residuals, 0)
  u = jnp.linalg.solve(state.factor, (points - state.centre).T).T
  weight = _weights(u, jnp.where(usable, loss, 0), usable, config.locality)
  features = jnp.concatenate([jnp.ones_like(u[:, :1]), u], 1)
  ridge = jnp.diag(jnp.full(d + 1, _RIDGE).at[0].set(0))
  weighted = features * weight[:, None]
  fitted = jnp.linalg.solve(weighted.T @ features + ridge, weighted.T @ residuals)
  left = residuals - features @ fitted
  # The regression has d + 1 coefficients a target, so that its errors are too small by this part.
  effective = 1 / (weight**2).sum()
  free = jnp.maximum(effective - d - 1, 1) / effective
  tau = (weight[:, None] * left**2).sum() / residuals.shape[1] / free + _LEAST_NOISE
  a, jacobian = fitted[0], fitted[1:].T
  lower = jnp.linalg.cholesky(jnp.eye(d) + jacobian.T @ jacobian / tau)
  move = -jax.scipy.linalg.cho_solve((lower, True), jacobian.T @ a / tau)
  centre = jnp.clip(state.centre + state.factor @ move, -1, 1)
  narrow = jax.scipy.linalg.solve_triangular(lower, state.factor.T, lower=True)  # C^-1 F^T
  covariance = narrow.T @ narrow + config.least_spread**2 * jnp.eye(d)
  factor = jnp.linalg.cholesky(covariance)
  ready = usable.any() & jnp.isfinite(centre).all() & jnp.isfinite(factor).all()
  distance = jnp.linalg.norm(a + jacobian @ move)
  return (
      jnp.where(ready, centre, state.centre),
      jnp.where(ready, factor, state.factor),
      jnp.where(ready, distance, jnp.nan),
  )


def _weights(u: Array, loss: Array, usable: Array, locality: float) -> Array:
  """The weights (weights) of simulations [N], which sum to 1 if any is usable."""
  squared = (u**2).sum(1)
  # Dividing by the nearest one's weight changes nothing, and keeps all from vanishing.
  nearest = jnp.where(usable, squared, jnp.inf).min()
  near = jnp.where(usable, jnp.exp((nearest - squared) / (2 * locality**2)), 0)
  order = jnp.argsort(loss)
  below = jnp.cumsum(near[order])
  median = loss[order][jnp.argmax(below >= below[-1] / 2)]
  weight = near * jnp.exp(-loss / (2 * jnp.maximum(median, _LEAST_NOISE)))
  return weight / jnp.maximum(weight.sum(), _LEAST_NOISE)
