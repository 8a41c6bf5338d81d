"""Games of GAMUT (Nudelman et al. 2004): the 22 classes of Table 4 of Marris et al. (2022).

Distributions are those of the original generator, release 1.0.1, with random parameters; payoffs
are in its units. They are exact up to rounding except for `_concave_table`, which says how near it
is. Strategies count from 1 in the formulas.

Glossary: N players, Ap strategies of player p, A where all have as many, B games, X points at which
a function is wanted, U uniform.

A family of functions of one variable, `family(draws, x, low, high) -> (values, shrink)`, makes its
parameters from `_Draws` and returns shrink * f(x) [X] and shrink [] in (0, 1]. The factor keeps f,
which may be exp(A) or 1e41, inside float32; whoever needs ratios only never divides by it.
[low, high] is its domain, high >= 1. Tables want integer x and low = 0.
"""

from collections.abc import Callable, Sequence
import functools
import math
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nes_jax.keys import example_keys
from nes_jax.types import Array

# Payoffs that are uniform lie in +-_PAYOFF; coefficients and offsets of functions in these.
_PAYOFF = 100.0
_COEFFICIENT = 10.0
_OFFSET = 1000.0
_MAX_DEGREE = 10
_MAX_POINTS = 10_000
# Largest demand, and what it costs to serve it.
_BERTRAND_SCALE = 10_000.0
# Levels of a concave table's tree that are drawn.
_CONCAVE_LEVELS = 7


def sample(
    key: Array,
    name: str,
    batch: int,
    num_strategies: int | Sequence[int],
    num_players: int = 2,
) -> Array:
  """Draws games of one class.

  Each game has a key of its own (`nes_jax.keys`): a game does not depend on the batch's size.

  Args:
    key: PRNG key.
    name: one of `NAMES`.
    batch: B >= 1, number of games; static under jit, as are the arguments after it and the name.
    num_strategies: of every player, or (A1, ..., AN). Players may have different numbers in
      RandomGame, CovariantGame, GraphicalGame and PolymatrixGame. One strategy is legal.
    num_players: N >= 2.

  Returns:
    [B, N, A1, ..., AN] finite payoffs, not normalised, of JAX's default floating type.

  Raises:
    ValueError: unknown name, a batch below 1, fewer than two players, a player without strategies,
      or numbers of strategies that differ in number from the players, or among them where the
      class has one set of strategies for all.
  """
  shape, batch = _check(name, num_strategies, num_players), operator.index(batch)
  if batch < 1:
    raise ValueError(f"batch {batch}: give the number of games, at least 1")
  return _sample(key, name, batch, shape)


def sample_one(
    key: Array, name: str, num_strategies: int | Sequence[int], num_players: int = 2
) -> Array:
  """The game of one key: [N, A1, ..., AN]. Arguments and errors as in `sample`."""
  return _sample_one(key, name, _check(name, num_strategies, num_players))


def _check(name: str, num_strategies: int | Sequence[int], num_players: int) -> tuple[int, ...]:
  """The shape (A1, ..., AN), or a ValueError."""
  if name not in _CLASSES:
    raise ValueError(f"unknown class {name!r}; the classes are {', '.join(NAMES)}")
  num_players = operator.index(num_players)
  if num_players < 2:
    raise ValueError(f"num_players {num_players}: a game needs at least two players")
  if np.ndim(num_strategies):
    shape = tuple(operator.index(a) for a in num_strategies)
  else:
    shape = (operator.index(num_strategies),) * num_players
  if len(shape) != num_players:
    raise ValueError(
        f"num_strategies {shape} is for {len(shape)} players and num_players is {num_players};"
        " give one number a player"
    )
  if min(shape) < 1:
    raise ValueError(f"num_strategies {shape}: every player needs at least one strategy")
  if _CLASSES[name].shared and len(set(shape)) > 1:
    raise ValueError(
        f"num_strategies {shape}: in {name} all players choose from the same strategies; give one"
        " number"
    )
  return shape


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _sample(key: Array, name: str, batch: int, shape: tuple[int, ...]) -> Array:
  return jax.vmap(lambda k: _sample_one(k, name, shape))(example_keys(key, batch))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _sample_one(key: Array, name: str, shape: tuple[int, ...]) -> Array:
  return _CLASSES[name].build(key, shape)


