"""The amount of work of an evaluation."""

import dataclasses

from launch.runtime import flags

# Strategies of each player in the paper's Figure 4.
STRATEGIES = 8


@dataclasses.dataclass(frozen=True)
class Settings:
  """The defaults are the paper's, except for the length of the trainings in Figure 3."""

  seed: int = flags.field(7, "Seed of the games.")
  games: int = flags.field(512, "Number of games of each class in Figure 4.")
  reference_games: int = flags.field(128, "Number of games of each class in Figure 4 for ECOS.")
  table_games: int = flags.field(128, "Number of games of each size in Tables 1 and 2.")
  table_reference_games: int = flags.field(32, "Number of games of each size for ECOS.")
  sizes: tuple[int, ...] = flags.field(
      (4, 8, 16, 32, 64, 128), "Numbers of strategies of the two players in Tables 1 and 2."
  )
  # CVXPY takes 2.4 GB to compile the problem of a 32x32 game, and 32 GiB for 64x64.
  largest_reference: int = flags.field(16, "Largest number of strategies for ECOS.")
  updates: int = flags.field(1500, "Number of updates of each training in Figure 3.")
  seeds: int = flags.field(3, "Number of trainings of each curve in Figure 3.")
  curve_games: int = flags.field(512, "Number of held-out games in Figure 3.")
  points: int = flags.field(15, "Number of points of each curve in Figure 3.")
  small: bool = flags.field(
      False, "Whether Figure 3 has few curves, of small networks on small games."
  )

  def __post_init__(self):
    counts = [f.name for f in dataclasses.fields(self) if f.name not in ("seed", "sizes", "small")]
    flags.at_least_one(self, *counts)
    if not self.sizes or min(self.sizes) < 2:
      raise ValueError(f"sizes={self.sizes}: give one or more numbers of strategies, from 2")


QUICK = Settings(
    games=16,
    reference_games=2,
    table_games=16,
    table_reference_games=2,
    sizes=(8, 16),  # Programs for 8x8 are compiled for Figure 4 already.
    largest_reference=8,
    updates=120,
    seeds=1,
    curve_games=64,
    points=6,
    small=True,
)
