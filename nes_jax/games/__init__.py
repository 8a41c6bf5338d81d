"""Where games come from: spheres (training), files (npz, Gambit, OpenSpiel)."""

from nes_jax.games import files
from nes_jax.games import spheres

__all__ = ("files", "spheres")
