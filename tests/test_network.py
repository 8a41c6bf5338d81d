"""nes_jax.network: parameter counts, equivariances, normalisation, NumPy references of layers."""

import dataclasses
import functools
import json
import math

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nes_jax import dual, network, selection
from nes_jax.network import layers, model, newton, pooling, rounds

CONCEPTS = ["cce", "ce"]
INPUTS = ("target", "epsilon", "welfare")
SMALL = {"payoff_channels": (5,), "dual_channel": 6, "dual_channels": (4,)}
PERMUTATIONS = [
    ((3, 3), (1, 0)),
    ((2, 4), (1, 0)),
    ((3, 3, 3), (1, 2, 0)),
    ((2, 3, 2), (2, 1, 0)),
    ((2, 2, 3, 2), (3, 0, 2, 1)),
]
BATCH = 6


def quick_options():
  """Options with which a network that runs once compiles in an eighth of the time, or None."""
  options = {
      "xla_backend_optimization_level": 0,
      "xla_cpu_use_fusion_emitters": False,
      "xla_cpu_parallel_codegen_split_count": 1,
  }
  try:
    jax.jit(lambda x: x + 1, compiler_options=options)(1.0)
  except Exception:  # another version of XLA, or no CPU
    return None
  return options


compiled = functools.partial(jax.jit, compiler_options=quick_options())
init = compiled(network.init, static_argnums=1)
apply = compiled(network.apply, static_argnums=1, static_argnames="is_training")
infer = compiled(network.infer, static_argnums=1, static_argnames="entries")


def inputs_of(shape, batch, seed=0):
  """A selection in which every input varies, as NumPy arrays."""
  rng = np.random.default_rng(seed)
  return {
      "target": rng.dirichlet(np.ones(math.prod(shape)), size=batch).reshape((batch,) + shape),
      "epsilon": rng.uniform(-1, 1, size=(batch, len(shape))),
      "welfare": rng.normal(size=(batch,) + shape),
      "welfare_weight": np.ones(batch),
  }


def normalised(payoffs, chosen):
  """Problems of payoffs [B, N, A1, ..., AN] and selections."""

  def one(payoffs, chosen):
    return selection.problem(payoffs, selection.Selection(**chosen, rho=1e4))[0]

  return jax.vmap(one)(payoffs, jax.tree_util.tree_map(jnp.float32, chosen))


_normalised = compiled(normalised)


def random_payoffs(shape, batch=BATCH, seed=0):
  return np.random.default_rng(seed + 100).normal(size=(batch, len(shape)) + shape)


def make(shape, batch=BATCH, seed=0, payoffs=None, **fields):
  """A batch of problems in which every input varies."""
  payoffs = random_payoffs(shape, batch, seed) if payoffs is None else payoffs
  return _normalised(jnp.float32(payoffs), {**inputs_of(shape, batch, seed), **fields})


@functools.cache
def ready(concept, **fields):
  """A small configuration and its variables; shapes of the games do not matter to them."""
  config = network.Config(concept, **{**SMALL, "inputs": INPUTS, **fields})
  variables = init(jax.random.key(1), config, make((3, 3)))
  # The scale and offset of a trained network are not those that undo a normalisation.
  rng = np.random.default_rng(2)
  def jiggle(x):
    return x * np.float32(1 + 0.1 * rng.normal(size=x.shape))
  return config, variables._replace(params=jax.tree_util.tree_map(jiggle, variables.params))


@functools.partial(compiled, static_argnums=2)
def joints(problem, duals, concept):
  return jax.vmap(lambda problem, duals: dual.joint(problem, duals, concept))(problem, duals)


def permute(problem, orders, players):
  """Renumbers strategies, orders[p] of player p, then players: new player p is old players[p]."""
  n = len(orders)

  def joint(x):  # [B, A1, ..., AN]
    x = np.asarray(x)
    for p, order in enumerate(orders):
      x = np.take(x, order, axis=1 + p)
    return np.moveaxis(x, [1 + q for q in players], range(1, n + 1))

  return dataclasses.replace(
      problem,
      payoffs=np.stack([joint(problem.payoffs[:, q]) for q in players], axis=1),
      target=joint(problem.target),
      welfare=joint(problem.welfare),
      epsilon=np.asarray(problem.epsilon)[:, list(players)],
      epsilon_max=np.asarray(problem.epsilon_max)[:, list(players)],
  )


