"""Selections that one selection problem cannot state: the largest smallest, and the largest payoff.

They are two of the four of correlated Q-learning (Greenwald & Hall 2003). Each is found by the
welfare selections of other games, which are solved in one batch.

Glossary: B games, N players, A1, ..., AN strategies.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nes_jax.selection import LARGE_WELFARE_WEIGHT, Selection
from nes_jax.types import Solution

NAMES = ("egalitarian", "republican")

# Solves games with masks of their strategies, or None, by a selection.
Solver = Callable[[Any, Any, Selection], Solution]


def largest(welfare: Any, weight: float = LARGE_WELFARE_WEIGHT) -> Selection:
  """The selection of largest welfare [B, A1, ..., AN]."""
  return Selection(welfare=welfare, welfare_weight=weight)


def egalitarian(
    payoffs: Any, strategies: Any, solver: Solver, weight: float = LARGE_WELFARE_WEIGHT
) -> Solution:
  """Equilibria whose smallest payoff of a player is largest.

  One more player is added. It chooses a player k, and its payoff is minus that of k. In an
  equilibrium it has chosen a player whose expected payoff is smallest, so that the largest expected
  payoff of k is the largest smallest payoff. Its choice changes no payoff of the others: the joint
  without it is an equilibrium of the game given.

  Args:
    payoffs: [B, N, A1, ..., AN], finite.
    strategies: per player bool [B, Ap], the strategies that exist. None: all do.
    solver: solves the games with N + 1 players.
    weight: weight of the welfare against the entropy.

  Returns:
    `Solution` of the games given. Gap, residual and convergence are those of the games with the
    player that is added; the gap is at least that of the games given.
  """
  numpy = np if isinstance(payoffs, np.ndarray) else jnp
  games, n = payoffs.shape[:2]
  shape = payoffs.shape[2:]
  chosen = numpy.moveaxis(payoffs, 1, -1)  # [B, A1, ..., AN, k], the payoff of player k
  extended = numpy.broadcast_to(payoffs[..., None], (games, n, *shape, n))
  extended = numpy.concatenate([extended, -chosen[:, None]], 1)
  if strategies is not None:
    strategies = (*strategies, np.ones((games, n), bool))
  solution = solver(extended, strategies, largest(chosen, weight))
  return solution._replace(
      joint=solution.joint.sum(-1),
      epsilon=solution.epsilon[:, :n],
      duals=solution.duals[:n],
      marginals=solution.marginals[:n],
  )


def best_for_each(
    payoffs: Any, strategies: Any, solver: Solver, weight: float = LARGE_WELFARE_WEIGHT
) -> Solution:
  """Equilibria that are each best for one player.

  Returns:
    `Solution` whose arrays have axes [B, N, ...]; the second is the player whose payoff is largest.
  """
  numpy = np if isinstance(payoffs, np.ndarray) else jnp
  games, n = payoffs.shape[:2]
  shape = payoffs.shape[2:]
  if strategies is not None:
    strategies = tuple(numpy.repeat(x, n, 0) for x in strategies)
  welfare = payoffs.reshape(games * n, *shape)  # game (b, k) has the payoff of player k
  solution = solver(numpy.repeat(payoffs, n, 0), strategies, largest(welfare, weight))
  return jax.tree.map(lambda x: x.reshape(games, n, *x.shape[1:]), solution)


def republican(
    payoffs: Any, strategies: Any, solver: Solver, weight: float = LARGE_WELFARE_WEIGHT
) -> Solution:
  """Equilibria with the largest payoff of any player; of several players, the first.

  Arguments and result are those of `egalitarian`, but that no player is added. A game has converged
  if all equilibria have that it was chosen from.
  """
  numpy = np if isinstance(payoffs, np.ndarray) else jnp
  each = best_for_each(payoffs, strategies, solver, weight)
  own = tuple(range(2, payoffs.ndim))
  winner = numpy.argmax((payoffs * each.joint).sum(own), 1)

  def take(x):
    index = winner.reshape(-1, *(1,) * (x.ndim - 1))
    return numpy.take_along_axis(x, index, 1)[:, 0]

  solution = jax.tree.map(take, each)
  return solution._replace(
      converged=each.converged.all(1), residual=each.residual.max(1), repeated=each.repeated.any(1)
  )
