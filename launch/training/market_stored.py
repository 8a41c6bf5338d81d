"""Policies of runs of `launch.market_train`: training without certificates, and loading."""

import pathlib

import jax
import jax.numpy as jnp

from calsheq_jax import policy, ppo
from calsheq_jax.types import Agent
from envs.market import Market
from launch.runtime import checkpoint, loop
from launch.runtime.flags import UsageError
from launch.training import market_summary
from launch.training.market import MarketTraining


class PolicyTraining(MarketTraining):
  """Self-play that trains no deviators; its evaluations show rewards and market shares."""

  metric = None

  def evaluate(self, state: ppo.State) -> loop.Row:
    return market_summary.shown_row(self._run.env, self.play(state), self._run.groups)


def stored_agent(
    directory: pathlib.Path, env: Market, seed: int = 0
) -> tuple[policy.ActorCritic, Agent, ppo.Config]:
  """The policy of the last checkpoint of a run.

  Args:
    directory: of the run.
    env: the market in which the policy will act.
    seed: which of the run's policies, counted from 0.

  Returns:
    The policy, its agent, and the settings of its learning.

  Raises:
    UsageError: the directory has no checkpoint of such a run, or its policy observes something
      else than this market shows.
    CheckpointError: the checkpoint is damaged.
  """
  path = checkpoint.latest(directory)
  if path is None:
    raise UsageError(f"{directory} holds no checkpoint: give the --out of a run of market_train")
  config = checkpoint.load_metadata(path)["config"]
  try:
    settings = loop.renamed(config["settings"], ppo.FORMER_NAMES)
    network = policy.Config(**{name: settings[name] for name in policy.Config().to_dict()})
    learning = ppo.Config(**{name: settings[name] for name in ppo.Config().to_dict()})
    seeds, clusters = settings["seeds"], settings["clusters"]
  except (KeyError, TypeError) as error:
    raise UsageError(
        f"{path} has no {error} among its settings: give the --out of a run of market_train"
    ) from error
  if clusters != env.config.clusters:
    raise UsageError(
        f"{directory} has a policy for {clusters} clusters, and --clusters={env.config.clusters}"
    )
  if not 0 <= seed < seeds:
    raise UsageError(f"{directory} has {seeds} policies, and number {seed} is asked for")
  net = policy.for_environment(env, network)
  keys = jax.random.split(jax.random.key(0), seeds)
  like = jax.eval_shape(jax.vmap(lambda key: ppo.init(key, net, learning)), keys)
  state = checkpoint.restore(path, like)
  return net, jax.tree.map(lambda x: jnp.asarray(x[seed]), state.agent), learning
