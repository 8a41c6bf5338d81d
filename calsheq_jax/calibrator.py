"""The calibrator (Vadori et al. 2020, section 3): what it moves, what it is paid for, how it acts.

Its state is a supertype profile Lambda, its action an increment, its reward how well an episode
with the new profile meets the targets. It learns by `ppo` like any agent, alone, from problems of
one step: objective (5).

Space. A `Space` names the numbers of a profile that may move; the others stay where they are. What
moves is measured in coordinates in which its box is [-1, 1]^d, and stays within that box.

Reward. With value f_k of the episode, target f*_k, tolerance_k, scale_k and weight w_k, sum w = 1,

  r = sum_k w_k / (1 + max(|f*_k - f_k| - tolerance_k, 0) / scale_k)                    (reward)

which is 1 for a perfect fit. (The paper has r = sum_k w_k l_k^-1(f*_k - f_k), and does not print
the l_k.)

Policy. The mean increment pulls towards a place g(Lambda) within the box,

  E[increment] = pull (g(Lambda) - Lambda),                                             (increment)

g a network, with Gaussian noise of a scale that a schedule lets fall. A free network for the
increments learns a direction and runs into a wall of the box; one for the place that they lead to
comes to rest there. g reaches somewhat beyond the box, to which profiles are clipped: a number that
belongs on a wall is then held there, noise or not.

Glossary: d numbers that are calibrated, P numbers of a profile, K targets, B episodes; * any axes.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import fnmatch
import functools
import math
from typing import Any

import haiku as hk
import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np

from calsheq_jax import distributions, ppo
from calsheq_jax.policy import linear, torso
from calsheq_jax.schedules import Schedule
from calsheq_jax.types import Array, Decision, Params, Trajectory
from envs.base import Box, Environment, Profile

# Half-width of the box that g maps into.
_REACH = 1.5
_PLACE_GAIN = 0.01


# Targets.


@dataclasses.dataclass(frozen=True)
class Target:
  """What one number of an episode's outputs should be."""

  output: str  # a name in env.outputs; with a function, just a name
  value: float
  scale: float  # the error beyond the tolerance at which half of the reward is lost
  weight: float = 1.0  # weights are divided by their sum
  index: tuple[int, ...] = ()  # of the number within the output
  tolerance: float = 0.0  # errors up to this are none
  function: Callable[[Mapping[str, Array]], Array] | None = None  # outputs -> []

  def __post_init__(self):
    object.__setattr__(self, "index", tuple(self.index))
    if not math.isfinite(self.value):
      raise ValueError(f"the target of {self.name} is {self.value}: it must be finite")
    for field in ("scale", "weight"):
      if not 0 < getattr(self, field) < math.inf:
        raise ValueError(
            f"{field}={getattr(self, field)} of the target {self.name} must be positive and finite"
        )
    if not 0 <= self.tolerance < math.inf:
      raise ValueError(
          f"tolerance={self.tolerance} of the target {self.name} must be finite and at least 0"
      )

  @property
  def name(self) -> str:
    """Such as supertype_percentiles[0,3]."""
    return self.output + (f"[{','.join(map(str, self.index))}]" if self.index else "")

  def read(self, outputs: Mapping[str, Array]) -> Array:
    """The number [] that the target is set on."""
    value = outputs[self.output][self.index] if self.function is None else self.function(outputs)
    return jnp.asarray(value, jnp.result_type(float))


def vector(output: str, values: Sequence[float], weight: float = 1.0, index=(), **more) -> tuple:
  """A `Target` for each number of a vector; `weight` is that of all together.

  Args:
    output: name in env.outputs.
    values: of the vector.
    weight: shared out evenly.
    index: of the vector within the output.
    **more: further fields of each target.
  """
  each = weight / len(values)
  return tuple(
      Target(output, value, weight=each, index=(*index, i), **more)
      for i, value in enumerate(values)
  )


def values_of(targets: Sequence[Target], outputs: Mapping[str, Array]) -> Array:
  """[K] what an episode's outputs have in place of the targets."""
  return jnp.stack([target.read(outputs) for target in targets])


def goals_of(targets: Sequence[Target]) -> Array:
  """[K] the values of the targets."""
  return jnp.array([target.value for target in targets], jnp.result_type(float))


def fits(targets: Sequence[Target], values: Array, goals: Array) -> Array:
  """1 / (1 + error / scale) of each target, in (0, 1]: values [*, K], goals [*, K] -> [*, K]."""
  field = lambda name: np.array([getattr(target, name) for target in targets], np.float32)
  error = jnp.maximum(jnp.abs(goals - values) - field("tolerance"), 0)
  return 1 / (1 + error / field("scale"))


def reward(targets: Sequence[Target], values: Array, goals: Array) -> Array:
  """(reward): values [*, K] of episodes, goals [*, K] what they should be -> [*], in (0, 1]."""
  weight = np.array([target.weight for target in targets])
  return fits(targets, values, goals) @ jnp.asarray(weight / weight.sum(), values.dtype)


