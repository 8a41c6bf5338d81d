"""The settings, supertype profile and state of the n-merchant market (`market`).

Glossary: n merchants, C clusters, m customers in each cluster, W = ceil(m / 32) words of 32 bits
that hold one bit for each customer of a cluster, T steps.
"""

import dataclasses
import math
import operator
from typing import NamedTuple

import numpy as np

from envs import matching
from envs.base import Array

PROCESSES: tuple[str, ...] = ("arithmetic", "geometric")
MATCHINGS = {"packed": matching.match_packed, "dense": matching.match_dense}


@dataclasses.dataclass(frozen=True)
class Config:
  """The constants of a market. Immutable and hashable.

  The paper prints the following: 5 to 10 merchants, 10 clusters of 50 customers, and that clusters
  correspond to quantities. Everything else is our reconstruction, the quantities 1..C included.
  """

  num_merchants: int = dataclasses.field(
      default=5, metadata={"help": "Number of merchants, of whom the first is of supertype 1."}
  )
  clusters: int = dataclasses.field(
      default=10,
      metadata={
          "help": "Number of clusters of customers; each customer of cluster c = 1, 2, ... trades c"
          " units in every step."
      },
  )
  customers: int = dataclasses.field(
      default=50, metadata={"help": "Number of customers in each cluster."}
  )
  horizon: int = dataclasses.field(
      default=60, metadata={"help": "Number of steps in an episode."}
  )
  initial_price: float = dataclasses.field(
      default=100.0, metadata={"help": "Reference price at the start, in money for one unit."}
  )
  half_spread: float = dataclasses.field(
      default=1.0,
      metadata={"help": "Half-spread of the reference facility, in money for one unit."},
  )
  volatility: float = dataclasses.field(
      default=1.0,
      metadata={
          "help": "Standard deviation of the price's first move in an episode, in money for one"
          " unit."
      },
  )
  # arithmetic: S' = S + sigma xi; geometric: S' = S exp(s xi - s^2 / 2), s = sigma / initial_price.
  process: str = dataclasses.field(
      default="arithmetic",
      metadata={
          "help": "Random process of the reference price: moves are absolute or relative.",
          "choices": PROCESSES,
      },
  )
  penalty: float = dataclasses.field(
      default=0.5,
      metadata={
          "help": "Cost of a unit that a merchant of tolerance 0 holds for one step, in"
          " half-spreads."
      },
  )
  matching: str = dataclasses.field(
      default="packed",
      metadata={
          "help": "Algorithm that matches customers to merchants; both give the same distribution.",
          "choices": tuple(MATCHINGS),
      },
  )

  def __post_init__(self):
    for field, least in (("num_merchants", 2), ("clusters", 1), ("customers", 1), ("horizon", 1)):
      value = getattr(self, field)
      try:
        object.__setattr__(self, field, operator.index(value))
      except TypeError:
        raise ValueError(f"{field}={value!r} must be an integer, at least {least}") from None
      if value < least:
        raise ValueError(f"{field}={value} must be at least {least}")
    total = self.total * self.horizon
    if 100 * total > np.iinfo(np.int32).max:
      raise ValueError(
          f"clusters={self.clusters}, customers={self.customers}, horizon={self.horizon}: an"
          f" episode trades {total} units, and counts in int32 allow"
          f" {np.iinfo(np.int32).max // 100}; take fewer"
      )
    for field in ("initial_price", "half_spread", "volatility", "penalty"):
      if not isinstance(getattr(self, field), (int, float, np.number)):
        raise ValueError(f"{field}={getattr(self, field)!r} must be a number")
    for field in ("initial_price", "half_spread"):
      if not 0 < getattr(self, field) < math.inf:
        raise ValueError(f"{field}={getattr(self, field)} must be positive and finite")
    for field in ("volatility", "penalty"):
      if not 0 <= getattr(self, field) < math.inf:
        raise ValueError(f"{field}={getattr(self, field)} must be finite and not negative")
    for field, allowed in (("process", PROCESSES), ("matching", MATCHINGS)):
      if getattr(self, field) not in allowed:
        raise ValueError(f"{field}={getattr(self, field)!r} is not one of {', '.join(allowed)}")

  @property
  def volume(self) -> float:
    """Units that each merchant trades in a step if all merchants share all customers equally."""
    return self.total / self.num_merchants

  @property
  def total(self) -> int:
    """Units that all customers trade in a step."""
    return self.customers * self.clusters * (self.clusters + 1) // 2


class Supertype1(NamedTuple):
  """The supertype of merchant 1, C + 1 numbers. The paper prints it, but for the ranges."""

  connection: Array  # [C] probability of a link to a customer of each cluster, in [0, 1]
  tolerance: Array  # [] tolerance to inventory, in [0, 1]; at 1 inventory costs nothing


class Supertype2(NamedTuple):
  """The supertype of merchants 2 to n, C + 2 numbers. The paper prints it, but for the ranges."""

  connection: Array  # [C] probability of a link to a customer of each cluster, in [0, 1]
  tolerance_mean: Array  # [] mean of the normal that tolerances are drawn from, before clipping
  tolerance_variance: Array  # [] variance of that normal, in [0, 1/4]


class Profile(NamedTuple):
  """The supertype profile, Lambda: 2 C + 3 numbers, which are 23 for C = 10.

  The paper gives the supertypes' sizes as 12 and 11; the numbers that it lists are 11 and 12.
  """

  supertype1: Supertype1
  supertype2: Supertype2


class State(NamedTuple):
  """A market in the middle of an episode."""

  time: Array  # [] int32, number of steps done
  price: Array  # [] reference price S
  move: Array  # [] last change of S
  connection: Array  # [n, C] types: probabilities of a link
  tolerance: Array  # [n] types: tolerances to inventory
  links: Array  # [n, C W] uint32, bit k of a word is the link to the word's k-th customer
  inventory: Array  # [n] I in units; negative numbers are owed
  cash: Array  # [n] money, 0 at the start
  bought: Array  # [n] int32 units bought from customers in the last step
  sold: Array  # [n] int32 units sold to customers in the last step
  action: Array  # [n, 3] last action, clipped
  counts: Array  # [n, C] int32 transactions with customers of each cluster so far
  rewards: Array  # [n] sum of rewards so far
  hedged: Array  # [n] units traded with the facility so far, sum of beta |I'|
  held: Array  # [n] sum of |I''| so far
