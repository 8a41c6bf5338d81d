"""Markov games in arrays: checks, stage games, and values of stationary policies.

Glossary: B games, S states, N players, Ap actions of player p, V values [B, S, N], gamma discount.
"""

from typing import Any, NamedTuple

import numpy as np

from nes_jax.solving import checks

# Largest difference from 1 of the sum of a row of transition probabilities.
_ROW_TOLERANCE = 1e-6


class Game(NamedTuple):
  """Markov games of one shape, in float64."""

  reward: np.ndarray  # [B, S, N, A1, ..., AN]
  transition: np.ndarray  # [B, S, A1, ..., AN, S]
  discount: float

  @property
  def num_players(self) -> int:
    """The number of players, N."""
    return self.reward.shape[2]

  @property
  def num_actions(self) -> tuple[int, ...]:
    """The number of actions of each player, (A1, ..., AN)."""
    return self.reward.shape[3:]


def check(
    reward: Any, transition: Any, discount: float, batched: bool | None = None
) -> tuple[Game, bool]:
  """Checks a Markov game, or a batch.

  Args:
    reward: [S, N, A1, ..., AN] or [B, S, N, A1, ..., AN], finite.
    transition: [S, A1, ..., AN, S] or [B, S, A1, ..., AN, S], probabilities.
    discount: 0 or more, less than 1.
    batched: whether there is an axis of games, where the shapes can be read both ways.

  Returns:
    The games, with an axis of games; and whether they had one.

  Raises:
    ValueError: shapes do not fit, or numbers are not finite, or no probabilities; or discount is
      out of range.
  """
  reward, transition = (np.asarray(checks.as_real(x), np.float64) for x in (reward, transition))
  readings = []
  for axes in (0, 1):
    head, tail = reward.shape[:axes + 1], reward.shape[axes + 1:]
    players = tail[0] if tail else 0
    fits = len(head) == axes + 1 and players >= 2 and len(tail) == players + 1
    if fits and transition.shape == (*head, *tail[1:], head[-1]) and 0 not in reward.shape:
      readings.append(bool(axes))
  if batched is not None:
    readings = [reading for reading in readings if reading == batched]
  if len(readings) != 1:
    how = "can be read both ways: pass batched=True or batched=False" if readings else "do not fit"
    raise ValueError(
        "reward must be [S, N, A1, ..., AN] with N >= 2 players, and transition"
        " [S, A1, ..., AN, S], or both with an axis of games in front; shapes"
        f" {list(reward.shape)} and {list(transition.shape)} {how}"
    )
  many = readings[0]
  if not many:
    reward, transition = reward[None], transition[None]
  check_discount(discount)
  for name, array in (("reward", reward), ("transition", transition)):
    bad = ~np.isfinite(array)
    if bad.any():
      raise ValueError(
          f"{bad.sum()} numbers of {name} are NaN or infinite; the first is at index"
          f" {np.argwhere(bad)[0][0 if many else 1:].tolist()}"
      )
  wrong = (transition < 0).any(-1) | (abs(transition.sum(-1) - 1) > _ROW_TOLERANCE)
  if wrong.any():
    first = tuple(np.argwhere(wrong)[0])
    row = transition[first]
    raise ValueError(
        f"{wrong.sum()} rows of transition are no probabilities: the row at index"
        f" {[int(k) for k in first[0 if many else 1:]]} sums to {row.sum():.6g}, its least entry is"
        f" {row.min():.3g}; each must be 0 or more, and sum to 1"
    )
  return Game(reward, transition / transition.sum(-1, keepdims=True), float(discount)), many


def check_discount(discount: Any) -> None:
  """Raises ValueError if a discount is not a number from 0 to 1, without 1."""
  if not (np.ndim(discount) == 0 and 0 <= discount < 1):
    raise ValueError(f"discount must be a number, 0 or more and less than 1, not {discount!r}")


def weights_of(weights: Any, num_players: int) -> np.ndarray:
  """Weights [N] of the players' payoffs in welfare; ones if there are none. Raises ValueError."""
  if weights is None:
    return np.ones(num_players)
  given = np.asarray(weights, np.float64)
  if given.shape != (num_players,) or not (np.isfinite(given).all() and (given >= 0).all()):
    raise ValueError(
        f"weights must be one number of 0 or more for each of {num_players} players, not {weights}"
    )
  if not given.any():
    raise ValueError("weights must not all be 0")
  return given


def stage_games(game: Game, values: np.ndarray) -> np.ndarray:
  """Payoffs of the stage games [B, S, N, A1, ..., AN] that continue with values [B, S, N].

    Q_p(s, a) = R_p(s, a) + gamma sum_t P(t | s, a) V_p(t)
  """
  batch, states = game.reward.shape[:2]
  flat = game.transition.reshape(batch, -1, states) @ values
  following = flat.reshape(batch, states, *game.num_actions, game.num_players)
  return game.reward + game.discount * np.moveaxis(following, -1, 2)


def policy_values(game: Game, joint: np.ndarray) -> np.ndarray:
  """Values [B, S, N] of the stationary policy that plays the joint [B, S, A1, ..., AN].

  They solve V = r + gamma P V, where r and P are the expected rewards and transitions.
  """
  batch, states = joint.shape[:2]
  flat = joint.reshape(batch, states, -1)
  reward = game.reward.reshape(batch, states, game.num_players, -1) @ flat[..., None]
  moves = flat[:, :, None] @ game.transition.reshape(batch, states, -1, states)
  system = np.eye(states) - game.discount * moves[:, :, 0]
  return np.linalg.solve(system, reward[..., 0])
