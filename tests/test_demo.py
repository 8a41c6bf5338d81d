"""Tests of launch.demo and launch.figures: polytopes by hand, selections in them, a small run."""

import csv

import numpy as np
import pytest

from launch import demo
from launch.evaluation.games import GAMES_2X2, normalised, select_2x2, uniform_gaps
from launch.figures import polytopes as figures

CHICKEN, BATTLE, CHAIN_STORE = GAMES_2X2
PENNIES = np.array([[[1.0, -1], [-1, 1]], [[-1, 1], [1, -1]]])
DILEMMA = np.array([[[3.0, 0], [5, 1]], [[3, 5], [0, 1]]])


def polytope(payoffs):
  rows = figures.ce_constraints(payoffs)
  points = figures.extreme_points(rows)
  return rows, points, *figures.edges_and_faces(rows, points)


@pytest.mark.parametrize(
    "payoffs, expected",
    [
        # Three of the points are Nash equilibria: two pure ones, and the mixed one (1/3, 2/3)^2.
        (
            CHICKEN.payoffs,
            [[0, 0, 1, 0], [0, 1 / 4, 1 / 4, 1 / 2], [0, 1, 0, 0], [1 / 9, 2 / 9, 2 / 9, 4 / 9],
             [1 / 5, 2 / 5, 2 / 5, 0]],
        ),
        (PENNIES, [[1 / 4, 1 / 4, 1 / 4, 1 / 4]]),
        (DILEMMA, [[0, 0, 0, 1]]),
        (CHAIN_STORE.payoffs, [[0, 0, 0, 1], [0, 0, 1 / 2, 1 / 2], [1, 0, 0, 0]]),
    ],
    ids=["chicken", "pennies", "dilemma", "chain store"],
)
def test_extreme_points(payoffs, expected):
  _, points, _, _ = polytope(payoffs)
  np.testing.assert_allclose(points, expected, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_polytopes_ignore_scale_and_own_offsets(scale):
  # One offset for each strategy of the other player.
  offset = np.array([[[3.0, -1]], [[5], [2]]], dtype=object)
  moved = np.stack([scale * (g + np.asarray(o, float)) for g, o in zip(BATTLE.payoffs, offset)])
  np.testing.assert_allclose(polytope(moved)[1], polytope(BATTLE.payoffs)[1], atol=1e-9)


@pytest.mark.parametrize("game", [CHICKEN, BATTLE], ids=lambda game: game.name)
def test_solid_polytopes_obey_euler(game):
  _, points, edges, faces = polytope(game.payoffs)
  assert len(points) - len(edges) + len(faces) == 2
  around = [frozenset((f[k - 1], f[k])) for f in faces for k in range(len(f))]
  assert sorted(map(sorted, around)) == sorted([list(edge) for edge in edges] * 2)


def test_flat_and_single_polytopes():
  _, _, edges, faces = polytope(CHAIN_STORE.payoffs)
  assert len(edges) == 3 and len(faces) == 1
  _, _, edges, faces = polytope(PENNIES)
  assert edges == [] and faces == []


def test_three_players_and_uneven_strategies():
  payoffs = np.random.default_rng(0).normal(size=(3, 2, 3, 2))
  rows = figures.ce_constraints(payoffs)
  assert rows.shape == (12 + 2 + 6 + 2, 12)
  joint = np.random.default_rng(1).dirichlet(np.ones(12)).reshape(2, 3, 2)
  # The second row of player 2 is about playing 2 where 0 is recommended.
  gain = sum(
      joint[a, 0, c] * (payoffs[1, a, 0, c] - payoffs[1, a, 2, c])
      for a in range(2) for c in range(2)
  )
  np.testing.assert_allclose((rows @ joint.ravel())[12 + 2 + 1], gain)


def test_selected_points_lie_in_their_polytopes():
  for game, chosen in zip(GAMES_2X2, select_2x2()):
    rows = figures.ce_constraints(game.payoffs)
    joints = np.concatenate([[chosen.max_entropy, chosen.max_welfare], chosen.nearest_pure])
    joints = joints.reshape(6, 4)
    assert np.isfinite(joints).all(), f"{game.name}: not converged"
    np.testing.assert_allclose(joints.sum(1), 1, atol=1e-9)
    assert (joints @ rows.T).min() > -1e-6, game.name  # The minimum is usually -1e-9.
    points = figures.extreme_points(rows)
    welfare = game.payoffs.sum(0).ravel()
    best = (points @ welfare).max()
    assert abs(joints[1] @ welfare - best) < 1e-2 * best
    entropy = -np.sum(joints * np.log(np.maximum(joints, 1e-300)), 1)
    assert entropy.argmax() == 0 or entropy.max() - entropy[0] < 1e-6


def test_uniform_gaps_by_hand():
  # Against uniform play, the strategies of chicken earn 3.5 and 4.
  games = CHICKEN.payoffs[None]
  np.testing.assert_allclose(uniform_gaps(games, "cce"), [2 * 0.25])
  np.testing.assert_allclose(uniform_gaps(games, "ce"), [2 * 0.5 / 2])


def test_normalised():
  games = np.random.default_rng(0).normal(3, 7, size=(5, 2, 3, 4))
  games[0, 1] = 4.0
  out = normalised(games)
  np.testing.assert_allclose(out.mean((2, 3)), 0, atol=1e-12)
  np.testing.assert_allclose(out.std((2, 3))[1:], 1)
  assert (out[0, 1] == 0).all()


def test_bad_games_are_refused(tmp_path):
  path = tmp_path / "games.npz"
  np.savez(path, one=np.zeros((4, 2, 3, 3)), two=np.zeros((4, 2, 2, 2)))
  with pytest.raises(ValueError, match="must hold one array"):
    demo.read_classes(path, None)


def test_bad_flags(tmp_path, capsys):
  for flags, message in (
      (["--games_per_class=0"], "--games_per_class=0 must be at least 1"),
      (["--games=/nowhere.npz"], "--games=/nowhere.npz: "),
      (["more"], "unexpected argument 'more'"),
  ):
    assert demo.main(["demo", f"--out={tmp_path}", *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_small_run(tmp_path, capsys):
  """A run on the 3x3 corners of two games of each class."""
  games = {name: x[:, :, :3, :3] for name, x in demo.read_classes(demo._GAMES, 2).items()}
  np.savez(tmp_path / "corners.npz", **games)
  assert demo.main(["demo", f"--games={tmp_path / 'corners.npz'}", f"--out={tmp_path}"]) == 0
  printed = capsys.readouterr()
  assert printed.err.startswith("demo: Python") and "games per second" in printed.out
  assert "launch.nes_solve" in printed.out
  for name in ("gamut.png", "polytopes.png"):
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
  with open(tmp_path / "summary.csv", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 2 * 2 * (22 + 1)
  totals = [row for row in rows if row["class"] == "all"]
  for row in totals:
    assert int(row["games"]) == 44
    assert int(row["converged"]) >= 42
    assert float(row["gap_mean"]) < 1e-3 * float(row["uniform_gap_mean"])
  assert np.load(tmp_path / "games.npz")["payoffs"].shape == (44, 2, 3, 3)
