"""Games of `launch.region`: known by name, random, or from a file."""

import pathlib
import re

import numpy as np

from launch.runtime.flags import UsageError
from nes_jax.games import files

_DIAGONAL, _NEXT = np.eye(3), np.roll(np.eye(3), 1, 1)
# Games [2, A1, A2] by name.
NAMED: dict[str, np.ndarray] = {
    "chicken": np.array([[[0.0, 7], [2, 6]], [[0, 2], [7, 6]]]),
    "battle_of_the_sexes": np.array([[[3.0, 0], [0, 2]], [[2, 0], [0, 3]]]),
    "prisoners_dilemma": np.array([[[3.0, 0], [5, 1]], [[3, 5], [0, 1]]]),
    "matching_pennies": np.array([[[1.0, -1], [-1, 1]], [[-1, 1], [1, -1]]]),
    "shapley": np.stack([_DIAGONAL, _NEXT]),
}
# Name of a game of uniform random payoffs.
_RANDOM = re.compile(r"random:(\d+(?:x\d+)+)")


def title(name: str, index: int) -> str:
  """The game in words, for a picture."""
  if name in NAMED:
    return name.replace("_", " ").capitalize()
  random = _RANDOM.fullmatch(name)
  return f"A random {random[1]} game" if random else f"{pathlib.PurePath(name).name}, game {index}"


def read(name: str, index: int, seed: int, batched: bool | None) -> np.ndarray:
  """The game of a name or a file.

  Args:
    name: a key of `NAMED`; random:SHAPE, such as random:8x8; or an input of
      `nes_jax.games.files.open_games`.
    index: number of the game in the file.
    seed: seed of the payoffs of a random game.
    batched: whether the arrays of a .npz have a batch axis; None: the shape says so.

  Returns:
    float64 [N, A1, ..., AN].

  Raises:
    UsageError: there is no such game, or it is not finite.
    GameFileError: the file cannot be read.
  """
  if name in NAMED:
    return NAMED[name]
  random = _RANDOM.fullmatch(name)
  if random:
    shape = tuple(map(int, random[1].split("x")))
    if 0 in shape:
      raise UsageError(f"--game={name}: each player needs at least one strategy")
    return np.random.default_rng(seed).uniform(size=(len(shape), *shape))
  try:
    with files.open_games(name, batched=batched) as source:
      if not 0 <= index < source.num_games:
        raise UsageError(f"--index={index}: {name} holds games 0 to {source.num_games - 1}")
      # A game of a directory is padded to the largest one.
      cut = [slice(0, int(count)) for count in source.counts[index]]
      game = source.read(index, index + 1)[0][(slice(None), *cut)]
  except files.AmbiguousShapeError as error:
    raise UsageError(
        f"--game={name} holds an array of shape {list(error.shape)}, which can be read as"
        f" {error.batch} and as {error.game}: pass --batched for {error.batch}, or --nobatched for"
        f" {error.game}"
    ) from None
  except files.GameFileError as error:
    raise UsageError(
        f"--game: {error}. Games known by name are {', '.join(NAMED)} and random:SHAPE, such as"
        " random:8x8"
    ) from None
  if not np.isfinite(game).all():
    raise UsageError(f"--game={name}, game {index}: payoffs are NaN or infinite")
  return game
