"""Calibrates the shared equilibrium of many agents to targets: CALSHEQ and its baselines.

  python -m launch.calsheq_train --experiment=1 --method=calsheq --seeds=5 --stages=400 --out=out/1

All seeds run side by side in one program. A stage plays --episodes episodes and updates the shared
policy once, whatever the method is. CALSHEQ moves the profile in every stage. With --starts=R, R of
it run for --trial stages, and the best one goes on. The searchers bo, cmaes and random hold a
profile for --hold stages, score it by the last of these stages, and hold the best profile of all at
the end.

At the end the profile rests for --rest updates of the shared policy, so that the result is a
profile with an equilibrium of its own. CALSHEQ lets three candidates rest, and takes the one that
held-out episodes show to be the best: eval/candidate 0 is the last policy at the place where the
calibrator leads now, 1 is the last policy at the average place of the last stages, and 2 is the
best pair of the run's checks. If rest costs more than --rest_margin of the reward, the best of them
before its rest is taken, which are numbers 3 to 5. `calsheq_jax.pairs` says why. A finished run
rests and is judged anew if the same command is given with another --rest.

The program writes into --out: checkpoints, metrics.csv, metrics.jsonl (TensorBoard's events with
--tensorboard), summary.json and pictures. The same command, given again, continues where the run
was; SIGTERM and SIGINT save first. `python -m launch.calsheq_report` compares several runs.

Metrics are means over seeds; a metric ..._sd is the standard deviation over seeds, and seed_0/...
is the metric of the first seed.

In training, as means over the stages of a row:
  train/reward               the calibrator's reward, 1 for a perfect fit
  train/supertype_1/reward   an agent's undiscounted reward of an episode
  lowest/supertype_1/reward  the least of these rewards since the row before
  target/NAME                a number that a target is about
  profile/NAME               a number that is calibrated, in the last stage
  variation                  distance that the mean of the episodes' profiles has moved in a stage,
                             in widths of its box
  increment                  the same distance for the profile of a single episode, which includes
                             exploration

On held-out episodes, without exploration, at the place where the calibrator leads now:
  judged/reward              mean of the episodes' rewards
  judged/reward_of_means     reward of the mean over episodes
  judged/target/NAME         mean of a number that a target is about

At the end:
  eval/epsilon               gain of the best deviation found over the shared policy
"""

from collections.abc import Sequence
import sys

from calsheq_jax import calsheq
from launch.runtime import flags, loop, program
from launch.training.calibration import train
from launch.training.calibration_run import Plan, Run

_DEFAULT = calsheq.Config()

_OPTIONS = flags.Section(
    "Run",
    loop.Options,
    defaults={"report_every": 10, "save_every": 50, "keep": 2},
    help={
        "report_every": "Number of stages between two rows of metrics.",
        "save_every": "Number of stages between two checkpoints.",
        "keep": "Number of recent checkpoints that are kept.",
    },
)
_PLAN = flags.Section("Experiment and evaluation", Plan)
_STAGES = flags.Section(
    "Stages",
    _DEFAULT,
    only=("episodes", "wait", "starts", "trial", "rest", "last_rest", "rest_margin"),
)
_NETWORK = flags.Section("Shared policy", _DEFAULT.network, only=("hidden",))
_CALIBRATOR = flags.Section(
    "Calibrator",
    _DEFAULT.calibrator,
    only=("hidden", "pull", "exploration", "least_exploration"),
    names={"hidden": "calibrator_hidden"},
)
_EXPLORATION = flags.Section(
    "Calibrator's exploration",
    _DEFAULT.calibrator.exploration_rate,
    prefix="exploration_",
    help={
        "power": "Power with which the standard deviation of the calibrator's increments falls; 0"
        " keeps it constant.",
        "delay": "Number of stages after which it has fallen to 2^-power of its first value.",
    },
)


def _learning(learner: str, whose: str, source) -> flags.Section:
  """The flags of a learner's PPO."""
  return flags.Section(
      f"Learning of the {whose}",
      source,
      only=("learning_rate", "kl_target", "epochs", "minibatches"),
      prefix=f"{learner}_",
      names={"learning_rate": f"{learner}_rate", "kl_target": f"{learner}_kl"},
      help={
          "learning_rate": f"Learning rate of the {whose} in the first stage.",
          "kl_target": f"Mean KL divergence of an update of the {whose}, in nats, to which the"
          " weight of the KL penalty is adapted.",
          "epochs": f"Number of passes over the episodes of a stage in an update of the {whose}.",
          "minibatches": f"Number of minibatches in one pass of the {whose}.",
      },
  )


def _rate(learner: str, whose: str, source) -> flags.Section:
  """The flags of the schedule of a learner's learning rate."""
  return flags.Section(
      f"Learning rate of the {whose}",
      source,
      prefix=f"{learner}_",
      help={
          "power": f"Power with which the learning rate of the {whose} falls; 0 keeps it constant.",
          "delay": f"Number of stages after which the learning rate of the {whose} has fallen to"
          " 2^-power of its first value.",
      },
  )


_SHARED = _learning("shared", "shared policy", _DEFAULT.shared)
_SHARED_RATE = _rate("shared", "shared policy", _DEFAULT.shared_rate)
_LEARNING = _learning("calibrator", "calibrator", _DEFAULT.calibrator.learning)
_LEARNING_RATE = _rate("calibrator", "calibrator", _DEFAULT.calibrator_rate)

SECTIONS = (
    _OPTIONS, _PLAN, _STAGES, _NETWORK, _SHARED, _SHARED_RATE, _CALIBRATOR, _EXPLORATION, _LEARNING,
    _LEARNING_RATE,
)


def _run(values: flags.Values) -> Run:
  options = flags.build(values, _OPTIONS)
  plan = flags.build(values, _PLAN)
  config = flags.build(
      values,
      _STAGES,
      network=flags.build(values, _NETWORK),
      shared=flags.build(values, _SHARED),
      shared_rate=flags.build(values, _SHARED_RATE),
      calibrator=flags.build(
          values,
          _CALIBRATOR,
          exploration_rate=flags.build(values, _EXPLORATION),
          learning=flags.build(values, _LEARNING),
      ),
      calibrator_rate=flags.build(values, _LEARNING_RATE),
  )
  return Run(plan.chosen(), plan, config, options)


def run_of(argv: Sequence[str]) -> Run:
  """The run that a command line gives. Raises UsageError."""
  return _run(program.parse(argv, SECTIONS))


def main(argv: Sequence[str] | None = None) -> int:
  """The program; returns its exit code."""
  return program.main(
      argv, name="calsheq_train", doc=__doc__, define=SECTIONS, prepare=_run, work=train
  )


if __name__ == "__main__":
  sys.exit(main())
