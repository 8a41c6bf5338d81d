"""Games on disk: NumPy .npz, Gambit .nfg, directories of .nfg, and OpenSpiel by name.

Payoffs are float64 [B, N, A1, ..., AN]: B games, N players, Ap strategies of player p. `read` loads
everything; `open_games` gives a `Source` that is read in parts, for inputs larger than memory.
Every fault of an input is a `GameFileError`. NaN and infinity pass: the caller marks them.

Games of a directory may differ in shape. They are padded to the largest shape: a strategy that does
not exist gives its own player -inf, and gives the other players 0. `nes_jax.solve` reads a strategy
whose own payoffs are all -inf as one that does not exist.
"""

import codecs
from collections.abc import Callable, Iterator, Sequence
import contextlib
import difflib
import itertools
import math
import os
import pathlib
import re
import secrets
import struct
from typing import IO, NamedTuple
import zipfile

import numpy as np

OPENSPIEL_PREFIX = "openspiel:"

# NumPy before 2.0 has 32 axes.
_MAX_PLAYERS = 30
# An OpenSpiel game is turned into its normal form only if that takes seconds: game-tree nodes,
# joint strategies, and for games of several moves the product of the two.
_MAX_NODES = 200_000
_MAX_JOINT = 1_000_000
_MAX_WORK = 50_000_000

# Files that a message names of each kind.
_LISTED = 5
# Advice for numbers of a type that NumPy does not have.
_CONVERT = "convert it with .astype(numpy.float64) before it is saved"

Path = str | os.PathLike


class GameFileError(ValueError):
  """A game input that cannot be used: which, what was wrong and where, and what to do."""

  def __init__(self, path: Path, problem: str, advice: str):
    super().__init__(f"{os.fspath(path)}: {problem}; {advice}")
    self.path = os.fspath(path)


class AmbiguousShapeError(GameFileError):
  """An array that is a batch in one reading of its shape and one game in the other."""

  def __init__(self, path: Path, key: str, shape: tuple[int, ...]):
    self.shape = shape
    # Words for the two readings.
    self.batch = f"{shape[0]} games of {shape[1]} players"
    self.game = f"one game of {shape[0]} players"
    super().__init__(
        path,
        f"array {key!r} of shape {list(shape)} can be read as {self.batch} and as {self.game}",
        f"pass batched=True for {self.batch}, or batched=False for {self.game}",
    )


