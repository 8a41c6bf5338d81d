"""calsheq_jax.ppo: advantages by hand, loss and gradient, devices, learning."""

import dataclasses
import math
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from calsheq_jax import calibrator, policy, ppo, rollout

ROOT = pathlib.Path(__file__).parent.parent
ENV = toys.Countdown()
POLICY = policy.for_environment(ENV, policy.Config(hidden=(8,)))
CONFIG = ppo.Config(epochs=2, minibatches=4)
PROFILES = rollout.repeated(toys.rules(), 8)


@pytest.fixture(scope="module")
def fresh():
  return jax.jit(lambda key: ppo.init(key, POLICY, CONFIG))(jax.random.key(0))


@pytest.fixture(scope="module")
def played(fresh):
  play = jax.jit(lambda key: rollout.collect(ENV, POLICY, fresh.agent, key, PROFILES).trajectory)
  return play(jax.random.key(1))


@jax.jit
def learn(state, key, trajectory, learning_rate):
  return ppo.update(state, key, trajectory, POLICY, CONFIG, learning_rate)


# Advantages.


def test_advantages_by_hand():
  """gamma = lambda = 1/2; the columns go on, terminate at t = 1, or are truncated at t = 1."""
  reward = jnp.array([[1.0, 1, 1], [2, 2, 2], [4, 0, 0]])
  value = jnp.array([[1.0, 1, 1], [2, 2, 2], [3, 6, 6]])
  last = jnp.array([8.0, 6, 6])
  done = jnp.array([[0, 0, 0], [0, 1, 1], [0, 1, 1]], bool)
  truncated = jnp.array([[0, 0, 0], [0, 0, 1], [0, 0, 0]], bool)
  result = ppo.advantages(reward, value, last, done, truncated, 0.5, 0.5)
  # Column 0: deltas 1 + 1 - 1 = 1, 2 + 1.5 - 2 = 1.5, 4 + 4 - 3 = 5; A_2 = 5, A_1 = 1.5 + 5/4.
  np.testing.assert_allclose(result[:, 0], [1 + 2.75 / 4, 2.75, 5])
  # Column 1: A_1 = 2 - 2 = 0, A_0 = 1 + 1 - 1.
  np.testing.assert_allclose(result[:2, 1], [1, 0])
  # Column 2: the state in which it was cut has the value 6, so that A_1 = 2 + 3 - 2.
  np.testing.assert_allclose(result[:2, 2], [1 + 0.75, 3])


def sequence(seed=0, steps=7):
  rng = np.random.default_rng(seed)
  reward, value = rng.normal(size=(2, steps)).astype(np.float32)
  return jnp.asarray(reward), jnp.asarray(value), jnp.float32(rng.normal())


def test_advantages_reduce_to_returns_and_to_one_step_errors():
  reward, value, last = sequence()
  no = jnp.zeros(7, bool)
  full = ppo.advantages(reward, value, last, no, no, 0.9, 1.0)
  returns = [
      sum(0.9**k * reward[t + k] for k in range(7 - t)) + 0.9 ** (7 - t) * last for t in range(7)
  ]
  np.testing.assert_allclose(full, np.array(returns) - value, rtol=1e-5, atol=1e-6)
  one = ppo.advantages(reward, value, last, no, no, 0.9, 0.0)
  following = np.append(value[1:], last)
  np.testing.assert_allclose(one, reward + 0.9 * following - value, rtol=1e-5, atol=1e-6)


def test_an_end_cuts_the_sequence_in_two():
  reward, value, last = sequence()
  done = jnp.arange(7) == 3
  whole = ppo.advantages(reward, value, last, done, jnp.zeros(7, bool), 0.9, 0.8)
  first = ppo.advantages(
      reward[:4], value[:4], jnp.float32(99), done[:4], jnp.zeros(4, bool), 0.9, 0.8
  )
  np.testing.assert_allclose(whole[:4], first, rtol=1e-6)
  cut = ppo.advantages(reward[:4], value[:4], value[4], done[:4], done[:4], 0.9, 0.8)
  open_end = ppo.advantages(
      reward[:4], value[:4], value[4], jnp.zeros(4, bool), jnp.zeros(4, bool), 0.9, 0.8
  )
  np.testing.assert_allclose(cut, open_end, rtol=1e-6)


# The loss.


def samples_of(state, trajectory, weight=None):
  def flat(x):
    return x.reshape((-1,) + x.shape[3:])

  rng = np.random.default_rng(3)
  number = trajectory.reward.size
  return ppo.Samples(
      observation=flat(policy.normalised(state.agent, trajectory.observation)),
      action=flat(trajectory.action),
      log_prob=flat(trajectory.log_prob),
      parameters=flat(trajectory.parameters),
      value=flat(trajectory.value),
      advantage=jnp.asarray(rng.normal(size=number), jnp.float32),
      target=jnp.asarray(rng.normal(size=number), jnp.float32),
      weight=jnp.ones(number) if weight is None else weight,
  )


