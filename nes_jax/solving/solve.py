"""The public call: games in, certified equilibria out."""

from collections.abc import Sequence
import dataclasses
import functools
import logging
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from nes_jax import deviation, exact, metrics, native, pretrained
from nes_jax import selection as selections
from nes_jax.selection import Selection
from nes_jax.solving import batches, ragged
from nes_jax.types import CONCEPTS, METHODS, Concept, Duals, Solution


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
    selection: a name of the paper's Table 3 (`nes_jax.selection.NAMES`, or its abbreviation) or a
      `nes_jax.Selection`; for a list of games also a list of these, one a game.
    method: "exact", the interior-point engine; "neural", one pass of a trained network, which
      comes near an equilibrium; "refined", exact steps from the network's answer; "auto", at
      present always "exact" (README, Methods).
    precision: None takes that of the payoffs, float64 only where JAX's x64 is on. "float64" works
      with x64 off as well, for concrete arrays, and then returns NumPy arrays.
    tolerance: KKT residual, in normalised units, at which a game counts as converged. None: 1e-4 in
      float32, 1e-8 in float64.
    max_iterations: None: 20 (CCE) or 30 (CE) in float32, 200 in float64.
    duals: start from these, in the units of `Solution.duals`.
    invalid: what to do with games that hold NaN or infinity: "raise", or "mark" them as not
      converged with NaN answers. Under `jit` they are always marked.
    batched: whether payoffs have a batch axis. None: seen from the shape; needed only where it can
      be read both ways, such as [3, 2, 8, 8].
    strategies: per player a boolean array [Ap] or [B, Ap], the strategies that exist. The others
      have probability 0, no duals, and no influence: the game is the one without them. None: all
      that do not have payoffs of -infinity exist.
    trained: for "neural" and "refined": the name or file of a network (`nes_jax.pretrained`), or
      one loaded. None: the shipped one that fits, which is logged.

  Returns:
    `Solution`, unbatched if the payoffs were; for a list of games a list of these, in its order.
    Games that did not converge say so.

  Raises:
    ValueError: what is wrong with an argument, and what to do.
  """
  options = dict(
      concept=concept,
      method=method,
      precision=precision,
      tolerance=tolerance,
      max_iterations=max_iterations,
      invalid=invalid,
      trained=trained,
  )
  # Callers may have made JAX's own promotions errors; nothing here relies on them for safety.
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    if ragged.is_ragged(payoffs):
      if duals is not None or strategies is not None or batched:
        raise ValueError(
            "a list of games of different shapes takes neither duals nor strategies nor"
            " batched=True: mark strategies that do not exist by payoffs of -infinity"
        )
      return _solve_list(payoffs, selection, options)
    solution = _solve(payoffs, selection, duals, batched, strategies, **options)
    return _on_device(solution, payoffs)


def _solve_list(games, selection, options) -> list[Solution]:
  """Solves games of different shapes in few batches."""
  games = [np.asarray(_as_real(game)) for game in games]
  ragged.check_games(games)
  answers: list[Any] = [None] * len(games)
  exactly = options["method"] in ("exact", "auto") and not batches.on_accelerator(games[0])
  # The native engine compiles nothing, and games need no padding.
  padded = lambda shape: not (exactly and native.serves(shape, options["concept"]))
  for bucket in ragged.buckets(games, selection, padded):
    given = bucket.payoffs, bucket.selection, None, True, bucket.strategies
    solution = _solve(*given, **options, names=bucket.index)
    solution = jax.tree.map(np.asarray, solution)
    for row, index in enumerate(bucket.index):
      answers[index] = ragged.cut(solution, row, games[index].shape[1:])
  return answers


def _solve(
    payoffs,
    selection,
    duals,
    batched,
    strategies,
    *,
    concept,
    method,
    precision,
    tolerance,
    max_iterations,
    invalid,
    trained,
    names=None,
) -> Solution:
  """`solve` for games of one shape, whose answers may be NumPy arrays.

  In messages games go by `names`, their numbers in the caller's list.
  """
  if concept not in CONCEPTS:
    raise ValueError(f"unknown concept {concept!r}; use 'cce' or 'ce'")
  _check_method(method)
  if invalid not in ("raise", "mark"):
    raise ValueError(f"invalid must be 'raise' or 'mark', not {invalid!r}")
  traced = isinstance(payoffs, jax.core.Tracer)
  payoffs = _as_real(payoffs)
  shape = _check_shape(payoffs.shape, batched)
  batched = payoffs.ndim == len(shape) + 2
  games = payoffs if batched else payoffs[None]
  strategies = _check_strategies(strategies, len(games), shape)
  # Payoffs that are not looked at here are marked by the engine if they are not finite.
  lazily = not traced and method in ("exact", "auto")
  lazily = lazily and not selections.uses_payoffs(selection)
  lazily = lazily and (batches.on_accelerator(games) or native.serves(shape, concept))
  find = functools.partial(_find_strategies, batched=batched, invalid=invalid, names=names)
  if not traced and not lazily:
    games, strategies = find(games, strategies)
  if strategies is not None and method in ("neural", "refined"):
    raise ValueError(
        "networks see whole games: where strategies do not exist use method='exact', not"
        f" {method!r}"
    )
  if isinstance(selection, str):
    given = games
    if selections.uses_payoffs(selection):  # marked games are left out of the arithmetic here too
      clean = jnp if traced else np
      given = clean.where(clean.isfinite(games), games, 0)
    selection = selections.named(selection, given, player_axis=1)
  if not isinstance(selection, Selection):
    raise ValueError(f"selection must be a name or a nes_jax.Selection, not {type(selection)}")
  selection, axes = _check_selection(selection, len(games), shape)
  dtype = _compute_dtype(payoffs.dtype, precision, traced)
  overrides = {"tolerance": tolerance, "max_iterations": max_iterations}
  overrides = {name: value for name, value in overrides.items() if value is not None}
  task = batches.Task(
      concept=concept,
      config=exact.Config.default(concept, dtype, selection.rho, **overrides),
      rho=selection.rho,
      epsilon_max=selection.epsilon_max,
      axes=axes,
  )
  _check_positive(task.config)
  inputs = batches.Inputs(games, selection, None, None, strategies)
  if method in ("neural", "refined"):
    if duals is not None:
      raise ValueError(f"duals are where method 'exact' starts, and method is {method!r}")
    chosen = _choose_network(trained, concept, selection, shape)
    task = task._replace(method=method, network_config=chosen.config)
    inputs = inputs._replace(variables=chosen.variables(shape))
  elif trained is not None:
    raise ValueError(f"a network is for method 'neural' or 'refined', and method is {method!r}")
  if duals is not None:
    inputs = inputs._replace(duals=_check_duals(duals, len(games), shape, concept, batched))

  if traced or any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(inputs)):
    if lazily and not any(isinstance(x, jax.core.Tracer) for x in strategies or ()):
      games, strategies = find(games, strategies)
      inputs = inputs._replace(payoffs=games, strategies=strategies)
    task = task._replace(
        engine=batches.choose_engine(inputs, task, dtype, traced=True),
        width=batches.turn_width(shape, len(games), concept, dtype),
    )
    solution = batches.solve_traced(inputs, 0, task, dtype)
    return solution if batched else jax.tree.map(lambda x: x[0], solution)
  task = task._replace(engine=batches.choose_engine(inputs, task, dtype))
  solution, num_invalid = batches.solve_concrete(inputs, task, dtype)
  if lazily and num_invalid:
    games, strategies = find(games, strategies)
    inputs = inputs._replace(payoffs=games, strategies=strategies)
    solution, _ = batches.solve_concrete(inputs, task, dtype)
  if not batched:
    solution = jax.tree.map(lambda x: np.asarray(x)[0], solution)
  return solution


def _on_device(solution: Solution, payoffs: Any) -> Solution:
  """Makes JAX arrays of NumPy arrays, on the device of the payoffs, without compiling anything.

  Where JAX has no float64, a solution in it becomes NumPy arrays: JAX would narrow what is computed
  from its own.
  """
  if solution.joint.dtype == np.float64 and not jax.config.jax_enable_x64:
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
    **options: of `solve`, but for `concept`.

  Returns:
    `Solution` whose `joint` is the product of the marginals, with the gap that this joint has.

  Raises:
    ValueError: not two players, or not constant-sum.
  """
  if "concept" in options:
    raise ValueError("nash_zero_sum always solves for a CCE: leave out concept")
  payoffs = _as_real(payoffs)
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
  with batches.precision(solution.joint.dtype):
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


