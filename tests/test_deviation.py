"""nes_jax.deviation: against the dense tensor of eqs. (1) and (3), in both memory layouts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nes_jax import deviation

SHAPES = [(3, 2), (2, 3, 2)]
CONCEPTS = ["cce", "ce"]
BATCH = 3
covariance = jax.jit(deviation.covariance, static_argnums=2)


def dense_gains(payoffs, concept):
  """The tensor A by loops: payoffs [N, A1, ..., AN] -> a player [Ap, A1, ...] or [Ap, Ap, A1, ...].

  Eq. (1), CE: A_p(i, k, a) = G_p(k, a_-p) - G_p(i, a_-p) if a_p = i, else 0.
  Eq. (3), CCE: A_p(k, a) = G_p(k, a_-p) - G_p(a).
  """
  payoffs = np.asarray(payoffs)
  shape = payoffs.shape[1:]
  tensor = []
  for p, count in enumerate(shape):
    axes = (count,) if concept == "cce" else (count, count)
    block = np.zeros(axes + shape, payoffs.dtype)
    for a in np.ndindex(*shape):
      for k in range(count):
        moved = a[:p] + (k,) + a[p + 1 :]
        gain = payoffs[(p,) + moved] - payoffs[(p,) + a]
        block[((k,) if concept == "cce" else (a[p], k)) + a] = gain
    tensor.append(block)
  return tensor


def flat_gains(payoffs, concept):
  """`dense_gains` as one matrix for each player: [Ap, |A|] or [Ap * Ap, |A|]."""
  shape = np.shape(payoffs)[1:]
  return [x.reshape(-1, int(np.prod(shape))) for x in dense_gains(payoffs, concept)]


def case(shape, concept, batch=(), seed=0):
  """Payoffs [N, *shape, *b], a joint [*shape, *b] and duals, rows deliberately different."""
  rng = np.random.default_rng(seed)
  n = len(shape)
  payoffs = rng.normal(size=(n,) + shape + batch)
  joint = rng.dirichlet(np.ones(int(np.prod(shape))), size=batch)
  joint = np.moveaxis(joint, -1, 0).reshape(shape + batch)
  axes = 1 if concept == "cce" else 2
  duals = tuple(rng.exponential(size=(count,) * axes + batch) for count in shape)
  if batch:
    payoffs = payoffs * 10.0 ** np.arange(batch[0]) + np.arange(batch[0])
  return payoffs, joint, duals


def assert_rows(batched, single, payoffs, *others):
  """Row b of a function of trailing-batch arguments is the function of the b-th rows."""
  outcome = jax.jit(batched)(payoffs, *others)
  single = jax.jit(single)
  for b in range(BATCH):
    row = single(*jax.tree.map(lambda x: x[..., b], (payoffs, *others)))
    mine = jax.tree.map(lambda x: x[..., b], outcome)
    # Absolute error relative to the row's largest entry: rows differ in scale by 10 ** b.
    for x, y in zip(jax.tree.leaves(mine), jax.tree.leaves(row), strict=True):
      np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12 * np.abs(y).max())


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gains(x64, shape, concept):
  payoffs, joint, _ = case(shape, concept)
  blocks = deviation.gains(jnp.asarray(payoffs), jnp.asarray(joint), concept)
  for block, tensor in zip(blocks, dense_gains(payoffs, concept), strict=True):
    expected = np.tensordot(tensor, joint, len(shape))
    np.testing.assert_allclose(block, expected, atol=1e-13)


def test_gains_by_hand():
  payoffs = jnp.array([[[3.0, 0], [5, 1]], [[3, 5], [0, 1]]])
  joint = jnp.array([[0.5, 0.25], [0.25, 0]])
  # Player 1 earns 1.5 + 0 + 1.25; always 0: 3 * 0.75, always 1: 5 * 0.75 + 1 * 0.25.
  coarse = deviation.gains(payoffs, joint, "cce")
  np.testing.assert_allclose(coarse[0], [2.25 - 2.75, 4.0 - 2.75])
  # Told 0 (joint 0.5, 0.25): playing 1 instead gains 2 * 0.5 + 1 * 0.25. Told 1: -2 * 0.25.
  correlated = deviation.gains(payoffs, joint, "ce")
  np.testing.assert_allclose(correlated[0], [[0, 1.25], [-0.5, 0]])


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_logits(x64, shape, concept):
  payoffs, _, duals = case(shape, concept)
  taken = deviation.logits(jnp.asarray(payoffs), tuple(map(jnp.asarray, duals)), concept)
  expected = sum(a.ravel() @ m for a, m in zip(duals, flat_gains(payoffs, concept), strict=True))
  assert taken.shape == shape
  np.testing.assert_allclose(taken.ravel(), expected, atol=1e-12)


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch", [(), (BATCH,)])
def test_transposition(x64, shape, concept, batch):
  """<A sigma, alpha> = <sigma, A' alpha>, for any sigma, whatever its sum."""
  payoffs, joint, duals = jax.tree.map(jnp.asarray, case(shape, concept, batch, seed=1))
  joint = 7 * joint - 0.1
  blocks = deviation.gains(payoffs, joint, concept)
  left = sum((g * a).sum(tuple(range(g.ndim - len(batch)))) for g, a in zip(blocks, duals))
  right = (joint * deviation.logits(payoffs, duals, concept)).sum(tuple(range(len(shape))))
  assert left.shape == batch
  np.testing.assert_allclose(left, right, rtol=1e-11)


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_trailing_batch_axis(x64, shape, concept):
  payoffs, joint, duals = jax.tree.map(jnp.asarray, case(shape, concept, (BATCH,)))
  def gains(g, s):
    return deviation.gains(g, s, concept)
  assert_rows(gains, gains, payoffs, joint)
  def logits(g, a):
    return deviation.logits(g, a, concept)
  assert_rows(logits, logits, payoffs, duals)
  def hessian(g, w):
    return deviation.covariance(g, w, concept)
  assert_rows(hessian, hessian, payoffs, joint)


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_covariance(x64, shape, concept, offset):
  payoffs, weights, _ = case(shape, concept, seed=2)
  weights = 0.3 * weights  # need not sum to one
  w = weights.ravel()
  tensor = flat_gains(payoffs, concept)
  blocks, means, mass = covariance(
      jnp.asarray(payoffs + offset), jnp.asarray(weights), concept
  )
  np.testing.assert_allclose(mass, w.sum())
  assert [len(row) for row in blocks] == [p + 1 for p in range(len(shape))]
  for p, row in enumerate(blocks):
    np.testing.assert_allclose(np.ravel(means[p]), tensor[p] @ w, atol=1e-11)
    for q, block in enumerate(row):
      expected = (tensor[p] * w) @ tensor[q].T
      expected -= np.outer(tensor[p] @ w, tensor[q] @ w) / w.sum()
      np.testing.assert_allclose(block, expected, atol=1e-11)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_covariance_keeps_digits_of_a_concentrated_joint(x64, concept):
  """float32 against float64 where the difference A diag(w) A' - mm'/mass would cancel away."""
  payoffs, weights, _ = case((3, 3), concept, seed=3)
  weights = 1e-6 * weights
  weights[1, 2] = 1.0
  blocks, _, _ = covariance(
      jnp.asarray(payoffs, jnp.float32), jnp.asarray(weights, jnp.float32), concept
  )
  wide, _, _ = covariance(jnp.asarray(payoffs), jnp.asarray(weights), concept)
  scale = max(float(jnp.abs(x).max()) for row in wide for x in row)
  error = max(float(jnp.abs(x - y).max()) for a, b in zip(blocks, wide) for x, y in zip(a, b))
  if concept == "cce":
    assert error < 1e-4 * scale  # usually 1e-6
  else:
    # Written as a difference: what is left is rounding of terms of size one.
    assert error < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_joint_gram(x64, shape):
  payoffs, _, weights = case(shape, "ce", seed=4)
  matrix = deviation.joint_gram(jnp.asarray(payoffs), tuple(map(jnp.asarray, weights)))
  tensor = flat_gains(payoffs, "ce")
  expected = sum((m.T * t.ravel()) @ m for m, t in zip(tensor, weights, strict=True))
  np.testing.assert_allclose(matrix, expected, atol=1e-11)


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("shape", [(3, 2), (2, 3, 2)])
def test_centre_own(x64, shape, concept):
  payoffs, joint, _ = jax.tree.map(jnp.asarray, case(shape, concept, seed=5))
  centred = deviation.centre_own(payoffs)
  for p in range(len(shape)):
    np.testing.assert_allclose(centred[p].mean(p), 0, atol=1e-14)
  # Anything that depends on the others alone disappears with the mean.
  moved = payoffs.at[0].add(100.0 * jnp.arange(shape[1]).reshape((1, -1) + (1,) * (len(shape) - 2)))
  np.testing.assert_allclose(deviation.centre_own(moved), centred, atol=1e-12)
  before = deviation.gains(payoffs, joint, concept)
  after = deviation.gains(centred, joint, concept)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-13), before, after)