# Parameters


def test_paper_parameter_count():
  config = network.Config("cce")
  assert config.payoff_channels == (32, 32, 32, 32) and config.dual_channel == 64
  assert [len(x) for x in (config.payoff_pools, config.to_dual_pools, config.dual_pools)] == [
      10, 13, 7
  ]  # fmt: skip
  shapes = jax.eval_shape(
      lambda problem: network.init(jax.random.key(0), config, problem), make((8, 8))
  )
  assert network.num_parameters(shapes.params) == 79_905


@pytest.mark.parametrize("concept", CONCEPTS)
def test_parameters_know_nothing_of_the_shape(concept):
  config = network.Config(concept, **SMALL, inputs=INPUTS)
  trees = []
  for shape in [(3, 3), (2, 4), (2, 3, 2), (2, 2, 3, 2)]:
    variables = jax.eval_shape(
        lambda problem: network.init(jax.random.key(0), config, problem), make(shape)
    )
    trees.append(jax.tree_util.tree_map(lambda x: (x.shape, x.dtype), variables))
  assert all(tree == trees[0] for tree in trees)


# Equivariance


def check_equivariance(concept, fields, shape, players, modes=(False, True)):
  config, variables = ready(concept, **fields)
  rng = np.random.default_rng(5)
  problem = make(shape)
  orders = [rng.permutation(size) for size in shape]
  moved = permute(problem, orders, players)
  for is_training in modes:
    given, _ = apply(variables, config, problem, is_training=is_training)
    got, _ = apply(variables, config, moved, is_training=is_training)
    for p, q in enumerate(players):
      expected = np.asarray(given[q])[:, orders[q]]
      if concept == "ce":
        expected = expected[:, :, orders[q]]
      assert np.ptp(expected) > 1e-3  # otherwise nothing is tested
      np.testing.assert_allclose(got[p], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("shape, players", PERMUTATIONS)
def test_equivariance(shape, players, concept):
  modes = (False, True) if len(shape) == 2 else (True,)
  check_equivariance(concept, {}, shape, players, modes)


def test_equivariance_of_rms():
  check_equivariance("ce", {"norm": "rms"}, (3, 3), (1, 0), modes=(False,))


@pytest.mark.parametrize(
    "shape, players, concept", [((3, 3), (1, 0), "ce"), ((2, 3, 2), (2, 1, 0), "cce")]
)
def test_equivariance_of_rounds(shape, players, concept):
  check_equivariance(concept, {"rounds": 2}, shape, players, modes=(False,))


def test_every_pool_is_equivariant():
  fields = {
      "payoff_pools": tuple(sorted(pooling.VALID["payoffs"])),
      "to_dual_pools": tuple(sorted(pooling.VALID["to_duals"])),
      "dual_pools": tuple(sorted(pooling.VALID["cce"])),
  }
  check_equivariance("cce", fields, (2, 3, 2), (2, 1, 0), modes=(False,))


# Invariance


@pytest.mark.parametrize("centre", ["own", "mean"])
def test_payoff_offset_and_scale_do_not_matter(centre):
  config, variables = ready("cce", centre=centre)
  payoffs = random_payoffs((3, 3))
  scale = np.array([0.01, 300.0])[:, None, None]
  moved = (payoffs + np.array([3.0, -7.0])[:, None, None]) * scale
  fields = {"epsilon": np.zeros(BATCH)}
  given, _ = apply(variables, config, make((3, 3), payoffs=payoffs, **fields))
  got, _ = apply(variables, config, make((3, 3), payoffs=moved, **fields))
  chex.assert_trees_all_close(got, given, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_what_others_play_may_be_added_with_own_centring(concept):
  """The joint does not change, epsilon in the same payoff units included."""
  shape, batch = (2, 3, 2), BATCH
  rng = np.random.default_rng(0)
  payoffs = random_payoffs(shape, batch)
  moved = payoffs.copy()
  for p in range(3):
    others = [batch] + [1 if q == p else size for q, size in enumerate(shape)]
    moved[:, p] += 2 * rng.normal(size=others)
  distances = {}
  for centre in ("own", "mean"):
    config, variables = ready(concept, centre=centre)
    results = []
    for g in (payoffs, moved):
      problem = make(shape, batch, payoffs=g)
      results.append(joints(problem, apply(variables, config, problem)[0], concept))
    distances[centre] = float(jnp.abs(results[0] - results[1]).max())
  assert distances["own"] < 1e-5  # usually 1e-7
  assert distances["mean"] > 1e-3  # usually 1e-1


def test_features():
  problem = make((3, 4), 2000, welfare_weight=np.full(2000, 5.0))
  config = network.Config("cce", inputs=("welfare", "target", "epsilon"))
  inputs = compiled(network.features, static_argnums=1)(problem, config)
  assert inputs.values.shape == (2000, 2, 3, 4, 4)
  payoffs, welfare, target, epsilon = np.moveaxis(np.asarray(inputs.values), -1, 0)
  np.testing.assert_allclose(payoffs[:, 0].mean(1), 0, atol=1e-6)
  np.testing.assert_allclose(payoffs[:, 1].mean(2), 0, atol=1e-6)
  np.testing.assert_allclose((payoffs**2).mean((2, 3)), 1, rtol=1e-5)
  assert abs(target.var() - 1) < 0.1  # usually 0.01
  strength = math.log1p(5) / math.log1p(selection.LARGE_WELFARE_WEIGHT)
  np.testing.assert_allclose(welfare[:, 1], strength * problem.welfare, rtol=1e-4, atol=1e-6)
  plain = network.features(problem, network.Config("cce", centre="mean"))
  np.testing.assert_array_equal(plain.values[..., 0], problem.payoffs)
  # What own-centring divides payoffs by, it divides epsilon by too and multiplies duals with.
  given = np.asarray(problem.payoffs)
  centred = [given[:, p] - given[:, p].mean(1 + p, keepdims=True) for p in range(2)]
  factor = np.stack([1 / np.sqrt((x**2).mean((1, 2))) for x in centred], axis=1)
  np.testing.assert_allclose(inputs.scale / plain.scale, factor, rtol=1e-5)
  expected = np.asarray(problem.epsilon) * factor / math.sqrt(12)
  np.testing.assert_allclose(epsilon[:, :, 2, 1], expected, rtol=1e-5)


# Normalisation and initialisation


def test_inference_uses_the_moments_of_training():
  config, variables = ready("ce")
  problem = make((3, 3), seed=9)
  expected, state = apply(variables._replace(state={}), config, problem, is_training=True)
  variables = variables._replace(state=state)
  got, state = apply(variables, config, problem)
  chex.assert_trees_all_close(got, expected, rtol=1e-3, atol=1e-4)
  chex.assert_trees_all_equal(state, variables.state)


@pytest.mark.parametrize("norm", layers.NORMS)
@pytest.mark.parametrize("concept", CONCEPTS)
def test_unit_variance_after_init(concept, norm):
  """Of linear maps and of layers, except the last; the diagonal of CE duals does not count."""
  config = network.Config(concept, **SMALL, norm=norm)

  @compiled
  def activations(problem):
    seen = {}

    def spy(next_function, args, kwargs, context):
      result = next_function(*args, **kwargs)
      if isinstance(context.module, layers.Norm):
        seen[context.module.module_name] = (args[0], result)
      return result

    with hk.intercept_methods(spy):
      network.init(jax.random.key(0), config, problem)
    return seen

  seen = activations(make((3, 3)))
  assert len(seen) == len(SMALL["payoff_channels"]) + len(SMALL["dual_channels"]) + 2
  for name, stages in seen.items():
    for stage, blocks in zip(("before", "after"), stages):
      if concept == "ce" and not name.startswith("payoffs"):
        blocks = [np.asarray(x)[:, ~np.eye(3, dtype=bool)] for x in blocks]
      x = np.concatenate([np.asarray(x).reshape(-1, x.shape[-1]) for x in blocks])
      last = name.startswith("last")
      spread = model.LAST_SPREAD if last else 1
      np.testing.assert_allclose(x.std(0), spread, rtol=2e-3, err_msg=f"{name} {stage}")
      if stage == "after":
        expected = model.LAST_START if last else 0
        np.testing.assert_allclose(x.mean(0), expected, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_a_round_sees_the_slope(concept):
  """Minus the loss's derivative by the network's own output, and a step along one dual."""
  problem = make((2, 3))
  config = network.Config(concept, inputs=INPUTS)
  inputs = network.features(problem, config)
  rng = np.random.default_rng(0)
  axes = 1 if concept == "cce" else 2
  blocks = tuple(jnp.asarray(rng.uniform(size=(BATCH,) + (s,) * axes), jnp.float32) for s in (2, 3))

  def loss(blocks):
    duals = rounds.in_units(blocks, inputs.scale)
    def one(problem, duals):
      return dual.loss(problem, duals, concept)
    return jnp.sum(jax.vmap(one)(problem, duals))

  seen = compiled(rounds.features, static_argnums=3)(
      tuple(x[..., None] for x in blocks), inputs.scale, problem, concept
  )
  slopes = compiled(jax.grad(loss))(blocks)
  joint = joints(problem, rounds.in_units(blocks, inputs.scale), concept)
  tau = np.asarray(problem.temperature)
  for p, (block, slope, features) in enumerate(zip(blocks, slopes, seen, strict=True)):
    expected = np.zeros((BATCH,) + block.shape[1:])
    for g in range(BATCH):
      own = np.moveaxis(np.asarray(problem.payoffs[g, p], np.float64), p, 0)
      sigma = np.moveaxis(np.asarray(joint[g], np.float64), p, 0)
      for index in np.ndindex(block.shape[1:]):
        gain = own[index[-1]] - own  # of each recommendation and play of the other
        kept = slice(None) if concept == "cce" else index[0]
        expected[(g,) + index] = np.sum(sigma[kept] * gain[kept] ** 2)
    scale = np.asarray(inputs.scale)[:, p].reshape((-1,) + (1,) * axes)
    curvature = expected * scale**2 / tau.reshape(scale.shape)
    off = np.ones(block.shape[1:]) if concept == "cce" else 1 - np.eye(block.shape[-1])
    np.testing.assert_allclose(features[..., 0], np.log1p(block), rtol=1e-5)
    np.testing.assert_allclose(-features[..., 1], slope * off, rtol=1e-3, atol=1e-4)
    step = np.sinh(-np.asarray(features[..., 2])) * (curvature + 1e-9)
    np.testing.assert_allclose(step, slope * off, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_a_newton_step(x64, concept, monkeypatch):
  """The step of the dense system, and of a few lengths of it the best; some lead nowhere."""
  monkeypatch.setattr(newton, "LENGTHS", (0.0, 0.5, 1.0, 1.1, 2.0))
  shape, axes = (2, 3), 1 if concept == "cce" else 2
  problem = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), make(shape))
  rng = np.random.default_rng(0)
  size = (10.0 ** (1 - np.arange(BATCH) % 3)).reshape((BATCH,) + (1,) * axes)
  duals = tuple(size * rng.exponential(size=(BATCH,) + (s,) * axes) for s in shape)
  steps = compiled(newton.descend, static_argnums=(2, 3))
  near = steps(duals, problem, concept, 30)  # from where a step can go all the way
  half = jnp.arange(BATCH).reshape((-1,) + (1,) * axes) % 2
  duals = tuple(jnp.where(half > 0, x, y) for x, y in zip(near, duals))
  found = steps(duals, problem, concept, 1)
  counted = np.concatenate([
      (np.ones(s) if concept == "cce" else 1 - np.eye(s)).ravel() > 0 for s in shape
  ])
  taken = []
  for g in range(BATCH):
    game = jax.tree.map(lambda x: x[g], problem)
    barrier, least = newton.BARRIERS[concept]
    alpha = np.maximum(np.concatenate([x[g].ravel() for x in duals]), least)[counted]

    def height(alpha):
      vector = jnp.zeros(counted.size).at[np.flatnonzero(counted)].set(alpha)
      parts = jnp.split(vector, [duals[0][g].size])
      blocks = tuple(x.reshape(y[g].shape) for x, y in zip(parts, duals))
      return dual.loss(game, blocks, concept) - barrier * jnp.sum(jnp.log(alpha))

    step = np.linalg.solve(jax.hessian(height)(alpha), -jax.grad(height)(alpha))
    lengths = np.array(newton.LENGTHS) * 0.9 / max(0.9, *(-step / alpha))
    inside = [length for length in lengths if (alpha + length * step > 0).all()]
    best = min(inside, key=lambda length: float(height(alpha + length * step)))
    taken.append(list(lengths).index(best))
    ahead = np.concatenate([np.asarray(x[g]).ravel() for x in found])
    np.testing.assert_allclose(ahead[counted], alpha + best * step, rtol=1e-4, atol=1e-8)
    assert (ahead[~counted] == 0).all()
  assert len(set(taken)) > 1, taken


def test_newton_steps_come_to_the_minimum_of_the_barrier(x64):
  """From anywhere: duals times slack are then about its weight."""
  rng = np.random.default_rng(0)
  problem = make((3, 3), welfare_weight=np.zeros(BATCH), epsilon=np.zeros((BATCH, 2)))
  problem = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), problem)
  barrier = newton.BARRIERS["cce"][1]
  duals = tuple(rng.exponential(size=(BATCH, 3)) for _ in range(2))
  ahead = compiled(newton.descend, static_argnums=(2, 3))(duals, problem, "cce", 80)
  slack = jax.vmap(lambda problem, x: dual.gradient(problem, x, "cce"))(problem, ahead)
  for x, s in zip(ahead, slack):
    assert (0.95 * barrier <= x * s).all() and (x * s <= 2 * barrier * np.maximum(s, 1)).all()
  zero = newton.descend(duals, problem, "cce", 0)
  assert all(x is y for x, y in zip(zero, duals))


