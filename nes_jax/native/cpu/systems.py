"""Newton systems of games at points that are given, solved by the CPU engine for derivatives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nes_jax import exact
from nes_jax.native.cpu.layout import split_duals
from nes_jax.native.cpu.library import threads
from nes_jax.types import Concept


def solve_system(
    payoffs: Any,
    temperature: Any,
    rho: Any,
    variables: exact.Variables,
    right: tuple[Any, tuple[Any, ...], Any, Any],
    concept: Concept,
) -> tuple[Any, tuple[Any, ...], Any, Any]:
  """Solves the Newton system of one game at a point, in float64, whatever the type of the arrays.

  It serves under transformations where `reason_traced` is None. Derivatives are for the caller.

  Args:
    payoffs: [N, A1, ..., AN], of a `exact.program.Program`.
    temperature: [].
    rho: [], or None with hard constraints.
    variables: the point; all strategies exist.
    right: right sides, as for a solver of `exact.newton`.
    concept: "cce" or "ce".

  Returns:
    Joint, duals, dual of the mass and slack of epsilon, as a solver of `exact.newton`.
  """
  v, shape = variables, payoffs.shape[1:]
  stationary, feasible, mass, epsilon_slack = right
  dtype = payoffs.dtype

  def joined(blocks):
    return jnp.concatenate([x.ravel() for x in blocks])

  given = (
      payoffs, temperature, jnp.ones((), dtype) if rho is None else rho, v.joint, v.bound,
      joined(v.slack), joined(v.duals), v.epsilon_slack, stationary, joined(feasible), mass,
      epsilon_slack,
  )
  sizes = (shape, joined(v.duals).shape, (), v.epsilon_slack.shape)
  call = jax.ffi.ffi_call(
      "nes_jax_cpu_systems",
      tuple(jax.ShapeDtypeStruct(size, dtype) for size in sizes),
      vmap_method="broadcast_all",
  )
  joint, duals, mass_dual, epsilon_slack = call(
      *given,
      counts=np.array(shape, np.int64),
      correlated=concept == "ce",
      soft=rho is not None,
      threads=np.int64(threads()),
  )
  blocks = split_duals(duals[None], shape, concept)
  return joint, tuple(x[0] for x in blocks), mass_dual, epsilon_slack
