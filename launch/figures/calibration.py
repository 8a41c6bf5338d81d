"""Pictures and a table of finished runs of `launch.calsheq_train`.

The pictures follow the three figures of Vadori et al. (2020). Glossary: R rows of metrics.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import math
import os
import pathlib
from typing import Any

from matplotlib import axes, figure, lines, ticker
import numpy as np

from launch.figures.style import BLUE, DPI, GREEN, ORANGE, RED, SIZE, tidy
from launch.runtime import writers

# Names and colours of the methods.
_NAMES = {
    "calsheq": "CALSHEQ",
    "bo": "Bayesian optimisation",
    "cmaes": "CMA-ES",
    "random": "random search",
}
_COLOURS = {"calsheq": BLUE, "bo": ORANGE, "cmaes": GREEN, "random": "#6b6b6b"}
# Colours of runs whose method occurs more than once in an experiment.
_SPARE_COLOURS = ("#7b3294", RED, "#8a6d00", "#008080")
# Largest number of panels in a row.
_COLUMNS = 5
# Font size of labels.
_SMALL = SIZE - 2


@dataclasses.dataclass(frozen=True)
class Result:
  """A finished run of `launch.calsheq_train`.

  Attributes:
    label: its name in legends and tables.
    colour: the colour of its lines.
    summary: the contents of its summary.json.
    rows: its metrics, as `writers.read` returns them.
  """

  label: str
  colour: str
  summary: Mapping[str, Any]
  rows: Sequence[Mapping[str, float]]

  @property
  def experiment(self) -> str:
    """Name of the experiment."""
    return self.summary["experiment"]

  @property
  def seeds(self) -> int:
    """Number of seeds."""
    return len(self.summary["seeds"])

  def series(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A metric over the run: environment steps in millions, and over seeds mean and deviation [R].

    Rows without this metric are left out.
    """
    rows = [row for row in self.rows if name in row]
    steps = np.array([row["env_steps"] for row in rows], float) / 1e6
    mean = np.array([row[name] for row in rows], float)
    deviation = np.array([row.get(f"{name}_sd", 0.0) for row in rows], float)
    return steps, mean, deviation


def read(directories: Sequence[str | os.PathLike]) -> list[Result]:
  """Reads finished runs.

  Args:
    directories: one for each run, as --out of `launch.calsheq_train`.

  Returns:
    The runs in the same order. Runs of the same experiment and method are told apart by the names
    of their directories.

  Raises:
    ValueError: a directory holds no finished run, or runs of one experiment differ in environment,
      targets or number of environment steps.
  """
  found = []
  for directory in map(pathlib.Path, directories):
    try:
      summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
      raise ValueError(
          f"{directory} holds no finished run of calsheq_train ({error}): finish it, or leave it"
          " out"
      ) from error
    found.append((directory, summary, writers.read(directory)))
  for directory, summary, _ in found:
    first = next(other for _, other, _ in found if other["experiment"] == summary["experiment"])
    if _compared(first) != _compared(summary):
      raise ValueError(
          f"{directory}: its environment, targets or number of environment steps are not those of"
          f" another run of experiment {summary['experiment']}: compare runs that share them"
      )
  kinds = [(summary["experiment"], summary["method"]) for _, summary, _ in found]
  results, spare = [], list(_SPARE_COLOURS)
  for (directory, summary, rows), kind in zip(found, kinds):
    label, colour = _NAMES[kind[1]], _COLOURS[kind[1]]
    if kinds.count(kind) > 1:
      label, colour = f"{label}, {directory.name}", spare.pop(0) if spare else colour
    results.append(Result(label, colour, summary, rows))
  return results


def _compared(summary: Mapping[str, Any]) -> tuple:
  """The part of a summary that must be equal in runs that are compared."""
  settings = summary["settings"]
  return summary["env_steps"], settings["env"], settings["targets"]


# Best known rewards: entries of ceiling.json (`launch.training.ceiling_report`) by experiment.
Ceilings = Mapping[str, Mapping[str, Any]]


def draw(
    results: Sequence[Result], out: str | os.PathLike, ceilings: Ceilings | None = None
) -> list[pathlib.Path]:
  """Draws all figures of finished runs, and writes the table.

  Args:
    results: at least one run.
    out: directory for rewards.png, table.md and, for each experiment, targets_NAME.png and
      profile_NAME.png. It is created if it does not exist.
    ceilings: the best known reward of each experiment, where it is known.

  Returns:
    The files that were written.
  """
  out = pathlib.Path(out)
  out.mkdir(parents=True, exist_ok=True)
  ceilings = best_known(results, ceilings or {})
  by_experiment: dict[str, list[Result]] = {}
  for result in results:
    by_experiment.setdefault(result.experiment, []).append(result)
  written = [out / "rewards.png", out / "table.md"]
  draw_rewards(written[0], by_experiment, ceilings)
  written[1].write_text(table(results, ceilings), encoding="utf-8")
  for name, group in by_experiment.items():
    targets, profile = out / f"targets_{name}.png", out / f"profile_{name}.png"
    draw_targets(targets, group)
    draw_profile(profile, group)
    written += [targets, profile]
  return written


