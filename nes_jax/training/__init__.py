"""Unsupervised training of the network (Marris et al. 2022, section 4).

`config` has the settings, `problems` draws games, `learner` takes steps, and `moments` measures the
statistics that inference needs.
"""

from nes_jax.training.config import (
    ALL_INPUTS,
    MOMENTS,
    OPTIMISERS,
    SCHEDULES,
    SELECTIONS,
    UNIFORM,
    Config,
    inputs,
    shape_name,
)
from nes_jax.training.learner import State, cycles, evaluate, init, loss, update
from nes_jax.training.moments import inference, measure
from nes_jax.training.problems import sample

__all__ = [
    "ALL_INPUTS",
    "MOMENTS",
    "OPTIMISERS",
    "SCHEDULES",
    "SELECTIONS",
    "UNIFORM",
    "Config",
    "State",
    "cycles",
    "evaluate",
    "inference",
    "init",
    "inputs",
    "loss",
    "measure",
    "sample",
    "shape_name",
    "update",
]
