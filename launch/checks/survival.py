"""Kills a program at random moments, again and again, and compares its results.

  python -m launch.checks.survival --program=nes_train --kills=50 --out=out/survival

A small job of the program runs once without interruption, and then in another directory with
interruptions. There each start is killed (SIGKILL) at a moment drawn uniformly from the length of
the whole job, and the same command is given again. Jobs follow one another until the number of
kills is reached. Every job that came to its end must have the same arrays, bit for bit. The program
exits with 1 if a job has not, or if a start failed.
"""

from collections.abc import Callable, Sequence
import dataclasses
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time
from typing import IO, Any

import numpy as np

from launch.runtime import checkpoint, flags, program
from launch.runtime.flags import UsageError
from launch.runtime.program import Failed
from nes_jax.games import files

# Flags of a small job of each program, which saves often.
JOBS = {
    "nes_train": (
        "--shapes=3x3,4x4", "--batch=16", "--payoff_channels=8", "--dual_channel=8",
        "--dual_channels=8", "--updates=1200", "--report_every=50", "--save_every=100",
        "--eval_games=16",
    ),
    "calsheq_train": (
        "--experiment=linear_quadratic", "--seeds=2", "--stages=300", "--episodes=8",
        "--report_every=5", "--save_every=10", "--judge_episodes=4", "--response_updates=2",
        "--response_episodes=8", "--hidden=8", "--calibrator_hidden=8", "--nofigures",
    ),
    "nes_solve": ("--games={out}/games.npz", "--part_size=16"),
}
# Shape of the payoffs in the job of nes_solve.
_GAMES = (4096, 2, 4, 4)
# Arrays that are not results: they tell how a file was made.
_NOT_COMPARED = ("meta", "metadata", "schema")


@dataclasses.dataclass(frozen=True)
class Job:
  """The small job of a program. Its methods take the name of one execution of the job."""

  program: str
  out: pathlib.Path  # the directory of all executions

  def command(self, name: str) -> list[str]:
    """The command that does the job, or continues it, in a directory or file of its own."""
    options = [option.format(out=self.out) for option in JOBS[self.program]]
    return [
        sys.executable, "-m", f"launch.{self.program}", *options, f"--out={self._result(name)}"
    ]

  def answered(self, name: str) -> bool:
    """Whether nes_solve has written its answers, which it never replaces."""
    return self.program == "nes_solve" and self._result(name).exists()

  def remove(self, name: str) -> None:
    """Removes the results."""
    path = self._result(name)
    if path.is_dir():
      shutil.rmtree(path)
    else:
      path.unlink()

  def _result(self, name: str) -> pathlib.Path:
    return self.out / (f"{name}.npz" if self.program == "nes_solve" else name)

  def arrays(self, name: str) -> dict[str, np.ndarray]:
    """The results: answers, or the state of the last checkpoint."""
    path = self._result(name)
    if self.program != "nes_solve":
      last = checkpoint.latest(path)
      assert last is not None, f"{path} has no checkpoint"
      path = last
    with np.load(path, allow_pickle=False) as archive:
      return {x: archive[x] for x in archive.files if x not in _NOT_COMPARED}


def _start(job: Job, name: str, log: IO[str]) -> subprocess.Popen:
  """Starts an execution of a job, with its output in `log`."""
  # With the cache a start compiles nothing, so that more kills hit the work itself.
  environment = os.environ | {
      "JAX_COMPILATION_CACHE_DIR": str(job.out / "compiled"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  return subprocess.Popen(job.command(name), env=environment, stdout=log, stderr=log)


def differing(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> list[str]:
  """The names of arrays that differ in a bit, in type or in shape, or that one side lacks."""

  def content(arrays: dict[str, np.ndarray], name: str) -> Any:
    array = arrays.get(name)
    return None if array is None else (array.dtype, array.shape, array.tobytes())

  names = one.keys() | two.keys()
  return sorted(name for name in names if content(one, name) != content(two, name))


@dataclasses.dataclass(frozen=True)
class Run:
  """A run of this program."""

  out: pathlib.Path = dataclasses.field(
      metadata={"help": "Directory of the jobs, new or empty.", "metavar": "DIRECTORY"}
  )
  program: str = dataclasses.field(
      default="nes_train", metadata={"help": "Program to kill.", "choices": tuple(JOBS)}
  )
  kills: int = dataclasses.field(default=50, metadata={"help": "Number of kills."})
  seed: int = dataclasses.field(default=0, metadata={"help": "Seed of the moments of the kills."})

  def __post_init__(self):
    flags.at_least_one(self, "kills")

  @property
  def job(self) -> Job:
    """The job of the program."""
    return Job(self.program, self.out)


_SECTION = flags.Section("The test", Run)


class _Executions:
  """Executions of a job, and the number of kills so far."""

  def __init__(self, job: Job, log: IO[str]):
    self.kills = 0
    self._job, self._log = job, log

  def ended(self, name: str, seconds: float | None = None) -> bool:
    """Starts the job and kills it after these seconds. Returns whether it ended by itself before.

    Raises:
      Failed: the job ended with an error.
    """
    process = _start(self._job, name, self._log)
    try:
      code = process.wait(seconds)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
      return False
    if code:
      raise Failed(
          f"{self._job.program} exited with {code} after {self.kills} kills: see {self._log.name}"
      )
    return True


def survive(
    run: Run, *, check_stop: Callable[[], None] = lambda: None, say: Callable[[str], Any] = print
) -> dict[str, float]:
  """Kills and compares.

  Returns:
    "kills"; "jobs", the number of jobs that came to their end between kills; "different", the
    number of these whose results differ.

  Raises:
    UsageError: the directory is not empty.
    Failed: a start that was not killed failed, or a job differs; the message names the log.
  """
  job = run.job
  if job.out.exists() and any(job.out.iterdir()):
    raise UsageError(f"--out={job.out} is not empty: give a new directory")
  job.out.mkdir(parents=True, exist_ok=True)
  if job.program == "nes_solve":
    files.write_npz(job.out / "games.npz", np.random.default_rng(0).normal(size=_GAMES))
  rng = random.Random(run.seed)
  path = job.out / "log.txt"
  jobs, different = 0, 0
  with path.open("w") as log:
    executions = _Executions(job, log)
    # The first execution fills the cache of compiled programs; the length of the second counts.
    for name in ("compiles", "whole"):
      began = time.monotonic()
      executions.ended(name)
      length = time.monotonic() - began
    expected = job.arrays("whole")
    say(f"{job.program}: {length:.1f} s without interruption")
    while not jobs or executions.kills < run.kills:
      name = f"killed-{jobs}"
      while not job.answered(name):
        if executions.ended(name, rng.uniform(0, length) if executions.kills < run.kills else None):
          break
        executions.kills += 1
        check_stop()
      jobs += 1
      differs = bool(differing(expected, job.arrays(name)))
      different += differs
      say(
          f"{executions.kills} kills, {jobs} jobs at their end, the last"
          f" {'differs' if differs else 'is equal'}"
      )
      if not differs and executions.kills < run.kills:
        job.remove(name)
  if different:
    raise Failed(f"{different} of {jobs} jobs differ from the uninterrupted one: see {path}")
  return {"kills": executions.kills, "jobs": jobs, "different": different}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit code."""
  return program.main(
      argv, name="survival", doc=__doc__, define=[_SECTION],
      prepare=lambda values: flags.build(values, _SECTION), work=survive,
  )


if __name__ == "__main__":
  sys.exit(main())
