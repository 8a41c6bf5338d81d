"""Selections of an equilibrium: the objective of eq. (6) and the nine rows of the paper's Table 3.

  maximise over sigma, epsilon    mu W . sigma - KL(sigma || target) - rho sum_p phi(epsilon_p)
  subject to                      A_p sigma <= epsilon_p for every player p

where phi is smallest at the target epsilon. With rho = infinity epsilon equals its target and the
constraints are hard; W is used in normalised units (zero mean, unit variance), so mu has none.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from nes_jax import deviation, invariance
from nes_jax.types import Array, Problem

# A target joint's zeros are read as 0+ (section 6 of the paper): relative entropy needs full
# support, and this much mass is below what float32 certifies.
TARGET_FLOOR = 1e-12
# Welfare weight mu of the rows of Table 3 that say "much greater than 1".
LARGE_WELFARE_WEIGHT = 1e3
# Weight rho of the approximation term in these rows.
LARGE_RHO = 1e4
# Weight rho of maximum strength.
STRENGTH_RHO = 3e4
# epsilon-plus of maximum strength, in units of the payoffs' norm. Far from it the approximation
# term is linear in epsilon, so that the sum of the players' epsilons is minimised.
STRENGTH_EPSILON_MAX = 5e2
# Largest scale of a player, in units of `deviation.least_regret`.
ROBUST_SCALE = 4.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
  """An equilibrium selection. The defaults are maximum entropy with hard constraints.

  Array fields take one value for all games, or a leading batch axis. `epsilon` is in payoff units.
  """

  target: ArrayLike | None = None  # [A1, ..., AN], non-negative, sums to one; None: uniform
  epsilon: ArrayLike = 0.0  # [] or [N]; -infinity: as small as possible (finite rho)
  welfare: ArrayLike | None = None  # [A1, ..., AN], any units; None: no welfare term
  welfare_weight: ArrayLike = 1.0  # [], mu >= 0; infinity drops the entropy
  rho: float = dataclasses.field(default=math.inf, metadata={"static": True})
  # epsilon-plus in units of the payoffs' norm Z (Table 3: 1); with a finite rho only
  epsilon_max: float = dataclasses.field(default=1.0, metadata={"static": True})


class Row(NamedTuple):
  """A row of Table 3."""

  name: str
  abbreviation: str
  needs: tuple[str, ...]  # fields of Selection that the user gives
  defaults: Mapping[str, float]


TABLE = (
    Row("max_entropy", "ME", (), {}),
    Row("match_target", "MT", ("target",), {}),
    Row("max_welfare", "MU", (), {"welfare_weight": LARGE_WELFARE_WEIGHT}),
    Row("max_welfare_max_entropy", "MWME", ("welfare",), {"welfare_weight": LARGE_WELFARE_WEIGHT}),
    Row("min_relative_entropy", "MRE", ("target",), {}),
    Row(
        "max_strength",
        "MS",
        (),
        {"epsilon": -math.inf, "rho": STRENGTH_RHO, "epsilon_max": STRENGTH_EPSILON_MAX},
    ),
    Row("epsilon_max_entropy", "eps-ME", ("epsilon",), {"rho": LARGE_RHO}),
    Row(
        "epsilon_max_welfare_max_entropy",
        "eps-MWME",
        ("epsilon", "welfare"),
        {"welfare_weight": LARGE_WELFARE_WEIGHT, "rho": LARGE_RHO},
    ),
    Row("epsilon_min_relative_entropy", "eps-MRE", ("epsilon", "target"), {"rho": LARGE_RHO}),
)
NAMES: tuple[str, ...] = tuple(row.name for row in TABLE)

# Rows beyond those of the paper. `named` makes them from the payoffs.
FURTHER = (
    Row("min_welfare", "-MU", (), {"welfare_weight": LARGE_WELFARE_WEIGHT}),
    Row("player_payoff", "PP", ("player",), {"welfare_weight": LARGE_WELFARE_WEIGHT}),
)


def named(name: str, payoffs: ArrayLike, *, player_axis: int | None = None, **inputs) -> Selection:
  """The selection of a row of Table 3, or of `FURTHER`, by name or abbreviation.

  Args:
    name: a name or an abbreviation, e.g. "max_entropy" or "ME". Beyond Table 3, "min_welfare" is
      the equilibrium with the smallest sum of payoffs, and "player_payoff" the one with the largest
      payoff of the player `player=`.
    payoffs: [N, A1, ..., AN] or [B, N, A1, ..., AN]; `max_welfare`, `min_welfare` and
      `player_payoff` make their welfare of them.
    player_axis: 0 for one game, 1 for a batch; None: the shape says which.
    **inputs: fields of Selection: those that the row leaves to the user (`target`, `welfare`,
      `epsilon`), and any other that is to differ from the row's default.

  Raises:
    ValueError: unknown name, or an input that the row needs is missing.
  """
  rows = {key: row for row in TABLE + FURTHER for key in (row.name, row.abbreviation)}
  if name not in rows:
    listing = ", ".join(f"{row.name} ({row.abbreviation})" for row in TABLE + FURTHER)
    raise ValueError(f"unknown selection {name!r}; the names are {listing}")
  row = rows[name]
  given = payoffs if isinstance(payoffs, jax.Array) else np.asarray(payoffs)
  missing = [field for field in row.needs if field not in inputs]
  if missing:
    arguments = ", ".join(f"{field}=..." for field in missing)
    raise ValueError(
        f"selection {row.name!r} needs {' and '.join(missing)}: pass"
        f" nes_jax.selection.named({row.name!r}, payoffs, {arguments}), or a nes_jax.Selection"
    )
  if uses_payoffs(row.name):
    if player_axis is None:
      shape = jnp.shape(given)
      player_axis = 0 if len(shape) == shape[0] + 1 else 1
    welfare = _welfare(row.name, given, player_axis, inputs.pop("player", None))
    inputs = {"welfare": welfare, **inputs}
  return Selection(**{**row.defaults, **inputs})


def _welfare(name: str, payoffs: Any, player_axis: int, player: Any) -> Any:
  """The welfare of a selection that `uses_payoffs`."""
  if name == "player_payoff":
    count = payoffs.shape[player_axis]
    if not 0 <= player < count:
      raise ValueError(f"player is a number from 0 to {count - 1}, not {player!r}")
    return payoffs[(slice(None),) * player_axis + (player,)]
  total = payoffs.sum(player_axis)
  return -total if name == "min_welfare" else total


def uses_payoffs(selection: Any) -> bool:
  """Whether this is a name of a row whose objective is made from the payoffs."""
  return isinstance(selection, str) and selection in (
      "max_welfare", "MU", "min_welfare", "-MU", "player_payoff", "PP"
  )


def problem(
    payoffs: Array, selection: Selection, strategies: tuple[Array, ...] | None = None
) -> tuple[Problem, Array]:
  """Puts one game and its selection into normalised units.

  With soft constraints, whose rho and epsilon-plus are in these units, they are the paper's: a
  player's payoffs less their mean are divided by their L2 norm over sqrt(|A|), eq. (16a), which
  puts them on the invariant sphere. With hard constraints the answer depends on neither, and

    * the scale is no more than `ROBUST_SCALE` times `deviation.least_regret`, so that a few payoffs
      far below all others do not set the unit in which answers are judged;
    * it is rounded to a power of two, and nothing is subtracted, so that no payoff is rounded.

  Args:
    payoffs: [N, A1, ..., AN] in the user's units, finite.
    selection: a selection whose fields have no batch axis.
    strategies: per player bool [Ap], the strategies that exist. None: all do.

  Returns:
    The problem, and the scale [N] that its payoffs and epsilon were divided by; 0 for a player who
    can never gain or lose by deviating.
  """
  shape, dtype = payoffs.shape[1:], payoffs.dtype
  alive: Array | None = None
  size: Array | int = math.prod(shape)
  if strategies is not None:
    alive = deviation.alive(strategies)
    size = alive.sum().astype(dtype)
    payoffs = jnp.where(alive, payoffs, 0)
  scaled, scale = _scale(payoffs, math.isinf(selection.rho), strategies, alive)
  z = jnp.full((len(shape),), selection.epsilon_max * invariance.radius(size), dtype)
  epsilon = jnp.broadcast_to(jnp.asarray(selection.epsilon, dtype), (len(shape),))
  if math.isinf(selection.rho):
    epsilon = invariance.normalise_epsilon(epsilon, scale)
  else:
    # Eq. (16b); strictly below epsilon-plus, where phi stops being finite. An infinite epsilon is
    # kept out of derivatives.
    infinite = jnp.isinf(epsilon)
    finite = invariance.normalise_epsilon(jnp.where(infinite, 0, epsilon), scale)
    epsilon = jnp.clip(jnp.where(infinite, jnp.sign(epsilon) * z, finite), -z, z * (1 - 1e-6))
  if selection.target is None:
    target = jnp.full(shape, 1 / size, dtype)
  else:
    target = jnp.maximum(jnp.asarray(selection.target, dtype), TARGET_FLOOR)
  if alive is not None:
    target = jnp.where(alive, target, 0)
  target = target / target.sum()
  if selection.welfare is None:
    welfare, mu = jnp.zeros(shape, dtype), jnp.zeros((), dtype)
  else:
    welfare = invariance.normalise(jnp.asarray(selection.welfare, dtype), alive=alive).values
    mu = jnp.asarray(selection.welfare_weight, dtype)
  temperature = 1 / jnp.maximum(mu, 1)
  return (
      Problem(
          payoffs=scaled,
          target=target,
          epsilon=epsilon,
          epsilon_max=z,
          welfare=welfare,
          # The inner `where` keeps infinity times zero out of derivatives.
          welfare_weight=jnp.where(
              jnp.isinf(mu), 1, jnp.where(jnp.isinf(mu), 1, mu) * temperature
          ),
          temperature=temperature,
          rho=selection.rho,
          strategies=strategies,
      ),
      scale,
  )


def _scale(payoffs, hard, strategies, alive) -> tuple[Array, Array]:
  """Scaled payoffs [N, A1, ..., AN] and the scale [N] of `problem`."""
  normal = jax.vmap(lambda x: invariance.normalise(x, alive=alive))(payoffs)
  if not hard:
    return normal.values, normal.scale
  robust = ROBUST_SCALE * deviation.least_regret(payoffs, strategies)
  scale = jnp.minimum(normal.scale, robust)
  positive = scale > 0

  def fit(x):
    return x.reshape(x.shape + (1,) * (payoffs.ndim - 1))

  def power(k):
    return jnp.ldexp(jnp.ones((), payoffs.dtype), k)

  _, exponent = jnp.frexp(jax.lax.stop_gradient(jnp.where(positive, scale, 1)) * math.sqrt(2))
  # Two factors, so that each is finite for the smallest and the largest scale.
  first = (exponent - 1) // 2
  values = payoffs * fit(power(-first)) * fit(power(first - exponent + 1))
  return jnp.where(fit(positive), values, 0), jnp.where(positive, power(exponent - 1), 0)
