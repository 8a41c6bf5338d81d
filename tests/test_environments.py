"""envs: the interface that every environment meets, and the dictionary interface."""

import functools

import chex
import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from envs import jaxmarl, linear_quadratic, market, symmetric

SMALL = {"num_merchants": 3, "clusters": 3, "customers": 40, "horizon": 4}
ENVIRONMENTS = {
    "market": market.Market(market.Config(**SMALL)),
    "market_dense": market.Market(market.Config(**SMALL, matching="dense", process="geometric")),
    "linear_quadratic": linear_quadratic.LinearQuadratic(),
    **{name: symmetric.SymmetricGame(game) for name, game in symmetric.GAMES.items()},
}


@pytest.fixture(params=ENVIRONMENTS)
def env(request):
  return ENVIRONMENTS[request.param]


def actions(env, key, stretch=1.0):
  """Uniform actions [n, A] in the box, or in a box `stretch` times as large about its middle."""
  low, high = env.action_space
  draws = jax.random.uniform(key, (env.num_agents, *low.shape), minval=-1, maxval=1)
  return (low + high) / 2 + stretch * draws * (high - low) / 2


def episode(env, key, profile, stretch=1.0):
  """Plays a whole episode: first observations [n, O], state; steps of obs, reward, done, info."""
  key_reset, key_steps = jax.random.split(key)
  first, state = env.reset(key_reset, profile)

  def step(state, key):
    key_action, key_step = jax.random.split(key)
    obs, state, *rest = env.step(key_step, state, actions(env, key_action, stretch), profile)
    return state, (obs, *rest)

  state, steps = jax.lax.scan(step, state, jax.random.split(key_steps, env.horizon))
  return first, state, steps


@functools.cache
def compiled(env):
  """The compiled functions reset, step and episode(env, key, profile)."""

  def play(key, profile):
    return episode(env, key, profile)

  return jax.jit(env.reset), jax.jit(env.step), jax.jit(play)


def middle(env):
  return jax.tree.map(lambda low, high: (low + high) / 2, *env.profile_space)


def test_says_what_it_is(env):
  n = env.num_agents
  assert n >= 2
  assert len(set(env.agent_names)) == len(env.agent_names) == n
  assert len(env.supertypes) == n
  assert set(env.supertypes) == set(range(len(env.supertype_names)))
  low, high = env.action_space
  assert low.ndim == 1 and low.shape == high.shape and (low < high).all()
  below, above = env.profile_space
  chex.assert_trees_all_equal_shapes_and_dtypes(below, above, env.profile())
  for a, x, b in zip(*map(jax.tree.leaves, (below, env.profile(), above))):
    assert (a < b).all() and (a <= x).all() and (x <= b).all()
  assert len(env.profile_names) == len(set(env.profile_names)) == len(ravel_pytree(below)[0])
  assert len(env.observation_names) == env.observation_size


def test_hashes_as_it_compares(env):
  again = type(env)(getattr(env, "config", None) or env.game)
  assert again == env and hash(again) == hash(env)
  assert len({*ENVIRONMENTS.values()}) == len(ENVIRONMENTS)


def test_shapes_and_types(env):
  n = env.num_agents
  reset, step, _ = compiled(env)
  profile, action = middle(env), actions(env, jax.random.key(1))
  obs, state = reset(jax.random.key(0), profile)
  after, next_state, reward, done, info = step(jax.random.key(2), state, action, profile)
  for x in (obs, after):
    chex.assert_shape(x, (n, env.observation_size))
    chex.assert_type(x, float)
  chex.assert_shape(reward, (n,))
  chex.assert_type(reward, float)
  for flag in (done, info["truncated"]):
    chex.assert_shape(flag, ())
    chex.assert_type(flag, bool)
  chex.assert_trees_all_equal_shapes_and_dtypes(state, next_state)
  outputs, before = map(jax.jit(env.outputs), (next_state, state))
  chex.assert_trees_all_equal_shapes_and_dtypes(dict(outputs), dict(before))
  chex.assert_tree_all_finite((obs, after, reward, dict(info), dict(outputs), dict(before)))


def test_ends_at_the_horizon_and_not_before(env):
  _, _, (_, _, done, info) = compiled(env)[2](jax.random.key(0), middle(env))
  np.testing.assert_array_equal(done, [False] * (env.horizon - 1) + [True])
  assert info["truncated"].shape == (env.horizon,)
  assert not (info["truncated"] & ~done).any()


def test_an_early_end_and_a_cut_one():
  env = toys.Countdown()
  for cut in (False, True):
    _, _, (_, _, done, info) = episode(env, jax.random.key(0), toys.rules(3, cut))
    np.testing.assert_array_equal(done[:3], [False, False, True])
    np.testing.assert_array_equal(info["truncated"][:3], [False, False, cut])


def test_maps_over_keys_and_profiles(env):
  # All rows differ, and each equals the result without the others.
  keys = jax.random.split(jax.random.key(3), 3)
  low, high = env.profile_space
  mix = jnp.array([0.2, 0.5, 0.9])
  profiles = jax.vmap(lambda w: jax.tree.map(lambda a, b: a + w * (b - a), low, high))(mix)
  alone = compiled(env)[2]
  together = jax.jit(jax.vmap(alone))(keys, profiles)
  for row in range(3):
    one = alone(keys[row], jax.tree.map(lambda x: x[row], profiles))
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[row], together), one, rtol=1e-5, atol=1e-5)
  rewards = together[2][1]
  for row in (0, 1):
    assert not np.allclose(rewards[row], rewards[row + 1])


