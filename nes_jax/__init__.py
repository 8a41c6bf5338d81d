"""Normal-form games in bulk: one call, thousands of games, a selected equilibrium of each."""

from nes_jax import (
    design,
    dual,
    empirical,
    games,
    invariance,
    markov,
    metrics,
    pretrained,
    psro,
    ratings,
    region,
    selection,
)
from nes_jax.native import engines
from nes_jax.selection import Selection
from nes_jax.solving.solve import nash_zero_sum, solve
from nes_jax.types import Solution

__all__ = [
    "Selection",
    "Solution",
    "design",
    "dual",
    "empirical",
    "engines",
    "games",
    "invariance",
    "markov",
    "metrics",
    "nash_zero_sum",
    "pretrained",
    "psro",
    "ratings",
    "region",
    "selection",
    "solve",
]
