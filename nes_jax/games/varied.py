"""Random games with structure, drawn under `jit`, for the training of networks.

Uniform payoffs have no ties, hardly any dominated strategies, and players who have nothing to do
with one another. A game of this module is a random mixture of

- independent normal payoffs,
- effects of a player's own strategy alone, by which strategies dominate others,
- payoffs that change where the own strategy equals the largest one of the others, as in auctions,
  races and claims,
- random walks along the strategies, whose neighbours nearly agree, as in markets and locations,

and then, by chance, the players' payoffs are mixed with a common one, with equal or opposite signs;
payoffs are rounded to few levels; and some are set to zero.

Glossary: N players, A1, ..., AN strategies.
"""

from collections.abc import Callable
import math

import jax
import jax.numpy as jnp

from nes_jax import invariance
from nes_jax.types import Array

# Standard deviation of the logarithm of a mixture's weights. One or two of its parts prevail.
_LOG_WEIGHTS = 1.5
# Probabilities that payoffs are mixed with a common one, rounded, and set to zero.
_COMMON, _ROUNDED, _SPARSE = 0.5, 0.3, 0.2
# Range of the width of a level of rounded payoffs, in standard deviations, log-uniform.
_LEVELS = (0.3, 3.0)


def sample(key: Array, shape: tuple[int, ...]) -> Array:
  """Draws a game.

  Args:
    key: PRNG key.
    shape: (A1, ..., AN), static; two players or more.

  Returns:
    [N, A1, ..., AN] payoffs, not normalised; all payoffs of a player may be equal.
  """
  weight_key, part_key, common_key, level_key, sparse_key = jax.random.split(key, 5)
  parts: list[Callable[[Array, tuple[int, ...]], Array]] = [
      lambda key, shape: jax.random.normal(key, (len(shape), *shape)), _effects, _orders, _walks
  ]
  weights = jnp.exp(_LOG_WEIGHTS * jax.random.normal(weight_key, (len(parts),)))
  keys = jax.random.split(part_key, len(parts))
  payoffs = sum(w * _unit(part(k, shape)) for w, part, k in zip(weights, parts, keys))
  return _sparse(sparse_key, _rounded(level_key, _with_common(common_key, _unit(payoffs))))


def _unit(payoffs: Array) -> Array:
  """Payoffs [N, A1, ..., AN] of each player with mean 0 and variance 1, or all 0."""
  return jax.vmap(lambda x: invariance.normalise(x).values)(payoffs)


def _own(values: Array, player: int, players: int) -> Array:
  """[Ap] -> an array that broadcasts to [A1, ..., AN]."""
  return values.reshape([-1 if p == player else 1 for p in range(players)])


def _effects(key: Array, shape: tuple[int, ...]) -> Array:
  """Payoffs that depend on the player's own strategy alone."""
  players = len(shape)
  keys = jax.random.split(key, players)
  effects = [jax.random.normal(k, (count,)) for k, count in zip(keys, shape)]
  return jnp.stack([
      jnp.broadcast_to(_own(effect, p, players), shape) for p, effect in enumerate(effects)
  ])


def _orders(key: Array, shape: tuple[int, ...]) -> Array:
  """Payoffs that depend on the own strategy, and on its order among the others' strategies.

  Each own strategy has three payoffs: its number is less than, equal to, or more than the largest
  number of the others' strategies. The three are random walks, which change slowly from strategy to
  strategy.
  """
  players = len(shape)
  index = jnp.indices(shape)
  payoffs = []
  for p, k in enumerate(jax.random.split(key, players)):
    others = jnp.stack([index[q] for q in range(players) if q != p]).max(0)
    below, equal, above = (
        jnp.broadcast_to(_own(walk, p, players), shape)
        for walk in jnp.cumsum(jax.random.normal(k, (3, shape[p])), axis=1)
    )
    payoffs.append(
        jnp.where(index[p] < others, below, jnp.where(index[p] > others, above, equal))
    )
  return jnp.stack(payoffs)


def _walks(key: Array, shape: tuple[int, ...]) -> Array:
  """Sums of normal numbers along the strategies of every player."""
  walks = jax.random.normal(key, (len(shape), *shape))
  for axis in range(1, walks.ndim):
    walks = jnp.cumsum(walks, axis)
  return walks


def _with_common(key: Array, payoffs: Array) -> Array:
  """Payoffs mixed with one tensor that is common to all players, up to the sign."""
  chance, angle_key, sign_key, common_key = jax.random.split(key, 4)
  players, shape = payoffs.shape[0], payoffs.shape[1:]
  angle = jax.random.uniform(angle_key, maxval=math.pi / 2)
  signs = jax.random.rademacher(sign_key, (players,) + (1,) * len(shape), payoffs.dtype)
  # Half of the common tensors are a player's payoffs, which keeps their structure.
  chosen, player, fresh = jax.random.split(common_key, 3)
  own = payoffs[jax.random.randint(player, (), 0, players)]
  common = jnp.where(jax.random.bernoulli(chosen), own, jax.random.normal(fresh, shape))
  mixed = _unit(jnp.cos(angle) * payoffs + jnp.sin(angle) * signs * common)
  return jnp.where(jax.random.bernoulli(chance, _COMMON), mixed, payoffs)


def _rounded(key: Array, payoffs: Array) -> Array:
  """Payoffs of few levels."""
  chance, width_key = jax.random.split(key)
  low, high = map(math.log, _LEVELS)
  width = jnp.exp(jax.random.uniform(width_key, minval=low, maxval=high))
  rounded = width * jnp.round(payoffs / width)
  return jnp.where(jax.random.bernoulli(chance, _ROUNDED), rounded, payoffs)


def _sparse(key: Array, payoffs: Array) -> Array:
  """Payoffs many of which are zero."""
  chance, share_key, kept_key = jax.random.split(key, 3)
  kept = jax.random.bernoulli(kept_key, jax.random.uniform(share_key), payoffs.shape)
  return jnp.where(jax.random.bernoulli(chance, _SPARSE), jnp.where(kept, payoffs, 0), payoffs)
