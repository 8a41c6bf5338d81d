"""Checks of the arguments of `nes_jax.solve`, before anything is compiled."""

from collections.abc import Mapping
import dataclasses
import logging
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nes_jax import deviation, exact, pretrained
from nes_jax.selection import Selection
from nes_jax.solving import engines
from nes_jax.solving.batches import Axes
from nes_jax.types import CONCEPTS, METHODS, Concept, Duals


def check_concept(concept: Any) -> None:
  """Raises ValueError for an unknown solution concept."""
  if concept not in CONCEPTS:
    raise ValueError(f"unknown concept {concept!r}; use 'cce' or 'ce'")


def check_integer(name: str, number: Any, smallest: int) -> None:
  """Raises ValueError unless the number is a Python integer that is not below the smallest one."""
  if isinstance(number, bool) or not isinstance(number, int) or number < smallest:
    raise ValueError(f"{name} must be an integer, {smallest} or more, not {number!r}")


def check_finite_games(games: np.ndarray, advice: str) -> None:
  """Raises ValueError, which ends with the advice, if games [B, ...] hold NaN or infinity."""
  bad = ~np.isfinite(games).all(tuple(range(1, games.ndim)))
  if bad.any():
    raise ValueError(
        f"{bad.sum()} of {len(bad)} games hold NaN or infinity; the first is game"
        f" {int(bad.argmax())}: {advice}"
    )


def check_options(concept: str, method: str, invalid: str) -> None:
  """Raises ValueError for a name that is none of those expected."""
  check_concept(concept)
  if method not in METHODS:
    raise ValueError(f"unknown method {method!r}; use one of {', '.join(METHODS)}")
  if invalid not in ("raise", "mark"):
    raise ValueError(f"invalid must be 'raise' or 'mark', not {invalid!r}")


def choose_network(
    trained: Any, concept: Concept, selection: Selection, shape: tuple[int, ...]
) -> pretrained.Pretrained:
  """The network to use. It sees everything in which the selection differs from maximum entropy.

  Raises:
    ValueError: no network fits, or the one that was asked for does not.
  """
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


def as_real(payoffs: Any) -> Any:
  """Payoffs in floating point that JAX knows, as NumPy arrays where the input is not JAX's.

  Raises:
    ValueError: the payoffs are no rectangular array of real numbers.
  """
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


def strategy_counts(shape: tuple[int, ...], batched: bool | None) -> tuple[int, ...]:
  """Strategy counts (A1, ..., AN) of payoffs of this shape.

  Raises:
    ValueError: the shape is not that of games, or it can be read in two ways.
  """
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


def check_config(config: exact.Config) -> None:
  """Raises ValueError for a tolerance or a number of iterations that is not positive."""
  if not config.tolerance > 0:
    raise ValueError(f"tolerance must be positive, not {config.tolerance}")
  if config.max_iterations < 1:
    raise ValueError(f"max_iterations must be at least 1, not {config.max_iterations}")


def check_strategies(
    strategies: Any, games: int, shape: tuple[int, ...]
) -> tuple[Any, ...] | None:
  """Masks of strategies, per player bool [B, Ap]. Raises ValueError for a wrong type or shape."""
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


def find_strategies(
    games: Any, strategies: tuple[Any, ...] | None, batched: bool, invalid: str, names: Any
) -> tuple[Any, tuple[Any, ...] | None]:
  """Finds the strategies of concrete games: those of the masks without payoffs of -infinity.

  Games with other payoffs that are not finite are refused, or marked by payoffs of NaN.

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
  """Message about concrete games; good [B, N, A1, ..., AN] payoffs, bad [B] games."""
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


def check_selection(
    selection: Selection, games: int, shape: tuple[int, ...]
) -> tuple[Selection, Axes]:
  """Checks shapes and, for concrete arrays, values. -> selection with array fields, their axes."""
  if not isinstance(selection, Selection):
    raise ValueError(f"selection must be a name or a nes_jax.Selection, not {type(selection)}")
  n = len(shape)
  allowed = {
      "target": [shape, (games,) + shape],
      "epsilon": [(), (n,), (games, n)],
      "welfare": [shape, (games,) + shape],
      "welfare_weight": [(), (games,)],
  }
  axes: dict[str, int | None] = {}
  fields: dict[str, Any] = {}
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
  _check_values(concrete, selection.rho, selection.epsilon_max, n)
  return dataclasses.replace(selection, rho=float(selection.rho), **fields), Axes(**axes)


def _check_values(
    concrete: Mapping[str, np.ndarray], rho: float, epsilon_max: float, n: int
) -> None:
  """Raises ValueError for a value of a selection for games of n players that is out of range."""
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
  if isinstance(rho, jax.core.Tracer):
    raise ValueError("rho must be a Python number, not a traced value")
  if not rho > 0:
    raise ValueError(f"rho must be positive (infinity for hard constraints), not {rho}")
  if not 0 < epsilon_max < math.inf:
    raise ValueError(f"epsilon_max must be positive and finite, not {epsilon_max}")
  if "epsilon" in concrete:
    epsilon = concrete["epsilon"]
    if np.isnan(epsilon).any():
      raise ValueError("epsilon is NaN")
    if math.isinf(rho) and np.isinf(epsilon).any():
      raise ValueError("an infinite epsilon needs a finite rho: use the selection 'max_strength'")


def check_duals(
    duals: Any, games: int, shape: tuple[int, ...], concept: Concept, batched: bool
) -> Duals:
  """Blocks of duals to start from, with a batch axis. Raises ValueError for a wrong shape."""
  blocks: tuple[Any, ...] = tuple(
      x if isinstance(x, jax.Array) else np.asarray(x) for x in duals
  )
  blocks = blocks if batched else tuple(x[None] for x in blocks)
  wanted = [(games,) + (count,) * deviation.dual_axes(concept) for count in shape]
  if [x.shape for x in blocks] != wanted:
    raise ValueError(
        f"duals must be one array a player of shapes {[list(s) for s in wanted]}, not"
        f" {[list(x.shape) for x in blocks]}"
    )
  return blocks


def compute_dtype(given: Any, precision: str | None, traced: bool) -> Any:
  """The type to compute in, for payoffs of the type `given`."""
  if precision not in (None, "float32", "float64"):
    raise ValueError(f"precision must be None, 'float32' or 'float64', not {precision!r}")
  if precision == "float64" and traced and not engines.x64_enabled():
    raise ValueError("precision='float64' under a transformation needs jax_enable_x64 to be on")
  if precision is None:
    wide = engines.x64_enabled() and jnp.finfo(given).bits == 64
    precision = "float64" if wide else "float32"
  return jnp.dtype(precision)
