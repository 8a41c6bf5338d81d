"""Tests of launch.nes_eval and launch.evaluation: cache, measurements, tables and pictures."""

import csv
import dataclasses
import functools
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch import nes_eval
from launch.evaluation import (
  classes,
  curves,
  fingerprints,
  measure,
  paper,
  polytopes,
  report,
  scaling,
)
from launch.evaluation.cache import Cache
from launch.evaluation.games import GAMES_2X2
from launch.evaluation.settings import QUICK, Settings
from launch.figures.polytopes import Selected
from launch.runtime import stopping
import nes_jax
from nes_jax import metrics, network, pretrained, training
from nes_jax.games import spheres

ROOT = pathlib.Path(__file__).resolve().parents[1]
TINY = dataclasses.replace(
    QUICK, games=6, reference_games=2, table_games=6, table_reference_games=2, sizes=(3,),
    updates=4, points=2, curve_games=8,
)


def refuse(*_, **__):
  raise AssertionError("computed again")


# The cache.


def test_results_are_computed_once_a_key(tmp_path):
  cache = Cache(tmp_path)
  first = cache.get("one", {"a": 1}, lambda: {"x": np.arange(3), "y": 2.5})
  np.testing.assert_array_equal(first["x"], [0, 1, 2])
  again = Cache(tmp_path).get("one", {"a": 1}, refuse)
  assert again.keys() == {"x", "y"} and again["y"] == 2.5
  other = cache.get("one", {"a": 2}, lambda: {"x": np.zeros(1)})
  assert list(other["x"]) == [0]
  assert len(list(tmp_path.glob("*.npz"))) == 2


def test_damaged_results_are_computed_again(tmp_path):
  cache = Cache(tmp_path)
  cache.get("one", {}, lambda: {"x": np.arange(100)})
  (path,) = tmp_path.glob("*.npz")
  path.write_bytes(path.read_bytes()[:-20])
  assert cache.get("one", {}, lambda: {"x": np.ones(1)})["x"] == 1


def test_keys_see_code_and_networks():
  assert fingerprints.sources() != fingerprints.sources(learned=True)
  one = pretrained.load("me_cce_2p")
  other = one._replace(params=jax.tree.map(lambda x: x + 1, one.params))
  assert fingerprints.network(one) != fingerprints.network(other)
  assert fingerprints.network(one) == fingerprints.network(one._replace(moments={}))


# Measurements.


def test_spread():
  assert measure.spread(np.array([3.0, np.nan, 1.0])) == (3, 2, 1)
  assert np.isnan(measure.spread(np.full(2, np.nan))).all()


@pytest.mark.parametrize("concept", ["cce", "ce"])
def test_gap_is_that_of_the_library(concept):
  """The gap by the dense matrix equals that of nes_jax.metrics."""
  payoffs = np.asarray(spheres.sample(jax.random.key(0), 1, (2, 3, 2))[0], np.float64)
  joint = np.random.default_rng(0).dirichlet(np.ones(12)).reshape(2, 3, 2)
  wanted = metrics.gap(jnp.asarray(payoffs), jnp.asarray(joint), jnp.zeros(3), concept)
  assert measure.gap(payoffs, joint, concept) == pytest.approx(float(wanted), abs=1e-5)
  found = measure.uniform(payoffs[None], concept, joint[None])
  flat = np.full((2, 3, 2), 1 / 12)
  assert found["gap"][0] == pytest.approx(measure.gap(payoffs, flat, concept))
  assert found["solver_gap"][0] == pytest.approx(0.5 * np.abs(joint - flat).sum())


def test_no_network_is_no_error():
  assert measure.network_for("cce", (2, 2, 2, 2, 2)) is None
  assert measure.network_for("cce", (8, 8)).config.concept == "cce"


# Figure 4 and the tables.


@pytest.fixture
def small_classes(monkeypatch):
  """Three classes of 3x3 games."""
  monkeypatch.setattr(classes, "STRATEGIES", 3)
  monkeypatch.setattr(classes, "CLASSES", ("L1 invariant", "DispersionGame", "TravelersDilemma"))


