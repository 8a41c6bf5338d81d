"""nes_jax.games.structured: comparison of each kind with its definition, by small loops."""

from fractions import Fraction
import itertools

import numpy as np
import pytest

from nes_jax.games import structured

TWO_PLAYERS = (
    *("blotto", "few_levels", "hide_and_seek", "permutations", "poker", "shapley", "tournament"),
    *("unit_vector", "zero_sum"),
)
ANY_PLAYERS = (
    *("all_pay_auction", "beauty_contest", "binary", "congestion", "dominated", "duplicated"),
    *("extensive", "first_price_auction", "integers", "ranking", "team", "traveller"),
)
# Numbers of strategies of two players for num_strategies = 8, where they are not 8.
SHAPES = {"blotto": (6, 6), "few_levels": (4, 4), "poker": (9, 16)}
CASES = [(name, 8, 2) for name in TWO_PLAYERS + ANY_PLAYERS]
CASES += [(name, 4, 3) for name in ANY_PLAYERS]


def draw(name, batch=30, num_strategies=5, num_players=2, seed=0):
  return structured.sample(np.random.default_rng(seed), name, batch, num_strategies, num_players)


def profiles(game):
  """All joint strategies of a game [N, A1, ..., AN]."""
  return itertools.product(*map(range, game.shape[1:]))


def cell(game, profile):
  """Payoffs of all players, [N]."""
  return game[(slice(None), *profile)]


def own_first(game, player):
  """A player's payoffs as a matrix, own strategies by the profiles of the others."""
  payoffs = np.moveaxis(game[player], player, 0)
  return payoffs.reshape(len(payoffs), -1)


# All kinds.


def test_names():
  assert structured.NAMES == tuple(sorted(TWO_PLAYERS + ANY_PLAYERS))


@pytest.mark.parametrize("name, num_strategies, num_players", CASES)
def test_shape_type_and_seed(name, num_strategies, num_players):
  games = draw(name, 30, num_strategies, num_players)
  assert games.dtype == np.float64 and np.isfinite(games).all()
  if name == "extensive":
    assert games.shape[:2] == (30, num_players) and games.ndim == 2 + num_players
    assert all(2 <= a <= num_strategies for a in games.shape[2:])
  else:
    shape = SHAPES.get(name, (num_strategies,) * num_players)
    assert games.shape == (30, num_players, *shape)
  np.testing.assert_array_equal(games, draw(name, 30, num_strategies, num_players))
  assert len(np.unique(games.reshape(30, -1), axis=0)) > 5
  other = draw(name, 30, num_strategies, num_players, seed=1)
  assert other.shape != games.shape or (other != games).any()


@pytest.mark.parametrize("name", structured.NAMES)
def test_fewest_strategies(name):
  games = draw(name, 3, 2)
  assert np.isfinite(games).all() and min(games.shape[2:]) >= 2
  # The array can be written to.
  games[:] = 0


def test_unknown_name():
  with pytest.raises(ValueError, match="'bloto'; did you mean 'blotto'.*all_pay_auction.*zero_sum"):
    draw("bloto")
  with pytest.raises(ValueError, match="'qqq'; the kinds are all_pay_auction"):
    draw("qqq")


@pytest.mark.parametrize("name", TWO_PLAYERS)
def test_kinds_for_two_players_refuse_three(name):
  with pytest.raises(ValueError, match=f"'{name}' is for two players.* 3; pass num_players=2"):
    draw(name, num_players=3)


@pytest.mark.parametrize("sizes", [(0, 3, 2), (3, 1, 2), (3, 3, 1)])
def test_sizes_that_are_too_small(sizes):
  with pytest.raises(ValueError, match="at least one game, two strategies and two players"):
    draw("integers", *sizes)


# Noise.


def test_noise_has_the_asked_size():
  games = draw("congestion", 50, 6, 3)
  scale = np.array([game.max() - game.min() for game in games])
  noisy = structured.with_noise(np.random.default_rng(1), games, 0.2)
  noise = (noisy - games).reshape(50, -1) / scale[:, None]
  assert abs(noise.std() / 0.2 - 1) < 0.1 and abs(noise.mean()) < 0.01
  assert (abs(noise.std(axis=1) / 0.2 - 1) < 0.2).all()


