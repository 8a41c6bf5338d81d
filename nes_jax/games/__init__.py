"""Where games come from: spheres (training), files (npz, Gambit, OpenSpiel)."""

from nes_jax.games import files, gamut, spheres

__all__ = ("files", "gamut", "spheres")
