"""Arrays of the CPU engine, in which the blocks of all players are joined."""

from collections.abc import Sequence
from typing import Any

from nes_jax.types import Concept


def split_duals(duals: Any, shape: Sequence[int], concept: Concept) -> tuple[Any, ...]:
  """[B, D] -> per player [B, Ap] (CCE) or [B, Ap, Ap] (CE)."""
  blocks, first = [], 0
  for count in shape:
    size = count if concept == "cce" else count**2
    block = duals[:, first : first + size]
    blocks.append(block if concept == "cce" else block.reshape(-1, count, count))
    first += size
  return tuple(blocks)


def split_marginals(marginals: Any, shape: Sequence[int]) -> tuple[Any, ...]:
  """[B, A] -> per player [B, Ap]."""
  return split_duals(marginals, shape, "cce")
