"""Layers of cvxpylayers, which differentiate solutions of convex problems.

Glossary: B games, N players, A1, ..., AN strategies, |A| joint strategies, D deviations (rows of
the deviation matrix A).
"""

from collections.abc import Mapping
import importlib.util
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from launch.baselines import convex
from launch.baselines.peers import attempt
from launch.runtime.timing import median_seconds
from nes_jax.solving import engines
from nes_jax.types import Concept

# Names of the backends that solve and differentiate, with the solver that each asks CVXPY for.
LAYERS: Mapping[str, str | None] = {"diffcp": None, "moreau": "MOREAU"}


class Gradients(NamedTuple):
  """Gradients of sum(joint * weights) with respect to the payoffs, and their times.

  Times are those of the forward and the backward pass together.
  """

  one_us: float  # microseconds for one game
  us: float  # microseconds per game of a batch
  values: np.ndarray  # [B, N, A1, ..., AN]


def differentiate(
    name: str, payoffs: np.ndarray, weights: np.ndarray, calls: int, concept: Concept = "cce"
) -> Gradients | None:
  """Differentiates sum(joint * weights), where joint has maximum entropy, by a layer.

  Args:
    name: one of `LAYERS`.
    payoffs: [B, N, A1, ..., AN].
    weights: [A1, ..., AN].
    calls: number of calls whose median time is taken.
    concept: "cce" or "ce".

  Returns:
    The gradients. None if the layer is not installed, or fails; a failure is printed.
  """
  needed = ("cvxpy", "cvxpylayers", name)
  if not all(importlib.util.find_spec(module) for module in needed):
    return None
  return attempt(name, lambda: _differentiate(name, payoffs, weights, calls, concept))


def _differentiate(
    name: str, payoffs: np.ndarray, weights: np.ndarray, calls: int, concept: Concept
) -> Gradients:
  import cvxpy as cp
  from cvxpylayers.jax import CvxpyLayer

  shape = weights.shape
  rows = convex.deviation_rows(shape, concept)
  joint, matrix = cp.Variable(weights.size), cp.Parameter((len(rows), weights.size))
  goal = cp.Maximize(cp.sum(cp.entr(joint)))
  problem = cp.Problem(goal, [cp.sum(joint) == 1, matrix @ joint <= 0])
  layer = CvxpyLayer(problem, [matrix], [joint], solver=LAYERS[name])

  def gain(own, player, recommended, strategy):  # own payoffs [A1, ..., AN] of the player
    difference = jnp.take(own, jnp.array([strategy]), player) - own
    if recommended is None:
      return difference
    told = jnp.arange(shape[player]) == recommended
    return difference * told.reshape((-1,) + (1,) * (len(shape) - 1 - player))

  def gains(payoffs):  # [N, A1, ..., AN] -> [D, |A|]
    return jnp.stack([gain(payoffs[row.player], *row).ravel() for row in rows])

  def loss(payoffs):
    batched = payoffs.ndim > len(shape) + 1
    (answer,) = layer((jax.vmap(gains) if batched else gains)(payoffs))
    return (answer.reshape(answer.shape[:-1] + shape) * weights).sum()

  # The layers compute in float64.
  with engines.precision(np.float64):
    # The backend diffcp cannot be compiled.
    gradient = jax.grad(loss) if name == "diffcp" else jax.jit(jax.grad(loss))
    games = jnp.asarray(payoffs, jnp.float64)
    one = median_seconds(lambda: gradient(games[0]), calls)
    batch = median_seconds(lambda: gradient(games), calls)
    values = np.asarray(gradient(games))
  return Gradients(1e6 * one, 1e6 * batch / len(payoffs), values)
