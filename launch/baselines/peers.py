"""Solvers of other people on the games of `launch.benchmark`: each one is measured if it is there.

All of them solve for maximum-entropy equilibria with hard constraints, in the units given, with
their own default tolerances. Times leave out what is done once for a shape.

  ecos, clarabel  one game a call through a parametrised CVXPY problem, on one core (`reference`)
  direct          Clarabel through its own interface: the cones are stated by hand, and one solver
                  object is given a new matrix for each game; one core
  moreau          a conic solver for batches: one call on all games, on all cores; where it finds
                  several kinds of device, on the one that takes least
  polarix         gradient steps on the duals of a CE; a call includes compilation, since
                  polarix compiles again for each game

Layers that give gradients are in `LAYERS`.

Glossary: B games, N players, |A| joint strategies, D deviations (rows of A).
"""

from collections.abc import Callable, Mapping, Sequence
import importlib.util
import math
import statistics
import time
from typing import Any, NamedTuple

import jax
from jax import experimental
import jax.numpy as jnp
import numpy as np

from launch.baselines import convex
from launch.runtime.timing import seconds

# Moreau is called at most four times, and no more after so many seconds.
_MOREAU_SECONDS = 10
# Distributions whose versions are noted.
PACKAGES = ("cvxpy", "ecos", "clarabel", "moreau", "polarix", "cvxpylayers", "diffcp")


class Outcome(NamedTuple):
  """How a peer did on some games of one shape."""

  us: float  # microseconds a game: the median, or of a call on all games its time over their number
  failed: int  # games that it does not call solved
  joints: np.ndarray  # [B, A1, ..., AN] as it left them; NaN for those that it gave no answer to

  @property
  def failures(self) -> str:
    """For a table, such as 1/20."""
    return f"{self.failed}/{len(self.joints)}"


def measure(name: str, concept: str, payoffs: np.ndarray) -> Outcome | None:
  """Gives games to the peer of this name.

  Args:
    name: one of `PEERS`.
    concept: "cce" or "ce".
    payoffs: [B, N, A1, ..., AN] of normalised games.

  Returns:
    The outcome. None if there is no game, or the peer is not installed, knows no such games or
    fails, which is printed.
  """
  if not len(payoffs):
    return None
  return _survived(name, lambda: PEERS[name](concept, np.asarray(payoffs, np.float64)))


def _survived(name: str, function: Callable[[], Any]) -> Any:
  """The value of a function, or None if it fails: that is no reason to lose the other columns."""
  try:
    return function()
  except ImportError:
    return None
  except Exception as error:  # whatever a solver of other people may raise
    print(f"  {name} failed: {type(error).__name__}: {' '.join(str(error).split())}", flush=True)
    return None


def _through_cvxpy(solver: str) -> Callable[[str, np.ndarray], Outcome]:
  def solve(concept, payoffs):
    problem = convex.Reference(payoffs.shape[2:], concept, solver=solver)
    answers = [problem.solve(game) for game in payoffs]
    return Outcome(
        us=1e6 * statistics.median(answer.seconds for answer in answers),
        failed=sum(answer.status != "optimal" for answer in answers),
        joints=np.stack([answer.joint for answer in answers]),
    )

  return solve