def loss(params, samples, config=CONFIG, kl_weight=0.3):
  return ppo._loss(params, samples, POLICY, config, jnp.float32(kl_weight))[0]


def test_slope_at_ratio_one_is_the_policy_gradient(fresh, played):
  """Without the other terms it is minus the weighted mean of advantage times score."""
  config = dataclasses.replace(CONFIG, value_weight=0.0)
  weight = jnp.asarray(np.random.default_rng(1).random(played.reward.size) < 0.6, jnp.float32)
  samples = samples_of(fresh, played, weight)

  def plain(params):
    parameters, _ = POLICY.apply(params, samples.observation)
    score = POLICY.distribution(parameters).log_prob(samples.action)
    return -jnp.sum(weight * samples.advantage * score) / weight.sum()

  params = fresh.agent.params
  ours = jax.jit(jax.grad(lambda p: loss(p, samples, config)))(params)
  chex.assert_trees_all_close(ours, jax.jit(jax.grad(plain))(params), rtol=1e-3, atol=1e-5)
  assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(ours)) > 0.01


def test_slope_by_finite_differences(x64, fresh, played):
  """The loss has all its terms, at a ratio other than 1, in float64."""

  def wide(tree):
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), tree)

  samples = wide(samples_of(fresh, played))
  config = dataclasses.replace(CONFIG, entropy_weight=0.1)
  rng = np.random.default_rng(5)
  params = jax.tree.map(lambda x: x + 0.03 * rng.normal(size=x.shape), wide(fresh.agent.params))
  direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), params)
  value = jax.jit(lambda t: loss(jax.tree.map(lambda x, d: x + t * d, params, direction), samples,
                                 config))
  slope = jax.jit(jax.grad(value))(0.0)
  np.testing.assert_allclose((value(1e-5) - value(-1e-5)) / 2e-5, slope, rtol=1e-5)


def two_steps(ratio, advantage, value=0.0, old_value=0.0, target=0.0):
  """A sample whose ratio, advantage and values under the policy `Told` are as given."""
  return ppo.Samples(
      observation=jnp.array([[value]]),
      action=jnp.zeros((1, 1)),
      log_prob=jnp.array([-math.log(ratio)]),
      parameters=jnp.zeros((1, 1)),
      value=jnp.array([old_value]),
      advantage=jnp.array([advantage]),
      target=jnp.array([target]),
      weight=jnp.ones(1),
  )


class Told:
  """A policy whose log-probability is its parameter, and whose value is the observation."""

  def apply(self, params, observation):
    return jnp.broadcast_to(params, observation.shape), observation[..., 0] + 0 * params

  def distribution(self, parameters):
    return self._Distribution(parameters)

  class _Distribution:
    def __init__(self, parameters):
      self.parameters = parameters

    def log_prob(self, value):
      return self.parameters[..., 0]

    def entropy(self):
      return 7 + 0 * self.parameters[..., 0]

    def kl_divergence(self, other):
      return 3 + 0 * other.parameters[..., 0]


@pytest.mark.parametrize(
    "ratio, advantage, gain, slope",
    [
        (1.1, 2.0, 2.2, 2.2),
        (1.5, 2.0, 2.4, 0.0),  # clipped: the ratio has moved far enough
        (0.5, 2.0, 1.0, 1.0),  # not clipped: the ratio has moved the wrong way
        (0.5, -2.0, -1.6, 0.0),
        (1.5, -2.0, -3.0, -3.0),
    ],
)
def test_clipping_by_hand(ratio, advantage, gain, slope):
  config = ppo.Config(value_weight=0.0, entropy_weight=0.1)
  samples = two_steps(ratio, advantage)

  def one(x):
    return ppo._loss(x, samples, Told(), config, jnp.float32(0.5))

  (value, report), derivative = jax.value_and_grad(one, has_aux=True)(jnp.float32(0))
  np.testing.assert_allclose(value, -gain + 0.5 * 3 - 0.1 * 7, rtol=1e-5)
  np.testing.assert_allclose(derivative, -slope, rtol=1e-5, atol=1e-6)
  assert float(report["clip_frac"]) == (abs(ratio - 1) > 0.2)