# Space.


@dataclasses.dataclass(frozen=True)
class Space:
  """Which numbers of a profile move, and within which bounds. Made by `space`."""

  env: Environment
  start: tuple[float, ...]  # [P] where all numbers begin, in the order of `ravel_pytree`
  positions: tuple[int, ...]  # [d] of those that move
  names: tuple[str, ...]  # [d]
  low: tuple[float, ...]  # [d] bounds
  high: tuple[float, ...]

  @property
  def size(self) -> int:
    """d."""
    return len(self.positions)

  def from_numbers(self, numbers: Array) -> Array:
    """[*, d] in the profile's units -> coordinates."""
    low, high = np.array(self.low, np.float32), np.array(self.high, np.float32)
    return 2 * (numbers - low) / (high - low) - 1

  def numbers(self, coordinates: Array) -> Array:
    """[*, d] coordinates -> the profile's units, within the bounds whatever the rounding."""
    low, high = np.array(self.low, np.float32), np.array(self.high, np.float32)
    return jnp.clip(low + (high - low) * (coordinates + 1) / 2, low, high)

  def origin(self) -> np.ndarray:
    """[d] coordinates of the start."""
    start = np.array([self.start[i] for i in self.positions], np.float32)
    return np.clip(self.from_numbers(start), -1, 1)

  def profile(self, coordinates: Array) -> Profile:
    """The profile at coordinates [d]; vmap for more."""
    flat, unravel = ravel_pytree(self.env.profile_space.low)
    start = jnp.array(self.start, flat.dtype)
    moved = self.numbers(coordinates).astype(flat.dtype)
    return unravel(start.at[np.array(self.positions)].set(moved))


def space(
    env: Environment,
    start: Profile,
    patterns: Sequence[str] = ("*",),
    low: Mapping[str, float] | None = None,
    high: Mapping[str, float] | None = None,
) -> Space:
  """The numbers of a profile whose names match, each within the environment's box or less.

  Args:
    env: whose profiles.
    start: Lambda_0; what does not move has its numbers for ever.
    patterns: of names (`fnmatch`), such as "supertype_1/connection_*".
    low, high: by name, where the bounds are to be narrower than the environment's.

  Raises:
    ValueError: a pattern or name that matches nothing, bounds beyond the environment's or empty,
      a start out of bounds, or profiles that are not of real numbers.
  """
  if any(not jnp.issubdtype(jnp.result_type(x), jnp.floating) for x in jax.tree.leaves(start)):
    raise ValueError("a profile that is not of real numbers cannot be calibrated")
  flatten = lambda tree: np.asarray(ravel_pytree(tree)[0], np.float64)
  begin, least, most = flatten(start), *map(flatten, env.profile_space)
  names = env.profile_names
  for pattern in patterns:
    if not fnmatch.filter(names, pattern):
      raise ValueError(f"{pattern!r} matches no number of a profile: {', '.join(names)}")
  positions = tuple(
      i for i, name in enumerate(names) if any(fnmatch.fnmatchcase(name, p) for p in patterns)
  )
  moving = [names[i] for i in positions]
  for name in (*(low or {}), *(high or {})):
    if name not in moving:
      raise ValueError(f"a bound on {name!r}, which is none of {', '.join(moving)}")
  lows = [(low or {}).get(names[i], least[i]) for i in positions]
  highs = [(high or {}).get(names[i], most[i]) for i in positions]
  for i, bottom, top in zip(positions, lows, highs):
    if not least[i] <= bottom < top <= most[i]:
      raise ValueError(
          f"bounds {bottom} to {top} of {names[i]}: they must not be empty, and lie within"
          f" {least[i]:g} to {most[i]:g}"
      )
    if not bottom <= begin[i] <= top:
      raise ValueError(f"{names[i]} starts at {begin[i]:g}, out of its bounds {bottom} to {top}")
  return Space(
      env,
      tuple(begin.tolist()),
      positions,
      tuple(names[i] for i in positions),
      tuple(float(x) for x in lows),
      tuple(float(x) for x in highs),
  )


