"""Observed statistics that a calibration should meet, from a dictionary or from a CSV file.

  Observed({"share": 0.15, "turnover": 210.0}, errors={"share": 0.01, "turnover": 8.0})
  Observed.from_csv("statistics.csv")  # long: columns name, value and perhaps error or weight
  Observed.from_csv("days.csv")        # wide: a column for each statistic, a row for each day

A statistic whose value is NaN, or whose cell is empty, is missing: it is left out, and so are its
row and its column of the covariance.

In a wide file, statistic k has n_k values x_tk, in the rows t in which it is not missing. With m_k
their mean and s_k their standard deviation (with n_k - 1),

  value_k = m_k,    covariance_kl = r_kl e_k e_l,    e_k = s_k / sqrt(n_k),          (covariance)

where r_kl are the correlations over the rows in which nothing is missing. So the matrix is always
positive semidefinite, and it is the usual covariance of the mean if nothing is missing at all.

`targets_of` makes the targets of a calibration. A covariance gives the distance (whitened) of
`targets`. Without one, the scale of a target, at which half of its reward is lost, is

  the standard deviation of one observation, e_k sqrt(count), where both are known: the reward is
    one of single episodes, and an episode varies like an observation and not like their mean;
  the standard error e_k where the count is unknown;
  a tenth of |value_k| where no error is known: the fit is one of relative errors.

For the same reason, the S of (whitened) is the covariance times the count, where that is known.

Glossary: K statistics, T rows of a wide file.
"""

from collections.abc import Callable, Mapping, Sequence
import csv
import dataclasses
import fnmatch
import math
import os
import re
from typing import Any, Self, TypeAlias

import numpy as np

from calsheq_jax.targets import Target

# Numbers of all statistics: by name, or in the order of the values.
Numbers: TypeAlias = Mapping[str, float] | Sequence[float] | np.ndarray

# Largest difference of a covariance from its transpose, in units of its largest entry.
_ASYMMETRY = 1e-6

# Scale of a target without an error, in units of its value.
_RELATIVE_SCALE = 0.1

# Name of one number of an output, such as supertype_percentiles[0,3].
_INDEXED = re.compile(r"(.+)\[\s*(\d+(?:\s*,\s*\d+)*)\s*\]")

# Smallest eigenvalue of a matrix of correlations that counts as positive.
_LEAST_EIGENVALUE = 1e-10


