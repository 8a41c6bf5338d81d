"""Convex reference solvers: problem (6) of Marris et al. (2022) in CVXPY, one game per call.

Tests take them as an oracle, and the benchmark compares times with them. They share no code with
the engines of nes_jax: the deviation matrix A is built densely, row by row, and problems are solved
in float64 in the units given. For a comparison with nes_jax, normalise payoffs and welfare first
(see `nes_jax.invariance`).

  maximise over sigma, epsilon    mu W . sigma - KL(sigma || target) - rho sum_p phi(epsilon_p)
  subject to                      A_p sigma <= epsilon_p for every player p

A problem with finite rho is stated in w_p = (epsilon_p - epsilon-hat_p) / r_p, where r_p =
epsilon-plus_p - epsilon-hat_p. Then phi is r_p ((1 - w) log(1 - w) + w) up to a constant. It is
zero at the target, so that a large rho leaves enough digits for the entropy.

CVXPY compiles parameters through a table of (entries of A) x (variables). A CCE of 32x32 takes
2.4 GB, and one of 64x64 would take 32 GiB.

Glossary: N players, A1, ..., AN strategies, |A| joint strategies, D deviations (rows of A).
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
# The smallest tolerance that HiGHS accepts.
_HIGHS_TOLERANCE = 1e-10


class Answer(NamedTuple):
  """The solution of one game, in the units given."""

  joint: np.ndarray  # [A1, ..., AN] from the solver: entries may be -1e-12; NaN if it failed
  epsilon: np.ndarray  # [N]
  status: str  # "optimal"; "optimal_inaccurate" and all other texts mean a failure
  seconds: float  # wall time to update the data and to solve, without the time to build A


class Deviation(NamedTuple):
  """A row of A."""

  player: int
  recommended: int | None  # strategy that the player is recommended; None for CCE
  strategy: int  # strategy that the player plays


def deviation_rows(shape: Sequence[int], concept: str) -> list[Deviation]:
  """The deviations of the D rows of A, in their order."""
  rows = []
  for p, count in enumerate(shape):
    if concept == "cce":
      rows += [Deviation(p, None, d) for d in range(count)]
    else:
      rows += [Deviation(p, r, d) for r in range(count) for d in range(count) if d != r]
  return rows


def deviation_matrix(payoffs: np.ndarray, concept: str) -> np.ndarray:
  """The matrix A of eq. (1) (CE) or eq. (3) (CCE).

  Args:
    payoffs: [N, A1, ..., AN].
    concept: "cce" or "ce".

  Returns:
    [D, |A|] float64: the gain of each deviation at each joint strategy.
  """
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
  """The blocks of A outside of which it is zero for every game.

  There is one block for each player (CCE), or for each recommended strategy (CE).

  Args:
    shape: (A1, ..., AN).
    concept: "cce" or "ce".

  Returns:
    Row and column indices of each block.
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
  """Problem (6) for games of one shape: it is compiled once, and then solved game by game."""

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
    """Compiles the problem.

    Args:
      shape: (A1, ..., AN).
      concept: "cce" or "ce".
      objective: "entropy" for all of eq. (6); "linear" for W . sigma alone, which is infinite mu;
        "strength" for the smallest sum of epsilons above -epsilon-plus.
      rho: weight of the approximation term of "entropy"; infinity gives hard constraints.
      solver: "CLARABEL" or "ECOS", through CVXPY; "HIGHS", SciPy's, for "linear" and "strength".
      tolerance: tolerance of gaps and feasibility; None for the solver's own. With 1e-12 Clarabel
        is an oracle.

    Raises:
      ImportError: CVXPY or the solver is not installed.
      ValueError: a name is unknown, or objective, rho and solver do not fit together.
    """
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
    """States the problem in CVXPY, with parameters for the numbers of a game."""
    cp = _import("cvxpy")
    if self.solver not in cp.installed_solvers():
      raise ImportError(f"CVXPY does not find {self.solver}: pip install -e .[baselines]")
    size, players = math.prod(self.shape), len(self.shape)
    joint = cp.Variable(size, nonneg=True)
    self._joint = joint
    # The matrix A without its zeros.
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
        # The cone says that phi >= (1 - w) log(1 - w) + w.
        constraints.append(cp.ExpCone(w - phi, 1 - w, np.ones(players)))
        # The goal is divided by rho, since Clarabel fails on 16x16 games with rho = 1e4 otherwise.
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
    """Solves one game. The first call also compiles, which the time reported leaves out.

    Args:
      payoffs: [N, A1, ..., AN].
      target: [A1, ..., AN] positive, with sum one; None for uniform.
      epsilon: [] or [N] epsilon-hat; "strength" ignores it.
      epsilon_max: epsilon-plus; None for sqrt(|A|), the radius of the L2 sphere.
      welfare: [A1, ..., AN] W; None for zero.
      welfare_weight: mu, finite; must be 1 for the objective "linear".

    Returns:
      The answer. If the solver failed, the status says why, and the arrays are NaN.

    Raises:
      ValueError: the payoffs have another shape.
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

  def _run(
      self, matrix: np.ndarray, utility: np.ndarray, epsilon: np.ndarray, radius: float
  ) -> Answer:
    """Solves one game by CVXPY.

    Args:
      matrix: [D, |A|] the matrix A.
      utility: [|A|] mu W + log target.
      epsilon: [N] epsilon-hat.
      radius: epsilon-plus.
    """
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

  def _linear_program(
      self, matrix: np.ndarray, utility: np.ndarray, epsilon: np.ndarray
  ) -> Answer:
    """Solves one game by HiGHS; arguments as for `_run`."""
    optimize = _import("scipy.optimize")
    size, players = len(utility), len(self.shape)
    tolerance = max(_HIGHS_TOLERANCE, self._tolerance or _HIGHS_TOLERANCE)
    start = time.perf_counter()
    cost, bounds, limits = -utility, [(0, None)] * size, epsilon[self._players]
    if self.objective == "strength":
      # The variables are sigma and epsilon.
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
  """Imports an optional package, or raises an ImportError that says how to install it."""
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise ImportError(f"reference solvers need {name}: pip install -e .[baselines]") from error
