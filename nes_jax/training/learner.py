"""Training of the network: `init` and `update` (Marris et al. 2022, section 4, D.2).

Every update draws fresh games from the invariant sphere and whatever else the selection needs
(Table 3), and takes a step down the dual loss (7) of the duals that the network gives them, for
which no equilibrium is computed; or down the distance of the network's answers from those of the
exact engine. Several shapes of games train one set of parameters in turn.

Glossary: B games of the global batch, b of them on this device, N players, A1, ..., AN strategies.
"""

import math
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax
import optax.contrib

from nes_jax import dual, metrics, network
from nes_jax.keys import example_keys
from nes_jax.network import rounds
from nes_jax.training import labels, problems
from nes_jax.training.config import Config, shape_name
from nes_jax.training.moments import measure
from nes_jax.types import Array, Problem

# The paper's factors on the learning rate, with the part of the run at which each ends. Its run had
# 1e7 updates.
_PAPER_FACTORS = ((0.01, 1.0), (0.1, 0.6), (0.4, 0.3), (0.7, 0.1), (1.0, 0.06))
# Adam's share of the learning rate where Muon leaves parameters to Adam: scales and offsets.
_MUON_ADAM = 0.1
# Part of the run in which the cosine schedule warms up.
_WARM_UP = 0.02
# Number that the loss with labels adds to duals, in the network's units, before it takes their
# logarithms. Duals far below it count as equal.
_LEAST_DUAL = 0.01
# Updates in a row that may be skipped for not being finite: any number. The program that trains
# sees their count.
_SKIPPED = 2**31 - 1
# Largest number of games on which parameters are initialised.
_INITIAL_GAMES = 1024


class State(NamedTuple):
  """State of a training."""

  params: hk.Params
  optimiser: optax.OptState
  step: Array  # [] int32, updates done


def init(key: Array, config: Config) -> State:
  """Fresh parameters, scaled on a batch of the first shape."""
  draw_key, network_key = jax.random.split(key)
  keys = example_keys(draw_key, min(config.batches[0], _INITIAL_GAMES))
  problem = problems.sample(
      keys, config.selection, config.shapes[0], config.rho, config.sphere
  )
  params = network.init(network_key, config.network, problem).params
  return State(params, _optimiser(config).init(params), jnp.zeros((), jnp.int32))


def _optimiser(config: Config) -> optax.GradientTransformation:
  if config.schedule == "paper":
    boundaries, before = {}, 1.0
    for (end, _), (_, after) in zip(_PAPER_FACTORS, _PAPER_FACTORS[1:]):
      boundaries[int(end * config.updates)] = after / before
      before = after
    schedule = optax.piecewise_constant_schedule(config.learning_rate, boundaries)
  else:
    warm_up = max(1, int(_WARM_UP * config.updates))
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, warm_up, max(config.updates, warm_up + 1)
    )
  if config.optimiser == "muon":
    steps = optax.contrib.muon(
        schedule, adam_learning_rate=lambda step: _MUON_ADAM * schedule(step)
    )
  else:
    steps = optax.adam(schedule)
  chain = optax.chain(
      optax.adaptive_grad_clip(config.clipping),
      # The decay is a loss, as in the paper, and goes through the optimiser.
      optax.add_decayed_weights(config.weight_decay),
      steps,
  )
  return optax.apply_if_finite(chain, _SKIPPED)


def loss(
    params: hk.Params,
    config: Config,
    problem: Problem,
    axis_name: str | None = None,
    moments: hk.State | None = None,
) -> tuple[Array, dict[str, Array]]:
  """Mean over games of the loss (7), or of the distance to labels (`_label_loss`).

  A loss x of a game above c = `config.log_loss_above` counts as c (1 + log(x / c)), which moves no
  game's minimum. Without it, duals that are large and wrong, which a CE's may be, drown all other
  games.

  Activations are normalised by `moments`, or by those of the batch where there are none.

  Returns:
    The loss, and metrics: the mean (C)CE gap in normalised units.
  """
  variables = network.Variables(params, {} if moments is None else moments)
  answers, _ = network.apply(
      variables, config.network, problem, is_training=moments is None, axis_name=axis_name
  )
  concept, above = config.network.concept, config.log_loss_above

  def gap(problem, answer):
    epsilon = dual.epsilon(problem, answer.duals)
    return metrics.gap(problem.payoffs, jnp.exp(answer.log_joint), epsilon, concept)

  gaps = jax.vmap(gap)(problem, jax.lax.stop_gradient(answers))
  if config.loss == "labels":
    values = _label_loss(answers, problem, config)
  else:
    values = jax.vmap(lambda x, y: dual.loss(x, y, concept))(problem, answers.duals)
  if not math.isinf(above):
    high = values > above
    ratio = jnp.where(high, values, above) / above
    values = jnp.where(high, above * (1 + jnp.log(ratio)), values)
  return values.mean(), {"gap": gaps.mean()}


