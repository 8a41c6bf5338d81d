"""The work behind `nes_jax.solve`: batches of games through an engine, in chunks and repeats.

The arguments are checked already (`nes_jax.solve`). `choose_engine` is the rule of which engine
solves what: C++ on CPUs (`nes_jax.native`), CUDA kernels on NVIDIA GPUs (`nes_jax.native.cuda`),
and the JAX engine (`nes_jax.exact`) for all that these do not cover.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import math
import os
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nes_jax import deviation, dual, exact, metrics, native, network
from nes_jax import selection as selections
from nes_jax.native import cuda
from nes_jax.selection import Selection
from nes_jax.types import Array, Concept, Duals, Problem, Solution

# Bytes of working memory that a chunk of games may take: near the size of a core's share of the
# last cache on CPU; a quarter of what an accelerator has, with this as the fallback.
_CPU_CHUNK_BYTES = 2**23
_ACCELERATOR_CHUNK_BYTES = 2**31
# On accelerators, games whose duals are few are solved with the batch in the last axis.
_MIN_UNROLLED = 128
_MAX_UNROLLED_DUALS = 20
# Under `jit` the JAX engine iterates on so many parts of a batch in turn, if it has enough games.
_MIN_TURNS = 64
_TURNS = 8


Engine = Literal["jax", "native", "cuda"]


class Axes(NamedTuple):
  """vmap axes of a selection's arrays: 0, or None where one value serves all games."""

  target: int | None
  epsilon: int | None
  welfare: int | None
  welfare_weight: int | None


class Task(NamedTuple):
  """The options of a batch, which are static under `jit`."""

  concept: Concept
  config: exact.Config
  rho: float
  epsilon_max: float
  axes: Axes
  method: str = "exact"
  network_config: network.Config | None = None
  width: int | None = None  # games that are iterated on at a time; None: all
  engine: Engine = "jax"  # of method "exact"


class Inputs(NamedTuple):
  """The arrays of a batch."""

  payoffs: Any  # [B, N, A1, ..., AN]
  selection: Selection  # with arrays as fields
  duals: Duals | None  # to start from
  variables: network.Variables | None  # of the network
  strategies: tuple[Any, ...] | None = None  # per player bool [B, Ap]; None: all exist


def precision(dtype) -> Any:
  """A context in which JAX computes in this type, whatever its global setting."""
  if jnp.finfo(dtype).bits < 64 or jax.config.jax_enable_x64:
    return contextlib.nullcontext()
  enable = getattr(jax, "enable_x64", None)
  if enable is None:  # before JAX 0.8
    from jax.experimental import enable_x64 as enable
  return enable(True)


def _wider(given, dtype) -> Any:
  return given if jnp.finfo(given).bits > jnp.finfo(dtype).bits else dtype


def _normalise(
    inputs: Inputs, task: Task, dtype, batch_axis: int
) -> tuple[Problem, Array, Array]:
  """-> problems with the given batch axis, scale [B, N], finite [B]."""
  payoffs = jnp.asarray(inputs.payoffs)
  exist = inputs.strategies
  if exist is not None:
    exist = tuple(map(jnp.asarray, exist))
    payoffs = jnp.where(jax.vmap(deviation.alive)(exist)[:, None], payoffs, 0)
  finite = jnp.isfinite(payoffs).reshape(len(payoffs), -1).all(1)
  payoffs = jnp.where(finite.reshape((-1,) + (1,) * (payoffs.ndim - 1)), payoffs, 0)
  select = inputs.selection
  fields = {name: getattr(select, name) for name in Axes._fields}
  names = [name for name, value in fields.items() if value is not None]
  arrays = [jnp.asarray(fields[name]).astype(payoffs.dtype) for name in names]
  narrower = jnp.finfo(dtype).bits < jnp.finfo(payoffs.dtype).bits

  def one(payoffs, exist, *values):
    chosen = Selection(rho=task.rho, epsilon_max=task.epsilon_max, **dict(zip(names, values)))
    problem, scale = selections.problem(payoffs, chosen, exist)
    if narrower:
      centred = deviation.centre_at_best(problem.payoffs, exist)
      problem = dataclasses.replace(problem, payoffs=centred)
    floats = dataclasses.replace(problem, strategies=None)
    floats = jax.tree.map(lambda x: x.astype(dtype), floats)
    return dataclasses.replace(floats, strategies=problem.strategies), scale

  in_axes = [0, 0] + [getattr(task.axes, name) for name in names]
  problem, scale = jax.vmap(one, in_axes, (batch_axis, 0))(payoffs, exist, *arrays)
  return problem, scale, finite


