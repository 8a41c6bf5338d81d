"""Sets of equilibria of one game: computation, tables and files."""

from collections.abc import Callable
import dataclasses
import math
import pathlib
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from launch.regions import games
from launch.runtime import flags, program, tables
from launch.runtime.flags import UsageError
import nes_jax
from nes_jax import region
from nes_jax.region import Region, Vertices
from nes_jax.types import CONCEPTS, Concept

# Rounds of the search for extreme points, in games of at most this number of joint strategies.
_ROUNDS, _SMALL = 8, 16
# Selections that the picture marks.
_MARKED = {"maximum entropy": "max_entropy", "maximum welfare": "max_welfare"}


@dataclasses.dataclass(frozen=True)
class Config:
  """Options of a run."""

  game: str = dataclasses.field(
      metadata={
          "metavar": "NAME|FILE|DIRECTORY",
          "help": f"The game: one of {', '.join(games.NAMED)}; random:SHAPE, such as random:8x8; or"
                  " a .npz, a .nfg, a directory of .nfg or openspiel:GAME.",
      }
  )
  out: pathlib.Path = flags.field(
      pathlib.Path("out/region"), "Directory of the results.", metavar="DIRECTORY"
  )
  concept: tuple[Concept, ...] = flags.field(
      CONCEPTS, "Solution concepts.", choices=CONCEPTS
  )
  directions: int = flags.field(64, "Number of directions in which a hull is bounded, at least 8.")
  players: tuple[int, ...] = flags.field(
      (1, 2), "The two players whose payoffs are looked at, counted from 1."
  )
  rounds: int | None = flags.field(
      None,
      "Number of rounds of the search for extreme equilibria; 0 leaves it out. By default it is"
      f" {_ROUNDS} for games of at most {_SMALL} joint strategies, and 0 for larger ones.",
  )
  index: int = flags.field(0, "Number of the game in its file, counted from 0.")
  batched: bool | None = flags.field(
      None,
      "Say that the arrays of a .npz have a batch axis, or (--nobatched) that they have none, where"
      " the shape can be read both ways.",
  )
  seed: int = flags.field(0, "Seed of the payoffs of a random game, and of the search.")


class Report(NamedTuple):
  """The sets of equilibria of one game."""

  regions: dict[Concept, Region]
  vertices: dict[Concept, Vertices]  # empty without rounds
  marks: dict[str, np.ndarray]  # payoffs [2] of selected equilibria, by their labels
  seconds: float


def check(config: Config) -> None:
  """Raises UsageError for options that are wrong for every game."""
  if not config.concept:
    raise UsageError("--concept= is empty: use cce, ce or both")
  if config.directions < 8:
    raise UsageError(f"--directions={config.directions}: at least 8 are needed")
  if config.rounds is not None and config.rounds < 0:
    raise UsageError(f"--rounds={config.rounds}: 0 or more is expected")
  if len(set(config.players)) != 2 or len(config.players) != 2 or min(config.players) < 1:
    raise UsageError("--players: two different numbers are expected, such as 1,2")
  if config.seed < 0:
    raise UsageError(f"--seed={config.seed}: 0 or more is expected")


def compute(config: Config, say: Callable[[str], None]) -> Report:
  """Computes hulls, extreme points and selected equilibria. Raises UsageError for a wrong game."""
  game = games.read(config.game, config.index, config.seed, config.batched)
  shape = game.shape[1:]
  if max(config.players) > len(shape):
    raise UsageError(f"--players: the game has {len(shape)} players")
  say(f"a game of {'x'.join(map(str, shape))} strategies")
  rounds = config.rounds
  if rounds is None:
    rounds = _ROUNDS if math.prod(shape) <= _SMALL else 0
  pair = config.players[0] - 1, config.players[1] - 1
  started = time.monotonic()
  regions: dict[Concept, Region] = {}
  vertices: dict[Concept, Vertices] = {}
  marks: dict[str, np.ndarray] = {}
  for concept in (name for name in CONCEPTS if name in config.concept):
    regions[concept] = region.payoffs(
        game, config.directions, concept, players=pair, batched=False
    )
    if rounds:
      found = region.vertices(game, concept, rounds, seed=config.seed, batched=False)
      assert isinstance(found, Vertices)  # one game was given
      vertices[concept] = found
    for label, selection in _MARKED.items():
      solution = nes_jax.solve(
          game, concept=concept, selection=selection, precision="float64", batched=False
      )
      joint = np.asarray(jax.tree.map(np.asarray, solution).joint)
      marks[f"{label} {concept.upper()}"] = (game * joint).reshape(len(shape), -1).sum(1)[[*pair]]
  return Report(regions, vertices, marks, time.monotonic() - started)