def test_classes_and_tables(small_classes, tmp_path, monkeypatch):
  """CCEs by all methods and a table, and both again from the cache; one test compiles less."""
  pytest.importorskip("cvxpy")
  monkeypatch.setattr(classes, "CONCEPTS", ("cce",))
  cache = Cache(tmp_path)
  rows, (failures,) = classes.summary(cache, TINY)
  found = {(row.name, row.method): row for row in rows}
  assert set(found) == {(n, m) for n in classes.CLASSES for m in classes.METHODS}
  for row in rows:
    method = row.method
    assert row.games == (2 if method == "ecos" else 6)
    for spread in (row.gap, row.solver_gap):
      assert 0 <= spread.best <= spread.mean <= spread.worst
    if method in ("exact", "refined", "ecos"):
      assert row.failed == 0 and row.gap.worst < 1e-3 and row.solver_gap.worst < 0.03, row
    assert (row.us_game > 0) == (method != "uniform")
  uniform = {name: found[name, "uniform"] for name in classes.CLASSES}
  assert uniform["DispersionGame"].gap.worst < 1e-9  # Uniform play is the equilibrium.
  assert uniform["L1 invariant"].gap.mean > 0.3
  assert failures.games == 18 and failures.float64 == 0 and failures.left == 0
  assert failures.worst_residual < 1e-8

  trained = pretrained.load("me_cce_2p")
  row = scaling.row(cache, TINY, 3, trained)
  assert row.size == "3x3" and row.network == "me_cce_2p" and row.failed == 0
  assert row.network_solver_gap < row.uniform_solver_gap and row.ecos_solved == 1
  bare = scaling.row(cache, TINY, 3, None)
  assert bare.network_gap is None and bare.uniform_gap == row.uniform_gap

  monkeypatch.setattr(nes_jax, "solve", refuse)
  again = classes.summary(Cache(tmp_path), TINY)
  assert str(again) == str((rows, [failures]))  # NaN is not equal to itself.
  # A new network needs new results.
  changed = trained._replace(params=jax.tree.map(lambda x: x * 1.01, trained.params))
  monkeypatch.setattr(measure, "network_for", lambda *_: changed)
  with pytest.raises(AssertionError, match="computed again"):
    classes.evaluate(Cache(tmp_path), "L1 invariant", TINY)


def test_without_ecos(monkeypatch, tmp_path):
  def missing(*_):
    raise ImportError

  monkeypatch.setattr(measure, "_ecos", missing)
  games = measure.Games("x", np.zeros((1, 2, 2, 2)), {})
  assert measure.ecos(Cache(tmp_path), games, "cce", games.payoffs[:, 0]) is None


# Figure 3.


def test_linear_network_is_linear_before_the_softplus():
  keys = jax.random.split(jax.random.key(0), 32)
  problem = training.sample(keys, "max_entropy", (3, 3), 1e5)
  x, y = problem.payoffs, problem.payoffs[::-1]

  @functools.partial(jax.jit, static_argnums=0)
  def duals(config, payoffs):  # [4, 32, N, 3, 3] -> [4, N, 32, 3]
    variables = network.init(jax.random.key(1), config, problem)

    def answer(game):
      asked = dataclasses.replace(problem, payoffs=game)
      return network.apply(variables, config, asked)[0].duals

    return jnp.stack([jnp.stack(answer(one)) for one in payoffs])

  def bend(**changes):
    """The largest f(x) + f(y) - f(x + y) - f(0), where f is the input of the softplus."""
    size = {"payoff_channels": (8, 8), "dual_channel": 8, "dual_channels": (8,)}
    config = network.Config("cce", centre="mean", norm="none", **size, **changes)
    found = np.asarray(duals(config, jnp.stack([x, y, x + y, 0 * x])), np.float64)
    raw = np.log(np.expm1(found * 3**0.5))  # Duals of 3x3 games have scale 1 / sqrt(3).
    return np.abs(raw[0] + raw[1] - raw[2] - raw[3]).max()

  assert bend(**curves.linear("cce")) < 2e-4  # The value is usually 1e-5.
  assert bend() > 0.02


def test_uniform_payoffs_are_not_preprocessed():
  keys = jax.random.split(jax.random.key(0), 2000)
  payoffs = np.asarray(training.sample(keys, "max_entropy", (2, 2), 1e5, "uniform").payoffs)
  assert payoffs.min() > -(3**0.5) and payoffs.max() < 3**0.5
  # The standard errors of 16,000 numbers are 0.008 and 0.007.
  assert abs(payoffs.mean()) < 0.04 and abs(payoffs.var() - 1) < 0.04
  assert np.abs(payoffs.mean((2, 3))).mean() > 0.2


def test_curves_are_those_of_the_paper():
  found = curves.curves(Settings())
  by_panel = {p: [c for c in found if c.panel == p] for p in curves.PANELS}
  assert {c.label for c in by_panel["concept"]} == {"CCE", "CE"}
  assert len(by_panel["ablation"]) == 3 and by_panel["ablation"][0].training.shapes == ((4, 4, 4),)
  assert {c.training.shapes for c in by_panel["selection"]} == {((4, 4),)}
  configs = [config for config, seed in curves.trainings(Settings()) if seed == 0]
  # Curves that two panels show are trained once.
  assert len(set(configs)) == len(configs) < len(found)
  at = {curves.directory(pathlib.Path("x"), c, s, Settings()) for c in configs for s in (0, 1)}
  assert len(at) == 2 * len(configs)