def best_known(results: Sequence[Result], ceilings: Ceilings) -> Ceilings:
  """The ceilings, raised to the final reward of the best seed at rest where that is higher."""
  known = {name: dict(entry) for name, entry in ceilings.items()}
  for result in results:
    if result.experiment in known:
      entry = known[result.experiment]
      # Runs of earlier versions do not say whether a pair has rested.
      rested = [s["reward"] for s in result.summary["seeds"] if s.get("rested", True)]
      entry["reward"] = max([entry["reward"], *rested])
  return known


# Pictures.


def draw_rewards(
    path: str | os.PathLike,
    by_experiment: Mapping[str, Sequence[Result]],
    ceilings: Ceilings | None = None,
) -> None:
  """Figure 1: a column for each experiment, with the rewards of the calibrator and the supertypes.

  The first row has the calibrator's reward in training, 1 for a perfect fit. The second row has the
  reward that is judged without the calibrator's exploration, with a thin line for each seed and a
  dashed line at the best known reward.

  Args:
    path: file of the picture.
    by_experiment: the runs of each experiment.
    ceilings: as in `draw`.
  """
  everything = [result for group in by_experiment.values() for result in group]
  supertypes = everything[0].summary["supertypes"]
  count = len(by_experiment)
  fig = figure.Figure(figsize=(max(6.6, 3.4 * count), 2.2 * (2 + len(supertypes)) + 0.8))
  panels = fig.subplots(2 + len(supertypes), count, squeeze=False, sharex="col")
  for place, (column, (name, group)) in enumerate(zip(panels.T, by_experiment.items())):
    training, judged, *others = column

    def whose(text, first=place == 0):
      # Only the first panel of a row has the label, which holds for the whole row.
      return text if first else ""

    for result in group:
      _draw_series(training, result, "train/reward")
      _draw_seeds(judged, result, "judged/reward")
      for ax, supertype in zip(others, result.summary["supertypes"]):
        _draw_series(ax, result, f"train/{supertype}/reward")
        ax.axhline(0, color="0.8", lw=0.8)
    _label(training, f"Experiment {name}", y=whose("calibrator's reward"))
    _label(judged, "", y=whose("judged reward"))
    found = (ceilings or {}).get(name)
    if found is not None:
      _draw_ceiling(judged, found["reward"])
    judged.sharey(training)
    training.set_ylim(top=1.0)
    for ax, supertype in zip(others, supertypes):
      _label(ax, "", y=whose(f"{supertype.replace('_', ' ')}'s reward"))
    column[-1].set_xlabel("environment steps, millions", fontsize=_SMALL)
  title = "Rewards in training, and judged (thin: single seeds)"
  _finish(fig, everything, title, path)


def _draw_seeds(ax: axes.Axes, result: Result, name: str) -> None:
  """Draws the mean of a metric over seeds, and a thin line for each seed."""
  for seed in range(result.seeds if result.seeds > 1 else 0):
    x, values, _ = result.series(f"seed_{seed}/{name}")
    ax.plot(x, values, color=result.colour, lw=0.6, alpha=0.5)
  x, mean, _ = result.series(name)
  ax.plot(x, mean, marker="o" if len(x) == 1 else "", color=result.colour, lw=1.6)


def _draw_ceiling(ax: axes.Axes, reward: float) -> None:
  """Draws a dashed line at the best known reward, with its value."""
  ax.axhline(reward, color=RED, lw=1.0, ls="--")
  ax.annotate(
      f"best known {reward:.3f}", (1, reward), (0, 2), xycoords=("axes fraction", "data"),
      textcoords="offset points", ha="right", va="bottom", fontsize=_SMALL - 1.5, color=RED,
  )


def draw_targets(path: str | os.PathLike, group: Sequence[Result]) -> None:
  """Figure 2: a panel for each target, with a dashed line at its value.

  Args:
    path: file of the picture.
    group: runs of one experiment.
  """
  targets = group[0].summary["targets"]
  fig, panels = _grid(len(targets))
  for ax, target in zip(panels, targets):
    for result in group:
      _draw_series(ax, result, f"target/{target['name']}")
    ax.axhline(target["value"], color=RED, lw=1.0, ls="--")
    _label(ax, _short(target["name"]))
  title = f"Experiment {group[0].experiment}: targets (dashed) and calibrated outputs"
  _finish(fig, group, title, path)


