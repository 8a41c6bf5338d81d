"""Runs the experiments of Vadori et al. (2020), and draws their figures and the table of results.

  python -m launch.calsheq_paper --out=out/paper
  python -m launch.calsheq_paper --out=out/paper --methods=calsheq,bo,cmaes,random
  python -m launch.calsheq_paper --out=out/recover --experiments=recover --seeds=10 --starts=3

For each experiment and method it does what calsheq_train does, one run after another, with all
seeds of a run side by side. It writes into --out:

  EXPERIMENT/METHOD/            what calsheq_train writes, without the pictures
  figures/rewards.png           Figure 1: rewards of the calibrator and of each supertype
  figures/targets_NAME.png      Figure 2 for experiment NAME: the outputs and their targets
  figures/profile_NAME.png      Figure 3 for experiment NAME: each number of the profile
  figures/table.md              a row for each run

The same command, given again, continues: finished runs are kept, and the run that was interrupted
goes on from its last checkpoint. SIGTERM and SIGINT save first. Further methods and experiments can
be added to the same --out later.

With --ceiling, Figure 1 and the table compare each run with the best reward that
`python -m launch.checks.ceiling` found for its experiment.
"""

from collections.abc import Sequence
import sys

from calsheq_jax import calsheq
from launch.runtime import flags, loop, program
from launch.training import paper
from launch.training.calibration_run import Plan

_SUITE = flags.Section("Runs", paper.Suite)
_OPTIONS = flags.Section(
    "Each run",
    loop.Options,
    skip=("out",),
    defaults={"report_every": 10, "save_every": 50, "keep": 2},
    help={
        "report_every": "Number of stages between two rows of metrics.",
        "save_every": "Number of stages between two checkpoints.",
        "keep": "Number of recent checkpoints that are kept.",
    },
)
_PLAN = flags.Section(
    "Evaluation of each run", Plan, skip=("experiment", "method", "figures"), defaults={"seeds": 5}
)
_STAGES = flags.Section(
    "Stages",
    calsheq.Config(),
    only=("episodes", "starts", "trial", "rest", "last_rest", "rest_margin"),
)

SECTIONS = (_SUITE, _OPTIONS, _PLAN, _STAGES)


def _task(values: flags.Values) -> paper.Task:
  suite = flags.build(values, _SUITE)
  return paper.task(
      suite,
      flags.build(values, _PLAN),
      flags.build(values, _STAGES),
      flags.build(values, _OPTIONS, out=suite.out),
  )


def main(argv: Sequence[str] | None = None) -> int:
  """The program; returns its exit code."""
  return program.main(
      argv, name="calsheq_paper", doc=__doc__, define=SECTIONS, prepare=_task, work=paper.train
  )


if __name__ == "__main__":
  sys.exit(main())
