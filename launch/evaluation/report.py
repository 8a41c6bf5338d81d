"""The report of an evaluation: a page of Markdown, its pictures, and every table as CSV."""

from collections.abc import Sequence
import math
import pathlib
import textwrap
from typing import Any

import numpy as np

from launch.evaluation import classes, curves, paper, pictures, polytopes, scaling
from launch.evaluation.games import GAMES_2X2
from launch.figures.polytopes import draw_polytopes
from launch.runtime import tables
from nes_jax.games.files import replacing

Cells = list[dict[str, Any]]

_METHODS = {
    "uniform": "uniform play",
    "neural": "network",
    "refined": "network, then exact steps",
    "exact": "exact engine",
    "ecos": "ECOS",
}
# Sections in the order of the page.
_ORDER = ("figure4", "tables", "figure1", "figure3")


class Report:
  """The sections of a report; `write` writes the page with those that are there."""

  def __init__(self, out: pathlib.Path, head: str):
    """Starts a report.

    Args:
      out: directory of the page. It is created if it does not exist.
      head: Markdown above all sections.
    """
    self.out = out
    self._head = head
    self._sections: dict[str, list[str]] = {}
    out.mkdir(parents=True, exist_ok=True)

  def write(self) -> pathlib.Path:
    """Writes report.md, and returns its path."""
    lines = [self._head]
    for name in _ORDER:
      lines += self._sections.get(name, [])
    path = self.out / "report.md"
    with replacing(path) as file:
      file.write(("\n\n".join(lines) + "\n").encode())
    return path

  def _table(self, name: str, rows: Cells) -> str:
    """Writes rows to NAME.csv, and returns them as a Markdown table."""
    tables.write_csv(self.out / f"{name}.csv", list(rows[0]), rows)
    shown = [{k: None if _is_nan(v) else v for k, v in row.items()} for row in rows]
    return tables.markdown(shown)

  # Sections.

  def figure4(self, rows: Sequence[classes.Row], failures: Sequence[classes.Failures]) -> None:
    """Adds Figure 4: a picture for each concept, a summary, and the exact engine's failures."""
    self._table("figure4", [_flat(row) for row in rows])
    names = {}
    for concept in ("cce", "ce"):
      names[concept] = f"figure4_{concept}.png"
      pictures.draw_classes(self.out / names[concept], rows, concept)
    games = {row.method: row.games for row in rows}
    lines = [
        "## Figure 4: 25 classes of 8x8 games",
        f"The worst, mean and best of {games['uniform']} games of each class. Gaps are in standard"
        " deviations of the payoffs. The ground truth is the exact engine in float64. The rows"
        " network, refined and exact are answers of `nes_jax.solve` in float32. `figure4.csv` has"
        " the results of each class.",
        f"![Maximum-entropy CCE]({names['cce']})",
        f"![Maximum-entropy CE]({names['ce']})",
        "Over all classes:",
        self._table("figure4_summary", _summary(rows)),
    ]
    if "ecos" in games:
      lines.append(
          f"ECOS was called through CVXPY on one core, with its default tolerances, on"
          f" {games['ecos']} games of each class. Its gaps are those of the games for which it"
          " returned an answer. A game counts as unsolved if its status is not optimal."
      )
    else:
      lines.append(
          "There are no results of ECOS, because it is not installed"
          " (`pip install -e '.[baselines]'`)."
      )
    lines += [
        "Games that the exact engine does not solve. In float64 these have a residual above 1e-8."
        " In float32 these have a residual above 1e-4 after the iterations in float32; `solve`"
        " repeats them in float64, and `left` counts those that are not solved then either.",
        self._table("failures", [row._asdict() for row in failures]),
    ]
    self._sections["figure4"] = lines

  def tables(self, first: Sequence[scaling.Row], second: Sequence[scaling.Row]) -> None:
    """Adds Tables 1 and 2.

    Args:
      first: rows of Table 1.
      second: rows of Table 2.
    """
    ours = sorted({row.network for row in first if row.network})
    lines = [
        "## Table 1: larger games",
        f"Means over {first[0].games} L2-invariant games of each size, maximum-entropy CCE."
        f" Networks: {', '.join(ours) or 'none'}; the paper trained one network for each size. The"
        " exact engine fills solver gaps that the paper leaves blank. ECOS was given the first"
        " games of each size, up to the size that CVXPY compiles in little memory.",
        self._table("table1", [_beside(row, paper.TABLE_1.get(row.size)) for row in first]),
        "## Table 2: one network on sizes that it was not trained on",
        self._table("table2", [_beside(row, paper.TABLE_2.get(row.size)) for row in second]),
    ]
    two = next((row for row in second if row.network), None)
    if two is not None:
      lines.append(
          f"The network of Table 2 is {two.network}, trained on {two.trained_on}. The moments of"
          " its normalisation are measured for each size; the paper keeps those of 8x8."
      )
    self._sections["tables"] = lines

  def figure1(self, found: polytopes.Figure) -> None:
    """Adds Figure 1."""
    self._table("figure1", [point._asdict() for point in found.points])
    labels = dict(zip(polytopes.Networks._fields, ("ME", "MWME", "nearest to pure")))
    solvers: dict[str, list[str]] = {}
    for field, trained in found.networks._asdict().items():
      name = "the exact engine" if trained is None else f"the network {trained.name}"
      solvers.setdefault(name, []).append(labels[field])
    by = "; ".join(f"{', '.join(marks)} by {name}" for name, marks in solvers.items())
    exact = found.exact if any(found.networks) else None
    note = by if all(found.networks) else f"{by}, where no network fits"
    draw_polytopes(
        self.out / "figure1.png", GAMES_2X2, found.selected, exact, textwrap.fill(note, 78)
    )
    far = [point.distance for point in found.points if not math.isnan(point.distance)]
    text = (
        f"All equilibria of three games, and the selected ones: {by}. `figure1.csv` has the results"
        " of each mark."
    )
    if far:
      text += f" Solver gap of the networks' marks: mean {np.mean(far):.3f}, worst {max(far):.3f}."
    self._sections["figure1"] = ["## Figure 1: 2x2 games", "![Polytopes](figure1.png)", text]

  def figure3(self, learned: Sequence[curves.Learned]) -> None:
    """Adds Figure 3."""
    pictures.draw_curves(self.out / "figure3.png", learned)
    every = [
        {"panel": one.curve.panel, "curve": _label(one), "seed": seed, "updates": int(step),
         "solver_gap": float(one.solver_gap[seed, i]), "gap": float(one.gap[seed, i])}
        for one in learned
        for seed in range(len(one.solver_gap))
        for i, step in enumerate(one.steps)
    ]
    self._table("figure3", every)
    last = [
        {"panel": one.curve.panel, "curve": _label(one),
         "games a batch": one.curve.training.batches[0],
         "solver gap": float(one.solver_gap[:, -1].mean()),
         "least, over seeds": float(one.solver_gap[:, -1].min()),
         "most": float(one.solver_gap[:, -1].max()),
         "gap": float(one.gap[:, -1].mean())}
        for one in learned
    ]
    first = learned[0]
    self._sections["figure3"] = [
        "## Figure 3: learning",
        "![Learning curves](figure3.png)",
        f"{len(first.solver_gap)} training(s) of {int(first.steps[-1])} updates for each curve, by"
        " Muon with a cosine schedule (the paper: Adam, 1e7 updates of 4096 games). Gaps are means"
        " over held-out games of the L2 sphere. The linear network has no ReLU and no maxima."
        " Without preprocessing, payoffs are uniform between -sqrt 3 and sqrt 3. After the last"
        " update:",
        self._table("figure3_final", last),
    ]


