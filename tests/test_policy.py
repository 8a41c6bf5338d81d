"""calsheq_jax.policy: layers, orthogonal start, torsos, normalisation and acting."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from calsheq_jax import policy
from calsheq_jax.types import Agent, Moments

ENV = toys.Countdown()


def make(**changes):
  return policy.for_environment(ENV, policy.Config(hidden=(8, 6), **changes))


def agent_of(net, seed=0, mean=0.0, variance=1.0):
  size = net.observation_size
  return Agent(
      net.init(jax.random.key(seed)),
      Moments(jnp.float32(5), jnp.full(size, mean), jnp.full(size, variance)),
      Moments(jnp.float32(5), jnp.float32(2), jnp.float32(9)),
  )


@pytest.mark.parametrize("head", ["gaussian", "gaussian_state", "beta"])
@pytest.mark.parametrize("shared", [False, True])
def test_output_agrees_with_plain_numpy(head, shared):
  net = make(head=head, shared_torso=shared)
  params = net.init(jax.random.key(1))
  x = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
  parameters, value = net.apply(params, x)
  assert parameters.shape == (5, 3, 4) and value.shape == (5, 3)

  def layers(name):
    out = x
    for i in range(2):
      out = np.tanh(out @ params[f"{name}_{i}"]["w"] + params[f"{name}_{i}"]["b"])
    return out

  def linear(name, x):
    return x @ params[name]["w"] + params[name]["b"]

  torso = layers("shared" if shared else "policy")
  expected = linear("policy_head", torso)
  if head == "gaussian":
    raw = np.broadcast_to(params["~"]["raw_scale"], (5, 3, 2))
    expected = np.concatenate([expected, raw], -1)
  if head != "beta":
    part = math.log(0.5 / 1e-3) / math.log(2 / 1e-3)
    expected = expected + np.repeat([0, math.log(part / (1 - part))], 2)
  np.testing.assert_allclose(parameters, expected, rtol=1e-4, atol=1e-5)
  value_torso = torso if shared else layers("value")
  np.testing.assert_allclose(value, linear("value_head", value_torso)[..., 0], rtol=1e-4, atol=1e-5)


def test_weights_start_orthogonal():
  net = policy.for_environment(ENV, policy.Config(hidden=(4, 4)))
  params = net.init(jax.random.key(0))
  for name, gain in (("policy_0", 2**0.5), ("value_1", 2**0.5), ("policy_head", 0.01)):
    w = np.asarray(params[name]["w"])
    np.testing.assert_allclose(w.T @ w, gain**2 * np.eye(w.shape[1]), atol=1e-5)
    np.testing.assert_array_equal(params[name]["b"], 0)
  np.testing.assert_allclose(np.linalg.norm(params["value_head"]["w"]), 1, rtol=1e-5)


def test_init_of_many_is_init_of_each():
  net = policy.ActorCritic(2, (0.0,), (1.0,), policy.Config(hidden=(4,)))
  keys = jax.random.split(jax.random.key(0), 3)
  for index, key in enumerate(keys):
    chex.assert_trees_all_equal(
        jax.tree.map(lambda x: x[index], jax.vmap(net.init)(keys)), net.init(key)
    )


def test_first_actions_are_about_the_middle_of_the_box():
  net = make(initial_scale=0.25)
  agent = agent_of(net)
  observation = jax.random.normal(jax.random.key(2), (50, 4))
  mean = policy.act(net, agent, None, observation).action
  np.testing.assert_allclose(mean, np.broadcast_to([1.0, 0.5], (50, 2)), atol=0.1)
  many = policy.act(net, agent, jax.random.key(0), jnp.broadcast_to(observation[0], (4000, 4)))
  # Half-widths are 2 and 0.5. The standard error of the standard deviation is 1.1%.
  np.testing.assert_allclose(many.action.std(0), [0.5, 0.125], rtol=0.05)


def test_decision_is_consistent():
  net, observation = make(), jnp.ones((3, 4))
  agent = agent_of(net, mean=1.0, variance=4.0)
  decision = policy.act(net, agent, jax.random.key(0), observation)
  parameters, value = net.apply(agent.params, jnp.zeros((3, 4)))  # the normalised observation is 0
  np.testing.assert_allclose(decision.parameters, parameters)
  np.testing.assert_allclose(decision.value, 2 + 3 * value, rtol=1e-5)
  chosen = net.distribution(parameters)
  np.testing.assert_allclose(decision.log_prob, chosen.log_prob(decision.action))
  np.testing.assert_allclose(decision.action, chosen.sample(seed=jax.random.key(0)))
  assert len(np.unique(decision.action)) == 6


def test_normalised_observations():
  agent = agent_of(make(), mean=3.0, variance=4.0)
  agent = agent._replace(
      observations=agent.observations._replace(variance=jnp.array([4.0, 4.0, 0.0, 4.0]))
  )
  x = policy.normalised(agent, jnp.array([5.0, -1.0, 3.001, 1e6]))
  # The third number has never varied: a thousandth becomes a tenth. The fourth is clipped.
  np.testing.assert_allclose(x, [1, -2, 0.1, 10], rtol=1e-3)


def test_policy_is_hashable_and_compares_by_value():
  assert make() == make() and hash(make()) == hash(make())
  assert make() != make(shared_torso=True)
  assert policy.Config(hidden=[3]).hidden == (3,)
  assert policy.Config(**policy.Config().to_dict()) == policy.Config()


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"hidden": (4, 0)}, "hidden=.*integers of at least 1"),
        ({"head": "normal"}, "head='normal'"),
        ({"initial_scale": 0.0}, "initial_scale=0.0"),
    ],
)
def test_bad_config(changes, match):
  with pytest.raises(ValueError, match=match):
    policy.Config(**changes)


def test_bad_policy():
  with pytest.raises(ValueError, match="observation_size=0"):
    policy.ActorCritic(0, (0.0,), (1.0,))
  with pytest.raises(ValueError, match="low < high"):
    dataclasses.replace(make(), low=(0.0, 1.0), high=(1.0, 1.0))
