"""The networks that ship: each loads, is small, and does what its card says."""

import numpy as np
import pytest

from launch import nes_train
import nes_jax
from nes_jax import learner, network, pretrained


@pytest.mark.parametrize("name", pretrained.names())
def test_card_is_true(name):
  net = pretrained.load(name)
  path = pretrained.DIRECTORY / f"{name}.npz"
  assert path.stat().st_size < 1e6 and path.with_suffix(".md").exists()
  assert network.num_parameters(net.params) == net.facts["parameters"]
  shape = min(net.training.shapes, key=lambda shape: abs(shape[0] - 8))
  test = nes_train.held_out(net.training, shape, 64)
  answer = nes_jax.solve(
      test.problem.payoffs,
      concept=net.config.concept,
      selection=nes_train.asked(net.training, test.problem),
      method="neural",
      trained=net,
      batched=True,
  )
  gaps = 0.5 * np.abs(np.asarray(answer.joint - test.joint)).reshape(len(test.joint), -1).sum(1)
  said = net.facts["table"][learner.shape_name(shape)]
  # 64 of the card's games: the mean is usually within a tenth.
  np.testing.assert_allclose(gaps.mean(), said["solver_gap"], rtol=0.25)
  np.testing.assert_allclose(np.asarray(answer.gap).mean(), said["gap"], rtol=0.4)


def test_a_network_is_chosen_by_concept_and_shape():
  for concept in ("cce", "ce"):
    assert pretrained.choose(concept, (8, 8), frozenset()).config.concept == concept
  with pytest.raises(ValueError, match="no shipped network.*2-player games with epsilon"):
    pretrained.choose("ce", (8, 8), frozenset({"epsilon"}))
  with pytest.raises(ValueError, match="no shipped network.*5-player games"):
    pretrained.choose("cce", (2,) * 5, frozenset())
