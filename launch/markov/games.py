"""Markov games of the programs: tables by name, from files, and from OpenSpiel."""

import itertools
import pathlib

import numpy as np

from envs import grid
from envs.grid import Table
from launch.runtime.flags import UsageError
from nes_jax.markov import games

# OpenSpiel's pathfinding game on the grid of its own test of the learner.
PATHFINDING = "pathfinding(grid=B.A\n...\na.b,players=2,step_reward=-1.0)"
# Largest number of states that are read out of a game of OpenSpiel.
_MOST_STATES = 5000


def read(path: pathlib.Path, discount: float | None) -> Table:
  """Reads a Markov game from an npz file.

  Its arrays are reward [S, 2, A1, A2], transition [S, A1, A2, S], and optionally start [S], the
  probabilities of the first state, and discount []. Without start, the game starts in state 0.

  Args:
    path: the file.
    discount: takes the place of that of the file.

  Raises:
    UsageError: the file cannot be read, lacks an array, or holds no Markov game of two players.
  """
  try:
    with np.load(path, allow_pickle=False) as file:
      arrays = dict(file)
  except (OSError, ValueError) as fault:
    raise UsageError(f"--file={path}: {fault}") from None
  missing = [name for name in ("reward", "transition") if name not in arrays]
  if missing:
    raise UsageError(f"--file={path}: it has no array {missing[0]!r}")
  given = arrays.get("discount") if discount is None else discount
  if given is None:
    raise UsageError(f"--file={path}: it has no discount, so pass --discount")
  try:
    game, _ = games.check(arrays["reward"], arrays["transition"], float(given), batched=False)
  except (ValueError, TypeError) as fault:
    raise UsageError(f"--file={path}: {fault}") from None
  if game.num_players != 2:
    raise UsageError(f"--file={path}: two players are expected, not {game.num_players}")
  states = game.reward.shape[1]
  start = arrays.get("start", np.eye(states)[0])
  if start.shape != (states,) or start.min() < 0 or abs(start.sum() - 1) > 1e-6:
    raise UsageError(f"--file={path}: start must be {states} probabilities that sum to 1")
  own = tuple(range(1, game.transition[0].ndim - 1))
  stays = np.einsum("s...s->s...", game.transition[0]).min(own) >= 1
  return Table(
      reward=game.reward[0],
      transition=game.transition[0],
      start=np.asarray(start, float),
      # Play has ended in a state that nobody leaves and that pays nothing.
      terminal=stays & ~game.reward[0].any((1, 2, 3)),
      discount=game.discount,
      name=path.stem,
      state_names=tuple(map(str, range(states))),
      action_names=tuple(tuple(map(str, range(count))) for count in game.num_actions),
      agent_names=("1", "2"),
  )


def named(name: str, discount: float | None = None) -> Table:
  """The table of a name, with its own discount or another one."""
  table = grid.TABLES[name]()
  return table if discount is None else table._replace(discount=discount)


def from_openspiel(text: str, discount: float) -> Table:
  """The table of a two-player simultaneous-move game of OpenSpiel, whose states are its texts.

  Args:
    text: the game, as `pyspiel.load_game` takes it.
    discount: discount factor.

  Raises:
    UsageError: the game has too many states.
  """
  import pyspiel

  game = pyspiel.load_game(text)
  count = game.num_distinct_actions()
  first = game.new_initial_state()
  numbers, queue, outcomes = {str(first): 0}, [first], []
  while queue:
    state = queue.pop(0)
    legal = [state.legal_actions(p) for p in range(2)]
    for pair in itertools.product(range(count), repeat=2):
      # An action that is not legal counts as the first that is.
      chosen = [a if a in own else own[0] for a, own in zip(pair, legal)]
      after = state.clone()
      after.apply_actions(chosen)
      for share, following in _resolved(after):
        key = str(following)
        if not following.is_terminal() and key not in numbers:
          numbers[key] = len(numbers)
          queue.append(following)
          if len(numbers) > _MOST_STATES:
            raise UsageError(f"{text} has more than {_MOST_STATES} states")
        outcomes.append((str(state), pair, share, following.rewards(),
                         None if following.is_terminal() else key))
  end = len(numbers)
  reward, transition = np.zeros((end + 1, 2, count, count)), np.zeros((end + 1, count, count,
                                                                      end + 1))
  transition[end, ..., end] = 1
  for key, (i, j), share, gained, following in outcomes:
    reward[numbers[key], :, i, j] += share * np.asarray(gained)
    transition[numbers[key], i, j, end if following is None else numbers[following]] += share
  actions = tuple(str(k) for k in range(count))
  return Table(
      reward=reward, transition=transition, start=np.eye(end + 1)[0],
      terminal=np.arange(end + 1) == end, discount=discount, name=text.split("(")[0],
      state_names=(*numbers, "end"), action_names=(actions, actions), agent_names=("0", "1"),
  )


def _resolved(state):
  """Pairs (probability, state) after all moves of chance that follow a state."""
  if not state.is_chance_node():
    return [(1.0, state)]
  found = []
  for action, share in state.chance_outcomes():
    after = state.clone()
    after.apply_action(action)
    found += [(share * part, rest) for part, rest in _resolved(after)]
  return found


def scores(table: Table, joint: np.ndarray, horizon: int) -> np.ndarray:
  """Expected undiscounted returns [2] of a policy [S, A1, A2] within a number of steps."""
  reward = np.einsum("snab,sab->sn", table.reward, joint)
  move = np.einsum("sabt,sab->st", table.transition, joint)
  total = np.zeros_like(reward)
  for _ in range(horizon):
    total = reward + move @ total
  return table.start @ total
