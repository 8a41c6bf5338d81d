"""Fingerprints of the machine, the code and networks, for the keys of the cache."""

from collections.abc import Iterable
import functools
import hashlib
import pathlib

import jax
import numpy as np

from launch.runtime.machine import hardware
import nes_jax
from nes_jax import pretrained

_PACKAGE = pathlib.Path(nes_jax.__file__).parent
# Suffixes of the files with code.
_SOURCES = (".py", ".cpp", ".cu", ".h")
# Modules and packages of nes_jax on which only answers of networks depend.
_LEARNED = ("network", "training", "pretrained.py")


@functools.cache
def machine() -> str:
  """Processor and devices, on which times depend."""
  facts = hardware()
  return f"{facts['cpu']}, {facts['cores']} cores, {facts['devices']} {facts['device']}"


@functools.cache
def sources(learned: bool = False) -> str:
  """A fingerprint of the code of `nes_jax`.

  Args:
    learned: whether the code of networks and their training counts, too. Answers of the exact
      engine do not depend on it.
  """
  files = sorted(path for path in _PACKAGE.rglob("*") if path.suffix in _SOURCES)
  if not learned:
    files = [path for path in files if path.relative_to(_PACKAGE).parts[0] not in _LEARNED]
  return _digest(path.read_bytes() for path in files)


def network(trained: pretrained.Pretrained) -> str:
  """Name and fingerprint of a network."""
  leaves = map(np.asarray, jax.tree.leaves(trained.params))
  return f"{trained.name} {_digest(x.tobytes() for x in leaves)}"


def _digest(chunks: Iterable[bytes]) -> str:
  digest = hashlib.sha256()
  for chunk in chunks:
    digest.update(chunk)
  return digest.hexdigest()[:16]
