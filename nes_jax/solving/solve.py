"""The public call: games in, certified equilibria out.

A payoff takes this way: `checks` looks at the arguments; `chunks` takes concrete batches in parts
that fit in memory, and repeats games that have failed; `engines` chooses the engine and calls it;
`batches` has the normalised units of the engines and the way back to the units of the payoffs.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nes_jax import exact, metrics, native, pretrained
from nes_jax import selection as selections
from nes_jax.selection import Selection
from nes_jax.solving import batches, checks, chunks, engines, ragged, social
from nes_jax.types import Concept, Duals, Solution

_NETWORK_METHODS = ("neural", "refined")


class _Options(NamedTuple):
  """Arguments of `solve` that are the same for all games of a list."""

  concept: Concept
  method: str
  precision: str | None
  tolerance: float | None
  max_iterations: int | None
  invalid: str
  trained: str | pretrained.Pretrained | None


def solve(
    payoffs: Any,
    *,
    concept: Concept = "cce",
    selection: str | Selection | Sequence[Selection] = "max_entropy",
    method: Literal["auto", "exact", "neural", "refined"] = "auto",
    precision: Literal["float32", "float64"] | None = None,
    tolerance: float | None = None,
    max_iterations: int | None = None,
    duals: Duals | None = None,
    invalid: Literal["raise", "mark"] = "raise",
    batched: bool | None = None,
    strategies: Sequence[Any] | None = None,
    trained: str | pretrained.Pretrained | None = None,
) -> Solution | list[Solution]:
  """Equilibria of games, uniquely selected by eq. (6) of Marris et al. (2022), with certificates.

  Works under `jit`, `vmap` and `grad` (implicit function theorem, forward and backward). Called
  with concrete arrays it also checks its input before anything is compiled, goes through large
  batches in chunks that fit in memory, and solves again in float64 the games that float32 leaves
  unconverged.

  Args:
    payoffs: [N, A1, ..., AN] or [B, N, A1, ..., AN], any real scale and type; N >= 2. Or a list of
      games [N, A1, ..., AN] of different shapes. A strategy whose own payoffs are all -infinity
      does not exist (with concrete arrays; under `jit` pass `strategies`).
    concept: "cce" (coarse correlated equilibrium) or "ce" (correlated equilibrium).
    selection: a name of the paper's Table 3 (`nes_jax.selection.NAMES`, or its abbreviation),
      "min_welfare", "egalitarian" (largest smallest payoff of a player), "republican" (largest
      payoff of any player), or a `nes_jax.Selection`; for a list of games also a list of these, one
      a game.
    method: "exact", the interior-point engine; "neural", one pass of a trained network, which
      comes near an equilibrium; "refined", exact steps from the network's answer; "auto", always
      "exact" so far.
    precision: None takes that of the payoffs, float64 only where JAX's x64 is on. "float64" works
      with x64 off as well, for concrete arrays, and then returns NumPy arrays.
    tolerance: KKT residual, in normalised units, at which a game counts as converged. None: 1e-4 in
      float32, 1e-8 in float64.
    max_iterations: None: 20 (CCE) or 30 (CE) in float32, 200 in float64.
    duals: a starting point for the exact engine, in the units of `Solution.duals`.
    invalid: treatment of games that hold NaN or infinity: "raise" an error, or "mark" them as not
      converged with NaN answers. Under `jit` they are always marked.
    batched: whether payoffs have a batch axis. None: the shape says so; it is needed only where
      the shape can be read both ways, such as [3, 2, 8, 8].
    strategies: per player a boolean array [Ap] or [B, Ap], the strategies that exist. The others
      have probability 0, no duals, and no influence: the game is the one without them. None: all
      that do not have payoffs of -infinity exist.
    trained: for "neural" and "refined": the name or file of a network (`nes_jax.pretrained`), or
      one loaded. None: the shipped one that fits, which is logged.

  Returns:
    `Solution`, unbatched if the payoffs were; for a list of games a list of these, in its order.
    Games that did not converge say so.

  Raises:
    ValueError: an argument is wrong. The message says what is expected, and what to do.
  """
  options = _Options(concept, method, precision, tolerance, max_iterations, invalid, trained)
  # Callers may have made JAX's own promotions errors; nothing here relies on them for safety.
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    if ragged.is_ragged(payoffs):
      if duals is not None or strategies is not None or batched:
        raise ValueError(
            "a list of games of different shapes takes neither duals nor strategies nor"
            " batched=True: mark strategies that do not exist by payoffs of -infinity"
        )
      return _solve_list(payoffs, selection, options)
    solution = _solve(payoffs, selection, duals, batched, strategies, options)
    return _on_device(solution, payoffs)


def _solve_list(games: Any, selection: Any, options: _Options) -> list[Solution]:
  """Solves games of different shapes in few batches."""
  games = [np.asarray(checks.as_real(game)) for game in games]
  ragged.check_games(games)
  answers: list[Any] = [None] * len(games)
  exactly = options.method in ("exact", "auto") and not engines.on_accelerator(games[0])

  def padded(shape: tuple[int, ...]) -> bool:
    # The native engine compiles nothing, and its games need no padding.
    return not (exactly and native.cpu.serves(shape, options.concept))

  for bucket in ragged.buckets(games, selection, padded):
    given = bucket.payoffs, bucket.selection, None, True, bucket.strategies
    solution = _solve(*given, options, names=bucket.numbers)
    solution = jax.tree.map(np.asarray, solution)
    for row, index in enumerate(bucket.numbers):
      answers[index] = ragged.cut(solution, row, games[index].shape[1:])
  return answers


def _solve(
    payoffs: Any,
    selection: Any,
    duals: Any,
    batched: bool | None,
    strategies: Any,
    options: _Options,
    names: Sequence[int] | None = None,
) -> Solution:
  """`solve` for games of one shape, whose answers may be NumPy arrays.

  In messages games go by `names`, their numbers in the caller's list.
  """
  if isinstance(selection, str) and selection in social.NAMES:
    return _solve_social(payoffs, selection, duals, batched, strategies, options, names)
  traced = isinstance(payoffs, jax.core.Tracer)
  games, strategies, batched = _read(payoffs, strategies, batched, options)
  shape = tuple(games.shape[2:])
  # An exact engine marks games that are not finite itself. Where it is fast, or the payoffs are on
  # a device, their strategies are looked for only if it has marked any.
  lazily = (
      not traced
      and options.method not in _NETWORK_METHODS
      and not selections.uses_payoffs(selection)
      and (engines.on_accelerator(games) or native.cpu.serves(shape, options.concept))
  )
  find = functools.partial(
      checks.find_strategies, batched=batched, invalid=options.invalid, names=names
  )
  if not traced and not lazily:
    games, strategies = find(games, strategies)
  if strategies is not None and options.method in _NETWORK_METHODS:
    raise ValueError(
        "networks see whole games: where strategies do not exist use method='exact', not"
        f" {options.method!r}"
    )
  chosen = _named(selection, games, traced)
  chosen, axes = checks.check_selection(chosen, len(games), shape)
  dtype = checks.compute_dtype(games.dtype, options.precision, traced)
  inputs = batches.Inputs(games, chosen, None, None, strategies)
  task = _task(options, chosen, axes, dtype)
  inputs, task = _with_start(inputs, task, options, duals, batched)
  if traced or any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(inputs)):
    if lazily and not any(isinstance(x, jax.core.Tracer) for x in strategies or ()):
      games, strategies = find(games, strategies)
      inputs = inputs._replace(payoffs=games, strategies=strategies)
    solution = chunks.solve_traced(inputs, task, dtype)
    return solution if batched else jax.tree.map(lambda x: x[0], solution)
  solution, num_invalid = chunks.solve_concrete(inputs, task, dtype)
  if lazily and num_invalid:
    games, strategies = find(games, strategies)
    inputs = inputs._replace(payoffs=games, strategies=strategies)
    solution, _ = chunks.solve_concrete(inputs, task, dtype)
  return solution if batched else jax.tree.map(lambda x: np.asarray(x)[0], solution)


def _read(
    payoffs: Any, strategies: Any, batched: bool | None, options: _Options
) -> tuple[Any, tuple[Any, ...] | None, bool]:
  """Checks the arguments that are arrays, but for those of a selection.

  Returns:
    Games [B, N, A1, ..., AN], masks of strategies [B, Ap], and whether payoffs had a batch axis.
  """
  checks.check_options(options.concept, options.method, options.invalid)
  payoffs = checks.as_real(payoffs)
  shape = checks.strategy_counts(payoffs.shape, batched)
  batched = payoffs.ndim == len(shape) + 2
  games = payoffs if batched else payoffs[None]
  return games, checks.check_strategies(strategies, len(games), shape), batched


def _solve_social(
    payoffs: Any,
    name: str,
    duals: Any,
    batched: bool | None,
    strategies: Any,
    options: _Options,
    names: Sequence[int] | None,
) -> Solution:
  """`_solve` for a selection of `social`."""
  traced = isinstance(payoffs, jax.core.Tracer)
  games, strategies, batched = _read(payoffs, strategies, batched, options)
  if duals is not None or options.method in _NETWORK_METHODS:
    raise ValueError(f"selection {name!r} takes no duals to start from, and no network")
  if not traced:
    given = np.asarray(games)
    games, strategies = checks.find_strategies(given, strategies, batched, options.invalid, names)

  def solver(games, strategies, selection):
    numpy = jnp if traced else np
    # A game that is to be marked has payoffs of NaN, and takes any welfare.
    finite = numpy.nan_to_num(selection.welfare)
    chosen = dataclasses.replace(selection, welfare=finite)
    solution = _solve(games, chosen, None, True, strategies, options, names)
    return solution if traced else jax.tree.map(np.asarray, solution)

  solution = getattr(social, name)(games, strategies, solver)
  return solution if batched else jax.tree.map(lambda x: x[0], solution)


def _named(selection: Any, games: Any, traced: bool) -> Any:
  """The selection that a name stands for, or the selection given; games [B, N, A1, ..., AN]."""
  if not isinstance(selection, str):
    return selection
  if selections.uses_payoffs(selection):  # games that are to be marked are left out
    numpy = jnp if traced else np
    games = numpy.where(numpy.isfinite(games), games, 0)
  return selections.named(selection, games, player_axis=1)


def _task(options: _Options, selection: Selection, axes: batches.Axes, dtype: Any) -> batches.Task:
  """The options of a batch, but for its method."""
  overrides = {"tolerance": options.tolerance, "max_iterations": options.max_iterations}
  overrides = {name: value for name, value in overrides.items() if value is not None}
  config = exact.Config.default(options.concept, dtype, selection.rho, **overrides)
  checks.check_config(config)
  return batches.Task(
      concept=options.concept,
      config=config,
      rho=selection.rho,
      epsilon_max=selection.epsilon_max,
      axes=axes,
  )


def _with_start(
    inputs: batches.Inputs, task: batches.Task, options: _Options, duals: Any, batched: bool
) -> tuple[batches.Inputs, batches.Task]:
  """Adds the starting point: a network's variables, or duals that are given."""
  shape, method = tuple(inputs.payoffs.shape[2:]), options.method
  if method in _NETWORK_METHODS:
    if duals is not None:
      raise ValueError(f"duals are where method 'exact' starts, and method is {method!r}")
    chosen = checks.choose_network(options.trained, task.concept, inputs.selection, shape)
    config = chosen.config
    if method == "refined" and config.answer == "joint":
      # The steps of such a network are those of the engine, which goes on by itself.
      config = dataclasses.replace(config, newton=0)
    task = task._replace(method=method, network_config=config)
    return inputs._replace(variables=chosen.variables(shape)), task
  if options.trained is not None:
    raise ValueError(f"a network is for method 'neural' or 'refined', and method is {method!r}")
  if duals is not None:
    duals = checks.check_duals(duals, len(inputs.payoffs), shape, task.concept, batched)
  return inputs._replace(duals=duals), task


