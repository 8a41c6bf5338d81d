"""Compares runs of calsheq_train: the three figures of Vadori et al. (2020), and a table.

  python -m launch.calsheq_report --runs=out/1/calsheq,out/1/bo,out/2/calsheq,out/2/bo --out=out/all

Writes into --out:
  rewards.png         Figure 1: rewards of the calibrator and of each supertype over training
  targets_EXP.png     Figure 2: what each target is set on, with a line at the target
  profile_EXP.png     Figure 3: each number of the profile
  table.md            a row a run

Lines are means over runs with different seeds, bands +- one standard deviation over them; how many
they are is said in the pictures. Runs count equal environment steps, whatever their method.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import math
import os
import pathlib
import sys
from typing import Any

from absl import flags
from matplotlib import axes, figure
import numpy as np

from launch.figures.games import DPI, SIZE
from launch.runtime import program, writers
from launch.runtime.program import UsageError

_COLOURS = {"calsheq": "#1f5fa8", "bo": "#b8501a", "cmaes": "#0b6b3a", "random": "#6b6b6b"}
_NAMES = {
    "calsheq": "CALSHEQ",
    "bo": "Bayesian optimisation",
    "cmaes": "CMA-ES",
    "random": "random search",
}
_OTHERS = ("#7b3294", "#b3123a", "#8a6d00", "#008080")
_COLUMNS = 5  # panels in a row
_GOAL = "#b3123a"


@dataclasses.dataclass(frozen=True)
class Result:
  """A run of calsheq_train, as it is on disk."""

  label: str  # in legends
  colour: str
  summary: Mapping[str, Any]  # `calsheq_train.summarised`
  rows: Sequence[Mapping[str, float]]  # `writers.read`

  @property
  def experiment(self) -> str:
    return self.summary["experiment"]

  @property
  def seeds(self) -> int:
    return len(self.summary["seeds"])

  def series(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Environment steps in millions, means over seeds, standard deviations over seeds: [R]."""
    rows = [row for row in self.rows if name in row]
    take = lambda key, default=None: np.array([row.get(key, default) for row in rows], float)
    return take("env_steps") / 1e6, take(name), take(f"{name}_sd", 0.0)


def read(directories: Sequence[str | os.PathLike]) -> list[Result]:
  """The runs in these directories.

  Raises:
    UsageError: a directory holds no finished run.
  """
  found = []
  for directory in map(pathlib.Path, directories):
    try:
      summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
      raise UsageError(
          f"{directory} holds no finished run of calsheq_train ({error}): finish it, or leave it"
          " out"
      ) from error
    found.append((directory, summary, writers.read(directory)))
  for directory, summary, _ in found:
    first = next(other for _, other, _ in found if other["experiment"] == summary["experiment"])
    same = lambda run: (run["env_steps"], *(run["settings"][name] for name in ("env", "targets")))
    if same(first) != same(summary):
      raise UsageError(
          f"{directory}: its environment, targets or number of environment steps are not those of"
          f" another run of experiment {summary['experiment']}: compare runs that share them"
      )
  kinds = [(summary["experiment"], summary["method"]) for _, summary, _ in found]
  results, spare = [], list(_OTHERS)
  for (directory, summary, rows), kind in zip(found, kinds):
    label, colour = _NAMES[kind[1]], _COLOURS[kind[1]]
    if kinds.count(kind) > 1:
      # Two runs of one method: told apart by their directories.
      label, colour = f"{label}, {directory.name}", spare.pop(0) if spare else colour
    results.append(Result(label, colour, summary, rows))
  return results


def draw(
    directories: Sequence[str | os.PathLike], out: str | os.PathLike
) -> list[pathlib.Path]:
  """Draws the figures of finished runs, and writes the table. Returns what was written."""
  results = read(directories)
  out = pathlib.Path(out)
  out.mkdir(parents=True, exist_ok=True)
  by_experiment: dict[str, list[Result]] = {}
  for result in results:
    by_experiment.setdefault(result.experiment, []).append(result)
  written = [out / "rewards.png", out / "table.md"]
  draw_rewards(written[0], by_experiment)
  written[1].write_text(table(results), encoding="utf-8")
  for name, group in by_experiment.items():
    targets, profile = out / f"targets_{name}.png", out / f"profile_{name}.png"
    draw_targets(targets, group)
    draw_profile(profile, group)
    written += [targets, profile]
  return written


# Pictures.


def _style(ax: axes.Axes, title: str, x: str = "", y: str = "") -> None:
  ax.set_title(title, fontsize=SIZE - 2, loc="left")
  ax.set_xlabel(x, fontsize=SIZE - 2)
  ax.set_ylabel(y, fontsize=SIZE - 2)
  ax.tick_params(labelsize=SIZE - 2.5, length=3)
  ax.spines[["top", "right"]].set_visible(False)


