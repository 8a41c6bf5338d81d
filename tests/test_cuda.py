"""nes_jax.native.cuda: the answers of its kernels, run on the host, against the JAX engine.

emulation.h runs a warp as 32 fibres. The source of the kernels is that which a GPU gets.
"""

import functools
import pathlib
import re
import shutil
import subprocess

from emulated import MARGIN, SOURCES, STEPS, TOLERANCE, centred, macros, run, spheres
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nes_jax
from nes_jax import deviation, exact, selection
from nes_jax.native import cuda
from nes_jax.solving import engines

GAMUT = pathlib.Path(__file__).parent / "data" / "gamut_8x8.npz"
# Bounds on half the L1 distance of two joints, each of which has a duality gap of at most 1e-4.
FAR, NEAR = 1.5e-2, 5e-3
# Concepts and sizes of the kernels.
SIZES = [("cce", 2), ("cce", 4), ("cce", 8), ("cce", 16), ("ce", 2), ("ce", 4), ("ce", 8)]
# Concepts and sizes of the kernels, and whether games are padded.
KERNELS = [(concept, n, padded) for concept, n in SIZES for padded in (False, True)]
# Bytes of stores, and of loads, of local memory that a kernel may use beside its registers.
SPILLS = 400


@functools.partial(jax.jit, static_argnames="concept")
def reference(games, target, epsilon, concept):
  """The normalised problems of games [B, 2, n, m], centred payoffs, and answers of JAX."""

  def normalise(payoffs, target, epsilon):
    wanted = nes_jax.Selection(target=target, epsilon=epsilon)
    problem, _ = selection.problem(payoffs, wanted)
    return problem, deviation.centre_at_best(problem.payoffs)

  problem, payoffs = jax.vmap(normalise)(games, target, epsilon)
  config = exact.Config.default(
      concept, jnp.float32, tolerance=TOLERANCE, margin=MARGIN, max_iterations=STEPS[concept]
  )
  return problem, payoffs, exact.solve(problem, config, concept, batch_axis=0)


def solve_by_emulation(payoffs, log_target, epsilon, strategies=None, *, concept, **options):
  """Stands in for `cuda.solve` of 4x4 games, and runs the kernels on the host."""
  assert options == {"tolerance": TOLERANCE, "margin": MARGIN, "max_iterations": STEPS[concept]}
  batch, power = len(payoffs), 1 if concept == "cce" else 2
  results = [((batch, 4, 4), np.float32), *[((batch,) + (4,) * power, np.float32)] * 2]
  results += [((batch,), np.float32), ((batch,), np.int32)]

  def on_host(payoffs, epsilon, log_target, masks):
    arrays = [None if x is None else np.asarray(x) for x in (log_target, *(masks or (None, None)))]
    masks = None if arrays[1] is None else arrays[1:]
    given = np.asarray(payoffs), np.asarray(epsilon), arrays[0], masks
    joint, duals, residual, iterations = run(concept, 4, masks is not None, *given)
    return [joint, *duals, residual, iterations]

  joint, *duals, residual, iterations = jax.pure_callback(
      on_host, [jax.ShapeDtypeStruct(*x) for x in results], payoffs, epsilon, log_target, strategies
  )
  return joint, tuple(duals), residual, iterations


@pytest.mark.slow
@pytest.mark.parametrize("concept", ["cce", "ce"])
def test_the_public_call_goes_through_the_kernels(concept, monkeypatch):
  """Calls with targets, masks, marked games and derivatives give the answers of JAX."""
  rng = np.random.default_rng(8)
  games = (10 * spheres(rng, 24, 4, 4) + 5).astype(np.float32)
  target = rng.dirichlet(np.full(16, 2.0)).reshape(4, 4).astype(np.float32)
  chosen = nes_jax.Selection(target=target, epsilon=0.1)
  exist = (np.array([True, False, True, True]), np.ones(4, bool))
  broken = games.copy()
  broken[3, 0, 1, 1] = np.nan
  weights = rng.normal(size=(24, 4, 4)).astype(np.float32)

  def answers():
    def solve(games, **more):
      return nes_jax.solve(games, concept=concept, invalid="mark", **more)

    return [solve(games), solve(broken, selection=chosen), solve(games, strategies=exist)]

  def use(engine):
    monkeypatch.setattr(engines, "choose_engine", lambda *_, **__: engine)

  def value(games):
    return jnp.sum(weights * nes_jax.solve(games, concept=concept).joint)

  expected = answers()
  # The CUDA engine leaves derivatives to the JAX engine.
  use("jax")
  expected_gradient = jax.grad(value)(games)
  use("cuda")
  monkeypatch.setattr(cuda, "solve", solve_by_emulation)
  found, gradient = answers(), jax.grad(value)(games)
  for ours, theirs in zip(found, expected):
    np.testing.assert_array_equal(ours.converged, theirs.converged)
    good = np.asarray(theirs.converged)
    assert good.sum() >= 23
    apart = 0.5 * np.abs(np.asarray(ours.joint) - theirs.joint)[good].sum((1, 2))
    assert apart.max() <= FAR and np.median(apart) <= 1e-4
    np.testing.assert_allclose(ours.epsilon, theirs.epsilon, rtol=1e-6)
    # The unit of payoffs is the power of two near their deviation of 10, for each of two players.
    assert (np.asarray(ours.gap)[good] <= 2 * TOLERANCE * 16).all()
  assert not found[1].converged[3] and np.isnan(found[1].joint[3]).all()
  np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)


