"""Runs OpenSpiel's JPSRO with the meta-solvers of nes_jax, beside OpenSpiel's own.

  python -m launch.checks.jpsro --out=out/jpsro
  python -m launch.checks.jpsro --normal_form

The loop, the best responses and the gaps are those of `open_spiel.python.algorithms.jpsro`; only
the meta-solvers differ. Needs OpenSpiel, networkx and cvxpy:

  pip install -e ".[interop,baselines]"

OpenSpiel's maximum-Gini solvers use CVXOPT if it is installed, and OSQP if it is not or fails.

A run starts from random deterministic policies or, with --init=uniform, from uniform ones; with the
latter no seed makes a difference. The gap is the sum over players of the gain of a true best
response in the extensive game, by `pyspiel.cce_dist` with the marginal joint of the others. For
joints of few policies, one call of `pyspiel.cce_dist` or `pyspiel.ce_dist` with the whole joint
computes it once more; its time grows with the square of the number of policies, and does not count.

With --normal_form, it times `nes_jax.psro.jpsro` on a random 50x50 game for 1, 8 and 64 seeds, and
nothing else. That needs no further package.

Writes into --out:

  jpsro.csv  a row for each run, written as soon as it has ended
  jpsro.md   the runs of this command as a table, and medians over the seeds
  seeds.md   with --normal_form alone: the times by number of seeds

The same command, given again, continues. Runs that are there are not repeated, even if the solver
has changed since; give a new directory to measure anew.
"""

from collections.abc import Callable, Sequence
import dataclasses
import itertools
import pathlib
import statistics
import sys
import time
from typing import Any

import numpy as np

from launch.runtime import flags, program, progress, tables
from launch.runtime.flags import UsageError
from nes_jax import psro

# Iterations of each game.
GAMES = {"kuhn_poker_3p": 12, "trade_comm_2p_2i": 12, "trade_comm_2p_3i": 20,
         "sheriff_2p_gabriele": 10}
# Pairs of meta-solvers that are measured if --pairs does not say otherwise.
PAIRS = ("max_entropy_cce+max_welfare_cce", "mgcce+mwcce")
# Largest number of joint policies in the support of a joint whose gap is computed once more.
_CHECKED = 40
# Number of later calls of each number of seeds that are timed.
_REPEATS = 20
# Columns that tell one run from another.
SETTINGS = ("game", "iterations", "init", "train", "eval", "seed")
COLUMNS = (
    *SETTINGS, "train_gap", "eval_gap", "value", "policies", "uncertified", "meta_gap", "checked",
    "disagree", "solver_worst", "solver_seconds", "seconds",
)
_EXPLANATION = """
`train_gap` and `eval_gap` are the gaps of the two meta-solvers' joints in the last iteration, and
`value` is the sum of the players' payoffs under the eval joint. `policies` is the shape of the last
meta-game. `uncertified` is the number of meta-games not solved to the tolerance, and `meta_gap` the
largest gap of a joint within its meta-game. `checked` is the number of gaps that were computed once
more, and `disagree` the largest difference that was found. `solver_worst` is the longest time in
seconds of one meta-solver call after the first, `solver_seconds` that of all calls, and `seconds`
that of the whole run.
"""

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Settings:
  """Runs of this program."""

  out: pathlib.Path = flags.field(
      pathlib.Path("out/jpsro"), "Directory of the results.", metavar="DIRECTORY"
  )
  games: tuple[str, ...] = flags.field(
      ("kuhn_poker_3p", "trade_comm_2p_2i", "sheriff_2p_gabriele"), "Games.",
      choices=tuple(GAMES), metavar="GAME,...",
  )
  pairs: tuple[str, ...] = flags.field(
      PAIRS,
      "Meta-solvers for training and evaluation, as TRAIN+EVAL: names of OpenSpiel, or a selection"
      " of nes_jax with _cce or _ce.",
  )
  init: str = flags.field(
      "random_deterministic", "Initial policies.", choices=("random_deterministic", "uniform")
  )
  seeds: int = flags.field(5, "Number of seeds of the pairs that have a meta-solver of nes_jax.")
  other_seeds: int = flags.field(1, "Number of seeds of the pairs of OpenSpiel's own.")
  iterations: int | None = flags.field(
      None, "Number of iterations; each game has its own by default."
  )
  normal_form: bool = flags.field(
      False, "Time runs on a normal-form game for different numbers of seeds, and nothing else."
  )

  def __post_init__(self):
    flags.at_least_one(self, "seeds", "other_seeds")
    if self.iterations is not None and self.iterations < 1:
      raise ValueError("--iterations must be at least 1")
    for pair in self.pairs:
      if pair.count("+") != 1:
        raise ValueError(f"--pairs: {pair!r} is not TRAIN+EVAL, such as {PAIRS[0]}")
      if len({concept_of(name) for name in pair.split("+")}) > 1:
        raise ValueError(f"--pairs: {pair!r} has both CEs and CCEs: choose two of one concept")


_SECTION = flags.Section("The runs", Settings)