def _label_loss(answers: network.Answer, problem: Problem, config: Config) -> Array:
  """KL(sigma* || sigma) of each game [B], and the error of the duals' logarithms.

  sigma* is the exact engine's joint. The gradient of the divergence with respect to duals from
  which the joint follows is (A sigma* - A sigma) / tau. A game that the engine does not solve has
  a loss of 0.
  """
  wanted = labels.solve(problem, config)
  positive = wanted.joint > 0
  log_label = jnp.log(jnp.where(positive, wanted.joint, 1))
  terms = jnp.where(positive, wanted.joint * (log_label - answers.log_joint), 0)
  values = terms.reshape(len(terms), -1).sum(1)
  if config.label_duals:
    scale = network.features(problem, config.network).scale
    given, duals = (rounds.in_units(x, 1 / scale) for x in (answers.duals, wanted.duals))
    errors = list(map(_log_error, given, duals))
    values = values + config.label_duals * sum(errors) / len(errors)
  return jnp.where(wanted.solved, values, 0)


def _log_error(duals: Array, wanted: Array) -> Array:
  """Mean square error [B] of log(duals + _LEAST_DUAL), for blocks [B, ...]."""
  error = jnp.log(duals + _LEAST_DUAL) - jnp.log(wanted + _LEAST_DUAL)
  return jnp.mean(error**2, tuple(range(1, duals.ndim)))


def update(
    state: State,
    key: Array,
    config: Config,
    index: int = 0,
    axis_name: str | None = None,
    moments: hk.State | None = None,
) -> tuple[State, dict[str, Array]]:
  """One step on fresh games of one shape.

  Where the loss or its gradient is not finite, parameters stay as they are, the next update draws
  other games, and the optimiser's state counts it (`optax.apply_if_finite`).

  Args:
    state: the state from `init` or from the update before.
    key: PRNG key of the whole run; the state's step makes the key of this update from it.
    config: settings; static under jit.
    index: position in config.shapes of the shape of the games; static.
    axis_name: mapped axis of the devices that share the batch; None: there is one.
    moments: moments to normalise by; None: those of the batch.

  Returns:
    The new state, and metrics: "loss", "gap", "gradient" (its norm), means over all games; NaN of
    an update that was skipped.
  """
  keys = example_keys(jax.random.fold_in(key, state.step), config.batches[index], axis_name)
  problem = problems.sample(
      keys, config.selection, config.shapes[index], config.rho, config.sphere
  )
  differentiate = jax.value_and_grad(loss, has_aux=True)
  (value, extra), gradient = differentiate(state.params, config, problem, axis_name, moments)
  report = {"loss": value, **extra}
  if axis_name is not None:
    gradient, report = jax.lax.pmean((gradient, report), axis_name)
  report["gradient"] = optax.global_norm(gradient)
  gradient = jax.tree.map(lambda x: jnp.where(jnp.isfinite(report["loss"]), x, jnp.nan), gradient)
  step, optimiser = _optimiser(config).update(gradient, state.optimiser, state.params)
  report = jax.tree.map(lambda x: jnp.where(optimiser.last_finite, x, jnp.nan), report)
  return State(optax.apply_updates(state.params, step), optimiser, state.step + 1), report


def cycles(
    state: State, key: Array, config: Config, count: int, axis_name: str | None = None
) -> tuple[State, dict[str, dict[str, Array]]]:
  """`count` rounds of one update for each shape, in one scan.

  Returns:
    The new state, and for each shape, named as "8x8", its metrics averaged over the rounds that
    were not skipped.
  """
  names = list(map(shape_name, config.shapes))
  moments = dict.fromkeys(names)
  if config.moments == "inference":
    moments = {
        name: measure(state.params, config, shape) for name, shape in zip(names, config.shapes)
    }

  def cycle(state, _):
    reports = {}
    for index, name in enumerate(names):
      state, reports[name] = update(state, key, config, index, axis_name, moments[name])
    return state, reports

  state, reports = jax.lax.scan(cycle, state, length=count)
  return state, jax.tree.map(lambda x: jnp.nanmean(x, 0), reports)


def evaluate(
    variables: network.Variables, config: network.Config, problem: Problem, reference: Array
) -> dict[str, Array]:
  """Errors of the network's answers, with the moments that inference uses.

  Args:
    variables: parameters and moments of the network.
    config: configuration of the network.
    problem: held-out problems, leading axis [B].
    reference: [B, A1, ..., AN], their equilibria.

  Returns:
    [B] each: "solver_gap" (half the L1 distance of the joints), "gap" ((C)CE gap, normalised
    units), "loss".
  """
  answers = network.infer(variables, config, problem)

  def one(problem, answer, reference):
    duals, joint = answer.duals, jnp.exp(answer.log_joint)
    epsilon = dual.epsilon(problem, duals)
    return {
        "solver_gap": metrics.solver_gap(joint, reference),
        "gap": metrics.gap(problem.payoffs, joint, epsilon, config.concept),
        "loss": dual.loss(problem, duals, config.concept),
    }

  return jax.vmap(one)(problem, answers, reference)
