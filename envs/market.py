"""The n-merchant market of Vadori et al. (2020), section 4.

Merchants quote prices to customers whom they are connected to, cannot see one another's quotes, and
unload inventory at a reference facility where anyone may trade. Merchant 1 is of supertype 1, the
others are of supertype 2.

One step, at reference price S and half-spread h (all of it our reconstruction but for what is
marked "printed in the paper", whose supplement with the details is not public):

  1. Merchant i acts (e_buy, e_sell, beta): it bids S - h (1 + e_buy) and asks S + h (1 + e_sell).
     e = 0 is the facility's price, e = -1 the mid price S.
  2. Every customer buys or sells with probability 1/2; those of cluster c trade c units. Each takes
     the best quote of the merchants it is connected to if that is no worse than the facility's,
     one of them evenly at random where several are best; else it trades with the facility, at
     S + h or S - h. That merchants do not see one another's quotes is printed in the paper.
  3. Inventory becomes I' = I + bought - sold, and I'' = (1 - beta) I' when beta I' of it has gone
     to the facility at a cost of h a unit.
  4. The price moves to S'. In money, a merchant earns

       bought (S - bid) + sold (ask - S) - h beta |I'| + I'' (S' - S)
         - (1 - tolerance) penalty h |I''|                                              (reward)

     of which the first line is exactly the change of its cash and marked inventory, cash + I S.
     That tolerance to inventory acts through the reward is printed in the paper; that who does not
     trade earns 0 is, too. A unit held for a step costs (1 - tolerance) penalty times what it costs
     to be rid of it. Where quotes do not lean against inventory, that makes a merchant send about
     that share of it to the facility in each step: with net flow of s.d. s a step, a share beta
     leaves |I| near s / sqrt(2 beta), and beta^-1/2 ((1 - tolerance) penalty + beta) is least
     there. Rewards are divided by h volume, where `volume` is what each merchant would trade in a
     step if all shared all customers equally: 1 is an equal share of the trade at the facility's
     prices.

Glossary: n merchants, C clusters, m customers in each, W = ceil(m / 32) words that hold a bit for
each customer of a cluster, T steps. Quantities are in units of goods, prices in money a unit.
"""

from collections.abc import Mapping
import dataclasses
import math
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs import matching
from envs.base import Array, Box
from envs.percentiles import percentiles, smooth_percentiles

PROCESSES: tuple[str, ...] = ("arithmetic", "geometric")
MATCHINGS = {"packed": matching.match_packed, "dense": matching.match_dense}

# The largest variance that anything within [0, 1] can have (Popoviciu).
_LARGEST_VARIANCE = 0.25


@dataclasses.dataclass(frozen=True)
class Config:
  """Constants of a market. Immutable and hashable.

  Printed in the paper: 5 to 10 merchants, 10 clusters of 50 customers, that clusters correspond to
  quantities. Our reconstruction: everything else, the quantities 1..C included.
  """

  num_merchants: int = 5  # n
  clusters: int = 10  # C; customers of cluster c = 1..C trade c units at a time
  customers: int = 50  # m, of each cluster
  horizon: int = 60  # T, steps of an episode
  initial_price: float = 100.0  # S at the start, money a unit
  half_spread: float = 1.0  # h of the facility, money a unit
  volatility: float = 1.0  # sigma: s.d. of a step's first price move, money a unit
  # S' = S + sigma xi, or "geometric": S' = S exp(s xi - s^2 / 2), s = sigma / initial_price.
  process: str = "arithmetic"
  penalty: float = 0.5  # of a unit held for a step at tolerance 0, in half-spreads
  matching: str = "packed"  # how customers find merchants: one of MATCHINGS; they agree

  def __post_init__(self):
    for field, least in (("num_merchants", 2), ("clusters", 1), ("customers", 1), ("horizon", 1)):
      value = getattr(self, field)
      try:
        object.__setattr__(self, field, operator.index(value))
      except TypeError:
        raise ValueError(f"{field}={value!r} must be an integer, at least {least}") from None
      if value < least:
        raise ValueError(f"{field}={value} must be at least {least}")
    total = self.total * self.horizon
    if 100 * total > np.iinfo(np.int32).max:
      raise ValueError(
          f"clusters={self.clusters}, customers={self.customers}, horizon={self.horizon}: an"
          f" episode trades {total} units, and counts in int32 allow"
          f" {np.iinfo(np.int32).max // 100}; take fewer"
      )
    for field in ("initial_price", "half_spread", "volatility", "penalty"):
      if not isinstance(getattr(self, field), (int, float, np.number)):
        raise ValueError(f"{field}={getattr(self, field)!r} must be a number")
    for field in ("initial_price", "half_spread"):
      if not 0 < getattr(self, field) < math.inf:
        raise ValueError(f"{field}={getattr(self, field)} must be positive and finite")
    for field in ("volatility", "penalty"):
      if not 0 <= getattr(self, field) < math.inf:
        raise ValueError(f"{field}={getattr(self, field)} must be finite and not negative")
    for field, allowed in (("process", PROCESSES), ("matching", MATCHINGS)):
      if getattr(self, field) not in allowed:
        raise ValueError(f"{field}={getattr(self, field)!r} is not one of {', '.join(allowed)}")

  @property
  def volume(self) -> float:
    """Units that each merchant trades in a step if all merchants share all customers equally."""
    return self.total / self.num_merchants

  @property
  def total(self) -> int:
    """Units that all customers trade in a step."""
    return self.customers * self.clusters * (self.clusters + 1) // 2