def is_ours(name: str) -> bool:
  """Whether a meta-solver goes by a selection of nes_jax and a concept."""
  return name.endswith(("_cce", "_ce"))


def concept_of(name: str) -> str:
  """The concept of a meta-solver, "cce" or "ce"."""
  return "ce" if name.endswith("ce") and not name.endswith("cce") else "cce"


class Meter:
  """A meta-solver whose calls are timed and checked."""

  def __init__(self, function: Callable[..., Any]):
    self.function = function
    self.seconds: list[float] = []
    self.uncertified = 0

  def __call__(self, *args, **options):
    began = time.perf_counter()
    joint, information = self.function(*args, **options)
    self.seconds.append(time.perf_counter() - began)
    self.uncertified += not information.get("converged", True)
    return joint, information


def gap_within(payoffs: np.ndarray, joint: np.ndarray, concept: str) -> float:
  """The CCE or CE gap of a joint in its own meta-game [N, A1, ..., AN], in plain NumPy."""
  total = 0.0
  for p, own in enumerate(payoffs):
    table = np.moveaxis(own, p, 0).reshape(own.shape[p], -1)
    weights = np.moveaxis(joint, p, 0).reshape(own.shape[p], -1)
    gains = weights @ table.T - (weights * table).sum(1)[:, None]
    if concept == "cce":
      gains = gains.sum(0)
    total += max(0.0, float(gains.max()))
  return total


def run_one(jpsro: Any, pyspiel: Any, game: Any, settings: dict[str, Any]) -> Row:
  """Runs JPSRO once.

  Args:
    jpsro: the module of OpenSpiel.
    pyspiel: the other module of OpenSpiel.
    game: the game.
    settings: the values of `SETTINGS`.

  Returns:
    The columns of the row that are not settings.
  """
  concept = concept_of(settings["train"])
  meters = {}
  for role in ("train", "eval"):
    name = settings[role]
    if is_ours(name):
      selection, _, _ = name.rpartition("_")
      function = psro.meta_solver(concept, selection)  # type: ignore[arg-type]
    else:
      function = jpsro.FLAG_TO_FUNC[name]
    meters[role] = jpsro.FLAG_TO_FUNC[f"nes_jax_{role}"] = Meter(function)
  distance = pyspiel.cce_dist if concept == "cce" else pyspiel.ce_dist
  row: Row = {"meta_gap": 0.0, "checked": 0, "disagree": 0.0}
  paused = 0.0

  def check(
      iteration, repeats, policies, joint_policies, returns, games, train_joints, eval_joints,
      train_values, eval_values, train_gaps, eval_gaps, options, checkpoint,
  ):
    nonlocal paused
    began = time.perf_counter()
    # The last joints belong to meta-games whose best responses come in the next iteration.
    for joints, gaps in ((train_joints, train_gaps), (eval_joints, eval_gaps)):
      joint = joints[-2]
      row["meta_gap"] = max(row["meta_gap"], gap_within(games[-2], joint, concept))
      device = [(joint[at], joint_policies[at]) for at in zip(*np.nonzero(joint))]
      if len(device) <= _CHECKED:
        again = distance(game, device).dist_value
        row["checked"] += 1
        row["disagree"] = max(row["disagree"], abs(again - sum(gaps[-1])))
    row["train_gap"], row["eval_gap"] = sum(train_gaps[-1]), sum(eval_gaps[-1])
    row["value"] = float(sum(eval_values[-2]))
    row["policies"] = "x".join(map(str, eval_joints[-2].shape))
    paused += time.perf_counter() - began
    return checkpoint

  began = time.perf_counter()
  jpsro.run_loop(
      game, settings["game"], seed=settings["seed"], iterations=settings["iterations"] - 1,
      policy_init=settings["init"], target_equilibrium=concept,
      train_meta_solver="nes_jax_train", eval_meta_solver="nes_jax_eval", ignore_repeats=True,
      callback=check,
  )
  row["seconds"] = time.perf_counter() - began - paused
  times = [meter.seconds for meter in meters.values()]
  row["solver_worst"] = max(max(seconds[1:]) for seconds in times)
  row["solver_seconds"] = sum(map(sum, times))
  ours = [meter for role, meter in meters.items() if is_ours(settings[role])]
  row["uncertified"] = sum(meter.uncertified for meter in ours) if ours else None
  return row


