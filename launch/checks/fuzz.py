"""Gives damaged files to every reader, and checks that it answers or raises its documented error.

  python -m launch.checks.fuzz --seconds=120

The program begins with intact files, one or more of each kind. It cuts, flips, repeats and
stretches them at random: their bytes and, for archives, also the content of their members, whose
checksums it then corrects. The first reader that raises another error or takes too long ends the
program with exit code 1; its file is kept.
"""

from collections.abc import Callable, Sequence
import dataclasses
import io
import pathlib
import random
import sys
import time
from typing import Any
import zipfile

import jax
import jax.numpy as jnp
import numpy as np

from launch.runtime import checkpoint, flags, program
from launch.runtime.program import Failed
from nes_jax import network, pretrained, training
from nes_jax.games import files

# Seconds that reading one small file may take.
_SLOW = 30.0
# Numbers that take the place of others in text.
_NUMBERS = (b"-1", b"0", b"1e400", b"99999999999999999999", b"1/0", b"nan", b"0x1f", b"2147483648")


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of files."""

  suffix: str
  valid: tuple[bytes, ...]  # contents of intact files
  read: Callable[[pathlib.Path], object]
  documented: type[Exception]  # the error that the reader documents


def kinds(directory: pathlib.Path) -> dict[str, Kind]:
  """All kinds of files, by name. Intact files are written into the directory, and removed again."""
  rng = np.random.default_rng(0)

  def written(suffix: str, *writers: Callable[[pathlib.Path], None]) -> tuple[bytes, ...]:
    contents = []
    for write in writers:
      path = directory / f"valid{suffix}"
      write(path)
      contents.append(path.read_bytes())
      path.unlink()
    return tuple(contents)

  config = training.Config(
      network.Config("cce", payoff_channels=(2,), dual_channel=2, dual_channels=(2,)),
      shapes=((2, 2),),
      batches=(4,),
  )
  params = jax.jit(training.init, static_argnums=1)(jax.random.key(0), config).params
  state = {"params": jnp.arange(6.0).reshape(2, 3), "key": jax.random.key(0), "step": 3}

  def saved(path: pathlib.Path) -> None:
    checkpoint.save(directory / "saved", state, step=7, config={"a": [1, 2.5]}).rename(path)

  def restored(path: pathlib.Path) -> None:
    checkpoint.load_metadata(path)
    checkpoint.restore(path, state)

  outcomes = (
      b'NFG 1 R "" { "a" "b" } { { "1" "2" } { "x" } } "" { { "" 1, 2 } { "" 3.5, 1/2 } } 1 2'
  )
  return {
      "games.npz": Kind(
          ".npz",
          written(
              ".npz",
              lambda path: files.write_npz(path, rng.normal(size=(5, 2, 3, 4))),
              lambda path: np.savez_compressed(path, payoffs=rng.integers(-9, 9, (2, 2, 2, 2))),
          ),
          files.read,
          files.GameFileError,
      ),
      "games.nfg": Kind(
          ".nfg",
          written(".nfg", lambda path: files.write_nfg(path, rng.normal(size=(3, 2, 2, 2)), "t"))
          + (outcomes,),
          files.read,
          files.GameFileError,
      ),
      "checkpoint": Kind(".npz", written(".npz", saved), restored, checkpoint.CheckpointError),
      "network": Kind(
          ".npz",
          written(".npz", lambda path: pretrained.save(path, params, config, {"date": "today"})),
          pretrained.load,
          ValueError,
      ),
  }


def damaged(content: bytes, rng: random.Random) -> bytes:
  """The bytes of a file after a few random changes."""
  data = bytearray(content)
  for _ in range(rng.choice((1, 1, 2, 8))):
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 2, 8, 100)))
    change = rng.randrange(6)
    if change == 0:
      data[at:end] = rng.randbytes(end - at)
    elif change == 1:
      del data[at:end]
    elif change == 2:
      data[at:at] = data[at:end] * rng.choice((1, 2, 50))
    elif change == 3:
      data[at:at] = rng.choice(_NUMBERS)
    elif change == 4 and at < len(data):
      data[at] ^= 1 << rng.randrange(8)
    elif change == 5:
      del data[at:]
  return bytes(data)


def damaged_within(content: bytes, rng: random.Random) -> bytes:
  """An archive in which one member is damaged, missing, renamed, or a copy of another one."""
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    members = [(info.filename, archive.read(info)) for info in archive.infolist()]
  which = rng.randrange(len(members))
  name, data = members[which]
  members[which : which + 1] = rng.choice((
      [(name, damaged(data, rng))],
      [(name, damaged(data[:128], rng) + data[128:])],  # the header of a NumPy array
      [],
      [(damaged(name.encode(), rng).decode("latin1").replace("\0", "") or "x", data)],
      [(name, members[rng.randrange(len(members))][1])],
  ))
  result = io.BytesIO()
  with zipfile.ZipFile(result, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as out:
    for name, data in members:
      out.writestr(name, data)
  return result.getvalue()


@dataclasses.dataclass(frozen=True)
class Run:
  """A run of this program."""

  out: pathlib.Path = dataclasses.field(
      default=pathlib.Path("out/fuzz"),
      metadata={"help": "Directory of the files.", "metavar": "DIRECTORY"},
  )
  seconds: float = dataclasses.field(
      default=120.0, metadata={"help": "Seconds after which the program ends."}
  )
  seed: int = dataclasses.field(default=0, metadata={"help": "Seed of the damage."})

  def __post_init__(self):
    if not self.seconds > 0:
      raise ValueError(f"seconds={self.seconds} must be positive")


_SECTION = flags.Section("The test", Run)


def fuzz(
    run: Run, *, check_stop: Callable[[], None] = lambda: None, say: Callable[[str], Any] = print
) -> dict[str, float]:
  """Reads damaged files until the time is over.

  Returns:
    "files", the number of files read; "refused", the fraction that was refused.

  Raises:
    Failed: a reader failed; the message names its file.
  """
  run.out.mkdir(parents=True, exist_ok=True)
  rng = random.Random(run.seed)
  known = kinds(run.out)
  read = dict.fromkeys(known, 0)
  refused = dict.fromkeys(known, 0)
  end = time.monotonic() + run.seconds
  while time.monotonic() < end:
    check_stop()
    for name, kind in known.items():
      content = rng.choice(kind.valid)
      archive = kind.suffix == ".npz" and rng.random() < 0.5
      path = run.out / f"damaged{kind.suffix}"
      path.write_bytes((damaged_within if archive else damaged)(content, rng))
      began = time.monotonic()
      try:
        kind.read(path)
      except kind.documented:
        refused[name] += 1
      except Exception as error:
        raise Failed(f"{name}: {type(error).__name__}: {error}; {path}") from error
      if time.monotonic() - began > _SLOW:
        raise Failed(f"{name}: took {time.monotonic() - began:.0f} s; {path}")
      read[name] += 1
      path.unlink()
  say(", ".join(f"{name}: {refused[name]} of {read[name]} refused" for name in known))
  return {"files": sum(read.values()), "refused": sum(refused.values()) / sum(read.values())}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit code."""
  return program.main(
      argv, name="fuzz", doc=__doc__, define=[_SECTION],
      prepare=lambda values: flags.build(values, _SECTION), work=fuzz,
  )


if __name__ == "__main__":
  sys.exit(main())
