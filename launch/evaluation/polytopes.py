"""Figure 1: equilibria of 2x2 games, by the network where one ships that fits."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from launch import demo
from launch.evaluation import measure
from launch.figures import polytopes as figures
import nes_jax
from nes_jax import pretrained

_PURE = np.eye(4).reshape(4, 2, 2)


class Networks(NamedTuple):
  """What solves for each mark; None: the exact engine."""

  max_entropy: pretrained.Pretrained | None
  max_welfare: pretrained.Pretrained | None
  nearest_pure: pretrained.Pretrained | None


class Point(NamedTuple):
  """A mark of the picture."""

  game: str
  selection: str
  network: str | None
  distance: float  # solver gap to the exact engine's; NaN where that is what is drawn
  gap: float  # CE gap, which is the CCE gap of 2x2 games; payoffs of unit variance


def networks() -> Networks:
  """As in the paper: one that sees targets for ME and MRE, one that sees welfare for MWME.

  Where no network sees targets, maximum entropy is left to one for that alone.
  """
  targets = measure.network_for("cce", (2, 2), frozenset({"target"}))
  return Networks(
      max_entropy=targets or measure.network_for("cce", (2, 2)),
      max_welfare=measure.network_for("cce", (2, 2), frozenset({"welfare"})),
      nearest_pure=targets,
  )


def by_network(
    games: Sequence[figures.Game], exact: Sequence[figures.Selected], chosen: Networks
) -> list[figures.Selected]:
  """The networks' answers; where there is none, the exact ones."""
  answers = {}
  for field, trained in chosen._asdict().items():
    if trained is None:
      answers[field] = [getattr(known, field) for known in exact]
      continue
    pure, welfare = field == "nearest_pure", field == "max_welfare"
    payoffs = np.stack([game.payoffs for game in games])
    payoffs = np.repeat(payoffs, 4, axis=0) if pure else payoffs
    asked = nes_jax.Selection(
        target=np.tile(_PURE, (len(games), 1, 1)) if pure else None,
        welfare=payoffs.sum(1) if welfare else None,
        welfare_weight=nes_jax.selection.LARGE_WELFARE_WEIGHT if welfare else 1.0,
    )
    solution = nes_jax.solve(
        payoffs, selection=asked, method="neural", trained=trained, batched=True
    )
    joints = np.asarray(solution.joint, np.float64)
    answers[field] = list(joints.reshape(-1, 4, 2, 2) if pure else joints)
  fields = figures.Selected._fields
  return [figures.Selected(*parts) for parts in zip(*(answers[field] for field in fields))]


def run() -> tuple[list[Point], list[figures.Selected], list[figures.Selected], Networks]:
  """-> the table, the networks' answers, the exact ones, and the networks."""
  games, chosen = demo.GAMES_2X2, networks()
  exact = demo.select_2x2(games)
  found = by_network(games, exact, chosen)
  points = []
  for game, one, known in zip(games, found, exact):
    payoffs = demo.normalised(game.payoffs[None])
    for field, trained in zip(Networks._fields, chosen):
      joints, wanted = (np.reshape(getattr(x, field), (-1, 2, 2)) for x in (one, known))
      for index, joint in enumerate(joints):
        label = field if len(joints) == 1 else f"{field} {index // 2 + 1}{index % 2 + 1}"
        distance = np.nan
        if trained is not None:
          distance = float(measure.solver_gap(joint[None], wanted[index : index + 1])[0])
        points.append(
            Point(
                game=game.name,
                selection=label,
                network=None if trained is None else trained.name,
                distance=distance,
                gap=measure.gap(payoffs[0], joint, "cce"),
            )
        )
  return points, found, exact, chosen
