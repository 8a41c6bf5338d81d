"""Exact engine: a batched primal-dual interior-point method for eq. (6) of Marris et al. (2022).

With the objective divided by max(1, mu), so that the entropy has temperature tau <= 1 and the
welfare a weight omega <= 1, the engine follows the central path of

  minimise    tau KL(sigma || target) - omega W . sigma + rho' sum_p (e_p log(e_p / room_p) - e_p)
  subject to  A_p sigma + e_p + slack_p = limit_p,   sum sigma = 1,   sigma >= 0,   slack >= 0

where e_p = epsilon-plus - epsilon_p and limit_p = epsilon-plus; with rho = infinity there is no e_p
and limit_p is the target epsilon. The joint is a variable of its own, not eq. (9) of the duals,
and carries its own bound multiplier z: where the equilibrium lies on a face, sigma reaches zero
along the path of a linear program instead of through duals that run off to infinity. One method
thereby serves every entropy weight down to none at all.

A Newton step solves

  [ P   A'       1 ] [d sigma]   [h1]       P  = diag((tau + z) / sigma)
  [ A  -s/alpha  0 ] [d alpha] = [h2]
  [ 1'  0        0 ] [d lambda]  [h3]

(plus one row for each e_p), reduced to the duals, A P^-1 A' + s/alpha, or to the joint,
P + A' (alpha/s) A, whichever is smaller. Steps are Mehrotra's: a predictor, a centring parameter
from what it achieves, a corrector with the same factors, and separate primal and dual lengths.

In float64 every step subtracts from a player's payoffs, for each play of the others, those of one
own strategy (`deviation.centre_near_mean`): differences of near-ties keep their digits. On request,
for games that have no joint which meets all constraints with room to spare, limits are raised by a
little less than `metrics.residual` counts.

Arrays carry trailing batch axes `*b` (see `layout`).
"""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nes_jax import deviation, layout, metrics
from nes_jax.layout import fold, largest, total
from nes_jax.types import Array, Concept, Duals, Problem

# Fraction of the way to the boundary that a step may go.
_TO_BOUNDARY = 0.98
# Smallest value of a positive variable: keeps reciprocals finite in float32.
_TINY = 1e-30
# Below every utility, and inside float32.
_HUGE = 1e19
# The Newton matrix's diagonal is raised by this many ulps of itself; more after a failed factor.
_DAMPING_ULPS = 0.5
_DAMPING_GROWTH = 100.0
# In the system of the joint, a row's slack is raised by this many ulps of the row's own diagonal.
_ROW_ULPS = 1.0
# A warm start begins this far inside, times what the joint of the given duals violates.
_WARMTH = 0.1
# A merit that grows by more than this in one step is the work of rounding.
_MAX_GROWTH = 1e4
# Fraction of the games iterated on that may be left running for later.
PATIENCE = 0.1
# A game ends after so many refused steps in a row.
_MAX_REFUSED = 5
# Where a predictor can go less far than this, its second-order term counts by that length.
_SHORT_STEP = 0.1
# Hard limits are raised by no more than this fraction of the tolerance.
_RELAXATION = 0.05
# Of float32: what takes longer is for float64.
_MAX_ITERATIONS = {"cce": 20, "ce": 30}


@dataclasses.dataclass(frozen=True)
class Config:
  """How the engine runs. Starting values were chosen for the fewest iterations on GAMUT games."""

  tolerance: float  # on the KKT residual
  # The loop goes this far below the tolerance, so that rounding in the certificate, or the sum over
  # players that a gap is, does not undo it. Little suffices in float32, where a step costs more.
  margin: float
  max_iterations: int
  start_dual: float  # starting duals
  start_bound: float  # starting sum of sigma z
  start_slack: float  # smallest starting slack
  warm_start: float  # factor on these when duals are given
  # Whether hard limits are raised by half of what `metrics.residual` does not count.
  relaxed: bool = False

  @property
  def relaxation(self) -> float:
    """The amount by which hard limits are raised."""
    return min(_RELAXATION * self.tolerance, metrics.RESOLUTION / 2) if self.relaxed else 0.0

  @staticmethod
  def default(concept: Concept, dtype: jnp.dtype, rho: float = math.inf, **overrides) -> "Config":
    """The engine's settings for a concept, a floating-point type and hard or soft constraints."""
    single = jnp.finfo(dtype).bits <= 32
    settings = dict(
        tolerance=1e-4 if single else 1e-8,
        margin=0.8 if single else 0.4,
        max_iterations=_MAX_ITERATIONS[concept] if single else 200,
        warm_start=3e-4 if concept == "cce" else 3e-5,
        **(
            dict(start_dual=0.1, start_bound=0.5, start_slack=0.3)
            if concept == "cce" and math.isinf(rho)
            else dict(start_dual=3.0, start_bound=3.0, start_slack=1.0)
        ),
    )
    settings.update(overrides)
    return Config(**settings)


