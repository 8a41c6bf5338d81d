"""CSV files of empirical games: round trips, and errors that name what is wrong."""

import numpy as np
import pytest

from nes_jax import empirical

HEADER = "player_0,player_1,payoff_0,payoff_1,episode\n"
ROWS = [
    "a,x,1,2,first", "a,y,3,4,first", "b,x,5,6,first", "b,y,7,8,first",
    "a,x,1,0,second", "a,y,5,4,second", "b,x,5,2,second", "b,y,9,8,second",
]


def file_of(tmp_path, rows=ROWS, header=HEADER):
  path = tmp_path / "episodes.csv"
  path.write_text(header + "\n".join(rows) + "\n", encoding="utf-8")
  return path


def test_reads_paired_episodes(tmp_path):
  game = empirical.from_csv(file_of(tmp_path))
  assert game.labels == (("a", "b"), ("x", "y"))
  np.testing.assert_array_equal(game.mean, [[1, 1], [4, 4], [5, 4], [8, 8]])
  np.testing.assert_array_equal(game.samples[1], [[1, 0], [5, 4], [5, 2], [9, 8]])
  np.testing.assert_array_equal(game.payoffs()[0], [[1, 4], [5, 8]])
  shuffled = empirical.from_csv(file_of(tmp_path, ROWS[::-1]), labels=[["a", "b"], ["x", "y"]])
  np.testing.assert_array_equal(shuffled.mean, game.mean)


def test_without_episodes_counts_may_differ(tmp_path):
  rows = [row.rsplit(",", 1)[0] for row in [*ROWS, "a,x,4,1,third"]]
  header = HEADER.replace(",episode", "")
  game = empirical.from_csv(file_of(tmp_path, rows, header))
  assert list(game.count) == [3, 2, 2, 2] and game.samples is None
  np.testing.assert_array_equal(game.mean[0], [2, 1])
  np.testing.assert_allclose(game.covariance[0], [[3, 0], [0, 1]])
  report = empirical.solve(game, resamples=20)
  assert report.uncertified == 0
  with pytest.raises(ValueError, match=r"\(b, y\) has one episode"):
    empirical.from_csv(file_of(tmp_path, rows[:7], header))


def test_roles_take_any_permutation(tmp_path):
  rows = [
      "a,a,1,1,0", "b,a,5,3,0", "b,b,2,2,0", "a,a,1,1,1", "a,b,3,5,1", "b,b,2,2,1",
  ]
  game = empirical.from_csv(file_of(tmp_path, rows), roles=(0, 0))
  np.testing.assert_array_equal(game.profiles, [[0, 0], [0, 1], [1, 1]])
  np.testing.assert_array_equal(game.mean[1], [3, 5])
  np.testing.assert_array_equal(game.payoffs(), [[[1, 3], [5, 2]], [[1, 5], [3, 2]]])


def test_round_trip(tmp_path):
  rng = np.random.default_rng(0)
  roles = (0, 1, 1)
  labels = [["low, or less", "high"], ["x", "y", "z"], ["x", "y", "z"]]
  count = len(empirical.all_profiles((2, 3, 3), roles))
  game = empirical.from_samples(rng.normal(size=(4, count, 3)), labels=labels, roles=roles)
  path = tmp_path / "game.csv"
  empirical.to_csv(game, path)
  again = empirical.from_csv(path, roles=roles)
  assert again.labels == game.labels and again.roles == game.roles
  np.testing.assert_array_equal(again.samples, game.samples)
  np.testing.assert_array_equal(again.covariance, game.covariance)
  moments = empirical.from_moments(game.mean, game.covariance, 4, labels=labels, roles=roles)
  with pytest.raises(ValueError, match="moments and no samples"):
    empirical.to_csv(moments, path)


@pytest.mark.parametrize(
    "rows, message",
    [
        (["a,x,nan,2,first", *ROWS[1:]], r"\(a, x\), episode first: .* of player 0 is 'nan'"),
        ([*ROWS[:5], "a,y,5,,second", *ROWS[6:]], r"\(a, y\), episode second: .*player 1 is ''"),
        ([row for row in ROWS if "b,x" not in row], r"profile \(b, x\) is missing"),
        (ROWS[:-1], r"profile \(b, y\) has no episode second"),
        ([*ROWS, ROWS[2]], r"profile \(b, x\) has episode first twice"),
        ([*ROWS, "b,x,1"], "line 10: 5 cells"),
        ([], "no episode"),
    ],
)
def test_bad_rows_are_named(tmp_path, rows, message):
  with pytest.raises(ValueError, match=message):
    empirical.from_csv(file_of(tmp_path, rows))


def test_bad_headers_and_arguments(tmp_path):
  for header in ("player_0,payoff_0\n", HEADER.replace("payoff_1", "score"), "", "a" + HEADER):
    with pytest.raises(ValueError, match="has the columns"):
      empirical.from_csv(file_of(tmp_path, ROWS, header))
  path = file_of(tmp_path)
  with pytest.raises(ValueError, match=r"\(b, x\): player 0 has no strategy 'b'"):
    empirical.from_csv(path, labels=[["a"], ["x", "y"]])
  with pytest.raises(ValueError, match="3 entries for 2 players"):
    empirical.from_csv(path, roles=(0, 0, 0))
