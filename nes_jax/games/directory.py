"""Directories of Gambit .nfg files as one source of games."""

from collections.abc import Sequence
import pathlib

import numpy as np

from nes_jax.games import gambit
from nes_jax.games.sources import GameFileError, Source, translate_errors

# Most files that a message names of each number of players.
_MAX_LISTED = 5


class DirectorySource(Source):
  """Source of the .nfg files of a directory in the order of their names.

  The head of every file is read at once, and the payoffs when they are asked for. The games may
  differ in shape, but not in the number of players. Hidden files are left out.
  """

  def __init__(self, path: pathlib.Path):
    """Lists the directory and reads the head of each file."""
    self._path = path
    files = [file for file in path.iterdir() if file.suffix.lower() == ".nfg" and file.is_file()]
    self._files = sorted(file for file in files if not file.name.startswith("."))
    if not self._files:
      raise GameFileError(path, "holds no .nfg files", "give a directory of Gambit games")
    names = [file.name for file in self._files]
    counts = [gambit.read_counts(file) for file in self._files]
    _check_players(path, names, [len(row) for row in counts])
    shape = (len(counts[0]), *map(max, zip(*counts)))
    super().__init__(len(names), shape, names, np.array(counts, np.int64))

  def _read(self, start: int, stop: int) -> np.ndarray:
    shape = (stop - start, *self.shape)
    with translate_errors(
        self._path,
        f"games padded to shape {list(shape)} do not fit in memory",
        "put large games into a directory of their own",
    ):
      payoffs = np.empty(shape)
    for padded, file, counts in zip(payoffs, self._files[start:stop], self.counts[start:stop]):
      game = gambit.read_nfg(file)
      if game.shape != (len(counts), *counts):
        raise GameFileError(file, "its shape changed while reading", "run again")
      _pad(padded, game)
    return payoffs


def _check_players(path: pathlib.Path, names: Sequence[str], players: Sequence[int]) -> None:
  """Raises GameFileError if the files have different numbers of players."""
  kinds = sorted(set(players))
  if len(kinds) == 1:
    return
  listings = []
  for kind in kinds:
    members = [name for name, number in zip(names, players) if number == kind]
    more = f", ... ({len(members)} files)" if len(members) > _MAX_LISTED else ""
    listings.append(f"{kind} players in {', '.join(members[:_MAX_LISTED])}{more}")
  raise GameFileError(
      path,
      f"games of different numbers of players: {'; '.join(listings)}",
      "put the games of each number of players into a directory of their own",
  )


def _pad(padded: np.ndarray, game: np.ndarray) -> None:
  """Writes a game into a larger array.

  Args:
    padded: [N, A1, ..., AN], overwritten as `Source.read` describes.
    game: the same number of axes, each of them no longer.
  """
  padded[...] = 0
  for player, count in enumerate(game.shape[1:]):
    np.moveaxis(padded[player], player, 0)[count:] = -np.inf
  padded[(slice(None), *map(slice, game.shape[1:]))] = game
