"""The options of a run of `launch.calsheq_train`."""

from collections.abc import Mapping
import dataclasses
import functools
import json
import re
from typing import Any

from calsheq_jax import calsheq, experiments, searchers
from calsheq_jax.experiments import Experiment
from calsheq_jax.problem import Problem
from calsheq_jax.search import Trials
from calsheq_jax.targets import Target
from launch.runtime import flags, loop
from launch.runtime.flags import UsageError

METHODS: tuple[str, ...] = ("calsheq", *searchers.METHODS)


@dataclasses.dataclass(frozen=True)
class Plan:
  """The experiment, the method, the seeds, the length of the run, and its evaluations."""

  experiment: str = dataclasses.field(
      default="1",
      metadata={
          "help": "Experiment: 1 to 5 are the paper's, with the market; recover looks for a hidden"
          " profile of the market; linear_quadratic is a small game with a known answer.",
          "choices": tuple(experiments.EXPERIMENTS),
      },
  )
  method: str = dataclasses.field(
      default="calsheq",
      metadata={
          "help": "Method of calibration: CALSHEQ, Bayesian optimisation, CMA-ES or random search.",
          "choices": METHODS,
      },
  )
  customers: int | None = dataclasses.field(
      default=None,
      metadata={
          "help": "Number of customers in each cluster of the market, if it differs from the"
          " experiment's."
      },
  )
  horizon: int | None = dataclasses.field(
      default=None,
      metadata={
          "help": "Number of steps in an episode of the market, if it differs from the"
          " experiment's."
      },
  )
  seed: int = dataclasses.field(
      default=0,
      metadata={"help": "Seed of the first calibration; further ones take the seeds that follow."},
  )
  seeds: int = dataclasses.field(
      default=3, metadata={"help": "Number of seeds, each calibrated on its own, side by side."}
  )
  stages: int = dataclasses.field(
      default=400, metadata={"help": "Number of stages of the whole run."}
  )
  hold: int = dataclasses.field(
      default=10,
      metadata={
          "help": "Number of stages for which bo, cmaes and random hold a profile before they score"
          " it; --stages is a multiple of it."
      },
  )
  hidden_updates: int = dataclasses.field(
      default=400,
      metadata={
          "help": "Number of updates of a shared policy at the hidden profile of the experiment"
          " recover, before its targets are measured."
      },
  )
  judge_episodes: int = dataclasses.field(
      default=64,
      metadata={
          "help": "Number of held-out episodes for each row of metrics; the end of the run is"
          " judged on four times as many."
      },
  )
  certify: bool = dataclasses.field(
      default=True, metadata={"help": "Look for profitable deviations at the end of the run."}
  )
  response_updates: int = dataclasses.field(
      default=120,
      metadata={"help": "Number of updates of the deviator that looks for a certificate."},
  )
  response_episodes: int = dataclasses.field(
      default=64,
      metadata={"help": "Number of episodes of one update of the deviator, over all devices."},
  )
  figures: bool = dataclasses.field(
      default=True, metadata={"help": "Draw pictures at the end of the run."}
  )

  def __post_init__(self):
    if self.seed < 0:
      raise ValueError(f"seed={self.seed} must be at least 0")
    flags.at_least_one(
        self, "seeds", "stages", "hold", "hidden_updates", "judge_episodes", "response_updates",
        "response_episodes",
    )

  def chosen(self) -> Experiment:
    """The experiment, with another market if one was asked for.

    Raises:
      UsageError: the experiment is not about the market, or the market refuses a size.
    """
    experiment = experiments.named(self.experiment)
    sizes = {"customers": self.customers, "horizon": self.horizon}
    changes = {name: size for name, size in sizes.items() if size is not None}
    try:
      return experiments.resized(experiment, **changes) if changes else experiment
    except ValueError as error:
      raise UsageError(str(error)) from error


@dataclasses.dataclass(frozen=True)
class Run:
  """A run of the program."""

  experiment: Experiment
  plan: Plan
  config: calsheq.Config
  options: loop.Options

  def __post_init__(self):
    if self.searches:
      try:
        self.trials  # noqa: B018
      except ValueError as error:
        raise UsageError(re.sub(r"\b(stages|hold)=", r"--\1=", str(error))) from error

  @functools.cached_property
  def problem(self) -> Problem:
    """The problem of the experiment. The first use starts JAX."""
    return self.experiment.problem()

  @property
  def searches(self) -> bool:
    """Whether a searcher chooses profiles in place of the calibrator."""
    return self.plan.method in searchers.METHODS

  @property
  def trials(self) -> Trials:
    """The trials of a searcher. Raises ValueError if the stages do not divide into trials."""
    return Trials(self.plan.stages, self.plan.hold)

  def env_steps(self, stages: int) -> int:
    """Number of environment steps of one seed, at most; all agents act in each step."""
    batches = stages if self.searches else self.config.played(stages)
    return batches * self.config.episodes * self.experiment.env.horizon

  def settings(self) -> dict[str, Any]:
    """The settings that identify the run, flat, for JSON."""
    plan, space = self.plan, self.problem.space
    own: dict[str, Any] = {"experiment": self.experiment.name, "method": plan.method}
    own |= {"seed": plan.seed, "seeds": plan.seeds}
    own |= {"env": repr(self.experiment.env), "targets": [_plain(t) for t in self.problem.targets]}
    own |= {name: list(getattr(space, name)) for name in ("start", "names", "low", "high")}
    if self.searches:
      own |= {"stages": plan.stages, "hold": plan.hold}
    if self.experiment.hidden:
      own["hidden_updates"] = plan.hidden_updates
    config = _flat(json.loads(json.dumps(self.config.to_dict())))
    # The evaluation, with the rest before it, can be done anew.
    for name in ("rest", "last_rest", "rest_margin"):
      del config[name]
    return own | config


def _plain(target: Target) -> dict[str, Any]:
  """A target for JSON; a function is represented by its name, because its address changes."""
  fields = dataclasses.asdict(target) | {"index": list(target.index)}
  if not fields["whitening"]:
    del fields["whitening"]
  function = target.function
  named = getattr(function, "__qualname__", type(function).__name__)
  return fields | {"function": None if function is None else named}


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Flattens a nested dictionary: {"a": {"b": 1}} -> {"a/b": 1}."""
  flat: dict[str, Any] = {}
  for name, value in nested.items():
    flat |= _flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: value}
  return flat
