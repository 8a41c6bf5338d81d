"""The options of a run of `launch.checks.ceiling`, and the profiles of runs that it starts from."""

import dataclasses
import json
import pathlib

import numpy as np

from calsheq_jax import experiments
from calsheq_jax.experiments import Experiment
from launch.runtime import flags
from launch.runtime.flags import UsageError

# Number of the best seeds of a run whose profiles are starts.
_BEST_SEEDS = 2


@dataclasses.dataclass(frozen=True)
class Plan:
  """The size of a search, the same for all experiments."""

  out: pathlib.Path = flags.field(
      pathlib.Path("out/ceiling"),
      "Directory of the results, with a directory for each experiment.",
      metavar="DIRECTORY",
  )
  experiments: tuple[str, ...] = flags.field(
      ("1", "3", "5", "2", "4"), "Experiments.", metavar="NAME,..."
  )
  runs: tuple[str, ...] = flags.field(
      (), "Directories of finished runs of calsheq_train, whose profiles are starts, too.",
      metavar="DIRECTORY,...",
  )
  seed: int = flags.field(0, "Seed of the search.")
  population: int = flags.field(12, "Number of profiles of a generation.")
  generations: int = flags.field(
      60, "Number of generations of the whole search, with that of the starts. The defaults take"
      " about 20 times the steps of a calibration."
  )
  spread: float = flags.field(
      0.1, "Standard deviation of the first generation of CMA-ES, in half-widths of the box; that"
      " of numbers that start at a bound is a tenth of it."
  )
  episodes: int = flags.field(32, "Number of episodes of an update of a shared policy.")
  start_updates: int = flags.field(400, "Number of updates at each start.")
  steer_every: int = flags.field(
      10, "Number of updates after which the links of designed starts are corrected."
  )
  updates: int = flags.field(6, "Number of updates at each further profile.")
  judge_episodes: int = flags.field(192, "Number of held-out episodes that score a profile.")
  together: int = flags.field(
      1, "Number of profiles that learn in one call, a divisor of --population; all of them on an"
      " accelerator, and one on a CPU, is fastest."
  )
  final_updates: int = flags.field(300, "Number of updates at each finalist.")
  final_episodes: int = flags.field(
      1024, "Number of held-out episodes that choose among the finalists, and of those that judge"
      " the winner."
  )
  response_updates: int = flags.field(120, "Number of updates of the deviator of the certificate.")
  customers: int | None = flags.field(
      None,
      "Number of customers in each cluster of the market, if it differs from the experiment's.",
  )
  horizon: int | None = flags.field(
      None, "Number of steps in an episode of the market, if it differs from the experiment's."
  )

  def __post_init__(self):
    flags.at_least_one(
        self, "generations", "start_updates", "steer_every", "updates", "final_updates",
        "response_updates",
    )
    for field, least in (("population", 4), ("judge_episodes", 2), ("final_episodes", 16)):
      if getattr(self, field) < least:
        raise ValueError(f"{field}={getattr(self, field)} must be at least {least}")
    if self.together < 1 or self.population % self.together:
      raise ValueError(
          f"together={self.together} must divide the population of {self.population} profiles"
      )
    if self.seed < 0:
      raise ValueError(f"seed={self.seed} must be at least 0")
    if not 0 < self.spread <= 1:
      raise ValueError(f"spread={self.spread} must be positive and at most 1")
    if not self.experiments:
      raise ValueError("experiments=: name one or more")
    for name in self.experiments:
      self.chosen(name)

  def chosen(self, name: str) -> Experiment:
    """An experiment, with another market if one was asked for.

    Raises:
      ValueError: the experiment is unknown, its goals come from a hidden profile, it is not about
        the market though another market was asked for, or the market refuses a size.
    """
    experiment = experiments.named(name)
    if experiment.hidden:
      raise ValueError(
          f"experiments={name}: its goals differ from seed to seed, and the hidden profile's own"
          " reward is its mark"
      )
    sizes = {"customers": self.customers, "horizon": self.horizon}
    changes = {key: size for key, size in sizes.items() if size is not None}
    return experiments.resized(experiment, **changes) if changes else experiment


def profiles_of(directory: str, experiment: Experiment) -> list[np.ndarray]:
  """Coordinates [d] of the profiles of the best seeds of a run of calsheq_train.

  A run of another experiment gives none.

  Raises:
    UsageError: the directory holds no finished run, or its profiles have other numbers.
  """
  path = pathlib.Path(directory) / "summary.json"
  try:
    summary = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise UsageError(f"--runs: {path} is no summary of a finished run: {error}") from error
  if summary["experiment"] != experiment.name:
    return []
  space = experiment.problem().space
  if tuple(summary["profile"]) != space.names:
    raise UsageError(f"--runs: the profile of {path} has other numbers than the experiment")
  seeds = sorted(summary["seeds"], key=lambda seed: -seed["reward"])[:_BEST_SEEDS]
  return [
      np.clip(
          space.from_numbers(np.array([seed[f"profile/{n}"] for n in space.names], np.float32)),
          -1, 1,
      )
      for seed in seeds
  ]