def _unrolls(shape: tuple[int, ...], games: int, concept: Concept) -> bool:
  """Whether the batch goes in the last axis (`layout`)."""
  if jax.default_backend() == "cpu":
    return False  # XLA computes producers of unrolled code again for every consumer
  num_duals = sum(count ** deviation.dual_axes(concept) for count in shape)
  return games >= _MIN_UNROLLED and num_duals <= _MAX_UNROLLED_DUALS and math.prod(shape) <= 256


def _solve_batch(inputs: Inputs, patience: int | Array, task: Task, dtype) -> Solution:
  """The whole pipeline on one batch; traceable. Up to `patience` games may be left running."""
  if task.engine == "native" and task.method == "exact":
    return _solve_native(inputs, task, dtype)
  if task.engine == "cuda":
    return _solve_cuda(inputs, task, dtype)
  shape = tuple(inputs.payoffs.shape[2:])
  last = _unrolls(shape, len(inputs.payoffs), task.concept)
  axis = -1 if last else 0
  problem, scale, finite = _normalise(inputs, task, dtype, axis)
  stretch = _stretch(problem)
  start = inputs.duals
  if start is not None:
    start = tuple(
        jnp.moveaxis((x * _per_dual(scale[:, p], x) / _per_dual(stretch, x)).astype(dtype), 0, axis)
        for p, x in enumerate(start)
    )
  elif task.network_config is not None:
    start = _network_duals(inputs.variables, task.network_config, problem, axis)
  if task.method == "neural":
    answer = jax.vmap(functools.partial(_recover, task.concept), axis, axis)(problem, start)
  else:
    answer = exact.solve(
        problem,
        task.config,
        task.concept,
        start,
        batch_axis=axis,
        patience=patience,
        width=task.width,
    )

  return _in_units(inputs, task, dtype, problem, answer, scale, finite, axis)


def _in_units(inputs, task, dtype, problem, answer, scale, finite, axis) -> Solution:
  """The answer of normalised problems, in the units of the payoffs.

  Args:
    problem, answer: with the given batch axis.
    scale, finite: of `_normalise`.
  """
  shape = tuple(inputs.payoffs.shape[2:])
  stretch = _stretch(problem)

  def gap_of(problem, answer, scale):
    args = problem.payoffs, answer.joint, answer.epsilon, task.concept, problem.strategies
    return jnp.sum(metrics.violations(*args) * scale)

  gap = jax.vmap(gap_of, (axis, axis, 0))(problem, answer, scale.astype(dtype))
  first = jax.tree.map(lambda x: jnp.moveaxis(x, axis, 0), answer)

  def mark(x):
    return jnp.where(finite.reshape((-1,) + (1,) * (x.ndim - 1)), x, jnp.nan)

  joint = mark(first.joint)
  # A player with constant payoffs has scale 0: report the epsilon asked for, and no duals.
  epsilon = first.epsilon * scale
  if inputs.selection.epsilon is not None and math.isinf(task.rho):
    epsilon = jnp.broadcast_to(jnp.asarray(inputs.selection.epsilon), scale.shape)
  duals = []
  for p, x in enumerate(first.duals):
    factor = jnp.where(scale[:, p] > 0, stretch / jnp.where(scale[:, p] > 0, scale[:, p], 1), 0)
    duals.append(mark(x * _per_dual(factor, x)).astype(dtype))
  n = len(shape)
  marginals = tuple(
      joint.sum(tuple(1 + q for q in range(n) if q != p)) for p in range(n)
  )
  residual = jnp.where(finite, first.residual, jnp.nan)
  return Solution(
      joint=joint,
      epsilon=mark(epsilon.astype(dtype)),
      gap=mark(gap),
      residual=residual,
      converged=residual <= task.config.tolerance,
      duals=tuple(duals),
      marginals=marginals,
      iterations=first.iterations,
      repeated=jnp.zeros(finite.shape, bool),
  )


