"""Unsupervised training of the network: `init` and `update` (Marris et al. 2022, section 4, D.2).

Every update draws fresh games from the invariant sphere and whatever else the selection needs
(Table 3), and takes a step down the dual loss (7) of the duals that the network gives them. No
equilibrium is ever computed. Several shapes of games train one set of parameters in turn.

Glossary: B games of the global batch, b of them on this device, N players, A1, ..., AN strategies.
"""

from collections.abc import Mapping
import dataclasses
import functools
import math
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax
import optax.contrib

from nes_jax import dual, metrics, network
from nes_jax import selection as selections
from nes_jax.games import spheres
from nes_jax.invariance import NORMS, Norm, radius
from nes_jax.keys import example_keys
from nes_jax.types import Array, Problem

# Beside the rows of Table 3: everything at random, so that one network serves every selection.
ALL_INPUTS = "epsilon_max_welfare_min_relative_entropy"
SELECTIONS: tuple[str, ...] = selections.NAMES + (ALL_INPUTS,)
SCHEDULES: tuple[str, ...] = ("paper", "cosine")
OPTIMISERS: tuple[str, ...] = ("adam", "muon")
MOMENTS: tuple[str, ...] = ("batch", "inference")
# In place of a sphere's norm: the paper's ablation of invariant preprocessing.
UNIFORM = "uniform"

# The paper's factors on the learning rate, with the part of the run at which each ends; it ran
# for 1e7 updates.
_PAPER_FACTORS = ((0.01, 1.0), (0.1, 0.6), (0.4, 0.3), (0.7, 0.1), (1.0, 0.06))
# Adam's share of the learning rate, for what Muon leaves to it: scales and offsets.
_MUON_ADAM = 0.1

# Updates in a row that are skipped when they are not finite: all. Who trains sees their count.
_SKIPPED = 2**31 - 1

# Of the cosine schedule.
_WARM_UP = 0.02

# What `ALL_INPUTS` draws: a third of the targets is uniform, a third a flat Dirichlet's, a third
# one with little mass beside few joint strategies; half of the epsilons are 0, half uniform up to
# what a player gains against uniform play (negative ones, which most games do not allow, would be
# nearly all of the loss); a third of the welfare weights is 0, the rest log-uniform between these.
_EPSILON = 1.0
_SPARSE_CONCENTRATION = 0.1
_WELFARE_WEIGHTS = (0.1, 1e3)

# Of the games that `measure` draws.
_MEASURED_SEED = 2**31 - 2
_MEASURED_GAMES = 1024
_MEASURED_BATCH = 128
_LEAST_VARIANCE = 1e-12  # of a channel that never varies
_MEASURED_ENTRIES = 2**20  # of a player, at most: games of many strategies are fewer


