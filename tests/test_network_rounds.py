"""nes_jax.network.rounds and nes_jax.network.newton: features of a round, and Newton steps."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
from networks import BATCH, CONCEPTS, INPUTS, compiled, joints, make, ready
import numpy as np
import pytest

from nes_jax import dual, network
from nes_jax.network import newton, rounds


@pytest.mark.parametrize("concept", CONCEPTS)
def test_a_round_sees_the_slope(concept):
  """A round sees minus the derivative of the loss by the duals, and a step along each dual."""
  problem = make((2, 3))
  config = network.Config(concept, inputs=INPUTS)
  inputs = network.features(problem, config)
  rng = np.random.default_rng(0)
  axes = 1 if concept == "cce" else 2
  blocks = tuple(jnp.asarray(rng.uniform(size=(BATCH,) + (s,) * axes), jnp.float32) for s in (2, 3))

  def loss(blocks):
    duals = rounds.in_units(blocks, inputs.scale)

    def one(problem, duals):
      return dual.loss(problem, duals, concept)

    return jnp.sum(jax.vmap(one)(problem, duals))

  seen = compiled(rounds.features, static_argnums=3)(
      tuple(x[..., None] for x in blocks), inputs.scale, problem, concept
  )
  slopes = compiled(jax.grad(loss))(blocks)
  joint = joints(problem, rounds.in_units(blocks, inputs.scale), concept)
  tau = np.asarray(problem.temperature)
  for p, (block, slope, features) in enumerate(zip(blocks, slopes, seen, strict=True)):
    expected = np.zeros((BATCH,) + block.shape[1:])
    for g in range(BATCH):
      own = np.moveaxis(np.asarray(problem.payoffs[g, p], np.float64), p, 0)
      sigma = np.moveaxis(np.asarray(joint[g], np.float64), p, 0)
      for index in np.ndindex(block.shape[1:]):
        # Rows are recommendations, and columns are strategies of the other player.
        gain = own[index[-1]] - own
        kept = slice(None) if concept == "cce" else index[0]
        expected[(g,) + index] = np.sum(sigma[kept] * gain[kept] ** 2)
    scale = np.asarray(inputs.scale)[:, p].reshape((-1,) + (1,) * axes)
    curvature = expected * scale**2 / tau.reshape(scale.shape)
    off = np.ones(block.shape[1:]) if concept == "cce" else 1 - np.eye(block.shape[-1])
    np.testing.assert_allclose(features[..., 0], np.log1p(block), rtol=1e-5)
    np.testing.assert_allclose(-features[..., 1], slope * off, rtol=1e-3, atol=1e-4)
    step = np.sinh(-np.asarray(features[..., 2])) * (curvature + 1e-9)
    np.testing.assert_allclose(step, slope * off, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_a_newton_step(x64, concept, monkeypatch):
  """A step solves the dense system and takes the best of a few lengths, some of which fail."""
  monkeypatch.setattr(newton, "LENGTHS", (0.0, 0.5, 1.0, 1.1, 2.0))
  shape, axes = (2, 3), 1 if concept == "cce" else 2
  problem = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), make(shape))
  rng = np.random.default_rng(0)
  size = (10.0 ** (1 - np.arange(BATCH) % 3)).reshape((BATCH,) + (1,) * axes)
  duals = tuple(size * rng.exponential(size=(BATCH,) + (s,) * axes) for s in shape)
  steps = compiled(newton.descend, static_argnums=(2, 3))
  # From these duals a step can go all the way.
  near = steps(duals, problem, concept, 30)
  half = jnp.arange(BATCH).reshape((-1,) + (1,) * axes) % 2
  duals = tuple(jnp.where(half > 0, x, y) for x, y in zip(near, duals))
  found = steps(duals, problem, concept, 1)
  counted = np.concatenate([
      (np.ones(s) if concept == "cce" else 1 - np.eye(s)).ravel() > 0 for s in shape
  ])
  taken = []
  for g in range(BATCH):
    game = jax.tree.map(lambda x: x[g], problem)
    barrier, least = newton.BARRIERS[concept]
    alpha = np.maximum(np.concatenate([x[g].ravel() for x in duals]), least)[counted]

    def height(alpha):
      vector = jnp.zeros(counted.size).at[np.flatnonzero(counted)].set(alpha)
      parts = jnp.split(vector, [duals[0][g].size])
      blocks = tuple(x.reshape(y[g].shape) for x, y in zip(parts, duals))
      return dual.loss(game, blocks, concept) - barrier * jnp.sum(jnp.log(alpha))

    step = np.linalg.solve(jax.hessian(height)(alpha), -jax.grad(height)(alpha))
    lengths = np.array(newton.LENGTHS) * 0.9 / max(0.9, *(-step / alpha))
    inside = [length for length in lengths if (alpha + length * step > 0).all()]
    best = min(inside, key=lambda length: float(height(alpha + length * step)))
    taken.append(list(lengths).index(best))
    ahead = np.concatenate([np.asarray(x[g]).ravel() for x in found])
    np.testing.assert_allclose(ahead[counted], alpha + best * step, rtol=1e-4, atol=1e-8)
    assert (ahead[~counted] == 0).all()
  assert len(set(taken)) > 1, taken


def test_newton_steps_come_to_the_minimum_of_the_barrier(x64):
  """Steps from random duals reach the minimum, where dual times slack is about the weight."""
  rng = np.random.default_rng(0)
  problem = make((3, 3), welfare_weight=np.zeros(BATCH), epsilon=np.zeros((BATCH, 2)))
  problem = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), problem)
  barrier = newton.BARRIERS["cce"][1]
  duals = tuple(rng.exponential(size=(BATCH, 3)) for _ in range(2))
  ahead = compiled(newton.descend, static_argnums=(2, 3))(duals, problem, "cce", 80)
  slack = jax.vmap(lambda problem, x: dual.gradient(problem, x, "cce"))(problem, ahead)
  for x, s in zip(ahead, slack):
    assert (0.95 * barrier <= x * s).all() and (x * s <= 2 * barrier * np.maximum(s, 1)).all()
  zero = newton.descend(duals, problem, "cce", 0)
  assert all(x is y for x, y in zip(zero, duals))


def test_inference_ends_with_newton_steps(monkeypatch):
  """Inference adds Newton steps to every chunk. Training has none."""
  config, variables = ready("ce", rounds=1)
  problem, longer = make((3, 3)), dataclasses.replace(config, newton=2)
  monkeypatch.setattr(
      newton, "descend", lambda duals, problem, concept, steps: tuple(x + steps for x in duals)
  )
  duals = network.infer(variables, config, problem).duals
  for entries in (None, 1):
    for x, y in zip(network.infer(variables, longer, problem, entries=entries).duals, duals):
      np.testing.assert_allclose(x, y + 2, rtol=1e-5)
  chex.assert_trees_all_equal(
      network.apply(variables, longer, problem)[0], network.apply(variables, config, problem)[0]
  )
