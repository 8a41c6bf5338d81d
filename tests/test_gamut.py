"""Games of GAMUT against games that the original generator wrote (tests/data/gamut_8x8.npz)."""

import pathlib

import jax
import numpy as np
import pytest
from scipy import stats

from nes_jax.games import gamut

ORIGINAL = np.load(pathlib.Path(__file__).parent / "data" / "gamut_8x8.npz")


def statistics(games):
  """Of [B, 2, A, A], what does not depend on scale: name -> [B]."""
  games = np.asarray(games, np.float64)
  x = games - games.mean((2, 3), keepdims=True)
  norm = np.linalg.norm(x, axis=(2, 3), keepdims=True)
  x = games.shape[-1] * x / np.where(norm > 0, norm, 1)
  first, second = x[:, 0], x[:, 1]
  best = [games[:, p] == games[:, p].max(1 + p, keepdims=True) for p in (0, 1)]
  return {
      "correlation": (first * second).mean((1, 2)),
      "skewness": (first**3).mean((1, 2)),
      "uniform play's CCE gap": first.mean(2).max(1) + second.mean(1).max(1),
      "pure equilibria": (best[0] & best[1]).sum((1, 2)),
      "largest payoff": x.max((1, 2, 3)),
  }


def test_names():
  assert set(gamut.NAMES) == set(ORIGINAL.files) and len(gamut.NAMES) == 22


@pytest.mark.parametrize("name", gamut.NAMES)
def test_distribution_is_the_original_generators(name):
  """Two-sample Kolmogorov-Smirnov; what is constant but for rounding is rounded."""
  ours = gamut.sample(jax.random.key(1), name, 512, 8)
  assert ours.shape == (512, 2, 8, 8) and np.isfinite(ours).all()
  theirs = statistics(ORIGINAL[name])
  for what, values in statistics(ours).items():
    test = stats.ks_2samp(np.round(values, 5), np.round(theirs[what], 5))
    assert test.pvalue > 1e-3, f"{what}: {test}"


def test_travelers_dilemma_is_the_original():
  """u = the least claim, and R more for who alone made it."""
  first, second = np.indices((8, 8)) + 1
  for game in ORIGINAL["TravelersDilemma"]:
    reward = game[0, 0, 1] - 1
    expected = np.minimum(first, second) + reward * np.stack([first < second, second < first])
    np.testing.assert_allclose(game, expected, rtol=1e-12)
  games = np.asarray(gamut.sample(jax.random.key(2), "TravelersDilemma", 8, 8))
  for game in games:
    reward = game[0, 0, 1] - 1
    expected = np.minimum(first, second) + reward * np.stack([first < second, second < first])
    assert 1 <= reward <= 8
    np.testing.assert_allclose(game, expected, rtol=1e-6)


def test_games_do_not_depend_on_the_batch():
  for name in ("BertrandOligopoly", "UniformLEG-RG"):
    many, few = (np.asarray(gamut.sample(jax.random.key(3), name, b, 5)) for b in (6, 2))
    np.testing.assert_allclose(many[:2], few, rtol=1e-5)


@pytest.mark.parametrize("name", ["RandomGame", "CovariantGame", "DispersionGame", "UniformLEG-SG",
                                  "GraphicalGame-SW", "PolymatrixGame-Road", "BertrandOligopoly"])
def test_three_players(name):
  games = gamut.sample(jax.random.key(4), name, 16, 3, num_players=3)
  assert games.shape == (16, 3, 3, 3, 3) and np.isfinite(games).all()


@pytest.mark.parametrize(
    "arguments, match",
    [
        (("Chess", 4, 8), "unknown.*'Chess'"),
        (("RandomGame", 0, 8), "batch 0"),
        (("RandomGame", 4, 0), "."),
        (("RandomGame", 4, 8, 1), "."),
        (("RandomGame", 4, (3, 4, 5), 2), "."),
        (("TravelersDilemma", 4, (3, 4)), "TravelersDilemma"),
    ],
)
def test_bad_arguments(arguments, match):
  with pytest.raises(ValueError, match=match):
    gamut.sample(jax.random.key(0), *arguments)
