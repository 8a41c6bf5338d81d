"""Suite `exact` of `launch.benchmark`: the exact engine beside the solvers of others.

  python -m launch.benchmark --suite=exact --out=out/benchmark

Problems are maximum-entropy equilibria of uniform games on the L2 sphere. `nes_jax.solve` solves
them in float32 with its default tolerance. The solvers of `launch.baselines.peers` that are
installed solve the first games of the same batch. Batches are larger on accelerators. Columns:

  size, concept, batch        shape of the games, solution concept, number of games
  engine                      the engine of `nes_jax.engines()` that solves such games here
  us_game                     our time: a median call, in microseconds per game
  compile_s                   seconds of the first call less a median one
  jit_us                      our time inside `jax.jit`, on an array that is on the device
  first_ms                    milliseconds of a first call on one game, in a fresh process that has
                              imported nes_jax
  iterations, iterations_max  Newton steps per game: mean, largest
  converged_pct               percentage of games with a residual within the tolerance
  repeated                    games that float32 did not solve, and float64 took over
  residual                    worst KKT residual
  before_us, before_ratio     with --before=PATH: the time of the older version at PATH; this time
                              over ours, where both versions take turns in processes of their own
  PEER_us, PEER_failed, PEER_ratio
                              for the peers ecos, clarabel, direct, moreau and polarix: microseconds
                              per game, games not solved of those given, its time / ours
  distance                    worst half L1 distance between our joint and Clarabel's
  floor_us, over_floor        floating-point operations of the Newton steps over measured rate; our
                              time / floor

Smaller tables follow, which are entries of --only as well:

  gradient    gradients of the joints of 8x8 games with respect to their payoffs, forward and
              backward: ours inside `jax.jit`, for one game and for a game of a batch, beside the
              forward pass and layers of cvxpylayers. It is of CCEs in float32; gradient:ce,
              gradient:float64 and gradient:ce:float64 are of others
  shapes      one hundred games of one hundred shapes from 2x2 to 16x16, each in a call of its own,
              in a fresh process: seconds of all calls. If an engine compiles for each shape this
              takes many minutes, so that by default it runs only with the native engine
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import itertools
import math
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from launch.baselines import checkout, layers, peers
from launch.bench.record import Row
from launch.bench.suite import Extra, Suite
from launch.runtime.machine import ROOT
from launch.runtime.timing import median_seconds, seconds
import nes_jax
from nes_jax.games import spheres
from nes_jax.solving import engines
from nes_jax.training import shape_name
from nes_jax.types import Concept

_CALLS = 7
# Number of games of a batch with --quick.
_QUICK_GAMES = 16
# Seconds before a timed call.
_PAUSE = 0.05
# The games of `shapes` that a compiled engine is least likely to support.
_HARDEST: tuple[tuple[int, int], Concept] = (16, 16), "ce"


@dataclasses.dataclass(frozen=True)
class Entry:
  """An entry of the suite.

  Numbers of games for peers are 0 where the peer is too slow, or CVXPY needs 32 GiB (see
  `launch.baselines.convex`).
  """

  concept: Concept
  shape: tuple[int, ...]
  batch: int  # games on a CPU, which take seconds
  accelerator: int  # games on other devices
  cvxpy: int  # games for ECOS and Clarabel
  direct: int  # games for Clarabel's own interface
  moreau: int  # games for moreau, in one batch
  polarix: int = 0  # games for polarix

  @property
  def size(self) -> str:
    """The shape as text, such as 8x8."""
    return shape_name(self.shape)

  @property
  def name(self) -> str:
    """The name for --only."""
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


def newton_flops(shape: Sequence[int], concept: Concept) -> float:
  """Least floating-point operations of one interior-point step on one game.

  A step forms the Newton matrix and its Cholesky factor. Its predictor and its corrector need two
  solves, and three products each with A and A', one of them for the residual. This is a floor:
  elementwise work is left out, and the symmetric half of a product counts once. With a = |A|,
  counts A_p, R_p = a / A_p, and D duals, forming the matrix takes

    CCE, D x D    a A_p for each player, 4 a min(A_p, A_q) for each pair of players; for two players
                  with n strategies that is 6 n^3, and the factor takes (2n)^3 / 3
    CE,  D x D    a (A_p - 1)^2 for each player, 2 a (A_p - 1) (A_q - 1) for each pair
    CE,  a x a    a (A_p - 1) R_p for each player; the cheaper of the two matrices counts
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


