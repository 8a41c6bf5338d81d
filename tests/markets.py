"""A small market, and helpers that play it, for tests of the market and its parts."""

import functools

from hypothesis import settings
from hypothesis import strategies as st
import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np

from envs import market

N, CLUSTERS, CUSTOMERS, HORIZON = 4, 5, 40, 12
CONFIG = market.Config(
    num_merchants=N, clusters=CLUSTERS, customers=CUSTOMERS, horizon=HORIZON
)
QUANTITY = np.arange(1, CLUSTERS + 1)
ENV = market.Market(CONFIG)
SEEDS = st.integers(0, 2**31 - 1)
# Number of episodes in all batches, so that one size is compiled.
BATCH = 200


def examples(count):
  return settings(max_examples=count, deadline=None, derandomize=True)


def uniform_actions(key, shape, dtype=None):
  """Uniform actions within the bounds; half of the quotes are better than the facility's."""
  low, high = ENV.action_space
  dtype = dtype or jnp.result_type(float)
  draws = jax.random.uniform(key, (*shape, 3), dtype)
  return low.astype(dtype) + draws * (high - low).astype(dtype)


def follow(env, key, profile, actions):
  """Plays actions [T, n, 3]: first state, final state, rewards [T, n], info [T, ...].

  The keys: reset, then one a step.
  """
  key_reset, key_steps = jax.random.split(key)
  first = env.reset(key_reset, profile)[1]

  def step(state, x):
    _, state, reward, _, info = env.step(x[0], state, x[1], profile)
    return state, (reward, info)

  keys = jax.random.split(key_steps, len(actions))
  state, (rewards, info) = jax.lax.scan(step, first, (keys, actions))
  return first, state, rewards, info


@functools.cache
def player(env):
  """`follow`, compiled once for an environment."""
  return jax.jit(lambda *args: follow(env, *args))


@functools.cache
def batch_player(env):
  """`follow` on keys [B] and actions [B, T, n, 3]."""
  return jax.jit(jax.vmap(lambda *args: follow(env, *args), (0, None, 0)))


@functools.cache
def stepper(env):
  return jax.jit(env.reset), jax.jit(env.step), jax.jit(env.outputs)


def outputs_of(state):
  return stepper(ENV)[2](state)


batch_outputs = jax.jit(jax.vmap(ENV.outputs))


def play(seed, env=ENV, profile=None, actions=None):
  key_play, key_actions = jax.random.split(jax.random.key(seed))
  if actions is None:
    actions = uniform_actions(key_actions, (env.config.horizon, env.num_agents))
  return player(env)(key_play, ENV.profile() if profile is None else profile, actions)


def random_profile(seed):
  names = ravel_pytree(ENV.profile())[1]
  low, high = (ravel_pytree(bound)[0] for bound in ENV.profile_space)
  return names(low + (high - low) * jax.random.uniform(jax.random.key(seed), low.shape))


def fixed(e_buy=0.0, e_sell=0.0, beta=0.0):
  """Constant actions [T, N, 3], from one number for all merchants or a number for each."""
  one = [jnp.broadcast_to(jnp.asarray(x, jnp.float32), (N,)) for x in (e_buy, e_sell, beta)]
  return jnp.broadcast_to(jnp.stack(one, -1), (HORIZON, N, 3))
