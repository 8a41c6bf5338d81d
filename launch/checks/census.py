"""Measures how the exact engine does on games that are not generic: those with ties and structure.

  python -m launch.checks.census --out=out/census

For each kind of `nes_jax.games.structured` that exists for so many players, each size of noise and
each concept, the program solves a batch of games in one call. It then judges the answers without
the engine: from the joints and duals, it computes the residuals and gaps again in float64.

Writes into --out:

  census.csv  one row for each kind, noise and concept, written as soon as it is known
  census.md   the rows of this run as a table, at the end
  left.npz    games that did not converge, or whose residual computed again is too large, in an
              array KIND_NOISE_CONCEPT for each row; runs with other sizes need another --out

The same command, given again, continues: rows that are there are not computed again, even if the
engine has changed since. To measure anew, give a new directory.
"""

from collections.abc import Iterable, Sequence
import csv
import dataclasses
import functools
import io
import math
import pathlib
import sys
import time

from absl import flags
import jax
from jax import experimental
import jax.numpy as jnp
import numpy as np

from launch.runtime import program, progress
from launch.runtime.program import UsageError
import nes_jax
from nes_jax import invariance, metrics
from nes_jax.games import structured
from nes_jax.games.files import replacing
from nes_jax.types import CONCEPTS, Concept, Solution

TOLERANCES = {"float32": 1e-4, "float64": 1e-8}
# The first columns are the settings, which say whether a row is there already.
SETTINGS = ("kind", "noise", "concept", "games", "strategies", "players", "precision")
COLUMNS = (
    *SETTINGS, "converged", "recomputed", "repeated", "residual", "gap", "steps_mean", "steps_max",
    "seconds",
)
_EXPLANATION = """
`recomputed` is the number of games whose residual, computed again in float64, is within the
tolerance. `residual` is the worst of these residuals, and `gap` is the worst gap, relative to the
range of the game's payoffs. `seconds` leaves out compilation.
"""

Row = dict[str, str]  # by column, as in the file


@dataclasses.dataclass(frozen=True)
class Run:
  """A run of this program."""

  out: pathlib.Path
  kinds: Sequence[str] = structured.NAMES
  noises: Sequence[float] = (0.0, 1e-8, 1e-6, 1e-4)
  games: int = 1000
  strategies: int = 5
  players: int = 2
  precision: str = "float64"
  concepts: Sequence[Concept] = CONCEPTS


def recompute(
    payoffs: np.ndarray, solution: Solution, concept: Concept
) -> tuple[np.ndarray, np.ndarray]:
  """Residuals [B] and, in units of the payoffs, gaps [B] of answers of maximum entropy.

  Args:
    payoffs: [B, N, A1, ..., AN].
    solution: what `nes_jax.solve` returned for them.
    concept: "cce" or "ce".
  """
  wide = functools.partial(np.asarray, dtype=np.float64)
  # JAX versions before 0.8 only have the experimental one.
  enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else experimental.enable_x64
  with enable_x64(True):
    given = (payoffs, solution.joint, solution.epsilon, solution.duals)
    return jax.tree.map(np.asarray, _judge(*jax.tree.map(wide, given), concept))


@functools.partial(jax.jit, static_argnames="concept")
def _judge(payoffs, joint, epsilon, duals, concept):
  def one(payoffs, joint, epsilon, duals):
    problem, scale = nes_jax.selection.problem(payoffs, nes_jax.Selection())
    # A player with scale 0 has no duals, whatever was returned.
    duals = tuple(jnp.where(s > 0, block * s, 0) for block, s in zip(duals, scale))
    normalised = invariance.normalise_epsilon(epsilon, scale)
    residual = metrics.residual(problem, joint, normalised, duals, concept)
    return residual, metrics.gap(payoffs, joint, epsilon, concept)

  return jax.vmap(one)(payoffs, joint, epsilon, duals)


def draw(run: Run, kind: str, noise: float) -> np.ndarray:
  """The games of a row. All rows of a kind have the same games, but for the size of the noise."""
  rng = np.random.default_rng(0)
  payoffs = structured.sample(rng, kind, run.games, run.strategies, run.players)
  return structured.with_noise(rng, payoffs, noise)


def measure(run: Run, payoffs: np.ndarray, concept: Concept) -> tuple[Row, np.ndarray]:
  """Solves games -> the columns that are not settings, and which games are left [B]."""
  began = time.monotonic()
  with progress.CompileClock() as clock:
    solution = nes_jax.solve(
        payoffs, concept=concept, precision=run.precision, invalid="raise", batched=True
    )
    solution = jax.tree.map(np.asarray, solution)
  seconds = max(0.0, time.monotonic() - began - clock.seconds())
  residual, gap = recompute(payoffs, solution, concept)
  width = np.ptp(payoffs.reshape(len(payoffs), -1), axis=1)
  right = residual <= TOLERANCES[run.precision]
  row = {
      "converged": str(solution.converged.sum()),
      "recomputed": str(right.sum()),
      "repeated": str(solution.repeated.sum()),
      "residual": f"{residual.max():.2g}",
      "gap": f"{(gap / np.where(width > 0, width, 1)).max():.2g}",
      "steps_mean": f"{solution.iterations.mean():.1f}",
      "steps_max": str(solution.iterations.max()),
      "seconds": f"{seconds:.2f}",
  }
  return row, ~(solution.converged & right)


