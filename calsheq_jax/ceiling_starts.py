"""Profiles of the market from which a search for the ceiling of an experiment may start.

The starts meet the targets of `experiments` by design, for markets of 10 clusters:

- Supertype 1 has links to clusters 8, 9 and 10 only, with about a third of its transactions in
  each, which gives the percentiles 8, 8, 8, 9, 9, 9, 10, 10, 10.
- Supertype 2's transactions follow a distribution over quantities whose percentiles are 2, 3, 3, 4,
  5, 6, 6, 7, 8, with the same distance to the next percentile on both sides (`QUANTITIES_2`).
- A share of 15% of supertype 1 needs 30.6% of the customers of clusters 8, 9 and 10. A customer
  without competition is won or lost for a whole episode, by the draw of its links; a customer whom
  many merchants are linked to is won or lost anew in each step, by the draw of the quotes. The
  share is least noisy between the two: for quotes that are independent and alike, supertype 1's
  link probability is then about 0.65 for 5 merchants, and 0.75 for 8 and 10.

Who wins a customer depends on the quotes, and quotes change while the shared policy learns.
`steered` therefore corrects the links of a design until the market at the equilibrium shows the
customers that the design wants.

Glossary: n merchants, C clusters, B episodes, d numbers that are calibrated.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from calsheq_jax.experiments import Experiment
from calsheq_jax.problem import Problem, Space
from calsheq_jax.types import Array
from envs import market

# Number of clusters that the designs are made for.
_CLUSTERS = 10

# Parts of supertype 2's transactions in clusters 1 to 8.
QUANTITIES_2 = (0.05, 0.10, 0.20, 0.10, 0.10, 0.20, 0.10, 0.15)

# Part of the customers of clusters 8 to 10 who trade with supertype 1 at a share of 15%.
_WON = 0.15 * 55 / 27

# Factors of supertype 1's link probabilities in clusters 8, 9 and 10. With them the percentiles 30%
# and 60% are at the same distance from those of the next cluster as the percentiles 40% and 70%.
_TILT = np.array([1.05, 0.90, 1.05])


# Smallest link probability of a design that `steered` changes.
_LEAST = 1e-3


class Start(NamedTuple):
  """A profile to start from."""

  point: np.ndarray  # [d] coordinates
  wanted: np.ndarray  # [2, C] part of a cluster's customers that each supertype is to have, or NaN


class _Design(NamedTuple):
  """Link probabilities of both supertypes, and what supertype 2 is to win."""

  first: np.ndarray  # [C] of supertype 1
  rest: np.ndarray  # [C] of supertype 2
  wanted: np.ndarray  # [C] part of a cluster's customers that supertype 2 is to have, or NaN
  won: float  # part of the customers of clusters 8 to 10 that supertype 1 is to have


def starts(experiment: Experiment) -> list[Start]:
  """Designs profiles for an experiment with the market; none for another number of clusters."""
  env = experiment.env
  if not isinstance(env, market.Market) or env.config.clusters != _CLUSTERS:
    return []
  outputs = {(target.output, target.index[:1]) for target in experiment.targets}
  second = any(name.endswith("percentiles") and index == (1,) for name, index in outputs)
  share = any(name == "supertype_share" for name, _ in outputs)
  others = env.num_agents - 1
  designs = _with_second(others, share) if second else _with_share(others)
  space = experiment.problem().space
  return [
      Start(
          _coordinates(space, design.first, design.rest),
          np.stack([np.concatenate([np.full(7, np.nan), design.won * _TILT]), design.wanted]),
      )
      for design in designs
  ]


def shown(problem: Problem, states) -> Array:
  """Part of each cluster's customers that each supertype has traded with.

  Args:
    problem: of the market.
    states: final states [B, ...] of episodes.

  Returns:
    [2, C] means over episodes.

  Raises:
    ValueError: the problem is of another environment.
  """
  env = problem.env
  if not isinstance(env, market.Market):
    raise ValueError(f"{env} is not the market")
  config = env.config
  counts = jnp.mean(states.counts.astype(float), 0)  # [n, C]
  return jnp.stack([counts[0], counts[1:].sum(0)]) / (config.horizon * config.customers)


def steered(
    space: Space, point: np.ndarray, wanted: np.ndarray, seen: np.ndarray, rate: float
) -> np.ndarray:
  """Corrects link probabilities towards the customers that a design wants.

  A probability is multiplied by (wanted / seen)^rate. Those of clusters without a wish, those below
  a thousandth, and all other numbers stay.

  Args:
    space: the space of a problem of the market.
    point: [d] coordinates.
    wanted: [2, C] part of each cluster's customers, NaN where there is no wish.
    seen: [2, C] the result of `shown` for this profile.
    rate: between 0 and 1.

  Returns:
    [d] coordinates.
  """
  numbers = dict(zip(space.names, np.asarray(space.numbers(jnp.asarray(point)), np.float64)))
  for (supertype, cluster), wish in np.ndenumerate(wanted):
    name = f"supertype_{supertype + 1}/connection_{cluster + 1}"
    if np.isfinite(wish) and numbers.get(name, 0) > _LEAST and seen[supertype, cluster] > 0:
      numbers[name] = min(1.0, numbers[name] * (wish / seen[supertype, cluster]) ** rate)
  moved = np.array([numbers[name] for name in space.names], np.float32)
  return np.clip(space.from_numbers(moved), -1, 1)


def winning(first: float, rest: float, others: int) -> float:
  """Part of a cluster's customers that one merchant wins, if all merchants quote alike.

  Args:
    first: link probability of the merchant.
    rest: link probability of each other merchant.
    others: number of other merchants.

  Returns:
    first E[1 / (1 + k)], where k is binomial with `others` and `rest`.
  """
  if rest == 0:
    return first
  return first * (1 - (1 - rest) ** (others + 1)) / ((others + 1) * rest)


def competition(first: float, won: float, others: int) -> float:
  """Link probability of the others at which the first merchant wins a part of the customers.

  The inverse of `winning` in `rest`, by bisection; 0 if the first wins too little even alone, and 1
  if it wins too much against all others.
  """
  low, high = 0.0, 1.0
  for _ in range(50):
    middle = (low + high) / 2
    low, high = (low, middle) if winning(first, middle, others) < won else (middle, high)
  return (low + high) / 2


def linked(covered: float, others: int) -> float:
  """Link probability at which a part `covered` of the customers has one of the others or more."""
  return 1 - (1 - covered) ** (1 / others)


def _with_share(others: int) -> list[_Design]:
  """Designs for the percentiles and the share of supertype 1.

  They differ in how much supertype 2 competes for clusters 8 to 10, and in its links to the others.
  """
  designs = []
  for elsewhere in (0.1, 0.03, 0.3):
    for first in (0.65, 0.8, 0.5, 0.31):
      rest = competition(first, _WON, others)
      designs.append(_Design(
          np.concatenate([np.zeros(7), np.minimum(first * _TILT, 1)]),
          np.concatenate([np.full(7, elsewhere), np.full(3, rest)]),
          np.full(_CLUSTERS, np.nan),
          _WON,
      ))
  return designs


def _with_second(others: int, share: bool) -> list[_Design]:
  """Designs for the percentiles of both supertypes, and for supertype 1's share if it is a target.

  They differ in how many customers supertype 2 is linked to, and in how much it competes for
  clusters 8 to 10.
  """
  parts = np.array(QUANTITIES_2)
  # Part of the customers whom supertype 1 wins, and supertype 2's links to clusters 9 and 10.
  choices = ((_WON, 0.0), (_WON, 0.1)) if share else ((0.7, 0.0), (0.95, 0.0))
  designs = []
  for most in (0.7, 0.95):
    for eighth in (0.4, 0.7, 1.0):
      covered = most * parts / parts.max()
      covered[7] *= eighth
      links = [linked(x, others) for x in covered]
      for won, tail in choices:
        rest = np.array([*links, tail, tail])
        first = won / np.array([winning(1.0, x, others) for x in rest[7:]])
        designs.append(_Design(
            np.concatenate([np.zeros(7), np.minimum(first * _TILT, 1)]),
            rest,
            np.array([*covered, np.nan, np.nan]),
            won,
        ))
  return designs


def _coordinates(space: Space, first: np.ndarray, rest: np.ndarray) -> np.ndarray:
  """Coordinates [d] of link probabilities [C] of both supertypes; other numbers stay."""
  wanted: Mapping[str, float] = {
      f"supertype_{supertype}/connection_{cluster}": value
      for supertype, row in ((1, first), (2, rest))
      for cluster, value in enumerate(row, start=1)
  }
  begin = dict(zip(space.env.profile_names, space.start))
  numbers = np.array([wanted.get(name, begin[name]) for name in space.names], np.float32)
  return np.clip(space.from_numbers(numbers), -1, 1)
