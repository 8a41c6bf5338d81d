"""Markov games: value iteration and Q-learning with selected equilibria, and what they are worth."""

from nes_jax.markov.gain import deviation_gain
from nes_jax.markov.iteration import Result, value_iteration
from nes_jax.markov.stage import NAMES as SELECTIONS

__all__ = ["SELECTIONS", "Result", "deviation_gain", "value_iteration"]
