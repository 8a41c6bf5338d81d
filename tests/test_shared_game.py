"""calsheq_jax.shared_game: V-hat and certificates, against games whose values are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from calsheq_jax import policy, ppo, rollout, shared_game, theory
from envs import linear_quadratic

GAME = linear_quadratic.LinearQuadratic()
PROFILE = GAME.profile()
COUPLING = GAME.config.coupling
MEAN_TYPE = (0.8 + 3 * 0.4) / 4  # mean over the random seat
CONSTANT = toys.Constant()
KEY = jax.random.key(0)
# Distance between an estimate and the truth, in standard errors, that one test in 2000 exceeds.
FAR = 3.5


def constant(x):
  return toys.constant(x, observation_size=2)


@jax.jit
def lq_values(first, second, key, profiles):
  return shared_game.values(GAME, CONSTANT, first, second, key, profiles)


def profiles(count, profile=PROFILE):
  return rollout.repeated(profile, count)


def lq_value(x, y, mean_type=MEAN_TYPE):
  """V-hat of two constants, by hand."""
  return x * (mean_type + COUPLING * y) - x**2 / 2


# V-hat.


def test_value_by_hand():
  result = shared_game.estimate(lq_values(constant([1.2]), constant([-0.5]), KEY, profiles(400)))
  expected = lq_value(1.2, -0.5)
  assert 0.001 < float(result.error) < 0.03
  assert abs(float(result.mean) - expected) < FAR * float(result.error)
  # The seat matters: types have mean 0.8 in one seat of four, and 0.4 in the others.
  assert abs(lq_value(1.2, -0.5, 0.8) - expected) > FAR * float(result.error)
  low, high = result.interval()
  np.testing.assert_allclose(high - low, 2 * 1.96 * result.error, rtol=1e-5)


def test_error_is_that_of_the_mean():
  samples = jnp.asarray(np.random.default_rng(0).normal(3, 2, size=(5, 10000)))
  result = shared_game.estimate(samples)
  np.testing.assert_allclose(result.error, 0.02, rtol=0.05)
  np.testing.assert_allclose(result.mean, 3, atol=FAR * 0.02)
  with pytest.raises(ValueError, match="1 sample"):
    shared_game.estimate(jnp.zeros((3, 1)))


def test_symmetric_values_are_those_of_the_pair():
  net = policy.for_environment(GAME, policy.Config(hidden=(4,)))
  agent = ppo.init(KEY, net, ppo.Config()).agent
  pair = shared_game.values(GAME, net, agent, agent, KEY, profiles(6))
  each = shared_game.symmetric_values(GAME, net, agent, KEY, profiles(6))
  assert each.shape == (6, 4)
  np.testing.assert_allclose(pair, each.mean(-1), rtol=1e-4, atol=1e-6)
  # The mean action is another strategy.
  mean = shared_game.values(GAME, net, agent, agent, KEY, profiles(6), mean_action=True)
  assert np.abs(pair - mean).max() > 0.01


def test_discount():
  env, still = toys.Countdown(), toys.constant([0.0, 0.0], 4)

  def value(d):
    return shared_game.values(
        env, toys.Constant(2), still, still, KEY, profiles(3, toys.rules(3)), discount=d
    )

  trajectory = jax.vmap(
      lambda key: rollout.episode(
          env, key, toys.rules(3), lambda k, x: policy.act(toys.Constant(2), still, k, x)
      ).trajectory.reward.mean(-1)
  )(rollout.keys_of(KEY, 3))
  expected = trajectory[:, :3] @ jnp.array([1, 0.5, 0.25])
  np.testing.assert_allclose(value(0.5), expected, rtol=1e-4, atol=1e-6)


def test_matrix_of_a_finite_set():
  actions = jnp.array([[0.2], [0.9], [-0.4]])
  samples = jax.jit(lambda a: shared_game.matrix(GAME, CONSTANT, a, KEY, profiles(200)))(
      constant(actions)
  )
  assert samples.shape == (3, 3, 200)
  for i in range(3):
    for j in range(3):
      alone = lq_values(constant(actions[i]), constant(actions[j]), KEY, profiles(200))
      np.testing.assert_allclose(samples[i, j], alone, rtol=1e-4, atol=1e-6)
  found = theory.gains(samples)
  x = actions[:, 0]
  u = lq_value(x[:, None], x[None])
  expected = (u - jnp.diag(u)).T
  away = jnp.abs(found.mean - expected)
  assert (away <= FAR * found.error + 1e-6).all() and found.mean.shape == (3, 3)
  # Samples are paired, so that the random types hardly count.
  assert float(found.error.max()) < 0.3 * float(shared_game.estimate(samples).error.max()) + 0.02


def test_certificate_by_hand():
  """Constant actions deviate from a constant action, in the game whose values are known."""
  judge = jax.jit(
      lambda a, b: shared_game.certificate(GAME, CONSTANT, a, b, KEY, profiles(800))
  )
  result = judge(constant([[0.1], [0.9], [2.0]]), constant([0.4]))
  assert int(result.chosen) // 2 == 1
  for found, expected in (
      (result.value, lq_value(0.4, 0.4)),
      (result.epsilon, lq_value(0.9, 0.4) - lq_value(0.4, 0.4)),
  ):
    assert abs(float(found.mean) - expected) < FAR * float(found.error)
  by_seat = lq_value(0.4, 0.4, np.array([0.8, 0.4, 0.4, 0.4]))
  assert (np.abs(result.rewards.mean - by_seat) < FAR * result.rewards.error).all()
  nothing = judge(constant([[0.4]] * 3), constant([0.4]))
  np.testing.assert_allclose([nothing.epsilon.mean, nothing.epsilon.error], 0, atol=1e-6)
  with pytest.raises(ValueError, match="3 profile"):
    shared_game.certificate(
        GAME, CONSTANT, constant([[0.4]]), constant([0.4]), KEY, profiles(3)
    )


def test_certificate_is_of_episodes_that_have_not_chosen():
  """The first half of the episodes chooses the deviation, and the second half judges it."""
  count = 20
  frozen = constant([0.5])
  responses = jax.tree.map(lambda *x: jnp.stack(x), *map(constant, ([0.3], [0.7], [1.5])))
  found = jax.jit(
      lambda a, b: shared_game.certificate(GAME, CONSTANT, a, b, KEY, profiles(count))
  )(responses, frozen)
  together = lq_values(frozen, frozen, KEY, profiles(count))
  response = jax.tree.map(lambda x: x[int(found.chosen) // 2], responses)
  gained = np.asarray(lq_values(response, frozen, KEY, profiles(count)) - together)
  half = count // 2
  assert abs(gained[half:].mean() - gained[:half].mean()) > 1e-3
  np.testing.assert_allclose(found.epsilon.mean, gained[half:].mean(), atol=1e-5)


def test_certificate_tries_mean_actions():
  """Noise costs half of the variance of the action, s^2 / 2, which the mean action gains."""
  net = policy.for_environment(GAME, policy.Config(hidden=(4,), initial_scale=0.1))
  agent = ppo.init(KEY, net, ppo.Config()).agent
  one = jax.tree.map(lambda x: x[None], agent)
  result = jax.jit(
      lambda: shared_game.certificate(GAME, net, one, agent, KEY, profiles(2000))
  )()
  assert int(result.chosen) == 1
  expected = (0.1 * float(GAME.action_space.high[0])) ** 2 / 2
  assert abs(float(result.epsilon.mean) - expected) < FAR * float(result.epsilon.error)
  assert float(result.epsilon.error) < expected / 4
