"""nes_jax.native.cpu: its answers against those of the JAX engine, of Clarabel, and of sub-games.

Answers of the JAX engine are in tests/data/native.npz, since the compilation of its programs takes
too long. The program native/cases.py has the games and writes that file. Tests go through
`nes_jax.solve`, as users do. Games are float64 NumPy with x64 off unless a test says so.
"""

import concurrent.futures
import math

import jax
from native import calls, cases
from native_answers import (
  CONCEPTS,
  EXACT,
  NAMES,
  PLAIN,
  PRECISIONS,
  TOLERANCE,
  assert_same_answers,
  assert_same_steps,
  assert_same_verdicts,
  decided,
  games_of,
  half_l1,
  nearly_same,
  precision_of,
  same_bits,
  sizes,
  slow,
  solved,
  stored,
)
import numpy as np
import pytest

from launch.checks import census
import nes_jax
from nes_jax.native import cpu
from nes_jax.selection import Selection

pytestmark = pytest.mark.skipif(cpu.reason() is not None, reason=str(cpu.reason()))


@pytest.fixture
def jax_engine(monkeypatch):
  """Sends all calls to the JAX engine."""
  monkeypatch.setattr(cpu, "serves", lambda *_: False)


@pytest.mark.parametrize("name", NAMES)
def test_same_verdicts(name):
  case, found, expected = stored()[name]
  # In the hard cases some epsilon is infeasible.
  assert expected["converged"].all() != name.startswith("hard")
  assert_same_verdicts(case, found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_same_answers(name):
  assert_same_answers(*stored()[name])


@pytest.mark.parametrize("name", [x for x in NAMES if x.startswith(PLAIN) and " cce " in x])
def test_same_duals(name):
  """Duals of CCEs agree. Duals of CEs are seldom unique; test_certificates_hold covers them."""
  _, found, expected = stored()[name]
  same = expected["converged"] & (found["iterations"] == expected["iterations"])
  size = np.abs(expected["duals"]).max(1)
  apart = np.abs(found["duals"].astype(float) - expected["duals"]).max(1)
  # The largest differences seen are 8e-5 and 5e-12.
  bound = {"float32": 1e-3, "float64": 1e-8}[precision_of(name)]
  assert (apart <= bound * size)[same].all(), (apart / size)[same].max()


@pytest.mark.parametrize("name", NAMES)
def test_same_number_of_steps(name):
  assert_same_steps(*stored()[name])


def of_maximum_entropy():
  """The cases whose certificate `census` can compute. It compiles a program for each shape."""
  groups = ("kinds", "eights", "three", "four", "warm")
  names = [name for name in NAMES if name.startswith(groups)]
  return [name if name.startswith("kinds") else slow(name) for name in names]


@pytest.mark.parametrize("name", of_maximum_entropy())
def test_certificates_hold(name):
  """Residuals and gaps are right when float64 computes them again from the answers alone."""
  case, _, _ = stored()[name]
  solution = solved(case.games, **case.options)
  residual, gap = census.recompute(case.games, solution, case.options["concept"])
  # Rounding of the answer to float32 adds to the residual that the engine saw. Where near-ties
  # make large duals, it adds more than a few tolerances.
  bound = {"float32": 2e-4, "float64": 1e-8}[precision_of(name)]
  assert (residual <= bound)[decided(case)].all(), residual.max()
  assert (np.abs(gap - solution.gap) <= bound * sizes(case)).all()


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("group", cases.SELECTIONS)
def test_selections_by_name(group, concept):
  """A selection without target or welfare equals one whose target or welfare changes nothing."""
  case, together, _ = stored()[f"{group} {concept} float64"]
  given = cases.given()
  for name, rows in case.sets.items():
    found = nes_jax.solve(
        given["square"], concept=concept, selection=cases.selected(given, name), **EXACT
    )
    np.testing.assert_array_equal(found.converged, together["converged"][rows], name)
    # Answers differ by rounding alone, except for infeasible epsilons; see test_same_answers.
    done = np.flatnonzero(found.converged)
    assert (half_l1(found.joint, together["joint"][rows])[done] <= 1e-8).all(), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hard cce float64", "kinds ce float32"])
def test_the_file_holds_what_the_jax_engine_answers(name, jax_engine):
  case, _, expected = stored()[name]
  now = cases.answer(case)
  np.testing.assert_array_equal(now["converged"], expected["converged"])
  np.testing.assert_array_equal(now["iterations"], expected["iterations"])
  # The file may come from the same program on another processor.
  apart = half_l1(now["joint"], expected["joint"])
  assert (apart[expected["converged"]] <= TOLERANCE[precision_of(name)]).all()


# Masks.


def sub_games(games, masks):
  return [game[(slice(None), *cells(masks, b))] for b, game in enumerate(games)]


def cells(masks, b):
  return np.ix_(*(np.flatnonzero(mask[b]) for mask in masks))


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("rho", [np.inf, 1e3])
def test_masked_games_are_their_sub_games(concept, rho):
  """The answer of a masked game is that of its sub-game, for a selection with all fields."""
  given = cases.given()
  games, masks = given["square"], (given["mask 0"], given["mask 1"])
  alive = calls.outer(masks)
  target = np.where(alive, given["target"] + 1e-3, 0)
  target /= target.sum((1, 2), keepdims=True)
  fields = {"target": target, "welfare": given["welfare"], "epsilon": given["epsilon"]}
  rest = {"welfare_weight": 2.0, "rho": rho}
  spoilt = np.where(alive[:, None], games, np.nan)
  together = solved(
      spoilt, concept=concept, selection=Selection(**fields, **rest), strategies=masks, **EXACT
  )
  assert together.converged.all()
  same = same_bits if concept == "cce" else nearly_same(1e-8)
  for b, game in enumerate(sub_games(games, masks)):
    inner = {name: x[b][cells(masks, b)] for name, x in fields.items() if name != "epsilon"}
    chosen = Selection(**inner, epsilon=given["epsilon"][b], **rest)
    alone = solved(game, concept=concept, selection=chosen, **EXACT)
    one = jax.tree.map(lambda x: x[b], together)
    left = [np.flatnonzero(mask[b]) for mask in masks]
    index = left if concept == "cce" else [np.ix_(x, x) for x in left]
    one = one._replace(
        joint=one.joint[cells(masks, b)],
        duals=tuple(x[i] for x, i in zip(one.duals, index)),
        marginals=tuple(x[i] for x, i in zip(one.marginals, left)),
    )
    same(one, alone)
  assert (together.joint[~alive] == 0).all()


@pytest.mark.parametrize("concept", CONCEPTS)
def test_payoffs_of_minus_infinity_are_masks(concept):
  given = cases.given()
  masks = given["mask 0"], given["mask 1"]
  games = given["square"].copy()
  for p, mask in enumerate(masks):
    np.moveaxis(games[:, p], 1 + p, 1)[~mask] = -np.inf
  found = nes_jax.solve(games, concept=concept, **EXACT)
  same_bits(
      found, nes_jax.solve(given["square"], concept=concept, strategies=masks, **EXACT)
  )


# Against Clarabel.


@pytest.mark.parametrize(
    "shape, concept", [((4, 4), "cce"), ((4, 4), "ce"), ((3, 2, 4), "cce"), ((2, 3, 1, 3), "cce")]
)
def test_against_clarabel(shape, concept):
  pytest.importorskip("cvxpy", reason="needs the baselines extra")
  from launch.baselines import convex

  games = games_of(*shape, seed=1, count=5)
  # Clarabel gets the games in normalised units.
  units = games.std(tuple(range(2, games.ndim)), keepdims=True)
  target = np.random.default_rng(2).dirichlet(np.full(math.prod(shape), 2.0)).reshape(shape)
  problem = convex.Reference(shape, concept, tolerance=1e-12)
  for chosen in (None, target):
    selection = "max_entropy" if chosen is None else Selection(target=chosen)
    found = solved(games, concept=concept, selection=selection, batched=True, **EXACT)
    assert found.converged.all()
    for game, joint in zip(games / units, found.joint, strict=True):
      expected = problem.solve(game, target=chosen)
      # The status may say "nearly". The distance below decides.
      assert expected.status.startswith("optimal")
      # Pinsker's inequality bounds the distance, since the divergence is at most 1e-8.
      assert half_l1(joint[None], expected.joint)[0] <= math.sqrt(0.5e-8)


# Batches.


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_answers_do_not_depend_on_neighbours(concept, precision, monkeypatch):
  """A game has the same answer alone, in another order, and on any number of threads."""
  games = games_of(3, 5, seed=3, count=53)
  # These two games need another number of steps than the others.
  games[7], games[20] = 0, np.eye(3, 5)
  options = {"concept": concept, "precision": precision}
  together = solved(games, **options)
  assert len(np.unique(together.iterations)) > 3
  same = same_bits if concept == "cce" else nearly_same(TOLERANCE[precision])
  order = np.random.default_rng(4).permutation(len(games))
  same(solved(games[order], **options), jax.tree.map(lambda x: x[order], together))
  for b in range(0, len(games), 5):
    same(solved(games[b], **options), jax.tree.map(lambda x: x[b], together))
  for threads in (1, 2, 7):
    monkeypatch.setattr(cpu, "threads", lambda threads=threads: threads)
    same(solved(games, **options), together)


def test_four_threads_at_once():
  batches = [games_of(3, 4, seed=seed, count=40) for seed in range(4)]
  alone = [solved(games) for games in batches]

  def solve(k):
    return solved(batches[k % 4])

  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    for k, found in enumerate(pool.map(solve, range(80))):
      same_bits(found, alone[k % 4])
