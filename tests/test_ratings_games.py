"""Games of tables of scores."""

import numpy as np
import pytest

from nes_jax import ratings
from nes_jax.ratings import games

SCORES = np.array([[1.0, 10.0], [3.0, 20.0], [2.0, 40.0]])  # [agents, tasks]


def test_agents_are_paid_differences_and_the_task_their_size():
  game = ratings.agent_vs_task(SCORES, normaliser="none")
  assert game.shape == (3, 2, 3, 3)
  assert game[1, 0, 1, 0] == 2 and game[2, 0, 1, 0] == -2 and game[0, 0, 1, 0] == 2
  assert game[1, 1, 0, 2] == -30 and game[0, 1, 0, 2] == 30


@pytest.mark.parametrize(
    "normaliser, expected",
    [
        ("range", [[0, 1, 0.5], [0, 1 / 3, 1]]),
        ("rank", [[0, 1, 0.5], [0, 0.5, 1]]),
        ("stddev", [[-2 / np.sqrt(2 / 3), 0, -1 / np.sqrt(2 / 3)],
                    np.array([-30, -20, 0]) / np.std([10, 20, 40])]),
    ],
)
def test_normalisers(normaliser, expected):
  expected = np.array(expected)
  game = ratings.agent_vs_task(SCORES, normaliser=normaliser)
  np.testing.assert_allclose(game[1], expected[:, :, None] - expected[:, None, :], atol=1e-12)


def test_tied_scores_share_a_rank_and_a_constant_task_decides_nothing():
  game = ratings.agent_vs_task([[1.0, 5.0], [1.0, 5.0], [2.0, 5.0]], normaliser="rank")
  np.testing.assert_allclose(game[1, 0, 2], [0.75, 0.75, 0])
  for normaliser in ("range", "stddev", "rank"):
    game = ratings.agent_vs_task([[1.0, 5.0], [2.0, 5.0]], normaliser=normaliser)
    np.testing.assert_array_equal(game[:, 1], 0)


def test_winrate_is_that_of_normal_scores():
  game = ratings.agent_vs_task([[1.0, 2.0], [0.0, 2.0]], [[3.0, 0.0], [4.0, 0.0]],
                               normaliser="winrate")
  draws = np.random.default_rng(0).normal(size=(200_000, 2)) * [3, 4] + [1, 0]
  share = np.mean(draws[:, 0] > draws[:, 1])  # standard error 0.0011
  assert game[1, 0, 0, 1] == pytest.approx(2 * share - 1, abs=0.01)
  assert game[1, 1, 0, 1] == 0  # equal scores without noise


def test_nash_averaging_game_and_batches():
  scores = np.stack([SCORES, SCORES[::-1]])
  game = ratings.agent_vs_task(scores, pairwise=False)
  assert game.shape == (2, 2, 3, 2)
  np.testing.assert_array_equal(game[:, 0], -game[:, 1])
  np.testing.assert_array_equal(
      ratings.agent_vs_task(scores)[1], ratings.agent_vs_task(SCORES[::-1])
  )


def test_side_by_side():
  winrates = np.array([[0.5, 0.8, 0.4], [0.2, 0.5, 0.9], [0.6, 0.1, 0.5]])
  game = ratings.side_by_side(winrates)
  np.testing.assert_allclose(game[0], winrates - 0.5)
  np.testing.assert_allclose(game[1], 0.5 - winrates)
  prompts = ratings.side_by_side(np.stack([winrates, winrates.T]))
  assert prompts.shape == (3, 2, 3, 3)
  np.testing.assert_allclose(prompts[1, 0], game[0])
  np.testing.assert_allclose(prompts[0], np.abs(prompts[1]))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: ratings.agent_vs_task([1.0, 2.0]), "must be a table"),
        (lambda: ratings.agent_vs_task([[1.0, np.nan]]), r"the first at \[0, 1\]"),
        (lambda: ratings.agent_vs_task(SCORES, normaliser="ptp"), "use one of range"),
        (lambda: ratings.agent_vs_task(SCORES, normaliser="winrate"), "needs stddev"),
        (lambda: ratings.agent_vs_task(SCORES, -SCORES, normaliser="winrate"), "negative"),
        (
            lambda: ratings.agent_vs_task(SCORES, SCORES, normaliser="winrate", pairwise=False),
            "leave out",
        ),
        (lambda: ratings.side_by_side(SCORES), "must be"),
        (lambda: ratings.side_by_side(2 * np.ones((2, 2))), "between 0 and 1"),
        (lambda: ratings.side_by_side(np.ones((2, 2))), "sum to one"),
    ],
)
def test_bad_tables_are_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_all_names_are_normalisers():
  for name in games.NORMALISERS:
    assert ratings.agent_vs_task(SCORES, np.ones_like(SCORES), normaliser=name).shape[0] == 3
