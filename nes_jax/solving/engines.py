"""Engines: which one solves a batch, and the way of a batch through each.

C++ serves CPUs (`nes_jax.native.cpu`), CUDA kernels serve NVIDIA GPUs (`nes_jax.native.cuda`), and
the JAX engine (`nes_jax.exact`) serves everywhere else. A network answers method "neural", and
gives the exact engine a starting point for method "refined".
"""

import contextlib
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np

from nes_jax import deviation, dual, exact, metrics, network
from nes_jax.native import cpu, cuda
from nes_jax.solving.batches import (
    Engine,
    Inputs,
    Normalised,
    Task,
    normalise,
    to_normalised,
    to_solution,
)
from nes_jax.types import Array, Concept, Problem, Solution

# Smallest number of games in a batch that goes in the last axis on accelerators (`layout`).
_MIN_UNROLLED_GAMES = 128
# Largest number of duals of a game in such a batch.
_MAX_UNROLLED_DUALS = 20
# Largest number of joint strategies of a game in such a batch.
_MAX_UNROLLED_JOINT = 256
# Largest number of further steps for games whose answers are differentiated.
_DERIVATIVE_ITERATIONS = 15


def x64_enabled() -> bool:
  """Whether JAX has 64-bit types, here and now."""
  return jax.dtypes.canonicalize_dtype(np.float64) == np.float64


def precision(dtype: Any) -> contextlib.AbstractContextManager:
  """A context in which JAX computes in this type, whatever its global setting."""
  if jnp.finfo(dtype).bits < 64 or x64_enabled():
    return contextlib.nullcontext()
  if not hasattr(jax, "enable_x64"):  # before JAX 0.8
    return getattr(jax.experimental, "enable_x64")(True)  # noqa: B009
  return jax.enable_x64(True)


# The choice of an engine.


def on_accelerator(games: Any) -> bool:
  """Whether concrete games are on an accelerator, or will be."""
  if isinstance(games, jax.Array) and not isinstance(games, jax.core.Tracer):
    return any(device.platform != "cpu" for device in games.devices())
  return jax.default_backend() != "cpu"


def engine_for(shape: tuple[int, ...], concept: Concept, dtype: Any, accelerated: bool) -> Engine:
  """The engine that solves plain games of strategy counts `shape`, on an accelerator or a CPU."""
  if not accelerated:
    return "native" if cpu.serves(shape, concept) else "jax"
  serves = cuda.serves(shape, concept, dtype) is None and cuda.available() is None
  return "cuda" if serves else "jax"


def choose_engine(inputs: Inputs, task: Task, dtype: Any, traced: bool = False) -> Engine:
  """The engine that solves a batch: that of `engine_for` if it can do all that is asked."""
  shape = tuple(inputs.payoffs.shape[2:])
  engine = engine_for(shape, task.concept, dtype, on_accelerator(inputs.payoffs))
  exactly = task.method == "exact"
  if engine == "native":
    serves = exactly and cpu.reason_traced() is None if traced else task.method != "neural"
  else:
    hard = math.isinf(task.rho)
    serves = exactly and hard and inputs.selection.welfare is None and inputs.duals is None
  return engine if serves else "jax"


# A batch through an engine. Batches are traceable, and may be traced.


def solve_batch(inputs: Inputs, patience: int | Array, task: Task, dtype: Any) -> Solution:
  """Solves a batch by the engine of the task; up to `patience` games may be left running."""
  if task.engine == "native" and task.method == "exact":
    return _solve_native(inputs, task, dtype)
  if task.engine == "cuda":
    return _solve_cuda(inputs, task, dtype)
  batch = normalise(inputs, task, dtype)
  if task.method == "neural":
    found = _infer(inputs, task, batch)
    answer = jax.vmap(functools.partial(_recover, task.concept))(batch.problem, found)
  else:
    answer = _interior_point(batch, _start(inputs, task, batch), patience, task)
  return to_solution(inputs, task, dtype, batch, answer)


