"""Active sets: which deviation constraints bind, and which joint strategies are played.

Derivatives are one-sided where the active set changes. An interior point comes near such a place
if a constraint has neither a multiplier nor a slack.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from nes_jax import deviation
from nes_jax import selection as selections
from nes_jax.selection import Selection
from nes_jax.solving import batches
from nes_jax.types import Array, Concept, Solution

# Joint strategies with a larger probability than this are in the support.
SUPPORT = 1e-6


class Active(NamedTuple):
  """Active sets of an equilibrium. With a batch, every array has a leading axis."""

  binding: tuple[Array, ...]  # per player bool [Ap] (CCE) or [Ap, Ap] (CE)
  support: Array  # bool [A1, ..., AN]
  # [] How far strict complementarity is from failing: the smallest, over constraints, of the larger
  # of multiplier and slack, in normalised units. Near 0 the active set changes nearby. A linear
  # program with several optima has a strictly complementary one, which the engine finds: at a place
  # where two of them tie exactly, this number need not be small.
  strictness: Array


def active_sets(
    payoffs: Array, solution: Solution, selection: Selection, concept: Concept
) -> Active:
  """Active sets of one equilibrium.

  A constraint binds if its multiplier exceeds its slack, both in normalised units. At a finite
  welfare weight the entropy keeps the joint inside, so that only deviation constraints count for
  `strictness`; at an infinite one the constraints sigma >= 0 do too.

  Args:
    payoffs: [N, A1, ..., AN].
    solution: its equilibrium, unbatched.
    selection: the selection that it was solved for, unbatched.
    concept: "cce" or "ce".
  """
  problem, scale = selections.problem(payoffs, selection)
  tau = problem.temperature
  stretch = batches.stretch_of(problem)
  duals = tuple(x * s / stretch for x, s in zip(solution.duals, scale))
  epsilon = solution.epsilon / jnp.where(scale > 0, scale, 1)
  gains = deviation.gains(problem.payoffs, solution.joint, concept)
  binding, least = [], []
  for p, (dual, gain) in enumerate(zip(duals, gains)):
    exists = jnp.broadcast_to(scale[p] > 0, gain.shape)
    if concept == "ce":
      exists = exists & ~jnp.eye(len(gain), dtype=bool)
    slack = epsilon[p] - gain
    binding.append(exists & (dual > slack))
    least.append(jnp.where(exists, jnp.maximum(dual, slack), jnp.inf).min())
  utility = problem.welfare_weight * problem.welfare
  utility = utility - deviation.logits(problem.payoffs, duals, concept)
  inside = jnp.maximum(solution.joint, utility.max() - utility).min()
  least.append(jnp.where(tau > 0, jnp.inf, inside))
  return Active(
      tuple(binding), solution.joint > SUPPORT, jnp.maximum(jnp.stack(least).min(), 0)
  )


class Change(NamedTuple):
  """A step of a descent at which an active set changed."""

  step: int  # the set at this step differs from the one at the step before
  start: int
  selection: str
  # "constraint": a constraint began or ceased to bind; "support": a joint strategy began or ceased
  # to be played.
  what: str
  # Indices of what changed: (player, strategy) or, for CEs, (player, recommended, deviation); for
  # the support, a strategy of each player.
  places: tuple[tuple[int, ...], ...]


def batched_active_sets(
    payoffs: Array, solution: Solution, selection: Selection, concept: Concept
) -> Active:
  """`active_sets` of arrays with a leading axis."""
  return jax.vmap(lambda g, x, chosen: active_sets(g, x, chosen, concept))(
      payoffs, solution, selection
  )


def changes(step: int, name: str, before: Active, after: Active) -> list[Change]:
  """Changes between the active sets of two steps, as NumPy arrays with a leading axis of starts."""
  found = []
  for start in range(len(after.support)):
    places = tuple(
        (p, *map(int, place))
        for p, (old, new) in enumerate(zip(before.binding, after.binding))
        for place in zip(*(old[start] != new[start]).nonzero())
    )
    if places:
      found.append(Change(step, start, name, "constraint", places))
    moved = (before.support[start] != after.support[start]).nonzero()
    if len(moved[0]):
      support = tuple(tuple(map(int, place)) for place in zip(*moved))
      found.append(Change(step, start, name, "support", support))
  return found
