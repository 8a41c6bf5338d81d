"""nes_jax.network.pooling: comparison of layers with NumPy references at full size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nes_jax.network import layers, pooling


def phi_over(x, axes, phi):
  """Applies phi over axes, which keep size 1."""
  if phi in ("max", "min"):
    return getattr(x, phi)(axis=axes, keepdims=True)
  return getattr(np, phi)(x, axis=axes, keepdims=True)


def reference_payoff_pool(blocks, name, p):
  """Pool that player p receives, by the definitions in the module's docstring."""
  n = len(blocks)
  source, axes, phi = pooling.parse(name)
  players = {"self": [p], "everyone": range(n)}.get(source, [q for q in range(n) if q != p])
  values = []
  for q in players:
    g = np.asarray(blocks[q], np.float64)
    rest = tuple(1 + r for r in range(n) if r != p)
    if axes == "best":
      top = g.max(1 + q, keepdims=True)
      g = phi_over(top, tuple(range(1, n + 1)), phi)
    elif axes == "regret":
      g = phi_over(g.max(1 + p, keepdims=True) - g, rest, phi)
    else:
      chosen = {"none": (), "own": (1 + p,), "rest": rest, "all": tuple(range(1, n + 1))}[axes]
      g = phi_over(g, chosen, phi) if chosen else g
    values.append(g)
  return phi_over(np.stack(values), (0,), phi)[0]


def reference_cce_pool(blocks, name, p):
  """Pool of CCE duals that player p receives."""
  source, axes, phi = pooling.parse(name)
  if axes == "none":
    return np.asarray(blocks[p], np.float64)
  n = len(blocks)
  players = {"self": [p], "everyone": range(n)}.get(source, [q for q in range(n) if q != p])
  values = [phi_over(np.asarray(blocks[q]), (1,), phi) for q in players]
  return phi_over(np.stack(values), (0,), phi)[0]


def reference_ce_pool(blocks, name, p):
  """Pool of CE duals that player p receives."""
  source, axes, phi = pooling.parse(name)
  n = len(blocks)

  def over(x, axes):
    """Applies phi to the entries off the diagonal, by loops over the axes that remain."""
    batch, size, _, channels = x.shape
    keep_r, keep_d = axes == "deviation", axes == "recommended"
    rows, columns = size if keep_r else 1, size if keep_d else 1
    result = np.zeros((batch, rows, columns, channels))
    for r in range(rows):
      for d in range(columns):
        entries = [
            x[:, i, k]
            for i in range(size)
            for k in range(size)
            if i != k and (not keep_r or i == r) and (not keep_d or k == d)
        ]
        if entries:
          result[:, r, d] = getattr(np, phi)(np.stack(entries), axis=0)
    return result

  if axes == "none":
    result = np.asarray(blocks[p], np.float64)
  else:
    players = {"others": [q for q in range(n) if q != p], "everyone": range(n)}.get(source, [p])
    values = [over(np.asarray(blocks[q], np.float64), axes) for q in players]
    result = phi_over(np.stack(values), (0,), phi)[0]
  return np.swapaxes(result, 1, 2) if source == "transpose" else result


def random_blocks(shapes, seed=0):
  """Positive random activations, one block of each shape."""
  rng = np.random.default_rng(seed)
  return tuple(jnp.asarray(rng.exponential(size=shape), jnp.float32) for shape in shapes)


def concatenated(reference, blocks, names, p, full_shape, weights):
  """Product of the weights and all features, concatenated at full size."""
  pools = [reference(blocks, name, p) for name in names]
  wide = [np.broadcast_to(x, full_shape + x.shape[-1:]) for x in pools]
  return np.concatenate(wide, -1) @ np.asarray(weights, np.float64)


@pytest.mark.parametrize("shape", [(2, 4), (3, 1, 2), (2, 2, 2, 3)])
def test_payoff_layer(shape):
  names = ("others/none/sum",) + tuple(sorted(pooling.VALID["payoffs"]))
  names = tuple(dict.fromkeys(names))
  blocks = random_blocks([(3,) + shape + (2,)] * len(shape))
  weights = jnp.asarray(np.random.default_rng(1).normal(size=(len(names) * 2, 5)), jnp.float32)

  @jax.jit
  def layer(blocks, weights):
    return layers.summed_linear(names)(pooling.payoffs(blocks, pooling.summed(names)), weights)

  got = layer(blocks, weights)
  for p in range(len(shape)):
    expected = concatenated(reference_payoff_pool, blocks, names, p, (3,) + shape, weights)
    np.testing.assert_allclose(got[p], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("shape", [(2, 4), (3, 1, 2)])
def test_layers_into_the_duals(shape):
  names = tuple(sorted(pooling.VALID["to_duals"]))
  blocks = random_blocks([(3,) + shape + (2,)] * len(shape))
  rng = np.random.default_rng(1)
  weights = rng.normal(size=(2, len(names) * 2, 5)).astype(np.float32)

  @jax.jit
  def both(blocks, weights):
    features = layers.to_dual_features(blocks, names)
    return layers.linear(features, weights[0]), layers.outer_sum(features, jnp.concatenate(weights))

  got_cce, got_ce = both(blocks, weights)
  for p, size in enumerate(shape):
    full_shape = (3,) + tuple(a if q == p else 1 for q, a in enumerate(shape))
    u, v = (
        concatenated(reference_payoff_pool, blocks, names, p, full_shape, w).reshape(3, size, 5)
        for w in weights
    )
    tolerance = {"rtol": 1e-4, "atol": 1e-4 * np.abs(u).max()}
    np.testing.assert_allclose(got_cce[p], u, **tolerance)
    for r in range(size):
      for d in range(size):
        np.testing.assert_allclose(got_ce[p][:, r, d], u[:, r] + v[:, d], **tolerance)


@pytest.mark.parametrize("sizes", [(3, 3), (2, 4, 1)])
@pytest.mark.parametrize("concept", ["cce", "ce"])
def test_dual_layers(concept, sizes):
  names = tuple(sorted(pooling.VALID[concept]))
  if concept == "cce":
    blocks = random_blocks([(3, size, 2) for size in sizes])
    pool, reference = pooling.cce_duals, reference_cce_pool
  else:
    blocks = random_blocks([(3, size, size, 2) for size in sizes])
    blocks = tuple(x * m for x, m in zip(blocks, layers.off_diagonal(sizes, jnp.float32)))
    pool, reference = pooling.ce_duals, reference_ce_pool
  weights = jnp.asarray(np.random.default_rng(1).normal(size=(len(names) * 2, 5)), jnp.float32)
  layer = jax.jit(lambda blocks, weights: layers.linear(pool(blocks, names), weights))
  got = layer(blocks, weights)
  for p, x in enumerate(blocks):
    expected = concatenated(reference, blocks, names, p, x.shape[:-1], weights)
    np.testing.assert_allclose(got[p], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("phi", ["max", "min"])
def test_gradient_of_an_extreme(phi):
  """The gradient is that of JAX, also where entries tie and share it equally."""
  x = jnp.asarray(np.random.default_rng(0).integers(0, 3, size=(5, 3, 4, 2)), jnp.float32)
  weights = jnp.asarray(np.random.default_rng(1).normal(size=(5, 1, 1, 2)), jnp.float32)
  own = jax.grad(lambda x: jnp.sum(pooling.reduce(x, (1, 2), phi) * weights))(x)
  jaxs = jax.grad(lambda x: jnp.sum(getattr(jnp, phi)(x, (1, 2), keepdims=True) * weights))(x)
  np.testing.assert_allclose(own, jaxs, rtol=1e-6)