def _stretch(problem: Problem) -> Array:
  """The factor [B] from duals of the divided objective to duals of the paper's."""
  mu = jnp.maximum(problem.welfare_weight, 1)
  # Infinite welfare weight: the duals are those of the welfare alone.
  return jnp.where(jnp.isinf(mu), 1, mu)


def _network_duals(variables, config: network.Config, problem: Problem, axis: int) -> Duals:
  """The network's duals of a batch, of the divided objective; the batch axis where it was."""
  first = jax.tree.map(lambda x: jnp.moveaxis(x, axis, 0), problem)
  entries = network.CPU_ENTRIES if jax.default_backend() == "cpu" else None
  blocks = network.infer(variables, config, first, entries=entries)
  mu = jnp.maximum(first.welfare_weight, 1)
  return tuple(
      jnp.moveaxis((x / _per_dual(mu, x)).astype(problem.payoffs.dtype), 0, axis) for x in blocks
  )


def _recover(concept: Concept, problem: Problem, duals: Duals) -> exact.Answer:
  """Eqs. (9) and (10) of one game's duals, which are those of the divided objective."""
  whole = tuple(x * jnp.maximum(problem.welfare_weight, 1) for x in duals)
  joint, epsilon = dual.joint(problem, whole, concept), dual.epsilon(problem, whole)
  residual = metrics.residual(problem, joint, epsilon, duals, concept)
  return exact.Answer(joint, epsilon, duals, residual, jnp.zeros((), jnp.int32))


def _per_dual(factor: Array, block: Array) -> Array:
  """[B] -> [B, 1...] that broadcasts against a block of duals [B, ...]."""
  return factor.reshape((-1,) + (1,) * (block.ndim - 1))


solve_traced = jax.jit(_solve_batch, static_argnums=(2, 3))


def turn_width(shape: tuple[int, ...], games: int, concept: Concept, dtype) -> int | None:
  """The number of games of a batch under `jit` that the JAX engine iterates on at a time."""
  if games < _MIN_TURNS:
    return None
  width = math.ceil(games / _TURNS)
  if jax.default_backend() == "cpu":
    width = max(width, _chunk_size(shape, games, concept, dtype))
  return min(width, games)


