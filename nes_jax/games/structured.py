"""Games with ties and structure, as users bring them: Blotto, auctions, poker, copies, few levels.

Random payoffs of a continuous distribution have no ties. The games here have many: equal payoffs,
several best replies, weak dominance, strategies that are copies. Most payoffs are small integers,
and most equilibria are not isolated.

Parameters differ from game to game, and all games of a batch have one shape. Strategies, players
and cards count from 0 in the formulas.

Glossary: B games, N players, A strategies of a player, a_p the strategy of player p, u_p the payoff
of player p, U uniform, U{i..j} uniform on the integers from i to j, [condition] 1 where it holds
and 0 elsewhere.
"""

import difflib
import itertools
import math
import operator

import numpy as np

Rng = np.random.Generator


def sample(
    rng: Rng, name: str, batch: int, num_strategies: int, num_players: int = 2
) -> np.ndarray:
  """Draws games of one kind.

  Args:
    rng: source of random numbers. Equal states give equal games.
    name: one of `NAMES`.
    batch: B >= 1, number of games.
    num_strategies: A >= 2, of every player. Kinds "blotto", "extensive" and "poker" have about that
      many, and "few_levels" always has four; see their functions.
    num_players: N >= 2.

  Returns:
    float64 [B, N, A1, ..., AN], not normalised.

  Raises:
    ValueError: unknown name, a batch below 1, fewer than two strategies or players, or more than
      two players where the kind has two.
  """
  batch, num_strategies, num_players = map(operator.index, (batch, num_strategies, num_players))
  if name not in NAMES:
    near = difflib.get_close_matches(str(name), NAMES, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"unknown kind {name!r}; {hint}the kinds are {', '.join(NAMES)}")
  if batch < 1 or num_strategies < 2 or num_players < 2:
    raise ValueError(
        f"batch {batch}, num_strategies {num_strategies}, num_players {num_players}: give at least"
        " one game, two strategies and two players"
    )
  kind = _KINDS[name]
  if kind in _ANY_PLAYERS:
    payoffs = kind(rng, batch, num_strategies, num_players)
  elif num_players == 2:
    payoffs = kind(rng, batch, num_strategies)
  else:
    others = ", ".join(n for n in NAMES if _KINDS[n] in _ANY_PLAYERS)
    raise ValueError(
        f"kind {name!r} is for two players and num_players is {num_players}; pass num_players=2, or"
        f" take a kind for any number of players: {others}"
    )
  return np.array(payoffs, np.float64, order="C")


def with_noise(rng: Rng, payoffs: np.ndarray, relative: float) -> np.ndarray:
  """Adds independent Gaussian noise to every payoff, which breaks ties by a chosen amount.

  Args:
    rng: source of random numbers.
    payoffs: [B, N, A1, ..., AN].
    relative: standard deviation of the noise, in units of the game's range, which is the largest
      payoff less the smallest over all players. A constant game has range 0 and gets no noise.

  Returns:
    float64 [B, N, A1, ..., AN], a new array.

  Raises:
    ValueError: `relative` is negative or not finite.
  """
  if not 0 <= relative < math.inf:
    raise ValueError(f"relative {relative}: the size of the noise must be finite, and 0 or more")
  payoffs = np.asarray(payoffs, np.float64)
  scale = np.ptp(payoffs, axis=tuple(range(1, payoffs.ndim)), keepdims=True)
  return payoffs + relative * scale * rng.standard_normal(payoffs.shape)


# Helpers.


def _orders(rng: Rng, batch: int, size: int) -> np.ndarray:
  """Independent random permutations of 0, ..., size - 1: int [B, size]."""
  return rng.permuted(np.tile(np.arange(size), (batch, 1)), axis=1)


def _select(payoffs: np.ndarray, player: int, source: np.ndarray) -> np.ndarray:
  """Replaces strategy a of a player by the old strategy source[b, a] in game b."""
  aligned = [1] * payoffs.ndim
  aligned[0], aligned[2 + player] = source.shape
  return np.take_along_axis(payoffs, source.reshape(aligned), axis=2 + player)


