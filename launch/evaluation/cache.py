"""A cache of results on disk.

A result is a set of arrays with a key, which is everything that determines it, as JSON. It is
stored in a file `NAME-HASH.npz` with the key under "key". A result whose key is there is read from
its file. A result whose key has changed is computed and stored in another file.
"""

from collections.abc import Callable, Mapping
import hashlib
import json
import pathlib
from typing import Any
import zipfile
import zlib

import numpy as np

from nes_jax.games.files import replacing

Arrays = dict[str, np.ndarray]


class Cache:
  """The results in one directory."""

  def __init__(self, directory: pathlib.Path):
    """Creates the directory if it does not exist."""
    self.directory = directory
    directory.mkdir(parents=True, exist_ok=True)

  def get(
      self, name: str, key: Mapping[str, Any], compute: Callable[[], Mapping[str, Any]]
  ) -> Arrays:
    """Returns the arrays of a result, and computes them if they are missing or damaged.

    Args:
      name: a name for people, with which the file's name begins.
      key: everything that determines the result, as JSON.
      compute: returns the arrays by name. The name "key" is reserved.
    """
    text = json.dumps(dict(key), sort_keys=True)
    path = self.directory / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.npz"
    found = _read(path, text)
    if found is not None:
      return found
    arrays: dict[str, Any] = {k: np.asarray(v) for k, v in compute().items()}
    with replacing(path) as file:
      np.savez_compressed(file, key=np.array(text), **arrays)
    return arrays


def _read(path: pathlib.Path, text: str) -> Arrays | None:
  """The arrays of a file; None if the file is missing, damaged, or has another key."""
  try:
    with np.load(path, allow_pickle=False) as file:
      arrays = {name: file[name] for name in file.files}
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
    return None
  return arrays if str(arrays.pop("key", "")) == text else None
