"""The result of a calibration, and its report.

Glossary: d numbers that are calibrated, K targets, M stages, N judged episodes or simulations.
"""

from collections.abc import Mapping, Sequence
import math
from typing import Any, NamedTuple

import numpy as np

from calsheq_jax import simulated
from calsheq_jax import targets as targets_lib
from calsheq_jax.observed import Observed
from calsheq_jax.problem import Problem
from calsheq_jax.shared_game import Certificate
from calsheq_jax.targets import goals_of
from calsheq_jax.types import Agent, Array
from calsheq_jax.uncertainty_report import Uncertainty
from envs.base import Profile


class Calibration(NamedTuple):
  """The result of a calibration. Means are over held-out episodes at the calibrated profile.

  Where a simulator without agents is calibrated, an episode is a simulation, the profile is the
  array of its parameters, and what is about agents is empty or None.
  """

  profile: Profile  # the calibrated profile, a pytree of arrays
  numbers: dict[str, float]  # the d calibrated numbers by name, in the profile's units
  reward: float  # mean of the episodes' rewards of the calibrator, 1 for a perfect fit
  reward_of_means: float  # reward of the mean values
  values: dict[str, float]  # mean values that the episodes show, by the name of the target
  value_errors: dict[str, float]  # standard errors of these means
  observed: dict[str, float]  # the values wanted, by the name of the target
  observed_errors: dict[str, float] | None  # their standard errors; None if unknown
  missing: tuple[str, ...]  # names of statistics that were not observed
  supertype_rewards: dict[str, float]  # an agent's mean undiscounted return, by supertype
  epsilon: float | None  # gain of the best deviation tried; None without a certificate
  certificate: Certificate | None  # the certificate of the shared policy at the profile
  history: dict[str, np.ndarray]  # metrics of the stages, [M, ...]
  state: Any  # `calsheq.State` or `simulated.State` after the last stage
  coordinates: np.ndarray  # [d] the calibrated numbers in coordinates of the box
  agent: Agent | None  # the shared policy of the calibrated profile
  uncertainty: Uncertainty | None  # intervals of the numbers, if they were asked for

  def report(self) -> str:
    """A table of what was observed and what is simulated, and the calibrated numbers.

    The last column is (simulated - observed) / sqrt(e^2 + f^2), with the standard errors e of the
    observed value, 0 if it is unknown, and f of the simulated mean.
    """
    rows = [("statistic", "observed", "error", "simulated", "error", "difference / error")]
    for name, wanted in self.observed.items():
      shown, noise = self.values[name], self.value_errors[name]
      error = None if self.observed_errors is None else self.observed_errors[name]
      total = math.hypot(error or 0.0, noise)
      rows.append((
          name, f"{wanted:.4g}", "unknown" if error is None else f"{error:.2g}",
          f"{shown:.4g}", f"{noise:.2g}", f"{(shown - wanted) / total:+.1f}" if total else "-",
      ))
    rows += [(name, "missing", "", "", "", "") for name in self.missing]
    lines = [*_columns(rows), ""]
    lines += _columns([(name, f"{number:.4g}") for name, number in self.numbers.items()])
    if self.uncertainty is not None:
      lines += ["", self.uncertainty.report()]
    return "\n".join(lines)


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
  """Lines of text whose cells are one under another."""
  widths = [max(map(len, column)) for column in zip(*rows)]
  return [
      "  ".join(
          cell.rjust(width) if i else cell.ljust(width)
          for i, (cell, width) in enumerate(zip(row, widths))
      ).rstrip()
      for row in rows
  ]


def result_of(
    problem: Problem | simulated.Simulation,
    observed: Observed | None,
    judged: Mapping[str, Array],
    **more: Any,
) -> Calibration:
  """Puts the result together from what N episodes or simulations have shown.

  Args:
    problem: the problem that was solved.
    observed: the observations that its targets come from; None if the targets were given.
    judged: "values" [N, K] of the targets, and "reward" [], the mean reward.
    **more: all fields of `Calibration` that are not about the targets.
  """
  targets = problem.targets
  names = [target.name for target in targets]
  values = np.asarray(judged["values"])  # [N, K]
  goals = goals_of(targets)
  means = values.mean(0)
  errors = None if observed is None or observed.errors is None else observed.errors
  return Calibration(
      reward=float(judged["reward"]),
      reward_of_means=float(targets_lib.reward(targets, means, goals)),
      values=named(names, means),
      value_errors=named(names, values.std(0, ddof=1) / math.sqrt(len(values))),
      observed=named(names, [target.value for target in targets]),
      observed_errors=None if errors is None else named(names, errors),
      missing=() if observed is None else observed.missing,
      **more,
  )


def named(names: Sequence[str], values: Any) -> dict[str, float]:
  """Numbers by name."""
  return {name: float(value) for name, value in zip(names, values)}
