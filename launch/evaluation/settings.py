"""How much is evaluated."""

import dataclasses

# Those of the paper's Figure 4.
STRATEGIES = 8


@dataclasses.dataclass(frozen=True)
class Settings:
  """Defaults are the paper's, but for the length of the training in Figure 3."""

  seed: int = 7
  games: int = 512  # of each class, Figure 4
  reference_games: int = 128  # of each class, to ECOS
  table_games: int = 128  # of each size, Tables 1 and 2
  table_reference_games: int = 32  # of each size, to ECOS
  sizes: tuple[int, ...] = (4, 8, 16, 32, 64, 128)  # strategies of two players
  largest_reference: int = 16  # strategies: CVXPY takes 2.4 GB to compile 32x32, 32 GiB 64x64
  updates: int = 1500  # of each training, Figure 3
  seeds: int = 3
  curve_games: int = 512  # held out
  points: int = 15  # of a curve
  small: bool = False  # a few curves only, of small networks on small games

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if field.name not in ("seed", "sizes", "small") and getattr(self, field.name) < 1:
        raise ValueError(f"{field.name} is {getattr(self, field.name)}: it must be at least 1")
    if not self.sizes or min(self.sizes) < 2:
      raise ValueError(f"sizes are {self.sizes}: give one or more numbers of strategies, from 2")


QUICK = Settings(
    games=16,
    reference_games=2,
    table_games=16,
    table_reference_games=2,
    sizes=(8, 16),  # 8x8 is compiled for Figure 4
    largest_reference=8,
    updates=120,
    seeds=1,
    curve_games=64,
    points=6,
    small=True,
)