@pytest.mark.parametrize(
    "value, old_value, target, expected",
    [
        (1.1, 1.0, 2.0, 0.81),  # the value has moved less than the clip
        (1.9, 1.0, 2.0, 0.64),  # the value has moved farther and counts as 1.2
        (0.5, 1.0, 2.0, 2.25),  # the value has moved away from the target and is not clipped
    ],
)
def test_value_clipping_by_hand(value, old_value, target, expected):
  samples = two_steps(1.0, 0.0, value, old_value, target)
  report = ppo._loss(jnp.float32(0), samples, Told(), ppo.Config(), jnp.float32(0))[1]
  np.testing.assert_allclose(report["loss/value"], expected / 2, rtol=1e-5)


def test_values_are_clipped_about_what_the_network_put_out(fresh, played):
  """Nothing is clipped in the first minibatch, however far the normaliser has moved."""
  far = played._replace(reward=played.reward + 100)

  def learn(clip):
    return ppo.update(
        fresh, jax.random.key(2), far, POLICY,
        dataclasses.replace(CONFIG, epochs=1, minibatches=1, kl_weight=0.0, value_clip=clip),
    )

  (clipped, report), (free, expected) = learn(0.2), learn(math.inf)
  np.testing.assert_allclose(report["loss/value"], expected["loss/value"], rtol=1e-5)
  chex.assert_trees_all_close(clipped.agent.params, free.agent.params, rtol=1e-5, atol=1e-7)


def test_kl_weight_adapts():
  weights = jnp.full(4, 0.2)
  kl = jnp.array([0.001, 0.008, 0.014, 0.02])
  np.testing.assert_allclose(ppo.adapt_kl_coefficient(weights, kl, 0.01), [0.1, 0.2, 0.2, 0.4])
  off = ppo.adapt_kl_coefficient(jnp.zeros(2), jnp.array([1.0, 0.0]), 0.01)
  np.testing.assert_array_equal(off, 0)
  assert 0 < float(ppo.adapt_kl_coefficient(jnp.float32(1e-4), jnp.float32(0), 0.01))


# Updates.


def test_first_ratio_is_one(fresh, played):
  state, metrics = learn(fresh, jax.random.key(2), played, 1.0)
  assert float(metrics["first_ratio"]) < 1e-4  # rounding gives 2e-6
  assert 0 < float(metrics["approx_kl"]) < 0.1 and int(state.step) == 1
  assert all(np.isfinite(x) and x.shape == () for x in metrics.values())
  # The trajectory is still that of the policy before.
  _, late = learn(state, jax.random.key(3), played, 1.0)
  assert float(late["first_ratio"]) > 0.01


def test_learning_rate_scales_the_step(fresh, played):
  state, _ = learn(fresh, jax.random.key(2), played, 0.0)
  jax.tree.map(np.testing.assert_array_equal, state.agent.params, fresh.agent.params)
  assert float(state.agent.returns.count) == float(state.agent.observations.count) == 144

  # To first order, half of the learning rate moves the parameters half as far.
  def length(s):
    return math.sqrt(sum(
        float(jnp.sum((x - y) ** 2))
        for x, y in zip(jax.tree.leaves(s.agent.params), jax.tree.leaves(fresh.agent.params))
    ))

  whole, half = (length(learn(fresh, jax.random.key(2), played, r)[0]) for r in (0.02, 0.01))
  np.testing.assert_allclose(whole / half, 2, rtol=0.05)


def test_normalisers(fresh, played):
  """Normalisers have the batch's moments, and values are then in the units of returns."""
  state, metrics = learn(fresh, jax.random.key(2), played, 0.0)
  np.testing.assert_allclose(
      state.agent.observations.mean, played.observation.mean((0, 1, 2)), rtol=1e-4, atol=1e-5
  )
  returns = played.value + ppo.advantages(
      played.reward, played.value, played.last_value, played.done, played.truncated, 1.0, 0.95
  )
  np.testing.assert_allclose(state.agent.returns.mean, returns.mean(), rtol=1e-4)
  np.testing.assert_allclose(state.agent.returns.variance, returns.var(), rtol=1e-4)
  explained = 1 - ((returns - played.value) ** 2).mean() / returns.var()
  np.testing.assert_allclose(metrics["explained_variance"], explained, rtol=1e-3)
  off = dataclasses.replace(CONFIG, normalise_observations=False, normalise_returns=False)
  state, _ = ppo.update(fresh, jax.random.key(2), played, POLICY, off)
  chex.assert_trees_all_equal(state.agent.returns, fresh.agent.returns)
  chex.assert_trees_all_equal(state.agent.observations, fresh.agent.observations)


