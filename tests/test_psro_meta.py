"""nes_jax.psro.meta: joints by hand, degenerate meta-games, padding, and OpenSpiel's own loop."""

import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

import nes_jax
from nes_jax import native, psro
from nes_jax.psro import meta
from nes_jax.solving import ragged

ROOT = pathlib.Path(__file__).resolve().parents[1]
CHICKEN = np.array([[[0.0, 7.0], [2.0, 6.0]], [[0.0, 2.0], [7.0, 6.0]]])
# Half the L1 distance to the optimum at a residual of 1e-8 is at most sqrt(1e-8 / 2).
PINSKER = 7.1e-5
# Meta-games with clones, ties, constant players and single strategies, and some of runs of JPSRO.
with np.load(ROOT / "tests" / "data" / "meta_games.npz") as _archive:
  GAMES = {name: _archive[name] for name in _archive.files}


def ones(payoffs):
  return [np.ones(count) for count in payoffs.shape[1:]]


def gap(payoffs, joint, concept):
  """Sum over players of the largest gain, one deviation at a time."""
  total = 0.0
  for p, own in enumerate(payoffs):
    own, weights = np.moveaxis(own, p, 0), np.moveaxis(joint, p, 0)
    # gains[i, k]: expected gain of playing k whenever i is recommended.
    gains = np.array([[(w * (to - told)).sum() for to in own] for told, w in zip(own, weights)])
    total += max(0.0, (gains.sum(0) if concept == "cce" else gains).max())
  return total


# Answers.


def test_joint_is_that_of_solve():
  for selection in ("max_entropy", "max_welfare", "MS"):
    for concept in ("cce", "ce"):
      joint, info = psro.meta_solver(concept, selection)(CHICKEN, ones(CHICKEN))
      expected = nes_jax.solve(CHICKEN, concept=concept, selection=selection, precision="float64")
      np.testing.assert_allclose(joint, expected.joint, atol=1e-12)
      assert joint.dtype == np.float64 and joint.flags.writeable
      assert set(info) == {"converged", "gap", "residual", "iterations"}
      assert info["converged"] is True and info["iterations"] > 0
      assert 0 <= info["residual"] <= 1e-8


def test_repeats_are_the_target_where_no_constraint_binds():
  payoffs = np.zeros((3, 2, 2, 1))
  solver = psro.meta_solver()
  repeats = [[3, 1], [1, 1], [5]]
  joint, _ = solver(payoffs, repeats)
  np.testing.assert_allclose(joint[..., 0], [[0.375, 0.375], [0.125, 0.125]], atol=PINSKER)
  joint, _ = solver(payoffs, repeats, ignore_repeats=True)
  np.testing.assert_allclose(joint, 0.25, atol=PINSKER)


@pytest.mark.parametrize("concept", ["cce", "ce"])
@pytest.mark.parametrize("selection", ["max_entropy", "max_welfare"])
def test_repeats_are_clones(concept, selection):
  payoffs = np.random.default_rng(0).normal(size=(2, 3, 4))
  repeats = [[1, 3, 2], [2, 1, 1, 4]]
  cloned = payoffs
  for p, counts in enumerate(repeats):
    cloned = np.repeat(cloned, counts, p + 1)
  solver = psro.meta_solver(concept, selection, tolerance=1e-10)
  joint, _ = solver(payoffs, repeats)
  whole, _ = solver(cloned, ones(cloned))
  for p, counts in enumerate(repeats):
    whole = np.add.reduceat(whole, np.r_[0, np.cumsum(counts)[:-1]], p)
  np.testing.assert_allclose(joint, whole, atol=1e-5)