def test_any_profile_within_the_bounds_is_legal(env):
  for profile in env.profile_space:
    first, state, steps = compiled(env)[2](jax.random.key(4), profile)
    chex.assert_tree_all_finite((first, steps, dict(env.outputs(state))))


def test_clips_actions(env):
  low, high = env.action_space
  reset, step, _ = compiled(env)
  profile = middle(env)
  _, state = reset(jax.random.key(5), profile)
  wild = actions(env, jax.random.key(6), stretch=3.0)
  assert (wild < low).any() or (wild > high).any()
  results = [step(jax.random.key(7), state, a, profile) for a in (wild, jnp.clip(wild, low, high))]
  chex.assert_trees_all_equal(*results)


def test_one_step_traces_once(env):
  chex.clear_trace_counter()  # traces are counted by source, which environments share
  step = jax.jit(chex.assert_max_traces(env.step, n=1))
  for number, profile in enumerate((*env.profile_space, middle(env))):
    _, state = compiled(env)[0](jax.random.key(number), profile)
    for time in range(env.horizon):
      key = jax.random.key(10 * number + time)
      _, state, _, done, _ = step(key, state, actions(env, key), profile)
    assert done


def test_the_same_key_plays_the_same_episode(env):
  play = compiled(env)[2]
  first, again, other = (play(jax.random.key(seed), middle(env)) for seed in (8, 8, 9))
  chex.assert_trees_all_equal(first, again)
  assert not np.allclose(first[2][1], other[2][1])


# The dictionary interface.


def test_dictionaries_hold_what_the_arrays_do(env):
  profile = middle(env)
  wrapped = jaxmarl.DictionaryEnv(env, profile)
  assert wrapped.agents == list(env.agent_names)
  assert wrapped.num_agents == env.num_agents
  assert sorted(sum(wrapped.agent_classes.values(), [])) == sorted(wrapped.agents)
  reset, step, _ = compiled(env)
  obs, state = wrapped.reset(jax.random.key(0))
  expected, inner = reset(jax.random.key(0), profile)
  # Only one of them is compiled, and so they round differently.
  np.testing.assert_allclose(jnp.stack([obs[a] for a in wrapped.agents]), expected, rtol=1e-6)
  keys = jax.random.split(jax.random.key(1), env.num_agents)
  chosen = {a: wrapped.action_space(a).sample(k) for a, k in zip(wrapped.agents, keys)}
  for agent in wrapped.agents:
    assert wrapped.action_space(agent).contains(chosen[agent])
    assert not wrapped.action_space(agent).contains(chosen[agent] + 100)
    assert wrapped.observation_space(agent).contains(obs[agent])
    assert not wrapped.observation_space(agent).contains(obs[agent][:-1])
    assert wrapped.get_avail_actions(state)[agent].all()
  got = jax.jit(wrapped.step_env)(jax.random.key(2), state, chosen)
  stacked = jnp.stack([chosen[a] for a in env.agent_names])
  after, _, reward, done, _ = step(jax.random.key(2), inner, stacked, profile)
  assert set(got[3]) == {*wrapped.agents, "__all__"}
  for x in jax.tree.leaves(got[4]):
    assert x.shape[0] == env.num_agents
  for i, agent in enumerate(wrapped.agents):
    np.testing.assert_allclose(got[0][agent], after[i], rtol=1e-6)
    np.testing.assert_allclose(got[2][agent], reward[i], rtol=1e-6)
    assert got[3][agent] == done == got[3]["__all__"]
  chex.assert_trees_all_equal(wrapped.get_obs(got[1]), got[0])
  with pytest.raises(KeyError, match=f"no action for {wrapped.agents[0]}"):
    wrapped.step(jax.random.key(2), state, dict(list(chosen.items())[1:]))


def test_dictionaries_begin_a_new_episode_after_the_last():
  env = ENVIRONMENTS["market"]
  wrapped = jaxmarl.DictionaryEnv(env, env.profile())
  _, first = wrapped.reset(jax.random.key(0))
  action = {agent: jnp.zeros(3) for agent in wrapped.agents}

  def step(carry, key):
    obs, state, _, dones, _ = wrapped.step(key, carry, action)
    return state, (obs["merchant_1"], state.env.time, state.env.links, dones["__all__"])

  keys = jax.random.split(jax.random.key(1), 2 * env.horizon + 1)
  _, (obs, time, links, done) = jax.jit(lambda s, k: jax.lax.scan(step, s, k))(first, keys)
  np.testing.assert_array_equal(time, [1, 2, 3, 0, 1, 2, 3, 0, 1])
  np.testing.assert_array_equal(done, [False, False, False, True] * 2 + [False])
  left = env.observation_names.index("time_left")
  np.testing.assert_allclose(obs[:, left], 1 - np.array(time) / env.horizon, rtol=1e-6)
  assert (links[0] == links[2]).all() and not (links[2] == links[3]).all()
  # If a reset state is given, the episode goes on from that state.
  _, state, *_ = wrapped.step(keys[0], first._replace(env=first.env._replace(time=jnp.int32(3))),
                              action, reset_state=first)
  chex.assert_trees_all_equal(state, first)
