"""Trains merchants on one shared policy to a shared equilibrium of the n-merchant market.

  python -m launch.market_train --merchants=5 --seeds=5 --updates=800 --out=out/market

All seeds train side by side in one program. Writes into --out: checkpoints, metrics.csv,
metrics.jsonl (TensorBoard's events with --tensorboard), summary.json and pictures; prints the
certificate: what the best deviation found still gains, a lower bound on the epsilon of the
equilibrium. The same command, given again, continues where it was; SIGTERM and SIGINT save first.

The profile is given by a few numbers, the same for all clusters (--connection, --tolerance,
--variance, and --connection1, --tolerance1 where supertype 1 differs), or by --profile=FILE.json,
a list of numbers in the order of the market's profile_names.

Metrics, means over seeds (..._sd: standard deviation over seeds): train/supertype_1/reward, of an
agent's episode, undiscounted, in half-spreads times volume, and what `ppo.update` reports;
eval/supertype_1/... on held-out episodes: reward, share of the customers' quantity (of all agents
of the supertype together; eval/facility/share is the facility's), inventory (mean size, in units),
hedged (what is sent to the facility, likewise), quotes (bid and ask, in half-spreads from the
reference price); eval/epsilon, eval/epsilon_error (standard error of a seed, root of the mean
square over seeds), eval/value (an agent's mean reward), eval/relative_epsilon (a seed's epsilon
over its value; absent where nobody earns).
"""

import dataclasses
import functools
import json
import pathlib
import sys
from typing import Any

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from calsheq_jax import distributions, minibatches, policy, ppo, rollout, self_play, shared_game
from envs import market
from launch.runtime import checkpoint, loop, parallel, program, writers
from launch.runtime.program import UsageError

# Keys of what is not training.
_HELD_OUT_SEED = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Run:
  """A run of the program."""

  env: market.Market
  profile: tuple[float, ...]  # in the order of env.profile_names
  network: policy.Config
  learning: ppo.Config
  out: pathlib.Path
  seed: int = 0  # of the first; the others follow
  seeds: int = 5
  updates: int = 800
  episodes: int = 32  # B of an update, over all devices
  last_rate: float = 0.3  # learning rate at the end, of that at the start; linear in between
  last_exploration: float = 0.0  # the same for the weight of the entropy
  report_every: int = 10  # updates between rows of metrics
  patience: int = loop.PATIENCE
  save_every: int = 100  # updates between evaluations and checkpoints
  certify_every: int = 200  # updates between certificates; there is one at the end
  response_updates: int = 240  # of a deviator
  response_episodes: int = 64  # of an update of its, over all devices
  judge_episodes: int = 256  # in which deviations are judged, and others held out
  keep: int = 3
  tensorboard: bool = False
  figures: bool = True

  def settings(self) -> dict[str, Any]:
    """What makes a run that run, flat, for JSON."""
    own = ("seed", "seeds", "updates", "episodes", "last_rate", "last_exploration")
    return {
        **dataclasses.asdict(self.env.config),
        **self.network.to_dict(),
        **self.learning.to_dict(),
        **{name: getattr(self, name) for name in own},
        "profile": list(self.profile),
    }


# Programs. Cached by what they are made from: a run that is continued compiles nothing twice.


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
  """(agents [S], key, profile) -> what held-out episodes show, leading axis [S]."""

  def play(agent, key, profile):
    watch = lambda state, info: {
        **{name: info[name] for name in ("price", "bid", "ask")},
        "inventory": state.inventory,
        "rewards": state.rewards,
    }
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


def profile_of(env: market.Market, numbers: tuple[float, ...]) -> market.Profile:
  """A profile from its numbers, in the order of env.profile_names.

  Raises:
    UsageError: another number of them, or one is out of its bounds.
  """
  low, high = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(bound)])
               for bound in env.profile_space)
  if len(numbers) != len(low):
    raise UsageError(f"the profile has {len(numbers)} numbers; {len(low)} are expected, in the"
                     f" order {', '.join(env.profile_names)}")
  for name, value, least, most in zip(env.profile_names, numbers, low, high):
    if not least <= value <= most:
      raise UsageError(f"{name}={value} of the profile must lie between {least:g} and {most:g}")
  leaves, structure = jax.tree.flatten(env.profile())
  parts, start = [], 0
  for leaf in leaves:
    values = np.array(numbers[start : start + leaf.size], np.float32).reshape(leaf.shape)
    parts.append(jnp.asarray(values))
    start += leaf.size
  return jax.tree.unflatten(structure, parts)