def test_welfare_and_epsilon():
  worst = psro.meta_solver(
      "cce", "max_welfare_max_entropy", welfare=lambda payoffs: -payoffs.sum(0)
  )
  best = psro.meta_solver("cce", "MWME")
  values = [(solver(CHICKEN, ones(CHICKEN))[0] * CHICKEN.sum(0)).sum() for solver in (worst, best)]
  # The extreme CCEs of this game: (dare, dare) as often as can be, and as rarely.
  np.testing.assert_allclose(values, [7.2, 10.5], atol=0.05)
  dilemma = np.array([[[3.0, 0.0], [5.0, 1.0]], [[3.0, 5.0], [0.0, 1.0]]])
  joint, info = psro.meta_solver("cce", "eps-ME", epsilon=0.5)(dilemma, ones(dilemma))
  assert joint[0, 0] > 0.05 and info["converged"]


# Degenerate meta-games.


def test_there_are_fifty_meta_games():
  assert len(GAMES) == 50
  assert sum(name.startswith(("kuhn", "trade", "sheriff")) for name in GAMES) >= 20
  assert any(1 in game.shape[1:] for game in GAMES.values())


@pytest.mark.parametrize("selection", ["max_entropy", "max_welfare"])
@pytest.mark.parametrize("concept", ["cce", "ce"])
def test_degenerate_meta_games_are_certified(concept, selection):
  solver = psro.meta_solver(concept, selection, uncertified="raise")
  solved = 0
  for name, payoffs in GAMES.items():
    shape = payoffs.shape[1:]
    if not native.cpu.serves(shape, concept):
      continue  # the test below
    solved += 1
    for repeats in (ones(payoffs), [1 + np.arange(count) % 3 for count in shape]):
      joint, info = solver(payoffs, repeats)
      assert joint.shape == shape and joint.min() >= 0, name
      assert abs(joint.sum() - 1) < 1e-9, name
      assert info["gap"] <= 1e-7 * max(np.ptp(payoffs), 1e-9), name
      assert gap(payoffs, joint, concept) <= 1e-7 * max(np.ptp(payoffs), 1e-9), name
  if native.cpu.reason() is None:
    assert solved == (50 if concept == "cce" else sum(len(g) == 2 for g in GAMES.values()))


@pytest.mark.slow
def test_degenerate_ces_of_many_players_are_certified():
  games = {name: g for name, g in GAMES.items() if len(g) > 2 and max(g.shape[1:]) <= 4}
  assert len(games) >= 10
  for name, payoffs in games.items():
    joint, info = psro.meta_solver("ce", uncertified="raise")(payoffs, ones(payoffs))
    assert joint.shape == payoffs.shape[1:] and abs(joint.sum() - 1) < 1e-9, name
    assert gap(payoffs, joint, "ce") <= 1e-7 * max(np.ptp(payoffs), 1e-9), name


# Padding, where an engine compiles a program for each shape.


def test_padding_changes_no_answer_and_keeps_the_shape(monkeypatch):
  real, shapes = meta.solve, []

  def solve(payoffs, **options):
    shapes.append(payoffs.shape)
    return real(payoffs, **options)

  monkeypatch.setattr(meta, "solve", solve)
  rng = np.random.default_rng(1)
  games = [rng.normal(size=(2, *shape)) for shape in ((2, 3), (4, 4), (5, 3))]
  repeats = [[1 + np.arange(count) % 2 for count in game.shape[1:]] for game in games]
  for selection in ("max_entropy", "max_welfare"):
    solver = psro.meta_solver("ce", selection)
    expected = [solver(*x) for x in zip(games, repeats)]
    shapes.clear()
    with monkeypatch.context() as patch:
      # Only the padding is that of engines that compile; the engine stays the same.
      never = types.SimpleNamespace(cpu=types.SimpleNamespace(serves=lambda *_: False))
      patch.setattr(meta, "native", never)
      answers = [solver(*x) for x in zip(games, repeats)]
    assert shapes == [(2, *ragged.padded_shape(game.shape[1:])) for game in games]
    for (joint, info), (other, _) in zip(answers, expected):
      assert info["converged"]
      np.testing.assert_allclose(joint, other, atol=2 * PINSKER)


# Answers without a certificate.


