"""Results that Marris et al. (2022) report."""

from typing import NamedTuple


class Scaling(NamedTuple):
  """A row of Table 1 or 2: means over 128 games; None where the paper has a blank."""

  uniform_gap: float
  network_gap: float
  uniform_solver_gap: float | None
  network_solver_gap: float | None
  ecos_solved: float  # fraction of the games


# Table 1: one network for each size.
TABLE_1 = {
    "4x4": Scaling(1.1006, 0.0274, 0.3552, 0.0120, 1.00),
    "8x8": Scaling(1.0043, 0.0163, 0.2513, 0.0054, 0.99),
    "16x16": Scaling(0.8861, 0.0173, 0.2014, 0.0034, 0.98),
    "32x32": Scaling(0.7376, 0.0215, None, None, 0.0),
    "64x64": Scaling(0.5864, 0.0288, None, None, 0.0),
}
# Table 2: one network for all sizes, trained on 8x8.
TABLE_2 = {
    "4x4": Scaling(1.1006, 4.4445, 0.3552, 0.1500, 1.00),
    "8x8": Scaling(1.0043, 0.0163, 0.2513, 0.0054, 0.99),
    "16x16": Scaling(0.8861, 0.0000, 0.2014, 0.1089, 0.98),
    "32x32": Scaling(0.7376, 0.0000, None, None, 0.0),
    "64x64": Scaling(0.5864, 0.0000, None, None, 0.0),
}

# Results of section 5 and appendix D.5 on 8x8 games.

# Microseconds per game: ECOS takes "about 0.05s to solve a single game".
ECOS_US = 50_000.0
# Microseconds per game: "a batch of 4096 games in 0.0025s", on a TPU v2 with 8 cores.
NETWORK_US = 0.0025 / 4096 * 1e6
# Solver gap of the network: "for most classes ... around 10^-2".
SOLVER_GAP = 1e-2