def measure(
    run: Settings,
    *,
    check_stop: Callable[[], None] = lambda: None,
    say: Callable[[str], Any] = print,
) -> dict[str, float]:
  """Makes all runs that are not there yet.

  Returns:
    "runs", their number; "uncertified", the number of meta-games that nes_jax did not solve to its
    tolerance.

  Raises:
    UsageError: a meta-solver is unknown, or the directory has rows of another version.
    ImportError: OpenSpiel or a package that it needs is not installed.
  """
  if run.normal_form:
    return time_seeds(run, check_stop=check_stop)
  try:
    from open_spiel.python.algorithms import jpsro
    from open_spiel.python.examples.jpsro import get_game
    import pyspiel
  except ImportError as error:
    raise ImportError(f'{error}: run `pip install -e ".[interop,baselines]"`') from error
  for name in itertools.chain(*(pair.split("+") for pair in run.pairs)):
    _check_solver(name, jpsro.FLAG_TO_FUNC)
  run.out.mkdir(parents=True, exist_ok=True)
  path = run.out / "jpsro.csv"
  rows = tables.read_csv(path, COLUMNS, SETTINGS)
  wanted = _wanted(run)
  table = []
  with progress.bar(len(wanted), unit="run") as bar:
    for settings in wanted:
      check_stop()
      key = tuple(str(value) for value in settings.values())
      if key not in rows:
        row = run_one(jpsro, pyspiel, get_game(settings["game"]), settings)
        texts = {name: tables.text(row[name]) for name in COLUMNS if name in row}
        rows[key] = dict(zip(SETTINGS, key)) | texts
        tables.write_csv(path, COLUMNS, rows.values())
      table.append({name: rows[key][name] for name in COLUMNS})
      bar.update(1)
  text = f"# JPSRO\n{_EXPLANATION}\n{tables.markdown(table)}\n\n{tables.markdown(medians(table))}\n"
  (run.out / "jpsro.md").write_text(text)
  say(f"{path.with_suffix('.md')} is written")
  counts = [row["uncertified"] for row in table]
  return {"runs": len(table), "uncertified": sum(int(x) for x in counts if x != "-")}


def time_seeds(run: Settings, check_stop: Callable[[], None] = lambda: None) -> dict[str, float]:
  """Times `nes_jax.psro.jpsro` on one 50x50 game of normal numbers, 20 iterations by default.

  Returns:
    "first" and "later", the times of 64 seeds over those of one seed: of the first call, which
    compiles, and the median of later calls.
  """
  run.out.mkdir(parents=True, exist_ok=True)
  iterations = run.iterations or 20
  payoffs = np.random.default_rng(0).normal(size=(2, 50, 50))
  psro.jpsro(payoffs[:, :2, :2], 1)  # starts JAX
  table = []
  for count in (1, 8, 64):
    check_stop()
    times = []
    for first in [0, *range(_REPEATS)]:  # seeds differ in the size of their meta-games
      began = time.perf_counter()
      result = psro.jpsro(payoffs, iterations, seeds=range(first, first + count))
      times.append(time.perf_counter() - began)
    table.append({
        "seeds": count,
        "first call, s": times[0],
        "later calls, ms": 1e3 * statistics.median(times[1:]),
        "final gap, median": float(np.median(result.gap[:, -1])),
        "final gap, worst": float(result.gap[:, -1].max()),
        "uncertified": int((~result.converged).sum()),
    })
  (run.out / "seeds.md").write_text(f"# Seeds\n\n{tables.markdown(table)}\n")
  one, many = table[0], table[-1]
  names = {"first": "first call, s", "later": "later calls, ms"}
  return {short: float(many[name]) / float(one[name]) for short, name in names.items()}


def medians(table: Sequence[Row]) -> list[Row]:
  """Medians over the seeds of the runs that share all other settings."""

  def key(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in SETTINGS if name != "seed")

  groups: dict[tuple[str, ...], list[Row]] = {}
  for row in table:
    groups.setdefault(key(row), []).append(row)
  result = []
  for values, rows in groups.items():
    summary: Row = dict(zip([name for name in SETTINGS if name != "seed"], values))
    summary["seeds"] = len(rows)
    for name in ("train_gap", "eval_gap", "value", "solver_worst", "solver_seconds", "seconds"):
      summary[name] = statistics.median(float(row[name]) for row in rows)
    for name in ("train_gap", "eval_gap"):
      summary[f"worst {name}"] = max(float(row[name]) for row in rows)
    result.append(summary)
  return result


def _wanted(run: Settings) -> list[dict[str, Any]]:
  """The settings of all runs."""
  wanted = []
  for game, pair in itertools.product(run.games, run.pairs):
    train, evaluation = pair.split("+")
    ours = is_ours(train) or is_ours(evaluation)
    count = run.seeds if ours else run.other_seeds
    iterations = run.iterations or GAMES[game]
    wanted += [
        dict(zip(SETTINGS, (game, iterations, run.init, train, evaluation, seed)))
        for seed in range(1, count + 1)
    ]
  return wanted


def _check_solver(name: str, known: Any) -> None:
  """Raises UsageError for a meta-solver that neither package has."""
  if not is_ours(name):
    if name not in known:
      raise UsageError(f"--pairs: OpenSpiel has no meta-solver {name!r}: it has {sorted(known)}")
    return
  selection, _, concept = name.rpartition("_")
  try:
    psro.meta_solver(concept, selection)  # type: ignore[arg-type]
  except ValueError as error:
    raise UsageError(f"--pairs: {name!r}: {error}") from None


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit code."""
  return program.main(
      argv, name="jpsro", doc=__doc__, define=[_SECTION],
      prepare=lambda values: flags.build(values, _SECTION), work=measure,
  )


if __name__ == "__main__":
  sys.exit(main())