def _chunk_size(shape: tuple[int, ...], games: int, concept: Concept, dtype) -> int:
  """Games that one device is to iterate on at a time."""
  size = math.prod(shape)
  num_duals = sum(count ** deviation.dual_axes(concept) for count in shape)
  newton = size if concept == "ce" and size < num_duals else num_duals
  numbers = 40 * len(shape) * size + 8 * newton**2
  if concept == "ce":
    numbers += 4 * size * max(shape) * len(shape)
  limit = _CPU_CHUNK_BYTES
  if jax.default_backend() != "cpu":
    stats = jax.local_devices()[0].memory_stats() or {}
    limit = stats.get("bytes_limit", 4 * _ACCELERATOR_CHUNK_BYTES) // 4
  return max(1, limit // (numbers * jnp.dtype(dtype).itemsize))


# Engines beside the one in JAX.


def on_accelerator(games: Any) -> bool:
  """Whether concrete games are on an accelerator, or will be."""
  if isinstance(games, jax.Array) and not isinstance(games, jax.core.Tracer):
    return any(device.platform != "cpu" for device in games.devices())
  return jax.default_backend() != "cpu"


def engine_for(shape: tuple[int, ...], concept: Concept, dtype, accelerated: bool) -> Engine:
  """The engine that solves plain games of strategy counts `shape`, on an accelerator or a CPU.

  C++ serves CPUs and CUDA kernels serve NVIDIA GPUs. JAX solves what these do not cover.
  """
  if not accelerated:
    return "native" if native.serves(shape, concept) else "jax"
  serves = cuda.serves(shape, concept, dtype) is None and cuda.available() is None
  return "cuda" if serves else "jax"


def choose_engine(inputs: Inputs, task: Task, dtype, traced: bool = False) -> Engine:
  """The engine that solves a batch: that of `engine_for` if it can do all that is asked."""
  shape = tuple(inputs.payoffs.shape[2:])
  engine = engine_for(shape, task.concept, dtype, on_accelerator(inputs.payoffs))
  exactly = task.method == "exact"
  if engine == "native":
    serves = exactly and native.reason_traced() is None if traced else task.method != "neural"
  else:
    hard = math.isinf(task.rho)
    serves = exactly and hard and inputs.selection.welfare is None and inputs.duals is None
  return engine if serves else "jax"


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _solve_cuda(inputs: Inputs, task: Task, dtype) -> Solution:
  """`_solve_batch` by the CUDA kernels."""
  problem, scale, finite = _normalise(inputs, task, dtype, 0)
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
  return _in_units(inputs, task, dtype, problem, answer, scale, finite, 0)


@_solve_cuda.defjvp
def _solve_cuda_jvp(task, dtype, primals, tangents):
  """The kernels do not return what derivatives need: the JAX engine solves the games again."""
  return jax.jvp(
      lambda inputs: _solve_batch(inputs, 0, task._replace(engine="jax"), dtype), primals, tangents
  )


def _native_inputs(inputs: Inputs) -> native.Inputs:
  select = inputs.selection
  welfare_weight = None if select.welfare is None else select.welfare_weight
  return native.Inputs(
      payoffs=inputs.payoffs,
      epsilon=select.epsilon,
      target=select.target,
      welfare=select.welfare,
      welfare_weight=welfare_weight,
      strategies=inputs.strategies,
      duals=inputs.duals,
  )


@functools.lru_cache
def _native_options(task: Task, dtype) -> native.Options:
  """Three stages: as asked for; float64 for games that are left; then raised limits."""
  wide = jnp.dtype("float64")
  config = task.config
  stages = [native.Stage(config, wide=dtype == wide)]
  repeat = exact.Config.default(task.concept, wide, task.rho, tolerance=config.tolerance)
  if dtype != wide:
    stages.append(native.Stage(repeat, wide=True))
  elif config.max_iterations < repeat.max_iterations:
    repeat = None  # the caller wants no more steps than these
  else:
    repeat = config
  if repeat is not None and math.isinf(task.rho):
    stages.append(native.Stage(dataclasses.replace(repeat, relaxed=True), wide=True))
  return native.Options(
      concept=task.concept,
      dtype=dtype,
      stages=tuple(stages),
      rho=task.rho,
      epsilon_max=task.epsilon_max,
  )


def _native_solution(answers: native.Answers, task: Task, shape: tuple[int, ...]) -> Solution:
  return Solution(
      joint=answers.joint,
      epsilon=answers.epsilon,
      gap=answers.gap,
      residual=answers.residual,
      converged=answers.converged,
      duals=native.split_duals(answers.duals, shape, task.concept),
      marginals=native.split_marginals(answers.marginals, shape),
      iterations=answers.iterations,
      repeated=answers.repeated,
  )


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _solve_native(inputs: Inputs, task: Task, dtype) -> Solution:
  """`_solve_batch` by the native engine."""
  options = _native_options(task, dtype)
  answers, _ = native.solve_traced(_native_inputs(inputs), options)
  return _native_solution(answers, task, tuple(inputs.payoffs.shape[2:]))


@_solve_native.defjvp
def _solve_native_jvp(task, dtype, primals, tangents):
  """Differentiates normalisation and units in JAX, and the optimum by implicit differentiation."""
  (inputs,) = primals
  options = _native_options(task, dtype)
  answers, variables = native.solve_traced(_native_inputs(inputs), options, with_variables=True)
  solution = _native_solution(answers, task, tuple(inputs.payoffs.shape[2:]))

  def around(inputs):
    problem, scale, finite = _normalise(inputs, task, dtype, 0)
    optimum = exact.optimum_given(problem, variables, task.concept, 0)
    answer = exact.answer(
        problem, optimum, answers.residual, answers.iterations, task.concept, 0
    )
    return _in_units(inputs, task, dtype, problem, answer, scale, finite, 0)

  _, tangent = jax.jvp(around, (inputs,), tangents)
  return solution, tangent


def _take(inputs: Inputs, axes: Axes, index: np.ndarray | slice) -> Inputs:
  chosen = {
      name: getattr(inputs.selection, name)[index]
      for name in Axes._fields
      if getattr(axes, name) == 0
  }
  return inputs._replace(
      payoffs=inputs.payoffs[index],
      selection=dataclasses.replace(inputs.selection, **chosen),
      duals=jax.tree.map(lambda x: x[index], inputs.duals),
      strategies=jax.tree.map(lambda x: x[index], inputs.strategies),
  )


def _solve_chunks(
    inputs: Inputs, task: Task, dtype, patience: float = exact.PATIENCE
) -> Solution:
  """Concrete batches by the JAX engine: chunks that fit, on a CPU on all cores.

  On a CPU that fraction of a chunk may be left running, to be solved again with that of others.
  """
  games = len(inputs.payoffs)
  shape = tuple(inputs.payoffs.shape[2:])
  chunk = _chunk_size(shape, games, task.concept, dtype)
  accelerated = on_accelerator(inputs.payoffs)
  if accelerated:
    task = task._replace(width=turn_width(shape, min(games, chunk), task.concept, dtype))
    patience = 0
  if games <= chunk:
    return solve_traced(inputs, 0, task, dtype)

  # A chunk does not wait for its slowest games: those of all chunks are solved together, from the
  # start, so that an answer does not depend on its neighbours.
  def one(start: int) -> Solution:
    # The last chunk is filled up with its last game, so that one program serves all.
    index = np.minimum(np.arange(start, start + chunk), games - 1)
    whole = start + chunk <= games
    with precision(_wider(inputs.payoffs.dtype, dtype)):
      part = _take(inputs, task.axes, slice(start, start + chunk) if whole else index)
      solution = solve_traced(part, int(patience * chunk), task, dtype)
    if not accelerated:
      solution = jax.tree.map(np.asarray, solution)
    return solution if whole else jax.tree.map(lambda x: x[: games - start], solution)

  starts = range(0, games, chunk)
  if accelerated:
    return jax.tree.map(lambda *xs: jnp.concatenate(xs), *map(one, starts))
  # A chunk keeps about one core busy, and calls no library that waits for XLA's threads
  # (`layout.cholesky`), so chunks can run side by side.
  with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, len(starts))) as pool:
    parts = list(pool.map(one, starts))
  solution = jax.tree.map(lambda *xs: np.concatenate(xs), *parts)
  left = np.flatnonzero(solution.residual > task.config.tolerance)
  if not patience or task.method == "neural" or not len(left):
    return solution
  filled = np.resize(left, max(len(left), chunk))
  again = _solve_chunks(_take(inputs, task.axes, filled), task, dtype, patience=0)
  return _replace_games(solution, left, again)