class Variables(NamedTuple):
  """A point of the interior."""

  joint: Array  # [A1, ..., AN, *b] sigma > 0; sums to one at the end only
  bound: Array  # [A1, ..., AN, *b] z > 0
  slack: Duals  # s > 0, in blocks like the duals
  duals: Duals  # alpha > 0
  shift: Array  # [*b] lambda
  room: Array  # [N, *b] e > 0; unused with hard constraints


class Residuals(NamedTuple):
  """Optimality conditions, zero at the optimum but for complementarity."""

  stationarity: Array  # [A1, ..., AN, *b]
  feasibility: Duals
  mass: Array  # [*b]
  room: Array  # [N, *b]


class State(NamedTuple):
  """The loop's carry."""

  variables: Variables
  residuals: Residuals  # of the variables
  error: Array  # [*b] `metrics.residual` of the variables
  merit: Array  # [*b] complementarity and infeasibility, which fall along the central path
  damping: Array  # [*b] relative addition to the Newton matrix's diagonal
  refused: Array  # [*b] int32, steps in a row that were not taken
  best: Variables  # the point with the smallest error so far
  best_error: Array  # [*b]
  iterations: Array  # [*b] int32, steps taken


class Answer(NamedTuple):
  """What the engine returns, in normalised units."""

  joint: Array  # [A1, ..., AN, *b] sums to one
  epsilon: Array  # [N, *b]
  duals: Duals  # of the objective divided by max(1, mu); zero diagonal for CE
  residual: Array  # [*b] `metrics.residual`; infinite if not a number
  iterations: Array  # [*b] int32


class Program(NamedTuple):
  """The convex program of the module's docstring."""

  payoffs: Array  # [N, A1, ..., AN, *b]
  strategies: tuple[Array, ...] | None  # as in `Problem`
  alive: Array | None  # [A1, ..., AN, *b] bool, joint strategies that exist; None: all do
  log_target: Array  # [A1, ..., AN, *b]
  welfare: Array  # [A1, ..., AN, *b] omega W
  temperature: Array  # [*b] tau
  limit: Duals  # right sides, in blocks like the duals
  binding: Duals  # 1, or 0 for rows that can never bind: a CE diagonal, a player with no choice
  relaxation: Array  # [*b] the limits are the problem's raised by this
  rho: Array | None  # [*b] rho', or None: hard constraints
  log_room: Array  # [N, *b]


def _program(problem: Problem, concept: Concept, relaxation: float = 0.0) -> Program:
  """Problem [..., *b] -> Program [..., *b], whose limits are raised by the relaxation."""
  temperature, weight = metrics.objective_weights(problem)
  hard = math.isinf(problem.rho)
  target = problem.epsilon if hard else problem.epsilon_max
  exist = problem.strategies
  alive = None if exist is None else deviation.alive(exist)
  limit, binding = [], []
  for p, count in enumerate(deviation.strategy_counts(problem.payoffs)):
    shape = (count,) * deviation.dual_axes(concept)
    row = target[p]
    binds = jnp.ones_like(row)
    if hard:
      # A row of zeros, "0 <= epsilon", binds nothing but would pin its slack to zero: give it
      # room. A negative epsilon stays as it is, and cannot be met.
      binds = jnp.where(_moves(problem, p) | (row < 0), 1, 0).astype(row.dtype)
      row = jnp.where(binds > 0, row + relaxation, 1)
    row, binds = (jnp.broadcast_to(x, shape + x.shape) for x in (row, binds))
    idle = _idle(None if exist is None else exist[p], count, row, concept)
    if idle is not None:
      room = 1 if exist is None else 1 + jnp.maximum(row, 0)
      room = room if hard else 3 * row  # e never exceeds twice epsilon-plus
      row = jnp.where(idle, room, row)
      binds = jnp.where(idle, 0, binds)
    limit.append(row)
    binding.append(binds)
  payoffs = problem.payoffs
  if payoffs.dtype != jnp.float64:  # float64 is centred at every step
    payoffs = deviation.centre_at_best(payoffs, exist)
    if exist is not None:
      payoffs = deviation.fill_missing(payoffs, exist)
  return Program(
      payoffs=payoffs,
      strategies=exist,
      alive=alive,
      log_target=jnp.log(problem.target if alive is None else jnp.where(alive, problem.target, 1)),
      welfare=weight * problem.welfare,
      temperature=temperature,
      limit=tuple(limit),
      binding=tuple(binding),
      relaxation=jnp.full_like(temperature, relaxation),
      rho=None if hard else temperature * problem.rho,
      log_room=jnp.log(problem.epsilon_max - problem.epsilon) if not hard else 0 * target,
  )