def test_no_noise():
  games = draw("integers")
  same = structured.with_noise(np.random.default_rng(1), games, 0)
  assert same is not games
  np.testing.assert_array_equal(same, games)
  constant = np.ones((2, 2, 3, 3))
  noisy = structured.with_noise(np.random.default_rng(1), constant, 0.5)
  np.testing.assert_array_equal(noisy, constant)


@pytest.mark.parametrize("relative", [-0.1, float("nan"), float("inf")])
def test_noise_of_no_size(relative):
  with pytest.raises(ValueError, match="relative"):
    structured.with_noise(np.random.default_rng(1), draw("integers"), relative)


# Random payoffs on few levels.


@pytest.mark.parametrize(
    "name, levels",
    [("integers", range(3)), ("binary", range(2)), ("team", range(4)), ("zero_sum", (-1, 0, 1))],
)
def test_levels(name, levels):
  assert set(np.unique(draw(name))) == set(levels)


@pytest.mark.parametrize("name", ["zero_sum", "tournament", "hide_and_seek", "poker"])
def test_zero_sum(name):
  games = draw(name)
  np.testing.assert_array_equal(games[:, 0], -games[:, 1])
  assert not np.signbit(games[games == 0]).any()


def test_team():
  for game in draw("team", num_strategies=3, num_players=3):
    assert all(len(set(cell(game, profile))) == 1 for profile in profiles(game))


@pytest.mark.parametrize("a, n, most", [(5, 2, 4), (2, 2, 1), (7, 2, 5), (4, 3, 3)])
def test_duplicated(a, n, most):
  games = draw("duplicated", 10, a, n)
  assert set(np.unique(games)) <= set(range(10))
  for game in games:
    for p in range(n):
      # Payoffs of all players by the strategy of player p.
      strategies = np.moveaxis(game, 1 + p, 0).reshape(a, -1)
      assert len(np.unique(strategies, axis=0)) <= most


@pytest.mark.parametrize("a, n", [(5, 2), (2, 2), (4, 3)])
def test_dominated(a, n):
  def dominates(better, worse):
    return set(better - worse) <= {0, 1, 2} and (better == worse).sum() == a ** (n - 1) // 2

  for game in draw("dominated", 20, a, n):
    for p in range(n):
      assert any(dominates(*pair) for pair in itertools.permutations(own_first(game, p), 2))


def test_ranking_for_two_has_a_winner_and_a_loser():
  for game in draw("ranking"):
    assert all(sorted(cell(game, profile)) == [0, 1] for profile in profiles(game))


def test_ranking_for_three():
  def is_ranking(payoffs, worth):
    return any(
        all(worth[p][rank] == payoffs[p] for p, rank in enumerate(ranks))
        for ranks in itertools.permutations(range(3))
    )

  inner = set()
  for game in draw("ranking", 20, 3, 3):
    seconds = [sorted(set(game[p].flat) - {0, 1}) or [0, 1] for p in range(3)]
    inner |= {value for values in seconds for value in values}
    choices = [[(1, second, 0) for second in values] for values in seconds]
    assert any(
        all(is_ranking(cell(game, profile), worth) for profile in profiles(game))
        for worth in itertools.product(*choices)
    )
  assert inner == {0, 0.25, 0.5, 0.75, 1}


# Random matrices.


def test_tournament():
  for first, _ in draw("tournament"):
    for i, j in itertools.product(range(5), repeat=2):
      assert first[i, j] == -first[j, i]
      assert abs(first[i, j]) == (i != j)


def test_unit_vector():
  unit = 0
  for first, second in draw("unit_vector", 200):
    assert all(sorted(column) == [0, 0, 0, 0, 1] for column in first.T)
    if all(sorted(row) == [0, 0, 0, 0, 1] for row in second):
      unit += 1
    else:
      assert set(second.flat) <= set(range(10)) and second.max() > 1
  assert 70 < unit < 130


