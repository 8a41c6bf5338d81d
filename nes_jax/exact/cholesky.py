"""Cholesky factorisations of the Newton matrix, for one game and for a batch in the last axis."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from nes_jax.layout import dense_matmul, fold, matmul
from nes_jax.types import Array

# Columns of a matrix that are factored at a time, when the batch is not in the last axis.
_PANEL = 32
# Side of the diagonal blocks that are inverted as a whole.
_BLOCK = 8

# [[np, *b]] -> [[np, *b]], right sides to solutions.
Solver = Callable[[Sequence[Array]], list[Array]]


def factor(blocks: Sequence[Sequence[Array]], floor: float) -> Solver:
  """Factors a symmetric positive definite matrix given by the lower triangle of its blocks.

  Args:
    blocks: blocks[p][q] is [np, nq, *b] for q <= p.
    floor: fraction of the diagonal by which the diagonal is raised, and above which pivots are
      kept.

  Returns:
    A function that solves for a list of right sides: [[np, *b]] -> [[np, *b]].
  """
  sizes = [row[-1].shape[0] for row in blocks]
  if blocks[0][0].ndim == 2:
    rows = [
        [blocks[p][q] if q <= p else blocks[q][p].T for q in range(len(sizes))]
        for p in range(len(sizes))
    ]
    dense = _column_factor if blocks[0][0].dtype == jnp.float64 else _dense_factor
    return dense(jnp.block(rows), sizes, floor)
  return _unrolled_factor(blocks, sizes, floor)


def _column_factor(matrix: Array, sizes: Sequence[int], floor: float) -> Solver:
  """Factors column by column within a panel, and solves by substitution.

  It is slower than `_dense_factor`. In ill-conditioned matrices every row is right to rounding,
  which products with inverses of blocks do not achieve.
  """
  count = len(matrix)
  scale = jax.lax.rsqrt(jnp.diagonal(matrix))
  rest = matrix * scale[:, None] * scale + floor * jnp.eye(count, dtype=matrix.dtype)
  panels = []
  while len(rest):
    panel = _panel_factor(rest[:, :_PANEL], floor)
    size = panel.shape[1]
    rest = rest[size:, size:] - dense_matmul(panel[size:], panel[size:].T)
    panels.append((panel[:size], panel[size:]))
  splits = [sum(sizes[: p + 1]) for p in range(len(sizes))]

  def solve(rights):
    right, forward = jnp.concatenate(rights) * scale, []
    for corner, below in panels:
      y = _substitute(corner, right[: len(corner)])
      right = right[len(corner) :] - dense_matmul(below, y)
      forward.append(y)
    solution = right  # empty
    for (corner, below), y in reversed(list(zip(panels, forward))):
      # The transposed system, from its last row: reversed, it is lower triangular too.
      x = _substitute(corner.T[::-1, ::-1], (y - dense_matmul(solution, below))[::-1])[::-1]
      solution = jnp.concatenate([x, solution])
    return jnp.split(solution * scale, splits)[:-1]

  return solve


def _panel_factor(panel: Array, floor: float) -> Array:
  """First columns of the factor: [n, k] of the matrix -> [n, k], zero above the diagonal."""
  rows, columns = jnp.arange(panel.shape[0]), jnp.arange(panel.shape[1])

  def eliminate(j, panel):
    root = jax.lax.rsqrt(jnp.maximum(panel[j, j], floor))
    column = jnp.where(rows >= j, panel[:, j] * root, 0)
    others = jnp.where(columns > j, column[: len(columns)], 0)
    panel = panel - column[:, None] * others
    return panel.at[:, j].set(column)

  return jax.lax.fori_loop(0, panel.shape[1], eliminate, panel)


def _substitute(lower: Array, right: Array) -> Array:
  """Solves lower x = right: [k, k], [k] -> [k]."""
  rows = jnp.arange(len(right))

  def eliminate(j, x):
    value = x[j] / lower[j, j]
    return jnp.where(rows > j, x - lower[:, j] * value, x).at[j].set(value)

  return jax.lax.fori_loop(0, len(right), eliminate, right)


def _dense_factor(matrix: Array, sizes: Sequence[int], floor: float) -> Solver:
  """Blocked right-looking factorisation in matrix products, with inverted diagonal blocks.

  Batched LAPACK is no substitute: its CPU kernels wait inside XLA's thread pool for tasks of the
  same pool, and two of them at once can wait for ever (jaxlib 0.10.2 on two cores).
  """
  count = len(matrix)
  scale = jax.lax.rsqrt(jnp.diagonal(matrix))
  # Filled up with rows of the identity, so that all blocks but the last panel are equally large.
  scale = jnp.pad(scale, (0, -count % _BLOCK))
  rest = jnp.pad(matrix, (0, -count % _BLOCK)) * scale[:, None] * scale
  rest = rest + jnp.diag(jnp.where(jnp.arange(len(scale)) < count, floor, 1).astype(matrix.dtype))
  inverses, panels = [], []
  while len(rest):
    size = min(_PANEL, len(rest))
    inverse = _inverse_factor(rest[:size, :size], floor)
    panel = dense_matmul(rest[size:, :size], inverse.T)
    rest = rest[size:, size:] - dense_matmul(panel, panel.T)
    inverses.append(inverse)
    panels.append(panel)
  splits = [sum(sizes[: p + 1]) for p in range(len(sizes))]

  def solve(rights):
    right = jnp.pad(jnp.concatenate(rights), (0, -count % _BLOCK)) * scale
    forward = []
    for inverse, panel in zip(inverses, panels):
      y = dense_matmul(inverse, right[: len(inverse)])
      right = right[len(inverse) :] - dense_matmul(panel, y)
      forward.append(y)
    solution = right  # empty
    for inverse, panel, y in reversed(list(zip(inverses, panels, forward))):
      x = dense_matmul(y - dense_matmul(solution, panel), inverse)
      solution = jnp.concatenate([x, solution])
    return jnp.split(solution * scale, splits)[:-1]

  return solve


def _inverse_factor(matrix: Array, floor: float) -> Array:
  """L^-1 for a positive definite matrix = L L', by halves."""
  size = len(matrix)
  if size <= _BLOCK:
    return _inverse_block(matrix, floor)
  half = _BLOCK << ((size - 1) // _BLOCK).bit_length() - 1
  first = _inverse_factor(matrix[:half, :half], floor)
  panel = dense_matmul(matrix[half:, :half], first.T)
  second = _inverse_factor(matrix[half:, half:] - dense_matmul(panel, panel.T), floor)
  below = -dense_matmul(dense_matmul(second, panel), first)
  return jnp.block([[first, jnp.zeros_like(panel.T)], [below, second]])


def _inverse_block(block: Array, floor: float) -> Array:
  """L^-1 for one block = L L'. A batch of blocks is moved to the last axis and unrolled."""
  inverse = jax.custom_batching.custom_vmap(lambda block: _inverse_recursive(block, floor))

  @inverse.def_vmap
  def _(axis_size, in_batched, blocks):
    last = jnp.moveaxis(blocks, 0, -1)
    return jnp.moveaxis(_inverse_recursive(last, floor), -1, 0), True

  return inverse(block)


def _inverse_recursive(block: Array, floor: float) -> Array:
  """[n, n, *b] -> L^-1 [n, n, *b], by halves."""
  half = len(block) // 2
  if not half:
    return jax.lax.rsqrt(jnp.maximum(block, floor))

  def transpose(x):
    return jnp.swapaxes(x, 0, 1)

  first = _inverse_recursive(block[:half, :half], floor)
  panel = matmul(block[half:, :half], transpose(first))
  rest = block[half:, half:] - matmul(panel, transpose(panel))
  second = _inverse_recursive(rest, floor)
  below = -matmul(matmul(second, panel), first)
  upper = jnp.concatenate([first, jnp.zeros_like(transpose(below))], axis=1)
  return jnp.concatenate([upper, jnp.concatenate([below, second], axis=1)])


def _unrolled_factor(
    blocks: Sequence[Sequence[Array]], sizes: Sequence[int], floor: float
) -> Solver:
  """Factors column by column, for a batch in the last axis."""
  # A column is a list of its parts, one a block row, from its diagonal down. It is never one
  # concatenated array: a concatenation inside a fused loop costs a branch an element.
  places = [(p, j) for p, size in enumerate(sizes) for j in range(size)]
  columns: list[list[Array]] = []
  inverse_roots: list[Array] = []
  for p, j in places:
    parts = [blocks[p][p][j:, j]] + [blocks[r][p][:, j] for r in range(p + 1, len(sizes))]
    smallest = floor * parts[0][0]
    # Subtract what the columns before this one explain.
    for (q, i), column in zip(places, columns):
      if q == p:
        tail = [column[0][j - i :]] + column[1:]
      else:
        tail = [column[p - q][j:]] + column[p - q + 1 :]
      parts = [part - other * tail[0][0] for part, other in zip(parts, tail)]
    root = jax.lax.rsqrt(jnp.maximum(parts[0][0] + smallest, smallest))
    columns.append([part * root for part in parts])
    inverse_roots.append(root)

  def solve(rights):
    rights = list(rights)
    forward = []
    for (p, _), column, root in zip(places, columns, inverse_roots):
      y = rights[p][0] * root
      first = rights[p][1:] - column[0][1:] * y
      rest = [right - part * y for right, part in zip(rights[p + 1 :], column[1:])]
      rights[p:] = [first] + rest
      forward.append(y)
    solution = [[None] * size for size in sizes]
    for (p, j), column, root, y in reversed(list(zip(places, columns, inverse_roots, forward))):
      known = [solution[p][j + 1 :]] + solution[p + 1 :]
      terms = []
      for part, xs in zip(column, known):
        terms += [part[i] * x for i, x in enumerate(xs, len(part) - len(xs))]
      solution[p][j] = (y - fold(jnp.add, terms) if terms else y) * root
    return [jnp.stack(x) for x in solution]

  return solve