class Source:
  """Games that are read in parts. A context manager; threads must not share one."""

  num_games: int
  shape: tuple[int, ...]  # (N, A1, ..., AN); of games that differ, the elementwise largest
  names: tuple[str, ...] | None  # a directory's file names, one a game
  counts: np.ndarray  # int64 [B, N]: each game's numbers of strategies

  def __init__(
      self,
      num_games: int,
      shape: Sequence[int],
      names: Sequence[str] | None = None,
      counts: np.ndarray | None = None,
  ):
    """`counts` may be left out where all games are of the same shape."""
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
    """Games start, ..., stop - 1: float64 [stop - start, N, A1, ..., AN].

    A smaller game lies at the beginning of every axis. Beyond it, a player's own payoffs are -inf
    for strategies that the player does not have, and all other payoffs are 0.

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
    raise NotImplementedError

  def close(self) -> None:
    """Gives back open files; a closed source is not read again."""

  def __enter__(self) -> "Source":
    return self

  def __exit__(self, *_) -> None:
    self.close()


def read(path: Path, *, batched: bool | None = None) -> np.ndarray:
  """All games of an input, float64 [B, N, A1, ..., AN].

  Args:
    path: see `open_games`. Games of different shapes are padded, see `Source.read`.
    batched: see `open_games`.

  Raises:
    GameFileError: anything wrong with the input.
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
    batched: whether the arrays of a .npz have a batch axis. None: seen from the shape; needed only
      where it can be read both ways, such as [3, 2, 8, 8]: three games of two players, or one of
      three of whom the first has two strategies. Other inputs are never ambiguous and ignore it.

  Raises:
    AmbiguousShapeError: a shape can be read both ways, and `batched` is None.
    GameFileError: anything else wrong with the input.
  """
  text = os.fspath(path)
  if text.startswith(OPENSPIEL_PREFIX):
    with _faults(text, "OpenSpiel could not make a normal-form game of it", "choose another game"):
      return _Loaded(_read_openspiel(text, text[len(OPENSPIEL_PREFIX) :])[None])
  location = pathlib.Path(text)
  with _faults(text, "cannot be opened", "check the path and the permissions"):
    if not location.exists():
      raise GameFileError(text, "no such file or directory", "check the path")
    if location.is_dir():
      return _Directory(location)
    suffix = location.suffix.lower()
  if suffix == ".npz":
    return _Npz(location, batched)
  if suffix == ".nfg":
    return _Loaded(_read_nfg(location)[None])
  raise GameFileError(
      text,
      f"unknown suffix {location.suffix!r}",
      "give a .npz (array `payoffs`), a .nfg (Gambit), a directory of .nfg, or openspiel:GAME",
  )


def write_npz(path: Path, payoffs: np.ndarray) -> None:
  """Writes games under the key `payoffs`, uncompressed, so that parts are read without the rest.

  Args:
    path: ends in .npz; replaced in one step if it exists.
    payoffs: [B, N, A1, ..., AN], or [N, A1, ..., AN] which becomes a batch of one. Where both fit,
      as in [3, 2, 8, 8], it is a batch, and reading that file needs batched=True. For a single game
      of such a shape pass `payoffs[None]`, which can be read in one way only. The type is kept.

  Raises:
    GameFileError: not payoffs, another suffix, or the file cannot be written.
  """
  payoffs = np.asarray(payoffs)
  _check_dtype(path, "payoffs", payoffs.dtype)
  _, is_batch = _readings(payoffs.shape)
  num_games, shape = _interpret(path, "payoffs", payoffs.shape, is_batch or None)
  with _replacing(path, ".npz") as file:
    np.savez(file, payoffs=payoffs.reshape(num_games, *shape))


def write_nfg(path: Path, payoffs: np.ndarray, title: str = "") -> None:
  """Writes one game in Gambit's payoff form, in full precision: `read` gives the same numbers.

  Gambit itself has no NaN or infinity; `read` here takes them.

  Args:
    path: ends in .nfg; replaced in one step if it exists.
    payoffs: [N, A1, ..., AN], or a batch of one.
    title: any text.

  Raises:
    GameFileError: not the payoffs of one game, another suffix, or the file cannot be written.
  """
  payoffs = np.asarray(payoffs)
  _check_dtype(path, "payoffs", payoffs.dtype)
  if payoffs.ndim and payoffs.ndim == payoffs.shape[0] + 1:
    payoffs = payoffs[None]
  num_games, shape = _interpret(path, "payoffs", payoffs.shape)
  if num_games != 1:
    raise GameFileError(
        path, f"{num_games} games for one .nfg", "write one file a game, or all with write_npz"
    )
  escaped = title.replace("\\", "\\\\").replace('"', '\\"')
  players = " ".join(f'"Player {p + 1}"' for p in range(shape[0]))
  counts = " ".join(map(str, shape[1:]))
  # [1, N, A1, ..., AN] -> [N |A|], player first, then player 1's strategy, fastest.
  numbers = payoffs[0].astype(np.float64).reshape(-1, order="F").tolist()
  rows = (numbers[k : k + shape[0]] for k in range(0, len(numbers), shape[0]))
  body = "\n".join(" ".join(map(repr, row)) for row in rows)
  content = f'NFG 1 R "{escaped}"\n{{ {players} }} {{ {counts} }}\n\n{body}\n'
  with _replacing(path, ".nfg") as file:
    file.write(content.encode("utf-8", "replace"))


# Helpers for every format.


@contextlib.contextmanager
def _faults(path: Path, problem: str, advice: str) -> Iterator[None]:
  """Turns the errors that libraries and the system raise on bad input into one exception."""
  try:
    yield
  except GameFileError:
    raise
  except Exception as error:
    text = " ".join(str(error).split())
    raise GameFileError(path, f"{problem} ({type(error).__name__}: {text:.200})", advice) from error


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[IO[bytes]]:
  """A file beside `path` that takes its name when complete, and leaves nothing when not."""
  temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
  try:
    with open(temporary, "xb") as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _replacing(path: Path, suffix: str) -> Iterator[IO[bytes]]:
  """`replacing`, whose faults and wrong suffixes are GameFileErrors."""
  target = pathlib.Path(os.fspath(path))
  if target.suffix.lower() != suffix:
    raise GameFileError(path, f"suffix {target.suffix!r}", f"give a name that ends in {suffix}")
  with _faults(path, "cannot be written", "check the directory, its permissions and space"):
    with replacing(target) as file:
      yield file


def _check_dtype(path: Path, key: str, dtype: np.dtype) -> None:
  added = dtype.isbuiltin == 2  # by another package, such as ml_dtypes
  if dtype.kind in "fiub" and not added:
    return
  problem, advice = f"of type {dtype}, not real numbers", "save it as float64"
  if dtype.hasobject:
    problem = "an object array (a pickle), which is never read"
  elif added:
    problem, advice = f"of type {dtype}, which a .npz cannot keep", _CONVERT
  elif dtype.kind == "V" and dtype.names is None:
    likely = {1: ", probably float8", 2: ", probably bfloat16"}.get(dtype.itemsize, "")
    problem = f"of void type {dtype}: NumPy saves the types of ml_dtypes like this{likely}"
    advice = _CONVERT
  raise GameFileError(path, f"array {key!r} is {problem}", advice)


def _readings(shape: tuple[int, ...]) -> tuple[bool, bool]:
  """Whether an array of this shape can be one game, and whether it can be a batch."""
  one = len(shape) >= 3 and len(shape) == shape[0] + 1
  many = len(shape) >= 4 and len(shape) == shape[1] + 2
  return one, many


def _interpret(
    path: Path, key: str, shape: tuple[int, ...], batched: bool | None = None
) -> tuple[int, tuple[int, ...]]:
  """Array shape -> (B, (N, A1, ..., AN)); `batched` as in `open_games`."""
  one, many = _readings(shape)
  if not one and not many:
    raise GameFileError(
        path,
        f"array {key!r} has shape {list(shape)}, which is not [B, N, A1, ..., AN] or"
        " [N, A1, ..., AN] with N at least 2",
        "put the player axis first, then one axis a player",
    )
  if min(shape) < 1:
    raise GameFileError(
        path,
        f"array {key!r} of shape {list(shape)} is empty",
        "give at least one game and one strategy",
    )
  if one and many and batched is None:
    raise AmbiguousShapeError(path, key, shape)
  if batched is not None and not (many if batched else one):
    wanted, found = ("a batch", "one game") if batched else ("one game", "a batch")
    raise GameFileError(
        path,
        f"array {key!r} of shape {list(shape)} can only be {found}, and {wanted} was asked for",
        "leave `batched` out: this shape can be read in one way only",
    )
  batched = many if batched is None else batched
  return (shape[0], shape[1:]) if batched else (1, shape)


def _as_float64(array: np.ndarray) -> np.ndarray:
  with np.errstate(over="ignore"):  # a longdouble may become infinite
    return array.astype(np.float64, order="C")


class _Loaded(Source):
  """Games in memory."""

  def __init__(self, payoffs: np.ndarray):
    super().__init__(len(payoffs), payoffs.shape[1:])
    self._payoffs = payoffs

  def _read(self, start: int, stop: int) -> np.ndarray:
    return self._payoffs[start:stop]


# NumPy .npz.


class _Member(NamedTuple):
  """One array of a .npz."""

  key: str
  info: zipfile.ZipInfo
  num_games: int
  dtype: np.dtype
  fortran: bool
  header_size: int  # bytes before the data


class _Header(NamedTuple):
  """The words of NumPy before the data of an array."""

  shape: tuple[int, ...]
  fortran: bool
  dtype: np.dtype
  size: int  # bytes


_NPZ_ADVICE = "the file is damaged or was cut short: write it again"


class _Npz(Source):
  """Arrays of a .npz, one after the other.

  Reading forward goes on where the last part ended. A jump is a seek where the array is stored
  uncompressed; otherwise it decompresses up to there. Arrays in Fortran order are loaded whole.
  """

  def __init__(self, path: pathlib.Path, batched: bool | None):
    self._path = path
    self._batched = batched
    self._stream: IO[bytes] | None = None
    self._stream_at = (-1, -1)  # member, game within it
    self._whole: tuple[int, np.ndarray] | None = None  # member, payoffs; Fortran order only
    with _faults(path, "is not a readable .npz", _NPZ_ADVICE):
      self._zip = zipfile.ZipFile(path)
      try:
        self._members, shape = self._open_members()
      except BaseException:
        self._zip.close()
        raise
    super().__init__(sum(member.num_games for member in self._members), shape)

  def _open_members(self) -> tuple[list[_Member], tuple[int, ...]]:
    """The arrays to read, and the shape of a game."""
    infos = {i.filename[:-4]: i for i in self._zip.infolist() if i.filename.endswith(".npy")}
    keys = ["payoffs"] if "payoffs" in infos else sorted(infos)
    if not keys:
      raise GameFileError(self._path, "holds no arrays", "save one named `payoffs`")
    headers = {key: self._read_header(key, infos[key]) for key in keys}
    shapes = {key: header.shape for key, header in headers.items()}
    if len(set(shapes.values())) > 1:
      listing = ", ".join(f"{key} {shape}" for key, shape in shapes.items())
      raise GameFileError(
          self._path,
          f"has no array `payoffs`, and its {len(keys)} arrays differ in shape: {listing:.400}",
          "name the games `payoffs`, or save each shape in a file of its own",
      )
    num_games, game = _interpret(self._path, keys[0], shapes[keys[0]], self._batched)
    members = []
    for key, header in headers.items():
      self._check_size(key, header, infos[key].file_size)
      members.append(
          _Member(key, infos[key], num_games, header.dtype, header.fortran, header.size)
      )
    return members, game

  def _read_header(self, key: str, info: zipfile.ZipInfo) -> _Header:
    with self._zip.open(info) as stream:
      try:
        if np.lib.format.read_magic(stream) == (1, 0):
          header = np.lib.format.read_array_header_1_0(stream)
        else:
          header = np.lib.format.read_array_header_2_0(stream)
      except ValueError as error:
        unknown = re.search(r"not a valid dtype descriptor: (.*)", str(error))
        if unknown is None:
          raise
        problem = (
            f"array {key!r} is of type {unknown[1]:.40}, which NumPy cannot read and which it saves"
            " for some float8 of ml_dtypes"
        )
        raise GameFileError(self._path, problem, _CONVERT) from error
      shape, fortran, dtype = header
      _check_dtype(self._path, key, dtype)
      return _Header(shape, fortran, dtype, stream.tell())

  def _check_size(self, key: str, header: _Header, size: int) -> None:
    needed = header.size + math.prod(header.shape) * header.dtype.itemsize
    if needed != size:
      raise GameFileError(
          self._path,
          f"array {key!r} of shape {header.shape} needs {needed} bytes and has {size}",
          _NPZ_ADVICE,
      )

  def _read(self, start: int, stop: int) -> np.ndarray:
    parts, first = [], 0
    with _faults(self._path, "cannot be read", _NPZ_ADVICE):
      for index, member in enumerate(self._members):
        a, b = max(start - first, 0), min(stop - first, member.num_games)
        if a < b:
          parts.append(self._read_member(index, a, b))
        first += member.num_games
    return parts[0] if len(parts) == 1 else np.concatenate(parts)

  def _read_member(self, index: int, start: int, stop: int) -> np.ndarray:
    """[stop - start, N, A1, ..., AN] of one array."""
    member = self._members[index]
    if member.fortran:
      if self._whole is None or self._whole[0] != index:
        data = self._read_bytes(index, 0, member.num_games)
        array = np.frombuffer(data, member.dtype)
        # A batch, or one game without the batch axis: with B = 1 the same order.
        array = array.reshape((member.num_games, *self.shape), order="F")
        self._whole = (index, _as_float64(array))
      return self._whole[1][start:stop]
    data = self._read_bytes(index, start, stop)
    array = np.frombuffer(data, member.dtype).reshape(stop - start, *self.shape)
    return _as_float64(array)

  def _read_bytes(self, index: int, start: int, stop: int) -> bytes:
    member = self._members[index]
    game_size = math.prod(self.shape) * member.dtype.itemsize
    size = (stop - start) * game_size
    stored = member.info.compress_type == zipfile.ZIP_STORED
    here = self._stream is not None and self._stream_at == (index, start)
    if stored and start and not here:
      data = self._seek_bytes(member, member.header_size + start * game_size, size)
    else:
      stream = self._stream_to(index, start, game_size)
      data = stream.read(size)
      self._stream_at = (index, stop)
      # At the end of an array one more read makes zipfile compare the checksum.
      if stop == member.num_games and stream.read(1):
        raise GameFileError(self._path, f"array {member.key!r} is longer than said", _NPZ_ADVICE)
    if len(data) != size:
      raise GameFileError(
          self._path, f"array {member.key!r} ends before game {stop}", _NPZ_ADVICE
      )
    return data

  def _stream_to(self, index: int, start: int, game_size: int) -> IO[bytes]:
    """The array's stream, at game `start`."""
    member = self._members[index]
    if self._stream is None or self._stream_at[0] != index or self._stream_at[1] > start:
      self._close_stream()
      self._stream = self._zip.open(member.info)
      self._stream.read(member.header_size)
      self._stream_at = (index, 0)
    remaining = (start - self._stream_at[1]) * game_size
    while remaining:
      skipped = len(self._stream.read(min(remaining, 1 << 20)))
      if not skipped:
        raise GameFileError(
            self._path, f"array {member.key!r} ends before game {start}", _NPZ_ADVICE
        )
      remaining -= skipped
    return self._stream

  def _seek_bytes(self, member: _Member, offset: int, size: int) -> bytes:
    """Bytes of an uncompressed array, without those before it."""
    with open(self._path, "rb") as file:
      file.seek(member.info.header_offset)
      # The local header: 30 bytes, the last four of them the lengths of a name and an extra field.
      name, extra = struct.unpack("<HH", file.read(30)[26:])
      file.seek(name + extra + offset, os.SEEK_CUR)
      return file.read(size)

  def _close_stream(self) -> None:
    if self._stream is not None:
      self._stream.close()
    self._stream = None

  def close(self) -> None:
    self._close_stream()
    self._whole = None
    self._zip.close()


