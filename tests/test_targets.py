"""calsheq_jax.targets: the calibrator's reward by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from calsheq_jax import targets as targets_lib
from calsheq_jax.targets import Target


def test_reward_by_hand():
  targets = (
      Target("share", 0.2, scale=0.1, weight=3.0, index=(1,)),
      Target("ratio", 2.0, scale=4.0, function=lambda out: out["share"][0] / out["share"][1]),
      Target("height", 5.0, scale=1.0, weight=4.0, tolerance=0.5),
  )
  outputs = {"share": jnp.array([0.6, 0.3]), "height": jnp.array(3.5)}
  values = targets_lib.values_of(targets, outputs)
  np.testing.assert_allclose(values, [0.3, 2.0, 3.5], rtol=1e-6)
  goals = targets_lib.goals_of(targets)
  # Errors 0.1, 0 and 1.5 - 0.5; weights 3, 1 and 4 of 8.
  np.testing.assert_allclose(targets_lib.fits(targets, values, goals), [1 / 2, 1, 1 / 2], rtol=1e-6)
  expected = (3 * 0.5 + 1 * 1 + 4 * 0.5) / 8
  np.testing.assert_allclose(targets_lib.reward(targets, values, goals), expected, rtol=1e-6)
  assert [target.name for target in targets] == ["share[1]", "ratio", "height"]


def test_a_perfect_fit_is_paid_one_and_nothing_else_is():
  targets = targets_lib.vector_targets("percentiles", (1, 2, 3), scale=0.5, weight=2.0, index=(1,))
  assert [target.index for target in targets] == [(1, 0), (1, 1), (1, 2)]
  np.testing.assert_allclose([target.weight for target in targets], 2 / 3)
  goals = targets_lib.goals_of(targets)
  off = goals + 0.3 * jnp.concatenate([jnp.eye(3), -jnp.eye(3)])
  np.testing.assert_allclose(targets_lib.reward(targets, goals, goals), 1.0, rtol=1e-6)
  rewards = targets_lib.reward(targets, off, goals)
  np.testing.assert_allclose(rewards, (2 + 1 / 1.6) / 3, rtol=1e-6)  # the same on either side


@pytest.mark.parametrize(
    "change, message",
    [
        ({"value": float("nan")}, r"target of share\[0\] is nan"),
        ({"scale": 0.0}, r"scale=0.0 of the target share\[0\] must be positive"),
        ({"weight": -1.0}, "weight=-1.0"),
        ({"tolerance": -0.1}, "tolerance=-0.1"),
    ],
)
def test_bad_targets(change, message):
  with pytest.raises(ValueError, match=message):
    Target(**{"output": "share", "value": 0.0, "scale": 1.0, "index": (0,), **change})


def test_residuals_by_hand():
  targets = (
      Target("a", 1.0, scale=2.0, weight=3.0), Target("b", 2.0, scale=0.5, tolerance=0.25),
  )
  values = jnp.array([[0.0, 2.5], [2.0, 2.1]])
  goals = targets_lib.goals_of(targets)
  expected = [[0.75**0.5 / 2, -0.25], [-(0.75**0.5) / 2, 0]]
  np.testing.assert_allclose(targets_lib.residuals(targets, values, goals), expected, rtol=1e-6)


def test_a_whitening_matrix_is_square():
  targets = (Target("a", 0.0, 1.0, whitening=(1.0, 0.0)), Target("b", 0.0, 1.0))
  with pytest.raises(ValueError, match="target b has 0 numbers of a whitening matrix.*2 targets"):
    targets_lib.reward(targets, jnp.zeros(2), jnp.zeros(2))
