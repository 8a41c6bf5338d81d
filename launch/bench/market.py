"""Suite `market` of `launch.benchmark`: the speed of the n-merchant market and of its training.

  python -m launch.benchmark --suite=market --out=out/benchmark

A call plays `batch` whole episodes with the constants of `market.Config`, in which a merchant is
connected to a customer with probability 0.3. It draws types, connections and actions, too. An
environment step is one step of one market with all its merchants. Columns:

  merchants, batch          number of merchants n, and of episodes of a call
  random_s                  environment steps per second with uniform actions
  dense_s                   the same with `matching="dense"`
  numpy_s                   the same by `launch.baselines.market_loop`, one episode at a time, on
                            one core
  cpu_us                    microseconds of CPU time per step with uniform actions, on all cores
                            together, the least of several calls; other work on the machine changes
                            it less than it changes the other columns
  over_dense, over_numpy    random_s / dense_s, random_s / numpy_s
  word_gops                 measured rate of operations on 32-bit words, in 10^9 (`word_rate`)
  floor_us, over_floor      least operations of a step (`step_work`) over that rate; measured time /
                            floor
  state_kb                  kilobytes of state, observations and rewards that a step reads and
                            writes, at least
  policy_s                  environment steps per second of `rollout.collect` with a fresh policy
  updates_s                 PPO updates per second, each on the episodes that it plays
"""

from collections.abc import Callable
import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from calsheq_jax import policy, ppo, rollout, self_play
from envs import market, matching
from launch.baselines import market_loop
from launch.bench.record import Row
from launch.bench.suite import Suite
from launch.runtime.timing import median_seconds, seconds

_CALLS = 5
# The rate of the machine is measured on an array of so many words, which fits into the cache.
_WORDS = 1 << 16
# Each pass applies a chain of so many operations to every word.
_CHAIN = 60
_PASSES = 50
# Operations per random word. Threefry-2x32 has 20 rounds of an addition, a rotation (two shifts and
# an or) and an exclusive or, and adds two keys and a counter five times. JAX combines its two words
# into one by an exclusive or.
_THREEFRY = 20 * 5 + 5 * 3 + 1


@dataclasses.dataclass(frozen=True)
class Entry:
  """An entry of the suite."""

  merchants: int
  batch: int  # number of episodes of a call

  @property
  def name(self) -> str:
    """The name for --only."""
    return f"n{self.merchants}:{self.batch}"


ENTRIES = tuple(Entry(n, batch) for n in (5, 10) for batch in (32, 256, 2048))


def step_work(config: market.Config) -> float:
  """Least operations on 32-bit words of an environment step with random actions.

  The operations of an episode's reset are divided among its steps. Arithmetic on the few numbers of
  a merchant and on observations is left out, so that this is a floor. With n merchants, C clusters
  of m customers, T steps, and w = C W words of customers:

    random words      w for the customers' sides, 3 n for actions, 1 for the price, 6 for keys, and
                      n C m / T for connections, each of which is also compared, shifted and added
    better prices     2 n (n - 1) w times two operations, for both sides and every other merchant
    free customers    n w times seven operations, for both sides
    ties              n w times three operations
    counting          n w times six operations, for both sides
  """
  n = config.num_merchants
  w = config.clusters * matching.words(config.customers)
  pairs = n * config.clusters * config.customers / config.horizon
  drawn = w + 3 * n + 7 + pairs
  return _THREEFRY * drawn + 3 * pairs + 4 * n * (n - 1) * w + 16 * n * w


def state_bytes(env: market.Market) -> int:
  """Least number of bytes that a step reads and writes.

  It reads the state, and writes observations, rewards and the part of the state that can change.
  """
  obs, state = jax.eval_shape(env.reset, jax.random.key(0), env.profile())

  def size(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

  constant = size((state.links, state.connection, state.tolerance))
  return 2 * size(state) - constant + size(obs) + size(state.rewards)


@functools.cache
def word_rate() -> float:
  """Operations per second of the whole device on 32-bit words in cache, each after the other."""

  def chain(_, x):
    for i in range(_CHAIN // 3):
      x = (x ^ (x >> (1 + i % 5))) + jnp.uint32(2 * i + 1)
    return x

  many = jax.jit(lambda x: jax.lax.fori_loop(0, _PASSES, chain, x))
  x = jnp.arange(_WORDS, dtype=jnp.uint32)
  return _WORDS * _CHAIN * _PASSES / min(seconds(lambda: many(x), 10)[1:])


def cpu_seconds(function: Callable[[], Any]) -> float:
  """CPU seconds of all threads of this process during a call."""
  start = time.process_time()
  jax.block_until_ready(function())
  return time.process_time() - start


def random_episodes(env: market.Market, batch: int) -> Callable[[jax.Array], Any]:
  """A compiled function that plays `batch` episodes with uniform actions.

  Returns:
    A function key -> (rewards [batch, n], market shares [batch, n], sums of observations [batch]).
    The latter two only keep the compiler from leaving out their computation.
  """
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
  """Plays an episode with uniform actions by the NumPy loop, and returns rewards [n]."""
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


def row(entry: Entry, rate: float, *, quick: bool = False) -> Row:
  """Measures an entry. The rate of matrix products is not used."""
  del rate
  batch = min(entry.batch, 8) if quick else entry.batch
  calls = 1 if quick else _CALLS
  config = market.Config(num_merchants=entry.merchants, horizon=4 if quick else 60)
  env, dense = (
      market.Market(dataclasses.replace(config, matching=kind)) for kind in ("packed", "dense")
  )

  def rate_of(function: Callable[[], Any], count: float) -> float:
    """Events per second, for `count` events in each call."""
    return count / median_seconds(function, calls)

  steps = batch * config.horizon
  key = jax.random.key(0)
  play, play_dense = (
      functools.partial(random_episodes(each, batch), key) for each in (env, dense)
  )
  random_s, dense_s = rate_of(play, steps), rate_of(play_dense, steps)
  rng = np.random.default_rng(0)
  numpy_s = rate_of(lambda: numpy_episode(config, rng), config.horizon)
  floor = step_work(config) / word_rate() * 1e6

  net, learning = policy.for_environment(env), ppo.Config()
  learner = jax.jit(lambda key: ppo.init(key, net, learning))(key)
  profiles = rollout.repeated(env.profile(), batch)
  collect = jax.jit(lambda key: rollout.collect(env, net, learner.agent, key, profiles))
  policy_s = rate_of(lambda: collect(key), steps)
  update = jax.jit(lambda state: self_play.update(state, key, env, net, learning, profiles))
  updates_s = rate_of(lambda: update(learner), 1)
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


SUITE = Suite(ENTRIES, row)