def _hull_rows(report: Report, players: tuple[int, ...]) -> list[dict[str, Any]]:
  """Rows of hulls.csv: corners in anticlockwise order."""
  rows = []
  for concept, found in report.regions.items():
    for name, corners, count in (
        ("inner", found.inner, found.inner_corners), ("outer", found.outer, found.outer_corners)
    ):
      for number, corner in enumerate(corners[:count].tolist()):
        row = {"concept": concept, "hull": name, "corner": number}
        rows.append(row | {f"payoff_{p}": x for p, x in zip(players, corner)})
  return rows


def _vertex_rows(report: Report) -> list[dict[str, Any]]:
  """Rows of vertices.csv: payoffs of all players, and the joint, such as joint_1_2."""
  rows = []
  for concept, found in report.vertices.items():
    for number, (joint, values) in enumerate(zip(found.joints, found.payoffs.tolist())):
      row: dict[str, Any] = {"concept": concept, "vertex": number, "hits": int(found.hits[number])}
      row |= {f"payoff_{1 + p}": value for p, value in enumerate(values)}
      row |= {
          "joint_" + "_".join(str(1 + k) for k in place): float(value)
          for place, value in np.ndenumerate(joint)
      }
      rows.append(row)
  return rows


def write(config: Config, report: Report) -> None:
  """Writes the tables and the picture."""
  from launch.figures import region as picture
  from launch.figures.style import DPI

  config.out.mkdir(parents=True, exist_ok=True)
  written = {"hulls": _hull_rows(report, config.players), "vertices": _vertex_rows(report)}
  for name, rows in written.items():
    path = config.out / f"{name}.csv"
    path.unlink(missing_ok=True)  # that of an earlier run
    if rows:
      tables.write_csv(path, list(rows[0]), rows)
  figure = picture.draw(
      {concept.upper(): found for concept, found in report.regions.items()},
      report.marks,
      title=f"{games.title(config.game, config.index)}: payoffs at equilibria",
      axes_names=(f"payoff of player {config.players[0]}", f"payoff of player {config.players[1]}"),
  )
  figure.savefig(config.out / "region.png", dpi=DPI, facecolor="white")


def summary(config: Config, report: Report) -> str:
  """The text that the program prints."""
  rows = []
  for concept, found in report.regions.items():
    row = {
        "concept": concept,
        "inner area": float(found.inner_area),
        "outer area": float(found.outer_area),
        "difference": f"{100 * found.difference:.3g}%",
        "distance": float(found.distance),
        "largest gap": float(found.gap),
    }
    extreme = report.vertices.get(concept)
    if extreme is not None:
      row |= {
          "extreme points": len(extreme.joints),
          "by round": "+".join(map(str, extreme.found)),
          "share, estimated": extreme.share,
      }
    rows.append(row)
  lines = [tables.markdown(rows), ""]
  lines.append(
      "`difference` is that of the areas, over the outer one; `distance` is the largest one between"
      " the hulls, in units of the players' ranges of payoffs."
  )
  for concept, found in report.regions.items():
    if not found.converged:
      lines.append(f"NOT CERTIFIED: some joints of the inner hull of {concept} did not converge")
  lines.append(f"{report.seconds:.1f} s")
  return "\n".join(lines)


run = program.reporting(compute, write, summary)
