r"""The equilibrium of an empirical game, with bootstrap intervals (Efron 1979).

The mean payoffs G-hat have an equilibrium sigma(G-hat) that a selection makes unique. A resample b
is a game G_b that is to G-hat as G-hat is to the true game G:

  G_b = sum_e w_be x_e                     nonparametric: x_e are the payoffs of episode e, and w_be
                                           is the number of times that b draws e, divided by E
  G_b = G-hat + N(0, covariance / count)   parametric: each profile on its own, players correlated

The nonparametric bootstrap is taken where the game has samples. All profiles share the weights, so
that it keeps correlations by common random numbers.

Payoffs, welfare and weights of resample b are those of sigma(G_b) in G_b. Their percentiles
estimate the error of the same numbers of sigma(G-hat) in G-hat. The regret of player p is that of
one fixed joint, sigma(G-hat), in each resampled game:

  regret_p(b) = max(0, max_a  sum_s sigma(s) (u_p(a, s_-p) - u_p(s)))     with u of G_b     (CCE)
  regret_p(b) = max(0, max_a,a'  sum_s_-p sigma(a, s_-p) (u_p(a', s_-p) - u_p(a, s_-p)))    (CE)

The gain of a deviation is linear in the payoffs. Given the joint it errs by the same amount in
either direction if the noise is symmetric. In G-hat no gain is above the epsilon of the selection,
which is zero by default. Hence the spread of regret over resamples is, to first order, that of the
regret of sigma(G-hat) in the true game, and its percentile interval covers that number. Where the
lower end is 0, the interval errs on one side only, and covers more often than its level says: 97.5%
in place of 95%.

Glossary: R resamples, N players, Ap strategies of player p, K canonical profiles, E episodes.
"""

from typing import NamedTuple

import jax
import numpy as np

from nes_jax import resampling
from nes_jax.empirical.games import EmpiricalGame
from nes_jax.selection import Selection, named
from nes_jax.solving import checks
from nes_jax.solving.solve import solve as solve_games
from nes_jax.types import Array, Concept, Solution

# Probability above which a strategy counts as part of the support.
THRESHOLD = 1e-3


class Bootstrapped(NamedTuple):
  """A number of the point estimate, and its percentile interval over resamples."""

  point: np.ndarray  # [...]
  interval: resampling.Interval  # [...]


class Report(NamedTuple):
  """The equilibrium of an empirical game, with intervals."""

  solution: Solution  # equilibrium of the mean payoffs, with its certificate
  weights: tuple[Bootstrapped, ...]  # for each player [Ap], the marginal probabilities
  payoffs: Bootstrapped  # [N] expected payoffs at the equilibrium
  welfare: Bootstrapped  # [] sum of the payoffs
  regret: Bootstrapped  # [N] regret of the point's joint
  total_regret: Bootstrapped  # [] sum of the regrets over players
  # For each player [Ap], the share of the certified resamples in which the probability is above the
  # threshold; NaN if no resample is certified.
  support: tuple[np.ndarray, ...]
  uncertified: float  # share of the resamples whose equilibrium is not certified
  resamples: int  # number of resamples, R