def engine(shape: Sequence[int], concept: Concept) -> str:
  """The engine that solves plain games of this shape here in float32."""
  accelerated = jax.default_backend() != "cpu"
  return engines.engine_for(tuple(shape), concept, np.dtype("float32"), accelerated)


def _in_turn(
    before: checkout.Process, ours: checkout.Process, games: np.ndarray, concept: str, calls: int
) -> tuple[float, float]:
  """Median times of an older version and of this one, in microseconds a game.

  Both solve in processes of their own, which have loaded nothing else, and take turns.
  """
  times: list[list[float]] = [[], []]
  for _ in range(1 + calls):
    for found, process in zip(times, (before, ours)):
      time.sleep(_PAUSE)
      found.append(process.solve(games, concept, True)["seconds"])
  old, new = (statistics.median(found[1:]) / len(games) * 1e6 for found in times)
  return old, new


def row(
    entry: Entry, rate: float, *, quick: bool = False, before: checkout.Process | None = None
) -> Row:
  """Measures an entry.

  Args:
    entry: the entry.
    rate: `suite.machine_rate()`.
    quick: whether to measure a small batch once.
    before: a process that solves with an older version.
  """
  batch = entry.batch if jax.default_backend() == "cpu" else entry.accelerator
  batch, calls = (min(batch, _QUICK_GAMES), 1) if quick else (batch, _CALLS)
  payoffs = spheres.sample(jax.random.key(1), batch, entry.shape, dtype=jnp.float32)
  games = np.asarray(payoffs)

  def solve(payoffs):
    return nes_jax.solve(payoffs, concept=entry.concept, precision="float32", batched=True)

  def our_seconds():
    # Each call gets a fresh array, since an array keeps the copy that a first call reads on the
    # host.
    copy = jax.block_until_ready(jnp.array(payoffs, copy=True))
    return _seconds_after_pause(lambda: solve(copy))

  first, *times = [our_seconds() for _ in range(1 + calls)]
  solution, median = solve(payoffs), statistics.median(times)
  us = median / batch * 1e6
  jitted = jax.jit(solve)
  _, *jitted_times = [_seconds_after_pause(lambda: jitted(payoffs)) for _ in range(1 + calls)]
  iterations = np.asarray(solution.iterations)
  floor = newton_flops(entry.shape, entry.concept) * float(iterations.mean()) / rate * 1e6
  with checkout.Process(ROOT) as fresh:
    first_ms = 1e3 * fresh.solve(games[0], entry.concept, False)["seconds"]
    before_us, before_ratio = None, None
    if before is not None:
      before_us, ours = _in_turn(before, fresh, games, entry.concept, calls)
      before_ratio = before_us / ours
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
      "before_ratio": before_ratio,
      **_peer_columns(entry, games, np.asarray(solution.joint), us, quick),
      "floor_us": floor,
      "over_floor": us / floor,
  }


def _seconds_after_pause(function: Callable[[], Any]) -> float:
  """Seconds of a call after a pause, in which threads of earlier work stop spinning."""
  time.sleep(_PAUSE)
  return seconds(function, 0)[0]


def _peer_columns(
    entry: Entry, games: np.ndarray, joints: np.ndarray, us: float, quick: bool
) -> Row:
  """Measures the peers, and returns their columns.

  Args:
    entry: the entry, with the number of games for each peer.
    games: [B, N, A1, ..., AN] payoffs.
    joints: [B, A1, ..., AN] our joints.
    us: our microseconds per game.
    quick: whether to measure two games only.
  """
  counts = {
      "ecos": entry.cvxpy,
      "clarabel": entry.cvxpy,
      "direct": entry.direct,
      "moreau": entry.moreau,
      "polarix": entry.polarix,
  }
  row: Row = {}
  outcomes = {}
  for name, count in counts.items():
    found = peers.measure(name, entry.concept, games[: min(count, 2) if quick else count])
    outcomes[name] = found
    row[f"{name}_us"] = found and found.us
    row[f"{name}_failed"] = found and found.failures
    row[f"{name}_ratio"] = found and found.us / us
  compared = outcomes["clarabel"] or outcomes["direct"]
  distances = []
  if compared:
    differences = np.abs(joints[: len(compared.joints)] - compared.joints)
    distances = 0.5 * differences.reshape(len(differences), -1).sum(1)
  known = [float(distance) for distance in distances if not math.isnan(distance)]
  return row | {"distance": max(known, default=None)}