def test_what_is_not_finite_is_skipped_and_counted(fresh, played):
  wild = played._replace(reward=played.reward.at[0, 0, 0].set(jnp.inf))
  skipped, metrics = learn(fresh, jax.random.key(2), wild, 1.0)
  chex.assert_trees_all_equal(skipped.agent.params, fresh.agent.params)
  chex.assert_trees_all_equal(skipped.agent.returns, fresh.agent.returns)
  chex.assert_trees_all_equal(skipped.optimiser.inner_state, fresh.optimiser.inner_state)
  assert float(skipped.kl_weight) == float(fresh.kl_weight) and int(skipped.step) == 1
  steps = CONFIG.epochs * CONFIG.minibatches
  assert int(skipped.optimiser.notfinite_count) == int(skipped.optimiser.total_notfinite) == steps
  assert np.isnan(metrics["loss/policy"])
  # The observations were finite, and are remembered.
  assert float(skipped.agent.observations.count) == 144
  after, metrics = learn(skipped, jax.random.key(2), played, 1.0)
  assert all(np.isfinite(x) for x in metrics.values())
  assert int(after.optimiser.notfinite_count) == 0
  assert int(after.optimiser.total_notfinite) == steps


def test_one_minibatch_that_is_not_finite_leaves_the_others(fresh, played):
  """An action with no density under the new policy spoils the minibatches that have it."""
  wild = played._replace(log_prob=played.log_prob.at[0, 0, 0].set(-jnp.inf))
  state, metrics = learn(fresh, jax.random.key(2), wild, 1.0)
  assert int(state.optimiser.total_notfinite) == CONFIG.epochs
  assert np.isfinite(metrics["loss/policy"]) and np.isfinite(metrics["approx_kl"])
  moved = jax.tree.map(lambda x, y: np.any(x != y), state.agent.params, fresh.agent.params)
  assert any(jax.tree.leaves(moved))
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


def test_steps_after_the_end_do_not_count(fresh):
  """Episodes that differ only after their end give the same update."""
  profiles = rollout.repeated(toys.rules(4), 8)
  trajectory = rollout.collect(ENV, POLICY, fresh.agent, jax.random.key(1), profiles).trajectory
  dead = np.asarray(trajectory.weight) == 0
  assert dead.sum() == 2 * 24
  rng = np.random.default_rng(0)

  def spoil(x):
    where = dead.reshape(dead.shape + (1,) * (x.ndim - dead.ndim))
    return jnp.where(where, x + rng.normal(size=x.shape).astype(np.float32), x)

  # The value at the end itself stays, because it belongs to the bootstrap.
  changed = trajectory._replace(
      observation=spoil(trajectory.observation), action=spoil(trajectory.action)
  )
  one, two = (learn(fresh, jax.random.key(2), t, 1.0)[0] for t in (trajectory, changed))
  chex.assert_trees_all_close(one.agent, two.agent, rtol=1e-4, atol=1e-6)


def test_learner_alone_with_a_problem_of_one_step():
  """The best action is a function of the observation; there is no axis of agents."""
  net = policy.ActorCritic(2, (-2.0, -2.0), (2.0, 2.0), policy.Config(hidden=(16,)))
  config = ppo.Config(learning_rate=5e-3, minibatches=4, kl_target=0.03)

  def best(x):
    return jnp.stack([x[:, 0], -0.5 * x[:, 1]], -1)

  def update(state, key):
    see_key, act_key, learn_key = jax.random.split(jax.random.fold_in(key, state.step), 3)
    seen = jax.random.uniform(see_key, (64, 2), minval=-1, maxval=1)
    decision = policy.act(net, state.agent, act_key, seen)
    reward = -jnp.sum((decision.action - best(seen)) ** 2, -1)
    trajectory = calibrator.one_step(decision, seen, reward)
    return ppo.update(state, learn_key, trajectory, net, config)

  @jax.jit
  def train(key):
    state = ppo.init(key, net, config)
    return jax.lax.scan(lambda s, _: update(s, key), state, length=150)

  state, _ = train(jax.random.key(0))
  seen = jax.random.uniform(jax.random.key(9), (200, 2), minval=-1, maxval=1)
  error = policy.act(net, state.agent, None, seen).action - best(seen)
  # The mean error is usually 0.04, and would be 0.57 and 0.29 for actions that are always 0.
  assert float(jnp.abs(error).mean()) < 0.1


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"minibatches": 0}, "minibatches=0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be positive"),
        ({"clip": math.nan}, "clip=nan must be positive"),
        ({"discount": 1.5}, r"discount=1.5 must lie in \[0, 1\]"),
        ({"entropy_weight": -1.0}, "entropy_weight=-1.0 must be finite and at least 0"),
    ],
)
def test_bad_config(changes, match):
  with pytest.raises(ValueError, match=match):
    ppo.Config(**changes)