# Gambit .nfg.

_TOKEN = re.compile(
    r'"(?P<text>[^"\\]*(?:\\.[^"\\]*)*)"|(?P<brace>[{}])|(?P<word>[^\s,{}"]+)|(?P<open>")',
    re.DOTALL,
)
_DECIMAL = re.compile(
    r"[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf(?:inity)?|nan)",
    re.IGNORECASE,
)
_RATIONAL = re.compile(r"([+-]?[0-9]+)/([0-9]+)")
_COUNT = re.compile(r"[0-9]{1,9}")
_NUMBER = re.compile(f"{_DECIMAL.pattern}|{_RATIONAL.pattern}", re.IGNORECASE)

_TOO_FEW = "the file may be cut short: write it again, or correct its numbers of strategies"
_TOO_MANY = "remove the rest of the file, or correct its numbers of strategies"

# Text of two or four bytes a character. A UTF-32 mark begins with that of UTF-16: it comes first.
_WIDE_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
# Without a mark: which of the first four bytes are NUL where the text begins with ASCII.
_WIDE_PATTERNS = {
    (False, True, True, True): "UTF-32",
    (True, True, True, False): "UTF-32",
    (False, True, False, True): "UTF-16",
    (True, False, True, False): "UTF-16",
}


class _Tokens:
  """The tokens of a .nfg, with one of lookahead. Commas only separate."""

  kind: str | None  # "text", "brace", "word", or None at the end
  value: str

  def __init__(self, path: Path, text: str):
    self._path, self._text = path, text
    self._matches = _TOKEN.finditer(text)
    self._position, self._number = 0, 0
    self.advance()

  def advance(self) -> None:
    match = next(self._matches, None)
    self._number += 1
    if match is None:
      self.kind, self.value, self._position = None, "", len(self._text)
      return
    self.kind, self.value, self._position = match.lastgroup, match[match.lastgroup], match.start()
    if self.kind == "open":
      raise self.error("a quotation mark that is never closed")

  def where(self) -> str:
    line = self._text.count("\n", 0, self._position) + 1
    if self.kind is None:
      return f"line {line}, at the end of the file"
    found = f"{self.value:.40}"
    return f"line {line}, token {self._number} ({found!r})"

  def error(
      self, problem: str, advice: str | None = None, where: str | None = None
  ) -> GameFileError:
    """The error to raise, at this token unless `where` is given."""
    if advice is None:
      advice = "compare with Gambit's .nfg format"
      if self.kind is None:
        advice = "it may be cut short: write it again"
    return GameFileError(self._path, f"{where or self.where()}: {problem}", advice)

  def take(self, kind: str, expected: str, *values: str) -> str:
    """The next token, which must be of that kind, and one of the values if any are given."""
    if self.kind != kind or (values and self.value not in values):
      raise self.error(f"expected {expected}")
    value = self.value
    self.advance()
    return value

  def at(self, brace: str) -> bool:
    return self.kind == "brace" and self.value == brace

  def fits(self, pattern: re.Pattern[str]) -> bool:
    return self.kind == "word" and pattern.fullmatch(self.value) is not None

  def names(self, of: str) -> int:
    """Reads { "a" "b" }; returns how many. Bare words are names too."""
    self.take("brace", f"{{ before {of}", "{")
    count = 0
    while self.kind in ("text", "word"):
      self.advance()
      count += 1
    self.take("brace", f"}} after {of}", "}")
    return count

  def payoff(self) -> float:
    word = self.value
    if self.kind == "word" and _DECIMAL.fullmatch(word):
      self.advance()
      return float(word)
    rational = _RATIONAL.fullmatch(word) if self.kind == "word" else None
    if rational is None:
      raise self.error("expected a number: an integer, a decimal or a fraction such as 1/3")
    try:
      number = int(rational[1]) / int(rational[2])
    except (ValueError, ArithmeticError) as error:
      raise self.error(f"a fraction that is no number ({error})") from error
    self.advance()
    return number


