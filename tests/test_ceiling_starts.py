"""calsheq_jax.ceiling_starts: who wins a customer, and what the designs show."""

import math

import numpy as np
import pytest

from calsheq_jax import ceiling_starts as designs
from calsheq_jax import experiments


@pytest.mark.parametrize("first, rest, others", [(0.65, 0.39, 4), (1.0, 0.2, 9), (0.3, 1.0, 2)])
def test_winning_is_the_mean_over_the_number_of_rivals(first, rest, others):
  mean = sum(
      math.comb(others, k) * rest**k * (1 - rest) ** (others - k) / (1 + k)
      for k in range(others + 1)
  )
  np.testing.assert_allclose(designs.winning(first, rest, others), first * mean)


def test_winning_by_hand():
  assert designs.winning(0.5, 0.0, 4) == 0.5
  np.testing.assert_allclose(designs.winning(1.0, 1.0, 4), 1 / 5)


def test_competition_inverts_winning():
  for won in (0.25, 0.4, 0.55):
    rest = designs.competition(0.6, won, 4)
    np.testing.assert_allclose(designs.winning(0.6, rest, 4), won, rtol=1e-6)
  assert designs.competition(0.2, 0.3, 4) < 1e-6
  assert designs.competition(1.0, 0.1, 4) > 1 - 1e-6


def test_linked():
  # With three merchants of probability 1/2, 7 customers of 8 have one of them or more.
  np.testing.assert_allclose(designs.linked(7 / 8, 3), 0.5)


def percentiles(parts, first):
  """The least quantity at which the sum of parts reaches 10%, ..., 90%, and the least distance."""
  reached = np.cumsum(parts) / np.sum(parts)
  levels = np.arange(1, 10) / 10
  least = np.abs(reached[:-1, None] - levels).min()
  return [first + int(np.argmax(reached >= level)) for level in levels], least


def test_parts_have_the_wanted_percentiles():
  found, least = percentiles(designs.QUANTITIES_2, first=1)
  assert tuple(found) == experiments.PERCENTILES_2
  np.testing.assert_allclose(least, 0.05)
  space = experiments.named("1").problem().space
  numbers = np.asarray(space.numbers(designs.starts(experiments.named("1"))[0]))
  found, least = percentiles(numbers[7:10], first=8)
  assert tuple(found) == experiments.PERCENTILES_1
  np.testing.assert_allclose(least, 0.05, atol=1e-6)


def test_design_has_the_wanted_share():
  space = experiments.named("1").problem().space
  for start in designs.starts(experiments.named("1")):
    numbers = np.asarray(space.numbers(start))
    won = sum(
        quantity * designs.winning(numbers[quantity - 1], numbers[10 + quantity - 1], 4)
        for quantity in (8, 9, 10)
    )
    np.testing.assert_allclose(won / 55, experiments.SHARE_1, atol=0.004)


@pytest.mark.parametrize("name", ["1", "2", "3", "4", "5", "recover"])
def test_starts_are_in_the_box(name):
  experiment = experiments.named(name)
  found = designs.starts(experiment)
  assert len(found) == 12
  for start in found:
    assert start.shape == (experiment.problem().space.size,)
    assert (np.abs(start) <= 1).all()


def test_other_environments_have_no_designs():
  assert designs.starts(experiments.named("linear_quadratic")) == []
  small = experiments.resized(experiments.named("2"), clusters=5)
  assert designs.starts(small) == []
