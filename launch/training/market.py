"""The work of `launch.market_train`: a shared policy for the n-merchant market.

Glossary: S seeds, which train side by side; n merchants.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from calsheq_jax import minibatches, policy, ppo, rollout, self_play, shared_game
from launch.runtime import loop, parallel, writers
from launch.runtime.flags import UsageError
from launch.training import market_summary
from launch.training.market_run import Run, profile_of

# Seed of the held-out episodes.
_HELD_OUT_SEED = 2**31 - 1


# Compiled functions, cached by their arguments: a run that continues compiles nothing twice.


@functools.cache
def _trainer(env, net, learning, episodes, count, mesh):
  """(states [S], keys [S], profile, rates [count], explorations [count]) -> states, metrics."""
  each = parallel.per_device_batch(episodes, mesh)

  def chunk(states, keys, profile, rates, explorations):
    profiles = rollout.repeated(profile, each)

    def update(state, key, rate, exploration):
      return self_play.update(
          state, key, env, net, learning, profiles, rate, exploration, parallel.AXIS
      )

    def step(states, schedules):
      return jax.vmap(update, (0, 0, None, None))(states, keys, *schedules)

    states, metrics = jax.lax.scan(step, states, (rates, explorations))
    return states, jax.tree.map(lambda x: x.mean(0), metrics)

  replicated = (parallel.REPLICATED,) * 5
  return parallel.spmd(chunk, mesh, replicated, parallel.REPLICATED, donate=(0,))


@functools.cache
def _certifier(env, net, learning, updates, episodes, judge_episodes, mesh):
  """(agents [S], keys [S], profile) -> certificates [S]."""
  each = parallel.per_device_batch(episodes, mesh)

  def certify(agent, key, profile):
    return shared_game.certify(
        env, net, agent, key, profile, learning,
        updates=updates, episodes=each, judge_episodes=judge_episodes, axis_name=parallel.AXIS,
    )

  def all_seeds(agents, keys, profile):
    return jax.lax.map(lambda x: certify(*x, profile), (agents, keys))

  replicated = (parallel.REPLICATED,) * 3
  return parallel.spmd(all_seeds, mesh, replicated, parallel.REPLICATED)


@functools.cache
def _player(env, net, episodes):
  """(agents [S], key, profile) -> records of held-out episodes, leading axis [S]."""

  def watch(state, info):
    return {
        **{name: info[name] for name in ("price", "bid", "ask")},
        "inventory": state.inventory,
        "rewards": state.rewards,
    }

  def play(agent, key, profile):
    played = rollout.collect(
        env, net, agent, key, rollout.repeated(profile, episodes), watch=watch
    )
    mean = net.distribution(played.trajectory.parameters).mean()
    before = played.trajectory.observation[..., env.observation_names.index("inventory")]
    return {
        **played.watched,
        "mean_action": jnp.clip(mean, *env.action_space),
        "inventory_before": before,
        "outputs": jax.vmap(env.outputs)(played.states),
    }

  return jax.jit(jax.vmap(play, (0, None, None)))


# Training.


class MarketTraining(loop.Training):
  """Self-play of S policies; its state is a `ppo.State` with leading axis [S]."""

  metric: ClassVar[str | None] = "eval/relative_epsilon"
  old_names = ppo.FORMER_NAMES

  def __init__(self, run: Run):
    """Prepares the training.

    Raises:
      UsageError: the profile is wrong, or episodes do not divide over devices and minibatches.
    """
    plan = run.plan
    self.total = plan.updates
    self.shown = [f"train/{name}/reward" for name in run.groups]
    self.shown += [self.metric] if self.metric else []
    # Certificate of the last evaluation that had one.
    self.certificate: shared_game.Certificate | None = None
    self._run, self._mesh = run, parallel.mesh()
    self._check_batches()
    profile = profile_of(run.env, run.profile)
    self._net = policy.for_environment(run.env, run.network)
    seeds = jax.vmap(jax.random.key)(plan.seed + jnp.arange(plan.seeds))
    self._init_keys, *keys = (
        jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(seeds) for i in range(3)
    )
    self._update_keys, self._judge_keys, self._profile = parallel.replicate(
        (*keys, profile), self._mesh
    )

  def _check_batches(self) -> None:
    run = self._run
    for flag, steps in (
        ("episodes", run.env.horizon * run.env.num_agents),
        ("response_episodes", run.env.horizon),
    ):
      try:
        here = parallel.per_device_batch(getattr(run.plan, flag), self._mesh)
        minibatches.check_batch(steps, here, run.learning.minibatches)
      except ValueError as error:
        raise UsageError(f"--{flag}: {error}") from error

  def metadata(self) -> dict[str, Any]:
    return {"settings": self._run.settings()}

  def init(self) -> ppo.State:
    make = jax.jit(jax.vmap(lambda key: ppo.init(key, self._net, self._run.learning)))
    return make(self._init_keys)

  def describe(self, state: ppo.State, done: int) -> Sequence[str]:
    plan = self._run.plan
    size = sum(x.size for x in jax.tree.leaves(state.agent.params)) // plan.seeds
    return [
        f"{self._run.env.num_agents} merchants, {plan.seeds} seed(s), {size} parameters;"
        f" updates {done} to {plan.updates} of {plan.episodes} episodes"
    ]

  def place(self, state: ppo.State) -> ppo.State:
    return parallel.replicate(state, self._mesh)

  def advance(self, state: ppo.State, done: int) -> tuple[ppo.State, int, loop.Row]:
    run, plan = self._run, self._run.plan
    count = min(run.options.report_every, self.total - done)
    chunk = _trainer(run.env, self._net, run.learning, plan.episodes, count, self._mesh)
    progress = (done + np.arange(count)) / max(self.total - 1, 1)
    factors = parallel.replicate(
        tuple(
            jnp.asarray(1 - (1 - last) * progress, jnp.float32)
            for last in (plan.last_rate, plan.last_exploration)
        ),
        self._mesh,
    )
    state, metrics = chunk(state, self._update_keys, self._profile, *factors)
    metrics = parallel.gather(metrics)
    rewards = metrics.pop("reward")  # [S, n]
    row = {f"train/{name}": x.mean() for name, x in metrics.items()}
    for name, who in run.groups.items():
      row |= writers.over_seeds(f"train/{name}/reward", rewards[:, who].mean(-1))
    return state, done + count, row

  def evaluate(self, state: ppo.State) -> loop.Row:
    run = self._run
    report = market_summary.shown_row(run.env, self.play(state), run.groups)
    step = int(np.asarray(state.step)[0])
    if step >= self.total or step % run.plan.certify_every == 0:
      self.certificate = self._certify(state)
      report |= market_summary.certificate_row(self.certificate)
    return report

  def play(self, state: ppo.State) -> dict[str, Any]:
    """Plays held-out episodes, and returns their records with leading axis [S]."""
    agents = jax.tree.map(jnp.asarray, parallel.gather(state.agent))
    play = _player(self._run.env, self._net, self._run.plan.judge_episodes)
    key = jax.random.key(_HELD_OUT_SEED)
    return jax.tree.map(np.asarray, play(agents, key, parallel.gather(self._profile)))

  def _certify(self, state: ppo.State) -> shared_game.Certificate:
    """Certificates of all policies, [S]."""
    run, plan = self._run, self._run.plan
    judge = _certifier(
        run.env, self._net, run.learning, plan.response_updates, plan.response_episodes,
        plan.judge_episodes, self._mesh,
    )
    return parallel.gather(judge(state.agent, self._judge_keys, self._profile))


def train(
    run: Run,
    *,
    check_stop: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = print,
) -> Mapping[str, float]:
  """Trains to the end of the run, from the last checkpoint in the run's directory if there is one.

  Returns:
    The last evaluation, with means over seeds.

  Raises:
    UsageError: the directory holds another run, or episodes do not divide over the devices.
    stopping.Stopped: raised by check_stop; the state is saved.
  """
  training = MarketTraining(run)
  state, report = loop.run(training, run.options, check_stop=check_stop, say=say)
  report = report or training.evaluate(state)
  assert training.certificate is not None  # the last evaluation makes it
  market_summary.say_certificate(training.certificate, say)
  if parallel.is_main():
    market_summary.write(run, training.certificate, report)
    if run.plan.figures:
      market_summary.draw(run, training.play(state), say)
  return report
