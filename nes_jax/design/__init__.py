"""Design of games: parameters under which the equilibria are good, whichever is played.

`minimise` goes down the gradient of a loss through the exact engine, for several selections side by
side, and `evaluate` reports one design. `inverse` finds payoffs whose selected equilibrium is a
given joint. `routing` makes payoffs of road networks with tolls, `contracts` those of teams with
bonuses.
"""

from nes_jax.design import contracts, routing
from nes_jax.design.active import Change
from nes_jax.design.descent import Design, Row, evaluate, minimise
from nes_jax.design.inversion import Inverse, inverse

__all__ = [
    "Change",
    "Design",
    "Inverse",
    "Row",
    "contracts",
    "evaluate",
    "inverse",
    "minimise",
    "routing",
]
