"""Results on disk, each stored as soon as it is there under all that determines it.

A part is one `.npz` file, `NAME-HASH.npz`: its arrays, and under "key" the JSON that was hashed.
What is asked for again is read; whatever changes in the key makes another part, beside the old one.
"""

from collections.abc import Callable, Iterable, Mapping
import functools
import hashlib
import json
import pathlib
from typing import Any
import zipfile
import zlib

import jax
import numpy as np

from launch import benchmark
import nes_jax
from nes_jax import pretrained
from nes_jax.games.files import replacing

Arrays = dict[str, np.ndarray]

_PACKAGE = pathlib.Path(nes_jax.__file__).parent
# Sources on which an answer of the exact engine does not depend, and one of a network does.
_LEARNED = ("network", "learner.py", "pretrained.py")


class Parts:
  """The parts in one directory."""

  def __init__(self, directory: pathlib.Path):
    """Makes the directory."""
    self.directory = directory
    directory.mkdir(parents=True, exist_ok=True)

  def get(
      self, name: str, key: Mapping[str, Any], compute: Callable[[], Mapping[str, Any]]
  ) -> Arrays:
    """The arrays of a part, computed if they are not there, or not whole.

    Args:
      name: of the part, for people; part of the file's name.
      key: what determines the part, JSON.
      compute: -> arrays by name; "key" is taken.
    """
    text = json.dumps(dict(key), sort_keys=True)
    path = self.directory / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.npz"
    found = _read(path, text)
    if found is not None:
      return found
    arrays = {k: np.asarray(v) for k, v in compute().items()}
    with replacing(path) as file:
      np.savez_compressed(file, key=np.array(text), **arrays)
    return arrays


def _read(path: pathlib.Path, text: str) -> Arrays | None:
  """None if the file is missing, damaged, or has another key."""
  try:
    with np.load(path, allow_pickle=False) as file:
      arrays = {name: file[name] for name in file.files}
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
    return None
  return arrays if str(arrays.pop("key", "")) == text else None


# What keys are made of.


@functools.cache
def machine() -> str:
  """Processor and device: times are of these."""
  facts = benchmark.hardware()
  return f"{facts['cpu']}, {facts['cores']} cores, {facts['devices']} {facts['device']}"


@functools.cache
def sources(learned: bool = False) -> str:
  """Fingerprint of the code of `nes_jax`: of games and exact engine, or of networks besides."""
  files = sorted(_PACKAGE.rglob("*.py"))
  if not learned:
    files = [path for path in files if path.relative_to(_PACKAGE).parts[0] not in _LEARNED]
  return _digest(path.read_bytes() for path in files)


def network(chosen: pretrained.Pretrained) -> str:
  """Name and fingerprint of a network."""
  leaves = map(np.asarray, jax.tree.leaves(chosen.params))
  return f"{chosen.name} {_digest(x.tobytes() for x in leaves)}"


def _digest(chunks: Iterable[bytes]) -> str:
  digest = hashlib.sha256()
  for chunk in chunks:
    digest.update(chunk)
  return digest.hexdigest()[:16]
