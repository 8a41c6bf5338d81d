"""What is calibrated to what: the five experiments of Vadori et al. (2020), and two with answers.

The paper's table of settings is not public. Printed in the paper: 5 to 10 merchants, 23 parameters,
targets on market share and on 9 percentiles for each supertype, and that in experiment 2 the 10%
percentile of supertype 1 is to be 8. The rest of experiments 1 to 5 is our reconstruction.

  1 to 5            of the market; see `EXPERIMENTS`
  recover           the targets are what the shared equilibrium of a hidden profile shows
  linear_quadratic  a small game whose equilibrium, and so the right profile, is known

Percentiles of a supertype have a weight of 1 together, and so has its market share. Percentiles
are whole numbers, as in the paper's targets, but for `recover`: what a hidden profile shows on
average lies between, where a profile that shows the nearest whole number every time would score
more than the hidden one; its targets are on smooth percentiles.
"""

import dataclasses
from typing import Any

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp

from calsheq_jax import calibrator
from calsheq_jax.calibrator import Problem, Target, vector
from calsheq_jax.types import Array
from envs import linear_quadratic, market
from envs.base import Environment

PERCENTILES_1 = (8, 8, 8, 9, 9, 9, 10, 10, 10)  # 10% to 90%, of supertype 1
PERCENTILES_2 = (2, 3, 3, 4, 5, 6, 6, 7, 8)
SHARE_1 = 0.15  # of the quantity of all customers' transactions

# Errors at which half of the reward is lost.
_PERCENTILE_SCALE = 1.0
_SHARE_SCALE = 0.05

_CONNECTIONS = ("*/connection_*",)
_EVERYTHING = ("*",)


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A calibration, as data."""

  name: str
  about: str
  env: Environment
  targets: tuple[Target, ...]
  calibrated: tuple[str, ...]  # patterns of names of the profile's numbers
  hidden: bool = False  # whether the targets' values come from a hidden profile
  start: tuple[float, ...] | None = None  # numbers of the first profile; None: env.profile()
  answer: tuple[float, ...] | None = None  # [d] the right profile, where it is known

  def problem(self) -> Problem:
    """What `calsheq.stage` works on."""
    start = self.env.profile()
    if self.start is not None:
      start = ravel_pytree(start)[1](jnp.array(self.start, jnp.float32))
    return Problem(calibrator.space(self.env, start, self.calibrated), self.targets)


def percentile_targets(
    supertype: int, values=(0,) * 9, output: str = "supertype_percentiles"
) -> tuple[Target, ...]:
  """On the nine percentiles of a supertype, 0 or 1."""
  return vector(output, values, index=(supertype,), scale=_PERCENTILE_SCALE)


def share_target(value: float = 0.0, supertype: int = 0) -> Target:
  """On the market share of a supertype."""
  return Target("supertype_share", value, _SHARE_SCALE, index=(supertype,))


def _market(name, merchants, targets, calibrated, about, **more) -> Experiment:
  env = market.Market(market.Config(num_merchants=merchants))
  return Experiment(name, about, env, targets, calibrated, **more)


_FIRST, _SECOND = percentile_targets(0, PERCENTILES_1), percentile_targets(1, PERCENTILES_2)
_SHARE = (share_target(SHARE_1),)


def _shown_by_all() -> tuple[Target, ...]:
  smooth = "supertype_smooth_percentiles"
  return tuple(
      target
      for supertype in (0, 1)
      for target in (
          *percentile_targets(supertype, output=smooth), share_target(supertype=supertype)
      )
  )


def _linear_quadratic() -> Experiment:
  # Types have means 0.6 and 0.3; the actions' means at the equilibrium of these are
  # (I - 0.5 W)^-1 (0.6, 0.3) with W = [[2, 3], [3, 2]] / 5: (57, 42) / 55.
  config = linear_quadratic.Config(num_agents=6, first=3, coupling=0.5, spread=0.2)
  return Experiment(
      "linear_quadratic",
      "6 agents, 2 means of types; mean actions of both supertypes",
      linear_quadratic.LinearQuadratic(config),
      vector("supertype_action", (57 / 55, 42 / 55), weight=2.0, scale=0.2),
      _EVERYTHING,
      start=(-0.2, -0.2),
      answer=(0.6, 0.3),
  )


EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        _market("1", 5, _FIRST + _SHARE, _CONNECTIONS,
                "5 merchants, 20 parameters; percentiles and share of supertype 1"),
        _market("2", 5, _FIRST + _SECOND, _CONNECTIONS,
                "5 merchants, 20 parameters; percentiles of both supertypes"),
        _market("3", 8, _FIRST + _SECOND + _SHARE, _CONNECTIONS,
                "8 merchants, 20 parameters; percentiles of both, share of supertype 1"),
        _market("4", 5, _FIRST + _SHARE, _EVERYTHING,
                "5 merchants, 23 parameters; percentiles and share of supertype 1"),
        _market("5", 10, _FIRST + _SECOND + _SHARE, _EVERYTHING,
                "10 merchants, 23 parameters; percentiles of both, share of supertype 1"),
        _market("recover", 5, _shown_by_all(), _CONNECTIONS,
                "5 merchants, 20 parameters; what the equilibrium of a hidden profile shows",
                hidden=True),
        _linear_quadratic(),
    )
}


def named(name: str) -> Experiment:
  """An experiment by its name. Raises ValueError if there is none."""
  if name not in EXPERIMENTS:
    raise ValueError(f"experiment={name!r} is not one of {', '.join(EXPERIMENTS)}")
  return EXPERIMENTS[name]


def resized(experiment: Experiment, **changes: Any) -> Experiment:
  """A market experiment with another market, such as one with fewer customers.

  Raises:
    ValueError: it is not of the market, or the market's config refuses.
  """
  if not isinstance(experiment.env, market.Market):
    raise ValueError(f"experiment {experiment.name} is not of the market: {', '.join(changes)}")
  config = dataclasses.replace(experiment.env.config, **changes)
  return dataclasses.replace(experiment, env=market.Market(config))


def hidden_coordinates(key: Array, problem: Problem) -> Array:
  """[d] of a hidden profile: each number uniform over the middle 80% of its box."""
  return jax.random.uniform(key, (problem.space.size,), jnp.float32, -0.8, 0.8)
