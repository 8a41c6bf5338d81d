"""Ratings of the strategies of games: of agents and of tasks, of models and of prompts.

A strategy's rating is what a player expects to gain by deviating to it from a joint play, before
any recommendation: 0 for the best that can be done, less for worse. `equilibrium` takes the joint
that `nes_jax.solve` selects. `deviation` takes one whose largest gains are as small as possible,
which makes ratings unique, and the same whether or not a strategy is there twice.

`agent_vs_task` and `side_by_side` make games of tables of scores, and `bootstrap` gives ratings
intervals and rank probabilities.
"""

from nes_jax.ratings.games import agent_vs_task, side_by_side
from nes_jax.ratings.rate import Ratings, deviation, equilibrium
from nes_jax.ratings.uncertainty import Uncertain, bootstrap

__all__ = [
    "Ratings",
    "Uncertain",
    "agent_vs_task",
    "bootstrap",
    "deviation",
    "equilibrium",
    "side_by_side",
]