def _moves(problem: Problem, player: int) -> Array:
  """Whether a player's payoff depends on its own strategy: bool [*b]."""
  n = deviation.num_players(problem.payoffs)
  own = jnp.moveaxis(problem.payoffs[player], player, 0)
  differs = own != own[:1]
  if problem.strategies is not None:
    exists = problem.strategies[player]
    exists = exists.reshape(exists.shape[:1] + (1,) * (n - 1) + exists.shape[1:])
    top = jnp.where(exists, own, -jnp.inf).max(0, keepdims=True)
    differs = exists & (own != top)
  return jnp.any(differs, tuple(range(n)))


def _idle(exists: Array | None, count: int, like: Array, concept: Concept) -> Array | None:
  """Rows that are no deviation: a CE's diagonal, what does not exist. None: there are no such rows.

  The gain of such a row is 0 or, by `deviation.fill_missing`, at most that of one which exists.
  """
  missing = None if exists is None else ~exists
  if concept == "cce":
    return missing
  eye = jnp.broadcast_to(_eye(count, like), like.shape)
  return eye if missing is None else eye | missing[:, None] | missing[None]


def _eye(count: int, like: Array) -> Array:
  """Boolean identity [count, count, 1...] that broadcasts against `like` [count, count, *b]."""
  return jnp.eye(count, dtype=bool).reshape((count, count) + (1,) * (like.ndim - 2))


def _complementarity(v: Variables, players: int, axes: int) -> Array:
  """s . alpha + sigma . z: [*b]."""
  slack = [total(s * a, axes) for s, a in zip(v.slack, v.duals)]
  return fold(jnp.add, slack) + total(v.joint * v.bound, players)


def _residuals(program: Program, v: Variables, concept: Concept):
  """-> Residuals, and the error and merit [*b] of `State`."""
  n, axes = v.joint.ndim - v.shift.ndim, deviation.dual_axes(concept)
  program = _centred(program, v.duals, concept)
  taken = deviation.logits(program.payoffs, v.duals, concept)
  gains = deviation.gains(program.payoffs, v.joint, concept)
  tau = program.temperature
  log_joint = jnp.log(_where_alive(program, v.joint, 1))
  stationarity = (
      tau * (log_joint - program.log_target) - program.welfare + taken + v.shift - v.bound
  )
  feasibility = tuple(g + s - limit for g, s, limit in zip(gains, v.slack, program.limit))
  room = jnp.zeros_like(v.room)
  if program.rho is not None:
    feasibility = tuple(f + e for f, e in zip(feasibility, v.room))
    sums = jnp.stack([total(a, axes) for a in v.duals])
    room = program.rho * (jnp.log(v.room) - program.log_room) + sums
  residuals = Residuals(
      stationarity=_where_alive(program, stationarity, 0),
      feasibility=feasibility,
      mass=total(v.joint, n) - 1,
      room=room,
  )

  # The certificate is that of `metrics.residual`, for the joint scaled to sum to one.
  mass = residuals.mass + 1
  left = [limit - program.relaxation - g / mass for limit, g in zip(program.limit, gains)]
  if program.rho is not None:
    left = [x - e for x, e in zip(left, v.room)]
  bound = [a * b for a, b in zip(v.duals, program.binding)]
  counted = [metrics.counted(x, 2 * program.relaxation) for x in left]
  gap = fold(jnp.add, [total(a * x, axes) for a, x in zip(bound, counted)])
  utility = _where_alive(program, program.welfare - taken, -_HUGE)
  peak = largest(utility, n)
  gap = gap + metrics.entropy_gap(v.joint / mass, program.log_target, utility, peak, tau)
  if program.rho is not None:
    sums = jnp.stack([total(a, axes) for a in bound])
    gap = gap + metrics.room_gap(v.room, program.log_room, sums, program.rho)
  worst = fold(jnp.maximum, [largest(-x, axes) for x in left])
  error = fold(jnp.maximum, [jnp.abs(gap), worst, jnp.abs(residuals.mass)])
  infeasible = [largest(jnp.abs(f), axes) for f in residuals.feasibility]
  merit = fold(jnp.add, [_complementarity(v, n, axes), jnp.abs(residuals.mass)] + infeasible)
  # A not-a-number must never look converged or win a comparison.
  error, merit = (jnp.where(jnp.isnan(x), jnp.inf, x) for x in (error, merit))
  return residuals, error, merit


