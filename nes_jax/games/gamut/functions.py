"""Random functions of one variable, as GAMUT draws them.

A family is a function `family(draws, x, low, high) -> (values, shrink)`. It makes the parameters of
a function f from `Draws`, and returns shrink * f(x), [X], and shrink, [] in (0, 1]. The factor
keeps f, which may be exp(A) or 1e41, inside float32; a caller that needs only ratios of values
never divides by it. [low, high] is the domain of f, with high >= 1. Tables need integers x and
low = 0.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nes_jax.types import Array

# Coefficients of polynomials lie between -_COEFFICIENT and _COEFFICIENT.
_COEFFICIENT = 10.0
# Offsets of functions, and the values of tables, lie between -_OFFSET and _OFFSET.
_OFFSET = 1000.0
# Largest degree of a polynomial.
_MAX_DEGREE = 10
# Largest number of points of a table.
_MAX_POINTS = 10_000
# Levels of recursion of a concave table that are drawn.
_CONCAVE_LEVELS = 7


class Draws(NamedTuple):
  """Random numbers U(0, 1) from which a function is made. A family uses those that it needs."""

  # Choice of a family, []
  family: Array
  # Offset of a falling function, []
  offset: Array
  # Parameters of a function, [4]
  parameters: Array
  # Coefficients of a polynomial, [11]
  coefficients: Array
  # PRNG key of a table's entries
  key: Array


def draw(key: Array) -> Draws:
  """Draws what one function is made of."""
  draws = jax.random.uniform(key, (6 + _MAX_DEGREE + 1,))
  return Draws(draws[0], draws[1], draws[2:6], draws[6:], jax.random.fold_in(key, 1))


def to_integer(uniform: Array, count: Array | int) -> Array:
  """Maps U(0, 1) to U{0, ..., count - 1}."""
  return jnp.minimum((uniform * count).astype(int), count - 1)


def _to_interval(uniform: Array, limit: float) -> Array:
  """Maps U(0, 1) to U(-limit, limit)."""
  return limit * (2 * uniform - 1)


# Families of formulas.


def exponential(draws: Draws, x: Array, low, high) -> tuple[Array, Array]:
  """exp(alpha x) + beta, alpha ~ U(0, 1), beta ~ U(-1000, 1000)."""
  del low
  alpha, beta = draws.parameters[:2]
  shrink = jnp.exp(-alpha * high)
  return jnp.exp(alpha * (x - high)) + shrink * _to_interval(beta, _OFFSET), shrink


def logarithm(draws: Draws, x: Array, low, high) -> tuple[Array, Array]:
  """alpha ln(x + k) + beta, with alpha ~ U(0, 10), beta ~ U(-1000, 1000).

  k = 1 - low if low <= 0, and k = 0 otherwise.
  """
  del high
  alpha, beta = draws.parameters[:2]
  k = jnp.where(low > 0, 0, 1 - low)
  return 10 * alpha * jnp.log(x + k) + _to_interval(beta, _OFFSET), jnp.ones(())


def polynomial(draws: Draws, x: Array, low, high) -> tuple[Array, Array]:
  """Polynomial of degree ~ U{0, ..., 10} with coefficients ~ U(-10, 10).

  It is evaluated as a polynomial of t = x / high, divided by high^degree.
  """
  del low
  coefficients, degree = _scaled_coefficients(draws, high)
  return _evaluate(coefficients, x / high), _power(high, -degree)


def increasing_polynomial(draws: Draws, x: Array, low, high) -> tuple[Array, Array]:
  """Polynomial of degree d ~ U{0, ..., 10} whose derivative is positive on the domain.

  The derivative is a random polynomial of degree d - 1. If its minimum on the domain is not
  positive, a constant moves the minimum to U(0, 10). The polynomial's own constant is U(-10, 10),
  and with d = 0 it is the whole polynomial.
  """
  coefficients, degree = _scaled_coefficients(draws, high)
  # Derivative by t = x / high: [10] coefficients in units of high^d, of which the first d count.
  slope = coefficients[1:]
  least = _polynomial_minimum(slope, low / high)
  target = _COEFFICIENT * draws.parameters[1] * _power(high, 1 - degree)
  slope = slope.at[0].add(jnp.where((degree > 0) & (least <= 0), target - least, 0))
  integral = jnp.append(coefficients[:1], slope / jnp.arange(1, _MAX_DEGREE + 1))
  return _evaluate(integral, x / high), _power(high, -degree)


def _scaled_coefficients(draws: Draws, high) -> tuple[Array, Array]:
  """Draws a polynomial of t = x / high, divided by high^degree.

  Returns:
    Coefficients of t^k for k = 0, ..., 10, which are U(-10, 10) times high^(k - degree), and 0
    above the degree: [11]. The degree: [].
  """
  degree = to_integer(draws.parameters[0], _MAX_DEGREE + 1)
  below = jnp.arange(_MAX_DEGREE + 1) - degree
  scaled = _to_interval(draws.coefficients, _COEFFICIENT) * _power(high, jnp.minimum(below, 0))
  return jnp.where(below <= 0, scaled, 0), degree


def _power(base, exponent: Array) -> Array:
  return jnp.power(jnp.asarray(base, float), exponent)


def _evaluate(coefficients: Array, t: Array) -> Array:
  """Polynomial sum_k coefficients[k] t^k by Horner's rule."""
  return functools.reduce(lambda value, c: value * t + c, coefficients[::-1])