def _start(inputs: Inputs, task: Task, batch: Normalised) -> exact.Start | None:
  """The starting point of a batch: one that is given, a network's answer, or none."""
  if inputs.duals is not None:
    return exact.Start(to_normalised(inputs.duals, batch), inputs.joint)
  if task.network_config is None:
    return None
  found = _infer(inputs, task, batch)
  return exact.Start(found.duals, joint_of(task.network_config, jnp.exp(found.log_joint)))


def joint_of(config: network.Config, joint: Any) -> Any:
  """The joint that a network gives the exact engine: its own, or None for that of its duals."""
  return joint if config.answer == "joint" else None


def _infer(inputs: Inputs, task: Task, batch: Normalised) -> network.Answer:
  """The network's answers to a batch."""
  assert task.network_config is not None and inputs.variables is not None
  entries = network.CPU_ENTRIES if jax.default_backend() == "cpu" else None
  found = network.infer(inputs.variables, task.network_config, batch.problem, entries=entries)
  return jax.tree.map(lambda x: x.astype(batch.problem.payoffs.dtype), found)


def _recover(concept: Concept, problem: Problem, found: network.Answer) -> exact.Answer:
  """A network's answer to one game, with the epsilon of eq. (10)."""
  duals, joint = found.duals, jnp.exp(found.log_joint)
  epsilon = dual.epsilon(problem, duals)
  residual = metrics.residual(problem, joint, epsilon, duals, concept)
  return exact.Answer(joint, epsilon, duals, residual, jnp.zeros((), jnp.int32))


def _interior_point(
    batch: Normalised, start: exact.Start | None, patience: int | Array, task: Task
) -> exact.Answer:
  """The JAX engine, which has the batch in the first or in the last axis (`layout`)."""
  games, shape = len(batch.finite), tuple(batch.problem.target.shape[1:])
  axis = -1 if _unrolls(shape, games, task.concept) else 0
  given: Any = jax.tree.map(lambda x: jnp.moveaxis(x, 0, axis), (batch.problem, start))
  answer: Any = exact.solve(
      given[0],
      task.config,
      task.concept,
      given[1],
      batch_axis=axis,
      patience=patience,
      width=task.width,
  )
  return jax.tree.map(lambda x: jnp.moveaxis(x, axis, 0), answer)


def _unrolls(shape: tuple[int, ...], games: int, concept: Concept) -> bool:
  """Whether the batch goes in the last axis (`layout`)."""
  if jax.default_backend() == "cpu":
    return False  # XLA computes producers of unrolled code again for every consumer
  num_duals = sum(count ** deviation.dual_axes(concept) for count in shape)
  return (
      games >= _MIN_UNROLLED_GAMES
      and num_duals <= _MAX_UNROLLED_DUALS
      and math.prod(shape) <= _MAX_UNROLLED_JOINT
  )


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _solve_cuda(inputs: Inputs, task: Task, dtype: Any) -> Solution:
  """`solve_batch` by the CUDA kernels."""
  batch = normalise(inputs, task, dtype)
  problem = batch.problem
  log_target = None
  if inputs.selection.target is not None:
    log_target = jnp.log(jnp.where(problem.target > 0, problem.target, 1))
  joint, duals, residual, iterations = cuda.solve(
      jax.vmap(deviation.centre_at_best)(problem.payoffs, problem.strategies),
      log_target,
      problem.epsilon,
      problem.strategies,
      concept=task.concept,
      tolerance=task.config.tolerance,
      margin=task.config.margin,
      max_iterations=task.config.max_iterations,
  )
  answer = exact.Answer(joint, problem.epsilon, duals, residual, iterations)
  return to_solution(inputs, task, dtype, batch, answer)