def _replace_games(solution: Solution, index: np.ndarray, again: Solution) -> Solution:
  """The solution with the games at `index` replaced by the first of `again`, where it is."""

  def merge(old, new):
    with np.errstate(over="ignore"):  # a dual of float64 may be infinite in float32
      new = np.asarray(new)[: len(index)].astype(old.dtype)
    if on_accelerator(old):
      return old.at[index].set(new)
    old = np.array(old)
    old[index] = new
    return old

  return jax.tree.map(merge, solution, again)


def solve_concrete(inputs: Inputs, task: Task, dtype) -> tuple[Solution, int]:
  """-> the solution, as NumPy or JAX arrays, and how many games are marked as invalid."""
  if task.engine == "native":
    if task.method == "refined":
      # The network's answer is where the engine starts from.
      guess = _solve_chunks(inputs, task._replace(method="neural", engine="jax"), dtype)
      inputs = inputs._replace(duals=guess.duals, variables=None)
    given = jax.tree.map(np.asarray, _native_inputs(inputs))
    answers, num_invalid = native.solve(given, _native_options(task, dtype))
    return _native_solution(answers, task, tuple(inputs.payoffs.shape[2:])), num_invalid
  # Normalise in the precision given, so that float64 payoffs with a large offset lose nothing.
  with precision(_wider(inputs.payoffs.dtype, dtype)):
    solution = _solve_chunks(inputs, task, dtype)
    num_failed, num_invalid = np.asarray(_counts(solution))
  if task.method != "neural" and num_failed:
    solution = _repeat_failed(inputs, task, dtype, solution)
  return solution, int(num_invalid)


