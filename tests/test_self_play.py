"""calsheq_jax.self_play: seeds, devices, best responses, and games with known answers."""

import os
import pathlib
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from calsheq_jax import policy, ppo, rollout, self_play, shared_game
from envs import linear_quadratic, symmetric

ROOT = pathlib.Path(__file__).parent.parent
ENV = toys.Countdown()
POLICY = policy.for_environment(ENV, policy.Config(hidden=(8,)))
CONFIG = ppo.Config(epochs=2, minibatches=4)
PROFILES = rollout.repeated(toys.rules(), 8)
GAME = linear_quadratic.LinearQuadratic()
PROFILE = GAME.profile()
KEY = jax.random.key(0)
# Distance between an estimate and the truth, in standard errors, that one test in 2000 exceeds.
FAR = 3.5


def profiles(count, profile=PROFILE):
  return rollout.repeated(profile, count)


# Updates.


def test_whole_update_traces_once_and_takes_seeds():
  chex.clear_trace_counter()

  @jax.jit
  @chex.assert_max_traces(n=1)
  def step(state, key):
    return self_play.update(state, key, ENV, POLICY, CONFIG, PROFILES)

  keys = jax.random.split(jax.random.key(5), 3)

  def init(key):
    return ppo.init(key, POLICY, CONFIG)

  alone = []
  for key in keys:
    state = init(key)
    for _ in range(2):
      state, metrics = step(state, key)
    alone.append((state, metrics))
  together = jax.vmap(init)(keys)
  many = jax.jit(jax.vmap(lambda s, k: self_play.update(s, k, ENV, POLICY, CONFIG, PROFILES)))
  for _ in range(2):
    together, reports = many(together, keys)
  assert reports["reward"].shape == (3, 3)
  for i, (state, metrics) in enumerate(alone):
    row = jax.tree.map(lambda x, i=i: x[i], (together, reports))
    chex.assert_trees_all_close(row, (state, metrics), rtol=2e-3, atol=2e-4)


# Best responses.

NET = policy.for_environment(GAME, policy.Config(hidden=(6,), initial_scale=0.3))
LEARNING = ppo.Config(learning_rate=3e-3, kl_target=0.03)


@pytest.mark.slow
def test_best_response_to_a_policy_that_does_nothing_much():
  """If the others' mean is 0, an agent of type theta does best with theta and earns theta^2 / 2."""
  frozen = jax.tree.map(jnp.array, ppo.init(KEY, NET, LEARNING).agent)
  respond = jax.jit(
      lambda key: self_play.best_response(frozen, key, GAME, NET, LEARNING, profiles(256), 150)
  )
  response, metrics = respond(jax.random.key(1))
  assert metrics["reward"].shape == (150,)
  result = jax.jit(
      lambda r: shared_game.certificate(
          GAME, NET, r, frozen, jax.random.key(2), profiles(2000)
      )
  )(response)
  spread = GAME.config.spread**2 / 3
  best = (0.8**2 + 3 * 0.4**2) / 8 + spread / 2
  earned = float(result.epsilon.mean + result.value.mean)
  # Up to random errors it is a lower bound; it is usually 0.175 of 0.182.
  assert 0.9 * best < earned < best + FAR * float(result.epsilon.error + result.value.error)


