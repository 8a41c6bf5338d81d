"""CSV files of the episodes of empirical games.

A file has one row for each episode of a profile, and the header

  player_0,...,player_N-1,payoff_0,...,payoff_N-1,episode

The columns player_p hold labels of strategies. The column `episode` is optional and holds any text;
episodes of the same text had the same random numbers in all profiles.
"""

from collections.abc import Mapping, Sequence
import csv
import io
import os
import pathlib
import re

import numpy as np

from nes_jax.empirical import games
from nes_jax.games.writing import replacing

_EPISODE = "episode"

# One episode: the strategies' labels, the payoffs, and the episode's name.
_Row = tuple[tuple[str, ...], list[float], str]


def from_csv(
    path: str | os.PathLike,
    *,
    labels: games.Labels | None = None,
    roles: Sequence[int] | None = None,
) -> games.EmpiricalGame:
  """Reads a game from a CSV file; the module describes its columns.

  With the column `episode` all profiles must have the same episodes, and the game keeps them as
  samples. Without it the game has moments only, and profiles may have different numbers of
  episodes, two or more each.

  Args:
    path: the file.
    labels: names of the strategies, which gives their order; None takes them in the order in which
      they first appear. Every player of a role has all strategies of the role.
    roles: [N] role of each player; None gives each player a role of its own. Rows may be any
      permutation of a canonical profile.

  Raises:
    ValueError: the header or a row is malformed, a payoff is not finite, a profile is missing, or a
      profile lacks an episode that others have or has it twice. The message names the profile by
      its labels, the episode, and the player.
    OSError: the file cannot be read.
  """
  rows, players, paired = _read(pathlib.Path(path))
  if roles is not None and len(roles) != players:
    raise ValueError(f"roles has {len(roles)} entries for {players} players: give each player one")
  names = _labels(rows, players, roles) if labels is None else games.each_player(labels, players)
  grouped = _grouped(path, rows, names, roles)
  profiles = np.array(list(grouped))
  if not paired:
    return _from_independent(grouped, profiles, names, roles)
  episodes = list(dict.fromkeys(episode for _, _, episode in rows))
  samples = np.empty((len(episodes), len(profiles), players))
  for k, (profile, found) in enumerate(grouped.items()):
    where = f"profile {games.profile_name(profile, names)}"
    by_name: dict[str, list[float]] = {}
    for payoffs, episode in found:
      if episode in by_name:
        raise ValueError(f"{where} has episode {episode} twice: leave out one of them")
      by_name[episode] = payoffs
    for e, episode in enumerate(episodes):
      if episode not in by_name:
        raise ValueError(
            f"{where} has no episode {episode}, which another profile has: add it, or leave out"
            f" the column {_EPISODE}"
        )
      samples[e, k] = by_name[episode]
  return games.from_samples(samples, profiles, labels=names, roles=roles)


def _read(path: pathlib.Path) -> tuple[list[_Row], int, bool]:
  """The rows of a file, its number of players, and whether it names episodes."""
  with path.open(newline="", encoding="utf-8") as file:
    reader = csv.DictReader(file)
    header = list(reader.fieldnames or ())
    players = sum(re.fullmatch(r"player_\d+", name) is not None for name in header)
    wanted = [f"{what}_{p}" for what in ("player", "payoff") for p in range(players)]
    if players < 2 or set(header) - {_EPISODE} != set(wanted) or len(set(header)) < len(header):
      raise ValueError(
          f"{path} has the columns {header}; player_0, player_1, ..., payoff_0, payoff_1, ... for"
          f" two players or more, and perhaps {_EPISODE}, are expected"
      )
    rows = []
    for record in reader:
      labels = tuple(record[f"player_{p}"] for p in range(players))
      if None in record.values() or None in record:
        raise ValueError(f"{path}, line {reader.line_num}: {len(header)} cells are expected")
      episode = record.get(_EPISODE, f"of line {reader.line_num}")
      rows.append((labels, _numbers(record, players, labels, episode), episode))
  if not rows:
    raise ValueError(f"{path} has a header and no episode")
  return rows, players, _EPISODE in header


