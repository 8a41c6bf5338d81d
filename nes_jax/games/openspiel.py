"""Games of OpenSpiel by name (https://github.com/google-deepmind/open_spiel).

A matrix or tensor game is taken as it is. An extensive game is turned into its normal form, if that
is small enough. OpenSpiel is an optional dependency.
"""

import difflib
import itertools
import math

import numpy as np

from nes_jax.games.sources import MAX_PLAYERS, GameFileError, format_counts, translate_errors

OPENSPIEL_PREFIX = "openspiel:"

# The limits below keep the time for a normal form to seconds.
# Largest number of nodes of the game tree.
_MAX_NODES = 200_000
# Largest number of joint pure strategies.
_MAX_JOINT = 1_000_000
# Largest product of these two numbers, for a game of more than one move.
_MAX_WORK = 50_000_000

# Games that a message proposes after a name that OpenSpiel does not know.
_PROPOSED = ("matrix_pd", "matrix_rps", "matrix_sh", "blotto(coins=5)")


def read_openspiel(path: str) -> np.ndarray:
  """Makes the normal form of a game of OpenSpiel.

  Args:
    path: "openspiel:" and a name with parameters, as OpenSpiel's `load_game` takes it.

  Returns:
    float64 [N, A1, ..., AN].

  Raises:
    GameFileError: OpenSpiel is not installed, it does not know the game, the game has no normal
      form, or the normal form is too large.
  """
  with translate_errors(path, "OpenSpiel could not make a normal-form game of it",
                        "choose another game"):
    return _read_normal_form(path, path.removeprefix(OPENSPIEL_PREFIX))


def _read_normal_form(path: str, name: str) -> np.ndarray:
  try:
    import pyspiel
  except ImportError as error:
    raise GameFileError(
        path, "OpenSpiel is not installed", 'run `pip install -e ".[interop]"`'
    ) from error
  try:
    game = pyspiel.load_game(name)
  except pyspiel.SpielError as error:
    near = difflib.get_close_matches(name.partition("(")[0], pyspiel.registered_names(), 3)
    known = dict.fromkeys([*near, *_PROPOSED])
    reason = " ".join(str(error).split("Available games")[0].split())
    raise GameFileError(
        path, f"OpenSpiel cannot load {name!r}: {reason:.200}", f"try {', '.join(known)}"
    ) from error
  if not 2 <= game.num_players() <= MAX_PLAYERS:
    raise GameFileError(path, f"has {game.num_players()} player(s)", "choose one with 2 or more")
  if isinstance(game, pyspiel.MatrixGame):
    return np.stack([game.row_utilities(), game.col_utilities()]).astype(np.float64)
  if not isinstance(game, pyspiel.TensorGame):
    _check_normal_form_size(path, game)
    game = pyspiel.extensive_to_tensor_game(game)
  players = range(game.num_players())
  shape = tuple(game.shape())
  return np.stack([np.reshape(game.player_utilities(p), shape) for p in players]).astype(np.float64)


def _too_large(path: str, reason: str) -> GameFileError:
  return GameFileError(
      path,
      f"is not a normal-form game and too large to turn into one: {reason}",
      "choose a matrix or tensor game such as matrix_pd, or one of few moves such as kuhn_poker",
  )


class _PureStrategies:
  """Numbers of pure strategies, counted while a game tree is walked.

  A pure strategy of a player is one action at each information state of the player.
  """

  def __init__(self, path: str, num_players: int):
    self.counts = [1] * num_players
    self._path = path
    self._seen: list[set[str]] = [set() for _ in range(num_players)]

  def add(self, player: int, information: str, num_actions: int) -> None:
    """Counts an information state, unless it was counted before.

    Raises:
      GameFileError: there are too many joint strategies.
    """
    if information in self._seen[player]:
      return
    self._seen[player].add(information)
    self.counts[player] *= num_actions
    if math.prod(self.counts) > _MAX_JOINT:
      raise _too_large(self._path, f"it has more than {_MAX_JOINT} combinations of pure strategies")


def _check_normal_form_size(path: str, game) -> None:
  """Walks the game tree, and raises GameFileError if the normal form is too large."""
  too_many_nodes = _too_large(path, f"its game tree has more than {_MAX_NODES} nodes")
  strategies = _PureStrategies(path, game.num_players())
  states, nodes = [game.new_initial_state()], 0
  one_shot = states[0].is_simultaneous_node()
  while states:
    state = states.pop()
    nodes += 1
    if nodes + len(states) > _MAX_NODES:
      raise too_many_nodes
    if state.is_terminal():
      continue
    one_shot = one_shot and nodes == 1
    if state.is_mean_field_node():
      raise GameFileError(path, "is a mean-field game", "choose a game of finitely many players")
    if state.is_simultaneous_node():
      legal = [state.legal_actions(p) for p in range(game.num_players())]
      if math.prod(map(len, legal)) > _MAX_NODES:
        raise too_many_nodes
      for player, actions in enumerate(legal):
        # A game of one simultaneous move need not implement information states.
        information = "" if one_shot else state.information_state_string(player)
        strategies.add(player, information, len(actions))
      for joint in itertools.product(*legal):
        child = state.clone()
        child.apply_actions(list(joint))
        states.append(child)
      continue
    if not state.is_chance_node():
      player = state.current_player()
      information = state.information_state_string(player)
      strategies.add(player, information, len(state.legal_actions()))
    states.extend(state.child(action) for action in state.legal_actions())
  if not one_shot and math.prod(strategies.counts) * nodes > _MAX_WORK:
    counts = format_counts(strategies.counts)
    raise _too_large(path, f"it has {counts} pure strategies and {nodes} nodes")
