"""Gains of the best deviations from stationary policies of Markov games, exact and in float64."""

from typing import Any, NamedTuple

import numpy as np

from nes_jax.markov import games
from nes_jax.markov.games import Game
from nes_jax.solving import checks
from nes_jax.types import Concept

# A choice is replaced only by one that gains more than this share of the largest reward.
_IMPROVEMENT = 1e-12
# Largest number of steps of policy iteration. Every step improves the policy, so that fewer do.
_MAX_STEPS = 1000
# Joints whose entries sum to 1 up to this count as distributions.
_JOINT_TOLERANCE = 1e-6


class _Replies(NamedTuple):
  """The decision problem of one player, in which others play their part of a stationary policy.

  In each state the player is told one of M recommendations, and chooses one of K replies. Rewards
  and transitions are multiplied by the probability of the recommendation.
  """

  reward: np.ndarray  # [B, S, M, K]
  transition: np.ndarray  # [B, S, M, K, S]
  follow: np.ndarray  # [M], the reply that follows the recommendation


def deviation_gain(
    reward: Any,
    transition: Any,
    discount: float,
    joint: Any,
    *,
    concept: Concept = "cce",
    batched: bool | None = None,
) -> np.ndarray:
  """Gain of each player's best deviation from a stationary policy, in each state.

  The policy draws a joint action from joint[s] anew at each visit to state s, and tells each player
  its part. A player knows the state, and chooses between following and deviating in each state. Its
  best deviation is an optimal policy of a decision problem with one decision maker:

    "ce"   it hears its part first: for each state, a map from actions told to actions played
    "cce"  it decides before: for each state, an action whatever is told, or what is told

  The gain is the value of that policy less the value of following everywhere, found by policy
  iteration. It is 0 in all states for the policy of exact equilibria of stage games whose values
  are those of the policy itself. A "cce" player who may follow in some states and not in others
  gains no less than one who may only commit itself to one of both for ever.

  Args:
    reward: [S, N, A1, ..., AN] or [B, S, N, A1, ..., AN].
    transition: [S, A1, ..., AN, S] or [B, S, A1, ..., AN, S].
    discount: 0 or more, less than 1.
    joint: [S, A1, ..., AN] or [B, S, A1, ..., AN].
    concept: "cce" or "ce", the deviations that are allowed.
    batched: whether there is an axis of games, where the shapes can be read both ways.

  Returns:
    Gains [S, N] or [B, S, N], 0 or more, in the units of the rewards.

  Raises:
    ValueError: an argument is wrong.
  """
  checks.check_concept(concept)
  game, many = games.check(reward, transition, discount, batched)
  joint = np.asarray(joint, np.float64)
  joint = joint if many else joint[None]
  wanted = game.transition.shape[:-1]
  if joint.shape != wanted:
    raise ValueError(
        f"joint must have shape {list(wanted[0 if many else 1:])}, not"
        f" {list(joint.shape[0 if many else 1:])}"
    )
  own = tuple(range(2, joint.ndim))
  if not (joint.min() >= -_JOINT_TOLERANCE and np.all(abs(joint.sum(own) - 1) < _JOINT_TOLERANCE)):
    raise ValueError("joint must have entries of 0 or more, which sum to 1 in each state")
  gains = gain(game, joint, concept)
  return gains if many else gains[0]


def gain(game: Game, joint: np.ndarray, concept: Concept) -> np.ndarray:
  """`deviation_gain` of checked arrays: joint [B, S, A1, ..., AN] -> [B, S, N]."""
  values = games.policy_values(game, joint)
  best = [
      _best_values(_replies(game, joint, p, concept), values[..., p], game.discount)
      for p in range(game.num_players)
  ]
  return np.maximum(np.stack(best, -1) - values, 0)


def _replies(game: Game, joint: np.ndarray, player: int, concept: Concept) -> _Replies:
  """The decision problem of a player against a joint [B, S, A1, ..., AN]."""
  batch, states = joint.shape[:2]
  count = game.num_actions[player]

  def own_first(array):
    """[B, S, A1, ..., AN, ...] -> [B, S, the player's action, joint action of the others, ...]."""
    moved = np.moveaxis(array, 2 + player, 2)
    return moved.reshape(batch, states, count, -1, *array.shape[2 + game.num_players:])

  played = own_first(joint)  # [B, S, A, rest]
  reward = own_first(game.reward[:, :, player])  # [B, S, A, rest]
  transition = own_first(game.transition)  # [B, S, A, rest, S]
  told = played if concept == "ce" else played.sum(2, keepdims=True)
  replies = _Replies(
      reward=np.einsum("bsmr,bskr->bsmk", told, reward, optimize=True),
      transition=np.einsum("bsmr,bskrt->bsmkt", told, transition, optimize=True),
      follow=np.arange(count),
  )
  if concept == "ce":
    return replies
  kept = (played * reward).sum((2, 3))[:, :, None, None]
  moves = np.einsum("bskr,bskrt->bst", played, transition, optimize=True)[:, :, None, None]
  return _Replies(
      reward=np.concatenate([replies.reward, kept], 3),
      transition=np.concatenate([replies.transition, moves], 3),
      follow=np.array([count]),
  )


def _best_values(replies: _Replies, values: np.ndarray, discount: float) -> np.ndarray:
  """Largest values [B, S] of a decision problem, by policy iteration from `follow`.

  Args:
    replies: the problem.
    values: [B, S], those of following everywhere.
    discount: less than 1.
  """
  batch, states, told, _ = replies.reward.shape
  chosen = np.broadcast_to(replies.follow, (batch, states, told)).copy()
  best = values.copy()
  margin = _IMPROVEMENT * max(abs(replies.reward).max(), np.finfo(float).tiny) / (1 - discount)
  todo = np.arange(batch)
  for _ in range(_MAX_STEPS):
    reward, transition = replies.reward[todo], replies.transition[todo]
    worth = reward + discount * (transition @ best[todo][:, None, None, :, None])[..., 0]
    current = np.take_along_axis(worth, chosen[todo][..., None], 3)
    better = worth.max(3) > current[..., 0] + margin
    improved = better.any((1, 2))
    todo, better, worth = todo[improved], better[improved], worth[improved]
    if not len(todo):
      return best
    chosen[todo] = np.where(better, worth.argmax(3), chosen[todo])
    at = chosen[todo][..., None]
    reward = np.take_along_axis(reward[improved], at, 3).sum((2, 3))
    moves = np.take_along_axis(transition[improved], at[..., None], 3).sum((2, 3))
    best[todo] = np.linalg.solve(np.eye(states) - discount * moves, reward[..., None])[..., 0]
  return best
