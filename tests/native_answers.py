"""Games, stored answers and comparisons for tests of nes_jax.native.cpu."""

import functools
import math
import os
import pathlib
import subprocess
import sys

import jax
from native import calls, cases
import numpy as np
import pytest

import nes_jax

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent

CONCEPTS = ["cce", "ce"]
PRECISIONS = ["float32", "float64"]
# Default tolerances of nes_jax.solve.
TOLERANCE = {"float32": 1e-4, "float64": 1e-8}
EXACT = {"precision": "float64"}


def slow(*values):
  """Parameters of a test that is marked slow for them."""
  return pytest.param(*values, marks=pytest.mark.slow)


def games_of(*shape, seed=0, count=16):
  """Games [count, N, *shape] whose scales differ from game to game and from player to player."""
  rng = np.random.default_rng(seed)
  scale = 10 ** rng.uniform(-1, 1, size=(count, len(shape)) + (1,) * len(shape))
  return scale * rng.normal(size=(count, len(shape), *shape))


SQUARE = games_of(4, 4)


def solved(games, **options):
  """The answer of `nes_jax.solve`, as NumPy arrays."""
  return jax.tree.map(np.asarray, nes_jax.solve(games, **options))


def same_bits(found, expected):
  """Checks that two trees of arrays are equal to the last bit."""
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def nearly_same(tolerance):
  """A function that checks that two solutions differ by rounding alone.

  The engine factors the matrices of CEs by another method where few games of a group are left. The
  last digits of an answer then depend on the other games of the group.
  """

  def compare(found, expected):
    for field in ("converged", "repeated", "iterations"):
      np.testing.assert_array_equal(getattr(found, field), getattr(expected, field), field)
    for field in ("joint", "epsilon", "marginals", "residual"):
      jax.tree.map(
          lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=tolerance),
          getattr(found, field),
          getattr(expected, field),
      )

  return compare


@functools.cache
def stored():
  """A dictionary from names to (case, answers of the native engine, answers of the JAX engine)."""
  found, answers = cases.load()
  return {case.name: (case, cases.answer(case), answers[case.name]) for case in found}


NAMES = [case.name for case in cases.load()[0]]
# Beginnings of the names of cases in which both engines take the same steps. In the other cases
# their steps may differ: rounding decides games with ties, strength is nearly linear, and the
# native engine solves a masked game as its sub-game, from another start.
PLAIN = ("eights", "three", "four", "warm", "hard", "soft")


def precision_of(name):
  """The precision of a case."""
  return name.rsplit(" ", 1)[1]


def sizes(case):
  """Sums over players of the standard deviations of finite payoffs [B], the unit of a gap."""
  games = case.games.reshape(*case.games.shape[:2], -1)
  return games.std(2).sum(1)


def decided(case):
  """Whether rounding of float32 does not decide a game [B].

  float32 does not see near-ties. A joint may be far from the optimum, and yet no deviation gains
  more than the tolerance. Its certificate is then as good as that of the optimum.
  """
  rows = np.ones(len(case.games), bool)
  if precision_of(case.name) == "float32":
    for name, some in case.sets.items():
      if name == "travelers":
        rows[some] = False
      elif name.startswith("kind "):
        # The second half of these games has noise.
        rows[some.start + (some.stop - some.start) // 2 : some.stop] = False
  return rows


def half_l1(found, expected):
  """Half the L1 distances of joints [B], which is the solver gap."""
  return 0.5 * np.abs(found.astype(float) - expected).reshape(len(found), -1).sum(1)


def assert_same_verdicts(case, found, expected):
  """Checks that both engines say the same about every game of a case."""
  np.testing.assert_array_equal(found["converged"], expected["converged"])
  if not (case.name.startswith("kinds") and precision_of(case.name) == "float32"):
    rows = decided(case)
    np.testing.assert_array_equal(found["repeated"][rows], expected["repeated"][rows])
  for field, x in expected.items():
    assert found[field].dtype == x.dtype and found[field].shape == x.shape, field
  done = found["converged"]
  assert (found["residual"][done] <= TOLERANCE[precision_of(case.name)]).all()
  assert np.isfinite(found["residual"]).all() and (found["residual"] >= 0).all()


def assert_same_answers(case, found, expected):
  """Checks that the joints of both engines are as near as their certificates promise."""
  tolerance = TOLERANCE[precision_of(case.name)]
  done = expected["converged"] & decided(case)
  same = done & (found["iterations"] == expected["iterations"])
  apart = half_l1(found["joint"], expected["joint"])
  # Both answers have a divergence of at most the tolerance from the optimum. Pinsker's inequality
  # bounds the distance of each.
  assert (apart[done] <= 2 * math.sqrt(tolerance / 2)).all(), apart[done].max()
  if case.name.startswith(PLAIN):
    # Answers differ by rounding alone. The largest differences seen are 2e-5 and 8e-12.
    assert same[done].mean() >= 0.95
    assert (apart[same] <= tolerance).all(), apart[same].max()
  bound = 2 * apart + 64 * np.finfo(found["joint"].dtype).eps
  assert (np.abs(found["marginals"] - expected["marginals"]).max(1) <= bound).all()
  unit = sizes(case)
  assert (np.abs(found["gap"] - expected["gap"]) <= 2 * tolerance * unit)[done].all()
  assert (np.abs(found["epsilon"] - expected["epsilon"]).max(1) <= tolerance * unit)[done].all()
  selection = case.options.get("selection")
  if selection is None or math.isinf(selection.rho):
    np.testing.assert_array_equal(found["epsilon"], expected["epsilon"])


def assert_same_steps(case, found, expected):
  """Checks that both engines take about as many steps."""
  # Rounding decides the number of steps where float64 stops without an answer.
  done = expected["converged"] & decided(case) & (found["repeated"] == expected["repeated"])
  if not done.any():
    return
  steps, wanted = (x["iterations"][done].mean() for x in (found, expected))
  # With epsilon-plus 500, rounding decides at which step the residual is small enough.
  most = 0.05 if case.name.startswith("strength") else 0.01 if done.sum() >= 100 else 0.02
  assert abs(steps / wanted - 1) <= most, (steps, wanted)


def all_inputs(dtype=np.float32):
  """Arguments of a call on 16 games. Every argument is an array."""
  given = cases.given()
  fields = {name: given[name].astype(dtype) for name in ("target", "welfare", "epsilon")}
  fields["welfare_weight"] = np.linspace(0, 3, cases.COUNT).astype(dtype)
  masks = given["mask 0"], given["mask 1"]
  alive = calls.outer(masks)
  fields["target"] = np.where(alive, fields["target"] + dtype(1e-3), dtype(0))
  fields["target"] /= fields["target"].sum((1, 2), keepdims=True)
  return given["square"].astype(dtype), fields, masks


def in_a_process(code, seconds=240, **environment):
  """Runs a program with this directory on its path, and returns its standard output."""
  environment = {"JAX_PLATFORMS": "cpu", **os.environ, **environment}
  environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(HERE)])
  command = [sys.executable, "-X", "faulthandler", "-c", code]
  done = subprocess.run(
      command, env=environment, capture_output=True, text=True, timeout=seconds, check=False
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return done.stdout
