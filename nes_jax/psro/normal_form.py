"""JPSRO on normal-form games, in one program for many seeds or games.

A policy of a player is one of its actions in the full game. The meta-game is the part of the full
game that the actions found so far span. It is kept in arrays of one shape for all iterations.

Glossary: R runs, T iterations, Kp = min(T + 1, Ap) slots for the policies of player p, M
recommendations to which a player can reply (1 for CCE, Kp for CE).
"""

from collections.abc import Callable
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nes_jax import native
from nes_jax.deviation import own_first
from nes_jax.psro import meta
from nes_jax.solving import checks, engines
from nes_jax.solving.solve import solve
from nes_jax.types import Array, Concept, Solution

# Chooses a best response: values [Ap] of the actions and a random key -> number of an action.
Oracle = Callable[[Array, Array], Array]

# Values of actions are equal if they differ by less than this share of the range of all actions.
_TIE = 1e-9
# Values of actions are equal, too, if they differ by less than this share of their size.
_ROUNDING = 1e-13
# Random number generator, whose keys are two words of 32 bits.
_GENERATOR = "threefry2x32"
# Smallest probability of a recommendation to which a best response is sought.
_PLAYED = 1e-8


class Run(NamedTuple):
  """All iterations of R runs, as NumPy arrays. Iteration 0 has the initial policies alone."""

  gap: np.ndarray  # [R, T + 1] sum over players of the gains of their best responses, full game
  gains: np.ndarray  # [R, T + 1, N] gain of each player's best response in the full game
  value: np.ndarray  # [R, T + 1, N] expected payoffs under the joint
  num_policies: np.ndarray  # [R, T + 1, N] number of different policies of each player
  joint: np.ndarray  # [R, T + 1, K1, ..., KN] joint over the policies; 0 where there is none yet
  converged: np.ndarray  # [R, T + 1] bool: the meta-solver's residual is within its tolerance
  residual: np.ndarray  # [R, T + 1] the meta-solver's residual
  policies: tuple[np.ndarray, ...]  # per player int [R, Kp] actions in the order found; -1: none
  repeats: tuple[np.ndarray, ...]  # per player int [R, Kp] how often each one was found


class _Found(NamedTuple):
  """Policies that one run has found."""

  policies: tuple[Array, ...]  # per player int32 [Kp], actions; 0 in slots that are free
  repeats: tuple[Array, ...]  # per player int32 [Kp], counts; 0 in slots that are free


class _Answer(NamedTuple):
  """Solutions of R meta-games."""

  joint: Array  # [R, K1, ..., KN]
  converged: Array  # [R] bool
  residual: Array  # [R]


class _Options(NamedTuple):
  """Arguments of `jpsro` that are static under `jit`."""

  concept: Concept
  selection: str
  iterations: int
  oracle: Oracle
  ignore_repeats: bool
  tolerance: float | None
  inputs: tuple[tuple[str, Any], ...]
  welfare: Callable[[Any], Any] | None
  num_players: int


