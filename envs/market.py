"""The n-merchant market of Vadori et al. (2020), section 4.

Merchants quote prices to the customers to whom they are linked, cannot see each other's quotes, and
unload inventory at a reference facility where anyone may trade. Merchant 1 is of supertype 1, and
the others are of supertype 2.

One step, at reference price S and half-spread h, goes as follows. Statements marked "printed in the
paper" are from the paper; the rest is our reconstruction, since the supplement with the details is
not public.

  1. Merchant i takes an action (e_buy, e_sell, beta): it bids S - h (1 + e_buy) and asks
     S + h (1 + e_sell). Here e = 0 is the facility's price, and e = -1 is the mid price S.
  2. Every customer buys or sells with probability 1/2; customers of cluster c trade c units. Each
     takes the best quote among its merchants if that is no worse than the facility's, with ties
     broken evenly at random; otherwise it trades with the facility, at S + h or S - h. That
     merchants do not see each other's quotes is printed in the paper.
  3. Inventory becomes I' = I + bought - sold. Then beta I' goes to the facility at a cost of h for
     each unit, which leaves I'' = (1 - beta) I'.
  4. The price moves to S'. In money, a merchant earns

       bought (S - bid) + sold (ask - S) - h beta |I'| + I'' (S' - S)
         - (1 - tolerance) penalty h |I''|                                              (reward)

     The first line is exactly the change of its cash and marked inventory, cash + I S. Printed in
     the paper: tolerance to inventory acts through the reward, and a merchant that does not trade
     earns 0. A unit held for a step costs (1 - tolerance) penalty times the cost of unloading it.
     If quotes do not depend on inventory, a merchant therefore does best to send about that share
     of its inventory to the facility in each step: if the net flow of a step has the standard
     deviation s, a share beta leaves |I| near s / sqrt(2 beta), and the cost
     beta^-1/2 ((1 - tolerance) penalty + beta) is least at beta = (1 - tolerance) penalty.

     Rewards are divided by h volume, where `volume` is the number of units that each merchant would
     trade in a step if all shared all customers equally. A reward of 1 is thus an equal share of
     the trade at the facility's prices.

Glossary: n merchants, C clusters, m customers in each cluster, W = ceil(m / 32) words of 32 bits
that hold one bit for each customer of a cluster, T steps. Quantities are in units of goods, and
prices are in money for one unit.
"""

from collections.abc import Mapping
import math

import jax
import jax.numpy as jnp
import numpy as np

from envs import matching
from envs.base import Array, Box
from envs.market_types import (
    MATCHINGS,
    PROCESSES,
    Config,
    Profile,
    State,
    Supertype1,
    Supertype2,
)
from envs.percentiles import percentiles, smooth_percentiles

__all__ = ("MATCHINGS", "PROCESSES", "Config", "Market", "Profile", "State", "Supertype1",
           "Supertype2")

# Largest variance of a random number in [0, 1] (Popoviciu).
_LARGEST_VARIANCE = 0.25


