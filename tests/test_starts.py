"""Starting points of the exact engine: duals, and a joint beside them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nes_jax
from nes_jax import exact, network, pretrained, selection, training
from nes_jax.exact import program, start
from nes_jax.games import spheres
from nes_jax.native import cpu
from nes_jax.solving import batches, chunks, engines

CONCEPTS = ("cce", "ce")
SHAPE = (3, 3)
GAMES = np.asarray(spheres.sample(jax.random.key(1), 16, SHAPE), np.float64)
needs_native = pytest.mark.skipif(cpu.reason() is not None, reason=str(cpu.reason()))


def near(concept, games=GAMES, mixed=0.002):
  """A point near the equilibria: duals and joint, both mixed with uniform ones."""
  known = nes_jax.solve(games, concept=concept, precision="float64", batched=True)
  joint = (1 - mixed) * known.joint + mixed / known.joint[0].size
  return known, tuple(x + mixed * (x.max() or 1) for x in map(np.asarray, known.duals)), joint


def solved(concept, duals, joint, engine, strategies=None, games=GAMES, **config):
  """Games solved from a start, by the native or the JAX engine in float64."""
  task = batches.Task(
      concept=concept,
      config=exact.Config.default(concept, jnp.dtype("float64"), np.inf, **config),
      rho=np.inf,
      epsilon_max=1.0,
      axes=batches.Axes(None, None, None, None),
  )
  inputs = batches.Inputs(
      games, nes_jax.Selection(epsilon=np.float64(0)), duals, None, strategies, joint
  )
  dtype = jnp.dtype("float64")
  if engine == "native":
    return chunks.solve_concrete(inputs, task, dtype)[0]
  with engines.precision(dtype):
    return jax.tree.map(np.asarray, chunks.solve_compiled(inputs, 0, task, dtype))


@needs_native
@pytest.mark.parametrize("concept", CONCEPTS)
def test_a_joint_saves_steps(concept):
  known, duals, joint = near(concept)
  cold = solved(concept, None, None, "native")
  warm = solved(concept, duals, joint, "native")
  assert cold.converged.all() and warm.converged.all()
  np.testing.assert_allclose(warm.joint, known.joint, atol=1e-5)
  assert warm.iterations.mean() < 0.8 * cold.iterations.mean()
  # The joint is used: a wrong one beside the same duals takes more steps.
  wrong = np.roll(joint, 1, axis=0)
  other = solved(concept, duals, wrong, "native")
  assert other.converged.all() and other.iterations.mean() > warm.iterations.mean()
  np.testing.assert_allclose(other.joint, known.joint, atol=1e-5)


@needs_native
@pytest.mark.parametrize("concept", CONCEPTS)
def test_both_engines_start_at_the_same_point(concept):
  _, duals, joint = near(concept)
  for limit in (2, 30):
    ours = solved(concept, duals, joint, "native", max_iterations=limit)
    theirs = solved(concept, duals, joint, "jax", max_iterations=limit)
    np.testing.assert_array_equal(ours.iterations, theirs.iterations)
    np.testing.assert_allclose(ours.joint, theirs.joint, atol=1e-6)


@needs_native
def test_a_joint_of_a_masked_game_is_that_of_its_sub_game():
  games = GAMES[:, :, :2]
  _, duals, joint = near("cce", games)
  masks = np.tile([True, True, False], (len(GAMES), 1)), np.ones((len(GAMES), 3), bool)
  padded = (np.pad(duals[0], ((0, 0), (0, 1))), duals[1])
  wide = np.pad(joint, ((0, 0), (0, 1), (0, 0)))
  together = solved("cce", padded, wide, "native", strategies=masks)
  alone = solved("cce", duals, joint, "native", games=games)
  np.testing.assert_array_equal(together.iterations, alone.iterations)
  np.testing.assert_array_equal(together.joint[:, :2], alone.joint)


@pytest.mark.parametrize("rho", [np.inf, 1e3])
def test_products_of_slacks_and_duals_have_a_least(rho):
  """A start that is given on the boundary, or outside, is brought inside and centred."""
  given = nes_jax.Selection(epsilon=0.1, rho=rho)
  problem, _ = selection.problem(jnp.asarray(GAMES[0], jnp.float32), given)
  config = exact.Config.default("cce", jnp.dtype("float32"), rho)
  made = program.make(problem, "cce")
  corner = jnp.zeros(SHAPE).at[0, 0].set(1.0)
  for duals in (0.0, 1e-6, 10.0):
    begin = exact.Start(tuple(jnp.full(n, duals) for n in SHAPE), corner)
    point = start.starting_point(made, problem, config, "cce", begin)
    products = np.concatenate([s * a for s, a in zip(point.slack, point.duals)])
    assert (products > 1e-7).all() and np.isfinite(products).all()
    assert (np.asarray(point.joint) > 0).all() and (np.asarray(point.bound) > 0).all()


def saved_network(path, steps):
  """A network that answers with a joint, of fresh parameters, in a file."""
  net = network.Config(
      "cce", payoff_channels=(4,), dual_channel=4, dual_channels=(4,), rounds=1, newton=steps,
      answer="joint",
  )
  config = training.Config(net, shapes=(SHAPE,), batches=(32,), updates=1, loss="labels")
  state = jax.jit(training.init, static_argnums=1)(jax.random.key(2), config)
  with path.open("wb") as file:
    pretrained.save(file, state.params, config, {})
  return path


@pytest.mark.parametrize("traced", [False, True])
def test_refined_starts_from_the_joint_of_a_network(tmp_path, traced):
  """Refinement leaves out the network's own steps."""
  games = GAMES.astype(np.float32)
  known = nes_jax.solve(games, batched=True)
  steps = {}
  for newton in (0, 3):
    path = saved_network(tmp_path / f"{newton}.npz", newton)

    def refine(games, path=path):
      return nes_jax.solve(games, method="refined", trained=path, batched=True)

    found = jax.jit(refine)(games) if traced else refine(games)
    assert found.converged.all()
    np.testing.assert_allclose(found.joint, known.joint, atol=2e-3)
    steps[newton] = np.asarray(found.iterations)
  np.testing.assert_array_equal(steps[0], steps[3])
