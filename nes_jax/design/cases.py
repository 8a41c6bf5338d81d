"""Selections that are solved side by side, and the objective for derivatives of a case.

Glossary: S designs, such as starts of a descent; K selections.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import math
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from nes_jax import deviation, invariance
from nes_jax import selection as selections
from nes_jax.selection import Selection
from nes_jax.solving.solve import solve
from nes_jax.types import Array, Concept, Solution

Loss: TypeAlias = Callable[[Array, Array, Any], Array]
Choice: TypeAlias = str | Selection | Callable[[Array, Any], Selection]

# Selections that are made from the loss: the equilibrium with the smallest and the largest loss.
BEST_CASE = "best_case"
WORST_CASE = "worst_case"
CASES: dict[str, float] = {BEST_CASE: -1.0, WORST_CASE: 1.0}
DEFAULTS: tuple[str, ...] = (BEST_CASE, "max_entropy", WORST_CASE)

# A loss is not affine if its derivatives at two joints differ by more than this, relatively.
_AFFINE = 1e-6


class Model(NamedTuple):
  """A design problem: all that stays the same while parameters change."""

  loss: Loss
  payoffs: Callable[[Any], Array]
  choices: Mapping[str, Choice]
  concept: Concept
  epsilon: float = 0.0  # gains that no player deviates for, in payoff units


class Answers(NamedTuple):
  """Equilibria of S designs under one selection."""

  solution: Solution  # with a leading axis S
  loss: Array  # [S] the loss at the joint
  # [S] Objective of a descent. It equals the loss, and has the derivative of `case_objective`
  # for the best and the worst case, and that of the implicit function theorem otherwise.
  objective: Array
  bound: Array  # [S] bound on the loss of any equilibrium, from the duals; NaN for other selections
  selection: Selection  # with arrays [S, ...]


def named_choices(given: Sequence[Choice] | Mapping[str, Choice]) -> dict[str, Choice]:
  """Selections by name. Raises ValueError for unknown names and for unnamed selections."""
  if isinstance(given, str):
    given = (given,)
  if not isinstance(given, Mapping):
    unnamed = [x for x in given if not isinstance(x, str)]
    if unnamed:
      raise ValueError(
          "selections that are no names need names: pass selections={'mine':"
          " nes_jax.Selection(...)}"
      )
    given = {str(x): x for x in given}
  if not given:
    raise ValueError("selections are empty: give one or more")
  for name, choice in given.items():
    if isinstance(choice, str) and choice not in CASES:
      known = {x for row in selections.TABLE for x in (row.name, row.abbreviation)}
      if choice not in known:
        raise ValueError(
            f"selection {name!r} is the unknown name {choice!r}; use one of"
            f" {', '.join((*CASES, *selections.NAMES))}"
        )
    elif not isinstance(choice, str | Selection) and not callable(choice):
      raise ValueError(
          f"selection {name!r} is neither a name, nor a nes_jax.Selection, nor a function of"
          f" (payoffs, params) that returns one: {choice!r}"
      )
  return dict(given)


def check(model: Model, params: Any) -> None:
  """Tries the functions of a model on one design, unbatched. Raises ValueError.

  Payoffs must be those of one game, the loss must be a scalar, and with a best or a worst case it
  must be affine in the joint.
  """
  games = jax.jit(model.payoffs)(params)
  if games.ndim < 3 or games.shape[0] != games.ndim - 1 or 0 in games.shape:
    raise ValueError(
        "payoffs(params) must return one game [N, A1, ..., AN] with N >= 2 players, not an array"
        f" {list(games.shape)}"
    )
  shape = games.shape[1:]
  uniform = jnp.full(shape, 1 / math.prod(shape), games.dtype)
  value = jnp.asarray(jax.jit(model.loss)(uniform, games, params))
  if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
    raise ValueError(
        "loss(joint, payoffs, params) must return one real number, not an array"
        f" {list(value.shape)} of {value.dtype}"
    )
  if not bool(jnp.isfinite(games).all()) or not bool(jnp.isfinite(value)):
    raise ValueError("payoffs or loss are not finite at the params given")
  for name in model.choices:
    jax.eval_shape(lambda g, x, name=name: choose(model, name, g, x, 1.0), games, params)
  if not any(isinstance(x, str) and x in CASES for x in model.choices.values()):
    return
  slope = jax.jit(jax.grad(model.loss))
  weights = jnp.arange(1.0, uniform.size + 1, dtype=games.dtype).reshape(shape)
  at, other = (slope(x, games, params) for x in (uniform, weights / weights.sum()))
  if bool(jnp.abs(at - other).max() > _AFFINE * (1 + jnp.abs(at).max())):
    raise ValueError(
        "best_case and worst_case need a loss that is affine in the joint, such as an expected"
        " cost: leave them out, or give a function of (payoffs, params) that returns a"
        " nes_jax.Selection with the welfare that is meant"
    )


def case_objective(
    loss: Loss, sign: Array | float, joint: Array, forces: Any, concept: Concept
) -> Callable[[Array, Any], Array]:
  """The Lagrangian of a case at a fixed optimum, as a function of (payoffs, params).

  The worst case of a loss l(sigma) = c . sigma + d, with the temperature T of its selection, is

    V = max over sigma of  c . sigma + d - T KL(sigma || uniform)   subject to  A sigma <= epsilon

  and by the envelope theorem (Danskin 1966) its derivative in a parameter theta is that of the
  Lagrangian with optimum sigma* and multipliers beta held fixed:

    dV/dtheta = (dc/dtheta) . sigma* + dd/dtheta - beta . (dA/dtheta) sigma*

  For the best case, a minimum, the last sign is +. At T = 0 this is the derivative of the linear
  program's value wherever it has one. The joint's own derivative is not needed, which is as well:
  at a vertex of the polytope it is determined by the binding constraints alone.

  Args:
    loss: the loss, affine in the joint.
    sign: 1 for the worst case, -1 for the best.
    joint: [A1, ..., AN] sigma*.
    forces: blocks beta of multipliers, in units of the loss over units of the payoffs.
    concept: "cce" or "ce".
  """
  joint, forces = jax.lax.stop_gradient((joint, forces))

  def objective(payoffs, params):
    gains = deviation.gains(payoffs, joint, concept)
    work = sum(jnp.sum(force * gain) for force, gain in zip(forces, gains))
    # The term is 0 at the optimum; only its derivative counts.
    return loss(joint, payoffs, params) - sign * (work - jax.lax.stop_gradient(work))

  return objective


def choose(model: Model, name: str, payoffs: Array, params: Any, weight: Any) -> Selection:
  """The selection that a name of a model's choices stands for, in one game [N, A1, ..., AN]."""
  choice = model.choices[name]
  if isinstance(choice, str) and choice in CASES:
    shape = payoffs.shape[1:]
    uniform = jnp.full(shape, 1 / math.prod(shape), payoffs.dtype)
    cost = jax.grad(model.loss)(uniform, payoffs, params)
    return Selection(
        epsilon=model.epsilon, welfare=CASES[choice] * cost, welfare_weight=weight
    )
  if isinstance(choice, str):
    inputs = {} if choice in ("max_strength", "MS") else {"epsilon": model.epsilon}
    return selections.named(choice, payoffs, player_axis=0, **inputs)
  return choice if isinstance(choice, Selection) else choice(payoffs, params)


