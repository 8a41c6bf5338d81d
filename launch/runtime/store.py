"""Answers on disk in parts, from which a stopped run continues, and the merge of all parts.

A store is a directory with `manifest.json`, which says what is computed, and `part-000000.npz`,
`part-000001.npz`, ... A part appears under its name only when it is complete. Arrays have one row
for each item, in the order of the parts.

Glossary: B is the number of rows of all parts together, b the number of rows of one part.
"""

from collections.abc import Callable, Iterable, Mapping
import contextlib
import fcntl
import hashlib
import json
import math
import pathlib
from typing import IO, Any, NamedTuple
import zipfile
import zlib

import numpy as np

from nes_jax.games.files import replacing

# Version of the format of a store.
FORMAT = 1

_MANIFEST = "manifest.json"
# Number of bytes that are copied at a time into the merged file.
_COPY_BYTES = 1 << 24
# Number of bytes at the beginning and at the end of a file that its fingerprint reads.
_END_BYTES = 1 << 20


class StoreError(ValueError):
  """A store cannot be used; the message says where, why, and what to do."""


class Field(NamedTuple):
  """Shape and type of one row of an array."""

  shape: tuple[int, ...]
  dtype: np.dtype


Schema = Mapping[str, Field]


def row_bytes(schema: Schema) -> int:
  """The number of bytes of one row of all arrays."""
  return sum(math.prod(field.shape) * field.dtype.itemsize for field in schema.values())


def fingerprint(files: Iterable[pathlib.Path]) -> str:
  """A fingerprint of the names and sizes of files, and of their first and last MiB.

  The last MiB of a .npz holds the checksums of its arrays.
  """
  digest = hashlib.sha256()
  for path in files:
    size = path.stat().st_size
    digest.update(f"{path.name}\0{size}\0".encode("utf-8", "surrogateescape"))
    with open(path, "rb") as file:
      digest.update(file.read(_END_BYTES))
      file.seek(max(size - _END_BYTES, 0))
      digest.update(file.read(_END_BYTES))
  return digest.hexdigest()[:32]


