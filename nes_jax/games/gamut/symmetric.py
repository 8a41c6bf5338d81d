"""Classes of GAMUT in which all players choose from the same strategies, without graphs.

Payoffs depend on the lowest strategy of an outcome (TravelersDilemma, MinimumEffortGame,
BertrandOligopoly) or on how many players choose each strategy (DispersionGame). Each function takes
a key and the shape (A, ..., A), and returns payoffs [N, A, ..., A].
"""

import jax
import jax.numpy as jnp
import numpy as np

from nes_jax.games.gamut import functions
from nes_jax.games.gamut.independent import LARGEST_PAYOFF, uniform_payoffs
from nes_jax.types import Array

# Largest demand in a BertrandOligopoly, and also the cost of serving it.
_BERTRAND_SCALE = 10_000.0


def travelers_dilemma(key: Array, shape: tuple[int, ...]) -> Array:
  """TravelersDilemma: `travelers_payoffs` with the reward R ~ U(1, A)."""
  return travelers_payoffs(jax.random.uniform(key, minval=1.0, maxval=float(shape[0])), shape)


def travelers_payoffs(reward: Array | float, shape: tuple[int, ...]) -> Array:
  """Payoffs u_p = min_q a_q + R [p alone has the minimum]: [N, A1, ..., AN]."""
  claims, lowest, sharers = _lowest(shape)
  return lowest + reward * ((claims == lowest) & (sharers == 1))


def minimum_effort_game(key: Array, shape: tuple[int, ...]) -> Array:
  """MinimumEffortGame: `effort_payoffs` with a ~ U(-100, 100), b ~ U(0, 100) and c ~ U(0, b)."""
  a, b, c = jax.random.uniform(key, (3,))
  scale = LARGEST_PAYOFF
  return effort_payoffs(scale * (2 * a - 1), scale * b, scale * b * c, shape)


def effort_payoffs(
    a: Array | float, b: Array | float, c: Array | float, shape: tuple[int, ...]
) -> Array:
  """Payoffs u_p = a + b min_q a_q - c a_p: [N, A1, ..., AN]."""
  efforts, lowest, _ = _lowest(shape)
  return a + b * lowest - c * efforts


def _lowest(shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
  """Finds the lowest strategy of every outcome.

  Returns:
    The strategies, counted from 1, [N, A1, ..., AN]; the lowest of each outcome and the number of
    players who choose it, [A1, ..., AN] both.
  """
  strategies = 1 + jnp.indices(shape)
  lowest = strategies.min(axis=0)
  return strategies, lowest, (strategies == lowest).sum(axis=0)


def player_counts(shape: tuple[int, ...]) -> Array:
  """Number of players on each strategy in each outcome: int [A, A1, ..., AN]."""
  strategies = jnp.arange(shape[0]).reshape(-1, *(1,) * len(shape))
  return sum((strategies == played).astype(int) for played in jnp.indices(shape))


def dispersion_game(key: Array, shape: tuple[int, ...]) -> Array:
  """DispersionGame: all players have one payoff, which grows with how evenly they are spread.

  The entropy of the shares of players on the strategies takes k different values (base 2, rounded
  to 1e-5). The payoffs are k sorted draws of U(-100, 100), the smallest for the lowest entropy.
  """
  n = len(shape)
  share = np.arange(n + 1) / n
  # Contribution to the entropy of a strategy with 0, ..., N players: [N + 1].
  terms = -share * np.log2(np.where(share > 0, share, 1))
  different = {round(sum(terms[list(parts)]), 5) for parts in _partitions(n, shape[0], n)}
  levels = np.sort(list(different))
  entropy = jnp.asarray(terms, float)[player_counts(shape)].sum(axis=0)
  rank = jnp.searchsorted(jnp.asarray((levels[:-1] + levels[1:]) / 2, float), entropy)
  payoffs = jnp.sort(uniform_payoffs(key, (len(levels),)))
  return jnp.broadcast_to(payoffs[rank], (n, *shape))


def _partitions(total: int, parts: int, largest: int) -> list[tuple[int, ...]]:
  """Partitions of a number into at most that many parts, none larger than `largest`."""
  if total == 0:
    return [()]
  firsts = range(1, min(total, largest) + 1) if parts else ()
  return [(i, *rest) for i in firsts for rest in _partitions(total - i, parts - 1, i)]


def bertrand_oligopoly(key: Array, shape: tuple[int, ...]) -> Array:
  """BertrandOligopoly: the players with the lowest price share the demand at that price.

  u_p = price D(price) / m - C(D(price) / m) for the m players at the lowest price, 0 for others.
  The demand D falls on [0, A] from 10,000; it is a random function with its sign turned. The cost C
  grows on [D(A) / N, D(0)] to 10,000. Both are shifted so that neither is negative. A constant
  polynomial that is shifted to 0 cannot be scaled; such draws, which are 3.4% of all, give no game
  and are repeated. With more than about 80 strategies, float32 rounds the smallest value of an
  exponential demand to 0.
  """
  n, a = len(shape), shape[0]

  def draw(state):
    key, cost_key, demand_key = jax.random.split(state[0], 3)
    draws = functions.draw(demand_key)
    values, shrink = functions.choose(functions.INCREASING, draws, jnp.arange(a + 1), 0, a)
    demand = functions.falling(draws, values, shrink)
    demand = _scale(demand, demand[-1], demand[0])[1:]  # [A] at the prices 1, ..., A
    sold = demand[:, None] / jnp.arange(1, n + 1)  # [A, N] by the number of players who share
    points = jnp.append(sold.reshape(-1), _BERTRAND_SCALE)
    draws = functions.draw(cost_key)
    cost, _ = functions.choose(
        functions.SLOWLY_INCREASING, draws, points, sold[-1, -1], _BERTRAND_SCALE
    )
    cost = _scale(cost, cost[-2], cost[-1])[:-1].reshape(a, n)
    return key, jnp.arange(1, a + 1)[:, None] * sold - cost

  undrawn = jnp.full((a, n), jnp.nan)
  profits = jax.lax.while_loop(lambda s: ~jnp.isfinite(s[1]).all(), draw, (key, undrawn))[1]
  prices, lowest, sharers = _lowest(shape)
  return jnp.where(prices == lowest, profits[lowest - 1, sharers - 1], 0)


def _scale(values: Array, least: Array, most: Array) -> Array:
  """Shifts values to be 0 or more, then scales them so that the largest is 10,000.

  Args:
    values: values of a monotone function.
    least: its smallest value.
    most: its largest value.

  Returns:
    An array like `values`; NaN where all values are shifted to 0.
  """
  shift = jnp.maximum(-least, 0)
  # Rounding may bring a value of a monotone function below the value at its end.
  return (jnp.maximum(values, least) + shift) / (most + shift) * _BERTRAND_SCALE