def is_case(model: Model, name: str) -> bool:
  """Whether a name stands for the best or the worst case of the loss."""
  choice = model.choices[name]
  return isinstance(choice, str) and choice in CASES


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
  """Games and selections of S designs that one call of `nes_jax.solve` solves."""

  payoffs: Array  # [len(names) * S, N, A1, ..., AN]
  selection: Selection  # with arrays [len(names) * S, ...]
  names: tuple[str, ...] = dataclasses.field(metadata={"static": True})


def batches(
    model: Model, params: Any, weight: Any, differentiate: Sequence[str]
) -> tuple[list[Batch], Array]:
  """Puts S designs under all K selections into as few batches as possible. Traceable.

  Selections with the same static fields go in one batch. The cases, and the selections that are
  not differentiated, are in batches without derivatives.

  Args:
    model: the design problem.
    params: parameters with a leading axis S.
    weight: welfare weight of the cases; infinity gives linear programs.
    differentiate: names of the selections whose objectives are differentiated.

  Returns:
    The batches, and the payoffs [S, N, A1, ..., AN].
  """
  payoffs = jax.vmap(model.payoffs)(params)
  groups: dict[Any, list[tuple[str, Array, Selection]]] = {}
  for name in model.choices:
    still = is_case(model, name) or name not in differentiate
    games, x = jax.lax.stop_gradient((payoffs, params)) if still else (payoffs, params)
    selection = jax.vmap(functools.partial(_chosen, model, name, weight))(games, x)
    key = still, selection.rho, selection.epsilon_max
    groups.setdefault(key, []).append((name, games, selection))
  result = []
  for members in groups.values():
    names, parts, chosen = zip(*members)
    stacked = jax.tree.map(lambda *x: jnp.concatenate(x), *chosen)
    result.append(Batch(jnp.concatenate(parts), stacked, tuple(names)))
  return result, payoffs


def solve_traced(
    model: Model, params: Any, weight: Any, differentiate: Sequence[str]
) -> dict[str, Answers]:
  """Equilibria of S designs under all K selections, by name. Arguments are those of `batches`."""
  given, payoffs = batches(model, params, weight, differentiate)
  found = [_solve(model, batch) for batch in given]
  return _all_answers(model, params, payoffs, given, found)


