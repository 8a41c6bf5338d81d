"""Where games come from: spheres (training), files (npz, Gambit, OpenSpiel)."""

#F
from nes_jax.games import spheres

__all__ = ("files", "spheres")
