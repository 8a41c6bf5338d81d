r"""Solves the games of a file, in parts, and continues where it was when stopped.

  python -m launch.nes_solve --games=games.npz --concept=cce --selection=max_entropy \
      --method=exact --out=answers.npz

--games is a .npz (array `payoffs`, [B, N, A1, ..., AN] or [N, A1, ..., AN]), a Gambit .nfg, a
directory of .nfg with the same number of players, or openspiel:GAME. An array whose shape can be
read both as a batch and as one game, such as [3, 2, 8, 8], is refused until --batched (three games
of two players) or --nobatched (one game of three players) says which; other inputs ignore the flag.

A strategy whose own payoffs are all -inf does not exist. The games of a directory may differ in
shape: each is solved at its own shape, and its answer is written at the beginning of every axis of
arrays of the largest shape. Probabilities, marginals and duals of strategies that do not exist are
0. Such games take no --target and no --welfare but `sum`.

--out gets one row a game: joint, epsilon, gap, residual, converged, iterations, repeated,
duals_0, ..., marginals_0, ... (`nes_jax.Solution`), `invalid` (the payoffs hold NaN or infinity
that no strategy explains; such answers are NaN), and `strategies` (each player's number of
strategies). It also gets `names` (the files of a directory) and `meta`, a JSON text with the
options and versions.

Every device solves one part at a time. Several processes (--coordinator, --num_processes,
--process_id) share the directory of --out, and process 0 puts the answers together.

Answers are kept in OUT.parts until all are there. The same command, given again after a stop,
continues. Exit code 0: every game has a row, converged or not, and the summary says which;
1: the disk failed; 2: a flag or an input is wrong; 130 or 143: stopped by SIGINT or SIGTERM.
"""

from collections.abc import Callable, Mapping, Sequence
import concurrent.futures
import contextlib
import dataclasses
import json
import math
import pathlib
import shutil
import sys
import time
from typing import Any
import zipfile
import zlib

from absl import flags
import jax
import numpy as np

from launch.runtime import parallel, program, progress, stopping, store
from launch.runtime.program import UsageError
import nes_jax
from nes_jax import selection as selections
from nes_jax.games import files
from nes_jax.types import CONCEPTS, METHODS

# A part that the user does not size: so many games, bytes of payoffs and answers, and floating
# point operations of a Newton step; the last is seconds of work. Every device gets one, if they
# have some games each.
_MAX_PART = 65536
_WORTH_A_DEVICE = 1024
_PART_BYTES = 2**28
_PART_WORK = {"cpu": 2**33}
_ACCELERATOR_PART_WORK = 2**40
# Entries of a target or welfare that are checked at a time.
_CHECK_ENTRIES = 2**24
_LISTED = 5


@dataclasses.dataclass(frozen=True)
class Config:
  """All options; fields are flags. None: the default of the input, the selection or `solve`."""

  games: str
  out: str
  batched: bool | None = None
  concept: str = "cce"
  selection: str = "max_entropy"
  method: str = "auto"
  precision: str = "float32"
  tolerance: float | None = None
  max_iterations: int | None = None
  target: str | None = None
  welfare: str | None = None
  epsilon: float | None = None
  welfare_weight: float | None = None
  rho: float | None = None
  part_size: int | None = None
  overwrite: bool = False


