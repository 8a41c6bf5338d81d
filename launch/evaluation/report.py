"""The report: one page of Markdown, its pictures beside it, and every table as CSV."""

from collections.abc import Sequence
import csv
import io
import math
import pathlib
import textwrap
from typing import Any

import numpy as np

from launch import benchmark, demo
from launch.evaluation import classes, curves, paper, pictures, polytopes, scaling
from launch.figures import polytopes as figures
from nes_jax.games.files import replacing

Cells = list[dict[str, Any]]

_METHODS = {
    "uniform": "uniform play",
    "neural": "network",
    "refined": "network, then exact steps",
    "exact": "exact engine",
    "ecos": "ECOS",
}


class Report:
  """Sections as they come; each call of `write` replaces the page by what there is so far."""

  def __init__(self, out: pathlib.Path, head: str):
    """out: directory of the page; head: what it says first."""
    self.out = out
    self._head = head
    self._sections: dict[str, list[str]] = {}
    out.mkdir(parents=True, exist_ok=True)

  def write(self) -> pathlib.Path:
    order = ("figure4", "tables", "figure1", "figure3")
    lines = [self._head]
    for name in order:
      lines += self._sections.get(name, [])
    path = self.out / "report.md"
    with replacing(path) as file:
      file.write(("\n\n".join(lines) + "\n").encode())
    return path

  def _table(self, name: str, rows: Cells) -> str:
    """Writes NAME.csv -> the same for the page."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(self.out / f"{name}.csv") as file:
      file.write(text.getvalue().encode())
    shown = [{k: None if _missing(v) else v for k, v in row.items()} for row in rows]
    return benchmark.markdown(shown)

  # Sections.

  def figure4(self, rows: Sequence[classes.Row], failures: Sequence[classes.Failures]) -> None:
    """Figure 4: two pictures, a summary of the classes, and the exact engine's failures."""
    self._table("figure4", [_flat(row) for row in rows])
    names = {}
    for concept in ("cce", "ce"):
      names[concept] = f"figure4_{concept}.png"
      pictures.draw_classes(str(self.out / names[concept]), rows, concept)
    games = {row.method: row.games for row in rows}
    lines = [
        "## Figure 4: 25 classes of 8x8 games",
        f"{games['uniform']} games of each class; worst, mean and best of them. Gaps are in"
        " standard deviations of payoffs. The truth is the exact engine's in float64; network,"
        " refined and exact are what `nes_jax.solve` gives in float32. The same by class:"
        " `figure4.csv`.",
        f"![Maximum-entropy CCE]({names['cce']})",
        f"![Maximum-entropy CE]({names['ce']})",
        "Over all classes:",
        self._table("figure4_summary", _summary(rows)),
    ]
    if "ecos" in games:
      lines.append(
          f"ECOS: CVXPY, one core, default tolerances, {games['ecos']} games of each class; gaps of"
          " the games for which it left an answer; unsolved is whatever it does not call optimal."
      )
    else:
      lines.append("ECOS is not installed (`pip install -e '.[baselines]'`): left out.")
    lines += [
        "Games that the exact engine does not solve (float64: residual above 1e-8; float32: above"
        " 1e-4 after its iterations, and how many are left when `solve` repeats them in float64):",
        self._table("failures", [row._asdict() for row in failures]),
    ]
    self._sections["figure4"] = lines

  def tables(self, first: Sequence[scaling.Row], second: Sequence[scaling.Row]) -> None:
    """Tables 1 and 2."""
    lines = []
    for name, title, rows, known in (
        ("table1", "Table 1: larger games", first, paper.TABLE_1),
        ("table2", "Table 2: one network on sizes that it was not trained on", second,
         paper.TABLE_2),
    ):
      table = self._table(name, [_beside(row, known.get(row.size)) for row in rows])
      lines += [f"## {title}", table]
    ours = sorted({row.network for row in first if row.network})
    lines.insert(
        2,
        f"Maximum-entropy CCE, L2-invariant games, means over {first[0].games} a size. Ours:"
        f" {', '.join(ours) or 'no network'}, one for all sizes where it is one name; the paper's:"
        " one network a size. Its blank solver gaps are filled by the exact engine. ECOS solved:"
        " of the first games, up to the size that CVXPY compiles in little memory.",
    )
    two = next((row for row in second if row.network), None)
    if two is not None:
      lines.append(
          f"Table 2 is of {two.network}, trained on {two.trained_on}. Moments of its normalisation"
          " are measured for each size; the paper keeps those of 8x8."
      )
    self._sections["tables"] = lines

  def figure1(
      self,
      points: Sequence[polytopes.Point],
      found: Sequence[figures.Selected],
      exact: Sequence[figures.Selected],
      networks: polytopes.Networks,
  ) -> None:
    """Figure 1."""
    self._table("figure1", [point._asdict() for point in points])
    labels = dict(zip(polytopes.Networks._fields, ("ME", "MWME", "nearest to pure")))
    solvers: dict[str, list[str]] = {}
    for field, trained in networks._asdict().items():
      name = "the exact engine" if trained is None else f"the network {trained.name}"
      solvers.setdefault(name, []).append(labels[field])
    by = "; ".join(f"{', '.join(marks)} by {name}" for name, marks in solvers.items())
    drawn = exact if any(networks) else None
    note = by if all(networks) else f"{by}, where no network ships that fits"
    figures.draw_polytopes(
        str(self.out / "figure1.png"), demo.GAMES_2X2, found, drawn, textwrap.fill(note, 78)
    )
    far = [point.distance for point in points if not math.isnan(point.distance)]
    text = f"All equilibria of three games, and the selected ones: {by}. By mark: `figure1.csv`."
    if far:
      text += f" Solver gap of the networks' marks: mean {np.mean(far):.3f}, worst {max(far):.3f}."
    self._sections["figure1"] = ["## Figure 1: 2x2 games", "![Polytopes](figure1.png)", text]

  def figure3(self, learned: Sequence[curves.Learned]) -> None:
    """Figure 3."""
    pictures.draw_curves(str(self.out / "figure3.png"), learned)
    every = [
        {"panel": one.curve.panel, "curve": _line(one), "seed": seed, "updates": int(step),
         "solver_gap": float(one.solver_gap[seed, i]), "gap": float(one.gap[seed, i])}
        for one in learned
        for seed in range(len(one.solver_gap))
        for i, step in enumerate(one.steps)
    ]
    self._table("figure3", every)
    last = [
        {"panel": one.curve.panel, "curve": _line(one),
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
        f"{len(first.solver_gap)} seed(s), {int(first.steps[-1])} updates each, Muon with a cosine"
        " schedule (the paper: Adam, 1e7 updates of 4096 games); held-out games of the L2 sphere."
        " The linear network has no ReLU and no maxima. Without preprocessing, payoffs are plain"
        " U(-sqrt 3, sqrt 3). At the end:",
        self._table("figure3_final", last),
    ]


def _missing(value: Any) -> bool:
  return isinstance(value, float) and math.isnan(value)


def _line(one: curves.Learned) -> str:
  return one.curve.label.replace("\n", " ")


def _flat(row: classes.Row) -> dict[str, Any]:
  cells = row._asdict()
  for what in ("gap", "solver_gap"):
    spread = cells.pop(what)
    cells |= {f"{what}_{field}": getattr(spread, field) for field in spread._fields}
  return cells


def _summary(rows: Sequence[classes.Row]) -> Cells:
  """A row for each concept and method, over classes."""
  cells = []
  for concept in ("cce", "ce"):
    for method, name in _METHODS.items():
      here = [row for row in rows if (row.concept, row.method) == (concept, method)]
      if not here:
        continue
      judged = [row.failed for row in here if row.failed is not None]
      said = {
          "neural": f"solver gap ~{paper.SOLVER_GAP:g}, {paper.NETWORK_US:.2g} us",
          "ecos": f"{paper.ECOS_US / 1e3:g} ms",
      }
      mean = lambda values: float(np.mean(list(values)))
      cells.append({
          "concept": concept.upper(),
          "method": name,
          "gap, mean": mean(row.gap.mean for row in here),
          "gap, worst": max(row.gap.worst for row in here),
          "solver gap, mean": mean(row.solver_gap.mean for row in here),
          "solver gap, worst": max(row.solver_gap.worst for row in here),
          "unsolved": f"{sum(judged)} of {sum(row.games for row in here)}" if judged else None,
          "steps": mean(row.iterations for row in here),
          "us a game": float(np.median([row.us_game for row in here])),
          "paper": said.get(method),
      })
  return cells


def _beside(row: scaling.Row, known: paper.Scaling | None) -> dict[str, Any]:
  """Our columns of Table 1 or 2, each with the paper's after it."""
  said = {} if known is None else known._asdict()
  percent = lambda x: None if x is None else f"{100 * x:.0f}%"
  ecos = percent(row.ecos_solved)
  return {
      "size": row.size,
      "network": row.network,
      "gap, uniform": row.uniform_gap,
      "gap, uniform (paper)": said.get("uniform_gap"),
      "gap, network": row.network_gap,
      "gap, network (paper)": said.get("network_gap"),
      "solver gap, uniform": row.uniform_solver_gap,
      "solver gap, uniform (paper)": said.get("uniform_solver_gap"),
      "solver gap, network": row.network_solver_gap,
      "solver gap, network (paper)": said.get("network_solver_gap"),
      "ECOS solved": None if ecos is None else f"{ecos} of {row.ecos_games}",
      "ECOS solved (paper)": percent(said.get("ecos_solved")),
      "exact engine failed": row.failed,
      "network, us": row.network_us,
      "exact, us": row.exact_us,
  }