def _nfg_header(tokens: _Tokens) -> tuple[int, ...]:
  """Reads up to the strategies; returns (A1, ..., AN)."""
  tokens.take("word", "NFG, the first word of a Gambit normal-form file", "NFG")
  tokens.take("word", "version 1", "1")
  tokens.take("word", "R (or D), the type of the numbers", "R", "D")
  tokens.take("text", "the title in quotation marks")
  num_players = tokens.names("the players")
  tokens.take("brace", "{ before the strategies", "{")
  counts = []
  while not tokens.at("}"):
    if tokens.at("{"):
      counts.append(tokens.names("a player's strategies"))
    elif tokens.fits(_COUNT):
      counts.append(int(tokens.take("word", "a number of strategies")))
    else:
      raise tokens.error("expected a number of strategies, or { and their names")
  if len(counts) != num_players:
    raise tokens.error(f"{num_players} player(s), and strategies of {len(counts)}")
  if not 2 <= num_players <= _MAX_PLAYERS:
    raise tokens.error(f"{num_players} player(s); from 2 to {_MAX_PLAYERS} are possible here")
  if min(counts) == 0:
    raise tokens.error("a player without strategies")
  tokens.take("brace", "} after the strategies", "}")
  return tuple(counts)


def _read_text(path: pathlib.Path, size: int = -1) -> str:
  with _faults(path, "cannot be read", "check the permissions"), open(path, "rb") as file:
    data = file.read(size)
  marked = [name for mark, name in _WIDE_MARKS if data.startswith(mark)]
  pattern = _WIDE_PATTERNS.get(tuple(byte == 0 for byte in data[:4]))
  if marked or pattern:
    raise GameFileError(
        path,
        f"is text in {marked[0] if marked else pattern}, and a .nfg must be UTF-8 or ASCII",
        "save it as UTF-8",
    )
  # Only names can be other than ASCII, and they are not kept.
  return data.decode("utf-8-sig", "replace")


