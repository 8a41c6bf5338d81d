"""Games on disk and games by name: `read` and `open_games` for every format.

A path is a NumPy .npz (`nes_jax.games.npz`), a Gambit .nfg (`gambit`), a directory of .nfg
(`directory`), or the name of an OpenSpiel game (`openspiel`). `read` loads everything. `open_games`
gives a `Source` (`sources`) that is read in parts, for inputs larger than memory.
"""

import os
import pathlib

import numpy as np

from nes_jax.games.directory import DirectorySource
from nes_jax.games.gambit import read_nfg, write_nfg
from nes_jax.games.npz import NpzSource, write_npz
from nes_jax.games.openspiel import OPENSPIEL_PREFIX, read_openspiel
from nes_jax.games.sources import (
    AmbiguousShapeError,
    GameFileError,
    LoadedSource,
    Path,
    Source,
    translate_errors,
)
from nes_jax.games.writing import replacing

__all__ = [
    "OPENSPIEL_PREFIX",
    "AmbiguousShapeError",
    "GameFileError",
    "Path",
    "Source",
    "open_games",
    "read",
    "replacing",
    "write_nfg",
    "write_npz",
]


def read(path: Path, *, batched: bool | None = None) -> np.ndarray:
  """Reads all games of an input.

  Args:
    path: any input of `open_games`.
    batched: whether arrays have a batch axis, as in `open_games`.

  Returns:
    float64 [B, N, A1, ..., AN]. Games of different shapes are padded, see `Source.read`.

  Raises:
    AmbiguousShapeError: a shape can be read both ways, and `batched` is None.
    GameFileError: anything else is wrong with the input.
  """
  with open_games(path, batched=batched) as source:
    return source.read(0, source.num_games)


def open_games(path: Path, *, batched: bool | None = None) -> Source:
  """Opens an input for reading in parts.

  Args:
    path: one of
      FILE.npz: the array `payoffs`, [B, N, A1, ..., AN] or [N, A1, ..., AN], of any real type of
        NumPy; a longdouble beyond the range of float64 becomes infinite. Without that name, all
        arrays of the file if they have the same shape, one after the other in the order of their
        names.
      FILE.nfg: one Gambit game, payoff or outcome form.
      DIRECTORY: its .nfg files in the order of their names, all of the same number of players.
      openspiel:GAME: a game of OpenSpiel with its parameters, as its `load_game` takes it.
    batched: whether the arrays of a .npz have a batch axis. With None the shape tells. A value is
      needed only where a shape can be read both ways, such as [3, 2, 8, 8]: three games of two
      players, or one game of three players of whom the first has two strategies. Inputs of other
      formats are never ambiguous, and ignore the argument.

  Returns:
    The games; to be closed by the caller, or used as a context manager.

  Raises:
    AmbiguousShapeError: a shape can be read both ways, and `batched` is None.
    GameFileError: anything else is wrong with the input.
  """
  text = os.fspath(path)
  if text.startswith(OPENSPIEL_PREFIX):
    return LoadedSource(read_openspiel(text)[None])
  location = pathlib.Path(text)
  with translate_errors(text, "cannot be opened", "check the path and the permissions"):
    if not location.exists():
      raise GameFileError(text, "no such file or directory", "check the path")
    if location.is_dir():
      return DirectorySource(location)
    suffix = location.suffix.lower()
  if suffix == ".npz":
    return NpzSource(location, batched)
  if suffix == ".nfg":
    return LoadedSource(read_nfg(location)[None])
  raise GameFileError(
      text,
      f"unknown suffix {location.suffix!r}",
      "give a .npz (array `payoffs`), a .nfg (Gambit), a directory of .nfg, or openspiel:GAME",
  )