def test_inference_ends_with_newton_steps(monkeypatch):
  """Of every chunk; training goes without."""
  config, variables = ready("ce", rounds=1)
  problem, longer = make((3, 3)), dataclasses.replace(config, newton=2)
  monkeypatch.setattr(
      newton, "descend", lambda duals, problem, concept, steps: tuple(x + steps for x in duals)
  )
  duals = network.infer(variables, config, problem)
  for entries in (None, 1):
    for x, y in zip(network.infer(variables, longer, problem, entries=entries), duals):
      np.testing.assert_allclose(x, y + 2, rtol=1e-5)
  chex.assert_trees_all_equal(
      network.apply(variables, longer, problem)[0], network.apply(variables, config, problem)[0]
  )


# Output


@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 2)])
@pytest.mark.parametrize("concept", CONCEPTS)
def test_duals_are_duals(concept, shape):
  config, variables = ready(concept)
  duals, _ = apply(variables, config, make(shape))
  for size, block in zip(shape, duals, strict=True):
    assert block.shape == (6,) + (size,) * (1 if concept == "cce" else 2)
    assert np.isfinite(block).all() and (block >= 0).all()
    if concept == "ce":
      np.testing.assert_array_equal(np.diagonal(block, axis1=1, axis2=2), 0)
      assert (np.asarray(block)[:, ~np.eye(size, dtype=bool)] > 0).all()


