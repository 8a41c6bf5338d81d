"""The representation of games whose payoffs are means of noisy episodes.

A *profile* gives each player a strategy. Players of one *role* are exchangeable: they have the same
strategies, and permuting them permutes their payoffs. A profile is *canonical* if the strategies
are sorted within each role. Only canonical profiles are stored, each once. Without roles all
profiles are canonical, so that the same representation serves all games.

Glossary: N players, Ap strategies of player p, K canonical profiles, E episodes.
"""

from collections.abc import Sequence
import dataclasses
import functools
import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

# One list of labels for all players, or one list for each player.
Labels = Sequence[str] | Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True, eq=False)
class EmpiricalGame:
  """A game with estimated payoffs. `from_samples`, `from_moments` and `from_csv` make it."""

  profiles: np.ndarray  # int [K, N] canonical profiles in lexicographic order
  mean: np.ndarray  # [K, N] mean payoffs
  covariance: np.ndarray  # [K, N, N] covariance of the payoffs of one episode
  count: np.ndarray  # int [K] number of episodes
  labels: tuple[tuple[str, ...], ...]  # for each player p the names of its Ap strategies
  roles: tuple[int, ...]  # [N] role of each player
  # [E, K, N] payoffs of episodes that share their random numbers across profiles; None: unknown.
  samples: np.ndarray | None = None

  @property
  def num_players(self) -> int:
    """The number of players, N."""
    return len(self.roles)

  @property
  def shape(self) -> tuple[int, ...]:
    """The numbers of strategies, (A1, ..., AN)."""
    return tuple(map(len, self.labels))

  def dense(self, values: np.ndarray) -> np.ndarray:
    """Expands numbers of canonical profiles to all profiles.

    Players of one role who play the same strategy get the mean of their numbers, so that the result
    is exactly symmetric within roles.

    Args:
      values: [..., K, N].

    Returns:
      [..., N, A1, ..., AN].
    """
    layout = _layout(self.shape, self.roles)
    if len(set(self.roles)) < self.num_players:
      values = np.einsum("kij,...kj->...ki", layout.pool, values)
    flat = values.reshape(*values.shape[:-2], -1)
    return flat[..., layout.index]

  def payoffs(self) -> np.ndarray:
    """The mean payoffs of all profiles, as `nes_jax.solve` takes them: [N, A1, ..., AN]."""
    return self.dense(self.mean)

  def name(self, row: int) -> str:
    """The labels of a canonical profile, for example "(low, high, high)"."""
    return profile_name(self.profiles[row], self.labels)


# Profiles.


@dataclasses.dataclass(frozen=True, eq=False)
class _Layout:
  """The way from canonical profiles to all profiles."""

  profiles: np.ndarray  # int [K, N]
  index: np.ndarray  # int [N, A1, ..., AN] place of a payoff in an array [K, N], flattened
  pool: np.ndarray  # [K, N, N] mean over players of the same role and strategy


@functools.cache
def _layout(shape: tuple[int, ...], roles: tuple[int, ...]) -> _Layout:
  every = np.indices(shape).reshape(len(shape), -1).T
  sorted_, order = canonical(every, roles)
  profiles, row = np.unique(sorted_, axis=0, return_inverse=True)
  seat = np.argsort(order, axis=1)  # canonical seat of each player
  index = row.reshape(-1, 1) * len(shape) + seat
  role = np.array(roles)
  same = (role[:, None] == role) & (profiles[:, :, None] == profiles[:, None, :])
  pool = same / same.sum(-1, keepdims=True)
  return _Layout(profiles, index.T.reshape(len(shape), *shape), pool)