def _on_device(solution: Solution, payoffs: Any) -> Solution:
  """Makes JAX arrays of NumPy arrays, on the device of the payoffs, without compiling anything.

  Where JAX has no float64, a solution in it becomes NumPy arrays: JAX would narrow what is computed
  from its own.
  """
  if solution.joint.dtype == np.float64 and not engines.x64_enabled():
    return jax.tree.map(np.asarray, solution)

  def put(x):
    if isinstance(x, jax.Array):
      return x
    if isinstance(payoffs, jax.Array):
      device = next(iter(payoffs.devices()))
    else:
      device = jax.local_devices()[0]
    place = jax.sharding.SingleDeviceSharding(device)
    return jax.make_array_from_callback(x.shape, place, lambda _: x)

  return jax.tree.map(put, solution)


def nash_zero_sum(payoffs: Any, **options) -> Solution:
  """Nash equilibria of two-player constant-sum games, from the marginals of a CCE.

  In such games the marginals of any CCE are a Nash equilibrium (section 2 of the paper).

  Args:
    payoffs: [2, A1, A2] or [B, 2, A1, A2], the two players' payoffs adding up to a constant in each
      game; or, for zero-sum games, the first player's alone: [A1, A2] or [B, A1, A2].
    **options: arguments of `solve`, but for `concept`.

  Returns:
    `Solution` whose `joint` is the product of the marginals, with the gap that this joint has.

  Raises:
    ValueError: not two players, or not constant-sum.
  """
  if "concept" in options:
    raise ValueError("nash_zero_sum always solves for a CCE: leave out concept")
  payoffs = checks.as_real(payoffs)
  paired = payoffs.ndim in (3, 4) and payoffs.shape[-3] == 2
  if payoffs.ndim == 2 or (payoffs.ndim == 3 and not paired):
    payoffs = jnp.stack([jnp.asarray(payoffs), -jnp.asarray(payoffs)], axis=-3)
  elif not paired:
    raise ValueError(
        "nash_zero_sum takes [2, A1, A2], [B, 2, A1, A2], [A1, A2] or [B, A1, A2] payoffs, not"
        f" {list(payoffs.shape)}"
    )
  if not isinstance(payoffs, jax.core.Tracer):
    total = np.asarray(payoffs, np.float64).sum(-3)
    size = np.abs(np.asarray(payoffs, np.float64)).max((-1, -2, -3))
    uneven = np.ptp(total.reshape(total.shape[:-2] + (-1,)), axis=-1) > 1e-5 * size
    if np.any(uneven):
      raise ValueError(
          f"{int(np.sum(uneven))} of {uneven.size} games are not constant-sum (the first is game"
          f" {int(np.argmax(uneven))}): use nes_jax.solve"
      )
  solution = solve(payoffs, **options, concept="cce")
  assert isinstance(solution, Solution)  # payoffs are one array
  with engines.precision(solution.joint.dtype):
    joint, gap = _independent(payoffs, solution.marginals, solution.epsilon)
    return solution._replace(joint=joint, gap=gap)


@jax.jit
def _independent(payoffs, marginals, epsilon):
  """The product of two players' marginals and its CCE gap, of one game or a batch."""
  rows, columns = marginals
  joint = rows[..., :, None] * columns[..., None, :]
  gap = functools.partial(metrics.gap, concept="cce")
  gap = jax.vmap(gap) if payoffs.ndim == 4 else gap
  return joint, gap(jnp.asarray(payoffs, joint.dtype), joint, epsilon)
