"""Checks of the arguments of `nes_jax.region`. All of them raise ValueError."""

from typing import Any

import jax
import numpy as np

from nes_jax.solving import checks


def games(payoffs: Any, batched: bool | None) -> tuple[np.ndarray, bool]:
  """Games as a batch in float64.

  Args:
    payoffs: [N, A1, ..., AN] or [B, N, A1, ..., AN].
    batched: whether payoffs have a batch axis; None: the shape says so.

  Returns:
    float64 [B, N, A1, ..., AN], and whether payoffs had a batch axis.

  Raises:
    ValueError: payoffs are traced, not finite, or not games.
  """
  if isinstance(payoffs, jax.core.Tracer):
    raise ValueError(
        "nes_jax.region takes concrete arrays: call it outside of jit, vmap and grad, or call"
        " nes_jax.solve with a welfare there"
    )
  payoffs = np.asarray(checks.as_real(payoffs), np.float64)
  shape = checks.strategy_counts(payoffs.shape, batched)
  many = payoffs.ndim == len(shape) + 2
  payoffs = payoffs if many else payoffs[None]
  checks.check_finite_games(
      payoffs, "leave out strategies that do not exist, and games that are not finite"
  )
  return payoffs, many


def directions(values: Any, num_games: int, num_players: int) -> np.ndarray:
  """Directions [B, D, N] in float64, from [D, N] for all games or [B, D, N]."""
  values = np.asarray(checks.as_real(values), np.float64)
  allowed = f"[D, {num_players}] for all games or [{num_games}, D, {num_players}]"
  if values.ndim not in (2, 3) or values.shape[-1] != num_players or values.shape[-2] == 0:
    raise ValueError(
        f"directions must be {allowed}, one number for each player; not {list(values.shape)}"
    )
  if values.ndim == 3 and len(values) != num_games:
    raise ValueError(f"directions must be {allowed}, not {list(values.shape)}")
  if not np.isfinite(values).all():
    place = np.argwhere(~np.isfinite(values))[0].tolist()
    raise ValueError(f"directions hold NaN or infinity, the first at {place}")
  return np.broadcast_to(values, (num_games, *values.shape[-2:]))


def players(pair: Any, num_players: int) -> tuple[int, int]:
  """The two players whose payoffs are looked at."""
  given = tuple(pair)
  whole = all(isinstance(p, int | np.integer) and 0 <= p < num_players for p in given)
  if len(given) != 2 or not whole or given[0] == given[1]:
    raise ValueError(
        f"players must be two different numbers of 0 to {num_players - 1}, not {pair!r}"
    )
  return int(given[0]), int(given[1])


def at_least(name: str, value: Any, smallest: int) -> None:
  """Raises ValueError unless the value is a whole number that is not below the smallest one."""
  if not isinstance(value, int | np.integer) or value < smallest:
    raise ValueError(f"{name} must be a whole number of at least {smallest}, not {value!r}")