def _nfg_counts(path: pathlib.Path) -> tuple[int, ...]:
  """(A1, ..., AN) from the head of the file where that is enough."""
  try:
    counts = _nfg_header(_Tokens(path, _read_text(path, 1 << 14)))
  except GameFileError:
    counts = _nfg_header(_Tokens(path, _read_text(path)))
  with _faults(path, "cannot be read", "check the permissions"):
    size = path.stat().st_size
  # A joint strategy takes a digit and a space at least.
  if 2 * math.prod(counts) > size:
    raise GameFileError(
        path,
        f"{size} bytes are too few for the {math.prod(counts)} joint strategies of"
        f" {_times(counts)} strategies",
        _TOO_FEW,
    )
  return counts


def _read_nfg(path: pathlib.Path) -> np.ndarray:
  """One game, [N, A1, ..., AN]."""
  tokens = _Tokens(path, _read_text(path))
  counts = _nfg_header(tokens)
  if tokens.kind == "text":
    tokens.take("text", "the comment")
  if tokens.at("{"):
    return _read_outcomes(tokens, counts)
  wanted = len(counts) * math.prod(counts)
  numbers = _read_rest(tokens, counts, "payoffs", wanted, _NUMBER, tokens.payoff)
  # Player fastest, then player 1's strategy: Fortran order. [N |A|] -> [N, A1, ..., AN]
  return np.reshape(np.asarray(numbers, np.float64), (len(counts), *counts), order="F").copy()