def test_permutations():
  for matrix in draw("permutations").reshape(-1, 5, 5):
    assert all(sorted(line) == [0, 0, 0, 0, 1] for line in (*matrix, *matrix.T))


def test_shapley_has_one_cycle_of_best_replies():
  plain = 0
  for first, second in draw("shapley", 100):
    assert set(first.flat) | set(second.flat) <= {0, 1, 2, 3}
    assert ((first > 0).sum(), (second > 0).sum()) == (5, 5)
    visited, row = [], 0
    for _ in range(5):
      column = int(second[row].argmax())
      visited.append((row, column))
      row = int(first[:, column].argmax())
      visited.append((row, column))
    assert row == 0 and len(set(visited)) == 10
    assert all(max(first[outcome], second[outcome]) > 0 for outcome in visited)
    plain += max(first.max(), second.max()) == 1
  assert 30 < plain < 70


def test_hide_and_seek():
  for first, _ in draw("hide_and_seek"):
    for i, j in itertools.product(range(5), repeat=2):
      assert first[i, j] in range(1, 10) if i == j else first[i, j] == 0


# Classics.


@pytest.mark.parametrize(
    "num_strategies, fields, soldiers, count",
    [(2, 2, 1, 2), (3, 3, 1, 3), (9, 3, 2, 6), (10, 3, 3, 10), (34, 3, 6, 28), (36, 4, 4, 35)],
)
def test_blotto(num_strategies, fields, soldiers, count):
  plans = itertools.product(range(soldiers + 1), repeat=fields)
  plans = np.array([plan for plan in plans if sum(plan) == soldiers])
  assert len(plans) == count
  games = draw("blotto", 20, num_strategies)
  assert games.shape[2:] == (count, count)
  differences = []
  for values in itertools.product(range(1, 6), repeat=fields):
    difference = np.zeros((count, count))
    for field, value in enumerate(values):
      x, y = plans[:, field, None], plans[None, :, field]
      difference += value * ((x > y).astype(int) - (x < y))
    differences.append(difference)
  kinds = set()
  for first, second in games:
    if (first == -second).all():
      assert any((difference == first).all() for difference in differences)
      kinds.add("zero-sum")
    else:
      assert any(((d > 0) == first).all() and ((d < 0) == second).all() for d in differences)
      kinds.add("winner")
  assert len(kinds) == 2


def values_of(game):
  """Values of the players in an auction, found from bids of 1 by one player and 0 by the others."""
  n = len(game)
  return [cell(game, np.eye(n, dtype=int)[p])[p] + 1 for p in range(n)]


@pytest.mark.parametrize("name", ["first_price_auction", "all_pay_auction"])
@pytest.mark.parametrize("a, n", [(5, 2), (4, 3)])
def test_auctions(name, a, n):
  symmetric = 0
  for game in draw(name, 60, a, n):
    values = values_of(game)
    assert set(values) <= set(range(1, a + 1))
    for bids in profiles(game):
      winners = [p for p in range(n) if bids[p] == max(bids)]
      for p in range(n):
        prize = values[p] / len(winners) if p in winners else 0
        if name == "all_pay_auction":
          cost = bids[p]
        else:
          cost = bids[p] / len(winners) if p in winners else 0
        assert cell(game, bids)[p] == pytest.approx(prize - cost, abs=1e-12)
    if values[0] == values[1]:
      symmetric += 1
      np.testing.assert_array_equal(game[0], np.swapaxes(game[1], 0, 1))
  assert symmetric > 5


def test_auctions_by_hand():
  """With the bids 2, 2 and 1, the first two players share the prize."""
  for game in draw("first_price_auction", 5, 4, 3):
    x, y, _ = values_of(game)
    assert list(cell(game, (2, 2, 1))) == [(x - 2) / 2, (y - 2) / 2, 0]
  for game in draw("all_pay_auction", 5, 4, 3):
    x, y, _ = values_of(game)
    assert list(cell(game, (2, 2, 1))) == [x / 2 - 2, y / 2 - 2, -1]