def _is_nan(value: Any) -> bool:
  return isinstance(value, float) and math.isnan(value)


def _label(one: curves.Learned) -> str:
  """The label of a curve in one line."""
  return one.curve.label.replace("\n", " ")


def _flat(row: classes.Row) -> dict[str, Any]:
  """A row of figure4.csv: spreads become three columns each."""
  cells = row._asdict()
  for what in ("gap", "solver_gap"):
    spread = cells.pop(what)
    cells |= {f"{what}_{field}": getattr(spread, field) for field in spread._fields}
  return cells


def _summary(rows: Sequence[classes.Row]) -> Cells:
  """A row over all classes for each concept and method."""
  reported = {
      "neural": f"solver gap ~{paper.SOLVER_GAP:g}, {paper.NETWORK_US:.2g} us",
      "ecos": f"{paper.ECOS_US / 1e3:g} ms",
  }
  cells = []
  for concept in ("cce", "ce"):
    for method, name in _METHODS.items():
      here = [row for row in rows if (row.concept, row.method) == (concept, method)]
      if not here:
        continue
      failed = [row.failed for row in here if row.failed is not None]
      games = sum(row.games for row in here)
      cells.append({
          "concept": concept.upper(),
          "method": name,
          "gap, mean": float(np.mean([row.gap.mean for row in here])),
          "gap, worst": max(row.gap.worst for row in here),
          "solver gap, mean": float(np.mean([row.solver_gap.mean for row in here])),
          "solver gap, worst": max(row.solver_gap.worst for row in here),
          "unsolved": f"{sum(failed)} of {games}" if failed else None,
          "steps": float(np.mean([row.iterations for row in here])),
          "us a game": float(np.median([row.us_game for row in here])),
          "paper": reported.get(method),
      })
  return cells


def _beside(row: scaling.Row, reported: paper.Scaling | None) -> dict[str, Any]:
  """The cells of a row of Table 1 or 2: each of our columns is followed by the paper's."""
  theirs = {} if reported is None else reported._asdict()
  solved = _percent(row.ecos_solved)
  return {
      "size": row.size,
      "network": row.network,
      "gap, uniform": row.uniform_gap,
      "gap, uniform (paper)": theirs.get("uniform_gap"),
      "gap, network": row.network_gap,
      "gap, network (paper)": theirs.get("network_gap"),
      "solver gap, uniform": row.uniform_solver_gap,
      "solver gap, uniform (paper)": theirs.get("uniform_solver_gap"),
      "solver gap, network": row.network_solver_gap,
      "solver gap, network (paper)": theirs.get("network_solver_gap"),
      "ECOS solved": None if solved is None else f"{solved} of {row.ecos_games}",
      "ECOS solved (paper)": _percent(theirs.get("ecos_solved")),
      "exact engine failed": row.failed,
      "network, us": row.network_us,
      "exact, us": row.exact_us,
  }


def _percent(fraction: float | None) -> str | None:
  return None if fraction is None else f"{100 * fraction:.0f}%"
