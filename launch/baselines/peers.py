"""Solvers of others on the games of `launch.benchmark`. Those that are not installed are left out.

All of them solve for maximum-entropy equilibria with hard constraints, in the units given, with
their own default tolerances. Times leave out the work that is done once for a shape.

  ecos, clarabel  one game per call through a CVXPY problem with parameters, on one core
                  (`launch.baselines.convex`)
  direct          Clarabel through its own interface, on one core: the cones are stated by hand, and
                  one solver object gets a new matrix for each game
  moreau          a conic solver for batches: one call on all games, on all cores; if it finds
                  several kinds of devices, on the fastest
  polarix         gradient steps on the duals of a CE; a call includes compilation, since polarix
                  compiles for each game

Glossary: B games, N players, A1, ..., AN strategies, |A| joint strategies, D deviations (rows of
the deviation matrix A).
"""

from collections.abc import Callable, Mapping, Sequence
import math
import statistics
import time
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from launch.baselines import convex

# Largest number of calls of moreau, and seconds after which it is not called again.
_MOREAU_CALLS = 4
_MOREAU_SECONDS = 10
# Packages whose versions belong to results of peers and layers.
PACKAGES = ("cvxpy", "ecos", "clarabel", "moreau", "polarix", "cvxpylayers", "diffcp")


class Outcome(NamedTuple):
  """Results of a peer on some games of one shape."""

  us: float  # microseconds per game: the median; for a call on all games its time over their number
  failed: int  # games whose status is not solved
  joints: np.ndarray  # [B, A1, ..., AN]; NaN for games without an answer

  @property
  def failures(self) -> str:
    """The number of failed games as text, such as 1/20."""
    return f"{self.failed}/{len(self.joints)}"


def measure(name: str, concept: str, payoffs: np.ndarray) -> Outcome | None:
  """Solves games by a peer.

  Args:
    name: one of `PEERS`.
    concept: "cce" or "ce".
    payoffs: [B, N, A1, ..., AN] of normalised games.

  Returns:
    The outcome. None if there is no game, if the peer is not installed, if it does not solve such
    games, or if it fails; a failure is printed.
  """
  if not len(payoffs):
    return None
  return attempt(name, lambda: PEERS[name](concept, np.asarray(payoffs, np.float64)))


def attempt(name: str, function: Callable[[], Any]) -> Any:
  """The value of a function of a peer; None if the peer is not installed, or fails.

  A failure is printed, so that it does not keep other peers from being measured.
  """
  try:
    return function()
  except ImportError:
    return None
  except Exception as error:  # Solvers of others may raise any error.
    print(f"  {name} failed: {type(error).__name__}: {' '.join(str(error).split())}", flush=True)
    return None


def _through_cvxpy(solver: str) -> Callable[[str, np.ndarray], Outcome]:
  """The peer that is CVXPY with this solver."""

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
  """Games of one shape as conic problems: minimise q.x subject to A x + s = b, s in cones.

  The variables x are sigma [|A|] and t [|A|]. The cones are {0} for the sum of sigma, D nonnegative
  numbers for the gains, and |A| exponential cones that hold (t, sigma, 1), which means that
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
    first = 1 + gains + 3 * joint  # first row of each exponential cone
    rows = np.concatenate([np.zeros(size, int), first, first + 1, 1 + self._rows])
    columns = np.concatenate([joint, size + joint, joint, self._columns])
    self._constant = np.concatenate([np.ones(size), -np.ones(2 * size)])
    self.shape = (1 + gains + 3 * size, 2 * size)
    # Each entry holds its own number, from 1 on, which shows how a sparse format orders entries.
    self._pattern = sparse.coo_array((np.arange(1, len(rows) + 1), (rows, columns)), self.shape)
    self.q = np.concatenate([np.zeros(size), -np.ones(size)])
    self.b = np.zeros(self.shape[0])
    self.b[0] = 1
    self.b[1 + gains + 2 :: 3] = 1

  def matrices(self, payoffs: np.ndarray, kind: str) -> tuple[Any, np.ndarray]:
    """The matrices A of games in a sparse format.

    Args:
      payoffs: [B, N, A1, ..., AN].
      kind: "csc" or "csr".

    Returns:
      The matrix of the first game, and the values [B, nonzeros] of all games.
    """
    matrix = self._pattern.asformat(kind)
    order = matrix.data - 1
    values = []
    for game in payoffs:
      gains = convex.deviation_matrix(game, self._concept)[self._rows, self._columns]
      values.append(np.concatenate([self._constant, gains])[order])
    matrix.data = values[0]
    return matrix, np.stack(values)


def _clarabel(concept: str, payoffs: np.ndarray) -> Outcome:
  """The peer direct."""
  import clarabel
  from scipy import sparse

  shape = payoffs.shape[2:]
  conic = _Conic(shape, concept)
  matrix, values = conic.matrices(payoffs, "csc")
  settings = clarabel.DefaultSettings()
  settings.verbose, settings.max_threads = False, 1
  settings.presolve_enable = False  # A presolved problem cannot be given new numbers.
  cones = [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(conic.gains)]
  cones += [clarabel.ExponentialConeT()] * conic.size
  quadratic = sparse.csc_matrix((2 * conic.size,) * 2)  # no quadratic term
  solver = clarabel.DefaultSolver(
      quadratic, conic.q, sparse.csc_matrix(matrix), conic.b, cones, settings
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
  """The peer moreau."""
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
    times: list[float] = []
    while not times or len(times) < _MOREAU_CALLS and sum(times) < _MOREAU_SECONDS:
      start = time.perf_counter()
      solver.setup(*given)
      joints = np.asarray(solver.solve(q, b).x)[:, : conic.size]
      times.append(time.perf_counter() - start)
    failed = sum(status != moreau.SolverStatus.Solved for status in solver.info.status)
    us = 1e6 * statistics.median(times[1:] or times) / batch
    outcomes.append(Outcome(us, failed, joints.reshape(batch, *payoffs.shape[2:])))
  return min(outcomes, key=lambda outcome: outcome.us)


def _polarix(concept: str, payoffs: np.ndarray) -> Outcome | None:
  """The peer polarix, which solves for CEs only."""
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


# Functions (concept, payoffs [B, N, A1, ..., AN] in float64) -> outcome, which raise ImportError
# where a peer is not installed.
PEERS: Mapping[str, Callable[[str, np.ndarray], Outcome | None]] = {
    "ecos": _through_cvxpy("ECOS"),
    "clarabel": _through_cvxpy("CLARABEL"),
    "direct": _clarabel,
    "moreau": _moreau,
    "polarix": _polarix,
}
