"""launch.figures.calibration: the ceiling, the noise of episodes and the seeds, by hand."""

from matplotlib import figure
import numpy as np
import pytest

from launch.figures import calibration as figures


def result(experiment, rewards, of_means):
  """A finished run whose seeds have these rewards."""
  seeds = [
      {"seed": i, "reward": reward, "steps_to_reach": None} for i, reward in enumerate(rewards)
  ]
  mean = {"reward": float(np.mean(rewards)), "reward_of_means": of_means}
  summary = {
      "experiment": experiment, "env_steps": 1000, "seconds": 1.0, "supertypes": ["supertype_1"],
      "seeds": seeds, "mean": mean, "sd": {"reward": 0.1, "reward_of_means": 0.0},
      "targets": [], "profile": [],
  }
  names = ("train/reward", "judged/reward", "train/supertype_1/reward")
  rows = [
      {"step": step, "env_steps": 500.0 * step}
      | {name: 0.4 * step for name in names}
      | {f"seed_{i}/judged/reward": 0.4 * step + 0.01 * i for i in range(len(rewards))}
      for step in (1, 2)
  ]
  return figures.Result("CALSHEQ", figures.BLUE, summary, rows)


def cells(text):
  head, _, *rows = [line.strip("| ").split(" | ") for line in text.split("\n\n")[0].splitlines()]
  return [dict(zip(head, row)) for row in rows]


def test_table_compares_with_the_ceiling():
  runs = [result("1", [0.8, 0.88], 0.94), result("2", [0.9], 0.95)]
  first, second = cells(figures.table(runs, {"1": {"reward": 0.96}}))
  # The mean is 0.84, which is 87.5% of 0.96; the worst seed has 83.3%.
  assert first["of the ceiling"] == "87.5% (worst 83.3%)"
  assert first["by seed"] == "0.800, 0.880"
  assert first["noise of episodes"] == "0.100"
  assert second["of the ceiling"].strip() == "" and second["noise of episodes"] == "0.050"
  assert cells(figures.table(runs[1:], {"2": {"reward": 0.9}}))[0]["of the ceiling"] == "100.0%"
  assert "of the ceiling" not in cells(figures.table(runs))[0]
  assert cells(figures.table(runs))[0]["by seed"] == "0.800, 0.880"


def test_a_line_for_each_seed_and_the_ceiling():
  ax = figure.Figure().subplots()
  figures._draw_seeds(ax, result("1", [0.8, 0.88], 0.94), "judged/reward")
  figures._draw_ceiling(ax, 0.91)
  heights = [line.get_ydata()[-1] for line in ax.get_lines()]
  np.testing.assert_allclose(heights, [0.8, 0.81, 0.8, 0.91])
  assert ax.get_lines()[-1].get_linestyle() == "--"
  assert ax.texts[0].get_text() == "best known 0.910"


@pytest.mark.parametrize("count", [1, 3])
def test_rewards_are_drawn(tmp_path, count):
  group = {str(i): [result(str(i), [0.8, 0.9], 0.95)] for i in range(count)}
  path = tmp_path / "rewards.png"
  figures.draw_rewards(path, group, {"0": {"reward": 0.9}})
  assert path.stat().st_size > 10_000


def test_the_best_seed_at_rest_raises_the_ceiling():
  runs = [result("1", [0.8, 0.88, 0.93], 0.94), result("2", [0.9], 0.95)]
  for seed, rested in zip(runs[0].summary["seeds"], (1.0, 1.0, 0.0)):
    seed["rested"] = rested
  ceilings = {name: {"reward": value} for name, value in (("1", 0.87), ("2", 0.96), ("3", 1))}
  known = figures.best_known(runs, ceilings)
  assert {name: entry["reward"] for name, entry in known.items()} == {"1": 0.88, "2": 0.96, "3": 1}