def train(run: Run, *, check_stop=lambda: None, say=print) -> dict[str, float]:
  """Trains to the end of the run, from the last checkpoint in run.out if there is one.

  Returns:
    The certificate, and other means over seeds, for the console.

  Raises:
    UsageError: run.out holds another run, or episodes do not divide over the devices.
    stopping.Stopped: asked to stop; the state is saved.
  """
  env, learning, mesh = run.env, run.learning, parallel.mesh()
  _check_batches(run, mesh)
  profile = profile_of(env, run.profile)
  net = policy.for_environment(env, run.network)
  keys = jax.vmap(jax.random.key)(run.seed + jnp.arange(run.seeds))
  folded = lambda i: jax.vmap(lambda key: jax.random.fold_in(key, i))(keys)
  metadata = {"settings": run.settings()}
  states = jax.jit(jax.vmap(lambda key: ppo.init(key, net, learning)))(folded(0))
  last = checkpoint.latest(run.out)
  if last is not None:
    old = checkpoint.load_metadata(last)["config"]["settings"]
    loop.check_same(run.out, old, metadata["settings"])
    states = checkpoint.restore(last, states)
  done = int(np.asarray(states.step)[0])
  size = sum(x.size for x in jax.tree.leaves(states.agent.params)) // run.seeds
  say(
      f"{env.num_agents} merchants, {run.seeds} seed(s), {size} parameters; updates {done} to"
      f" {run.updates} of {run.episodes} episodes"
  )
  if done >= run.updates:
    say(f"{run.out} is finished; a longer run needs another --out: schedules stretch to --updates")
  update_keys, judge_keys = folded(1), folded(2)
  held_out = jax.random.key(_HELD_OUT_SEED)
  states, update_keys, judge_keys, profile = parallel.replicate(
      (states, update_keys, judge_keys, profile), mesh
  )
  groups = {name: np.flatnonzero(np.array(env.supertypes) == i)
            for i, name in enumerate(env.supertype_names)}

  def advance(states, done):
    count = min(run.report_every, run.updates - done)
    chunk = _trainer(env, net, learning, run.episodes, count, mesh)
    progress = (done + np.arange(count)) / max(run.updates - 1, 1)
    falling = lambda last: jnp.asarray(1 - (1 - last) * progress, jnp.float32)
    schedules = parallel.replicate((falling(run.last_rate), falling(run.last_exploration)), mesh)
    states, metrics = chunk(states, update_keys, profile, *schedules)
    metrics = parallel.gather(metrics)
    rewards = metrics.pop("reward")  # [S, n]
    row = {f"train/{name}": x.mean() for name, x in metrics.items()}
    for name, who in groups.items():
      row |= writers.over_seeds(f"train/{name}/reward", rewards[:, who].mean(-1))
    return states, done + count, row

  def play(states):
    agents = jax.tree.map(jnp.asarray, parallel.gather(states.agent))
    shown = _player(env, net, run.judge_episodes)(agents, held_out, parallel.gather(profile))
    return jax.tree.map(np.asarray, shown)

  def certify(states):
    judge = _certifier(
        env, net, learning, run.response_updates, run.response_episodes, run.judge_episodes, mesh
    )
    return parallel.gather(judge(states.agent, judge_keys, profile))

  certified = {}

  def evaluate(states) -> dict[str, float]:
    report = _shown(env, play(states), groups)
    step = int(np.asarray(states.step)[0])
    if step >= run.updates or step % run.certify_every == 0:
      certified["last"] = certify(states)
      report |= _certificate_row(certified["last"])
    return report

  states, report = loop.run(
      states,
      run.out,
      done=done,
      total=run.updates,
      advance=advance,
      evaluate=evaluate,
      save_every=run.save_every,
      config=metadata,
      keep=run.keep,
      patience=run.patience,
      metric="eval/relative_epsilon",
      shown=[f"train/{name}/reward" for name in groups] + ["eval/relative_epsilon"],
      tensorboard=run.tensorboard,
      check_stop=check_stop,
  )
  if not report:  # finished before
    report = evaluate(states)
  say_certificate(certified["last"], say)
  if parallel.is_main():
    _write_summary(run, certified["last"], report)
    if run.figures:
      _draw(run, play(states), say)
  return report


def _check_batches(run: Run, mesh) -> None:
  for flag, steps in (
      ("episodes", run.env.horizon * run.env.num_agents),
      ("response_episodes", run.env.horizon),
  ):
    try:
      here = parallel.per_device_batch(getattr(run, flag), mesh)
      minibatches.check_batch(steps, here, run.learning.minibatches)
    except ValueError as error:
      raise UsageError(f"--{flag}: {error}") from error