def some_strategies(shape, batch=()):
  """All but one of a player with more than two strategies, another one in each row of a batch."""
  masks = []
  for count in shape:
    mask = np.ones((count,) + batch, bool)
    for b in np.ndindex(*batch):
      mask[(sum(b) % count,) + b] = count == 2
    masks.append(jnp.asarray(mask))
  return tuple(masks)


@pytest.mark.parametrize("batch", [(), (BATCH,)])
def test_alive(batch):
  shape = (2, 3, 4)
  masks = some_strategies(shape, batch)
  found = deviation.alive(masks)
  assert found.shape == shape + batch and found.dtype == bool
  for a in np.ndindex(*found.shape):
    b = a[3:]
    assert found[a] == all(mask[(a[p],) + b] for p, mask in enumerate(masks))
  assert 0 < found.sum() < found.size


def assert_same_gains(payoffs, centred, joint, strategies, concept):
  """Gains of deviations between strategies that exist, under a joint of these."""
  before = deviation.gains(payoffs, joint, concept)
  after = deviation.gains(centred, joint, concept)
  for x, y, exists in zip(before, after, strategies, strict=True):
    count = len(x.shape) - (exists.ndim - 1)
    exists = exists if count == 1 else exists[:, None] & exists[None]
    np.testing.assert_allclose(np.where(exists, x, 0), np.where(exists, y, 0), atol=1e-10)


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch", [(), (BATCH,)])
@pytest.mark.parametrize("masked", [False, True])
def test_centre_near_mean(x64, shape, concept, batch, masked):
  payoffs, joint, duals = jax.tree.map(jnp.asarray, case(shape, concept, batch, seed=6))
  every = tuple(jnp.ones((count,) + batch, bool) for count in shape)
  strategies = some_strategies(shape, batch) if masked else every
  alive = deviation.alive(strategies)
  payoffs, joint = jnp.where(alive, payoffs, 0), jnp.where(alive, joint, 0)
  centred = deviation.centre_near_mean(payoffs, duals, concept, strategies if masked else None)
  assert_same_gains(payoffs, centred, joint, strategies, concept)
  for p in range(len(shape)):
    exists = np.asarray(strategies[p])
    weights = np.asarray(duals[p] if concept == "cce" else duals[p].sum(0)) * exists
    # For each play of the others one own strategy, the one nearest to the mean, is left with 0.
    own = np.moveaxis(np.asarray(payoffs[p]), p, 0)
    left = np.moveaxis(np.asarray(centred[p]), p, 0)
    def fit(x):
      return x.reshape(x.shape[:1] + (1,) * (len(shape) - 1) + x.shape[1:])
    mean = (fit(weights / weights.sum(0)) * own).sum(0)
    distance = np.where(fit(exists), np.abs(own - mean), np.inf)
    nearest = np.take_along_axis(own, distance.argmin(0)[None], 0)
    np.testing.assert_allclose(left, np.where(fit(exists), own - nearest, 0), atol=1e-12)


