"""Solves the empirical game of policies in the n-merchant market, with bootstrap intervals.

  python -m launch.market_game --merchants=5 --episodes=256 --resamples=1000 --out=out/market_game

The policies are fixed quotes (--quotes, each with --hedge), one that never trades, and one that is
trained by self-play, here or in an earlier run of market_train (--policy=DIRECTORY). Every profile
of these policies is played --episodes times with common random numbers; merchants of one supertype
are exchangeable. The mean rewards are a game, whose equilibrium is solved together with those of
all resamples.

The program prints a table: probabilities of the policies with the share of resamples that play
them, payoffs, regret and welfare, each with its interval, and the share of resamples that are not
certified. Then a deviator is trained in one seat of each supertype, while the others play the
equilibrium. Its mean gain lies within the interval of the regret, or is reported as a violation:
the policies are then too few for the regret to hold outside of their set.

Into --out go episodes.csv (one row for each episode of a profile, to be read by
nes_jax.empirical.from_csv), report.csv (the table), market_game.png, and the folder policy with the
checkpoints of the training. The same command, given again, continues the training where it was.
--plain compares intervals and times with a loop of NumPy and CVXPY (extra `baselines`).
"""

from collections.abc import Sequence
import sys

from calsheq_jax import policy, ppo
from envs import market
from launch.empirical.settings import Deviator, Equilibrium, Game, check
from launch.empirical.work import Task, run
from launch.runtime import flags, loop, program
from launch.training.market_run import Plan, ProfileNumbers, Run

_GAME = flags.Section("Game", Game)
_EQUILIBRIUM = flags.Section("Equilibrium", Equilibrium)
_DEVIATOR = flags.Section("Deviators", Deviator)
_PLAN = flags.Section(
    "Training of the policy",
    Plan,
    only=("seed", "updates", "episodes", "last_rate", "last_exploration"),
    names={"episodes": "train_episodes"},
    help={"seed": "Seed of the training."},
)
_MARKET = flags.Section(
    "Market",
    market.Config,
    only=(
        "num_merchants", "clusters", "customers", "horizon", "volatility", "penalty", "process",
    ),
    names={"num_merchants": "merchants"},
)
_PROFILE = flags.Section("Supertype profile", ProfileNumbers)
_NETWORK = flags.Section("Network", policy.Config)
_LEARNING = flags.Section("Learning (PPO)", ppo.Config, aliases={"gae_lambda": "trace"})

SECTIONS = (
    _GAME, _EQUILIBRIUM, _DEVIATOR, _PLAN, _MARKET, _PROFILE, _NETWORK, _LEARNING
)

# Number of updates between two rows of metrics of the training.
_REPORT_EVERY = 20
# Number of updates between two checkpoints of the training.
_SAVE_EVERY = 200


def _task(values: flags.Values) -> Task:
  game = flags.build(values, _GAME)
  config = flags.build(values, _MARKET)
  check(game, config.num_merchants)
  plan = flags.build(values, _PLAN, seeds=1, certify_every=_SAVE_EVERY, figures=False)
  training = Run(
      env=market.Market(config),
      profile=flags.build(values, _PROFILE).numbers(config.clusters),
      network=flags.build(values, _NETWORK),
      learning=flags.build(values, _LEARNING),
      plan=plan,
      options=loop.Options(
          out=game.out / "policy", report_every=_REPORT_EVERY, save_every=_SAVE_EVERY
      ),
  )
  return Task(game, flags.build(values, _EQUILIBRIUM), flags.build(values, _DEVIATOR), training)


def task_of(argv: Sequence[str]) -> Task:
  """The task that a command line gives. Raises UsageError."""
  return _task(program.parse(argv, SECTIONS))


def main(argv: Sequence[str] | None = None) -> int:
  """The program; returns its exit code."""
  return program.main(
      argv, name="market_game", doc=__doc__, define=SECTIONS, prepare=_task, work=run
  )


if __name__ == "__main__":
  sys.exit(main())