@dataclasses.dataclass(frozen=True, eq=False)
class Observed:
  """Observed values of statistics, and how much each of them counts.

  The constructor takes the values as a mapping, from name to number. At most one of `errors` and
  `covariance` is given, and no `weights` beside a covariance. They are mappings as well, or arrays
  in the order of the values. After construction all fields are about the K statistics that are not
  missing.

  Raises:
    ValueError: there is no value, a number is not finite, not positive where it must be, or of no
      statistic, or the covariance is not a symmetric positive definite matrix of the right size.
  """

  values: np.ndarray  # [K] float64; the constructor takes a mapping
  weights: np.ndarray | None = None  # [K] relative weights, or None: all count the same
  errors: np.ndarray | None = None  # [K] standard errors of the values, or None: unknown
  covariance: np.ndarray | None = None  # [K, K] of the values; diagonal if only errors are known
  count: int | None = None  # number of observations behind the values, or None: unknown
  names: tuple[str, ...] = dataclasses.field(init=False)  # [K]
  order: tuple[str, ...] = dataclasses.field(init=False)  # names with the missing ones, as given
  correlated: bool = dataclasses.field(init=False)  # whether a covariance was given

  def __init__(
      self,
      values: Mapping[str, float],
      *,
      weights: Numbers | None = None,
      errors: Numbers | None = None,
      covariance: np.ndarray | Sequence[Sequence[float]] | None = None,
      count: int | None = None,
  ):
    if not isinstance(values, Mapping):
      raise ValueError("observed values must be a mapping from the name of a statistic to a number")
    if covariance is not None and (errors is not None or weights is not None):
      raise ValueError(
          "a covariance says already how much each statistic counts: give it without errors and"
          " without weights"
      )
    if count is not None and count < 1:
      raise ValueError(f"count={count} must be at least 1")
    numbers = np.array([_number(name, value) for name, value in values.items()], np.float64)
    kept = ~np.isnan(numbers)
    if not kept.any():
      raise ValueError("no value is observed: give at least one that is not missing")
    everything = tuple(values)
    names = tuple(name for name, keep in zip(everything, kept) if keep)
    matrix = None if covariance is None else _covariance(covariance, everything, kept)
    spread = _positive("errors", errors, everything, kept)
    if matrix is not None:
      spread = np.sqrt(np.diag(matrix))
    fields = {
        "values": numbers[kept],
        "weights": _positive("weights", weights, everything, kept),
        "errors": spread,
        "covariance": np.diag(spread**2) if matrix is None and spread is not None else matrix,
        "count": count,
        "names": names,
        "order": everything,
        "correlated": matrix is not None,
    }
    for name, value in fields.items():
      object.__setattr__(self, name, value)

  @property
  def missing(self) -> tuple[str, ...]:
    """The names of the statistics that were left out."""
    return tuple(name for name in self.order if name not in self.names)

  @property
  def spread(self) -> np.ndarray | None:
    """Standard deviation [K] of one observation, errors * sqrt(count); None if unknown."""
    if self.errors is None or self.count is None:
      return None
    return self.errors * math.sqrt(self.count)

  @classmethod
  def from_csv(
      cls,
      path: str | os.PathLike[str],
      *,
      columns: Sequence[str] | None = None,
      correlated: bool = True,
      count: int | None = None,
  ) -> Self:
    """Reads a CSV file, whose first line holds the names of the columns.

    A file with the columns `name` and `value` is long: a line for each statistic. Further columns
    `error` and `weight` are used, and others are not. Any other file is wide: a column for each
    statistic and a line for each observation, such as a day; see (covariance). Empty cells are
    missing.

    Args:
      path: the file.
      columns: names of the statistics that are used, or patterns of names (`fnmatch`); None means
        all, so that every cell must be a number or empty.
      correlated: whether the correlations of a wide file's columns are estimated; otherwise only
        the standard errors are.
      count: number of observations behind the values of a long file, if it is known.

    Raises:
      ValueError: the file is not such a file, or too few rows are complete.
      OSError: the file cannot be read.
    """
    header, rows = _read(path)
    if {"name", "value"} <= set(header):
      return cls._from_long(path, header, rows, columns, count)
    if count is not None:
      raise ValueError(f"{path}: the count of a wide file is its number of rows: do not give it")
    names = _chosen(path, header, columns)
    table = np.array(
        [
            [_cell(path, line, name, row[header.index(name)]) for name in names]
            for line, row in rows
        ],
        np.float64,
    ).reshape(len(rows), len(names))
    return cls._from_rows(path, names, table, correlated)

  @classmethod
  def _from_long(cls, path, header, rows, columns, count) -> Self:
    """Makes the observations of a long file."""
    cells: dict[str, dict[str, float]] = {}
    for line, row in rows:
      name = row[header.index("name")].strip()
      if name in cells:
        raise ValueError(f"{path}, line {line}: a second value of {name!r}")
      cells[name] = {
          column: _cell(path, line, column, row[header.index(column)])
          for column in ("value", "error", "weight")
          if column in header
      }
    chosen = _chosen(path, list(cells), columns)

    def column(name):
      return {key: cells[key][name] for key in chosen} if name in header else None

    values = column("value")
    assert values is not None, "the file is long"
    return cls(values, errors=column("error"), weights=column("weight"), count=count)

  @classmethod
  def _from_rows(cls, path, names, table, correlated) -> Self:
    """Makes the observations of a wide file, [T, K]."""
    present = ~np.isnan(table)
    counts = present.sum(0)
    shown = counts > 0
    for name, number in zip(names, counts):
      if number == 1:
        raise ValueError(
            f"{path}: column {name!r} has one value, so that its error is unknown: leave the column"
            " out, or give a long file"
        )
    means = np.full(len(names), np.nan)
    means[shown] = np.nanmean(table[:, shown], 0)
    values = dict(zip(names, means))
    count = int(present.any(1).sum())
    errors = np.full(len(names), np.nan)
    errors[shown] = np.nanstd(table[:, shown], 0, ddof=1) / np.sqrt(counts[shown])
    for name, error in zip(names, errors):
      if error == 0:
        raise ValueError(
            f"{path}: column {name!r} is constant, so that its error is 0: leave the column out, or"
            " give a long file with an error"
        )
    if not correlated or shown.sum() < 2:
      return cls(values, errors=errors, count=count)
    complete = table[:, shown][present[:, shown].all(1)]
    if len(complete) <= shown.sum():
      raise ValueError(
          f"{path}: {len(complete)} rows without an empty cell are too few for the correlations of"
          f" {shown.sum()} columns: give more than {shown.sum()} rows, fewer columns, or"
          " correlated=False"
      )
    matrix = np.full((len(names), len(names)), np.nan)
    outer = np.outer(errors[shown], errors[shown])
    matrix[np.ix_(shown, shown)] = np.corrcoef(complete.T) * outer
    return cls(values, covariance=matrix, count=count)


