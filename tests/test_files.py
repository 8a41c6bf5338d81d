"""nes_jax.games.files: formats by hand, round trips, parts, and every kind of damage."""

import codecs
import io
import math
import os
import re
import sys
import warnings
import zipfile

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import ml_dtypes
import numpy as np
import pytest

from nes_jax.games import files

GameFileError = files.GameFileError

# 2x3: player 1's strategy is fastest, so the columns of player 2 come one after the other.
PAYOFF_FORM = r"""NFG 1 R "A \"quoted\" title, with { braces }"
{ "Alice" "Bob \\" } { 2 3 }
"a comment { 1 2"

11 1.5  21 -2   12 1e2  22 .25   13 1/3  23 -4/8
"""
EXPECTED_2X3 = np.array([[[11, 12, 13], [21, 22, 23]], [[1.5, 100, 1 / 3], [-2, 0.25, -0.5]]])

OUTCOME_FORM = """NFG 1 R "outcomes" { "P1" "P2" }

{ { "up" "down" }
{ "left" "middle" right } }
""

{
{ "first" 1, -1 }
{ "" 2/4 7E-1 }
{ 3, 4. }
}
1 2 3 0 1 1
"""
EXPECTED_OUTCOMES = np.array([[[1, 3, 1], [0.5, 0, 1]], [[-1, 4, -1], [0.7, 0, -1]]])

THREE_PLAYERS = """NFG 1 D "2x2x2" { "a" "b" "c" } { 2 2 2 }
111 1 -1  211 2 -2  121 3 -3  221 4 -4  112 5 -5  212 6 -6  122 7 -7  222 8 -8"""


def write(path, content):
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return path


def games(num_games, *shape, seed=0):
  return np.random.default_rng(seed).normal(size=(num_games, *shape))


# Gambit.


def test_payoff_form(tmp_path):
  payoffs = files.read(write(tmp_path / "g.nfg", PAYOFF_FORM))
  assert payoffs.dtype == np.float64
  np.testing.assert_array_equal(payoffs, EXPECTED_2X3[None])


def test_outcome_form(tmp_path):
  payoffs = files.read(write(tmp_path / "g.nfg", OUTCOME_FORM))
  np.testing.assert_array_equal(payoffs, EXPECTED_OUTCOMES[None])


def test_three_players(tmp_path):
  (payoffs,) = files.read(write(tmp_path / "g.NFG", THREE_PLAYERS))
  for a, b, c in np.ndindex(2, 2, 2):
    assert payoffs[0, a, b, c] == 100 * (a + 1) + 10 * (b + 1) + c + 1
    rank = 1 + a + 2 * b + 4 * c
    assert tuple(payoffs[1:, a, b, c]) == (rank, -rank)


def test_names_and_counts_are_the_same_game(tmp_path):
  named = PAYOFF_FORM.replace("{ 2 3 }", r'{ { "\"" "b" } { 1 2 3 } }')
  payoffs = files.read(write(tmp_path / "g.nfg", named))
  np.testing.assert_array_equal(payoffs[0], EXPECTED_2X3)
  windows = b"\xef\xbb\xbf" + PAYOFF_FORM.replace("\n", "\r\n").encode()
  np.testing.assert_array_equal(files.read(write(tmp_path / "w.nfg", windows))[0], EXPECTED_2X3)


