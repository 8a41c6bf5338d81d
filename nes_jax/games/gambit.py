"""Gambit .nfg files (https://gambitproject.readthedocs.io): reading and writing of one game.

The format has two forms. The payoff form lists the payoffs of all players for each joint strategy.
The outcome form lists outcomes with payoffs, and then the index of one outcome for each joint
strategy. In both, the strategy of the first player runs fastest.
"""

import codecs
from collections.abc import Callable
import math
import pathlib
import re

import numpy as np

from nes_jax.games.arrays import check_dtype, interpret_shape
from nes_jax.games.sources import (
    MAX_PLAYERS,
    GameFileError,
    Path,
    format_counts,
    translate_errors,
)
from nes_jax.games.writing import replacing_game_file

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

# Number of bytes that hold the head of nearly every file.
_HEAD_SIZE = 1 << 14

# Byte order marks of encodings with two or four bytes a character. The mark of UTF-32 begins with
# that of UTF-16, so UTF-32 comes first.
_WIDE_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
# The same encodings without a mark, by which of the first four bytes are NUL in ASCII text.
_WIDE_PATTERNS: dict[tuple[bool, ...], str] = {
    (False, True, True, True): "UTF-32",
    (True, True, True, False): "UTF-32",
    (False, True, False, True): "UTF-16",
    (True, False, True, False): "UTF-16",
}


def read_counts(path: pathlib.Path) -> tuple[int, ...]:
  """Reads the numbers of strategies (A1, ..., AN), mostly from the head of the file alone.

  Raises:
    GameFileError: the head is faulty, or the file is too small for the payoffs that it announces.
  """
  try:
    counts = _read_head(_Tokens(path, _read_text(path, _HEAD_SIZE)))
  except GameFileError:
    counts = _read_head(_Tokens(path, _read_text(path)))
  with translate_errors(path, "cannot be read", "check the permissions"):
    size = path.stat().st_size
  # Each joint strategy takes at least a digit and a space.
  if 2 * math.prod(counts) > size:
    raise GameFileError(
        path,
        f"{size} bytes are too few for the {math.prod(counts)} joint strategies of"
        f" {format_counts(counts)} strategies",
        _TOO_FEW,
    )
  return counts


def read_nfg(path: pathlib.Path) -> np.ndarray:
  """Reads one game: float64 [N, A1, ..., AN].

  Raises:
    GameFileError: the file is faulty; the message names the line and the token.
  """
  tokens = _Tokens(path, _read_text(path))
  counts = _read_head(tokens)
  if tokens.kind == "text":
    tokens.take("text", "the comment")
  if tokens.at("{"):
    return _read_outcome_form(tokens, counts)
  wanted = len(counts) * math.prod(counts)
  numbers = _read_to_end(tokens, counts, "payoffs", wanted, _NUMBER, tokens.payoff)
  # The player runs fastest, then the strategy of player 1: [N |A|] in Fortran order.
  return np.reshape(np.asarray(numbers, np.float64), (len(counts), *counts), order="F").copy()


def write_nfg(path: Path, payoffs: np.ndarray, title: str = "") -> None:
  """Writes one game in the payoff form, with all digits, so that `read_nfg` gives the same numbers.

  Gambit itself has no NaN or infinity; `read_nfg` accepts them.

  Args:
    path: name that ends in .nfg; an existing file is replaced in one step.
    payoffs: [N, A1, ..., AN], or a batch of one.
    title: any text.

  Raises:
    GameFileError: the array does not hold the payoffs of one game, the suffix is another, or the
      file cannot be written.
  """
  payoffs = np.asarray(payoffs)
  check_dtype(path, "payoffs", payoffs.dtype)
  if payoffs.ndim and payoffs.ndim == payoffs.shape[0] + 1:
    payoffs = payoffs[None]
  num_games, shape = interpret_shape(path, "payoffs", payoffs.shape)
  if num_games != 1:
    raise GameFileError(
        path, f"{num_games} games for one .nfg", "write one file a game, or all with write_npz"
    )
  escaped = title.replace("\\", "\\\\").replace('"', '\\"')
  players = " ".join(f'"Player {p + 1}"' for p in range(shape[0]))
  counts = " ".join(map(str, shape[1:]))
  # The player runs fastest, then the strategy of player 1: [1, N, A1, ..., AN] -> [N |A|].
  numbers = payoffs[0].astype(np.float64).reshape(-1, order="F").tolist()
  rows = (numbers[k : k + shape[0]] for k in range(0, len(numbers), shape[0]))
  body = "\n".join(" ".join(map(repr, row)) for row in rows)
  content = f'NFG 1 R "{escaped}"\n{{ {players} }} {{ {counts} }}\n\n{body}\n'
  with replacing_game_file(path, ".nfg") as file:
    file.write(content.encode("utf-8", "replace"))


def _read_text(path: pathlib.Path, size: int = -1) -> str:
  """Reads a file, or its first `size` bytes, and refuses encodings other than UTF-8."""
  with translate_errors(path, "cannot be read", "check the permissions"), open(path, "rb") as file:
    data = file.read(size)
  marked = [name for mark, name in _WIDE_MARKS if data.startswith(mark)]
  pattern = _WIDE_PATTERNS.get(tuple(byte == 0 for byte in data[:4]))
  if marked or pattern:
    raise GameFileError(
        path,
        f"is text in {marked[0] if marked else pattern}, and a .nfg must be UTF-8 or ASCII",
        "save it as UTF-8",
    )
  # Characters other than ASCII occur only in names, which are not kept.
  return data.decode("utf-8-sig", "replace")