def observed_of(given: Observed | Mapping[str, float]) -> Observed:
  """The observations themselves, or those that a mapping from name to value describes."""
  return given if isinstance(given, Observed) else Observed(given)


def targets_of(
    observed: Observed,
    statistics: Mapping[str, Callable[[Mapping[str, Any]], Any]] | None = None,
) -> tuple[Target, ...]:
  """Makes the targets [K] of a calibration to observed values.

  Args:
    observed: the observed values. A name is that of an output of the simulator, with an index if
      the output is no single number, such as supertype_percentiles[0,3].
    statistics: functions from the simulator's outputs to a number, by name, for names that are not
      those of an output.

  Raises:
    ValueError: a value is 0 and nothing says which error of it is large, or a function has the name
      of no observed value.
  """
  functions = {} if statistics is None else dict(statistics)
  for name in functions:
    if name not in observed.order:
      raise ValueError(
          f"the statistic {name!r} is none of the observed ones: {', '.join(observed.order)}"
      )
  whitener = None
  if observed.correlated:
    assert observed.covariance is not None, "such observations have a covariance"
    single = observed.covariance * (observed.count or 1)
    whitener = np.linalg.inv(np.linalg.cholesky(single))
  targets = []
  for k, name in enumerate(observed.names):
    indexed = None if name in functions else _INDEXED.fullmatch(name)
    targets.append(
        Target(
            output=indexed[1] if indexed else name,
            index=tuple(map(int, indexed[2].split(","))) if indexed else (),
            function=functions.get(name),
            value=float(observed.values[k]),
            scale=_scale(observed, k),
            weight=1.0 if observed.weights is None else float(observed.weights[k]),
            whitening=() if whitener is None else tuple(whitener[k].tolist()),
        )
    )
  return tuple(targets)


def _scale(observed: Observed, k: int) -> float:
  """The error of statistic k at which half of its reward is lost."""
  for known in (observed.spread, observed.errors):
    if known is not None:
      return float(known[k])
  if not observed.values[k]:
    raise ValueError(
        f"{observed.names[k]!r} is 0, so that a tenth of it is no scale: give standard errors"
    )
  return float(_RELATIVE_SCALE * abs(observed.values[k]))


# Checks.


def _number(name: str, value: float) -> float:
  """The value of a statistic as a float, NaN for None. Raises ValueError if it is no number."""
  try:
    number = math.nan if value is None else float(value)
  except (TypeError, ValueError):
    raise ValueError(f"the value {value!r} of {name} is not a number") from None
  if math.isinf(number):
    raise ValueError(f"the value of {name} is {number}: it must be finite, or NaN if it is missing")
  return number


