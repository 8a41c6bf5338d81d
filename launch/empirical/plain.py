"""A bootstrap as a plain loop: NumPy draws the episodes, and CVXPY solves one game at a time.

It is an oracle for `nes_jax.empirical.solve` and a baseline of its speed. It shares no code of the
solver, and draws random numbers of its own.

The maximum-entropy CCE of a game with roles is the same for all players of a role. The loop over
many resamples therefore solves a smaller problem, whose variables x_k are the probabilities of the
classes k of profiles that are permutations of one another within roles:

  maximise over x    sum_k x_k (log m_k - log x_k)
  subject to         sum_k x_k mean over profiles of class k of the sum over players p of a role of
                       p's gain from strategy a  <=  0        for each role and each a

with m_k profiles in class k. Without this reduction, the problem has a variable for each profile.

Glossary: R resamples, N players, K classes, J profiles.
"""

import itertools
import time
from typing import NamedTuple

import numpy as np

from launch.baselines import convex
from nes_jax.empirical import EmpiricalGame

# CVXPY's solvers in the order in which they are tried.
_SOLVERS = ("CLARABEL", "ECOS")


class Plain(NamedTuple):
  """Numbers of the resamples, and the time that one takes."""

  payoffs: np.ndarray  # [R, N] payoffs at the equilibrium of each resample
  regret: np.ndarray  # [R, N] regret of the joint given, in each resample
  weights: np.ndarray  # [R, N, A] marginal probabilities; all players have A strategies
  seconds: float  # wall time of one resample


def bootstrap(
    game: EmpiricalGame, joint: np.ndarray, seed: int, resamples: int, *, reduced: bool = True
) -> Plain:
  """Solves resamples of a game one after another, for the maximum-entropy CCE.

  Args:
    game: a game with samples, whose players all have the same number of strategies.
    joint: [A, ..., A] the joint whose regret is measured.
    seed: seed of NumPy's random numbers.
    resamples: R.
    reduced: whether profiles of one class share a variable.

  Raises:
    ImportError: CVXPY or Clarabel is not installed.
    ValueError: the game has no samples.
  """
  if game.samples is None:
    raise ValueError("the plain bootstrap needs samples")
  rng, shape = np.random.default_rng(seed), game.shape
  strategies = np.array(list(itertools.product(*map(range, shape))))  # [J, N]
  rows, classes = _classes(game, strategies, reduced)
  sizes = np.bincount(classes)
  program = _Program(len(set(rows)), sizes)
  played = joint.ravel()
  found: list[tuple] = []
  start = 0.0
  for index in range(-1, resamples):  # The first turn compiles, and does not count.
    if index == 0:
      found, start = [], time.perf_counter()
    drawn = rng.integers(len(game.samples), size=len(game.samples))
    payoffs = game.dense(game.samples[drawn].mean(0))
    gains = convex.deviation_matrix(payoffs, "cce")  # [N A, J]
    summed = np.zeros((len(set(rows)), len(strategies)))
    np.add.at(summed, rows, gains)
    means = np.stack([np.bincount(classes, row) for row in summed]) / sizes
    answer = (program.solve(means) / sizes)[classes]
    marginals = [
        [answer[strategies[:, p] == a].sum() for a in range(shape[p])] for p in range(len(shape))
    ]
    regret = np.maximum(np.reshape(gains @ played, (len(shape), -1)).max(-1), 0)
    found.append((payoffs.reshape(len(shape), -1) @ answer, regret, marginals))
  seconds = (time.perf_counter() - start) / resamples
  payoffs, regret, weights = map(np.array, zip(*found))
  return Plain(payoffs, regret, weights, seconds)


def _classes(
    game: EmpiricalGame, strategies: np.ndarray, reduced: bool
) -> tuple[np.ndarray, np.ndarray]:
  """The constraint of each deviation, [N A], and the class of each profile, [J]."""
  players, count = len(game.roles), game.shape[0]
  if not reduced:
    return np.arange(players * count), np.arange(len(strategies))
  known = sorted(set(game.roles))
  rows = [known.index(game.roles[p]) * count + a for p in range(players) for a in range(count)]
  keys = [
      tuple(tuple(sorted(x for x, r in zip(profile, game.roles) if r == role)) for role in known)
      for profile in strategies.tolist()
  ]
  number = {key: index for index, key in enumerate(dict.fromkeys(keys))}
  return np.array(rows), np.array([number[key] for key in keys])


class _Program:
  """The convex program of the module, compiled once and solved for many games."""

  def __init__(self, constraints: int, sizes: np.ndarray):
    cp = convex._import("cvxpy")
    self._x = cp.Variable(len(sizes), nonneg=True)
    self._gains = cp.Parameter((constraints, len(sizes)))
    goal = cp.sum(cp.entr(self._x)) + np.log(sizes) @ self._x
    self._problem = cp.Problem(
        cp.Maximize(goal), [cp.sum(self._x) == 1, self._gains @ self._x <= 0]
    )

  def solve(self, gains: np.ndarray) -> np.ndarray:
    self._gains.value = gains / gains.std()
    for solver in _SOLVERS:
      self._problem.solve(solver=solver)
      if self._problem.status == "optimal":
        return np.maximum(self._x.value, 0)
    raise RuntimeError(f"{' and '.join(_SOLVERS)} do not solve a resample: {self._problem.status}")
