"""nes_jax.games.files: paths, writing in one step, and random damage to files of both formats."""

import io
import os

from game_files import EXPECTED_2X3, OUTCOME_FORM, PAYOFF_FORM, games, write
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from nes_jax.games import files
from nes_jax.games.files import GameFileError


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


# Random damage: reading gives games, or raises a GameFileError.


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