def _newton(program: Program, v: Variables, damping: Array, concept: Concept):
  """Factors the Newton system at `v`.

  Returns:
    A function (h1, h2, h3, h4) -> (d sigma, d alpha, d lambda, d e) that solves the symmetric
    system of the module's docstring; h4 [N, *b] belongs to e.
  """
  counts = deviation.strategy_counts(program.payoffs)
  num_duals = sum(count ** deviation.dual_axes(concept) for count in counts)
  single = v.shift.ndim == 0
  if concept == "ce" and single and math.prod(counts) < num_duals:
    return _newton_joint(program, v, damping)
  return _newton_dual(program, v, damping, concept)


def _room_weights(program: Program, v: Variables) -> Array:
  """Inverse second derivative of e's term [N, *b]; 0 with hard constraints, where e is fixed."""
  return jnp.zeros_like(v.room) if program.rho is None else v.room / program.rho


def _newton_dual(program, v, damping, concept):
  n = v.joint.ndim - v.shift.ndim
  batch = v.shift.shape
  flat = lambda blocks: [x.reshape((-1,) + batch) for x in blocks]
  weights = v.joint / (program.temperature + v.bound)
  ratios = flat([s / a for s, a in zip(v.slack, v.duals)])
  room_weights = _room_weights(program, v)
  blocks, border, mass = deviation.covariance(program.payoffs, weights, concept)
  for p, row in enumerate(blocks):
    eye = _eye(len(ratios[p]), row[p])
    block = row[p] + room_weights[p] + jnp.where(eye, ratios[p], 0)
    row[p] = jnp.where(eye, block * (1 + damping), block)
  floor = _DAMPING_ULPS * float(jnp.finfo(mass.dtype).eps)
  factor = layout.cholesky(blocks, floor)

  def solve(h1, h2, h3, h4):
    weighted = weights * h1
    gains = deviation.gains(program.payoffs, weighted, concept)
    first = total(weighted, n) - h3
    rights = [
        g - h - u * (first / mass) + room_weights[p] * h4[p]
        for p, (g, h, u) in enumerate(zip(flat(gains), flat(h2), border))
    ]
    flat_duals = factor(rights)
    shift = (first - fold(jnp.add, [total(u * a, 1) for u, a in zip(border, flat_duals)])) / mass
    room = room_weights * (h4 - jnp.stack([total(a, 1) for a in flat_duals]))
    duals = tuple(a.reshape(s.shape) for a, s in zip(flat_duals, v.duals))
    taken = deviation.logits(program.payoffs, duals, concept)
    joint = weights * (h1 - taken - shift)
    return joint, duals, shift, room

  return solve


def _newton_joint(program, v, damping):
  """CE, unbatched. The system is scaled by sqrt(P^-1): identity plus a positive part."""
  payoffs, shape = program.payoffs, v.joint.shape
  weights = v.joint / (program.temperature + v.bound)
  root = jnp.sqrt(weights)
  # Rows that can hold with equality only have slack that runs to 0 and duals that are rounding
  # noise: one ulp of the row's own diagonal in A P^-1 A' keeps them from growing.
  own = deviation.squares(payoffs, weights, "ce")
  ulp = _ROW_ULPS * float(jnp.finfo(root.dtype).eps)
  ratios = tuple(a / (s + a * ulp * x) for a, s, x in zip(v.duals, v.slack, own))
  inner = deviation.joint_gram(payoffs, ratios)
  hard = program.rho is None
  if not hard:
    # Eliminating e_p leaves a rank-one term a player.
    room_weights = _room_weights(program, v)
    coupling = room_weights / (1 + room_weights * jnp.stack([t.sum() for t in ratios]))
    alone = [tuple(t * (q == p) for q, t in enumerate(ratios)) for p in range(len(ratios))]
    rays = jnp.stack([deviation.logits(payoffs, t, "ce").ravel() for t in alone])
    inner = inner - layout.matmul(rays.T * coupling, rays)
  flat_root = root.ravel()
  matrix = inner * flat_root[:, None] * flat_root
  matrix = matrix + jnp.diag(1 + damping * (1 + jnp.diagonal(matrix)))
  floor = _DAMPING_ULPS * float(jnp.finfo(root.dtype).eps)
  factor = layout.cholesky([[matrix]], floor)
  (ones,) = factor([flat_root])
  mass = jnp.vdot(flat_root, ones)

  def solve(h1, h2, h3, h4):
    pushed = tuple(t * h for t, h in zip(ratios, h2))
    right = (h1 + deviation.logits(payoffs, pushed, "ce")).ravel()
    if not hard:
      sums = jnp.stack([x.sum() for x in pushed])
      right = right - layout.matmul(coupling * (h4 + sums), rays)
    (x,) = factor([flat_root * right])
    shift = (jnp.vdot(flat_root, x) - h3) / mass
    joint = (flat_root * (x - ones * shift)).reshape(shape)
    gains = deviation.gains(payoffs, joint, "ce")
    excess = [g - h for g, h in zip(gains, h2)]
    room = jnp.zeros_like(h4)
    if not hard:
      room = coupling * (h4 - jnp.stack([(t * x).sum() for t, x in zip(ratios, excess)]))
    duals = tuple(t * (x + e) for t, x, e in zip(ratios, excess, room))
    return joint, duals, shift, room

  return solve


