"""nes_jax.network: parameter counts, equivariance, invariance, normalisation and outputs."""

import dataclasses
import math

import chex
import haiku as hk
import jax
import jax.numpy as jnp
from networks import (
  BATCH,
  CONCEPTS,
  INPUTS,
  SMALL,
  apply,
  compiled,
  infer,
  inputs_of,
  joints,
  make,
  normalised,
  random_payoffs,
  ready,
)
import numpy as np
import pytest

from nes_jax import dual, network, selection
from nes_jax.network import layers, pooling, stack

PERMUTATIONS = [
    ((3, 3), (1, 0)),
    ((2, 4), (1, 0)),
    ((3, 3, 3), (1, 2, 0)),
    ((2, 3, 2), (2, 1, 0)),
    ((2, 2, 3, 2), (3, 0, 2, 1)),
]


def permute(problem, orders, players):
  """Renumbers the strategies of player p by orders[p], then the players by `players`.

  Player p of the result is the former player players[p].
  """
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
      expected = np.asarray(given.duals[q])[:, orders[q]]
      if concept == "ce":
        expected = expected[:, :, orders[q]]
      # Equal duals would satisfy the test without any equivariance.
      assert np.ptp(expected) > 1e-3
      np.testing.assert_allclose(got.duals[p], expected, rtol=1e-5, atol=1e-5)
    expected = np.asarray(given.log_joint)[(slice(None), *np.ix_(*orders))]
    expected = expected.transpose((0, *(1 + q for q in players)))
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(got.log_joint, expected, rtol=1e-5, atol=1e-4)


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


@pytest.mark.parametrize(
    "shape, players, concept", [((2, 3), (1, 0), "ce"), ((2, 3, 2), (2, 1, 0), "cce")]
)
def test_equivariance_of_a_joint(shape, players, concept):
  fields = {"answer": "joint", "rounds": 2}
  check_equivariance(concept, fields, shape, players, modes=(False,))


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
  """Own centring keeps the joint when payoffs gain a term that a player cannot change.

  Epsilon stays the same in units of the payoffs.
  """
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
      results.append(joints(problem, apply(variables, config, problem)[0].duals, concept))
    distances[centre] = float(jnp.abs(results[0] - results[1]).max())
  assert distances["own"] < 1e-5  # The difference is usually 1e-7.
  assert distances["mean"] > 1e-3  # The difference is usually 1e-1.


def test_features():
  problem = make((3, 4), 2000, welfare_weight=np.full(2000, 5.0))
  config = network.Config("cce", inputs=("welfare", "target", "epsilon"))
  inputs = compiled(network.features, static_argnums=1)(problem, config)
  assert inputs.values.shape == (2000, 2, 3, 4, 4)
  payoffs, welfare, target, epsilon = np.moveaxis(np.asarray(inputs.values), -1, 0)
  np.testing.assert_allclose(payoffs[:, 0].mean(1), 0, atol=1e-6)
  np.testing.assert_allclose(payoffs[:, 1].mean(2), 0, atol=1e-6)
  np.testing.assert_allclose((payoffs**2).mean((2, 3)), 1, rtol=1e-5)
  assert abs(target.var() - 1) < 0.1  # The difference is usually 0.01.
  strength = math.log1p(5) / math.log1p(selection.LARGE_WELFARE_WEIGHT)
  np.testing.assert_allclose(welfare[:, 1], strength * problem.welfare, rtol=1e-4, atol=1e-6)
  plain = network.features(problem, network.Config("cce", centre="mean"))
  np.testing.assert_array_equal(plain.values[..., 0], problem.payoffs)
  # Own centring divides payoffs and epsilon by a factor, and multiplies duals by it.
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
  """All activations but the last have unit variance before and after their normalisation.

  The diagonal of CE duals does not count.
  """
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
      spread = stack.LAST_SPREAD if last else 1
      np.testing.assert_allclose(x.std(0), spread, rtol=2e-3, err_msg=f"{name} {stage}")
      if stage == "after":
        expected = stack.LAST_START if last else 0
        np.testing.assert_allclose(x.mean(0), expected, atol=1e-3, err_msg=name)


# Output


@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 2)])
@pytest.mark.parametrize("concept", CONCEPTS)
def test_duals_are_duals(concept, shape):
  config, variables = ready(concept)
  duals = apply(variables, config, make(shape))[0].duals
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
  """Gradients are finite for players with one strategy, constant payoffs and equal strategies."""
  config = network.Config(concept, **SMALL, norm=norm, inputs=INPUTS)
  payoffs = random_payoffs(shape, 4)
  payoffs[0] = 0  # All payoffs are constant.
  payoffs[1, 0] = 3  # The payoffs of one player are constant.
  payoffs[2] = payoffs[2].mean(2, keepdims=True)  # The strategies of player 0 are alike.
  chosen = inputs_of(shape, 4)

  def loss(params, variables, payoffs):
    problem = normalised(payoffs, chosen)
    variables = variables._replace(params=params)
    duals = network.apply(variables, config, problem, is_training=True)[0].duals

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


@pytest.mark.parametrize("answer", ["duals", "joint"])
def test_inference_of_float64_problems_with_steps(x64, answer):
  """The parameters are of float32, and the Newton steps of the type of the problem."""
  config, variables = ready("cce", answer=answer, rounds=1, newton=2)
  problem = jax.tree_util.tree_map(jnp.float64, make((3, 3)))
  found = network.infer(variables, config, problem)
  assert all(x.dtype == jnp.float64 for x in found.duals) and jnp.isfinite(found.log_joint).all()


def test_float64_problems(x64):
  config, variables = ready("cce")
  problem = jax.tree_util.tree_map(jnp.float64, make((3, 3)))
  answer, state = apply(variables, config, problem, is_training=True)
  assert all(block.dtype == jnp.float64 for block in jax.tree.leaves(answer))
  assert all(x.dtype == jnp.float32 for x in jax.tree_util.tree_leaves(state))