# Games of independent outcomes: key, shape -> [N, A1, ..., AN].


def _uniform(key: Array, shape: tuple[int, ...]) -> Array:
  """U(-100, 100). Drawn flat: several axes take XLA on CPU five times as long to compile."""
  draws = jax.random.uniform(key, (math.prod(shape),), minval=-_PAYOFF, maxval=_PAYOFF)
  return draws.reshape(shape)


def _random_game(key: Array, shape: tuple[int, ...]) -> Array:
  """Every payoff U(-100, 100)."""
  return _uniform(key, (len(shape), *shape))


def _covariant_game(key: Array, shape: tuple[int, ...], r: float | None = None) -> Array:
  """An outcome's payoffs are N(0, S), S_pp = 1, S_pq = r; None draws r ~ U(-1 / (N - 1), 1).

  By the symmetric root of S: sqrt(1 - r) across players, sqrt(1 + (N - 1) r) along their mean.
  """
  n = len(shape)
  r_key, payoff_key = jax.random.split(key)
  if r is None:
    r = jax.random.uniform(r_key, minval=-1 / (n - 1), maxval=1.0)
  normal = jax.random.normal(payoff_key, (n * math.prod(shape),)).reshape(n, *shape)
  mean = normal.mean(axis=0)
  # r may be rounded to just below its lower end.
  return jnp.sqrt(1 - r) * (normal - mean) + jnp.sqrt(jnp.maximum(1 + (n - 1) * r, 0)) * mean


# Games of the lowest or the most crowded strategy, where all have the same A.


def _travelers_dilemma(key: Array, shape: tuple[int, ...]) -> Array:
  """R ~ U(1, A); see `travelers_payoffs`."""
  return travelers_payoffs(jax.random.uniform(key, minval=1.0, maxval=float(shape[0])), shape)


def travelers_payoffs(reward: Array | float, shape: tuple[int, ...]) -> Array:
  """u_p = min_q a_q + R [p alone has the minimum]: [N, A1, ..., AN]."""
  claims, lowest, sharers = _lowest(shape)
  return lowest + reward * ((claims == lowest) & (sharers == 1))


def _minimum_effort(key: Array, shape: tuple[int, ...]) -> Array:
  """a ~ U(-100, 100), b ~ U(0, 100), c ~ U(0, b); see `effort_payoffs`."""
  a, b, c = jax.random.uniform(key, (3,))
  return effort_payoffs(_PAYOFF * (2 * a - 1), _PAYOFF * b, _PAYOFF * b * c, shape)


def effort_payoffs(
    a: Array | float, b: Array | float, c: Array | float, shape: tuple[int, ...]
) -> Array:
  """u_p = a + b min_q a_q - c a_p: [N, A1, ..., AN]."""
  efforts, lowest, _ = _lowest(shape)
  return a + b * lowest - c * efforts


