"""Small Markov games as tables: grid games 1 and 2 and 2x4 soccer of Greenwald & Hall (2003).

Two players move at once on a grid. A cell is (column, row), row 0 is in the south, and a move off
the grid leaves a player where it is. A table lists all states in which play goes on, and as its
last state one that is absorbing, in which an episode has ended.

Grid games (3x3, Hu & Wellman 2003). Each player walks north, south, east or west. A player that
reaches its goal gets 100, and the episode ends. Two players that would be in one cell after a move,
other than a goal that both share, stay where they are and pay 1 each. They may swap cells.

  * Game 1: the players start in the corners (0, 0) and (2, 0). Each one's goal is the corner that
    lies diagonally opposite: (2, 2) and (0, 2).
  * Game 2: both have the goal (1, 2), and both get 100 if they arrive together. A move north from
    (0, 0) or (2, 0) succeeds with probability 1/2, each by itself.

Soccer (2x4, after Littman 1994). Players walk or stay. The two moves are carried out in random
order. A player that would enter the other's cell stays, and if it has the ball, the other gets it.
The ball in column 0 is a goal for the first player, in column 3 for the second: its player gets
100, the other one -100, and the episode ends.
"""

from collections.abc import Callable, Iterable
import itertools
from typing import Any, NamedTuple

import numpy as np

# Outcome of a joint action: its probability, the players' rewards, and the next state (None: end).
Outcome = tuple[float, tuple[float, float], Any]

MOVES = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0), "stay": (0, 0)}
# Reward of a goal.
GOAL = 100.0
# Price of a collision for each player.
COLLISION = 1.0
# Probability that a move through the barrier of grid game 2 succeeds.
BARRIER = 0.5
# Columns and rows of the grid games.
_SIZE = (3, 3)
# Columns and rows of the soccer field.
_FIELD = (4, 2)


class Table(NamedTuple):
  """A Markov game of two players in arrays. S states, of which the last is absorbing."""

  reward: np.ndarray  # [S, 2, A1, A2] expected reward of each player
  transition: np.ndarray  # [S, A1, A2, S] probability of the next state
  start: np.ndarray  # [S] probability of the first state
  terminal: np.ndarray  # [S] bool, whether the episode has ended
  discount: float  # discount factor that the literature uses
  name: str
  state_names: tuple[str, ...]  # [S]
  action_names: tuple[tuple[str, ...], ...]  # per player [Ap]
  agent_names: tuple[str, ...]

  @property
  def num_states(self) -> int:
    """The number of states, S, with the absorbing one."""
    return len(self.start)

  @property
  def num_actions(self) -> tuple[int, ...]:
    """The number of actions of each player, (A1, A2)."""
    return tuple(len(names) for names in self.action_names)


def grid1() -> Table:
  """Grid game 1: 57 states in which play goes on, and the end. Both can win in four steps."""
  goals = ((2, 2), (0, 2))
  return _walk("grid1", goals, starts=((0, 0), (2, 0)), barriers=())


def grid2() -> Table:
  """Grid game 2: 56 states in which play goes on, and the end. One player can win for sure."""
  goals = ((1, 2), (1, 2))
  starts = ((0, 0), (2, 0))
  return _walk("grid2", goals, starts=starts, barriers=starts)


def soccer() -> Table:
  """Soccer: 56 states in which play goes on, and the end. The game is zero-sum.

  The first player starts in (2, 1), and the second in (1, 1) with the ball.
  """
  cells = list(itertools.product(range(_FIELD[0]), range(_FIELD[1])))
  inner = [cell for cell in cells if 0 < cell[0] < _FIELD[0] - 1]
  states = [
      (a, b, ball)
      for ball in (0, 1)
      for a in cells
      for b in cells
      if a != b and (a, b)[ball] in inner
  ]
  actions = ("north", "south", "east", "west", "stay")
  start = ((2, 1), (1, 1), 1)
  names = [f"A{a[0]}{a[1]} B{b[0]}{b[1]} {'AB'[ball]}" for a, b, ball in states]
  return _tabulate("soccer", states, names, start, actions, _kick, discount=0.9)


