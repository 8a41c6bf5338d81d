"""nes_jax.games.extensive: poker by loops over deals, and backward induction on random trees."""

import itertools

import numpy as np
import pytest

from nes_jax.games import extensive, structured


def draw(name, batch=30, num_strategies=5, num_players=2, seed=0):
  return structured.sample(np.random.default_rng(seed), name, batch, num_strategies, num_players)


def showdown(mine, other, own, reply, ante, bet):
  """Amount that player 0 wins in one deal, from the actions for the cards that were dealt."""
  stake = ante + bet
  if own == "bet":
    if reply in ("fold, check", "fold, bet"):
      return ante
  elif reply in ("fold, check", "call, check"):
    stake = ante
  elif own == "check, fold":
    return -ante
  return stake if mine > other else -stake


def poker_by_loops(cards, ante, bet):
  """Payoffs of player 0 as a list of lists."""
  owns = list(itertools.product(("bet", "check, fold", "check, call"), repeat=cards))
  replies = ("fold, check", "call, check", "fold, bet", "call, bet")
  replies = list(itertools.product(replies, repeat=cards))
  deals = list(itertools.permutations(range(cards), 2))

  def mean(own, reply):
    wins = [showdown(i, j, own[i], reply[j], ante, bet) for i, j in deals]
    return sum(wins) / len(deals)

  return [[mean(own, reply) for reply in replies] for own in owns]


@pytest.mark.parametrize("cards, ante, bet", [(2, 1, 1), (2, 3, 2), (3, 1, 4)])
def test_poker_by_loops(cards, ante, bet):
  payoffs = extensive.poker_payoffs(cards, ante, bet)
  np.testing.assert_allclose(payoffs[0], poker_by_loops(cards, ante, bet), atol=1e-12)
  np.testing.assert_array_equal(payoffs[0], -payoffs[1])


def test_value_of_kuhn_poker():
  optimize = pytest.importorskip("scipy.optimize")
  payoffs = extensive.poker_payoffs(3, 1, 1)[0]
  rows, columns = payoffs.shape
  assert (rows, columns) == (27, 64)
  # The variables are a mixture of the rows, and v. The largest v is wanted for which no column pays
  # less than v.
  result = optimize.linprog(
      np.append(np.zeros(rows), -1),
      A_ub=np.column_stack([-payoffs.T, np.ones(columns)]),
      b_ub=np.zeros(columns),
      A_eq=[np.append(np.ones(rows), 0)],
      b_eq=[1],
      bounds=[(0, None)] * rows + [(None, None)],
  )
  assert result.x[-1] == pytest.approx(-1 / 18, abs=1e-9)


@pytest.mark.parametrize("num_strategies, cards", [(2, 2), (63, 2), (64, 3)])
def test_poker_draws_ante_and_bet(num_strategies, cards):
  games = draw("poker", 20, num_strategies)
  sizes = list(itertools.product(range(1, 6), repeat=2))
  table = [extensive.poker_payoffs(cards, *size) for size in sizes]
  for game in games:
    assert game.shape == (2, 3**cards, 4**cards)
    assert sum((game == other).all() for other in table) == 1


def is_pure_equilibrium(game, profile):
  """Whether no player gains by another strategy against the others' strategies of a profile."""
  for p in range(len(game)):
    replies = list(profile)
    replies[p] = slice(None)
    if game[p][tuple(replies)].max() > game[p][profile]:
      return False
  return True


@pytest.mark.parametrize("a, n", [(8, 2), (2, 2), (5, 3), (2, 5), (24, 2)])
def test_extensive(a, n):
  for seed in range(5):
    games = draw("extensive", 60, a, n, seed=seed)
    shape = games.shape[2:]
    for count in shape:  # The number of strategies is a product of twos and threes.
      assert 2 <= count <= a and 6**10 % count == 0
    assert set(np.unique(games)) <= set(range(10))
    leaves = {}
    for profile in itertools.product(*map(range, shape)):
      payoffs = tuple(games[(slice(None), slice(None), *profile)].flat)
      leaves.setdefault(payoffs, []).append(profile)
    assert len(leaves) > n
    # A profile reaches a leaf if every player chooses the actions on the path to it. The set of
    # these profiles is therefore a product of sets of strategies.
    for members in leaves.values():
      assert len(members) == np.prod([len(set(own)) for own in zip(*members)])
    # By backward induction there is a pure equilibrium.
    for game in games[:10]:
      profiles = itertools.product(*map(range, shape))
      assert any(is_pure_equilibrium(game, profile) for profile in profiles)
