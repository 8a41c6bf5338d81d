"""The equivariant network from games to equilibrium duals."""

from nes_jax.network.config import INPUTS, Config, check_fields
from nes_jax.network.model import (
    CPU_ENTRIES,
    Answer,
    Features,
    Variables,
    apply,
    features,
    infer,
    init,
    num_parameters,
)

__all__ = [
    "CPU_ENTRIES",
    "INPUTS",
    "Answer",
    "Config",
    "Features",
    "Variables",
    "apply",
    "check_fields",
    "features",
    "infer",
    "init",
    "num_parameters",
]