def test_centre_near_mean_without_duals(x64):
  payoffs, joint, duals = jax.tree.map(jnp.asarray, case((3, 2), "cce", seed=7))
  centred = deviation.centre_near_mean(payoffs, (0 * duals[0], duals[1]), "cce")
  assert np.isfinite(centred).all()
  assert_same_gains(
      payoffs, centred, joint, (jnp.ones(3, bool), jnp.ones(2, bool)), "cce"
  )


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masked", [False, True])
def test_centre_at_best(x64, shape, concept, masked):
  payoffs, joint, _ = jax.tree.map(jnp.asarray, case(shape, concept, seed=8))
  every = tuple(jnp.ones(count, bool) for count in shape)
  strategies = some_strategies(shape) if masked else every
  alive = deviation.alive(strategies)
  joint = jnp.where(alive, joint, 0)
  # A strategy that does not exist does not count as a reply.
  junk = jnp.where(alive, payoffs, 1e6)
  centred = deviation.centre_at_best(junk, strategies if masked else None)
  assert_same_gains(jnp.where(alive, payoffs, 0), centred, joint, strategies, concept)
  assert (np.where(alive, 0, centred) == 0).all() and (centred <= 0).all()
  for p in range(len(shape)):
    reachable = np.asarray(alive).any(p)
    best = np.where(alive, centred[p], -np.inf).max(p)
    assert (best[reachable] == 0).all()


