"""The tables of `launch.market_game`, on the console and as CSV.

Glossary: N merchants, A policies.
"""

from collections.abc import Mapping
import pathlib
from typing import Any

import numpy as np

from calsheq_jax.empirical import Deviation
from launch.empirical.plain import Plain
from launch.runtime import tables
from nes_jax.empirical import Bootstrapped, EmpiricalGame, Report

# Smallest standard error of a comparison: rounding of a conic solver.
_SMALLEST = 1e-5
# Number of decimals in the printed table: the solver's zeros become zeros.
_DECIMALS = 4

Row = dict[str, Any]


def seats_of(game: EmpiricalGame) -> list[int]:
  """The first player of each role."""
  return [game.roles.index(role) for role in sorted(set(game.roles))]


def _row(name: str, of: Bootstrapped, index: Any = ()) -> Row:
  return {
      "quantity": name,
      "estimate": float(of.point[index]),
      "low": float(of.interval.low[index]),
      "high": float(of.interval.high[index]),
  }


def rows(game: EmpiricalGame, report: Report, names: Mapping[int, str]) -> list[Row]:
  """The rows of the table: weights with their support, payoffs, regret and welfare.

  Args:
    game: the game.
    report: its solution.
    names: role -> name of the merchants of this role.
  """
  found: list[Row] = []
  for seat in seats_of(game):
    who = names[game.roles[seat]]
    for index, label in enumerate(game.labels[seat]):
      row = _row(f"{who}: weight of {label}", report.weights[seat], index)
      found.append(row | {"support": float(report.support[seat][index])})
  for what, of in (("payoff", report.payoffs), ("regret", report.regret)):
    for seat in seats_of(game):
      found.append(_row(f"{names[game.roles[seat]]}: {what}", of, seat) | {"support": None})
  found.append(_row("all: regret", report.total_regret) | {"support": None})
  found.append(_row("all: welfare", report.welfare) | {"support": None})
  return found


def text(found: list[Row], report: Report, level: float) -> str:
  """The table as Markdown, and the shares of resamples below it."""
  solution = report.solution
  shown = [
      {name: round(x, _DECIMALS) + 0.0 if isinstance(x, float) else x for name, x in row.items()}
      for row in found
  ]
  state = "certified" if solution.converged else "NOT certified"
  return (
      f"{tables.markdown(shown)}\n\n"
      f"low, high: interval of {100 * level:g}% over {report.resamples} resamples; support: share"
      " of the certified resamples that play the policy\n"
      f"uncertified resamples: {100 * report.uncertified:.1f}%; the point's equilibrium is {state},"
      f" with residual {float(solution.residual):.1e}"
  )


def deviation_text(name: str, found: Deviation) -> str:
  """One line about a deviator."""
  low, high = found.gain.interval()
  verdict = (
      "a VIOLATION: the mean gain is above the regret's interval; these policies are too few"
      if found.violation
      else "the mean gain is within the regret's interval"
  )
  return (
      f"deviator as {name}: gains {float(found.gain.mean):.3f}"
      f" [{float(low):.3f}, {float(high):.3f}] over a payoff of {float(found.value.mean):.2f};"
      f" regret's upper end {found.top:.3f}; {verdict}"
  )


def comparison_text(
    game: EmpiricalGame, report: Report, level: float, plain: Plain, dense: Plain, seconds: float
) -> str:
  """Lines that compare the intervals and the times of a plain loop with those of the report.

  The end of an interval is the quantile q of R resamples. Its standard error is half the distance
  between the quantiles q - s and q + s, with s = sqrt(q (1 - q) / R). For a difference of two ends,
  1 / R is the sum of both.

  Args:
    game, report: the game and its solution.
    level: share of the resamples that an interval holds.
    plain: the plain loop over reduced problems.
    dense: the plain loop over whole problems.
    seconds: time that `nes_jax.empirical.solve` took.
  """
  count = len(plain.payoffs)
  tail = (1 - level) / 2
  width = np.sqrt(tail * (1 - tail) * (1 / count + 1 / report.resamples))
  worst = {}
  for name, ours, theirs in (
      ("payoff", report.payoffs, plain.payoffs),
      ("regret", report.regret, plain.regret),
      ("welfare", report.welfare, plain.payoffs.sum(-1)),
      *((f"weights of seat {p}", report.weights[p], plain.weights[:, p]) for p in seats_of(game)),
  ):
    apart = []
    for end, q in ((ours.interval.low, tail), (ours.interval.high, 1 - tail)):
      below, at, above = np.quantile(theirs, np.clip([q - width, q, q + width], 0, 1), axis=0)
      apart.append(abs(end - at) / np.maximum((above - below) / 2, _SMALLEST))
    worst[name] = float(np.max(apart))
  ours_each = seconds / report.resamples
  return "\n".join([
      f"plain loop of {count} resamples: largest difference of an interval's end, in standard"
      f" errors: {', '.join(f'{name} {value:.1f}' for name, value in worst.items())}",
      f"time of a resample: {1e3 * ours_each:.2f} ms here; {1e3 * plain.seconds:.0f} ms in the loop"
      f" over problems reduced by symmetry ({plain.seconds / ours_each:.0f} times as long);"
      f" {dense.seconds:.2f} s in the loop over the same games"
      f" ({dense.seconds / ours_each:.0f} times as long)",
  ])


def write(path: pathlib.Path, found: list[Row], deviations: Mapping[str, Deviation]) -> None:
  """Writes the table as CSV, with a row for each deviator."""
  extra = []
  for name, one in deviations.items():
    low, high = one.gain.interval()
    extra.append({
        "quantity": f"{name}: gain of a deviator from outside the set",
        "estimate": float(one.gain.mean), "low": float(low), "high": float(high), "support": None,
    })
  tables.write_csv(path, list(found[0]), [*found, *extra])