def _read_rest(
    tokens: _Tokens,
    counts: tuple[int, ...],
    noun: str,
    wanted: int,
    pattern: re.Pattern[str],
    take: Callable[[], float],
) -> list[float]:
  """Reads numbers up to the end of the file.

  Args:
    tokens: at the first number.
    counts: (A1, ..., AN), for messages.
    noun: the name of the numbers, for messages.
    wanted: how many there must be.
    pattern: tells further numbers from other text after the last one.
    take: reads one number, or raises.

  Returns:
    The `wanted` numbers.

  Raises:
    GameFileError: there are too few or too many, or something else follows.
  """
  numbers = []
  while tokens.kind is not None and len(numbers) < wanted:
    numbers.append(take())
  where, found = tokens.where(), len(numbers)
  while tokens.fits(pattern):
    tokens.advance()
    found += 1
  described = (
      f"{found} {noun} where {len(counts)} players with {_times(counts)} strategies have {wanted}"
  )
  if found < wanted:
    raise tokens.error(f"{described}: too few", _TOO_FEW, where)
  if found > wanted:
    raise tokens.error(f"{described}: too many", _TOO_MANY, where)
  if tokens.kind is not None:
    raise tokens.error(f"expected the end of the file after {wanted} {noun}", _TOO_MANY, where)
  return numbers