def draw_profile(path: str | os.PathLike, group: Sequence[Result]) -> None:
  """Figure 3: a panel for each number of the profile, with a dotted line for the first seed.

  Args:
    path: file of the picture.
    group: runs of one experiment.
  """
  names = group[0].summary["profile"]
  fig, panels = _grid(len(names))
  for ax, name in zip(panels, names):
    for result in group:
      _draw_series(ax, result, f"profile/{name}")
      x, mean, _ = result.series(f"seed_0/profile/{name}")
      ax.plot(x, mean, color=result.colour, lw=0.7, alpha=0.8, ls=":")
    _label(ax, _short(name))
  title = f"Experiment {group[0].experiment}: the profile; dotted: the first seed"
  _finish(fig, group, title, path)


def _grid(count: int) -> tuple[figure.Figure, list[axes.Axes]]:
  """A figure with `count` panels; the lowest panel of each column names the axis of steps."""
  columns = min(_COLUMNS, count)
  rows = math.ceil(count / columns)
  fig = figure.Figure(figsize=(max(6.0, 2.5 * columns), 1.9 * rows + 1.0))
  panels = fig.subplots(rows, columns, squeeze=False, sharex=True).ravel()
  for ax in panels[count:]:
    ax.set_visible(False)
  # The axis is shared; more ticks would overlap.
  panels[0].xaxis.set_major_locator(ticker.MaxNLocator(3))
  for ax in panels[max(0, count - columns) : count]:
    ax.set_xlabel("env. steps, millions", fontsize=_SMALL)
    ax.tick_params(labelbottom=True)
  return fig, list(panels[:count])


def _label(ax: axes.Axes, title: str, y: str = "") -> None:
  ax.set_title(title, fontsize=_SMALL, loc="left")
  ax.set_ylabel(y, fontsize=_SMALL)
  tidy(ax, _SMALL - 0.5)


def _draw_series(ax: axes.Axes, result: Result, name: str) -> None:
  """Draws the mean of a metric over seeds, with a band of one standard deviation."""
  x, mean, deviation = result.series(name)
  ax.plot(x, mean, marker="o" if len(x) == 1 else "", color=result.colour, lw=1.4)
  ax.fill_between(
      x, mean - deviation, mean + deviation, color=result.colour, alpha=0.18, lw=0
  )


def _finish(
    fig: figure.Figure, group: Sequence[Result], title: str, path: str | os.PathLike
) -> None:
  """Adds title, number of seeds and legend of the runs, and writes the file."""
  colours = {result.label: result.colour for result in group}
  legend = [
      lines.Line2D([], [], color=colour, lw=2, label=label) for label, colour in colours.items()
  ]
  inch = 1 / fig.get_figheight()
  place: dict[str, Any] = {"x": 0.01, "ha": "left", "va": "top"}
  fig.text(s=title, fontsize=SIZE, weight="bold", y=1 - 0.08 * inch, **place)
  fig.text(s=_seeds_note(group), fontsize=_SMALL, y=1 - 0.34 * inch, **place)
  fig.legend(
      handles=legend, fontsize=_SMALL, frameon=False, ncols=len(legend), columnspacing=1.2,
      handlelength=1.4, loc="upper left", bbox_to_anchor=(0.0, 1 - 0.5 * inch), borderaxespad=0,
  )
  fig.tight_layout(rect=(0, 0, 1, 1 - 0.75 * inch), w_pad=1.0, h_pad=1.0)
  fig.savefig(path, dpi=DPI, facecolor="white")


def _seeds_note(group: Sequence[Result]) -> str:
  """Explains lines and bands, with the number of seeds that they stand for."""
  counts = sorted({result.seeds for result in group})
  if counts == [1]:
    return "one seed"
  return f"lines: means over {' or '.join(map(str, counts))} seeds; bands: +-1 s.d. over seeds"


def _short(name: str) -> str:
  """A short title: supertype_1/connection_3 becomes "ST1 connection 3"."""
  if name.startswith(("supertype_percentiles[", "supertype_smooth_percentiles[")):
    supertype, index = name.removesuffix("]").partition("[")[2].split(",")
    return f"ST{int(supertype) + 1}, {10 * (int(index) + 1)}th percentile"
  if name.startswith("supertype_share["):
    return f"ST{int(name.removesuffix(']').partition('[')[2]) + 1}, market share"
  return name.replace("supertype_", "ST").replace("/", " ").replace("_", " ")


