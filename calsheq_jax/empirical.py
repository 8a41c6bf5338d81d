"""Empirical games of a simulator: strategies are whole policies, payoffs are mean returns.

`simulate` plays every profile of some policies in an environment, and returns the payoffs of all
episodes as a `nes_jax.empirical.EmpiricalGame`. `nes_jax.empirical.solve` gives its equilibrium and
the players' regret with intervals. This regret knows deviations to the given policies only.
`deviate` looks for a better policy outside of the set, by training one.

  game = simulate(key, env, {"wide": constant([0.8, 0.8, 0.5]), "never": constant([1, 1, 0])}, 256)
  report = nes_jax.empirical.solve(game)
  found = deviate(key, env, policies, report, seat=0, net, config)

Glossary: n agents, k policies, K canonical profiles, E episodes, O length of an observation, A
length of an action.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from calsheq_jax import policy as policy_lib
from calsheq_jax import ppo, rollout, self_play
from calsheq_jax.shared_game import Estimate, estimate
from calsheq_jax.types import Agent, Array, Decision, Policy
from envs.base import Environment, Profile
from nes_jax import empirical

# (random key, observation [O]) -> action [A]
Strategy: TypeAlias = Callable[[Array, Array], Array]

# Number of episodes that one call of the compiled program plays.
_CHUNK = 2048


# Strategies.


def constant(action: ArrayLike) -> Strategy:
  """A strategy that takes the same action [A] always."""
  fixed = np.asarray(action, np.float32)

  def act(key: Array, observation: Array) -> Array:
    del key, observation
    return jnp.asarray(fixed)

  return act


def trained(policy: Policy, agent: Agent, *, mean_action: bool = False) -> Strategy:
  """The strategy of a trained agent.

  Args:
    policy: the policy.
    agent: its parameters and normalisers.
    mean_action: whether the agent takes its mean action in place of a sample.
  """

  def act(key: Array, observation: Array) -> Array:
    return policy_lib.act(policy, agent, None if mean_action else key, observation).action

  return act


def _check_policies(env: Environment, policies: Mapping[str, Strategy]) -> tuple[Strategy, ...]:
  """The policies in their order. Raises ValueError if there is none, or an action is wrong."""
  if not policies:
    raise ValueError("policies is empty: give one or more, as a mapping from labels to functions")
  shape = np.shape(env.action_space.low)
  key = jax.eval_shape(lambda: jax.random.key(0))
  observation = jax.ShapeDtypeStruct((env.observation_size,), jnp.float32)
  for label, policy in policies.items():
    action = jax.eval_shape(policy, key, observation)
    if np.shape(action) != shape:
      raise ValueError(
          f"policy {label!r} returns an action of shape {list(np.shape(action))} for one agent's"
          f" observation; {list(shape)} is expected"
      )
  return tuple(policies.values())


def _actions(
    policies: Sequence[Strategy], strategies: Array, key: Array, observation: Array
) -> Array:
  """Actions [n, A] of agents that play the policies of indices `strategies` [n].

  Every policy acts for every agent. Under vmap a branch for each agent would compute as much.
  """
  keys = jax.random.split(key, len(strategies))
  dtype = jnp.result_type(float)
  every = [jax.vmap(policy)(keys, observation).astype(dtype) for policy in policies]
  return jnp.stack(every)[strategies, jnp.arange(len(strategies))]


def _returns(
    env: Environment,
    policies: Sequence[Strategy],
    strategies: Array,
    key: Array,
    profile: Profile,
    discount: float,
) -> Array:
  """The return of each agent in one episode, [n]."""
  nothing = jnp.zeros(env.num_agents)

  def act(key, observation):
    return Decision(_actions(policies, strategies, key, observation), nothing, nothing, nothing)

  return rollout.episode_returns(rollout.episode(env, key, profile, act).trajectory, discount)


# Simulation.


def simulate(
    key: Array,
    env: Environment,
    policies: Mapping[str, Strategy],
    episodes: int,
    *,
    symmetric: bool = True,
    profile: Profile | None = None,
    discount: float = 1.0,
    chunk: int = _CHUNK,
) -> empirical.EmpiricalGame:
  """Plays all profiles of some policies; every agent may play every policy.

  Episode e has the same random key in all profiles, so that differences between profiles have small
  errors. One compiled program plays all profiles, in chunks of episodes.

  Args:
    key: random key.
    env: the environment.
    policies: label -> (key, observation [O]) -> action [A], written for one agent; `constant` and
      `trained` make such functions.
    episodes: E, the number of episodes of each profile, two or more.
    symmetric: whether agents of one supertype are exchangeable, and so are players of one role. A
      profile and its permutations within supertypes are then played once. If False, every agent is
      a role of its own.
    profile: the supertype profile; None takes env.profile().
    discount: gamma for each step.
    chunk: largest number of episodes that are played at once.

  Returns:
    The game of undiscounted or discounted returns, with all samples.

  Raises:
    ValueError: a policy's action has the wrong shape, there are fewer than two episodes, or a
      return is not finite. The message names the policy, or the profile, the episode and the agent.
  """
  functions = _check_policies(env, policies)
  if episodes < 2:
    raise ValueError(f"episodes={episodes}: an error needs two or more")
  if chunk < 1:
    raise ValueError(f"chunk={chunk} must be at least 1")
  chosen = env.profile() if profile is None else profile
  roles = env.supertypes if symmetric else None
  profiles = empirical.all_profiles((len(functions),) * env.num_agents, roles)
  total = len(profiles) * episodes
  chunk = min(chunk, total)

  @jax.jit
  def play(number):
    strategies, episode = jnp.asarray(profiles)[number // episodes], number % episodes
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(episode)
    one = functools.partial(_returns, env, functions, profile=chosen, discount=discount)
    return jax.vmap(one)(strategies, keys)

  starts = range(0, total, chunk)
  # The last chunk repeats the last episode, so that all chunks have one shape.
  parts = [np.asarray(play(np.minimum(start + np.arange(chunk), total - 1))) for start in starts]
  returns = np.concatenate(parts)[:total].reshape(len(profiles), episodes, env.num_agents)
  return empirical.from_samples(
      returns.swapaxes(0, 1), profiles, labels=list(policies), roles=roles
  )


# Deviations from outside of the set.


class Deviation(NamedTuple):
  """The gain of the best trained deviation from a joint, beside the regret within the set."""

  gain: Estimate  # [] mean return of the deviator less that of the joint, from paired episodes
  value: Estimate  # [] mean return of the seat under the joint
  top: float  # upper end of the interval of the seat's regret
  violation: bool  # whether the mean gain is above `top`
  # The deviation chosen: 2 i is deviator i, and 2 i + 1 is its mean action. Deviator 0 is the one
  # before the training, deviator 1 is that of its middle, and deviator 2 is that of its end.
  chosen: int
  agent: Agent  # the deviator chosen


def deviate(
    key: Array,
    env: Environment,
    policies: Mapping[str, Strategy],
    report: empirical.Report,
    seat: int,
    net: Policy,
    config: ppo.Config,
    *,
    start: Agent | None = None,
    updates: int = 240,
    episodes: int = 64,
    judge_episodes: int = 1024,
    profile: Profile | None = None,
    discount: float = 1.0,
) -> Deviation:
  """Trains one agent against the equilibrium of an empirical game, and measures what it gains.

  In each episode a joint strategy is drawn from the equilibrium. The others play their parts of it,
  and the deviator plays its own policy and does not know the draw: this is the deviation of a
  coarse correlated equilibrium. Its gain is measured on held-out episodes, in which the seat plays
  its part of the draw for comparison, with the same random numbers. The first half of them chooses
  among deviators, and the second half measures the gain of the one chosen.

  The gain is a lower bound on the regret against all policies. A mean gain above the regret's
  interval is a violation: the set of policies is too small for the reported regret to hold beyond
  it. The agent found is then a policy to add.

  Args:
    key: random key of the training and of the judging.
    env, policies, profile, discount: as in `simulate`, which made the game.
    report: the result of `nes_jax.empirical.solve`.
    seat: index of the agent that deviates.
    net: policy of the deviator.
    config: settings of the deviator's learning.
    start: agent from which the deviator starts, such as a trained one of the set; None takes fresh
      parameters.
    updates: number of updates of the deviator.
    episodes: number of episodes of an update.
    judge_episodes: number of held-out episodes, four or more.

  Raises:
    ValueError: the seat does not exist, there are too few held-out episodes, a number of updates or
      episodes is below 1, or the policies are not those of the report.
  """
  functions = _check_policies(env, policies)
  joint = np.asarray(report.solution.joint)
  _check_deviation(env, functions, joint, seat, updates, episodes, judge_episodes)
  chosen = env.profile() if profile is None else profile
  start_key, train_key, judge_key = jax.random.split(key, 3)
  first = ppo.init(start_key, net, config).agent if start is None else start
  draw = functools.partial(_draw, jnp.log(jnp.asarray(np.maximum(joint, 0).ravel())), joint.shape)

  def play(agent, key):
    def one(key):
      draw_key, episode_key = jax.random.split(key)
      act = _seated(net, agent, functions, draw(draw_key), seat)
      return self_play.of_seat(rollout.episode(env, episode_key, chosen, act), seat)

    return rollout.batched(one, rollout.keys_of(key, episodes))

  def gains(key, agents):
    """Gains [2 k, K] of k deviators, and the returns [K] of the seat's part of the draw."""

    def one(key, agent=None, mean_action=False):
      draw_key, episode_key = jax.random.split(key)
      strategies = draw(draw_key)
      if agent is None:
        return _returns(env, functions, strategies, episode_key, chosen, discount)[seat]
      act = _seated(net, agent, functions, strategies, seat, mean_action=mean_action)
      played = rollout.episode(env, episode_key, chosen, act)
      return rollout.episode_returns(played.trajectory, discount)[seat]

    keys = rollout.keys_of(key, judge_episodes)
    together = jax.vmap(one)(keys)

    def tried(agent):
      options = [
          jax.vmap(functools.partial(one, agent=agent, mean_action=mean))(keys)
          for mean in (False, True)
      ]
      return jnp.stack(options) - together

    return jax.lax.map(tried, agents).reshape(-1, judge_episodes), together

  @jax.jit
  def found(first):
    responses, _ = self_play.best_response_to(play, first, train_key, net, config, updates)
    agents = jax.tree.map(lambda x, y: jnp.concatenate([x[None], y]), first, responses)
    return agents, *gains(judge_key, agents)

  agents, gained, together = found(first)
  best = int(np.argmax(np.asarray(gained)[:, : judge_episodes // 2].mean(-1)))
  gain = estimate(gained[best, judge_episodes // 2 :])
  top = float(report.regret.interval.high[seat])
  agent = jax.tree.map(lambda x: x[best // 2], agents)
  return Deviation(gain, estimate(together), top, bool(gain.mean > top), best, agent)


def _check_deviation(env, policies, joint, seat, updates, episodes, judge_episodes):
  """Checks the arguments of `deviate`. Raises ValueError."""
  if joint.shape != (len(policies),) * env.num_agents:
    raise ValueError(
        f"the report is of a game of {list(joint.shape)} strategies, and {len(policies)} policies"
        f" are given for {env.num_agents} agents: give those of the game"
    )
  if not 0 <= seat < env.num_agents:
    raise ValueError(f"seat={seat}: an agent of 0 to {env.num_agents - 1} is expected")
  for name, value, least in (
      ("updates", updates, 1), ("episodes", episodes, 1), ("judge_episodes", judge_episodes, 4),
  ):
    if value < least:
      raise ValueError(f"{name}={value} must be at least {least}")


def _draw(logits: Array, shape: tuple[int, ...], key: Array) -> Array:
  """Draws a joint strategy, [n], from unnormalised log-probabilities of all of them."""
  return jnp.stack(jnp.unravel_index(jax.random.categorical(key, logits), shape))


def _seated(
    net: Policy,
    agent: Agent,
    policies: Sequence[Strategy],
    strategies: Array,
    seat: int,
    *,
    mean_action: bool = False,
) -> rollout.Act:
  """Makes the agent in `seat` play a net, and all others the policies of indices `strategies`.

  Only the seat's entries of a decision are facts about its action, apart from the action itself.
  """

  def act(key: Array, observation: Array) -> Decision:
    mine = policy_lib.act(net, agent, None if mean_action else key, observation)
    others = _actions(policies, strategies, key, observation)
    here = (jnp.arange(len(observation)) == seat)[:, None]
    return mine._replace(action=jnp.where(here, mine.action, others))

  return act
