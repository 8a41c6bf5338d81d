"""Games and baselines that the evaluation and the demo share.

Glossary: B games of a batch, N players, A1, ..., AN strategies, G games of two strategies each.
"""

from collections.abc import Sequence

import numpy as np

from launch.figures.polytopes import Game, Selected
import nes_jax

GAMES_2X2 = (
    Game(
        "Chicken",
        (("dare", "yield"), ("dare", "yield")),
        np.array([[[0.0, 7], [2, 6]], [[0, 2], [7, 6]]]),
        elevation=38,
    ),
    Game(
        "Battle of the sexes",
        (("opera", "boxing"), ("opera", "boxing")),
        np.array([[[3.0, 0], [0, 2]], [[2, 0], [0, 3]]]),
        azimuth=-25,
        elevation=30,
    ),
    # Selten (1978). The polytope is a triangle, since it is never rational to fight an entrant.
    Game(
        "Chain store",
        (("enter", "stay out"), ("share", "fight")),
        np.array([[[2.0, 0], [1, 1]], [[2, 0], [5, 5]]]),
    ),
)


def select_2x2(games: Sequence[Game] = GAMES_2X2) -> list[Selected]:
  """Selects six equilibria of each 2x2 game by the exact engine.

  All problems are solved in one call: selections are arrays, so that a batch can mix them. A joint
  that did not converge is NaN.

  Args:
    games: the G games.

  Returns:
    For each game the equilibria of maximum entropy and maximum welfare, and the four that are
    nearest to the pure joints.
  """
  payoffs = np.stack([game.payoffs for game in games])  # [G, 2, 2, 2]
  uniform, pure = np.full((2, 2), 0.25), np.eye(4).reshape(4, 2, 2)
  # The six problems of a game: maximum entropy, maximum welfare, and four targets.
  target = np.stack([uniform, uniform, *pure])  # [6, 2, 2]
  weight = np.array([0, nes_jax.selection.LARGE_WELFARE_WEIGHT, 0, 0, 0, 0])  # [6]
  repeated = np.repeat(payoffs, 6, axis=0)  # [6 G, 2, 2, 2]
  selection = nes_jax.Selection(
      target=np.tile(target, (len(games), 1, 1)),
      welfare=repeated.sum(1),
      welfare_weight=np.tile(weight, len(games)),
  )
  solution = nes_jax.solve(repeated, selection=selection, precision="float64", batched=True)
  assert isinstance(solution, nes_jax.Solution)  # the games have one shape
  joints = np.where(np.asarray(solution.converged)[:, None, None], solution.joint, np.nan)
  joints = joints.reshape(len(games), 6, 2, 2)
  return [Selected(joint[0], joint[1], joint[2:]) for joint in joints]


def normalised(payoffs: np.ndarray) -> np.ndarray:
  """Payoffs with zero mean and unit variance for each player, in float64.

  It is the normalisation of `nes_jax.invariance.normalise`. A player with constant payoffs gets
  zeros.

  Args:
    payoffs: [B, N, A1, ..., AN].

  Returns:
    [B, N, A1, ..., AN].
  """
  axes = tuple(range(2, payoffs.ndim))
  centred = payoffs - payoffs.mean(axes, keepdims=True, dtype=np.float64)
  deviation = centred.std(axes, keepdims=True)
  return np.where(deviation > 0, centred / np.where(deviation > 0, deviation, 1), 0)


def uniform_gaps(payoffs: np.ndarray, concept: str) -> np.ndarray:
  """The (C)CE gap of uniform play.

  Args:
    payoffs: [B, N, A1, ..., AN] in float64.
    concept: "cce" or "ce".

  Returns:
    [B] in units of the payoffs.
  """
  total = np.zeros(len(payoffs))
  for p, count in enumerate(payoffs.shape[2:]):
    others = tuple(1 + q for q in range(payoffs.ndim - 2) if q != p)
    value = payoffs[:, p].mean(others)  # [B, Ap] value of each strategy against uniform play
    worst = value.mean(1) if concept == "cce" else value.min(1)
    total += (value.max(1) - worst) / (1 if concept == "cce" else count)
  return total
