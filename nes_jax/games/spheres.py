"""Uniform games on the invariant sphere of each norm (Marris et al. 2022, section 4.1).

The payoffs of a player are a point x of R^n, n = |A|, that is uniform with respect to surface area
on

  { x : sum_i x_i = 0,  ||x||_m = Z_m },

where `invariance.radius` gives Z_m. Networks are trained on these games. Glossary: B games, N
players, n joint strategies, and `lead` for leading axes of a batch.
"""

from collections.abc import Sequence
import functools
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np

from nes_jax import invariance
from nes_jax.types import Array


def sample(
    key: Array, batch: int, shape: Sequence[int], norm: invariance.Norm = "l2", dtype=None
) -> Array:
  """Draws games whose players' payoffs are independent and uniform on the zero-mean sphere.

  For "l2" and "l1" the distribution is exact. For "linf" it is that of a Gibbs chain, which runs
  until nothing of its start is left in float32 (see `_cube_slice`).

  Args:
    key: PRNG key.
    batch: B, number of games. Under jit this argument is static, and so are those that follow.
    shape: (A1, ..., AN), number of strategies of each player. Players with one strategy are legal
      as long as there are two joint strategies.
    norm: "l1", "l2" or "linf".
    dtype: floating type; None takes JAX's default, which is float64 where x64 is on.

  Returns:
    [B, N, A1, ..., AN] payoffs, in normalised units.

  Raises:
    ValueError: unknown norm, fewer than two players, a player without strategies, a single joint
      strategy (zero mean leaves only the constant game), a negative batch, or a dtype that is not
      floating.
  """
  if norm not in invariance.NORMS:
    raise ValueError(f"unknown norm {norm!r}; the norms are {', '.join(invariance.NORMS)}")
  shape, batch = tuple(operator.index(a) for a in shape), operator.index(batch)
  if len(shape) < 2:
    raise ValueError(
        f"shape {shape} has {len(shape)} player(s); a game needs at least two: give one number of"
        " strategies a player, e.g. (8, 8)"
    )
  if min(shape) < 1 or batch < 0:
    raise ValueError(
        f"batch {batch}, shape {shape}: the batch cannot be negative and every player needs at"
        " least one strategy"
    )
  if math.prod(shape) < 2:
    raise ValueError(
        f"shape {shape} has one joint strategy, so a zero-mean payoff is 0 and has no norm to fix;"
        " give some player two strategies"
    )
  dtype = jnp.result_type(float) if dtype is None else jnp.dtype(dtype)
  if not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(f"dtype {dtype} is not a floating type; pass e.g. jnp.float32, or None")
  return _sample(key, batch, shape, norm, dtype)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _sample(key: Array, batch: int, shape: tuple[int, ...], norm: invariance.Norm, dtype) -> Array:
  size = math.prod(shape)
  draw = {"l1": _cross_polytope_slice, "l2": _round_sphere, "linf": _cube_slice}[norm]
  # Half precision serves for storage only. Its digits are too few for the mean and for the
  # probabilities of faces.
  unit = draw(key, (batch, len(shape)), size, jnp.promote_types(dtype, jnp.float32))
  # [B, N, |A|] -> [B, N, A1, ..., AN]
  scaled = invariance.radius(size, norm) * unit
  return scaled.reshape(batch, len(shape), *shape).astype(dtype)


def _round_sphere(key: Array, lead: tuple[int, ...], n: int, dtype) -> Array:
  """Draws uniform points of {sum x = 0, |x|_2 = 1}: [*lead, n].

  A centred normal vector is isotropic in the hyperplane, so that its direction is uniform.
  """
  x = jax.random.normal(key, (*lead, n), dtype)
  # With small n all normal numbers may be nearly equal, and rounding then leaves a mean. The second
  # pass removes it.
  for _ in range(2):
    x = x - x.mean(axis=-1, keepdims=True)
    length = jnp.linalg.norm(x, axis=-1, keepdims=True)
    x = x / jnp.where(length > 0, length, 1)
  # With n = 2, two equal normal numbers occur in float32 about once in ten million draws. The point
  # is then replaced by a fixed one.
  pole = jnp.zeros(n, dtype).at[0].set(0.5**0.5).at[1].set(-(0.5**0.5))
  return jnp.where(length > 0, x, pole)


