"""nes_jax.native.cpu: calls at random, extreme payoffs, layouts and types of arrays, and memory."""

import math
import pathlib
import resource
import warnings

import jax
import jax.numpy as jnp
import ml_dtypes
from native import calls
from native_answers import (
  CONCEPTS,
  EXACT,
  PRECISIONS,
  SQUARE,
  TOLERANCE,
  all_inputs,
  games_of,
  nearly_same,
  same_bits,
  solved,
)
import numpy as np
import pytest
from solutions import KNOWN, assert_solution

import nes_jax
from nes_jax import exact
from nes_jax.native import cpu
from nes_jax.selection import Selection

pytestmark = pytest.mark.skipif(cpu.reason() is not None, reason=str(cpu.reason()))


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
  # An answer has a divergence of at most the tolerance.
  atol = math.sqrt(TOLERANCE[precision] / 2)
  np.testing.assert_allclose(solution.joint, 1 / 6, atol=atol)
  assert (solution.gap == 0).all() and all((x == 0).all() for x in solution.duals)


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "low, high, decidable", [(1e-310, 1e-308, True), (1e-320, 1e300, True), (1e-45, 1e38, False)]
)
def test_payoffs_at_both_ends_of_a_type(low, high, decidable, precision, concept):
  """Payoffs below the normal numbers count as 0. Ratios above 1e16 leave some games unsolved."""
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
  """A player with a choice takes the best strategy, as nearly as the tolerance allows on a face."""
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
  """The engine factors matrices of CEs one by one from 400 joint strategies on."""
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
  """The payoffs are so small that float32 can hold them, but not the duals."""
  games = (3e-38 * KNOWN).astype(np.float32)
  start = nes_jax.solve(games, precision="float64").duals
  with warnings.catch_warnings():
    warnings.simplefilter("error", RuntimeWarning)
    found = nes_jax.solve(games, duals=start, precision=precision)
  assert found.converged.all()


def resident():
  """The number of bytes of memory that the process holds."""
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
  # If each call kept one of its arrays, the memory would grow by 10 MB.
  assert resident() - before < 4e6
