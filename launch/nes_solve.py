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
import sys
from typing import Any

from launch.runtime import flags, parallel, program, store
from launch.solving.report import summary
from launch.solving.settings import Config, check
from launch.solving.work import run
from nes_jax.games import files

SECTIONS = (
    flags.Section(
        "Games and answers",
        Config,
        only=("games", "batched", "out", "overwrite", "part_size"),
        defaults={"games": None, "out": None},  # `check` says what to do without them
    ),
    flags.Section(
        "Equilibrium",
        Config,
        only=(
            "concept", "selection", "target", "welfare", "welfare_weight", "epsilon", "rho",
        ),
    ),
    flags.Section(
        "Computation", Config, only=("method", "precision", "tolerance", "max_iterations")
    ),
)


def _config(values: flags.Values) -> Config:
  fields: dict[str, Any] = {}
  for section in SECTIONS:
    fields |= flags.read(values, section)
  config = Config(**fields)
  check(config)
  return config


def config_of(argv: Sequence[str]) -> Config:
  """The options that a command line gives. Raises UsageError."""
  return _config(program.parse(argv, SECTIONS))


def _work(
    config: Config, *, check_stop: Callable[[], None], say: Callable[[str], None]
) -> Mapping[str, float]:
  report, names = run(config, check_stop=check_stop, say=say)
  if parallel.is_main():
    print(summary(report, names))
  return {}


def main(argv: Sequence[str] | None = None) -> int:
  """The program; returns its exit code."""
  return program.main(
      argv,
      name="nes_solve",
      doc=__doc__,
      define=SECTIONS,
      prepare=_config,
      work=_work,
      faults=(files.GameFileError, store.StoreError),
  )


if __name__ == "__main__":
  sys.exit(main())
