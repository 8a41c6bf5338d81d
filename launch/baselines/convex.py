"""Reference convex solvers: problem (6) of Marris et al. (2022) handed to CVXPY, one game a call.

Oracle of the tests and opponent in the benchmark. Shares no code with the engines of nes_jax: the
deviation matrix is built densely, row by row, and the problem is solved in the units given, in
float64. To compare with nes_jax, normalise payoffs and welfare first (`nes_jax.invariance`).

  maximise over sigma, epsilon    mu W . sigma - KL(sigma || target) - rho sum_p phi(epsilon_p)
  subject to                      A_p sigma <= epsilon_p for every player p

A finite-rho problem is posed in w_p = (epsilon_p - epsilon-hat_p) / r_p, where
r_p = epsilon-plus_p - epsilon-hat_p. Then phi, up to a constant, is r_p ((1 - w) log(1 - w) + w):
zero at the target, so that large rho leaves digits for the entropy.

CVXPY compiles parameters through a table of (entries of A) x (variables): a CCE of 32x32 takes
2.4 GB, one of 64x64 would take 32 GiB.

Glossary: N players, |A| joint strategies, D deviations (rows of A).
"""

from collections.abc import Sequence
import importlib
import math
import time
from typing import Any, Literal, NamedTuple

import numpy as np

Objective = Literal["entropy", "linear", "strength"]
OBJECTIVES: tuple[str, ...] = ("entropy", "linear", "strength")
SOLVERS: tuple[str, ...] = ("CLARABEL", "ECOS", "HIGHS")
# The strictest that HiGHS takes.
_HIGHS_TOLERANCE = 1e-10


class Answer(NamedTuple):
  """One solved game, in the units given."""

  joint: np.ndarray  # [A1, ..., AN] as the solver left it: entries may be -1e-12; NaN if it failed
  epsilon: np.ndarray  # [N]
  status: str  # "optimal"; "optimal_inaccurate" and all else are failures
  seconds: float  # wall time of the call: data update and solve; A is built before it starts


def deviation_rows(shape: Sequence[int], concept: str) -> list[tuple[int, int | None, int]]:
  """(player, recommended or None, deviation) for each of the D rows of A, in order."""
  rows = []
  for p, count in enumerate(shape):
    if concept == "cce":
      rows += [(p, None, d) for d in range(count)]
    else:
      rows += [(p, r, d) for r in range(count) for d in range(count) if d != r]
  return rows


def deviation_matrix(payoffs: np.ndarray, concept: str) -> np.ndarray:
  """A of eqs. (1) (CE) and (3) (CCE): payoffs [N, A1, ..., AN] -> [D, |A|] float64."""
  payoffs = np.asarray(payoffs, np.float64)
  shape = payoffs.shape[1:]
  matrix = []
  for p, recommended, deviation in deviation_rows(shape, concept):
    gain = np.take(payoffs[p], [deviation], axis=p) - payoffs[p]
    if recommended is not None:
      gain = np.where(np.indices(shape)[p] == recommended, gain, 0)
    matrix.append(gain.ravel())
  return np.array(matrix).reshape(len(matrix), math.prod(shape))


def nonzero_blocks(shape: Sequence[int], concept: str) -> list[tuple[np.ndarray, np.ndarray]]:
  """Rows and columns of A between which it is not zero for every game.

  There is one block for each player (CCE), or for each recommended strategy (CE).
  """
  deviations = deviation_rows(shape, concept)
  played = np.indices(tuple(shape)).reshape(len(shape), -1)
  blocks = []
  for key in dict.fromkeys((p, recommended) for p, recommended, _ in deviations):
    rows = [i for i, row in enumerate(deviations) if row[:2] == key]
    p, recommended = key
    columns = slice(None) if recommended is None else played[p] == recommended
    blocks.append((np.array(rows), np.arange(played.shape[1])[columns]))
  return blocks


