"""Contracts with a team: agents choose efforts that a principal does not see.

The project succeeds with a probability that depends on all efforts, and the principal pays each
agent a bonus if it does (Holmstrom 1982). An agent's payoff is its expected bonus less the cost of
its effort; the principal gets the revenue of a success less all bonuses.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from nes_jax.types import Array


class Team(NamedTuple):
  """A project of N agents with Ap efforts each."""

  success: np.ndarray  # [A1, ..., AN] probability of success
  costs: tuple[np.ndarray, ...]  # per agent [Ap] cost of each effort


def team(success: ArrayLike, costs: Sequence[ArrayLike]) -> Team:
  """A team with a table of probabilities. Raises ValueError where shapes or numbers are wrong."""
  table = np.asarray(success, np.float64)
  efforts = tuple(np.asarray(x, np.float64) for x in costs)
  if table.ndim < 2 or table.shape != tuple(x.size for x in efforts):
    raise ValueError(
        f"success must have one axis for each agent's efforts: it is {list(table.shape)}, and the"
        f" agents have {[x.size for x in efforts]} efforts"
    )
  if not (np.isfinite(table).all() and table.min() >= 0 and table.max() <= 1):
    raise ValueError("success must hold probabilities, between 0 and 1")
  if not all(np.isfinite(x).all() for x in efforts):
    raise ValueError("costs hold NaN or infinity")
  return Team(table, efforts)


def two_agents(efforts: int = 4) -> Team:
  """Two agents whose efforts e1, e2 in [0, 1] are complements.

  Success has the probability 0.1 + 0.25 (e1 + e2) + 0.35 e1 e2, and effort costs 0.08 e1^2 and
  0.04 e2^2.
  """
  e = np.linspace(0, 1, efforts)
  success = 0.1 + 0.25 * (e[:, None] + e) + 0.35 * e[:, None] * e
  return team(success, (0.08 * e**2, 0.04 * e**2))


def payoffs(project: Team, bonuses: Any) -> Array:
  """Payoffs of the agents: [N, A1, ..., AN].

  Traceable in the bonuses [N]. A NumPy array where the bonuses are no JAX array.
  """
  n = project.success.ndim
  numpy: Any = jnp if isinstance(bonuses, jax.Array) else np
  bonuses = numpy.asarray(bonuses)
  if bonuses.shape != (n,):
    raise ValueError(f"bonuses must be [{n}], one for each agent, not {list(bonuses.shape)}")
  return numpy.stack([
      bonuses[p] * project.success - cost.reshape((-1,) + (1,) * (n - 1 - p))
      for p, cost in enumerate(project.costs)
  ])


def profit(project: Team, bonuses: Any, revenue: float = 1.0) -> Array:
  """The principal's expected profit at each joint effort: [A1, ..., AN].

  It is a JAX array if the bonuses are one.
  """
  numpy: Any = jnp if isinstance(bonuses, jax.Array) else np
  return project.success * (revenue - numpy.sum(numpy.asarray(bonuses)))