def test_answers_without_certificate_are_named():
  payoffs = np.random.default_rng(0).normal(size=(2, 4, 4))
  hard = {"tolerance": 1e-300}
  with pytest.warns(psro.UncertifiedWarning, match=r"max_entropy CCE .*\[2, 4, 4\] has residual"):
    joint, info = psro.meta_solver(**hard)(payoffs, ones(payoffs))
  assert info["converged"] is False and abs(joint.sum() - 1) < 1e-9
  with pytest.raises(psro.UncertifiedError, match="larger tolerance"):
    psro.meta_solver(uncertified="raise", **hard)(payoffs, ones(payoffs))
  _, info = psro.meta_solver(uncertified="ignore", **hard)(payoffs, ones(payoffs))
  assert info["converged"] is False


def test_answers_that_are_no_numbers_are_refused(monkeypatch):
  real = meta.solve

  def broken(payoffs, **options):
    solution = real(payoffs, **options)
    return solution._replace(joint=np.asarray(solution.joint) * np.nan)

  monkeypatch.setattr(meta, "solve", broken)
  with pytest.raises(psro.UncertifiedError, match="not finite"):
    psro.meta_solver(uncertified="ignore")(CHICKEN, ones(CHICKEN))


# Bad input.


@pytest.mark.parametrize(
    "options, message",
    [
        ({"concept": "nash"}, "unknown concept"),
        ({"selection": "gini"}, "unknown selection 'gini'"),
        ({"selection": nes_jax.Selection()}, "must be a name"),
        ({"selection": "eps-ME"}, "needs epsilon"),
        ({"uncertified": "hide"}, "uncertified must be"),
        ({"target": CHICKEN[0]}, "unknown arguments"),
        ({"welfare": CHICKEN[0], "selection": "MWME"}, "function of the meta-game"),
        ({"welfare": np.sum}, "takes no welfare"),
        ({"epsilon": [0.1, 0.2], "selection": "eps-ME"}, "one number"),
        ({"rho": -1.0}, "rho must be positive"),
    ],
)
def test_wrong_arguments(options, message):
  with pytest.raises(ValueError, match=message):
    psro.meta_solver(**options)


@pytest.mark.parametrize(
    "payoffs, repeats, message",
    [
        (CHICKEN, [[1, 1], [1]], r"lengths \[2, 2\]"),
        (CHICKEN, [[1, 1]], r"lengths \[2, 2\]"),
        (CHICKEN, [[1, 0], [1, 1]], "at least once"),
        (CHICKEN * np.nan, [[1, 1], [1, 1]], "NaN or infinite"),
        (CHICKEN[:1], [[1, 1]], "N >= 2 players"),
    ],
)
def test_wrong_meta_games(payoffs, repeats, message):
  with pytest.raises(ValueError, match=message):
    psro.meta_solver()(payoffs, repeats)


# OpenSpiel.


def test_openspiel_is_optional():
  code = "import sys\nsys.modules['pyspiel'] = sys.modules['open_spiel'] = None\n"
  done = subprocess.run(
      [sys.executable, "-c", code + "from nes_jax import psro\npsro.meta_solver()"],
      cwd=ROOT, capture_output=True, text=True,
  )
  assert done.returncode == 0, done.stderr


def test_openspiel_trade_comm_reaches_its_optimum():
  pyspiel = pytest.importorskip("pyspiel")
  jpsro = pytest.importorskip("open_spiel.python.algorithms.jpsro")
  jpsro.FLAG_TO_FUNC["nes_jax"] = psro.meta_solver("cce", "max_welfare", uncertified="raise")
  seen = {}

  def keep(*state):
    seen.update(games=state[5], joints=state[7], values=state[9], gaps=state[11])

  game = pyspiel.load_game("trade_comm(num_items=2)")
  jpsro.run_loop(
      game, "trade_comm", iterations=9, train_meta_solver="nes_jax", eval_meta_solver="nes_jax",
      ignore_repeats=True, callback=keep,
  )
  assert sum(seen["values"][-1]) == pytest.approx(2.0)
  assert sum(seen["gaps"][-1]) == 0
  for payoffs, joint in zip(seen["games"], seen["joints"]):
    assert gap(payoffs, joint, "cce") <= 1e-7
