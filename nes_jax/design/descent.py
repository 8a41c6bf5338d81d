"""Design by gradient: parameters of a game under which its equilibria have a small loss."""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nes_jax.design import active, cases
from nes_jax.design.active import Active, Change
from nes_jax.design.cases import Answers, Choice, Loss, Model
from nes_jax.solving import checks, engines
from nes_jax.types import Array, Concept

# Largest number of iterates of each start that are certified from the last quarter of the steps,
# and again from the steps before; the start itself is one more.
_CANDIDATES = 16


class Row(NamedTuple):
  """The outcome of a design under one selection, certified in float64."""

  selection: str
  loss: float
  # No equilibrium has a loss above it (worst case) or below it (best case), by linear duality; NaN
  # for other selections.
  bound: float
  gap: float  # what the players can still gain by deviating, in units of the payoffs
  certified: bool  # the solver's residual is within 1e-8
  strictness: float  # near 0: the active set changes nearby (`active.Active`)
  joint: np.ndarray  # [A1, ..., AN]


class Design(NamedTuple):
  """The outcome of `minimise`."""

  params: Any  # the best parameters, NumPy arrays in float64
  loss: float  # aggregate of the certified losses at these parameters
  report: tuple[Row, ...]  # one row a selection, at these parameters
  start: int  # the start that led to them
  losses: np.ndarray  # [S] certified aggregate loss of each start's best iterate
  # By selection, [steps, S] losses along the descent. Those of the cases are at the welfare weight
  # of their step, and therefore between the case and the entropy selection.
  history: dict[str, np.ndarray]
  active_set_changed: tuple[Change, ...]
  skipped: int  # gradients, of steps * S, that were not finite or not certified and left out


class _Step(NamedTuple):
  """The results of a step, besides parameters and the state of the optimiser."""

  losses: dict[str, Array]  # by selection [S]
  used: Array  # [S] bool, whether the gradient was used
  active: dict[str, Active]


def evaluate(
    loss: Loss,
    payoffs: Callable[[Any], Array],
    params: Any,
    *,
    selections: Sequence[Choice] | Mapping[str, Choice] = cases.DEFAULTS,
    concept: Concept = "cce",
    epsilon: float = 0.0,
) -> tuple[Row, ...]:
  """The losses of one design under several selections, certified in float64.

  Args:
    loss, payoffs, params, selections, concept, epsilon: those of `minimise`.

  Returns:
    One row a selection.
  """
  with engines.precision(np.dtype("float64")):
    model = _model(loss, payoffs, selections, concept, epsilon)
    params = _as_float64(params)
    cases.check(model, params)
    return _report(model, jax.tree.map(lambda x: x[None], params))