def canonical(profiles: np.ndarray, roles: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
  """Sorts strategies within each role.

  Args:
    profiles: int [M, N].
    roles: [N] role of each player.

  Returns:
    Canonical profiles [M, N], and the order [M, N]: canonical seat i is that of player order[m, i]
    in profile m.
  """
  order = np.tile(np.arange(len(roles)), (len(profiles), 1))
  for role in set(roles):
    seats = np.flatnonzero(np.array(roles) == role)
    order[:, seats] = seats[np.argsort(profiles[:, seats], axis=1, kind="stable")]
  return np.take_along_axis(profiles, order, 1), order


def all_profiles(shape: Sequence[int], roles: Sequence[int] | None = None) -> np.ndarray:
  """The canonical profiles in lexicographic order: int [K, N].

  Args:
    shape: the numbers of strategies, (A1, ..., AN).
    roles: [N] role of each player; None gives each player a role of its own.

  Raises:
    ValueError: there are fewer than two players, the number of roles is not that of the players,
      or players of one role have different numbers of strategies.
  """
  shape = tuple(map(int, shape))
  labels = [tuple(map(str, range(size))) for size in shape]
  return _layout(shape, _check_players(labels, roles)[1]).profiles.copy()


def profile_name(profile: Sequence[int], labels: Sequence[Sequence[str]]) -> str:
  """The labels of a profile, for example "(low, high, high)"."""
  return f"({', '.join(names[s] for names, s in zip(labels, profile))})"


def each_player(labels: Labels, players: int) -> list[list[str]]:
  """The names of each player's strategies, from one list for all players or one for each.

  Raises:
    ValueError: the number of lists is not that of the players.
  """
  if all(isinstance(label, str) for label in labels):
    labels = [list(map(str, labels))] * players
  if len(labels) != players:
    raise ValueError(f"labels are of {len(labels)} players, and payoffs of {players}")
  return [list(map(str, names)) for names in labels]


def _check_players(
    labels: Sequence[Sequence[str]], roles: Sequence[int] | None
) -> tuple[tuple[tuple[str, ...], ...], tuple[int, ...]]:
  """The labels and roles as tuples. Raises ValueError, see `from_samples`."""
  names = tuple(tuple(map(str, one)) for one in labels)
  count = len(names)
  if count < 2:
    raise ValueError(f"labels name {count} player(s): a game has two or more")
  chosen = tuple(range(count)) if roles is None else tuple(map(int, roles))
  if len(chosen) != count:
    raise ValueError(f"roles has {len(chosen)} entries for {count} players: give each player one")
  for p, one in enumerate(names):
    if not one or len(set(one)) < len(one):
      raise ValueError(f"labels of player {p} are {list(one)}: give one or more, all different")
    first = chosen.index(chosen[p])
    if names[first] != one:
      raise ValueError(
          f"players {first} and {p} have role {chosen[p]} but different strategies,"
          f" {list(names[first])} and {list(one)}: give them the same, or different roles"
      )
  return names, chosen


# Constructors.


def from_samples(
    samples: ArrayLike,
    profiles: ArrayLike | None = None,
    *,
    labels: Labels | None = None,
    roles: Sequence[int] | None = None,
) -> EmpiricalGame:
  """Makes a game from episodes that are paired across profiles.

  Args:
    samples: [E, K, N] payoffs. Episode e of all profiles has the same random numbers; where
      episodes are independent, any pairing will do.
    profiles: int [K, N] strategies of the players in each column of the samples, in any order. None
      means `all_profiles` in their order.
    labels: names of the strategies; None means "0", "1" and so on.
    roles: [N] role of each player; None gives each player a role of its own. Players of one role
      must have the same labels.

  Raises:
    ValueError: shapes do not fit, there are fewer than two episodes, a payoff is not finite, or a
      profile is missing or there twice. The message names the profile by its labels, the episode
      and the player.
  """
  values = np.asarray(samples, np.float64)
  if values.ndim != 3:
    raise ValueError(f"samples have shape {list(values.shape)}: [E, K, N] is expected")
  rows = _Rows(values.shape[1:], profiles, labels, roles)
  bad = np.argwhere(~np.isfinite(values))
  if len(bad):
    episode, row, player = bad[0]
    raise ValueError(
        f"profile {rows.name(row)}, episode {episode}: the payoff of player {player} is"
        f" {values[episode, row, player]}; {len(bad)} payoff(s) are not finite: repeat these"
        " episodes"
    )
  if len(values) < 2:
    raise ValueError(f"{len(values)} episode(s): an error needs two or more")
  values = rows.arranged(values)
  mean = values.mean(0)
  away = values - mean
  covariance = np.einsum("eki,ekj->kij", away, away) / (len(values) - 1)
  count = np.full(len(mean), len(values))
  return EmpiricalGame(
      rows.canonical, mean, covariance, count, rows.labels, rows.roles, values
  )


def from_moments(
    mean: ArrayLike,
    covariance: ArrayLike,
    count: ArrayLike,
    profiles: ArrayLike | None = None,
    *,
    labels: Labels | None = None,
    roles: Sequence[int] | None = None,
) -> EmpiricalGame:
  """Makes a game from moments of its episodes.

  Args:
    mean: [K, N] mean payoffs.
    covariance: [K, N, N] covariance of the payoffs of one episode.
    count: int [K] number of episodes of each profile, or one number for all of them.
    profiles, labels, roles: as in `from_samples`.

  Raises:
    ValueError: shapes do not fit, a count is below 1, a number is not finite, a covariance is not
      symmetric and positive semidefinite, or a profile is missing or there twice. The message names
      the profile.
  """
  means, spreads = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
  if means.ndim != 2 or spreads.shape != (*means.shape, means.shape[-1]):
    raise ValueError(
        f"mean has shape {list(means.shape)} and covariance {list(spreads.shape)}: [K, N] and"
        " [K, N, N] are expected"
    )
  rows = _Rows(means.shape, profiles, labels, roles)
  counts = np.broadcast_to(np.asarray(count), means.shape[:1])
  for row in range(len(means)):
    where = f"profile {rows.name(row)}"
    for player in np.flatnonzero(~np.isfinite(means[row])):
      raise ValueError(f"{where}: the mean payoff of player {player} is {means[row, player]}")
    if not np.isfinite(spreads[row]).all():
      raise ValueError(f"{where}: the covariance is not finite")
    scale = np.abs(spreads[row]).max()
    asymmetry = np.abs(spreads[row] - spreads[row].T).max()
    if asymmetry > 1e-9 * scale or np.linalg.eigvalsh(spreads[row]).min() < -1e-9 * scale:
      raise ValueError(f"{where}: the covariance is not symmetric and positive semidefinite")
    if counts[row] < 1 or counts[row] != math.floor(counts[row]):
      raise ValueError(f"{where}: count is {counts[row]}; an integer of at least 1 is expected")
  return EmpiricalGame(
      rows.canonical, rows.arranged(means), rows.arranged(spreads, axes=2),
      counts.astype(np.int64)[rows.place], rows.labels, rows.roles,
  )


class _Rows:
  """The profiles of data that a caller gives, and the way from them to canonical profiles."""

  def __init__(self, shape: tuple[int, ...], profiles: Any, labels: Any, roles: Any):
    """Checks the arguments of `from_samples`; `shape` is (K, N). Raises ValueError."""
    number, players = shape
    if profiles is None and labels is None:
      raise ValueError("give profiles [K, N], or labels of the strategies, or both")
    given = None if profiles is None else np.asarray(profiles)
    if given is not None and (given.shape != shape or not np.issubdtype(given.dtype, np.integer)):
      raise ValueError(
          f"profiles are {given.dtype} {list(given.shape)}: integers {list(shape)} are expected,"
          " a strategy of each player in each profile"
      )
    if given is not None and labels is None:
      role = list(range(players)) if roles is None else list(roles)
      sizes = [1 + given[:, [q == r for q in role]].max(initial=0) for r in role]
      labels = [tuple(map(str, range(size))) for size in sizes]
    self.labels, self.roles = _check_players(each_player(labels, players), roles)
    self.canonical = _layout(tuple(map(len, self.labels)), self.roles).profiles
    self._given = self.canonical if given is None else given
    if given is None and number != len(self.canonical):
      raise ValueError(
          f"payoffs are of {number} profiles, and the game has {len(self.canonical)}: say which"
          " ones by profiles=, or measure the others"
      )
    self.place, self._order = self._find()

  def _find(self) -> tuple[np.ndarray, np.ndarray]:
    """The row [K] and the order of players [K, N] from which each canonical profile comes."""
    sizes = np.array([len(names) for names in self.labels])
    outside = np.argwhere((self._given < 0) | (self._given >= sizes))
    if len(outside):
      row, p = outside[0]
      raise ValueError(
          f"profile {row}: strategy {self._given[row, p]} of player {p} is not one of its"
          f" {sizes[p]}, which count from 0"
      )
    found, order = canonical(self._given, self.roles)
    rows: dict[tuple[int, ...], int] = {}
    for row, profile in enumerate(map(tuple, found.tolist())):
      if profile in rows:
        raise ValueError(
            f"profile {self.name(row)} is there twice, counting permutations within roles: put its"
            " episodes together"
        )
      rows[profile] = row
    missing = [p for p in map(tuple, self.canonical.tolist()) if p not in rows]
    if missing:
      raise ValueError(
          f"profile {profile_name(missing[0], self.labels)} is missing, with {len(missing) - 1}"
          " other(s): measure it, or leave out a strategy"
      )
    place = np.array([rows[p] for p in map(tuple, self.canonical.tolist())])
    return place, order[place]

  def name(self, row: int) -> str:
    """The labels of the caller's profile in a row."""
    return profile_name(self._given[row], self.labels)

  def arranged(self, values: np.ndarray, axes: int = 1) -> np.ndarray:
    """Values of canonical profiles [..., K, N], or [..., K, N, N] for axes=2, from given rows."""
    rows, order = self.place[:, None], self._order
    if axes == 1:
      return values[..., rows, order]
    return values[..., rows[..., None], order[:, :, None], order[:, None, :]]
