"""nes_jax.training: problems, loss and gradient, updates, moments, settings and devices."""

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nes_jax
from nes_jax import dual, network, selection, training
from nes_jax.keys import example_keys
from nes_jax.training import learner, problems

SMALL = {"payoff_channels": (6,), "dual_channel": 8, "dual_channels": (6,), "norm": "rms"}
ROOT = pathlib.Path(__file__).parent.parent


def small(selection="max_entropy", concept="cce", **changes):
  net = network.Config(concept, inputs=training.inputs(selection), **SMALL)
  settings = {"shapes": ((3, 3), (2, 4)), "batches": (16, 8), "updates": 40, "clipping": 1e-2}
  return training.Config(net, selection=selection, **{**settings, **changes})


def keys(count, seed=0):
  return example_keys(jax.random.key(seed), count)


@pytest.mark.parametrize("name", training.SELECTIONS)
def test_samples_follow_the_table(name):
  shape = (3, 4)
  z = math.sqrt(12)
  problem = training.sample(keys(64), name, shape, 1e5)
  payoffs = np.asarray(problem.payoffs)
  np.testing.assert_allclose(payoffs.mean((2, 3)), 0, atol=1e-5)
  np.testing.assert_allclose((payoffs**2).sum((2, 3)), 12, rtol=1e-4)
  assert math.isfinite(problem.rho)
  varied = training.inputs(name)
  target, epsilon = np.asarray(problem.target), np.asarray(problem.epsilon)
  np.testing.assert_allclose(target.sum((1, 2)), 1, rtol=1e-4)
  if "target" in varied:
    assert np.ptp(target, axis=0).max() > 0.1
  else:
    np.testing.assert_allclose(target, 1 / 12, rtol=1e-5)
  if name == "max_strength":
    assert (epsilon <= -z * 0.999).all()
  elif name == training.ALL_INPUTS:
    assert (epsilon == 0).all(1).any() and epsilon.min() == 0 and 0.5 < epsilon.max() <= 1
  elif "epsilon" in varied:
    assert np.abs(epsilon).max() <= z and epsilon.min() < -z / 3 and epsilon.max() > z / 3
  else:
    np.testing.assert_array_equal(epsilon, 0)
  weight = np.asarray(problem.welfare_weight / problem.temperature)
  welfare = np.asarray(problem.welfare)
  if name == training.ALL_INPUTS:
    assert (weight == 0).any() and (weight > 10).any() and weight.max() <= 1e3 * (1 + 1e-6)
  elif "welfare" in varied or name == "max_welfare":
    np.testing.assert_allclose(weight, selection.LARGE_WELFARE_WEIGHT, rtol=1e-6)
    np.testing.assert_allclose((welfare**2).sum((1, 2)), 12, rtol=1e-4)
  else:
    np.testing.assert_array_equal(weight, 0)


def test_max_welfare_is_the_sum_of_payoffs():
  problem = training.sample(keys(4), "max_welfare", (3, 3), 1e5)
  total = np.asarray(problem.payoffs).sum(1)
  cosine = (total * np.asarray(problem.welfare)).sum((1, 2))
  cosine /= np.linalg.norm(total, axis=(1, 2)) * 3
  np.testing.assert_allclose(cosine, 1, atol=1e-4)


def test_games_do_not_depend_on_the_batch():
  few, many = (training.sample(keys(n), "max_entropy", (3, 3), 1e5) for n in (2, 5))
  np.testing.assert_array_equal(few.payoffs, many.payoffs[:2])


@pytest.mark.parametrize("concept", ["cce", "ce"])
def test_loss_gradient_is_equation_11_through_the_network(concept):
  """The parameters' gradient is eq. (11) pulled back through the network."""
  config = small(concept=concept)
  problem = training.sample(keys(8), "max_entropy", (3, 3), 1e5)
  variables = network.init(jax.random.key(1), config.network, problem)

  def duals(params):
    return network.apply(
        network.Variables(params, {}), config.network, problem, is_training=True
    )[0].duals

  @jax.jit
  def pulled(params):
    blocks, pull = jax.vjp(duals, params)
    slope = jax.vmap(lambda p, d: dual.gradient(p, d, concept))(problem, blocks)
    return pull(jax.tree.map(lambda x: x / 8, slope))[0]

  expected = pulled(variables.params)

  def loss(params):
    return training.loss(params, config, problem)[0]

  actual = jax.jit(jax.grad(loss))(variables.params)

  def close(a, b):
    return np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)

  jax.tree.map(close, actual, expected)