def test_centre_at_best_keeps_digits_next_to_a_penalty():
  """float32: regrets of 2 and 1, whatever a third strategy costs."""
  rows = jnp.array([[3.0, 0, 5], [5, 1, 5], [-1e9, -1e9, -1e9]])
  centred = deviation.centre_at_best(jnp.stack([rows, rows.T]))
  np.testing.assert_array_equal(centred[0, :2], [[-2, -1, 0], [0, 0, 0]])
  np.testing.assert_array_equal(centred[1][:, :2], centred[0, :2].T)


def test_least_regret(x64):
  """Regrets by hand: the second strategy is dominant, and the first loses 2 at most."""
  rows = np.array([[3.0, 0, 5], [5, 1, 5], [-1e9, -1e9, -1e9]])
  game = jnp.asarray(np.stack([rows, rows.T]))
  np.testing.assert_array_equal(deviation.least_regret(game), [2, 2])
  # Without player 0's first strategy only the penalty is not dominant; player 1's first loses 1.
  first = (jnp.array([False, True, True]), jnp.ones(3, bool))
  np.testing.assert_array_equal(deviation.least_regret(game, first), [1e9 + 5, 1])
  pennies = jnp.array([[[1.0, -1], [-1, 1]], [[-1, 1], [1, -1]]])
  np.testing.assert_array_equal(deviation.least_regret(pennies), [2, 2])
  np.testing.assert_array_equal(
      deviation.least_regret(pennies, (jnp.ones(2, bool), jnp.array([True, False]))), [2, 0]
  )


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_least_regret_of_rounding_is_zero(x64, offset):
  """Payoffs that depend on the others alone, but for their last digit."""
  payoffs = np.zeros((2, 2, 3)) + np.array([1.0, -2, 7]) / 3 + offset
  payoffs[0, 1] *= 1 + 2e-16
  payoffs[1] = np.random.default_rng(0).normal(size=(2, 3))
  found = deviation.least_regret(jnp.asarray(payoffs))
  assert found[0] == 0 and found[1] > 0


@pytest.mark.parametrize("player", [0, 1, 2])
@pytest.mark.parametrize("batch", [(), (BATCH,)])
def test_own_first_and_back(player, batch):
  shape = (2, 3, 4)
  x = jnp.arange(24 * int(np.prod(batch))).reshape(shape + batch)
  first = deviation.own_first(x, player, 3)
  assert first.shape == (shape[player], 24 // shape[player]) + batch
  np.testing.assert_array_equal(first[1], jnp.take(x, 1, player).reshape((-1,) + batch))
  np.testing.assert_array_equal(deviation.own_back(first, player, shape), x)