@pytest.mark.slow
def test_training_is_continued_and_not_repeated(tmp_path, monkeypatch):
  (config, seed), *_ = curves.trainings(TINY)
  curves.train(tmp_path, config, seed, TINY)
  steps, solver_gap, _ = curves._evaluations(
      curves.directory(tmp_path, config, seed, TINY), config
  )
  assert steps == [2, 4] and all(0 < x < 1 for x in solver_gap)
  one = curves.network_of(tmp_path, config, seed, TINY)
  solution = nes_jax.solve(np.eye(3) * np.ones((2, 1, 1)), method="neural", trained=one)
  assert np.isfinite(solution.joint).all()
  monkeypatch.setattr(curves.trainer, "train", refuse)
  curves.train(tmp_path, config, seed, TINY)
  monkeypatch.setattr(curves, "curves", lambda _: [curves.Curve("selection", "ME", config)])
  (learned,) = curves.learned(tmp_path, TINY)
  assert learned.solver_gap.shape == (1, 2)


# Figure 1.


def test_polytopes_without_networks_are_exact():
  exact = [Selected(*(np.full(s, i) for s in ((2, 2), (2, 2), (4, 2, 2)))) for i in (1, 2)]
  found = polytopes.by_network(GAMES_2X2[:2], exact, polytopes.Networks(None, None, None))
  for one, known in zip(found, exact):
    for a, b in zip(one, known):
      np.testing.assert_array_equal(a, b)


def test_polytopes_by_network():
  """A network for maximum entropy alone does not stand in for networks with more inputs."""
  networks = polytopes.networks()
  assert networks.max_entropy is not None
  if networks.nearest_pure is None:
    assert networks.max_entropy.training.selection == "max_entropy"
  else:
    assert "target" in networks.nearest_pure.config.inputs
  exact = [Selected(*(np.full(s, np.nan) for s in ((2, 2), (2, 2), (4, 2, 2))))]
  chosen = polytopes.Networks(networks.max_entropy, None, None)
  (found,) = polytopes.by_network(GAMES_2X2[:1], exact, chosen)
  assert found.max_entropy.sum() == pytest.approx(1, abs=1e-5)
  assert np.isnan(found.max_welfare).all()


# The report.


def made_up_rows():
  rng = np.random.default_rng(0)
  sizes = {"uniform": 1.0, "neural": 1e-2, "refined": 1e-6, "exact": 1e-7, "ecos": 1e-8}

  def spread(size):
    return measure.Spread(*np.sort(size * rng.uniform(0.5, 2, 3))[::-1].tolist())

  return [
      classes.Row(
          concept, name, method, 8, spread(size), spread(size / 3),
          None if method in ("uniform", "neural") else 1, 4.0, float(rng.uniform(5, 5000)),
      )
      for concept in ("cce", "ce")
      for name in classes.CLASSES
      for method, size in sizes.items()
  ]


def read(path):
  with open(path, encoding="utf-8") as file:
    return list(csv.DictReader(file))


def test_report(tmp_path):
  page = report.Report(tmp_path, "# Head")
  failures = [classes.Failures(c, 200, 0, 9e-9, 3, 0) for c in ("cce", "ce")]
  page.figure4(made_up_rows(), failures)
  row = scaling.Row("32x32", 8, "net", "8x8", 0.7, 0.02, 0.2, 0.01, 0, 0, None, 370.0, 200.0)
  other = row._replace(size="128x128", network=None, trained_on=None, network_gap=None)
  page.tables([row, other], [row])
  learned = [
      curves.Learned(curve, np.array([10, 20]), np.full((2, 2), 0.1 + 0.01 * i), np.ones((2, 2)))
      for i, curve in enumerate(curves.curves(Settings()))
  ]
  page.figure3(learned)
  text = page.write().read_text()
  assert text.startswith("# Head")
  for name in ("figure4_cce.png", "figure4_ce.png", "figure3.png"):
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG") and name in text
  assert len(read(tmp_path / "figure4.csv")) == 2 * 25 * 5
  summary = {(r["concept"], r["method"]): r for r in read(tmp_path / "figure4_summary.csv")}
  ecos = summary["CE", "ECOS"]
  assert ecos["unsolved"] == "25 of 200" and ecos["paper"] == "50 ms"
  assert summary["CCE", "network"]["unsolved"] == ""
  ours, large = read(tmp_path / "table1.csv")
  assert float(ours["gap, network"]) == 0.02
  assert float(ours["gap, network (paper)"]) == paper.TABLE_1["32x32"].network_gap
  assert ours["solver gap, network (paper)"] == "" and float(ours["solver gap, network"]) == 0.01
  assert large["gap, network"] == large["gap, uniform (paper)"] == ""
  (final, *_) = read(tmp_path / "figure3_final.csv")
  assert float(final["solver gap"]) == pytest.approx(0.1)
  assert len(read(tmp_path / "figure3.csv")) == len(learned) * 4