# Checks at the door.


def _check_method(method: str) -> None:
  if method not in METHODS:
    raise ValueError(f"unknown method {method!r}; use one of {', '.join(METHODS)}")


def _choose_network(
    trained: Any, concept: Concept, selection: Selection, shape: tuple[int, ...]
) -> pretrained.Pretrained:
  """The network to use, which must see everything in which the selection differs from ME."""
  varied = {"target": selection.target, "welfare": selection.welfare}
  needed = {name for name, value in varied.items() if value is not None}
  if isinstance(selection.epsilon, jax.core.Tracer) or np.any(selection.epsilon != 0):
    needed.add("epsilon")
  if "welfare" in needed and not isinstance(selection.welfare_weight, jax.core.Tracer):
    if np.isinf(selection.welfare_weight).any():
      raise ValueError(
          "networks know no infinite welfare_weight: give a finite one, or use method='exact'"
      )
  if trained is None:
    chosen = pretrained.choose(concept, shape, frozenset(needed))
    logging.info("solve: using the network %s", chosen.name)
    return chosen
  if not isinstance(trained, pretrained.Pretrained):
    trained = pretrained.load(trained)
  if trained.config.concept != concept or not needed <= set(trained.config.inputs):
    raise ValueError(
        f"the network {trained.name} gives the {trained.config.concept} and sees"
        f" {list(trained.config.inputs)} beside the payoffs; a {concept} with {sorted(needed)} is"
        " wanted"
    )
  return trained