def _read_outcomes(tokens: _Tokens, counts: tuple[int, ...]) -> np.ndarray:
  """{ { "name" p1, ..., pN } ... } and one index a joint strategy; outcome 0 pays nothing."""
  num_players = len(counts)
  outcomes = [[0.0] * num_players]
  tokens.take("brace", "{ before the outcomes", "{")
  while tokens.at("{"):
    tokens.take("brace", "{ before an outcome", "{")
    if tokens.kind == "text":
      tokens.take("text", "the outcome's name")
    payoffs = []
    while tokens.kind == "word":
      payoffs.append(tokens.payoff())
    if len(payoffs) != num_players:
      many = "many" if len(payoffs) > num_players else "few"
      raise tokens.error(
          f"outcome {len(outcomes)} has {len(payoffs)} payoffs for {num_players} players: too"
          f" {many}",
          None if tokens.kind is None else "give each outcome one payoff a player",
      )
    tokens.take("brace", "} after an outcome", "}")
    outcomes.append(payoffs)
  tokens.take("brace", "} after the outcomes", "}")

  def take_index() -> int:
    if not tokens.fits(_COUNT):
      raise tokens.error("expected the index of an outcome")
    if int(tokens.value) >= len(outcomes):
      raise tokens.error(
          f"outcome {tokens.value}, and there are {len(outcomes) - 1} outcomes",
          "add the outcome, or correct its index",
      )
    return int(tokens.take("word", "an index"))

  indices = _read_rest(
      tokens, counts, "outcome indices", math.prod(counts), _COUNT, take_index
  )
  # [|A|, N] -> [A1, ..., AN, N] -> [N, A1, ..., AN]
  payoffs = np.asarray(outcomes, np.float64)[np.reshape(indices, counts, order="F")]
  return np.ascontiguousarray(np.moveaxis(payoffs, -1, 0))


def _times(counts: Sequence[int]) -> str:
  return "x".join(map(str, counts))


