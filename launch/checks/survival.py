"""Kills a program at random moments, again and again, and compares what it leaves.

  python -m launch.checks.survival --program=nes_train --kills=50 --out=out/survival

Runs a small job of the program once without interruption, then the same job in another directory:
each start is killed (SIGKILL) at a moment drawn uniformly from the length of the whole job, and the
same command is given again, until so many kills have hit. Every job that came to its end must
have left the same arrays, bit for bit. Exits with 1 if one has not, or if a start failed.
"""

from collections.abc import Sequence
import dataclasses
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

from absl import flags
import numpy as np

from launch.runtime import checkpoint, program
from launch.runtime.program import Failed, UsageError
from nes_jax.games import files

# Small jobs that save often.
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
_GAMES = (4096, 2, 4, 4)  # of nes_solve
# Of an answer file, what tells how it was made.
_NOT_COMPARED = ("meta",)


@dataclasses.dataclass(frozen=True)
class Job:
  """A program's small job."""

  program: str
  out: pathlib.Path  # of all that is written here

  def command(self, name: str) -> list[str]:
    """That does the job, or goes on with it, in a directory or file of its own."""
    options = [option.format(out=self.out) for option in JOBS[self.program]]
    return [
        sys.executable, "-m", f"launch.{self.program}", *options, f"--out={self._result(name)}"
    ]

  def answered(self, name: str) -> bool:
    """Whether a kill came after the answers were written: nes_solve never replaces them."""
    return self.program == "nes_solve" and self._result(name).exists()

  def remove(self, name: str) -> None:
    path = self._result(name)
    if path.is_dir():
      shutil.rmtree(path)
    else:
      path.unlink()

  def _result(self, name: str) -> pathlib.Path:
    return self.out / (f"{name}.npz" if self.program == "nes_solve" else name)

  def arrays(self, name: str) -> dict[str, np.ndarray]:
    """What the job has left: answers, or the state of the last checkpoint."""
    path = self._result(name)
    if self.program != "nes_solve":
      path = checkpoint.latest(path)
    with np.load(path, allow_pickle=False) as archive:
      wanted = [x for x in archive.files if x not in (*_NOT_COMPARED, "metadata", "schema")]
      return {x: archive[x] for x in wanted}


def _start(job: Job, name: str, log) -> subprocess.Popen:
  # Programs that are compiled already leave more of a life for work.
  environment = os.environ | {
      "JAX_COMPILATION_CACHE_DIR": str(job.out / "compiled"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  return subprocess.Popen(job.command(name), env=environment, stdout=log, stderr=log)


def differing(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> list[str]:
  """Names of arrays that are not the same bits, or are missing in one."""
  same = lambda x: x in one and x in two and (
      (one[x].dtype, one[x].shape, one[x].tobytes())
      == (two[x].dtype, two[x].shape, two[x].tobytes())
  )
  return sorted(x for x in one.keys() | two.keys() if not same(x))


@dataclasses.dataclass(frozen=True)
class Run:
  """A run of this program."""

  job: Job
  kills: int = 50
  seed: int = 0


def survive(run: Run, *, check_stop=lambda: None, say=print) -> dict[str, float]:
  """Kills and compares.

  Returns:
    kills, jobs that came to their end between them, and how many of those differ.

  Raises:
    UsageError: the directory is not empty.
    Failed: a start that was not killed failed, or a job differs; the log is named.
  """
  job = run.job
  if job.out.exists() and any(job.out.iterdir()):
    raise UsageError(f"--out={job.out} is not empty: give a new directory")
  job.out.mkdir(parents=True, exist_ok=True)
  if job.program == "nes_solve":
    files.write_npz(job.out / "games.npz", np.random.default_rng(0).normal(size=_GAMES))
  rng = random.Random(run.seed)
  path = job.out / "log.txt"

  def finished(name: str, log, seconds: float | None = None) -> bool:
    """Starts the job; whether it ended by itself before these seconds."""
    process = _start(job, name, log)
    try:
      code = process.wait(seconds)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
      return False
    if code:
      raise Failed(f"{job.program} exited with {code} after {kills} kills: see {path}")
    return True

  kills, jobs, different = 0, 0, 0
  with path.open("w") as log:
    for name in ("compiles", "whole"):  # the second's length is that of a start from the cache
      began = time.monotonic()
      finished(name, log)
      length = time.monotonic() - began
    expected = job.arrays("whole")
    say(f"{job.program}: {length:.1f} s without interruption")
    while True:
      name = f"killed-{jobs}"
      while not job.answered(name):
        if finished(name, log, rng.uniform(0, length) if kills < run.kills else None):
          break
        kills += 1
        check_stop()
      jobs += 1
      names = differing(expected, job.arrays(name))
      different += bool(names)
      say(f"{kills} kills, {jobs} jobs at their end, the last {'differs' if names else 'is equal'}")
      if kills >= run.kills:
        break
      if not names:
        job.remove(name)
  if different:
    raise Failed(f"{different} of {jobs} jobs differ from the uninterrupted one: see {path}")
  return {"kills": kills, "jobs": jobs, "different": different}


def _define_flags(values: flags.FlagValues) -> None:
  own = {"flag_values": values}
  flags.DEFINE_enum("program", "nes_train", list(JOBS), "which to kill", **own)
  flags.DEFINE_integer("kills", Run.kills, "how often", **own)
  flags.DEFINE_integer("seed", Run.seed, "of the moments", **own)
  flags.DEFINE_string("out", None, "directory, new or empty", **own)


def _run(v: flags.FlagValues) -> Run:
  if v.out is None:
    raise UsageError("--out=DIRECTORY is needed")
  program.at_least_one(v, "kills")
  return Run(Job(v.program, pathlib.Path(v.out)), v.kills, v.seed)


def main(argv: Sequence[str]) -> int:
  """The program; returns its exit code."""
  return program.main(
      argv, name="survival", doc=__doc__, define=_define_flags, prepare=_run, work=survive
  )


if __name__ == "__main__":
  sys.exit(main(sys.argv))
