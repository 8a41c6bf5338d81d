"""A calibration problem: the numbers of a supertype profile that may move, and the targets.

`Parameters` are the numbers that move. They are expressed in coordinates in which their box is
[-1, 1]^d, and they never leave the box. A `Space` are the numbers of a profile that may move; the
others keep their values.

Glossary: d numbers that are calibrated, P numbers of a profile, K targets, B episodes; * any
leading axes.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import fnmatch
import math
from typing import Any, TypeVar

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np

from calsheq_jax.targets import Target, values_of, whitener_of
from calsheq_jax.types import Array
from envs.base import Environment, Profile

# An array of JAX or of NumPy.
_Numbers = TypeVar("_Numbers", Array, np.ndarray)


@dataclasses.dataclass(frozen=True)
class Parameters:
  """The numbers that are calibrated: names, bounds, and first values. `parameters` makes them."""

  names: tuple[str, ...]  # [d]
  low: tuple[float, ...]  # [d] lower bounds
  high: tuple[float, ...]  # [d] upper bounds
  first: tuple[float, ...]  # [d] first values

  @property
  def size(self) -> int:
    """The number of numbers that move, d."""
    return len(self.names)

  def from_numbers(self, numbers: _Numbers) -> _Numbers:
    """Converts numbers [*, d] in their units to coordinates [*, d] of the same type."""
    low, high = np.array(self.low, np.float32), np.array(self.high, np.float32)
    return 2 * (numbers - low) / (high - low) - 1

  def numbers(self, coordinates: Array) -> Array:
    """Converts coordinates [*, d] to the numbers' units; rounding never leaves the bounds."""
    low, high = np.array(self.low, np.float32), np.array(self.high, np.float32)
    return jnp.clip(low + (high - low) * (coordinates + 1) / 2, low, high)

  def origin(self) -> np.ndarray:
    """Coordinates [d] of the first values."""
    return np.clip(self.from_numbers(np.array(self.first, np.float32)), -1, 1)


def parameters(box: Mapping[str, tuple[float, float]]) -> Parameters:
  """Makes parameters from bounds (low, high) by name; they begin in the middle.

  Raises:
    ValueError: there is no parameter, or a pair of bounds is not finite or is empty.
  """
  pairs = bounds_of(box)
  if not pairs:
    raise ValueError("the box is empty: give bounds (low, high) of one parameter or more")
  low, high = (tuple(pair[i] for pair in pairs.values()) for i in (0, 1))
  return Parameters(tuple(pairs), low, high, tuple((a + b) / 2 for a, b in zip(low, high)))


