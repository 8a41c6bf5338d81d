"""Where games come from: spheres (training), GAMUT, games with ties (structured), and files."""

from nes_jax.games import files, gamut, spheres, structured

__all__ = ("files", "gamut", "spheres", "structured")