def test_loss_gradient_by_finite_differences(x64):
  config = small()
  problem = training.sample(keys(8), "max_entropy", (3, 3), 1e5)
  variables = network.init(jax.random.key(1), config.network, problem)
  loss = jax.jit(lambda params: training.loss(params, config, problem)[0])
  gradient = jax.jit(jax.grad(loss))(variables.params)
  # The direction is the gradient, whose slope is its length. Activations are float32.
  length = math.sqrt(sum(float(jnp.vdot(x, x)) for x in jax.tree.leaves(gradient)))
  step = 1e-3 / length
  moved = [
      loss(jax.tree.map(lambda x, d, s=s: x + s * step * d, variables.params, gradient))
      for s in (1, -1)
  ]
  slope = (moved[0] - moved[1]) / (2 * step) / length
  np.testing.assert_allclose(slope, length, rtol=0.02)


def test_large_losses_count_by_their_logarithm():
  """Losses below the bound count as they are. The slopes are equal where the two parts meet."""
  config = small()
  problem = training.sample(keys(16), "max_entropy", (3, 3), 1e5)
  params = training.init(jax.random.key(1), config).params
  (last,) = [name for name in params if name.startswith("last") and "offset" in params[name]]
  params = params | {last: {**params[last], "offset": params[last]["offset"] + 3}}

  def losses(bound):
    def one(problem):
      batch = jax.tree.map(lambda x: x[None], problem)
      return training.loss(params, dataclasses.replace(config, log_loss_above=bound), batch)[0]

    return np.asarray(jax.vmap(one)(problem))

  plain, bent = losses(math.inf), losses(2.0)
  assert (plain < 2).any() and (plain > 2.5).any()
  np.testing.assert_allclose(bent[plain <= 2], plain[plain <= 2], rtol=1e-6)
  np.testing.assert_allclose(bent[plain > 2], 2 + 2 * np.log(plain[plain > 2] / 2), rtol=1e-5)


@pytest.mark.parametrize("optimiser, rate", [("adam", 3e-3), ("muon", 2e-2)])
def test_training_learns_and_compiles_once(optimiser, rate):
  chex.clear_trace_counter()
  config = small(updates=400, optimiser=optimiser, learning_rate=rate, schedule="cosine")
  state = training.init(jax.random.key(0), config)
  problem = training.sample(keys(64, seed=7), "max_entropy", (3, 3), 1e5)
  joint = nes_jax.solve(problem.payoffs, batched=True).joint

  def score(state):
    ready = training.inference(state.params, config, (3, 3))
    return float(training.evaluate(ready, config.network, problem, joint)["solver_gap"].mean())

  before = score(state)

  @jax.jit
  @chex.assert_max_traces(n=1)
  def advance(state, key):
    return training.cycles(state, key, config, 50)

  for _ in range(4):
    state, reports = advance(state, jax.random.key(1))
  assert set(reports) == {"3x3", "2x4"} and set(reports["3x3"]) == {"loss", "gap", "gradient"}
  assert int(state.step) == 400
  after = score(state)
  # The scores seen are 0.48 before, and after it 0.33 with adam and 0.30 with muon.
  assert after < 0.75 * before


def test_duals_that_are_all_zero_come_back():
  """Training must not stay where the softplus is flat."""
  config = small(updates=400, learning_rate=3e-3, schedule="cosine", shapes=((3, 3),),
                 batches=(32,))
  state = training.init(jax.random.key(0), config)
  params = dict(state.params)
  (last,) = [name for name in params if name.startswith("last") and "offset" in params[name]]
  params[last] = {**params[last], "offset": params[last]["offset"] - 20}
  state = state._replace(params=params)
  state, _ = jax.jit(training.cycles, static_argnums=(2, 3))(state, jax.random.key(1), config, 400)
  problem = training.sample(keys(32, seed=7), "max_entropy", (3, 3), 1e5)
  ready = training.inference(state.params, config, (3, 3))
  duals = network.infer(ready, config.network, problem).duals
  assert float(duals[0].max()) > 0.05


