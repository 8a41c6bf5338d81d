"""The interface of environments in which many agents act at once, each with a type of its own.

Types are drawn from supertypes, and the supertype profile (Lambda in Vadori et al. 2020) says how.
The profile is a pytree of arrays and a traced argument of `reset` and `step`, so that `vmap` runs
one environment under many profiles. Environments are hashable objects without state, to be closed
over or passed as static arguments. Everything is written for one episode; the caller vmaps.

Glossary: n agents, T largest number of steps in an episode, O length of an observation, A length of
an action.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax

Array = jax.Array
Profile: TypeAlias = Any  # a pytree of arrays
State: TypeAlias = Any  # a pytree of arrays


class Box(NamedTuple):
  """Closed bounds: two arrays of the same shape, or two pytrees of such arrays."""

  low: Any
  high: Any


class Environment(Protocol):
  """A game of n agents."""

  @property
  def num_agents(self) -> int:
    """The number of agents, n."""

  @property
  def agent_names(self) -> tuple[str, ...]:
    """The agents' names [n], all different."""

  @property
  def supertype_names(self) -> tuple[str, ...]:
    """The supertypes' names."""

  @property
  def supertypes(self) -> tuple[int, ...]:
    """The index of each agent's supertype [n]."""

  @property
  def horizon(self) -> int:
    """The number of steps after which every episode has ended, T."""

  @property
  def observation_names(self) -> tuple[str, ...]:
    """A name for each number of an observation [O]."""

  @property
  def profile_names(self) -> tuple[str, ...]:
    """A name for each number of a profile, in the order of `jax.flatten_util.ravel_pytree`."""

  @property
  def observation_size(self) -> int:
    """The length of one agent's observation, O; the agent's type is part of it."""

  @property
  def action_space(self) -> Box:
    """Bounds [A] of one agent's action. Actions beyond them are clipped."""

  @property
  def profile_space(self) -> Box:
    """Bounds of a profile, as pytrees like it. Any profile within them is legal."""

  def profile(self) -> Profile:
    """A default profile; environments may take arguments that change it."""

  def reset(self, key: Array, profile: Profile) -> tuple[Array, State]:
    """Draws types and begins an episode.

    Args:
      key: random key.
      profile: the supertype profile.

    Returns:
      Observations [n, O], state.
    """

  def step(
      self, key: Array, state: State, action: Array, profile: Profile
  ) -> tuple[Array, State, Array, Array, Mapping[str, Array]]:
    """Lets all agents act once. An episode that has ended does not restart by itself.

    Args:
      key: random key.
      state: the state before the step.
      action: [n, A].
      profile: the supertype profile.

    Returns:
      Observations [n, O], state, reward [n], done [] bool, info. Every info has "truncated" []
      bool: the episode ended only because time was cut, so that the state in which it ended still
      has a value. If an episode is done and not truncated, nothing follows.
    """

  def outputs(self, state: State) -> Mapping[str, Array]:
    """Statistics of the episode so far, by name; targets of a calibration are set on them."""
