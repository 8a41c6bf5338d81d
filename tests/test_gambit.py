"""nes_jax.games.gambit: games written by hand, round trips, and faults in files."""

import codecs

from game_files import (
    EXPECTED_2X3,
    EXPECTED_OUTCOMES,
    OUTCOME_FORM,
    PAYOFF_FORM,
    THREE_PLAYERS,
    payoff_arrays,
    write,
)
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from nes_jax.games import files, gambit
from nes_jax.games.files import GameFileError


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
  ends = [match.end() for match in gambit._TOKEN.finditer(text)]
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


def test_messages_show_a_text_without_its_quotation_marks(tmp_path):
  with pytest.raises(GameFileError, match=r"token 3 \('early'\): expected R"):
    files.read(write(tmp_path / "g.nfg", 'NFG 1 "early" { "a" "b" } { 1 1 } 0 0'))


def test_one_player_is_refused(tmp_path):
  with pytest.raises(GameFileError, match=r"1 player\(s\)"):
    files.read(write(tmp_path / "g.nfg", 'NFG 1 R "" { "a" } { 2 } 1 2'))


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
