"""Value iteration with correlated equilibria, for Markov games in batches.

Glossary: B games, S states, N players, T sweeps, P longest period that is looked for.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from nes_jax.markov import gain, games, stage
from nes_jax.markov.games import Game
from nes_jax.selection import Selection
from nes_jax.solving import checks
from nes_jax.types import Concept

# A cycle must be wider than its error of repetition times this factor, over 1 - discount. The
# iterates of a contraction that shrinks at least as fast as the discount are not.
_WIDTH = 10.0


class Result(NamedTuple):
  """Outcome of value iteration. With a batch, every field but `trajectory` has a leading axis."""

  values: np.ndarray  # [S, N] of the last sweep; the mean over a period if the values cycle
  joint: np.ndarray  # [S, A1, ..., AN] of the last sweep; the mean over a period if values cycle
  sweeps: np.ndarray  # [] sweeps that were done
  converged: np.ndarray  # [] bool, whether the values are stationary
  cycle: np.ndarray  # [] period of the values; 0 if they are stationary, or no period was found
  change: np.ndarray  # [] largest change of a value in the last sweep
  stage_gap: np.ndarray  # [] largest gap of a stage game in any sweep
  certified: np.ndarray  # [] share of the stage games of all sweeps that are certified
  policy_values: np.ndarray  # [S, N] values of the stationary policy that plays `joint`
  gain: np.ndarray  # [S, N] gain of each player's best deviation from that policy
  trajectory: np.ndarray | None  # [T, S, N] values after each sweep of one game, if asked for


def value_iteration(
    reward: Any,
    transition: Any,
    discount: float,
    *,
    concept: Concept = "cce",
    selection: str | Selection | stage.Maker = "max_welfare",
    weights: Any = None,
    initial: Any = None,
    max_sweeps: int = 1000,
    max_period: int = 64,
    tolerance: float = 1e-7,
    cycle_tolerance: float = 1e-6,
    record: bool = False,
    batched: bool | None = None,
) -> Result:
  """Value iteration of Markov games, in which each stage game is solved for a chosen equilibrium.

  A sweep takes all states at once (Greenwald & Hall 2003):

    Q_p(s, a) = R_p(s, a) + gamma sum_t P(t | s, a) V_p(t)
    V_p(s)   <- expected Q_p(s, .) under the selected equilibrium of the game Q(s, .)

  All stage games of a sweep, those of all games of a batch, are one call of `nes_jax.solve`. A game
  leaves the batch as soon as its outcome is known. Values need not converge: cyclic equilibria are
  common (Zinkevich, Greenwald & Littman 2005). Everything is computed in float64, whether or not
  JAX's x64 mode is on. The function takes concrete arrays only.

  Args:
    reward: [S, N, A1, ..., AN] or [B, S, N, A1, ..., AN], finite; N >= 2.
    transition: [S, A1, ..., AN, S] or [B, S, A1, ..., AN, S], probabilities of the next state.
      States in which play has ended are absorbing, and pay nothing.
    discount: 0 or more, less than 1.
    concept: "cce" or "ce".
    selection: a name of `nes_jax.markov.SELECTIONS` (see `nes_jax.markov.stage.equilibria`), or a
      `nes_jax.Selection` of stage games, or a function from the stage games [G, N, A1, ..., AN] of
      a sweep to a `nes_jax.Selection`.
    weights: [N] weights of the players in the welfare, such as (1.01, 1), which breaks ties between
      players. None: ones.
    initial: values [S, N] or [B, S, N] before the first sweep. None: zeros.
    max_sweeps: largest number of sweeps.
    max_period: largest period that is looked for, P.
    tolerance: values are stationary if a sweep changes none by more than this share of the game's
      largest absolute value, or largest absolute reward.
    cycle_tolerance: values cycle with period p if in each of p sweeps they are what they were p
      sweeps before, up to this share; and if they change much more than that within a period.
    record: whether to return the values after each sweep. Only for one game.
    batched: whether there is an axis of games, where the shapes can be read both ways.

  Returns:
    `Result`. `gain` judges the policy by itself, whatever the values are.

  Raises:
    ValueError: an argument is wrong.
  """
  stage.check(concept, selection)
  game, many = games.check(reward, transition, discount, batched)
  weights = games.weights_of(weights, game.num_players)
  for name, number in (("max_sweeps", max_sweeps), ("max_period", max_period)):
    checks.check_integer(name, number, 1)
  for name, size in (("tolerance", tolerance), ("cycle_tolerance", cycle_tolerance)):
    if not 0 < size < 1:
      raise ValueError(f"{name} must be a number between 0 and 1, not {size!r}")
  if record and many:
    raise ValueError("record=True is for one game, not for a batch: the values take much memory")
  run = _Run(game, _initial(initial, game, many), max_period, tolerance, cycle_tolerance, record)
  for _ in range(max_sweeps):
    if not len(run.at):
      break
    run.sweep(concept, selection, weights)
  run.leave(np.arange(len(run.at)), np.zeros(len(run.at), int), np.zeros(len(run.at), bool))
  result = run.result(concept)
  if many:
    return result
  trajectory = None if run.recorded is None else np.stack(run.recorded)
  return jax.tree.map(lambda x: x[0], result)._replace(trajectory=trajectory)


def _initial(initial: Any, game: Game, many: bool) -> np.ndarray:
  """Values [B, S, N] before the first sweep. Raises ValueError."""
  shape = game.reward.shape[:3]
  if initial is None:
    return np.zeros(shape)
  values = np.asarray(initial, np.float64)
  wanted = shape if many else shape[1:]
  if values.shape != wanted or not np.isfinite(values).all():
    raise ValueError(
        f"initial must be finite values of shape {list(wanted)}, not of shape {list(values.shape)}"
    )
  return values if many else values[None]


class _Run:
  """Value iteration of a batch, from which games are taken out as they end."""

  def __init__(
      self, game: Game, values: np.ndarray, max_period: int, tolerance: float,
      cycle_tolerance: float, record: bool,
  ):
    batch, states, players = values.shape
    self.game = game
    self.at = np.arange(batch)  # numbers of the games that are left
    self.left = game  # the games that are left
    self.past = [values]  # values of the last sweeps [left, S, N], the newest at the end
    self.joints: list[np.ndarray] = []  # joints of the last sweeps, the newest at the end
    self.repeats = np.zeros((max_period, batch), int)  # sweeps in a row that repeat, by period - 1
    self.max_period = max_period
    self.tolerance, self.cycle_tolerance = tolerance, cycle_tolerance
    self.recorded: list[np.ndarray] | None = [] if record else None
    self.values = np.zeros((batch, states, players))
    self.joint = np.zeros((batch, states, *game.num_actions))
    self.sweeps, self.cycle = np.zeros((2, batch), int)
    self.converged = np.zeros(batch, bool)
    self.change, self.stage_gap, self.certified = np.zeros((3, batch))
    self.largest_reward = abs(game.reward).max(tuple(range(1, game.reward.ndim)))

  def sweep(self, concept: Concept, selection: Any, weights: np.ndarray) -> None:
    """Updates the values of all games that are left, and takes out those that have ended."""
    values, at = self.past[-1], self.at
    payoffs = games.stage_games(self.left, values)
    batch, states = payoffs.shape[:2]
    found = stage.equilibria(payoffs.reshape(-1, *payoffs.shape[2:]), concept, selection, weights)
    new = np.asarray(found.values).reshape(values.shape)
    self.joints.append(np.asarray(found.joint).reshape(batch, states, *self.game.num_actions))
    self.past.append(new)
    self.joints, self.past = self.joints[-self.max_period:], self.past[-self.max_period - 1:]
    if self.recorded is not None:
      self.recorded.append(new[0])
    gaps, certified = (np.asarray(x).reshape(batch, states) for x in (found.gap, found.converged))
    self.sweeps[at] += 1
    self.stage_gap[at] = np.maximum(self.stage_gap[at], gaps.max(1))
    self.certified[at] += certified.mean(1)
    self.change[at] = abs(new - values).max((1, 2))
    size = np.maximum(self.largest_reward[at], abs(new).max((1, 2)))
    period = self._periods(size)
    stationary = self.change[at] <= self.tolerance * size
    ended = np.flatnonzero(stationary | (period > 0))
    if len(ended):
      self.leave(ended, np.where(stationary, 0, period)[ended], stationary[ended])

  def _periods(self, size: np.ndarray) -> np.ndarray:
    """Period of each game that is left, 0 where none is seen yet, from the size of its values."""
    new, found = self.past[-1], np.zeros(len(self.at), int)
    width = np.zeros(len(self.at))
    for period in range(1, len(self.past)):
      error = abs(new - self.past[-1 - period]).max((1, 2))
      repeated = error <= self.cycle_tolerance * size
      self.repeats[period - 1] = np.where(repeated, self.repeats[period - 1] + 1, 0)
      wide = error * _WIDTH < width * (1 - self.game.discount)
      cycles = (found == 0) & (self.repeats[period - 1] >= period) & wide
      found = np.where(cycles, period, found)
      width = np.maximum(width, error)
    return found

  def leave(self, ended: np.ndarray, period: np.ndarray, stationary: np.ndarray) -> None:
    """Takes out games: their places among those left, their periods, and which are stationary."""
    for place, steps, still in zip(ended, period, stationary):
      at, last = self.at[place], max(steps, 1)
      self.values[at] = np.mean([x[place] for x in self.past[-last:]], 0)
      self.joint[at] = np.mean([x[place] for x in self.joints[-last:]], 0)
      self.cycle[at], self.converged[at] = steps, still
    kept = np.setdiff1d(np.arange(len(self.at)), ended)
    self.at = self.at[kept]
    self.left = self.left._replace(
        reward=self.left.reward[kept], transition=self.left.transition[kept]
    )
    self.past, self.joints = [x[kept] for x in self.past], [x[kept] for x in self.joints]
    self.repeats = self.repeats[:, kept]

  def result(self, concept: Concept) -> Result:
    """The outcome of all games."""
    return Result(
        values=self.values,
        joint=self.joint,
        sweeps=self.sweeps,
        converged=self.converged,
        cycle=self.cycle,
        change=self.change,
        stage_gap=self.stage_gap,
        certified=self.certified / self.sweeps,
        policy_values=games.policy_values(self.game, self.joint),
        gain=gain.gain(self.game, self.joint, concept),
        trajectory=None,
    )
