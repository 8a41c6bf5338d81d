"""nes_jax.native.cpu: jit, vmap, scan, derivatives and several devices, against plain calls."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from native import calls, cases
from native_answers import (
  CONCEPTS,
  SQUARE,
  TOLERANCE,
  all_inputs,
  games_of,
  half_l1,
  in_a_process,
  nearly_same,
  same_bits,
  slow,
)
import numpy as np
import pytest
from solutions import interior_inputs

import nes_jax
from nes_jax.native import cpu
from nes_jax.selection import Selection

pytestmark = pytest.mark.skipif(cpu.reason() is not None, reason=str(cpu.reason()))


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
  # Some games are solved again in float64, also under jit.
  assert plain.repeated.any() and not plain.repeated.all()
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
  """Payoffs of -infinity are read as masks, and NaN is refused."""
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
  """Derivatives of all outputs but the gap, in both modes, equal differences of plain calls."""
  inputs = tuple(map(np.asarray, interior_inputs()))
  rng = np.random.default_rng(8)
  directions = [rng.normal(size=x.shape) for x in inputs]
  directions[1] -= directions[1].mean()  # The target stays a distribution.
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
  assert max(x.max() for x in solution.duals) > 1e-2  # Some constraint binds.
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
  # The answer that is differentiated has been solved to a smaller residual.
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-7, atol=1e-8), value, found)
  step = 1e-4
  for i, (gradient, tangent, direction) in enumerate(zip(gradients, tangents, directions)):
    def at(h):
      return run(*inputs[:i], inputs[i] + h * direction, *inputs[i + 1 :])[0]

    difference = jax.tree.map(lambda a, b: (a - b) / (2 * step), at(step), at(-step))
    for name in outputs:
      for x, y in zip(jax.tree.leaves(tangent[name]), jax.tree.leaves(difference[name])):
        # The bound is that of test_solve.test_gradients.
        size = max(np.abs(y).max(), 1e-4)
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-4 * size, err_msg=f"{i} {name}")
    assert np.abs(difference["joint"]).max() > 1e-4, "no influence: the test tests nothing"
    expected = inner(weights, tangent)
    np.testing.assert_allclose(inner(gradient, direction), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_gradients_of_masked_and_marked_games(x64):
  """A marked game spoils no gradient, not even that of a field that all games share."""
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
  """Writes answers and slopes of eight devices to a file.

  A process of its own runs this function, as in test_parallel.
  """
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


def test_eight_devices(tmp_path):
  out = tmp_path / "eight.npz"
  code = f"import test_native_transformations as t; t.on_eight_devices({str(out)!r})"
  in_a_process(code, JAX_NUM_CPU_DEVICES="8")
  with np.load(out) as found:
    for name in ("sharded", "jit", "mapped"):
      np.testing.assert_array_equal(found[name], found["plain"], name)
    # The slopes come from different programs, and differ by rounding of float32.
    size = np.abs(found["slope"]).max()
    np.testing.assert_allclose(found["mapped slope"], found["slope"], rtol=0, atol=1e-4 * size)