def _cross_polytope_slice(key: Array, lead: tuple[int, ...], n: int, dtype) -> Array:
  """Draws uniform points of {sum x = 0, |x|_1 = 1}: [*lead, n].

  The set of its k positive coordinates identifies a face. The face is the product of two simplices
  of edge sqrt(2) / 2, with sum 1/2 and dimensions k - 1 and n - k - 1. Up to a common factor its
  area is sqrt(k) / (k-1)! * sqrt(n-k) / (n-k-1)!, and there are C(n, k) faces with that k.
  """
  size_key, subset_key, point_key = jax.random.split(key, 3)
  cumulative = jnp.asarray(np.cumsum(_face_probabilities(n)), dtype)
  noise = jax.random.uniform(size_key, lead, dtype)
  # Rounding may put the last entry below 1. It is left out, so that always k <= n - 1.
  positives = 1 + jnp.searchsorted(cumulative[:-1], noise, side="right")
  positive = jnp.arange(n) < positives[..., None]
  positive = jax.random.permutation(subset_key, positive, axis=-1, independent=True)
  # Uniform noise is a multiple of eps. An exponential number may therefore be 0, and with k = 1 the
  # sum of the positive coordinates too, so a lower bound is applied.
  mass = jnp.maximum(jax.random.exponential(point_key, (*lead, n), dtype), jnp.finfo(dtype).eps / 2)
  above = jnp.where(positive, mass, 0)
  below = jnp.where(positive, 0, mass)
  normalised = [part / part.sum(axis=-1, keepdims=True) for part in (above, below)]
  return 0.5 * (normalised[0] - normalised[1])


def _face_probabilities(n: int) -> np.ndarray:
  """Probability that k = 1, ..., n - 1 coordinates are positive: float64 [n - 1]."""
  k = np.arange(1, n)
  log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
  log_faces = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
  log_areas = 0.5 * np.log(k * (n - k)) - log_factorial[k - 1] - log_factorial[n - k - 1]
  weights = np.exp(log_faces + log_areas - np.max(log_faces + log_areas))
  return weights / weights.sum()


def _num_sweeps(n: int) -> int:
  """Number of sweeps of the Gibbs chain on n - 1 coordinates.

  A sweep halves the expected distance of a coordinate from its mean, exactly and for every n,
  because a pair shares its sum evenly on average. This includes fixed points and n - 1 = 2. Hence
  32 sweeps leave 2^-32 of the start. The additional sweeps are for the joint law of many
  coordinates.
  """
  return 32 + n.bit_length()


def _cube_slice(key: Array, lead: tuple[int, ...], n: int, dtype) -> Array:
  """Draws uniform points of {sum x = 0, max |x| = 1}: [*lead, n].

  The 2n facets x_i = +-1 are congruent. On a facet, the other m = n - 1 coordinates are uniform on
  the slice of the cube with sum -+1, whose law has no closed form. A sweep of the Gibbs chain pairs
  coordinate j with (c - j) mod m for a random c, and draws each pair again, uniformly on the
  segment of the square that keeps its sum. Any two coordinates are equally likely to be paired. A
  fixed point of the pairing keeps its value.
  """
  sign_key, facet_key, chain_key = jax.random.split(key, 3)
  m = n - 1

  def sweep(step, x):
    shift_key, point_key = jax.random.split(jax.random.fold_in(chain_key, step))
    shift = jax.random.randint(shift_key, (*lead, 1), 0, m)
    index = jnp.arange(m)
    partner = (shift - index) % m
    total = x + jnp.take_along_axis(x, partner, axis=-1)
    low, high = jnp.maximum(total - 1, -1), jnp.minimum(total + 1, 1)
    drawn = low + jax.random.uniform(point_key, (*lead, m), dtype) * (high - low)
    other = total - jnp.take_along_axis(drawn, partner, axis=-1)
    paired = jnp.where(index < partner, drawn, other)
    # Rounding may put a coordinate outside the cube by one unit in the last place.
    return jnp.where(index == partner, x, jnp.clip(paired, -1, 1))

  start = jnp.full((*lead, m), -1 / m, dtype)
  others = jax.lax.fori_loop(0, _num_sweeps(n), sweep, start)
  x = jnp.concatenate([jnp.ones((*lead, 1), dtype), others], axis=-1)
  facet = jax.random.randint(facet_key, (*lead, 1), 0, n)
  x = jnp.take_along_axis(x, (jnp.arange(n) - facet) % n, axis=-1)
  return x * jax.random.rademacher(sign_key, (*lead, 1), dtype)