def take(run: Run, *, check_stop=lambda: None, say=print) -> dict[str, float]:
  """Takes the census.

  Returns:
    How many rows and games it has, and how many games have a residual that is too large.

  Raises:
    UsageError: the directory has the rows of another version of this program.
  """
  run.out.mkdir(parents=True, exist_ok=True)
  rows = _read(run.out / "census.csv")
  wanted = []
  for kind in run.kinds:
    try:
      structured.sample(np.random.default_rng(0), kind, 1, run.strategies, run.players)
    except ValueError as error:
      say(f"skipped: {error}")
    else:
      wanted += [(kind, noise, concept) for noise in run.noises for concept in run.concepts]
  sizes = (run.games, run.strategies, run.players, run.precision)
  table = []
  with progress.bar(len(wanted), unit="row") as bar:
    for kind, noise, concept in wanted:
      check_stop()
      settings = tuple(map(str, (kind, noise, concept, *sizes)))
      if settings not in rows:
        payoffs = draw(run, kind, noise)
        row, left = measure(run, payoffs, concept)
        # The games come first: after a kill between the two, both are written again.
        _keep(run.out / "left.npz", f"{kind}_{noise}_{concept}", payoffs[left])
        rows[settings] = dict(zip(SETTINGS, settings)) | row
        _write_csv(run.out / "census.csv", rows.values())
      table.append(rows[settings])
      bar.update(1)
  lines = [COLUMNS, ["---"] * len(COLUMNS), *(row.values() for row in table)]
  text = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
  (run.out / "census.md").write_text(f"# Games that are not generic\n{_EXPLANATION}\n{text}")
  total, right = (sum(int(row[name]) for row in table) for name in ("games", "recomputed"))
  return {"rows": len(table), "games": total, "left": total - right}


def _read(path: pathlib.Path) -> dict[tuple[str, ...], Row]:
  """The rows of earlier runs by their settings."""
  if not path.exists():
    return {}
  with path.open(newline="") as file:
    reader = csv.DictReader(file)
    if tuple(reader.fieldnames or ()) != COLUMNS:
      raise UsageError(f"{path} has other columns than this version writes: give another --out")
    return {tuple(row[name] for name in SETTINGS): row for row in reader}


def _keep(path: pathlib.Path, name: str, games: np.ndarray) -> None:
  """Puts the games that are left of a row into the archive, in place of those of an earlier run."""
  arrays = {}
  if path.exists():
    with np.load(path, allow_pickle=False) as archive:
      arrays = dict(archive)
  if arrays.pop(name, None) is None and not len(games):
    return
  with replacing(path) as file:
    np.savez_compressed(file, **arrays, **({name: games} if len(games) else {}))


def _write_csv(path: pathlib.Path, rows: Iterable[Row]) -> None:
  text = io.StringIO()
  writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  with replacing(path) as file:
    file.write(text.getvalue().encode())


def _define_flags(values: flags.FlagValues) -> None:
  own = {"flag_values": values}
  flags.DEFINE_string("out", "out/census", "directory to write to", **own)
  flags.DEFINE_list("kinds", list(structured.NAMES), "kinds of games", **own)
  noises = [str(noise) for noise in Run.noises]
  flags.DEFINE_list("noises", noises, "standard deviations, in units of the range", **own)
  flags.DEFINE_integer("games", Run.games, "games of each row", **own)
  flags.DEFINE_integer("strategies", Run.strategies, "strategies of each player", **own)
  flags.DEFINE_integer("players", Run.players, "players of each game", **own)
  flags.DEFINE_enum("precision", Run.precision, list(TOLERANCES), "of the engine", **own)
  flags.DEFINE_list("concepts", list(CONCEPTS), "concepts", **own)


def _run(v: flags.FlagValues) -> Run:
  program.at_least_one(v, "games")
  for name, known in (("kinds", structured.NAMES), ("concepts", CONCEPTS)):
    for item in getattr(v, name):
      if item not in known:
        raise UsageError(f"--{name}: unknown {item!r}; use some of {', '.join(known)}")
  if min(v.strategies, v.players) < 2:
    raise UsageError("--strategies and --players must be at least 2")
  noises = tuple(map(float, v.noises))
  if not all(0 <= noise < math.inf for noise in noises):
    raise UsageError("--noises must be finite, and 0 or more")
  names = ("kinds", "games", "strategies", "players", "precision", "concepts")
  return Run(pathlib.Path(v.out), noises=noises, **{name: getattr(v, name) for name in names})


def main(argv: Sequence[str]) -> int:
  """The program; returns its exit code."""
  return program.main(
      argv, name="census", doc=__doc__, define=_define_flags, prepare=_run, work=take
  )


if __name__ == "__main__":
  sys.exit(main(sys.argv))
