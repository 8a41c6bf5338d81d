"""The invariant sphere of games, and the way back (Marris et al. 2022, section 4.1, appendix B).

(C)CE constraints do not change when a player's payoffs are shifted or positively scaled, so every
game is represented by one with zero mean and norm Z_m a player; Z_m makes an element of a payoff
tensor, drawn uniformly from the whole sphere in dimension |A|, have unit variance.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from nes_jax.types import Array

Norm = Literal["l1", "l2", "linf"]
NORMS: tuple[str, ...] = ("l1", "l2", "linf")

# Relative spread below which payoffs are rounding noise around a constant.
_CONSTANT_ULPS = 8


def radius(size: Any, norm: Norm = "l2") -> Any:
  """Z_m of eq. (16a): sqrt(|A|) for L2 (eq. 17); the same rule gives those of L1 and L-infinity.

  The size |A| is a number or an array of numbers, and so is the result.

  The second moment of a coordinate is Z^2 / n on the L2 sphere, 2 Z^2 / (n (n + 1)) on the L1
  sphere and Z^2 (n + 2) / (3 n) on the surface of the cube.
  """
  radii: Mapping[str, Any] = {
      "l1": (size * (size + 1) / 2) ** 0.5,
      "l2": size**0.5,
      "linf": (3 * size / (size + 2)) ** 0.5,
  }
  return radii[norm]


class Normalised(NamedTuple):
  """A tensor on the sphere and what was divided out: given = scale * values + offset."""

  values: Array  # [A1, ..., AN] zero mean, norm Z_m; all zero if the tensor was constant
  scale: Array  # [] positive, or 0 if the tensor was constant
  offset: Array  # [] mean


def normalise(tensor: Array, norm: Norm = "l2", alive: Array | None = None) -> Normalised:
  """Eq. (16a) and (16c) for one player's payoffs, or a welfare: [A1, ..., AN] -> the sphere.

  Entries that are not `alive`, bool [A1, ..., AN], count for nothing and come back as 0.

  Magnitudes from the smallest to the largest that the type can hold are safe: the tensor is
  divided by its largest entry before anything is squared. A constant tensor gives zeros, scale 0.
  """
  info = jnp.finfo(tensor.dtype)
  size: Array | int = tensor.size
  if alive is not None:
    tensor, size = jnp.where(alive, tensor, 0), alive.sum().astype(tensor.dtype)
  largest = jnp.max(jnp.abs(tensor))
  unit = jnp.where(largest > 0, jnp.maximum(largest, info.tiny), 1)
  # The result does not depend on the unit, so neither do derivatives, which would square it.
  unit = jax.lax.stop_gradient(unit)
  # Compilers divide by multiplying with the reciprocal, which is subnormal for the largest units.
  shrink = jnp.where(unit > 1, 2.0**-4, 1).astype(tensor.dtype)
  values = (tensor * shrink) / (unit * shrink)
  offset = values.sum() / size
  values = values - offset
  if alive is not None:
    values = jnp.where(alive, values, 0)
  spread = jnp.max(jnp.abs(values))
  varies = spread > _CONSTANT_ULPS * info.eps
  spread = jax.lax.stop_gradient(jnp.where(varies, spread, 1))
  values = values / spread
  length = {
      "l1": lambda x: jnp.sum(jnp.abs(x)),
      "l2": lambda x: jnp.sqrt(jnp.sum(jnp.where(varies, x * x, 1))),
      "linf": lambda x: jnp.max(jnp.abs(x)),
  }[norm](values)
  length = jnp.where(varies, length, 1)
  z = radius(size, norm)
  return Normalised(
      values=jnp.where(varies, values * (z / length), 0),
      scale=jnp.where(varies, unit * (spread * (length / z)), 0),
      offset=unit * offset,
  )


def normalise_epsilon(epsilon: Array, scale: Array) -> Array:
  """Eq. (16b), with the payoffs' own factor: epsilon in payoff units -> in normalised units.

  The paper prints 1 / ||G - mean||; epsilon is a payoff difference and takes the same Z_m /
  ||G - mean|| as the payoffs. A player with constant payoffs can gain nothing, so only the sign of
  its epsilon matters. Clipping is left to the caller: hard constraints must not be loosened.
  """
  return jnp.where(scale > 0, epsilon / jnp.where(scale > 0, scale, 1), jnp.sign(epsilon))
