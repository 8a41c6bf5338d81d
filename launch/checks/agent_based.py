"""Calibrates the market of Brock & Hommes beside black-it, with the settings of its example.

  python -m venv out/black_it && out/black_it/bin/pip install black-it
  python -m launch.checks.agent_based --python=out/black_it/bin/python --out=out/agent_based

The example is RL_to_combine_search_methods.ipynb: four parameters, one observed series of 500
prices, 18 moments, and 150 simulations. Run 0 has its observed series and its seed, so that
black-it finds what it publishes there, (0.63, 0.41, 0.8, -0.4) with a loss of 0.265 in its one
simulation.
`launch.baselines.agent_based` says how both are judged.

Writes runs.csv and summary.csv into --out, and prints the summary.
"""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
import sys

from launch.baselines import agent_based
from launch.runtime import flags, program, tables


@dataclasses.dataclass(frozen=True)
class Settings:
  """Measurements of this program."""

  out: pathlib.Path = flags.field(
      pathlib.Path("out/agent_based"), "Directory of the results.", metavar="DIRECTORY"
  )
  python: pathlib.Path = flags.field(
      pathlib.Path(sys.executable), "The Python that has black-it.", metavar="FILE"
  )
  seeds: int = flags.field(5, "Number of runs, each with an observed series of its own.")
  simulations: int = flags.field(150, "Number of simulations of a run, 28 or more.")
  fresh: int = flags.field(2000, "Number of fresh simulations that judge a result.")
  strategies: tuple[str, ...] = flags.field(
      agent_based.STRATEGIES, "Strategies of black-it.", choices=agent_based.STRATEGIES,
      metavar="STRATEGY,...",
  )

  def __post_init__(self):
    flags.at_least_one(self, "seeds", "fresh")
    if self.simulations < 28:
      raise ValueError("--simulations must be at least 28")


_SECTION = flags.Section("Measurements", Settings)


def run(
    settings: Settings, *, check_stop: Callable[[], None], say: Callable[[str], None]
) -> dict[str, float]:
  """Does the work of the program."""
  rows = agent_based.measure(
      str(settings.python), settings.seeds, settings.simulations, settings.fresh,
      settings.strategies, say, check_stop,
  )
  lines = agent_based.summary(rows)
  settings.out.mkdir(parents=True, exist_ok=True)
  for name, table in (("runs", rows), ("summary", lines)):
    tables.write_csv(settings.out / f"{name}.csv", list(table[0]), table)
  print(tables.markdown(lines))
  return {}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit code."""
  return program.main(
      argv, name="agent_based", doc=__doc__, define=[_SECTION],
      prepare=lambda values: flags.build(values, _SECTION), work=run,
  )


if __name__ == "__main__":
  sys.exit(main())