def _as_real(payoffs: Any) -> Any:
  """To floating point that JAX knows, NumPy where the input is not JAX's; real numbers only."""
  if not isinstance(payoffs, jax.Array):
    try:
      payoffs = np.asarray(payoffs)
    except ValueError as error:
      raise ValueError(f"payoffs are not a rectangular array of numbers: {error}") from None
  kind = payoffs.dtype
  if kind.hasobject:  # integers of any size, fractions
    try:
      return np.array([float(x) for x in payoffs.ravel()], np.float64).reshape(payoffs.shape)
    except (TypeError, ValueError, OverflowError) as error:
      raise ValueError(
          f"payoffs are an array of Python objects that are not all real numbers ({error}): pass an"
          " array of float64"
      ) from None
  real = any(jnp.issubdtype(kind, wanted) for wanted in (jnp.floating, jnp.integer, np.bool_))
  if not real or kind.kind == "m":  # NumPy counts time differences among the integers
    raise ValueError(f"payoffs must be real numbers, not {kind}")
  if isinstance(payoffs, np.ndarray):
    # Types that JAX does not compute with: wide ones become float64, narrow ones float32.
    wide = not jnp.issubdtype(kind, jnp.floating) or kind.itemsize >= 8
    return payoffs.astype(np.float64 if wide else np.float32, copy=False)
  return payoffs if kind in (jnp.float32, jnp.float64) else payoffs.astype(jnp.float32)


def _check_shape(shape: tuple[int, ...], batched: bool | None) -> tuple[int, ...]:
  """The strategy counts (A1, ..., AN) of payoffs of this shape."""
  expected = "payoffs must be [N, A1, ..., AN] or [B, N, A1, ..., AN] with N >= 2 players"
  one = len(shape) >= 3 and shape[0] == len(shape) - 1
  many = len(shape) >= 4 and shape[1] == len(shape) - 2
  if one and many and batched is None:
    raise ValueError(
        f"{expected}; shape {list(shape)} can be read both ways: pass batched=True for"
        f" {shape[0]} games of {shape[1]} players, or batched=False for one game of {shape[0]}"
    )
  if one and not batched:
    counts = shape[1:]
  elif many and batched in (None, True):
    counts = shape[2:]
  elif len(shape) >= 2 and 1 in (shape[0] * (len(shape) == 2), shape[1] * (len(shape) == 3)):
    raise ValueError(f"{expected}; shape {list(shape)} has a single player")
  else:
    reading = {None: "neither", True: "not the second", False: "not the first"}[batched]
    raise ValueError(
        f"{expected}, one axis of strategies for each player; shape {list(shape)} fits {reading}"
    )
  if 0 in shape:
    raise ValueError(f"{expected}; shape {list(shape)} has no games or a player without strategies")
  return counts


