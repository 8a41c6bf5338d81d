"""calsheq_jax.rollout: episodes against a plain loop, ends, rows that don't mix, devices."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import toys

from calsheq_jax import policy, ppo, rollout

ENV = toys.Countdown()
POLICY = policy.for_environment(ENV, policy.Config(hidden=(8,)))
AGENT = ppo.init(jax.random.key(0), POLICY, ppo.Config()).agent
PROFILES = toys.stacked(
    toys.rules(6),
    toys.rules(3, scale=0.5),
    toys.rules(4, cut=True, scale=-1.0),
    toys.rules(6, cut=True),
)
KEY = jax.random.key(7)


@jax.jit
def play(key, profiles):
  return rollout.collect(ENV, POLICY, AGENT, key, profiles)


PLAYED = play(KEY, PROFILES)


def test_shapes():
  t = PLAYED.trajectory
  assert t.observation.shape == (6, 4, 3, 4) and t.action.shape == (6, 4, 3, 2)
  assert t.parameters.shape == (6, 4, 3, 4) and t.last_value.shape == (4, 3)
  for name in ("log_prob", "value", "reward", "done", "truncated", "weight"):
    assert getattr(t, name).shape == (6, 4, 3), name
  assert PLAYED.states.position.shape == (4, 3)


def test_steps_follow_the_environments_dynamics():
  """The reward and the next observation at t follow from the action at t."""
  t = jax.tree.map(np.asarray, PLAYED.trajectory)
  scale = np.array([1, 0.5, -1, 1])[:, None]
  for b in range(4):
    for step in range(5):
      if not t.weight[step + 1, b, 0]:
        break
      moved = t.observation[step + 1, b, :, 1] - t.observation[step, b, :, 1]
      noise = moved - np.clip(t.action[step, b, :, 0], -1, 3)
      assert 0 < np.abs(noise).max() < 0.6  # the noise is 0.1 times normal numbers
      np.testing.assert_allclose(
          t.reward[step, b], scale[b] * t.observation[step + 1, b, :, 1], rtol=1e-5
      )
  np.testing.assert_array_equal(t.observation[:, 0, 0, 0], np.arange(6))


def test_log_prob_and_value_are_the_policys():
  t = PLAYED.trajectory
  again = policy.act(POLICY, AGENT, None, t.observation)
  np.testing.assert_allclose(again.value, t.value, rtol=1e-4, atol=1e-5)
  log_prob = POLICY.distribution(again.parameters).log_prob(t.action)
  np.testing.assert_allclose(log_prob, t.log_prob, rtol=1e-4, atol=1e-4)


def test_ends():
  t = jax.tree.map(np.asarray, PLAYED.trajectory)
  np.testing.assert_array_equal(t.weight[:, :, 0].sum(0), [6, 3, 4, 6])
  np.testing.assert_array_equal(t.done[:, :, 0].argmax(0), [5, 2, 3, 5])
  np.testing.assert_array_equal(t.truncated[:, :, 0].sum(0), [0, 0, 1, 1])
  np.testing.assert_array_equal(t.truncated[:, :, 0].argmax(0)[2:], [3, 5])
  # After the end nothing moves, and nothing is earned.
  np.testing.assert_array_equal(t.reward[3:, 1], 0)
  np.testing.assert_array_equal(t.observation[3, 1], t.observation[5, 1])
  np.testing.assert_allclose(t.value[5, 1], t.last_value[1], rtol=1e-4, atol=1e-6)
  np.testing.assert_array_equal(PLAYED.states.time, [6, 3, 4, 6])
  np.testing.assert_allclose(PLAYED.states.position[1], t.observation[3, 1, :, 1], rtol=1e-6)


def test_rows_do_not_mix():
  alone = play(KEY, jax.tree.map(lambda x: x[:2], PROFILES))

  def first(x, axis):
    return np.take(x, [0, 1], axis)

  trajectory = PLAYED.trajectory._replace(last_value=None)
  chex.assert_trees_all_close(
      alone.trajectory._replace(last_value=None),
      jax.tree.map(lambda x: first(x, 1), trajectory), rtol=1e-5, atol=1e-6,
  )
  noise = np.asarray(PLAYED.trajectory.action[:3, :, :, 1])
  assert len(np.unique(noise)) == noise.size


def test_the_same_episodes_on_any_number_of_devices():
  """vmap stands for the devices: it binds an axis as shard_map does."""
  for count in (2, 4):
    split = jax.tree.map(lambda x: x.reshape(count, -1), PROFILES)

    def one(p):
      return rollout.collect(ENV, POLICY, AGENT, KEY, p, axis_name="d")

    played = jax.vmap(one, axis_name="d")(split)
    action = jnp.moveaxis(played.trajectory.action, 0, 1).reshape(6, 4, 3, 2)
    np.testing.assert_allclose(action, PLAYED.trajectory.action, rtol=1e-5, atol=1e-6)


def test_mean_actions():
  played = rollout.collect(ENV, POLICY, AGENT, KEY, PROFILES, mean_action=True)
  t = played.trajectory
  expected = POLICY.distribution(t.parameters).mean()
  np.testing.assert_allclose(t.action, expected, rtol=1e-5)


def test_what_is_watched():
  def watch(state, info):
    return {"position": state.position, "truncated": info["truncated"]}

  played = rollout.collect(ENV, POLICY, AGENT, KEY, PROFILES, watch=watch)
  assert played.watched["truncated"].shape == (6, 4)
  np.testing.assert_array_equal(
      played.watched["position"][:-1, 0], played.trajectory.observation[1:, 0, :, 1]
  )
  np.testing.assert_array_equal(played.watched["position"][-1], played.states.position)
  assert PLAYED.watched is None


def test_repeated_profiles():
  profiles = rollout.repeated(toys.rules(4), 5)
  assert profiles.length.shape == (5,) and (np.asarray(profiles.length) == 4).all()


def test_episode_returns_by_hand():
  trajectory = PLAYED.trajectory._replace(
      reward=jnp.array([1.0, 10.0, 100.0])[:, None], weight=jnp.array([1.0, 1.0, 0.0])[:, None]
  )
  np.testing.assert_allclose(rollout.episode_returns(trajectory), [11])
  np.testing.assert_allclose(rollout.episode_returns(trajectory, 0.5), [6])


def test_an_episode_traces_once():
  @jax.jit
  @chex.assert_max_traces(n=1)
  def counted(key, profiles):
    return rollout.collect(ENV, POLICY, AGENT, key, profiles).trajectory.reward

  chex.clear_trace_counter()
  for seed in range(3):
    counted(jax.random.key(seed), PROFILES)