def _polynomial_minimum(coefficients: Array, low: Array) -> Array:
  """Least value of a polynomial on [low, 1].

  Between two neighbouring roots of its derivative a polynomial is monotone and has at most one
  root. Bisection therefore finds the roots of all derivatives, from the highest down to the first,
  and the roots of the first are the critical points.
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

    # Without a root, bisection gives the right end, which does no harm as one more point.
    steps = jnp.finfo(points.dtype).nmant + 1
    right = jax.lax.fori_loop(0, steps, halve, (points[:-1], points[1:]))[1]
    return points.at[1:].set(right), None

  points = jnp.ones(count + 1, coefficients.dtype).at[0].set(low)
  points, _ = jax.lax.scan(roots, points, jnp.stack(derivatives[:0:-1]))
  return _evaluate(coefficients, points).min()


# Families of tables.


class Table(NamedTuple):
  """Table of n ~ U{2, ..., 10000} points that covers [0, high], and the places to look up in it."""

  # Entry of each x, int [X] in {0, ..., n - 1}
  entry: Array
  # Number n of entries, []
  points: Array
  # Smallest value of the range, [] U(-1000, most)
  least: Array
  # Largest value of the range, [] U(-1000, 1000)
  most: Array

  def stretch(self, height: Array) -> tuple[Array, Array]:
    """Maps heights in [0, 1] to the range [least, most]; the result is that of a family."""
    return self.least + height * (self.most - self.least), jnp.ones(())


def lookup(draws: Draws, x: Array, high: int) -> Table:
  """Draws the size and the range of a table."""
  points = 2 + to_integer(draws.parameters[0], _MAX_POINTS - 1)
  most = _to_interval(draws.parameters[1], _OFFSET)
  least = -_OFFSET + draws.parameters[2] * (most + _OFFSET)
  return Table(jnp.minimum(points * x // high, points - 1), points, least, most)


def random_table(draws: Draws, x: Array, low, high) -> tuple[Array, Array]:
  """Table of independent U(least, most), of which only the entries looked up are drawn."""
  del low
  table = lookup(draws, x, high)
  height = jax.random.uniform(draws.key, x.shape)
  # If several x have the same entry, all of them take the draw of the first.
  return table.stretch(height[jnp.argmax(table.entry[:, None] == table.entry, axis=1)])


class _Gap(NamedTuple):
  """Entries between two known entries of an increasing table; each field is [] or [gaps]."""

  # Index of the known entry on the left
  left: Array
  # Index of the known entry on the right
  right: Array
  # Value on the left, in [0, 1]
  below: Array
  # Value on the right, in [0, 1]
  above: Array


def _split(gap: _Gap, draws: Array) -> tuple[Array, Array]:
  """Draws an entry in a gap, uniformly, and its value, uniformly between the values of the ends.

  Args:
    gap: one gap, or several.
    draws: U(0, 1), [2] or [2, gaps].

  Returns:
    Index and value of the entry. If a gap has no entries, they are those of its left end.
  """
  inner = gap.right - gap.left - 1
  entry = gap.left + jnp.where(inner > 0, 1 + to_integer(draws[0], inner), 0)
  return entry, gap.below + jnp.where(inner > 0, draws[1], 0) * (gap.above - gap.below)


def increasing_table(draws: Draws, x: Array, low, high) -> tuple[Array, Array]:
  """Table that increases from `least` to `most`, drawn by recursion.

  A random entry splits the table, with a value between the values of the ends, and both parts are
  split in the same way. Only the branches of the recursion that lead to the entries looked up are
  followed. A split takes its random numbers from the ends of its gap, so that two branches agree
  up to the split where they part.
  """
  del low
  table = lookup(draws, x, high)

  def find(index):
    def follow(gap):
      name = gap.left * _MAX_POINTS + gap.right
      entry, value = _split(gap, jax.random.uniform(jax.random.fold_in(draws.key, name), (2,)))
      before, after = gap._replace(right=entry, above=value), gap._replace(left=entry, below=value)
      return jax.tree.map(lambda b, a: jnp.where(index < entry, b, a), before, after)

    def is_inside(gap):
      return (gap.left < index) & (index < gap.right)

    whole = _Gap(jnp.zeros_like(index), table.points - 1, jnp.zeros(()), jnp.ones(()))
    gap = jax.lax.while_loop(is_inside, follow, whole)
    return jnp.where(index == gap.right, gap.above, gap.below)

  return table.stretch(jax.vmap(find)(table.entry))


def concave_table(draws: Draws, x: Array, low, high) -> tuple[Array, Array]:
  """Concave table: its steps are the entries of an increasing table on [-1, 1], the largest first.

  The sums of the steps are stretched to the range of the table. Of the recursion that makes the
  steps, seven levels are drawn, which leaves 128 gaps, and in a gap each step has its expected
  value. A level leaves 2/9 of the variance of a sum over a gap, so that 3e-5 of it is missing.
  """
  del low
  table = lookup(draws, x, high)
  splits = jax.random.uniform(draws.key, (2 ** (_CONCAVE_LEVELS + 1),)).reshape(2, -1)
  index, step = jnp.stack([0, table.points - 1]), jnp.array([0.0, 1.0])  # [gaps + 1]
  for level in range(_CONCAVE_LEVELS):
    gaps = _Gap(index[:-1], index[1:], step[:-1], step[1:])
    entry, value = _split(gaps, splits[:, 2**level : 2 ** (level + 1)])
    index, step = _interleave(index, entry), _interleave(step, value)
  step = 2 * step - 1
  width, rise = jnp.diff(index), jnp.diff(step)

  def total(start):
    """Sums the steps of all gaps, each from step `start` of the gap, [..., gaps], to its last."""
    start = jnp.clip(start, 1, width + 1)
    first = step[:-1] + rise * start / jnp.maximum(width, 1)
    return ((width - start + 1) * (first + step[1:]) / 2).sum(axis=-1)

  # Entry i is the sum of the i largest steps, which have the indices n - i, ..., n - 1.
  entries = total((table.points - table.entry)[:, None] - index[:-1])
  crossing = jnp.ceil(-step[:-1] * width / jnp.where(rise > 0, rise, 1))
  peak = total(jnp.where(step[1:] > 0, crossing, width + 1))
  least = jnp.minimum(total(1), 0)
  return table.stretch((entries - least) / (peak - least))


def _interleave(ends: Array, between: Array) -> Array:
  """Puts an element between any two neighbours: [gaps + 1], [gaps] -> [2 gaps + 1]."""
  return jnp.append(jnp.stack([ends[:-1], between], axis=1).reshape(-1), ends[-1])


# Choices among families.


def falling(draws: Draws, values: Array, shrink: Array) -> Array:
  """Falling function f(high) - f(x) + s, s ~ U(-1000, 1000), of an increasing function f.

  Args:
    draws: the draws that f was made of.
    values: shrink * f at points of which the last is `high`, [X].
    shrink: the factor, [].

  Returns:
    The falling function times `shrink`, [X].
  """
  return values[-1] - values + shrink * _to_interval(draws.offset, _OFFSET)


def choose(families, draws: Draws, x: Array, low, high) -> tuple[Array, Array]:
  """Function of a family that is chosen uniformly; arguments and result are those of a family."""
  index = to_integer(draws.family, len(families))
  return jax.lax.switch(index, families, draws, x, low, high)


# The order of the families decides which function a draw gives.
INCREASING = (exponential, increasing_polynomial, increasing_table, logarithm)
SLOWLY_INCREASING = (logarithm, increasing_polynomial)
FAMILIES = (*INCREASING, polynomial, random_table, concave_table)