def _lowest(shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
  """Strategies [N, A1, ..., AN] from 1, the lowest of a joint, how many play it: [A1, ..., AN]."""
  strategies = 1 + jnp.indices(shape)
  lowest = strategies.min(axis=0)
  return strategies, lowest, (strategies == lowest).sum(axis=0)


def _crowds(shape: tuple[int, ...]) -> Array:
  """How many players are on each strategy: int [A, A1, ..., AN]."""
  strategies = jnp.arange(shape[0]).reshape(-1, *(1,) * len(shape))
  return sum((strategies == played).astype(int) for played in jnp.indices(shape))


def _dispersion_game(key: Array, shape: tuple[int, ...]) -> Array:
  """One payoff for all, increasing in the entropy of the crowds: k sorted U(-100, 100).

  k is the number of different entropies (base 2, rounded to 1e-5) of N players on A strategies.
  """
  n = len(shape)
  share = np.arange(n + 1) / n
  terms = -share * np.log2(np.where(share > 0, share, 1))  # [N + 1], of a strategy with 0 ... N
  levels = {round(sum(terms[list(parts)]), 5) for parts in _partitions(n, shape[0], n)}
  levels = np.sort(list(levels))
  entropy = jnp.asarray(terms, float)[_crowds(shape)].sum(axis=0)
  rank = jnp.searchsorted(jnp.asarray((levels[:-1] + levels[1:]) / 2, float), entropy)
  payoffs = jnp.sort(_uniform(key, (len(levels),)))
  return jnp.broadcast_to(payoffs[rank], (n, *shape))


def _partitions(total: int, parts: int, largest: int) -> list[tuple[int, ...]]:
  """Ways of writing a number as at most that many parts, largest first."""
  if total == 0:
    return [()]
  firsts = range(1, min(total, largest) + 1) if parts else ()
  return [(i, *rest) for i in firsts for rest in _partitions(total - i, parts - 1, i)]


def _bertrand_oligopoly(key: Array, shape: tuple[int, ...]) -> Array:
  """u_p = price D(price) / m - C(D(price) / m) for the m players at the lowest price, 0 for others.

  Demand D falls on [0, A] from 10,000, by a random function with its sign turned; cost C grows on
  [D(A) / N, D(0)] to 10,000. Both are shifted so that neither is negative. A constant polynomial
  that is shifted to 0 cannot be scaled: those draws, 3.4%, are not games and are drawn again.
  With more than about 80 strategies float32 takes the least of an exponential demand for 0.
  """
  n, a = len(shape), shape[0]

  def draw(state):
    key, cost_key, demand_key = jax.random.split(state[0], 3)
    draws = _draw(demand_key)
    demand = _falling(draws, *_choose(_INCREASING, draws, jnp.arange(a + 1), 0, a))
    demand = _scale(demand, demand[-1], demand[0])[1:]  # [A] at prices 1, ..., A
    sold = demand[:, None] / jnp.arange(1, n + 1)  # [A, N] by the number who share
    points = jnp.append(sold.reshape(-1), _BERTRAND_SCALE)
    draws = _draw(cost_key)
    cost, _ = _choose(_SLOWLY_INCREASING, draws, points, sold[-1, -1], _BERTRAND_SCALE)
    cost = _scale(cost, cost[-2], cost[-1])[:-1].reshape(a, n)
    return key, jnp.arange(1, a + 1)[:, None] * sold - cost

  undrawn = jnp.full((a, n), jnp.nan)
  profits = jax.lax.while_loop(lambda s: ~jnp.isfinite(s[1]).all(), draw, (key, undrawn))[1]
  prices, lowest, sharers = _lowest(shape)
  return jnp.where(prices == lowest, profits[lowest - 1, sharers - 1], 0)


def _scale(values: Array, least: Array, most: Array) -> Array:
  """Raises values to be 0 or more, then makes the largest 10,000. NaN where all are 0."""
  shift = jnp.maximum(-least, 0)
  # By rounding a monotone function may fall below its end.
  return (jnp.maximum(values, least) + shift) / (most + shift) * _BERTRAND_SCALE


# Graphs: key, n -> symmetric adjacency, bool [n, n], false on the diagonal.


def _complete_graph(key: Array, n: int) -> Array:
  del key
  return ~jnp.eye(n, dtype=bool)


def _star_graph(key: Array, n: int) -> Array:
  """Node 0 with all others."""
  del key
  centre = jnp.arange(n) == 0
  return centre[:, None] != centre


def _random_graph(key: Array, n: int) -> Array:
  """G(n, m) with m ~ U{1, ..., n (n - 1) / 2}; a single node stays alone."""
  pairs = np.triu_indices(n, 1)
  size_key, pair_key = jax.random.split(key)
  size = jax.random.randint(size_key, (), 1, len(pairs[0]) + 1)
  chosen = jax.random.permutation(pair_key, len(pairs[0])) < size
  upper = jnp.zeros((n, n), bool).at[pairs].set(chosen)
  return upper | upper.T


def _road_graph(key: Array, n: int) -> Array:
  """A ladder: i with i + 2, and 2 k with 2 k + 1."""
  del key
  i, j = jnp.indices((n, n))
  return (abs(i - j) == 2) | ((i // 2 == j // 2) & (i != j))


def _small_world_graph(key: Array, n: int) -> Array:
  """Watts and Strogatz (1998): a ring, 2 K neighbours a node, each edge moved with probability p.

  K ~ U{1, ..., max(n / 2 - 1, 1)}, p ~ U(0, 1). The edge from a node to its k-th next gets as its
  other end a node that is not yet a neighbour, unless there is none.
  """
  graph_key, step_key = jax.random.split(key)
  furthest = max(n // 2 - 1, 1)
  reach, probability = jax.random.uniform(graph_key, (2,))
  reach = 1 + _below(reach, furthest)
  node, other = jnp.indices((n, n))
  ahead = (other - node) % n
  ring = (jnp.minimum(ahead, n - ahead) <= reach) & (node != other)

  def rewire(step, adjacency):
    k, start = step // n + 1, step % n
    draws = jax.random.uniform(jax.random.fold_in(step_key, step), (n + 1,))
    free = ~adjacency[start] & (jnp.arange(n) != start)
    end = jnp.argmax(jnp.where(free, draws[1:], -1))
    moved = adjacency
    for target, value in (((start + k) % n, False), (end, True)):
      moved = moved.at[start, target].set(value).at[target, start].set(value)
    return jnp.where((k <= reach) & (draws[0] < probability) & free.any(), moved, adjacency)

  return jax.lax.fori_loop(0, furthest * n, rewire, ring)


Graph = Callable[[Array, int], Array]


def _graphical_game(key: Array, shape: tuple[int, ...], graph: Graph) -> Array:
  """Nodes are players; u_p is a table of U(-100, 100) over own and neighbours' strategies."""
  n = len(shape)
  graph_key, table_key = jax.random.split(key)
  matters = graph(graph_key, n) | jnp.eye(n, dtype=bool)
  payoffs = _random_game(table_key, shape)
  for q in range(n):
    # Of the table over all strategies, one slice serves for all of a player who does not matter.
    first = jax.lax.slice_in_dim(payoffs, 0, 1, axis=q + 1)
    payoffs = jnp.where(matters[:, q].reshape(n, *(1,) * n), payoffs, first)
  return payoffs


def _polymatrix_game(key: Array, shape: tuple[int, ...], graph: Graph) -> Array:
  """Nodes are players; u_p is the sum over p's edges of its payoff in the edge's RandomGame."""
  n = len(shape)
  graph_key, edge_key = jax.random.split(key)
  adjacency = graph(graph_key, n)
  payoffs = jnp.zeros((n, *shape))
  for p, q in zip(*np.triu_indices(n, 1)):
    game = _random_game(jax.random.fold_in(edge_key, p * n + q), (shape[p], shape[q]))
    game = jnp.where(adjacency[p, q], game, 0)
    # [2, Ap, Aq] -> [2, 1, ..., Ap, ..., Aq, ..., 1]
    aligned = [shape[i] if i in (p, q) else 1 for i in range(n)]
    payoffs = payoffs.at[np.array([p, q])].add(game.reshape(2, *aligned))
  return payoffs


def _local_effect_game(
    key: Array, shape: tuple[int, ...], graph: Graph, functions: Callable[[int], np.ndarray]
) -> Array:
  """Nodes are strategies: u_p = -(F_a(n_a) + sum over neighbours c of a of E_ac(n_c)), a = a_p.

  n_c players are on c. All F and E are of one family, drawn for the game; E counts at n_c = 0 too.
  """
  n, a = len(shape), shape[0]
  kind_key, graph_key, function_key = jax.random.split(key, 3)
  kind = jax.random.randint(kind_key, (), 0, len(_FAMILIES) + 1)
  of = functions(a)
  costs = jax.vmap(lambda k: _cost(k, kind, n))(jax.random.split(function_key, of.max() + 1))
  present = graph(graph_key, a) | jnp.eye(a, dtype=bool)
  effects = jnp.where(present[..., None], costs[of], 0)  # [A, A, N + 1]
  source = jnp.arange(a).reshape(a, *(1,) * n)
  first = -effects[jnp.indices(shape)[0], source, _crowds(shape)].sum(axis=0)
  return jnp.stack([jnp.swapaxes(first, 0, p) for p in range(n)])


def _cost(key: Array, kind: Array, n: int) -> Array:
  """A node's or edge's function at 0, ..., n: [n + 1]. The last kind is the falling one."""
  draws = _draw(key)
  falls = kind == len(_FAMILIES)
  kind = jnp.where(falls, _below(draws.base, len(_INCREASING)), kind)
  values, shrink = jax.lax.switch(kind, _FAMILIES, draws, jnp.arange(n + 1), 0, n)
  return jnp.where(falls, _falling(draws, values, shrink), values) / shrink


def _bidirectional(a: int) -> np.ndarray:
  """Which function is E_ac, and on the diagonal F_a: int [A, A], one a pair in either order."""
  i, j = np.indices((a, a))
  low, high = np.minimum(i, j), np.maximum(i, j)
  return high * (high + 1) // 2 + low


def _uniform_effect(a: int) -> np.ndarray:
  """The same where E_ac depends on c only."""
  i, j = np.indices((a, a))
  return np.where(i == j, a + i, j)


# Functions of one variable: see the head of the module.


class _Draws(NamedTuple):
  """What a random function is made of. A function uses what it needs; all U(0, 1)."""

  base: Array  # [] which family, for a function that chooses
  offset: Array  # [] s, of a falling function
  parameters: Array  # [4]
  coefficients: Array  # [11]
  key: Array  # of a table's entries


def _draw(key: Array) -> _Draws:
  draws = jax.random.uniform(key, (6 + _MAX_DEGREE + 1,))
  return _Draws(draws[0], draws[1], draws[2:6], draws[6:], jax.random.fold_in(key, 1))


def _below(draw: Array, count: Array | int) -> Array:
  """U(0, 1) -> U{0, ..., count - 1}."""
  return jnp.minimum((draw * count).astype(int), count - 1)


def _between(draw: Array, limit: float) -> Array:
  """U(0, 1) -> U(-limit, limit)."""
  return limit * (2 * draw - 1)


def _exponential(draws: _Draws, x: Array, low, high) -> tuple[Array, Array]:
  """exp(alpha x) + beta, alpha ~ U(0, 1), beta ~ U(-1000, 1000)."""
  del low
  alpha, beta = draws.parameters[:2]
  shrink = jnp.exp(-alpha * high)
  return jnp.exp(alpha * (x - high)) + shrink * _between(beta, _OFFSET), shrink


def _logarithm(draws: _Draws, x: Array, low, high) -> tuple[Array, Array]:
  """alpha ln(x + k) + beta, alpha ~ U(0, 10), beta as above; k = 1 - low if low <= 0, else 0."""
  del high
  alpha, beta = draws.parameters[:2]
  k = jnp.where(low > 0, 0, 1 - low)
  return 10 * alpha * jnp.log(x + k) + _between(beta, _OFFSET), jnp.ones(())


def _polynomial(draws: _Draws, x: Array, low, high) -> tuple[Array, Array]:
  """Degree ~ U{0, ..., 10}, coefficients ~ U(-10, 10). With t = x / high, f / high^degree."""
  del low
  coefficients, degree = _coefficients(draws, high)
  return _evaluate(coefficients, x / high), _power(high, -degree)


def _increasing_polynomial(draws: _Draws, x: Array, low, high) -> tuple[Array, Array]:
  """Degree d ~ U{0, ..., 10}: the integral of a random polynomial of degree d - 1, made positive.

  If that one's minimum on the domain is not positive, the minimum is moved to U(0, 10). The
  constant is U(-10, 10), and all there is if d = 0.
  """
  coefficients, degree = _coefficients(draws, high)
  # Past the constant: the derivative by t = x / high, [d], in units of high^d; zeros behind.
  slope = coefficients[1:]
  least = _minimum(slope, low / high)
  target = _COEFFICIENT * draws.parameters[1] * _power(high, 1 - degree)
  slope = slope.at[0].add(jnp.where((degree > 0) & (least <= 0), target - least, 0))
  integral = jnp.append(coefficients[:1], slope / jnp.arange(1, _MAX_DEGREE + 1))
  return _evaluate(integral, x / high), _power(high, -degree)


def _coefficients(draws: _Draws, high) -> tuple[Array, Array]:
  """Coefficients U(-10, 10) of t^0, ..., t^10 times high^(k - degree), 0 above the degree."""
  degree = _below(draws.parameters[0], _MAX_DEGREE + 1)
  below = jnp.arange(_MAX_DEGREE + 1) - degree
  scaled = _between(draws.coefficients, _COEFFICIENT) * _power(high, jnp.minimum(below, 0))
  return jnp.where(below <= 0, scaled, 0), degree


def _power(base, exponent: Array) -> Array:
  return jnp.power(jnp.asarray(base, float), exponent)


def _evaluate(coefficients: Array, t: Array) -> Array:
  """sum_k coefficients[k] t^k."""
  return functools.reduce(lambda value, c: value * t + c, coefficients[::-1])


def _minimum(coefficients: Array, low: Array) -> Array:
  """Least value of a polynomial on [low, 1].

  Between two neighbouring roots of its derivative a polynomial is monotone and has at most one
  root. So bisection finds, from the highest derivative down, all critical points.
  """
  count = len(coefficients)
  derivatives = [coefficients]
  for _ in range(count - 1):
    derivatives.append(jnp.roll(derivatives[-1] * jnp.arange(count), -1))

  def roots(points, derivative):
    positive = _evaluate(derivative, points[:-1]) > 0

    def halve(_, bracket):
      middle = (bracket[0] + bracket[1]) / 2
      beyond = (_evaluate(derivative, middle) > 0) == positive
      return jnp.where(beyond, middle, bracket[0]), jnp.where(beyond, bracket[1], middle)

    # Where there is no root, the right end comes back, and a point more does no harm.
    steps = jnp.finfo(points.dtype).nmant + 1
    right = jax.lax.fori_loop(0, steps, halve, (points[:-1], points[1:]))[1]
    return points.at[1:].set(right), None

  points = jnp.ones(count + 1, coefficients.dtype).at[0].set(low)
  points, _ = jax.lax.scan(roots, points, jnp.stack(derivatives[:0:-1]))
  return _evaluate(coefficients, points).min()


class _Table(NamedTuple):
  """A function on [0, high] that is looked up in n ~ U{2, ..., 10000} points."""

  index: Array  # [X] where each x is looked up, 0, ..., n - 1
  points: Array  # [] n
  least: Array  # [] U(-1000, most)
  most: Array  # [] U(-1000, 1000)

  def stretch(self, height: Array) -> tuple[Array, Array]:
    """[0, 1] to [least, most]."""
    return self.least + height * (self.most - self.least), jnp.ones(())


def _lookup(draws: _Draws, x: Array, high: int) -> _Table:
  points = 2 + _below(draws.parameters[0], _MAX_POINTS - 1)
  most = _between(draws.parameters[1], _OFFSET)
  least = -_OFFSET + draws.parameters[2] * (most + _OFFSET)
  return _Table(jnp.minimum(points * x // high, points - 1), points, least, most)


def _table(draws: _Draws, x: Array, low, high) -> tuple[Array, Array]:
  """Points i.i.d. U(least, most). Only as many are drawn as are looked up."""
  del low
  table = _lookup(draws, x, high)
  height = jax.random.uniform(draws.key, x.shape)
  # Who looks up the same point takes the draw of the first to do so.
  return table.stretch(height[jnp.argmax(table.index[:, None] == table.index, axis=1)])


class _Gap(NamedTuple):
  """Between two neighbouring entries of an increasing table that are known; [] or [gaps]."""

  left: Array  # index
  right: Array
  below: Array  # value at the left, in [0, 1]
  above: Array


def _split(gap: _Gap, draws: Array) -> tuple[Array, Array]:
  """A uniformly chosen entry in the gap, and its value, uniform between those of the ends.

  A gap that has no entries gives its left end. draws: U(0, 1), [2] or [2, gaps].
  """
  inner = gap.right - gap.left - 1
  entry = gap.left + jnp.where(inner > 0, 1 + _below(draws[0], inner), 0)
  return entry, gap.below + jnp.where(inner > 0, draws[1], 0) * (gap.above - gap.below)


def _increasing_table(draws: _Draws, x: Array, low, high) -> tuple[Array, Array]:
  """From least to most; between, a random entry splits the table, with a value between its ends.

  Of the recursion only the branches to the entries looked up are followed. The draws belong to
  the gap that they split, so that branches agree for as long as they run together.
  """
  del low
  table = _lookup(draws, x, high)

  def find(index):
    def follow(gap):
      name = gap.left * _MAX_POINTS + gap.right
      entry, value = _split(gap, jax.random.uniform(jax.random.fold_in(draws.key, name), (2,)))
      before, after = gap._replace(right=entry, above=value), gap._replace(left=entry, below=value)
      return jax.tree.map(lambda b, a: jnp.where(index < entry, b, a), before, after)

    whole = _Gap(jnp.zeros_like(index), table.points - 1, jnp.zeros(()), jnp.ones(()))
    inside = lambda gap: (gap.left < index) & (index < gap.right)
    gap = jax.lax.while_loop(inside, follow, whole)
    return jnp.where(index == gap.right, gap.above, gap.below)

  return table.stretch(jax.vmap(find)(table.index))


def _concave_table(draws: _Draws, x: Array, low, high) -> tuple[Array, Array]:
  """Steps from an increasing table on [-1, 1], the largest first, summed, stretched to the range.

  Of the steps' recursion 7 levels are drawn, 128 gaps, and in a gap each step has its expected
  value. A level leaves 2/9 of the variance of a sum over a gap, so that 3e-5 of it is missing.
  """
  del low
  table = _lookup(draws, x, high)
  splits = jax.random.uniform(draws.key, (2 ** (_CONCAVE_LEVELS + 1),)).reshape(2, -1)
  index, step = jnp.stack([0, table.points - 1]), jnp.array([0.0, 1.0])  # [gaps + 1]
  for level in range(_CONCAVE_LEVELS):
    gaps = _Gap(index[:-1], index[1:], step[:-1], step[1:])
    entry, value = _split(gaps, splits[:, 2**level : 2 ** (level + 1)])
    index, step = _interleave(index, entry), _interleave(step, value)
  step = 2 * step - 1
  width, rise = jnp.diff(index), jnp.diff(step)

  def total(start):
    """Sum over the gaps of their steps from the start-th [..., gaps] to the last."""
    start = jnp.clip(start, 1, width + 1)
    first = step[:-1] + rise * start / jnp.maximum(width, 1)
    return ((width - start + 1) * (first + step[1:]) / 2).sum(axis=-1)

  # Entry i is the sum of the i largest steps, at indices n - i, ..., n - 1.
  entries = total((table.points - table.index)[:, None] - index[:-1])
  crossing = jnp.ceil(-step[:-1] * width / jnp.where(rise > 0, rise, 1))
  peak = total(jnp.where(step[1:] > 0, crossing, width + 1))
  least = jnp.minimum(total(1), 0)
  return table.stretch((entries - least) / (peak - least))


def _interleave(ends: Array, between: Array) -> Array:
  """[gaps + 1], [gaps] -> [2 gaps + 1]."""
  return jnp.append(jnp.stack([ends[:-1], between], axis=1).reshape(-1), ends[-1])


def _falling(draws: _Draws, values: Array, shrink: Array) -> Array:
  """f(high) - f(x) + s, s ~ U(-1000, 1000), from f at points of which high is the last."""
  return values[-1] - values + shrink * _between(draws.offset, _OFFSET)


def _choose(families, draws: _Draws, x: Array, low, high) -> tuple[Array, Array]:
  """A function of a family chosen uniformly."""
  return jax.lax.switch(_below(draws.base, len(families)), families, draws, x, low, high)


_INCREASING = (_exponential, _increasing_polynomial, _increasing_table, _logarithm)
_SLOWLY_INCREASING = (_logarithm, _increasing_polynomial)
_FAMILIES = (*_INCREASING, _polynomial, _table, _concave_table)


class _Class(NamedTuple):
  build: Callable[[Array, tuple[int, ...]], Array]
  shared: bool  # all players choose from the same strategies


def _leg(graph: Graph, functions: Callable[[int], np.ndarray]) -> _Class:
  return _Class(functools.partial(_local_effect_game, graph=graph, functions=functions), True)


def _on(game: Callable[..., Array], graph: Graph) -> _Class:
  return _Class(functools.partial(game, graph=graph), False)


_CLASSES: dict[str, _Class] = {
    "BertrandOligopoly": _Class(_bertrand_oligopoly, True),
    "BidirectionalLEG-CG": _leg(_complete_graph, _bidirectional),
    "BidirectionalLEG-RG": _leg(_random_graph, _bidirectional),
    "BidirectionalLEG-SG": _leg(_star_graph, _bidirectional),
    "CovariantGame": _Class(_covariant_game, False),
    "CovariantGame-Pos": _Class(functools.partial(_covariant_game, r=0.9), False),
    "CovariantGame-Zero": _Class(functools.partial(_covariant_game, r=0.0), False),
    "DispersionGame": _Class(_dispersion_game, True),
    "GraphicalGame-RG": _on(_graphical_game, _random_graph),
    "GraphicalGame-Road": _on(_graphical_game, _road_graph),
    "GraphicalGame-SG": _on(_graphical_game, _star_graph),
    "GraphicalGame-SW": _on(_graphical_game, _small_world_graph),
    "MinimumEffortGame": _Class(_minimum_effort, True),
    "PolymatrixGame-CG": _on(_polymatrix_game, _complete_graph),
    "PolymatrixGame-RG": _on(_polymatrix_game, _random_graph),
    "PolymatrixGame-Road": _on(_polymatrix_game, _road_graph),
    "PolymatrixGame-SW": _on(_polymatrix_game, _small_world_graph),
    "RandomGame": _Class(_random_game, False),
    "TravelersDilemma": _Class(_travelers_dilemma, True),
    "UniformLEG-CG": _leg(_complete_graph, _uniform_effect),
    "UniformLEG-RG": _leg(_random_graph, _uniform_effect),
    "UniformLEG-SG": _leg(_star_graph, _uniform_effect),
}

NAMES: tuple[str, ...] = tuple(_CLASSES)
