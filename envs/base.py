"""What an environment is: many agents act at once, each of a type drawn from its supertype.

The supertype profile (Lambda in Vadori et al. 2020) says how types are drawn. It is a pytree of
arrays, goes into `reset` and `step` as a traced argument, and so `vmap` runs one environment under
many profiles. Environments are objects without state, hashable, to be closed over or passed as
static arguments; everything is written for one episode, the caller vmaps.

Glossary: n agents, T steps of an episode at most.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax

Array = jax.Array
Profile: TypeAlias = Any  # a pytree of arrays
State: TypeAlias = Any  # a pytree of arrays


class Box(NamedTuple):
  """Closed bounds: two arrays of one shape, or two pytrees of such arrays."""

  low: Any
  high: Any


class Environment(Protocol):
  """A game of n agents."""

  @property
  def num_agents(self) -> int:
    """n."""

  @property
  def agent_names(self) -> tuple[str, ...]:
    """A name for each agent, all different."""

  @property
  def supertype_names(self) -> tuple[str, ...]:
    """A name for each supertype."""

  @property
  def supertypes(self) -> tuple[int, ...]:
    """Index of each agent's supertype."""

  @property
  def horizon(self) -> int:
    """T: every episode has ended after that many steps."""

  @property
  def observation_names(self) -> tuple[str, ...]:
    """A name for each number that an agent observes."""

  @property
  def profile_names(self) -> tuple[str, ...]:
    """A name for each number of a profile, in the order of `jax.flatten_util.ravel_pytree`."""

  @property
  def observation_size(self) -> int:
    """Length of the vector that one agent observes; its type is part of it."""

  @property
  def action_space(self) -> Box:
    """Bounds [act_dim] of one agent's action. Actions beyond are clipped to them."""

  @property
  def profile_space(self) -> Box:
    """Bounds of a profile: pytrees like it. Any profile within them is legal."""

  def profile(self) -> Profile:
    """One to begin with; environments may take arguments that change it."""

  def reset(self, key: Array, profile: Profile) -> tuple[Array, State]:
    """Draws types and begins an episode: -> observations [n, observation_size], state."""

  def step(
      self, key: Array, state: State, action: Array, profile: Profile
  ) -> tuple[Array, State, Array, Array, Mapping[str, Array]]:
    """All agents act: action [n, act_dim].

    Returns:
      Observations [n, observation_size], state, reward [n], done [] bool, info. Every info has
      "truncated" [] bool: the episode ended only because time was cut, so that what would have
      followed still has a value; done without it means that nothing follows. Nothing resets by
      itself.
    """

  def outputs(self, state: State) -> Mapping[str, Array]:
    """What the episode has shown so far, by name: what targets of a calibration are set on."""
