"""Training of the network (Marris et al. 2022, section 4), without labels or with them.

`config` has the settings, `problems` draws games, `labels` solves them, `learner` takes steps, and
`moments` measures the statistics that inference needs.
"""

from nes_jax.training.config import (
    ALL_INPUTS,
    LOSSES,
    MOMENTS,
    OPTIMISERS,
    SCHEDULES,
    SELECTIONS,
    UNIFORM,
    VARIED,
    Config,
    inputs,
    shape_name,
)
from nes_jax.training.labels import Labels, selection_of
from nes_jax.training.learner import State, cycles, evaluate, init, loss, update
from nes_jax.training.moments import inference, measure
from nes_jax.training.problems import sample

__all__ = [
    "ALL_INPUTS",
    "LOSSES",
    "MOMENTS",
    "OPTIMISERS",
    "SCHEDULES",
    "SELECTIONS",
    "UNIFORM",
    "VARIED",
    "Config",
    "Labels",
    "State",
    "cycles",
    "evaluate",
    "inference",
    "init",
    "inputs",
    "loss",
    "measure",
    "sample",
    "selection_of",
    "shape_name",
    "update",
]
