"""nes_jax.network.layers: normalisation by hand, and the gradient of the matrix product."""

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nes_jax.network import layers


def random_blocks(shapes, seed=0):
  """Positive random activations, one block of each shape."""
  rng = np.random.default_rng(seed)
  return tuple(jnp.asarray(rng.exponential(size=shape), jnp.float32) for shape in shapes)


def norm_alone(kind, mask=None):
  """Functions init and apply of a module that is a `Norm` and nothing else."""
  return hk.transform_with_state(
      lambda blocks, is_training, axis_name=None: layers.Norm(kind, name="norm")(
          blocks, mask, is_training, axis_name
      )
  )


def test_batch_norm_by_hand():
  blocks = random_blocks([(8, 3, 2, 4), (8, 3, 2, 4)])
  module = norm_alone("batch")
  params, state = module.init(None, blocks, True)
  params = jax.tree_util.tree_map(lambda x: x + jnp.arange(4) / 3, params)
  fresh = random_blocks([(8, 3, 2, 4), (8, 3, 2, 4)], seed=1)

  def flat(blocks):
    return np.concatenate([np.asarray(x).reshape(-1, 4) for x in blocks])

  def moments(blocks):
    return flat(blocks).mean(0), flat(blocks).var(0)

  learned = params["norm"]
  for is_training, (mean, variance) in ((False, moments(blocks)), (True, moments(fresh))):
    got, new = module.apply(params, state, None, fresh, is_training)
    expected = (flat(fresh) - mean) / np.sqrt(variance + 1e-5) * learned["scale"]
    np.testing.assert_allclose(flat(got), expected + learned["offset"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new["norm"]["mean"], mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(new["norm"]["variance"], variance, rtol=1e-4)


@pytest.mark.parametrize("kind", ["batch", "rms", "none"])
def test_norms_keep_float32_where_float64_is_on(x64, kind):
  blocks = random_blocks([(8, 3, 2, 4), (8, 3, 2, 4)])
  module = norm_alone(kind)
  params, state = module.init(None, blocks, True)
  params = jax.tree_util.tree_map(lambda x: x.astype(jnp.float32), params)
  got, _ = module.apply(params, state, None, blocks, True)
  assert [x.dtype for x in got] == [jnp.float32, jnp.float32]


def test_linear_takes_weights_of_numpy():
  blocks = random_blocks([(8, 3, 2, 4), (8, 3, 2, 4)])
  weights = np.random.default_rng(1).normal(size=(8, 5)).astype(np.float32)
  features = (blocks, blocks)
  chex.assert_trees_all_equal(
      layers.linear(features, weights), layers.linear(features, jnp.asarray(weights))
  )


def test_rms_of_a_game():
  """Each game of a batch is divided by one number, its own root mean square."""
  blocks = random_blocks([(5, 2, 3, 4), (5, 2, 3, 4)])
  module = norm_alone("rms")
  params, state = module.init(None, blocks, True)
  assert not state
  params = {"norm": {"scale": jnp.ones(4), "offset": jnp.zeros(4)}}
  got, _ = module.apply(params, state, None, blocks, True)
  both = np.stack([np.asarray(x) for x in blocks])
  rms = np.sqrt((both**2).mean((0, 2, 3, 4), keepdims=True))
  np.testing.assert_allclose(np.stack(got), both / rms, rtol=1e-4)


def test_batch_moments_over_devices_are_those_of_the_whole_batch():
  blocks = random_blocks([(8, 3, 4)])
  module = norm_alone("batch")
  params, state = module.init(None, blocks, True)
  whole = module.apply(params, state, None, blocks, True)
  halves = tuple(x.reshape((2, 4) + x.shape[1:]) for x in blocks)
  got = jax.vmap(
      lambda blocks: module.apply(params, state, None, blocks, True, "devices"),
      axis_name="devices",
  )(halves)
  np.testing.assert_allclose(got[0][0].reshape(blocks[0].shape), whole[0][0], rtol=1e-4, atol=1e-5)
  chex.assert_trees_all_close(
      jax.tree_util.tree_map(lambda x: x[1], got[1]), whole[1], rtol=1e-4, atol=1e-6
  )


def test_gradient_of_a_product():
  """The rule for the gradient gives what JAX derives."""
  rng = np.random.default_rng(0)
  x, w, g = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 3, 4), (4, 5), (2, 3, 5)))
  own = jax.vjp(layers.matmul, x, w)[1](g)
  chex.assert_trees_all_close(own, jax.vjp(jnp.matmul, x, w)[1](g), rtol=1e-4, atol=1e-5)
