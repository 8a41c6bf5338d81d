"""nes_jax.games.openspiel: games with known payoffs or values, and games that are refused."""

import sys

import numpy as np
import pytest

from nes_jax.games import files
from nes_jax.games.files import GameFileError


def test_openspiel_matrix_games():
  pytest.importorskip("pyspiel")
  (pd,) = files.read("openspiel:matrix_pd")
  np.testing.assert_array_equal(pd, [[[5, 0], [10, 1]], [[5, 10], [0, 1]]])
  rps = [[0, -1, 1], [1, 0, -1], [-1, 1, 0]]
  np.testing.assert_array_equal(files.read("openspiel:matrix_rps")[0], [rps, np.negative(rps)])


def test_openspiel_one_shot_games():
  pytest.importorskip("pyspiel")
  with files.open_games("openspiel:matching_pennies_3p") as source:
    assert (source.num_games, source.shape) == (1, (3, 2, 2, 2))
    payoffs = source.read(0, 1)[0]
  # Player 1 wants to match player 2, player 2 to match player 3, and player 3 to differ from 1.
  for a, b, c in np.ndindex(2, 2, 2):
    signs = [2 * (a == b) - 1, 2 * (b == c) - 1, 2 * (c != a) - 1]
    np.testing.assert_array_equal(payoffs[:, a, b, c], signs)
  blotto = files.read("openspiel:blotto(coins=3)")
  assert blotto.shape == (1, 2, 10, 10)
  np.testing.assert_array_equal(blotto[0, 0], -blotto[0, 1])
  np.testing.assert_array_equal(blotto[0, 0], blotto[0, 1].T)


def test_openspiel_kuhn_poker_has_its_value():
  """The normal form of this extensive game has the value -1/18 for the first player."""
  pytest.importorskip("pyspiel")
  optimize = pytest.importorskip("scipy.optimize")
  payoffs = files.read("openspiel:kuhn_poker")[0, 0]
  rows, columns = payoffs.shape
  result = optimize.linprog(
      np.r_[np.zeros(rows), -1],
      A_ub=np.c_[-payoffs.T, np.ones(columns)],
      b_ub=np.zeros(columns),
      A_eq=np.r_[np.ones(rows), 0][None],
      b_eq=[1],
      bounds=[(0, None)] * rows + [(None, None)],
  )
  assert abs(-result.fun + 1 / 18) < 1e-9


@pytest.mark.parametrize(
    "name, message",
    [
        ("matrix_pdd", "Unknown game 'matrix_pdd'.*try matrix_pd"),
        ("no such game", "try .*matrix_rps"),
        ("matrix_pd(", "cannot load"),
        ("", "cannot load"),
        ("leduc_poker", "too large to turn into one: .*pure strategies"),
        ("tic_tac_toe", "too large"),
        ("2048", r"1 player\(s\)"),
        ("markov_soccer", "could not make a normal-form game"),
    ],
)
def test_openspiel_faults(name, message):
  pytest.importorskip("pyspiel")
  with pytest.raises(GameFileError, match=message):
    files.read("openspiel:" + name)


def test_openspiel_not_installed(monkeypatch):
  monkeypatch.setitem(sys.modules, "pyspiel", None)
  with pytest.raises(GameFileError, match=r"not installed; run `pip install -e \"\.\[interop\]\"`"):
    files.read("openspiel:matrix_pd")