class Market:
  """The market as an `envs.base.Environment`; it has no state, and compares by its config."""

  def __init__(self, config: Config | None = None):
    self._config = Config() if config is None else config
    if not isinstance(self._config, Config):
      raise TypeError(f"config is {config!r}; give a market.Config")

  def __eq__(self, other):
    return isinstance(other, Market) and self._config == other._config

  def __hash__(self):
    return hash((Market, self._config))

  def __repr__(self):
    return f"Market({self._config})"

  @property
  def config(self) -> Config:
    return self._config

  @property
  def num_agents(self) -> int:
    return self._config.num_merchants

  @property
  def agent_names(self) -> tuple[str, ...]:
    return tuple(f"merchant_{i + 1}" for i in range(self.num_agents))

  @property
  def supertype_names(self) -> tuple[str, ...]:
    return ("supertype_1", "supertype_2")

  @property
  def supertypes(self) -> tuple[int, ...]:
    return (0,) + (1,) * (self.num_agents - 1)

  @property
  def horizon(self) -> int:
    return self._config.horizon

  @property
  def observation_size(self) -> int:
    return self._config.clusters + 9

  @property
  def observation_names(self) -> tuple[str, ...]:
    """A name for each number that a merchant observes."""
    connection = tuple(f"connection_{c + 1}" for c in range(self._config.clusters))
    return connection + (
        "tolerance",
        "inventory",
        "bought",
        "sold",
        "e_buy",
        "e_sell",
        "beta",
        "price_move",
        "time_left",
    )

  @property
  def action_space(self) -> Box:
    """Bounds of (e_buy, e_sell, beta)."""
    return Box(*np.array([[-1, -1, 0], [1, 1, 1]], _dtype()))

  @property
  def profile_space(self) -> Box:
    zeros, ones = (self.profile(value, value, 0.0) for value in (0.0, 1.0))
    top = ones.supertype2._replace(tolerance_variance=jnp.asarray(_LARGEST_VARIANCE, _dtype()))
    return Box(zeros, ones._replace(supertype2=top))

  @property
  def profile_names(self) -> tuple[str, ...]:
    """A name for each number of a profile, in the order of its leaves (`ravel_pytree`)."""
    connection = [f"connection_{c + 1}" for c in range(self._config.clusters)]
    first = [f"supertype_1/{name}" for name in (*connection, "tolerance")]
    second = (*connection, "tolerance_mean", "tolerance_variance")
    return (*first, *(f"supertype_2/{name}" for name in second))

  def profile(
      self,
      connection=0.3,
      tolerance=0.5,
      variance=0.01,
      *,
      connection1=None,
      tolerance1=None,
  ) -> Profile:
    """Makes a profile in which both supertypes are alike, except for the last two arguments.

    Args:
      connection: probabilities of a link [C], or one number for all clusters.
      tolerance: tolerance of supertype 1, and mean of supertype 2's tolerance.
      variance: variance of supertype 2's tolerance.
      connection1: probabilities of supertype 1; None takes `connection`.
      tolerance1: tolerance of supertype 1; None takes `tolerance`.

    Raises:
      ValueError: the probabilities are neither one number nor C of them.
    """
    clusters, dtype = self._config.clusters, _dtype()

    def probabilities(values):
      values = jnp.asarray(values, dtype)
      if values.shape not in ((), (clusters,)):
        raise ValueError(
            f"connection has shape {list(values.shape)}; give one number, or {clusters}: one for"
            " each cluster"
        )
      return jnp.broadcast_to(values, (clusters,))

    first = Supertype1(
        probabilities(connection if connection1 is None else connection1),
        jnp.asarray(tolerance if tolerance1 is None else tolerance1, dtype),
    )
    second = Supertype2(
        probabilities(connection), jnp.asarray(tolerance, dtype), jnp.asarray(variance, dtype)
    )
    return Profile(first, second)

  def reset(self, key: Array, profile: Profile) -> tuple[Array, State]:
    """Draws types and links; see `envs.base`."""
    config = self._config
    n, dtype = config.num_merchants, _dtype()
    key_tolerance, key_links = jax.random.split(key)
    connection, tolerance = _draw_types(key_tolerance, profile, n)
    shape = (n, config.clusters, config.customers)
    draws = jax.random.uniform(key_links, (math.prod(shape),), dtype).reshape(shape)

    # Every field is an array of its own: JAX cannot donate one buffer of a state twice.
    def zeros(*shape, dtype=dtype):
      return jnp.zeros((n, *shape), dtype)

    state = State(
        time=jnp.zeros((), jnp.int32),
        price=jnp.asarray(config.initial_price, dtype),
        move=jnp.zeros((), dtype),
        connection=connection,
        tolerance=tolerance,
        links=matching.pack(draws < connection[:, :, None]),
        inventory=zeros(),
        cash=zeros(),
        bought=zeros(dtype=jnp.int32),
        sold=zeros(dtype=jnp.int32),
        action=zeros(3),
        counts=zeros(config.clusters, dtype=jnp.int32),
        rewards=zeros(),
        hedged=zeros(),
        held=zeros(),
    )
    return self._observe(state), state

  def step(
      self, key: Array, state: State, action: Array, profile: Profile
  ) -> tuple[Array, State, Array, Array, Mapping[str, Array]]:
    """Takes one step as the module describes it; see `envs.base`.

    Args:
      key: random key of the customers' sides, of ties and of the price's move.
      state: the present state.
      action: [n, 3], rows (e_buy, e_sell, beta), clipped to [-1, 1], [-1, 1] and [0, 1].
      profile: not used, since the types are in the state.

    Returns:
      Observations [n, C + 9], state, reward [n], done [], info. The market closes at the horizon,
      which every merchant sees coming, and nothing follows, so that info["truncated"] is always
      False. The other entries of info are about this step:
        price []            reference price before the move
        bid, ask [n]        quotes of each merchant
        bought, sold [n]    units that each merchant trades with customers
        hedge [n]           units sold to the facility; negative numbers are bought from it
        inventory [n]       units left, I''
        customers_bought, customers_sold []  units that all customers trade
        facility_sold, facility_bought []    the part of these that the facility trades
        profit [n]          change of cash and marked inventory, in money
        penalty [n]         penalty on inventory, in money
    """
    del profile
    config, dtype = self._config, _dtype()
    key_customers, key_price = jax.random.split(key)
    low, high = (jnp.asarray(bound, dtype) for bound in self.action_space)
    action = jnp.clip(jnp.asarray(action, dtype), low, high)
    trades = MATCHINGS[config.matching](
        key_customers, state.links, action[:, 0], action[:, 1], config.customers
    )
    after = self._next_price(key_price, state.price)
    state, reward, info = self._settle(state, action, trades, after)
    return self._observe(state), state, reward, state.time >= config.horizon, info

  def _settle(
      self, state: State, action: Array, trades: matching.Trades, after: Array
  ) -> tuple[State, Array, Mapping[str, Array]]:
    """Books the trades of a step, hedges and pays: parts 3 and 4 of a step.

    Args:
      state: the state before the step.
      action: [n, 3], clipped.
      trades: the customers' trades.
      after: [] reference price after the move, S'.

    Returns:
      State, reward [n], info of `step`.
    """
    config = self._config
    h, price = config.half_spread, state.price
    e_buy, e_sell, beta = action[:, 0], action[:, 1], action[:, 2]
    bid, ask = price - h * (1 + e_buy), price + h * (1 + e_sell)
    quantity = jnp.arange(1, config.clusters + 1, dtype=jnp.int32)

    def units(counts):
      return jnp.sum(counts * quantity, axis=-1, dtype=jnp.int32)

    bought, sold = units(trades.bought), units(trades.sold)

    gathered = state.inventory + (bought - sold)
    hedge = beta * gathered
    inventory = gathered - hedge
    move = after - price
    cost = h * jnp.abs(hedge)
    margin = h * (bought * (1 + e_buy) + sold * (1 + e_sell))
    profit = margin - cost + inventory * move
    penalty = (1 - state.tolerance) * (config.penalty * h) * jnp.abs(inventory)
    reward = (profit - penalty) / (h * config.volume)
    state = state._replace(
        time=state.time + 1,
        price=after,
        move=move,
        inventory=inventory,
        cash=state.cash + (sold * ask - bought * bid) + (hedge * price - cost),
        bought=bought,
        sold=sold,
        action=action,
        counts=state.counts + trades.bought + trades.sold,
        rewards=state.rewards + reward,
        hedged=state.hedged + jnp.abs(hedge),
        held=state.held + jnp.abs(inventory),
    )
    info = {
        "truncated": jnp.zeros((), bool),
        "price": price,
        "bid": bid,
        "ask": ask,
        "bought": bought,
        "sold": sold,
        "hedge": hedge,
        "inventory": inventory,
        "customers_bought": units(trades.buyers),
        "customers_sold": units(trades.sellers),
        "facility_bought": units(trades.facility_bought),
        "facility_sold": units(trades.facility_sold),
        "profit": profit,
        "penalty": penalty,
    }
    return state, reward, info

  def outputs(self, state: State) -> Mapping[str, Array]:
    """Statistics of the episode so far.

    Entries named supertype_* have a row for supertype 1 and a row for supertype 2, which pools its
    n - 1 merchants. A market share is a share of the quantity of all customers' transactions,
    including the facility's; the shares of all merchants and the facility add up to 1, and are 0
    before the first step. The paper also words it as a share of the number of transactions, which
    is the share named count_*.

    Returns:
      counts [n, C], supertype_counts [2, C]  int32, transactions of each quantity 1..C with
        customers
      facility_counts [C]  int32, transactions of customers who went to the facility
      share [n], supertype_share [2], facility_share []  market shares
      count_share [n], supertype_count_share [2], facility_count_share []  shares of transactions
      percentiles [n, 9], supertype_percentiles [2, 9]  `percentiles` of the counts
      smooth_percentiles [n, 9], supertype_smooth_percentiles [2, 9]  `smooth_percentiles` of them
      rewards [n]  sums of rewards
      supertype_rewards [2]  means of these sums over merchants
      hedged [n]  mean number of units traded with the facility in a step
      inventory [n]  mean of |I''|
    """
    config, dtype = self._config, _dtype()

    def pool(x):
      return jnp.stack([x[0], x[1:].sum(0, dtype=x.dtype)])

    counts, pooled = state.counts, pool(state.counts)
    facility = state.time * config.customers - counts.sum(0, dtype=counts.dtype)  # [C]
    quantity = jnp.arange(1, config.clusters + 1, dtype=jnp.int32)
    steps = jnp.maximum(state.time, 1).astype(dtype)

    def share(counts):
      return (counts * quantity).sum(-1) / (steps * config.total)

    def count_share(counts):
      return counts.sum(-1) / (steps * (config.customers * config.clusters))

    sizes = jnp.array([1, config.num_merchants - 1], dtype)
    return {
        "counts": counts,
        "supertype_counts": pooled,
        "facility_counts": facility,
        "share": share(counts),
        "supertype_share": share(pooled),
        "facility_share": share(facility),
        "count_share": count_share(counts),
        "supertype_count_share": count_share(pooled),
        "facility_count_share": count_share(facility),
        "percentiles": percentiles(counts),
        "supertype_percentiles": percentiles(pooled),
        "smooth_percentiles": smooth_percentiles(counts),
        "supertype_smooth_percentiles": smooth_percentiles(pooled),
        "rewards": state.rewards,
        "supertype_rewards": pool(state.rewards) / sizes,
        "hedged": state.hedged / steps,
        "inventory": state.held / steps,
    }

  def _observe(self, state: State) -> Array:
    """Observations [n, C + 9] in the order of `observation_names`.

    Units are divided by `volume`, price moves by the volatility, and time by the horizon.
    """
    config, dtype = self._config, _dtype()
    n = config.num_merchants
    scale = config.volatility or config.half_spread

    def column(x):
      return jnp.broadcast_to(jnp.asarray(x, dtype), (n,))[:, None]

    return jnp.concatenate(
        [
            state.connection,
            column(state.tolerance),
            column(state.inventory / config.volume),
            column(state.bought / config.volume),
            column(state.sold / config.volume),
            state.action,
            column(state.move / scale),
            column(1 - state.time / config.horizon),
        ],
        axis=1,
    )

  def _next_price(self, key: Array, price: Array) -> Array:
    """Draws the next reference price []."""
    config = self._config
    noise = jax.random.normal(key, (), price.dtype)
    if config.process == "arithmetic":
      return price + config.volatility * noise
    relative = config.volatility / config.initial_price
    return price * jnp.exp(relative * noise - relative**2 / 2)


def _dtype():
  return jnp.result_type(float)


def _draw_types(key: Array, profile: Profile, n: int) -> tuple[Array, Array]:
  """Draws the merchants' types: connection probabilities [n, C] and tolerances [n]."""
  first, second = profile
  connection = jnp.stack([first.connection] + [second.connection] * (n - 1))
  deviation = jnp.sqrt(jnp.maximum(second.tolerance_variance, 0))
  draws = second.tolerance_mean + deviation * jax.random.normal(key, (n - 1,), _dtype())
  tolerance = jnp.concatenate([jnp.asarray(first.tolerance)[None], draws])
  return connection.astype(_dtype()), jnp.clip(tolerance, 0, 1).astype(_dtype())
