"""Files that are written whole or not at all."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import secrets
from typing import IO

from nes_jax.games.sources import GameFileError, Path, translate_errors


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[IO[bytes]]:
  """Opens a temporary file that takes the name `path` when the block ends.

  A file of that name is replaced in one step. If the block raises, the file of that name stays as
  it was, and the temporary file is removed.
  """
  path = pathlib.Path(path)
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
def replacing_game_file(path: Path, suffix: str) -> Iterator[IO[bytes]]:
  """`replacing` for a game file: a wrong suffix or a failure to write is a GameFileError."""
  target = pathlib.Path(os.fspath(path))
  if target.suffix.lower() != suffix:
    raise GameFileError(path, f"suffix {target.suffix!r}", f"give a name that ends in {suffix}")
  advice = "check the directory, its permissions and space"
  with translate_errors(path, "cannot be written", advice), replacing(target) as file:
    yield file