# The table.

_EXPLANATION = (
    "Means over runs, +- one standard deviation over them. The final reward and the way to it are"
    " judged on held-out episodes, without the calibrator's exploration: the mean of what"
    " episodes score, for all runs and for each seed, and what the mean of their outputs scores."
    " The noise of episodes is the difference of the two; what the latter lacks to 1 is misfit."
    " The ceiling is the best reward that is known for a profile at its own equilibrium: that of"
    " launch.checks.ceiling, or that of the best seed. 0.9 of the final reward is"
    " reached where it is not lost again. Moves are in widths of the box, a mean over its numbers;"
    " an episode's profile moves with the calibrator's exploration, too. The lowest reward is"
    " that of the worst stage. Epsilon is what the best deviation found gains over the shared"
    " policy at the final profile: a lower bound. Distance is to the right profile where that is"
    " known, in widths of the box."
)


def table(results: Sequence[Result], ceilings: Ceilings | None = None) -> str:
  """A Markdown table with a row for each run: means over seeds, +- their standard deviation.

  Args:
    results: the runs.
    ceilings: the best known reward of each experiment, where it is known; without any, the column
      for it is left out.
  """
  who = results[0].summary["supertypes"][0].replace("_", " ")
  head = [
      "experiment", "method", "runs", "env. steps, millions", "final reward, of episodes",
      "by seed", "of the ceiling", "of their mean", "noise of episodes",
      "env. steps to 0.9 of it, millions", "the mean profile moves a stage",
      "an episode's", f"reward of {who}, lowest", "final", "epsilon, % of the mean reward",
      "distance", "seconds",
  ]
  rows = []
  for result in results:
    summary = result.summary
    ceiling = (ceilings or {}).get(result.experiment)
    reward = f"{summary['supertypes'][0]}/reward"
    reached = [seed["steps_to_reach"] for seed in summary["seeds"]]
    cells = [
        result.experiment, result.label, str(result.seeds), f"{summary['env_steps'] / 1e6:.3g}",
        _mean(summary, "reward", ".3f"), _by_seed(summary, "reward"),
        _of_ceiling(summary, ceiling), _mean(summary, "reward_of_means", ".3f"), _noise(summary),
        _steps(reached), _mean(summary, "variation", ".4f"), _mean(summary, "increment", ".4f"),
        _mean(summary, f"lowest/{reward}", ".3g"), _mean(summary, reward, ".3g"),
        _mean(summary, "relative_epsilon", ".1f", 100), _mean(summary, "distance", ".4f"),
        f"{summary['seconds']:.0f}",
    ]
    rows.append(cells)
  lines = [head, ["---"] * len(head), *rows]
  if not ceilings:
    left_out = head.index("of the ceiling")
    lines = [[cell for i, cell in enumerate(line) if i != left_out] for line in lines]
  return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", _EXPLANATION]) + "\n"


def _by_seed(summary: Mapping[str, Any], name: str) -> str:
  """A number of each seed."""
  return ", ".join(f"{seed[name]:.3f}" for seed in summary["seeds"])


def _of_ceiling(summary: Mapping[str, Any], ceiling: Mapping[str, Any] | None) -> str:
  """The mean reward in percent of the best known one, and that of the worst seed."""
  if ceiling is None:
    return ""
  best = ceiling["reward"]
  worst = min(seed["reward"] for seed in summary["seeds"])
  text = f"{100 * summary['mean']['reward'] / best:.1f}%"
  return text + (f" (worst {100 * worst / best:.1f}%)" if len(summary["seeds"]) > 1 else "")


def _noise(summary: Mapping[str, Any]) -> str:
  """The reward that is lost because episodes differ from their mean."""
  return f"{summary['mean']['reward_of_means'] - summary['mean']['reward']:.3f}"


def _mean(summary: Mapping[str, Any], name: str, form: str, times: float = 1) -> str:
  """Mean over seeds with its standard deviation; empty if the run has no such number."""
  if name not in summary["mean"]:
    return ""
  mean, deviation = times * summary["mean"][name], times * summary["sd"][name]
  return f"{mean:{form}}" + (f" +- {deviation:{form}}" if len(summary["seeds"]) > 1 else "")


def _steps(reached: Sequence[float | None]) -> str:
  """Mean number of steps over the seeds that reached the reward; None stands for the others."""
  there = np.array([steps for steps in reached if steps is not None]) / 1e6
  if not len(there):
    return "never"
  text = f"{there.mean():.3g}" + (f" +- {there.std(ddof=1):.2g}" if len(there) > 1 else "")
  return text if len(there) == len(reached) else f"{text} ({len(there)} of {len(reached)} runs)"
