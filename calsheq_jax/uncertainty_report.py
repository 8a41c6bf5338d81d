"""The result of `uncertainty`: intervals, directions, checks, and a short report of them.

Glossary: d parameters.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from calsheq_jax import posterior_checks, simulated_moments
from calsheq_jax.local_model import LocalModel
from calsheq_jax.posterior_checks import Accepted
from calsheq_jax.simulated_moments import Direction, Moments

# Share of a parameter's axis in unidentified directions from which its interval says so.
_SHARE = 0.05
# Distance of an estimate from the middle, in reaches, from which it counts as extrapolated.
_OUTSIDE = 1.5
# P-value of the overidentification statistic below which the report warns.
_MISFIT = 0.01


class Uncertainty(NamedTuple):
  """The reliability of a calibrated profile. Numbers are in the profile's units."""

  names: tuple[str, ...]  # [d]
  level: float  # probability that an interval covers the truth
  estimate: dict[str, float]  # one Gauss-Newton step from the calibrated profile, within the box
  intervals: dict[str, tuple[float, float]]  # clipped to the box
  covariance: np.ndarray  # [d, d]
  shares: dict[str, float]  # share of each parameter's axis in unidentified directions, 0 to 1
  directions: tuple[Direction, ...]  # [d] the least identified first, in coordinates of the box
  overidentification: float  # distance of observed and simulated statistics, a chi-square
  freedom: int  # its degrees of freedom
  p_value: float  # its p-value; NaN without degrees of freedom
  abc: dict[str, tuple[float, float]]  # intervals by approximate Bayesian computation
  disagreements: tuple[str, ...]  # names whose two intervals differ by much
  moments: Moments  # the same in coordinates of the box
  model: LocalModel  # the local model of the statistics, in coordinates of the box
  episodes: int  # number of episodes that were simulated
  reach: float  # distance of the design's farthest points from its middle, in coordinates

  @property
  def extrapolated(self) -> bool:
    """Whether the estimate lies outside the design, where the local model was not fitted."""
    away = np.abs(self.moments.estimate - self.model.centre).max()
    return bool(away > _OUTSIDE * self.reach)

  @property
  def unidentified(self) -> tuple[Direction, ...]:
    """The directions that the statistics do not identify, the least identified first."""
    return tuple(x for x in self.directions if not x.identified)

  def report(self) -> str:
    """A short text: a line for each parameter, then what is not identified or does not fit."""
    wide = max(map(len, self.names))
    lines = [f"{100 * self.level:g}% intervals, from {self.episodes} episodes"]
    for name in self.names:
      low, high = self.intervals[name]
      note = ""
      if self.shares[name] >= _SHARE:
        note = f"  {100 * self.shares[name]:.0f}% in directions that are not identified"
      if name in self.disagreements:
        note += "  ABC: {:.4g} to {:.4g}".format(*self.abc[name])
      lines.append(f"  {name:{wide}}  {self.estimate[name]:9.4g}  {low:9.4g} to {high:9.4g}{note}")
    for direction in self.unidentified:
      lines.append(f"not identified: {direction.name}")
    if self.extrapolated:
      lines.append("the estimate lies outside the design: repeat with it as the point")
    if self.freedom:
      lines.append(
          f"overidentification: {self.overidentification:.3g} with {self.freedom} degrees of"
          f" freedom, p = {self.p_value:.2g}"
      )
      if self.p_value < _MISFIT:
        lines.append("no profile nearby shows the observed statistics: the model does not fit")
    return "\n".join(lines)


def conclude(
    model: LocalModel,
    moments: Moments,
    accepted: Accepted,
    names: Sequence[str],
    low: Sequence[float],
    high: Sequence[float],
    level: float,
    episodes: int,
    reach: float,
) -> Uncertainty:
  """Puts everything into the profile's units."""
  bottom, top = np.asarray(low, float), np.asarray(high, float)

  def named(x):
    return dict(zip(names, (bottom + (top - bottom) * (np.clip(x, -1, 1) + 1) / 2).tolist()))

  def pairs(bounds):
    lower, upper = map(named, bounds)
    return {name: (lower[name], upper[name]) for name in names}

  bounds = simulated_moments.intervals(moments.estimate, moments.covariance, level)
  checked = accepted.interval(level)
  differ = posterior_checks.disagree(bounds, checked)
  unit = (top - bottom) / 2
  return Uncertainty(
      names=tuple(names),
      level=level,
      estimate=named(moments.estimate),
      intervals=pairs(bounds),
      covariance=moments.covariance * np.outer(unit, unit),
      shares=dict(zip(names, moments.unidentified.tolist())),
      directions=moments.directions,
      overidentification=moments.overidentification,
      freedom=moments.freedom,
      p_value=moments.p_value,
      abc=pairs(checked),
      disagreements=tuple(name for name, flag in zip(names, differ) if flag),
      moments=moments,
      model=model,
      episodes=episodes,
      reach=reach,
  )