@jax.jit
def _counts(solution: Solution) -> Array:
  """Games that have not converged, and games marked as invalid: all that has to leave a device."""
  invalid = jnp.isnan(solution.residual)
  return jnp.stack([jnp.sum(~solution.converged & ~invalid), jnp.sum(invalid)])


def _repeat_failed(inputs: Inputs, task: Task, dtype, solution: Solution) -> Solution:
  """Solves again, in float64 and to the same tolerance, the games that have not converged.

  What float32 has left comes first; then what float64 has left, with hard limits raised by less
  than `metrics.residual` counts.
  """
  wide = jnp.dtype("float64")
  # The residual of a marked game is NaN, of one that failed it is large or infinite.
  failed = lambda: np.flatnonzero(~np.asarray(solution.converged) & ~np.isnan(solution.residual))
  config = exact.Config.default(task.concept, wide, task.rho, tolerance=task.config.tolerance)
  if dtype == wide and task.config.max_iterations < config.max_iterations:
    return solution  # the caller wants no more steps than these
  task = task._replace(method="exact", network_config=None, engine="jax")
  left = failed()
  if len(left) and dtype != wide:
    task = task._replace(config=config)
    solution = _repeat(inputs, task, solution, left)
    left = failed()
  if len(left) and math.isinf(task.rho):
    relaxed = dataclasses.replace(task.config, relaxed=True)
    solution = _repeat(inputs, task._replace(config=relaxed), solution, left)
  return solution


def _filled(left: np.ndarray) -> np.ndarray:
  """Filled up to a power of four, so that few programs serve any number of games."""
  return np.resize(left, 4 ** math.ceil(((len(left) - 1).bit_length()) / 2))


def _repeat(inputs: Inputs, task: Task, solution: Solution, left: np.ndarray) -> Solution:
  """Solves the games `left` in float64 and writes those into the solution that came nearer."""
  wide = jnp.dtype("float64")
  with precision(wide):
    part = _take(inputs, task.axes, _filled(left))._replace(duals=None, variables=None)
    again = jax.tree.map(lambda x: np.asarray(x)[: len(left)], _solve_chunks(part, task, wide))
    before = jax.tree.map(lambda x: np.asarray(x[left]), solution)
    better = ~(again.residual > before.residual)
    chosen = jax.tree.map(
        lambda old, new: np.where(better.reshape((-1,) + (1,) * (old.ndim - 1)), new, old),
        before,
        again,
    )
    chosen = chosen._replace(
        repeated=np.ones_like(before.repeated), iterations=before.iterations + again.iterations
    )
    return _replace_games(solution, left, chosen)