def gradient_row(
    quick: bool,
    concept: Concept = "cce",
    dtype: Any = np.float32,
    shape: tuple[int, ...] = (8, 8),
) -> Row:
  """Measures gradients of a weighted sum of joints, ours and those of layers.

  Columns: forward_us, microseconds of a solve for a game of a batch; us_game, of a solve and its
  gradient; over_forward, their ratio; one_us, us_game for one game alone; for each layer of
  `layers.LAYERS` its times and its time for a game over ours; largest, our largest derivative;
  difference, the largest difference between our derivatives and a layer's for the same payoffs.
  """
  batch, compared, calls = (16, 2, 1) if quick else (1024, 16 if concept == "cce" else 4, _CALLS)
  layer_calls = 1 if quick else 3
  shape = (4, 4) if quick else shape
  with engines.precision(dtype):
    payoffs = spheres.sample(jax.random.key(1), batch, shape, dtype=dtype)
    weights = jax.random.normal(jax.random.key(2), shape, dtype)

    def loss(payoffs):
      solution = nes_jax.solve(payoffs, concept=concept, batched=payoffs.ndim == len(shape) + 2)
      return (solution.joint * weights).sum()

    value, gradient = jax.jit(loss), jax.jit(jax.grad(loss))
    forward = median_seconds(lambda: value(payoffs), calls) / batch * 1e6
    us = median_seconds(lambda: gradient(payoffs), calls) / batch * 1e6
    row: Row = {
        "size": shape_name(shape),
        "concept": concept,
        "type": np.dtype(dtype).name,
        "batch": batch,
        "forward_us": forward,
        "us_game": us,
        "over_forward": us / forward,
        "one_us": median_seconds(lambda: gradient(payoffs[0]), calls) * 1e6,
    }
    values = np.asarray(gradient(payoffs))[:compared]
    games = np.asarray(payoffs[:compared])
  differences = []
  for name in layers.LAYERS:
    theirs = layers.differentiate(name, games, np.asarray(weights), layer_calls, concept)
    row[f"{name}_one_us"] = theirs and theirs.one_us
    row[f"{name}_us"] = theirs and theirs.us
    row[f"{name}_ratio"] = theirs and theirs.us / us
    if theirs:
      differences.append(float(np.abs(values - theirs.values).max()))
  row["largest"] = float(np.abs(values).max())
  return row | {"difference": max(differences, default=None)}


# Name for --only -> the table of gradients of 8x8 games.
_GRADIENTS: Mapping[str, Callable[[bool], Row]] = {
    "gradient": gradient_row,
    "gradient:ce": functools.partial(gradient_row, concept="ce"),
    "gradient:float64": functools.partial(gradient_row, dtype=np.float64),
    "gradient:ce:float64": functools.partial(gradient_row, concept="ce", dtype=np.float64),
}


def shapes_row(quick: bool) -> Row:
  """Solves games of many shapes one after another, in a fresh process.

  Columns: shapes, the number of shapes; cce_s, ce_s and both_s, seconds of all calls without
  imports; converged, the number of games that converged.
  """
  rng = np.random.default_rng(0)
  shapes = list(itertools.product(range(2, 4 if quick else 17), repeat=2))
  chosen = rng.permutation(shapes)[: 2 if quick else 100]
  games = [rng.normal(size=(2, *shape)).astype(np.float32) for shape in chosen]
  row: Row = {"shapes": len(games), "engine": engine(*_HARDEST)}
  converged = 0
  with checkout.Process(ROOT) as fresh:
    for concept in ("cce", "ce"):
      answers = [fresh.solve(game, concept, False) for game in games]
      row[f"{concept}_s"] = sum(answer["seconds"] for answer in answers)
      converged += sum(answer["converged"] for answer in answers)
  return row | {"both_s": row["cce_s"] + row["ce_s"], "converged": f"{converged}/{2 * len(games)}"}


SUITE = Suite(
    ENTRIES,
    row,
    extras={
        **{name: Extra(measure) for name, measure in _GRADIENTS.items()},
        "shapes": Extra(shapes_row, by_default=lambda: engine(*_HARDEST) == "native"),
    },
    measures_before=True,
)