class Reference:
  """Problem (6) for every game of one shape, compiled once and solved game by game.

  Args:
    shape: (A1, ..., AN).
    concept: "cce" or "ce".
    objective: "entropy", all of eq. (6); "linear", W . sigma alone (infinite mu); "strength", the
      smallest sum of epsilons above -epsilon-plus.
    rho: of "entropy"; infinity gives hard constraints.
    solver: "CLARABEL" or "ECOS", through CVXPY; "HIGHS", SciPy's, for "linear" and "strength".
    tolerance: of gaps and feasibility; None: the solver's own. 1e-12 makes Clarabel an oracle.

  Raises:
    ImportError: CVXPY or the solver is not installed.
    ValueError: an unknown name, or a combination that does not exist.
  """

  def __init__(
      self,
      shape: Sequence[int],
      concept: str = "cce",
      *,
      objective: Objective = "entropy",
      rho: float = math.inf,
      solver: str = "CLARABEL",
      tolerance: float | None = None,
  ):
    for name, value, known in (
        ("concept", concept, ("cce", "ce")),
        ("objective", objective, OBJECTIVES),
        ("solver", solver, SOLVERS),
    ):
      if value not in known:
        raise ValueError(f"unknown {name} {value!r}; use one of {', '.join(known)}")
    if objective == "entropy" and solver == "HIGHS":
      raise ValueError("HiGHS solves linear programs: use CLARABEL or ECOS for the entropy")
    if objective != "entropy" and not math.isinf(rho):
      raise ValueError(f"objective {objective!r} has no rho, got {rho}")
    self.shape, self.concept, self.objective, self.solver = tuple(shape), concept, objective, solver
    self._rho, self._tolerance = rho, tolerance
    self._players = np.array([row[0] for row in deviation_rows(shape, concept)], int)  # [D]
    if solver == "HIGHS":
      _import("scipy.optimize")
    else:
      self._compile()

  def _compile(self) -> None:
    cp = _import("cvxpy")
    if self.solver not in cp.installed_solvers():
      raise ImportError(f"CVXPY does not find {self.solver}: pip install -e .[baselines]")
    size, players = math.prod(self.shape), len(self.shape)
    joint = cp.Variable(size, nonneg=True)
    self._joint = joint
    # A without its zeros.
    self._blocks = [
        (block, cp.Parameter((len(block[0]), len(block[1]))))
        for block in nonzero_blocks(self.shape, self.concept)
    ]
    self._utility = cp.Parameter(size)  # mu W + log target
    self._target = cp.Parameter(players)  # epsilon-hat
    self._room = cp.Parameter(players, nonneg=True)  # r
    constraints = [cp.sum(joint) == 1]
    if self.objective == "strength":
      epsilon = cp.Variable(players)
      constraints += [epsilon >= self._target]
      goal = cp.Minimize(cp.sum(epsilon))
    else:
      goal = self._utility @ joint
      if self.objective == "entropy":
        goal = goal + cp.sum(cp.entr(joint))
      epsilon = self._target
      if not math.isinf(self._rho):
        w, phi = cp.Variable(players), cp.Variable(players)
        # phi >= (1 - w) log(1 - w) + w
        constraints.append(cp.ExpCone(w - phi, 1 - w, np.ones(players)))
        # In units of rho: Clarabel breaks down on rho = 1e4 at 16x16 otherwise.
        goal = goal / self._rho - self._room @ phi
        epsilon = self._target + cp.multiply(self._room, w)
      goal = cp.Maximize(goal)
    self._epsilon = epsilon
    constraints += [
        matrix @ joint[columns] <= epsilon[self._players[rows]]
        for (rows, columns), matrix in self._blocks
    ]
    self._problem = cp.Problem(goal, constraints)
    self._warm = False

  def solve(
      self,
      payoffs: np.ndarray,
      *,
      target: np.ndarray | None = None,
      epsilon: np.ndarray | float = 0.0,
      epsilon_max: float | None = None,
      welfare: np.ndarray | None = None,
      welfare_weight: float = 1.0,
  ) -> Answer:
    """Solves one game. The first call also compiles, outside the time that is reported.

    Args:
      payoffs: [N, A1, ..., AN].
      target: [A1, ..., AN] positive, sums to one; None: uniform.
      epsilon: [] or [N] epsilon-hat; ignored by "strength".
      epsilon_max: epsilon-plus; None: sqrt(|A|), the radius of the L2 sphere.
      welfare: [A1, ..., AN], as it is to be used; None: zero.
      welfare_weight: mu, finite; 1 for the objective "linear".

    Returns:
      `Answer`; one that failed is NaN and says why in its status.
    """
    payoffs = np.asarray(payoffs, np.float64)
    players, size = len(self.shape), math.prod(self.shape)
    if payoffs.shape != (players,) + self.shape:
      raise ValueError(f"payoffs must be {[players, *self.shape]}, not {list(payoffs.shape)}")
    radius = math.sqrt(size) if epsilon_max is None else epsilon_max
    epsilon = np.broadcast_to(np.asarray(epsilon, np.float64), (players,))
    if self.objective == "strength":
      epsilon = np.full(players, -radius)
    utility = np.zeros(size)
    if welfare is not None:
      utility = welfare_weight * np.asarray(welfare, np.float64).ravel()
    if target is not None and self.objective == "entropy":
      utility = utility + np.log(np.asarray(target, np.float64).ravel())
    matrix = deviation_matrix(payoffs, self.concept)
    if self.solver == "HIGHS":
      return self._linear_program(matrix, utility, epsilon)
    if not self._warm:
      self._run(matrix, utility, epsilon, radius)
      self._warm = True
    return self._run(matrix, utility, epsilon, radius)

  def _run(self, matrix, utility, epsilon, radius) -> Answer:
    cp = _import("cvxpy")
    options: dict[str, Any] = {"max_threads": 1} if self.solver == "CLARABEL" else {}
    if self._tolerance is not None:
      names = {
          "CLARABEL": ("tol_gap_abs", "tol_gap_rel", "tol_feas"),
          "ECOS": ("abstol", "reltol", "feastol"),
      }
      options |= {name: self._tolerance for name in names[self.solver]}
    start = time.perf_counter()
    for (rows, columns), block in self._blocks:
      block.value = matrix[np.ix_(rows, columns)]
    self._utility.value = utility
    self._target.value = np.array(epsilon)
    self._room.value = radius - epsilon
    try:
      self._problem.solve(solver=self.solver, enforce_dpp=True, **options)
      status = self._problem.status
    except cp.error.SolverError as error:
      status = f"error: {str(error).splitlines()[0]}"
    seconds = time.perf_counter() - start
    failed = status.startswith("error") or self._joint.value is None
    return Answer(
        joint=np.full(self.shape, np.nan) if failed else self._joint.value.reshape(self.shape),
        epsilon=np.full(len(self.shape), np.nan) if failed else np.array(self._epsilon.value),
        status=status,
        seconds=seconds,
    )

  def _linear_program(self, matrix, utility, epsilon) -> Answer:
    optimize = _import("scipy.optimize")
    size, players = len(utility), len(self.shape)
    tolerance = max(_HIGHS_TOLERANCE, self._tolerance or _HIGHS_TOLERANCE)
    start = time.perf_counter()
    cost, bounds, limits = -utility, [(0, None)] * size, epsilon[self._players]
    if self.objective == "strength":  # variables (sigma, epsilon)
      cost = np.concatenate([np.zeros(size), np.ones(players)])
      bounds = bounds + [(e, None) for e in epsilon]
      matrix = np.hstack([matrix, -np.eye(players)[self._players]])
      limits = np.zeros(len(matrix))
    total = (np.arange(len(cost)) < size)[None].astype(float)
    result = optimize.linprog(
        cost,
        A_ub=matrix,
        b_ub=limits,
        A_eq=total,
        b_eq=[1.0],
        bounds=bounds,
        method="highs",
        options={
            "primal_feasibility_tolerance": tolerance,
            "dual_feasibility_tolerance": tolerance,
        },
    )
    seconds = time.perf_counter() - start
    answer = np.full(len(cost), np.nan) if result.x is None else result.x
    return Answer(
        joint=answer[:size].reshape(self.shape),
        epsilon=answer[size:] if self.objective == "strength" else np.array(epsilon),
        status="optimal" if result.status == 0 else result.message,
        seconds=seconds,
    )


def _import(name: str) -> Any:
  """Imports an optional dependency, or says how to get it."""
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise ImportError(f"reference solvers need {name}: pip install -e .[baselines]") from error