class _Tokens:
  """Tokens of a .nfg file with one token of lookahead. A comma is white space."""

  # Kind of the current token: "text" (in quotation marks), "brace", "word", or None at the end.
  kind: str | None
  # Current token, without quotation marks.
  value: str

  def __init__(self, path: Path, text: str):
    self._path, self._text = path, text
    self._matches = _TOKEN.finditer(text)
    self._position, self._number = 0, 0
    self.advance()

  def advance(self) -> None:
    """Goes to the next token."""
    match = next(self._matches, None)
    self._number += 1
    if match is None:
      self.kind, self.value, self._position = None, "", len(self._text)
      return
    kind = match.lastgroup
    assert kind is not None, "each alternative of _TOKEN is a named group"
    self.kind, self.value, self._position = kind, match[kind], match.start()
    if self.kind == "open":
      raise self.error("a quotation mark that is never closed")

  def where(self) -> str:
    """Describes the place of the current token."""
    line = self._text.count("\n", 0, self._position) + 1
    if self.kind is None:
      return f"line {line}, at the end of the file"
    found = f"{self.value:.40}"
    return f"line {line}, token {self._number} ({found!r})"

  def error(
      self, problem: str, advice: str | None = None, where: str | None = None
  ) -> GameFileError:
    """Makes an error about the current token, or about the place `where`."""
    if advice is None:
      advice = "compare with Gambit's .nfg format"
      if self.kind is None:
        advice = "it may be cut short: write it again"
    return GameFileError(self._path, f"{where or self.where()}: {problem}", advice)

  def take(self, kind: str, expected: str, *values: str) -> str:
    """Returns the current token and goes to the next.

    Raises:
      GameFileError: the token is of another kind, or `values` are given and it is none of them.
    """
    if self.kind != kind or (values and self.value not in values):
      raise self.error(f"expected {expected}")
    value = self.value
    self.advance()
    return value

  def at(self, brace: str) -> bool:
    """Whether the current token is this brace."""
    return self.kind == "brace" and self.value == brace

  def fits(self, pattern: re.Pattern[str]) -> bool:
    """Whether the current token is a word of this pattern."""
    return self.kind == "word" and pattern.fullmatch(self.value) is not None

  def names(self, owner: str) -> int:
    """Reads a list of names such as { "a" "b" }, and returns its length. Words are names too."""
    self.take("brace", f"{{ before {owner}", "{")
    count = 0
    while self.kind in ("text", "word"):
      self.advance()
      count += 1
    self.take("brace", f"}} after {owner}", "}")
    return count

  def payoff(self) -> float:
    """Reads a number: an integer, a decimal or a fraction."""
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


def _read_head(tokens: _Tokens) -> tuple[int, ...]:
  """Reads the file up to the strategies, and returns their numbers (A1, ..., AN)."""
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
  if not 2 <= num_players <= MAX_PLAYERS:
    raise tokens.error(f"{num_players} player(s); from 2 to {MAX_PLAYERS} are possible here")
  if min(counts) == 0:
    raise tokens.error("a player without strategies")
  tokens.take("brace", "} after the strategies", "}")
  return tuple(counts)


def _read_to_end(
    tokens: _Tokens,
    counts: tuple[int, ...],
    noun: str,
    wanted: int,
    pattern: re.Pattern[str],
    take: Callable[[], float],
) -> list[float]:
  """Reads numbers up to the end of the file.

  Args:
    tokens: tokens, at the first number.
    counts: (A1, ..., AN), for messages.
    noun: name of the numbers, for messages.
    wanted: how many numbers there must be.
    pattern: words that count as further numbers after the last one wanted.
    take: function that reads one number, or raises.

  Returns:
    The `wanted` numbers.

  Raises:
    GameFileError: there are too few or too many numbers, or something else follows.
  """
  numbers: list[float] = []
  while tokens.kind is not None and len(numbers) < wanted:
    numbers.append(take())
  where, found = tokens.where(), len(numbers)
  while tokens.fits(pattern):
    tokens.advance()
    found += 1
  described = (
      f"{found} {noun} where {len(counts)} players with {format_counts(counts)} strategies have"
      f" {wanted}"
  )
  if found < wanted:
    raise tokens.error(f"{described}: too few", _TOO_FEW, where)
  if found > wanted:
    raise tokens.error(f"{described}: too many", _TOO_MANY, where)
  if tokens.kind is not None:
    raise tokens.error(f"expected the end of the file after {wanted} {noun}", _TOO_MANY, where)
  return numbers


def _read_outcome_form(tokens: _Tokens, counts: tuple[int, ...]) -> np.ndarray:
  """Reads outcomes, then one index for each joint strategy: float64 [N, A1, ..., AN].

  Outcomes are { { "name" p1, ..., pN } ... } and count from 1. Outcome 0 gives all players 0.
  """
  outcomes = _read_outcomes(tokens, len(counts))

  def take_index() -> int:
    if not tokens.fits(_COUNT):
      raise tokens.error("expected the index of an outcome")
    if int(tokens.value) >= len(outcomes):
      raise tokens.error(
          f"outcome {tokens.value}, and there are {len(outcomes) - 1} outcomes",
          "add the outcome, or correct its index",
      )
    return int(tokens.take("word", "an index"))

  wanted = math.prod(counts)
  indices = _read_to_end(tokens, counts, "outcome indices", wanted, _COUNT, take_index)
  # [|A|, N] -> [A1, ..., AN, N] -> [N, A1, ..., AN]
  payoffs = np.asarray(outcomes, np.float64)[np.reshape(indices, counts, order="F")]
  return np.ascontiguousarray(np.moveaxis(payoffs, -1, 0))


def _read_outcomes(tokens: _Tokens, num_players: int) -> list[list[float]]:
  """Reads the payoffs of the outcomes, which are preceded by those of outcome 0."""
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
  return outcomes
