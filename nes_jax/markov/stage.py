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
from nes_jax.solving.solve import solve
from nes_jax.types import CONCEPTS, Array, Concept, Solution

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
  """What is played in G stage games, and what it is worth."""

  joint: Array  # [G, A1, ..., AN]
  values: Array  # [G, N]
  gap: Array  # [G] largest gap of an equilibrium that was computed
  converged: Array  # [G] bool, whether all equilibria that were computed are certified


def check(concept: Any, selection: Any) -> None:
  """Raises ValueError for a concept or a selection that there is not."""
  if concept not in CONCEPTS:
    raise ValueError(f"unknown concept {concept!r}; use 'cce' or 'ce'")
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
  n = payoffs.shape[1]
  if selection in ("republican", "libertarian"):
    return _dictated(numpy, payoffs, concept, selection == "republican")
  if selection == "egalitarian":
    return _egalitarian(numpy, payoffs, concept, weights)
  if isinstance(selection, Selection):
    chosen = selection
  elif callable(selection):
    chosen = selection(payoffs)
  elif selection == "max_entropy":
    chosen = Selection()
  else:
    welfare = numpy.einsum("n,gn...->g...", numpy.asarray(weights, payoffs.dtype), payoffs)
    chosen = _largest(-welfare if selection == "min_welfare" else welfare)
  solution = _solve(numpy, payoffs, concept, chosen)
  own = tuple(range(2, n + 2))
  values = (payoffs * solution.joint[:, None]).sum(own)
  return Stage(solution.joint, values, solution.gap, solution.converged)


def _largest(welfare: Any) -> Selection:
  """The selection of largest welfare [G, A1, ..., AN]."""
  return Selection(welfare=welfare, welfare_weight=WELFARE_WEIGHT)


def _solve(numpy: Any, payoffs: Any, concept: Concept, selection: Selection) -> Solution:
  """Solves games [G, N, A1, ..., AN] in float64."""
  solution = solve(
      payoffs,
      concept=concept,
      selection=selection,
      precision="float64" if numpy is np else None,
      batched=True,
  )
  assert isinstance(solution, Solution)  # payoffs are one array
  return jax.tree.map(np.asarray, solution) if numpy is np else solution


def _dictated(numpy: Any, payoffs: Any, concept: Concept, republican: bool) -> Stage:
  """The selections that look at the equilibria that are best for each player."""
  games, n = payoffs.shape[:2]
  shape = payoffs.shape[2:]
  # The welfare of game (g, k) is the payoff of player k.
  repeated = numpy.repeat(payoffs, n, 0)
  solution = _solve(numpy, repeated, concept, _largest(payoffs.reshape(games * n, *shape)))
  joint = solution.joint.reshape(games, n, *shape)
  gap, converged = solution.gap.reshape(games, n), solution.converged.reshape(games, n)
  own = tuple(range(2, n + 2))
  best = (payoffs * joint).sum(own)  # [G, N], player k in its own best equilibrium
  if republican:
    winner = best.argmax(1)
    index = winner.reshape(games, *(1,) * (n + 1))
    joint = numpy.take_along_axis(joint, index, 1)[:, 0]
    values = (payoffs * joint[:, None]).sum(own)
  else:
    product = numpy.ones((games,) + (1,) * n, payoffs.dtype)
    for p in range(n):
      others = tuple(1 + q for q in range(n) if q != p)
      product = product * joint[:, p].sum(others, keepdims=True)
    joint, values = product, best
  return Stage(joint, values, gap.max(1), converged.all(1))


def _egalitarian(numpy: Any, payoffs: Any, concept: Concept, weights: Any) -> Stage:
  """The equilibria whose smallest weighted payoff is largest.

  One more player chooses a player k, and loses what k gets. In an equilibrium it has chosen a
  player that gets least, so the largest payoff of the player chosen is the largest smallest payoff.
  """
  games, n = payoffs.shape[:2]
  shape = payoffs.shape[2:]
  factor = numpy.asarray(weights, payoffs.dtype).reshape(n, *(1,) * n)
  chosen = numpy.moveaxis(payoffs * factor, 1, -1)  # [G, A1, ..., AN, k]
  extended = numpy.broadcast_to(payoffs[..., None], (games, n, *shape, n))
  extended = numpy.concatenate([extended, -chosen[:, None]], 1)
  solution = _solve(numpy, extended, concept, _largest(chosen))
  joint = solution.joint.sum(-1)
  values = (payoffs * joint[:, None]).sum(tuple(range(2, n + 2)))
  return Stage(joint, values, solution.gap, solution.converged)
