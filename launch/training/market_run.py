"""The options of a run of `launch.market_train`."""

from collections.abc import Sequence
import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from calsheq_jax import policy, ppo
from envs import market
from launch.runtime import flags, loop
from launch.runtime.flags import UsageError


@dataclasses.dataclass(frozen=True)
class Plan:
  """The seeds, the length of the training, and its evaluations."""

  seed: int = dataclasses.field(
      default=0,
      metadata={"help": "Seed of the first policy; further policies take the seeds that follow."},
  )
  seeds: int = dataclasses.field(
      default=5,
      metadata={"help": "Number of seeds, each with a policy of its own, trained side by side."},
  )
  updates: int = dataclasses.field(
      default=800,
      metadata={"help": "Number of updates of the whole run, over which schedules stretch."},
  )
  episodes: int = dataclasses.field(
      default=32, metadata={"help": "Number of episodes of one update, over all devices."}
  )
  last_rate: float = dataclasses.field(
      default=0.3,
      metadata={
          "help": "Learning rate of the last update, as a part of the first one; the rate falls"
          " linearly."
      },
  )
  last_exploration: float = dataclasses.field(
      default=0.0,
      metadata={
          "help": "Weight of the entropy in the last update, as a part of the first one; the weight"
          " falls linearly."
      },
  )
  certify_every: int = dataclasses.field(
      default=200,
      metadata={
          "help": "Number of updates between two certificates, a multiple of --save_every; there is"
          " one at the end, too."
      },
  )
  response_updates: int = dataclasses.field(
      default=240,
      metadata={"help": "Number of updates of the deviator that looks for a certificate."},
  )
  response_episodes: int = dataclasses.field(
      default=64,
      metadata={"help": "Number of episodes of one update of the deviator, over all devices."},
  )
  judge_episodes: int = dataclasses.field(
      default=256,
      metadata={
          "help": "Number of held-out episodes of an evaluation, and of those on which deviations"
          " are judged."
      },
  )
  figures: bool = dataclasses.field(
      default=True, metadata={"help": "Draw pictures at the end of the run."}
  )

  def __post_init__(self):
    flags.at_least_one(
        self, "seeds", "updates", "episodes", "certify_every", "response_updates",
        "response_episodes",
    )
    for name in ("last_rate", "last_exploration"):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(f"{name}={getattr(self, name)} must lie between 0 and 1")
    if self.judge_episodes < 4:
      raise ValueError(f"judge_episodes={self.judge_episodes} must be at least 4")


@dataclasses.dataclass(frozen=True)
class ProfileNumbers:
  """A supertype profile in a few numbers, the same for all clusters, or in a file."""

  connection: float = dataclasses.field(
      default=0.3,
      metadata={"help": "Probability of a link between a merchant and a customer of any cluster."},
  )
  connection1: float | None = dataclasses.field(
      default=None,
      metadata={"help": "This probability for supertype 1, if it differs from supertype 2's."},
  )
  tolerance: float = dataclasses.field(
      default=0.5,
      metadata={"help": "Tolerance to inventory, between 0 and 1; the mean of supertype 2's."},
  )
  tolerance1: float | None = dataclasses.field(
      default=None,
      metadata={"help": "This tolerance for supertype 1, if it differs from supertype 2's mean."},
  )
  variance: float = dataclasses.field(
      default=0.01, metadata={"help": "Variance of supertype 2's tolerance, between 0 and 0.25."}
  )
  profile: pathlib.Path | None = dataclasses.field(
      default=None,
      metadata={
          "metavar": "FILE.json",
          "help": "File with a JSON list of all numbers of the profile, in the order of the"
          " market's profile_names; it takes the place of the other flags of this section.",
      },
  )

  def numbers(self, clusters: int) -> tuple[float, ...]:
    """All numbers of the profile, in the order of the market's profile_names.

    Raises:
      UsageError: the file cannot be read, or is no list of numbers.
    """
    if self.profile is not None:
      try:
        content = json.loads(self.profile.read_text(encoding="utf-8"))
        return tuple(float(x) for x in content)
      except (OSError, TypeError, ValueError) as error:
        raise UsageError(
            f"--profile={self.profile}: {error}; a JSON list of numbers is expected"
        ) from error
    # The order is that of jax.tree, which is not asked here because JAX must not start yet.
    first = (self.connection if self.connection1 is None else self.connection1,) * clusters
    tolerance1 = self.tolerance if self.tolerance1 is None else self.tolerance1
    return (*first, tolerance1, *(self.connection,) * clusters, self.tolerance, self.variance)


@dataclasses.dataclass(frozen=True)
class Run:
  """A run of the program."""

  env: market.Market
  profile: tuple[float, ...]  # numbers of the profile, in the order of env.profile_names
  network: policy.Config
  learning: ppo.Config
  plan: Plan
  options: loop.Options

  def __post_init__(self):
    periods = {
        "report_every": self.options.report_every,
        "save_every": self.options.save_every,
        "certify_every": self.plan.certify_every,
    }
    for often, seldom in (("report_every", "save_every"), ("save_every", "certify_every")):
      if periods[seldom] % periods[often]:
        raise UsageError(
            f"--{seldom}={periods[seldom]} must be a multiple of --{often}={periods[often]}"
        )

  @property
  def groups(self) -> dict[str, np.ndarray]:
    """The indices of the agents of each supertype."""
    which = np.array(self.env.supertypes)
    return {name: np.flatnonzero(which == i) for i, name in enumerate(self.env.supertype_names)}

  def settings(self) -> dict[str, Any]:
    """The settings that identify the run, flat, for JSON."""
    own = ("seed", "seeds", "updates", "episodes", "last_rate", "last_exploration")
    return {
        **dataclasses.asdict(self.env.config),
        **self.network.to_dict(),
        **self.learning.to_dict(),
        **{name: getattr(self.plan, name) for name in own},
        "profile": list(self.profile),
    }


def profile_of(env: market.Market, numbers: Sequence[float]) -> market.Profile:
  """Makes a profile from its numbers, in the order of env.profile_names.

  Raises:
    UsageError: the number of numbers is wrong, or one of them is out of its bounds.
  """
  low, high = (
      np.concatenate([np.ravel(x) for x in jax.tree.leaves(bound)]) for bound in env.profile_space
  )
  if len(numbers) != len(low):
    raise UsageError(
        f"the profile has {len(numbers)} numbers; {len(low)} are expected, in the order"
        f" {', '.join(env.profile_names)}"
    )
  for name, value, least, most in zip(env.profile_names, numbers, low, high):
    if not least <= value <= most:
      raise UsageError(f"{name}={value} of the profile must lie between {least:g} and {most:g}")
  leaves, structure = jax.tree.flatten(env.profile())
  parts, start = [], 0
  for leaf in leaves:
    values = np.array(numbers[start : start + leaf.size], np.float32).reshape(leaf.shape)
    parts.append(jnp.asarray(values))
    start += leaf.size
  return jax.tree.unflatten(structure, parts)
