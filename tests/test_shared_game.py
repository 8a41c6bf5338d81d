"""calsheq_jax.shared_game and self_play: V-hat, certificates, best responses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from calsheq_jax import policy, ppo, rollout, self_play, shared_game, theory
from envs import linear_quadratic

GAME = linear_quadratic.LinearQuadratic()
PROFILE = GAME.profile()
COUPLING = GAME.config.coupling
MEAN_TYPE = (0.8 + 3 * 0.4) / 4  # over the random seat
CONSTANT = toys.Constant()
KEY = jax.random.key(0)
# Standard errors between an estimate and the truth: happens to one in 2000.
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
  # The seat matters: types are of mean 0.8 in one seat of four, and 0.4 in the others.
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
  # An agent at its mean action is another strategy.
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
  # Paired: that types are random hardly counts.
  assert float(found.error.max()) < 0.3 * float(shared_game.estimate(samples).error.max()) + 0.02


def test_certificate_by_hand():
  """Of constants against a constant, in the game whose values are known."""
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


def test_certificate_tries_mean_actions():
  """What noise alone costs: half the variance of the action, s^2 / 2."""
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


# Best responses.

NET = policy.for_environment(GAME, policy.Config(hidden=(6,), initial_scale=0.3))
LEARNING = ppo.Config(learning_rate=3e-3, kl_target=0.03)


@pytest.mark.slow
def test_best_response_to_a_policy_that_does_nothing_much():
  """Against means of 0 an agent of type theta does best with theta, and earns theta^2 / 2."""
  frozen = jax.tree.map(jnp.array, ppo.init(KEY, NET, LEARNING).agent)
  respond = jax.jit(
      lambda key: self_play.best_response(frozen, key, GAME, NET, LEARNING, profiles(256), 150)
  )
  response, metrics = respond(jax.random.key(1))
  assert metrics["reward"].shape == (150,)
  result = jax.jit(
      lambda r: shared_game.certificate(
          GAME, NET, r, frozen, jax.random.key(2), profiles(2000)
      )
  )(response)
  spread = GAME.config.spread**2 / 3
  best = (0.8**2 + 3 * 0.4**2) / 8 + spread / 2
  earned = float(result.epsilon.mean + result.value.mean)
  # A lower bound, up to what is random; seen: 0.175 of 0.182.
  assert 0.9 * best < earned < best + FAR * float(result.epsilon.error + result.value.error)


@pytest.mark.slow
def test_self_play_learns_the_equilibrium_in_closed_form():
  """Five seeds: mean actions within 2% of it; a best response gains below 1% of its value."""
  # A bonus that fades: without one actions lose their spread before their mean has settled, with
  # a steady one they keep it, which costs half its square.
  learning = ppo.Config(learning_rate=3e-3, kl_target=0.03, entropy_weight=0.2, minibatches=2)
  rates = jnp.linspace(1, 0, 300)

  @jax.jit
  @jax.vmap
  def train(key):
    play_key, respond_key, judge_key = jax.random.split(key, 3)
    state, _ = jax.lax.scan(
        lambda s, rate: self_play.update(
            s, play_key, GAME, NET, learning, profiles(512), rate, rate
        ),
        ppo.init(key, NET, learning), rates,
    )
    response, _ = self_play.best_response(
        state.agent, respond_key, GAME, NET, LEARNING, profiles(256), 150
    )
    return state.agent, shared_game.certificate(
        GAME, NET, response, state.agent, judge_key, profiles(4000)
    )

  agents, judged = train(jax.random.split(jax.random.key(0), 5))
  observation = jnp.stack(
      [jnp.concatenate([jnp.linspace(0.3, 1.3, 50), jnp.linspace(-0.1, 0.9, 50)]),
       jnp.repeat(jnp.array([-1.0, 1.0]), 50)], -1
  )
  action = jax.vmap(lambda a: policy.act(NET, a, None, observation).action)(agents)
  known = GAME.equilibrium(observation, PROFILE)
  error = jnp.sqrt(jnp.mean((action - known) ** 2, (1, 2)) / jnp.mean(known**2))
  assert error.shape == (5,) and float(error.max()) < 0.02, error
  value = float((GAME.equilibrium_value(PROFILE) @ jnp.array([1, 3])) / 4)
  _, high = judged.epsilon.interval()
  assert float(high.max()) < 0.01 * value, (judged.epsilon, value)
  np.testing.assert_allclose(judged.value.mean, value, rtol=0.03)
