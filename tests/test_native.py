"""nes_jax.native, the engine in C++ for CPUs: against the JAX engine, oracles, and misuse.

What the JAX engine answers is in tests/data/native.npz, since compiling its programs takes too
long: native/cases.py has the games and writes that file. All tests but those of other levels go
through `nes_jax.solve`, as users do. Games are float64 NumPy with x64 off unless a test says so.
"""

import concurrent.futures
import ctypes
import functools
import json
import math
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import ml_dtypes
from native import calls, cases
import numpy as np
import pytest
from solutions import KNOWN, assert_solution, interior_inputs

from launch.checks import census
import nes_jax
from nes_jax import exact
from nes_jax.native import cpu
from nes_jax.selection import Selection

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent
pytestmark = pytest.mark.skipif(cpu.reason() is not None, reason=str(cpu.reason()))

CONCEPTS = ["cce", "ce"]
PRECISIONS = ["float32", "float64"]
TOLERANCE = {"float32": 1e-4, "float64": 1e-8}  # of nes_jax.solve
EXACT = {"precision": "float64"}


def slow(*values):
  return pytest.param(*values, marks=pytest.mark.slow)


def games_of(*shape, seed=0, count=16):
  """Games [count, N, *shape] whose scales differ from game to game and from player to player."""
  rng = np.random.default_rng(seed)
  scale = 10 ** rng.uniform(-1, 1, size=(count, len(shape)) + (1,) * len(shape))
  return scale * rng.normal(size=(count, len(shape), *shape))


SQUARE = games_of(4, 4)


def solved(games, **options):
  """`nes_jax.solve` in NumPy."""
  return jax.tree.map(np.asarray, nes_jax.solve(games, **options))