@pytest.mark.parametrize("text", [PAYOFF_FORM, OUTCOME_FORM, THREE_PLAYERS])
def test_truncated_at_every_token(tmp_path, text):
  ends = [match.end() for match in files._TOKEN.finditer(text)]
  assert len(ends) > 20
  for end in [0, *ends[:-1]]:
    with pytest.raises(GameFileError, match="g.nfg"):
      files.read(write(tmp_path / "g.nfg", text[:end]))


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("NFG", "EFG", r"line 1, token 1 \('EFG'\): expected NFG"),
        ("NFG 1", "NFG 2", "version 1"),
        ("1 R", "1 Q", "expected R"),
        ('"a comment { 1 2"', '"a comment', "never closed"),
        ("{ 2 3 }", "{ 2 }", r"2 player\(s\), and strategies of 1"),
        ("{ 2 3 }", "{ 2 0 }", "without strategies"),
        ("{ 2 3 }", "{ 2 -3 }", "a number of strategies"),
        ("{ 2 3 }", "{ 99999999 99999999 }", "12 payoffs where 2 players"),
        (
            "{ 2 3 }",
            "{ 3 3 }",
            "end of the file: 12 payoffs where 2 players with 3x3 strategies have 18: too few; the"
            " file may be cut short",
        ),
        ('"Bob \\\\"', "", r"1 player\(s\), and strategies of 2"),
        ("-4/8", "", "11 payoffs .* have 12: too few; the file may be cut short"),
        ("-4/8", "-4/8\n1", r"line 6, token \d+ \('1'\): 13 payoffs .* have 12: too many; remove"),
        ("-4/8", "-4/8 1 2/0 nan }", r"\('1'\): 15 payoffs .* too many; remove the rest"),
        ("{ 2 3 }", "{ 2 2 }", r"line 5, token \d+ \('13'\): 12 payoffs .* have 8: too many"),
        ("-4/8", "-4/8 }", r"\('}'\): expected the end of the file after 12 payoffs; remove"),
        ("-4/8", '-4/8 "x"', r"\('x'\): expected the end of the file after 12 payoffs"),
        ("-4/8", "-4/8 x 1", r"\('x'\): expected the end of the file after 12 payoffs"),
        ("-4/8", "-4/0", "line 5.*no number"),
        ("-4/8", "four", r"line 5, token \d+ \('four'\): expected a number"),
        ("-4/8", "1_0", "expected a number"),
        ("-4/8", "9" * 400 + "/7", "no number"),
        ("-4/8", "9" * 9000 + "/7", "no number"),
        ("-4/8", '"text"', "expected a number"),
    ],
)
def test_payoff_form_faults(tmp_path, old, new, message):
  assert old in PAYOFF_FORM
  with pytest.raises(GameFileError, match=message):
    files.read(write(tmp_path / "g.nfg", PAYOFF_FORM.replace(old, new)))


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("0 1 1", "0 1 4", "outcome 4, and there are 3 outcomes; add the outcome"),
        ("0 1 1", "0 1 -1", "index of an outcome"),
        ("0 1 1", "0 1 1.0", "index of an outcome"),
        ("0 1 1", "0 1", "5 outcome indices .* have 6: too few; the file may be cut short"),
        ("0 1 1", "0 1 1 1 9", r"\('1'\): 8 outcome indices .* have 6: too many; remove"),
        ("0 1 1", "0 1 1 }", r"\('}'\): expected the end of the file after 6 outcome indices"),
        ("0 1 1", "0 1 1 1.5", r"\('1.5'\): expected the end of the file after 6 outcome"),
        ("3, 4.", "3", "outcome 3 has 1 payoffs for 2 players: too few; give each outcome"),
        ("3, 4.", "3, 4, 5", "outcome 3 has 3 payoffs for 2 players: too many; give each"),
    ],
)
def test_outcome_form_faults(tmp_path, old, new, message):
  with pytest.raises(GameFileError, match=message):
    files.read(write(tmp_path / "g.nfg", OUTCOME_FORM.replace(old, new)))


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("order", ["le", "be"])
@pytest.mark.parametrize("marked", [True, False])
def test_text_of_wide_characters_is_refused(tmp_path, bits, order, marked):
  mark = getattr(codecs, f"BOM_UTF{bits}_{order.upper()}") if marked else b""
  content = mark + PAYOFF_FORM.encode(f"utf-{bits}-{order}")
  write(tmp_path / "g.nfg", content)
  for path in (tmp_path / "g.nfg", tmp_path):
    with pytest.raises(GameFileError, match=f"g.nfg: is text in UTF-{bits}, .* save it as UTF-8"):
      files.read(path)


def test_other_nul_bytes_are_no_encoding(tmp_path):
  for content in (b"NFG\x001 R", b"NFG 1 R \x00", b"N\x00", b"\x00\x00\x00\x00"):
    with pytest.raises(GameFileError, match="line 1, token"):
      files.read(write(tmp_path / "g.nfg", content))


def test_one_player_is_refused(tmp_path):
  with pytest.raises(GameFileError, match=r"1 player\(s\)"):
    files.read(write(tmp_path / "g.nfg", 'NFG 1 R "" { "a" } { 2 } 1 2'))


