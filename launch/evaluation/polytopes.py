"""Figure 1: equilibria of 2x2 games, by a network where one fits."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from launch.evaluation import measure
from launch.evaluation.games import GAMES_2X2, normalised, select_2x2
from launch.figures.polytopes import Game, Selected
import nes_jax
from nes_jax import pretrained

_PURE = np.eye(4).reshape(4, 2, 2)


class Networks(NamedTuple):
  """The network that solves for each mark; None stands for the exact engine."""

  max_entropy: pretrained.Pretrained | None
  max_welfare: pretrained.Pretrained | None
  nearest_pure: pretrained.Pretrained | None


class Point(NamedTuple):
  """A mark of the picture."""

  game: str
  selection: str
  network: str | None
  distance: float  # solver gap to the exact equilibrium; NaN if the exact engine made the mark
  gap: float  # CE gap in units of normalised payoffs; the CCE gap of 2x2 games is the same


class Figure(NamedTuple):
  """The contents of Figure 1."""

  points: list[Point]
  selected: list[Selected]  # the marks of each game
  exact: list[Selected]  # the exact equilibria of each game
  networks: Networks


def networks() -> Networks:
  """The networks of the picture, as in the paper.

  One network that reads targets solves for maximum entropy and for the joints nearest to pure ones;
  one that reads welfare solves for maximum welfare. If no network reads targets, one that was
  trained for maximum entropy alone takes its place there.
  """
  targets = measure.network_for("cce", (2, 2), frozenset({"target"}))
  return Networks(
      max_entropy=targets or measure.network_for("cce", (2, 2)),
      max_welfare=measure.network_for("cce", (2, 2), frozenset({"welfare"})),
      nearest_pure=targets,
  )


def by_network(
    games: Sequence[Game], exact: Sequence[Selected], chosen: Networks
) -> list[Selected]:
  """The networks' answers, and the exact ones for marks that no network solves for.

  Args:
    games: 2x2 games.
    exact: their exact equilibria.
    chosen: the networks.
  """
  answers = {}
  for field, trained in chosen._asdict().items():
    if trained is None:
      answers[field] = [getattr(known, field) for known in exact]
      continue
    pure, welfare = field == "nearest_pure", field == "max_welfare"
    payoffs = np.stack([game.payoffs for game in games])
    payoffs = np.repeat(payoffs, 4, axis=0) if pure else payoffs
    selection = nes_jax.Selection(
        target=np.tile(_PURE, (len(games), 1, 1)) if pure else None,
        welfare=payoffs.sum(1) if welfare else None,
        welfare_weight=nes_jax.selection.LARGE_WELFARE_WEIGHT if welfare else 1.0,
    )
    solution = nes_jax.solve(
        payoffs, selection=selection, method="neural", trained=trained, batched=True
    )
    assert isinstance(solution, nes_jax.Solution)  # the games have one shape
    joints = np.asarray(solution.joint, np.float64)
    answers[field] = list(joints.reshape(-1, 4, 2, 2) if pure else joints)
  return [Selected(*fields) for fields in zip(*(answers[field] for field in Selected._fields))]


def figure() -> Figure:
  """Solves the games of the picture."""
  chosen = networks()
  exact = select_2x2(GAMES_2X2)
  selected = by_network(GAMES_2X2, exact, chosen)
  points = []
  for game, marks, known in zip(GAMES_2X2, selected, exact):
    payoffs = normalised(game.payoffs[None])[0]
    for field, trained in zip(Networks._fields, chosen):
      joints, wanted = (np.reshape(getattr(x, field), (-1, 2, 2)) for x in (marks, known))
      for index, joint in enumerate(joints):
        distance = np.nan
        if trained is not None:
          distance = float(measure.solver_gap(joint[None], wanted[index : index + 1])[0])
        points.append(
            Point(
                game=game.name,
                # The four pure joints are numbered by the strategies of the two players.
                selection=field if len(joints) == 1 else f"{field} {index // 2 + 1}{index % 2 + 1}",
                network=None if trained is None else trained.name,
                distance=distance,
                gap=measure.gap(payoffs, joint, "cce"),
            )
        )
  return Figure(points, selected, exact, chosen)
