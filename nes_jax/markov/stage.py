"""Equilibria of the stage games of Markov games, by the selections of correlated Q-learning.

The functions take concrete arrays, and compile nothing where the native engine serves; they also
take traced ones.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nes_jax.selection import Selection
from nes_jax.solving import checks, social
from nes_jax.solving.solve import solve
from nes_jax.types import Array, Concept, Solution

# Weight of welfare against entropy. It is larger than that of `nes_jax.solve`, since a small loss
# of welfare in each stage game adds up to 1 / (1 - discount) such losses.
WELFARE_WEIGHT = 1e4

NAMES = (
    "max_entropy", "max_welfare", "utilitarian", "min_welfare", "egalitarian", "republican",
    "libertarian",
)
# Makes the selection of stage games [G, N, A1, ..., AN].
Maker = Callable[[Any], Selection]


class Stage(NamedTuple):
  """The play of G stage games, and its values."""

  joint: Array  # [G, A1, ..., AN]
  values: Array  # [G, N]
  gap: Array  # [G] largest gap of an equilibrium that was computed
  converged: Array  # [G] bool, whether all equilibria that were computed are certified


def check(concept: Any, selection: Any) -> None:
  """Raises ValueError for a concept or a selection that there is not."""
  checks.check_concept(concept)
  if isinstance(selection, str):
    if selection not in NAMES:
      raise ValueError(f"unknown selection {selection!r}; the names are {', '.join(NAMES)}")
  elif not isinstance(selection, Selection) and not callable(selection):
    raise ValueError(
        "selection must be a name, a nes_jax.Selection, or a function from stage games to one, not"
        f" {type(selection).__name__}"
    )


def equilibria(
    payoffs: Any, concept: Concept, selection: str | Selection | Maker, weights: Any
) -> Stage:
  """Selected equilibria of stage games.

  Args:
    payoffs: [G, N, A1, ..., AN], float64.
    concept: "cce" or "ce".
    selection: one of these names, a `nes_jax.Selection`, or a function from payoffs to one:

      "max_entropy"   largest entropy
      "max_welfare"   largest weighted sum of payoffs; "utilitarian" is another name of it
      "min_welfare"   smallest weighted sum of payoffs
      "egalitarian"   largest smallest payoff
      "republican"    largest payoff of any player: of the N equilibria that are each best for one
                      player, the one whose player gets most; the first of several
      "libertarian"   each player expects the equilibrium that is best for it, and plays its part
                      of it; the joint is the product of these parts

    weights: [N], of the players' payoffs; "max_welfare", "min_welfare" and "egalitarian" use them.

  Returns:
    `Stage`. Values are the payoffs expected under the joint, but those of "libertarian", which are
    what each player gets in its own best equilibrium.
  """
  numpy = jnp if isinstance(payoffs, jax.core.Tracer) else np
  solver = _solver(numpy, concept)
  if selection == "libertarian":
    return _libertarian(numpy, payoffs, solver)
  weights = numpy.asarray(weights, payoffs.dtype)
  if selection == "republican":
    solution = social.republican(payoffs, None, solver, WELFARE_WEIGHT)
  elif selection == "egalitarian":
    # A factor of a player's payoffs changes no equilibrium.
    scaled = payoffs * weights.reshape(-1, *(1,) * len(weights))
    solution = social.egalitarian(scaled, None, solver, WELFARE_WEIGHT)
  else:
    solution = solver(payoffs, None, _chosen(numpy, payoffs, selection, weights))
  values = (payoffs * solution.joint[:, None]).sum(tuple(range(2, payoffs.ndim)))
  return Stage(solution.joint, values, solution.gap, solution.converged)


def _chosen(
    numpy: Any, payoffs: Any, selection: str | Selection | Maker, weights: Any
) -> Selection:
  """The selection of stage games that one selection problem states."""
  if isinstance(selection, Selection):
    return selection
  if callable(selection):
    return selection(payoffs)
  if selection == "max_entropy":
    return Selection()
  welfare = numpy.einsum("n,gn...->g...", weights, payoffs)
  return social.largest(-welfare if selection == "min_welfare" else welfare, WELFARE_WEIGHT)


def _solver(numpy: Any, concept: Concept) -> social.Solver:
  """A solver of games [G, N, A1, ..., AN] in float64."""

  def solver(payoffs, strategies, selection):
    solution = solve(
        payoffs,
        concept=concept,
        selection=selection,
        precision="float64" if numpy is np else None,
        batched=True,
        strategies=strategies,
    )
    assert isinstance(solution, Solution)  # payoffs are one array
    return jax.tree.map(np.asarray, solution) if numpy is np else solution

  return solver


def _libertarian(numpy: Any, payoffs: Any, solver: social.Solver) -> Stage:
  """Each player expects the equilibrium that is best for it, and plays its part of it."""
  games, n = payoffs.shape[:2]
  each = social.best_for_each(payoffs, None, solver, WELFARE_WEIGHT)
  values = (payoffs * each.joint).sum(tuple(range(2, n + 2)))
  product = numpy.ones((games,) + (1,) * n, payoffs.dtype)
  for p in range(n):
    others = tuple(1 + q for q in range(n) if q != p)
    product = product * each.joint[:, p].sum(others, keepdims=True)
  return Stage(product, values, each.gap.max(1), each.converged.all(1))
