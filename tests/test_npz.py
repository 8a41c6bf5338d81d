"""nes_jax.games.npz: types, shapes, reading in parts, and faults in files."""

import io
import math
import os
import re
import warnings
import zipfile

from game_files import EXPECTED_2X3, games, payoff_arrays, write
import hypothesis
import ml_dtypes
import numpy as np
import pytest

from nes_jax.games import files
from nes_jax.games.files import GameFileError


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
  # A batch of one game has a shape that can be read in one way only.
  files.write_npz(path, payoffs[None])
  np.testing.assert_array_equal(files.read(path), payoffs[None])
  # The rule also applies to arrays of other names, which are read one after the other.
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
      # One game is left out between two parts.
      source.read(start, start + 3)
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
        # This array is empty as a batch and as one game.
        (np.zeros((3, 2, 0, 2)), "is empty"),
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
  # The size that a header announces must not be allocated before it is compared with the file.
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
  # The checksum detects a flipped bit of the data that is read at once or in parts.
  middle = bytearray(content)
  middle[len(content) // 2] ^= 4
  with pytest.raises(GameFileError):
    files.read(write(path, bytes(middle)))
  with pytest.raises(GameFileError), files.open_games(path) as source:
    for start in range(4):
      source.read(start, start + 1)
