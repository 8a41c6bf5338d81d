"""Value iteration of Markov games: known values, cycles, and gains of deviations."""

import itertools

from markov_games import APART
import numpy as np
import pytest

from envs import grid
import nes_jax
from nes_jax import markov


def random_games(seed, batch, states=3, actions=(2, 3)):
  rng = np.random.default_rng(seed)
  reward = rng.uniform(size=(batch, states, len(actions), *actions))
  return reward, rng.dirichlet(np.ones(states), size=(batch, states, *actions))


def iterate(table, **options):
  return markov.value_iteration(table.reward, table.transition, table.discount, **options)


@pytest.mark.parametrize("concept", ["ce", "cce"])
def test_grid_game_1(concept):
  table = grid.grid1()
  found = iterate(table, concept=concept, weights=(1.01, 1))
  # Four steps to the goal: 100 * 0.99^3.
  np.testing.assert_allclose(table.start @ found.values, 97.0299, atol=1e-2)
  assert found.converged and found.cycle == 0 and found.sweeps <= (5 if concept == "ce" else 13)
  assert found.stage_gap < 1e-6 and found.gain.max() < 1e-4


@pytest.mark.parametrize("concept", ["ce", "cce"])
def test_grid_game_2_with_weights(concept):
  table = grid.grid2()
  for weights, wanted in (((1.01, 1), (98.01, 49.005)), ((1, 1.01), (49.005, 98.01))):
    found = iterate(table, concept=concept, weights=weights)
    np.testing.assert_allclose(table.start @ found.values, wanted, atol=1e-2)
    assert found.converged and found.cycle == 0 and found.sweeps == 4
    assert found.certified == 1 and found.stage_gap < 1e-6 and found.gain.max() < 1e-4
    np.testing.assert_allclose(found.policy_values, found.values, atol=1e-4)


def test_symmetric_grid_game_2_cycles():
  table = grid.grid2()
  found = iterate(table, concept="ce", record=True)
  assert not found.converged and found.cycle == 16
  course = found.trajectory[:, int(table.start.argmax()), 0]
  assert len(course) == found.sweeps
  assert abs(course[-16:].max() - 73.51) < 0.01 and abs(course[-16:].min() - 49.23) < 0.01
  np.testing.assert_allclose(course[-16:], course[-32:-16], atol=1e-4)
  # The policy of the mean joints is no equilibrium, and its values are not those that cycle.
  assert 0.1 < (table.start @ found.gain)[0] < 1
  np.testing.assert_allclose(table.start @ found.values, course[-16:].mean(), atol=1e-6)
  assert iterate(table, concept="ce", max_period=15, max_sweeps=60).cycle == 0


@pytest.mark.parametrize("selection", ["max_entropy", "utilitarian", "libertarian"])
def test_soccer(selection):
  table = grid.soccer()
  found = iterate(table, concept="ce", selection=selection)
  np.testing.assert_allclose(table.start @ found.values, (-26.91, 26.91), atol=1e-2)
  joint = found.joint[int(table.start.argmax())]
  # A stays in its place by moving north, too, and B bumps if it does.
  north, south, _, _, stay = range(5)
  for player in range(2):
    own = joint.sum(1 - player)
    assert abs(own[south] - 0.5) < 1e-2 and abs(own[north] + own[stay] - 0.5) < 1e-2
  assert found.gain.max() < 1e-4


def test_ce_and_cce_differ():
  for concept, worth in (("ce", 1.0), ("cce", 2.5)):
    solved = nes_jax.solve(
        APART, concept=concept, selection="max_welfare", precision="float64"
    )
    np.testing.assert_allclose((APART * solved.joint).sum((1, 2)), worth, atol=1e-2)
    found = markov.value_iteration(
        APART[None], np.ones((1, 3, 3, 1)), 0.5, concept=concept
    )
    np.testing.assert_allclose(found.values, 2 * worth, atol=1e-2)
    assert found.gain.max() < 1e-6
  # The CCE is judged by its own concept, and by that of the CE.
  again = markov.deviation_gain(
      APART[None], np.ones((1, 3, 3, 1)), 0.5, found.joint, concept="ce"
  )
  np.testing.assert_allclose(again, 1.0, atol=1e-2)  # (3 - 2) / 2 in each of the steps 1 / (1 - .5)