payoff_arrays = hnp.arrays(
    np.float64,
    st.lists(st.integers(1, 3), min_size=2, max_size=4).map(lambda a: (len(a), *a)),
    elements=st.floats(width=64),
)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(payoffs=payoff_arrays, title=st.text(max_size=12))
def test_nfg_round_trip(tmp_path_factory, payoffs, title):
  path = tmp_path_factory.getbasetemp() / "round.nfg"
  files.write_nfg(path, payoffs, title)
  back = files.read(path)[0]
  np.testing.assert_array_equal(back, payoffs)
  np.testing.assert_array_equal(np.signbit(back), np.signbit(payoffs) & ~np.isnan(payoffs))


@pytest.mark.parametrize("title", ["\\", '"', '\\"', 'a "b" \\', "two\nlines", "\ud800"])
def test_titles_cannot_break_out(tmp_path, title):
  files.write_nfg(tmp_path / "g.nfg", EXPECTED_2X3, title)
  np.testing.assert_array_equal(files.read(tmp_path / "g.nfg")[0], EXPECTED_2X3)


# NumPy.


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(payoffs=payoff_arrays)
def test_npz_round_trip(tmp_path_factory, payoffs):
  path = tmp_path_factory.getbasetemp() / "round.npz"
  files.write_npz(path, payoffs[None])
  np.testing.assert_array_equal(files.read(path), payoffs[None])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "longdouble", ">f8", "int64", "uint8", "bool"]
)
def test_npz_types(tmp_path, dtype, order):
  payoffs = np.abs(10 * games(4, 2, 3, 2)).astype(dtype, order=order)
  payoffs[0] = 0
  files.write_npz(tmp_path / "g.npz", payoffs)
  with np.load(tmp_path / "g.npz") as archive:
    assert archive["payoffs"].dtype == payoffs.dtype
  back = files.read(tmp_path / "g.npz")
  assert back.dtype == np.float64
  np.testing.assert_array_equal(back, payoffs.astype(np.float64))
  assert len(np.unique(back)) == (2 if dtype == "bool" else len(np.unique(payoffs)))


@pytest.mark.skipif(
    np.finfo(np.longdouble).max == np.finfo(np.float64).max, reason="longdouble is float64"
)
def test_numbers_beyond_float64_become_infinite(tmp_path):
  payoffs = np.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], np.longdouble)
  payoffs[1, 0, 1] = np.finfo(np.longdouble).max
  files.write_npz(tmp_path / "g.npz", payoffs)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    back = files.read(tmp_path / "g.npz")
  np.testing.assert_array_equal(back[0], [[[1, 2], [3, 4]], [[5, np.inf], [7, 8]]])


@pytest.mark.parametrize(
    "name, read_as",
    [
        ("bfloat16", r"void type \|V2: .* ml_dtypes like this, probably bfloat16"),
        ("float8_e4m3fn", r"void type \|V1: .* ml_dtypes like this, probably float8"),
        ("float8_e5m2", "of type '<f1', which NumPy cannot read"),
    ],
)
def test_types_of_other_packages_are_refused(tmp_path, name, read_as):
  payoffs = np.ones((4, 2, 2, 2), getattr(ml_dtypes, name))
  np.savez(tmp_path / "g.npz", payoffs=payoffs)
  with pytest.raises(GameFileError, match=rf"'payoffs' is .*{read_as}.*astype\(numpy.float64\)"):
    files.read(tmp_path / "g.npz")
  with pytest.raises(GameFileError, match=rf"of type {name}, .*astype\(numpy.float64\)"):
    files.write_npz(tmp_path / "h.npz", payoffs)
  assert not (tmp_path / "h.npz").exists()


