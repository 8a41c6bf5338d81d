"""The asset market of Brock & Hommes (1998) with four types of traders, and black-it's 18 moments.

The parameters and the loss are those of black-it's example RL_to_combine_search_methods.ipynb,
which follows Dyer et al. (2022), equations 36 to 40. With x_t the deviation of the price from its
fundamental value, type h expects g_h x + b_h, and the next deviation is

  x_{t+1} = sum_h n_h (g_h x_t + b_h) + 0.04 noise_t,
  n = softmax_h(120 (x_t - x_{t-1}) (g_h x_{t-2} + b_h - x_{t-1})),                     (market)

with g = (0, g2, g3, 1.01) and b = (0, b2, b3, 0). As in the example, the series begins with 0.1 and
0, after two values of 0.1 that are not part of it.

Glossary: T prices of a series, K = 18 moments.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

# Bounds of the calibrated parameters, by name.
BOX: Mapping[str, tuple[float, float]] = {
    "g2": (0.0, 1.0), "b2": (0.0, 1.0), "g3": (0.0, 1.0), "b3": (-1.0, 0.0),
}

# Parameters of the observed series.
TRUTH = (0.9, 0.2, 0.9, -0.2)

# Length of a series.
LENGTH = 500

# Standard deviation of the price's noise.
NOISE = 0.04

# Intensity with which traders choose the type that earned more.
CHOICE = 120.0

# Largest lag of the autocorrelations.
_LAGS = 5

# Names of the moments, in black-it's order.
NAMES = tuple(
    name + ending
    for ending in ("", " of changes")
    for name in (
        "mean", "deviation", "skewness", "kurtosis",
        *(f"autocorrelation {lag}" for lag in range(1, _LAGS + 1)),
    )
)


def series(theta: Array, noise: Array) -> Array:
  """The prices (market): theta [4], standard normal noise [T - 2] -> [T]."""
  zero = jnp.zeros_like(noise[0])
  g = jnp.stack([zero, theta[0], theta[2], zero + 1.01])
  b = jnp.stack([zero, theta[1], theta[3], zero])

  def step(prices, shock):
    now, before, earlier = prices
    part = jax.nn.softmax(CHOICE * (now - before) * (g * earlier + b - before))
    following = part @ (g * now + b) + NOISE * shock
    return (following, now, before), following

  start = zero, zero + 0.1, zero + 0.1
  _, rest = jax.lax.scan(step, start, noise)
  return jnp.concatenate([jnp.stack([zero + 0.1, zero]), rest])


def moments(prices: Array) -> Array:
  """Black-it's moments of a series and of the absolute values of its changes: [T] -> [18]."""
  return jnp.concatenate([_moments(prices), _moments(jnp.abs(jnp.diff(prices)))])


def _moments(x: Array) -> Array:
  """Mean, deviation, roots of skewness and kurtosis, autocorrelations: [T] -> [9]."""
  mean = x.mean()
  off = x - mean
  variance = (off**2).mean()
  skewness = (off**3).mean() / variance**1.5
  kurtosis = (off**4).mean() / variance**2 - 3
  along = [(off[lag:] * off[:-lag]).sum() / (off**2).sum() for lag in range(1, _LAGS + 1)]
  roots = [jnp.sign(x) * jnp.abs(x) ** power for x, power in ((skewness, 1 / 3), (kurtosis, 1 / 4))]
  return jnp.stack([mean, jnp.sqrt(variance), *roots, *along])


def simulate(key: Array, theta: Array) -> Array:
  """Simulates one series of theta [4], and returns its moments [18]."""
  return moments(series(theta, jax.random.normal(key, (LENGTH - 2,), theta.dtype)))


def noise_of(seed: int) -> np.ndarray:
  """The noise [T - 2] that black-it's example draws with a seed."""
  return np.random.RandomState(seed).standard_normal(LENGTH - 2)


def observed(seed: int) -> np.ndarray:
  """The observed series [T] of black-it's example, with a seed, 0 in the example, in float64."""
  return plain_series(np.array(TRUTH), noise_of(seed))


def plain_series(theta: np.ndarray, noise: np.ndarray) -> np.ndarray:
  """`series` as a NumPy loop in float64, without the guard of the softmax against overflow."""
  g, b = np.array([0.0, theta[0], theta[2], 1.01]), np.array([0.0, theta[1], theta[3], 0.0])
  prices = np.zeros(len(noise) + 4)
  prices[:3] = 0.1
  for t, shock in enumerate(noise, 3):
    now, before, earlier = prices[t], prices[t - 1], prices[t - 2]
    part = np.exp(CHOICE * (now - before) * (g * earlier + b - before))
    prices[t + 1] = part @ (g * now + b) / part.sum() + NOISE * shock
  return prices[2:]
