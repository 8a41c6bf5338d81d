"""Sets of equilibria, and the sets of payoffs that they give.

`payoffs` encloses the equilibrium payoffs of two players between two polygons, one of which is
attained and the other certified. `support` is the function behind it, for any number of players.
`vertices` finds extreme points of the set of equilibria itself, and `enumerate_vertices` lists all
of them in a small game.
"""

from nes_jax.region.bounds import Support, support
from nes_jax.region.extreme import Vertices, enumerate_vertices, vertices
from nes_jax.region.hulls import Region, payoffs

__all__ = [
    "Region",
    "Support",
    "Vertices",
    "enumerate_vertices",
    "payoffs",
    "support",
    "vertices",
]