@pytest.mark.parametrize(
    "shape, concept, norm",
    [
        ((3, 3), "cce", "batch"),
        ((1, 1), "cce", "none"),
        ((1, 3), "ce", "batch"),
        ((1, 1), "ce", "rms"),
    ],
)
def test_gradients_are_finite(shape, concept, norm):
  """One-strategy players, constant payoffs and duplicated strategies, from init on."""
  config = network.Config(concept, **SMALL, norm=norm, inputs=INPUTS)
  payoffs = random_payoffs(shape, 4)
  payoffs[0] = 0  # every player's constant
  payoffs[1, 0] = 3  # one player
  payoffs[2] = payoffs[2].mean(2, keepdims=True)  # first player's strategies alike
  chosen = inputs_of(shape, 4)

  def loss(params, variables, payoffs):
    problem = normalised(payoffs, chosen)
    variables = variables._replace(params=params)
    duals, _ = network.apply(variables, config, problem, is_training=True)
    def one(problem, duals):
      return dual.loss(problem, duals, concept)
    return jax.vmap(one)(problem, duals).sum()

  @compiled
  def run(payoffs):
    variables = network.init(jax.random.key(0), config, normalised(payoffs, chosen))
    return variables, jax.grad(loss, argnums=(0, 2))(variables.params, variables, payoffs)

  chex.assert_tree_all_finite(run(jnp.float32(payoffs)))


