"""Merchants learn the behaviour that economics predicts in simple markets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calsheq_jax import policy, ppo, rollout, self_play
from envs import market

ENV = market.Market(market.Config(num_merchants=3, clusters=2, customers=20, horizon=20))
PROFILES = {
    "monopoly": ENV.profile(0.0, 0.9, 0.0, connection1=1.0),
    "competition": ENV.profile(1.0, 1.0, 0.0),
    "timid": ENV.profile(0.6, 0.0, 0.0),
    "bold": ENV.profile(0.6, 0.9, 0.0),
}


@pytest.mark.slow
def test_quotes_inventories_and_hedging():
  net = policy.for_environment(ENV, policy.Config(hidden=(32, 32)))
  config = ppo.Config(learning_rate=2e-3, minibatches=4, kl_target=0.02)
  key = jax.random.key(0)

  def learn(state, profile):
    def step(state, _):
      return self_play.update(state, key, ENV, net, config, rollout.repeated(profile, 32))[0], None

    state, _ = jax.lax.scan(step, state, length=200)
    played = rollout.collect(
        ENV, net, state.agent, jax.random.key(3), rollout.repeated(profile, 64)
    )
    action = jnp.clip(played.trajectory.action, *ENV.action_space).mean((0, 1))  # [n, 3]
    outputs = jax.vmap(ENV.outputs)(played.states)
    return action, outputs["inventory"].mean(), outputs["hedged"].mean()

  fresh = jax.vmap(lambda key: ppo.init(key, net, config))(jax.random.split(key, len(PROFILES)))
  profiles = jax.tree.map(lambda *x: jnp.stack(x), *PROFILES.values())
  results = jax.jit(jax.vmap(learn))(fresh, profiles)
  seen = {name: [np.asarray(x[i]) for x in results] for i, name in enumerate(PROFILES)}

  # The number e is 0 at the facility's prices and -1 at the mid price.
  alone = seen["monopoly"][0][0, :2]  # found: -0.15, -0.10
  together = seen["competition"][0][:, :2].mean(0)  # found: -0.60, -0.83, still falling
  assert (alone > -0.3).all() and (together < -0.5).all()
  # Found are inventories of 7.8 and 10.0 units, and hedges of 0.7 and 0.3 units.
  assert seen["timid"][1] < 0.9 * seen["bold"][1]
  assert seen["timid"][2] > 1.5 * seen["bold"][2]
