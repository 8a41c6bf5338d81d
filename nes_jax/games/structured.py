"""Games with ties and structure, such as Blotto, auctions, poker and games with copied strategies.

Random payoffs of a continuous distribution have no ties. The games here have many: equal payoffs,
several best replies, weak dominance, copies of strategies. Most payoffs are small integers, and
most equilibria are not isolated.

Parameters differ from game to game, and all games of a batch have one shape. Strategies and players
count from 0 in the formulas. Strategic forms of extensive games are in `extensive`.

Glossary: B games, N players, A strategies of a player, a_p the strategy of player p, u_p the payoff
of player p, U uniform, U{i..j} uniform on the integers from i to j, [condition] 1 where it holds
and 0 elsewhere.
"""

import difflib
import itertools
import math
import operator

import numpy as np

from nes_jax.games import extensive

Rng = np.random.Generator


def sample(
    rng: Rng, name: str, batch: int, num_strategies: int, num_players: int = 2
) -> np.ndarray:
  """Draws games of one kind.

  Args:
    rng: source of random numbers. Equal states give equal games.
    name: one of `NAMES`.
    batch: B >= 1, number of games.
    num_strategies: A >= 2, number of strategies of every player. Kinds "blotto", "extensive" and
      "poker" have about that many, and "few_levels" always has four; see their functions.
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
  if name in _ANY_PLAYERS:
    payoffs = _ANY_PLAYERS[name](rng, batch, num_strategies, num_players)
  elif num_players == 2:
    payoffs = _TWO_PLAYERS[name](rng, batch, num_strategies)
  else:
    raise ValueError(
        f"kind {name!r} is for two players and num_players is {num_players}; pass num_players=2, or"
        f" take a kind for any number of players: {', '.join(_ANY_PLAYERS)}"
    )
  return np.array(payoffs, np.float64, order="C")


def with_noise(rng: Rng, payoffs: np.ndarray, relative: float) -> np.ndarray:
  """Adds independent Gaussian noise to every payoff, which breaks ties.

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


def _random_orders(rng: Rng, batch: int, size: int) -> np.ndarray:
  """Independent random permutations of 0, ..., size - 1: int [B, size]."""
  return rng.permuted(np.tile(np.arange(size), (batch, 1)), axis=1)


def _select(payoffs: np.ndarray, player: int, source: np.ndarray) -> np.ndarray:
  """Replaces strategy a of a player in game b by the player's old strategy source[b, a]."""
  aligned = [1] * payoffs.ndim
  aligned[0], aligned[2 + player] = source.shape
  return np.take_along_axis(payoffs, source.reshape(aligned), axis=2 + player)


def _make_zero_sum(first: np.ndarray) -> np.ndarray:
  """Makes the zero-sum game of player 0's payoffs: [B, A1, A2] -> [B, 2, A1, A2]."""
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
  return _make_zero_sum(rng.integers(-1, 2, (batch, a, a)))