def _shown(env, shown, groups) -> dict[str, float]:
  """Metrics of held-out episodes."""
  outputs, h = shown["outputs"], env.config.half_spread
  report = writers.over_seeds("eval/facility/share", outputs["facility_share"].mean(-1))
  for i, (name, who) in enumerate(groups.items()):
    mine = lambda x: x[..., who].mean(tuple(range(1, x.ndim)))  # [S, ..., n] -> [S]
    price = shown["price"][..., None]
    for what, values in (
        ("reward", outputs["supertype_rewards"][..., i].mean(-1)),
        ("share", outputs["supertype_share"][..., i].mean(-1)),
        ("inventory", mine(outputs["inventory"])),
        ("hedged", mine(outputs["hedged"])),
        ("ask", mine((shown["ask"] - price) / h)),
        ("bid", mine((shown["bid"] - price) / h)),
    ):
      report |= writers.over_seeds(f"eval/{name}/{what}", values)
  return report


def _certificate_row(certificate: shared_game.Certificate) -> dict[str, float]:
  epsilon, value = certificate.epsilon, certificate.value
  row = writers.over_seeds("eval/epsilon", epsilon.mean)
  row |= writers.over_seeds("eval/value", value.mean)
  row["eval/epsilon_error"] = float(np.sqrt((epsilon.error**2).mean()))
  if np.all(value.mean != 0):
    row |= writers.over_seeds("eval/relative_epsilon", epsilon.mean / np.abs(value.mean))
  return row


_DEVIATIONS = ("the policy", "a deviator half trained", "a deviator fully trained")


