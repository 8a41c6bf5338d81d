"""Meta-solvers with the signature of OpenSpiel's JPSRO.

A meta-game is the normal-form game of the policies that were found so far. A meta-solver chooses a
joint distribution over their combinations.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import math
from typing import Any, Literal, get_args
import warnings

import jax
import numpy as np

from nes_jax import native
from nes_jax import selection as selections
from nes_jax.selection import Selection
from nes_jax.solving import checks, engines, ragged
from nes_jax.solving.solve import solve
from nes_jax.types import Concept, Solution

Uncertified = Literal["warn", "raise", "ignore"]
# A meta-solver: meta-game [N, A1, ..., AN], per player the counts [Ap], ignore_repeats -> joint
# [A1, ..., AN] and a dictionary of information.
MetaSolver = Callable[..., tuple[np.ndarray, dict[str, Any]]]



class UncertifiedWarning(UserWarning):
  """An answer of a meta-solver did not reach its tolerance."""


class UncertifiedError(RuntimeError):
  """An answer of a meta-solver did not reach its tolerance, or holds no numbers."""


def meta_solver(
    concept: Concept = "cce",
    selection: str = "max_entropy",
    *,
    uncertified: Uncertified = "warn",
    tolerance: float | None = None,
    **inputs: Any,
) -> MetaSolver:
  """Makes a meta-solver that can be put into OpenSpiel's `jpsro.FLAG_TO_FUNC`.

  The meta-solver is a function f(payoffs, per_player_repeats, ignore_repeats=False). It takes the
  meta-game [N, A1, ..., AN] and, for each player, how often each of its policies was found [Ap]. It
  returns the joint [A1, ..., AN], float64 NumPy, and a dictionary with these keys:

    converged   bool, whether the residual is within the tolerance
    gap         what the players can still gain by deviating in the meta-game, in payoff units
    residual    KKT residual of the normalised problem, as in `nes_jax.Solution`
    iterations  number of interior-point steps

  A policy that was found k times counts as k clones: the joint is the one nearest to a target that
  is proportional to the product of the counts. That is the maximum-entropy answer of the game with
  clones, whose mass is summed over clones. With ignore_repeats=True the target is uniform.

  Everything is computed in float64. The native engine compiles nothing. Where another engine
  serves, sizes are rounded up to powers of two by strategies that do not exist, so that a growing
  meta-game compiles a new program only when a size passes a power of two.

  Args:
    concept: "cce" or "ce".
    selection: a name of `nes_jax.selection.NAMES` or its abbreviation. The selections that need a
      target take that of the counts. Those that need a welfare take the sum of the payoffs.
    uncertified: the consequence of an answer that is not within its tolerance: "warn" gives an
      `UncertifiedWarning`, since OpenSpiel throws the dictionary away; "raise" raises
      `UncertifiedError`; "ignore" leaves it to the dictionary alone.
    tolerance: largest residual of an answer. None: that of `nes_jax.solve` in float64.
    **inputs: fields of `nes_jax.Selection` that are to differ from the selection's defaults, such
      as epsilon=0.1 for "epsilon_max_entropy". `welfare` is a function from the meta-game
      [N, A1, ..., AN] to weights [A1, ..., AN].

  Raises:
    ValueError: an argument is wrong. The meta-solver raises it too, for a wrong meta-game or wrong
      counts. If an answer is not finite, the meta-solver raises `UncertifiedError`.
  """
  welfare = check_arguments(concept, selection, uncertified, inputs)

  def solver(payoffs: Any, per_player_repeats: Any, ignore_repeats: bool = False):
    payoffs = np.asarray(checks.as_real(payoffs), np.float64)
    shape = checks.strategy_counts(payoffs.shape, False)
    repeats = check_repeats(per_player_repeats, shape)
    chosen = select(
        selection, payoffs, None if ignore_repeats else product_of(repeats), inputs, welfare
    )
    solution = _solve_padded(payoffs, chosen, concept, tolerance)
    joint = np.array(solution.joint, np.float64)
    information = {
        "converged": bool(solution.converged),
        "gap": float(solution.gap),
        "residual": float(solution.residual),
        "iterations": int(solution.iterations),
    }
    what = (
        f"the {selection} {concept.upper()} of a meta-game of shape {list(payoffs.shape)} has"
        f" residual {information['residual']:.3g}, above its tolerance, and gap"
        f" {information['gap']:.3g}"
    )
    if not np.isfinite(joint).all():
      raise UncertifiedError(f"{what}: the joint is not finite")
    if not information["converged"]:
      report_uncertified(what, uncertified)
    return joint, information

  return solver


def report_uncertified(what: str, uncertified: Uncertified) -> None:
  """Raises `UncertifiedError` or warns of an answer that is not within its tolerance."""
  if uncertified == "raise":
    raise UncertifiedError(f"{what}: pass a larger tolerance=, or uncertified='warn' to go on")
  if uncertified == "warn":
    warnings.warn(f"{what}: it is used as it is", UncertifiedWarning, stacklevel=3)


def check_arguments(
    concept: str, selection: Any, uncertified: str, inputs: dict[str, Any]
) -> Callable[[Any], Any] | None:
  """Checks the arguments of a meta-solver, and takes the function `welfare` out of the inputs.

  Raises:
    ValueError: a name is unknown, or an input is unknown, wrong or missing.
  """
  checks.check_options(concept, "exact", "raise")
  if uncertified not in get_args(Uncertified):
    raise ValueError(f"uncertified must be 'warn', 'raise' or 'ignore', not {uncertified!r}")
  if not isinstance(selection, str):
    raise ValueError(
        f"selection must be a name of nes_jax.selection.NAMES, not {type(selection)}: meta-games"
        " grow, so a Selection made for one of them fits no other; give its fields as arguments"
    )
  welfare = inputs.pop("welfare", None)
  if welfare is not None and not callable(welfare):
    raise ValueError(
        "welfare must be a function of the meta-game, whose shape grows: pass for example"
        " welfare=lambda payoffs: payoffs.min(0)"
    )
  fields = {field.name for field in dataclasses.fields(Selection)} - {"target"}
  unknown = sorted(set(inputs) - fields)
  if unknown:
    raise ValueError(
        f"unknown arguments {unknown}: the fields that can be given are {sorted(fields)}; the"
        " target is that of the counts"
    )
  for name, value in inputs.items():
    if np.ndim(value):
      raise ValueError(f"{name} must be one number, not an array of shape {list(np.shape(value))}")
  chosen = select(selection, np.zeros((2, 1, 1)), None, inputs, welfare)
  checks.check_selection(dataclasses.replace(chosen, welfare=None), 1, (1, 1))
  return welfare


def check_repeats(repeats: Any, shape: Sequence[int]) -> list[np.ndarray]:
  """Counts of policies, per player float64 [Ap]. Raises ValueError if they do not fit the shape."""
  blocks = [np.asarray(block, np.float64) for block in repeats]
  if [block.shape for block in blocks] != [(count,) for count in shape]:
    raise ValueError(
        f"per_player_repeats must be one list a player of lengths {list(shape)}, as the meta-game"
        f" has policies, not of shapes {[list(block.shape) for block in blocks]}"
    )
  if not all(np.isfinite(block).all() and (block > 0).all() for block in blocks):
    raise ValueError("per_player_repeats must be positive: every policy was found at least once")
  return blocks


def product_of(repeats: Sequence[Any], numpy: Any = np) -> Any:
  """Target joint [A1, ..., AN] proportional to the product of the counts, per player [Ap].

  Args:
    repeats: counts of policies, per player [Ap].
    numpy: NumPy or jax.numpy, of which the counts are arrays.
  """
  return functools.reduce(numpy.multiply.outer, [block / block.sum() for block in repeats])


def select(
    name: str,
    payoffs: Any,
    target: Any,
    inputs: dict[str, Any],
    welfare: Callable[[Any], Any] | None,
    player_axis: int = 0,
) -> Selection:
  """The selection of a name for one meta-game or, with player_axis=1, for a batch of them.

  Args:
    name: a name of `nes_jax.selection.NAMES`.
    payoffs: [N, A1, ..., AN] or [B, N, A1, ..., AN].
    target: [A1, ..., AN] or [B, A1, ..., AN]; None: uniform.
    inputs: other fields of the selection.
    welfare: function from payoffs [N, A1, ..., AN] to weights [A1, ..., AN]; None: their sum.
    player_axis: axis of the players.

  Raises:
    ValueError: the name is unknown, or an input is missing.
  """
  rows = {key: row for row in selections.TABLE for key in (row.name, row.abbreviation)}
  needs = rows[name].needs if name in rows else ()
  given = {**inputs, "target": target}
  if "welfare" in needs or (name in rows and rows[name].name == "max_welfare"):
    if welfare is None:
      given["welfare"] = payoffs.sum(player_axis)
    else:
      given["welfare"] = jax.vmap(welfare)(payoffs) if player_axis else welfare(payoffs)
  elif welfare is not None:
    raise ValueError(f"selection {name!r} takes no welfare: use 'max_welfare_max_entropy'")
  return selections.named(name, payoffs, player_axis=player_axis, **given)


def _solve_padded(
    payoffs: np.ndarray, selection: Selection, concept: Concept, tolerance: float | None
) -> Solution:
  """Solves one game in float64, padded if an engine serves that compiles a program for a shape."""
  shape = payoffs.shape[1:]
  options: dict[str, Any] = dict(
      concept=concept, precision="float64", tolerance=tolerance, batched=False
  )
  if not engines.on_accelerator(payoffs) and native.cpu.serves(shape, concept):
    whole = solve(payoffs, selection=selection, **options)
    assert isinstance(whole, Solution)  # payoffs are one array
    return whole
  padded = ragged.padded_shape(shape)
  extra = [(0, size - count) for size, count in zip(padded, shape)]
  target = selection.target
  if target is None:  # zeros are needed where strategies do not exist
    target = np.full(shape, 1 / math.prod(shape))
  fields: dict[str, Any] = {"target": np.pad(np.asarray(target), extra)}
  if selection.welfare is not None:
    fields["welfare"] = np.pad(np.asarray(selection.welfare, np.float64), extra)
  solution = solve(
      np.pad(payoffs, [(0, 0), *extra]),
      selection=dataclasses.replace(selection, **fields),
      strategies=tuple(np.arange(size) < count for size, count in zip(padded, shape)),
      **options,
  )
  return ragged.cut(jax.tree.map(lambda x: np.asarray(x)[None], solution), 0, tuple(shape))
