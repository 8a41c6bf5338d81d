"""Games, answers of SciPy and checks of a solution, for tests of nes_jax.solve."""

import jax.numpy as jnp
import numpy as np
from scipy import optimize
from test_deviation import flat_gains
from test_metrics import loop_violations

CONCEPTS = ["cce", "ce"]
EXACT = {"precision": "float64"}

DILEMMA = [[[3, 0], [5, 1]], [[3, 5], [0, 1]]]
PENNIES = [[[1, -1], [-1, 1]], [[-1, 1], [1, -1]]]
CHICKEN = [[[6, 2], [7, 0]], [[6, 7], [2, 0]]]
BATTLE = [[[3, 0], [0, 2]], [[2, 0], [0, 3]]]
KNOWN = np.array([DILEMMA, PENNIES, CHICKEN, BATTLE], float)


def random_games(seed=0, count=4, shape=(2, 3, 3)):
  """Games whose scales and offsets differ from row to row and from player to player."""
  rng = np.random.default_rng(seed)
  games = rng.normal(size=(count,) + shape)
  ones = (1,) * (len(shape) - 1)
  scale = 10 ** rng.uniform(-2, 2, size=(count, shape[0]) + ones)
  return scale * (games + rng.normal(size=(count, shape[0]) + ones))


GAMES = random_games()


def reference(payoffs, concept, target=None):
  """The joint of least relative entropy to the target, by SciPy's L-BFGS-B on the dense dual."""
  payoffs = np.asarray(payoffs, float)
  axes = tuple(range(1, payoffs.ndim))
  payoffs = payoffs - payoffs.mean(axes, keepdims=True)
  size = np.abs(payoffs).max(axes, keepdims=True)
  rows = np.concatenate(flat_gains(payoffs / np.where(size > 0, size, 1), concept))
  count = rows.shape[1]
  log_target = np.full(count, -np.log(count)) if target is None else np.log(np.ravel(target))

  def joint(duals):
    logits = log_target - duals @ rows
    weights = np.exp(logits - logits.max())
    return weights / weights.sum(), logits.max() + np.log(weights.sum())

  def loss(duals):
    sigma, value = joint(duals)
    return value, -rows @ sigma

  duals = np.zeros(len(rows))
  options = {"ftol": 1e-16, "gtol": 1e-11, "maxiter": 20_000, "maxfun": 50_000, "maxcor": 30}
  # A new start of the quasi-Newton memory gains digits.
  for _ in range(3):
    duals = optimize.minimize(
        loss, duals, jac=True, bounds=[(0, None)] * len(rows), method="L-BFGS-B", options=options
    ).x
  return joint(duals)[0].reshape(payoffs.shape[1:])


def assert_solution(solution, payoffs, concept, epsilon=0.0):
  """Checks the properties that every converged answer has, under any selection."""
  payoffs = np.asarray(payoffs, float)
  n = payoffs.shape[1]
  assert np.all(solution.converged)
  joint, joint_bytes = np.asarray(solution.joint, float), solution.joint.dtype.itemsize
  assert (joint >= 0).all()
  np.testing.assert_allclose(joint.reshape(len(joint), -1).sum(1), 1, atol=1e-5)
  for p, marginal in enumerate(solution.marginals):
    others = tuple(1 + q for q in range(n) if q != p)
    np.testing.assert_allclose(marginal, joint.sum(others), atol=1e-6)
  size = np.abs(payoffs).max(tuple(range(2, payoffs.ndim)))
  gaps = [loop_violations(g, s, epsilon, concept).sum() for g, s in zip(payoffs, joint)]
  gap = np.asarray(solution.gap, float)
  rounding = {4: 3e-5, 8: 1e-13}[joint_bytes] * size.sum(1)
  assert (np.abs(gap - gaps) <= rounding + 1e-3 * np.array(gaps)).all()
  spread = payoffs.reshape(len(payoffs), n, -1).std(2).sum(1)
  # The residual of a converged answer bounds each player's violation in normalised units.
  tolerance = {4: 1e-4, 8: 1e-8}[joint_bytes]
  assert (np.array(gaps) <= 1.1 * tolerance * spread + rounding).all()


def interior_inputs():
  """A game with a moderate epsilon, so that some constraints bind and the answer is interior."""
  rng = np.random.default_rng(7)
  target = rng.dirichlet(np.full(9, 5.0)).reshape(3, 3)
  return (
      jnp.asarray(3 * rng.normal(size=(2, 3, 3)) + 1),
      jnp.asarray(target),
      jnp.asarray(rng.normal(size=(3, 3))),
      jnp.asarray([0.5, 0.6]),
  )