def _line(ax: axes.Axes, result: Result, name: str, **style: Any) -> None:
  x, mean, deviation = result.series(name)
  style = {"color": result.colour, "lw": 1.4} | style
  ax.plot(x, mean, marker="o" if len(x) == 1 else "", **style)
  ax.fill_between(x, mean - deviation, mean + deviation, color=style["color"], alpha=0.18, lw=0)


def _runs(group: Sequence[Result]) -> str:
  """How many runs lines are means of."""
  counts = sorted({result.seeds for result in group})
  if counts == [1]:
    return "one run"
  return f"lines: means of {' or '.join(map(str, counts))} runs; bands: +-1 s.d. over runs"


def _finish(fig: figure.Figure, group: Sequence[Result], title: str, path) -> None:
  handles = {result.label: result.colour for result in group}
  lines = [
      axes_line for label, colour in handles.items()
      for axes_line in fig.axes[0].plot([], [], color=colour, lw=2, label=label)
  ]
  inch = 1 / fig.get_figheight()
  place = {"x": 0.01, "ha": "left", "va": "top"}
  fig.text(s=title, fontsize=SIZE, weight="bold", y=1 - 0.08 * inch, **place)
  fig.text(s=_runs(group), fontsize=SIZE - 2, y=1 - 0.34 * inch, **place)
  fig.legend(
      handles=lines, fontsize=SIZE - 2, frameon=False, ncols=len(lines), columnspacing=1.2,
      handlelength=1.4, loc="upper left", bbox_to_anchor=(0.0, 1 - 0.5 * inch), borderaxespad=0,
  )
  fig.tight_layout(rect=(0, 0, 1, 1 - 0.75 * inch), w_pad=1.0, h_pad=1.0)
  fig.savefig(path, dpi=DPI, facecolor="white")


def draw_rewards(path: str | os.PathLike, by_experiment: Mapping[str, Sequence[Result]]) -> None:
  """Figure 1: a column an experiment; the calibrator's reward, then each supertype's.

  The calibrator's reward is 1 for a perfect fit; dotted lines are judged without its exploration.
  """
  everything = [result for group in by_experiment.values() for result in group]
  supertypes = everything[0].summary["supertypes"]
  count = len(by_experiment)
  fig = figure.Figure(figsize=(max(6.6, 3.4 * count), 2.4 * (1 + len(supertypes)) + 0.8))
  panels = fig.subplots(1 + len(supertypes), count, squeeze=False, sharex="col")
  for column, (name, group) in zip(panels.T, by_experiment.items()):
    for result in group:
      _line(column[0], result, "train/reward")
      x, mean, _ = result.series("judged/reward")
      column[0].plot(x, mean, color=result.colour, lw=1.0, ls=":")
      for ax, supertype in zip(column[1:], result.summary["supertypes"]):
        _line(ax, result, f"train/{supertype}/reward")
        ax.axhline(0, color="0.8", lw=0.8)
    _style(column[0], f"Experiment {name}", y="calibrator's reward")
    column[0].set_ylim(top=1.0)
    for ax, supertype in zip(column[1:], supertypes):
      _style(ax, "", y=f"{supertype.replace('_', ' ')}'s reward")
    column[-1].set_xlabel("environment steps, millions", fontsize=SIZE - 2)
  _finish(fig, everything, "Rewards in training; dotted: judged", path)


def _grid(count: int) -> tuple[figure.Figure, list[axes.Axes]]:
  columns = min(_COLUMNS, count)
  rows = math.ceil(count / columns)
  fig = figure.Figure(figsize=(max(6.0, 2.5 * columns), 1.9 * rows + 1.0))
  panels = fig.subplots(rows, columns, squeeze=False, sharex=True).ravel()
  for ax in panels[count:]:
    ax.set_visible(False)
  for ax in panels[max(0, count - columns) : count]:
    ax.set_xlabel("env. steps, millions", fontsize=SIZE - 2)
    ax.tick_params(labelbottom=True)
  return fig, list(panels[:count])


def _x(ax: axes.Axes) -> str:
  return ax.get_xlabel()


def draw_targets(path: str | os.PathLike, group: Sequence[Result]) -> None:
  """Figure 2: a panel a target, of one experiment."""
  targets = group[0].summary["targets"]
  fig, panels = _grid(len(targets))
  for ax, target in zip(panels, targets):
    for result in group:
      _line(ax, result, f"target/{target['name']}")
    ax.axhline(target["value"], color=_GOAL, lw=1.0, ls="--")
    _style(ax, _short(target["name"]), _x(ax))
  name = group[0].experiment
  _finish(fig, group, f"Experiment {name}: targets (dashed), and what is reached", path)


