"""Games made of tables of scores."""

from collections.abc import Callable
import math
from typing import Any, Literal

import numpy as np

Normaliser = Literal["range", "stddev", "rank", "winrate", "none"]


def _by_range(scores: np.ndarray) -> np.ndarray:
  lowest, highest = scores.min(-1, keepdims=True), scores.max(-1, keepdims=True)
  return (scores - lowest) / np.where(highest > lowest, highest - lowest, 1)


def _by_stddev(scores: np.ndarray) -> np.ndarray:
  deviation = scores.std(-1, keepdims=True)
  return (scores - scores.max(-1, keepdims=True)) / np.where(deviation > 0, deviation, 1)


def _by_rank(scores: np.ndarray) -> np.ndarray:
  beaten = (scores[..., :, None] > scores[..., None, :]).sum(-1)
  tied = (scores[..., :, None] == scores[..., None, :]).sum(-1) - 1
  return (beaten + tied / 2) / max(scores.shape[-1] - 1, 1)


_NORMALISERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "range": _by_range,
    "stddev": _by_stddev,
    "rank": _by_rank,
    "none": lambda scores: scores,
}
NORMALISERS: tuple[str, ...] = (*_NORMALISERS, "winrate")

_normal_cdf = np.vectorize(lambda x: 0.5 * math.erfc(-x / math.sqrt(2)), otypes=[float])


def agent_vs_task(
    scores: Any,
    stddev: Any = None,
    *,
    normaliser: Normaliser = "range",
    pairwise: bool = True,
) -> np.ndarray:
  """The game of agents that are compared on tasks.

  Two players choose an agent each, and a third one chooses the task. An agent's payoff is its
  score less the other's, and the task's is the size of that difference: it looks for tasks that
  tell the agents apart, and the agents for those that win there.

  Args:
    scores: [..., agents, tasks], a higher score is better.
    stddev: [agents, tasks] or like the scores, standard deviations of the scores; for "winrate".
    normaliser: how the scores of a task are made comparable to those of another one: "range", to
      [0, 1]; "stddev", divided by the standard deviation over agents; "rank", by rank to [0, 1];
      "winrate", each pair by the probability that the one's score is higher, of normal scores with
      these standard deviations; or "none".
    pairwise: False gives the game of Nash averaging (Balduzzi et al. 2018): one player chooses the
      agent and is paid its score, and the other chooses the task and pays it.

  Returns:
    [..., 3, tasks, agents, agents], or [..., 2, agents, tasks] without pairs.

  Raises:
    ValueError: scores are not a table of finite numbers, or an option is unknown.
  """
  scores = _table(scores, "scores")
  if normaliser not in NORMALISERS:
    raise ValueError(f"unknown normaliser {normaliser!r}; use one of {', '.join(NORMALISERS)}")
  by_task = np.swapaxes(scores, -1, -2)
  if normaliser == "winrate":
    if not pairwise:
      raise ValueError("normaliser 'winrate' compares pairs of agents: leave out pairwise=False")
    if stddev is None:
      raise ValueError("normaliser 'winrate' needs stddev, the standard deviations of the scores")
    spread = np.swapaxes(_table(stddev, "stddev"), -1, -2)
    if np.any(spread < 0):
      raise ValueError("stddev must not be negative")
    difference = 2 * _winrate(by_task, spread) - 1
  else:
    by_task = _NORMALISERS[normaliser](by_task)
    if not pairwise:
      payoff = np.swapaxes(by_task, -1, -2)
      return np.stack([payoff, -payoff], -3)
    difference = by_task[..., :, None] - by_task[..., None, :]
  return np.stack([np.abs(difference), difference, -difference], -4)


def _winrate(mean: np.ndarray, stddev: np.ndarray) -> np.ndarray:
  """Probability that the row's normal score exceeds the column's: [..., n] -> [..., n, n]."""
  difference = mean[..., :, None] - mean[..., None, :]
  spread = np.sqrt(stddev[..., :, None] ** 2 + stddev[..., None, :] ** 2)
  sure = np.sign(difference) / 2 + 0.5
  return np.where(spread > 0, _normal_cdf(difference / np.where(spread > 0, spread, 1)), sure)


def side_by_side(winrates: Any) -> np.ndarray:
  """The game of agents that are compared directly, in pairs.

  Args:
    winrates: [agents, agents], the share of comparisons in which the row's agent beats the
      column's, where a draw counts one half; or [prompts, agents, agents], a table for each prompt.

  Returns:
    [2, agents, agents], zero-sum payoffs, the winrate less one half; or, with prompts,
    [3, prompts, agents, agents], whose first player chooses the prompt and is paid the size of the
    agents' payoffs.

  Raises:
    ValueError: winrates are not square tables of numbers in [0, 1], or the two agents' winrates of
      a pair do not sum to one.
  """
  winrates = _table(winrates, "winrates")
  if winrates.ndim not in (2, 3) or winrates.shape[-1] != winrates.shape[-2]:
    raise ValueError(
        "winrates must be [agents, agents] or [prompts, agents, agents], not"
        f" {list(winrates.shape)}"
    )
  if winrates.min() < 0 or winrates.max() > 1:
    raise ValueError("winrates must be shares between 0 and 1")
  total = winrates + np.swapaxes(winrates, -1, -2)
  off_diagonal = ~np.eye(winrates.shape[-1], dtype=bool)
  if np.any(np.abs(total - 1)[..., off_diagonal] > 1e-6):
    raise ValueError(
        "the winrates of a pair must sum to one: count a draw as half a win for each agent"
    )
  difference = (winrates - np.swapaxes(winrates, -1, -2)) / 2
  payoffs = [difference, -difference]
  return np.stack(([np.abs(difference)] if winrates.ndim == 3 else []) + payoffs)


def _table(values: Any, name: str) -> np.ndarray:
  """Finite float64 numbers with two or more axes, none of them empty. Raises ValueError."""
  values = np.asarray(values, np.float64)
  if values.ndim < 2 or 0 in values.shape:
    raise ValueError(f"{name} must be a table with a row and a column, not {list(values.shape)}")
  check_finite(values, name)
  return values


def check_finite(values: np.ndarray, name: str) -> None:
  """Raises ValueError, with the place of the first one, for NaN and infinity."""
  bad = np.argwhere(~np.isfinite(values))
  if len(bad):
    raise ValueError(
        f"{name} hold NaN or infinity in {len(bad)} places, the first at {bad[0].tolist()}"
    )