@pytest.mark.parametrize("what", ["games", "loss"])
def test_an_update_that_is_not_finite_is_skipped_and_counted(monkeypatch, what):
  config, key = small(), jax.random.key(1)
  before = training.init(jax.random.key(0), config)
  whole_loss, whole_sample = training.loss, training.sample

  def sample(*args):
    problem = whole_sample(*args)
    return dataclasses.replace(problem, payoffs=problem.payoffs.at[3].set(jnp.nan))

  def loss(*args):
    value, report = whole_loss(*args)
    # The gradient does not change.
    return value + jnp.inf, report

  with monkeypatch.context() as patched:
    patched.setattr(*{"games": (problems, "sample", sample), "loss": (learner, "loss", loss)}[what])
    skipped, report = training.update(before, key, config)
  assert all(np.isnan(x) for x in report.values())
  chex.assert_trees_all_equal(skipped.params, before.params)
  chex.assert_trees_all_equal(skipped.optimiser.inner_state, before.optimiser.inner_state)
  assert int(skipped.step) == 1
  assert int(skipped.optimiser.notfinite_count) == int(skipped.optimiser.total_notfinite) == 1
  # The next update draws new games, and learns from them as if none had been skipped.
  after, report = training.update(skipped, key, config)
  same, _ = training.update(before._replace(step=jnp.int32(1)), key, config)
  assert all(np.isfinite(x) for x in report.values())
  chex.assert_trees_all_equal(after.params, same.params)
  assert int(after.optimiser.notfinite_count) == 0 and int(after.optimiser.total_notfinite) == 1


def test_metrics_are_of_updates_that_were_not_skipped(monkeypatch):
  config = small()
  finite = {name: jnp.float32(2) for name in ("loss", "gap", "gradient")}

  def update(state, key, config, index, axis_name, moments):
    # Every second cycle of a shape is skipped.
    report = jax.tree.map(lambda x: jnp.where(state.step % 4 < 2, x, jnp.nan), finite)
    return state._replace(step=state.step + 1), report

  monkeypatch.setattr(learner, "update", update)
  state = training.init(jax.random.key(0), config)
  _, reports = training.cycles(state, jax.random.key(1), config, 4)
  assert {float(x) for report in reports.values() for x in report.values()} == {2.0}


def test_training_on_the_moments_of_inference_trains_what_ships():
  """The loss in training is that of inference, and updates decrease it."""
  config = small(shapes=((3, 3),), batches=(64,), updates=100, learning_rate=3e-3,
                 schedule="cosine")
  normed = dataclasses.replace(config.network, norm="batch")
  config = dataclasses.replace(config, network=normed, moments="inference")
  state = training.init(jax.random.key(0), config)
  key = jax.random.key(1)
  ready = training.inference(state.params, config, (3, 3))
  problem = training.sample(
      example_keys(jax.random.fold_in(key, 0), 64), "max_entropy", (3, 3), config.rho
  )
  seen = training.evaluate(ready, config.network, problem, problem.target)
  step = jax.jit(training.cycles, static_argnums=(2, 3))
  once, report = step(state, key, config, 1)
  np.testing.assert_allclose(report["3x3"]["loss"], seen["loss"].mean(), rtol=1e-4)
  np.testing.assert_allclose(report["3x3"]["gap"], seen["gap"].mean(), rtol=1e-4)
  for _ in range(5):
    state, after = step(state, key, config, 20)
  assert float(after["3x3"]["loss"]) < float(report["3x3"]["loss"]) - 0.05


def test_moments_are_of_a_shape():
  """Inference on games of a shape gives the duals of training on a large batch of them."""
  config = small()
  config = dataclasses.replace(config, network=dataclasses.replace(config.network, norm="batch"))
  params = training.init(jax.random.key(0), config).params
  states = {}
  # The settings train on the first shape, and not on the second.
  for shape in ((3, 3), (5, 2)):
    problem = training.sample(keys(512, seed=3), "max_entropy", shape, 1e5)
    ready = training.inference(params, config, shape)
    found = network.infer(ready, config.network, problem)
    expected, _ = network.apply(
        network.Variables(params, {}), config.network, problem, is_training=True
    )
    for x, y in zip(found.duals, expected.duals, strict=True):
      # The difference seen is 0.03, from the sampling of two batches.
      np.testing.assert_allclose(x, y, rtol=0.15)
    states[shape] = ready.state
  unlike = [
      np.max(np.abs(x["variance"] / states[5, 2][module]["variance"] - 1))
      for module, x in states[3, 3].items()
  ]
  assert max(unlike) > 0.2


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"selection": "best"}, "selection='best' is not one of max_entropy"),
        ({"schedule": "linear"}, "schedule='linear'"),
        ({"optimiser": "sgd"}, "optimiser='sgd' is not one of adam, muon"),
        ({"sphere": "l3"}, "sphere='l3'"),
        ({"shapes": ()}, "shapes=.*give one or more"),
        ({"shapes": ((4,),), "batches": (4,)}, "two or more players"),
        ({"batches": (4,)}, "batches=.*one positive size for each of 2"),
        ({"updates": 0}, "updates=0 must be positive"),
        ({"rho": math.inf}, "rho=inf must be positive and finite"),
        ({"log_loss_above": 0.0}, "log_loss_above=0.0 must be positive"),
        ({"loss": "mine"}, "loss='mine' is not one of dual, labels"),
        ({"label_duals": -1.0}, "label_duals=-1.0 must be at least 0"),
        ({"network": network.Config("cce", answer="joint")}, "needs 'labels'"),
        ({"moments": "mine"}, "moments='mine' is not one of batch, inference"),
        ({"network": network.Config("cce", norm="rms"), "moments": "inference"}, "'rms' has none"),
    ],
)
def test_bad_config(changes, match):
  settings = {"network": network.Config("cce"), "shapes": ((3, 3), (2, 4)), "batches": (4, 4)}
  with pytest.raises(ValueError, match=match):
    training.Config(**{**settings, **changes})