def draw_profile(path: str | os.PathLike, group: Sequence[Result]) -> None:
  """Figure 3: a panel for each number that is calibrated, of one experiment."""
  names = group[0].summary["profile"]
  fig, panels = _grid(len(names))
  for ax, name in zip(panels, names):
    for result in group:
      _line(ax, result, f"profile/{name}")
      x, mean, _ = result.series(f"seed_0/profile/{name}")
      ax.plot(x, mean, color=result.colour, lw=0.7, alpha=0.8, ls=":")
    _style(ax, _short(name), _x(ax))
  _finish(fig, group, f"Experiment {group[0].experiment}: the profile; dotted: the first run", path)


def _short(name: str) -> str:
  """supertype_1/connection_3 -> ST1 connection 3; supertype_percentiles[0,0] -> ST1 10%."""
  if name.startswith(("supertype_percentiles[", "supertype_smooth_percentiles[")):
    supertype, index = name.removesuffix("]").partition("[")[2].split(",")
    return f"ST{int(supertype) + 1}, {10 * (int(index) + 1)}% percentile"
  if name.startswith("supertype_share["):
    return f"ST{int(name.removesuffix(']').partition('[')[2]) + 1}, market share"
  return name.replace("supertype_", "ST").replace("/", " ").replace("_", " ")


# Table.


def table(results: Sequence[Result]) -> str:
  """Markdown, a row a run: means over seeds, +- a standard deviation over them."""
  who = results[0].summary["supertypes"][0].replace("_", " ")
  head = [
      "experiment", "method", "runs", "env. steps, millions", "final reward, of episodes",
      "of their mean", "env. steps to 0.9 of it, millions", "the mean profile moves a stage",
      "an episode's", f"reward of {who}, lowest", "final", "epsilon, % of the mean reward",
      "distance", "seconds",
  ]
  lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
  for result in results:
    summary = result.summary
    reward = f"{summary['supertypes'][0]}/reward"
    reached = [seed["steps_to_reach"] for seed in summary["seeds"]]
    cells = [
        result.experiment, result.label, str(result.seeds), f"{summary['env_steps'] / 1e6:.3g}",
        _pair(summary, "reward", ".3f"), _pair(summary, "reward_of_means", ".3f"),
        _steps(reached), _pair(summary, "variation", ".4f"), _pair(summary, "increment", ".4f"),
        _pair(summary, f"lowest/{reward}", ".3g"), _pair(summary, reward, ".3g"),
        _pair(summary, "relative_epsilon", ".1f", 100), _pair(summary, "distance", ".4f"),
        f"{summary['seconds']:.0f}",
    ]
    lines.append(f"| {' | '.join(cells)} |")
  lines += [
      "",
      "Means over runs, +- one standard deviation over them. The final reward and the way to it are"
      " judged on held-out episodes, without the calibrator's exploration: the mean of what"
      " episodes score, and what the mean of their outputs scores; 0.9 of the former is reached"
      " where it is not lost again. Moves are in widths of the box, a mean over its numbers;"
      " an episode's profile moves with the calibrator's exploration, too. The lowest reward is"
      " that of the worst stage. Epsilon is what the best deviation found gains over the shared"
      " policy at the final profile: a lower bound. Distance is to the right profile where that is"
      " known, in widths of the box.",
  ]
  return "\n".join(lines) + "\n"


def _pair(summary: Mapping[str, Any], name: str, form: str, times: float = 1) -> str:
  if name not in summary["mean"]:
    return ""
  mean, deviation = times * summary["mean"][name], times * summary["sd"][name]
  return f"{mean:{form}}" + (f" +- {deviation:{form}}" if len(summary["seeds"]) > 1 else "")


def _steps(reached: Sequence[float | None]) -> str:
  """Of the runs that got there."""
  there = np.array([steps for steps in reached if steps is not None]) / 1e6
  if not len(there):
    return "never"
  text = f"{there.mean():.3g}" + (f" +- {there.std(ddof=1):.2g}" if len(there) > 1 else "")
  return text if len(there) == len(reached) else f"{text} ({len(there)} of {len(reached)} runs)"


# The program.


def _define_flags(values: flags.FlagValues) -> None:
  own: dict[str, Any] = {"flag_values": values}
  flags.DEFINE_list("runs", [], "directories of finished runs", **own)
  flags.DEFINE_string("out", None, "directory of the pictures", **own)


def _prepare(v: flags.FlagValues) -> tuple[list[str], str]:
  if not v.runs or v.out is None:
    raise UsageError("--runs=DIRECTORY,... and --out=DIRECTORY are needed")
  return v.runs, v.out


def _work(asked: tuple[list[str], str], *, check_stop=lambda: None, say=print) -> dict[str, float]:
  runs, out = asked
  say(f"wrote {', '.join(map(str, draw(runs, out)))}")
  return {}


def main(argv: list[str]) -> int:
  """The program; returns its exit code."""
  return program.main(
      argv, name="calsheq_report", doc=__doc__, define=_define_flags, prepare=_prepare, work=_work
  )


if __name__ == "__main__":
  sys.exit(main(sys.argv))
