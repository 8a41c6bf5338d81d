"""The equivariant network from games to equilibrium duals."""

from nes_jax.network.config import INPUTS, Config, check_fields
from nes_jax.network.model import (
    CPU_ENTRIES,
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