def minimise(
    loss: Loss,
    payoffs: Callable[[Any], Array],
    params: Any,
    *,
    selections: Sequence[Choice] | Mapping[str, Choice] = cases.DEFAULTS,
    concept: Concept = "cce",
    epsilon: float = 0.0,
    aggregate: str = "largest",
    optimiser: optax.GradientTransformation | None = None,
    steps: int = 300,
    starts: bool = False,
    projection: Callable[[Any], Any] | None = None,
    welfare_weights: tuple[float, float] = (10.0, 1e4),
) -> Design:
  """Parameters under which equilibria have a small loss, by gradient through the exact engine.

  A designer does not choose which equilibrium is played. Several selections are therefore solved
  side by side: by default the equilibrium with the smallest loss ("best_case"), the one of largest
  entropy, and the one with the largest loss ("worst_case"). The descent is on the largest of their
  losses, which is that of the worst case, unless `aggregate` says otherwise.

  The worst case of a loss c . sigma is the value of a linear program. It is smoothed by entropy,

    V = max over sigma of  c . sigma - T KL(sigma || uniform)   subject to  A sigma <= epsilon

  with a temperature T = stddev(c) / welfare weight that falls from step to step, and differentiated
  by the envelope theorem with the engine's multipliers beta (in units of c over those of payoffs):

    dV/dtheta = (dc/dtheta) . sigma - beta . (dA/dtheta) sigma

  V is below the worst case by T log(number of joint strategies) at most. The best case is the same
  with the other sign. All other selections are differentiated by the implicit function theorem.

  Everything is computed in float64. A step is one compiled program, the same for all steps; it
  holds all starts and selections, in one batch without derivatives, and one with them for each kind
  of selection that needs them.

  Where the set of binding constraints changes, derivatives are one-sided. `active_set_changed`
  says where along the descent this happened, and `strictness` in the report how near the final
  point is to such a place.

  Args:
    loss: function of (joint [A1, ..., AN], payoffs [N, A1, ..., AN], params) that returns a scalar.
      With a best or a worst case it must be affine in the joint.
    payoffs: function of the params that returns payoffs [N, A1, ..., AN].
    params: a tree of arrays, where the descent starts. With `starts`, every array has a leading
      axis of S starts, which go down at the same time.
    selections: names: "best_case", "worst_case", or one of `nes_jax.selection.NAMES` that needs no
      input; or a mapping from names to these, to a `nes_jax.Selection`, or to a function of
      (payoffs, params) that returns one.
    concept: "cce" or "ce".
    epsilon: gain, in payoff units, for which no player deviates, in selections that are names. With
      a positive one the set of equilibria changes continuously with the payoffs; with 0 it can
      jump, and losses with it, as they do where a contract just stops paying for an effort.
    aggregate: what is made small: "largest" or "mean" over the selections, or one by its name.
    optimiser: an Optax optimiser. None: Adam with a rate that falls from 0.05 to 0 by a cosine.
    steps: number of steps.
    starts: whether params have a leading axis of starts.
    projection: function of the params that returns allowed ones, such as non-negative tolls. It is
      applied after every step.
    welfare_weights: welfare weight of the cases in the first and the last step; geometric between.

  Returns:
    `Design`. Some iterates of each start, most of them late ones, are solved once more, the cases
    as linear programs, and the best of all is returned. It is no worse than the starts.

  Raises:
    ValueError: a function returns an array of the wrong shape, or an argument is wrong.
  """
  first, last = welfare_weights
  if steps < 1:
    raise ValueError(f"steps={steps}: one step or more is expected")
  if not 0 < first <= last < np.inf:
    raise ValueError(
        f"welfare_weights={welfare_weights}: two positive numbers are expected, the second not"
        " smaller than the first"
    )
  with engines.precision(np.dtype("float64")):
    model = _model(loss, payoffs, selections, concept, epsilon)
    aggregate = cases.resolve_aggregate(model.choices, aggregate)
    differentiate = (aggregate,) if aggregate in model.choices else tuple(model.choices)
    params = _as_float64(params)
    params = params if starts else jax.tree.map(lambda x: x[None], params)
    _check_starts(params)
    cases.check(model, jax.tree.map(lambda x: x[0], params))
    optimiser = optimiser or optax.adam(optax.cosine_decay_schedule(0.05, steps))
    step = jax.jit(
        functools.partial(_step, model, optimiser, projection, aggregate, differentiate)
    )
    found = _descend(step, optimiser, params, np.geomspace(first, last, steps))
    return _finish(model, aggregate, found)


class _Descent(NamedTuple):
  """The iterates of a descent that are judged, and its history."""

  history: dict[str, np.ndarray]
  changes: tuple[Change, ...]
  skipped: int
  candidates: list[Any]  # trees of parameters with a leading axis S


def _model(loss, payoffs, selections, concept, epsilon) -> Model:
  checks.check_concept(concept)
  if not 0 <= epsilon < np.inf:
    raise ValueError(f"epsilon={epsilon}: a number that is finite and not negative is expected")
  return Model(loss, payoffs, cases.named_choices(selections), concept, float(epsilon))