class Parts:
  """The parts of one computation. As a context manager it unlocks the directory at its end."""

  def __init__(self, directory: pathlib.Path, schema: Schema, rows: int, part_size: int):
    """Describes the parts, and changes nothing on disk.

    Args:
      directory: directory of the store, whose parent exists.
      schema: arrays of a part, [b, *shape] each.
      rows: number of rows of all parts, B.
      part_size: number of rows, b, of all parts but the last.
    """
    self.directory, self.schema = directory, schema
    self.bounds = [(k, min(k + part_size, rows)) for k in range(0, rows, part_size)]
    self._rows = rows
    self._lock: IO[bytes] | None = None

  def path(self, index: int) -> pathlib.Path:
    """The file of a part."""
    return self.directory / f"part-{index:06d}.npz"

  def difference(self, task: Mapping[str, str]) -> list[str]:
    """The reasons why a run of `task` cannot continue with the parts on disk; [] if it can."""
    manifest = read_manifest(self.directory)
    if not any(self.directory.glob("part-*.npz")):
      return []
    if manifest is None:
      return ["its manifest is missing or damaged"]
    if manifest["format"] != FORMAT:
      return [f"it is of format {manifest['format']}, and this program writes {FORMAT}"]
    before = manifest["task"]
    return [
        f"{key} was {before.get(key, 'not given')} and is now {task.get(key, 'not given')}"
        for key in dict.fromkeys([*before, *task])
        if before.get(key) != task.get(key)
    ]

  def open(self, task: Mapping[str, str], versions: str) -> None:
    """Makes the directory if it does not exist, locks it, and writes the manifest.

    Args:
      task: description of the computation, as text. A later run continues only if its task is the
        same.
      versions: versions of the packages of this run. The manifest lists those of all runs.

    Raises:
      StoreError: the directory holds parts of another task, or another run works in it.
      OSError: the directory cannot be written.
    """
    different = self.difference(task)
    if different:
      raise StoreError(
          f"{self.directory} holds parts of another run: {'; '.join(different)}. Give the same"
          " options to continue it, delete the directory, or choose another --out"
      )
    self.directory.mkdir(exist_ok=True)
    self._take_lock()
    for left in self.directory.glob(".*.tmp"):  # left by a run that was killed
      left.unlink()
    manifest = read_manifest(self.directory)
    known = manifest["versions"] if manifest and manifest["task"] == dict(task) else []
    known = known if versions in known else [*known, versions]
    text = json.dumps({"format": FORMAT, "task": dict(task), "versions": known}, indent=2)
    with replacing(self.directory / _MANIFEST) as file:
      file.write(text.encode())

  def _take_lock(self) -> None:
    """Locks the directory. Raises StoreError if another run has locked it."""
    self._lock = open(self.directory / "lock", "ab")
    try:
      fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      self._lock.close()
      self._lock = None
      raise StoreError(
          f"another run is at work in {self.directory}: wait for it, or choose another --out"
      ) from None
    except OSError:
      pass  # the file system has no locks

  def __enter__(self) -> "Parts":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def close(self) -> None:
    """Unlocks the directory, and removes it if it holds no parts, as after an early error."""
    if self._lock is None:
      return
    if not any(self.directory.glob("part-*.npz")):
      self._delete()
    self._lock.close()
    self._lock = None

  def write(self, index: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a part, complete or not at all.

    Args:
      index: number of the part.
      arrays: arrays of the schema, [b, *shape] each.

    Raises:
      ValueError: an array does not fit the schema.
      OSError: the disk failed.
    """
    rows = self.bounds[index][1] - self.bounds[index][0]
    for key, field in self.schema.items():
      given = arrays[key].shape, arrays[key].dtype
      if given != ((rows, *field.shape), field.dtype):
        raise ValueError(f"part {index}, array {key!r}: {given} does not fit {rows} x {field}")
    with replacing(self.path(index)) as file:
      kept: dict[str, Any] = {key: arrays[key] for key in self.schema}
      np.savez(file, **kept)

  def read(self, index: int) -> dict[str, np.ndarray] | None:
    """Reads a part; None if it is missing, or damaged by its checksums."""
    rows = self.bounds[index][1] - self.bounds[index][0]
    try:
      with np.load(self.path(index), allow_pickle=False) as file:
        arrays = {key: file[key] for key in self.schema}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
      return None
    for key, field in self.schema.items():
      if (arrays[key].shape, arrays[key].dtype) != ((rows, *field.shape), field.dtype):
        return None
    return arrays

  def merge(
      self,
      out: pathlib.Path,
      extras: Mapping[str, np.ndarray],
      between: Callable[[], None] = lambda: None,
  ) -> None:
    """Writes all parts into one .npz, with one array of one part in memory at a time.

    Args:
      out: path of the .npz, which appears, or is replaced, when it is complete.
      extras: further arrays, of any shape.
      between: function that is called after each array of each part; an error of it ends the merge.

    Raises:
      StoreError: a part is damaged.
      OSError: the disk failed.
    """
    with replacing(out) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
      for key, field in self.schema.items():
        with _member(archive, key) as member:
          _write_header(member, (self._rows, *field.shape), field.dtype)
          for index, (start, stop) in enumerate(self.bounds):
            array = self._read_one(index, key)
            if array.shape != (stop - start, *field.shape) or array.dtype != field.dtype:
              raise self._damaged(index)
            _write_data(member, array)
            between()
      for key, array in extras.items():
        with _member(archive, key) as member:
          _write_header(member, array.shape, array.dtype)
          _write_data(member, array)

  def _read_one(self, index: int, key: str) -> np.ndarray:
    """Reads one array of a part. Raises StoreError if the part is damaged."""
    try:
      with np.load(self.path(index), allow_pickle=False) as file:
        return file[key]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
      raise self._damaged(index) from error

  def _damaged(self, index: int) -> StoreError:
    return StoreError(f"{self.path(index)} is damaged: run again, and it is solved again")

  def remove(self) -> None:
    """Deletes the parts and the directory."""
    for path in self.directory.glob("part-*.npz"):
      path.unlink()
    self.close()

  def _delete(self) -> None:
    for name in (_MANIFEST, "lock"):
      (self.directory / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other files belong to somebody else
      self.directory.rmdir()


def read_manifest(directory: pathlib.Path) -> dict | None:
  """The manifest of a store, or None if it is missing or damaged."""
  try:
    manifest = json.loads((directory / _MANIFEST).read_text())
    return manifest if {"format", "task", "versions"} <= set(manifest) else None
  except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
    return None


def _member(archive: zipfile.ZipFile, key: str) -> IO[bytes]:
  # The date is fixed, so that equal answers make equal files.
  info = zipfile.ZipInfo(f"{key}.npy", (1980, 1, 1, 0, 0, 0))
  return archive.open(info, "w", force_zip64=True)


def _write_header(member: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> None:
  header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
  np.lib.format.write_array_header_1_0(member, header)


def _write_data(member: IO[bytes], array: np.ndarray) -> None:
  data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
  for start in range(0, len(data), _COPY_BYTES):
    member.write(data[start : start + _COPY_BYTES])