def deviation_name(chosen: int) -> str:
  """What `Certificate.chosen` is called here."""
  return _DEVIATIONS[chosen // 2] + (", its mean action" if chosen % 2 else "")


def say_certificate(certificate: shared_game.Certificate, say) -> None:
  """The certificate for people, a line a seed."""
  low, high = certificate.epsilon.interval()
  say("certificate: what the best deviation found gains over the policy, 95% intervals; a lower"
      " bound on epsilon")
  for i, chosen in enumerate(certificate.chosen):
    value, epsilon = certificate.value.mean[i], certificate.epsilon.mean[i]
    part = f": {100 * epsilon / abs(value):.2f}%" if value else ""
    say(
        f"  seed {i}: {epsilon:.4f} [{low[i]:.4f}, {high[i]:.4f}], of a mean reward of"
        f" {value:.4f}{part}; {deviation_name(int(chosen))}"
    )


def _write_summary(run: Run, certificate: shared_game.Certificate, report) -> None:
  low, high = certificate.epsilon.interval()
  seeds = [
      {
          "seed": run.seed + i,
          "epsilon": float(certificate.epsilon.mean[i]),
          "epsilon_interval": [float(low[i]), float(high[i])],
          "deviation": deviation_name(int(certificate.chosen[i])),
          "value": float(certificate.value.mean[i]),
          "rewards": certificate.rewards.mean[i].tolist(),
      }
      for i in range(run.seeds)
  ]
  summary = {"settings": run.settings(), "report": report, "seeds": seeds}
  writers.write_json(run.out / "summary.json", summary)


def _draw(run: Run, shown, say) -> None:
  try:
    from launch.figures import market as market_figures
  except ImportError as error:
    say(f"no pictures: {error}; install the `programs` extra")
    return
  market_figures.draw_training(
      run.out / "training.png", writers.read(run.out), run.env, run.seeds
  )
  market_figures.draw_policy(run.out / "policy.png", shown, run.env)
  market_figures.draw_episode(run.out / "episode.png", shown, run.env)
  say(f"wrote {run.out}/training.png, policy.png and episode.png")


# The program.


def _define_flags(values: flags.FlagValues) -> None:
  own: dict[str, Any] = {"flag_values": values}
  flags.DEFINE_string("out", None, "directory of the run", **own)
  world = market.Config()
  flags.DEFINE_integer("merchants", world.num_merchants, "n", **own)
  for name in ("clusters", "customers", "horizon"):
    flags.DEFINE_integer(name, getattr(world, name), "of the market", **own)
  for name in ("volatility", "penalty"):
    flags.DEFINE_float(name, getattr(world, name), "of the market", **own)
  flags.DEFINE_enum("process", world.process, market.PROCESSES, "of the price", **own)
  flags.DEFINE_float("connection", 0.3, "probability, of all clusters", **own)
  flags.DEFINE_float("connection1", None, "of supertype 1, where it differs", **own)
  flags.DEFINE_float("tolerance", 0.5, "to inventory", **own)
  flags.DEFINE_float("tolerance1", None, "of supertype 1, where it differs", **own)
  flags.DEFINE_float("variance", 0.01, "of supertype 2's tolerance", **own)
  flags.DEFINE_string("profile", None, "FILE.json in place of the five before", **own)
  net = policy.Config()
  flags.DEFINE_list("hidden", list(map(str, net.hidden)), "sizes of the tanh layers", **own)
  flags.DEFINE_enum("head", net.head, distributions.HEADS, "of the policy", **own)
  flags.DEFINE_bool("shared_torso", net.shared_torso, "one for policy and value", **own)
  flags.DEFINE_float("initial_scale", net.initial_scale, "of a Gaussian, in half-widths", **own)
  for field in dataclasses.fields(ppo.Config):
    define = {float: flags.DEFINE_float, int: flags.DEFINE_integer, bool: flags.DEFINE_bool}
    define[type(field.default)](field.name, _LEARNING[field.name], "of PPO", **own)
  flags.DEFINE_alias("trace", "gae_lambda", **own)
  run = {field.name: field.default for field in dataclasses.fields(Run)}
  for name, what in _RUN_FLAGS.items():
    define = flags.DEFINE_integer if isinstance(run[name], int) else flags.DEFINE_float
    define(name, run[name], what, **own)
  flags.DEFINE_bool("tensorboard", False, "write events for TensorBoard", **own)
  flags.DEFINE_bool("figures", True, "draw pictures at the end", **own)


# Defaults of this program.
_LEARNING = ppo.Config().to_dict()
_RUN_FLAGS = {
    "seed": "of the first; the others follow",
    "seeds": "side by side",
    "updates": "of the whole run; schedules stretch to it",
    "episodes": "of an update",
    "last_rate": "learning rate at the end, of that at the start",
    "last_exploration": "weight of the entropy at the end, of that at the start",
    "report_every": "updates between rows of metrics",
    "patience": loop.PATIENCE_MEANS,
    "save_every": "updates between evaluations and checkpoints",
    "certify_every": "updates between certificates",
    "response_updates": "of a deviator",
    "response_episodes": "of an update of a deviator",
    "judge_episodes": "held-out episodes",
    "keep": "checkpoints kept, beside the best",
}


def _run(v: flags.FlagValues) -> Run:
  if v.out is None:
    raise UsageError("--out=DIRECTORY is needed")
  try:
    env = market.Market(
        market.Config(
            num_merchants=v.merchants,
            clusters=v.clusters,
            customers=v.customers,
            horizon=v.horizon,
            volatility=v.volatility,
            penalty=v.penalty,
            process=v.process,
        )
    )
    network = policy.Config(
        hidden=program.integers("hidden", v.hidden),
        head=v.head,
        shared_torso=v.shared_torso,
        initial_scale=v.initial_scale,
    )
    learning = ppo.Config(**{name: getattr(v, name) for name in _LEARNING})
  except ValueError as error:
    raise UsageError(str(error)) from error
  program.at_least_one(
      v, "seeds", "updates", "episodes", "report_every", "patience", "save_every", "certify_every",
      "response_updates", "response_episodes", "keep",
  )
  for often, seldom in (("report_every", "save_every"), ("save_every", "certify_every")):
    if getattr(v, seldom) % getattr(v, often):
      raise UsageError(
          f"--{seldom}={getattr(v, seldom)} must be a multiple of --{often}={getattr(v, often)}"
      )
  for name in ("last_rate", "last_exploration"):
    if not 0 <= getattr(v, name) <= 1:
      raise UsageError(f"--{name}={getattr(v, name)} must lie between 0 and 1")
  if v.judge_episodes < 4:
    raise UsageError(f"--judge_episodes={v.judge_episodes} must be at least 4")
  if v.profile is None:
    # As jax.tree would list them, without starting JAX.
    first = (v.connection if v.connection1 is None else v.connection1,) * v.clusters
    tolerance1 = v.tolerance if v.tolerance1 is None else v.tolerance1
    second = (v.connection,) * v.clusters
    numbers = (*first, tolerance1, *second, v.tolerance, v.variance)
  else:
    numbers = _read_profile(v.profile)
  return Run(
      env=env,
      profile=numbers,
      network=network,
      learning=learning,
      out=pathlib.Path(v.out),
      tensorboard=v.tensorboard,
      figures=v.figures,
      **{name: getattr(v, name) for name in _RUN_FLAGS},
  )


def _read_profile(path: str) -> tuple[float, ...]:
  try:
    return tuple(float(x) for x in json.loads(pathlib.Path(path).read_text(encoding="utf-8")))
  except (OSError, TypeError, ValueError) as error:
    raise UsageError(f"--profile={path}: {error}; a JSON list of numbers is expected") from error


def run_of(argv: list[str]) -> Run:
  """The run that a command line asks for. Raises UsageError."""
  return _run(program.parse(argv, _define_flags))


def main(argv: list[str]) -> int:
  """The program; returns its exit code."""
  return program.main(
      argv, name="market_train", doc=__doc__, define=_define_flags, prepare=_run, work=train
  )


if __name__ == "__main__":
  sys.exit(main(sys.argv))