def test_batched_or_not(tmp_path):
  path = tmp_path / "g.npz"
  for shape, expected in [
      ((2, 4, 5), (1, 2, 4, 5)),
      ((3, 3, 4, 5), (1, 3, 3, 4, 5)),
      ((7, 2, 4, 5), (7, 2, 4, 5)),
      ((1, 2, 4, 5), (1, 2, 4, 5)),
      ((1, 3, 2, 4, 5), (1, 3, 2, 4, 5)),
  ]:
    payoffs = np.arange(math.prod(shape), dtype=float).reshape(shape)
    np.savez(path, payoffs=payoffs)
    np.testing.assert_array_equal(files.read(path), payoffs.reshape(expected))
    is_batch = shape == expected
    with files.open_games(path, batched=is_batch) as source:
      assert source.shape == expected[1:] and not source.ragged
      np.testing.assert_array_equal(source.counts, [expected[2:]] * expected[0])
    wrong = "only be a batch, and one game" if is_batch else "only be one game, and a batch"
    with pytest.raises(GameFileError, match=f"{wrong}.*leave `batched` out"):
      files.read(path, batched=not is_batch)
    files.write_npz(path, payoffs)
    np.testing.assert_array_equal(files.read(path), payoffs.reshape(expected))


@pytest.mark.parametrize("shape", [(3, 2, 2, 2), (3, 2, 4, 5), (4, 3, 2, 5, 1)])
def test_shapes_with_two_readings(tmp_path, shape):
  payoffs = np.arange(math.prod(shape), dtype=float).reshape(shape)
  path = tmp_path / "g.npz"
  files.write_npz(path, payoffs)
  message = (
      f"{re.escape(str(list(shape)))} can be read as {shape[0]} games of {shape[1]} players and as"
      f" one game of {shape[0]} players; pass batched=True for .*, or batched=False for one game"
  )
  with pytest.raises(files.AmbiguousShapeError, match=message):
    files.read(path)
  with pytest.raises(GameFileError, match=message):
    files.open_games(str(path))
  np.testing.assert_array_equal(files.read(path, batched=True), payoffs)
  np.testing.assert_array_equal(files.read(path, batched=False), payoffs[None])
  # One such game has a form with a single reading.
  files.write_npz(path, payoffs[None])
  np.testing.assert_array_equal(files.read(path), payoffs[None])
  # The rule is the same for arrays of other names, which are read one after the other.
  np.savez(path, a=payoffs, b=payoffs + 1)
  with pytest.raises(files.AmbiguousShapeError, match="'a'"):
    files.read(path)
  both = np.stack([payoffs, payoffs + 1])
  np.testing.assert_array_equal(files.read(path, batched=False), both)
  np.testing.assert_array_equal(files.read(path, batched=True), np.concatenate(both))


@pytest.mark.parametrize("shape", [(), (2,), (2, 3), (4, 3, 2), (2, 3, 2, 2), (5, 1, 4), (1, 4)])
def test_wrong_rank(tmp_path, shape):
  np.savez(tmp_path / "g.npz", payoffs=np.zeros(shape))
  with pytest.raises(GameFileError, match="player axis first"):
    files.read(tmp_path / "g.npz")
  with pytest.raises(GameFileError, match="player axis first"):
    files.write_npz(tmp_path / "h.npz", np.zeros(shape))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_parts_equal_the_whole(tmp_path, save, order):
  payoffs = games(23, 3, 2, 3, 2)
  path = tmp_path / "g.npz"
  save(path, first=np.zeros(3), payoffs=np.asarray(payoffs, order=order))
  with files.open_games(path) as source:
    assert (source.num_games, source.shape, source.names) == (23, (3, 2, 3, 2), None)
    forward = [source.read(start, min(start + 5, 23)) for start in range(0, 23, 5)]
    np.testing.assert_array_equal(np.concatenate(forward), payoffs)
    for start, stop in [(20, 23), (0, 1), (3, 9), (9, 9), (12, 14), (14, 20), (0, 23)]:
      np.testing.assert_array_equal(source.read(start, stop), payoffs[start:stop])
    for start, stop in [(-1, 2), (0, 24), (5, 4)]:
      with pytest.raises(IndexError, match="of 23"):
        source.read(start, stop)


def test_reading_forward_never_restarts(tmp_path, monkeypatch):
  path = tmp_path / "g.npz"
  np.savez_compressed(path, payoffs=games(40, 2, 4, 4))
  opened = []
  original = zipfile.ZipFile.open
  monkeypatch.setattr(
      zipfile.ZipFile, "open", lambda *args, **kw: opened.append(1) or original(*args, **kw)
  )
  with files.open_games(path) as source:
    before = len(opened)
    for start in range(0, 40, 4):
      source.read(start, start + 3)  # leaves gaps of one game
    assert len(opened) == before + 1


