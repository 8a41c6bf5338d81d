"""Labels: the exact engine's answers to the problems that a network is trained on."""

import math
from typing import NamedTuple

import jax

from nes_jax import exact
from nes_jax.selection import TABLE, Selection
from nes_jax.solving import batches, chunks
from nes_jax.training.config import Config, inputs
from nes_jax.types import Array, Duals, Problem


class Labels(NamedTuple):
  """Exact answers of a batch of problems."""

  joint: Array  # [B, A1, ..., AN]
  duals: Duals  # of the problem, per player [B, Ap] (CCE) or [B, Ap, Ap] (CE)
  solved: Array  # [B] bool: the engine has converged


def selection_of(problem: Problem, config: Config) -> Selection:
  """The selection that a training draws its problems for, with arrays [B, ...].

  Training replaces an infinite rho by a finite one, which bounds the dual loss. Where it does, the
  selection has hard constraints again.

  Args:
    problem: problems [B, ...] that the training has drawn.
    config: the training.
  """
  varied = inputs(config.selection)
  defaults = {row.name: row.defaults for row in TABLE}.get(config.selection, {})
  has_welfare = "welfare" in varied or "welfare_weight" in defaults
  return Selection(
      target=problem.target if "target" in varied else None,
      epsilon=problem.epsilon,
      welfare=problem.welfare if has_welfare else None,
      welfare_weight=problem.welfare_weight / problem.temperature,
      rho=math.inf if problem.rho == config.rho else problem.rho,
      epsilon_max=defaults.get("epsilon_max", 1.0),
  )


def solve(problem: Problem, config: Config) -> Labels:
  """Solves problems [B, ...] that a training has drawn, by the engine of the device.

  The arrays may be traced. No derivative passes through the answers.

  Args:
    problem: the problems.
    config: the training.
  """
  chosen, concept = selection_of(problem, config), config.network.concept
  dtype = problem.payoffs.dtype
  task = batches.Task(
      concept=concept,
      config=exact.Config.default(concept, dtype, chosen.rho),
      rho=chosen.rho,
      epsilon_max=chosen.epsilon_max,
      axes=batches.Axes(*(None if getattr(chosen, x) is None else 0 for x in batches.Axes._fields)),
  )
  given = jax.lax.stop_gradient((problem.payoffs, chosen))
  solution = chunks.solve_traced(batches.Inputs(*given, None, None), task, dtype)
  stretch = jax.lax.stop_gradient(batches.stretch_of(problem))
  duals = tuple(x / batches.per_game(stretch, x) for x in solution.duals)
  return Labels(solution.joint, duals, solution.converged)