@dataclasses.dataclass(frozen=True)
class Config:
  """How to train. Defaults are the paper's, but for the length of the run."""

  network: network.Config
  selection: str = "max_entropy"  # one of SELECTIONS
  shapes: tuple[tuple[int, ...], ...] = ((8, 8),)  # strategy counts, taken in turn
  batches: tuple[int, ...] = (4096,)  # B for each shape, over all devices
  updates: int = 100_000  # of the whole run; the schedule is stretched to it
  optimiser: str = "adam"  # one of OPTIMISERS; muon wants a learning rate near 2e-2
  learning_rate: float = 4e-4
  schedule: str = "paper"  # one of SCHEDULES
  clipping: float = 1e-3  # adaptive gradient clipping
  weight_decay: float = 1e-7
  rho: float = 1e5  # in place of an infinite one: keeps the loss bounded below
  # What batch normalisation normalises by in training: the batch's moments, or those of inference
  # (`measure`), held for a call of `cycles`: what is trained is then what ships, which rare games
  # with large activations can make another function. For networks that are trained already.
  moments: str = "batch"  # one of MOMENTS
  bend: float = math.inf  # above it a game's loss counts by its logarithm: tames wild games
  # Of the sphere that games are drawn from; UNIFORM: payoffs are U(-sqrt 3, sqrt 3), of unit
  # variance in the mean, and go in as drawn, neither centred nor scaled.
  norm: Norm | str = "l2"

  def __post_init__(self):
    shapes = tuple(tuple(shape) for shape in self.shapes)
    object.__setattr__(self, "shapes", shapes)
    object.__setattr__(self, "batches", tuple(self.batches))
    for field, allowed in (
        ("selection", SELECTIONS),
        ("optimiser", OPTIMISERS),
        ("schedule", SCHEDULES),
        ("moments", MOMENTS),
        ("norm", (*NORMS, UNIFORM)),
    ):
      if getattr(self, field) not in allowed:
        raise ValueError(f"{field}={getattr(self, field)!r} is not one of {', '.join(allowed)}")
    if not shapes or any(len(shape) < 2 or min(shape) < 1 for shape in shapes):
      raise ValueError(f"shapes={shapes}: give one or more, each of two or more players, as (8, 8)")
    if len(self.batches) != len(shapes) or min(self.batches) < 1:
      raise ValueError(f"batches={self.batches}: give one positive size for each of {len(shapes)}"
                       " shapes")
    needed = set(inputs(self.selection))
    if needed - set(self.network.inputs):
      raise ValueError(
          f"selection {self.selection!r} varies {sorted(needed)}, and the network sees only"
          f" {list(self.network.inputs)}: network.Config(inputs={sorted(needed)})"
      )
    if self.moments == "inference" and self.network.norm != "batch":
      raise ValueError(f"moments='inference': norm {self.network.norm!r} has none: take 'batch'")
    if not self.bend > 0:
      raise ValueError(f"bend={self.bend} must be positive; infinity leaves the loss as it is")
    for field in ("updates", "learning_rate", "clipping", "rho"):
      if not 0 < getattr(self, field) < math.inf:
        raise ValueError(f"{field}={getattr(self, field)} must be positive and finite")

  def to_dict(self) -> dict[str, Any]:
    """Plain lists, strings and numbers, for JSON."""
    fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    return fields | {
        "network": self.network.to_dict(),
        "shapes": [list(shape) for shape in self.shapes],
        "batches": list(self.batches),
    }

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> "Config":
    """Inverse of `to_dict`. Raises ValueError on a field that does not exist."""
    network.check_fields(cls, fields)
    return cls(**{**fields, "network": network.Config.from_dict(fields["network"])})


class State(NamedTuple):
  """All that training changes."""

  params: hk.Params
  optimiser: optax.OptState
  step: Array  # [] int32, updates done


def shape_name(shape: tuple[int, ...]) -> str:
  """(8, 8) -> "8x8"."""
  return "x".join(map(str, shape))


def inputs(selection: str) -> tuple[str, ...]:
  """Which of `network.INPUTS` differ from game to game under a selection."""
  if selection == ALL_INPUTS:
    return network.INPUTS
  return {row.name: row.needs for row in selections.TABLE}[selection]


# Data.


def sample(
    keys: Array, selection: str, shape: tuple[int, ...], rho: float, norm: Norm | str = "l2"
) -> Problem:
  """Draws one problem a key, as Table 3 has it: keys [b] -> Problem with leading axes [b].

  Args:
    keys: [b] typed PRNG keys.
    selection: one of SELECTIONS.
    shape: (A1, ..., AN).
    rho: takes the place of an infinite one.
    norm: of the sphere, or UNIFORM.
  """
  return jax.vmap(lambda key: _sample_one(key, selection, shape, rho, norm))(keys)