def _numbers(
    record: Mapping[str, str], players: int, labels: tuple[str, ...], episode: str
) -> list[float]:
  numbers = []
  for p in range(players):
    cell = record[f"payoff_{p}"]
    try:
      numbers.append(float(cell))
    except ValueError:
      numbers.append(np.nan)
    if not np.isfinite(numbers[-1]):
      raise ValueError(
          f"profile ({', '.join(labels)}), episode {episode}: the payoff of player {p} is"
          f" {cell!r}; a finite number is expected: repeat the episode"
      )
  return numbers


def _labels(rows: list[_Row], players: int, roles: Sequence[int] | None) -> list[list[str]]:
  """The labels of each player's role, in the order in which they appear."""
  chosen = list(range(players)) if roles is None else list(roles)
  found: dict[int, dict[str, None]] = {role: {} for role in chosen}
  for labels, _, _ in rows:
    for role, label in zip(chosen, labels):
      found[role][label] = None
  return [list(found[role]) for role in chosen]


def _grouped(
    path: str | os.PathLike,
    rows: list[_Row],
    names: list[list[str]],
    roles: Sequence[int] | None,
) -> dict[tuple[int, ...], list[tuple[list[float], str]]]:
  """The payoffs and episodes of each canonical profile, players in canonical order."""
  numbers = [{name: index for index, name in enumerate(one)} for one in names]
  for labels, _, _ in rows:
    for p, label in enumerate(labels):
      if label not in numbers[p]:
        raise ValueError(
            f"{path}, profile ({', '.join(labels)}): player {p} has no strategy {label!r}; its"
            f" labels are {names[p]}"
        )
  given = np.array([[known[x] for known, x in zip(numbers, row[0])] for row in rows])
  chosen = list(range(len(names))) if roles is None else list(roles)
  profiles, order = games.canonical(given, chosen)
  grouped: dict[tuple[int, ...], list[tuple[list[float], str]]] = {}
  for profile, players, (_, payoffs, episode) in zip(profiles.tolist(), order.tolist(), rows):
    kept = grouped.setdefault(tuple(profile), [])
    kept.append(([payoffs[p] for p in players], episode))
  return grouped


def _from_independent(
    grouped: Mapping[tuple[int, ...], list[tuple[list[float], str]]],
    profiles: np.ndarray,
    labels: games.Labels,
    roles: Sequence[int] | None,
) -> games.EmpiricalGame:
  """A game of moments, whose profiles have episodes of their own."""
  moments = []
  for profile, found in grouped.items():
    payoffs = np.array([numbers for numbers, _ in found])
    if len(payoffs) < 2:
      raise ValueError(
          f"profile {games.profile_name(profile, labels)} has one episode: an error needs two or"
          " more"
      )
    moments.append((payoffs.mean(0), np.cov(payoffs, rowvar=False), len(payoffs)))
  mean, covariance, count = map(np.array, zip(*moments))
  return games.from_moments(mean, covariance, count, profiles, labels=labels, roles=roles)


def to_csv(game: games.EmpiricalGame, path: str | os.PathLike) -> None:
  """Writes the samples of a game, so that `from_csv` with the same roles gives the same game.

  The file is written in place of one of the same name, which stays if writing fails.

  Raises:
    ValueError: the game has moments only.
  """
  if game.samples is None:
    raise ValueError("the game has moments and no samples: a CSV file holds episodes")
  players = range(game.num_players)
  content = io.StringIO()
  writer = csv.writer(content, lineterminator="\n")
  header = [f"player_{p}" for p in players] + [f"payoff_{p}" for p in players]
  writer.writerow([*header, _EPISODE])
  for row, profile in enumerate(game.profiles):
    labels = [names[s] for names, s in zip(game.labels, profile)]
    for episode, payoffs in enumerate(game.samples[:, row].tolist()):
      writer.writerow([*labels, *payoffs, episode])
  with replacing(path) as file:
    file.write(content.getvalue().encode())