def test_arrays_without_the_key(tmp_path):
  parts = {"b": games(4, 2, 2, 2, seed=1), "a": games(4, 2, 2, 2, seed=2)}
  path = tmp_path / "g.npz"
  np.savez_compressed(path, **parts)
  whole = np.concatenate([parts["a"], parts["b"]])
  np.testing.assert_array_equal(files.read(path), whole)
  with files.open_games(path) as source:
    np.testing.assert_array_equal(source.read(2, 6), whole[2:6])
    np.testing.assert_array_equal(source.read(6, 7), whole[6:7])
  np.savez(path, a=EXPECTED_2X3, b=EXPECTED_2X3 + 1)
  np.testing.assert_array_equal(files.read(path), np.stack([EXPECTED_2X3, EXPECTED_2X3 + 1]))
  np.savez(path, a=np.zeros((3, 2, 2, 2)), b=np.zeros((3, 2, 2, 3)))
  with pytest.raises(GameFileError, match="differ in shape: a .*2, 2, 2.*b .*2, 2, 3"):
    files.read(path)


def test_gamut_file():
  path = os.path.join(os.path.dirname(__file__), "data", "gamut_8x8.npz")
  with np.load(path) as data:
    whole = np.concatenate([data[key] for key in sorted(data.files)])
  np.testing.assert_array_equal(files.read(path), whole)


@pytest.mark.parametrize(
    "array, message",
    [
        (np.array([[[None] * 2] * 2] * 2), "pickle"),
        (np.full((2, 2, 2), "a"), "not real numbers"),
        (np.zeros((2, 2, 2), complex), "not real numbers"),
        (np.zeros((2, 2, 2), "datetime64[s]"), "not real numbers"),
        (np.zeros((2, 2, 2), [("a", float)]), "not real numbers"),
        (np.zeros((0, 2, 2, 2)), "is empty"),
        (np.zeros((4, 2, 0, 2)), "is empty"),
        (np.zeros((3, 2, 0, 2)), "is empty"),  # in both readings
    ],
)
def test_npz_content_faults(tmp_path, array, message):
  np.savez(tmp_path / "g.npz", payoffs=array)
  with pytest.raises(GameFileError, match=message):
    files.read(tmp_path / "g.npz")
  with pytest.raises(GameFileError, match=message):
    files.write_npz(tmp_path / "h.npz", array)


