"""The program launch.rate: its reader of tables, its answers and its files."""

import csv
import pathlib

import numpy as np
import pytest

from launch import rate
from launch.rating import report, scores
from launch.runtime.flags import UsageError

AGENT57 = pathlib.Path(__file__).parent / "data" / "agent57.csv"


def write(tmp_path, text):
  path = tmp_path / "scores.csv"
  path.write_text(text, encoding="utf-8")
  return path


def test_reads_scores_and_errors(tmp_path):
  found = scores.read(write(tmp_path, "agent,a,b\nx,1,2±0.5\ny, 3 +- 1 ,-4e1+/-2\n\n"))
  assert found.agents == ("x", "y") and found.tasks == ("a", "b")
  np.testing.assert_array_equal(found.mean, [[1, 2], [3, -40]])
  np.testing.assert_array_equal(found.error, [[0, 0.5], [1, 2]])
  assert scores.read(write(tmp_path, "agent,a\nx,1\ny,2\n")).error is None


def test_reads_the_public_table():
  found = scores.read(AGENT57)
  assert found.mean.shape == (8, 57)
  agent, task = found.agents.index("agent57"), found.tasks.index("alien")
  assert found.mean[agent, task] == 297638.17 and found.error[agent, task] == 37054.55


@pytest.mark.parametrize(
    "text, message",
    [
        ("agent,a\nx,1\n", "a row of names of tasks is expected"),
        ("agent,a,b\nx,1\ny,2,3\n", "the row of 'x' has 1 scores"),
        ("agent,a\nx,1\nx,2\n", "the agent 'x' is there twice"),
        ("agent,a,a\nx,1,2\ny,2,3\n", "the task 'a' is there twice"),
        ("agent,a\nx,1\ny,good\n", "'good', the score of 'y' on 'a'"),
        ("agent,a\nx,1\ny,nan\n", "'nan', the score of 'y' on 'a'"),
        ("agent,a\nx,1\ny,1±-2\n", "'1±-2', the score of 'y' on 'a'"),
        ("agent,a\nx,1\ny,\n", "'', the score of 'y' on 'a'"),
    ],
)
def test_bad_tables_are_named(tmp_path, text, message):
  with pytest.raises(UsageError, match=message):
    scores.read(write(tmp_path, text))


def test_program_writes_tables_and_picture(tmp_path, capsys):
  path = write(tmp_path, "agent,a,b\nbest,5±0.1,4±0.1\nworst,1±0.1,1±0.1\nmiddle,3±0.1,3±0.1\n")
  out = tmp_path / "out"
  assert rate.main(["rate", f"--scores={path}", f"--out={out}", "--method=cce",
                    "--resamples=50"]) == 0
  with open(out / "agents.csv", encoding="utf-8", newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["agent"] for row in rows] == ["best", "middle", "worst"]
  assert float(rows[0]["first"]) == 1 and float(rows[1]["rating"]) < 0
  assert float(rows[1]["low"]) <= float(rows[1]["rating"]) <= float(rows[1]["high"])
  assert (out / "ratings.png").stat().st_size > 10_000
  printed = capsys.readouterr().out
  assert "of which 0 are not certified" in printed and "| best |" in printed.replace("  ", "")


def test_without_errors_there_are_no_intervals(tmp_path, capsys):
  path = write(tmp_path, "agent,a,b\nx,5,0\ny,1,1\n")
  assert rate.main(["rate", f"--scores={path}", f"--out={tmp_path / 'out'}", "--nopairwise",
                    "--method=cce"]) == 0
  assert "low" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--resamples=0"], "one or more"),
        (["--level=95"], "between 0 and 1"),
        (["--normaliser=winrate", "--nopairwise"], "leave out --nopairwise"),
        (["--scores=nothing.csv"], "nothing.csv"),
        ([], "--scores=FILE.csv is needed"),
    ],
)
def test_bad_options_are_named(flags, message, capsys):
  given = flags if not flags or "--scores" in flags[0] else [f"--scores={AGENT57}", *flags]
  assert rate.main(["rate", *given]) == 2
  assert message in capsys.readouterr().err


def test_what_is_not_certified_is_said():
  found = report.Report(
      scores=scores.Scores(("x",), ("a",), np.zeros((1, 1)), None),
      agents=[{"agent": "x", "rating": 0.0}],
      tasks=[{"task": "a", "rating": 0.0}],
      converged=False,
      uncertified=0.25,
      seconds=1.0,
      ranks=None,
  )
  text = report.summary(report.Config(scores=AGENT57, resamples=100), found)
  assert "NOT CERTIFIED" in text and "25 are not certified" in text