def _sample_one(key, selection, shape, rho, norm) -> Problem:
  game_key, target_key, epsilon_key, welfare_key, mix_key = jax.random.split(key, 5)
  naive, norm = norm == UNIFORM, "l2" if norm == UNIFORM else norm
  payoffs = spheres.sample(game_key, 1, shape, norm)[0]
  if naive:
    limit = math.sqrt(3)
    payoffs = jax.random.uniform(game_key, payoffs.shape, minval=-limit, maxval=limit)
  z = radius(math.prod(shape))
  draws = {
      "target": lambda: _dirichlet(target_key, 1.0, shape),
      "epsilon": lambda: jax.random.uniform(epsilon_key, (len(shape),), minval=-z, maxval=z),
      "welfare": lambda: spheres.sample(welfare_key, 1, shape, norm)[0, 0],
  }
  values = {name: draws[name]() for name in inputs(selection)}
  if selection == ALL_INPUTS:
    chosen = selections.Selection(**_mix(mix_key, values))
  else:
    chosen = selections.named(selection, payoffs, player_axis=0, **values)
  if math.isinf(chosen.rho):
    chosen = dataclasses.replace(chosen, rho=rho)
  problem = selections.problem(payoffs, chosen)[0]
  return dataclasses.replace(problem, payoffs=payoffs) if naive else problem


def _dirichlet(key: Array, concentration: float, shape: tuple[int, ...]) -> Array:
  return jax.random.dirichlet(key, jnp.full(math.prod(shape), concentration)).reshape(shape)


def _mix(key: Array, values: Mapping[str, Array]) -> dict[str, Array]:
  """The draws of ALL_INPUTS: inputs at random, and often what a named selection has instead."""
  kind_key, sparse_key, epsilon_key, weight_key = jax.random.split(key, 4)
  target = values["target"]
  kind = jax.random.randint(kind_key, (), 0, 3)
  sparse = _dirichlet(sparse_key, _SPARSE_CONCENTRATION, target.shape)
  target = jnp.stack([jnp.full_like(target, 1 / target.size), target, sparse])[kind]
  exact = jax.random.bernoulli(epsilon_key)
  low, high = map(math.log, _WELFARE_WEIGHTS)
  # The lower half of the range stands for no welfare at all.
  position = jax.random.uniform(weight_key, minval=low - (high - low) / 2, maxval=high)
  return {
      "target": target,
      "epsilon": jnp.where(exact, 0, _EPSILON * jnp.abs(values["epsilon"]) / radius(target.size)),
      "welfare": values["welfare"],
      "welfare_weight": jnp.where(position < low, 0, jnp.exp(position)),
  }


# Training.


def init(key: Array, config: Config) -> State:
  """Fresh parameters, scaled on a batch of the first shape."""
  draw_key, network_key = jax.random.split(key)
  keys = example_keys(draw_key, min(config.batches[0], 1024))
  problem = sample(keys, config.selection, config.shapes[0], config.rho, config.norm)
  params = network.init(network_key, config.network, problem).params
  return State(params, _optimiser(config).init(params), jnp.zeros((), jnp.int32))


