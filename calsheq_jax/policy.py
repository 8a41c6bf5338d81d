"""The shared actor-critic: one network for all agents, fed own observation and own type (eq. 1).

Vadori et al. (2020) leave the network open; tanh layers with orthogonal weights are the practice
of PPO. The last layer of the policy starts near 0, so that the first actions are about the middle
of the box whatever is observed.

Glossary: O length of an observation, A of an action, P of a distribution's parameters.
"""

import dataclasses
import functools
import math
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from calsheq_jax import distributions
from calsheq_jax.types import Agent, Array, Decision, Params, Policy
from envs.base import Box, Environment

# Gains of orthogonal weights.
_HIDDEN_GAIN = math.sqrt(2)
_POLICY_GAIN = 0.01
_VALUE_GAIN = 1.0

# Normalised observations are cut here.
_FARTHEST = 10.0
# Added to variances: what varies by less than a hundredth is not blown up.
_SMALLEST_VARIANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Config:
  """What the network is."""

  hidden: tuple[int, ...] = (64, 64)  # sizes of the tanh layers
  head: str = "gaussian"  # one of distributions.HEADS
  shared_torso: bool = False  # whether policy and value have their hidden layers in common
  initial_scale: float = 0.5  # of a Gaussian, in half-widths of the box

  def __post_init__(self):
    object.__setattr__(self, "hidden", tuple(self.hidden))
    if any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in self.hidden):
      raise ValueError(f"hidden={self.hidden}: sizes of layers are integers of at least 1")
    distributions.num_parameters(self.head, 1)
    distributions.scale_offset(self.initial_scale)

  def to_dict(self) -> dict[str, Any]:
    """Plain lists, strings and numbers, for JSON."""
    return dataclasses.asdict(self) | {"hidden": list(self.hidden)}


@dataclasses.dataclass(frozen=True)
class ActorCritic:
  """A `Policy`: separate or shared tanh torso, a head for the distribution, one for the value."""

  observation_size: int
  low: tuple[float, ...]  # [A] bounds of actions
  high: tuple[float, ...]
  config: Config = Config()

  def __post_init__(self):
    low, high = distributions.check_box(self.low, self.high)
    object.__setattr__(self, "low", low)
    object.__setattr__(self, "high", high)
    if self.observation_size < 1:
      raise ValueError(f"observation_size={self.observation_size} must be at least 1")

  def init(self, key: Array) -> Params:
    return _network(self).init(key, jnp.zeros(self.observation_size))

  def apply(self, params: Params, observation: Array) -> tuple[Array, Array]:
    return _network(self).apply(params, observation)

  def distribution(self, parameters: Array) -> distributions.OverBox:
    return distributions.distribution(self.config.head, parameters, Box(self.low, self.high))


def for_environment(env: Environment, config: Config = Config()) -> ActorCritic:
  """The policy that all agents of an environment share."""
  box = env.action_space
  low, high = distributions.check_box(box.low, box.high)
  return ActorCritic(env.observation_size, low, high, config)


def linear(size: int, gain: float, name: str) -> hk.Linear:
  """A layer of orthogonal weights, within a Haiku transform."""

  def orthogonal(shape, dtype):
    # One factorisation at a time under vmap: batched LAPACK on CPU can wait for ever.
    draw = jax.custom_batching.sequential_vmap(
        lambda key: jax.nn.initializers.orthogonal(gain)(key, shape, dtype)
    )
    return draw(hk.next_rng_key())

  return hk.Linear(size, w_init=orthogonal, name=name)


def torso(x: Array, hidden: tuple[int, ...], name: str) -> Array:
  """tanh layers [*, in] -> [*, hidden[-1]], within a Haiku transform."""
  for index, size in enumerate(hidden):
    x = jnp.tanh(linear(size, _HIDDEN_GAIN, f"{name}_{index}")(x))
  return x


@functools.cache
def _network(policy: ActorCritic) -> hk.Transformed:
  """observation [*, O] -> parameters [*, P], value [*]."""
  config = policy.config

  def forward(observation):
    features = torso(observation, config.hidden, "shared" if config.shared_torso else "policy")
    value_features = features
    if not config.shared_torso:
      value_features = torso(observation, config.hidden, "value")
    action_size = len(policy.low)
    size = distributions.num_parameters(config.head, action_size)
    if config.head == "gaussian":
      mean = linear(action_size, _POLICY_GAIN, "policy_head")(features)
      raw = hk.get_parameter("raw_scale", (action_size,), init=jnp.zeros)
      parameters = jnp.concatenate([mean, jnp.broadcast_to(raw, mean.shape)], -1)
    else:
      parameters = linear(size, _POLICY_GAIN, "policy_head")(features)
    if config.head != "beta":
      start = jnp.repeat(jnp.array([0.0, distributions.scale_offset(config.initial_scale)]),
                         action_size)
      parameters = parameters + start
    value = linear(1, _VALUE_GAIN, "value_head")(value_features)
    return parameters, value[..., 0]

  return hk.without_apply_rng(hk.transform(forward))


# Acting.


def normalised(agent: Agent, observation: Array) -> Array:
  """Observations as the network gets them: [*, O], zero mean, unit variance, cut at +-10."""
  mean, variance = agent.observations.mean, agent.observations.variance
  x = (observation - mean) * jax.lax.rsqrt(variance + _SMALLEST_VARIANCE)
  return jnp.clip(x, -_FARTHEST, _FARTHEST)


def return_scale(agent: Agent) -> Array:
  """What normalised values are multiplied by, []; the returns' mean is then added."""
  return jnp.sqrt(agent.returns.variance + 1e-8)


def act(
    policy: Policy, agent: Agent, key: Array | None, observation: Array
) -> Decision:
  """Acts on observations [*, O]; with key None the mean action is taken."""
  parameters, value = policy.apply(agent.params, normalised(agent, observation))
  chosen = policy.distribution(parameters)
  action = chosen.mean() if key is None else chosen.sample(seed=key)
  value = agent.returns.mean + return_scale(agent) * value
  return Decision(action, chosen.log_prob(action), parameters, value)