TABLES: dict[str, Callable[[], Table]] = {"grid1": grid1, "grid2": grid2, "soccer": soccer}


def _walk(
    name: str,
    goals: tuple[tuple[int, int], ...],
    starts: tuple[tuple[int, int], ...],
    barriers: tuple[tuple[int, int], ...],
) -> Table:
  """A grid game."""
  cells = list(itertools.product(range(_SIZE[0]), range(_SIZE[1])))
  states = [(a, b) for a in cells for b in cells if a != b and a != goals[0] and b != goals[1]]

  def outcomes(state, actions) -> Iterable[Outcome]:
    ways = []
    for cell, action in zip(state, actions):
      moved = _moved(cell, action, _SIZE)
      blocked = action == "north" and cell in barriers
      ways.append([(BARRIER, moved), (1 - BARRIER, cell)] if blocked else [(1.0, moved)])
    for (first, a), (second, b) in itertools.product(*ways):
      share = first * second
      if a == b and not a == goals[0] == goals[1]:
        yield share, (-COLLISION, -COLLISION), state
        continue
      won = (a == goals[0], b == goals[1])
      yield share, (GOAL * won[0], GOAL * won[1]), None if any(won) else (a, b)

  actions = ("north", "south", "east", "west")
  names = [f"A{a[0]}{a[1]} B{b[0]}{b[1]}" for a, b in states]
  return _tabulate(name, states, names, starts, actions, outcomes, discount=0.99)


def _kick(state, actions) -> Iterable[Outcome]:
  """Outcomes of a joint action in soccer."""
  for order in ((0, 1), (1, 0)):
    cells, ball = list(state[:2]), state[2]
    scored = None
    for player in order:
      target = _moved(cells[player], actions[player], _FIELD)
      if target == cells[1 - player]:
        ball = 1 - player if ball == player else ball
      else:
        cells[player] = target
      column = cells[ball][0]
      if column in (0, _FIELD[0] - 1):
        scored = GOAL if column == 0 else -GOAL
        break
    if scored is None:
      yield 0.5, (0.0, 0.0), (cells[0], cells[1], ball)
    else:
      yield 0.5, (scored, -scored), None


def _moved(cell: tuple[int, int], action: str, size: tuple[int, int]) -> tuple[int, int]:
  """The cell that an action leads to if nobody is in the way."""
  column, row = (x + step for x, step in zip(cell, MOVES[action]))
  return (column, row) if 0 <= column < size[0] and 0 <= row < size[1] else cell


def _tabulate(
    name: str,
    states: list[Any],
    state_names: list[str],
    start: Any,
    actions: tuple[str, ...],
    outcomes: Callable[[Any, tuple[str, str]], Iterable[Outcome]],
    discount: float,
) -> Table:
  """Writes a game out, with an absorbing state behind the others."""
  number = {state: k for k, state in enumerate(states)}
  end, count = len(states), len(actions)
  reward = np.zeros((end + 1, 2, count, count))
  transition = np.zeros((end + 1, count, count, end + 1))
  transition[end, ..., end] = 1
  for state, k in number.items():
    for (i, first), (j, second) in itertools.product(enumerate(actions), repeat=2):
      for share, gained, following in outcomes(state, (first, second)):
        reward[k, :, i, j] += share * np.asarray(gained)
        transition[k, i, j, end if following is None else number[following]] += share
  first_state = np.zeros(end + 1)
  first_state[number[start]] = 1
  return Table(
      reward=reward,
      transition=transition,
      start=first_state,
      terminal=np.arange(end + 1) == end,
      discount=discount,
      name=name,
      state_names=(*state_names, "end"),
      action_names=(actions, actions),
      agent_names=("A", "B"),
  )