def contest(factor, shift, guesses):
  """Payoffs of one outcome of the beauty contest."""
  target = factor * (Fraction(sum(guesses), len(guesses)) + shift)
  distances = [abs(guess - target) for guess in guesses]
  nearest = [distance == min(distances) for distance in distances]
  return [float(Fraction(int(near), sum(nearest))) for near in nearest]


@pytest.mark.parametrize("a, n", [(6, 2), (4, 3)])
def test_beauty_contest(a, n):
  factors = (Fraction(1, 2), Fraction(2, 3), Fraction(3, 4))
  expected = {}
  for factor, shift in itertools.product(factors, range(a // 2 + 1)):
    cells = [contest(factor, shift, guesses) for guesses in itertools.product(range(a), repeat=n)]
    expected[factor, shift] = np.moveaxis(np.reshape(cells, (*(a,) * n, n)), -1, 0)
  seen = set()
  for game in draw("beauty_contest", 100, a, n):
    found = [key for key, other in expected.items() if (game == other).all()]
    assert found
    seen.update(found)
  assert seen == set(expected)


def test_beauty_contest_by_hand():
  half, three_quarters = Fraction(1, 2), Fraction(3, 4)
  # The target is 2/3, to which 1 is nearest.
  assert contest(half, 0, (0, 1, 3)) == [0, 1, 0]
  # The target is 1, which is as far from 0 as from 2.
  assert contest(three_quarters, 0, (0, 2, 2)) == [1 / 3] * 3
  # The target is 2, which is a guess.
  assert contest(half, 2, (1, 2, 3)) == [0, 1, 0]
  # With two players, the lower guess wins if nothing is added.
  assert contest(three_quarters, 0, (3, 5)) == [1, 0]
  # The target is 21/4, to which 5 is nearest.
  assert contest(three_quarters, 3, (3, 5)) == [0, 1]
  # If all guesses are 0, all players share, for every factor.
  games = draw("beauty_contest", 5, 4, 3)
  assert (games[:, :, 0, 0, 0] == 1 / 3).all()


@pytest.mark.parametrize("a, n", [(5, 2), (3, 4)])
def test_congestion(a, n):
  for game in draw("congestion", 20, a, n):
    costs = {}
    for profile in profiles(game):
      for p, resource in enumerate(profile):
        costs.setdefault((resource, profile.count(resource)), set()).add(-cell(game, profile)[p])
    assert len(costs) == a * n
    # A cost depends on the resource and the number of its players only.
    assert all(len(cost) == 1 for cost in costs.values())
    for resource in range(a):
      steps = np.diff([0, *(min(costs[resource, load]) for load in range(1, n + 1))])
      assert set(steps) <= {0, 1, 2, 3}
    np.testing.assert_array_equal(game[0], np.swapaxes(game[1], 0, 1))


@pytest.mark.parametrize("a, n", [(5, 2), (4, 3)])
def test_traveller(a, n):
  differ = 0
  for game in draw("traveller", 20, a, n):
    low_high = cell(game, (0, *(1,) * (n - 1)))
    reward, penalty = low_high[0] - 2, 2 - low_high[1]
    assert {reward, penalty} <= set(range(1, a + 1))
    differ += reward != penalty
    for profile in profiles(game):
      claims = [2 + s for s in profile]
      for p, claim in enumerate(claims):
        change = 0 if len(set(claims)) == 1 else reward if claim == min(claims) else -penalty
        assert cell(game, profile)[p] == min(claims) + change
  assert differ > 0


def test_few_levels():
  orders = [np.array(order) for order in itertools.permutations(range(4))]
  for game in draw("few_levels", 5, 9):
    (v,) = set(game.flat) - {0, 99, 97.01, 98.01}
    assert 50 < v < 98
    first = [[99, 99, 99, 99], [0, v, 0, 0], [99, 99, 99, 97.01], [0, 98.01, 98.01, 0]]
    second = [[99, 0, 0, 99], [99, v, 98.01, 99], [99, 0, 0, 97.01], [99, 0, 98.01, 99]]
    base = np.array([first, second])
    assert any((base[:, r][:, :, c] == game).all() for r in orders for c in orders)