class _Conic:
  """The games of one shape as conic problems: minimise q.x, A x + s = b, s in a product of cones.

  Variables are sigma [|A|] and t [|A|]. The cones are {0} for the sum of sigma, D numbers that are
  not negative for the gains, and |A| exponential cones that hold (t, sigma, 1), which means that
  t <= -sigma log sigma.
  """

  def __init__(self, shape: Sequence[int], concept: str):
    from scipy import sparse

    self.size = size = math.prod(shape)
    self.gains = gains = len(convex.deviation_rows(shape, concept))
    self._concept = concept
    blocks = convex.nonzero_blocks(shape, concept)
    self._rows = np.concatenate([np.repeat(rows, len(columns)) for rows, columns in blocks])
    self._columns = np.concatenate([np.tile(columns, len(rows)) for rows, columns in blocks])
    joint = np.arange(size)
    first = 1 + gains + 3 * joint  # row of each exponential cone
    rows = np.concatenate([np.zeros(size, int), first, first + 1, 1 + self._rows])
    columns = np.concatenate([joint, size + joint, joint, self._columns])
    self._constant = np.concatenate([np.ones(size), -np.ones(2 * size)])
    self.shape = (1 + gains + 3 * size, 2 * size)
    # Each entry holds its own number, from 1 on, so that a sparse format tells how it orders them.
    self._pattern = sparse.coo_array((np.arange(1, len(rows) + 1), (rows, columns)), self.shape)
    self.q = np.concatenate([np.zeros(size), -np.ones(size)])
    self.b = np.zeros(self.shape[0])
    self.b[0] = 1
    self.b[1 + gains + 2 :: 3] = 1

  def matrices(self, payoffs: np.ndarray, kind: str) -> tuple[Any, np.ndarray]:
    """Payoffs [B, N, A1, ..., AN] -> a matrix in "csc" or "csr", values [B, nonzeros] for it."""
    matrix = self._pattern.asformat(kind)
    order = matrix.data - 1
    values = []
    for game in payoffs:
      gains = convex.deviation_matrix(game, self._concept)[self._rows, self._columns]
      values.append(np.concatenate([self._constant, gains])[order])
    matrix.data = values[0]
    return matrix, np.stack(values)


def _clarabel(concept: str, payoffs: np.ndarray) -> Outcome:
  import clarabel
  from scipy import sparse

  shape = payoffs.shape[2:]
  conic = _Conic(shape, concept)
  matrix, values = conic.matrices(payoffs, "csc")
  settings = clarabel.DefaultSettings()
  settings.verbose, settings.max_threads = False, 1
  settings.presolve_enable = False  # it cannot be given new numbers otherwise
  cones = [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(conic.gains)]
  cones += [clarabel.ExponentialConeT()] * conic.size
  no_square = sparse.csc_matrix((2 * conic.size,) * 2)
  solver = clarabel.DefaultSolver(
      no_square, conic.q, sparse.csc_matrix(matrix), conic.b, cones, settings
  )
  times, joints, failed = [], [], 0
  for value in values:
    start = time.perf_counter()
    solver.update(A=value)
    answer = solver.solve()
    times.append(time.perf_counter() - start)
    joints.append(np.reshape(answer.x[: conic.size], shape))
    failed += str(answer.status) != "Solved"
  return Outcome(1e6 * statistics.median(times), failed, np.stack(joints))


def _moreau(concept: str, payoffs: np.ndarray) -> Outcome:
  import moreau

  conic = _Conic(payoffs.shape[2:], concept)
  matrix, values = conic.matrices(payoffs, "csr")
  batch = len(payoffs)
  given = np.zeros((batch, 0)), values
  q, b = np.tile(conic.q, (batch, 1)), np.tile(conic.b, (batch, 1))
  outcomes = []
  for device in moreau.available_devices():
    solver = moreau.CompiledSolver(
        n=conic.shape[1],
        m=conic.shape[0],
        P_row_offsets=[0] * (conic.shape[1] + 1),
        P_col_indices=[],
        A_row_offsets=matrix.indptr,
        A_col_indices=matrix.indices,
        cones=moreau.Cones(
            num_zero_cones=1, num_nonneg_cones=conic.gains, num_exp_cones=conic.size
        ),
        settings=moreau.Settings(device=device, batch_size=batch),
    )

    times = []
    while not times or len(times) < 4 and sum(times) < _MOREAU_SECONDS:
      start = time.perf_counter()
      solver.setup(*given)
      joints = np.asarray(solver.solve(q, b).x)[:, : conic.size]
      times.append(time.perf_counter() - start)
    failed = sum(status != moreau.SolverStatus.Solved for status in solver.info.status)
    us = 1e6 * statistics.median(times[1:] or times) / batch
    outcomes.append(Outcome(us, failed, joints.reshape(batch, *payoffs.shape[2:])))
  return min(outcomes, key=lambda outcome: outcome.us)


