"""The market of `envs.market` as a plain NumPy loop: oracle of its tests, and a baseline of speed.

The loop is written from the description of the market and not from its code. It goes through the
merchants one after the other, and keeps every customer's best quote so far. Random numbers are
arguments, so that it can follow an episode of `envs.market`.

Glossary: n merchants, C clusters, m customers in each cluster.
"""

import numpy as np

from envs import market

Array = np.ndarray


class MarketLoop:
  """One episode of one market. Its fields are those of `market.State`, in float64."""

  def __init__(self, config: market.Config, linked: Array, tolerance: Array):
    """Begins an episode.

    Args:
      config: the market.
      linked: [n, C, m] bool, whether a merchant is connected to a customer.
      tolerance: [n] risk tolerances of the merchants.
    """
    self.config = config
    self.linked = linked
    self.tolerance = tolerance
    self.price = config.initial_price
    n, clusters, _ = linked.shape
    self.inventory = np.zeros(n)
    self.cash = np.zeros(n)
    self.counts = np.zeros((n, clusters), int)
    self.facility = np.zeros(clusters, int)

  def step(self, action: Array, buys: Array, lots: Array, noise: float) -> Array:
    """Plays one step, in which all merchants act.

    Args:
      action: [n, 3] within the bounds.
      buys: [C, m] bool, whether a customer buys; the other customers sell.
      lots: [n, C, m] uniform in [0, 1). The k-th merchant with a customer's best quote takes the
        customer over from the ones before if its lot is below 1 / k, so that all of them are
        equally likely.
      noise: a standard normal number, which moves the price.

    Returns:
      [n] rewards.
    """
    config, h = self.config, self.config.half_spread
    # The best quote so far of each customer, which begins as the facility's. A merchant with an
    # equal quote is preferred to the facility.
    best = np.zeros(buys.shape)
    seller = np.full(buys.shape, -1)
    tied = np.zeros(buys.shape, int)
    for i, (e_buy, e_sell, _) in enumerate(action):
      quote = np.where(buys, e_sell, e_buy)
      better = self.linked[i] & (quote <= best) & ((quote < best) | (seller < 0))
      equal = self.linked[i] & (quote == best) & (seller >= 0)
      tied = np.where(better, 1, tied + equal)
      seller[better | (equal & (lots[i] * tied < 1))] = i
      best[better] = quote[better]
    reward = np.zeros(len(action))
    after = self._next(noise)
    for i, (e_buy, e_sell, beta) in enumerate(action):
      bid, ask = self.price - h * (1 + e_buy), self.price + h * (1 + e_sell)
      mine = seller == i
      quantity = np.arange(1, len(buys) + 1)
      sold = (mine & buys).sum(axis=1) @ quantity
      bought = (mine & ~buys).sum(axis=1) @ quantity
      self.counts[i] += mine.sum(axis=1)
      worth = self.cash[i] + self.inventory[i] * self.price
      self.cash[i] += sold * ask - bought * bid
      self.inventory[i] += bought - sold
      unloaded = beta * self.inventory[i]
      self.cash[i] += unloaded * (self.price - h if unloaded > 0 else self.price + h)
      self.inventory[i] -= unloaded
      gain = self.cash[i] + self.inventory[i] * after - worth
      penalty = (1 - self.tolerance[i]) * config.penalty * h * abs(self.inventory[i])
      reward[i] = (gain - penalty) / (h * config.volume)
    self.facility += (seller < 0).sum(axis=1)
    self.price = after
    return reward

  def _next(self, noise: float) -> float:
    """The price of the next step."""
    config = self.config
    if config.process == "arithmetic":
      return self.price + config.volatility * noise
    scale = config.volatility / config.initial_price
    return self.price * float(np.exp(scale * noise - scale**2 / 2))
