"""Calibration experiments: the five of Vadori et al. (2020), and two with a known answer.

The paper's table of settings is not public. The paper prints the following: 5 to 10 merchants, 23
parameters, targets on market share and on 9 percentiles for each supertype, and a target of 8 on
the 10% percentile of supertype 1 in experiment 2. The rest of experiments 1 to 5 is our
reconstruction.

  1 to 5            experiments with the market, described in `EXPERIMENTS`
  recover           the targets are numbers that the shared equilibrium of a hidden profile shows
  linear_quadratic  a small game whose equilibrium is known, and so the right profile is, too

The percentiles of one supertype have a total weight of 1, and so has its market share. Percentiles
are whole numbers, as in the paper's targets, except in `recover`. There, the mean percentiles of a
hidden profile lie between whole numbers, and a profile that always shows the nearest whole number
would score more than the hidden one. Its targets are therefore on smooth percentiles.
"""

import dataclasses
from typing import Any

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp

from calsheq_jax.problem import Problem, space
from calsheq_jax.targets import Target, vector_targets
from calsheq_jax.types import Array
from envs import linear_quadratic, market
from envs.base import Environment

# Targets on the percentiles 10% to 90% of supertype 1's transactions.
PERCENTILES_1 = (8, 8, 8, 9, 9, 9, 10, 10, 10)

# Targets on the percentiles 10% to 90% of supertype 2's transactions.
PERCENTILES_2 = (2, 3, 3, 4, 5, 6, 6, 7, 8)

# Target on supertype 1's share of the quantity of all customers' transactions.
SHARE_1 = 0.15

# Error of a percentile at which half of its reward is lost.
_PERCENTILE_SCALE = 1.0

# Error of a market share at which half of its reward is lost.
_SHARE_SCALE = 0.05

# Patterns of the profile's numbers that move in experiments with connections only.
_CONNECTIONS = ("*/connection_*",)

# Patterns of the profile's numbers that move in experiments with the whole profile.
_EVERYTHING = ("*",)


@dataclasses.dataclass(frozen=True)
class Experiment:
  """The description of a calibration."""

  name: str
  about: str  # a phrase for the console and the report
  env: Environment
  targets: tuple[Target, ...]
  calibrated: tuple[str, ...]  # patterns of names of the profile's numbers that move
  hidden: bool = False  # whether the targets' values come from a hidden profile
  start: tuple[float, ...] | None = None  # [P] the first profile; None means env.profile()
  answer: tuple[float, ...] | None = None  # [d] the right numbers, where they are known

  def problem(self) -> Problem:
    """Makes the problem that `calsheq.stage` works on."""
    start = self.env.profile()
    if self.start is not None:
      start = ravel_pytree(start)[1](jnp.array(self.start, jnp.float32))
    return Problem(space(self.env, start, self.calibrated), self.targets)


def percentile_targets(
    supertype: int, values=(0,) * 9, output: str = "supertype_percentiles"
) -> tuple[Target, ...]:
  """Makes targets on the nine percentiles of a supertype, 0 or 1."""
  return vector_targets(output, values, index=(supertype,), scale=_PERCENTILE_SCALE)


def share_target(value: float = 0.0, supertype: int = 0) -> Target:
  """Makes a target on the market share of a supertype, 0 or 1."""
  return Target("supertype_share", value, _SHARE_SCALE, index=(supertype,))


def _market(name, merchants, targets, calibrated, about, **more) -> Experiment:
  env = market.Market(market.Config(num_merchants=merchants))
  return Experiment(name, about, env, targets, calibrated, **more)


_FIRST, _SECOND = percentile_targets(0, PERCENTILES_1), percentile_targets(1, PERCENTILES_2)
_SHARE = (share_target(SHARE_1),)


def _recovered() -> tuple[Target, ...]:
  """Makes the targets of `recover`, whose values a hidden profile is to give."""
  smooth = "supertype_smooth_percentiles"
  return tuple(
      target
      for supertype in (0, 1)
      for target in (
          *percentile_targets(supertype, output=smooth), share_target(supertype=supertype)
      )
  )


def _linear_quadratic() -> Experiment:
  # The right means of types are (0.6, 0.3). The means of actions at their equilibrium are
  # (I - 0.5 W)^-1 (0.6, 0.3) = (57, 42) / 55, where W = [[2, 3], [3, 2]] / 5.
  config = linear_quadratic.Config(num_agents=6, first=3, coupling=0.5, spread=0.2)
  return Experiment(
      "linear_quadratic",
      "6 agents, 2 means of types; mean actions of both supertypes",
      linear_quadratic.LinearQuadratic(config),
      vector_targets("supertype_action", (57 / 55, 42 / 55), weight=2.0, scale=0.2),
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
        _market("recover", 5, _recovered(), _CONNECTIONS,
                "5 merchants, 20 parameters; what the equilibrium of a hidden profile shows",
                hidden=True),
        _linear_quadratic(),
    )
}


def named(name: str) -> Experiment:
  """Looks up an experiment by its name.

  Raises:
    ValueError: there is no experiment of this name.
  """
  if name not in EXPERIMENTS:
    raise ValueError(f"experiment={name!r} is not one of {', '.join(EXPERIMENTS)}")
  return EXPERIMENTS[name]


def resized(experiment: Experiment, **changes: Any) -> Experiment:
  """Makes a market experiment with a market of another size, such as fewer customers.

  Args:
    experiment: one of the market's.
    **changes: fields of `market.Config`.

  Raises:
    ValueError: the experiment is not about the market, or `market.Config` refuses a value.
  """
  if not isinstance(experiment.env, market.Market):
    raise ValueError(f"experiment {experiment.name} is not of the market: {', '.join(changes)}")
  config = dataclasses.replace(experiment.env.config, **changes)
  return dataclasses.replace(experiment, env=market.Market(config))


def hidden_coordinates(key: Array, problem: Problem) -> Array:
  """Draws coordinates [d] of a hidden profile, uniform over the middle 80% of the box."""
  return jax.random.uniform(key, (problem.space.size,), jnp.float32, -0.8, 0.8)
