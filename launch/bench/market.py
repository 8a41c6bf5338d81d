"""Suite `market` of `launch.benchmark`: env steps and updates a second of the n-merchant market.

  python -m launch.benchmark --suite=market --out=out/benchmark

Whole episodes at the constants of `market.Config`, everybody connected with probability 0.3,
drawing of types, connections and actions included; one call plays `batch` of them. An env step is
one step of one market with all its merchants. Columns:

  merchants, batch          n; episodes at once
  random_s                  env steps a second, uniform actions
  dense_s                   the same with `matching="dense"`
  numpy_s                   of `launch.baselines.market_loop`, one episode at a time, one core
  cpu_us                    CPU time of a step with uniform actions, on all cores together, least of
                            several calls: on a machine that does other work as well, which the
                            rest of the table suffers from, what tells the cost
  over_dense, over_numpy    random_s over each
  word_gops                 rate of operations on 32-bit words, measured (`word_rate`)
  floor_us, over_floor      operations that a step needs at least (`step_work`) / that rate;
                            microseconds taken / floor
  state_kb                  state, observations and rewards that a step reads and writes, at least
  policy_s                  env steps a second of `rollout.collect` with a fresh default policy
  updates_s                 PPO updates a second, each on the episodes that it plays
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from calsheq_jax import policy, ppo, rollout, self_play
from envs import market, matching
from launch.baselines import market_loop
from launch.runtime.timing import seconds

_CALLS = 5
# Words of the array on which the machine's rate is measured (in cache), operations in a chain on
# each, and how often the chain is gone through.
_WORDS, _CHAIN, _PASSES = 1 << 16, 60, 50
# Of Threefry-2x32 with 20 rounds: add, rotate (two shifts, or) and xor in each, five times two keys
# and a counter are added, and JAX makes one word of the two.
_THREEFRY = 20 * 5 + 5 * 3 + 1


@dataclasses.dataclass(frozen=True)
class Entry:
  """A line of the suite."""

  merchants: int
  batch: int

  @property
  def name(self) -> str:
    return f"n{self.merchants}:{self.batch}"


ENTRIES = tuple(Entry(n, batch) for n in (5, 10) for batch in (32, 256, 2048))


def step_work(config: market.Config) -> float:
  """Least operations on 32-bit words of an env step with random actions, an episode's reset shared
  out over its steps.

  With n merchants and w = C W words of customers:

    random words      w for the customers' sides, 3 n for actions, 1 for the price, 6 for keys, and
                      n C m / T for connections, each of which is also compared, shifted and added
    better prices     2 n (n - 1) w times and, or: both sides, every other merchant
    who is left       n w times 7: and-not, and, and for each side, or
    ties              n w times 3: and, or, or
    counting          n w times 6: and, count bits, add for each side

  Arithmetic on single numbers of a merchant, and observations, are left out: this is a floor.
  """
  n = config.num_merchants
  w = config.clusters * matching.words(config.customers)
  pairs = n * config.clusters * config.customers / config.horizon
  drawn = w + 3 * n + 7 + pairs
  return _THREEFRY * drawn + 3 * pairs + 4 * n * (n - 1) * w + 16 * n * w


def state_bytes(env: market.Market) -> int:
  """Bytes that a step reads and writes at least: the state once each, but for what never changes,
  and observations and rewards."""
  obs, state = jax.eval_shape(env.reset, jax.random.key(0), env.profile())
  size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
  constant = size((state.links, state.connection, state.tolerance))
  return 2 * size(state) - constant + size(obs) + size(state.rewards)


@functools.cache
def word_rate() -> float:
  """Operations a second on 32-bit words, chained and in cache, of the whole device."""

  def chain(_, x):
    for i in range(_CHAIN // 3):
      x = (x ^ (x >> (1 + i % 5))) + jnp.uint32(2 * i + 1)
    return x

  many = jax.jit(lambda x: jax.lax.fori_loop(0, _PASSES, chain, x))
  x = jnp.arange(_WORDS, dtype=jnp.uint32)
  return _WORDS * _CHAIN * _PASSES / min(seconds(lambda: many(x), 10)[1:])


def cpu_seconds(function: Callable[[], Any]) -> float:
  """Of all threads of this process, in one call."""
  start = time.process_time()
  jax.block_until_ready(function())
  return time.process_time() - start


def random_episodes(env: market.Market, batch: int) -> Callable[[jax.Array], Any]:
  """key -> rewards [batch, n] of episodes with uniform actions; shares and a sum of observations,
  so that nothing is left out of them."""
  low, high = env.action_space
  profile = env.profile()

  def episode(key):
    key_reset, key_steps = jax.random.split(key)
    obs, state = env.reset(key_reset, profile)

    def step(carry, key):
      state, total = carry
      key_action, key_step = jax.random.split(key)
      draws = jax.random.uniform(key_action, (env.num_agents * len(low),))
      action = low + (high - low) * draws.reshape(-1, len(low))
      obs, state, reward, _, _ = env.step(key_step, state, action, profile)
      return (state, total + obs.sum()), reward

    keys = jax.random.split(key_steps, env.horizon)
    (state, total), rewards = jax.lax.scan(step, (state, obs.sum()), keys)
    return rewards.sum(0), env.outputs(state)["share"], total

  return jax.jit(lambda key: jax.vmap(episode)(jax.random.split(key, batch)))


def numpy_episode(config: market.Config, rng: np.random.Generator) -> np.ndarray:
  """Plays an episode with uniform actions by the plain loop -> rewards [n]."""
  n, clusters, customers = config.num_merchants, config.clusters, config.customers
  linked = rng.random((n, clusters, customers)) < 0.3
  loop = market_loop.MarketLoop(config, linked, np.full(n, 0.5))
  low, high = market.Market(config).action_space
  total = np.zeros(n)
  for _ in range(config.horizon):
    action = rng.uniform(low, high, (n, len(low)))
    buys = rng.random((clusters, customers)) < 0.5
    lots = rng.random((n, clusters, customers))
    total += loop.step(action, buys, lots, rng.standard_normal())
  return total


def row(entry: Entry, rate: float, *, quick: bool = False) -> Mapping[str, Any]:
  """Measures one entry; the matrix product's rate is not used."""
  del rate
  batch = min(entry.batch, 8) if quick else entry.batch
  calls = 1 if quick else _CALLS
  config = market.Config(num_merchants=entry.merchants, horizon=4 if quick else 60)
  env, dense = (
      market.Market(dataclasses.replace(config, matching=kind)) for kind in ("packed", "dense")
  )
  median = lambda function: statistics.median(seconds(function, calls)[1:])
  steps = batch * config.horizon
  key = jax.random.key(0)
  play, play_dense = (
      functools.partial(random_episodes(each, batch), key) for each in (env, dense)
  )
  random_s, dense_s = steps / median(play), steps / median(play_dense)
  rng = np.random.default_rng(0)
  numpy_s = config.horizon / median(lambda: numpy_episode(config, rng))
  floor = step_work(config) / word_rate() * 1e6

  net, learning = policy.for_environment(env), ppo.Config()
  learner = jax.jit(lambda key: ppo.init(key, net, learning))(key)
  profiles = rollout.repeated(env.profile(), batch)
  collect = jax.jit(lambda key: rollout.collect(env, net, learner.agent, key, profiles))
  policy_s = steps / median(lambda: collect(key))
  update = jax.jit(lambda state: self_play.update(state, key, env, net, learning, profiles))
  updates_s = 1 / median(lambda: update(learner))
  return {
      "merchants": entry.merchants,
      "batch": batch,
      "random_s": random_s,
      "dense_s": dense_s,
      "numpy_s": numpy_s,
      "cpu_us": min(cpu_seconds(play) for _ in range(calls)) / steps * 1e6,
      "over_dense": random_s / dense_s,
      "over_numpy": random_s / numpy_s,
      "word_gops": word_rate() / 1e9,
      "floor_us": floor,
      "over_floor": 1e6 / random_s / floor,
      "state_kb": state_bytes(env) / 1e3,
      "policy_s": policy_s,
      "updates_s": updates_s,
  }