def same_bits(found, expected):
  """The same to the last bit."""
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def nearly_same(tolerance):
  """Solutions of which rounding may be another: a CE's matrices are factored by other means where
  few games of a group are left, so that answers depend in the last digits on who these are.
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


@pytest.fixture
def jax_engine(monkeypatch):
  """Calls go to the JAX engine."""
  monkeypatch.setattr(cpu, "serves", lambda *_: False)


# Against the JAX engine.


@functools.cache
def stored():
  """name -> (case, the native engine's answers, those of the JAX engine)."""
  found, answers = cases.load()
  return {case.name: (case, cases.answer(case), answers[case.name]) for case in found}


NAMES = [case.name for case in cases.load()[0]]
# Cases at whose answers two engines arrive by the same steps. Elsewhere they may part: at games
# with ties rounding decides, strength is nearly linear, and the native engine solves masked games
# as the sub-games that they are, from another start.
PLAIN = ("eights", "three", "four", "warm", "hard", "soft")


def precision_of(name):
  return name.rsplit(" ", 1)[1]


def sizes(case):
  """[B]: standard deviations summed over players of the finite payoffs, the unit of a gap."""
  games = case.games.reshape(*case.games.shape[:2], -1)
  return games.std(2).sum(1)


def decided(case):
  """[B], games that rounding of float32 does not decide.

  Near-ties do not show in float32: joints that are far from the optimum, and gain no more than the
  tolerance by any deviation, have certificates as good as its own.
  """
  rows = np.ones(len(case.games), bool)
  if precision_of(case.name) == "float32":
    for name, some in case.sets.items():
      if name == "travelers":
        rows[some] = False
      elif name.startswith("kind "):  # the half with noise comes last
        rows[some.start + (some.stop - some.start) // 2 : some.stop] = False
  return rows


def half_l1(found, expected):
  """[B], the solver gap."""
  return 0.5 * np.abs(found.astype(float) - expected).reshape(len(found), -1).sum(1)


def assert_same_verdicts(case, found, expected):
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
  tolerance = TOLERANCE[precision_of(case.name)]
  done = expected["converged"] & decided(case)
  same = done & (found["iterations"] == expected["iterations"])
  apart = half_l1(found["joint"], expected["joint"])
  # Pinsker's inequality, twice: both are within the tolerance, a divergence, of the optimum.
  assert (apart[done] <= 2 * math.sqrt(tolerance / 2)).all(), apart[done].max()
  if case.name.startswith(PLAIN):
    # Rounding alone: seen 2e-5 and 8e-12 at most.
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
  # Where float64 stops short of an answer rounding decides.
  done = expected["converged"] & decided(case) & (found["repeated"] == expected["repeated"])
  if not done.any():
    return
  steps, wanted = (x["iterations"][done].mean() for x in (found, expected))
  # With epsilon-plus 500 rounding decides when the residual is small enough.
  most = 0.05 if case.name.startswith("strength") else 0.01 if done.sum() >= 100 else 0.02
  assert abs(steps / wanted - 1) <= most, (steps, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_same_verdicts(name):
  case, found, expected = stored()[name]
  assert expected["converged"].all() != name.startswith("hard")  # some epsilon is infeasible
  assert_same_verdicts(case, found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_same_answers(name):
  assert_same_answers(*stored()[name])


@pytest.mark.parametrize("name", [x for x in NAMES if x.startswith(PLAIN) and " cce " in x])
def test_same_duals(name):
  """Of CCEs; those of CEs are seldom unique (see test_certificates_hold)."""
  _, found, expected = stored()[name]
  same = expected["converged"] & (found["iterations"] == expected["iterations"])
  size = np.abs(expected["duals"]).max(1)
  apart = np.abs(found["duals"].astype(float) - expected["duals"]).max(1)
  # Seen 8e-5 and 5e-12 at most.
  bound = {"float32": 1e-3, "float64": 1e-8}[precision_of(name)]
  assert (apart <= bound * size)[same].all(), (apart / size)[same].max()


@pytest.mark.parametrize("name", NAMES)
def test_same_number_of_steps(name):
  assert_same_steps(*stored()[name])


def of_maximum_entropy():
  """Cases of which `census` can compute the certificate; it compiles for each shape."""
  groups = ("kinds", "eights", "three", "four", "warm")
  names = [name for name in NAMES if name.startswith(groups)]
  return [name if name.startswith("kinds") else slow(name) for name in names]


@pytest.mark.parametrize("name", of_maximum_entropy())
def test_certificates_hold(name):
  """Residuals and gaps computed again, in float64 and from the answers alone."""
  case, _, _ = stored()[name]
  solution = solved(case.games, **case.options)
  residual, gap = census.recompute(case.games, solution, case.options["concept"])
  # Rounding the answer to float32 adds to the residual that the engine saw; where near-ties make
  # large duals, it adds more than a few tolerances.
  bound = {"float32": 2e-4, "float64": 1e-8}[precision_of(name)]
  assert (residual <= bound)[decided(case)].all(), residual.max()
  assert (np.abs(gap - solution.gap) <= bound * sizes(case)).all()


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("group", cases.SELECTIONS)
def test_selections_by_name(group, concept):
  """A selection without a target or welfare is that with those that change nothing."""
  case, together, _ = stored()[f"{group} {concept} float64"]
  given = cases.given()
  for name, rows in case.sets.items():
    found = nes_jax.solve(
        given["square"], concept=concept, selection=cases.selected(given, name), **EXACT
    )
    np.testing.assert_array_equal(found.converged, together["converged"][rows], name)
    # Rounding alone, but for infeasible epsilons; see test_same_answers.
    done = np.flatnonzero(found.converged)
    assert (half_l1(found.joint, together["joint"][rows])[done] <= 1e-8).all(), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hard cce float64", "kinds ce float32"])
def test_the_file_holds_what_the_jax_engine_answers(name, jax_engine):
  case, _, expected = stored()[name]
  now = cases.answer(case)
  np.testing.assert_array_equal(now["converged"], expected["converged"])
  np.testing.assert_array_equal(now["iterations"], expected["iterations"])
  # The same program on another processor.
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
  """With all that a selection may hold."""
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
  units = games.std(tuple(range(2, games.ndim)), keepdims=True)  # Clarabel is told no others
  target = np.random.default_rng(2).dirichlet(np.full(math.prod(shape), 2.0)).reshape(shape)
  problem = convex.Reference(shape, concept, tolerance=1e-12)
  for chosen in (None, target):
    selection = "max_entropy" if chosen is None else Selection(target=chosen)
    found = solved(games, concept=concept, selection=selection, batched=True, **EXACT)
    assert found.converged.all()
    for game, joint in zip(games / units, found.joint, strict=True):
      expected = problem.solve(game, target=chosen)
      assert expected.status.startswith("optimal")  # or nearly so; see the distances
      # Pinsker's inequality: a divergence of at most 1e-8.
      assert half_l1(joint[None], expected.joint)[0] <= math.sqrt(0.5e-8)


# Batches.


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_answers_do_not_depend_on_neighbours(concept, precision, monkeypatch):
  """Alone, in another order, on any number of threads."""
  games = games_of(3, 5, seed=3, count=53)
  games[7], games[20] = 0, np.eye(3, 5)  # some take fewer steps, some more
  options = {"concept": concept, "precision": precision}
  together = solved(games, **options)
  assert len(np.unique(together.iterations)) > 3
  same = same_bits if concept == "cce" else nearly_same(TOLERANCE[precision])
  order = np.random.default_rng(4).permutation(len(games))
  same(solved(games[order], **options), jax.tree.map(lambda x: x[order], together))
  for b in range(0, len(games), 5):
    same(solved(games[b], **options), jax.tree.map(lambda x: x[b], together))
  for threads in (1, 2, 7):
    monkeypatch.setattr(cpu, "_threads", lambda threads=threads: threads)
    same(solved(games, **options), together)


def test_four_threads_at_once():
  batches = [games_of(3, 4, seed=seed, count=40) for seed in range(4)]
  alone = [solved(games) for games in batches]
  def solve(k):
    return solved(batches[k % 4])
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    for k, found in enumerate(pool.map(solve, range(80))):
      same_bits(found, alone[k % 4])


# Transformations.


def all_inputs(dtype=np.float32):
  """Arguments of a call on 16 games, every one an array."""
  given = cases.given()
  fields = {name: given[name].astype(dtype) for name in ("target", "welfare", "epsilon")}
  fields["welfare_weight"] = np.linspace(0, 3, cases.COUNT).astype(dtype)
  masks = given["mask 0"], given["mask 1"]
  alive = calls.outer(masks)
  fields["target"] = np.where(alive, fields["target"] + dtype(1e-3), dtype(0))
  fields["target"] /= fields["target"].sum((1, 2), keepdims=True)
  return given["square"].astype(dtype), fields, masks


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("rho", [np.inf, 1e3])
def test_jit_is_the_plain_call(concept, rho):
  games, fields, masks = all_inputs()
  duals = tuple(x.astype(np.float32) for x in cases.rough_duals(cases.given(), concept))

  def run(games, fields, masks, duals):
    return nes_jax.solve(
        games,
        concept=concept,
        selection=Selection(**fields, rho=rho),
        strategies=masks,
        duals=duals,
        max_iterations=6,
    )

  plain = run(games, fields, masks, duals)
  assert plain.repeated.any() and not plain.repeated.all()  # in float64, also under jit
  assert plain.converged.all()
  same = same_bits if concept == "cce" else nearly_same(TOLERANCE["float32"])
  same(jax.jit(run)(games, fields, masks, duals), plain)
  one = jax.jit(jax.vmap(run))(games, fields, masks, duals)
  same(one, plain)
  def split(tree):
    return jax.tree.map(lambda x: x.reshape(2, 8, *x.shape[1:]), tree)
  blocks = jax.jit(jax.vmap(jax.vmap(run)))(*split((games, fields, masks, duals)))
  same(blocks, split(plain))
  _, turns = jax.jit(
      lambda *xs: jax.lax.scan(lambda carry, x: (carry, run(*x)), None, xs)
  )(*split((games, fields, masks, duals)))
  same(turns, split(plain))


def test_vmap_over_a_selection_alone():
  games = games_of(3, 3, seed=5, count=1)[0].astype(np.float32)
  epsilons = np.linspace(0, 0.5, 4, dtype=np.float32)
  def solve(epsilon):
    return nes_jax.solve(jnp.asarray(games), selection=Selection(epsilon=epsilon))
  together = jax.vmap(solve)(epsilons)
  for b, epsilon in enumerate(epsilons):
    same_bits(jax.tree.map(lambda x: x[b], together), solve(epsilon))
  assert (np.diff(half_l1(together.joint, together.joint[:1])) > 0).all()


@pytest.mark.parametrize("concept", CONCEPTS)
def test_jit_in_float64(x64, concept):
  plain = nes_jax.solve(SQUARE, concept=concept)
  found = jax.jit(functools.partial(nes_jax.solve, concept=concept))(SQUARE)
  assert found.joint.dtype == np.float64 and found.converged.all()
  same_bits(found, plain)


def test_games_that_are_marked_under_jit():
  games = SQUARE.astype(np.float32)
  broken = games.copy()
  broken[3, 1, 2, 2], broken[9, 0, 0, 0] = np.nan, np.inf
  found, plain = jax.jit(nes_jax.solve)(broken), nes_jax.solve(games)
  others = np.delete(np.arange(16), [3, 9])
  def take(tree, rows):
    return jax.tree.map(lambda x: x[rows], tree)
  same_bits(take(found, others), take(plain, others))
  marked = take(found, np.array([3, 9]))
  assert not marked.converged.any() and (marked.iterations == 0).all()
  for x in (marked.joint, marked.gap, marked.residual, *marked.duals, *marked.marginals):
    assert np.isnan(x).all()
  same_bits(nes_jax.solve(broken, invalid="mark"), found)


@pytest.mark.parametrize("traced", ["selection", "duals"])
def test_concrete_games_are_checked_whatever_else_is_traced(traced):
  """Payoffs of -infinity are masks, and NaN is refused."""
  games = games_of(3, 3, seed=6, count=4)
  games[1, 0, 2] = games[2, 1, :, 0] = -np.inf
  inputs = {
      "selection": np.zeros(2),
      "duals": (np.full((4, 3), 0.1),) * 2,
  }[traced]
  wrap = (lambda x: Selection(epsilon=x)) if traced == "selection" else lambda x: x

  def run(games):
    return jax.jit(lambda x: nes_jax.solve(games, **{traced: wrap(x)}))(inputs)

  found = run(games)
  assert found.converged.all()
  expected = nes_jax.solve(games, **{traced: wrap(inputs)})
  # float64 payoffs are narrowed under jit.
  assert (half_l1(np.asarray(found.joint), expected.joint) <= TOLERANCE["float32"]).all()
  with pytest.raises(ValueError, match="NaN or infinite .*the first is game 3"):
    run(np.where(np.arange(4)[:, None, None, None] == 3, np.nan, games))


def test_strategies_alone_may_be_traced():
  games = games_of(3, 3, seed=6, count=4)
  masks = np.array([True, False, True]), np.ones(3, bool)
  found = jax.jit(lambda *masks: nes_jax.solve(games, strategies=masks))(*masks)
  expected = nes_jax.solve(games.astype(np.float32), strategies=masks)
  same_bits(found, expected)


@pytest.mark.parametrize(
    "concept, rho", [("cce", np.inf), slow("cce", 1e3), slow("ce", np.inf), slow("ce", 1e3)]
)
def test_gradients(x64, concept, rho):
  """Both modes, of all outputs but the gap, against differences of the plain call."""
  inputs = tuple(map(np.asarray, interior_inputs()))
  rng = np.random.default_rng(8)
  directions = [rng.normal(size=x.shape) for x in inputs]
  directions[1] -= directions[1].mean()  # stays a distribution
  outputs = ("joint", "epsilon", "duals", "marginals")

  def run(payoffs, target, welfare, epsilon):
    selection = Selection(
        target=target, welfare=welfare, epsilon=epsilon, welfare_weight=0.5, rho=rho
    )
    solution = nes_jax.solve(
        payoffs, concept=concept, selection=selection, tolerance=1e-11, precision="float64"
    )
    return {name: getattr(solution, name) for name in outputs}, solution

  found, solution = run(*inputs)
  assert solution.converged and solution.joint.min() > 1e-5
  assert max(x.max() for x in solution.duals) > 1e-2  # some row binds
  weights = jax.tree.map(lambda x: rng.normal(size=x.shape), found)
  def inner(x, y):
    return sum(jax.tree.leaves(jax.tree.map(lambda a, b: (a * b).sum(), x, y)))

  @jax.jit
  def derivatives(inputs):
    value, pull, _ = jax.vjp(run, *inputs, has_aux=True)
    def push(direction):
      return jax.jvp(lambda *x: run(*x)[0], inputs, direction)[1]
    alone = [
        tuple(d if k == i else np.zeros_like(d) for k, d in enumerate(directions))
        for i in range(4)
    ]
    return value, pull(weights), [push(direction) for direction in alone]

  value, gradients, tangents = derivatives(inputs)
  same_bits(value, found)
  step = 1e-4
  for i, (gradient, tangent, direction) in enumerate(zip(gradients, tangents, directions)):
    def at(h):
      return run(*inputs[:i], inputs[i] + h * direction, *inputs[i + 1 :])[0]
    difference = jax.tree.map(lambda a, b: (a - b) / (2 * step), at(step), at(-step))
    for name in outputs:
      for x, y in zip(jax.tree.leaves(tangent[name]), jax.tree.leaves(difference[name])):
        # As in test_solve.test_gradients.
        size = max(np.abs(y).max(), 1e-4)
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-4 * size, err_msg=f"{i} {name}")
    assert np.abs(difference["joint"]).max() > 1e-4, "no influence: the test tests nothing"
    expected = inner(weights, tangent)
    np.testing.assert_allclose(inner(gradient, direction), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_gradients_of_masked_and_marked_games(x64):
  """A game that is marked spoils no gradient, not even of what all games share."""
  given = cases.given()
  masks = given["mask 0"][:4], given["mask 1"][:4]
  games = given["square"][:4] / given["square"][:4].std((2, 3), keepdims=True)
  alive = calls.outer(masks)
  games[:, :][~np.broadcast_to(alive[:, None], games.shape)] = np.nan
  weights = np.random.default_rng(9).normal(size=(4, 4, 4))

  @jax.jit
  @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
  def slopes(games, epsilon):
    solution = nes_jax.solve(
        games, selection=Selection(epsilon=epsilon), strategies=masks, tolerance=1e-11
    )
    value = jnp.where(solution.converged[:, None, None], weights * solution.joint, 0).sum()
    return value, solution.converged

  (slope, shared), converged = slopes(games, 0.1)
  assert converged.all() and np.isfinite(slope).all() and np.isfinite(shared)
  assert (slope[np.broadcast_to(~alive[:, None], slope.shape)] == 0).all()
  assert np.abs(slope).max() > 1e-2
  broken = games.copy()
  broken[2] = np.nan
  (found, moved), converged = slopes(broken, 0.1)
  np.testing.assert_array_equal(converged, [True, True, False, True])
  others = np.array([0, 1, 3])
  np.testing.assert_array_equal(found[others], slope[others])
  assert (found[2] == 0).all() and np.isfinite(moved)


def on_eight_devices(out):
  """Run in a process of its own; see test_parallel."""
  mesh = jax.make_mesh((8,), ("games",))
  spec = PartitionSpec("games")
  share = jax.sharding.NamedSharding(mesh, spec)
  games = games_of(3, 4, count=48).astype(np.float32)
  sharded = jax.device_put(games, share)
  solve = functools.partial(nes_jax.solve, batched=True)
  spread = functools.partial(
      jax.shard_map, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
  )
  mapped = spread(solve)
  def slope(games):
    return jax.grad(lambda g: (solve(g).joint[:, 0] ** 2).sum())(games)
  each = spread(slope)
  results = {
      "plain": solve(games).joint,
      "sharded": solve(sharded).joint,
      "jit": jax.jit(solve)(sharded).joint,
      "mapped": jax.jit(mapped)(sharded).joint,
      "slope": jax.jit(slope)(games),
      "mapped slope": jax.jit(each)(sharded),
  }
  assert jax.device_count() == 8 and cpu.reason() is None
  assert len(jax.jit(mapped)(sharded).joint.devices()) == 8
  np.savez(out, **results)


def in_a_process(code, seconds=240, **environment):
  """Runs a program with this directory on its path -> its standard output."""
  environment = {"JAX_PLATFORMS": "cpu", **os.environ, **environment}
  environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(HERE)])
  command = [sys.executable, "-X", "faulthandler", "-c", code]
  done = subprocess.run(
      command, env=environment, capture_output=True, text=True, timeout=seconds, check=False
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return done.stdout


def test_eight_devices(tmp_path):
  out = tmp_path / "eight.npz"
  code = f"import test_native; test_native.on_eight_devices({str(out)!r})"
  in_a_process(code, JAX_NUM_CPU_DEVICES="8")
  with np.load(out) as found:
    for name in ("sharded", "jit", "mapped"):
      np.testing.assert_array_equal(found[name], found["plain"], name)
    # Another program: rounding of float32.
    size = np.abs(found["slope"]).max()
    np.testing.assert_allclose(found["mapped slope"], found["slope"], rtol=0, atol=1e-4 * size)


# Robustness.


@pytest.mark.parametrize("first", range(0, 120, 20))
def test_calls_at_random(first):
  for seed in range(first, first + 20):
    calls.run(seed)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_powers_of_two_change_nothing(concept):
  """With hard constraints no payoff is rounded: the answers are the same to the last bit."""
  games = KNOWN + np.arange(8).reshape(2, 2, 2) / 16
  for dtype, powers in ((np.float64, (-990, -300, 300, 1000)), (np.float32, (-110, 100))):
    for precision in PRECISIONS:
      plain = solved(games.astype(dtype), concept=concept, precision=precision)
      assert plain.converged.all()
      for power in powers:
        found = solved(np.ldexp(games.astype(dtype), power), concept=concept, precision=precision)
        for field in ("joint", "residual", "iterations", "converged", "repeated", "marginals"):
          same_bits(getattr(found, field), getattr(plain, field))


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "value", [0.0, 7.0, -1e300, 1e38, 1e-310, 5e-324, np.float32(1e-42), np.float32(3e38)]
)
def test_constant_games(value, precision, concept):
  games = np.full((4, 2, 3, 2), value)
  solution = solved(games, concept=concept, precision=precision)
  assert solution.converged.all() and not solution.repeated.any()
  # As of any answer: a divergence of at most the tolerance.
  atol = math.sqrt(TOLERANCE[precision] / 2)
  np.testing.assert_allclose(solution.joint, 1 / 6, atol=atol)
  assert (solution.gap == 0).all() and all((x == 0).all() for x in solution.duals)


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "low, high, decidable", [(1e-310, 1e-308, True), (1e-320, 1e300, True), (1e-45, 1e38, False)]
)
def test_payoffs_at_both_ends_of_a_type(low, high, decidable, precision, concept):
  """What is below the normal numbers counts as 0; ratios above 1e16 leave some games unsolved."""
  games = np.random.default_rng(3).choice([low, -low, high, -high], size=(40, 2, 3, 4))
  solution = solved(games, concept=concept, precision=precision)
  calls.check(
      calls.Call(games, {"precision": precision}, np.zeros(40, bool)), solution
  )
  assert solution.converged.all() or not decidable


@pytest.mark.parametrize(
    "shape, concept",
    [((1, 1), "cce"), ((1, 1), "ce"), ((1, 6), "cce"), ((1, 6), "ce"), ((40, 1), "cce"),
     ((40, 1), "ce"), ((1, 1, 1), "cce"), ((1, 5, 1), "cce"), ((1, 1, 1, 1, 1, 3), "cce")],
)
def test_players_with_one_strategy(shape, concept):
  """Whoever has a choice makes the best of it; answers on faces come near by the tolerance."""
  games = games_of(*shape, seed=7)
  solution = solved(games, concept=concept, batched=True, **EXACT)
  assert solution.converged.all()
  for p, count in enumerate(shape):
    if count > 1:
      best = games[:, p].reshape(16, count).argmax(1)
      assert (solution.marginals[p][np.arange(16), best] > 1 - 1e-6).all()
    else:
      np.testing.assert_allclose(solution.marginals[p], 1, rtol=0, atol=1e-12)


def test_no_games():
  empty = np.zeros((0, 2, 3, 4))
  with pytest.raises(ValueError, match="no games"):
    nes_jax.solve(empty)
  for concept in CONCEPTS:
    config = exact.Config.default(concept, jnp.dtype("float64"))
    options = cpu.Options(concept, np.dtype("float64"), (cpu.Stage(config, True),), 1e9, 1.0)
    options = options._replace(rho=np.inf)
    masks = np.ones((0, 3), bool), np.ones((0, 4), bool)
    target = np.zeros((0, 3, 4))
    for inputs in (
        cpu.Inputs(empty, 0.0),
        cpu.Inputs(empty, np.zeros((0, 2)), target, target, np.zeros(0), masks),
    ):
      answers, invalid = cpu.solve(inputs, options)
      assert invalid == 0 and answers.joint.shape == (0, 3, 4)


@pytest.mark.parametrize("shape, concept", [((40, 37), "cce"), ((21, 20), "ce"), ((9,) * 4, "cce")])
def test_large_games(shape, concept):
  """Matrices of CEs from 400 joint strategies on are factored one by one."""
  games = games_of(*shape, seed=9, count=3)
  solution = solved(games, concept=concept, batched=True, **EXACT)
  assert_solution(solution, games, concept)
  alone = solved(games[1], concept=concept, batched=False, **EXACT)
  nearly_same(1e-8)(alone, jax.tree.map(lambda x: x[1], solution))


LAYOUTS = {
    "every second": lambda x: np.repeat(x, 2, 0)[::2],
    "reversed": lambda x: np.ascontiguousarray(x[..., ::-1])[..., ::-1],
    "fortran": np.asfortranarray,
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "big endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "read only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "unaligned": lambda x: np.frombuffer(b"." + x.tobytes(), x.dtype, offset=1).reshape(x.shape),
    "jax": jnp.asarray,
    "list": np.ndarray.tolist,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layouts_of_arrays(layout, dtype):
  games, fields, masks = all_inputs(dtype)
  if layout in ("jax", "list") and dtype != {"jax": np.float32, "list": np.float64}[layout]:
    pytest.skip("would convert the payoffs")
  move = LAYOUTS[layout]
  kept = games.copy()
  moved = {name: np.asarray(move(x), dtype) if layout == "list" else move(x)
           for name, x in fields.items()}
  found = solved(
      move(games), selection=Selection(**moved), strategies=tuple(map(np.asfortranarray, masks))
  )
  same_bits(found, solved(games, selection=Selection(**fields), strategies=masks))
  np.testing.assert_array_equal(games, kept)


@pytest.mark.parametrize(
    "dtype, plain",
    [(np.float16, np.float32), (ml_dtypes.bfloat16, np.float32), (np.longdouble, np.float64),
     (np.int8, np.float64), (np.int64, np.float64), (np.uint16, np.float64), (bool, np.float64)],
)
def test_types_of_payoffs(dtype, plain):
  games = (KNOWN > 1).astype(dtype) if dtype is bool else (KNOWN + 1).astype(dtype)
  same_bits(nes_jax.solve(games), nes_jax.solve(games.astype(plain)))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_duals_that_overflow_warn_of_nothing(precision):
  """Of payoffs that are so small that float32 holds the payoffs, but not the duals."""
  games = (3e-38 * KNOWN).astype(np.float32)
  start = nes_jax.solve(games, precision="float64").duals
  with warnings.catch_warnings():
    warnings.simplefilter("error", RuntimeWarning)
    found = nes_jax.solve(games, duals=start, precision=precision)
  assert found.converged.all()


def resident():
  """Bytes of memory that the process holds."""
  with open("/proc/self/statm", encoding="ascii") as file:
    return int(file.read().split()[1]) * resource.getpagesize()


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_does_not_grow():
  games, fields, masks = all_inputs()
  traced = jax.jit(nes_jax.solve)

  def some(count):
    for k in range(count):
      nes_jax.solve(SQUARE[: 1 + k % 3], concept=CONCEPTS[k % 2], batched=True)
      if k % 10 == 0:
        nes_jax.solve(games, selection=Selection(**fields), strategies=masks)
        traced(games)

  some(1000)
  before = resident()
  some(10_000)
  # One of the arrays of a call, kept each time, would be 10 MB.
  assert resident() - before < 4e6


# Levels.


@functools.cache
def levels_here():
  """The levels that were built and that this processor has."""
  library = ctypes.CDLL(str(cpu._library_path("baseline")))
  has = cpu.LEVELS[: library.nes_cpu_level() + 1]
  return [level for level in has if cpu._library_path(level).exists()]


def answers_of_a_level(level, out):
  """Run in a process of its own."""
  assert cpu.level() == level, cpu.reason()
  found = {f"{name}/{field}": x for name, (_, answers, _) in stored().items()
           for field, x in answers.items()}
  np.savez(out, **found)


@pytest.mark.parametrize("level", cpu.LEVELS)
def test_levels_agree(level, tmp_path):
  if level not in levels_here():
    pytest.skip(f"no {level} on this machine")
  out = tmp_path / "level.npz"
  code = f"import test_native; test_native.answers_of_a_level({level!r}, {str(out)!r})"
  in_a_process(code, NES_JAX_CPU=level)
  with np.load(out) as archive:
    arrays = dict(archive)
  for name, (case, in_use, _) in stored().items():
    found = {field: arrays[f"{name}/{field}"] for field in in_use}
    assert_same_verdicts(case, found, in_use)
    assert_same_answers(case, found, in_use)
    assert_same_steps(case, found, in_use)


def test_the_best_level_is_in_use():
  if not os.environ.get("NES_JAX_CPU"):
    assert cpu.level() == levels_here()[-1]
  assert nes_jax.engines()["native"] is None and nes_jax.engines()["jax"] is None
  assert set(nes_jax.engines()) == {"native", "cuda", "jax"}


def test_no_native_engine():
  """Calls go to the JAX engine, and `engines` says why."""
  code = """
import jax, numpy as np, nes_jax
from solutions import KNOWN
print(nes_jax.engines()["native"])
print(nes_jax.native.cpu.level(), nes_jax.native.cpu.reason_traced())
found = nes_jax.solve(KNOWN)
assert found.converged.all() and nes_jax.engines()["jax"] is None
np.testing.assert_allclose(found.joint[1], 0.25, atol=1e-2)
print(len(str(jax.jit(nes_jax.solve).lower(KNOWN.astype(np.float32)).as_text()).split("nes_jax_cpu")))
"""
  expected = ["NES_JAX_CPU=none", "None NES_JAX_CPU=none", "1"]
  assert in_a_process(code, NES_JAX_CPU="none").splitlines() == expected


@pytest.mark.parametrize("level", ["sse9", "AVX2"])
def test_unknown_levels(level):
  code = "import nes_jax; print(nes_jax.engines()['native'])"
  found = in_a_process(code, NES_JAX_CPU=level).strip()
  assert found == f"NES_JAX_CPU={level} is not one of baseline, avx2, avx512, none"


def test_levels_that_the_processor_has_not():
  """No illegal instruction, but a reason."""
  missing = [level for level in cpu.LEVELS if level not in levels_here()]
  if not missing:
    pytest.skip("this processor has all")
  code = """
import numpy as np, nes_jax
from solutions import KNOWN
print(nes_jax.engines()["native"])
if nes_jax.engines()["native"] is None:
  nes_jax.solve(KNOWN, precision="float64")
"""
  assert missing[-1] in in_a_process(code, NES_JAX_CPU=missing[-1])


# Sanitizers.


@functools.cache
def build_settings():
  """What setup.py compiles with: its names, under NES_JAX_SANITIZE."""
  code = (
      "import json, os, runpy, setuptools\n"
      "setuptools.setup = lambda **_: None\n"
      "names = runpy.run_path('setup.py')\n"
      "print(json.dumps([names['COMPILE'], names['CPU_LEVELS']]))"
  )
  done = subprocess.run(
      [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "NES_JAX_SANITIZE": "1"},
      capture_output=True, text=True, check=True,
  )
  return json.loads(done.stdout)


@pytest.mark.slow
def test_sanitizers_find_nothing(tmp_path):
  """Calls at random of a library built with AddressSanitizer and UBSan, on four threads."""
  compiler = shutil.which("g++")
  if compiler is None:
    pytest.skip("needs g++")
  def find(name):
    return subprocess.run(
        [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
  # The sanitizer wants to know of the C++ library from the start.
  runtime = [find("libasan.so"), find("libstdc++.so")]
  if not all(pathlib.Path(path).is_absolute() for path in runtime):
    pytest.skip("needs the libasan of g++")
  flags, levels = build_settings()
  assert any("-fsanitize=address" in flag for flag in flags)
  library = tmp_path / "sanitized.so"
  source = ROOT / "nes_jax" / "native" / "cpu" / "api.cpp"
  command = [compiler, *flags, *levels[cpu.level()], str(source), "-o", str(library)]
  subprocess.run(command, check=True, timeout=900)
  environment = {
      **os.environ,
      "LD_PRELOAD": " ".join(runtime),
      "ASAN_OPTIONS": "detect_leaks=0",
      "UBSAN_OPTIONS": "print_stacktrace=1",
      "PYTHONPATH": str(ROOT),
      "NES_JAX_CPU": cpu.level(),
      "JAX_PLATFORMS": "cpu",
  }
  program = [sys.executable, "-X", "faulthandler", str(HERE / "native" / "calls.py")]
  done = subprocess.run(
      [*program, "100", str(library)],
      env=environment, capture_output=True, text=True, timeout=900, check=False,
  )
  assert done.returncode == 0, done.stderr[-5000:]
  assert f"100 calls of the level {cpu.level()}" in done.stdout
