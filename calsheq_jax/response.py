"""Statistics of the shared equilibrium near a profile, with the policy's own response in them.

A derivative of the statistics with the policy held fixed leaves out how agents react to a change of
the profile. Here the policy goes on learning at each of P profiles around the calibrated one, from
the calibrated policy, before held-out episodes are played. All profiles learn side by side.

Glossary: P profiles of a design, d numbers that are calibrated, K targets, E held-out episodes of a
profile.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from calsheq_jax import calsheq, policy, ppo, rollout
from calsheq_jax.problem import Problem
from calsheq_jax.schedules import Schedule
from calsheq_jax.targets import goals_of
from calsheq_jax.types import Agent, Array


@dataclasses.dataclass(frozen=True)
class Config:
  """The size of a design, and the learning at each of its profiles."""

  reach: float = dataclasses.field(
      default=0.2,
      metadata={"help": "Distance of the design's profiles from the middle, in half-widths."},
  )
  profiles: int = dataclasses.field(
      default=32,
      metadata={
          "help": "Smallest number of profiles beside the middle; the design is repeated until it"
          " has as many."
      },
  )
  centres: int = dataclasses.field(
      default=8, metadata={"help": "Number of further learners at the middle of the design."}
  )
  stages: int = dataclasses.field(
      default=20, metadata={"help": "Number of stages for which each policy goes on learning."}
  )
  episodes: int = dataclasses.field(
      default=16, metadata={"help": "Number of episodes of one such stage."}
  )
  held_out: int = dataclasses.field(
      default=32, metadata={"help": "Number of held-out episodes at each profile."}
  )
  rate: Schedule = dataclasses.field(
      default=Schedule(1.0, 8),
      metadata={"help": "Schedule of the learning rate, which starts anew at each profile."},
  )

  def __post_init__(self):
    if not 0 < self.reach < 1:
      raise ValueError(f"reach={self.reach} must lie between 0 and 1, in half-widths of the box")
    for field, least in (
        ("profiles", 1), ("centres", 2), ("stages", 0), ("episodes", 2), ("held_out", 2)
    ):
      if getattr(self, field) < least:
        raise ValueError(f"{field}={getattr(self, field)} must be at least {least}")

  def points(self, size: int) -> int:
    """The number of profiles of a design for `size` numbers, P."""
    return 2 * _order(size) * self.repeats(size) + self.centres

  def repeats(self, size: int) -> int:
    """The number of times that the design for `size` numbers is repeated."""
    return math.ceil(self.profiles / (2 * _order(size)))

  def cost(self, size: int) -> int:
    """The number of episodes that the design plays in all."""
    return self.points(size) * (self.stages * self.episodes + self.held_out)


def _order(size: int) -> int:
  """The least power of 2 that is not below `size`."""
  return 1 << max(0, size - 1).bit_length()


def design(point: np.ndarray, config: Config) -> np.ndarray:
  """A two-level design of resolution IV, folded over, with points in the middle.

  Columns are those of a Hadamard matrix of Sylvester's kind, so that each number is moved by +-
  reach at each point, and columns are orthogonal (Plackett and Burman 1946). With each point goes
  its mirror image, which keeps second-order terms out of the slopes (Box and Wilson 1951).

  Args:
    point: [d] coordinates of the calibrated profile. If it is nearer to a wall of the box than
      `reach`, the middle of the design is moved inwards.
    config: the size.

  Returns:
    Coordinates [P, d]; the last `config.centres` of them are all the middle of the design.
  """
  size = len(point)
  signs = np.ones((1, 1))
  while len(signs) < size:
    signs = np.block([[signs, signs], [signs, -signs]])
  middle = np.clip(point, -1 + config.reach, 1 - config.reach)
  half = config.reach * signs[:, :size]
  moves = np.concatenate([half, -half] * config.repeats(size) + [np.zeros((config.centres, size))])
  return (middle + moves).astype(np.float32)


def respond(
    agent: Agent,
    key: Array,
    coordinates: Array,
    problem: Problem,
    learning: calsheq.Config,
    config: Config,
) -> Array:
  """Lets the policy respond to each profile, and plays held-out episodes there.

  Each profile has random numbers of its own. Common ones would make slopes a little more exact, but
  they would hide the noise of the mean, since residuals do not show what all profiles share.

  Args:
    agent: the calibrated policy, from which learning goes on with a fresh optimiser.
    key: random key.
    coordinates: [P, d] profiles.
    problem, learning, config: static under jit; `learning` holds the settings of the run that
      trained the policy, of which episodes and rates are replaced.

  Returns:
    Statistics [P, E, K] of held-out episodes. With config.stages = 0 the policy is frozen.
  """
  learning = dataclasses.replace(learning, episodes=config.episodes, shared_rate=config.rate)
  net = policy.for_environment(problem.env, learning.network)
  goals = goals_of(problem.targets)

  def one(key, point):
    learn_key, play_key = jax.random.split(key)

    def step(shared, _):
      shared, _ = calsheq.trial_stage(shared, learn_key, point, goals, problem, learning)
      return shared, None

    responding = agent
    if config.stages:
      shared = ppo.from_agent(agent, learning.shared)
      responding = jax.lax.scan(step, shared, length=config.stages)[0].agent
    profiles = rollout.repeated(problem.space.profile(point), config.held_out)
    played = rollout.collect(problem.env, net, responding, play_key, profiles)
    return problem.values(played.states)

  return jax.vmap(one)(rollout.keys_of(key, len(coordinates)), jnp.asarray(coordinates))
