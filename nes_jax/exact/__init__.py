"""Exact engine: a batched primal-dual interior-point method in JAX."""

from nes_jax.exact.engine import (
    PATIENCE,
    Answer,
    Config,
    Variables,
    answer,
    optimum_given,
    solve,
)

__all__ = ["PATIENCE", "Answer", "Config", "Variables", "answer", "optimum_given", "solve"]
