"""Table of contents of calsheq_jax: the types that all modules share.

Dimension letters used throughout the package:
  n   agents
  B   episodes of the global batch, over all devices; b episodes of one device
  T   steps of an episode
  O   length of an observation
  A   length of an action
  P   length of a distribution's parameters
  *   any leading axes
"""

from typing import Any, NamedTuple, Protocol, Self, TypeAlias

import jax

Array = jax.Array
Params: TypeAlias = Any  # a pytree of arrays


class Distribution(Protocol):
  """A distribution of actions in the environment's units; batch shape [*], event shape [A]."""

  def sample(self, *, seed: Array) -> Array:
    """Draws one action for each member of the batch: [*, A]."""

  def log_prob(self, value: Array) -> Array:
    """Log-density of actions: [*, A] -> [*]."""

  def entropy(self) -> Array:
    """Differential entropy in nats: [*]."""

  def kl_divergence(self, other: Self) -> Array:
    """KL(self || other) in nats: [*]."""

  def mean(self) -> Array:
    """Mean action: [*, A]."""


class Policy(Protocol):
  """A function from an observation to a distribution of actions, and to the observation's value.

  Policies have no state and are hashable, so that they can be closed over or passed as static
  arguments. `ppo` can train any object with these methods; `policy.ActorCritic` is one.
  """

  @property
  def observation_size(self) -> int:
    """Length of an observation, O."""

  def init(self, key: Array) -> Params:
    """Draws fresh parameters."""

  def apply(self, params: Params, observation: Array) -> tuple[Array, Array]:
    """Computes distribution parameters [*, P] and values [*] of observations [*, O].

    Observations come normalised by `policy.normalised`. Values are in the normalised units of
    `Agent.returns`.
    """

  def distribution(self, parameters: Array) -> Distribution:
    """The distribution with parameters [*, P]."""


class Moments(NamedTuple):
  """Running mean and variance of vectors or numbers, [*]."""

  # [] float32, total weight of the observations
  count: Array  # type: ignore[assignment]  # This field hides the method `tuple.count`.
  mean: Array  # [*]
  variance: Array  # [*] biased


class Agent(NamedTuple):
  """Everything that acting needs, and that stays fixed when a policy is frozen."""

  params: Params
  observations: Moments  # [O]
  returns: Moments  # []


class Decision(NamedTuple):
  """An action, and the facts about it from which the learner learns."""

  action: Array  # [*, A] in the environment's units, not clipped to the box
  log_prob: Array  # [*]
  parameters: Array  # [*, P] parameters of the distribution that the action was drawn from
  value: Array  # [*] in units of reward


class Trajectory(NamedTuple):
  """Steps of many episodes, time first; * is [B, n], or [B] for a learner that is alone.

  Steps after an episode's end have weight 0; their observation and value belong to the state in
  which the episode ended.
  """

  observation: Array  # [T, *, O] as the environment gives it, before normalisation
  action: Array  # [T, *, A]
  log_prob: Array  # [T, *]
  parameters: Array  # [T, *, P]
  value: Array  # [T, *] in units of reward
  reward: Array  # [T, *]
  done: Array  # [T, *] bool: the episode has ended with this step
  truncated: Array  # [T, *] bool: the episode has ended only because time was cut
  weight: Array  # [T, *] 1 for a step that was taken, 0 after the end
  last_value: Array  # [*] value of the state after the last step


class Rollout(NamedTuple):
  """A batch of episodes that were played."""

  trajectory: Trajectory  # [T, B, n, ...]
  states: Any  # [B, ...] the environment's states at the end of each episode, for env.outputs
  watched: Any = None  # [T, B, ...] further records of each step, if any
