"""Solutions of one Markov game, by value iteration and by learning: tables, files, a picture."""

from collections.abc import Callable
import dataclasses
import pathlib
import time
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from envs import discrete
from envs.grid import TABLES, Table
from launch.markov import games
from launch.runtime import flags, program, tables
from launch.runtime.flags import UsageError
from nes_jax import markov
from nes_jax.types import CONCEPTS, Concept

# Smallest probability of a joint action that is written.
_PLAYED = 1e-4


@dataclasses.dataclass(frozen=True)
class Config:
  """Options of a run."""

  game: Literal["grid1", "grid2", "soccer"] = flags.field(
      "grid2", "Game.", choices=tuple(TABLES)
  )
  file: pathlib.Path | None = flags.field(
      None,
      "Game of two players in an npz file, in place of --game: arrays reward [S, 2, A1, A2] and"
      " transition [S, A1, A2, S], optionally start [S] and discount.",
      metavar="FILE.npz",
  )
  out: pathlib.Path = flags.field(
      pathlib.Path("out/markov_game"), "Directory of the results.", metavar="DIRECTORY"
  )
  discount: float | None = flags.field(None, "Discount factor; each game has its own by default.")
  concept: Concept = flags.field("ce", "Solution concept of the stage games.", choices=CONCEPTS)
  selection: str = flags.field(
      "max_welfare", "Equilibrium of a stage game.", choices=markov.SELECTIONS
  )
  weights: tuple[float, ...] = flags.field(
      (1.0, 1.0), "Weights of the players' payoffs in the welfare."
  )
  sweeps: int = flags.field(1000, "Largest number of sweeps of value iteration.")
  learner: Literal["correlated", "minimax"] = flags.field(
      "correlated", "Learner; minimax is for zero-sum games.", choices=("correlated", "minimax")
  )
  seeds: int = flags.field(0, "Number of learners that learn from play; 0 leaves learning out.")
  steps: int = flags.field(100_000, "Number of steps of each learner, a multiple of 100.")
  step_size: float = flags.field(1.0, "Step size of the first update of an entry of the table.")
  delay: float = flags.field(1.0, "Number of updates after which the step size falls.")
  decay: float = flags.field(
      0.7, "Exponent of its fall: step_size / (1 + (n - 1) / delay)^decay for the n-th update."
  )
  explore_last: float = flags.field(
      0.05, "Probability of exploring at the end; it falls linearly from 1."
  )
  horizon: int = flags.field(100, "Steps after which an episode is cut.")

  def __post_init__(self):
    flags.at_least_one(self, "sweeps", "steps", "horizon")
    if self.seeds < 0:
      raise ValueError("--seeds must be 0 or more")
    if self.seeds and self.steps % 100:
      raise ValueError(f"--steps={self.steps} must be a multiple of 100")
    if not 0 <= self.explore_last <= 1:
      raise ValueError(f"--explore_last={self.explore_last} must be a probability")


class Learnt(NamedTuple):
  """Learners at the end of their training."""

  state: Any  # `nes_jax.markov.learners.State` with an axis [K] in front
  curves: markov.Curves
  scores: np.ndarray  # [K, 2] expected undiscounted returns of the policies without exploring
  seconds: float  # of the training, with compilation


class Report(NamedTuple):
  """Solutions of one game."""

  table: Table
  result: markov.Result
  seconds: float  # of value iteration
  learnt: Learnt | None


@dataclasses.dataclass(frozen=True)
class Falling:
  """A probability of exploring that falls linearly from 1. It is hashable, as `train` needs it."""

  last: float

  def __call__(self, share: jax.Array) -> jax.Array:
    return 1 - (1 - self.last) * share


def learn(table: Table, learner: Any, config: Config) -> Learnt:
  """Trains learners of a table."""
  started = time.monotonic()
  state, curves = markov.train(
      learner,
      discrete.TableGame(table, config.horizon),
      range(config.seeds),
      config.steps,
      exploration=Falling(config.explore_last),
  )
  seconds = time.monotonic() - started
  scores = np.array([games.scores(table, joint, config.horizon) for joint in state.joint])
  return Learnt(state, curves, scores, seconds)


def learner_of(table: Table, config: Config) -> Any:
  """The learner that the options ask for."""
  options: dict[str, Any] = {
      "num_states": table.num_states, "num_actions": table.num_actions,
      "discount": table.discount, "step_size": config.step_size, "delay": config.delay,
      "decay": config.decay,
  }
  if config.learner == "minimax":
    return markov.MinimaxQ(**options)
  return markov.CorrelatedQ(
      **options, selection=config.selection, concept=config.concept, weights=config.weights
  )


