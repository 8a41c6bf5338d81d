"""launch.checks.coverage and its work: tables and exit codes on calibrations that are made up."""

import functools

import jax
import numpy as np
import pytest

from calsheq_jax import response
from calsheq_jax.simulated_moments import Direction
from launch.checks import coverage
from launch.coverage import games, moves, study
from launch.figures import coverage as picture

# Standard deviation of the mean of three types, uniform within 0.2 of their mean.
DEVIATION = 0.2 / 3


def made_up(game, runs, seed, spread=1.0):
  """Calibrations of the linear-quadratic game by its exact equilibrium and Gaussian noise."""
  rng = np.random.default_rng(seed)
  truths = rng.uniform(-0.7, 0.7, (runs, 2))
  slopes = np.linalg.inv(np.eye(2) - 0.5 * np.array([[2, 3], [3, 2]]) / 5)
  points = truths + 0.02 * rng.normal(size=(runs, 2))
  designs = np.stack([response.design(point, game.design) for point in points])

  def played(means, count):
    noise = rng.normal(size=(*means.shape[:-1], count, 2))
    return means[..., None, :] + DEVIATION * noise

  observed = played(truths @ slopes.T, game.observed)
  observed += spread * 0.05 * rng.normal(size=(runs, 1, 2)) * (spread > 1)
  return study.Runs(truths, observed, points, designs, played(designs @ slopes.T, 64), 1.0)


@functools.cache
def moved():
  """A move along a direction that is not identified, and one along a direction that is."""
  def direction(name, identified):
    return Direction(np.array([1.0, 0.0]), name, 0.1, 0.001, identified)

  return (
      moves.Move(direction("a up", False), 1.0, 3.0, 4, 0.56, 0.1),
      moves.Move(direction("b up", True), 1.0, 90.0, 4, 0.0, 80.0),
  )


class Found:
  """The part of an uncertainty that the check reads."""

  unidentified = ("a up",)

  def report(self):
    return "not identified: a up"


def run(monkeypatch, tmp_path, *flags, spread=1.0, moves_found=None):
  monkeypatch.setattr(study, "calibrate", functools.partial(made_up, spread=spread))
  monkeypatch.setattr(moves, "study", lambda stages, seed: (Found(), moves_found or moved()))
  return coverage.main(["check_coverage", f"--out={tmp_path}", *flags])


def test_right_intervals_pass(monkeypatch, tmp_path):
  flags = ("--studies=linear_quadratic,recover", "--linear_quadratic_runs=150")
  assert run(monkeypatch, tmp_path, *flags) == 0
  text = (tmp_path / "coverage.md").read_text()
  assert "not identified: a up" in text and "supertype_2/mean" in text
  assert (tmp_path / "ranks_linear_quadratic.png").stat().st_size > 1000


def test_noise_that_is_left_out_is_found(monkeypatch, tmp_path, capsys):
  flags = ("--studies=linear_quadratic", "--linear_quadratic_runs=150")
  assert run(monkeypatch, tmp_path, *flags, spread=2.0) == 1
  output = "".join(capsys.readouterr())
  assert "supertype_1/mean is covered in" in output and "ranks of" in output


def test_moves_that_contradict_their_direction_are_found(monkeypatch, tmp_path, capsys):
  first, second = moved()
  wrong = (first._replace(p_value=0.0), second._replace(p_value=0.5))
  assert run(monkeypatch, tmp_path, "--studies=recover", moves_found=wrong) == 1
  output = "".join(capsys.readouterr())
  assert "moving a up changes" in output and "moving b up does not change" in output


@pytest.mark.parametrize(
    "flag, message",
    [("--studies=other", "other is not one of"), ("--market_runs=0", "market_runs")],
)
def test_wrong_flags(flag, message, tmp_path, capsys):
  assert coverage.main(["check_coverage", f"--out={tmp_path}", flag]) == 2
  assert message in "".join(capsys.readouterr())


def test_ends_of_a_move_are_in_the_box_and_on_the_line():
  point, direction = np.array([0.9, 0.0]), np.array([0.6, -0.8])
  low, high = moves._ends(point, direction)
  # Up, the first number has the room 0.08 to 0.98; down, the move has the largest length, 0.6.
  np.testing.assert_allclose(high, point + 0.08 / 0.6 * direction)
  np.testing.assert_allclose(low, point - 0.6 * direction)


def test_a_move_is_compared_in_units_of_its_noise():
  model = study.uncertainty.local_model.regression(
      [[-1.0], [0.0], [1.0], [0.0]], [[-2.0], [0.0], [2.0], [0.0]]
  )
  means = np.array([[[0.0], [0.2]], [[1.0], [1.2]]])
  direction = Direction(np.array([1.0]), "a up", 0.1, 0.0, True)
  found = moves._compared(direction, 0.5, means, model, np.array([[0.25]]))
  # The change is 1, its variance 0.25; the predicted change is 0.5 * 2.
  np.testing.assert_allclose([found.statistic, found.predicted], [4.0, 4.0], rtol=1e-6)
  np.testing.assert_allclose(found.p_value, 0.0455, rtol=1e-3)


def test_exact_agents_are_observed_at_their_equilibrium():
  game = games.linear_quadratic_game()
  truth = np.array([0.3, -0.4], np.float32)
  seen = np.asarray(game.observe(jax.random.key(0), truth))
  expected = game.problem.env.equilibrium_means(game.problem.space.profile(truth))
  assert seen.shape == (64, 2)
  np.testing.assert_allclose(seen.mean(0), expected, atol=4 * DEVIATION / 8)
  np.testing.assert_allclose(seen.std(0), DEVIATION, rtol=0.3)


def test_a_picture_needs_a_histogram():
  with pytest.raises(ValueError, match="no histograms"):
    picture.draw({}, [])
