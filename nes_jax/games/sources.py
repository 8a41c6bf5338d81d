"""Game inputs that are read in parts, and the errors of game inputs.

Every format of `nes_jax.games` gives its games as a `Source`, and raises `GameFileError` where an
input is faulty. Payoffs are float64 [B, N, A1, ..., AN]: B games, N players, Ap strategies of
player p. NaN and infinity are no faults here: the caller decides what they mean.

Games of one input may differ in shape. `Source.read` pads them to the largest shape: a strategy
that does not exist gives its own player -inf, and gives the other players 0. `nes_jax.solve` reads
a strategy whose own payoffs are all -inf as a strategy that does not exist.
"""

from collections.abc import Iterator, Sequence
import contextlib
import os

import numpy as np

# Most players that an input may have: NumPy before 2.0 has 32 axes, and two of them are B and N.
MAX_PLAYERS = 30

Path = str | os.PathLike


class GameFileError(ValueError):
  """Error about one game input; its message names the input, the fault and a remedy."""

  def __init__(self, path: Path, problem: str, advice: str):
    super().__init__(f"{os.fspath(path)}: {problem}; {advice}")
    self.path = os.fspath(path)


class AmbiguousShapeError(GameFileError):
  """Error about an array whose shape fits a batch of games and also fits a single game."""

  def __init__(self, path: Path, key: str, shape: tuple[int, ...]):
    self.shape = shape
    # Each reading of the shape in words, for messages.
    self.batch = f"{shape[0]} games of {shape[1]} players"
    self.game = f"one game of {shape[0]} players"
    super().__init__(
        path,
        f"array {key!r} of shape {list(shape)} can be read as {self.batch} and as {self.game}",
        f"pass batched=True for {self.batch}, or batched=False for {self.game}",
    )


class Source:
  """Games that are read in parts.

  A source is a context manager, which closes it at the end. Two threads must not use one source.
  """

  num_games: int
  # (N, A1, ..., AN). If the games differ in shape, the largest size along each axis.
  shape: tuple[int, ...]
  # File name of each game of a directory; None for other inputs.
  names: tuple[str, ...] | None
  # Number of strategies of each player in each game: int64 [B, N].
  counts: np.ndarray

  def __init__(
      self,
      num_games: int,
      shape: Sequence[int],
      names: Sequence[str] | None = None,
      counts: np.ndarray | None = None,
  ):
    """Stores the attributes above; without `counts`, all games have the same shape."""
    self.num_games = num_games
    self.shape = tuple(shape)
    self.names = None if names is None else tuple(names)
    if counts is None:
      row = np.array(self.shape[1:], np.int64)
      counts = np.broadcast_to(row, (num_games, len(row)))
    self.counts = counts

  @property
  def ragged(self) -> bool:
    """Whether the games differ in shape."""
    return bool((self.counts != self.counts[:1]).any())

  def read(self, start: int, stop: int) -> np.ndarray:
    """Reads the games start, ..., stop - 1.

    A smaller game lies at the beginning of every axis. Beyond it, a player's own payoffs are -inf
    for strategies that the player does not have, and all other payoffs are 0.

    Returns:
      float64 [stop - start, N, A1, ..., AN].

    Raises:
      IndexError: not 0 <= start <= stop <= num_games.
      GameFileError: the part cannot be read.
    """
    if not 0 <= start <= stop <= self.num_games:
      raise IndexError(f"games {start} to {stop} of {self.num_games}: need 0 <= start <= stop <= B")
    if start == stop:
      return np.zeros((0, *self.shape))
    return self._read(start, stop)

  def _read(self, start: int, stop: int) -> np.ndarray:
    """Reads games whose numbers were checked; every kind of source defines this method."""
    raise NotImplementedError

  def close(self) -> None:
    """Closes open files. A closed source cannot be read."""

  def __enter__(self) -> "Source":
    return self

  def __exit__(self, *_) -> None:
    self.close()


class LoadedSource(Source):
  """Source of games that are in memory already."""

  def __init__(self, payoffs: np.ndarray):
    """Takes float64 [B, N, A1, ..., AN]."""
    super().__init__(len(payoffs), payoffs.shape[1:])
    self._payoffs = payoffs

  def _read(self, start: int, stop: int) -> np.ndarray:
    return self._payoffs[start:stop]


@contextlib.contextmanager
def translate_errors(path: Path, problem: str, advice: str) -> Iterator[None]:
  """Turns every exception of the block into a GameFileError.

  Libraries and the operating system raise exceptions of many types on faulty input. The message
  consists of the problem, the original exception and the advice. A GameFileError passes unchanged.
  """
  try:
    yield
  except GameFileError:
    raise
  except Exception as error:
    text = " ".join(str(error).split())
    raise GameFileError(path, f"{problem} ({type(error).__name__}: {text:.200})", advice) from error


def format_counts(counts: Sequence[int]) -> str:
  """Numbers of strategies as words for messages, such as 2x3."""
  return "x".join(map(str, counts))
