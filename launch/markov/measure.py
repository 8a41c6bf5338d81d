"""Measurements of Markov games: known values, random games, learning, and OpenSpiel's learner."""

from collections.abc import Callable
import time
from typing import Any

import numpy as np

from envs.grid import TABLES, Table
from launch.markov import games, report
from launch.runtime.program import Failed
from nes_jax import markov
from nes_jax.types import CONCEPTS, Concept

Row = dict[str, Any]

# Values at the start: game, weights, values.
KNOWN = (
    ("grid1", (1.0, 1.0), (97.0299, 97.0299)),
    ("grid1", (1.01, 1.0), (97.0299, 97.0299)),
    ("grid2", (1.01, 1.0), (98.01, 49.005)),
    ("grid2", (1.0, 1.01), (49.005, 98.01)),
    ("grid2", (1.0, 1.0), None),
    ("soccer", (1.0, 1.0), (-26.9103, 26.9103)),
)
# Selections of the random games. In 2x2 games every CCE is a CE; the CEs of the egalitarian
# selection, which has one more player, are not solved by the native engine.
RANDOM: tuple[tuple[Concept, str, tuple[float, float]], ...] = (
    ("ce", "max_welfare", (1.0, 1.0)),
    ("ce", "max_welfare", (1.01, 1.0)),
    ("ce", "min_welfare", (1.0, 1.0)),
    ("ce", "max_entropy", (1.0, 1.0)),
    ("cce", "egalitarian", (1.0, 1.0)),
    ("ce", "republican", (1.0, 1.0)),
    ("ce", "libertarian", (1.0, 1.0)),
)
# Number of states and discount of the random games.
_STATES = 5
_DISCOUNT = 0.9
# Scores that are wanted of the learners, and how near they must be.
WANTED = {"grid1": ((100.0, 100.0), 1.0), "grid2": ((100.0, 50.0), 2.0)}


def _pair(values: Any) -> str:
  return ", ".join(f"{x + 0.0:.6g}" for x in values)


def known_values() -> list[Row]:
  """Value iteration of the games whose values are known."""
  rows: list[Row] = []
  for name, weights, wanted in KNOWN:
    table = TABLES[name]()
    for concept in CONCEPTS:
      started = time.monotonic()
      found = markov.value_iteration(
          table.reward, table.transition, table.discount, concept=concept, weights=weights
      )
      seconds = time.monotonic() - started
      value = table.start @ found.values
      rows.append({
          "game": name,
          "concept": concept,
          "weights": _pair(weights),
          "value": _pair(value),
          "error": None if wanted is None else float(abs(value - wanted).max()),
          "sweeps": int(found.sweeps),
          "cycle": int(found.cycle),
          "stage_gap": float(found.stage_gap),
          "certified": float(found.certified),
          "gain": float((table.start @ found.gain).max()),
          "largest_gain": float(found.gain.max()),
          "seconds": seconds,
      })
  return rows


def random_games(number: int, sweeps: int, seed: int) -> list[Row]:
  """Value iteration of random 2x2 games of five states, in one batch for each selection.

  Rewards are uniform from 0 to 1, and rows of transition are uniform on the simplex.
  """
  rng = np.random.default_rng(seed)
  shape = number, _STATES, 2, 2
  reward = rng.uniform(size=(number, _STATES, 2, 2, 2))
  transition = rng.dirichlet(np.ones(_STATES), size=shape)
  rows: list[Row] = []
  for concept, selection, weights in RANDOM:
    started = time.monotonic()
    found = markov.value_iteration(
        reward, transition, _DISCOUNT, concept=concept, selection=selection, weights=weights,
        max_sweeps=sweeps,
    )
    seconds = time.monotonic() - started
    still, cyclic = found.converged, found.cycle > 0
    gain = found.gain.max((1, 2))
    periods = np.bincount(found.cycle[cyclic], minlength=1)
    rows.append({
        "concept": concept,
        "selection": selection,
        "weights": _pair(weights),
        "stationary": int(still.sum()),
        "cyclic": int(cyclic.sum()),
        "neither": int((~still & ~cyclic).sum()),
        "periods": " ".join(f"{p}:{count}" for p, count in enumerate(periods) if count) or "-",
        "sweeps": int(np.median(found.sweeps)),
        "stage_gap": float(found.stage_gap.max()),
        "uncertified": float(1 - found.certified.mean()),
        "gain_stationary": float(gain[still].max()) if still.any() else None,
        "gain_cyclic": float(np.median(gain[cyclic])) if cyclic.any() else None,
        "seconds": seconds,
    })
  return rows


