"""The loop of the exact engine: a batched primal-dual interior-point method for eq. (6).

The engine follows the central path of the program in `exact.program`. The joint is a variable of
its own, not eq. (9) of the duals, and carries its own bound multiplier z: where the equilibrium
lies on a face, sigma reaches zero along the path of a linear program instead of through duals that
run off to infinity. One method thereby serves every entropy weight down to none at all.

Steps are Mehrotra's: a predictor, a centring parameter from what it achieves, a corrector with the
same factors (`exact.newton`), and separate primal and dual lengths.

Arrays carry trailing batch axes `*b` (see `layout`).
"""

from collections.abc import Callable
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nes_jax import deviation
from nes_jax.exact import newton, program
from nes_jax.exact.config import Config
from nes_jax.exact.implicit import optimum_given
from nes_jax.exact.program import Program, Residuals, Variables, where_alive
from nes_jax.exact.start import Start, starting_point
from nes_jax.layout import fold, max_over, over_batch, sum_over
from nes_jax.types import Array, Concept, Duals, Problem

# Fraction of the way to the boundary that a step may go.
_TO_BOUNDARY = 0.98
# Smallest value of a positive variable. Its reciprocal is finite in float32.
_TINY = 1e-30
# Factor by which a refused step raises the damping, and by which a step that is taken lowers it.
_DAMPING_GROWTH = 100.0
# Largest damping.
_MAX_DAMPING = 1e-2
# A merit that grows by more than this in one step is the work of rounding.
_MAX_GROWTH = 1e4
# Fraction of the games iterated on that may be left running for later.
PATIENCE = 0.1
# A game ends after so many refused steps in a row.
_MAX_REFUSED = 5
# A predictor that can go less far than this has its second-order term weighted by that length.
_SHORT_STEP = 0.1


class State(NamedTuple):
  """The loop's carry."""

  variables: Variables
  residuals: Residuals  # residuals of the variables
  error: Array  # [*b] `metrics.residual` of the variables
  merit: Array  # [*b] complementarity and infeasibility, which fall along the central path
  damping: Array  # [*b] relative addition to the Newton matrix's diagonal
  refused: Array  # [*b] int32, steps in a row that were not taken
  best: Variables  # the point with the smallest error so far
  best_error: Array  # [*b]
  iterations: Array  # [*b] int32, steps taken


class Answer(NamedTuple):
  """An answer of the engine, in normalised units."""

  joint: Array  # [A1, ..., AN, *b] sums to one
  epsilon: Array  # [N, *b]
  duals: Duals  # in the units of `Problem`; zero diagonal for CE
  residual: Array  # [*b] `metrics.residual`; infinite if not a number
  iterations: Array  # [*b] int32


def solve(
    problem: Problem,
    config: Config,
    concept: Concept,
    start: Start | None = None,
    *,
    batch_axis: int | None = None,
    patience: int | Array = 0,
    width: int | None = None,
) -> Answer:
  """Solves eq. (6) for one normalised game or a batch of them.

  Differentiable in the problem's arrays, forward and backward, by the implicit function theorem.

  Args:
    problem: arrays [...], [B, ...] or [..., B].
    config: the settings of the run.
    concept: "cce" or "ce".
    start: where to start, such as at a network's answer; None: near the target joint.
    batch_axis: None, 0 or -1 (for small games on accelerators, see `layout`); that of the answer
      too.
    patience: the run stops when so many games of the batch, or fewer, are still running.
    width: so many games of the batch are iterated on at a time, until all are done. None: all.

  Returns:
    The best point of each game. Its residual says whether it is an answer.
  """
  patience = jnp.asarray(patience, jnp.int32)
  return _solve(problem, start, patience, config, concept, batch_axis, width)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4, 5, 6))
def _solve(
    problem: Problem,
    start: Start | None,
    patience: Array,
    config: Config,
    concept: Concept,
    batch_axis: int | None,
    width: int | None,
) -> Answer:
  v, error, iterations = _run(problem, start, patience, config, concept, batch_axis, width)
  return answer(problem, v, error, iterations, concept, batch_axis)