def _step(program: Program, state: State, config: Config, concept: Concept) -> State:
  """One predictor-corrector step; games that have converged stay where they are."""
  v, residuals = state.variables, state.residuals
  n, axes = v.joint.ndim - v.shift.ndim, deviation.dual_axes(concept)
  given, program = program, _centred(program, v.duals, concept)
  solve = _newton(program, v, state.damping, concept)

  def direction(joint_target, slack_target):
    """Newton direction to sigma z = joint_target and s alpha = slack_target."""
    safe = _where_alive(program, v.joint, 1)
    h1 = _where_alive(program, joint_target / safe - residuals.stationarity - v.bound, 0)
    h2 = tuple(
        s - t / a - f for s, t, a, f in zip(v.slack, slack_target, v.duals, residuals.feasibility)
    )
    joint, duals, shift, room = solve(h1, h2, -residuals.mass, -residuals.room)
    bound = _where_alive(program, (joint_target - v.bound * joint) / safe - v.bound, 0)
    slack = tuple((t - s * d) / a - s for t, s, d, a in zip(slack_target, v.slack, duals, v.duals))
    return Variables(joint, bound, slack, duals, shift, room)

  def lengths(d):
    """Reciprocals of the steps at which a primal and a dual variable reach zero: ([*b], [*b])."""
    primal = [largest(-d.joint / _where_alive(program, v.joint, 1), n)]
    primal += [largest(-x / s, axes) for x, s in zip(d.slack, v.slack)]
    if program.rho is not None:
      primal.append(largest(-d.room / v.room, 1))
    bounds = [largest(-d.bound / v.bound, n)]
    bounds += [largest(-x / a, axes) for x, a in zip(d.duals, v.duals)]
    return fold(jnp.maximum, primal), fold(jnp.maximum, bounds)

  zeros = jnp.zeros_like(v.shift)
  predictor = direction(zeros, tuple(zeros for _ in v.duals))
  # Mehrotra's centring: aim at the cube of what the predictor alone would leave.
  step = 1 / jnp.maximum(1, jnp.maximum(*lengths(predictor)))
  ahead = jax.tree.map(lambda x, dx: x + step * dx, v, predictor)
  now, then = (_complementarity(x, n, axes) for x in (v, ahead))
  count = math.prod(v.joint.shape[:n]) + sum(math.prod(a.shape[:axes]) for a in v.duals)
  aim = jnp.clip((then / now) ** 3, 1e-6, 1) * now / count
  # The corrector's targets for the products subtract the second-order terms of the predictor.
  weight = jnp.where(step < _SHORT_STEP, step, 1)
  corrector = direction(
      aim - weight * predictor.joint * predictor.bound,
      tuple(aim - weight * s * a for s, a in zip(predictor.slack, predictor.duals)),
  )
  primal, bounds = (jnp.minimum(1, _TO_BOUNDARY / jnp.maximum(x, 1e-3)) for x in lengths(corrector))
  positive = lambda x, dx, step: jnp.maximum(x + step * dx, _TINY)
  ahead = Variables(
      joint=_where_alive(program, positive(v.joint, corrector.joint, primal), 0),
      bound=positive(v.bound, corrector.bound, bounds),
      slack=tuple(positive(x, dx, primal) for x, dx in zip(v.slack, corrector.slack)),
      duals=tuple(positive(x, dx, bounds) for x, dx in zip(v.duals, corrector.duals)),
      shift=v.shift + bounds * corrector.shift,
      room=v.room + primal * corrector.room,
  )
  ahead_residuals, error, merit = _residuals(given, ahead, concept)
  # A factor spoilt by rounding throws the merit up, or leaves none that is finite: stay, and try
  # again with a stronger diagonal.
  sound = (merit < _MAX_GROWTH * state.merit) | (error < state.error)
  running = _running(state, config)
  move = running & sound
  better = move & (error < state.best_error)
  base = _DAMPING_ULPS * float(jnp.finfo(error.dtype).eps)
  damping = jnp.where(sound, jnp.maximum(state.damping / _DAMPING_GROWTH, base), jnp.minimum(
      state.damping * _DAMPING_GROWTH, 1e-2))
  keep = lambda move, old, new: jax.tree.map(lambda x, y: jnp.where(move, y, x), old, new)
  return State(
      variables=keep(move, v, ahead),
      residuals=keep(move, residuals, ahead_residuals),
      error=jnp.where(move, error, state.error),
      merit=jnp.where(move, merit, state.merit),
      damping=jnp.where(running, damping, state.damping),
      refused=jnp.where(sound, 0, state.refused + 1),
      best=keep(better, state.best, ahead),
      best_error=jnp.where(better, error, state.best_error),
      iterations=state.iterations + running,
  )


