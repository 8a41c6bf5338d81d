"""The calibrator (Vadori et al. 2020, section 3), an agent that moves the supertype profile.

Its state is a supertype profile Lambda, its action is an increment of Lambda, and its reward says
how well an episode with the new profile meets the targets (`targets`). It learns by `ppo` like any
agent, alone, from problems of one step: objective (5).

The mean increment pulls towards a place g(Lambda), where g is a network:

  E[increment] = pull (g(Lambda) - Lambda).                                          (increment)

The increment has Gaussian noise, whose scale falls with a schedule. A network that puts out the
increment itself would learn a direction and run into a wall of the box; with (increment) the
profile comes to rest at a fixed point of g. The place may lie somewhat beyond the box, to which
profiles are clipped, so that a number that belongs on a wall is held there in spite of the noise.

Glossary: d numbers that are calibrated, B episodes; * any leading axes.
"""

import dataclasses
import functools
import math

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from calsheq_jax import distributions, ppo
from calsheq_jax.policy import linear, torso
from calsheq_jax.problem import Problem
from calsheq_jax.schedules import Schedule
from calsheq_jax.types import Array, Decision, Params, Trajectory
from envs.base import Box

# Half-width of the box that g maps into, in coordinates.
_REACH = 1.5

# Gain of the orthogonal weights of g's last layer.
_PLACE_GAIN = 0.01


def _learning() -> ppo.Config:
  # The learning rate is low for a reason: if each profile's sample changes g a lot, then g gets
  # several fixed points, the particles part into groups, and their mean is no good profile. With a
  # rate of 5e-3 that happened to some seeds of experiment 1, and all seeds were slow.
  return ppo.Config(
      learning_rate=3e-4, epochs=8, minibatches=1, kl_target=0.03, normalise_observations=False
  )


@dataclasses.dataclass(frozen=True)
class Config:
  """The settings of the calibrator's actions and of its learning."""

  hidden: tuple[int, ...] = dataclasses.field(
      default=(64, 64),
      metadata={"help": "Sizes of the hidden tanh layers of the calibrator's network."},
  )
  pull: float = dataclasses.field(
      default=0.3,
      metadata={
          "help": "Part of the way from the profile to the calibrator's goal that the mean"
          " increment covers, above 0 and at most 1."
      },
  )
  exploration: float = dataclasses.field(
      default=0.3,
      metadata={
          "help": "Standard deviation of the calibrator's increments at the start, in half-widths"
          " of the box of profiles."
      },
  )
  exploration_rate: Schedule = dataclasses.field(
      default=Schedule(2.0, 200),
      metadata={"help": "Schedule with which that standard deviation falls."},
  )
  least_exploration: float = dataclasses.field(
      default=0.02,
      metadata={
          "help": "Lower bound of the standard deviation of the calibrator's increments, in"
          " half-widths of the box of profiles."
      },
  )
  learning: ppo.Config = dataclasses.field(
      default_factory=_learning, metadata={"help": "Settings of the calibrator's learning."}
  )

  def __post_init__(self):
    object.__setattr__(self, "hidden", tuple(self.hidden))
    if any(size < 1 for size in self.hidden):
      raise ValueError(f"hidden={self.hidden}: sizes of layers are at least 1")
    if not 0 < self.pull <= 1:
      raise ValueError(f"pull={self.pull} must lie in (0, 1]")
    low, high = distributions.SCALES
    for field in ("exploration", "least_exploration"):
      if not low < getattr(self, field) < high:
        raise ValueError(
            f"{field}={getattr(self, field)} must lie between {low:g} and {high:g}"
        )
    if self.least_exploration > self.exploration:
      raise ValueError(
          f"least_exploration={self.least_exploration} is above exploration={self.exploration}"
      )
    if self.learning.normalise_observations:
      raise ValueError(
          "the calibrator's learning.normalise_observations must be False: coordinates are in"
          " [-1, 1] already, and (increment) needs them as they are"
      )

  def scale(self, stage: Array | float) -> Array:
    """Standard deviation of increments at a stage, in half-widths of the box."""
    return jnp.maximum(self.exploration * self.exploration_rate(stage), self.least_exploration)


@dataclasses.dataclass(frozen=True)
class Increments:
  """(increment) as a `Policy` on coordinates [*, d]; actions are increments of coordinates."""

  start: tuple[float, ...]  # [d] g at the beginning
  hidden: tuple[int, ...] = (64, 64)
  pull: float = 0.3

  @property
  def observation_size(self) -> int:
    return len(self.start)

  def init(self, key: Array) -> Params:
    """Draws parameters with g near `start`; `exploring` sets the scale of the noise."""
    network = _network(self).init(key, jnp.zeros(self.observation_size))
    return {"network": network, "raw_scale": jnp.zeros(())}

  def place(self, params: Params, coordinates: Array) -> Array:
    """The place g: [*, d] -> [*, d], within the box or a little beyond it."""
    return _network(self).apply(params["network"], coordinates)[0]

  def apply(self, params: Params, observation: Array) -> tuple[Array, Array]:
    place, value = _network(self).apply(params["network"], observation)
    mean = self.pull * (place - observation)
    # The schedule sets the scale, so that learning must not change it.
    raw = jax.lax.stop_gradient(params["raw_scale"])
    return jnp.concatenate([mean, jnp.broadcast_to(raw, mean.shape)], -1), value

  def distribution(self, parameters: Array) -> distributions.OverBox:
    ones = np.ones(self.observation_size, np.float32)
    return distributions.distribution("gaussian", parameters, Box(-ones, ones))


@functools.cache
def _network(policy: Increments) -> hk.Transformed:
  """The network: coordinates [*, d] -> g [*, d], value [*]."""

  def forward(x):
    start = np.arctanh(np.array(policy.start, np.float32) / _REACH)
    features = torso(x, policy.hidden, "place")
    moved = linear(policy.observation_size, _PLACE_GAIN, "place_head")(features)
    value = linear(1, 1.0, "value_head")(torso(x, policy.hidden, "value"))
    return _REACH * jnp.tanh(start + moved), value[..., 0]

  return hk.without_apply_rng(hk.transform(forward))


def policy_of(problem: Problem, config: Config) -> Increments:
  """Makes the calibrator's policy for a problem."""
  start = problem.space.origin()
  return Increments(tuple(start.tolist()), config.hidden, config.pull)


def exploring(state: ppo.State, scale: Array) -> ppo.State:
  """Sets the standard deviation [] of the calibrator's noise, in half-widths of the box."""
  low, high = distributions.SCALES
  part = jnp.log(scale / low) / math.log(high / low)
  params = {**state.agent.params, "raw_scale": jnp.log(part / (1 - part))}
  return state._replace(agent=state.agent._replace(params=params))


def one_step(decision: Decision, observation: Array, reward: Array) -> Trajectory:
  """Makes the trajectory of B problems of one step, from which `ppo.update` learns.

  Args:
    decision: [B, ...].
    observation: [B, d] coordinates before the step.
    reward: [B].

  Returns:
    [1, B, ...].
  """
  first = jax.tree.map(lambda x: x[None], decision)
  yes = jnp.ones(reward[None].shape, bool)
  return Trajectory(
      observation=observation[None],
      action=first.action,
      log_prob=first.log_prob,
      parameters=first.parameters,
      value=first.value,
      reward=reward[None],
      done=yes,
      truncated=~yes,
      weight=yes.astype(reward.dtype),
      last_value=jnp.zeros_like(reward),
  )
