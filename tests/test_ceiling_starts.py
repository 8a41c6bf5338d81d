"""calsheq_jax.ceiling_starts: who wins a customer, and what the designs show."""

import math
import types

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
  numbers = np.asarray(space.numbers(designs.starts(experiments.named("1"))[0].point))
  found, least = percentiles(numbers[7:10], first=8)
  assert tuple(found) == experiments.PERCENTILES_1
  np.testing.assert_allclose(least, 0.05, atol=1e-6)


def test_design_has_the_wanted_share():
  space = experiments.named("1").problem().space
  for start in designs.starts(experiments.named("1")):
    numbers = np.asarray(space.numbers(start.point))
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
    assert start.point.shape == (experiment.problem().space.size,)
    assert (np.abs(start.point) <= 1).all()
    # The share that is wanted is the target's.
    if name in "1345":
      np.testing.assert_allclose(start.wanted[0, 7:] @ (8, 9, 10) / 55, experiments.SHARE_1)


def test_other_environments_have_no_designs():
  assert designs.starts(experiments.named("linear_quadratic")) == []
  small = experiments.resized(experiments.named("2"), clusters=5)
  assert designs.starts(small) == []


def test_steered_by_hand():
  space = experiments.named("1").problem().space
  start = designs.starts(experiments.named("1"))[0]
  before = np.asarray(space.numbers(start.point))
  # Supertype 1 has a quarter of what is wanted in cluster 8, and all of it in 9 and 10.
  seen = np.where(np.isnan(start.wanted), 0.5, start.wanted)
  seen[0, 7] /= 4
  after = np.asarray(space.numbers(designs.steered(space, start.point, start.wanted, seen, 0.25)))
  np.testing.assert_allclose(after[7], before[7] * 2**0.5, rtol=1e-5)
  np.testing.assert_allclose(np.delete(after, 7), np.delete(before, 7), atol=1e-6)
  # Probabilities do not exceed 1.
  seen[0, 7] /= 1e6
  after = np.asarray(space.numbers(designs.steered(space, start.point, start.wanted, seen, 0.5)))
  assert after[7] == 1.0


def test_shown_counts_the_customers_of_both_supertypes():
  small = experiments.resized(experiments.named("1"), horizon=2, customers=5)
  problem = small.problem()
  counts = np.zeros((2, 5, 10), np.int32)  # 2 episodes, 5 merchants
  counts[0, 0, 3], counts[1, 0, 3] = 4, 2  # a mean of 3 of 10 customers
  counts[0, 1, 6], counts[0, 4, 6] = 1, 3  # a mean of 2
  states = types.SimpleNamespace(counts=counts)
  wanted = np.zeros((2, 10))
  wanted[0, 3], wanted[1, 6] = 0.3, 0.2
  np.testing.assert_allclose(designs.shown(problem, states), wanted, rtol=1e-6)
