"""Classes of GAMUT with independent outcomes: RandomGame and CovariantGame.

Each function takes a key and the shape (A1, ..., AN), and returns payoffs [N, A1, ..., AN].
"""

import math

import jax
import jax.numpy as jnp

from nes_jax.types import Array

# Uniform payoffs lie between -LARGEST_PAYOFF and LARGEST_PAYOFF.
LARGEST_PAYOFF = 100.0


def uniform_payoffs(key: Array, shape: tuple[int, ...]) -> Array:
  """Draws an array of U(-100, 100).

  The draw has one axis: with several, XLA takes five times as long to compile on a CPU.
  """
  size = (math.prod(shape),)
  draws = jax.random.uniform(key, size, minval=-LARGEST_PAYOFF, maxval=LARGEST_PAYOFF)
  return draws.reshape(shape)


def random_game(key: Array, shape: tuple[int, ...]) -> Array:
  """RandomGame: every payoff is U(-100, 100)."""
  return uniform_payoffs(key, (len(shape), *shape))


def covariant_game(
    key: Array, shape: tuple[int, ...], correlation: float | None = None
) -> Array:
  """CovariantGame: the N payoffs of an outcome are normal, with variance 1 and correlation r.

  The symmetric square root of their covariance matrix multiplies independent normal numbers. It is
  sqrt(1 - r) on the deviations from the players' mean and sqrt(1 + (N - 1) r) on the mean.

  Args:
    key: PRNG key.
    shape: (A1, ..., AN).
    correlation: r; None draws r ~ U(-1 / (N - 1), 1).

  Returns:
    [N, A1, ..., AN].
  """
  n = len(shape)
  r_key, payoff_key = jax.random.split(key)
  r: Array | float
  if correlation is not None:
    r = correlation
  else:
    r = jax.random.uniform(r_key, minval=-1 / (n - 1), maxval=1.0)
  normal = jax.random.normal(payoff_key, (n * math.prod(shape),)).reshape(n, *shape)
  mean = normal.mean(axis=0)
  # Rounding may put r just below its lower end, where the variance of the mean would be negative.
  return jnp.sqrt(1 - r) * (normal - mean) + jnp.sqrt(jnp.maximum(1 + (n - 1) * r, 0)) * mean