def _polarix(concept: str, payoffs: np.ndarray) -> Outcome | None:
  if concept != "ce":
    return None
  import polarix

  shape = payoffs.shape[2:]
  players = tuple(map(str, range(len(shape))))
  actions = tuple(tuple(map(str, range(count))) for count in shape)
  times, joints, failed = [], [], 0
  for payoff in payoffs:
    start = time.perf_counter()
    game = polarix.Game(payoffs=jnp.asarray(payoff, jnp.float32), players=players, actions=actions)
    answer = polarix.solve(game, polarix.ce_maxent, disable_progress_bar=True)
    joints.append(np.asarray(answer.joint))
    times.append(time.perf_counter() - start)
    failed += not answer.is_terminal()
  return Outcome(1e6 * statistics.median(times), failed, np.stack(joints))


# name -> (concept, payoffs [B, N, A1, ..., AN] in float64) -> outcome; raises ImportError.
PEERS: Mapping[str, Callable[[str, np.ndarray], Outcome | None]] = {
    "ecos": _through_cvxpy("ECOS"),
    "clarabel": _through_cvxpy("CLARABEL"),
    "direct": _clarabel,
    "moreau": _moreau,
    "polarix": _polarix,
}

# Layers of cvxpylayers by the backend that solves and differentiates: name -> its solver there.
LAYERS: Mapping[str, str | None] = {"diffcp": None, "moreau": "MOREAU"}


class Gradients(NamedTuple):
  """Gradients by a layer of cvxpylayers, and what they took: forward and backward together."""

  one_us: float  # microseconds for one game
  us: float  # microseconds a game of a batch
  values: np.ndarray  # [B, N, A1, ..., AN] of sum(joint * weights), with respect to the payoffs


def differentiate(
    name: str, payoffs: np.ndarray, weights: np.ndarray, calls: int
) -> Gradients | None:
  """Gradients of sum(joint * weights), where joint is the maximum-entropy CCE, by a layer.

  Args:
    name: one of `LAYERS`.
    payoffs: [B, N, A1, ..., AN].
    weights: [A1, ..., AN].
    calls: to take the median of.

  Returns:
    The gradients, or None if the layer is not installed or fails, which is printed.
  """
  needed = ("cvxpy", "cvxpylayers", name)
  if not all(importlib.util.find_spec(module) for module in needed):
    return None
  return _survived(name, lambda: _differentiate(name, payoffs, weights, calls))


def _differentiate(name: str, payoffs: np.ndarray, weights: np.ndarray, calls: int) -> Gradients:
  import cvxpy as cp
  from cvxpylayers.jax import CvxpyLayer

  shape = weights.shape
  rows = convex.deviation_rows(shape, "cce")
  joint, matrix = cp.Variable(weights.size), cp.Parameter((len(rows), weights.size))
  goal = cp.Maximize(cp.sum(cp.entr(joint)))
  problem = cp.Problem(goal, [cp.sum(joint) == 1, matrix @ joint <= 0])
  layer = CvxpyLayer(problem, [matrix], [joint], solver=LAYERS[name])

  def gains(payoffs):  # [N, A1, ..., AN] -> [D, |A|]
    gain = lambda p, d: jnp.take(payoffs[p], jnp.array([d]), p) - payoffs[p]
    return jnp.stack([gain(p, d).ravel() for p, _, d in rows])

  def loss(payoffs):
    many = payoffs.ndim > len(shape) + 1
    (answer,) = layer((jax.vmap(gains) if many else gains)(payoffs))
    return (answer.reshape(answer.shape[:-1] + shape) * weights).sum()

  # The layers compute in float64, and JAX versions before 0.8 only have the experimental switch.
  enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else experimental.enable_x64
  with enable_x64(True):
    # The backend diffcp cannot be compiled.
    gradient = jax.grad(loss) if name == "diffcp" else jax.jit(jax.grad(loss))
    many = jnp.asarray(payoffs, jnp.float64)
    one = statistics.median(seconds(lambda: gradient(many[0]), calls)[1:])
    all_of_them = statistics.median(seconds(lambda: gradient(many), calls)[1:])
    values = np.asarray(gradient(many))
  return Gradients(1e6 * one, 1e6 * all_of_them / len(payoffs), values)