@dataclasses.dataclass
class Report:
  """Tallies of all games, and the times of this run."""

  num_games: int
  shape: tuple[int, ...]  # (N, A1, ..., AN), the largest
  converged: int = 0
  invalid: int = 0
  repeated: int = 0
  not_converged: int = 0
  first_not_converged: list[int] = dataclasses.field(default_factory=list)
  first_invalid: list[int] = dataclasses.field(default_factory=list)
  gap_sum: float = 0.0  # payoff units, over the games that are not invalid, as all that follows
  gap_worst: float = 0.0
  residual_worst: float = 0.0
  iterations_sum: int = 0
  iterations_max: int = 0
  solved_here: int = 0  # games solved by this run
  seconds: float = 0.0  # of this run, all told
  compile_seconds: float = 0.0  # of these, compiling
  first_compile_seconds: float = 0.0  # of these, for the first part
  steady_games: int = 0  # of parts for which nothing was compiled
  steady_seconds: float = 0.0  # in `solve`, for these
  ragged: bool = False  # whether the games differ in shape

  def add(self, start: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Counts a part whose first game is number `start`."""
    valid, converged = ~arrays["invalid"], arrays["converged"]
    self.converged += int(converged.sum())
    self.invalid += int((~valid).sum())
    self.repeated += int(arrays["repeated"].sum())
    for mask, first in (
        (valid & ~converged, self.first_not_converged),
        (~valid, self.first_invalid),
    ):
      first += (start + np.flatnonzero(mask)[: _LISTED - len(first)]).tolist()
    self.not_converged += int((valid & ~converged).sum())
    if valid.any():
      gap = arrays["gap"][valid].astype(np.float64)
      iterations = arrays["iterations"][valid]
      self.gap_sum += float(gap.sum())
      # np.maximum, unlike max, never loses a NaN.
      self.gap_worst = float(np.maximum(self.gap_worst, gap.max()))
      worst = arrays["residual"][valid].astype(np.float64).max()
      self.residual_worst = float(np.maximum(self.residual_worst, worst))
      self.iterations_sum += int(iterations.sum())
      self.iterations_max = max(self.iterations_max, int(iterations.max()))


@dataclasses.dataclass(frozen=True)
class _Job:
  """All that is needed to solve a part."""

  config: Config
  source: files.Source
  inputs: Mapping[str, np.ndarray]  # target and welfare of files
  parts: store.Parts
  part_size: int
  solve: Callable[..., Any]


def run(
    config: Config,
    *,
    solve: Callable[..., Any] = nes_jax.solve,
    check_stop: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Report, tuple[str, ...] | None]:
  """Solves all games and writes `config.out`.

  Args:
    config: checked here, before anything is compiled.
    solve: with the signature of `nes_jax.solve`.
    check_stop: called after each part; may raise to stop.
    say: gets lines for the user.

  Returns:
    The report, and the names of the games if they have any.

  Raises:
    UsageError, files.GameFileError, store.StoreError: bad flags or input.
    OSError: the disk.
  """
  began = time.perf_counter()
  check(config)
  out = pathlib.Path(config.out).absolute()
  directory = out.with_name(out.name + ".parts")
  with contextlib.ExitStack() as stack:
    source = stack.enter_context(_open_games(config))
    clock = stack.enter_context(progress.CompileClock())
    inputs = _open_inputs(config, source)
    if out.exists() and not config.overwrite:
      raise UsageError(f"--out={config.out} exists: pass --overwrite, or choose another")
    part_size = _part_size(config, source, directory)
    task = _task(config, source, part_size)
    schema = answer_schema(source.shape, config)
    parts = store.Parts(directory, schema, source.num_games, part_size)
    stack.enter_context(parts)
    parallel.on_main_process(
        lambda: _open_store(config, parts, task, out, source.num_games),
        UsageError("process 0 could not begin, and says why"),
    )
    report = Report(source.num_games, source.shape, ragged=source.ragged)
    todo = _count_done(parts, report, say)
    parallel.sync_processes()  # what is there is the same for all before anything is added
    job = _Job(config, source, inputs, parts, part_size, solve)
    _solve_parts(job, todo, report, clock, check_stop, say)
    stopping.check_together(check_stop)
    if parallel.is_main():
      for index in set(todo) - set(parallel.local_items(todo)):
        report.add(parts.bounds[index][0], parts.read(index))
      _merge(parts, out, source.names, check_stop)
    report.compile_seconds = clock.seconds()
    report.seconds = time.perf_counter() - began
    return report, source.names


def _count_done(parts: store.Parts, report: Report, say: Callable[[str], None]) -> list[int]:
  """Adds the parts that are there to the report; returns the numbers of the others."""
  todo = []
  for index, (start, _) in enumerate(parts.bounds):
    arrays = parts.read(index)
    if arrays is not None:
      report.add(start, arrays)
      continue
    if parts.path(index).exists():
      say(f"{parts.path(index)} is damaged: solving it again")
    todo.append(index)
  return todo


def _solve_parts(
    job: _Job,
    todo: Sequence[int],
    report: Report,
    clock: progress.CompileClock,
    check_stop: Callable[[], None],
    say: Callable[[str], None],
) -> None:
  """Solves this process's share of the parts `todo`, one on each device at a time."""
  source, bounds = job.source, job.parts.bounds
  done = source.num_games - sum(bounds[index][1] - bounds[index][0] for index in todo)
  if done:
    say(f"continuing at game {done} of {source.num_games}")

  def solve_on(device: jax.Device, start: int, payoffs: np.ndarray) -> dict[str, np.ndarray]:
    with jax.default_device(device):
      return _solve_part(job, payoffs, start)

  devices = jax.local_devices()
  mine = parallel.local_items(todo)
  with (
      concurrent.futures.ThreadPoolExecutor(len(devices)) as pool,
      progress.bar(source.num_games, initial=done, unit="game") as bar,
  ):
    while mine:
      stopping.check_together(check_stop)
      turn = [index for index in mine[: len(devices)] if index is not None]
      mine = mine[len(devices) :]
      starts = [bounds[index][0] for index in turn]
      payoffs = [source.read(*bounds[index]) for index in turn]
      began, compiled = time.perf_counter(), clock.seconds()
      answers = list(pool.map(solve_on, devices, starts, payoffs))
      taken, compiled = time.perf_counter() - began, clock.seconds() - compiled
      games = sum(map(len, payoffs))
      if not report.solved_here:
        report.first_compile_seconds = compiled
      if not compiled:
        report.steady_games += games
        report.steady_seconds += taken
      for index, start, arrays in zip(turn, starts, answers):
        job.parts.write(index, arrays)
        report.add(start, arrays)
      report.solved_here += games
      bar.update(games)


def _merge(
    parts: store.Parts,
    out: pathlib.Path,
    names: tuple[str, ...] | None,
    check_stop: Callable[[], None],
) -> None:
  """Puts all parts into one file and deletes them."""
  extras = {"meta": np.array(json.dumps(store.read_manifest(parts.directory)))}
  if names is not None:
    extras["names"] = np.array(names)
  parts.merge(out, extras, check_stop)
  parts.remove()


def summary(report: Report, names: tuple[str, ...] | None = None) -> str:
  """The report as a table of lines."""

  def listed(numbers: list[int], count: int) -> str:
    labels = [names[k] if names else f"game {k}" for k in numbers]
    more = ", ..." if count > len(numbers) else ""
    return f" ({', '.join(labels)}{more})" if numbers else ""

  counts = ("at most " if report.ragged else "") + "x".join(map(str, report.shape[1:]))
  valid = report.num_games - report.invalid
  rows = [
      ("games", f"{report.num_games} of {report.shape[0]} players, {counts} strategies"),
      ("converged", f"{report.converged}"),
      (
          "NOT CONVERGED" if report.not_converged else "not converged",
          f"{report.not_converged}{listed(report.first_not_converged, report.not_converged)}",
      ),
      (
          "INVALID" if report.invalid else "invalid",
          f"{report.invalid}{listed(report.first_invalid, report.invalid)}"
          + (" NaN or infinite payoffs" if report.invalid else ""),
      ),
      ("repeated in float64", f"{report.repeated}"),
  ]
  if valid:
    rows += [
        ("gap, payoff units", f"mean {report.gap_sum / valid:.3g}, worst {report.gap_worst:.3g}"),
        ("residual", f"worst {report.residual_worst:.3g}"),
        (
            "iterations",
            f"mean {report.iterations_sum / valid:.1f}, most {report.iterations_max}",
        ),
    ]
  rows.append(("seconds", f"{report.seconds:.2f}"))
  if report.solved_here:
    here = "" if report.solved_here == report.num_games else f" ({report.solved_here} in this run)"
    rate = f"{report.solved_here / report.seconds:.4g} in all{here}"
    if report.steady_games:
      rate += f", {report.steady_games / report.steady_seconds:.4g} where nothing was compiled"
    rows += [
        (
            "  compiling",
            f"{report.compile_seconds:.2f}, the first part's {report.first_compile_seconds:.2f}",
        ),
        ("games a second", rate),
    ]
  width = max(len(name) for name, _ in rows) + 2
  lines = [f"{name:<{width}}{value}" for name, value in rows]
  if report.not_converged:
    lines.append(
        f"WARNING: {report.not_converged} of {report.num_games} games did NOT converge; their rows"
        " have converged = False and are not answers. Try --precision=float64, a larger"
        " --max_iterations or a finite --rho"
    )
  return "\n".join(lines)


# Checks at the door.


def check(config: Config) -> None:
  """Raises UsageError for whatever can be seen without opening the games."""
  for name in ("games", "out"):
    if not getattr(config, name):
      raise UsageError(f"--{name} is missing: see --help for a command to copy")
  if config.concept not in CONCEPTS:
    raise UsageError(f"--concept={config.concept}: use one of {', '.join(CONCEPTS)}")
  if config.precision not in ("float32", "float64"):
    raise UsageError(f"--precision={config.precision}: use float32 or float64")
  out = pathlib.Path(config.out)
  if out.suffix != ".npz":
    raise UsageError(f"--out={config.out}: give a name that ends in .npz")
  if out.is_dir():
    raise UsageError(f"--out={config.out} is a directory: give the name of a file")
  for name in ("games", "target", "welfare"):
    path = getattr(config, name)
    if path and out.exists() and pathlib.Path(path).exists() and out.samefile(path):
      raise UsageError(f"--out and --{name} are the same file, {config.out}: choose another --out")
  if config.tolerance is not None and not config.tolerance > 0:
    raise UsageError(f"--tolerance={config.tolerance}: must be positive")
  for name in ("max_iterations", "part_size"):
    value = getattr(config, name)
    if value is not None and value < 1:
      raise UsageError(f"--{name}={value}: must be at least 1")
  if config.rho is not None and not config.rho > 0:
    raise UsageError(f"--rho={config.rho}: must be positive; inf makes epsilon exact")
  if config.epsilon is not None and math.isnan(config.epsilon):
    raise UsageError("--epsilon is NaN: give a number in payoff units")
  if config.welfare_weight is not None and not config.welfare_weight >= 0:
    raise UsageError(f"--welfare_weight={config.welfare_weight}: must not be negative")
  if config.method not in METHODS:
    raise UsageError(f"--method={config.method}: use one of {', '.join(METHODS)}")
  given = {name: True for name in ("target", "welfare") if getattr(config, name)}
  scalars = {name: getattr(config, name) for name in ("epsilon", "welfare_weight", "rho")}
  given |= {name: value for name, value in scalars.items() if value is not None}
  row = {key: row for row in selections.TABLE for key in (row.name, row.abbreviation)}.get(
      config.selection
  )
  if row is None:
    raise UsageError(
        f"--selection={config.selection}: use one of {', '.join(selections.NAMES)}"
    )
  missing = [f"--{name}" for name in row.needs if name not in given]
  if missing:
    raise UsageError(f"--selection={config.selection} needs {' and '.join(missing)}: pass them too")
  chosen = selections.named(
      config.selection, np.zeros((1, 2, 1, 1)), player_axis=1, **given
  )
  if "welfare_weight" in given and chosen.welfare is None:
    raise UsageError(
        f"--welfare_weight has no effect on --selection={config.selection} without a welfare: pass"
        " --welfare too, or choose --selection=max_welfare"
    )
  if math.isinf(chosen.rho) and math.isinf(chosen.epsilon):
    raise UsageError("--epsilon is infinite, which needs a finite --rho: pass --rho=1e4")


def _open_games(config: Config) -> files.Source:
  """The games; an error about a shape with two readings names the flags."""
  try:
    return files.open_games(config.games, batched=config.batched)
  except files.AmbiguousShapeError as error:
    raise UsageError(
        f"--games={config.games} holds an array of shape {list(error.shape)}, which can be read as"
        f" {error.batch} and as {error.game}: pass --batched for {error.batch}, or --nobatched for"
        f" {error.game}"
    ) from None


def _open_inputs(config: Config, source: files.Source) -> dict[str, np.ndarray]:
  """Target and welfare, [A1, ..., AN] or [B, A1, ..., AN]; .npy files stay on disk."""
  inputs = {}
  for name in ("target", "welfare"):
    path = getattr(config, name)
    if path and path != "sum":
      if source.ragged:
        raise UsageError(
            f"--{name}={path}: the games of --games={config.games} differ in shape, and one file"
            " cannot fit them all. Put the games of each shape into a directory of their own, or"
            f" leave out --{name}" + (" or pass --welfare=sum" if name == "welfare" else "")
        )
      array = _load(name, path)
      shape = source.shape[1:]
      if array.shape not in (shape, (source.num_games, *shape)):
        raise UsageError(
            f"--{name}={path} has shape {list(array.shape)}: it must be {list(shape)} for all"
            f" games, or {[source.num_games, *shape]}"
        )
      _check_values(name, path, array.reshape(-1, *shape))
      inputs[name] = array
  return inputs


def _load(name: str, path: str) -> np.ndarray:
  try:
    if pathlib.Path(path).suffix == ".npz":
      with np.load(path, allow_pickle=False) as archive:
        keys = list(archive)
        if name not in keys and len(keys) != 1:
          raise UsageError(f"--{name}={path} holds {len(keys)} arrays: name one of them {name!r}")
        array = archive[name if name in keys else keys[0]]
    else:
      array = np.load(path, mmap_mode="r", allow_pickle=False)
  except OSError as error:
    raise UsageError(f"--{name}={path} cannot be read ({error.strerror}): check the path") from None
  except (ValueError, EOFError, zipfile.BadZipFile, zlib.error):
    raise UsageError(f"--{name}={path} is not a .npy or .npz: save it with numpy.save") from None
  if array.dtype.kind not in "fiub":
    raise UsageError(f"--{name}={path} is of type {array.dtype}: save it as float64")
  return array


def _check_values(name: str, path: str, rows: np.ndarray) -> None:
  """rows: [*, A1, ..., AN]."""
  step = max(1, _CHECK_ENTRIES // math.prod(rows.shape[1:]))
  for start in range(0, len(rows), step):
    block = np.asarray(rows[start : start + step], np.float64)
    block = block.reshape(len(block), -1)
    good = np.isfinite(block).all(1)
    expected = "finite numbers"
    if name == "target":
      good &= (block >= 0).all(1) & (np.abs(block.sum(1) - 1) <= 1e-3)
      expected = "non-negative numbers that sum to one"
    if not good.all():
      raise UsageError(
          f"--{name}={path}, row {start + int(np.argmin(good))}: must be {expected}"
      )


def _part_size(config: Config, source: files.Source, directory: pathlib.Path) -> int:
  """As asked for, or as before, or parts of equal size that take seconds and fit in memory."""
  if config.part_size is not None:
    return min(config.part_size, source.num_games)
  manifest = store.read_manifest(directory)
  if manifest is not None and manifest["task"].get("--part_size", "").isdecimal():
    return int(manifest["task"]["--part_size"])
  size = math.prod(source.shape[1:])
  duals = sum(count ** (2 if config.concept == "ce" else 1) for count in source.shape[1:])
  newton = min(size, duals) if config.concept == "ce" else duals
  schema = answer_schema(source.shape, config)
  work = _PART_WORK.get(jax.default_backend(), _ACCELERATOR_PART_WORK)
  most = min(
      _MAX_PART,
      _PART_BYTES // (8 * math.prod(source.shape) + store.row_bytes(schema)),
      work // newton**3,
  )
  num_parts = max(
      math.ceil(source.num_games / max(most, 1)),
      min(jax.device_count(), math.ceil(source.num_games / _WORTH_A_DEVICE)),
  )
  return math.ceil(source.num_games / num_parts)


def _task(config: Config, source: files.Source, part_size: int) -> dict[str, str]:
  """All that decides the answers, as text, named as the user knows it."""

  def identity(path: str) -> str:
    location = pathlib.Path(path).absolute()
    inside = [location]
    if location.is_dir():
      inside = [location / name for name in source.names]
    return f"{location} (fingerprint {store.fingerprint(inside)})"

  task = {"--games": config.games}
  if not config.games.startswith(files.OPENSPIEL_PREFIX):
    task["--games"] = identity(config.games)
  task["number of games"] = str(source.num_games)
  task["shape of a game"] = str(list(source.shape))
  for field in dataclasses.fields(Config):
    value = getattr(config, field.name)
    if field.name not in ("games", "out", "overwrite", "part_size") and value is not None:
      is_path = field.name in ("target", "welfare") and value != "sum"
      task[f"--{field.name}"] = identity(value) if is_path else str(value)
  task["--part_size"] = str(part_size)
  return task


def _open_store(
    config: Config, parts: store.Parts, task: Mapping[str, str], out: pathlib.Path, num_games: int
) -> None:
  """Finds out now what would stop the run at its end: another run's parts, permissions, space."""
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
    parts.open(task, progress.versions() + f", {jax.default_backend()}")
  except OSError as error:
    raise UsageError(
        f"--out={config.out}: cannot write in {error.filename or out.parent} ({error.strerror}):"
        " check its permissions and space, or choose another --out"
    ) from None
  # The parts are there until they have been merged.
  done = sum(stop - start for k, (start, stop) in enumerate(parts.bounds) if parts.path(k).exists())
  needed = (2 * num_games - done) * store.row_bytes(parts.schema)
  free = shutil.disk_usage(out.parent).free
  if needed > free:
    raise UsageError(
        f"--out={config.out}: the answers and their parts need {_bytes(needed)} and {out.parent}"
        f" has {_bytes(free)} free: make room, or choose another --out"
    )


def _bytes(number: int) -> str:
  return f"{number / 1e9:.3g} GB" if number >= 1e9 else f"{number / 1e6:.3g} MB"


# The work.


def answer_schema(shape: tuple[int, ...], config: Config) -> store.Schema:
  """The arrays of an answer to games of at most this shape, (N, A1, ..., AN)."""
  real, counts = np.dtype(config.precision), shape[1:]
  dual_axes = 2 if config.concept == "ce" else 1
  fields = {
      "joint": (counts, real),
      "epsilon": ((len(counts),), real),
      "gap": ((), real),
      "residual": ((), real),
      "converged": ((), np.dtype(bool)),
      "iterations": ((), np.dtype(np.int32)),
      "repeated": ((), np.dtype(bool)),
      "invalid": ((), np.dtype(bool)),
      "strategies": ((len(counts),), np.dtype(np.int32)),
  }
  fields |= {f"duals_{p}": ((count,) * dual_axes, real) for p, count in enumerate(counts)}
  fields |= {f"marginals_{p}": ((count,), real) for p, count in enumerate(counts)}
  return {key: store.Field(*value) for key, value in fields.items()}


def _solve_part(job: _Job, payoffs: np.ndarray, start: int) -> dict[str, np.ndarray]:
  """payoffs [b, N, A1, ..., AN] of games start, start + 1, ... -> arrays of `answer_schema`."""
  count = len(payoffs)
  counts = job.source.counts[start : start + count]
  try:
    if (counts == counts[0]).all():
      own = payoffs[(slice(None), *_corner(counts[0]))]
      solutions = [_solve_batch(job, own, start)]
    else:
      solutions = _solve_list(
          job, [game[_corner(row)] for game, row in zip(payoffs, counts)]
      )
  except ValueError as error:
    raise UsageError(f"games {start} to {start + count - 1}: {error}") from error
  schema = answer_schema(payoffs.shape[1:], job.config)
  arrays = {key: np.zeros((count, *field.shape), field.dtype) for key, field in schema.items()}
  arrays["strategies"][...] = counts
  row = 0
  for solution in solutions:
    size = len(solution.gap)
    for key, values in _answers(solution).items():
      arrays[key][row : row + size][_corner(values.shape[1:])] = values
    row += size
  return arrays


def _corner(counts: Sequence[int]) -> tuple[slice, ...]:
  """Index of all players or games, and so many entries of each further axis."""
  return (slice(None), *map(slice, counts))


def _answers(solution: nes_jax.Solution) -> dict[str, np.ndarray]:
  """The arrays of a batch of answers, but for `strategies`."""
  arrays = {
      key: getattr(solution, key)
      for key in ("joint", "epsilon", "gap", "residual", "converged", "iterations", "repeated")
  }
  # `solve` gives NaN to the games that it marks, and to no other.
  arrays["invalid"] = ~solution.converged & np.isnan(solution.residual)
  for p, (duals, marginals) in enumerate(zip(solution.duals, solution.marginals)):
    arrays[f"duals_{p}"], arrays[f"marginals_{p}"] = duals, marginals
  return arrays


def _solve_batch(job: _Job, payoffs: np.ndarray, start: int) -> nes_jax.Solution:
  """payoffs [b, N, A1, ..., AN] -> their answers, NumPy arrays."""
  config, count = job.config, len(payoffs)
  # The last part is filled up with its last game, so that one program serves all.
  rows = np.minimum(np.arange(job.part_size), count - 1)
  payoffs = payoffs if count == job.part_size else payoffs[rows]
  given = _scalars(config)
  for name, array in job.inputs.items():
    batched = array.ndim == payoffs.ndim - 1
    given[name] = np.asarray(array[start + rows] if batched else array, np.float64)
  clean = _clean(payoffs, 1)
  if config.welfare == "sum":
    given["welfare"] = clean.sum(1)
  selection = selections.named(config.selection, clean, player_axis=1, **given)
  solution = job.solve(payoffs, selection=selection, batched=True, **_options(config))
  return jax.tree.map(lambda x: np.asarray(x)[:count], solution)


def _solve_list(job: _Job, games: Sequence[np.ndarray]) -> list[nes_jax.Solution]:
  """Games of different shapes, [N, A1, ..., AN] each -> batches of one answer, NumPy arrays."""
  config, given = job.config, _scalars(job.config)
  selection = config.selection
  if given or config.welfare == "sum":
    chosen = []
    for game in games:
      clean = _clean(game, 0)
      welfare = {"welfare": clean.sum(0)} if config.welfare == "sum" else {}
      chosen.append(
          selections.named(config.selection, clean, player_axis=0, **given, **welfare)
      )
    selection = chosen if chosen[0].welfare is not None else chosen[0]
  solutions = jax.device_get(job.solve(games, selection=selection, **_options(config)))
  return [jax.tree.map(lambda x: np.asarray(x)[None], solution) for solution in solutions]


def _scalars(config: Config) -> dict[str, Any]:
  """The numbers of a selection that the user gives."""
  values = {name: getattr(config, name) for name in ("epsilon", "welfare_weight", "rho")}
  return {name: value for name, value in values.items() if value is not None}


def _options(config: Config) -> dict[str, Any]:
  """Arguments of `solve` that are the same for all parts."""
  names = ("concept", "method", "precision", "tolerance", "max_iterations")
  return {"invalid": "mark"} | {name: getattr(config, name) for name in names}


def _clean(payoffs: np.ndarray, player_axis: int) -> np.ndarray:
  """Payoffs with 0 for all players wherever one of them is not finite.

  This gives joint strategies that do not exist a finite welfare. It also keeps invalid games from
  having the whole part refused.
  """
  finite = np.isfinite(payoffs)
  if finite.all():
    return payoffs
  return np.where(finite.all(player_axis, keepdims=True), payoffs, 0)


# The program.


def _define_flags(values: flags.FlagValues) -> None:
  """On values of its own, so that programs of one process do not share flags."""
  own: dict[str, Any] = {"flag_values": values}
  flags.DEFINE_string(
      "games", None, "The games: FILE.npz, FILE.nfg, DIRECTORY or openspiel:GAME.", **own
  )
  flags.DEFINE_string("out", None, "FILE.npz that gets the answers.", **own)
  flags.DEFINE_bool(
      "batched",
      None,
      "Whether the arrays of a .npz have a batch axis. It is needed only where the shape can be"
      " read both ways; other inputs ignore it.",
      **own,
  )
  flags.DEFINE_enum(
      "concept", "cce", CONCEPTS, "Coarse correlated or correlated equilibria.", **own
  )
  flags.DEFINE_string(
      "selection", "max_entropy", f"Which equilibrium: {', '.join(selections.NAMES)}.", **own
  )
  flags.DEFINE_string("method", "auto", f"How to solve: {', '.join(METHODS)}.", **own)
  flags.DEFINE_enum(
      "precision", "float32", ("float32", "float64"), "Precision of the computation.", **own
  )
  flags.DEFINE_float(
      "tolerance", None, "KKT residual at which a game counts as converged.", **own
  )
  flags.DEFINE_integer("max_iterations", None, "Largest number of interior-point steps.", **own)
  flags.DEFINE_string(
      "target",
      None,
      "FILE.npy or FILE.npz with the target joint: [A1, ..., AN] for all games, or"
      " [B, A1, ..., AN], one for each. The games must be of one shape.",
      **own,
  )
  flags.DEFINE_string(
      "welfare",
      None,
      "FILE.npy or FILE.npz as for --target, or `sum`, which is the sum of the payoffs.",
      **own,
  )
  flags.DEFINE_float("epsilon", None, "The approximation wanted, in payoff units.", **own)
  flags.DEFINE_float("welfare_weight", None, "Weight mu of the welfare, against entropy.", **own)
  flags.DEFINE_float("rho", None, "Weight of epsilon; inf makes epsilon exact.", **own)
  flags.DEFINE_integer("part_size", None, "Number of games solved and saved at a time.", **own)
  flags.DEFINE_bool("overwrite", False, "Replace --out if it exists.", **own)


def _config(values: flags.FlagValues) -> Config:
  config = Config(**{x.name: values[x.name].value for x in dataclasses.fields(Config)})
  check(config)
  return config


def _work(
    config: Config, *, check_stop: Callable[[], None], say: Callable[[str], None]
) -> Mapping[str, float]:
  report, names = run(config, check_stop=check_stop, say=say)
  if parallel.is_main():
    print(summary(report, names))
  return {}


def main(argv: Sequence[str]) -> int:
  """The program; returns its exit code."""
  return program.main(
      argv,
      name="nes_solve",
      doc=__doc__,
      define=_define_flags,
      prepare=_config,
      work=_work,
      faults=(files.GameFileError, store.StoreError),
  )


if __name__ == "__main__":
  sys.exit(main(sys.argv))
