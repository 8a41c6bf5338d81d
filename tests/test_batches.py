"""nes_jax.solving.batches and nes_jax.solving.chunks: games solved again, and solving in turns."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solutions import EXACT, KNOWN

import nes_jax
from nes_jax import exact, selection
from nes_jax.selection import Selection
from nes_jax.solving import chunks, engines

# A game whose verdict must not depend on the size of its batch.
AWKWARD = np.array([
    [[-0.23065473, -0.44812572, 0.34824547], [-0.30111822, 0.21088472, -0.40236887],
     [-0.78688514, -0.1312968, -0.81506443]],
    [[-0.45088091, 0.07644097, -0.51865643], [0.13555938, -0.74171096, 1.33610763],
     [0.3297886, -0.05176772, 0.63821143]],
])


@pytest.mark.slow
def test_repeated_games_are_judged_by_the_tolerance_asked_for():
  """The payoffs are so small that float64 duals overflow float32, which must not warn."""
  games = 1e-40 * KNOWN
  with warnings.catch_warnings():
    warnings.simplefilter("error", RuntimeWarning)
    solution = nes_jax.solve(games, precision="float32", max_iterations=1)
  assert solution.repeated.any() and solution.converged.all()
  assert np.isinf(solution.duals[0]).any()
  np.testing.assert_allclose(solution.joint[0], [[0, 0], [0, 1]], atol=1e-2)
  residual = np.asarray(solution.residual)[np.asarray(solution.repeated)]
  assert 1e-8 < residual.max() <= 1e-4


@pytest.mark.slow
def test_one_verdict_in_batches_of_any_size():
  found = [nes_jax.solve(AWKWARD, **EXACT)]
  assert found[0].converged
  for count in (2, 128, 300):
    batch = nes_jax.solve(np.stack([AWKWARD] * count), **EXACT)
    assert batch.converged.all()
    np.testing.assert_allclose(
        batch.joint, np.broadcast_to(found[0].joint, (count, 3, 3)), atol=1e-7
    )
    assert (batch.residual <= 1e-8).all()


# A 2x2 game in which the payoffs of player 0 nearly tie. Differences of about 1e-9 decide.
STRAGGLER = np.array([
    [[1.0000000025858937, 1.000000003951207], [1.0000000049088575, 1.0000000032519567]],
    [[-1.0000000017798085, -0.9999999999165333], [-0.9999999957942943, -5.566149221816355e-10]],
])


@functools.cache
def uneven_games(count):
  """2x2 games, one of which needs many more steps than the others."""
  games = np.random.default_rng(14).normal(size=(count, 2, 2, 2))
  games[count // 3] = STRAGGLER
  return games


@pytest.mark.slow
@pytest.mark.parametrize("batch_axis", [0, -1])
def test_turns_give_the_same_answers(x64, batch_axis):
  games = jnp.asarray(uneven_games(64))

  def normalise(game):
    return selection.problem(game, Selection())[0]

  problems = jax.vmap(normalise, 0, batch_axis)(games)
  config = exact.Config.default("cce", jnp.dtype("float64"))
  solve = jax.jit(
      lambda problems, width: exact.solve(
          problems, config, "cce", batch_axis=batch_axis, width=width
      ),
      static_argnums=1,
  )
  plain, turns = solve(problems, None), solve(problems, 16)
  assert (plain.residual <= 1e-8).all()
  assert plain.iterations.max() >= 2 * jnp.median(plain.iterations)
  np.testing.assert_array_equal(turns.iterations, plain.iterations)
  # In the last axis XLA rounds unrolled code by the width, and the duals of STRAGGLER are 1e8.
  if batch_axis == -1:
    turns, plain = turns._replace(duals=()), plain._replace(duals=())
  for found, expected in zip(jax.tree.leaves(turns), jax.tree.leaves(plain), strict=True):
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_large_batches_under_jit_are_solved_in_turns(monkeypatch):
  """A batch of 256 games is solved 32 at a time, and each game takes as many steps as before."""
  monkeypatch.setattr(engines, "choose_engine", lambda *_, **__: "jax")
  games = uneven_games(256).astype(np.float32)
  plain = nes_jax.solve(games)
  assert plain.converged.all() and not plain.repeated.any()
  widths = []

  def narrow(*_):
    widths.append(32)
    return 32

  monkeypatch.setattr(chunks, "_turn_width", narrow)
  turns = jax.jit(nes_jax.solve)(games)
  assert widths
  np.testing.assert_array_equal(turns.iterations, plain.iterations)
  assert turns.converged.all()
  np.testing.assert_allclose(turns.joint, plain.joint, atol=1e-5)


def test_accelerators_solve_only_large_batches_in_turns(monkeypatch):
  def width(games):
    return chunks._turn_width((8, 8), games, "cce", np.dtype("float32"))

  monkeypatch.setattr(chunks.jax, "default_backend", lambda: "gpu")
  assert width(1024) is None and width(2**16) == 2**13
  monkeypatch.setattr(chunks.jax, "default_backend", lambda: "cpu")
  assert width(32) is None and width(1024) < 1024
