"""Ratings of a table of scores: computation, tables and files."""

from collections.abc import Callable
import dataclasses
import functools
import pathlib
import time
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from launch.rating import scores as scores_lib
from launch.rating.scores import Scores
from launch.runtime import flags, program, tables
from launch.runtime.flags import UsageError
from nes_jax import ratings, resampling
from nes_jax.ratings.games import NORMALISERS, Normaliser

METHODS = ("deviation", "cce", "ce")
# Number of tasks that are printed. The CSV file has all.
_PRINTED = 10


@dataclasses.dataclass(frozen=True)
class Config:
  """Options of a run."""

  scores: pathlib.Path = dataclasses.field(
      metadata={
          "metavar": "FILE.csv",
          "help": "Table of scores. Its first row has the names of the tasks, its first column"
                  " those of the agents, and its cells have scores, with standard errors or"
                  " without: 12.5 or 12.5±0.3.",
      }
  )
  out: pathlib.Path = flags.field(
      pathlib.Path("out/rate"), "Directory of the results.", metavar="DIRECTORY"
  )
  method: Literal["deviation", "cce", "ce"] = flags.field(
      "deviation",
      "Ratings to compute: deviation ratings, or gains under the CCE or CE of maximum entropy.",
      choices=METHODS,
  )
  normaliser: Normaliser = flags.field(
      "range",
      "Way in which the scores of different tasks are made comparable; winrate needs standard"
      " errors.",
      choices=NORMALISERS,
  )
  pairwise: bool = flags.field(
      True,
      "Compare two agents on a task, with the task in search of large differences. --nopairwise"
      " compares one agent with a task that wants low scores, as Nash averaging does.",
  )
  resamples: int = flags.field(1000, "Number of bootstrap resamples, if there are errors.")
  level: float = flags.field(resampling.LEVEL, "Share of the resamples inside an interval.")
  seed: int = flags.field(0, "Seed of the resamples.")


class Report(NamedTuple):
  """Ratings of agents and tasks."""

  scores: Scores
  agents: list[dict[str, Any]]  # rows of the table, the best agent first
  tasks: list[dict[str, Any]]
  converged: bool  # whether the ratings of the scores themselves are certified
  uncertified: float | None  # share of the resamples that are not; None without resamples
  seconds: float
  ranks: np.ndarray | None  # [agents, agents], in the order of the file


def check(config: Config) -> None:
  """Raises UsageError for options that do not fit together."""
  if config.normaliser == "winrate" and not config.pairwise:
    raise UsageError("--normaliser=winrate compares pairs of agents: leave out --nopairwise")
  if config.resamples < 1:
    raise UsageError(f"--resamples={config.resamples}: one or more is expected")
  if not 0 < config.level < 1:
    raise UsageError(f"--level={config.level}: a number between 0 and 1 is expected")


def compute(config: Config, say: Callable[[str], None]) -> Report:
  """Rates the agents and tasks of the file. Raises UsageError for a file that is wrong."""
  scores = scores_lib.read(config.scores)
  say(f"{len(scores.agents)} agents, {len(scores.tasks)} tasks, method {config.method}")
  if config.normaliser == "winrate" and scores.error is None:
    raise UsageError("--normaliser=winrate needs scores with standard errors, such as 12.5±0.3")
  game = functools.partial(
      ratings.agent_vs_task,
      stddev=scores.error if config.normaliser == "winrate" else None,
      normaliser=config.normaliser,
      pairwise=config.pairwise,
  )
  rate: Callable[..., ratings.Ratings] = ratings.deviation
  if config.method != "deviation":
    rate = functools.partial(ratings.equilibrium, concept=config.method)
  started = time.monotonic()
  agent, task = (1, 0) if config.pairwise else (0, 1)
  found = None
  if scores.error is None:
    say("the scores have no standard errors: ratings get no intervals")
    point = rate(game(scores.mean), batched=False)
  else:
    found = ratings.bootstrap(
        jax.random.key(config.seed),
        scores.mean,
        scores.error,
        num=config.resamples,
        game=game,
        rate=rate,
        level=config.level,
    )
    point = found.point
  return Report(
      scores=scores,
      agents=_rows("agent", scores.agents, point, agent, found),
      tasks=_rows("task", scores.tasks, point, task, found),
      converged=bool(point.converged),
      uncertified=None if found is None else found.uncertified,
      seconds=time.monotonic() - started,
      ranks=None if found is None else found.ranks[agent],
  )


def _rows(
    what: str,
    names: tuple[str, ...],
    point: ratings.Ratings,
    player: int,
    found: ratings.Uncertain | None,
) -> list[dict[str, Any]]:
  """Rows of a table, the best strategy first."""
  axes = tuple(axis for axis in range(point.joint.ndim) if axis != player)
  played = point.joint.sum(axes)
  rows = []
  for k in point.order[player]:
    # Zeros of a rating are known to about eight digits.
    rating = round(float(point.ratings[player][k]), 6) + 0.0
    row: dict[str, Any] = {what: names[k], "rating": rating}
    if found is not None:
      interval, ranks = found.intervals[player], found.ranks[player][k]
      row |= {
          "low": round(float(interval.low[k]), 6) + 0.0,
          "high": round(float(interval.high[k]), 6) + 0.0,
          "first": float(ranks[0]),
          "top3": float(ranks[:3].sum()),
      }
    rows.append(row | {"played": float(played[k])})
  return rows


def write(config: Config, report: Report) -> None:
  """Writes the tables agents.csv and tasks.csv, and the picture ratings.png."""
  from launch.figures import ratings as figure

  config.out.mkdir(parents=True, exist_ok=True)
  for name, rows in (("agents", report.agents), ("tasks", report.tasks)):
    tables.write_csv(config.out / f"{name}.csv", list(rows[0]), rows)
  figure.draw(
      config.out / "ratings.png", report.agents, report.tasks, report.scores.agents, report.ranks
  )


def summary(config: Config, report: Report) -> str:
  """The text that the program prints."""
  shown = report.tasks[:_PRINTED]
  lines = [tables.markdown(report.agents), "", tables.markdown(shown)]
  if len(shown) < len(report.tasks):
    lines.append(f"... and {len(report.tasks) - len(shown)} more tasks in tasks.csv")
  lines += [
      "",
      "A rating is what is gained by deviating to that agent or task: 0 is best. `first` and"
      " `top3` are probabilities of ranks, `played` is the probability in the joint play.",
  ]
  if not report.converged:
    lines.append("NOT CERTIFIED: the ratings of the scores themselves did not converge")
  if report.uncertified is not None:
    lines.append(
        f"{config.resamples} resamples in {report.seconds:.1f} s, of which"
        f" {round(report.uncertified * config.resamples)} are not certified"
    )
  return "\n".join(lines)


run = program.reporting(compute, write, summary)
