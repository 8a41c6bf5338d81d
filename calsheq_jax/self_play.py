"""Training of a shared policy by self-play, and of a best response to it.

`update` lets all agents act on one policy, and improves that policy for each agent against the
others (Vadori et al. 2020, section 2, a and b). This is one step of the sequence whose endpoint is
a shared equilibrium. `respond` improves the policy of one agent in a random seat while the others
stay on a frozen policy. The gain of that agent estimates the epsilon of Definition 1
(`shared_game.certificate`).

Both go from episodes to new parameters as one pure function, to be jitted as a whole. A vmap around
them trains several seeds:

  state = ppo.init(key, policy, config)
  state, metrics = self_play.update(state, key, env, policy, config, profiles)

Glossary: B episodes of the global batch, b episodes of this device, T steps, n agents.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from calsheq_jax import policy as policy_lib
from calsheq_jax import ppo, rollout
from calsheq_jax.types import Agent, Array, Decision, Policy, Rollout, Trajectory
from envs.base import Environment, Profile

# (deviator, random key of a batch) -> the steps of the deviator, [T, b, ...]
Play: TypeAlias = Callable[[Agent, Array], Rollout]


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
  """Plays one episode for each profile with all agents on the policy, and learns from all agents.

  Args:
    state: the result of `ppo.init`, or of the update before.
    key: random key of the whole run; the key of this update is folded in from the state's step.
    env, policy, config: static under jit.
    profiles: leading axis [b], one profile for each of this device's episodes (`rollout.repeated`).
    learning_rate: factor on config.learning_rate; it may be traced.
    exploration: factor on config.entropy_weight; it may be traced.
    axis_name: name of the axis of devices that share the batch; None means a single device.

  Returns:
    The new state, and the metrics of `ppo.update` with "reward" [n], each agent's undiscounted
    return, as a mean over all episodes.
  """
  play_key, learn_key = jax.random.split(jax.random.fold_in(key, state.step))
  played = rollout.collect(env, policy, state.agent, play_key, profiles, axis_name=axis_name)
  state, metrics = ppo.update(
      state, learn_key, played.trajectory, policy, config, learning_rate, exploration, axis_name
  )
  return state, metrics | {"reward": _mean(rollout.episode_returns(played.trajectory), axis_name)}


def _mean(x: Array, axis_name: str | None) -> Array:
  """Mean over the episodes of all devices: [b, ...] -> [...]."""
  x = x.mean(0)
  return x if axis_name is None else jax.lax.pmean(x, axis_name)


# Best response.


def mixed(
    policy: Policy, first: Agent, second: Agent, seat: Array, *, mean_action: bool = False
) -> rollout.Act:
  """Makes the agent in `seat` [] play `first`, and all others play `second`.

  Both draw with the same random numbers, so that two policies that agree take the same actions.

  Args:
    policy: static under jit.
    first, second: parameters and normalisers of the two policies.
    seat: [] index of an agent.
    mean_action: whether `first` takes its mean action in place of a sample.

  Returns:
    A function from a key and observations [n, O] to decisions [n, ...].
  """

  def act(key: Array, observation: Array) -> Decision:
    one = policy_lib.act(policy, first, None if mean_action else key, observation)
    other = policy_lib.act(policy, second, key, observation)
    here = jnp.arange(len(observation)) == seat

    def pick(x, y):
      return jnp.where(here.reshape((-1,) + (1,) * (x.ndim - 1)), x, y)

    return jax.tree.map(pick, one, other)

  return act


def of_seat(played: Rollout, seat: Array | int) -> Rollout:
  """Keeps the steps of one seat of an episode: trajectory [T, n, ...] -> [T, ...]."""
  steps = played.trajectory._asdict()
  last_value = steps.pop("last_value")[seat]
  mine = jax.tree.map(lambda x: x[:, seat], steps)
  return played._replace(trajectory=Trajectory(**mine, last_value=last_value))


def deviate(
    env: Environment,
    policy: Policy,
    deviator: Agent,
    frozen: Agent,
    key: Array,
    profiles: Profile,
    axis_name: str | None = None,
) -> Rollout:
  """Plays episodes in which a deviator takes one random seat, and returns the steps of that seat.

  Args:
    env, policy: static under jit.
    deviator: the agent in one seat of each episode, drawn uniformly.
    frozen: the agent in all other seats.
    key: random key of the batch, the same on all devices.
    profiles: leading axis [b].
    axis_name: name of the axis of devices that share the batch; None means a single device.

  Returns:
    Trajectory [T, b, ...] of the deviator, and final states [b, ...].
  """
  count = jax.tree.leaves(profiles)[0].shape[0]

  def play(key, profile):
    seat_key, episode_key = jax.random.split(key)
    seat = jax.random.randint(seat_key, (), 0, env.num_agents)
    act = mixed(policy, deviator, frozen, seat)
    return of_seat(rollout.episode(env, episode_key, profile, act), seat)

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
  """Updates a deviator in a random seat, while all others stay frozen.

  Args:
    state: state of the deviator; `ppo.from_agent(frozen, config)` begins at the frozen policy.
    key: random key of the whole training; the key of this update is folded in from the state's
      step.
    frozen: the agent in all other seats.
    env, policy, config, profiles, learning_rate, exploration, axis_name: as in `update`.

  Returns:
    The new state, and the metrics of `ppo.update` with "reward" [], the deviator's undiscounted
    return, as a mean over all episodes.
  """
  def play(agent, key):
    return deviate(env, policy, agent, frozen, key, profiles, axis_name)

  return respond_to(play, state, key, policy, config, learning_rate, exploration, axis_name)


def respond_to(
    play: Play,
    state: ppo.State,
    key: Array,
    policy: Policy,
    config: ppo.Config,
    learning_rate: Array | float = 1.0,
    exploration: Array | float = 1.0,
    axis_name: str | None = None,
) -> tuple[ppo.State, dict[str, Array]]:
  """Updates a deviator as `respond` does, in episodes that `play` plays.

  Args:
    play: plays the episodes of an update on this device.
    state: state of the deviator.
    key, policy, config, learning_rate, exploration, axis_name: as in `respond`.
  """
  play_key, learn_key = jax.random.split(jax.random.fold_in(key, state.step))
  played = play(state.agent, play_key)
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
  """Trains a deviator from the frozen policy, with learning rate and exploration falling to 0.

  Args:
    frozen: the policy from which the deviator starts, and which all others play.
    key: random key of the training.
    env, policy, config: static under jit.
    profiles: leading axis [b].
    updates: number of updates of the deviator; static.
    axis_name: name of the axis of devices that share the batch; None means a single device.

  Returns:
    The deviator halfway through and at the end, leading axis [2], and the metrics of `respond`,
    [updates].
  """

  def play(agent, key):
    return deviate(env, policy, agent, frozen, key, profiles, axis_name)

  return best_response_to(play, frozen, key, policy, config, updates, axis_name=axis_name)


def best_response_to(
    play: Play,
    start: Agent,
    key: Array,
    policy: Policy,
    config: ppo.Config,
    updates: int,
    *,
    axis_name: str | None = None,
) -> tuple[Agent, dict[str, Array]]:
  """Trains a deviator as `best_response` does, in episodes that `play` plays.

  Args:
    play: plays the episodes of an update on this device.
    start: the policy from which the deviator starts.
    key, policy, config, updates, axis_name: as in `best_response`.

  Returns:
    The deviator halfway through and at the end, leading axis [2], and the metrics of `respond_to`,
    [updates].
  """

  def step(carry, now):
    state, halfway = carry
    index, rate = now
    state, metrics = respond_to(play, state, key, policy, config, rate, rate, axis_name)
    keep = index == updates // 2
    halfway = jax.tree.map(lambda x, y: jnp.where(keep, x, y), state.agent, halfway)
    return (state, halfway), metrics

  schedule = jnp.arange(updates), jnp.linspace(1, 0, updates, endpoint=False)
  first = (ppo.from_agent(start, config), start)
  (state, halfway), metrics = jax.lax.scan(step, first, schedule)
  return jax.tree.map(lambda *x: jnp.stack(x), halfway, state.agent), metrics