@functools.partial(jax.jit, static_argnums=(1, 2))
def measure(params: hk.Params, config: Config, shape: tuple[int, ...]) -> hk.State:
  """Moments for inference on games of one shape, from fixed draws of such games.

  They take the place of averages that run along with training: those are of parameters that have
  moved since, and of one shape only. As in training they are those of batches; averaged over
  batches, variances by their logarithms, since rare games have far larger activations.
  """
  games = min(_MEASURED_GAMES, max(_MEASURED_ENTRIES // math.prod(shape), 1))
  batch = min(_MEASURED_BATCH, games)
  keys = example_keys(jax.random.key(_MEASURED_SEED), games // batch * batch)

  def moments(keys):
    problem = sample(keys, config.selection, shape, config.rho, config.norm)
    variables = network.Variables(params, {})
    return network.apply(variables, config.network, problem, is_training=True)[1]

  batches = jax.lax.map(moments, keys.reshape(-1, batch))
  return {
      module: {
          "mean": kept["mean"].mean(0),
          "variance": jnp.exp(jnp.log(kept["variance"] + _LEAST_VARIANCE).mean(0)),
      }
      for module, kept in batches.items()
  }


def inference(params: hk.Params, config: Config, shape: tuple[int, ...]) -> network.Variables:
  """What inference on games of one shape needs, trained on or not."""
  measured = measure(params, config, shape) if config.network.norm == "batch" else {}
  return network.Variables(params, measured)


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
      # A loss, as in the paper: it goes through the optimiser.
      optax.add_decayed_weights(config.weight_decay),
      steps,
  )
  return optax.apply_if_finite(chain, _SKIPPED)


def loss(
    params: hk.Params,
    config: network.Config,
    problem: Problem,
    axis_name: str | None = None,
    bend: float = math.inf,
    moments: hk.State | None = None,
) -> tuple[Array, dict[str, Array]]:
  """Mean over games of the loss (7), each divided by max(1, mu) as in `metrics.residual`.

  A game's loss x above `bend` counts as bend (1 + log(x / bend)), which moves no game's minimum:
  duals that are large and wrong, which a CE's may be, would drown all other games.

  Batches are normalised by `moments`, or by their own.

  Returns:
    The loss, and metrics: the mean (C)CE gap in normalised units.
  """
  variables = network.Variables(params, {} if moments is None else moments)
  duals, _ = network.apply(
      variables, config, problem, is_training=moments is None, axis_name=axis_name
  )

  def one(problem, duals):
    value = dual.loss(problem, duals, config.concept)
    value = value / jnp.maximum(problem.welfare_weight, 1)
    fixed = jax.lax.stop_gradient(duals)
    joint = dual.joint(problem, fixed, config.concept)
    gap = metrics.gap(problem.payoffs, joint, dual.epsilon(problem, fixed), config.concept)
    return value, gap

  values, gaps = jax.vmap(one)(problem, duals)
  if not math.isinf(bend):
    high = values > bend
    values = jnp.where(high, bend * (1 + jnp.log(jnp.where(high, values, bend) / bend)), values)
  return values.mean(), {"gap": gaps.mean()}


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
    state: from `init`, or an update before.
    key: of the whole run; the state's step makes the key of this update from it.
    config: static under jit.
    index: which of config.shapes; static.
    axis_name: of the devices that share the batch; None: there is one.
    moments: to normalise by; None: those of the batch.

  Returns:
    The new state, and metrics: "loss", "gap", "gradient" (its norm), means over all games; NaN of
    an update that was skipped.
  """
  keys = example_keys(jax.random.fold_in(key, state.step), config.batches[index], axis_name)
  problem = sample(keys, config.selection, config.shapes[index], config.rho, config.norm)
  differentiate = jax.value_and_grad(loss, has_aux=True)
  (value, extra), gradient = differentiate(
      state.params, config.network, problem, axis_name, config.bend, moments
  )
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


# Evaluation.


def evaluate(
    variables: network.Variables, config: network.Config, problem: Problem, reference: Array
) -> dict[str, Array]:
  """How far the network's answers are from right, with the statistics that inference uses.

  Args:
    variables: of the network.
    config: of the network.
    problem: held-out problems, leading axis [B].
    reference: [B, A1, ..., AN], their equilibria.

  Returns:
    [B] each: "solver_gap" (half the L1 distance of the joints), "gap" ((C)CE gap, normalised
    units), "loss".
  """
  duals = network.infer(variables, config, problem)

  def one(problem, duals, reference):
    joint = dual.joint(problem, duals, config.concept)
    epsilon = dual.epsilon(problem, duals)
    return {
        "solver_gap": metrics.solver_gap(joint, reference),
        "gap": metrics.gap(problem.payoffs, joint, epsilon, config.concept),
        "loss": dual.loss(problem, duals, config.concept),
    }

  return jax.vmap(one)(problem, duals, reference)
