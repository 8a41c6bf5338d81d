"""Parts of a run of `launch.nes_solve`: their size, their identity, and the place for them."""

from collections.abc import Mapping
import dataclasses
import math
import pathlib
import shutil

import jax

from launch.runtime import progress, store
from launch.runtime.flags import UsageError
from launch.solving.answers import answer_schema
from launch.solving.settings import Config
from nes_jax.games import files

# Largest number of games of a part.
_MAX_PART = 65536
# Number of games that are worth a device of their own: every device gets a part if there are so
# many games for each.
_WORTH_A_DEVICE = 1024
# Largest number of bytes of the payoffs and answers of a part.
_PART_BYTES = 2**28
# Largest number of floating-point operations of a Newton step on all games of a part, by platform:
# a part takes seconds.
_PART_WORK = {"cpu": 2**33}
# The same on platforms that `_PART_WORK` does not name.
_ACCELERATOR_PART_WORK = 2**40


def part_size(config: Config, source: files.Source, directory: pathlib.Path) -> int:
  """The number of games of a part.

  It is the number that is asked for, or that of the parts in `directory`, or else one for parts of
  equal size that take seconds and fit in memory.
  """
  if config.part_size is not None:
    return min(config.part_size, source.num_games)
  manifest = store.read_manifest(directory)
  if manifest is not None and manifest["task"].get("--part_size", "").isdecimal():
    return int(manifest["task"]["--part_size"])
  size = math.prod(source.shape[1:])
  duals = sum(count ** (2 if config.concept == "ce" else 1) for count in source.shape[1:])
  newton = min(size, duals) if config.concept == "ce" else duals
  schema = answer_schema(source.shape, config)
  work = _PART_WORK.get(jax.default_backend(), _ACCELERATOR_PART_WORK)
  most = min(
      _MAX_PART,
      _PART_BYTES // (8 * math.prod(source.shape) + store.row_bytes(schema)),
      work // newton**3,
  )
  num_parts = max(
      math.ceil(source.num_games / max(most, 1)),
      min(jax.device_count(), math.ceil(source.num_games / _WORTH_A_DEVICE)),
  )
  return math.ceil(source.num_games / num_parts)


def task_of(config: Config, source: files.Source, part_size: int) -> dict[str, str]:
  """All that decides the answers, as text, under the names of the flags."""

  def identity(path: str) -> str:
    location = pathlib.Path(path).absolute()
    inside = [location]
    if location.is_dir():
      assert source.names is not None, "the games of a directory have names"
      inside = [location / name for name in source.names]
    return f"{location} (fingerprint {store.fingerprint(inside)})"

  task = {"--games": config.games}
  if not config.games.startswith(files.OPENSPIEL_PREFIX):
    task["--games"] = identity(config.games)
  task["number of games"] = str(source.num_games)
  task["shape of a game"] = str(list(source.shape))
  for field in dataclasses.fields(Config):
    value = getattr(config, field.name)
    if field.name not in ("games", "out", "overwrite", "part_size") and value is not None:
      is_path = field.name in ("target", "welfare") and value != "sum"
      task[f"--{field.name}"] = identity(value) if is_path else str(value)
  task["--part_size"] = str(part_size)
  return task


def open_store(
    config: Config, parts: store.Parts, task: Mapping[str, str], out: pathlib.Path, num_games: int
) -> None:
  """Opens the store of the parts, and checks what would stop the run at its end.

  Args:
    config: the options.
    parts: the parts, which are not open yet.
    task: description of the computation, of `task_of`.
    out: the file of all answers.
    num_games: number of all games.

  Raises:
    UsageError: the directory cannot be written, or has too little space for the answers.
    store.StoreError: the directory holds parts of another run, or another run works in it.
  """
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
    parts.open(task, progress.versions() + f", {jax.default_backend()}")
  except OSError as error:
    raise UsageError(
        f"--out={config.out}: cannot write in {error.filename or out.parent} ({error.strerror}):"
        " check its permissions and space, or choose another --out"
    ) from None
  # The parts stay on disk until the merge is complete, so both need space.
  done = sum(stop - start for k, (start, stop) in enumerate(parts.bounds) if parts.path(k).exists())
  needed = (2 * num_games - done) * store.row_bytes(parts.schema)
  free = shutil.disk_usage(out.parent).free
  if needed > free:
    raise UsageError(
        f"--out={config.out}: the answers and their parts need {_size(needed)} and {out.parent}"
        f" has {_size(free)} free: make room, or choose another --out"
    )


def _size(number: int) -> str:
  """A number of bytes for people."""
  return f"{number / 1e9:.3g} GB" if number >= 1e9 else f"{number / 1e6:.3g} MB"
