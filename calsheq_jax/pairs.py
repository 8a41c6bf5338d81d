"""The result of a calibration: a profile and a shared policy of one age.

Algorithm 1 moves the profile and the shared policy together. A pair of an average profile and the
last policy fits badly where the average is older than the policy, and a pair of the last profile
and the last policy is not at an equilibrium yet, since the policy follows a profile that moves. The
result of a run is therefore found in five steps:

  1. Candidates are the last policy at the `recent` place, the last policy at the `settled` place,
     and the best pair of all that were checked in the run (`keep`). A recent place fits the policy
     that there is. A settled place is nearer to the equilibrium in games where the recent one
     fluctuates about it.
  2. Each candidate rests: its profile stays, and its policy goes on learning with a rate that falls
     to 0 (`rest`), so that it comes to an equilibrium of this very profile.
  3. Candidates are judged before and after their rest, on held-out episodes that are not those of
     later reports.
  4. The best one that has rested is chosen, unless rest cost more than `config.rest_margin` of the
     reward (`choose`): some pairs with a good fit are far from an equilibrium, and lose the fit
     when their policies learn on.
  5. The chosen pair rests once more, for longer, and is the result, unless this rest cost more than
     the same margin (`longer`).

The same choice among several starts of a run is made by the last policy at the `recent` place.

Glossary: d numbers that are calibrated, c candidates.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from calsheq_jax import calsheq, ppo
from calsheq_jax.problem import Problem
from calsheq_jax.types import Array

# Names of the candidates, in the order of `candidates`.
CANDIDATES = ("recent", "settled", "kept")

# Names of the results of `choose`: candidates after their rest, then candidates before it.
RESULTS = (*CANDIDATES, *(f"{name} before rest" for name in CANDIDATES))


class Pair(NamedTuple):
  """A shared policy, with its learner's state, and the profile that it belongs to."""

  shared: ppo.State
  point: Array  # [d] coordinates


class Kept(NamedTuple):
  """The best pair of a run so far."""

  pair: Pair
  reward: Array  # [] reward on the episodes that all pairs are checked on


def start_keys(key: Array, count: int) -> Array:
  """Makes the keys [count] of all starts of a run; the first start has the run's key."""
  others = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(1, count))
  return jnp.concatenate([key[None], others])


def of_state(state: calsheq.State) -> Pair:
  """The pair of this stage: the policy at the recent place."""
  return Pair(state.shared, state.recent)


def unchecked(state: calsheq.State) -> Kept:
  """The kept pair before the first check."""
  pair = jax.tree.map(jnp.array, of_state(state))  # arrays of its own, for donation
  return Kept(pair, jnp.array(-jnp.inf))


def keep(kept: Kept, state: calsheq.State, reward: Array) -> Kept:
  """The better one of the kept pair and the pair of this stage, whose reward [] is given."""
  now = Kept(of_state(state), reward)
  return jax.tree.map(lambda x, y: jnp.where(reward > kept.reward, x, y), now, kept)


def candidates(state: calsheq.State, kept: Kept) -> Pair:
  """All candidates for the result, [c, ...] in the order of CANDIDATES."""
  pairs = (of_state(state), Pair(state.shared, state.settled), kept.pair)
  return jax.tree.map(lambda *x: jnp.stack(x), *pairs)


def rest(
    pair: Pair,
    key: Array,
    goals: Array,
    problem: Problem,
    config: calsheq.Config,
    updates: int,
    axis_name: str | None = None,
) -> Pair:
  """Lets the policy learn for some updates at its profile, at a rate that falls to 0.

  Args:
    pair: a candidate.
    key: random key.
    goals, problem, config, axis_name: as in `calsheq.stage`.
    updates: number of updates.
  """

  def step(shared, left):
    shared, _ = calsheq.trial_stage(
        shared, key, pair.point, goals, problem, config, axis_name, rate=left
    )
    return shared, None

  falling = jnp.linspace(1, 0, updates, endpoint=False)
  return pair._replace(shared=jax.lax.scan(step, pair.shared, falling)[0])


def choose(rested: Array, before: Array, margin: float) -> Array:
  """Chooses the result by the rewards [c] of candidates after and before their rest.

  Returns:
    Index [] in RESULTS: the best candidate after its rest, or the best one before it if that one's
    reward is higher by more than the margin.
  """
  first = before.max() > rested.max() + margin
  return jnp.where(first, len(rested) + jnp.argmax(before), jnp.argmax(rested))


def longer(pair: Pair, rested: Pair, before: Array, after: Array, margin: float) -> Pair:
  """The pair after another rest, or before it if rest cost more than the margin.

  Args:
    pair, rested: before and after this rest.
    before, after: their rewards [].
    margin: loss of reward that is allowed.
  """
  good = after + margin >= before
  return jax.tree.map(lambda x, y: jnp.where(good, x, y), rested, pair)