def _running(state: State, config: Config) -> Array:
  """[*b]: games that take another step."""
  return (
      (state.error > config.margin * config.tolerance)
      & (state.refused < _MAX_REFUSED)
      & (state.iterations < config.max_iterations)
  )


def _centred(program: Program, duals: Duals, concept: Concept) -> Program:
  """The program with the payoffs of `deviation.centre_near_mean`.

  Only duals that float64 can hold to its tolerance are so large that this matters at every step.
  """
  if program.temperature.dtype != jnp.float64:
    return program
  exist = program.strategies
  payoffs = deviation.centre_near_mean(program.payoffs, duals, concept, exist)
  if exist is not None:
    payoffs = deviation.fill_missing(payoffs, exist)
  return program._replace(payoffs=payoffs)


def _where_alive(program: Program, x: Array, other: float) -> Array:
  """x [A1, ..., AN, *b], and `other` where a strategy does not exist."""
  return x if program.alive is None else jnp.where(program.alive, x, other)


def _start(
    program: Program, problem: Problem, config: Config, concept: Concept, duals: Duals | None
) -> Variables:
  """Near the target joint, or what given duals imply, with every multiplier well inside."""
  n = deviation.num_players(program.payoffs)
  program = _centred(program, tuple(map(jnp.ones_like, program.limit)), concept)
  size = math.prod(problem.target.shape[:n])
  if program.alive is not None:
    size = total(program.alive.astype(problem.target.dtype), n)
  bound, slack, least = config.start_bound, config.start_slack, config.start_dual
  # A target may be near the boundary.
  joint = _where_alive(program, 0.9 * problem.target + 0.1 / size, 0)
  if duals is None:
    duals = tuple(jnp.full_like(limit, least) for limit in program.limit)
  else:
    # Eq. (9), if there is an entropy to speak of.
    logits = program.welfare - deviation.logits(program.payoffs, duals, concept)
    logits = _where_alive(program, logits, -_HUGE)
    warmth = jnp.maximum(program.temperature, config.warm_start)
    joint = jax.nn.softmax(program.log_target + logits / warmth, axis=tuple(range(n)))
    # How far inside to start: the more, the more the given duals' joint violates.
    gains = deviation.gains(program.payoffs, joint, concept)
    axes = deviation.dual_axes(concept)
    worst = fold(jnp.maximum, [largest(g - x, axes) for g, x in zip(gains, program.limit)])
    factor = jnp.clip(_WARMTH * worst, config.warm_start, 1)
    bound, slack, least = (factor * x for x in (bound, slack, least))
    duals = tuple(jnp.maximum(a, least) for a in duals)
    joint = _where_alive(program, jnp.maximum(joint, factor * bound / size), 0)
  axes = deviation.dual_axes(concept)
  gains = deviation.gains(program.payoffs, joint, concept)
  if program.rho is None:
    room = jnp.ones_like(problem.epsilon)
  else:
    # Where the joint is feasible, or as far as epsilon-plus lets it.
    worst = jnp.stack([largest(g, axes) for g in gains])
    target = problem.epsilon_max - problem.epsilon
    room = jnp.clip(problem.epsilon_max - worst - slack, 0.1 * target, target)
    gains = tuple(g + e for g, e in zip(gains, room))
    # Multipliers of the size that eq. (10) gives to this room.
    count = max(math.prod(a.shape[:axes]) for a in duals)
    growth = program.rho * largest(jnp.log(target / room), 1) / (count * config.start_dual)
    growth = jnp.maximum(growth, 1)
    duals, bound = tuple(jnp.maximum(a, growth * least) for a in duals), growth * bound
  return Variables(
      joint=joint,
      bound=_where_alive(program, bound / (size * _where_alive(program, joint, 1)), 1),
      slack=tuple(jnp.maximum(limit - g, slack) for limit, g in zip(program.limit, gains)),
      duals=duals,
      shift=jnp.zeros_like(program.temperature),
      room=room,
  )


