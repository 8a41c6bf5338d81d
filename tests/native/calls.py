"""Random calls of `nes_jax.solve`, and conditions that every answer must meet.

  python tests/native/calls.py COUNT [LIBRARY]

makes COUNT calls of the native engine, or of the engine in the file LIBRARY, from four threads at
once. The program can run under a sanitizer.
"""

import concurrent.futures
import ctypes
import functools
import math
import pathlib
import sys
from typing import Any, NamedTuple

import numpy as np

import nes_jax
from nes_jax.native import cpu
from nes_jax.selection import Selection

# Largest number of strategies of a player.
MOST = 40
# Largest number of joint strategies.
LARGEST = {"cce": 4000, "ce": 150}
# Factors of the payoffs of whole games. Some of them are outside the range of float32.
SIZES = (1.0, 0.0, 1e-310, 1e-40, 1e-30, 1e30, 1e300)
# Payoffs of strategies that do not exist.
JUNK = (np.nan, np.inf, -np.inf)


class Call(NamedTuple):
  """Arguments of a call, and the games that must be marked as invalid."""

  # Payoffs [B, N, A1, ..., AN].
  games: np.ndarray
  # Keyword arguments of `nes_jax.solve`.
  options: dict[str, Any]
  # Games that must be marked [B].
  invalid: np.ndarray


def random_shape(rng: np.random.Generator, concept: str, players: int) -> tuple[int, ...]:
  """Draws numbers of strategies (A1, ..., AN) within the limits."""
  while True:
    shape = tuple(int(x) for x in np.exp(rng.uniform(0, math.log(MOST + 1), players)))
    if math.prod(shape) <= LARGEST[concept]:
      return shape


def random_games(rng: np.random.Generator, count: int, shape: tuple[int, ...]) -> np.ndarray:
  """Draws games of a random type. They are finite unless they overflow that type."""
  players = len(shape)
  games = rng.normal(size=(count, players, *shape))
  kind = rng.choice(["float64", "float32", "float16", "int32", "unaligned"], p=[.3, .4, .1, .1, .1])
  if kind == "int32":
    return (3 * games).astype(np.int32)
  games *= rng.choice(SIZES, size=(count, 1) + (1,) * players)
  if kind == "unaligned":
    memory = np.zeros(games.nbytes + 1, np.uint8)
    moved = memory[1:].view(np.float64).reshape(games.shape)
    moved[:] = games
    return moved
  with np.errstate(over="ignore"):
    return games.astype(kind)


def random_selection(
    rng: np.random.Generator, count: int, shape: tuple[int, ...], alive: np.ndarray
) -> Selection:
  """Draws a selection for games with the joint strategies `alive`, [B, A1, ..., AN]."""
  lead = (count,) if rng.random() < 0.5 or not alive.all() else ()
  fields: dict[str, Any] = {}
  if rng.random() < 0.4:
    target = rng.exponential(size=lead + shape) ** 4 * (alive if lead else 1)
    axes = tuple(range(-len(shape), 0))
    fields["target"] = target / target.sum(axes, keepdims=True)
  if rng.random() < 0.4:
    fields["welfare"] = rng.normal(size=lead + shape) * 10.0 ** rng.integers(-30, 30)
    fields["welfare_weight"] = rng.choice([0.0, 0.5, 30.0, np.inf])
  if rng.random() < 0.4:
    fields["epsilon"] = rng.normal(size=lead + (len(shape),))
  if rng.random() < 0.3:
    fields["rho"], fields["epsilon_max"] = 10 ** rng.uniform(-1, 4.5), rng.choice([1.0, 500.0])
  return Selection(**fields)


def outer(masks: tuple[np.ndarray, ...]) -> np.ndarray:
  """Makes masks of joint strategies, [B, A1, ..., AN], from masks of each player, [B, Ap]."""
  return np.stack([functools.reduce(np.logical_and.outer, rows) for rows in zip(*masks)])