def _check_positive(config: exact.Config) -> None:
  if not config.tolerance > 0:
    raise ValueError(f"tolerance must be positive, not {config.tolerance}")
  if config.max_iterations < 1:
    raise ValueError(f"max_iterations must be at least 1, not {config.max_iterations}")


def _check_strategies(
    strategies: Any, games: int, shape: tuple[int, ...]
) -> tuple[Any, ...] | None:
  """Per player bool [B, Ap]."""
  if strategies is None:
    return None
  blocks = []
  if len(strategies) != len(shape):
    raise ValueError(f"strategies must have one array for each of {len(shape)} players")
  for p, (block, count) in enumerate(zip(strategies, shape)):
    block = block if isinstance(block, jax.Array) else np.asarray(block)
    if block.dtype != bool or block.shape not in ((count,), (games, count)):
      raise ValueError(
          f"strategies of player {p} must be booleans of shape [{count}] or [{games}, {count}], not"
          f" {block.dtype} of shape {list(block.shape)}"
      )
    blocks.append(jnp.broadcast_to(block, (games, count)) if isinstance(block, jax.Array) else
                  np.broadcast_to(block, (games, count)))
  return tuple(blocks)


def _find_strategies(
    games: Any, strategies: tuple[Any, ...] | None, batched: bool, invalid: str, names: Any
) -> tuple[Any, tuple[Any, ...] | None]:
  """Masks of concrete games, from `strategies` and payoffs of -infinity; refuses other infinities.

  Returns:
    The games, with payoffs of 0 where a strategy does not exist; the masks, None if all exist.
  """
  values = np.asarray(games)
  finite = np.isfinite(values)
  if strategies is None and finite.all():
    return games, None
  n = values.shape[1]
  exist = []
  for p in range(n):
    axes = tuple(1 + q for q in range(n) if q != p)
    block = ~np.all(values[:, p] == -np.inf, axes)
    exist.append(block if strategies is None else block & np.asarray(strategies[p]))
  alive = np.ones(values.shape[:1] + values.shape[2:], bool)
  for p, block in enumerate(exist):
    alive = alive & block.reshape(block.shape[:1] + (1,) * p + block.shape[1:] + (1,) * (n - 1 - p))
  bad = ~(finite | ~alive[:, None]).reshape(len(values), -1).all(1)
  bad |= ~np.all([block.any(1) for block in exist], 0)
  if bad.any() and invalid == "raise":
    raise ValueError(_invalid_message(finite | ~alive[:, None], bad, batched, names))
  # A game that is to be marked gets payoffs of NaN, by which the engine knows it.
  clean = np.where(alive[:, None], values, 0)
  clean[bad] = np.nan
  exist = [block | bad[:, None] for block in exist]
  return clean, None if all(block.all() for block in exist) else tuple(exist)


def _invalid_message(good: np.ndarray, bad: np.ndarray, batched: bool, names: Any) -> str:
  """The fault of concrete games: good [B, N, A1, ..., AN], bad [B]."""
  advice = (
      "a strategy that does not exist has own payoffs that are all -infinity, or is False in"
      " strategies=, and every player keeps at least one"
  )
  first = int(np.argmax(bad))
  if batched:
    name = first if names is None else names[first]
    return (
        f"{int(bad.sum())} of {len(bad)} games have payoffs that are NaN or infinite (the first is"
        f" game {name}), or a player without strategies: {advice}; leave such games out, or pass"
        " invalid='mark' to have them marked as not converged"
    )
  if good.all():
    return f"a player has no strategy that exists: {advice}"
  return (
      f"{int((~good).sum())} payoffs are NaN or infinite (the first at index"
      f" {np.argwhere(~good[0])[0].tolist()} of [player, strategies...]): {advice}"
  )