def test_report_of_figure1(tmp_path):
  page = report.Report(tmp_path, "# Head")
  joint = np.full((2, 2), 0.25)
  exact = [Selected(joint, joint, np.stack([joint] * 4))] * 3
  points = [polytopes.Point("Chicken", "max_entropy", None, np.nan, 0.5)]
  page.figure1(polytopes.Figure(points, exact, exact, polytopes.Networks(None, None, None)))
  text = page.write().read_text()
  assert "ME, MWME, nearest to pure by the exact engine" in text
  assert (tmp_path / "figure1.png").read_bytes().startswith(b"\x89PNG")
  assert read(tmp_path / "figure1.csv")[0]["network"] == ""


# The program.


@pytest.mark.parametrize(
    "fields, message", [({"games": 0}, "games=0 must"), ({"sizes": (1,)}, "from 2")]
)
def test_bad_settings(fields, message):
  with pytest.raises(ValueError, match=message):
    Settings(**fields)


def test_the_network_of_table_2(tmp_path, monkeypatch):
  """A network of nes_jax/weights that was trained on that size alone is preferred."""
  config = curves.square(TINY)
  one = pretrained.load("me_cce_2p")
  fits = one._replace(training=config)
  monkeypatch.setattr(pretrained, "names", lambda: ["a", "b"])
  monkeypatch.setattr(pretrained, "load", lambda name: {"a": one, "b": fits}[name])
  monkeypatch.setattr(curves, "train", refuse)
  assert curves.square_network(tmp_path, TINY) is fits
  monkeypatch.setattr(pretrained, "names", lambda: ["a"])
  with pytest.raises(AssertionError, match="computed again"):
    curves.square_network(tmp_path, TINY)


@pytest.mark.slow
def test_small_run(small_classes, tmp_path, monkeypatch, capsys):
  """Two sections from end to end: stopped once, continued, and again from the cache."""
  (config, seed), *_ = curves.trainings(TINY)
  same = [curves.Curve(panel, "ME", config) for panel in curves.PANELS]
  monkeypatch.setattr(curves, "curves", lambda _: same)
  run = nes_eval.Run(tmp_path, TINY, ("figure4", "figure3"), "python -m launch.nes_eval")
  calls = []

  def stop():
    calls.append(1)
    if len(calls) == 2:
      raise stopping.Stopped(signal.SIGTERM)

  with pytest.raises(stopping.Stopped):
    nes_eval.evaluate(run, check_stop=stop)
  stored = len(list(tmp_path.glob("parts/*")))
  assert stored > 0 and not list(tmp_path.glob("report*"))
  nes_eval.evaluate(run)
  text = (tmp_path / "report.md").read_text()
  assert text in capsys.readouterr().out
  assert "`python -m launch.nes_eval`" in text and "figures mean little" in text
  assert "Figure 4" in text and "Figure 3" in text and "Figure 1" not in text
  assert len(list(tmp_path.glob("parts/*"))) > stored
  monkeypatch.setattr(nes_jax, "solve", refuse)
  monkeypatch.setattr(curves.trainer, "train", refuse)
  nes_eval.evaluate(run)
  assert (tmp_path / "report.md").read_text() == text


def test_two_hosts_share_the_work(tmp_path, coordinator):
  """Each of two processes solves the games of one size, without networks."""
  code = (
      "import sys; from launch import nes_eval; nes_eval.measure.network_for = lambda *_: None;"
      "nes_eval.curves.square_network = lambda *_: None; sys.exit(nes_eval.main(sys.argv))"
  )
  flags = ["--quick", "--only=tables", "--sizes=2,3", "--table_games=4", f"--out={tmp_path}"]
  flags += [f"--coordinator={coordinator}", "--num_processes=2"]
  command = [sys.executable, "-c", code, *flags]
  both = [
      subprocess.Popen(
          [*command, f"--process_id={me}"], cwd=ROOT, stdout=subprocess.PIPE, text=True
      )
      for me in range(2)
  ]
  said = [process.communicate(timeout=300)[0] for process in both]
  assert [process.returncode for process in both] == [0, 0]
  assert "Table 1" in said[0] and "report" not in said[1]
  assert {row["size"] for row in read(tmp_path / "table1.csv")} == {"2x2", "3x3"}
  assert len(list(tmp_path.glob("parts/truth-*"))) == 2


@pytest.mark.parametrize(
    "flag, message",
    [("--games=0", "games=0 must"), ("--sizes=8,x", "integers"), ("--only=x", "use one of")],
)
def test_bad_flags(flag, message, capsys):
  assert nes_eval.main(["nes_eval", flag]) == 2
  assert message in capsys.readouterr().err
