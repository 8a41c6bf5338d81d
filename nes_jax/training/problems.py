"""Random problems to train on, as Table 3 of Marris et al. (2022) has them.

Glossary: b problems, N players, A1, ..., AN strategies.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any, cast

import jax
import jax.numpy as jnp

from nes_jax import selection as selections
from nes_jax.games import spheres, varied
from nes_jax.invariance import Norm, radius
from nes_jax.training.config import ALL_INPUTS, UNIFORM, VARIED, inputs
from nes_jax.types import Array, Problem

# Largest epsilon that `ALL_INPUTS` draws, in units of the payoffs' standard deviation.
_EPSILON = 1.0
# Concentration of the Dirichlet distribution of targets with little mass beside few strategies.
_SPARSE_CONCENTRATION = 0.1
# Range of the welfare weights that `ALL_INPUTS` draws, log-uniformly.
_WELFARE_WEIGHTS = (0.1, 1e3)


def sample(
    keys: Array, selection: str, shape: tuple[int, ...], rho: float, sphere: str = "l2"
) -> Problem:
  """Draws one problem for each key: keys [b] -> Problem with leading axes [b].

  Args:
    keys: [b] typed PRNG keys.
    selection: one of `config.SELECTIONS`.
    shape: (A1, ..., AN).
    rho: takes the place of an infinite rho.
    sphere: norm of the invariant sphere, VARIED or UNIFORM.
  """
  return jax.vmap(lambda key: _sample_one(key, selection, shape, rho, sphere))(keys)


def _sample_one(
    key: Array, selection: str, shape: tuple[int, ...], rho: float, sphere: str
) -> Problem:
  game_key, target_key, epsilon_key, welfare_key, mix_key = jax.random.split(key, 5)
  naive = sphere == UNIFORM
  norm = cast(Norm, "l2" if sphere in (VARIED, UNIFORM) else sphere)
  payoffs = spheres.sample(game_key, 1, shape, norm)[0]
  if sphere == VARIED:
    chance, structured_key = jax.random.split(jax.random.fold_in(game_key, 1))
    structured = varied.sample(structured_key, shape)
    payoffs = jnp.where(jax.random.bernoulli(chance), structured, payoffs)
  if naive:
    limit = math.sqrt(3)
    payoffs = jax.random.uniform(game_key, payoffs.shape, minval=-limit, maxval=limit)
  z = radius(math.prod(shape))
  draws = {
      "target": lambda: _dirichlet(target_key, 1.0, shape),
      "epsilon": lambda: jax.random.uniform(epsilon_key, (len(shape),), minval=-z, maxval=z),
      "welfare": lambda: spheres.sample(welfare_key, 1, shape, norm)[0, 0],
  }
  values = {name: draws[name]() for name in inputs(selection)}
  if selection == ALL_INPUTS:
    chosen = selections.Selection(**_mix(mix_key, values))
  else:
    chosen = selections.named(selection, payoffs, player_axis=0, **values)
  if math.isinf(chosen.rho):
    chosen = dataclasses.replace(chosen, rho=rho)
  problem = selections.problem(payoffs, chosen)[0]
  return dataclasses.replace(problem, payoffs=payoffs) if naive else problem


def _dirichlet(key: Array, concentration: float, shape: tuple[int, ...]) -> Array:
  return jax.random.dirichlet(key, jnp.full(math.prod(shape), concentration)).reshape(shape)


def _mix(key: Array, values: Mapping[str, Array]) -> dict[str, Any]:
  """Inputs that ALL_INPUTS makes of random ones, often those of a named selection.

  A third of the targets is uniform, a third a flat Dirichlet's, a third one with little mass beside
  few joint strategies. Half of the epsilons are 0, and half uniform up to what a player gains
  against uniform play; negative ones, which most games do not allow, would be nearly all of the
  loss. A third of the welfare weights is 0.
  """
  kind_key, sparse_key, epsilon_key, weight_key = jax.random.split(key, 4)
  target = values["target"]
  kind = jax.random.randint(kind_key, (), 0, 3)
  sparse = _dirichlet(sparse_key, _SPARSE_CONCENTRATION, target.shape)
  target = jnp.stack([jnp.full_like(target, 1 / target.size), target, sparse])[kind]
  exact = jax.random.bernoulli(epsilon_key)
  low, high = map(math.log, _WELFARE_WEIGHTS)
  # The lower half of the range stands for no welfare at all.
  position = jax.random.uniform(weight_key, minval=low - (high - low) / 2, maxval=high)
  return {
      "target": target,
      "epsilon": jnp.where(exact, 0, _EPSILON * jnp.abs(values["epsilon"]) / radius(target.size)),
      "welfare": values["welfare"],
      "welfare_weight": jnp.where(position < low, 0, jnp.exp(position)),
  }
