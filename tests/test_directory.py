"""nes_jax.games.directory: directories of Gambit files, padded to one shape."""

from game_files import games, write
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from nes_jax.games import files
from nes_jax.games.files import GameFileError


def test_directory(tmp_path):
  payoffs = games(12, 2, 3, 2)
  for k in range(12):
    files.write_nfg(tmp_path / f"game_{k:02d}.nfg", payoffs[k], title=str(k))
  write(tmp_path / "notes.txt", "not a game")
  write(tmp_path / ".hidden.nfg", "not a game")
  np.testing.assert_array_equal(files.read(tmp_path), payoffs)
  with files.open_games(str(tmp_path)) as source:
    assert source.names == tuple(f"game_{k:02d}.nfg" for k in range(12))
    assert (source.num_games, source.shape, source.ragged) == (12, (2, 3, 2), False)
    np.testing.assert_array_equal(source.counts, [[3, 2]] * 12)
    np.testing.assert_array_equal(source.read(3, 7), payoffs[3:7])
  write(tmp_path / "game_05.nfg", 'NFG 1 R "" { "a" "b" } { 3 2 } 1 2 3')
  source = files.open_games(tmp_path)
  with pytest.raises(GameFileError, match="game_05.nfg.*3 payoffs"):
    source.read(0, 12)
  files.write_nfg(tmp_path / "game_05.nfg", games(1, 2, 3, 1))
  with pytest.raises(GameFileError, match="game_05.nfg: its shape changed"):
    source.read(0, 12)


def test_directory_of_different_shapes(tmp_path):
  """Three games of two players, 2x3, 1x2 and 3x1, are padded to 3x3 as written by hand."""
  inf = np.inf
  files.write_nfg(tmp_path / "a.nfg", np.arange(1.0, 13).reshape(2, 2, 3))
  files.write_nfg(tmp_path / "b.nfg", np.array([[[1.0, 2]], [[3, 4]]]))
  files.write_nfg(tmp_path / "c.nfg", np.array([[[1.0], [2], [3]], [[4], [5], [6]]]))
  expected = np.array([
      [
          [[1, 2, 3], [4, 5, 6], [-inf, -inf, -inf]],
          [[7, 8, 9], [10, 11, 12], [0, 0, 0]],
      ],
      [
          [[1, 2, 0], [-inf, -inf, -inf], [-inf, -inf, -inf]],
          [[3, 4, -inf], [0, 0, -inf], [0, 0, -inf]],
      ],
      [
          [[1, 0, 0], [2, 0, 0], [3, 0, 0]],
          [[4, -inf, -inf], [5, -inf, -inf], [6, -inf, -inf]],
      ],
  ])
  np.testing.assert_array_equal(files.read(tmp_path), expected)
  # The argument `batched` concerns arrays only.
  np.testing.assert_array_equal(files.read(tmp_path, batched=False), expected)
  with files.open_games(tmp_path) as source:
    assert (source.num_games, source.shape, source.ragged) == (3, (2, 3, 3), True)
    assert np.issubdtype(source.counts.dtype, np.integer)
    np.testing.assert_array_equal(source.counts, [[2, 3], [1, 2], [3, 1]])
    np.testing.assert_array_equal(source.read(1, 3), expected[1:])
    assert source.read(2, 2).shape == (0, 2, 3, 3)


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(shapes=st.lists(st.tuples(*[st.integers(1, 3)] * 3), min_size=1, max_size=5))
def test_padding_is_that_of_the_rule(tmp_path_factory, shapes):
  directory = tmp_path_factory.mktemp("ragged")
  own = [games(3, *shape, seed=k) for k, shape in enumerate(shapes)]
  for k, game in enumerate(own):
    files.write_nfg(directory / f"{k}.nfg", game)
  with files.open_games(directory) as source:
    whole = source.read(0, source.num_games)
    assert source.ragged == (len(set(shapes)) > 1)
    assert source.shape == (3, *np.max(shapes, axis=0)) == whole.shape[1:]
    np.testing.assert_array_equal(source.counts, shapes)
  for padded, game, shape in zip(whole, own, shapes):
    for player, *joint in np.ndindex(padded.shape):
      there = [strategy < count for strategy, count in zip(joint, shape)]
      value = padded[(player, *joint)]
      if all(there):
        assert value == game[(player, *joint)]
      else:
        assert value == (0 if there[player] else -np.inf)


def test_directory_of_different_numbers_of_players(tmp_path):
  for k in range(7):
    files.write_nfg(tmp_path / f"two_{k}.nfg", games(1, 2, 2, 2))
  files.write_nfg(tmp_path / "three_a.nfg", games(1, 3, 2, 2, 2))
  files.write_nfg(tmp_path / "three_b.nfg", games(1, 3, 1, 2, 3))
  with pytest.raises(GameFileError) as caught:
    files.open_games(tmp_path)
  assert (
      "different numbers of players: 2 players in two_0.nfg, two_1.nfg, two_2.nfg, two_3.nfg,"
      " two_4.nfg, ... (7 files); 3 players in three_a.nfg, three_b.nfg; put the games of each"
      in str(caught.value)
  )


def test_heads_that_promise_too_much_are_refused_at_once(tmp_path):
  files.write_nfg(tmp_path / "a.nfg", games(1, 2, 2, 2))
  write(tmp_path / "b.nfg", 'NFG 1 R "" { "a" "b" } { 99999999 99999999 } 1 2 3')
  with pytest.raises(GameFileError, match="b.nfg: 50 bytes are too few for the .* cut short"):
    files.open_games(tmp_path)


def test_padding_that_does_not_fit_in_memory(tmp_path):
  for k in range(20):
    names = " ".join("1" * 20)
    counts = " ".join("1000" if p == k else "1" for p in range(20))
    payoffs = " ".join(["0"] * 20000)
    write(tmp_path / f"{k:02d}.nfg", f'NFG 1 R "" {{ {names} }} {{ {counts} }} {payoffs}')
  source = files.open_games(tmp_path)
  assert source.shape == (20, *[1000] * 20)
  with pytest.raises(GameFileError, match="do not fit in memory"):
    source.read(0, 2)


def test_long_headers_in_a_directory(tmp_path):
  names = " ".join(f'"strategy {k}"' for k in range(3000))
  body = " ".join(map(str, range(2 * 3000 * 1)))
  write(tmp_path / "g.nfg", f'NFG 1 R "" {{ "a" "b" }} {{ {{ {names} }} {{ "x" }} }}\n{body}')
  payoffs = files.read(tmp_path)
  assert payoffs.shape == (1, 2, 3000, 1) and payoffs[0, 1, 2, 0] == 5
