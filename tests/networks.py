"""Small networks, and batches of problems for them, shared by tests of nes_jax.network."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from nes_jax import dual, network, selection

CONCEPTS = ["cce", "ce"]
INPUTS = ("target", "epsilon", "welfare")
SMALL = {"payoff_channels": (5,), "dual_channel": 6, "dual_channels": (4,)}
BATCH = 6


def quick_options():
  """Options with which a network that runs once compiles in an eighth of the time, or None."""
  options = {
      "xla_backend_optimization_level": 0,
      "xla_cpu_use_fusion_emitters": False,
      "xla_cpu_parallel_codegen_split_count": 1,
  }
  try:
    jax.jit(lambda x: x + 1, compiler_options=options)(1.0)
  except Exception:  # This version of XLA does not know the options, or there is no CPU.
    return None
  return options


compiled = functools.partial(jax.jit, compiler_options=quick_options())
init = compiled(network.init, static_argnums=1)
apply = compiled(network.apply, static_argnums=1, static_argnames="is_training")
infer = compiled(network.infer, static_argnums=1, static_argnames="entries")


def inputs_of(shape, batch, seed=0):
  """A selection in which every input varies, as NumPy arrays."""
  rng = np.random.default_rng(seed)
  return {
      "target": rng.dirichlet(np.ones(math.prod(shape)), size=batch).reshape((batch,) + shape),
      "epsilon": rng.uniform(-1, 1, size=(batch, len(shape))),
      "welfare": rng.normal(size=(batch,) + shape),
      "welfare_weight": np.ones(batch),
  }


def normalised(payoffs, chosen):
  """The normalised problems of payoffs [B, N, A1, ..., AN] and selections."""

  def one(payoffs, chosen):
    return selection.problem(payoffs, selection.Selection(**chosen, rho=1e4))[0]

  return jax.vmap(one)(payoffs, jax.tree_util.tree_map(jnp.float32, chosen))


_normalised = compiled(normalised)


def random_payoffs(shape, batch=BATCH, seed=0):
  return np.random.default_rng(seed + 100).normal(size=(batch, len(shape)) + shape)


def make(shape, batch=BATCH, seed=0, payoffs=None, **fields):
  """A batch of problems in which every input varies."""
  payoffs = random_payoffs(shape, batch, seed) if payoffs is None else payoffs
  return _normalised(jnp.float32(payoffs), {**inputs_of(shape, batch, seed), **fields})


@functools.cache
def ready(concept, **fields):
  """A small configuration and its variables, which fit games of any shape."""
  config = network.Config(concept, **{**SMALL, "inputs": INPUTS, **fields})
  variables = init(jax.random.key(1), config, make((3, 3)))
  # In a trained network scale and offset do not undo the normalisation.
  rng = np.random.default_rng(2)

  def jiggle(x):
    return x * np.float32(1 + 0.1 * rng.normal(size=x.shape))

  return config, variables._replace(params=jax.tree_util.tree_map(jiggle, variables.params))


@functools.partial(compiled, static_argnums=2)
def joints(problem, duals, concept):
  return jax.vmap(lambda problem, duals: dual.joint(problem, duals, concept))(problem, duals)
