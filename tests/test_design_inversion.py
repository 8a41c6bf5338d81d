"""Payoffs of given equilibria: conditions, priors, errors."""

import numpy as np
import pytest

from nes_jax import design, deviation


def interior(shape, count=None, seed=0):
  size = int(np.prod(shape))
  drawn = np.random.default_rng(seed).dirichlet(np.ones(size), count)
  return drawn.reshape(*(() if count is None else (count,)), *shape)


@pytest.mark.parametrize("shape", [(8, 8), (3, 3, 3)])
def test_targets_are_the_equilibria(shape):
  targets = interior(shape, 16)
  result = design.inverse(targets, batched=True)
  assert result.found.all() and result.solution.converged.all()
  assert result.total_variation.max() < 1e-5
  np.testing.assert_allclose(result.solution.joint, targets, atol=1e-5)


@pytest.mark.slow
def test_512_targets():
  result = design.inverse(interior((8, 8), 512), batched=True)
  assert result.found.mean() >= 0.95
  assert result.solution.gap.max() < 1e-7


def test_conditions_of_an_optimum():
  """The logarithm of the target is the logits of the duals, and no deviation gains."""
  target = interior((4, 5))
  result = design.inverse(target)
  taken = np.asarray(deviation.logits(result.payoffs, result.solution.duals, "cce"))
  difference = np.log(target) + taken
  np.testing.assert_allclose(difference, difference.mean(), atol=1e-3)
  slack = [-np.asarray(x) for x in deviation.gains(result.payoffs, target, "cce")]
  assert min(x.min() for x in slack) > -1e-6
  assert max(x.max() for x in slack) > 1e-3  # not all of them can bind


def test_products_and_the_uniform_joint():
  product = np.multiply.outer([0.5, 0.3, 0.2], [0.1, 0.6, 0.3])
  uniform = np.full((3, 3), 1 / 9)
  result = design.inverse(np.stack([product, uniform]), batched=True)
  assert result.found.all()
  np.testing.assert_allclose(result.payoffs[1], 0, atol=1e-9)


def test_payoffs_stay_near_a_prior():
  target, prior = interior((6, 6)), np.random.default_rng(1).normal(size=(2, 6, 6))
  far, near = design.inverse(target), design.inverse(target, prior)
  assert near.found
  assert near.distance == pytest.approx(np.sqrt(((near.payoffs - prior) ** 2).mean()))
  assert near.distance < np.sqrt(((far.payoffs - prior) ** 2).mean())
  # Payoffs that solve the problem already are kept, up to the choice of the duals.
  again = design.inverse(target, far.payoffs)
  assert again.distance < 0.5 * far.payoffs.std()


def test_joints_without_such_payoffs_are_reported():
  result = design.inverse(interior((2, 2, 2), 8), batched=True)
  assert not result.found.any()
  assert (result.total_variation > 1e-3).all()


@pytest.mark.parametrize(
    "target, prior, message",
    [
        (np.ones(4) / 4, None, "N >= 2 players"),
        (np.eye(3) / 3, None, "positive everywhere"),
        (np.full((3, 3), 0.2), None, "sum to one"),
        (np.full((2, 4), 1 / 8), None, "three strategies or more"),
        (np.full((3, 3), 1 / 9), np.zeros((2, 3, 4)), "prior must be"),
        (np.full((3, 3), 1 / 9), np.full((2, 3, 3), np.nan), "NaN"),
    ],
)
def test_what_is_wrong_is_said(target, prior, message):
  with pytest.raises(ValueError, match=message):
    design.inverse(target, prior)