def bounds_of(box: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
  """Checks the bounds of a box. Raises ValueError for those that cannot be."""
  if not isinstance(box, Mapping):
    raise ValueError(
        f"the box is a {type(box).__name__}: it must be a mapping from a name to (low, high);"
        " settings are given as config=..."
    )
  pairs = {}
  for name, bounds in box.items():
    try:
      low, high = map(float, bounds)
    except (TypeError, ValueError):
      raise ValueError(f"the bounds of {name} are {bounds!r}: give (low, high)") from None
    if not -math.inf < low < high < math.inf:
      raise ValueError(f"bounds {low:g} to {high:g} of {name}: they must be finite and not empty")
    pairs[name] = (low, high)
  return pairs


@dataclasses.dataclass(frozen=True)
class Space(Parameters):
  """The numbers of a profile that move; the others stay. The function `space` makes it."""

  env: Environment
  start: tuple[float, ...]  # [P] first values of all numbers, in the order of `ravel_pytree`
  positions: tuple[int, ...]  # [d] positions of the numbers that move

  def profile(self, coordinates: Array) -> Profile:
    """Makes the profile at coordinates [d]; vmap it for several profiles."""
    flat, unravel = ravel_pytree(self.env.profile_space.low)
    start = jnp.array(self.start, flat.dtype)
    moved = self.numbers(coordinates).astype(flat.dtype)
    return unravel(start.at[np.array(self.positions)].set(moved))


def space(
    env: Environment,
    start: Profile,
    patterns: Sequence[str] = ("*",),
    low: Mapping[str, float] | None = None,
    high: Mapping[str, float] | None = None,
) -> Space:
  """Makes the space of the numbers of a profile whose names match a pattern.

  Args:
    env: the environment.
    start: the first profile, Lambda_0; numbers that do not move keep its values.
    patterns: patterns of names (`fnmatch`), such as "supertype_1/connection_*".
    low, high: bounds by name, where they are to be narrower than the environment's.

  Raises:
    ValueError: a pattern or name matches nothing, bounds are empty or beyond the environment's, the
      start is out of bounds, or the profile has numbers that are not real.
  """
  if any(not jnp.issubdtype(jnp.result_type(x), jnp.floating) for x in jax.tree.leaves(start)):
    raise ValueError("a profile that is not of real numbers cannot be calibrated")
  begin, least, most = (
      np.asarray(ravel_pytree(tree)[0], np.float64) for tree in (start, *env.profile_space)
  )
  names = env.profile_names
  for pattern in patterns:
    if not fnmatch.filter(names, pattern):
      raise ValueError(f"{pattern!r} matches no number of a profile: {', '.join(names)}")
  positions = tuple(
      i for i, name in enumerate(names) if any(fnmatch.fnmatchcase(name, p) for p in patterns)
  )
  moving = [names[i] for i in positions]
  for name in (*(low or {}), *(high or {})):
    if name not in moving:
      raise ValueError(f"a bound on {name!r}, which is none of {', '.join(moving)}")
  lows = [(low or {}).get(names[i], least[i]) for i in positions]
  highs = [(high or {}).get(names[i], most[i]) for i in positions]
  for i, bottom, top in zip(positions, lows, highs):
    if not least[i] <= bottom < top <= most[i]:
      raise ValueError(
          f"bounds {bottom} to {top} of {names[i]}: they must not be empty, and lie within"
          f" {least[i]:g} to {most[i]:g}"
      )
    if not bottom <= begin[i] <= top:
      raise ValueError(f"{names[i]} starts at {begin[i]:g}, out of its bounds {bottom} to {top}")
  return Space(
      names=tuple(moving),
      low=tuple(float(x) for x in lows),
      high=tuple(float(x) for x in highs),
      first=tuple(float(begin[i]) for i in positions),
      env=env,
      start=tuple(begin.tolist()),
      positions=positions,
  )


def space_of(
    env: Environment,
    box: Mapping[str, tuple[float, float]] | None = None,
    start: Profile | None = None,
) -> Space:
  """Makes the space of the numbers of a profile that a box names.

  Args:
    env: the environment.
    box: bounds (low, high) by the name of a number, or by a pattern of names (`fnmatch`), of which
      the first that matches counts. None means all numbers, with the environment's bounds.
    start: the first profile, whose numbers out of the box do not move. None means `env.profile()`,
      where numbers that move begin at the nearest bound if they are out of their bounds.

  Raises:
    ValueError: as in `space`, or a pair of bounds is not finite or is empty.
  """
  given = start is not None
  if start is None:
    start = env.profile()
  if box is None:
    return space(env, start)
  pairs = bounds_of(box)
  moving = {}
  for name in env.profile_names:
    matching = [pair for pattern, pair in pairs.items() if fnmatch.fnmatchcase(name, pattern)]
    if matching:
      moving[name] = matching[0]
  if not given and moving:
    flat, unravel = ravel_pytree(start)
    ends = [moving.get(name, (-math.inf, math.inf)) for name in env.profile_names]
    low, high = np.array(ends, flat.dtype).T
    start = unravel(jnp.clip(flat, low, high))
  low, high = ({name: pair[i] for name, pair in moving.items()} for i in (0, 1))
  return space(env, start, tuple(pairs), low, high)


@dataclasses.dataclass(frozen=True)
class Problem:
  """A space of profiles and the targets of the calibration. Hashable: static under jit.

  Raises:
    ValueError: there is no target, two targets have one name, or the environment has no such
      output.
  """

  space: Space
  targets: tuple[Target, ...]

  def __post_init__(self):
    object.__setattr__(self, "targets", tuple(self.targets))
    middle = jnp.zeros(self.space.size)
    state = jax.eval_shape(
        lambda: self.env.reset(jax.random.key(0), self.space.profile(middle))[1]
    )
    check_targets(self.targets, jax.eval_shape(self.env.outputs, state), type(self.env).__name__)

  @property
  def env(self) -> Environment:
    """The environment whose profile is calibrated."""
    return self.space.env

  def values(self, states: Any) -> Array:
    """Reads the targets' numbers from final states of episodes: [B, ...] -> [B, K]."""
    return jax.vmap(lambda state: values_of(self.targets, self.env.outputs(state)))(states)


def check_targets(
    targets: Sequence[Target], outputs: Mapping[str, jax.ShapeDtypeStruct], owner: str
) -> None:
  """Checks that targets can be read from outputs.

  Args:
    targets: K targets.
    outputs: shapes of the outputs by name.
    owner: name of the environment or simulator whose outputs these are.

  Raises:
    ValueError: there is no target, two have one name, or one is not about one number of the
      outputs.
  """
  if not targets:
    raise ValueError("there are no targets: give one or more")
  names = [target.name for target in targets]
  for name in names:
    if names.count(name) > 1:
      raise ValueError(f"{names.count(name)} targets are called {name}: a name tells them apart")
  whitener_of(targets)
  for target in targets:
    _check_target(target, outputs, owner)


def _check_target(
    target: Target, outputs: Mapping[str, jax.ShapeDtypeStruct], owner: str
) -> None:
  """Raises ValueError if a target is not about one number of the outputs."""
  if target.function is None:
    if target.output not in outputs:
      raise ValueError(
          f"the target {target.name} is on no output of {owner}: it has {', '.join(outputs)}"
      )
    # JAX would silently take the nearest number for an index beyond the shape.
    whole = outputs[target.output].shape
    if len(target.index) > len(whole) or any(
        not 0 <= i < size for i, size in zip(target.index, whole)
    ):
      raise ValueError(f"the target {target.name} is beyond the output's shape {list(whole)}")
  shape = jax.eval_shape(target.read, outputs).shape
  if shape:
    raise ValueError(
        f"the target {target.name} has the shape {list(shape)}: give the index of one number"
    )
