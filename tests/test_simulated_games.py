"""calsheq_jax.empirical: simulated games with known payoffs, and deviators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from calsheq_jax import empirical as simulation
from calsheq_jax import policy, ppo, rollout
from envs import linear_quadratic
from nes_jax import empirical

KEY = jax.random.key(0)
GAME = linear_quadratic.LinearQuadratic()
COUPLING = GAME.config.coupling
TYPES = np.array([0.8, 0.4, 0.4, 0.4])  # means of the types
ACTIONS = {"zero": 0.0, "half": 0.5, "one": 1.0}
POLICIES = {label: simulation.constant([x]) for label, x in ACTIONS.items()}
# Distance between an estimate and the truth, in standard errors, that one test in 2000 exceeds.
FAR = 3.5


@pytest.fixture(scope="module")
def game():
  return simulation.simulate(KEY, GAME, POLICIES, 300)


def payoffs_by_hand(profile):
  """Expected rewards [n] of constant actions."""
  x = np.array(list(ACTIONS.values()))[profile]
  others = (x.sum() - x) / (len(x) - 1)
  return x * (TYPES + COUPLING * others) - x**2 / 2


def test_payoffs_by_hand(game):
  assert game.roles == (0, 1, 1, 1) and game.labels == (tuple(ACTIONS),) * 4
  # 3 of agent 1 times the multisets of 3 out of 3.
  assert game.profiles.shape == (30, 4) and game.samples.shape == (300, 30, 4)
  expected = np.array([payoffs_by_hand(profile) for profile in game.profiles])
  error = np.sqrt(np.einsum("kii->ki", game.covariance) / 300)
  np.testing.assert_array_less(abs(game.mean - expected), FAR * error + 1e-6)
  assert 0.01 < error.max() < 0.05


def test_profiles_share_random_numbers(game):
  """An agent's noise is its action times its type, whatever the others do."""
  rows = np.flatnonzero(game.profiles[:, 0] == 2)
  noise = game.samples[:, rows, 0] - [payoffs_by_hand(game.profiles[row])[0] for row in rows]
  np.testing.assert_allclose(noise, noise[:, :1].repeat(len(rows), 1), atol=1e-5)
  assert noise.std() > 0.1


def test_roles_save_profiles_and_change_nothing_else(game):
  whole = simulation.simulate(KEY, GAME, POLICIES, 300, symmetric=False)
  assert len(whole.profiles) == 81 and whole.roles == (0, 1, 2, 3)
  # Both games have the same episodes, of which the smaller one pools agents.
  np.testing.assert_allclose(whole.payoffs()[0], game.payoffs()[0], atol=1e-5)
  np.testing.assert_allclose(whole.payoffs(), game.payoffs(), atol=0.1)


def test_chunks_do_not_matter():
  few = dict(list(POLICIES.items())[:2])
  one, other = (simulation.simulate(KEY, GAME, few, 5, chunk=chunk) for chunk in (7, 1000))
  np.testing.assert_array_equal(one.samples, other.samples)


def test_trained_agents_act_as_they_do_elsewhere():
  env = toys.Countdown()
  net = policy.for_environment(env, policy.Config(hidden=(4,)))
  agent = ppo.init(KEY, net, ppo.Config()).agent
  profile = toys.rules(4)
  policies = {"trained": simulation.trained(net, agent, mean_action=True)}
  found = simulation.simulate(KEY, env, policies, 4, profile=profile)
  keys = jax.vmap(lambda e: jax.random.fold_in(KEY, e))(jnp.arange(4))

  def play(key):
    played = rollout.episode(
        env, key, profile, lambda key, seen: policy.act(net, agent, None, seen)
    )
    return rollout.episode_returns(played.trajectory)

  np.testing.assert_allclose(found.samples[:, 0], jax.vmap(play)(keys), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "policies, episodes, message",
    [
        ({}, 4, "policies is empty"),
        (POLICIES, 1, "episodes=1"),
        ({"two": simulation.constant([0.0, 1.0])}, 4, r"'two' returns an action of shape \[2\]"),
        ({"a": POLICIES["zero"], "bad": simulation.constant([np.nan])}, 4,
         r"profile \(a, a, a, bad\), episode 0: the payoff of player 0 is nan"),
    ],
)
def test_bad_arguments(policies, episodes, message):
  with pytest.raises(ValueError, match=message):
    simulation.simulate(KEY, GAME, policies, episodes)


# Deviators.

NET = policy.for_environment(GAME, policy.Config(hidden=(6,), initial_scale=0.3))
LEARNING = ppo.Config(learning_rate=3e-3, kl_target=0.03)


def deviation(policies, updates, **options):
  found = simulation.simulate(KEY, GAME, policies, 100)
  report = empirical.solve(found, resamples=100)
  return simulation.deviate(
      jax.random.key(1), GAME, policies, report, 0, NET, LEARNING, updates=updates, **options
  )


@pytest.mark.slow
def test_a_set_that_is_too_small_is_a_violation():
  """If all others play 0, an agent of type theta earns theta^2 / 2 at best."""
  found = deviation({"zero": POLICIES["zero"]}, 150, episodes=256, judge_episodes=2000)
  best = (0.8**2 + GAME.config.spread**2 / 3) / 2
  gain, error = float(found.gain.mean), float(found.gain.error)
  assert 0.85 * best < gain < best + FAR * error
  assert found.violation and found.top == 0 and found.chosen >= 2
  assert float(found.value.mean) == 0


@pytest.mark.slow
def test_no_deviation_gains_over_the_equilibrium():
  """With the equilibrium in closed form in the set, every trained deviator loses."""
  # A = mu + coupling m, with m_1 = A_2 and m_2 = (A_1 + 2 A_2) / 3.
  first, second = np.linalg.solve(
      [[1, -COUPLING], [-COUPLING / 3, 1 - 2 * COUPLING / 3]], [0.8, 0.4]
  )
  means = jnp.array([second, (first + 2 * second) / 3])

  def equilibrium(key, observation):
    del key
    return observation[:1] + COUPLING * jnp.where(observation[1] > 0, means[1], means[0])

  found = deviation({"equilibrium": equilibrium}, 2, episodes=64, judge_episodes=400)
  np.testing.assert_allclose(
      found.value.mean, (first**2 + GAME.config.spread**2 / 3) / 2,
      atol=FAR * float(found.value.error),
  )
  assert float(found.gain.mean) < 0 and not found.violation


def test_bad_deviations(game):
  report = empirical.solve(game, resamples=2)

  def deviate(policies=POLICIES, seat=0, **options):
    simulation.deviate(KEY, GAME, policies, report, seat, NET, LEARNING, **options)

  with pytest.raises(ValueError, match="seat=4: an agent of 0 to 3"):
    deviate(seat=4)
  with pytest.raises(ValueError, match=r"\[3, 3, 3, 3\] strategies, and 1 policies"):
    deviate({"zero": POLICIES["zero"]})
  with pytest.raises(ValueError, match="judge_episodes=2 must be at least 4"):
    deviate(judge_episodes=2)
  with pytest.raises(ValueError, match="updates=0 must be at least 1"):
    deviate(updates=0)
