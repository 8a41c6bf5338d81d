"""Suite `exact` of `launch.benchmark`: the exact engine beside the solvers of others.

  python -m launch.benchmark --suite=exact --out=out/benchmark

Maximum-entropy equilibria of uniform games on the L2 sphere, by `nes_jax.solve` in float32 with its
default tolerance. Beside it stand the solvers of `launch.baselines.peers` that are installed, on
the first games of the same batch. Batches are larger on accelerators. Columns:

  size, concept, batch        what was solved
  engine                      of `nes_jax.engines()`, which one solves such games here
  us_game, compile_s          ours: median call / batch; first call less a median one
  jit_us                      the same inside `jax.jit`, on an array that is on the device
  first_ms                    a first call on one game, in a fresh process that has imported nes_jax
  iterations, iterations_max  Newton steps a game: mean, largest
  converged_pct               games with residual within the tolerance, %
  repeated                    games of the batch that float32 left and float64 took over
  residual                    worst KKT residual
  before_us, before_ratio     with --before=PATH: the same call with the older version that lies at
                              PATH, in another process, in turns with ours; its time / ours
  PEER_us, PEER_failed, PEER_ratio
                              of ecos, clarabel, direct, moreau and polarix: microseconds a game,
                              how many of its games it did not solve, and its time / ours
  distance                    worst half L1 distance between our joint and Clarabel's
  floor_us, over_floor        flops of the Newton steps / measured rate; our time / floor

It ends with smaller tables, which are entries as well:

  gradient    of the joints of 4x4 games with respect to their payoffs, forward and backward: ours
              inside `jax.jit` for one game and a game of a batch, beside layers of cvxpylayers
  shapes      one hundred games of one hundred shapes from 2x2 to 16x16, in a call each and in a
              fresh process: seconds, all together. Where something is compiled for each shape it
              takes many minutes, so that by default it runs only where the native engine serves
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import itertools
import math
import pathlib
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from launch.baselines import checkout, peers
from launch.runtime.timing import seconds
import nes_jax
from nes_jax import training as learner
from nes_jax.games import spheres
from nes_jax.solving import engines

Row = dict[str, Any]

# The directory that holds this checkout's nes_jax.
ROOT = pathlib.Path(nes_jax.__file__).resolve().parents[1]
_CALLS, _QUICK_GAMES = 7, 16
_PAUSE = 0.05  # seconds
# The games of `shapes` that an engine is least likely to serve.
_HARDEST = (16, 16), "ce"


@dataclasses.dataclass(frozen=True)
class Entry:
  """A line of the suite `exact`."""

  concept: str
  shape: tuple[int, ...]
  batch: int  # chosen so that the entry takes seconds on a CPU
  accelerator: int  # in its place on other devices
  # Games given to each peer; 0: too slow, or CVXPY wants 32 GiB (`launch.baselines.convex`).
  cvxpy: int  # ECOS and Clarabel
  direct: int  # Clarabel's own interface
  moreau: int  # in one batch
  polarix: int = 0

  @property
  def size(self) -> str:
    return learner.shape_name(self.shape)

  @property
  def name(self) -> str:
    return f"{self.concept}:{self.size}"


ENTRIES = (
    Entry("cce", (2, 2), 16384, 65536, 20, 20, 256),
    Entry("cce", (4, 4), 4096, 65536, 20, 20, 256),
    Entry("cce", (8, 8), 4096, 65536, 20, 20, 256),
    Entry("cce", (16, 16), 2048, 16384, 10, 10, 64),
    Entry("cce", (32, 32), 512, 4096, 5, 5, 16),
    Entry("cce", (64, 64), 512, 1024, 0, 1, 2),
    Entry("cce", (128, 128), 32, 128, 0, 0, 0),
    Entry("cce", (4, 4, 4), 2048, 16384, 20, 20, 64),
    Entry("ce", (4, 4), 4096, 65536, 20, 20, 256, 2),
    Entry("ce", (8, 8), 1024, 16384, 20, 20, 64, 2),
    Entry("ce", (16, 16), 64, 256, 5, 5, 16),
    Entry("ce", (4, 4, 4), 1024, 16384, 20, 20, 64),
)


def newton_flops(shape: Sequence[int], concept: str) -> float:
  """Least floating-point operations of one interior-point step on one game.

  Forming the Newton matrix, its Cholesky factor, and what a predictor and a corrector take: two
  solves, and three products each with A and A' (one for the residual). Elementwise work is left
  out, and the symmetric half of a product counted once: this is a floor. With a = |A|, counts A_p,
  R_p = a / A_p:

    CCE, D x D    a A_p a player, 4 a min(A_p, A_q) a pair; two players n x n: 6 n^3 + (2n)^3 / 3
    CE,  D x D    a (A_p - 1)^2 a player, 2 a (A_p - 1) (A_q - 1) a pair
    CE,  a x a    a (A_p - 1) R_p a player; taken where it is the cheaper of the two
  """
  size, pairs = math.prod(shape), list(itertools.combinations(shape, 2))

  def step(form: float, unknowns: int, product: float) -> float:
    return form + unknowns**3 / 3 + 2 * 2 * unknowns**2 + 6 * product

  if concept == "cce":
    form = sum(size * n for n in shape) + sum(4 * size * min(pair) for pair in pairs)
    return step(form, sum(shape), 2 * size * len(shape))
  product = sum(2 * size * (n - 1) for n in shape)
  dual = sum(size * (n - 1) ** 2 for n in shape)
  dual += sum(2 * size * (n - 1) * (m - 1) for n, m in pairs)
  joint = sum(size * (n - 1) * (size // n) for n in shape)
  num_duals = sum(n * (n - 1) for n in shape)
  return min(step(dual, num_duals, product), step(joint, size, product))


def engine(shape: Sequence[int], concept: str) -> str:
  """The engine that solves plain games of this shape here in float32."""
  accelerated = jax.default_backend() != "cpu"
  return engines.engine_for(tuple(shape), concept, np.dtype("float32"), accelerated)


def row(
    entry: Entry, rate: float, *, quick: bool = False, before: checkout.Process | None = None
) -> Row:
  """Measures one entry; `rate` is `machine_rate()`, and `before` solves with an older version."""
  batch = entry.batch if jax.default_backend() == "cpu" else entry.accelerator
  batch, calls = (min(batch, _QUICK_GAMES), 1) if quick else (batch, _CALLS)
  payoffs = spheres.sample(jax.random.key(1), batch, entry.shape, dtype=jnp.float32)
  games = np.asarray(payoffs)

  def solve(payoffs):
    return nes_jax.solve(payoffs, concept=entry.concept, precision="float32", batched=True)

  def call():
    # A fresh copy: an array keeps what was read of it, and a second call would read nothing.
    copy = jax.block_until_ready(jnp.array(payoffs, copy=True))
    return _quietly(lambda: solve(copy))

  earlier = lambda: before.solve(games, entry.concept, True)["seconds"] if before else None
  (first, _), *turns = [(call(), earlier()) for _ in range(1 + calls)]
  solution, median = solve(payoffs), statistics.median(ours for ours, _ in turns)
  us = median / batch * 1e6
  before_us = before and statistics.median(theirs for _, theirs in turns) / batch * 1e6
  jitted = jax.jit(solve)
  _, *jitted_times = [_quietly(lambda: jitted(payoffs)) for _ in range(1 + calls)]
  iterations = np.asarray(solution.iterations)
  floor = newton_flops(entry.shape, entry.concept) * float(iterations.mean()) / rate * 1e6
  with checkout.Process(ROOT) as fresh:
    first_ms = 1e3 * fresh.solve(games[0], entry.concept, False)["seconds"]
  return {
      "size": entry.size,
      "concept": entry.concept,
      "batch": batch,
      "engine": engine(entry.shape, entry.concept),
      "us_game": us,
      "compile_s": max(first - median, 0.0),
      "jit_us": statistics.median(jitted_times) / batch * 1e6,
      "first_ms": first_ms,
      "iterations": float(iterations.mean()),
      "iterations_max": int(iterations.max()),
      "converged_pct": 100 * float(np.asarray(solution.converged).mean()),
      "repeated": int(np.asarray(solution.repeated).sum()),
      "residual": float(np.asarray(solution.residual).max()),
      "before_us": before_us,
      "before_ratio": before_us and before_us / us,
      **_peer_columns(entry, games, np.asarray(solution.joint), us, quick),
      "floor_us": floor,
      "over_floor": us / floor,
  }


def _quietly(function: Callable[[], Any]) -> float:
  """Seconds of a call, after a pause: threads of what ran before spin for a while."""
  time.sleep(_PAUSE)
  return seconds(function, 0)[0]


def _peer_columns(
    entry: Entry, games: np.ndarray, joints: np.ndarray, us: float, quick: bool
) -> Row:
  """Columns of the peers for games [B, N, A1, ..., AN], our joints and microseconds a game."""
  counts = {
      "ecos": entry.cvxpy,
      "clarabel": entry.cvxpy,
      "direct": entry.direct,
      "moreau": entry.moreau,
      "polarix": entry.polarix,
  }
  row, outcomes = {}, {}
  for name, count in counts.items():
    found = peers.measure(name, entry.concept, games[: min(count, 2) if quick else count])
    outcomes[name] = found
    row[f"{name}_us"] = found and found.us
    row[f"{name}_failed"] = found and found.failures
    row[f"{name}_ratio"] = found and found.us / us
  compared = outcomes["clarabel"] or outcomes["direct"]
  distances = []
  if compared:
    apart = np.abs(joints[: len(compared.joints)] - compared.joints)
    distances = 0.5 * apart.reshape(len(apart), -1).sum(1)
  return row | {"distance": max((float(d) for d in distances if d == d), default=None)}


def gradient_row(quick: bool) -> Row:
  """Gradients of a weighted sum of the joints of 4x4 CCEs, by us and by layers of others.

  Columns: one_us, microseconds for one game; us_game, for a game of a batch; the same for each
  layer of `peers.LAYERS`; largest, of our derivatives; difference, the largest between ours and a
  layer's, whose payoffs are the same.
  """
  shape, (batch, compared, calls) = (4, 4), (16, 2, 1) if quick else (1024, 16, _CALLS)
  payoffs = spheres.sample(jax.random.key(1), batch, shape, dtype=jnp.float32)
  weights = jax.random.normal(jax.random.key(2), shape)

  @jax.jit
  @jax.grad
  def gradient(payoffs):
    solution = nes_jax.solve(payoffs, concept="cce", batched=payoffs.ndim == 4)
    return (solution.joint * weights).sum()

  median = lambda payoffs: statistics.median(seconds(lambda: gradient(payoffs), calls)[1:])
  row = {
      "size": learner.shape_name(shape),
      "concept": "cce",
      "batch": batch,
      "one_us": median(payoffs[0]) * 1e6,
      "us_game": median(payoffs) / batch * 1e6,
  }
  values = np.asarray(gradient(payoffs))[:compared]
  differences = []
  for name in peers.LAYERS:
    theirs = peers.differentiate(name, np.asarray(payoffs[:compared]), np.asarray(weights), calls)
    row[f"{name}_one_us"] = theirs and theirs.one_us
    row[f"{name}_us"] = theirs and theirs.us
    if theirs:
      differences.append(float(np.abs(values - theirs.values).max()))
  row["largest"] = float(np.abs(values).max())
  return row | {"difference": max(differences, default=None)}


def shapes_row(quick: bool) -> Row:
  """Solves games of many shapes, one by one, in a fresh process.

  Columns: shapes, how many; cce_s, ce_s and both_s, seconds of all calls without imports;
  converged, how many of the games.
  """
  rng = np.random.default_rng(0)
  shapes = list(itertools.product(range(2, 4 if quick else 17), repeat=2))
  shapes = rng.permutation(shapes)[: 2 if quick else 100]
  games = [rng.normal(size=(2, *shape)).astype(np.float32) for shape in shapes]
  row, converged = {"shapes": len(games), "engine": engine(*_HARDEST)}, 0
  with checkout.Process(ROOT) as fresh:
    for concept in ("cce", "ce"):
      answers = [fresh.solve(game, concept, False) for game in games]
      row[f"{concept}_s"] = sum(answer["seconds"] for answer in answers)
      converged += sum(answer["converged"] for answer in answers)
  return row | {"both_s": row["cce_s"] + row["ce_s"], "converged": f"{converged}/{2 * len(games)}"}


# name -> what measures a smaller table's one row, and whether it runs when nothing is chosen.
EXTRAS: Mapping[str, tuple[Callable[[bool], Row], Callable[[], bool]]] = {
    "gradient": (gradient_row, lambda: True),
    "shapes": (shapes_row, lambda: engine(*_HARDEST) == "native"),
}