@dataclasses.dataclass(frozen=True)
class Problem:
  """What is to be calibrated to what. Hashable: static under jit."""

  space: Space
  targets: tuple[Target, ...]

  def __post_init__(self):
    object.__setattr__(self, "targets", tuple(self.targets))
    if not self.targets:
      raise ValueError("there are no targets: give one or more")
    names = [target.name for target in self.targets]
    for name in names:
      if names.count(name) > 1:
        raise ValueError(f"{names.count(name)} targets are called {name}: a name tells them apart")
    env = self.env
    state = jax.eval_shape(lambda: env.reset(jax.random.key(0), self.space.profile(
        jnp.zeros(self.space.size)))[1])
    outputs = jax.eval_shape(env.outputs, state)
    for target in self.targets:
      if target.function is None:
        if target.output not in outputs:
          raise ValueError(
              f"the target {target.name} is on no output of {type(env).__name__}: it has"
              f" {', '.join(outputs)}"
          )
        # JAX would take the nearest.
        whole = outputs[target.output].shape
        if len(target.index) > len(whole) or any(
            not 0 <= i < size for i, size in zip(target.index, whole)
        ):
          raise ValueError(
              f"the target {target.name} is beyond the output's shape {list(whole)}"
          )
      shape = jax.eval_shape(target.read, outputs).shape
      if shape:
        raise ValueError(
            f"the target {target.name} has the shape {list(shape)}: give the index of one number"
        )

  @property
  def env(self) -> Environment:
    return self.space.env

  def values(self, states: Any) -> Array:
    """Final states [B, ...] of episodes -> what they show of the targets [B, K]."""
    return jax.vmap(lambda state: values_of(self.targets, self.env.outputs(state)))(states)


# Policy.


def _learning() -> ppo.Config:
  # Steps in which g learns something else for every profile give it several resting places:
  # particles part into groups, and their mean is no good profile. With 5e-3 that happened to some
  # seeds of experiment 1, and all were slow.
  return ppo.Config(
      learning_rate=3e-4, epochs=8, minibatches=1, kl_target=0.03, normalise_observations=False
  )


@dataclasses.dataclass(frozen=True)
class Config:
  """How the calibrator acts and learns."""

  hidden: tuple[int, ...] = (64, 64)  # sizes of the tanh layers
  pull: float = 0.3  # part of the way to g that the mean increment goes, in (0, 1]
  exploration: float = 0.3  # s.d. of increments at the start, in half-widths of the box
  exploration_rate: Schedule = Schedule(2.0, 200)  # which that falls with
  least_exploration: float = 0.02  # but not below
  learning: ppo.Config = dataclasses.field(default_factory=_learning)

  def __post_init__(self):
    object.__setattr__(self, "hidden", tuple(self.hidden))
    if any(size < 1 for size in self.hidden):
      raise ValueError(f"hidden={self.hidden}: sizes of layers are at least 1")
    if not 0 < self.pull <= 1:
      raise ValueError(f"pull={self.pull} must lie in (0, 1]")
    for field in ("exploration", "least_exploration"):
      distributions.scale_offset(getattr(self, field))
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
    """S.d. of increments at a stage, in half-widths of the box."""
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
    """g is about `start`; the scale of the noise is to be set (`exploring`)."""
    network = _network(self).init(key, jnp.zeros(self.observation_size))
    return {"network": network, "raw_scale": jnp.zeros(())}

  def place(self, params: Params, coordinates: Array) -> Array:
    """g: [*, d] -> [*, d], within the box or a little beyond."""
    return _network(self).apply(params["network"], coordinates)[0]

  def apply(self, params: Params, observation: Array) -> tuple[Array, Array]:
    place, value = _network(self).apply(params["network"], observation)
    mean = self.pull * (place - observation)
    # Of the schedule, not of learning.
    raw = jax.lax.stop_gradient(params["raw_scale"])
    return jnp.concatenate([mean, jnp.broadcast_to(raw, mean.shape)], -1), value

  def distribution(self, parameters: Array) -> distributions.OverBox:
    ones = np.ones(self.observation_size, np.float32)
    return distributions.distribution("gaussian", parameters, Box(-ones, ones))


@functools.cache
def _network(policy: Increments) -> hk.Transformed:
  """coordinates [*, d] -> g [*, d], value [*]."""

  def forward(x):
    start = np.arctanh(np.array(policy.start, np.float32) / _REACH)
    features = torso(x, policy.hidden, "place")
    moved = linear(policy.observation_size, _PLACE_GAIN, "place_head")(features)
    value = linear(1, 1.0, "value_head")(torso(x, policy.hidden, "value"))
    return _REACH * jnp.tanh(start + moved), value[..., 0]

  return hk.without_apply_rng(hk.transform(forward))


def policy_of(problem: Problem, config: Config) -> Increments:
  """The calibrator's policy of a problem."""
  start = problem.space.origin()
  return Increments(tuple(start.tolist()), config.hidden, config.pull)


def exploring(state: ppo.State, scale: Array) -> ppo.State:
  """The calibrator with noise of this s.d. [], in half-widths of the box."""
  low, high = distributions.SCALES
  part = jnp.log(scale / low) / math.log(high / low)
  params = {**state.agent.params, "raw_scale": jnp.log(part / (1 - part))}
  return state._replace(agent=state.agent._replace(params=params))


def one_step(decision: Decision, observation: Array, reward: Array) -> Trajectory:
  """What the calibrator brings to `ppo.update`: B problems of one step.

  Args:
    decision: [B, ...].
    observation: [B, d] coordinates before.
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
