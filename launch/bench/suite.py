"""The frame of the suites of `launch.benchmark`: their entries, and a run that records them.

A suite is a module `launch.bench.NAME` with a `Suite` in its variable SUITE. It is imported when it
is needed, so that no suite needs the packages of another one.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import importlib
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from launch.baselines import checkout, peers
from launch.bench.record import Record, Row, note
from launch.runtime import machine
from launch.runtime.flags import UsageError
from launch.runtime.timing import seconds

NAMES = ("exact", "neural", "market", "devices")

# Side of the float32 matrix product that measures the rate of a CPU, and of other devices.
_PRODUCT_SIDE, _LARGE_PRODUCT_SIDE = 1024, 8192


@dataclasses.dataclass(frozen=True)
class Extra:
  """A smaller table of a suite, with one row."""

  row: Callable[[bool], Row]  # measures the row; the argument is True for small sizes
  by_default: Callable[[], bool] = lambda: True  # whether it is measured without --only


@dataclasses.dataclass(frozen=True)
class Suite:
  """The entries of a suite, and the functions that measure them."""

  entries: Sequence[Any]  # each has a `name`
  # Measures an entry: row(entry, rate, quick=False), where `rate` is `machine_rate()`. If the suite
  # measures an older version, too, it has an argument `before`, which is a `checkout.Process`.
  row: Callable[..., Row]
  extras: Mapping[str, Extra] = dataclasses.field(default_factory=dict)
  possible: Callable[[Any], bool] = lambda entry: True  # whether this machine can run an entry
  measures_before: bool = False  # whether `row` has the argument `before`


def load(name: str) -> Suite:
  """Imports the suite of this name, one of `NAMES`."""
  return importlib.import_module(f"launch.bench.{name}").SUITE


def choose(name: str, only: Sequence[str]) -> tuple[list[Any], list[str]]:
  """Chooses entries of a suite.

  Args:
    name: one of `NAMES`.
    only: the names of entries and smaller tables; () chooses all that are measured by default.

  Returns:
    The entries, and the names of the smaller tables.

  Raises:
    UsageError: a name is unknown, or this machine cannot run its entry.
  """
  suite = load(name)
  entries = [entry for entry in suite.entries if suite.possible(entry)]
  known = [entry.name for entry in entries] + list(suite.extras)
  if unknown := [asked for asked in only if asked not in known]:
    raise UsageError(
        f"--only: {', '.join(unknown)} names no entry of suite {name}; they are"
        f" {', '.join(known)}"
    )
  if not only:
    return entries, [name for name, extra in suite.extras.items() if extra.by_default()]
  return [e for e in entries if e.name in only], [name for name in suite.extras if name in only]


def machine_rate() -> float:
  """Floating-point operations per second of a float32 matrix product on the whole device."""
  side = _PRODUCT_SIDE if jax.default_backend() == "cpu" else _LARGE_PRODUCT_SIDE
  x = jax.random.normal(jax.random.key(0), (side, side))
  product = jax.jit(lambda x: jnp.matmul(x, x, precision=jax.lax.Precision.HIGHEST))
  times = seconds(lambda: product(x), 10)[1:]
  return 2 * side**3 / min(times)


def run(
    name: str,
    out: str | os.PathLike,
    *,
    only: Sequence[str] = (),
    quick: bool = False,
    before: str | os.PathLike | None = None,
    check_stop: Callable[[], None] = lambda: None,
) -> list[Row]:
  """Measures a suite, prints its tables, and writes NAME.csv, .md and .json after every row.

  Args:
    name: one of `NAMES`.
    out: the directory of the files. It is created if it does not exist.
    only: the names of entries and smaller tables; () chooses all that are measured by default.
    quick: whether to measure small batches once.
    before: the checkout of an older version, to measure beside this one.
    check_stop: raises `stopping.Stopped` when the program is to stop.

  Returns:
    The rows.

  Raises:
    UsageError: an entry is unknown, or the older version cannot be measured.
  """
  suite = load(name)
  entries, extras = choose(name, only)
  facts = machine.hardware(peers.PACKAGES) | {"suite": name, "quick": quick}
  options: dict[str, Any] = {"quick": quick}
  with contextlib.ExitStack() as stack:
    if before is not None:
      root = pathlib.Path(before).resolve()
      if not suite.measures_before or not (root / "nes_jax").is_dir():
        raise UsageError(
            f"--before={before} must be a directory that holds nes_jax, and the suite exact"
        )
      facts["before"] = f"{machine.commit(root) or root}"
      options["before"] = stack.enter_context(checkout.Process(root))
    print(f"benchmark {name}: {note(facts)}", flush=True)
    rate = machine_rate()
    record = Record(name, out, facts | {"float32_matmul_gflops": rate / 1e9})
    for entry in entries:
      check_stop()
      print(f"  {entry.name} ...", flush=True)
      record.rows.append(suite.row(entry, rate, **options))
      record.write()
    for extra in extras:
      check_stop()
      print(f"  {extra} ...", flush=True)
      record.extras[extra] = suite.extras[extra].row(quick)
      record.write()
  print(record.text(), flush=True)
  return record.rows
