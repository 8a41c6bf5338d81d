"""Games that a network is not trained on, with their equilibria."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import nes_jax
from nes_jax import training
from nes_jax.keys import example_keys
from nes_jax.types import Problem

# Seed of the held-out games, which no training uses.
_SEED = 2**31 - 1
# Residual of the equilibria, which are to be much better than the network's answers.
_TOLERANCE = 1e-7


@dataclasses.dataclass(frozen=True)
class HeldOut:
  """Held-out problems of one shape, and their equilibria."""

  problem: Problem  # arrays with a leading axis [B]
  joint: jax.Array  # [B, A1, ..., AN]


def draw(config: training.Config, shape: tuple[int, ...], games: int) -> HeldOut:
  """Draws held-out games as training does, and solves them exactly in float64.

  A network that is trained on varied or plain uniform games is evaluated on the L2 sphere.
  Games that the exact engine does not solve are left out.

  Args:
    config: the training.
    shape: (A1, ..., AN).
    games: number of games that are drawn.
  """
  keys = example_keys(jax.random.key(_SEED), games)
  sphere = "l2" if config.sphere in (training.VARIED, training.UNIFORM) else config.sphere
  problem = jax.jit(training.sample, static_argnums=(1, 2, 3, 4))(
      keys, config.selection, shape, config.rho, sphere
  )
  selection = training.selection_of(jax.tree.map(np.asarray, problem), config)
  solution = nes_jax.solve(
      np.asarray(problem.payoffs),
      concept=config.network.concept,
      selection=selection,
      method="exact",
      precision="float64",
      tolerance=_TOLERANCE,
      batched=True,
  )
  assert isinstance(solution, nes_jax.Solution)  # the games have one shape
  problem = dataclasses.replace(problem, rho=selection.rho)
  converged = np.asarray(solution.converged)

  def take(x):
    return jnp.asarray(np.asarray(x)[converged])

  return HeldOut(jax.tree.map(take, problem), take(np.asarray(solution.joint, np.float32)))


_evaluate = jax.jit(training.evaluate, static_argnums=1)


def judge(
    state: training.State, config: training.Config, shape: tuple[int, ...], games: HeldOut
) -> dict[str, jax.Array]:
  """Evaluates a network as it would ship, with the moments of inference.

  Args:
    state: state of the training, on one device.
    config: the training.
    shape: (A1, ..., AN) of the games.
    games: held-out games.

  Returns:
    Metrics of `nes_jax.training.evaluate`, [B] each.
  """
  variables = training.inference(state.params, config, shape)
  return _evaluate(variables, config.network, games.problem, games.joint)
