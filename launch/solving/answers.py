"""Answers to the games of one part, as arrays of one schema."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from launch.runtime import store
from launch.runtime.flags import UsageError
from launch.solving.settings import Config, scalars
import nes_jax
from nes_jax import selection as selections
from nes_jax.games import files
from nes_jax.solving import social


@dataclasses.dataclass(frozen=True)
class Job:
  """The games of a run, and how each part of them is solved."""

  config: Config
  source: files.Source
  inputs: Mapping[str, np.ndarray]  # target and welfare of files
  part_size: int  # number of games of all parts but the last
  solve: Callable[..., Any]  # has the signature of `nes_jax.solve`


def answer_schema(shape: tuple[int, ...], config: Config) -> store.Schema:
  """The arrays of an answer to games of at most this shape, (N, A1, ..., AN)."""
  real, counts = np.dtype(config.precision), shape[1:]
  dual_axes = 2 if config.concept == "ce" else 1
  fields = {
      "joint": (counts, real),
      "epsilon": ((len(counts),), real),
      "gap": ((), real),
      "residual": ((), real),
      "converged": ((), np.dtype(bool)),
      "iterations": ((), np.dtype(np.int32)),
      "repeated": ((), np.dtype(bool)),
      "invalid": ((), np.dtype(bool)),
      "strategies": ((len(counts),), np.dtype(np.int32)),
  }
  fields |= {f"duals_{p}": ((count,) * dual_axes, real) for p, count in enumerate(counts)}
  fields |= {f"marginals_{p}": ((count,), real) for p, count in enumerate(counts)}
  return {key: store.Field(*value) for key, value in fields.items()}


def solve_part(job: Job, payoffs: np.ndarray, start: int) -> dict[str, np.ndarray]:
  """Solves the games of one part.

  Args:
    job: the run.
    payoffs: [b, N, A1, ..., AN] of games `start`, `start` + 1, ...
    start: number of the first game.

  Returns:
    Arrays of `answer_schema`, [b, ...]. Answers to smaller games stand at the beginning of each
    axis, and zeros fill the rest.

  Raises:
    UsageError: `solve` refuses the games.
  """
  count = len(payoffs)
  counts = job.source.counts[start : start + count]
  try:
    if (counts == counts[0]).all():
      whole = payoffs[(slice(None), *_corner(counts[0]))]
      solutions = [_solve_batch(job, whole, start)]
    else:
      solutions = _solve_list(job, [game[_corner(row)] for game, row in zip(payoffs, counts)])
  except ValueError as error:
    raise UsageError(f"games {start} to {start + count - 1}: {error}") from error
  schema = answer_schema(payoffs.shape[1:], job.config)
  arrays = {key: np.zeros((count, *field.shape), field.dtype) for key, field in schema.items()}
  arrays["strategies"][...] = counts
  row = 0
  for solution in solutions:
    size = len(solution.gap)
    for key, values in _fields(solution).items():
      arrays[key][row : row + size][_corner(values.shape[1:])] = values
    row += size
  return arrays


def _corner(counts: Sequence[int]) -> tuple[slice, ...]:
  """Index of the whole first axis, and of the first `counts` entries of each further axis."""
  return (slice(None), *map(slice, counts))


def _fields(solution: nes_jax.Solution) -> dict[str, np.ndarray]:
  """The arrays of a batch of answers, without `strategies`."""
  arrays = {
      key: getattr(solution, key)
      for key in ("joint", "epsilon", "gap", "residual", "converged", "iterations", "repeated")
  }
  # `solve` gives NaN to the games that it marks as invalid, and to no other.
  arrays["invalid"] = ~solution.converged & np.isnan(solution.residual)
  for p, (duals, marginals) in enumerate(zip(solution.duals, solution.marginals)):
    arrays[f"duals_{p}"], arrays[f"marginals_{p}"] = duals, marginals
  return arrays


def _solve_batch(job: Job, payoffs: np.ndarray, start: int) -> nes_jax.Solution:
  """Solves games of one shape, payoffs [b, N, A1, ..., AN]; the answers are NumPy arrays."""
  config, count = job.config, len(payoffs)
  # The last part is filled up with its last game, so that one compiled program serves all parts.
  rows = np.minimum(np.arange(job.part_size), count - 1)
  payoffs = payoffs if count == job.part_size else payoffs[rows]
  given: dict[str, Any] = dict(scalars(config))
  for name, array in job.inputs.items():
    batched = array.ndim == payoffs.ndim - 1
    given[name] = np.asarray(array[start + rows] if batched else array, np.float64)
  clean = _without_infinities(payoffs, 1)
  if config.welfare == "sum":
    given["welfare"] = clean.sum(1)
  selection: Any = config.selection
  if selection not in social.NAMES:
    selection = selections.named(selection, clean, player_axis=1, **given)
  solution = job.solve(payoffs, selection=selection, batched=True, **_options(config))
  return jax.tree.map(lambda x: np.asarray(x)[:count], solution)


def _solve_list(job: Job, games: Sequence[np.ndarray]) -> list[nes_jax.Solution]:
  """Solves games of different shapes, each [N, A1, ..., AN].

  Returns:
    A batch of one answer for each game, of NumPy arrays.
  """
  config, given = job.config, scalars(job.config)
  selection: Any = config.selection
  if given or config.welfare == "sum":
    chosen = []
    for game in games:
      clean = _without_infinities(game, 0)
      welfare = {"welfare": clean.sum(0)} if config.welfare == "sum" else {}
      chosen.append(selections.named(config.selection, clean, player_axis=0, **given, **welfare))
    selection = chosen if chosen[0].welfare is not None else chosen[0]
  solutions = jax.device_get(job.solve(games, selection=selection, **_options(config)))
  return [jax.tree.map(lambda x: np.asarray(x)[None], solution) for solution in solutions]


def _options(config: Config) -> dict[str, Any]:
  """The arguments of `solve` that are the same for all parts."""
  names = ("concept", "method", "precision", "tolerance", "max_iterations")
  return {"invalid": "mark"} | {name: getattr(config, name) for name in names}


def _without_infinities(payoffs: np.ndarray, player_axis: int) -> np.ndarray:
  """Payoffs with 0 for all players wherever the payoff of one of them is not finite.

  The welfare of joint strategies that do not exist is then finite, and `solve` marks invalid games
  without refusing the whole part.
  """
  finite = np.isfinite(payoffs)
  if finite.all():
    return payoffs
  return np.where(finite.all(player_axis, keepdims=True), payoffs, 0)