def solve(
    game: EmpiricalGame,
    concept: Concept = "cce",
    selection: str | Selection = "max_entropy",
    *,
    resamples: int = 1000,
    key: Array | None = None,
    level: float = resampling.LEVEL,
    threshold: float = THRESHOLD,
) -> Report:
  """Solves the mean payoffs and all resamples in one call of `nes_jax.solve`, in float64.

  The module gives the equations. Resamples that are not certified are counted in `uncertified`, and
  make the intervals of weights, payoffs and welfare wider (`resampling.interval`). Regret needs no
  equilibrium of a resample.

  The resampled games take 8 R N A1 ... AN bytes of memory, and `nes_jax.solve` several times the
  size of one of its chunks.

  Args:
    game: the empirical game.
    concept: "cce" or "ce".
    selection: a name or a `nes_jax.Selection`, whose arrays are those of one game.
    resamples: R, the number of resamples.
    key: random key; None takes jax.random.key(0).
    level: share of the resamples that an interval holds, between 0 and 1.
    threshold: probability above which a strategy counts as part of the support.

  Raises:
    ValueError: the number of resamples is below 1, the level is not between 0 and 1, or
      `nes_jax.solve` refuses the concept or the selection.
  """
  if resamples < 1:
    raise ValueError(f"resamples={resamples} must be at least 1")
  if not 0 < level < 1:
    raise ValueError(f"level={level}: a number between 0 and 1, such as 0.95, is expected")
  checks.check_concept(concept)
  if isinstance(selection, str):
    named(selection, game.payoffs(), player_axis=0)  # An unknown name raises.
  key = jax.random.key(0) if key is None else key
  means = np.concatenate([game.mean[None], resampled_means(game, key, resamples)])
  payoffs = game.dense(means)
  solution = solve_games(
      payoffs, concept=concept, selection=selection, precision="float64", batched=True
  )
  assert isinstance(solution, Solution)  # payoffs are one array
  solution = jax.tree.map(np.asarray, solution)
  certified = solution.converged[1:]

  def bootstrapped(values: np.ndarray, known: np.ndarray = certified) -> Bootstrapped:
    return Bootstrapped(values[0], resampling.interval(values[1:], known, level))

  flat = (len(payoffs), game.num_players, -1)
  earned = np.einsum("rnj,rj->rn", payoffs.reshape(flat), solution.joint.reshape(len(payoffs), -1))
  regret = regrets(payoffs, solution.joint[0], concept)
  always = np.ones(resamples, bool)
  with np.errstate(invalid="ignore"):
    support = tuple(
        (x[1:][certified] > threshold).sum(0) / certified.sum() for x in solution.marginals
    )
  return Report(
      solution=jax.tree.map(lambda x: x[0], solution),
      weights=tuple(map(bootstrapped, solution.marginals)),
      payoffs=bootstrapped(earned),
      welfare=bootstrapped(earned.sum(-1)),
      regret=bootstrapped(regret, always),
      total_regret=bootstrapped(regret.sum(-1), always),
      support=support,
      uncertified=1 - float(certified.mean()),
      resamples=resamples,
  )


def resampled_means(game: EmpiricalGame, key: Array, num: int) -> np.ndarray:
  """Mean payoffs of resampled games, [num, K, N]: see the module for the two bootstraps."""
  if game.samples is not None:
    weights = resampling.weights(key, num, len(game.samples))
    flat = game.samples.reshape(len(game.samples), -1)
    return (weights @ flat).reshape(num, *game.mean.shape)
  # The square root of a covariance that may be singular, since players' payoffs may depend on one
  # another.
  values, vectors = np.linalg.eigh(game.covariance / game.count[:, None, None])
  root = vectors * np.sqrt(np.maximum(values, 0))[:, None, :]
  noise = resampling.normal(key, np.zeros_like(game.mean), 1.0, num)
  return game.mean + np.einsum("kij,rkj->rki", root, noise)


def regrets(payoffs: np.ndarray, joint: np.ndarray, concept: Concept = "cce") -> np.ndarray:
  """Each player's gain from its best deviation from one joint, at least 0, in many games.

  Args:
    payoffs: [R, N, A1, ..., AN].
    joint: [A1, ..., AN] probabilities.
    concept: "cce": a deviation plays one strategy always; "ce": it plays one strategy wherever one
      other strategy is recommended.

  Returns:
    [R, N].
  """
  found = []
  for p in range(joint.ndim):
    own = np.moveaxis(payoffs[:, p], 1 + p, 1)
    own = own.reshape(*own.shape[:2], -1)  # [R, Ap, strategies of the others]
    played = np.moveaxis(joint, p, 0).reshape(own.shape[1], -1)
    if concept == "cce":
      gains = own @ played.sum(0) - np.einsum("raj,aj->r", own, played)[:, None]
    else:
      gains = np.einsum("rbj,aj->rab", own, played)
      gains = gains - np.einsum("raa->ra", gains)[:, :, None]
    found.append(np.maximum(gains.reshape(len(gains), -1).max(-1), 0))
  return np.stack(found, -1)