def _over(function: Callable[..., Any], batch_axis: int | None) -> Callable[..., Any]:
  """`function` for problems with this batch axis: last needs nothing, see `layout`."""
  return jax.vmap(function) if batch_axis == 0 else function


def _run(
    problem: Problem,
    duals: Duals | None,
    patience: Array,
    config: Config,
    concept: Concept,
    batch_axis: int | None,
    width: int | None,
) -> tuple[Variables, Array, Array]:
  """-> best point of the interior-point iteration, its error, steps taken."""
  relaxation = config.relaxation if math.isinf(problem.rho) else 0.0

  def begin(problem, duals):
    program = _program(problem, concept, relaxation)
    variables = _start(program, problem, config, concept, duals)
    residuals, error, merit = _residuals(program, variables, concept)
    return program, State(
        variables=variables,
        residuals=residuals,
        error=error,
        merit=merit,
        damping=jnp.full_like(error, _DAMPING_ULPS * float(jnp.finfo(error.dtype).eps)),
        refused=jnp.zeros(error.shape, jnp.int32),
        best=variables,
        best_error=error,
        iterations=jnp.zeros(error.shape, jnp.int32),
    )

  program, state = _over(begin, batch_axis)(problem, duals)

  def unfinished(state):
    return jnp.sum(_running(state, config))

  def iterate(program, state, patience):
    step = functools.partial(_step, config=config, concept=concept)
    advance = functools.partial(_over(step, batch_axis), program)
    return jax.lax.while_loop(lambda state: unfinished(state) > patience, advance, state)

  if width is None or state.error.size <= width:
    state = iterate(program, state, patience)
  else:
    state = _in_turns(program, state, iterate, unfinished, config, batch_axis, width)
  return state.best, state.best_error, state.iterations


def _in_turns(program, state, iterate, unfinished, config, batch_axis, width):
  """Iterates on `width` games at a time, so that no batch waits for its slowest game.

  A turn takes the first games that are not finished and ends when few of them are left. These keep
  their state and go on in the next turn, among others. Memory traffic is that of a turn's games.
  """

  def turn(state):
    running = _running(state, config)
    chosen = jnp.argsort(~running, stable=True)[:width]
    take = lambda tree: jax.tree.map(lambda x: jnp.take(x, chosen, batch_axis), tree)
    patience = jnp.where(jnp.sum(running) > width, int(PATIENCE * width), 0)
    part = iterate(take(program), take(state), patience)
    put = lambda x, y: jnp.moveaxis(
        jnp.moveaxis(x, batch_axis, 0).at[chosen].set(jnp.moveaxis(y, batch_axis, 0)), 0, batch_axis
    )
    return jax.tree.map(put, state, part)

  return jax.lax.while_loop(lambda state: unfinished(state) > 0, turn, state)


def _conditions(problem: Problem, v: Variables, concept: Concept):
  """Left sides of the optimality conditions whose Jacobian in (sigma, alpha, lambda, e) `_newton`
  solves, at fixed complementarity products: used to differentiate the answer."""
  residuals, _, _ = _residuals(_program(problem, concept), v, concept)
  return residuals.stationarity, residuals.feasibility, residuals.mass, residuals.room


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def optimum_given(
    problem: Problem, variables: Variables, concept: Concept, batch_axis: int | None
) -> Variables:
  """`variables` as they are, with the derivatives that the optimum has in the problem's arrays.

  Forward and backward, by the implicit function theorem; it does not matter who found the
  variables, and derivatives of their own are ignored. An engine that JAX cannot differentiate
  should be given the problem behind a `jax.lax.stop_gradient`.

  Args:
    problem: a normalised game, or a batch of them.
    variables: the optimum, inside: every number that `Variables` calls positive is, also those of
      rows that bind nothing; but the joint is 0 where a strategy does not exist.
    concept: "cce" or "ce".
    batch_axis: None, 0 or -1, of the problem and of the variables, as in `solve`.
  """
  return variables