def _duplicated(rng: Rng, batch: int, a: int, n: int) -> np.ndarray:
  """Strategies are copied: u(a_0, ..., a_N-1) = v(s_0(a_0), ..., s_N-1(a_N-1)).

  v is a game with independent payoffs U{0..9}, and s_p maps the A strategies of player p onto the
  A - max(1, A // 3) strategies that p has in v.
  """
  kept = a - max(1, a // 3)
  payoffs = rng.integers(0, 10, (batch, n, *(kept,) * n))
  for p in range(n):
    copied = rng.integers(0, kept, (batch, a - kept))
    source = np.concatenate([_random_orders(rng, batch, kept), copied], axis=1)
    payoffs = _select(payoffs, p, rng.permuted(source, axis=1))
  return payoffs


def _dominated(rng: Rng, batch: int, a: int, n: int) -> np.ndarray:
  """Payoffs are U{0..9}, but each player p has a weakly dominated strategy d: u_p(d) = u_p(e) - x.

  d and e are two random strategies of p. In a random half of the opponents' profiles, rounded
  down, x = 0, and in the other profiles x is U{1..2}, so that payoffs are at least -2.
  """
  payoffs = rng.integers(0, 10, (batch, n, *(a,) * n))
  games, others = np.arange(batch), (a,) * (n - 1)
  for p in range(n):
    # A view of the payoffs of player p, own strategies first: [B, A, ..., A].
    own = np.moveaxis(payoffs[:, p], 1 + p, 1)
    dominated, better = _random_orders(rng, batch, a)[:, :2].T
    differs = _random_orders(rng, batch, math.prod(others)) >= math.prod(others) // 2
    loss = differs.reshape(batch, *others) * rng.integers(1, 3, (batch, *others))
    own[games, dominated] = own[games, better] - loss
  return payoffs


def _ranking(rng: Rng, batch: int, a: int, n: int) -> np.ndarray:
  """Ranking game (Brandt et al. 2009): u_p = w_p(rank of player p).

  In every outcome the ranking of the players is strict, and uniform among the N! rankings. w_p
  does not rise with the rank, from w_p(0) = 1 to w_p(N - 1) = 0, and the values between are
  multiples of 1/4. With two players, one wins and one loses.
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
  return _make_zero_sum(upper - upper.swapaxes(1, 2))


def _unit_vector(rng: Rng, batch: int, a: int) -> np.ndarray:
  """Unit vector game (Savani and von Stengel 2016): u_0(i, j) = [i = r(j)] with r(j) U{0..A-1}.

  Each column of u_0 has a single 1. In half of the games, at random, u_1 is U{0..9}. In the other
  games u_1(i, j) = [j = c(i)] with c(i) U{0..A-1}, so that each row of u_1 has a single 1.
  """
  strategies = np.arange(a)
  first = strategies[:, None] == rng.integers(0, a, (batch, 1, a))
  unit = strategies == rng.integers(0, a, (batch, a, 1))
  integers = rng.integers(0, 10, (batch, a, a))
  second = np.where(rng.random((batch, 1, 1)) < 0.5, integers, unit)
  return np.stack([first, second], axis=1)


def _permutations(rng: Rng, batch: int, a: int) -> np.ndarray:
  """u_p(i, j) = [j = s_p(i)] with two independent random permutations s_0 and s_1."""
  matches = _random_orders(rng, 2 * batch, a)[:, :, None] == np.arange(a)
  return matches.reshape(batch, 2, a, a)


def _shapley(rng: Rng, batch: int, a: int) -> np.ndarray:
  """Shapley's game (1964) for A strategies, in a random order of the rows and of the columns.

  u_0(r(k), c(k)) = x_k and u_1(r(k), c(k + 1 mod A)) = y_k with random permutations r and c; other
  payoffs are 0. x and y are 1 in half of the games, at random, and U{1..3} in the others. Best
  replies form one cycle through all 2 A outcomes in which a player is paid.
  """
  rows, columns = _random_orders(rng, batch, a), _random_orders(rng, batch, a)
  scaled = rng.random((batch, 1, 1)) < 0.5
  worth = np.where(scaled, rng.integers(1, 4, (batch, 2, a)), 1)
  payoffs, games = np.zeros((batch, 2, a, a)), np.arange(batch)[:, None]
  payoffs[games, 0, rows, columns] = worth[:, 0]
  payoffs[games, 1, rows, np.roll(columns, -1, axis=1)] = worth[:, 1]
  return payoffs


def _hide_and_seek(rng: Rng, batch: int, a: int) -> np.ndarray:
  """u_0(i, j) = v_i [i = j] and u_1 = -u_0, with v_i U{1..9}.

  Player 0 looks for player 1, and finding the other at place i has the value v_i.
  """
  return _make_zero_sum(rng.integers(1, 10, (batch, a, 1)) * np.eye(a, dtype=int))


# Classics.


def _blotto(rng: Rng, batch: int, a: int) -> np.ndarray:
  """Colonel Blotto: d = sum over fields f of v_f sign(x_f - y_f), for allocations x and y.

  Each player allocates s soldiers to the fields; v_f is U{1..5}. In half of the games, at random,
  u_0 = d = -u_1; in the others u_0 = [d > 0] and u_1 = [d < 0].

  There are about num_strategies allocations, and never more. The number of fields is the largest
  for which s may be as large as it, but at least 3 (2 if num_strategies is 2). Then s is the
  largest that is possible. With two fields, it is always best to send all soldiers to the field of
  larger value.
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
  return np.where(zero_sum, _make_zero_sum(difference), winner)


def _bids(rng: Rng, batch: int, a: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Draws what auctions have in common: bids a_p, shares s_p and values v_p.

  Bids are 0, ..., A - 1. A share is 1 / m for the m players with the highest bid, and 0 for the
  others. Values are U{1..A}.

  Returns:
    Bids and shares, [N, A1, ..., AN], and values, [B, N, 1, ..., 1].
  """
  bids = np.indices((a,) * n)
  wins = bids == bids.max(axis=0)
  return bids, wins / wins.sum(axis=0), rng.integers(1, a + 1, (batch, n, *(1,) * n))


def _first_price_auction(rng: Rng, batch: int, a: int, n: int) -> np.ndarray:
  """u_p = s_p (v_p - a_p): the player with the highest bid wins and pays it; see `_bids`."""
  bids, shares, values = _bids(rng, batch, a, n)
  return shares * (values - bids)


def _all_pay_auction(rng: Rng, batch: int, a: int, n: int) -> np.ndarray:
  """u_p = s_p v_p - a_p: the player with the highest bid wins, and all pay theirs; see `_bids`."""
  bids, shares, values = _bids(rng, batch, a, n)
  return shares * values - bids


def _beauty_contest(rng: Rng, batch: int, a: int, n: int) -> np.ndarray:
  """u_p = 1 / m for the m players whose guesses a_p are nearest to f (mean guess + c), else 0.

  Guesses are 0, ..., A - 1, f is 1/2, 2/3 or 3/4, and c is U{0..A // 2}. The usual game has c = 0.
  With two players, the lower guess then wins for every f, and all games would be the same.
  """
  twelfths = rng.choice([6, 8, 9], (batch, 1, *(1,) * n))
  shift = rng.integers(0, a // 2 + 1, (batch, 1, *(1,) * n))
  guesses = np.indices((a,) * n)
  # 12 N |a_p - f (mean + c)| is an integer, so that ties are exact.
  distance = abs(12 * n * guesses - twelfths * (guesses.sum(axis=0) + n * shift))
  nearest = distance == distance.min(axis=1, keepdims=True)
  return nearest / nearest.sum(axis=1, keepdims=True)


def _congestion(rng: Rng, batch: int, a: int, n: int) -> np.ndarray:
  """u_p = -c_r(k) for the k players on resource r = a_p.

  c_r(k) is a sum of k independent U{0..3}, and therefore does not fall with k.
  """
  costs = rng.integers(0, 4, (batch, a, n)).cumsum(axis=2)
  resources = np.indices((a,) * n)
  load = (resources[:, None] == resources).sum(axis=1)  # [N, A1, ..., AN]
  return -costs[:, resources, load - 1]


def _traveller(rng: Rng, batch: int, a: int, n: int) -> np.ndarray:
  """Travellers' dilemma (Basu 1994): claims are c_p = 2 + a_p, and l is the lowest of them.

  If all claims are equal, u_p = l. Otherwise u_p = l + x for players who claim l and u_p = l - y
  for the others. The reward x and the penalty y are independent U{1..A}.
  """
  reward, penalty = rng.integers(1, a + 1, (2, batch, 1, *(1,) * n))
  claims = 2 + np.indices((a,) * n)
  lowest = claims.min(axis=0)
  change = np.where(claims == lowest, reward, -penalty)
  return lowest + np.where((claims == lowest).all(axis=0), 0, change)


def _few_levels(rng: Rng, batch: int, a: int) -> np.ndarray:
  """4x4 game whose payoffs have few levels, some of them 1% or 2% apart.

  The number of strategies has no effect. At (1, 1), both players get v, which is U(50, 98). Rows
  and columns are permuted at random.
  """
  del a
  first = [[99, 99, 99, 99], [0, 0, 0, 0], [99, 99, 99, 97.01], [0, 98.01, 98.01, 0]]
  second = [[99, 0, 0, 99], [99, 0, 98.01, 99], [99, 0, 0, 97.01], [99, 0, 98.01, 99]]
  payoffs = np.tile(np.array([first, second]), (batch, 1, 1, 1))
  payoffs[:, :, 1, 1] = rng.uniform(50, 98, (batch, 1))
  for p in range(2):
    payoffs = _select(payoffs, p, _random_orders(rng, batch, 4))
  return payoffs


# Functions (rng, batch, num_strategies, num_players) -> payoffs, by the name of the kind.
_ANY_PLAYERS = {
    "all_pay_auction": _all_pay_auction,
    "beauty_contest": _beauty_contest,
    "binary": _binary,
    "congestion": _congestion,
    "dominated": _dominated,
    "duplicated": _duplicated,
    "extensive": extensive.perfect_information_games,
    "first_price_auction": _first_price_auction,
    "integers": _integers,
    "ranking": _ranking,
    "team": _team,
    "traveller": _traveller,
}
# Functions (rng, batch, num_strategies) -> payoffs of two players, by the name of the kind.
_TWO_PLAYERS = {
    "blotto": _blotto,
    "few_levels": _few_levels,
    "hide_and_seek": _hide_and_seek,
    "permutations": _permutations,
    "poker": extensive.poker_games,
    "shapley": _shapley,
    "tournament": _tournament,
    "unit_vector": _unit_vector,
    "zero_sum": _zero_sum,
}

# Names of all kinds in alphabetical order.
NAMES: tuple[str, ...] = tuple(sorted((*_ANY_PLAYERS, *_TWO_PLAYERS)))
