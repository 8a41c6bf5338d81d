"""Measures the exact engine on games that are not generic, which have ties and structure.

  python -m launch.checks.census --out=out/census

The games are of the kinds of `nes_jax.games.structured` that exist for the number of players. For
each kind, each size of noise and each concept, the program solves a batch of games in one call. It
then judges the answers without the engine: it computes residuals and gaps again, in float64, from
joints and duals.

Writes into --out:

  census.csv  a row for each kind, noise and concept, written as soon as it is known
  census.md   the rows of this run as a table, written at the end
  left.npz    games that did not converge, or whose residual computed again is too large, in an
              array KIND_NOISE_CONCEPT for each row; runs with other sizes need another --out

The same command, given again, continues. Rows that are there are not computed again, even if the
engine has changed since; give a new directory to measure anew.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import math
import pathlib
import sys
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from launch.runtime import flags, program, progress, tables
import nes_jax
from nes_jax import invariance, metrics
from nes_jax.games import structured
from nes_jax.games.files import replacing
from nes_jax.solving import engines
from nes_jax.types import CONCEPTS, Concept, Solution

TOLERANCES = {"float32": 1e-4, "float64": 1e-8}
# A row of the file counts as one of this run if these columns, its settings, are equal.
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

Row = dict[str, str]  # texts of the cells by column


@dataclasses.dataclass(frozen=True)
class Run:
  """A run of this program."""

  out: pathlib.Path = flags.field(
      pathlib.Path("out/census"), "Directory of the results.", metavar="DIRECTORY"
  )
  kinds: tuple[str, ...] = flags.field(
      structured.NAMES, "Kinds of games.", choices=structured.NAMES, metavar="KIND,..."
  )
  noises: tuple[float, ...] = flags.field(
      (0.0, 1e-8, 1e-6, 1e-4),
      "Standard deviations of the noise, in units of the range of a game's payoffs.",
  )
  games: int = flags.field(1000, "Number of games of each row.")
  strategies: int = flags.field(5, "Number of strategies of each player.")
  players: int = flags.field(2, "Number of players of each game.")
  precision: Literal["float32", "float64"] = flags.field(
      "float64", "Precision of the engine.", choices=tuple(TOLERANCES)
  )
  concepts: tuple[Concept, ...] = flags.field(CONCEPTS, "Solution concepts.", choices=CONCEPTS)

  def __post_init__(self):
    flags.at_least_one(self, "games")
    if min(self.strategies, self.players) < 2:
      raise ValueError("--strategies and --players must be at least 2")
    if not all(0 <= noise < math.inf for noise in self.noises):
      raise ValueError("--noises must be finite, and 0 or more")


_SECTION = flags.Section("The census", Run)


def recompute(
    payoffs: np.ndarray, solution: Solution, concept: Concept
) -> tuple[np.ndarray, np.ndarray]:
  """Computes residuals and gaps of maximum-entropy equilibria again, in float64.

  Args:
    payoffs: [B, N, A1, ..., AN].
    solution: the solution that `nes_jax.solve` returned for them.
    concept: "cce" or "ce".

  Returns:
    Residuals [B], and gaps [B] in units of the payoffs.
  """
  wide = functools.partial(np.asarray, dtype=np.float64)
  with engines.precision(np.float64):
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
  """The games of a row. Rows of one kind have the same games, with noise of different sizes."""
  rng = np.random.default_rng(0)
  payoffs = structured.sample(rng, kind, run.games, run.strategies, run.players)
  return structured.with_noise(rng, payoffs, noise)


def measure(run: Run, payoffs: np.ndarray, concept: Concept) -> tuple[Row, np.ndarray]:
  """Solves games in one call.

  Args:
    run: the run.
    payoffs: [B, N, A1, ..., AN].
    concept: "cce" or "ce".

  Returns:
    The columns of the row that are not settings; and [B] bool, whether a game did not converge or
    has a residual, computed again, above the tolerance.
  """
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


def take(
    run: Run, *, check_stop: Callable[[], None] = lambda: None, say: Callable[[str], Any] = print
) -> dict[str, float]:
  """Measures all rows that are not there yet.

  Returns:
    "rows" and "games", the numbers of rows and games; "left", the number of games whose residual,
    computed again, is above the tolerance.

  Raises:
    UsageError: the directory has the rows of another version of this program.
  """
  run.out.mkdir(parents=True, exist_ok=True)
  rows = tables.read_csv(run.out / "census.csv", COLUMNS, SETTINGS)
  wanted = _wanted(run, say)
  sizes = (run.games, run.strategies, run.players, run.precision)
  table = []
  with progress.bar(len(wanted), unit="row") as bar:
    for kind, noise, concept in wanted:
      check_stop()
      settings = tuple(map(str, (kind, noise, concept, *sizes)))
      if settings not in rows:
        payoffs = draw(run, kind, noise)
        row, left = measure(run, payoffs, concept)
        # The games are written before the row, so that a kill between the two loses none: without
        # the row, both are written again.
        _keep(run.out / "left.npz", f"{kind}_{noise}_{concept}", payoffs[left])
        rows[settings] = dict(zip(SETTINGS, settings)) | row
        tables.write_csv(run.out / "census.csv", COLUMNS, rows.values())
      table.append(rows[settings])
      bar.update(1)
  lines = [COLUMNS, ["---"] * len(COLUMNS), *(row.values() for row in table)]
  text = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
  (run.out / "census.md").write_text(f"# Games that are not generic\n{_EXPLANATION}\n{text}")
  total, right = (sum(int(row[name]) for row in table) for name in ("games", "recomputed"))
  return {"rows": len(table), "games": total, "left": total - right}


def _wanted(run: Run, say: Callable[[str], Any]) -> list[tuple[str, float, Concept]]:
  """The kind, noise and concept of each row; kinds without games of this size are left out."""
  wanted = []
  for kind in run.kinds:
    try:
      structured.sample(np.random.default_rng(0), kind, 1, run.strategies, run.players)
    except ValueError as error:
      say(f"skipped: {error}")
    else:
      wanted += [(kind, noise, concept) for noise in run.noises for concept in run.concepts]
  return wanted


def _keep(path: pathlib.Path, name: str, games: np.ndarray) -> None:
  """Replaces the games of a row in the archive; a row without games has no array."""
  arrays = {}
  if path.exists():
    with np.load(path, allow_pickle=False) as archive:
      arrays = dict(archive)
  if arrays.pop(name, None) is None and not len(games):
    return
  with replacing(path) as file:
    kept: dict[str, Any] = {**arrays, **({name: games} if len(games) else {})}
    np.savez_compressed(file, **kept)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit code."""
  return program.main(
      argv, name="census", doc=__doc__, define=[_SECTION],
      prepare=lambda values: flags.build(values, _SECTION), work=take,
  )


if __name__ == "__main__":
  sys.exit(main())