def random_call(rng: np.random.Generator) -> Call:
  """Draws games, a selection and all other arguments."""
  players = int(rng.integers(2, 7))
  concept = "ce" if players == 2 and rng.random() < 0.5 else "cce"
  shape = random_shape(rng, concept, players)
  count = int(rng.integers(1, 20))
  games = random_games(rng, count, shape)
  masks = tuple(np.ones((count, n), bool) for n in shape)
  if rng.random() < 0.4:
    masks = tuple(rng.random((count, n)) < 0.7 for n in shape)
    for mask in masks:
      mask[np.arange(count), rng.integers(0, mask.shape[1], count)] = True
  alive = outer(masks)
  options: dict[str, Any] = {
      "concept": concept,
      "precision": ("float32", "float64")[rng.integers(2)],
      "selection": random_selection(rng, count, shape, alive),
      "invalid": "mark",
      "batched": True,
  }
  if not alive.all():
    options["strategies"] = masks
  if rng.random() < 0.2:
    options["max_iterations"] = int(rng.integers(1, 5))
  if rng.random() < 0.3:
    sizes = [(count,) + (n,) * (1 if concept == "cce" else 2) for n in shape]
    # Duals are in units of the game, because duals that overflow give no joint to start from.
    unit = np.where(np.isfinite(games), games, 0).astype(np.float64)
    unit = np.abs(unit).reshape(count, -1).max(1)
    factor = rng.choice([0, 1, 1e-20, 1e4]) / np.where(unit > 1e-300, unit, 1)
    options["duals"] = tuple(
        factor.reshape((-1,) + (1,) * (len(size) - 1)) * rng.exponential(size=size)
        for size in sizes
    )
  if games.dtype.kind == "f":
    games[rng.random(games.shape) < rng.choice([0, 0, 0.3]) / games[0].size] = np.nan
    if rng.random() < 0.5:
      games[np.broadcast_to(~alive[:, None], games.shape)] = rng.choice(JUNK)
  seen = np.where(alive[:, None], games, 0)
  finite = np.isfinite(seen).reshape(count, -1).all(1)
  return Call(games, options, ~finite)


def check(call: Call, solution: nes_jax.Solution) -> None:
  """Fails unless every game is marked, or has a distribution over strategies that exist."""
  precision = call.options["precision"]
  count, shape = len(call.games), call.games.shape[2:]
  masks = call.options.get("strategies")
  joint, invalid = np.asarray(solution.joint), call.invalid
  assert joint.dtype == precision and joint.shape == (count, *shape)
  fields = (solution.gap, solution.residual, *solution.duals, *solution.marginals, joint)
  for x in fields:
    assert np.isnan(np.asarray(x)[invalid]).all()
  assert not np.asarray(solution.converged)[invalid].any()
  joint, good = joint[~invalid], ~invalid
  if not good.any():
    return
  assert (joint >= 0).all()
  # The error of a sum grows with the number of its terms, which are rounded.
  atol = math.prod(shape) * np.finfo(precision).eps
  np.testing.assert_allclose(joint.reshape(len(joint), -1).sum(1), 1, rtol=0, atol=atol)
  for p, marginal in enumerate(solution.marginals):
    others = tuple(1 + q for q in range(len(shape)) if q != p)
    np.testing.assert_allclose(np.asarray(marginal)[good], joint.sum(others), rtol=0, atol=atol)
  if masks is not None:
    assert (joint[~outer(masks)[good]] == 0).all()
  residual = np.asarray(solution.residual)[good]
  assert not np.isnan(residual).any() and (residual >= 0).all()
  assert not any(np.isnan(np.asarray(x)[good]).any() for x in (*solution.duals, solution.epsilon))
  assert all((np.asarray(x)[good] >= 0).all() for x in solution.duals)
  tolerance = {"float32": 1e-4, "float64": 1e-8}[precision]
  np.testing.assert_array_equal(np.asarray(solution.converged)[good], residual <= tolerance)


def run(seed: int) -> None:
  """Makes the call of a seed, and checks the answer."""
  call = random_call(np.random.default_rng(seed))
  try:
    # Duals may overflow float32.
    with np.errstate(over="ignore"):
      solution = nes_jax.solve(call.games, **call.options)
    check(call, solution)
  except Exception as error:
    error.add_note(f"seed {seed}: {call.games.dtype} {call.games.shape}, {call.options}")
    raise


def main() -> None:
  count = int(sys.argv[1])
  if len(sys.argv) > 2:
    path = pathlib.Path(sys.argv[2])
    # If the library cannot be loaded, this call raises an error that says why.
    ctypes.CDLL(str(path))
    cpu.library.library_path = lambda level: path
  assert cpu.reason() is None, cpu.reason()
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    for _ in pool.map(run, range(count)):
      pass
  print(f"{count} calls of the level {cpu.level()}")


if __name__ == "__main__":
  main()
