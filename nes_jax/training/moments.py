"""Moments of activations, by which batch normalisation normalises at inference."""

import functools
import math

import haiku as hk
import jax
import jax.numpy as jnp

from nes_jax import network
from nes_jax.keys import example_keys
from nes_jax.training import problems
from nes_jax.training.config import Config

# Seed of the games whose moments are measured.
_SEED = 2**31 - 2
# Largest number of these games.
_GAMES = 1024
# Largest number of games in a batch.
_BATCH = 128
# Largest number of one player's payoffs in all games, so that large games are few.
_ENTRIES = 2**20
# Added to the variance of a channel, which is zero for one that never varies.
_SMALLEST_VARIANCE = 1e-12


@functools.partial(jax.jit, static_argnums=(1, 2))
def measure(params: hk.Params, config: Config, shape: tuple[int, ...]) -> hk.State:
  """Moments for inference on games of one shape, from fixed draws of such games.

  They take the place of averages that run along with training, which belong to parameters that
  have moved since, and to one shape only. As in training, moments are those of a batch. They are
  averaged over batches, and variances by their logarithms, since rare games have far larger
  activations.
  """
  games = min(_GAMES, max(_ENTRIES // math.prod(shape), 1))
  batch = min(_BATCH, games)
  keys = example_keys(jax.random.key(_SEED), games // batch * batch)

  def moments(keys):
    problem = problems.sample(keys, config.selection, shape, config.rho, config.sphere)
    variables = network.Variables(params, {})
    return network.apply(variables, config.network, problem, is_training=True)[1]

  batches = jax.lax.map(moments, keys.reshape(-1, batch))
  return {
      module: {
          "mean": kept["mean"].mean(0),
          "variance": jnp.exp(jnp.log(kept["variance"] + _SMALLEST_VARIANCE).mean(0)),
      }
      for module, kept in batches.items()
  }


def inference(params: hk.Params, config: Config, shape: tuple[int, ...]) -> network.Variables:
  """Parameters and moments for inference on games of a shape, which may be new to the network."""
  measured = measure(params, config, shape) if config.network.norm == "batch" else {}
  return network.Variables(params, measured)
