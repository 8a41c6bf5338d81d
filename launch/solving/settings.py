"""Options of `launch.nes_solve`, and the checks that need no games."""

from collections.abc import Mapping
import dataclasses
import math
import pathlib
from typing import Any

import numpy as np

from launch.runtime.flags import UsageError
from nes_jax import selection as selections
from nes_jax.solving import social
from nes_jax.types import CONCEPTS, METHODS

PRECISIONS = ("float32", "float64")
# Selections that need no number of a player.
_ROWS = tuple(row for row in selections.TABLE + selections.FURTHER if "player" not in row.needs)
SELECTIONS = tuple(row.name for row in _ROWS) + social.NAMES


def _option(text: str, default: Any = None, **metadata: Any) -> Any:
  """A field with the help of its flag."""
  return dataclasses.field(default=default, metadata={"help": text, **metadata})


@dataclasses.dataclass(frozen=True)
class Config:
  """All options; each field is a flag.

  None stands for the default of the input, of the selection or of `nes_jax.solve`.
  """

  games: str = dataclasses.field(
      metadata={
          "metavar": "FILE.npz|FILE.nfg|DIRECTORY|openspiel:GAME",
          "help": "Games to solve.",
      }
  )
  out: str = dataclasses.field(
      metadata={"metavar": "FILE.npz", "help": "File that gets the answers."}
  )
  batched: bool | None = _option(
      "Say that the arrays of a .npz have a batch axis, or (--nobatched) that they have none. It is"
      " needed only where the shape can be read both ways; other inputs ignore it."
  )
  concept: str = _option(
      "Equilibria to solve for: coarse correlated (cce) or correlated (ce).",
      "cce",
      choices=CONCEPTS,
  )
  selection: str = _option(
      f"Equilibrium that is selected among all, one of {', '.join(SELECTIONS)}.",
      "max_entropy",
  )
  method: str = _option(
      "Way of solving: interior-point steps (exact), one pass of a trained network (neural), or"
      " exact steps from the network's answer (refined). So far auto means exact.",
      "auto",
      choices=METHODS,
  )
  precision: str = _option(
      "Precision of the computation and of the answers.", "float32", choices=PRECISIONS
  )
  tolerance: float | None = _option(
      "KKT residual at which a game counts as converged. By default it is 1e-4 in float32 and 1e-8"
      " in float64."
  )
  max_iterations: int | None = _option(
      "Largest number of interior-point steps. By default it is 200 in float64, and in float32 20"
      " for CCE or 30 for CE."
  )
  target: str | None = _option(
      "File with the target joint: [A1, ..., AN] for all games, or [B, A1, ..., AN], one for each."
      " The games must be of one shape.",
      metavar="FILE.npy|FILE.npz",
  )
  welfare: str | None = _option(
      "File with the welfare of each joint strategy, of a shape as for --target. With sum it is the"
      " sum of the players' payoffs.",
      metavar="FILE.npy|FILE.npz|sum",
  )
  epsilon: float | None = _option(
      "Approximation that is aimed at, in payoff units. By default it is that of the selection."
  )
  welfare_weight: float | None = _option(
      "Weight mu of the welfare against the entropy. By default it is that of the selection."
  )
  rho: float | None = _option(
      "Weight of epsilon; inf makes epsilon exact. By default it is that of the selection."
  )
  part_size: int | None = _option(
      "Number of games that are solved and saved at a time. By default a part takes seconds."
  )
  overwrite: bool = _option("Replace --out if it exists.", False)


def check(config: Config) -> None:
  """Checks all that can be seen without opening the games.

  Raises:
    UsageError: an option is wrong.
  """
  _check_choices(config)
  _check_paths(config)
  _check_numbers(config)
  _check_selection(config)


def scalars(config: Config) -> dict[str, float]:
  """The numbers of a selection that are given."""
  values = {name: getattr(config, name) for name in ("epsilon", "welfare_weight", "rho")}
  return {name: value for name, value in values.items() if value is not None}


def _check_choices(config: Config) -> None:
  for name in ("games", "out"):
    if not getattr(config, name):
      raise UsageError(f"--{name} is missing: see --help for a command to copy")
  for name, allowed in (("concept", CONCEPTS), ("precision", PRECISIONS), ("method", METHODS)):
    if getattr(config, name) not in allowed:
      raise UsageError(f"--{name}={getattr(config, name)}: use one of {', '.join(allowed)}")


def _check_paths(config: Config) -> None:
  out = pathlib.Path(config.out)
  if out.suffix != ".npz":
    raise UsageError(f"--out={config.out}: give a name that ends in .npz")
  if out.is_dir():
    raise UsageError(f"--out={config.out} is a directory: give the name of a file")
  for name in ("games", "target", "welfare"):
    path = getattr(config, name)
    if path and out.exists() and pathlib.Path(path).exists() and out.samefile(path):
      raise UsageError(f"--out and --{name} are the same file, {config.out}: choose another --out")


def _check_numbers(config: Config) -> None:
  if config.tolerance is not None and not config.tolerance > 0:
    raise UsageError(f"--tolerance={config.tolerance}: must be positive")
  for name in ("max_iterations", "part_size"):
    value = getattr(config, name)
    if value is not None and value < 1:
      raise UsageError(f"--{name}={value}: must be at least 1")
  if config.rho is not None and not config.rho > 0:
    raise UsageError(f"--rho={config.rho}: must be positive; inf makes epsilon exact")
  if config.epsilon is not None and math.isnan(config.epsilon):
    raise UsageError("--epsilon is NaN: give a number in payoff units")
  if config.welfare_weight is not None and not config.welfare_weight >= 0:
    raise UsageError(f"--welfare_weight={config.welfare_weight}: must not be negative")


def _check_selection(config: Config) -> None:
  given: Mapping[str, Any] = scalars(config) | {
      name: True for name in ("target", "welfare") if getattr(config, name)
  }
  if config.selection in social.NAMES:
    if given:
      raise UsageError(
          f"--{next(iter(given))} has no effect on --selection={config.selection}: leave it out"
      )
    return
  rows = {key: row for row in _ROWS for key in (row.name, row.abbreviation)}
  row = rows.get(config.selection)
  if row is None:
    raise UsageError(f"--selection={config.selection}: use one of {', '.join(SELECTIONS)}")
  missing = [f"--{name}" for name in row.needs if name not in given]
  if missing:
    raise UsageError(f"--selection={config.selection} needs {' and '.join(missing)}: pass them too")
  chosen = selections.named(config.selection, np.zeros((1, 2, 1, 1)), player_axis=1, **given)
  if "welfare_weight" in given and chosen.welfare is None:
    raise UsageError(
        f"--welfare_weight has no effect on --selection={config.selection} without a welfare: pass"
        " --welfare too, or choose --selection=max_welfare"
    )
  if math.isinf(chosen.rho) and np.isinf(chosen.epsilon):
    raise UsageError("--epsilon is infinite, which needs a finite --rho: pass --rho=1e4")
