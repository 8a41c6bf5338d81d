"""Where games come from: spheres (training), files (npz, Gambit, OpenSpiel)."""

from nes_jax.games import files, spheres

__all__ = ("files", "spheres")