def _as_float64(params: Any) -> Any:
  """Parameters in float64. Raises ValueError where they are no finite numbers."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  leaves = jax.tree.leaves(params)
  if not leaves or not all(np.isfinite(x).all() for x in leaves):
    raise ValueError("params must be a tree of finite real arrays, with one array or more")
  return jax.tree.map(jnp.asarray, params)


def _check_starts(params: Any) -> None:
  sizes = {x.shape[:1] for x in jax.tree.leaves(params)}
  if len(sizes) != 1 or sizes & {(), (0,)}:
    raise ValueError(
        "with starts=True every array of params needs the same leading axis, one row a start; the"
        f" shapes are {[list(x.shape) for x in jax.tree.leaves(params)]}"
    )


def _step(model, optimiser, projection, aggregate, differentiate, params, state, weight):
  """Takes one step of all starts. Returns parameters, state of the optimiser, and `_Step`."""

  def total(params):
    answers = cases.solve_traced(model, params, weight, differentiate)
    objectives = {name: x.objective for name, x in answers.items()}
    return cases.aggregate(objectives, aggregate).sum(), answers

  (_, answers), gradient = jax.value_and_grad(total, has_aux=True)(params)
  count = len(jax.tree.leaves(params)[0])
  used = jnp.ones(count, bool)
  for name in differentiate:
    used = used & answers[name].solution.converged
  for leaf in jax.tree.leaves(gradient):
    used = used & jnp.isfinite(leaf).reshape(count, -1).all(1)

  def keep(x):
    return jnp.where(used.reshape((count,) + (1,) * (x.ndim - 1)), x, 0)

  updates, state = jax.vmap(optimiser.update)(jax.tree.map(keep, gradient), state, params)
  following = optax.apply_updates(params, updates)
  if projection is not None:
    following = jax.vmap(projection)(following)
  losses = {name: x.loss for name, x in answers.items()}
  return following, state, _Step(losses, used, _active_sets(model, params, answers))


def _descend(step, optimiser, params: Any, weights: np.ndarray) -> _Descent:
  """Takes one step for each welfare weight."""
  state = jax.vmap(optimiser.init)(params)
  steps = len(weights)
  late = steps - max(steps // 4, 1)
  kept = set(np.linspace(late, steps - 1, min(_CANDIDATES, steps - late)).astype(int))
  kept |= set(np.linspace(0, late, min(_CANDIDATES, late)).astype(int))
  losses: dict[str, list[np.ndarray]] = {}
  found: list[Change] = []
  candidates, before, skipped = [jax.tree.map(np.asarray, params)], None, 0
  for k, weight in enumerate(weights):
    params, state, done = step(params, state, weight)
    done = jax.tree.map(np.asarray, done)
    skipped += int((~done.used).sum())
    for name, value in done.losses.items():
      losses.setdefault(name, []).append(value)
      if before is not None:
        found += active.changes(k, name, before[name], done.active[name])
    before = done.active
    if k in kept:
      candidates.append(jax.tree.map(np.asarray, params))
  history = {name: np.stack(values) for name, values in losses.items()}
  return _Descent(history, tuple(found), skipped, candidates)


def _finish(model: Model, aggregate: str, found: _Descent) -> Design:
  """Certifies the candidates and takes the best."""
  count = len(found.candidates)
  stacked = jax.tree.map(lambda *x: jnp.asarray(np.concatenate(x)), *found.candidates)
  answers = cases.solve_certified(model, stacked)
  losses = {name: x.loss for name, x in answers.items()}
  total = np.asarray(cases.aggregate(losses, aggregate))
  certified = np.stack([np.asarray(x.solution.converged) for x in answers.values()]).all(0)
  if certified.any():
    total = np.where(certified, total, np.inf)
  by_start = total.reshape(count, -1)
  best = int(np.nanargmin(total))
  params = jax.tree.map(lambda x: x[best : best + 1], stacked)
  return Design(
      params=jax.tree.map(lambda x: np.asarray(x[0]), params),
      loss=float(total[best]),
      report=_report(model, params),
      start=best % by_start.shape[1],
      losses=by_start.min(0),
      history={name: found.history[name] for name in model.choices},
      active_set_changed=found.changes,
      skipped=found.skipped,
  )


def _report(model: Model, params: Any) -> tuple[Row, ...]:
  """Rows of one design, whose parameters have a leading axis of length 1."""
  answers = cases.solve_certified(model, params)
  strictness = jax.jit(functools.partial(_strictness, model))(params, answers)
  return tuple(
      Row(
          selection=name,
          loss=float(x.loss[0]),
          bound=float(x.bound[0]),
          gap=float(x.solution.gap[0]),
          certified=bool(x.solution.converged[0]),
          strictness=float(strictness[name][0]),
          joint=np.asarray(x.solution.joint[0]),
      )
      for name, x in ((name, answers[name]) for name in model.choices)
  )


def _strictness(model: Model, params: Any, answers: Mapping[str, Answers]) -> dict[str, Array]:
  """By selection [S], how far strict complementarity is from failing."""
  return {name: x.strictness for name, x in _active_sets(model, params, answers).items()}


def _active_sets(model: Model, params: Any, answers: Mapping[str, Answers]) -> dict[str, Active]:
  """Active sets of S designs by selection."""
  games = jax.vmap(model.payoffs)(params)
  return {
      name: active.batched_active_sets(games, x.solution, x.selection, model.concept)
      for name, x in answers.items()
  }
