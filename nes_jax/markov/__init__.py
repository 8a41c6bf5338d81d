"""Markov games: value iteration and Q-learning with selected equilibria, and what they are worth.

`value_iteration` solves the stage games of all states, and of all games of a batch, in one call a
sweep. `CorrelatedQ` and `MinimaxQ` learn tables from play, and `train` runs many seeds of them in
one program. `deviation_gain` judges a policy by what the players gain from leaving it.
"""

from nes_jax.markov.gain import deviation_gain
from nes_jax.markov.iteration import Result, value_iteration
from nes_jax.markov.learners import CorrelatedQ, MinimaxQ
from nes_jax.markov.stage import NAMES as SELECTIONS
from nes_jax.markov.training import Curves, train

__all__ = [
    "SELECTIONS",
    "CorrelatedQ",
    "Curves",
    "MinimaxQ",
    "Result",
    "deviation_gain",
    "train",
    "value_iteration",
]
