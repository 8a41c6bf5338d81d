"""Measures value iteration and learning of Markov games, beside known values and OpenSpiel.

  python -m launch.checks.markov --out=out/markov
  python -m launch.checks.markov --parts=known,random

The parts are:

  known      value iteration of the grid games and of soccer, against their known values
  random     1,000 random 2x2 games of five states in one batch: how many are stationary, how many
             cycle and with what period
  learning   correlated Q-learning of the grid games, all seeds in one program
  openspiel  steps a second of OpenSpiel's MultiagentQLearner with its CorrelatedEqSolver on its
             pathfinding grid, and of the learners here on the same grid

The last part needs OpenSpiel and what its learner imports:

  pip install -e ".[interop,baselines]" nashpy

Writes PART.csv into --out for each part, as soon as it is known, and prints the tables.
"""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
import sys

from launch.markov import measure, report
from launch.runtime import flags, program, tables

PARTS = ("known", "random", "learning", "openspiel")


@dataclasses.dataclass(frozen=True)
class Settings:
  """Measurements of this program."""

  out: pathlib.Path = flags.field(
      pathlib.Path("out/markov"), "Directory of the results.", metavar="DIRECTORY"
  )
  parts: tuple[str, ...] = flags.field(
      PARTS, "Measurements.", choices=PARTS, metavar="PART,..."
  )
  games: int = flags.field(1000, "Number of random games.")
  sweeps: int = flags.field(1000, "Largest number of sweeps of the random games.")
  seeds: int = flags.field(32, "Number of learners.")
  steps: int = flags.field(100_000, "Number of steps of each learner, a multiple of 100.")
  weights: tuple[float, ...] = flags.field(
      (2.0, 1.0), "Weights of the players' payoffs in the welfare of the learners."
  )
  openspiel_seconds: float = flags.field(60.0, "Seconds for which OpenSpiel's learner runs.")
  openspiel_steps: int = flags.field(
      10_000, "Number of steps of each learner on OpenSpiel's grid, a multiple of 100."
  )

  def __post_init__(self):
    flags.at_least_one(self, "games", "sweeps", "seeds", "steps", "openspiel_steps")
    if self.steps % 100 or self.openspiel_steps % 100:
      raise ValueError("--steps and --openspiel_steps must be multiples of 100")


_SECTION = flags.Section("Measurements", Settings)


def run(
    settings: Settings, *, check_stop: Callable[[], None], say: Callable[[str], None]
) -> dict[str, float]:
  """Does the work of the program."""
  config = report.Config(
      seeds=settings.seeds, steps=settings.steps, weights=settings.weights, concept="ce"
  )
  short = dataclasses.replace(config, steps=settings.openspiel_steps)
  work: dict[str, Callable[[], list[measure.Row]]] = {
      "known": measure.known_values,
      "random": lambda: measure.random_games(settings.games, settings.sweeps, 0),
      "learning": lambda: measure.learning(config, say),
      "openspiel": lambda: measure.speed(short, settings.openspiel_seconds),
  }
  settings.out.mkdir(parents=True, exist_ok=True)
  for part in settings.parts:
    rows = work[part]()
    tables.write_csv(settings.out / f"{part}.csv", list(rows[0]), rows)
    print(f"\n{part}\n\n{tables.markdown(rows)}", flush=True)
    check_stop()
  return {}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit code."""
  return program.main(
      argv, name="markov", doc=__doc__, define=[_SECTION],
      prepare=lambda values: flags.build(values, _SECTION), work=run,
  )


if __name__ == "__main__":
  sys.exit(main())
