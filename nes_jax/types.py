"""Table of contents of nes_jax: the types that everything else speaks.

Dimension letters used throughout the package:
  N   players
  Ap  strategies of player p (A1, ..., AN); |A| is their product, the number of joint strategies
  B   games in a batch
  D   dual variables of a game: sum of Ap for CCE, sum of Ap * Ap for CE (the diagonal is always 0)
  *b  optional batch axes; they always come LAST in functions that say so (see `layout`)
"""

import dataclasses
from typing import Literal, NamedTuple, TypeAlias

import jax

Array = jax.Array
Concept = Literal["cce", "ce"]

# One block a player. CCE: [Ap], the gain of deviating to each strategy before any recommendation.
# CE: [Ap, Ap], row = recommended strategy, column = strategy deviated to, zero diagonal.
Duals: TypeAlias = tuple[Array, ...]

CONCEPTS: tuple[Concept, ...] = ("cce", "ce")
METHODS: tuple[str, ...] = ("auto", "exact", "neural", "refined")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Problem:
  """One equilibrium selection problem, eq. (6) of Marris et al. (2022), in normalised units.

    minimise    tau (KL(sigma || target) + rho sum_p phi(epsilon_p)) - omega W . sigma
    subject to  A_p sigma <= epsilon_p for every player p,   sigma a distribution

  This is the paper's objective divided by max(1, mu): tau = 1 / max(1, mu), omega = min(1, mu).
  Duals of the package are those of this problem: the paper's divided by max(1, mu). An infinite mu
  gives tau = 0, a linear objective.

  `selection.problem` makes it and says in which units the payoffs are. Trailing axes are batch
  axes.
  """

  payoffs: Array  # [N, A1, ..., AN, *b] finite; 0 where a strategy does not exist
  target: Array  # [A1, ..., AN, *b] positive, 0 where a strategy does not exist, sums to one
  epsilon: Array  # [N, *b] epsilon-hat, the approximation wanted
  epsilon_max: Array  # [N, *b] epsilon-plus, the largest approximation allowed
  welfare: Array  # [A1, ..., AN, *b] zero mean, unit variance, or zero: W
  welfare_weight: Array  # [*b] omega in [0, 1]
  temperature: Array  # [*b] tau in [0, 1]
  # weight of the approximation target, in units of tau; infinity makes the constraint hard
  rho: float = dataclasses.field(metadata={"static": True})
  # per player bool [Ap, *b], the strategies that exist; None: all do
  strategies: tuple[Array, ...] | None = None


class Solution(NamedTuple):
  """An equilibrium of each game, with its certificate, in the units of the payoffs given."""

  joint: Array  # [B, A1, ..., AN] sigma, sums to one
  epsilon: Array  # [B, N] approximation that each player's constraints were given
  gap: Array  # [B] (C)CE gap: sum over players of the largest gain above epsilon
  residual: Array  # [B] KKT residual of the normalised problem (`metrics.residual`)
  converged: Array  # [B] bool: residual is at most the tolerance asked for
  duals: Duals  # per player [B, Ap] (CCE) or [B, Ap, Ap] (CE), one over payoff units
  marginals: tuple[Array, ...]  # per player [B, Ap]
  iterations: Array  # [B] int32 interior-point steps taken
  repeated: Array  # [B] bool: did not converge at first, and was solved again in float64
