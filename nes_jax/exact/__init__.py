"""Exact engine in JAX: a batched primal-dual interior-point method.

`program` states the convex program, `start` and `engine` follow its central path by the steps of
`newton`, whose matrices `cholesky` factors; `implicit` differentiates the optimum.
"""

from nes_jax.exact.config import Config
from nes_jax.exact.engine import PATIENCE, Answer, answer, solve
from nes_jax.exact.implicit import optimum_given
from nes_jax.exact.program import Variables
from nes_jax.exact.start import Start

__all__ = ["PATIENCE", "Answer", "Config", "Start", "Variables", "answer", "optimum_given", "solve"]
