"""Tests of launch.checks.fuzz: a short run, and that it sees failures."""

import random

from launch.checks import fuzz


def test_readers_refuse_damage(tmp_path):
  report = fuzz.fuzz(fuzz.Run(tmp_path, seconds=4))
  assert report["files"] > 100 and 0.3 < report["refused"] < 1
  assert not list(tmp_path.glob("damaged*"))


def test_valid_files_are_read(tmp_path):
  for kind in fuzz.kinds(tmp_path).values():
    for content in kind.valid:
      path = tmp_path / f"whole{kind.suffix}"
      path.write_bytes(content)
      kind.read(path)


def test_failures_are_seen_and_their_file_kept(tmp_path, monkeypatch, capsys):
  def read(path):
    if path.read_bytes() != b"right":
      raise KeyError("what nobody documented")

  kind = fuzz.Kind(".nfg", (b"right",), read, ValueError)
  monkeypatch.setattr(fuzz, "kinds", lambda directory: {"mine": kind})
  assert fuzz.main(["fuzz", f"--out={tmp_path}", "--seconds=5"]) == 1
  assert "mine: KeyError" in capsys.readouterr().err
  assert (tmp_path / "damaged.nfg").exists()


def test_damage_is_that_of_the_seed():
  content = bytes(range(200))
  one, two = ([fuzz.damaged(content, rng) for _ in range(20)] for rng in map(random.Random, (1, 1)))
  assert one == two and any(x != content for x in one)


def test_bad_flags(capsys):
  assert fuzz.main(["fuzz", "--seconds=0"]) == 2
  assert "--seconds=0.0 must be positive" in capsys.readouterr().err
