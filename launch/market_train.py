"""Trains merchants on one shared policy to a shared equilibrium of the n-merchant market.

  python -m launch.market_train --merchants=5 --seeds=5 --updates=800 --out=out/market

All seeds train side by side in one program. The program writes into --out: checkpoints,
metrics.csv, metrics.jsonl (TensorBoard's events with --tensorboard), summary.json and pictures. It
prints the certificate: the gain of the best deviation found, which is a lower bound on the epsilon
of the equilibrium. The same command, given again, continues where the run was; SIGTERM and SIGINT
save first.

The profile is given by a few numbers, the same for all clusters (--connection, --tolerance,
--variance, and --connection1, --tolerance1 where supertype 1 differs), or by --profile=FILE.json,
a list of numbers in the order of the market's profile_names.

Metrics are means over seeds; a metric ..._sd is the standard deviation over seeds.

  train/supertype_1/reward  undiscounted reward of an agent's episode, in half-spreads times volume
  train/...                 metrics that `ppo.update` reports
  eval/supertype_1/reward   the same reward on held-out episodes
  eval/supertype_1/share    share of the customers' quantity that all agents of the supertype trade
                            together; eval/facility/share is the facility's
  eval/supertype_1/inventory, hedged  mean size of the inventory, and of the quantity that goes to
                            the facility in a step, in units
  eval/supertype_1/bid, ask mean quotes, in half-spreads from the reference price
  eval/epsilon              gain of the best deviation found
  eval/epsilon_error        standard error of one seed's epsilon, root of the mean square over seeds
  eval/value                an agent's mean reward
  eval/relative_epsilon     a seed's epsilon divided by its value; it is absent if nobody earns
"""

from collections.abc import Sequence
import sys

from calsheq_jax import policy, ppo
from envs import market
from launch.runtime import flags, loop, program
from launch.training.market import train
from launch.training.market_run import Plan, ProfileNumbers, Run

_OPTIONS = flags.Section(
    "Run",
    loop.Options,
    defaults={"report_every": 10, "save_every": 100},
    help={
        "save_every": "Number of updates between two evaluations, each with a checkpoint; it is a"
        " multiple of --report_every."
    },
)
_PLAN = flags.Section("Training and evaluation", Plan)
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

SECTIONS = (_OPTIONS, _PLAN, _MARKET, _PROFILE, _NETWORK, _LEARNING)


def _run(values: flags.Values) -> Run:
  options = flags.build(values, _OPTIONS)
  config = flags.build(values, _MARKET)
  return Run(
      env=market.Market(config),
      profile=flags.build(values, _PROFILE).numbers(config.clusters),
      network=flags.build(values, _NETWORK),
      learning=flags.build(values, _LEARNING),
      plan=flags.build(values, _PLAN),
      options=options,
  )


def run_of(argv: Sequence[str]) -> Run:
  """The run that a command line gives. Raises UsageError."""
  return _run(program.parse(argv, SECTIONS))


def main(argv: Sequence[str] | None = None) -> int:
  """The program; returns its exit code."""
  return program.main(
      argv, name="market_train", doc=__doc__, define=SECTIONS, prepare=_run, work=train
  )


if __name__ == "__main__":
  sys.exit(main())