@_solve_cuda.defjvp
def _solve_cuda_jvp(task, dtype, primals, tangents):
  """Solves the games again by the JAX engine: kernels do not return what derivatives need."""
  return jax.jvp(
      lambda inputs: solve_batch(inputs, 0, task._replace(engine="jax"), dtype), primals, tangents
  )


def native_inputs(inputs: Inputs) -> cpu.Inputs:
  """Arrays of a batch as the native engine takes them."""
  select = inputs.selection
  welfare_weight = None if select.welfare is None else select.welfare_weight
  return cpu.Inputs(
      payoffs=inputs.payoffs,
      epsilon=select.epsilon,
      target=select.target,
      welfare=select.welfare,
      welfare_weight=welfare_weight,
      strategies=inputs.strategies,
      duals=inputs.duals,
      joint=inputs.joint,
  )


@functools.lru_cache
def native_options(task: Task, dtype: Any, differentiated: bool = False) -> cpu.Options:
  """Three stages: as asked for; float64 for games that are left; then raised limits.

  If the answers are differentiated, one more stage goes on with all games in float64.
  """
  wide = jnp.dtype("float64")
  config = task.config
  stages = [cpu.Stage(config, wide=dtype == wide)]
  repeat = exact.Config.default(task.concept, wide, task.rho, tolerance=config.tolerance)
  if dtype != wide:
    stages.append(cpu.Stage(repeat, wide=True))
  # A caller who gives fewer iterations in float64 wants no more steps than these.
  limited = dtype == wide and config.max_iterations < repeat.max_iterations
  if math.isinf(task.rho) and not limited:
    last = config if dtype == wide else repeat
    stages.append(cpu.Stage(dataclasses.replace(last, relaxed=True), wide=True))
  if differentiated:
    closer = repeat.differentiated(wide)
    polish = dataclasses.replace(closer, max_iterations=_DERIVATIVE_ITERATIONS)
    stages.append(cpu.Stage(polish, wide=True, resume=True))
  return cpu.Options(
      concept=task.concept,
      dtype=dtype,
      stages=tuple(stages),
      rho=task.rho,
      epsilon_max=task.epsilon_max,
  )


def native_solution(answers: cpu.Answers, task: Task, shape: tuple[int, ...]) -> Solution:
  """Answers of the native engine, which are in the units of the payoffs."""
  return Solution(
      joint=answers.joint,
      epsilon=answers.epsilon,
      gap=answers.gap,
      residual=answers.residual,
      converged=answers.converged,
      duals=cpu.split_duals(answers.duals, shape, task.concept),
      marginals=cpu.split_marginals(answers.marginals, shape),
      iterations=answers.iterations,
      repeated=answers.repeated,
  )


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _solve_native(inputs: Inputs, task: Task, dtype: Any) -> Solution:
  """`solve_batch` by the native engine."""
  answers, _ = cpu.solve_traced(native_inputs(inputs), native_options(task, dtype))
  return native_solution(answers, task, tuple(inputs.payoffs.shape[2:]))


@_solve_native.defjvp
def _solve_native_jvp(task, dtype, primals, tangents):
  """Differentiates normalisation and units in JAX, and the optimum by implicit differentiation."""
  (inputs,) = primals
  options = native_options(task, dtype, differentiated=True)
  given = jax.lax.stop_gradient(native_inputs(inputs))
  answers, variables = cpu.solve_traced(given, options, with_variables=True)
  # The native solver of linear systems knows no strategies that do not exist.
  system_solver = cpu.solve_system if inputs.strategies is None else None

  def around(inputs):
    batch = normalise(inputs, task, dtype)
    optimum = exact.optimum_given(batch.problem, variables, task.concept, 0, system_solver)
    answer = exact.answer(
        batch.problem, optimum, answers.residual, answers.iterations, task.concept, 0
    )
    solution = to_solution(inputs, task, dtype, batch, answer)
    return solution._replace(repeated=answers.repeated)

  return jax.jvp(around, (inputs,), tangents)
