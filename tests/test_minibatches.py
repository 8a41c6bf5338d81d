"""calsheq_jax.minibatches: partitions, and the same minibatches on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calsheq_jax import minibatches, ppo


@pytest.mark.parametrize(
    "steps, count, size", [(300, 8, 2), (1, 8, 8), (16, 8, 1), (18, 4, 2)]
)
def test_group_size(steps, count, size):
  assert minibatches.group_size(steps, count) == size


def numbered(episodes, steps=6, agents=3):
  """Samples whose action tells which step it is."""
  number = jnp.arange(steps * episodes * agents, dtype=jnp.float32)
  number = number.reshape(steps, episodes, agents)
  fields = dict.fromkeys(ppo.Samples._fields, number)
  return ppo.Samples(**{**fields, "action": number[..., None]})


def grouped(samples, count):
  return minibatches.group_episodes(samples, samples.weight.shape, count)


def dealt(samples, count, axis_name=None, seed=0):
  key, groups = jax.random.key(seed), grouped(samples, count)
  return minibatches.shuffle_into_minibatches(key, groups, count, axis_name).action[..., 0]


def test_minibatches_are_a_partition_with_a_share_of_every_group():
  result = np.asarray(dealt(numbered(8), 4))
  assert result.shape == (4, 36)
  np.testing.assert_array_equal(np.sort(result.ravel()), np.arange(144))
  group = (result // 3 % 8) // 2  # of two episodes
  for row in group:
    np.testing.assert_array_equal(np.bincount(row.astype(int)), [9] * 4)
  other = dealt(numbered(8), 4, seed=1)
  assert (np.asarray(other) != result).mean() > 0.5


def test_minibatches_are_the_same_on_any_number_of_devices():
  whole = np.sort(dealt(numbered(8), 4), -1)
  for count in (2, 4):
    split = jax.tree.map(
        lambda x, c=count: jnp.moveaxis(x.reshape(6, c, 8 // c, *x.shape[2:]), 1, 0), numbered(8)
    )
    parts = jax.vmap(lambda s: dealt(s, 4, "d"), axis_name="d")(split)  # [D, M, N / M / D]
    parts = np.sort(np.moveaxis(parts, 0, 1).reshape(4, -1), -1)
    np.testing.assert_array_equal(parts, whole)


def test_episodes_that_do_not_deal_out_are_refused():
  with pytest.raises(ValueError, match="7 episodes of 18 steps.*4 minibatches.*multiple of 2"):
    grouped(numbered(7), 4)
