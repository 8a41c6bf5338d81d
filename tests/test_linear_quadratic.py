"""envs.linear_quadratic: the equilibrium, its uniqueness, and the answer of a calibration."""

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np
import pytest

from envs import linear_quadratic as lq

CONFIGS = [
    lq.Config(),
    lq.Config(num_agents=2, first=1, coupling=-0.7, spread=0.3),
    lq.Config(num_agents=6, first=4, coupling=0.8),
]
EPISODES = 40_000


def draw(env, profile, seed=0):
  keys = jax.random.split(jax.random.key(seed), EPISODES)
  return jax.jit(jax.vmap(env.reset, (0, None)))(keys, profile)


def rewards(env, state, actions, profile):
  """Rewards of actions: [E, n, 1] -> [E, n]."""
  step = jax.vmap(env.step, (None, 0, 0, None))
  return jax.jit(step)(jax.random.key(0), state, actions, profile)[2]


@pytest.mark.parametrize("config", CONFIGS)
def test_no_deviation_from_the_equilibrium_gains(config):
  env = lq.LinearQuadratic(config)
  profile = env.profile(0.9, -0.5)
  obs, state = draw(env, profile)
  action = env.equilibrium(obs, profile)
  low, high = env.action_space
  assert (low < action).all() and (action < high).all()
  value = env.equilibrium_value(profile)
  earned = rewards(env, state, action, profile)
  error = earned.std(0) / EPISODES**0.5
  assert (np.abs(earned.mean(0) - value[jnp.array(env.supertypes)]) < 4.5 * error).all()
  # One agent of each supertype deviates by a constant, by a slope in its type, or by noise.
  noise = jax.random.normal(jax.random.key(1), (EPISODES,))
  for seat in (0, config.num_agents - 1):
    theta = obs[:, seat, 0]
    centred = theta - theta.mean()
    for change in (0.2, -0.2, 0.5 * centred, -0.5 * centred, 0.2 * noise):
      changed = action.at[:, seat, 0].add(change)
      gain = (rewards(env, state, changed, profile) - earned)[:, seat]
      # The gain is -change^2 / 2, up to the sample mean of the other agents' actions.
      error = gain.std() / EPISODES**0.5
      assert abs(gain.mean() + jnp.mean(jnp.square(change)) / 2) < 4.5 * error + 1e-5
      assert gain.mean() < 0


@pytest.mark.parametrize("config", CONFIGS)
def test_best_responses_lead_to_the_equilibrium_from_anywhere(config):
  """Iterates the best responses of the supertypes' mean actions, in plain numbers."""
  env = lq.LinearQuadratic(config)
  profile = env.profile(-0.3, 0.7)
  mu = [float(x) for x in profile]
  for start in ([5.0, -5.0], [0.0, 0.0]):
    means = list(start)
    for _ in range(200):
      agents = [means[s] for s in env.supertypes]
      answers = []
      for supertype in (0, 1):
        seat = env.supertypes.index(supertype)
        others = agents[:seat] + agents[seat + 1 :]
        answers.append(mu[supertype] + config.coupling * sum(others) / len(others))
      means = answers
    np.testing.assert_allclose(env.equilibrium_means(profile), means, rtol=1e-5)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_profile_of_its_own_equilibrium_is_found_again(config):
  env = lq.LinearQuadratic(config)
  for point in ([0.8, 0.4], [-0.2, 0.9]):
    profile = env.profile(*point)
    means = env.equilibrium_means(profile)
    np.testing.assert_allclose(ravel_pytree(env.profile_of(means))[0], point, rtol=1e-5)
    # The outputs show these means when all agents play the equilibrium.
    obs, state = draw(env, profile)
    actions = env.equilibrium(obs, profile)
    played = jax.vmap(env.step, (None, 0, 0, None))(jax.random.key(0), state, actions, profile)[1]
    outputs = jax.vmap(env.outputs)(played)
    spread = outputs["supertype_action"].std(0) / EPISODES**0.5
    assert (np.abs(outputs["supertype_action"].mean(0) - means) < 4.5 * spread).all()


def test_by_hand():
  env = lq.LinearQuadratic(lq.Config(num_agents=3, first=1, coupling=0.5))
  profile = env.profile(1.0, 0.0)
  # A_1 = 1 + A_2 / 2, A_2 = (A_1 + A_2) / 4: A_2 = A_1 / 3, A_1 = 6 / 5.
  np.testing.assert_allclose(env.equilibrium_means(profile), [1.2, 0.4], rtol=1e-6)
  obs = jnp.array([[1.25, -1.0], [0.25, 1.0]])
  np.testing.assert_allclose(env.equilibrium(obs, profile)[:, 0], [1.45, 0.65], rtol=1e-6)
  _, state = env.reset(jax.random.key(0), profile)
  state = state._replace(type=jnp.array([1.0, 0.0, -0.5]))
  _, state, reward, done, info = env.step(
      jax.random.key(0), state, jnp.array([[1.0], [2.0], [0.0]]), profile
  )
  np.testing.assert_allclose(reward, [1.5 - 0.5, 2 * 0.25 - 2, 0], rtol=1e-6)
  assert done and not info["truncated"]
  outputs = env.outputs(state)
  np.testing.assert_allclose(outputs["supertype_action"], [1, 1])
  np.testing.assert_allclose(outputs["supertype_rewards"], [1, -0.75])


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"first": 4}, "first=4, num_agents=4: each supertype needs an agent"),
        ({"coupling": 1.0}, "coupling=1.0 must be between -1 and 1"),
        ({"spread": 0.0}, "spread=0.0 must be positive and finite"),
        ({"num_agents": 3.5}, "num_agents=3.5 must be an integer"),
    ],
)
def test_what_a_config_refuses(fields, message):
  with pytest.raises(ValueError, match=message):
    lq.Config(**fields)