@pytest.mark.slow
def test_self_play_learns_the_equilibrium_in_closed_form():
  """Mean actions of five seeds are within 2% of it, and a best response gains below 1%."""
  # The bonus on entropy fades. Without a bonus, actions lose their spread before their mean has
  # settled; with a constant bonus they keep the spread, which costs half of its square.
  learning = ppo.Config(learning_rate=3e-3, kl_target=0.03, entropy_weight=0.2, minibatches=2)
  rates = jnp.linspace(1, 0, 300)

  @jax.jit
  @jax.vmap
  def train(key):
    play_key, respond_key, judge_key = jax.random.split(key, 3)
    state, _ = jax.lax.scan(
        lambda s, rate: self_play.update(
            s, play_key, GAME, NET, learning, profiles(512), rate, rate
        ),
        ppo.init(key, NET, learning), rates,
    )
    response, _ = self_play.best_response(
        state.agent, respond_key, GAME, NET, LEARNING, profiles(256), 150
    )
    return state.agent, shared_game.certificate(
        GAME, NET, response, state.agent, judge_key, profiles(4000)
    )

  agents, judged = train(jax.random.split(jax.random.key(0), 5))
  observation = jnp.stack(
      [jnp.concatenate([jnp.linspace(0.3, 1.3, 50), jnp.linspace(-0.1, 0.9, 50)]),
       jnp.repeat(jnp.array([-1.0, 1.0]), 50)], -1
  )
  action = jax.vmap(lambda a: policy.act(NET, a, None, observation).action)(agents)
  known = GAME.equilibrium(observation, PROFILE)
  error = jnp.sqrt(jnp.mean((action - known) ** 2, (1, 2)) / jnp.mean(known**2))
  assert error.shape == (5,) and float(error.max()) < 0.02, error
  value = float((GAME.equilibrium_value(PROFILE) @ jnp.array([1, 3])) / 4)
  _, high = judged.epsilon.interval()
  assert float(high.max()) < 0.01 * value, (judged.epsilon, value)
  np.testing.assert_allclose(judged.value.mean, value, rtol=0.03)


@pytest.mark.slow
def test_gradient_self_play_ends_at_one_in_the_piecewise_potential_game():
  env = symmetric.SymmetricGame(symmetric.PIECEWISE_POTENTIAL)
  net = policy.for_environment(env, policy.Config(hidden=(4,)))
  config = ppo.Config(learning_rate=5e-3, kl_target=0.03)

  @jax.jit
  def train(state):
    return jax.lax.scan(
        lambda s, _: self_play.update(s, KEY, env, net, config, profiles(32, env.profile())),
        state, length=60,
    )

  state = ppo.init(jax.random.key(4), net, config)
  seen = jnp.ones((1, 1))
  first = policy.act(net, state.agent, None, seen).action
  assert abs(float(first[0, 0]) - 0.5) < 0.05
  state, _ = train(state)
  last = policy.act(net, state.agent, None, seen).action
  assert float(last[0, 0]) >= 1  # the environment clips it to 1


# The same update on 1 and 8 devices.

DEVICES = """
import functools, sys
import jax, numpy as np
from calsheq_jax import policy, ppo, rollout, self_play
from launch.runtime import parallel
import toys
env = toys.Countdown()
net = policy.for_environment(env, policy.Config(hidden=(8,)))
config = ppo.Config(epochs=2, minibatches=4)
state = ppo.init(jax.random.key(0), net, config)
mesh = parallel.mesh()
assert mesh.size == int(sys.argv[2]), mesh
profiles = rollout.repeated(toys.rules(5), 32)

def step(state, key, profiles):
  return self_play.update(
      state, key, env, net, config, profiles, axis_name=parallel.AXIS)

def deviation(state, frozen, key, profiles):
  return self_play.respond(
      state, key, frozen, env, net, config, profiles, axis_name=parallel.AXIS)

R, S = parallel.REPLICATED, parallel.SHARDED
profiles = parallel.shard(profiles, mesh)
state, key = parallel.replicate((state, jax.random.key(1)), mesh)
compiled = parallel.spmd(step, mesh, (R, R, S), R)
results = []
for _ in range(2):
  state, metrics = compiled(state, key, profiles)
  results.append((state, metrics))
results.append(parallel.spmd(deviation, mesh, (R, R, R, S), R)(
    ppo.from_agent(state.agent, config), state.agent, key, profiles))
np.savez(sys.argv[1], *[np.asarray(x) for x in jax.tree.leaves(results)])
"""


@pytest.mark.slow
def test_update_is_the_same_on_1_and_8_devices(tmp_path):
  results = []
  for count in (1, 8):
    out = tmp_path / f"{count}.npz"
    environment = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": str(count),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # a faster compilation
    }
    command = [sys.executable, "-c", DEVICES, str(out), str(count)]
    subprocess.run(command, check=True, cwd=ROOT, env=environment)
    with np.load(out) as archive:
      results.append([archive[name] for name in archive.files])
  moved = 0.0
  for one, two in zip(*results):
    np.testing.assert_allclose(one, two, rtol=2e-3, atol=1e-4)
    moved = max(moved, np.abs(one).max())
  assert moved > 0.1