@pytest.mark.parametrize("entries", [60, None])
def test_infer_in_chunks(entries):
  config, variables = ready("ce")
  problem = make((3, 3), 7)
  got = infer(variables, config, problem, entries=entries)
  chex.assert_trees_all_close(got, apply(variables, config, problem)[0], rtol=1e-5, atol=1e-6)


def test_one_trace():
  config, variables = ready("cce")
  chex.clear_trace_counter()
  step = compiled(
      chex.assert_max_traces(
          lambda variables, problem: network.apply(variables, config, problem, is_training=True),
          n=1,
      )
  )
  for seed in range(3):
    _, state = step(variables, make((3, 3), seed=seed))
    variables = variables._replace(state=state)


def test_float64_problems(x64):
  config, variables = ready("cce")
  problem = jax.tree_util.tree_map(jnp.float64, make((3, 3)))
  duals, state = apply(variables, config, problem, is_training=True)
  assert all(block.dtype == jnp.float64 for block in duals)
  assert all(x.dtype == jnp.float32 for x in jax.tree_util.tree_leaves(state))


# Configuration


def test_config_round_trip():
  config = network.Config("ce", inputs=["epsilon", "target"], dual_channels=[3], norm="rms")
  assert config.inputs == ("epsilon", "target")
  assert network.Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
  assert hash(config) == hash(dataclasses.replace(config))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"concept": "nash"}, "concept='nash'"),
        ({"inputs": ("payoffs",)}, "inputs='payoffs'"),
        ({"inputs": "target"}, "inputs='target' is not a list"),
        ({"inputs": ("target", "target")}, "twice"),
        ({"centre": "none"}, "centre='none'"),
        ({"norm": "layer"}, "norm='layer'"),
        ({"rounds": -1}, "rounds=-1 is not an integer of at least 0"),
        ({"newton": 0.5}, "newton=0.5 is not an integer of at least 0"),
        ({"payoff_channels": (32, 0)}, "payoff_channels"),
        ({"dual_channel": 1.5}, "dual_channel=1.5"),
        ({"payoff_pools": ("self/own/mean",)}, "lacks 'self'"),
        ({"payoff_pools": ("self", "self/own/median")}, "self/own/median"),
        ({"to_dual_pools": ("self/all/mean",)}, "to_dual_pools"),
        ({"to_dual_pools": ("self/own/mean",)}, "self/own/mean"),
        ({"dual_pools": ("self", "transpose")}, "dual_pools='transpose'"),
    ],
)
def test_config_errors(fields, message):
  with pytest.raises(ValueError) as error:
    network.Config(**{"concept": "cce", **fields})
  assert message in str(error.value)


def test_unknown_field():
  with pytest.raises(ValueError, match="unknown fields \\['width'\\]"):
    network.Config.from_dict({"concept": "cce", "width": 3})
