"""calsheq_jax.distributions: every head against SciPy, samples, numerical integrals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from calsheq_jax import distributions
from envs.base import Box

BOX = Box(jnp.array([-1.0, 0.0, 10.0]), jnp.array([3.0, 1.0, 30.0]))
# Two members of a batch whose parameters all differ.
RAW = np.array([[0.3, -0.6, 0.1, 2.0, 1.0, 3.0], [-1.2, 0.8, 2.0, 0.5, 3.0, -1.0]], np.float32)
OTHER = RAW[::-1] + np.float32(0.3)


def make(head, raw=RAW):
  return distributions.distribution(head, jnp.asarray(raw), BOX)


def scipy_of(head, raw=RAW):
  """SciPy's frozen distribution with the same parameters, [2, 3]."""
  raw = np.float64(raw)
  first, second = raw[:, :3], raw[:, 3:]
  low, high = np.float64(BOX.low), np.float64(BOX.high)
  if head == "beta":
    shapes = [1 + np.logaddexp(0, x) for x in (first, second)]
    return stats.beta(*shapes, loc=low, scale=high - low)
  small, large = distributions.SCALES
  scale = np.exp(np.log(small) + np.log(large / small) / (1 + np.exp(-second)))
  half = (high - low) / 2
  return stats.norm((low + high) / 2 + half * first, half * scale)


@pytest.mark.parametrize("head", distributions.HEADS)
def test_agrees_with_scipy(head):
  ours, theirs = make(head), scipy_of(head)
  action = np.float32(BOX.low + (BOX.high - BOX.low) * np.array([0.2, 0.7, 0.45]))
  action = np.stack([action, action + np.float32(0.05)])
  assert distributions.num_parameters(head, 3) == RAW.shape[1]
  np.testing.assert_allclose(ours.log_prob(action), theirs.logpdf(action).sum(-1), rtol=2e-4)
  np.testing.assert_allclose(ours.entropy(), theirs.entropy().sum(-1), rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(ours.mean(), theirs.mean(), rtol=1e-5)


@pytest.mark.parametrize("head", distributions.HEADS)
def test_kl_is_the_integral(head):
  p, q = scipy_of(head), scipy_of(head, OTHER)
  grid = np.linspace(0, 1, 40001)[1:-1, None, None]
  x = p.ppf(grid)  # neighbours have equal probability between them
  expected = (p.logpdf(x) - q.logpdf(x)).mean(0).sum(-1)
  kl = make(head).kl_divergence(make(head, OTHER))
  np.testing.assert_allclose(kl, expected, rtol=5e-3)
  np.testing.assert_allclose(make(head).kl_divergence(make(head)), 0, atol=1e-6)


@pytest.mark.parametrize("head", distributions.HEADS)
def test_samples_follow_the_distribution(head):
  draw = jax.jit(lambda k: make(head).sample(seed=k))
  samples = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(0), 4000)))
  assert samples.shape == (4000, 2, 3)
  theirs = scipy_of(head)
  for row in range(2):
    for column in range(3):
      def one(x):
        return theirs.cdf(np.full((2, 3), x))[row, column]

      values = np.sort(samples[:, row, column])
      distance = np.abs(np.vectorize(one)(values) - (np.arange(4000) + 0.5) / 4000).max()
      # The Kolmogorov-Smirnov distance of 4000 samples exceeds 0.0307 once in a thousand tests.
      # Here it is at most 0.02.
      assert distance < 0.0307
  assert len(np.unique(samples)) > 23000
  if head == "beta":
    assert (samples >= np.asarray(BOX.low)).all() and (samples <= np.asarray(BOX.high)).all()


def test_beta_is_finite_with_finite_slope_at_its_ends():
  def total(raw, x):
    return distributions.distribution("beta", raw, BOX).log_prob(x).sum()

  for end in (BOX.low, BOX.high):
    value, slope = jax.value_and_grad(total)(jnp.asarray(RAW), end)
    assert np.isfinite(value) and np.isfinite(slope).all()


def test_scales_of_a_gaussian_are_bounded_and_start_where_asked():
  small, large = distributions.SCALES
  raw = np.concatenate([np.zeros(3), [-50.0, distributions.scale_offset(0.5), 50.0]])

  def entropy(x):
    return distributions.distribution("gaussian", x, BOX).entropy()

  half = np.array([2.0, 0.5, 10.0])
  expected = np.log(half * [small, 0.5, large] * np.sqrt(2 * np.pi * np.e)).sum()
  np.testing.assert_allclose(entropy(jnp.float32(raw)), expected, rtol=1e-5)
  with pytest.raises(ValueError, match="initial_scale=5"):
    distributions.scale_offset(5)


@pytest.mark.parametrize(
    "low, high, match",
    [
        ([0.0, 1.0], [1.0, 1.0], "low < high"),
        ([0.0], [np.inf], "must be finite"),
        ([0.0, 1.0], [1.0], r"shapes \[2\] and \[1\]"),
        (0.0, 1.0, "two vectors"),
    ],
)
def test_bad_box(low, high, match):
  with pytest.raises(ValueError, match=match):
    distributions.check_box(low, high)


def test_unknown_head():
  with pytest.raises(ValueError, match="head='normal' is not one of gaussian"):
    distributions.num_parameters("normal", 2)
