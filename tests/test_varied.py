"""nes_jax.games.varied: random games with structure, and their use in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch.training import held_out
from nes_jax import network, training
from nes_jax.games import varied

COUNT = 400


def drawn(shape, count=COUNT, seed=0):
  keys = jax.random.split(jax.random.key(seed), count)
  return np.asarray(jax.jit(jax.vmap(lambda key: varied.sample(key, shape)))(keys))


@pytest.mark.parametrize("shape", [(2, 2), (5, 3), (2, 3, 2)])
def test_games_are_finite_and_seldom_constant(shape):
  games = drawn(shape)
  assert games.shape == (COUNT, len(shape), *shape) and np.isfinite(games).all()
  spread = np.ptp(games.reshape(COUNT, len(shape), -1), axis=2)
  assert (spread > 0).mean() > 0.95
  np.testing.assert_array_equal(games, drawn(shape))
  assert not np.array_equal(games, drawn(shape, seed=1))


def test_games_have_the_structure_that_uniform_ones_lack():
  games = drawn((6, 6))
  first = games[:, 0]
  # Few levels: 36 payoffs of a continuous distribution are 36 numbers.
  levels = np.array([len(np.unique(x)) for x in first])
  assert 0.2 < (levels < 18).mean() < 0.6
  # Dominance: a row that is best in every column.
  best = (first == first.max(1, keepdims=True)).all(2).any(1)
  assert best.mean() > 0.05
  # Players who have something in common, or against one another.
  centred = games - games.mean((2, 3), keepdims=True)
  size = np.sqrt((centred**2).sum((2, 3)))
  with np.errstate(invalid="ignore"):
    together = (centred[:, 0] * centred[:, 1]).sum((1, 2)) / (size[:, 0] * size[:, 1])
  assert np.nanquantile(together, 0.1) < -0.5 and np.nanquantile(together, 0.9) > 0.5


def config(**changes):
  net = network.Config(
      "cce", payoff_channels=(4,), dual_channel=4, dual_channels=(4,), norm="rms"
  )
  fields = {"shapes": ((3, 3),), "batches": (64,), "updates": 2, "sphere": "varied", **changes}
  return training.Config(net, **fields)


@pytest.mark.parametrize("loss", training.LOSSES)
def test_half_of_the_games_of_a_training_are_varied(loss):
  chosen = config(loss=loss)
  keys = jax.random.split(jax.random.key(3), 256)
  games = training.sample(keys, chosen.selection, (3, 3), chosen.rho, chosen.sphere).payoffs
  levels = np.array([len(np.unique(x)) for x in np.asarray(games[:, 0]).round(5)])
  assert 0.1 < (levels < 9).mean() < 0.6
  state = jax.jit(training.init, static_argnums=1)(jax.random.key(4), chosen)
  state, report = jax.jit(training.update, static_argnums=2)(state, jax.random.key(5), chosen)
  assert jnp.isfinite(report["loss"]) and int(state.step) == 1


def test_held_out_games_are_of_the_l2_sphere():
  varied_games, plain = (
      held_out.draw(config(sphere=sphere), (3, 3), 32).problem.payoffs
      for sphere in ("varied", "l2")
  )
  np.testing.assert_array_equal(varied_games, plain)