@_solve.defjvp
def _solve_jvp(config, concept, batch_axis, width, primals, tangents):
  """Solves to a smaller residual, and differentiates the optimum."""
  problem, start, patience = primals
  # The start and the stop have no influence on the optimum.
  fixed = jax.lax.stop_gradient((problem, start))
  closer = config.differentiated(problem.payoffs.dtype)
  v, error, iterations = _run(*fixed, patience, closer, concept, batch_axis, width)

  def around(problem):
    optimum = optimum_given(problem, v, concept, batch_axis)
    return answer(problem, optimum, error, iterations, concept, batch_axis)

  return jax.jvp(around, (problem,), tangents[:1])


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
    binding = jax.lax.stop_gradient(program.make(problem, concept).binding)
    hard = math.isinf(problem.rho)
    return Answer(
        joint=v.joint / sum_over(v.joint, n),
        epsilon=problem.epsilon if hard else problem.epsilon_max - v.epsilon_slack,
        duals=tuple(a * b for a, b in zip(v.duals, binding)),
        residual=residual,
        iterations=iterations,
    )

  return over_batch(one, batch_axis)(problem, variables, residual, iterations)


# One step.


def _step(given: Program, state: State, config: Config, concept: Concept) -> State:
  """One predictor-corrector step; games that have converged stay where they are."""
  v = state.variables
  n, axes = v.joint.ndim - v.mass_dual.ndim, deviation.dual_axes(concept)
  centred = program.centred(given, v.duals, concept)
  solver = newton.factor(centred, v, state.damping, concept)
  direction = functools.partial(_direction, centred, v, state.residuals, solver)
  lengths = functools.partial(_reciprocal_lengths, centred, v, n, axes)
  zeros = jnp.zeros_like(v.mass_dual)
  predictor = direction(zeros, tuple(zeros for _ in v.duals))
  # Mehrotra's centring: aim at the cube of what the predictor alone would leave.
  step = 1 / jnp.maximum(1, jnp.maximum(*lengths(predictor)))
  ahead = jax.tree.map(lambda x, dx: x + step * dx, v, predictor)
  now, then = (program.complementarity(x, n, axes) for x in (v, ahead))
  count = math.prod(v.joint.shape[:n]) + sum(math.prod(a.shape[:axes]) for a in v.duals)
  aim = jnp.clip((then / now) ** 3, 1e-6, 1) * now / count
  # The corrector's targets for the products subtract the second-order terms of the predictor.
  weight = jnp.where(step < _SHORT_STEP, step, 1)
  corrector = direction(
      aim - weight * predictor.joint * predictor.bound,
      tuple(aim - weight * s * a for s, a in zip(predictor.slack, predictor.duals)),
  )
  primal, dual = (jnp.minimum(1, _TO_BOUNDARY / jnp.maximum(x, 1e-3)) for x in lengths(corrector))
  ahead = _moved(centred, v, corrector, primal, dual)
  return _accepted(state, ahead, *program.residuals(given, ahead, concept), config)


def _direction(
    centred: Program,
    v: Variables,
    residuals: Residuals,
    solver: newton.Solver,
    joint_target: Array,
    slack_target: Duals,
) -> Variables:
  """Newton's direction to sigma z = joint_target and s alpha = slack_target."""
  safe = where_alive(centred, v.joint, 1)
  h1 = where_alive(centred, joint_target / safe - residuals.stationarity - v.bound, 0)
  h2 = tuple(
      s - t / a - f for s, t, a, f in zip(v.slack, slack_target, v.duals, residuals.feasibility)
  )
  joint, duals, mass_dual, epsilon_slack = solver(
      h1, h2, -residuals.mass, -residuals.epsilon_slack
  )
  bound = where_alive(centred, (joint_target - v.bound * joint) / safe - v.bound, 0)
  slack = tuple((t - s * d) / a - s for t, s, d, a in zip(slack_target, v.slack, duals, v.duals))
  return Variables(joint, bound, slack, duals, mass_dual, epsilon_slack)


def _reciprocal_lengths(
    centred: Program, v: Variables, n: int, axes: int, d: Variables
) -> tuple[Array, Array]:
  """Reciprocals of the steps at which a primal and a dual variable reach zero: ([*b], [*b])."""
  primal = [max_over(-d.joint / where_alive(centred, v.joint, 1), n)]
  primal += [max_over(-x / s, axes) for x, s in zip(d.slack, v.slack)]
  if centred.rho is not None:
    primal.append(max_over(-d.epsilon_slack / v.epsilon_slack, 1))
  dual = [max_over(-d.bound / v.bound, n)]
  dual += [max_over(-x / a, axes) for x, a in zip(d.duals, v.duals)]
  return fold(jnp.maximum, primal), fold(jnp.maximum, dual)