def compute(config: Config, say: Callable[[str], None]) -> Report:
  """Solves the game. Raises UsageError for a game or an option that is wrong."""
  if config.file is not None:
    table = games.read(config.file, config.discount)
  else:
    table = games.named(config.game, config.discount)
  say(f"{table.name}: {table.num_states} states, discount {table.discount:g}")
  started = time.monotonic()
  try:
    learner = learner_of(table, config)
    result = markov.value_iteration(
        table.reward, table.transition, table.discount, concept=config.concept,
        selection=config.selection, weights=config.weights, max_sweeps=config.sweeps, record=True,
    )
  except ValueError as fault:
    raise UsageError(str(fault)) from None
  seconds = time.monotonic() - started
  learnt = None
  if config.seeds:
    say(f"{config.seeds} learners, {config.steps} steps each")
    learnt = learn(table, learner, config)
  return Report(table, result, seconds, learnt)


def write(config: Config, report: Report) -> None:
  """Writes values.csv, policy.csv, learning.csv if something was learnt, and markov.png."""
  from launch.figures import markov as figure

  config.out.mkdir(parents=True, exist_ok=True)
  table, result = report.table, report.result
  rows: list[dict[str, Any]] = [
      {"state": name}
      | {f"{what}_{agent}": float(array[s, p])
         for what, array in (("value", result.values), ("policy_value", result.policy_values),
                             ("gain", result.gain))
         for p, agent in enumerate(table.agent_names)}
      for s, name in enumerate(table.state_names)
  ]
  tables.write_csv(config.out / "values.csv", list(rows[0]), rows)
  rows = [
      {"state": table.state_names[s], table.agent_names[0]: table.action_names[0][i],
       table.agent_names[1]: table.action_names[1][j], "probability": float(result.joint[s, i, j])}
      for s, i, j in np.argwhere(result.joint > _PLAYED)
  ]
  tables.write_csv(config.out / "policy.csv", list(rows[0]), rows)
  if report.learnt is not None:
    curves = report.learnt.curves
    rows = [
        {"seed": k, "steps": int(step), "episodes": int(curves.episodes[k, t])}
        | {f"{what}_{agent}": float(array[k, t, p])
           for what, array in (("score", curves.scores), ("value", curves.values))
           for p, agent in enumerate(table.agent_names)}
        for k in range(config.seeds)
        for t, step in enumerate(curves.steps)
    ]
    tables.write_csv(config.out / "learning.csv", list(rows[0]), rows)
  assert result.trajectory is not None  # it was asked for
  course = np.einsum("s,tsn->tn", table.start, result.trajectory)
  figure.draw(
      config.out / "markov.png", table.agent_names, course, int(result.cycle),
      None if report.learnt is None else report.learnt.curves,
  )


def summary(config: Config, report: Report) -> str:
  """The text that the program prints."""
  table, result = report.table, report.result
  columns = {
      "value at start": table.start @ result.values,
      "of the policy": table.start @ result.policy_values,
      "gain at start": table.start @ result.gain,
      "largest gain": result.gain.max(0),
  }
  if report.learnt is not None:
    columns["learnt, median score"] = np.median(report.learnt.scores, 0)
    columns["least"] = report.learnt.scores.min(0)
    columns["largest"] = report.learnt.scores.max(0)
  rows = [
      {"player": agent} | {name: f"{array[p] + 0.0:.6g}" for name, array in columns.items()}
      for p, agent in enumerate(table.agent_names)
  ]
  if result.converged:
    outcome = "the values are stationary"
  elif result.cycle:
    outcome = f"the values CYCLE with period {result.cycle}; the policy is the mean over a period"
  else:
    outcome = "the values are NEITHER stationary nor seen to cycle"
  lines = [
      tables.markdown(rows), "",
      f"{result.sweeps} sweeps in {report.seconds:.2f} s: {outcome}.",
      f"Largest gap of a stage game: {result.stage_gap:.2g}; certified:"
      f" {100 * result.certified:.1f}% of the stage games.",
      "A gain is what a player's best deviation from the policy would bring: 0 is an equilibrium.",
  ]
  if report.learnt is not None:
    seconds, steps = report.learnt.seconds, config.seeds * config.steps
    lines.append(
        f"{config.seeds} learners: {steps} steps in {seconds:.1f} s with compilation,"
        f" {steps / seconds:.0f} a second; scores are undiscounted, without exploring; stage games"
        f" not certified: {int(report.learnt.state.uncertified.sum())}, largest gap"
        f" {report.learnt.state.gap.max():.2g}."
    )
  return "\n".join(lines)


run = program.reporting(compute, write, summary)
