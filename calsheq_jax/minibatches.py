"""Minibatches of the steps of many episodes, the same on any number of devices.

Consecutive episodes form groups, and each group deals out its shuffled steps evenly, so that every
minibatch has as many steps from every group. A group never spans two devices.

Glossary: b episodes of this device, T steps, n agents, M minibatches, G groups of S steps.
"""

import math
from typing import TypeVar

import jax
import jax.numpy as jnp

from calsheq_jax.rollout import keys_of
from calsheq_jax.types import Array

Samples = TypeVar("Samples")  # a pytree of arrays


def group_size(steps: int, minibatches: int) -> int:
  """The number of consecutive episodes in a group: the fewest that deal out evenly.

  Args:
    steps: number of steps of an episode and all its agents, T n.
    minibatches: M.
  """
  return minibatches // math.gcd(steps, minibatches)


def check_batch(steps: int, episodes: int, minibatches: int) -> None:
  """Checks that a device's episodes divide into groups.

  Args:
    steps: number of steps of an episode and all its agents, T n.
    episodes: b.
    minibatches: M.

  Raises:
    ValueError: they do not.
  """
  size = group_size(steps, minibatches)
  if episodes % size:
    raise ValueError(
        f"{episodes} episodes of {steps} steps on a device do not deal out to {minibatches}"
        f" minibatches: give a multiple of {size} episodes a device, or fewer minibatches"
    )


def group_episodes(samples: Samples, shape: tuple[int, ...], minibatches: int) -> Samples:
  """Gathers consecutive episodes into G groups of S steps: [T, b, ...] -> [G, S, ...].

  Args:
    samples: a pytree of arrays whose shapes all begin with `shape`.
    shape: (T, b), or (T, b, n).
    minibatches: M.

  Raises:
    ValueError: the episodes do not divide into groups.
  """
  steps, episodes = math.prod(shape) // shape[1], shape[1]
  check_batch(steps, episodes, minibatches)
  size = group_size(steps, minibatches)

  def group(x):
    x = jnp.swapaxes(x, 0, 1)  # [b, T, ...]
    return x.reshape((episodes // size, size * steps) + x.shape[len(shape):])

  return jax.tree.map(group, samples)


def shuffle_into_minibatches(
    key: Array, groups: Samples, minibatches: int, axis_name: str | None
) -> Samples:
  """Shuffles the steps within each group and deals them out to minibatches.

  Args:
    key: random key of this pass, the same on all devices.
    groups: a pytree of arrays [G, S, ...], G groups of S steps; S is a multiple of M.
    minibatches: M.
    axis_name: name of the axis of devices that share the batch; None means a single device.

  Returns:
    [M, G S / M, ...], S / M steps from each group in each minibatch.
  """
  count, size = jax.tree.leaves(groups)[0].shape[:2]
  keys = keys_of(key, count, axis_name)
  order = jax.vmap(lambda k: jax.random.permutation(k, size))(keys)  # [G, S]

  def deal(x):
    x = jax.vmap(lambda rows, order: rows[order])(x, order)
    x = x.reshape((count, minibatches, size // minibatches) + x.shape[2:])
    return jnp.swapaxes(x, 0, 1).reshape((minibatches, -1) + x.shape[3:])

  return jax.tree.map(deal, groups)
