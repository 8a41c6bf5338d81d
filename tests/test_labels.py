"""nes_jax.training.labels: exact answers inside a training, and the loss that uses them."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nes_jax
from nes_jax import dual, network, training
from nes_jax.keys import example_keys
from nes_jax.training import labels, learner

SHAPE = (2, 3)
TINY = {"payoff_channels": (6,), "dual_channel": 8, "dual_channels": (6,), "norm": "rms"}


def settings(selection="max_entropy", concept="cce", net=None, **changes):
  fields = {**TINY, "inputs": training.inputs(selection), **(net or {})}
  chosen = {"shapes": (SHAPE,), "batches": (16,), "updates": 40, "loss": "labels", **changes}
  return training.Config(network.Config(concept, **fields), selection=selection, **chosen)


def drawn(config, count=16):
  keys = example_keys(jax.random.key(5), count)
  return training.sample(keys, config.selection, SHAPE, config.rho, config.sphere)


@pytest.mark.parametrize("concept", ["cce", "ce"])
@pytest.mark.parametrize("selection", ["max_entropy", "max_welfare", training.ALL_INPUTS])
def test_labels_are_the_equilibria_of_what_is_drawn(selection, concept):
  """Labels made under jit, in float32, are those of float64, in the units of the problem."""
  config = settings(selection, concept)
  problem = drawn(config)
  found = jax.jit(labels.solve, static_argnums=1)(problem, config)
  host = jax.tree.map(np.asarray, problem)
  weight = host.welfare_weight / host.temperature
  needs_welfare = selection != "max_entropy"
  exact = nes_jax.solve(
      host.payoffs,
      concept=concept,
      selection=nes_jax.Selection(
          target=host.target,
          epsilon=host.epsilon,
          welfare=host.welfare if needs_welfare else None,
          welfare_weight=weight,
      ),
      precision="float64",
  )
  known = np.asarray(found.solved)
  assert known.mean() > 0.8
  error = 0.5 * np.abs(np.asarray(found.joint) - exact.joint).sum((1, 2))[known]
  assert np.median(error) < 1e-4 and error.max() < 0.05
  if selection == "max_welfare":  # next to no entropy: eq. (9) multiplies errors by 1,000
    return
  # Eq. (9) with the labels' duals gives the labels' joint.
  hard = dataclasses.replace(problem, rho=math.inf)
  joint = jax.vmap(lambda x, y: dual.joint(x, y, concept))(hard, found.duals)
  error = 0.5 * np.abs(np.asarray(joint - found.joint)).sum((1, 2))
  assert np.median(error[known & (weight < 10)]) < 0.01


def test_a_selection_of_finite_rho_keeps_it():
  config = settings("max_strength", concept="cce")
  chosen = training.selection_of(drawn(config), config)
  assert math.isfinite(chosen.rho) and chosen.rho != config.rho
  assert math.isinf(training.selection_of(drawn(settings()), settings()).rho)


@pytest.mark.parametrize("concept", ["cce", "ce"])
def test_the_gradient_is_the_difference_of_gains(concept):
  """KL(sigma* || sigma) has the gradient (A sigma* - A sigma) / tau with respect to duals."""
  config = settings(concept=concept)
  problem = drawn(config)
  known = labels.solve(problem, config)
  rng = np.random.default_rng(0)
  duals = tuple(jnp.asarray(rng.uniform(size=x.shape), jnp.float32) for x in known.duals)

  def loss(duals):
    logits = jax.vmap(lambda x, y: dual.logits(x, y, concept))(problem, duals)
    log_joint = jax.nn.log_softmax(jnp.log(problem.target) + logits, axis=(1, 2))
    return learner._label_loss(network.Answer(duals, log_joint), problem, config).sum()

  def gains(joint):
    return jax.vmap(lambda x, y: nes_jax.deviation.gains(x.payoffs, y, concept))(problem, joint)

  joint = jax.vmap(lambda x, y: dual.joint(x, y, concept))(problem, duals)
  gradient = jax.grad(loss)(duals)
  for slope, wanted, ours in zip(gradient, gains(known.joint), gains(joint), strict=True):
    expected = np.where(np.asarray(known.solved).reshape((-1,) + (1,) * (slope.ndim - 1)),
                        np.asarray(wanted - ours), 0)
    np.testing.assert_allclose(slope, expected, atol=1e-5)


def test_labels_themselves_have_no_loss():
  config = settings(concept="ce", label_duals=0.5)
  problem = drawn(config)
  known = labels.solve(problem, config)
  answer = network.Answer(known.duals, jnp.log(jnp.maximum(known.joint, 1e-30)))
  np.testing.assert_allclose(learner._label_loss(answer, problem, config), 0, atol=1e-5)
  other = answer._replace(duals=tuple(2 * x for x in known.duals))
  found = np.asarray(learner._label_loss(other, problem, config))[np.asarray(known.solved)]
  assert (found >= 0).all() and np.median(found) > 0.01
  assert (found < 0.5 * math.log(2) ** 2).all()  # half of the square of the logarithms' error


@pytest.mark.parametrize("answer", ["duals", "joint"])
def test_training_learns_from_labels(answer):
  net = {"answer": answer, "rounds": 1}
  config = settings(net=net, concept="ce", updates=300, optimiser="muon", learning_rate=2e-2,
                    schedule="cosine", label_duals=0.05, log_loss_above=1.0)
  problem = drawn(config, 64)
  joint = labels.solve(problem, config).joint
  state = training.init(jax.random.key(0), config)

  def score(state):
    ready = training.inference(state.params, config, SHAPE)
    return float(training.evaluate(ready, config.network, problem, joint)["solver_gap"].mean())

  before = score(state)
  advance = jax.jit(training.cycles, static_argnums=(2, 3))
  state, _ = advance(state, jax.random.key(1), config, 300)
  assert score(state) < 0.6 * before


def test_inference_ends_with_steps_of_the_exact_engine():
  """From any answer, enough steps reach the equilibrium; a step more never leaves it."""
  config = settings(net={"answer": "joint", "rounds": 1}, concept="ce")
  problem = dataclasses.replace(drawn(config), rho=math.inf)
  state = training.init(jax.random.key(0), config)
  variables = training.inference(state.params, config, SHAPE)
  known = labels.solve(problem, config)
  gaps = []
  for steps in (0, 4, 30):
    net = dataclasses.replace(config.network, newton=steps)
    found = network.infer(variables, net, problem)
    gaps.append(0.5 * np.abs(np.exp(found.log_joint) - known.joint).sum((1, 2)))
    np.testing.assert_allclose(np.exp(found.log_joint).sum((1, 2)), 1, rtol=1e-5)
  assert gaps[1].mean() < 0.7 * gaps[0].mean() and np.median(gaps[2]) < 1e-3