def test_network_must_see_what_varies():
  with pytest.raises(ValueError, match="varies .'target'., and the network sees only"):
    training.Config(network.Config("cce"), selection="match_target")


def test_config_survives_json():
  config = small(selection=training.ALL_INPUTS)
  assert training.Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
  with pytest.raises(ValueError, match="unknown fields .'speed'."):
    training.Config.from_dict({**config.to_dict(), "speed": 1})


# Devices.

# A program that takes updates on all devices of all hosts, and writes their results.

DEVICES = """
import functools, sys
import jax, numpy as np
from launch.runtime import parallel
from nes_jax import network, training
parallel.initialize()
net = network.Config("cce", payoff_channels=(6,), dual_channel=8, dual_channels=(6,))
config = training.Config(net, shapes=((3, 3), (2, 4)), batches=(16, 8), updates=10)
state = jax.jit(training.init, static_argnums=1)(jax.random.key(0), config)
mesh = parallel.mesh()
assert mesh.size == int(sys.argv[2]), mesh

def gradient(state, key):
  keys = parallel.example_keys(key, 16, parallel.AXIS)
  problem = training.sample(keys, config.selection, (3, 3), config.rho)
  loss = lambda params: training.loss(params, config, problem, parallel.AXIS)[0]
  return jax.lax.pmean(jax.grad(loss)(state.params), parallel.AXIS)

R = parallel.REPLICATED
state, key = parallel.replicate((state, jax.random.key(1)), mesh)
slope = parallel.spmd(gradient, mesh, (R, R), R)(state, key)
step = functools.partial(training.cycles, config=config, count=2, axis_name=parallel.AXIS)
state, reports = parallel.spmd(step, mesh, (R, R), R)(state, key)
leaves = jax.tree.leaves(parallel.gather((slope, state.params, reports)))
if parallel.is_main():
  np.savez(sys.argv[1], *leaves)
"""


def updated(out, processes, devices, coordinator):
  """Results of updates on a number of processes with a number of devices each."""
  hosts = [
      {"JAX_COORDINATOR_ADDRESS": coordinator, "JAX_NUM_PROCESSES": str(processes),
       "JAX_PROCESS_ID": str(me)}
      for me in range(processes)
  ]
  environment = {
      **os.environ,
      "JAX_NUM_CPU_DEVICES": str(devices),
      "JAX_PLATFORMS": "cpu",
      # Programs compile sooner with this flag.
      "XLA_FLAGS": "--xla_backend_optimization_level=0",
  }
  command = [sys.executable, "-c", DEVICES, str(out), str(processes * devices)]
  running = [
      subprocess.Popen(command, cwd=ROOT, env=environment | host if processes > 1 else environment)
      for host in hosts
  ]
  try:
    assert [process.wait(300) for process in running] == [0] * processes
  finally:
    for process in running:
      process.kill()
  with np.load(out) as archive:
    return [archive[name] for name in archive.files]


@pytest.mark.slow
def test_update_is_the_same_on_any_number_of_devices_and_hosts(tmp_path, coordinator):
  results = []
  for processes, devices in ((1, 1), (1, 4), (1, 8), (2, 2)):
    out = tmp_path / f"{processes}x{devices}.npz"
    results.append(updated(out, processes, devices, coordinator))
  for other in results[1:]:
    for one, two in zip(results[0], other, strict=True):
      np.testing.assert_allclose(one, two, rtol=1e-3, atol=2e-5)
