"""nes_jax.solve on games that are not generic: cycles, ties, near-ties, structure.

Right values were derived by hand or with linear programs and Clarabel. Compilation is what costs
time here, so all games of one shape, concept and precision are solved in one batch: `answers`.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch.checks import census
import nes_jax
from nes_jax.games import structured

CONCEPTS = ["cce", "ce"]
# Poker has 9x16 strategies: compiling for them would take longer than all the rest.
KINDS = [name for name in structured.NAMES if name != "poker"]
COPIES = 200
NOISES = (0.0, 1e-9, 1e-8, 1e-6, 1e-4, 1e-2)
_V = 71.0547
NEAR_TIE = np.array([
    [[99, 99, 99, 99], [0, _V, 0, 0], [99, 99, 99, 97.01], [0, 98.01, 98.01, 0]],
    [[99, 0, 0, 99], [99, _V, 98.01, 99], [99, 0, 0, 97.01], [99, 0, 98.01, 99]],
])


def slow(*values):
  """A case of a test that needs a compilation of its own, and is left out of the fast tests."""
  return pytest.param(*values, marks=pytest.mark.slow)


def cycle(n):
  """Player 0 wants to match, and player 1 wants to be one behind: there is no pure equilibrium."""
  return np.stack([np.eye(n), np.roll(np.eye(n), 1, axis=1)])


def kind_games(kind):
  return structured.sample(np.random.default_rng(7), kind, 64, 4)


def near_ties():
  """Games with near-ties: 64 with independent noise for each size of the noise."""
  rng = np.random.default_rng(0)
  return {f"noise {s}": NEAR_TIE + s * rng.standard_normal((64, 2, 4, 4)) for s in NOISES}


@functools.cache
def batch(n):
  """The sets of games of n x n, by name."""
  rng = np.random.default_rng(0)
  sets = {"copies": np.tile(cycle(n), (COPIES, 1, 1, 1))}
  if n == 3:
    sets["swapped"] = np.stack([np.eye(3), np.eye(3)[[0, 2, 1]]])[None]
    matrices = [np.eye(3)[list(order)] for order in itertools.permutations(range(3))]
    sets["permuted"] = np.array([np.stack(pair) for pair in itertools.product(matrices, repeat=2)])
    sets["binary"] = rng.integers(0, 2, (64, 2, 3, 3)).astype(float)
  elif n == 4:
    sets |= near_ties()
  elif n == 5:
    sets["permuted"] = np.array([
        [np.eye(5)[rng.permutation(5)] for _ in range(2)] for _ in range(64)
    ])
  drawn = {kind: kind_games(kind) for kind in KINDS}
  return sets | {kind: games for kind, games in drawn.items() if games.shape[-1] == n}


def solved(games, concept, precision="float64"):
  """Games [B, 2, A1, A2], their solution in NumPy, and residuals and gaps computed again."""
  solution = nes_jax.solve(games, concept=concept, precision=precision, batched=True)
  solution = jax.tree.map(np.asarray, solution)
  return games, solution, *census.recompute(games, solution, concept)


@functools.cache
def answers(n, concept, precision="float64"):
  """All answers of n x n, by name of the set: (games, solution, residuals, gaps)."""
  sets = batch(n)
  if precision == "float32":
    sets = {name: games for name, games in sets.items() if name in KINDS}
  games = np.concatenate(list(sets.values()))
  _, solution, residual, gap = solved(games, concept, precision)
  found, start = {}, 0
  for name, some in sets.items():
    rows = slice(start, start + len(some))
    found[name] = some, jax.tree.map(lambda x: x[rows], solution), residual[rows], gap[rows]
    start = rows.stop
  return found


def width(games):
  """The range of payoffs of each game."""
  return np.ptp(games.reshape(len(games), -1), axis=1)


def entropy(joint):
  return -(joint * np.log(np.maximum(joint, 1e-300))).sum()


def assert_right(found):
  """All converged, the residual computed again agrees, and the gap is small."""
  games, solution, residual, gap = found
  left = np.flatnonzero(~solution.converged)
  assert not len(left), f"{len(left)} of {len(games)} did not converge, the first is {left[0]}"
  assert (residual <= 1e-8).all(), residual.max()
  assert (gap <= 1e-6 * width(games)).all(), (gap / width(games)).max()
  np.testing.assert_allclose(solution.joint.sum((1, 2)), 1, atol=1e-12)


def assert_uniform(found):
  """The joints are uniform, as far as the certificate promises.

  Duals are not unique here: those of opposite deviations may grow together.
  """
  assert_right(found)
  _, solution, _, _ = found
  size = solution.joint[0].size
  # Pinsker's inequality: a divergence of at most 1e-8.
  assert (0.5 * np.abs(solution.joint - 1 / size).sum((1, 2)) <= math.sqrt(0.5e-8)).all()
  entropies = [entropy(joint) for joint in solution.joint]
  np.testing.assert_allclose(entropies, math.log(size), rtol=0, atol=1e-8)
  for block in solution.duals:
    assert np.isfinite(block).all() and (block >= 0).all()


# Cycles.


@pytest.mark.parametrize("n", [3, slow(4), slow(5), slow(8)])
def test_a_cycle_alone(n):
  found = solved(cycle(n)[None], "ce")
  assert_uniform(found)
  assert found[1].iterations[0] <= 30


@pytest.mark.parametrize("n", [3, 4, slow(5)])
def test_copies_of_a_cycle(n):
  found = answers(n, "ce")["copies"]
  assert len(found[0]) == COPIES
  assert_uniform(found)


@pytest.mark.slow
def test_copies_of_a_long_cycle():
  assert_uniform(solved(np.tile(cycle(8), (COPIES, 1, 1, 1)), "ce"))


def test_swapped_rows():
  assert_uniform(answers(3, "ce")["swapped"])


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("n,count", [(3, 36), slow(5, 64)])
def test_permutation_matrices(n, count, concept):
  found = answers(n, concept)["permuted"]
  assert len(found[0]) == count
  assert_right(found)


# Ties and near-ties.


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("noise", NOISES)
def test_near_ties(noise, concept):
  found = answers(4, concept)[f"noise {noise}"]
  assert len(found[0]) == 64
  assert_right(found)


def test_zeros_and_ones():
  assert_right(answers(3, "ce")["binary"])


@pytest.mark.parametrize("concept", CONCEPTS)
def test_all_games_of_three_levels(concept):
  games = np.array(list(itertools.product(range(3), repeat=8)), float).reshape(-1, 2, 2, 2)
  assert len(games) == 6561
  assert_right(solved(games, concept))


@pytest.mark.parametrize("concept", ["cce", slow("ce")])
def test_gradients_at_ties_are_finite(concept, x64):
  coordination = np.stack([np.eye(3), np.eye(3)])
  swapped = np.stack([np.eye(3), np.eye(3)[[0, 2, 1]]])
  games = jnp.array([coordination, swapped, cycle(3), np.zeros((2, 3, 3))])

  @jax.jit
  @jax.vmap
  @jax.value_and_grad
  def corner(payoffs):
    return nes_jax.solve(payoffs, concept=concept).joint[0, 0]

  values, slopes = corner(games)
  np.testing.assert_allclose(values, 1 / 9, atol=2e-5)
  assert slopes.shape == games.shape and np.isfinite(slopes).all()


# Games with structure.


def shape_of(kind):
  return kind_games(kind).shape[-1]


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_in_float64(kind, concept):
  found = answers(shape_of(kind), concept)[kind]
  assert len(found[0]) == 64
  assert_right(found)


@pytest.mark.slow
@pytest.mark.parametrize("concept", CONCEPTS)
def test_kinds_in_float32(concept):
  """All converge, and few have to be solved again in float64."""
  found = answers(3, concept, "float32") | answers(4, concept, "float32")
  assert set(found) == set(KINDS)
  left = {kind: (~solution.converged).sum() for kind, (_, solution, _, _) in found.items()}
  assert not any(left.values()), left
  # Rounding the answer to float32 adds to the residual that the engine saw.
  worst = {kind: residual.max() for kind, (_, _, residual, _) in found.items()}
  assert max(worst.values()) <= 2e-4, worst
  repeated = {kind: solution.repeated.sum() for kind, (_, solution, _, _) in found.items()}
  assert sum(repeated.values()) <= 0.02 * 64 * len(KINDS), repeated


@pytest.mark.parametrize("concept", CONCEPTS)
def test_entropies_against_clarabel(concept):
  pytest.importorskip("cvxpy", reason="needs the baselines extra")
  from launch.baselines import convex

  problem = convex.Reference((4, 4), concept, tolerance=1e-12)
  kinds = [kind for kind in KINDS if shape_of(kind) == 4][:12]
  assert len(kinds) == 12
  for kind in kinds:
    games, solution, _, _ = answers(4, concept)[kind]
    expected = problem.solve(games[0])
    assert entropy(solution.joint[0]) == pytest.approx(entropy(expected.joint), abs=1e-5), kind