def learning(config: report.Config, say: Callable[[str], None]) -> list[Row]:
  """Learners of the grid games: their scores, and the time that they take."""
  rows: list[Row] = []
  for name, (wanted, near) in WANTED.items():
    table = TABLES[name]()
    found = report.learn(table, report.learner_of(table, config), config)
    error = abs(found.scores - wanted).max(1)
    mirror = abs(found.scores[:, ::-1] - wanted).max(1)
    total = config.seeds * config.steps
    rows.append({
        "game": name,
        "concept": config.concept,
        "weights": _pair(config.weights),
        "median": _pair(np.median(found.scores, 0)),
        "worst_error": float(error.max()),
        "within": f"{(error <= near).sum()} of {config.seeds}",
        "mirrored": int(((mirror <= near) & (error > near)).sum()),
        "values": _pair(np.median(found.curves.values[:, -1], 0)),
        "uncertified": float(found.state.uncertified.sum() / total),
        "gap": float(found.state.gap.max()),
        "seconds": found.seconds,
        "steps_a_second": total / found.seconds,
    })
    say(f"{name}: {rows[-1]}")
  return rows


def speed(config: report.Config, seconds: float) -> list[Row]:
  """Steps a second of the learners here and of OpenSpiel's, on its pathfinding grid.

  OpenSpiel's player of both sides is a learner, as in its own use, so that a step of the game is
  one step of two learners, which each solve two stage games. A failure is a stage game that is not
  solved to the tolerance here, and one whose solution OpenSpiel's learner cannot use there.

  Raises:
    Failed: a package is missing.
  """
  try:
    from open_spiel.python import rl_environment
    from open_spiel.python.algorithms import tabular_multiagent_qlearner as peer
  except ImportError as fault:
    raise Failed(f"OpenSpiel's learner needs a package: {fault}") from None
  table = games.from_openspiel(games.PATHFINDING, 0.99)
  rows: list[Row] = []
  for concept in CONCEPTS:
    learner = markov.CorrelatedQ(
        num_states=table.num_states, num_actions=table.num_actions, discount=table.discount,
        concept=concept, exploration=0.2, step_size=0.1, decay=0.0,
    )
    rows.append(_ours(table, learner, config))
  steps, failures, spent = _openspiel(rl_environment, peer, seconds)
  rate = steps / spent
  rows.append({"learner": "OpenSpiel, maximum Gini CCE", "seeds": 1, "steps": steps,
               "seconds": spent, "steps_a_second": rate, "failures": failures})
  return [row | {"ratio": row["steps_a_second"] / rate} for row in rows]


def _openspiel(rl_environment: Any, peer: Any, seconds: float) -> tuple[int, int, float]:
  """Lets OpenSpiel's learners play: steps, solutions that they could not use, and seconds.

  A learner raises ValueError if the solver's joint does not sum to 1. A new pair of learners then
  goes on.
  """
  env = rl_environment.Environment(
      "pathfinding", grid="B.A\n...\na.b", players=2, step_reward=-1.0
  )
  count = env.game.num_distinct_actions()
  solver = peer.CorrelatedEqSolver(is_cce=True)

  def players():
    return [
        peer.MultiagentQLearner(p, 2, [count] * 2, solver, discount_factor=0.99) for p in range(2)
    ]

  steps, failures, pair, started = 0, 0, players(), time.monotonic()
  while time.monotonic() - started < seconds:
    at, actions = env.reset(), [None, None]
    try:
      while not at.last() and time.monotonic() - started < seconds:
        actions = [player.step(at, actions).action for player in pair]
        at = env.step(actions)
        steps += 1
      if at.last():
        for player in pair:
          player.step(at, actions)
    except ValueError:
      failures, pair = failures + 1, players()
  return steps, failures, time.monotonic() - started


def _ours(table: Table, learner: Any, config: report.Config) -> Row:
  """Times the learners here, with compilation."""
  found = report.learn(table, learner, config)
  total = config.seeds * config.steps
  return {"learner": f"nes_jax, {learner.concept} of largest welfare", "seeds": config.seeds,
          "steps": total, "seconds": found.seconds, "steps_a_second": total / found.seconds,
          "failures": int(found.state.uncertified.sum())}