def _opposed(first: np.ndarray) -> np.ndarray:
  """The zero-sum game of player 0's payoffs: [B, A1, A2] -> [B, 2, A1, A2]."""
  return np.stack([first, -first], axis=1)


# Random payoffs on few levels.


def _integers(rng: Rng, batch: int, a: int, n: int) -> np.ndarray:
  """Every payoff is U{0..2}."""
  return rng.integers(0, 3, (batch, n, *(a,) * n))


def _binary(rng: Rng, batch: int, a: int, n: int) -> np.ndarray:
  """Every payoff is U{0..1}."""
  return rng.integers(0, 2, (batch, n, *(a,) * n))


def _team(rng: Rng, batch: int, a: int, n: int) -> np.ndarray:
  """All players have the same payoff, U{0..3}."""
  return rng.integers(0, 4, (batch, 1, *(a,) * n)).repeat(n, axis=1)


def _zero_sum(rng: Rng, batch: int, a: int) -> np.ndarray:
  """u_0 is U{-1..1} and u_1 = -u_0."""
  return _opposed(rng.integers(-1, 2, (batch, a, a)))


def _duplicated(rng: Rng, batch: int, a: int, n: int) -> np.ndarray:
  """Payoffs are U{0..9}, then copies: u(a_0, ..., a_N-1) = v(s_0(a_0), ..., s_N-1(a_N-1)).

  v is a game with independent payoffs, and s_p maps the A strategies of player p onto the
  A - max(1, A // 3) strategies that p has in v.
  """
  kept = a - max(1, a // 3)
  payoffs = rng.integers(0, 10, (batch, n, *(kept,) * n))
  for p in range(n):
    copied = rng.integers(0, kept, (batch, a - kept))
    source = np.concatenate([_orders(rng, batch, kept), copied], axis=1)
    payoffs = _select(payoffs, p, rng.permuted(source, axis=1))
  return payoffs


def _dominated(rng: Rng, batch: int, a: int, n: int) -> np.ndarray:
  """Payoffs are U{0..9}, but each player p has a weakly dominated strategy d: u_p(d) = u_p(e) - x.

  d and e are two random strategies of p. In a random half of the opponents' profiles, rounded
  down, x = 0, and in the others it is U{1..2}: a payoff may be as low as -2.
  """
  payoffs = rng.integers(0, 10, (batch, n, *(a,) * n))
  games, others = np.arange(batch), (a,) * (n - 1)
  for p in range(n):
    own = np.moveaxis(payoffs[:, p], 1 + p, 1)  # a view: [B, A of player p, A of the others]
    dominated, better = _orders(rng, batch, a)[:, :2].T
    differs = _orders(rng, batch, math.prod(others)) >= math.prod(others) // 2
    loss = differs.reshape(batch, *others) * rng.integers(1, 3, (batch, *others))
    own[games, dominated] = own[games, better] - loss
  return payoffs


def _ranking(rng: Rng, batch: int, a: int, n: int) -> np.ndarray:
  """A ranking game (Brandt et al. 2009): u_p = w_p(rank of player p).

  In every outcome the ranking of the players is strict, and uniform among the N! rankings. w_p
  does not rise, from w_p(0) = 1 to w_p(N - 1) = 0, and the values between are multiples of 1/4.
  With two players, one wins and one loses.
  """
  worth = np.zeros((batch, n, n))
  worth[:, :, 0] = 1
  worth[:, :, 1:-1] = np.sort(rng.integers(0, 5, (batch, n, n - 2)) / 4, axis=2)[:, :, ::-1]
  ranks = rng.random((batch, n, a**n)).argsort(axis=1)
  return np.take_along_axis(worth, ranks, axis=2).reshape(batch, n, *(a,) * n)


# Random matrices, mostly of zeros and ones.


def _tournament(rng: Rng, batch: int, a: int) -> np.ndarray:
  """u_0(i, j) = -u_0(j, i) is 1 if i beats j in a random tournament and -1 if not; u_1 = -u_0.

  u_0(i, i) = 0. Rock-paper-scissors is one of these games.
  """
  upper = np.triu(rng.choice([-1, 1], (batch, a, a)), 1)
  return _opposed(upper - upper.swapaxes(1, 2))


def _unit_vector(rng: Rng, batch: int, a: int) -> np.ndarray:
  """A unit vector game (Savani and von Stengel 2016): u_0(i, j) = [i = r(j)], r(j) U{0..A-1}.

  So each column of u_0 has a single 1. For half of the games, at random, u_1 is U{0..9}; for the
  others u_1(i, j) = [j = c(i)] with c(i) U{0..A-1}, and each row of u_1 has a single 1.
  """
  strategies = np.arange(a)
  first = strategies[:, None] == rng.integers(0, a, (batch, 1, a))
  unit = strategies == rng.integers(0, a, (batch, a, 1))
  integers = rng.integers(0, 10, (batch, a, a))
  second = np.where(rng.random((batch, 1, 1)) < 0.5, integers, unit)
  return np.stack([first, second], axis=1)


def _permutations(rng: Rng, batch: int, a: int) -> np.ndarray:
  """u_p(i, j) = [j = s_p(i)] with two independent random permutations s_0 and s_1."""
  matches = _orders(rng, 2 * batch, a)[:, :, None] == np.arange(a)
  return matches.reshape(batch, 2, a, a)


def _shapley(rng: Rng, batch: int, a: int) -> np.ndarray:
  """Shapley's game (1964) for A strategies, in a random order of the rows and of the columns.

  u_0(r(k), c(k)) = x_k and u_1(r(k), c(k + 1 mod A)) = y_k with random permutations r and c; other
  payoffs are 0. x and y are 1 in half of the games, at random, and U{1..3} in the others. Best
  replies go round one cycle, through all 2 A outcomes that pay somebody.
  """
  rows, columns = _orders(rng, batch, a), _orders(rng, batch, a)
  scaled = rng.random((batch, 1, 1)) < 0.5
  worth = np.where(scaled, rng.integers(1, 4, (batch, 2, a)), 1)
  payoffs, games = np.zeros((batch, 2, a, a)), np.arange(batch)[:, None]
  payoffs[games, 0, rows, columns] = worth[:, 0]
  payoffs[games, 1, rows, np.roll(columns, -1, axis=1)] = worth[:, 1]
  return payoffs


def _hide_and_seek(rng: Rng, batch: int, a: int) -> np.ndarray:
  """u_0(i, j) = v_i [i = j], u_1 = -u_0: the seeker finds the value of the place, v_i U{1..9}."""
  return _opposed(rng.integers(1, 10, (batch, a, 1)) * np.eye(a, dtype=int))


# Classics.


def _blotto(rng: Rng, batch: int, a: int) -> np.ndarray:
  """Colonel Blotto: d = sum over fields f of v_f sign(x_f - y_f), for allocations x and y.

  Each player allocates s soldiers to the fields; v_f is U{1..5}. In half of the games, at random,
  u_0 = d = -u_1; in the others u_0 = [d > 0] and u_1 = [d < 0].

  There are about num_strategies allocations, never more. The number of fields is the largest for
  which s may be as large, but at least 3 (2 if num_strategies is 2); then s is the largest. With
  two fields, all soldiers on the field of larger value are always best.
  """
  fields = min(a, 3)
  while math.comb(2 * fields + 1, fields) <= a:
    fields += 1
  soldiers = 1
  while math.comb(soldiers + fields, fields - 1) <= a:
    soldiers += 1
  slots = soldiers + fields - 1
  bars = np.array(list(itertools.combinations(range(slots), fields - 1)))
  allocations = np.diff(bars, axis=1, prepend=-1, append=slots) - 1  # [A, F]
  won = np.sign(allocations[:, None] - allocations)  # [A, A, F]
  values = rng.integers(1, 6, (batch, fields))
  difference = np.einsum("ijf,bf->bij", won, values)
  winner = np.stack([difference > 0, difference < 0], axis=1)
  zero_sum = rng.random((batch, 1, 1, 1)) < 0.5
  return np.where(zero_sum, _opposed(difference), winner)


def _bids(rng: Rng, batch: int, a: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """An auction's bids a_p, which are 0, ..., A - 1, shares s_p, and values v_p, which are U{1..A}.

  s_p is 1 / m for the m players with the highest bid, and 0 for the others. Bids and shares are
  [N, A1, ..., AN], and values are [B, N, 1, ..., 1].
  """
  bids = np.indices((a,) * n)
  wins = bids == bids.max(axis=0)
  return bids, wins / wins.sum(axis=0), rng.integers(1, a + 1, (batch, n, *(1,) * n))


def _first_price_auction(rng: Rng, batch: int, a: int, n: int) -> np.ndarray:
  """u_p = s_p (v_p - a_p): the highest bid wins and pays; see `_bids`."""
  bids, shares, values = _bids(rng, batch, a, n)
  return shares * (values - bids)


def _all_pay_auction(rng: Rng, batch: int, a: int, n: int) -> np.ndarray:
  """u_p = s_p v_p - a_p: the highest bid wins and every player pays; see `_bids`."""
  bids, shares, values = _bids(rng, batch, a, n)
  return shares * values - bids


def _beauty_contest(rng: Rng, batch: int, a: int, n: int) -> np.ndarray:
  """u_p = 1 / m for the m players whose guesses a_p are nearest to f (mean guess + c), else 0.

  Guesses are 0, ..., A - 1, f is 1/2, 2/3 or 3/4, and c is U{0..A // 2}. The usual game has c = 0;
  there, the lower of two players wins with every f, so that all games for two would be the same.
  """
  twelfths = rng.choice([6, 8, 9], (batch, 1, *(1,) * n))
  shift = rng.integers(0, a // 2 + 1, (batch, 1, *(1,) * n))
  guesses = np.indices((a,) * n)
  # In integers, so that ties are exact: 12 N |a_p - f (mean + c)|.
  distance = abs(12 * n * guesses - twelfths * (guesses.sum(axis=0) + n * shift))
  nearest = distance == distance.min(axis=1, keepdims=True)
  return nearest / nearest.sum(axis=1, keepdims=True)


def _congestion(rng: Rng, batch: int, a: int, n: int) -> np.ndarray:
  """u_p = -c_r(k) for the k players on resource r = a_p.

  c_r(k) is the sum of k independent U{0..3}, so that it does not fall in k.
  """
  costs = rng.integers(0, 4, (batch, a, n)).cumsum(axis=2)
  resources = np.indices((a,) * n)
  load = (resources[:, None] == resources).sum(axis=1)  # [N, A1, ..., AN]
  return -costs[:, resources, load - 1]


def _traveller(rng: Rng, batch: int, a: int, n: int) -> np.ndarray:
  """The travellers' dilemma (Basu 1994): claims are c_p = 2 + a_p, and l is the lowest.

  If all claims are equal, u_p = l. Otherwise u_p = l + x for players who claim l and u_p = l - y
  for the others. The reward x and the penalty y are independent U{1..A}.
  """
  reward, penalty = rng.integers(1, a + 1, (2, batch, 1, *(1,) * n))
  claims = 2 + np.indices((a,) * n)
  lowest = claims.min(axis=0)
  change = np.where(claims == lowest, reward, -penalty)
  return lowest + np.where((claims == lowest).all(axis=0), 0, change)


def _few_levels(rng: Rng, batch: int, a: int) -> np.ndarray:
  """One 4x4 game whose payoffs have few levels, some 1% or 2% apart; num_strategies has no effect.

  Both players get v, which is U(50, 98), at (1, 1). Then rows and columns are permuted at random.
  """
  del a
  first = [[99, 99, 99, 99], [0, 0, 0, 0], [99, 99, 99, 97.01], [0, 98.01, 98.01, 0]]
  second = [[99, 0, 0, 99], [99, 0, 98.01, 99], [99, 0, 0, 97.01], [99, 0, 98.01, 99]]
  payoffs = np.tile(np.array([first, second]), (batch, 1, 1, 1))
  payoffs[:, :, 1, 1] = rng.uniform(50, 98, (batch, 1))
  for p in range(2):
    payoffs = _select(payoffs, p, _orders(rng, batch, 4))
  return payoffs


# Strategic forms of extensive games.


def poker_payoffs(cards: int, ante: int | np.ndarray, bet: int | np.ndarray) -> np.ndarray:
  """Kuhn's poker (1950) with any number of cards: exact expected payoffs of reduced plans.

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
    float64 [B, 2, 3^k, 4^k], or without B for numbers.
  """
  first = np.array(list(itertools.product(range(3), repeat=cards)))
  second = np.array(list(itertools.product(range(4), repeat=cards)))
  antes = bets = 0  # how many antes and bets player 0 wins, summed over the deals
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


def _poker(rng: Rng, batch: int, a: int) -> np.ndarray:
  """`poker_payoffs` with an ante and a bet that are U{1..5}.

  Player 0 has 3^k plans and player 1 has 4^k, about num_strategies: k is the largest number of
  cards with 4^k <= num_strategies, but at least 2.
  """
  cards = 2
  while 4 ** (cards + 1) <= a:
    cards += 1
  return poker_payoffs(cards, *rng.integers(1, 6, (2, batch)))


def _tree(rng: Rng, limit: int, n: int) -> tuple[list[tuple | None], list[int]]:
  """Draws a tree; returns its nodes by identifier, and each player's number of strategies.

  A node is None for a leaf, or (owner, stride, children): strategy s of the owner takes action
  s // stride mod (number of children), and the children are identifiers larger than the node's.

  Nodes are made from the root down. The first N have different owners. After that, all pairs of an
  owner and a number of actions that keep the owner's strategies within the limit are equally
  likely. A node without such a pair is a leaf, and so is a node at depth 3.
  """
  order, counts = rng.permutation(n), [1] * n
  nodes, depths = [], [0]
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


def _extensive(rng: Rng, batch: int, a: int, n: int) -> np.ndarray:
  """A tree with perfect information: u(a_0, ..., a_N-1) = w(leaf that is reached), w_p U{0..9}.

  Nodes have two or three actions and random owners. A strategy is one action at each node of the
  player, so that a player has about num_strategies strategies: at least two, never more than
  num_strategies. Games of a batch share the tree and the owners, and differ in w. The tree is
  deeper than three moves only where more players must move.
  """
  nodes, counts = _tree(rng, a, n)
  strategies = np.indices(counts)
  reached = list(range(len(nodes)))  # by node, the leaf below it that is reached
  for i in reversed(range(len(nodes))):
    if nodes[i] is not None:
      owner, stride, children = nodes[i]
      action = strategies[owner] // stride % len(children)
      reached[i] = np.choose(action, [reached[child] for child in children])
  worth = rng.integers(0, 10, (batch, n, len(nodes)))  # only the leaves' values count
  return worth[:, :, reached[0]]


# Functions of (rng, batch, num_strategies, num_players).
_ANY_PLAYERS = (
    _all_pay_auction, _beauty_contest, _binary, _congestion, _dominated, _duplicated, _extensive,
    _first_price_auction, _integers, _ranking, _team, _traveller,
)
# Functions of (rng, batch, num_strategies).
_TWO_PLAYERS = (
    _blotto, _few_levels, _hide_and_seek, _permutations, _poker, _shapley, _tournament,
    _unit_vector, _zero_sum,
)
_KINDS = {kind.__name__.removeprefix("_"): kind for kind in (*_ANY_PLAYERS, *_TWO_PLAYERS)}

NAMES: tuple[str, ...] = tuple(sorted(_KINDS))
