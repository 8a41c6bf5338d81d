"""Output of a search for the ceiling: metrics of its end, ceiling.json and a table.

Glossary: d numbers that are calibrated, K targets.
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from calsheq_jax.ceiling import Detail
from calsheq_jax.experiments import Experiment
from calsheq_jax.problem import Problem
from calsheq_jax.shared_game import Certificate
from launch.runtime import tables, writers
from launch.runtime.flags import UsageError

# Files in the directory of all experiments.
FILE, TABLE = "ceiling.json", "ceiling.md"

# Episodes of one calibration: 400 stages of 64 episodes.
CALIBRATION_EPISODES = 400 * 64

# Number of profiles that are trained longer at the end.
FINALISTS = 3

# Prefix of the names of the final metrics.
_FINAL = "final/"


class Final(NamedTuple):
  """The end of a search."""

  detail: Detail  # of the winner, on fresh episodes
  numbers: np.ndarray  # [d] the winner's profile in its units
  certificate: Certificate  # of the winner's policy
  scores: np.ndarray  # [FINALISTS] rewards from which the winner was chosen
  start: float  # reward of the best start


def flat(final: Final) -> dict[str, float]:
  """The end of a search as metrics final/NAME."""
  detail, certificate = final.detail, final.certificate
  found: dict[str, Any] = {
      "reward": detail.reward,
      "reward_error": detail.reward_error,
      "reward_of_means": detail.reward_of_means,
      "epsilon": certificate.epsilon.mean,
      "epsilon_error": certificate.epsilon.error,
      "value": certificate.value.mean,
      "start": final.start,
  }
  for name in ("values", "deviations", "fits", "fits_of_means"):
    found |= {f"{name}/{i}": x for i, x in enumerate(getattr(detail, name))}
  found |= {f"numbers/{i}": x for i, x in enumerate(final.numbers)}
  found |= {f"scores/{i}": x for i, x in enumerate(final.scores)}
  return {_FINAL + name: float(value) for name, value in found.items()}


def entry(
    experiment: Experiment, problem: Problem, row: Mapping[str, float]
) -> dict[str, Any]:
  """The entry of an experiment in ceiling.json, from the result of `flat`."""

  def numbers(name: str, count: int) -> list[float]:
    return [row[f"{_FINAL}{name}/{i}"] for i in range(count)]

  wanted = problem.targets
  count = len(wanted)
  single = {
      name: row[_FINAL + name]
      for name in ("reward", "reward_error", "reward_of_means", "epsilon", "epsilon_error",
                   "value", "start")
  }
  value = single["value"]
  columns = {
      name: numbers(name, count) for name in ("values", "deviations", "fits", "fits_of_means")
  }
  weights = np.array([target.weight for target in wanted])
  groups: dict[str, Any] = {}
  for target, weight, fit, of_mean in zip(
      wanted, weights / weights.sum(), columns["fits"], columns["fits_of_means"]
  ):
    name = f"{target.output}[{target.index[0]}]" if target.index else target.output
    group = groups.setdefault(name, {"weight": 0.0, "fit": 0.0, "fit_of_means": 0.0})
    group["weight"] += float(weight)
    group["fit"] += float(weight * fit)
    group["fit_of_means"] += float(weight * of_mean)
  for group in groups.values():
    group["fit"] /= group["weight"]
    group["fit_of_means"] /= group["weight"]
  return {
      "about": experiment.about,
      **single,
      "misfit": 1 - single["reward_of_means"],
      "noise": single["reward_of_means"] - single["reward"],
      "relative_epsilon": single["epsilon"] / abs(value) if value else None,
      "finalists": numbers("scores", FINALISTS),
      "parts": groups,
      "targets": [
          {
              "name": target.name, "value": target.value, "shown": columns["values"][i],
              "deviation": columns["deviations"][i], "fit": columns["fits"][i],
              "fit_of_mean": columns["fits_of_means"][i],
          }
          for i, target in enumerate(wanted)
      ],
      "profile": dict(zip(problem.space.names, numbers("numbers", problem.space.size))),
  }


def read(path: pathlib.Path) -> dict[str, dict[str, Any]]:
  """Reads the entries of ceiling.json by experiment.

  Raises:
    UsageError: the file cannot be read, or is none that `add` has written.
  """
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
    entries = content["experiments"]
    for found in entries.values():
      float(found["reward"]), float(found["reward_of_means"])
  except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
    raise UsageError(
        f"{path} is no result of launch.checks.ceiling ({error!r}): give its {FILE}"
    ) from error
  return entries


def add(out: pathlib.Path, name: str, found: Mapping[str, Any]) -> None:
  """Adds the entry of an experiment to ceiling.json, and writes the table anew."""
  path = out / FILE
  entries = read(path) if path.exists() else {}
  entries[name] = dict(found)
  entries = dict(sorted(entries.items()))
  writers.write_json(path, {"experiments": entries})
  rows = [_row(key, value) for key, value in entries.items()]
  text = tables.markdown(rows)
  (out / TABLE).write_text(f"{text}\n\n{_EXPLANATION}\n", encoding="utf-8")


_EXPLANATION = (
    "The best reward that was found for a profile at its own equilibrium, judged on episodes from"
    " which nobody has chosen: a lower bound on the ceiling. Its distance to 1 is the misfit of the"
    " mean values plus the noise of single episodes. Epsilon is what the best deviation found"
    " gains, in percent of the mean reward. Steps are in units of one calibration, 400 stages of 64"
    " episodes."
)


def _row(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
  relative = found["relative_epsilon"]
  return {
      "experiment": name,
      "best reward": f"{found['reward']:.3f} +- {found['reward_error']:.3f}",
      "reward of the means": f"{found['reward_of_means']:.3f}",
      "misfit": f"{found['misfit']:.3f}",
      "noise": f"{found['noise']:.3f}",
      "best start": f"{found['start']:.3f}",
      "epsilon": None if relative is None else f"{100 * relative:.1f}%",
      "steps, calibrations": f"{found['calibrations']:.1f}",
      "seconds": f"{found['seconds']:.0f}",
  }


def line(name: str, found: Mapping[str, Any]) -> str:
  """A line for the console."""
  return (
      f"experiment {name}: best reward {found['reward']:.4f} +- {found['reward_error']:.4f},"
      f" of the means {found['reward_of_means']:.4f}, epsilon {found['epsilon']:.3f}"
  )
