"""Inputs of `launch.nes_solve`: the games, and the target and welfare of files."""

import math
import pathlib
import zipfile
import zlib

import numpy as np

from launch.runtime.flags import UsageError
from launch.solving.settings import Config
from nes_jax.games import files

# Number of entries of a target or welfare that are checked at a time.
_CHECK_ENTRIES = 2**24


def open_games(config: Config) -> files.Source:
  """Opens the games.

  Raises:
    UsageError: the shape has two readings; the message names the flags that choose one.
    files.GameFileError: the games cannot be used.
  """
  try:
    return files.open_games(config.games, batched=config.batched)
  except files.AmbiguousShapeError as error:
    raise UsageError(
        f"--games={config.games} holds an array of shape {list(error.shape)}, which can be read as"
        f" {error.batch} and as {error.game}: pass --batched for {error.batch}, or --nobatched for"
        f" {error.game}"
    ) from None


def open_inputs(config: Config, source: files.Source) -> dict[str, np.ndarray]:
  """Opens the target and the welfare that are given as files.

  Args:
    config: names the files.
    source: the games.

  Returns:
    Arrays [A1, ..., AN] for all games, or [B, A1, ..., AN], by the names "target" and "welfare".
    Those of .npy files stay on disk.

  Raises:
    UsageError: a file cannot be read, does not fit the games, or holds wrong values.
  """
  inputs = {}
  for name in ("target", "welfare"):
    path = getattr(config, name)
    if path and path != "sum":
      if source.ragged:
        raise UsageError(
            f"--{name}={path}: the games of --games={config.games} differ in shape, and one file"
            " cannot fit them all. Put the games of each shape into a directory of their own, or"
            f" leave out --{name}" + (" or pass --welfare=sum" if name == "welfare" else "")
        )
      array = _load(name, path)
      shape = source.shape[1:]
      if array.shape not in (shape, (source.num_games, *shape)):
        raise UsageError(
            f"--{name}={path} has shape {list(array.shape)}: it must be {list(shape)} for all"
            f" games, or {[source.num_games, *shape]}"
        )
      _check_values(name, path, array.reshape(-1, *shape))
      inputs[name] = array
  return inputs


def _load(name: str, path: str) -> np.ndarray:
  """Loads the array of a flag from a .npy or .npz file. Raises UsageError."""
  try:
    if pathlib.Path(path).suffix == ".npz":
      with np.load(path, allow_pickle=False) as archive:
        keys = list(archive)
        if name not in keys and len(keys) != 1:
          raise UsageError(f"--{name}={path} holds {len(keys)} arrays: name one of them {name!r}")
        array = archive[name if name in keys else keys[0]]
    else:
      array = np.load(path, mmap_mode="r", allow_pickle=False)
  except OSError as error:
    raise UsageError(f"--{name}={path} cannot be read ({error.strerror}): check the path") from None
  except (ValueError, EOFError, zipfile.BadZipFile, zlib.error):
    raise UsageError(f"--{name}={path} is not a .npy or .npz: save it with numpy.save") from None
  if array.dtype.kind not in "fiub":
    raise UsageError(f"--{name}={path} is of type {array.dtype}: save it as float64")
  return array


def _check_values(name: str, path: str, rows: np.ndarray) -> None:
  """Raises UsageError if rows [*, A1, ..., AN] are no targets, or no welfares."""
  step = max(1, _CHECK_ENTRIES // math.prod(rows.shape[1:]))
  for start in range(0, len(rows), step):
    block = np.asarray(rows[start : start + step], np.float64)
    block = block.reshape(len(block), -1)
    good = np.isfinite(block).all(1)
    expected = "finite numbers"
    if name == "target":
      good &= (block >= 0).all(1) & (np.abs(block.sum(1) - 1) <= 1e-3)
      expected = "non-negative numbers that sum to one"
    if not good.all():
      raise UsageError(f"--{name}={path}, row {start + int(np.argmin(good))}: must be {expected}")
