"""Training of a shared policy by self-play, and of a best response to it.

`update` sets all agents on one policy and improves that policy for each of them against the
others (Vadori et al. 2020, section 2, a and b): one step of the sequence whose endpoint is a shared
equilibrium. `respond` improves the policy of one agent in a random seat while the others stay on a
frozen one: what it gains is the epsilon of Definition 1 (`shared_game.certificate`).

Both are one jitted program from episodes to new parameters; seeds are one more vmap:

  state = ppo.init(key, policy, config)
  state, metrics = self_play.update(state, key, env, policy, config, profiles)

Glossary: B episodes of the global batch, b those of this device, T steps, n agents.
"""

import jax
import jax.numpy as jnp

from calsheq_jax import policy as policy_lib
from calsheq_jax import ppo, rollout
from calsheq_jax.types import Agent, Array, Decision, Policy, Rollout
from envs.base import Environment, Profile


def update(
    state: ppo.State,
    key: Array,
    env: Environment,
    policy: Policy,
    config: ppo.Config,
    profiles: Profile,
    learning_rate: Array | float = 1.0,
    exploration: Array | float = 1.0,
    axis_name: str | None = None,
) -> tuple[ppo.State, dict[str, Array]]:
  """Plays one episode a profile with all agents on the policy, and learns from all of them.

  Args:
    state: from `ppo.init`, or an update before.
    key: of the whole run; the state's step makes the key of this update from it.
    env, policy, config: static under jit.
    profiles: leading axis [b], one for each of this device's episodes (`rollout.repeated`).
    learning_rate: multiplies the config's; may be traced.
    exploration: multiplies the config's entropy_weight; may be traced.
    axis_name: of the devices that share the batch; None: there is one.

  Returns:
    The new state, and the metrics of `ppo.update`, with "reward" [n]: each agent's undiscounted
    sum over the episode, a mean over all episodes.
  """
  play_key, learn_key = jax.random.split(jax.random.fold_in(key, state.step))
  played = rollout.collect(env, policy, state.agent, play_key, profiles, axis_name=axis_name)
  state, metrics = ppo.update(
      state, learn_key, played.trajectory, policy, config, learning_rate, exploration, axis_name
  )
  return state, metrics | {"reward": _mean(rollout.episode_returns(played.trajectory), axis_name)}


def _mean(x: Array, axis_name: str | None) -> Array:
  x = x.mean(0)
  return x if axis_name is None else jax.lax.pmean(x, axis_name)


# Best response.


def mixed(
    policy: Policy, first: Agent, second: Agent, seat: Array, *, mean_action: bool = False
) -> rollout.Act:
  """What agents do where the one in `seat` [] is `first` and all others are `second`.

  The two draw with the same random numbers: where they agree, so do their actions. With
  `mean_action`, `first` takes its mean action.
  """

  def act(key: Array, observation: Array) -> Decision:
    one = policy_lib.act(policy, first, None if mean_action else key, observation)
    other = policy_lib.act(policy, second, key, observation)
    here = jnp.arange(len(observation)) == seat
    pick = lambda x, y: jnp.where(here.reshape((-1,) + (1,) * (x.ndim - 1)), x, y)
    return jax.tree.map(pick, one, other)

  return act


def deviate(
    env: Environment,
    policy: Policy,
    deviator: Agent,
    frozen: Agent,
    key: Array,
    profiles: Profile,
    axis_name: str | None = None,
) -> Rollout:
  """Episodes in which one random seat is the deviator's; only what happened there is returned.

  Args:
    env, policy: static under jit.
    deviator: plays one seat of each episode, drawn uniformly.
    frozen: plays all others.
    key: of the batch, the same on all devices.
    profiles: leading axis [b].
    axis_name: of the devices; None: there is one.

  Returns:
    Trajectory [T, b, ...] of the deviator, and final states [b, ...].
  """
  count = jax.tree.leaves(profiles)[0].shape[0]

  def play(key, profile):
    seat_key, episode_key = jax.random.split(key)
    seat = jax.random.randint(seat_key, (), 0, env.num_agents)
    played = rollout.episode(env, episode_key, profile, mixed(policy, deviator, frozen, seat))
    whole = played.trajectory
    mine = jax.tree.map(lambda x: x[:, seat], whole._replace(last_value=None))
    return played._replace(trajectory=mine._replace(last_value=whole.last_value[seat]))

  return rollout.batched(play, rollout.keys_of(key, count, axis_name), profiles)


def respond(
    state: ppo.State,
    key: Array,
    frozen: Agent,
    env: Environment,
    policy: Policy,
    config: ppo.Config,
    profiles: Profile,
    learning_rate: Array | float = 1.0,
    exploration: Array | float = 1.0,
    axis_name: str | None = None,
) -> tuple[ppo.State, dict[str, Array]]:
  """One update of a deviator in a random seat, all others frozen.

  Args:
    state: of the deviator; `ppo.from_agent(frozen, config)` begins at the frozen policy.
    key: of the whole training; the state's step makes the key of this update from it.
    frozen: what the others play.
    env, policy, config, profiles, learning_rate, exploration, axis_name: as in `update`.

  Returns:
    The new state, and the metrics of `ppo.update`, with "reward" [], the deviator's.
  """
  play_key, learn_key = jax.random.split(jax.random.fold_in(key, state.step))
  played = deviate(env, policy, state.agent, frozen, play_key, profiles, axis_name)
  state, metrics = ppo.update(
      state, learn_key, played.trajectory, policy, config, learning_rate, exploration, axis_name
  )
  return state, metrics | {"reward": _mean(rollout.episode_returns(played.trajectory), axis_name)}


def best_response(
    frozen: Agent,
    key: Array,
    env: Environment,
    policy: Policy,
    config: ppo.Config,
    profiles: Profile,
    updates: int,
    *,
    axis_name: str | None = None,
) -> tuple[Agent, dict[str, Array]]:
  """Trains a deviator from the frozen policy; its learning rate and exploration fall to 0.

  Args:
    frozen: what the others play.
    key: of the training.
    env, policy, config: static under jit.
    profiles: leading axis [b].
    updates: of the deviator; static.
    axis_name: of the devices; None: there is one.

  Returns:
    The deviator halfway through and at the end, leading axis [2], and the metrics of `respond`,
    [updates].
  """

  def step(carry, now):
    state, halfway = carry
    index, rate = now
    state, metrics = respond(
        state, key, frozen, env, policy, config, profiles, rate, rate, axis_name
    )
    keep = index == updates // 2
    halfway = jax.tree.map(lambda x, y: jnp.where(keep, x, y), state.agent, halfway)
    return (state, halfway), metrics

  schedule = jnp.arange(updates), jnp.linspace(1, 0, updates, endpoint=False)
  start = (ppo.from_agent(frozen, config), frozen)
  (state, halfway), metrics = jax.lax.scan(step, start, schedule)
  return jax.tree.map(lambda *x: jnp.stack(x), halfway, state.agent), metrics
