"""NumPy .npz files of games: reading in parts, and writing.

A .npz is a zip archive whose members are arrays in NumPy's .npy format: a header with type, shape
and order, then the numbers. `NpzSource` reads the numbers of the games asked for, and no others.
"""

import math
import os
import pathlib
import re
import struct
from typing import IO, NamedTuple
import zipfile

import numpy as np

from nes_jax.games.arrays import (
    CONVERT_ADVICE,
    check_dtype,
    fits_game_and_batch,
    interpret_shape,
)
from nes_jax.games.sources import GameFileError, Path, Source, translate_errors
from nes_jax.games.writing import replacing_game_file

_ADVICE = "the file is damaged or was cut short: write it again"


def write_npz(path: Path, payoffs: np.ndarray) -> None:
  """Writes games under the key `payoffs`, uncompressed, so that parts are read without the rest.

  Args:
    path: name that ends in .npz; an existing file is replaced in one step.
    payoffs: [B, N, A1, ..., AN], or [N, A1, ..., AN] which becomes a batch of one. Where both fit,
      as in [3, 2, 8, 8], it is a batch, and reading that file needs batched=True. For a single game
      of such a shape pass `payoffs[None]`, which can be read in one way only. The type is kept.

  Raises:
    GameFileError: the array does not hold payoffs, the suffix is another, or the file cannot be
      written.
  """
  payoffs = np.asarray(payoffs)
  check_dtype(path, "payoffs", payoffs.dtype)
  _, is_batch = fits_game_and_batch(payoffs.shape)
  num_games, shape = interpret_shape(path, "payoffs", payoffs.shape, is_batch or None)
  with replacing_game_file(path, ".npz") as file:
    np.savez(file, payoffs=payoffs.reshape(num_games, *shape))


class _Member(NamedTuple):
  """One array of a .npz."""

  # Name of the array.
  key: str
  # Entry of the zip archive.
  info: zipfile.ZipInfo
  # Number of games in the array.
  num_games: int
  # Type of the numbers in the file.
  dtype: np.dtype
  # Whether the array is in Fortran order.
  fortran: bool
  # Number of bytes before the numbers.
  header_size: int


class _Header(NamedTuple):
  """Header of an array in the .npy format."""

  # Shape of the array.
  shape: tuple[int, ...]
  # Whether the array is in Fortran order.
  fortran: bool
  # Type of the numbers.
  dtype: np.dtype
  # Size of the header in bytes.
  size: int


def _to_float64(array: np.ndarray) -> np.ndarray:
  """Converts to float64 in C order. A longdouble beyond float64's range becomes infinite."""
  with np.errstate(over="ignore"):
    return array.astype(np.float64, order="C")


class NpzSource(Source):
  """Source of the arrays of a .npz, one after the other.

  A part that begins where the last part ended is read on from there. Any other part is reached by a
  seek in an uncompressed array, and by decompressing all that lies before it in a compressed one.
  An array in Fortran order is loaded whole.
  """

  def __init__(self, path: pathlib.Path, batched: bool | None):
    """Opens the file and reads the headers; `batched` is as in `interpret_shape`."""
    self._path = path
    self._batched = batched
    # Open stream of one array, and its position: the member's index and the game within it.
    self._stream: IO[bytes] | None = None
    self._stream_at = (-1, -1)
    # Index and payoffs of the array in Fortran order that was read last.
    self._whole: tuple[int, np.ndarray] | None = None
    with translate_errors(path, "is not a readable .npz", _ADVICE):
      self._zip = zipfile.ZipFile(path)
      try:
        self._members, shape = self._open_members()
      except BaseException:
        self._zip.close()
        raise
    super().__init__(sum(member.num_games for member in self._members), shape)

  def _open_members(self) -> tuple[list[_Member], tuple[int, ...]]:
    """Finds the arrays to read, and the shape (N, A1, ..., AN) of their games."""
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
    num_games, game = interpret_shape(self._path, keys[0], shapes[keys[0]], self._batched)
    members = []
    for key, header in headers.items():
      self._check_size(key, header, infos[key].file_size)
      members.append(
          _Member(key, infos[key], num_games, header.dtype, header.fortran, header.size)
      )
    return members, game

  def _read_header(self, key: str, info: zipfile.ZipInfo) -> _Header:
    """Reads the header of one array, and checks its type."""
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
        raise GameFileError(self._path, problem, CONVERT_ADVICE) from error
      shape, fortran, dtype = header
      check_dtype(self._path, key, dtype)
      return _Header(shape, fortran, dtype, stream.tell())

  def _check_size(self, key: str, header: _Header, size: int) -> None:
    """Raises GameFileError if the archive's size of an array is not what its header needs."""
    needed = header.size + math.prod(header.shape) * header.dtype.itemsize
    if needed != size:
      raise GameFileError(
          self._path,
          f"array {key!r} of shape {header.shape} needs {needed} bytes and has {size}",
          _ADVICE,
      )

  def _read(self, start: int, stop: int) -> np.ndarray:
    parts, first = [], 0
    with translate_errors(self._path, "cannot be read", _ADVICE):
      for index, member in enumerate(self._members):
        a, b = max(start - first, 0), min(stop - first, member.num_games)
        if a < b:
          parts.append(self._read_member(index, a, b))
        first += member.num_games
    return parts[0] if len(parts) == 1 else np.concatenate(parts)

  def _read_member(self, index: int, start: int, stop: int) -> np.ndarray:
    """Reads games of one array: float64 [stop - start, N, A1, ..., AN]."""
    member = self._members[index]
    if member.fortran:
      if self._whole is None or self._whole[0] != index:
        data = self._read_bytes(index, 0, member.num_games)
        array = np.frombuffer(data, member.dtype)
        # The array is a batch, or one game without the batch axis, which has the same order.
        array = array.reshape((member.num_games, *self.shape), order="F")
        self._whole = (index, _to_float64(array))
      return self._whole[1][start:stop]
    data = self._read_bytes(index, start, stop)
    array = np.frombuffer(data, member.dtype).reshape(stop - start, *self.shape)
    return _to_float64(array)

  def _read_bytes(self, index: int, start: int, stop: int) -> bytes:
    """Reads the bytes of games of one array."""
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
        raise GameFileError(self._path, f"array {member.key!r} is longer than said", _ADVICE)
    if len(data) != size:
      raise GameFileError(self._path, f"array {member.key!r} ends before game {stop}", _ADVICE)
    return data

  def _stream_to(self, index: int, start: int, game_size: int) -> IO[bytes]:
    """Brings the stream to game `start` of an array, and returns it."""
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
        raise GameFileError(self._path, f"array {member.key!r} ends before game {start}", _ADVICE)
      remaining -= skipped
    return self._stream

  def _seek_bytes(self, member: _Member, offset: int, size: int) -> bytes:
    """Reads bytes of an uncompressed array, without the bytes before them."""
    with open(self._path, "rb") as file:
      file.seek(member.info.header_offset)
      # A local header of zip has 30 bytes, then a name and an extra field. The last four of the 30
      # bytes are the lengths of these two.
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