def jpsro(
    payoffs: Any,
    iterations: int,
    *,
    seeds: Any = 0,
    concept: Concept = "cce",
    selection: str = "max_entropy",
    oracle: Literal["random", "first"] | Oracle = "random",
    ignore_repeats: bool = False,
    uncertified: meta.Uncertified = "warn",
    tolerance: float | None = None,
    batched: bool | None = None,
    **inputs: Any,
) -> Run:
  """Runs JPSRO (arXiv 2106.09435) on normal-form games, all runs in one compiled program.

  A run begins with a random action of each player. In each iteration it solves the meta-game of the
  actions found so far, and adds a best response of each player in the full game. For a CCE this is
  the best response to the joint of the others. For a CE there is one response for each
  recommendation; the new one that gains most is added. A response that was found before counts as a
  repeat. All is computed in float64.

  Args:
    payoffs: [N, A1, ..., AN], one game for all seeds; or [B, N, A1, ..., AN], a game for each seed.
    iterations: T, the number of times that best responses are added.
    seeds: integers [R], a seed for each run; one integer is the seed of a single run, or, for B
      games, that of the first game, and further games count up from it.
    concept: "cce" or "ce", that of meta-solver and best responses.
    selection: a name of `nes_jax.selection.NAMES` or its abbreviation, as in `meta_solver`.
    oracle: the choice among actions by their values [Ap]: "random", a best action, ties at random;
      "first", the first best action; or a traceable function from values and a random key to the
      number of an action. Reported gains are those of true best responses, whatever the oracle.
    ignore_repeats: whether the meta-solver's target is uniform, as in `meta_solver`.
    uncertified: "warn", "raise" or "ignore", for meta-games not solved to the tolerance.
    tolerance: largest residual of a meta-game's solution. None: that of `nes_jax.solve`.
    batched: whether the first axis of payoffs is that of games. None: the shape says.
    **inputs: fields of `nes_jax.Selection`, as in `meta_solver`; `welfare` must be traceable.

  Returns:
    `Run`.

  Raises:
    ValueError: an argument is wrong.
    UncertifiedError: with uncertified="raise", if a meta-game is not solved to the tolerance.
  """
  welfare = meta.check_arguments(concept, selection, uncertified, inputs)
  checks.check_integer("iterations", iterations, 0)
  named = {"random": _random_best, "first": _first_best}
  if not callable(oracle) and oracle not in named:
    raise ValueError(f"oracle must be 'random', 'first' or a function, not {oracle!r}")
  games, numbers, num_players = _games_and_seeds(payoffs, seeds, batched)
  options = _Options(
      concept=concept,
      selection=selection,
      iterations=iterations,
      oracle=oracle if callable(oracle) else named[oracle],
      ignore_repeats=bool(ignore_repeats),
      tolerance=tolerance,
      inputs=tuple((name, np.asarray(x).tolist()) for name, x in sorted(inputs.items())),
      welfare=welfare,
      num_players=num_players,
  )
  # Callers may have made JAX's own promotions errors.
  promotion = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
  with engines.precision(np.float64), promotion[0], promotion[1]:
    found, history = jax.tree.map(np.asarray, _run(games, numbers, options))
  run = Run(
      **{name: np.moveaxis(x, 0, 1) for name, x in history.items()},
      policies=tuple(np.where(r > 0, x, -1) for x, r in zip(*found)),
      repeats=found.repeats,
  )
  if not run.converged.all():
    failed = ~run.converged
    first, at = np.argwhere(failed)[0]
    meta.report_uncertified(
        f"{failed.sum()} of {failed.size} meta-games are not solved to the tolerance (the first is"
        f" that of iteration {at} of run {first}, with residual {run.residual[first, at]:.3g})",
        uncertified,
    )
  return run


def _games_and_seeds(payoffs: Any, seeds: Any, batched: bool | None) -> tuple[Any, Any, int]:
  """Games [N, A1, ..., AN] or [R, N, A1, ..., AN], seeds [R], and N. Raises ValueError."""
  payoffs = np.asarray(checks.as_real(payoffs), np.float64)
  shape = checks.strategy_counts(payoffs.shape, batched)
  if not np.isfinite(payoffs).all():
    raise ValueError(f"{(~np.isfinite(payoffs)).sum()} payoffs are NaN or infinite")
  numbers = np.asarray(seeds)
  if numbers.ndim > 1 or not numbers.size or not np.issubdtype(numbers.dtype, np.integer):
    raise ValueError(f"seeds must be one integer or a list of some, not {seeds!r}")
  many = payoffs.ndim == len(shape) + 2
  if numbers.ndim == 0:
    numbers = numbers + np.arange(len(payoffs) if many else 1)
  if many and len(numbers) != len(payoffs):
    raise ValueError(f"{len(numbers)} seeds for {len(payoffs)} games: give a seed for each game")
  return payoffs, numbers.astype(np.uint32), len(shape)


# The compiled program.


