"""The shared actor-critic: one network for all agents.

Each agent feeds its own observation and its own type to the network (Vadori et al. 2020, eq. 1).
The paper leaves the network open; tanh layers with orthogonal weights are common practice with PPO.
The last layer of the policy starts near 0, so that the first actions are near the middle of the
box whatever the observation is.

Glossary: O length of an observation, A length of an action, P length of a distribution's
parameters.
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

# Gain of the orthogonal weights of hidden layers.
_HIDDEN_GAIN = math.sqrt(2)

# Gain of the orthogonal weights of the policy's last layer.
_POLICY_GAIN = 0.01

# Gain of the orthogonal weights of the value's last layer.
_VALUE_GAIN = 1.0

# Bound of normalised observations.
_FARTHEST = 10.0

# Number added to variances, so that an observation with a standard deviation below a hundredth is
# not blown up.
_SMALLEST_VARIANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Config:
  """The settings of the network."""

  hidden: tuple[int, ...] = dataclasses.field(
      default=(64, 64),
      metadata={"help": "Sizes of the hidden tanh layers of the policy network."},
  )
  head: str = dataclasses.field(
      default="gaussian",
      metadata={
          "help": "Distribution of the policy's actions: a Gaussian with one scale, a Gaussian"
          " whose scale depends on the observation, or a Beta.",
          "choices": distributions.HEADS,
      },
  )
  shared_torso: bool = dataclasses.field(
      default=False,
      metadata={"help": "Share the hidden layers between the policy and the value."},
  )
  initial_scale: float = dataclasses.field(
      default=0.5,
      metadata={
          "help": "Standard deviation of a Gaussian policy at the start, in half-widths of the box"
          " of actions."
      },
  )

  def __post_init__(self):
    object.__setattr__(self, "hidden", tuple(self.hidden))
    if any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in self.hidden):
      raise ValueError(f"hidden={self.hidden}: sizes of layers are integers of at least 1")
    distributions.num_parameters(self.head, 1)
    distributions.scale_offset(self.initial_scale)

  def to_dict(self) -> dict[str, Any]:
    """The fields as plain lists, strings and numbers, for JSON."""
    return dataclasses.asdict(self) | {"hidden": list(self.hidden)}


@dataclasses.dataclass(frozen=True)
class ActorCritic:
  """A `Policy` of tanh layers with one head for the actions and one for the value."""

  observation_size: int
  low: tuple[float, ...]  # [A] lower bounds of actions
  high: tuple[float, ...]  # [A] upper bounds of actions
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
  """Makes the policy that all agents of an environment share."""
  box = env.action_space
  low, high = distributions.check_box(box.low, box.high)
  return ActorCritic(env.observation_size, low, high, config)


def linear(size: int, gain: float, name: str) -> hk.Linear:
  """A layer with orthogonal weights; call it within a Haiku transform."""

  def orthogonal(shape, dtype):
    # Under vmap the factorisations run one at a time, since batched LAPACK on a CPU can hang.
    @jax.custom_batching.sequential_vmap
    def draw(key):
      return jax.nn.initializers.orthogonal(gain)(key, shape, dtype)

    return draw(hk.next_rng_key())

  return hk.Linear(size, w_init=orthogonal, name=name)


def torso(x: Array, hidden: tuple[int, ...], name: str) -> Array:
  """Hidden tanh layers, [*, in] -> [*, hidden[-1]]; call it within a Haiku transform."""
  for index, size in enumerate(hidden):
    x = jnp.tanh(linear(size, _HIDDEN_GAIN, f"{name}_{index}")(x))
  return x


@functools.cache
def _network(policy: ActorCritic) -> hk.Transformed:
  """The network: observation [*, O] -> distribution parameters [*, P], value [*]."""
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
  """Observations as the network takes them: [*, O], zero mean, unit variance, clipped to +-10."""
  mean, variance = agent.observations.mean, agent.observations.variance
  x = (observation - mean) * jax.lax.rsqrt(variance + _SMALLEST_VARIANCE)
  return jnp.clip(x, -_FARTHEST, _FARTHEST)


def return_scale(agent: Agent) -> Array:
  """Standard deviation of returns, []; a value is their mean plus this times a normalised value."""
  return jnp.sqrt(agent.returns.variance + 1e-8)


def act(policy: Policy, agent: Agent, key: Array | None, observation: Array) -> Decision:
  """Decides on actions for observations [*, O].

  Args:
    policy: static under jit.
    agent: the policy's parameters and normalisers.
    key: random key of the actions; None takes the mean action.
    observation: [*, O] as the environment gives it.
  """
  parameters, value = policy.apply(agent.params, normalised(agent, observation))
  chosen = policy.distribution(parameters)
  action = chosen.mean() if key is None else chosen.sample(seed=key)
  value = agent.returns.mean + return_scale(agent) * value
  return Decision(action, chosen.log_prob(action), parameters, value)