class Supertype1(NamedTuple):
  """Of merchant 1; C + 1 numbers. Printed in the paper, but for the ranges."""

  connection: Array  # [C] probability to be connected to a customer of each cluster, in [0, 1]
  tolerance: Array  # [] to inventory, in [0, 1]; at 1 inventory costs nothing


class Supertype2(NamedTuple):
  """Of merchants 2 to n; C + 2 numbers. Printed in the paper, but for the ranges."""

  connection: Array  # [C] as in supertype 1
  tolerance_mean: Array  # [] of the normal that tolerances are drawn from, then clipped to [0, 1]
  tolerance_variance: Array  # [] in [0, 1/4]


class Profile(NamedTuple):
  """The supertype profile, Lambda: 2 C + 3 numbers, 23 where C = 10.

  The paper gives the supertypes' sizes as 12 and 11; what it lists makes them 11 and 12.
  """

  supertype1: Supertype1
  supertype2: Supertype2


class State(NamedTuple):
  """A market in the middle of an episode."""

  time: Array  # [] int32, steps done
  price: Array  # [] S
  move: Array  # [] last change of S
  connection: Array  # [n, C] types: probabilities to be connected
  tolerance: Array  # [n] types: tolerances to inventory
  links: Array  # [n, C W] uint32, bit k of a word: connected to its k-th customer
  inventory: Array  # [n] I, units; negative: owed
  cash: Array  # [n] money, 0 at the start
  bought: Array  # [n] int32 units bought from customers in the last step
  sold: Array  # [n] int32 units sold to customers in the last step
  action: Array  # [n, 3] the last one, clipped
  counts: Array  # [n, C] int32 transactions with customers of each cluster so far
  rewards: Array  # [n] sum so far
  hedged: Array  # [n] units traded with the facility so far, sum of beta |I'|
  held: Array  # [n] sum of |I''| so far


