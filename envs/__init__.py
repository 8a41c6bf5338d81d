"""Environments in which many agents of different types act at once, as pure functions.

Public names are listed in `__all__`. `envs.base` defines what an environment is; each environment
has a module of its own. Nothing here needs calsheq_jax.
"""

from envs.base import Box, Environment
from envs.discrete import Binned, Bins, TableEnvironment, TableGame
from envs.grid import Table
from envs.jaxmarl import DictionaryEnv
from envs.linear_quadratic import Config as LinearQuadraticConfig
from envs.linear_quadratic import LinearQuadratic
from envs.market import Config as MarketConfig
from envs.market import Market
from envs.symmetric import Game, SymmetricGame

__all__ = (
    "Binned",
    "Bins",
    "Box",
    "DictionaryEnv",
    "Environment",
    "Game",
    "LinearQuadratic",
    "LinearQuadraticConfig",
    "Market",
    "MarketConfig",
    "SymmetricGame",
    "Table",
    "TableEnvironment",
    "TableGame",
)