def _positive(
    what: str, numbers: Numbers | None, names: Sequence[str], kept: np.ndarray
) -> np.ndarray | None:
  """Weights or errors [K] of the statistics kept; None stays None."""
  if numbers is None:
    return None
  if isinstance(numbers, Mapping):
    for name in numbers:
      if name not in names:
        raise ValueError(f"{what} of {name!r}, which is none of {', '.join(names)}")
    for name, keep in zip(names, kept):
      if keep and name not in numbers:
        raise ValueError(f"{what} must be given for all statistics: {name!r} has none")
    array = np.array([_number(name, numbers.get(name, math.nan)) for name in names])
  else:
    array = np.asarray(numbers, np.float64)
    if array.shape != (len(names),):
      raise ValueError(f"{what} have the shape {list(array.shape)}: give {len(names)} numbers")
  for name, number, keep in zip(names, array, kept):
    if keep and not 0 < number < math.inf:
      raise ValueError(f"{what} must be positive and finite: {name!r} has {number:g}")
  return array[kept]


def _covariance(covariance, names: Sequence[str], kept: np.ndarray) -> np.ndarray:
  """The covariance [K, K] of the statistics kept."""
  matrix = np.asarray(covariance, np.float64)
  size = len(names)
  if matrix.shape != (size, size):
    raise ValueError(
        f"the covariance has the shape {list(matrix.shape)}: {size} statistics need"
        f" {[size, size]}, with rows and columns of missing ones"
    )
  matrix = matrix[np.ix_(kept, kept)]
  if not np.isfinite(matrix).all():
    raise ValueError("the covariance must be finite where values are observed")
  if np.abs(matrix - matrix.T).max() > _ASYMMETRY * np.abs(matrix).max():
    raise ValueError("the covariance is not symmetric")
  spread = np.sqrt(np.maximum(np.diag(matrix), 0))
  if (spread == 0).any():
    raise ValueError(
        "the covariance is not positive definite: the variance of"
        f" {[n for n, k in zip(names, kept) if k][int(spread.argmin())]!r} is not positive"
    )
  matrix = (matrix + matrix.T) / 2
  least = np.linalg.eigvalsh(matrix / np.outer(spread, spread))[0]
  if least < _LEAST_EIGENVALUE:
    raise ValueError(
        f"the covariance is not positive definite: the smallest eigenvalue of its correlations is"
        f" {least:.1e}; leave out statistics that follow from others, or give errors only"
    )
  return matrix


# Reading.


def _read(path) -> tuple[list[str], list[tuple[int, list[str]]]]:
  """The names of the columns, and the number and the cells of each line that is not empty."""
  with open(path, newline="", encoding="utf-8-sig") as file:
    reader = csv.reader(file)
    header = [name.strip() for name in next(reader, [])]
    rows = [(reader.line_num, row) for row in reader if row]
  if not header:
    raise ValueError(f"{path}: the file is empty: its first line must name the columns")
  for name in header:
    if header.count(name) > 1:
      raise ValueError(f"{path}: {header.count(name)} columns are called {name!r}")
  if not rows:
    raise ValueError(f"{path}: there is no line below the names of the columns")
  for line, row in rows:
    if len(row) != len(header):
      raise ValueError(
          f"{path}, line {line}: {len(row)} cells, but {len(header)} columns; put names that have"
          " commas into quotes"
      )
  return header, rows


def _chosen(path, names: Sequence[str], columns: Sequence[str] | None) -> tuple[str, ...]:
  """The names of the statistics used. Raises ValueError for a name that is not there."""
  if columns is None:
    return tuple(names)
  chosen: list[str] = []
  for name in columns:
    # A name such as share[0] is also a pattern, of other names.
    found = [name] if name in names else fnmatch.filter(names, name)
    if not found:
      raise ValueError(f"{path}: there is no {name!r}; there are {', '.join(names)}")
    chosen += found
  return tuple(dict.fromkeys(chosen))


def _cell(path, line: int, name: str, text: str) -> float:
  """The number in a cell, NaN if it is empty."""
  text = text.strip()
  if not text:
    return math.nan
  try:
    number = float(text)
  except ValueError:
    raise ValueError(
        f"{path}, line {line}: {text!r} in column {name!r} is not a number; leave cells of missing"
        " values empty, and choose the statistics with columns=[...]"
    ) from None
  if math.isinf(number):
    raise ValueError(f"{path}, line {line}: the number in column {name!r} is not finite")
  return number