def _moved(
    centred: Program, v: Variables, d: Variables, primal: Array, dual: Array
) -> Variables:
  """The point after steps of these lengths [*b]; positive variables stay positive."""

  def positive(x, dx, step):
    return jnp.maximum(x + step * dx, _TINY)

  return Variables(
      joint=where_alive(centred, positive(v.joint, d.joint, primal), 0),
      bound=positive(v.bound, d.bound, dual),
      slack=tuple(positive(x, dx, primal) for x, dx in zip(v.slack, d.slack)),
      duals=tuple(positive(x, dx, dual) for x, dx in zip(v.duals, d.duals)),
      mass_dual=v.mass_dual + dual * d.mass_dual,
      epsilon_slack=v.epsilon_slack + primal * d.epsilon_slack,
  )


def _accepted(
    state: State,
    ahead: Variables,
    residuals: Residuals,
    error: Array,
    merit: Array,
    config: Config,
) -> State:
  """The state after a step, or with a stronger diagonal after a step that is refused.

  A factor spoilt by rounding throws the merit up, or leaves none that is finite.
  """
  sound = (merit < _MAX_GROWTH * state.merit) | (error < state.error)
  running = _running(state, config)
  move = running & sound
  better = move & (error < state.best_error)
  smallest = newton.DAMPING_ULPS * float(jnp.finfo(error.dtype).eps)
  damping = jnp.where(
      sound,
      jnp.maximum(state.damping / _DAMPING_GROWTH, smallest),
      jnp.minimum(state.damping * _DAMPING_GROWTH, _MAX_DAMPING),
  )

  def keep(move, old, new):
    return jax.tree.map(lambda x, y: jnp.where(move, y, x), old, new)

  return State(
      variables=keep(move, state.variables, ahead),
      residuals=keep(move, state.residuals, residuals),
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


# The loop.


def _run(
    problem: Problem,
    start: Start | None,
    patience: Array,
    config: Config,
    concept: Concept,
    batch_axis: int | None,
    width: int | None,
) -> tuple[Variables, Array, Array]:
  """-> best point of the interior-point iteration, its error, steps taken."""
  relaxation = config.relaxation if math.isinf(problem.rho) else 0.0
  begin = functools.partial(_begin, config=config, concept=concept, relaxation=relaxation)
  given, state = over_batch(begin, batch_axis)(problem, start)

  def unfinished(state):
    return jnp.sum(_running(state, config))

  def iterate(given, state, patience):
    step = functools.partial(_step, config=config, concept=concept)
    advance = functools.partial(over_batch(step, batch_axis), given)
    return jax.lax.while_loop(lambda state: unfinished(state) > patience, advance, state)

  if width is None or state.error.size <= width:
    state = iterate(given, state, patience)
  else:
    state = _in_turns(given, state, iterate, unfinished, config, batch_axis, width)
  return state.best, state.best_error, state.iterations


def _begin(
    problem: Problem, start: Start | None, config: Config, concept: Concept, relaxation: float
) -> tuple[Program, State]:
  """The program of a problem, and the state before the first step."""
  given = program.make(problem, concept, relaxation)
  variables = starting_point(given, problem, config, concept, start)
  residuals, error, merit = program.residuals(given, variables, concept)
  damping = newton.DAMPING_ULPS * float(jnp.finfo(error.dtype).eps)
  return given, State(
      variables=variables,
      residuals=residuals,
      error=error,
      merit=merit,
      damping=jnp.full_like(error, damping),
      refused=jnp.zeros(error.shape, jnp.int32),
      best=variables,
      best_error=error,
      iterations=jnp.zeros(error.shape, jnp.int32),
  )


def _in_turns(
    given: Program,
    state: State,
    iterate: Callable[[Any, Any, Any], State],
    unfinished: Callable[[State], Array],
    config: Config,
    batch_axis: int | None,
    width: int,
) -> State:
  """Iterates on `width` games at a time, so that no batch waits for its slowest game.

  A turn takes the first games that are not finished and ends when few of them are left. These keep
  their state and go on in the next turn, among others. Memory traffic is that of a turn's games.
  """

  def turn(state):
    running = _running(state, config)
    chosen = jnp.argsort(~running, stable=True)[:width]

    def take(tree):
      return jax.tree.map(lambda x: jnp.take(x, chosen, batch_axis), tree)

    def put(x, y):
      rows = jnp.moveaxis(x, batch_axis, 0).at[chosen].set(jnp.moveaxis(y, batch_axis, 0))
      return jnp.moveaxis(rows, 0, batch_axis)

    patience = jnp.where(jnp.sum(running) > width, int(PATIENCE * width), 0)
    part = iterate(take(given), take(state), patience)
    return jax.tree.map(put, state, part)

  return jax.lax.while_loop(lambda state: unfinished(state) > 0, turn, state)