def solve_certified(model: Model, params: Any) -> dict[str, Answers]:
  """Equilibria of S concrete designs under all K selections, without derivatives, in float64.

  The cases are linear programs: their welfare weight is infinite. Needs JAX's x64 mode. Games that
  have failed are tried once more, which the traced call does not do.
  """
  prepare = jax.jit(lambda x: batches(model, x, jnp.inf, ()))
  finish = jax.jit(functools.partial(_all_answers, model))
  given, payoffs = prepare(params)
  found = [_solve(model, batch) for batch in given]
  return finish(params, payoffs, given, found)


def _solve(model: Model, batch: Batch) -> Solution:
  found = solve(
      batch.payoffs, concept=model.concept, selection=batch.selection, batched=True
  )
  assert isinstance(found, Solution)  # payoffs are one array
  return found


def _all_answers(
    model: Model, params: Any, payoffs: Array, given: Sequence[Batch], found: Sequence[Solution]
) -> dict[str, Answers]:
  """Cuts batches into the answers of each selection, in the order of the choices."""
  count = len(payoffs)
  answers = {}
  for batch, solutions in zip(given, found):
    for k, name in enumerate(batch.names):
      part = slice(k * count, (k + 1) * count)
      solution, selection = jax.tree.map(
          lambda x, part=part: x[part], (solutions, batch.selection)
      )
      answers[name] = _answers(model, name, payoffs, params, solution, selection)
  return {name: answers[name] for name in model.choices}


def _chosen(model: Model, name: str, weight: Any, payoffs: Array, params: Any) -> Selection:
  """`choose` with an array in every field, so that different selections can be stacked."""
  return _filled(choose(model, name, payoffs, params, weight), payoffs)


def _filled(selection: Selection, payoffs: Array) -> Selection:
  """A selection of one game with an array in every field."""
  shape, dtype = payoffs.shape[1:], payoffs.dtype
  size = math.prod(shape)

  def filled(value, default, to):
    return jnp.broadcast_to(jnp.asarray(default if value is None else value, dtype), to)

  return Selection(
      target=filled(selection.target, 1 / size, shape),
      epsilon=filled(selection.epsilon, 0.0, (len(shape),)),
      welfare=filled(selection.welfare, 0.0, shape),
      welfare_weight=filled(
          None if selection.welfare is None else selection.welfare_weight, 1.0, ()
      ),
      rho=selection.rho,
      epsilon_max=selection.epsilon_max,
  )


def _answers(
    model: Model, name: str, payoffs: Array, params: Any, solution: Solution, selection: Selection
) -> Answers:
  """Losses, objectives and bounds of S designs under one selection."""
  loss = jax.vmap(model.loss)(solution.joint, payoffs, params)
  if not is_case(model, name):
    bound = jnp.full(loss.shape, jnp.nan, loss.dtype)
    return Answers(solution, loss, loss, bound, selection)
  sign = CASES[str(model.choices[name])]

  def one(game, params, joint, duals, welfare, weight):
    scale = invariance.normalise(welfare).scale
    # Duals are those of weight * welfare / scale - KL; the loss is in units of the welfare.
    unit = jnp.where(jnp.isinf(weight), scale, scale / jnp.where(jnp.isinf(weight), 1, weight))
    forces = tuple(unit * x for x in duals)
    objective = case_objective(model.loss, sign, joint, forces, model.concept)(game, params)
    taken = deviation.logits(game, forces, model.concept)
    value = model.loss(joint, game, params)
    # The loss is sign * welfare . sigma + constant; weak duality bounds welfare . sigma.
    constant = value - sign * jnp.sum(welfare * joint)
    allowed = model.epsilon * sum(jnp.sum(x) for x in forces)
    bound = constant + sign * ((welfare - taken).max() + allowed)
    return objective, jax.lax.stop_gradient(bound)

  objective, bound = jax.vmap(one)(
      payoffs, params, solution.joint, solution.duals, selection.welfare, selection.welfare_weight
  )
  return Answers(solution, loss, objective, bound, selection)


def aggregate(losses: Mapping[str, Array], how: str) -> Array:
  """The number that a descent makes small: the largest loss, the mean, or that of a selection."""
  if how in losses:
    return losses[how]
  values = jnp.stack(list(losses.values()))
  return values.max(0) if how == "largest" else values.mean(0)


def resolve_aggregate(choices: Mapping[str, Choice], how: str) -> str:
  """The aggregate that a name stands for. Raises ValueError for an unknown one.

  The largest loss is that of the worst case wherever this is among the selections, so that only it
  need be differentiated.
  """
  if how in choices:
    return how
  if how not in ("largest", "mean"):
    raise ValueError(
        f"unknown aggregate {how!r}; use 'largest', 'mean' or the name of a selection:"
        f" {', '.join(choices)}"
    )
  worst = [x for x, choice in choices.items() if isinstance(choice, str) and choice == WORST_CASE]
  return worst[0] if worst and how == "largest" else how