class _Directory(Source):
  """The .nfg files of a directory, parsed when read."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    files = [file for file in path.iterdir() if file.suffix.lower() == ".nfg" and file.is_file()]
    self._files = sorted(file for file in files if not file.name.startswith("."))
    if not self._files:
      raise GameFileError(path, "holds no .nfg files", "give a directory of Gambit games")
    names = [file.name for file in self._files]
    counts = [_nfg_counts(file) for file in self._files]
    _check_players(path, names, [len(row) for row in counts])
    shape = (len(counts[0]), *map(max, zip(*counts)))
    super().__init__(len(names), shape, names, np.array(counts, np.int64))

  def _read(self, start: int, stop: int) -> np.ndarray:
    shape = (stop - start, *self.shape)
    with _faults(
        self._path,
        f"games padded to shape {list(shape)} do not fit in memory",
        "put large games into a directory of their own",
    ):
      payoffs = np.empty(shape)
    for row, file, counts in zip(payoffs, self._files[start:stop], self.counts[start:stop]):
      game = _read_nfg(file)
      if game.shape != (len(counts), *counts):
        raise GameFileError(file, "its shape changed while reading", "run again")
      _pad(row, game)
    return payoffs


def _check_players(path: pathlib.Path, names: Sequence[str], players: Sequence[int]) -> None:
  """Refuses files of different numbers of players."""
  kinds = sorted(set(players))
  if len(kinds) == 1:
    return
  listings = []
  for kind in kinds:
    members = [name for name, number in zip(names, players) if number == kind]
    more = f", ... ({len(members)} files)" if len(members) > _LISTED else ""
    listings.append(f"{kind} players in {', '.join(members[:_LISTED])}{more}")
  raise GameFileError(
      path,
      f"games of different numbers of players: {'; '.join(listings)}",
      "put the games of each number of players into a directory of their own",
  )


def _pad(row: np.ndarray, game: np.ndarray) -> None:
  """Writes a game into `row`, [N, A1, ..., AN] and not smaller, padded as `Source.read` says."""
  row[...] = 0
  for player, count in enumerate(game.shape[1:]):
    np.moveaxis(row[player], player, 0)[count:] = -np.inf
  row[(slice(None), *map(slice, game.shape[1:]))] = game


# OpenSpiel.


def _read_openspiel(path: str, name: str) -> np.ndarray:
  """The game `name` as [N, A1, ..., AN]."""
  try:
    import pyspiel
  except ImportError as error:
    raise GameFileError(
        path, "OpenSpiel is not installed", 'run `pip install -e ".[interop]"`'
    ) from error
  try:
    game = pyspiel.load_game(name)
  except pyspiel.SpielError as error:
    near = difflib.get_close_matches(name.partition("(")[0], pyspiel.registered_names(), 3)
    known = dict.fromkeys([*near, "matrix_pd", "matrix_rps", "matrix_sh", "blotto(coins=5)"])
    reason = " ".join(str(error).split("Available games")[0].split())
    raise GameFileError(
        path, f"OpenSpiel cannot load {name!r}: {reason:.200}", f"try {', '.join(known)}"
    ) from error
  if not 2 <= game.num_players() <= _MAX_PLAYERS:
    raise GameFileError(path, f"has {game.num_players()} player(s)", "choose one with 2 or more")
  if isinstance(game, pyspiel.MatrixGame):
    return np.stack([game.row_utilities(), game.col_utilities()]).astype(np.float64)
  if not isinstance(game, pyspiel.TensorGame):
    _check_normal_form_size(path, game)
    game = pyspiel.extensive_to_tensor_game(game)
  players = range(game.num_players())
  shape = tuple(game.shape())
  return np.stack([np.reshape(game.player_utilities(p), shape) for p in players]).astype(np.float64)


def _check_normal_form_size(path: str, game) -> None:
  """Counts pure strategies by walking the tree; refuses games whose normal form is too large."""

  def refuse(reason: str) -> GameFileError:
    return GameFileError(
        path,
        f"is not a normal-form game and too large to turn into one: {reason}",
        "choose a matrix or tensor game such as matrix_pd, or one of few moves such as kuhn_poker",
    )

  seen: list[set[str]] = [set() for _ in range(game.num_players())]
  strategies = [1] * game.num_players()

  def decide(player: int, information: str, num_actions: int) -> None:
    if information not in seen[player]:
      seen[player].add(information)
      strategies[player] *= num_actions
      if math.prod(strategies) > _MAX_JOINT:
        raise refuse(f"it has more than {_MAX_JOINT} combinations of pure strategies")

  states, nodes = [game.new_initial_state()], 0
  one_shot = states[0].is_simultaneous_node()
  while states:
    state = states.pop()
    nodes += 1
    if nodes + len(states) > _MAX_NODES:
      raise refuse(f"its game tree has more than {_MAX_NODES} nodes")
    if state.is_terminal():
      continue
    one_shot = one_shot and nodes == 1
    if state.is_mean_field_node():
      raise GameFileError(path, "is a mean-field game", "choose a game of finitely many players")
    if state.is_simultaneous_node():
      legal = [state.legal_actions(p) for p in range(game.num_players())]
      if math.prod(map(len, legal)) > _MAX_NODES:
        raise refuse(f"its game tree has more than {_MAX_NODES} nodes")
      for player, actions in enumerate(legal):
        # A one-shot game need not implement information states.
        decide(player, "" if one_shot else state.information_state_string(player), len(actions))
      for joint in itertools.product(*legal):
        child = state.clone()
        child.apply_actions(list(joint))
        states.append(child)
      continue
    if not state.is_chance_node():
      player = state.current_player()
      decide(player, state.information_state_string(player), len(state.legal_actions()))
    states.extend(state.child(action) for action in state.legal_actions())
  if not one_shot and math.prod(strategies) * nodes > _MAX_WORK:
    raise refuse(f"it has {_times(strategies)} pure strategies and {nodes} nodes")
