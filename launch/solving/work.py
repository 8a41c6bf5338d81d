"""The run of `launch.nes_solve`: solves the games part by part, and merges the answers."""

from collections.abc import Callable, Sequence
import concurrent.futures
import contextlib
import json
import pathlib
import time
from typing import Any

import jax
import numpy as np

from launch.runtime import parallel, progress, stopping, store
from launch.runtime.flags import UsageError
from launch.solving import answers, inputs
from launch.solving.parts import open_store, part_size, task_of
from launch.solving.report import Report
from launch.solving.settings import Config, check
import nes_jax


def run(
    config: Config,
    *,
    solve: Callable[..., Any] = nes_jax.solve,
    check_stop: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Report, tuple[str, ...] | None]:
  """Solves all games and writes `config.out`.

  Args:
    config: the options, which are checked before anything is compiled.
    solve: a function with the signature of `nes_jax.solve`.
    check_stop: raises an error when the run is to stop; called before each part.
    say: gets lines for the user.

  Returns:
    The report, and the names of the games if they have any.

  Raises:
    UsageError, files.GameFileError, store.StoreError: an option or an input is wrong.
    OSError: the disk failed.
  """
  began = time.perf_counter()
  check(config)
  out = pathlib.Path(config.out).absolute()
  directory = out.with_name(out.name + ".parts")
  with contextlib.ExitStack() as stack:
    source = stack.enter_context(inputs.open_games(config))
    clock = stack.enter_context(progress.CompileClock())
    given = inputs.open_inputs(config, source)
    if out.exists() and not config.overwrite:
      raise UsageError(f"--out={config.out} exists: pass --overwrite, or choose another")
    size = part_size(config, source, directory)
    task = task_of(config, source, size)
    schema = answers.answer_schema(source.shape, config)
    parts = store.Parts(directory, schema, source.num_games, size)
    stack.enter_context(parts)
    parallel.on_main_process(
        lambda: open_store(config, parts, task, out, source.num_games),
        UsageError("process 0 could not begin, and says why"),
    )
    report = Report(source.num_games, source.shape, ragged=source.ragged)
    todo = _count_done(parts, report, say)
    # All processes see the same parts on disk before one of them adds another.
    parallel.sync_processes()
    job = answers.Job(config, source, given, size, solve)
    _solve_parts(job, parts, todo, report, clock, check_stop, say)
    stopping.check_together(check_stop)
    if parallel.is_main():
      for index in set(todo) - set(parallel.local_items(todo)):
        part = parts.read(index)
        assert part is not None  # another process has written it
        report.add(parts.bounds[index][0], part)
      _merge(parts, out, source.names, check_stop)
    report.compile_seconds = clock.seconds()
    report.seconds = time.perf_counter() - began
    return report, source.names


def _count_done(parts: store.Parts, report: Report, say: Callable[[str], None]) -> list[int]:
  """Adds the parts on disk to the report; returns the numbers of the other parts."""
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
    job: answers.Job,
    parts: store.Parts,
    todo: Sequence[int],
    report: Report,
    clock: progress.CompileClock,
    check_stop: Callable[[], None],
    say: Callable[[str], None],
) -> None:
  """Solves this process's share of the parts `todo`, one on each device at a time."""
  source, bounds = job.source, parts.bounds
  done = source.num_games - sum(bounds[index][1] - bounds[index][0] for index in todo)
  if done:
    say(f"continuing at game {done} of {source.num_games}")

  def solve_on(device: jax.Device, start: int, payoffs: np.ndarray) -> dict[str, np.ndarray]:
    with jax.default_device(device):
      return answers.solve_part(job, payoffs, start)

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
      solved = list(pool.map(solve_on, devices, starts, payoffs))
      taken, compiled = time.perf_counter() - began, clock.seconds() - compiled
      games = sum(map(len, payoffs))
      if not report.solved_here:
        report.first_compile_seconds = compiled
      if not compiled:
        report.steady_games += games
        report.steady_seconds += taken
      for index, start, arrays in zip(turn, starts, solved):
        parts.write(index, arrays)
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