@optimum_given.defjvp
def _optimum_jvp(concept, batch_axis, primals, tangents):
  problem, variables = primals
  differential = _over(functools.partial(_differential, concept), batch_axis)
  direction = dataclasses.replace(tangents[0], strategies=None)
  return variables, differential(problem, direction, jax.lax.stop_gradient(variables))


def _differential(concept: Concept, problem: Problem, direction: Problem, v: Variables):
  """Tangent of the optimum `v`: implicit function theorem on the optimality conditions."""
  exist = problem.strategies
  conditions = lambda x: _conditions(dataclasses.replace(x, strategies=exist), v, concept)
  moved = jax.jvp(conditions, (dataclasses.replace(problem, strategies=None),), (direction,))[1]
  program = _centred(_program(problem, concept), v.duals, concept)
  # The solve's transpose wants every right side to depend on the tangents, also those that are 0.
  touch = 0 * sum(jnp.sum(x) for x in jax.tree.leaves(moved))
  moved = jax.tree.map(lambda x: x + touch, moved)
  newton = _newton(program, v, jnp.zeros_like(v.shift), concept)

  def jacobian(x):
    joint, alpha, shift, room = x
    n, axes = v.joint.ndim - v.shift.ndim, deviation.dual_axes(concept)
    curvature = (program.temperature + v.bound) / _where_alive(program, v.joint, 1)
    taken = deviation.logits(program.payoffs, alpha, concept)
    stationarity = curvature * joint + _where_alive(program, taken + shift, 0)
    gains = deviation.gains(program.payoffs, joint, concept)
    feasibility = tuple(
        g - s / a * d + (0 if program.rho is None else e)
        for g, s, a, d, e in zip(gains, v.slack, v.duals, alpha, room)
    )
    if program.rho is not None:
      room = program.rho / v.room * room + jnp.stack([total(d, axes) for d in alpha])
    return stationarity, feasibility, total(joint, n), room

  def solve_refined(matvec, right):
    # Where rows bind, s / alpha is next to nothing and the factors lose digits.
    x = newton(*right)
    for _ in range(2):
      x = jax.tree.map(jnp.add, x, newton(*jax.tree.map(jnp.subtract, right, matvec(x))))
    return x

  joint, alpha, shift, room = jax.lax.custom_linear_solve(
      jacobian, jax.tree.map(jnp.negative, moved), solve_refined, symmetric=True
  )
  return Variables(
      joint=joint,
      bound=jnp.zeros_like(v.bound),
      slack=jax.tree.map(jnp.zeros_like, v.slack),
      duals=alpha,
      shift=shift,
      room=room,
  )


def answer(
    problem: Problem,
    variables: Variables,
    residual: Array,
    iterations: Array,
    concept: Concept,
    batch_axis: int | None,
) -> Answer:
  """Makes the engine's answer of a point. All arguments have the same batch axis."""

  def one(problem, v, residual, iterations):
    n = deviation.num_players(problem.payoffs)
    binding = jax.lax.stop_gradient(_program(problem, concept).binding)
    hard = math.isinf(problem.rho)
    return Answer(
        joint=v.joint / total(v.joint, n),
        epsilon=problem.epsilon if hard else problem.epsilon_max - v.room,
        duals=tuple(a * b for a, b in zip(v.duals, binding)),
        residual=residual,
        iterations=iterations,
    )

  return _over(one, batch_axis)(problem, variables, residual, iterations)


def solve(
    problem: Problem,
    config: Config,
    concept: Concept,
    duals: Duals | None = None,
    *,
    batch_axis: int | None = None,
    patience: int | Array = 0,
    width: int | None = None,
) -> Answer:
  """Solves eq. (6) for one normalised game or a batch of them.

  Differentiable in the problem's arrays, forward and backward, by the implicit function theorem.

  Args:
    problem: arrays [...], [B, ...] or [..., B].
    config: how to run.
    concept: "cce" or "ce".
    duals: where to start from, e.g. a network's answer; duals of the divided objective.
    batch_axis: None, 0 or -1 (for small games on accelerators, see `layout`); that of the answer
      too.
    patience: stop when so many games of the batch, or fewer, are still running.
    width: so many games of the batch are iterated on at a time, until all are done. None: all.

  Returns:
    The best point. Whether it is an answer is for its residual to say.
  """
  # The start and the stop have no influence on the optimum.
  fixed = jax.lax.stop_gradient((problem, duals))
  patience = jnp.asarray(patience, jnp.int32)
  v, error, iterations = _run(*fixed, patience, config, concept, batch_axis, width)
  v = optimum_given(problem, v, concept, batch_axis)
  return answer(problem, v, error, iterations, concept, batch_axis)