def _check_selection(
    selection: Selection, games: int, shape: tuple[int, ...]
) -> tuple[Selection, batches.Axes]:
  """Shapes and, for concrete arrays, values. -> selection with array fields, their axes."""
  n = len(shape)
  allowed = {
      "target": [shape, (games,) + shape],
      "epsilon": [(), (n,), (games, n)],
      "welfare": [shape, (games,) + shape],
      "welfare_weight": [(), (games,)],
  }
  axes, fields = {}, {}
  for name, shapes in allowed.items():
    value = getattr(selection, name)
    axes[name] = None
    if value is None:
      continue
    if not isinstance(value, jax.Array):
      value = np.asarray(value)
    if value.shape not in shapes:
      wanted = " or ".join(str(list(s)) for s in shapes)
      raise ValueError(f"selection {name} must have shape {wanted}, not {list(value.shape)}")
    if value.shape == shapes[-1] and value.shape != shapes[0]:
      axes[name] = 0
    fields[name] = value
  concrete = {k: np.asarray(v) for k, v in fields.items() if not isinstance(v, jax.core.Tracer)}
  if "target" in concrete:
    target = concrete["target"]
    totals = target.reshape(target.shape[: target.ndim - n] + (-1,)).sum(-1)
    if not (np.all(target >= 0) and np.allclose(totals, 1, atol=1e-3)):
      raise ValueError(
          "the target joint must be non-negative and sum to one: its least entry is"
          f" {target.min():.3g} and its sums lie in [{totals.min():.6g}, {totals.max():.6g}]"
      )
  if "welfare" in concrete and not np.isfinite(concrete["welfare"]).all():
    raise ValueError("the welfare holds NaN or infinity")
  if "welfare_weight" in concrete and not np.all(concrete["welfare_weight"] >= 0):
    raise ValueError("welfare_weight must not be negative or NaN: negate the welfare instead")
  rho = selection.rho
  if isinstance(rho, jax.core.Tracer):
    raise ValueError("rho must be a Python number, not a traced value")
  if not rho > 0:
    raise ValueError(f"rho must be positive (infinity for hard constraints), not {rho}")
  if not 0 < selection.epsilon_max < math.inf:
    raise ValueError(f"epsilon_max must be positive and finite, not {selection.epsilon_max}")
  if "epsilon" in concrete:
    epsilon = concrete["epsilon"]
    if np.isnan(epsilon).any():
      raise ValueError("epsilon is NaN")
    if math.isinf(rho) and np.isinf(epsilon).any():
      raise ValueError("an infinite epsilon needs a finite rho: use the selection 'max_strength'")
  return dataclasses.replace(selection, rho=float(rho), **fields), batches.Axes(**axes)


def _check_duals(duals, games, shape, concept, batched) -> Duals:
  blocks = tuple(x if isinstance(x, jax.Array) else np.asarray(x) for x in duals)
  blocks = blocks if batched else tuple(x[None] for x in blocks)
  wanted = [(games,) + (count,) * deviation.dual_axes(concept) for count in shape]
  if [x.shape for x in blocks] != wanted:
    raise ValueError(
        f"duals must be one array a player of shapes {[list(s) for s in wanted]}, not"
        f" {[list(x.shape) for x in blocks]}"
    )
  return blocks


def _compute_dtype(given, precision: str | None, traced: bool):
  if precision not in (None, "float32", "float64"):
    raise ValueError(f"precision must be None, 'float32' or 'float64', not {precision!r}")
  if precision == "float64" and traced and not jax.config.jax_enable_x64:
    raise ValueError("precision='float64' under a transformation needs jax_enable_x64 to be on")
  if precision is None:
    wide = jax.config.jax_enable_x64 and jnp.finfo(given).bits == 64
    precision = "float64" if wide else "float32"
  return jnp.dtype(precision)