@functools.partial(jax.jit, static_argnames="options")
def _run(payoffs: Array, seeds: Array, options: _Options) -> tuple[_Found, dict[str, Array]]:
  """All runs -> what they have found at the end, and their history with the iterations first."""
  n = options.num_players
  shape, games_axis = payoffs.shape[-n:], 0 if payoffs.ndim == n + 2 else None
  slots = [min(options.iterations + 1, count) for count in shape]
  draws = _draws(seeds, shape, options)
  blank = tuple(jnp.zeros((len(seeds), count), jnp.int32) for count in slots)
  restrict = jax.vmap(_restrict, (games_axis, 0))
  respond = jax.vmap(functools.partial(_respond, options=options))

  def step(carry, drawn):
    found, responses = carry
    found = jax.vmap(_add)(found, responses)
    parts, game = restrict(payoffs, found.policies)
    solution = _solve(game, found.repeats, options)
    responses, gains = respond(parts, game, solution.joint, found, drawn)
    own = tuple(range(2, n + 2))
    record = {
        "gap": gains.sum(1),
        "gains": gains,
        "value": (game * solution.joint[:, None]).sum(own),
        "num_policies": jnp.stack([(r > 0).sum(1) for r in found.repeats], 1),
        "joint": solution.joint,
        "converged": solution.converged,
        "residual": solution.residual,
    }
    return (found, responses), record

  first = _share(draws[0, :, :, 0, 2])
  initial = tuple((first[:, p] * count).astype(jnp.int32) for p, count in enumerate(shape))
  (found, _), history = jax.lax.scan(step, (_Found(blank, blank), initial), draws[1:])
  return found, history


def _draws(seeds: Array, shape: tuple[int, ...], options: _Options) -> Array:
  """Random bits of all runs, uint32 [T + 2, R, N, M, 3]: the data of a key, and a number.

  They are made in one go, since each use of the generator adds to the time of compilation.
  """
  recommendations = 1 if options.concept == "cce" else max(shape)
  size = (options.iterations + 2, len(shape), recommendations, 3)

  def one(seed):
    return jax.random.bits(jax.random.key(seed, impl=_GENERATOR), size, jnp.uint32)

  return jnp.moveaxis(jax.vmap(one)(seeds), 1, 0)


def _share(bits: Array) -> Array:
  """Random bits as numbers from 0 to 1, without 1."""
  return bits.astype(jnp.float64) / 2.0**32


def _solve(game: Array, repeats: tuple[Array, ...], options: _Options) -> _Answer:
  """Solves meta-games [R, N, K1, ..., KN] whose free slots have counts of 0.

  Where the engine compiles nothing, only as many slots are handed to it as the largest meta-game of
  all runs needs, rounded up to a power of two.
  """
  slots = game.shape[2:]
  most = max(slots)
  sizes = [most]
  if not engines.on_accelerator(game) and native.cpu.serves(slots, options.concept):
    sizes = [2**k for k in range(2, most.bit_length()) if 2**k < most] + sizes

  def part(size):
    cut = [min(size, count) for count in slots]
    answer = _solve_whole(
        game[(slice(None), slice(None), *map(slice, cut))],
        tuple(block[:, :count] for block, count in zip(repeats, cut)),
        options,
    )
    extra = [(0, 0), *((0, count - kept) for count, kept in zip(slots, cut))]
    return answer._replace(joint=jnp.pad(answer.joint, extra))

  largest = jnp.max(jnp.stack([(block > 0).sum(1).max() for block in repeats]))
  branch = (largest > jnp.asarray(sizes)).sum()
  return jax.lax.switch(branch, [functools.partial(part, size) for size in sizes])


def _solve_whole(game: Array, repeats: tuple[Array, ...], options: _Options) -> _Answer:
  """Solves meta-games of one shape."""
  target = None
  if not options.ignore_repeats:
    target = jax.vmap(lambda *one: meta.product_of(one, jnp))(*repeats)
  chosen = meta.select(
      options.selection, game, target, dict(options.inputs), options.welfare, player_axis=1
  )
  solution = solve(
      game,
      concept=options.concept,
      selection=chosen,
      tolerance=options.tolerance,
      strategies=tuple(r > 0 for r in repeats),
      batched=True,
  )
  assert isinstance(solution, Solution)  # payoffs are one array
  return _Answer(solution.joint, solution.converged, solution.residual)


