"""launch.checks.losses: ways to train a network, side by side."""

import pytest

from launch.checks import losses
from launch.runtime import writers

TINY = ["losses", "--problems=ce", "--sizes=2", "--ways=joint", "--updates=20", "--rounds=0",
        "--games=32"]


@pytest.mark.slow
def test_the_comparison_is_written_and_continues(tmp_path, capsys):
  command = [*TINY, f"--out={tmp_path}"]
  assert losses.main(command) == 0
  head, _, *rows = (tmp_path / "losses.md").read_text().strip().splitlines()
  columns = [x.strip() for x in head.strip("|").split("|")]
  cells = [[x.strip() for x in row.strip("|").split("|")] for row in rows]
  table = {row[0]: dict(zip(columns, row)) for row in cells}
  assert set(table) == {"ce-2x2-joint"}
  for name, row in table.items():
    gap, polished = float(row["solver gap"]), float(row["solver gap with steps"])
    assert 0 < polished < gap < 1
    last = writers.read(tmp_path / name)[-1]
    assert last["step"] == 20 and last["eval/2x2/solver_gap"] == pytest.approx(gap, rel=0.01)
  assert (tmp_path / "losses.png").stat().st_size > 10_000
  written = (tmp_path / "losses.md").read_text()
  (tmp_path / "losses.md").unlink()
  assert losses.main(command) == 0
  assert (tmp_path / "losses.md").read_text() == written
  # The rows of another run are not taken for those of this one.
  capsys.readouterr()
  assert losses.main([*command, "--updates=30"]) == 2
  assert "holds another run" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--problems=nash", "problems=nash: take some of cce, ce, all"),
        ("--sizes=3", "sizes=3: take some of 2, 4, 8, 16"),
        ("--ways=dual,guess", "ways=dual,guess: take some of dual, labels, joint"),
        ("--updates=0", "updates=0"),
    ],
)
def test_bad_flags(capsys, flag, message):
  assert losses.main(["losses", flag]) == 2
  assert message in capsys.readouterr().err