def test_a_batch_is_one_game_after_another():
  reward, transition = random_games(0, 12)
  for concept in ("ce", "cce"):
    many = markov.value_iteration(reward, transition, 0.8, concept=concept)
    assert many.values.shape == (12, 3, 2) and many.joint.shape == (12, 3, 2, 3)
    for b in range(12):
      one = markov.value_iteration(reward[b], transition[b], 0.8, concept=concept)
      assert (one.sweeps, one.cycle, one.converged) == (
          many.sweeps[b], many.cycle[b], many.converged[b]
      )
      np.testing.assert_allclose(one.values, many.values[b], atol=1e-6)
      np.testing.assert_allclose(one.gain, many.gain[b], atol=1e-6)


def test_stationary_policies_are_equilibria():
  reward, transition = random_games(1, 40, states=4, actions=(2, 2, 2))
  found = markov.value_iteration(reward, transition, 0.9, selection="max_entropy")
  assert found.converged.sum() > 20 and found.stage_gap.max() < 1e-6
  assert found.gain[found.converged].max() < 1e-5
  assert found.gain[~found.converged].max(initial=1) > 1e-4


def test_a_cycle_of_length_two():
  """Every joint is an equilibrium, and the selection asks for two of them by turns."""
  # A player's action changes only the other's payoff.
  reward = np.array([[[[1.0, 0.0], [1.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]]])
  calls = []

  def alternate(payoffs):
    calls.append(len(payoffs))
    welfare = np.zeros((len(payoffs), 2, 2))
    welfare[:, 0, 0] = 1 if len(calls) % 2 else -1
    return nes_jax.Selection(welfare=welfare, welfare_weight=1e4)

  found = markov.value_iteration(reward, np.ones((1, 2, 2, 1)), 0.5, selection=alternate)
  assert found.cycle == 2 and not found.converged
  assert found.sweeps == len(calls)


@pytest.mark.parametrize("selection, wanted", [
    ("max_welfare", (5, 1)), ("min_welfare", (1, 2)), ("egalitarian", (2, 2)),
    ("republican", (5, 1)), ("libertarian", (5, 2)),
])
def test_selections(selection, wanted):
  """Pure equilibria are on the diagonal, and all other joint actions are far worse."""
  payoffs = np.full((2, 3, 3), -50.0)
  for k, pair in enumerate([(5, 1), (2, 2), (1, 2)]):
    payoffs[:, k, k] = pair
  reward, transition = payoffs[None], np.ones((1, 3, 3, 1))
  stage = markov.stage.equilibria(reward, "cce", selection, np.ones(2))
  assert stage.converged.all() and stage.gap.max() < 1e-6
  if selection == "min_welfare":  # mixtures are worse than any pure equilibrium
    assert stage.values.sum() < 3
  elif selection == "libertarian":
    np.testing.assert_allclose(stage.values[0], wanted, atol=0.05)
    np.testing.assert_allclose(stage.joint[0], np.outer(*(
        stage.joint[0].sum(1), stage.joint[0].sum(0)
    )), atol=1e-9)
    assert stage.joint[0].sum(1)[0] > 0.99 and stage.joint[0].sum(0)[0] < 0.01
  else:
    np.testing.assert_allclose(stage.values[0], wanted, atol=0.01)
  found = markov.value_iteration(reward, transition, 0.0, selection=selection)
  np.testing.assert_allclose(found.values, stage.values, atol=1e-6)
  assert set(markov.SELECTIONS) >= {selection}


def loop_gain(reward, transition, discount, joint, concept):
  """Largest gains [S, N] among all deterministic deviations, by plain loops. Two players."""
  states, shape = len(reward), reward.shape[2:]
  cells = list(itertools.product(*map(range, shape)))

  def worth(player, choose):
    value = np.zeros(states)
    for _ in range(200):
      new = np.zeros(states)
      for s in range(states):
        for cell in cells:
          played = list(cell)
          reply = choose(s, cell[player])
          played[player] = cell[player] if reply == shape[player] else reply
          at = (s, *played)
          total = reward[(s, player, *played)] + discount * transition[at] @ value
          new[s] += joint[(s, *cell)] * total
      value = new
    return value

  gains = np.zeros((states, 2))
  for player in range(2):
    base = worth(player, lambda s, told: told)
    count = shape[player]
    told = count if concept == "ce" else 1
    # A reply of `count` follows, which only the CCE player needs.
    replies = range(count if concept == "ce" else count + 1)
    for plan in itertools.product(replies, repeat=states * told):
      def choose(s, part, plan=plan):
        return plan[s * told + (part if concept == "ce" else 0)]
      gains[:, player] = np.maximum(gains[:, player], worth(player, choose) - base)
  return gains


@pytest.mark.parametrize("concept", ["ce", "cce"])
def test_gains_equal_those_of_plain_loops(concept):
  reward, transition = random_games(3, 1, states=2, actions=(2, 2))
  joint = np.random.default_rng(4).dirichlet(np.ones(4), size=2).reshape(2, 2, 2)
  found = markov.deviation_gain(reward[0], transition[0], 0.6, joint, concept=concept)
  assert found.max() > 0.05
  wanted = loop_gain(reward[0], transition[0], 0.6, joint, concept)
  np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_gains_grow_by_units_and_not_by_constants():
  reward, transition = random_games(5, 4)
  joint = np.random.default_rng(6).dirichlet(np.ones(6), size=(4, 3)).reshape(4, 3, 2, 3)
  gain = markov.deviation_gain(reward, transition, 0.9, joint, concept="ce")
  other = markov.deviation_gain(7 * reward + 3, transition, 0.9, joint, concept="ce")
  np.testing.assert_allclose(other, 7 * gain, atol=1e-9)
  coarse = markov.deviation_gain(reward, transition, 0.9, joint, concept="cce")
  assert (gain >= coarse - 1e-12).all()  # who hears its part can do all that who does not can


@pytest.mark.parametrize(
    "change, message",
    [
        ({"discount": 1.0}, "less than 1"),
        ({"discount": -0.1}, "less than 1"),
        ({"concept": "nash"}, "unknown concept 'nash'"),
        ({"selection": "best"}, "unknown selection 'best'; the names are max_entropy"),
        ({"selection": 3}, "selection must be a name"),
        ({"weights": (1, 1, 1)}, "one number of 0 or more for each of 2 players"),
        ({"weights": (0, 0)}, "must not all be 0"),
        ({"initial": np.zeros((2, 2))}, r"initial must be finite values of shape \[3, 2\]"),
        ({"max_sweeps": 0}, "max_sweeps must be an integer"),
        ({"tolerance": 0.0}, "tolerance must be a number between 0 and 1"),
        ({"transition": np.full((3, 2, 3, 3), 0.5)}, "18 rows of transition are no probabilities"),
        ({"transition": np.ones((3, 2, 3, 2)) / 2}, "do not fit"),
        ({"reward": np.ones((3, 2, 2))}, "do not fit"),
        ({"reward": "abc"}, "real numbers"),
    ],
)
def test_bad_arguments_are_named(change, message):
  reward, transition = random_games(0, 1)
  options = {"reward": reward[0], "transition": transition[0], "discount": 0.9} | change
  with pytest.raises(ValueError, match=message):
    markov.value_iteration(**options)


def test_bad_numbers_are_named_with_their_place():
  reward, transition = random_games(0, 2)
  reward[1, 2, 0, 1, 1] = np.nan
  with pytest.raises(ValueError, match=r"1 numbers of reward .* first is at index \[1, 2, 0, 1, 1"):
    markov.value_iteration(reward, transition, 0.9)
  with pytest.raises(ValueError, match=r"first is at index \[2, 0, 1, 1\]"):
    markov.value_iteration(reward[1], transition[1], 0.9)
  with pytest.raises(ValueError, match="record=True is for one game"):
    markov.value_iteration(*random_games(0, 2), 0.9, record=True)
  with pytest.raises(ValueError, match="joint must have shape"):
    markov.deviation_gain(*random_games(0, 2), 0.9, np.ones((3, 2, 3)) / 6)
  with pytest.raises(ValueError, match="sum to 1 in each state"):
    markov.deviation_gain(*random_games(0, 2), 0.9, np.ones((2, 3, 2, 3)))
