"""The summary that `launch.nes_solve` prints at its end."""

from collections.abc import Mapping
import dataclasses

import numpy as np

# Number of games that a line of the summary names.
_LISTED = 5


@dataclasses.dataclass
class Report:
  """Tallies of all games, and the times of this run.

  Gaps, residuals and iterations are those of valid games. A game is invalid if its payoffs hold NaN
  or infinity that no strategy explains.
  """

  num_games: int
  shape: tuple[int, ...]  # (N, A1, ..., AN) of the largest game
  converged: int = 0  # number of games that converged
  invalid: int = 0  # number of invalid games
  repeated: int = 0  # number of games that were solved again in float64
  not_converged: int = 0  # number of valid games that did not converge
  first_not_converged: list[int] = dataclasses.field(default_factory=list)  # numbers of games
  first_invalid: list[int] = dataclasses.field(default_factory=list)  # numbers of games
  gap_sum: float = 0.0  # sum of the gaps, in payoff units
  gap_worst: float = 0.0  # largest gap, in payoff units
  residual_worst: float = 0.0  # largest residual
  iterations_sum: int = 0  # sum of the iterations
  iterations_max: int = 0  # largest number of iterations
  solved_here: int = 0  # number of games that this run solved
  seconds: float = 0.0  # seconds of this run
  compile_seconds: float = 0.0  # the part of `seconds` in which JAX compiled
  first_compile_seconds: float = 0.0  # the part of `compile_seconds` for the first part
  steady_games: int = 0  # number of games of parts for which JAX compiled nothing
  steady_seconds: float = 0.0  # seconds in `solve` for these games
  ragged: bool = False  # whether the games differ in shape

  def add(self, start: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Counts the games of a part.

    Args:
      start: number of the part's first game.
      arrays: answers of the part, as in `answers.answer_schema`.
    """
    valid, converged = ~arrays["invalid"], arrays["converged"]
    self.converged += int(converged.sum())
    self.invalid += int((~valid).sum())
    self.repeated += int(arrays["repeated"].sum())
    for mask, first in (
        (valid & ~converged, self.first_not_converged),
        (~valid, self.first_invalid),
    ):
      first += (start + np.flatnonzero(mask)[: _LISTED - len(first)]).tolist()
    self.not_converged += int((valid & ~converged).sum())
    if valid.any():
      gap = arrays["gap"][valid].astype(np.float64)
      iterations = arrays["iterations"][valid]
      self.gap_sum += float(gap.sum())
      # np.maximum, unlike max, never loses a NaN.
      self.gap_worst = float(np.maximum(self.gap_worst, gap.max()))
      worst = arrays["residual"][valid].astype(np.float64).max()
      self.residual_worst = float(np.maximum(self.residual_worst, worst))
      self.iterations_sum += int(iterations.sum())
      self.iterations_max = max(self.iterations_max, int(iterations.max()))


def summary(report: Report, names: tuple[str, ...] | None = None) -> str:
  """The report as a table of lines.

  Args:
    report: of all games.
    names: names of the games, if they have any.
  """
  rows = _counts(report, names) + _qualities(report) + _times(report)
  width = max(len(name) for name, _ in rows) + 2
  lines = [f"{name:<{width}}{value}" for name, value in rows]
  if report.not_converged:
    lines.append(
        f"WARNING: {report.not_converged} of {report.num_games} games did NOT converge; their rows"
        " have converged = False and are not answers. Try --precision=float64, a larger"
        " --max_iterations or a finite --rho"
    )
  return "\n".join(lines)


def _counts(report: Report, names: tuple[str, ...] | None) -> list[tuple[str, str]]:
  """Rows of how many games there are, of which kinds."""

  def listed(numbers: list[int], count: int) -> str:
    labels = [names[k] if names else f"game {k}" for k in numbers]
    more = ", ..." if count > len(numbers) else ""
    return f" ({', '.join(labels)}{more})" if numbers else ""

  counts = ("at most " if report.ragged else "") + "x".join(map(str, report.shape[1:]))
  return [
      ("games", f"{report.num_games} of {report.shape[0]} players, {counts} strategies"),
      ("converged", f"{report.converged}"),
      (
          "NOT CONVERGED" if report.not_converged else "not converged",
          f"{report.not_converged}{listed(report.first_not_converged, report.not_converged)}",
      ),
      (
          "INVALID" if report.invalid else "invalid",
          f"{report.invalid}{listed(report.first_invalid, report.invalid)}"
          + (" NaN or infinite payoffs" if report.invalid else ""),
      ),
      ("repeated in float64", f"{report.repeated}"),
  ]


def _qualities(report: Report) -> list[tuple[str, str]]:
  """Rows of gaps, residuals and iterations of valid games."""
  valid = report.num_games - report.invalid
  if not valid:
    return []
  return [
      ("gap, payoff units", f"mean {report.gap_sum / valid:.3g}, worst {report.gap_worst:.3g}"),
      ("residual", f"worst {report.residual_worst:.3g}"),
      ("iterations", f"mean {report.iterations_sum / valid:.1f}, most {report.iterations_max}"),
  ]


def _times(report: Report) -> list[tuple[str, str]]:
  """Rows of seconds and rates of this run."""
  rows = [("seconds", f"{report.seconds:.2f}")]
  if report.solved_here:
    here = "" if report.solved_here == report.num_games else f" ({report.solved_here} in this run)"
    rate = f"{report.solved_here / report.seconds:.4g} in all{here}"
    if report.steady_games:
      rate += f", {report.steady_games / report.steady_seconds:.4g} where nothing was compiled"
    rows += [
        (
            "  compiling",
            f"{report.compile_seconds:.2f}, the first part's {report.first_compile_seconds:.2f}",
        ),
        ("games a second", rate),
    ]
  return rows