def sets(n, m, count):
  """Sets of games by name, as (games, targets, epsilon). All targets but one are uniform."""
  rng = np.random.default_rng(100 * n + m)
  uniform = np.full((count, n, m), 1 / (n * m))
  zero = np.zeros((count, 2))
  games = spheres(rng, count, n, m)
  target = rng.dirichlet(np.full(n * m, 0.3), count).reshape(count, n, m)
  constant = games.copy()
  constant[: count // 2, 0] = 1.5
  constant[count // 4 :, 1] = -2
  result = {
      "spheres": (games, uniform, zero),
      "ties": (rng.integers(0, 3, (count, 2, n, m)).astype(float), uniform, zero),
      "constant": (constant, uniform, zero),
      "epsilon": (games, uniform, rng.uniform(-0.02, 0.3, (count, 2))),
      "target": (games, target, zero),
  }
  if n == m == 8:
    with np.load(GAMUT) as data:
      gamut = np.concatenate([data[name][:4] for name in data.files])
    shape = gamut.shape[:1]
    result["gamut"] = (gamut, np.full(shape + (8, 8), 1 / 64), np.zeros(shape + (2,)))
  return result


def check_same(name, ours, theirs):
  """Checks that answers (joint, duals, residual, iterations) agree up to rounding."""
  joint, duals, residual, iterations = ours
  answer = jax.tree.map(np.asarray, theirs)
  good, wanted = residual <= TOLERANCE, answer.residual <= TOLERANCE
  assert np.mean(good != wanted) <= 5e-3, name
  # Steps may differ by one hundredth, or by two where games are few.
  more = int(iterations.sum()) - int(answer.iterations.sum())
  assert abs(more) <= max(2, 0.01 * answer.iterations.sum()), name
  np.testing.assert_allclose(joint.sum((1, 2)), 1, atol=3e-6, err_msg=name)
  distance = 0.5 * np.abs(joint - answer.joint).sum((1, 2))[good & wanted]
  assert distance.max(initial=0) < FAR, name
  assert np.mean(distance > NEAR) <= 1e-2, name
  assert distance.mean() < 3e-4, name
  for x, y in zip(duals, answer.duals):
    assert np.all((x == 0) == (y == 0)), name
    typical = np.quantile(np.abs(x - y), 0.9)
    assert typical <= 1e-2 * np.quantile(np.abs(y), 0.9) + 1e-4, name


def on_gpu(concept, size, padded, payoffs, epsilon, log_target=None):
  """Runs the kernels as `run` does, on a GPU."""
  options = dict(tolerance=TOLERANCE, margin=MARGIN, max_iterations=STEPS[concept])
  solve = jax.jit(functools.partial(cuda.solve, concept=concept, **options))
  answer = solve(payoffs, log_target, epsilon)
  return jax.tree.map(np.asarray, answer)


def check_sets(concept, size, padded, n, m, count, chosen=None, run=run):
  """Compares all sets of games of one shape."""
  given = {k: v for k, v in sets(n, m, count).items() if chosen is None or k in chosen}
  batch = [np.concatenate(x).astype(np.float32) for x in zip(*given.values())]
  problem, payoffs, answer = jax.tree.map(np.asarray, reference(*batch, concept=concept))
  first = 0
  for name, (games, _, _) in given.items():
    part = slice(first, first + len(games))
    first += len(games)
    log_target = np.log(problem.target[part]) if name == "target" else None
    ours = run(concept, size, padded, payoffs[part], problem.epsilon[part], log_target)
    check_same(name, ours, jax.tree.map(lambda x, part=part: x[part], answer))


@pytest.mark.parametrize("n", [2, 4, 8])
def test_cce_is_that_of_jax(n):
  check_sets("cce", n, False, n, n, 96)


@pytest.mark.slow
def test_cce_of_large_games_is_that_of_jax():
  check_sets("cce", 16, False, 16, 16, 24, ("spheres", "ties", "target"))


@pytest.mark.parametrize(
    "size,n,m", [(4, 3, 4), (8, 7, 2), pytest.param(16, 9, 5, marks=pytest.mark.slow)]
)
def test_cce_of_rectangular_games_is_that_of_jax(size, n, m):
  check_sets("cce", size, True, n, m, 32)


@pytest.mark.parametrize("n,count", [(2, 96), (4, 96), pytest.param(8, 48, marks=pytest.mark.slow)])
def test_ce_is_that_of_jax(n, count):
  check_sets("ce", n, False, n, n, count)


@pytest.mark.parametrize("size,n,m", [(4, 3, 4), pytest.param(8, 7, 2, marks=pytest.mark.slow)])
def test_ce_of_rectangular_games_is_that_of_jax(size, n, m):
  check_sets("ce", size, True, n, m, 32)


@pytest.mark.parametrize("concept,n,m", [
    *((concept, n, n) for concept, n in SIZES), ("cce", 3, 4), ("cce", 9, 5), ("ce", 7, 2)
])
def test_a_gpu_gives_the_same(concept, n, m):
  reason = cuda.available()
  if reason is not None:
    pytest.skip(reason)
  check_sets(concept, None, None, n, m, 1024, run=on_gpu)


def embedded(concept, size, n, m, count, seed=0):
  """Games of size x size, of which n x m strategies exist, and the answers to these."""
  rng = np.random.default_rng(seed)
  games = spheres(rng, count, n, m).astype(np.float32)
  target = rng.dirichlet(np.full(n * m, 0.5), count).reshape(count, n, m).astype(np.float32)
  problem, payoffs, answer = jax.tree.map(
      np.asarray, reference(games, target, np.zeros((count, 2), np.float32), concept=concept)
  )
  rows, columns = np.zeros((2, count, size), bool)
  large = np.zeros((count, 2, size, size), np.float32)
  log_target = np.full((count, size, size), -np.inf, np.float32)
  joint = np.zeros((count, size, size))
  for b in range(count):
    i, j = np.sort(rng.permutation(size)[:n]), np.sort(rng.permutation(size)[:m])
    rows[b, i] = columns[b, j] = True
    large[b][np.ix_([0, 1], i, j)] = payoffs[b]
    log_target[b][np.ix_(i, j)] = np.log(problem.target[b])
    joint[b][np.ix_(i, j)] = answer.joint[b]
  return large, log_target, (rows, columns), joint, answer


def check_masks(concept, size, n, m, count):
  payoffs, log_target, masks, joint, answer = embedded(concept, size, n, m, count)
  zero = np.zeros((count, 2), np.float32)
  ours = run(concept, size, True, payoffs, zero, log_target, masks)
  assert np.all(ours[2] <= TOLERANCE)
  assert abs(ours[3].mean() / answer.iterations.mean() - 1) <= 1e-2
  assert np.all(0.5 * np.abs(ours[0] - joint).sum((1, 2)) < NEAR)
  rows, columns = masks
  assert np.all(ours[0][~(rows[:, :, None] & columns[:, None])] == 0)
  for block, exists in zip(ours[1], masks):
    assert np.all(block[~exists] == 0) and np.all(block[exists].max(-1) > 0)


def test_cce_knows_no_strategies_that_do_not_exist():
  check_masks("cce", 8, 6, 5, 48)


def test_ce_knows_no_strategies_that_do_not_exist():
  check_masks("ce", 8, 3, 4, 32)


def check_no_number(concept):
  """A game with NaN ends early, is marked, and leaves its neighbours unchanged."""
  rng = np.random.default_rng(0)
  payoffs = centred(spheres(rng, 40, 4, 4))
  zero = np.zeros((40, 2), np.float32)
  joint, _, residual, iterations = run(concept, 4, False, payoffs, zero)
  payoffs[7, 1, 2, 0] = np.nan
  bad = np.arange(40) == 7
  marked = run(concept, 4, False, payoffs, zero)
  assert not np.isfinite(marked[2][7]) and marked[3][7] <= 5
  np.testing.assert_array_equal(marked[0][~bad], joint[~bad])
  np.testing.assert_array_equal(marked[3][~bad], iterations[~bad])
  assert np.all(residual <= TOLERANCE)


def test_cce_marks_what_is_no_number():
  check_no_number("cce")


def test_ce_marks_what_is_no_number():
  check_no_number("ce")


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_the_answer_does_not_depend_on_the_queue(chunk):
  rng = np.random.default_rng(0)
  payoffs = centred(spheres(rng, 50, 4, 4))
  zero = np.zeros((50, 2), np.float32)
  wanted = run("cce", 4, False, payoffs, zero)
  for x, y in zip(jax.tree.leaves(wanted), jax.tree.leaves(run(
      "cce", 4, False, payoffs, zero, chunk=chunk))):
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    "concept,size,padded",
    [pytest.param(*k, marks=pytest.mark.slow if k[1] >= 8 else []) for k in KERNELS],
)
def test_kernels_fit_the_registers(concept, size, padded, tmp_path):
  compiler = shutil.which("nvcc")
  if compiler is None:
    pytest.skip("needs nvcc")
  command = [compiler, "-arch=sm_90", "-std=c++17", "-Xptxas", "-v", "-cubin"]
  command += macros(concept, size, padded)
  command += [str(SOURCES / "kernels.cu"), "-o", str(tmp_path / "kernel.cubin")]
  report = subprocess.run(command, capture_output=True, text=True, timeout=300)
  assert report.returncode == 0, report.stderr
  spilled = re.findall(r"(\d+) bytes spill (?:stores|loads)", report.stderr)
  assert len(spilled) == 2 and max(map(int, spilled)) <= SPILLS, report.stderr
