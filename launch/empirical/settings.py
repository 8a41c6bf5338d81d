"""The options of `launch.market_game`."""

import dataclasses
import pathlib

from launch.runtime import flags
from launch.runtime.flags import UsageError, field
from nes_jax import resampling
from nes_jax import selection as selections
from nes_jax.empirical import solving
from nes_jax.types import CONCEPTS, Concept

_SELECTIONS = ("max_entropy", "max_welfare", "max_strength")
assert set(_SELECTIONS) <= set(selections.NAMES)


@dataclasses.dataclass(frozen=True)
class Game:
  """The directory, the policies and the episodes."""

  out: pathlib.Path = dataclasses.field(
      metadata={
          "metavar": "DIRECTORY",
          "help": "Directory of the results. The policy that is trained has its checkpoints in the"
          " folder policy.",
      }
  )
  policy: pathlib.Path | None = field(
      None, "Directory of a run of market_train whose first policy is taken. Without this flag a"
      " policy is trained.", metavar="DIRECTORY",
  )
  quotes: tuple[float, ...] = field(
      (0.3, 0.5, 0.8), "Distances of the fixed quotes from the reference price, in half-spreads,"
      " each between 0 and 2. Each is a policy.",
  )
  hedge: float = field(
      0.25, "Part of the inventory that a policy of fixed quotes sends to the facility in each"
      " step, between 0 and 1.",
  )
  episodes: int = field(256, "Number of episodes of each profile.")
  symmetric: bool = field(
      True, "Take merchants of one supertype as exchangeable, and play each profile once."
  )
  game_seed: int = field(0, "Seed of the episodes, the resamples and the deviators.")

  def __post_init__(self):
    if self.episodes < 2:
      raise ValueError(f"episodes={self.episodes} must be at least 2")
    if not self.quotes or not all(0 <= quote <= 2 for quote in self.quotes):
      raise ValueError(f"quotes={self.quotes}: one or more numbers between 0 and 2 are expected")
    if len(set(map("{:g}".format, self.quotes))) < len(self.quotes):
      raise ValueError(f"quotes={self.quotes} must be different")
    if not 0 <= self.hedge <= 1:
      raise ValueError(f"hedge={self.hedge} must lie between 0 and 1")


@dataclasses.dataclass(frozen=True)
class Equilibrium:
  """The solution and its intervals."""

  concept: Concept = field("cce", "Solution concept.", choices=CONCEPTS)
  selection: str = field("max_entropy", "Selected equilibrium.", choices=_SELECTIONS)
  resamples: int = field(1000, "Number of bootstrap resamples.")
  level: float = field(resampling.LEVEL, "Share of the resamples that an interval holds.")
  threshold: float = field(
      solving.THRESHOLD, "Probability above which a policy counts as part of the support."
  )
  plain: int = field(
      0, "Number of resamples that a plain loop of NumPy and CVXPY solves, too, for comparison."
      " 0 leaves the comparison out.",
  )

  def __post_init__(self):
    flags.at_least_one(self, "resamples")
    if not 0 < self.level < 1:
      raise ValueError(f"level={self.level} must lie between 0 and 1")
    if self.plain < 0:
      raise ValueError(f"plain={self.plain} must be at least 0")


@dataclasses.dataclass(frozen=True)
class Deviator:
  """The training of deviators from outside the set."""

  response_updates: int = field(
      240, "Number of updates of a deviator. 0 leaves deviators out."
  )
  response_episodes: int = field(64, "Number of episodes of one update of a deviator.")
  judge_episodes: int = field(
      1024, "Number of held-out episodes on which deviators are judged; half of them choose."
  )

  def __post_init__(self):
    if self.response_updates < 0:
      raise ValueError(f"response_updates={self.response_updates} must be at least 0")
    flags.at_least_one(self, "response_episodes")
    if self.judge_episodes < 4:
      raise ValueError(f"judge_episodes={self.judge_episodes} must be at least 4")


def check(game: Game, merchants: int) -> None:
  """Refuses a game whose profiles would not fit in memory.

  Raises:
    UsageError: there are more than a million profiles, permutations included.
  """
  policies = len(game.quotes) + 2
  if policies**merchants > 10**6:
    raise UsageError(
        f"--merchants={merchants} with {policies} policies have {policies**merchants} profiles, and"
        " a million fit: take fewer merchants or --quotes"
    )