class Market:
  """The environment (`envs.base.Environment`). Without state; equal where its config is."""

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
    """Of (e_buy, e_sell, beta)."""
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
    """Makes a profile. Both supertypes are alike but for what is given for supertype 1 alone.

    Args:
      connection: [C] or one number for all clusters.
      tolerance: of supertype 1, and mean of supertype 2.
      variance: of supertype 2's tolerance.
      connection1: of supertype 1; None: as `connection`.
      tolerance1: of supertype 1; None: as `tolerance`.

    Raises:
      ValueError: connection probabilities that are neither one number nor C of them.
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
    """Draws types and connections; see `envs.base`."""
    config = self._config
    n, dtype = config.num_merchants, _dtype()
    key_tolerance, key_links = jax.random.split(key)
    connection, tolerance = _draw_types(key_tolerance, profile, n)
    shape = (n, config.clusters, config.customers)
    draws = jax.random.uniform(key_links, (math.prod(shape),), dtype).reshape(shape)
    # Each its own array: what donates a state cannot give one buffer away twice.
    zeros = lambda *shape, dtype=dtype: jnp.zeros((n, *shape), dtype)
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
    """One step as the module describes it; see `envs.base`.

    Args:
      key: for the customers' sides, ties and the price's move.
      state: the present one.
      action: [n, 3], rows (e_buy, e_sell, beta), clipped to [-1, 1], [-1, 1] and [0, 1].
      profile: not looked at: the types are in the state.

    Returns:
      Observations [n, C + 9], state, reward [n], done [], info. The market closes at the horizon,
      which every merchant sees coming, and nothing follows: info["truncated"] is always False.
      Else in info, of this step: price [], bid [n], ask [n]; units bought [n] and sold [n] by each
      merchant, hedge [n] sold to the facility (negative: bought), inventory [n] left, I'';
      customers_bought [] and customers_sold [], of which facility_sold [] and facility_bought []
      with the facility; profit [n], change of cash and marked inventory, and penalty [n], both in
      money.
    """
    del profile
    config = self._config
    dtype = _dtype()
    h = config.half_spread
    key_customers, key_price = jax.random.split(key)
    low, high = (jnp.asarray(bound, dtype) for bound in self.action_space)
    action = jnp.clip(jnp.asarray(action, dtype), low, high)
    e_buy, e_sell, beta = action[:, 0], action[:, 1], action[:, 2]
    price = state.price
    bid, ask = price - h * (1 + e_buy), price + h * (1 + e_sell)

    trades = MATCHINGS[config.matching](
        key_customers, state.links, e_buy, e_sell, config.customers
    )
    quantity = jnp.arange(1, config.clusters + 1, dtype=jnp.int32)
    units = lambda counts: jnp.sum(counts * quantity, axis=-1, dtype=jnp.int32)
    bought, sold = units(trades.bought), units(trades.sold)

    gathered = state.inventory + (bought - sold)
    hedge = beta * gathered
    inventory = gathered - hedge
    after = self._next_price(key_price, price)
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
    return self._observe(state), state, reward, state.time >= config.horizon, info

  def outputs(self, state: State) -> Mapping[str, Array]:
    """What the episode has shown so far.

    Everything named supertype_* has a row for supertype 1 and one for supertype 2, which pools its
    n - 1 merchants.

    Returns:
      counts [n, C] int32, transactions of each quantity 1..C with customers; supertype_counts
        [2, C]; facility_counts [C], of customers who went to the facility.
      share [n], of the quantity of all customers' transactions, the facility's included;
        supertype_share [2], sums over merchants; facility_share []. They add up to 1 (before the
        first step all are 0). The paper words market share also as a share of transactions:
        count_share [n], supertype_count_share [2], facility_count_share [].
      percentiles [n, 9], supertype_percentiles [2, 9]: `percentiles` of the counts; and
        smooth_percentiles, supertype_smooth_percentiles: `smooth_percentiles` of them.
      rewards [n], sums so far; supertype_rewards [2], means of them over merchants.
      hedged [n], units traded with the facility a step; inventory [n], mean of |I''|.
    """
    config, dtype = self._config, _dtype()
    pool = lambda x: jnp.stack([x[0], x[1:].sum(0, dtype=x.dtype)])
    counts, pooled = state.counts, pool(state.counts)
    facility = state.time * config.customers - counts.sum(0, dtype=counts.dtype)  # [C], exactly
    quantity = jnp.arange(1, config.clusters + 1, dtype=jnp.int32)
    steps = jnp.maximum(state.time, 1).astype(dtype)
    share = lambda counts: (counts * quantity).sum(-1) / (steps * config.total)
    count_share = lambda counts: counts.sum(-1) / (steps * (config.customers * config.clusters))
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
    """[n, C + 9], as `observation_names` has it; units, prices and time in their scales."""
    config, dtype = self._config, _dtype()
    n = config.num_merchants
    scale = config.volatility or config.half_spread
    column = lambda x: jnp.broadcast_to(jnp.asarray(x, dtype), (n,))[:, None]
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
    config = self._config
    noise = jax.random.normal(key, (), price.dtype)
    if config.process == "arithmetic":
      return price + config.volatility * noise
    relative = config.volatility / config.initial_price
    return price * jnp.exp(relative * noise - relative**2 / 2)


def _dtype():
  return jnp.result_type(float)


def _draw_types(key: Array, profile: Profile, n: int) -> tuple[Array, Array]:
  """-> connection probabilities [n, C], tolerances [n]."""
  first, second = profile
  connection = jnp.stack([first.connection] + [second.connection] * (n - 1))
  deviation = jnp.sqrt(jnp.maximum(second.tolerance_variance, 0))
  draws = second.tolerance_mean + deviation * jax.random.normal(key, (n - 1,), _dtype())
  tolerance = jnp.concatenate([jnp.asarray(first.tolerance)[None], draws])
  return connection.astype(_dtype()), jnp.clip(tolerance, 0, 1).astype(_dtype())
