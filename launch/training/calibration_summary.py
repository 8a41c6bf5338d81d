"""Metrics, summary.json and pictures of a run of `launch.calsheq_train`.

Glossary: S seeds, d numbers that are calibrated, K targets, s supertypes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from calsheq_jax.shared_game import Certificate
from launch.runtime import writers
from launch.training.calibration_run import Run

# Part of the final reward; the summary says after how many environment steps it was reached.
_REACHED = 0.9

# Metrics that are recorded of each seed, besides the lowest rewards.
_OF_SEEDS = ("train/reward", "judged/reward", "variation", "increment")

# Metrics of `ppo.update` that are recorded of both learners.
_OF_LEARNING = ("approx_kl", "kl_weight", "explained_variance", "entropy", "clip_frac")


def row(
    run: Run, metrics: Mapping[str, np.ndarray], judged: Mapping[str, np.ndarray]
) -> dict[str, float]:
  """The metrics of a chunk of stages, as means over seeds and some of each seed.

  Args:
    run: the run.
    metrics: of the chunk [S, ...]: those of `calsheq.stage` as means over stages, "lowest" rewards
      [S, s], and "last/profile" [S, d].
    judged: result of `calsheq.judge` after the chunk, [S, ...].
  """
  problem = run.problem
  series = {
      "train/reward": metrics["reward"],
      "judged/reward": judged["reward"],
      "judged/reward_of_means": judged["reward_of_means"],
      "variation": metrics["variation"],
      "increment": metrics["increment"],
  }
  for i, name in enumerate(problem.env.supertype_names):
    series[f"train/{name}/reward"] = metrics["supertype_rewards"][:, i]
    series[f"lowest/{name}/reward"] = metrics["lowest"][:, i]
    series[f"judged/{name}/reward"] = judged["supertype_rewards"][:, i]
  for i, target in enumerate(problem.targets):
    series[f"target/{target.name}"] = metrics["values"][:, i]
    series[f"judged/target/{target.name}"] = judged["values"][:, i]
  for i, name in enumerate(problem.space.names):
    series[f"profile/{name}"] = metrics["last/profile"][:, i]
  found: dict[str, float] = {}
  for name, values in series.items():
    found |= writers.over_seeds(name, values)
    if name in _OF_SEEDS or name.startswith("lowest/"):
      found |= {f"seed_{i}/{name}": float(value) for i, value in enumerate(values)}
    elif name.startswith("profile/"):
      found[f"seed_0/{name}"] = float(values[0])
  if "spread" in metrics:
    found["spread"] = float(metrics["spread"].mean())
  return found | {
      name: float(value.mean())
      for name, value in metrics.items()
      if name.rpartition("/")[0] in ("shared", "calibrator") and name.endswith(_OF_LEARNING)
  }


def final_numbers(
    run: Run, judged: Mapping[str, np.ndarray], goals: np.ndarray
) -> dict[str, np.ndarray]:
  """The numbers [S] of the final evaluation.

  Args:
    run: the run.
    judged: result of `calsheq.judge`, [S, ...].
    goals: [S, K].
  """
  problem = run.problem
  numbers = {"reward": judged["reward"], "reward_of_means": judged["reward_of_means"]}
  for i, name in enumerate(problem.env.supertype_names):
    numbers[f"{name}/reward"] = judged["supertype_rewards"][:, i]
  for i, target in enumerate(problem.targets):
    numbers[f"target/{target.name}"] = judged["values"][:, i]
    numbers[f"goal/{target.name}"] = goals[:, i]
  for i, name in enumerate(problem.space.names):
    numbers[f"profile/{name}"] = judged["profile"][:, i]
  return numbers


def certificate_numbers(certificate: Certificate) -> dict[str, np.ndarray]:
  """The numbers [S] of certificates; relative_epsilon is left out if a policy earns nothing."""
  epsilon, value = certificate.epsilon, certificate.value
  numbers: dict[str, Any] = {
      "epsilon": epsilon.mean, "epsilon_error": epsilon.error, "value": value.mean
  }
  if np.all(value.mean != 0):
    numbers["relative_epsilon"] = epsilon.mean / np.abs(value.mean)
  return numbers


def final_row(numbers: Mapping[str, np.ndarray]) -> dict[str, float]:
  """Metrics eval/NAME, means over seeds, and eval/seed_I/NAME from numbers [S]."""
  report: dict[str, float] = {}
  for name, values in numbers.items():
    report |= writers.over_seeds(f"eval/{name}", values)
    report |= {f"eval/seed_{i}/{name}": float(value) for i, value in enumerate(values)}
  return report


def summary(
    run: Run, rows: Sequence[Mapping[str, float]], report: Mapping[str, float]
) -> dict[str, Any]:
  """The contents of summary.json.

  Args:
    run: the run.
    rows: the metrics of all chunks.
    report: the result of `final_row`.

  Returns:
    The settings, the numbers of each seed (`_of_seed`), and their means and standard deviations
    over seeds.
  """
  seeds = [_of_seed(run, rows, report, i) for i in range(run.plan.seeds)]
  names = [k for k in seeds[0] if k != "seed" and all(seed[k] is not None for seed in seeds)]
  columns = {name: np.array([seed[name] for seed in seeds]) for name in names}
  return {
      "experiment": run.experiment.name,
      "about": run.experiment.about,
      "method": run.plan.method,
      "stages": run.plan.stages,
      "env_steps": run.env_steps(run.plan.stages),
      "seconds": rows[-1][writers.SECONDS],
      "targets": [
          {"name": t.name, "value": report[f"eval/goal/{t.name}"], "scale": t.scale}
          for t in run.problem.targets
      ],
      "profile": list(run.problem.space.names),
      "supertypes": list(run.problem.env.supertype_names),
      "settings": run.settings(),
      "mean": {name: float(values.mean()) for name, values in columns.items()},
      "sd": {
          name: float(values.std(ddof=1)) if len(seeds) > 1 else 0.0
          for name, values in columns.items()
      },
      "seeds": seeds,
  }


def _of_seed(
    run: Run, rows: Sequence[Mapping[str, float]], report: Mapping[str, float], index: int
) -> dict[str, Any]:
  """The numbers of one seed.

  Returns:
    The numbers of the final evaluation; the lowest reward of each supertype; steps_to_reach, the
    environment steps after which judged/reward stayed above 0.9 of the final one (None: it was
    below in the last row); and variation and increment, the mean distances in a stage that the mean
    profile and each episode's profile moved.
  """
  prefix = f"eval/seed_{index}/"
  final = {k.removeprefix(prefix): v for k, v in report.items() if k.startswith(prefix)}
  stages = np.diff([0, *(row["step"] for row in rows)])

  def over_stages(name):
    return float(np.array([row[f"seed_{index}/{name}"] for row in rows]) @ stages / stages.sum())

  lowest = {
      f"lowest/{name}/reward": min(row[f"seed_{index}/lowest/{name}/reward"] for row in rows)
      for name in run.problem.env.supertype_names
  }
  reached = None
  for row in reversed(rows):
    if row[f"seed_{index}/judged/reward"] < _REACHED * final["reward"]:
      break
    reached = row["env_steps"]
  return {
      "seed": run.plan.seed + index,
      **final,
      **lowest,
      "steps_to_reach": reached,
      "variation": over_stages("variation"),
      "increment": over_stages("increment"),
  }


def draw(run: Run, say: Callable[[str], None]) -> None:
  """Draws the pictures of a finished run, if matplotlib is installed."""
  try:
    from launch.figures import calibration as figures
  except ImportError as error:
    say(f"no pictures: {error}; install the `programs` extra")
    return
  written = figures.draw(figures.read([run.options.out]), run.options.out)
  say(f"wrote {', '.join(map(str, written))}")
