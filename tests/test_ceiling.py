"""calsheq_jax.ceiling: policies inherited from the nearest profile, training, noise and misfit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calsheq_jax import calsheq, ceiling, experiments
from calsheq_jax.problem import Problem
from calsheq_jax.targets import Target, goals_of

PROBLEM = experiments.named("linear_quadratic").problem()
CONFIG = calsheq.Config(episodes=8)
GOALS = goals_of(PROBLEM.targets)
POINTS = jnp.array([[0.5, 0.0], [-0.5, 0.1], [0.4, 0.3]])
PARENTS = jnp.array([[-1.0, 0.0], [0.5, 0.2]])


@pytest.fixture(scope="module")
def parents():
  """Two policies that differ."""
  keys = jax.random.split(jax.random.key(1))
  return jax.vmap(lambda key: calsheq.init_shared(key, PROBLEM.env, CONFIG))(keys)


@pytest.fixture(scope="module")
def run(parents):
  @jax.jit
  def generation(points, updates):
    shared = ceiling.inherit(parents, PARENTS, points)
    return ceiling.generation(
        shared, points, jax.random.key(2), GOALS, PROBLEM, CONFIG, updates, 16
    )

  return generation


def same(one, other, **more):
  for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(np.asarray(x), np.asarray(y), **more)


def test_nearest():
  # Squared distances of (0.5, 0) are 2.25 and 0.04; those of (-0.5, 0.1) are 0.26 and 1.01.
  np.testing.assert_array_equal(ceiling.nearest(POINTS, PARENTS), [1, 0, 1])
  np.testing.assert_array_equal(ceiling.nearest(PARENTS, PARENTS), [0, 1])


def test_inherit():
  """Leaves of two parents, and three points."""
  found = ceiling.inherit({"x": jnp.array([[1.0, 2.0], [3.0, 4.0]])}, PARENTS, POINTS)
  np.testing.assert_array_equal(found["x"], [[3, 4], [1, 2], [3, 4]])


@pytest.mark.slow
def test_policies_are_those_of_the_nearest_profile(parents, run):
  shared, judged = run(POINTS, 0)
  same(shared, jax.tree.map(lambda x: x[np.array([1, 0, 1])], parents))
  # The judging has the second half of the key, for all profiles.
  key = jax.random.split(jax.random.key(2))[1]
  agent = jax.tree.map(lambda x: x[0], parents).agent
  alone = calsheq.judge(agent, key, POINTS[1], GOALS, PROBLEM, CONFIG, 16)
  same({k: v[1] for k, v in judged.items()}, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_policies_learn_at_their_profile(parents, run):
  shared, _ = run(POINTS, 2)
  key = jax.random.split(jax.random.key(2))[0]
  state = jax.tree.map(lambda x: x[1], parents)
  for _ in range(2):
    state, _ = calsheq.trial_stage(state, key, POINTS[2], GOALS, PROBLEM, CONFIG)
  same(jax.tree.map(lambda x: x[2], shared), state, rtol=1e-3, atol=1e-5)
  np.testing.assert_array_equal(shared.step, [2, 2, 2])


@pytest.mark.slow
def test_order_of_profiles_does_not_matter(run):
  order = np.array([2, 0, 1])
  same(jax.tree.map(lambda x: x[order], run(POINTS, 2)), run(POINTS[order], 2), atol=1e-5)


def test_misfit_and_noise_add_up_to_the_distance():
  """Two targets of weights 3/4 and 1/4, at two episodes, by hand."""
  name = PROBLEM.targets[0].output
  problem = Problem(PROBLEM.space, (
      Target(name, 1.0, scale=1.0, weight=3.0, index=(0,)),
      Target(name, 0.0, scale=0.5, weight=1.0, index=(1,)),
  ))
  values = jnp.array([[0.0, 0.5], [2.0, 0.5]])
  found = ceiling.detail_of(values, jnp.array([1.0, 0.0]), problem)
  # Errors of the first target are 1 in both episodes and 0 in the mean; those of the second 0.5.
  np.testing.assert_allclose(found.fits, [0.5, 0.5])
  np.testing.assert_allclose(found.fits_of_means, [1.0, 0.5])
  np.testing.assert_allclose(found.reward, 0.5)
  np.testing.assert_allclose(found.reward_of_means, 0.875)
  np.testing.assert_allclose(found.values, [1.0, 0.5])
  np.testing.assert_allclose(found.deviations, [2**0.5, 0.0], rtol=1e-6)
  np.testing.assert_allclose(found.reward_error, 0.0)


def test_detail_describes_the_episodes_of_the_judge(parents):
  agent = jax.tree.map(lambda x: x[0], parents).agent
  args = (agent, jax.random.key(3), POINTS[0], GOALS, PROBLEM, CONFIG, 16)
  found, judged = ceiling.detail(*args), calsheq.judge(*args)
  for name in ("reward", "reward_of_means", "values"):
    np.testing.assert_allclose(getattr(found, name), judged[name], rtol=1e-5)
  assert found.reward_error > 0
