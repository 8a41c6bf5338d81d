"""Sources of games.

`spheres` and `varied` draw the games that networks are trained on, `gamut` draws classes of the
GAMUT generator, and `structured` draws games with ties. `files` reads and writes games on disk;
`npz`, `gambit`, `directory` and `openspiel` are the formats behind it.
"""

from nes_jax.games import (
    directory,
    files,
    gambit,
    gamut,
    npz,
    openspiel,
    spheres,
    structured,
    varied,
)

__all__ = [
    "directory",
    "files",
    "gambit",
    "gamut",
    "npz",
    "openspiel",
    "spheres",
    "structured",
    "varied",
]
