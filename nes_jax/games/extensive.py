"""Strategic forms of extensive games: poker, and random trees with perfect information.

Strategies, players and cards count from 0 in the formulas. N is the number of players, B the number
of games, and U{i..j} is uniform on the integers from i to j.
"""

import itertools

import numpy as np

Rng = np.random.Generator


def poker_payoffs(cards: int, ante: int | np.ndarray, bet: int | np.ndarray) -> np.ndarray:
  """Exact expected payoffs of the reduced plans of Kuhn's poker (1950) with k cards.

  Both players pay the ante and get different cards. Player 0 bets or checks. After a bet, player 1
  folds or calls. After a check, player 1 checks or bets, and after that bet player 0 folds or
  calls. A player who folds loses the ante. Otherwise the higher card wins the other's ante, and
  also the bet if it was called.

  A plan has one digit per card, card 0 first. Player 0's digits: 0 bet, 1 check and fold,
  2 check and call. Player 1's digits: x + 2 y with x = [calls a bet], y = [bets after a check].

  Args:
    cards: number k of cards, at least 2.
    ante: chips that each player pays before the deal: [B], or a number.
    bet: chips of a bet: [B], or a number.

  Returns:
    float64 [B, 2, 3^k, 4^k], or [2, 3^k, 4^k] where ante and bet are numbers.
  """
  first = np.array(list(itertools.product(range(3), repeat=cards)))
  second = np.array(list(itertools.product(range(4), repeat=cards)))
  # Numbers of antes and of bets that player 0 wins, summed over the deals.
  antes = bets = np.zeros((), int)
  for mine, other in itertools.permutations(range(cards), 2):
    sign = 1 if mine > other else -1
    own, reply = first[:, None, mine], second[None, :, other]
    bet_first, calls, bets_after = own == 0, reply % 2 == 1, reply // 2 == 1
    called = np.where(bet_first, calls, bets_after & (own == 2))
    folded = np.where(bet_first, ~calls, bets_after & (own == 1))
    antes = antes + np.where(folded, np.where(bet_first, 1, -1), sign)
    bets = bets + sign * called
  ante, bet = np.asarray(ante)[..., None, None], np.asarray(bet)[..., None, None]
  total = ante * antes + bet * bets
  return np.stack([total, -total], axis=-3) / (cards * (cards - 1))


def poker_games(rng: Rng, batch: int, a: int) -> np.ndarray:
  """Draws games of `poker_payoffs` with an ante and a bet that are U{1..5}.

  Player 0 has 3^k plans and player 1 has 4^k, where k is the largest number of cards with
  4^k <= a, but at least 2.
  """
  cards = 2
  while 4 ** (cards + 1) <= a:
    cards += 1
  return poker_payoffs(cards, *rng.integers(1, 6, (2, batch)))


def _tree(rng: Rng, limit: int, n: int) -> tuple[list[tuple | None], list[int]]:
  """Draws a game tree.

  Nodes are made from the root down. The first N have different owners. After that, all pairs of an
  owner and a number of actions that keep the owner's strategies within the limit are equally
  likely. A node without such a pair is a leaf, and so is a node at depth 3.

  Args:
    rng: source of random numbers.
    limit: largest number of strategies of a player.
    n: number of players.

  Returns:
    The nodes by their index, and the number of strategies of each player. A leaf is None. Any other
    node is (owner, stride, children): strategy s of the owner takes action
    s // stride mod (number of children), and the children are indices larger than the node's.
  """
  order, counts = rng.permutation(n), [1] * n
  nodes: list[tuple | None] = []
  depths = [0]
  while len(nodes) < len(depths):
    depth = depths[len(nodes)]
    unmoved = [p for p in order if counts[p] == 1]
    owners = unmoved[:1] or (range(n) if depth < 3 else ())
    moves = [(p, k) for p in owners for k in (2, 3) if counts[p] * k <= limit]
    if moves:
      owner, actions = moves[rng.integers(len(moves))]
      nodes.append((owner, counts[owner], range(len(depths), len(depths) + actions)))
      depths += [depth + 1] * actions
      counts[owner] *= actions
    else:
      nodes.append(None)
  return nodes, counts


def perfect_information_games(rng: Rng, batch: int, a: int, n: int) -> np.ndarray:
  """Draws trees with perfect information: u_p = w_p(leaf that is reached), with w_p U{0..9}.

  Nodes have two or three actions and random owners. A strategy is one action at each node of the
  player. A player has at least two strategies and at most a. Games of a batch share the tree and
  the owners, and differ in w. The tree is deeper than three moves only where more players must
  move.
  """
  nodes, counts = _tree(rng, a, n)
  strategies = np.indices(counts)
  # Leaf that is reached from each node, for every joint strategy.
  reached = list(range(len(nodes)))
  for i in reversed(range(len(nodes))):
    node = nodes[i]
    if node is not None:
      owner, stride, children = node
      action = strategies[owner] // stride % len(children)
      reached[i] = np.choose(action, [reached[child] for child in children])
  # Payoffs are drawn for all nodes, and those of the leaves are used.
  worth = rng.integers(0, 10, (batch, n, len(nodes)))
  return worth[:, :, reached[0]]