def _add(found: _Found, responses: tuple[Array, ...]) -> _Found:
  """Adds an action of each player: to its count if it was found before, else in a free slot."""
  policies, repeats = [], []
  for action, known, counts in zip(responses, found.policies, found.repeats):
    same = (known == action) & (counts > 0)
    slot = jnp.where(same.any(), jnp.argmax(same), (counts > 0).sum())
    policies.append(known.at[slot].set(action))
    repeats.append(counts.at[slot].add(1))
  return _Found(tuple(policies), tuple(repeats))


def _restrict(payoffs: Array, policies: tuple[Array, ...]) -> tuple[tuple[Array, ...], Array]:
  """Parts of one full game [N, A1, ..., AN] that the policies span.

  Returns:
    Per player p its payoffs where the others play policies and p any action,
    [K1, ..., Ap, ..., KN]; and the meta-game [N, K1, ..., KN].
  """
  parts, game = [], []
  for p in range(len(policies)):
    part = payoffs[p]
    for q, chosen in enumerate(policies):
      part = part if q == p else jnp.take(part, chosen, axis=q, mode="clip")
    parts.append(part)
    game.append(jnp.take(part, policies[p], axis=p, mode="clip"))
  return tuple(parts), jnp.stack(game)


def _respond(
    parts: tuple[Array, ...], game: Array, joint: Array, found: _Found, draws: Array,
    options: _Options,
) -> tuple[tuple[Array, ...], Array]:
  """Best responses of one run to the joint of its meta-game.

  Args:
    parts: from `_restrict`.
    game: the meta-game [N, K1, ..., KN].
    joint: [K1, ..., KN].
    found: the policies.
    draws: random bits of this iteration, [N, M, 3].
    options: those of the run.

  Returns:
    Per player the number of an action, and the gains [N] of true best responses.
  """
  n = len(parts)
  actions, gains = [], []
  for p in range(n):
    own = own_first(joint, p, n)  # [Kp, plays of the others]
    kept = (own * own_first(game[p], p, n)).sum(1)
    mass = own.sum(1)
    if options.concept == "cce":
      own, kept, mass = own.sum(0)[None], kept.sum()[None], jnp.ones((1,), own.dtype)
    values = own @ own_first(parts[p], p, n).T  # [M, Ap], weighted by the recommendation's mass
    gain = jnp.maximum(values.max(1) - kept, 0)
    gains.append(gain.sum())
    drawn = draws[p, : len(values)]
    keys = jax.random.wrap_key_data(drawn[:, :2], impl=_GENERATOR)
    replies = jax.vmap(options.oracle)(values, keys)
    replies = jnp.clip(replies.astype(jnp.int32), 0, values.shape[1] - 1)
    known = (replies[:, None] == found.policies[p]) & (found.repeats[p] > 0)
    played = mass > _PLAYED
    novel = played & ~known.any(1)
    # The new reply that gains most; if all are known, any of them.
    best = novel & (gain >= jnp.where(novel, gain, -jnp.inf).max() * (1 - _TIE))
    eligible = jnp.where(novel.any(), best, played)
    actions.append(replies[jnp.argmax(jnp.where(eligible, _share(drawn[:, 2]), -1))])
  return tuple(actions), jnp.stack(gains)


def _first_best(values: Array, key: Array) -> Array:
  """The first action of those whose values tie for the best."""
  del key
  return jnp.argmax(_ties(values))


def _random_best(values: Array, key: Array) -> Array:
  """A random action of those whose values tie for the best."""
  return jnp.argmax(jnp.where(_ties(values), jax.random.uniform(key, values.shape), -1))


def _ties(values: Array) -> Array:
  """Actions [Ap] whose values are equal to the best one, but for rounding."""
  top = values.max()
  return values >= top - _TIE * (top - values.min()) - _ROUNDING * jnp.abs(top)