def test_npz_container_faults(tmp_path):
  path = tmp_path / "g.npz"
  with pytest.raises(GameFileError, match="damaged or was cut short"):
    files.read(write(path, b""))
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("readme.txt", "no arrays here")
  with pytest.raises(GameFileError, match="holds no arrays"):
    files.read(path)
  # A header that promises far more than there is must not make us allocate it.
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(
      header, {"descr": "<f8", "fortran_order": False, "shape": (10**15, 2, 8, 8)}
  )
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("payoffs.npy", header.getvalue() + bytes(64))
  with pytest.raises(GameFileError, match="needs .* bytes and has"):
    files.read(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_truncated_and_flipped(tmp_path, save):
  buffer = io.BytesIO()
  payoffs = games(4, 2, 3, 3)
  save(buffer, payoffs=payoffs)
  content = buffer.getvalue()
  path = tmp_path / "g.npz"
  for end in range(0, len(content), 7):
    with pytest.raises(GameFileError):
      files.read(write(path, content[:end]))
  # The checksum finds a flipped bit of the data, read at once or in parts.
  middle = bytearray(content)
  middle[len(content) // 2] ^= 4
  with pytest.raises(GameFileError):
    files.read(write(path, bytes(middle)))
  with pytest.raises(GameFileError), files.open_games(path) as source:
    for start in range(4):
      source.read(start, start + 1)


# Directories, writing, paths.


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
  """Three 2-player games by hand: 2x3, 1x2 and 3x1, padded to 3x3."""
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
  # A batch is asked for, or not, of arrays only.
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


@pytest.mark.parametrize("name", ["missing.npz", "missing.nfg", "missing", "g.txt", "g.npy", ""])
def test_unusable_paths(tmp_path, name):
  write(tmp_path / "g.txt", "1 2")
  write(tmp_path / "g.npy", "1 2")
  if name:
    with pytest.raises(GameFileError, match="unknown suffix|no such file"):
      files.read(tmp_path / name)
  else:
    with pytest.raises(GameFileError, match="holds no .nfg"):
      files.read(tmp_path)
    with pytest.raises(GameFileError):
      files.read("a\0b.npz")


def test_directories_named_like_files(tmp_path):
  (tmp_path / "g.npz").mkdir()
  with pytest.raises(GameFileError, match="holds no .nfg"):
    files.read(tmp_path / "g.npz")
  with pytest.raises(GameFileError, match="cannot be written"):
    files.write_npz(tmp_path / "g.npz", EXPECTED_2X3)
  assert os.listdir(tmp_path) == ["g.npz"]


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
  path = tmp_path / "g.npz"
  files.write_npz(path, EXPECTED_2X3)
  with monkeypatch.context() as patch:
    patch.setattr(np, "savez", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(GameFileError, match="disk full"):
      files.write_npz(path, 2 * EXPECTED_2X3)
  np.testing.assert_array_equal(files.read(path)[0], EXPECTED_2X3)
  assert os.listdir(tmp_path) == ["g.npz"]
  with pytest.raises(GameFileError, match="cannot be written"):
    files.write_nfg(tmp_path / "no" / "g.nfg", EXPECTED_2X3)
  for call in (files.write_npz, files.write_nfg):
    with pytest.raises(GameFileError, match="ends in"):
      call(tmp_path / "g.txt", EXPECTED_2X3)
  with pytest.raises(GameFileError, match="4 games for one"):
    files.write_nfg(tmp_path / "g.nfg", games(4, 2, 2, 2))


# Fuzz: whatever the bytes, games or a GameFileError.


def attempt(path):
  try:
    payoffs = files.read(path)
  except GameFileError as error:
    assert str(path) in str(error)
  else:
    assert payoffs.dtype == np.float64 and payoffs.ndim == payoffs.shape[1] + 2


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(content=st.binary(max_size=300), suffix=st.sampled_from([".npz", ".nfg"]))
def test_random_bytes(tmp_path_factory, content, suffix):
  attempt(write(tmp_path_factory.getbasetemp() / f"random{suffix}", content))


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(
    words=st.lists(
        st.sampled_from([*"{}{}", "2", "3", '"a"', '"', "1/3", "-1", "nan", "1e999", ",", "\\"]),
        max_size=40,
    ),
    keep=st.integers(0, 12),
)
def test_random_tokens(tmp_path_factory, words, keep):
  text = " ".join([*OUTCOME_FORM.split()[:keep], *words])
  attempt(write(tmp_path_factory.getbasetemp() / "tokens.nfg", text))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed, None])
def test_mutations(tmp_path, save):
  if save is None:
    path, content = tmp_path / "g.nfg", PAYOFF_FORM.encode()
  else:
    buffer = io.BytesIO()
    save(buffer, payoffs=games(3, 2, 2, 2))
    path, content = tmp_path / "g.npz", buffer.getvalue()
  rng = np.random.default_rng(0)
  for _ in range(400):
    mutated = bytearray(content)
    for _ in range(rng.integers(1, 4)):
      at = rng.integers(len(mutated))
      if rng.random() < 0.7:
        mutated[at] = rng.integers(256)
      elif rng.random() < 0.5:
        del mutated[at : at + rng.integers(1, 20)]
      else:
        mutated[at:at] = mutated[: rng.integers(1, 20)]
    attempt(write(path, bytes(mutated)))


# OpenSpiel.


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
  # 1 matches 2, 2 matches 3, 3 mismatches 1.
  for a, b, c in np.ndindex(2, 2, 2):
    signs = [2 * (a == b) - 1, 2 * (b == c) - 1, 2 * (c != a) - 1]
    np.testing.assert_array_equal(payoffs[:, a, b, c], signs)
  blotto = files.read("openspiel:blotto(coins=3)")
  assert blotto.shape == (1, 2, 10, 10)
  np.testing.assert_array_equal(blotto[0, 0], -blotto[0, 1])
  np.testing.assert_array_equal(blotto[0, 0], blotto[0, 1].T)


def test_openspiel_kuhn_poker_has_its_value():
  """An extensive game through its normal form: the value is -1/18 to the first player."""
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
