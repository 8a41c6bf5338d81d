"""Games of different shapes as few batches of one shape each, and their answers cut back.

A game is padded with strategies that do not exist. Sizes are rounded up to powers of two, and small
games to equal sizes of all players, so that games of any number of shapes need few programs.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from nes_jax.selection import Selection
from nes_jax.types import Solution

# Smallest number of strategies that games are padded to.
_SMALLEST = 4
# Largest number of joint strategies of a game that is padded to equal sizes of all players.
_CUBIC = 256
# Fields of a selection that have the shape of a game.
_SHAPED = ("target", "welfare")


class Bucket(NamedTuple):
  """Games of one shape, perhaps padded to it."""

  numbers: list[int]  # positions of the games in the list, in order
  payoffs: np.ndarray  # [B, N, A1, ..., AN]
  strategies: tuple[np.ndarray, ...] | None  # per player bool [B, Ap]; None: all exist
  selection: str | Selection


def is_ragged(payoffs: Any) -> bool:
  """Whether this is a list or tuple of single games that differ in shape."""
  if not isinstance(payoffs, (list, tuple)) or not payoffs:
    return False
  shapes = {np.shape(x) if hasattr(x, "shape") else None for x in payoffs}
  return len(shapes) > 1 and None not in shapes


def check_games(games: Sequence[np.ndarray]) -> None:
  """Raises ValueError for a game of the list that is not [N, A1, ..., AN]."""
  for index, game in enumerate(games):
    shape = np.shape(game)
    if len(shape) < 3 or shape[0] != len(shape) - 1 or 0 in shape:
      raise ValueError(
          f"game {index} of the list has shape {list(shape)}: every game must be [N, A1, ..., AN]"
          " with N >= 2 players and at least one strategy each"
      )


def padded_shape(shape: Sequence[int]) -> tuple[int, ...]:
  """(A1, ..., AN) -> the shape that games of this shape are padded to."""
  sizes = [max(_SMALLEST, 1 << (count - 1).bit_length()) for count in shape]
  if max(sizes) ** len(sizes) <= _CUBIC:
    sizes = [max(sizes)] * len(sizes)
  return tuple(sizes)


def buckets(
    games: Sequence[np.ndarray],
    selection: str | Selection | Sequence[Selection],
    padded: Callable[[tuple[int, ...]], bool] = lambda shape: True,
) -> list[Bucket]:
  """Puts games [N, A1, ..., AN] of different shapes into batches of one shape each.

  Args:
    games: checked by `check_games`.
    selection: a name, one `Selection` for all games without a target or welfare, or one a game.
    padded: whether games of a shape (A1, ..., AN) are padded, so that few programs are compiled.

  Raises:
    ValueError: a selection that does not fit the games.
  """
  listed = None if isinstance(selection, (str, Selection)) else selection
  if isinstance(selection, Selection) and any(
      getattr(selection, name) is not None for name in _SHAPED
  ):
    raise ValueError(
        "a target or welfare has the shape of one game: for games of different shapes pass a list"
        " of selections, one a game"
    )
  if listed is not None and len(listed) != len(games):
    raise ValueError(f"{len(listed)} selections for {len(games)} games: pass one a game")
  groups: dict[Any, list[int]] = {}
  for index, game in enumerate(games):
    shape = tuple(game.shape[1:])
    pads = padded(shape)
    key: tuple[Any, ...] = (padded_shape(shape) if pads else shape, pads)
    if listed is not None:
      chosen = listed[index]
      _check_selection(chosen, index, game.shape[1:])
      given = tuple(getattr(chosen, name) is not None for name in _SHAPED)
      key += (chosen.rho, chosen.epsilon_max, given)
    groups.setdefault(key, []).append(index)
  return [_bucket(games, selection, index, *key[:2]) for key, index in groups.items()]


def _check_selection(selection: Any, index: int, shape: tuple[int, ...]) -> None:
  """Raises ValueError for a selection of the list that is not one for a game of this shape."""
  if not isinstance(selection, Selection):
    raise ValueError(f"selection {index} of the list is a {type(selection)}, not a Selection")
  allowed: dict[str, list[tuple[int, ...]]] = {
      "epsilon": [(), (len(shape),)],
      "welfare_weight": [()],
  }
  allowed |= {name: [shape] for name in _SHAPED}
  for name, shapes in allowed.items():
    value = getattr(selection, name)
    if value is not None and np.shape(value) not in shapes:
      wanted = " or ".join(str(list(x)) for x in shapes)
      raise ValueError(
          f"selection {index} of the list: {name} must have shape {wanted}, that of its game, not"
          f" {list(np.shape(value))}"
      )
  if selection.target is not None:
    target = np.asarray(selection.target)
    if not (np.all(target >= 0) and abs(target.sum() - 1) <= 1e-3):
      raise ValueError(
          f"selection {index} of the list: the target joint must be non-negative and sum to one;"
          f" its sum is {target.sum():.6g}"
      )


def _bucket(games, selection, index, shape, padded) -> Bucket:
  filled = index
  if padded:
    # The last game fills a bucket up to a power of two: few programs then serve all sizes.
    filled = index + [index[-1]] * ((1 << (len(index) - 1).bit_length()) - len(index))
  payoffs = np.stack([_pad(games[i], (len(shape), *shape)) for i in filled])
  strategies = None
  if padded:
    strategies = tuple(
        np.array([np.arange(count) < games[i].shape[1 + p] for i in filled])
        for p, count in enumerate(shape)
    )
  if not isinstance(selection, (str, Selection)):
    chosen = [selection[i] for i in filled]
    fields: Mapping[str, Any] = {
        name: np.stack([_pad(getattr(x, name), shape) for x in chosen])
        for name in _SHAPED
        if getattr(chosen[0], name) is not None
    }
    epsilon = np.stack([np.broadcast_to(x.epsilon, (len(shape),)) for x in chosen])
    weight = np.array([np.asarray(x.welfare_weight) for x in chosen])
    selection = dataclasses.replace(chosen[0], epsilon=epsilon, welfare_weight=weight, **fields)
  return Bucket(index, payoffs, strategies, selection)


def _pad(x: Any, shape: tuple[int, ...]) -> np.ndarray:
  x = np.asarray(x)
  return np.pad(x, [(0, size - count) for count, size in zip(x.shape, shape)])


def cut(solution: Solution, row: int, shape: tuple[int, ...]) -> Solution:
  """The answer of one game of a bucket, at the game's own shape (A1, ..., AN)."""
  one = jax.tree.map(lambda x: x[row], solution)
  dual_axes = one.duals[0].ndim
  return one._replace(
      joint=one.joint[tuple(map(slice, shape))],
      duals=tuple(x[(slice(count),) * dual_axes] for x, count in zip(one.duals, shape)),
      marginals=tuple(x[:count] for x, count in zip(one.marginals, shape)),
  )
