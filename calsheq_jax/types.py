"""Table of contents of calsheq_jax: the types that everything else speaks.

Dimension letters used throughout the package:
  n   agents
  B   episodes of the global batch, over all devices; b those of one device
  T   steps of an episode
  O   length of an observation
  A   length of an action
  P   length of a distribution's parameters
  *   any leading axes
"""

from typing import Any, NamedTuple, Protocol, TypeAlias

import jax

Array = jax.Array
Params: TypeAlias = Any  # a pytree of arrays


class Distribution(Protocol):
  """Of actions in the environment's units; batch shape [*], event shape [A]."""

  def sample(self, *, seed: Array) -> Array:
    """One action for each member of the batch: [*, A]."""

  def log_prob(self, value: Array) -> Array:
    """[*, A] -> [*]."""

  def entropy(self) -> Array:
    """[*], in nats."""

  def kl_divergence(self, other: "Distribution") -> Array:
    """KL(self || other) [*], in nats."""

  def mean(self) -> Array:
    """[*, A]."""


class Policy(Protocol):
  """What maps an observation to a distribution of actions, and to its value.

  Policies are without state and hashable, to be closed over or passed as static arguments. Any
  object like this can be trained by `ppo`; `policy.ActorCritic` is one.
  """

  @property
  def observation_size(self) -> int:
    """O."""

  def init(self, key: Array) -> Params:
    """Fresh parameters."""

  def apply(self, params: Params, observation: Array) -> tuple[Array, Array]:
    """[*, O], as `ppo` normalises it -> distribution parameters [*, P], value [*].

    The value is in normalised units, those of `Agent.returns`.
    """

  def distribution(self, parameters: Array) -> Distribution:
    """[*, P] -> the distribution that these parameters are of."""


class Moments(NamedTuple):
  """Running mean and variance of vectors or numbers, [*]."""

  count: Array  # [] float32, weight of what was seen
  mean: Array  # [*]
  variance: Array  # [*] biased


class Agent(NamedTuple):
  """All that is needed to act: what is frozen when a policy is."""

  params: Params
  observations: Moments  # [O]
  returns: Moments  # []


class Decision(NamedTuple):
  """What an agent does, and what learning wants to remember of it."""

  action: Array  # [*, A] environment's units, not clipped to the box
  log_prob: Array  # [*]
  parameters: Array  # [*, P] of the distribution that the action is from
  value: Array  # [*] in units of reward


class Trajectory(NamedTuple):
  """Steps of many episodes, time first; * is [B, n] for agents, [B] for a learner that is alone.

  What comes after an episode's end has weight 0; its observation and value are those of the state
  in which the episode ended.
  """

  observation: Array  # [T, *, O] raw
  action: Array  # [T, *, A]
  log_prob: Array  # [T, *]
  parameters: Array  # [T, *, P]
  value: Array  # [T, *] in units of reward
  reward: Array  # [T, *]
  done: Array  # [T, *] bool: the episode has ended with this step
  truncated: Array  # [T, *] bool: it ended only because time was cut
  weight: Array  # [T, *] 1 for a step that was taken, 0 after the end
  last_value: Array  # [*] of the state after the last step


class Rollout(NamedTuple):
  """Episodes that were played."""

  trajectory: Trajectory  # [T, B, n, ...]
  states: Any  # [B, ...] environment's states at the end of each episode, for env.outputs
  watched: Any = None  # [T, B, ...] what else was recorded of each step, if anything
