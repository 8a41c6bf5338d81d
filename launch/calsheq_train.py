"""Calibrates the shared equilibrium of many agents to targets: CALSHEQ and its baselines.

  python -m launch.calsheq_train --experiment=1 --method=calsheq --seeds=5 --stages=400 --out=out/1

All seeds run side by side in one program. A stage plays --episodes episodes and updates the shared
policy once, whatever the method; calsheq moves the profile at every stage, bo, cmaes and random
hold one for --hold stages, score it by the last of them and hold the best of all at the end.
Writes into --out: checkpoints, metrics.csv, metrics.jsonl (TensorBoard's events with
--tensorboard), summary.json and pictures. The same command, given again, continues where it was;
SIGTERM and SIGINT save first. `python -m launch.calsheq_report` compares several runs.

Metrics, means over seeds (..._sd: standard deviation over seeds; seed_0/...: of the first seed
alone). Of a stage of training: train/reward, the calibrator's, and train/supertype_1/reward, an
agent's; lowest/supertype_1/reward, the least of these since the row before; target/..., what each
target is set on; profile/..., each number that is calibrated; variation, how far the mean of the
episodes' profiles has moved in a stage, in widths of its box; increment, how far those of single
episodes have, exploration included. Without exploration, on held-out episodes: judged/reward
(of episodes), judged/reward_of_means (of the mean over episodes), judged/target/.... At the end:
eval/epsilon, what the best deviation found gains over the shared policy.
"""

from collections.abc import Mapping
import dataclasses
import functools
import json
import math
import pathlib
import sys
from typing import Any, NamedTuple

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from calsheq_jax import (
    calibrator,
    calsheq,
    experiments,
    minibatches,
    policy,
    searchers,
    shared_game,
)
from calsheq_jax.experiments import Experiment
from calsheq_jax.schedules import Schedule
from launch.runtime import checkpoint, loop, parallel, program, stopping, writers
from launch.runtime.program import UsageError

METHODS: tuple[str, ...] = ("calsheq", *searchers.METHODS)

# Part of the final reward whose first reaching is reported.
_REACHED = 0.9


@dataclasses.dataclass(frozen=True)
class Run:
  """A run of the program."""

  experiment: Experiment
  method: str
  config: calsheq.Config
  out: pathlib.Path
  seed: int = 0  # of the first; the others follow
  seeds: int = 3
  stages: int = 400
  hold: int = 10  # stages for which a searcher's profile is held
  hidden_updates: int = 400  # of the shared policy at a hidden profile
  report_every: int = 10  # stages between rows of metrics
  patience: int = loop.PATIENCE
  save_every: int = 50  # stages between checkpoints
  judge_episodes: int = 64  # held out, for each row; four times as many at the end
  certify: bool = True  # whether deviations are tried at the end
  response_updates: int = 120  # of a deviator
  response_episodes: int = 64  # of an update of its, over all devices
  keep: int = 2
  tensorboard: bool = False
  figures: bool = True

  @functools.cached_property
  def problem(self) -> calibrator.Problem:
    return self.experiment.problem()

  @property
  def searches(self) -> bool:
    """Whether a searcher chooses profiles in place of the calibrator."""
    return self.method in searchers.METHODS

  @property
  def trials(self) -> int:
    """Profiles that a searcher is told of; the best of them is then held once more."""
    return self.stages // self.hold - 1

  def env_steps(self, stages: int) -> int:
    """Of the environment, at most: agents share them."""
    return stages * self.config.episodes * self.experiment.env.horizon

  def settings(self) -> dict[str, Any]:
    """What makes a run that run, flat, for JSON."""
    own = {"experiment": self.experiment.name, "method": self.method}
    own |= {name: getattr(self, name) for name in ("seed", "seeds")}
    own |= {"env": repr(self.experiment.env), "targets": [_plain(t) for t in self.problem.targets]}
    space = self.problem.space
    own |= {name: list(getattr(space, name)) for name in ("start", "names", "low", "high")}
    if self.searches:
      own |= {"stages": self.stages, "hold": self.hold}
    if self.experiment.hidden:
      own["hidden_updates"] = self.hidden_updates
    return own | _flat(json.loads(json.dumps(self.config.to_dict())))


def _plain(target: calibrator.Target) -> dict[str, Any]:
  """A target for JSON; a user's function by its name, for its address changes."""
  fields = dataclasses.asdict(target) | {"index": list(target.index)}
  function = target.function
  named = getattr(function, "__qualname__", type(function).__name__)
  return fields | {"function": None if function is None else named}


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """{"a": {"b": 1}} -> {"a/b": 1}."""
  flat: dict[str, Any] = {}
  for name, value in nested.items():
    flat |= _flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: value}
  return flat


class Saved(NamedTuple):
  """What a checkpoint holds; t profiles were told of, of S seeds."""

  learners: Any  # calsheq.State, or the shared policy's ppo.State, [S]
  goals: jax.Array  # [S, K]
  answer: jax.Array  # [S, d] coordinates of the right profile; NaN where none is known
  answer_reward: jax.Array  # [S] what a hidden profile itself scores; NaN where there is none
  held: jax.Array  # [S, d] coordinates of the profile that a searcher has held last
  points: jax.Array  # [S, t, d]
  scores: jax.Array  # [S, t]


# Programs. Cached by what they are made from: a run that is continued compiles nothing twice.


@functools.cache
def _stages(problem, config, count, mesh):
  """(states [S], keys [S], goals [S, K]) -> states, metrics of `count` stages [S]."""

  def chunk(states, keys, goals):
    step = lambda state, key, goals: calsheq.stage(
        state, key, goals, problem, config, parallel.AXIS
    )
    return _scanned(lambda states: jax.vmap(step)(states, keys, goals), states, count)

  return parallel.spmd(chunk, mesh, (parallel.REPLICATED,) * 3, parallel.REPLICATED, donate=(0,))


@functools.cache
def _trial(problem, config, count, mesh):
  """(policies [S], keys [S], points [S, d], goals [S, K]) -> policies, metrics of a hold [S]."""

  def chunk(shared, keys, points, goals):
    step = lambda state, key, point, goals: calsheq.trial_stage(
        state, key, point, goals, problem, config, parallel.AXIS
    )
    return _scanned(lambda shared: jax.vmap(step)(shared, keys, points, goals), shared, count)

  return parallel.spmd(chunk, mesh, (parallel.REPLICATED,) * 4, parallel.REPLICATED, donate=(0,))


def _scanned(step, states, count):
  """-> states, metrics [S]: means over stages, and what only one of them says."""
  states, metrics = jax.lax.scan(lambda s, _: step(s), states, length=count)
  means = jax.tree.map(lambda x: x.mean(0), metrics)
  means["lowest"] = metrics["supertype_rewards"].min(0)
  means |= {f"last/{name}": metrics[name][-1] for name in ("reward", "profile") if name in metrics}
  return states, means


@functools.cache
def _judge(problem, config, count):
  """(agents [S], keys [S], points [S, d], goals [S, K]) -> `calsheq.judge` [S]."""
  judge = functools.partial(calsheq.judge, problem=problem, config=config, count=count)
  return jax.jit(jax.vmap(judge))


@functools.cache
def _certifier(problem, config, updates, episodes, judge_episodes, mesh):
  """(agents [S], keys [S], points [S, d]) -> `shared_game.Certificate` [S]."""
  env = problem.env
  net = policy.for_environment(env, config.network)
  each = parallel.per_device_batch(episodes, mesh)

  def certify(agent, key, point):
    return shared_game.certify(
        env, net, agent, key, problem.space.profile(point), config.shared,
        updates=updates, episodes=each, judge_episodes=judge_episodes, axis_name=parallel.AXIS,
    )

  every = lambda *seeds: jax.lax.map(lambda one: certify(*one), seeds)
  return parallel.spmd(every, mesh, (parallel.REPLICATED,) * 3, parallel.REPLICATED)


# Beginning and going on.


def _begin(run: Run, mesh, keys: Mapping[str, jax.Array], check_stop, say) -> Saved:
  """New learners, and targets from a hidden profile where the experiment wants them."""
  problem, config = run.problem, run.config
  size, seeds = problem.space.size, run.seeds
  goals = jnp.broadcast_to(calibrator.goals_of(problem.targets), (seeds, len(problem.targets)))
  answer, answer_reward = jnp.full((seeds, size), jnp.nan), jnp.full(seeds, jnp.nan)
  if run.experiment.answer is not None:
    known = problem.space.from_numbers(np.array(run.experiment.answer, np.float32))
    answer = jnp.broadcast_to(known, (seeds, size))
  fresh = jax.jit(jax.vmap(lambda key: calsheq.init_shared(key, problem.env, config)))
  if run.experiment.hidden:
    say(f"training at the hidden profiles, {run.hidden_updates} updates")
    answer = jax.vmap(lambda key: experiments.hidden_coordinates(key, problem))(keys["hidden"])
    there = parallel.replicate((keys["hidden_stages"], answer, goals), mesh)
    shared = parallel.replicate(fresh(keys["hidden_init"]), mesh)
    for done in range(0, run.hidden_updates, run.hold):
      stopping.check_together(check_stop)
      count = min(run.hold, run.hidden_updates - done)
      shared, _ = _trial(problem, config, count, mesh)(shared, *there)
    judge = _judge(problem, config, 4 * run.judge_episodes)
    agent = parallel.gather(shared.agent)
    goals = judge(agent, keys["targets"], answer, goals)["values"]
    # On the episodes that the end of the run is judged on.
    answer_reward = judge(agent, keys["judge"], answer, goals)["reward"]
  if run.searches:
    # The same policy as that of calsheq's run with this seed.
    learners = fresh(jax.vmap(lambda key: jax.random.split(key)[0])(keys["init"]))
  else:
    learners = jax.jit(jax.vmap(lambda key: calsheq.init(key, problem, config)))(keys["init"])
  return Saved(
      learners, goals, answer, answer_reward,
      held=jnp.zeros((seeds, size)),
      points=jnp.zeros((seeds, 0, size)),
      scores=jnp.zeros((seeds, 0)),
  )


def _like(run: Run, keys: Mapping[str, jax.Array], done: int) -> Saved:
  """The shapes of what a checkpoint of that stage holds."""
  make = calsheq.init
  if run.searches:
    make = lambda key, problem, config: calsheq.init_shared(key, problem.env, config)
  problem = run.problem  # made out here, not while tracing
  learners = jax.eval_shape(
      jax.vmap(lambda key: make(key, problem, run.config)), keys["init"]
  )
  told = min(done // run.hold, run.trials) if run.searches else 0
  seeds, size = run.seeds, problem.space.size
  array = lambda *shape: jax.ShapeDtypeStruct((seeds, *shape), jnp.float32)
  return Saved(
      learners, array(len(problem.targets)), array(size), array(), array(size),
      array(told, size), array(told),
  )


def train(run: Run, *, check_stop=lambda: None, say=print) -> dict[str, float]:
  """Calibrates to the end of the run, from the last checkpoint in run.out if there is one.

  Returns:
    The last row's most telling numbers, means over seeds.

  Raises:
    UsageError: run.out holds another run, or episodes do not divide over the devices.
    ImportError: the method's package is not installed.
    stopping.Stopped: asked to stop; the state is saved.
  """
  config, mesh = run.config, parallel.mesh()
  _check(run, mesh)
  first = jax.vmap(jax.random.key)(run.seed + jnp.arange(run.seeds))
  kinds = (
      "init", "stages", "judge", "certificate", "hidden", "hidden_init", "hidden_stages", "targets"
  )
  keys = {
      kind: jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(first)
      for i, kind in enumerate(kinds)
  }
  metadata = {"settings": run.settings()}
  last = checkpoint.latest(run.out)
  if last is None:
    saved = _begin(run, mesh, keys, check_stop, say)
    done = 0
  else:
    old = checkpoint.load_metadata(last)
    loop.check_same(run.out, old["config"]["settings"], metadata["settings"])
    done = old["step"]
    saved = checkpoint.restore(last, _like(run, keys, done))
  say(
      f"{run.experiment.name}: {run.experiment.about}; {run.method}, {run.seeds} seed(s), stages"
      f" {done} to {run.stages} of {config.episodes} episodes, {run.env_steps(run.stages)}"
      " environment steps a seed"
  )
  if not run.searches:
    assumption = "holds" if config.two_timescales else "is not met"
    first_rate, last_rate = (config.rate_ratio(m) for m in (0, run.stages - 1))
    say(
        f"Assumption 2 {assumption}; learning rate of the calibrator over that of the shared"
        f" policy: {first_rate:.2g} at first, {last_rate:.2g} at the end"
    )
  if done > run.stages:
    raise UsageError(f"--stages={run.stages}: {run.out} has had {done}; give as many or more")
  if done == run.stages:
    more = "another --out, too" if run.searches else "more --stages"
    say(f"{run.out} is finished; to go on give {more}")
  if run.experiment.hidden:
    say(f"the hidden profiles themselves score {np.asarray(saved.answer_reward).round(3).tolist()}")
  move = _Searching(run, keys, mesh) if run.searches else _Calibrating(run, keys, mesh)
  saved = move.place(saved)

  def evaluate(saved) -> dict[str, float]:
    return _final(run, move, saved, keys, mesh) if move.stage(saved) >= run.stages else {}

  saved, report = loop.run(
      saved,
      run.out,
      done=done,
      total=run.stages,
      advance=move.advance,
      evaluate=evaluate,
      save_every=run.save_every,
      config=metadata,
      keep=run.keep,
      patience=run.patience,
      advice="start anew with a lower --shared_rate or --calibrator_rate",
      shown=["train/reward", "judged/reward", "variation"],
      tensorboard=run.tensorboard,
      check_stop=check_stop,
  )
  if not report:  # finished before
    report = evaluate(saved)
  if parallel.is_main():
    rows = writers.read(run.out)
    summary = summarised(run, rows, report)
    writers.write_json(run.out / "summary.json", summary)
    if run.figures:
      _draw(run, say)
  shown = ("reward", "reward_of_means", "distance", "epsilon", "answer_reward")
  return {
      f"eval/{name}": report[f"eval/{name}"] for name in shown if f"eval/{name}" in report
  }


def _check(run: Run, mesh) -> None:
  try:
    run.config.check(run.experiment.env, mesh.size)
  except ValueError as error:
    raise UsageError(f"--episodes: {error}") from error
  if run.certify:
    try:
      each = parallel.per_device_batch(run.response_episodes, mesh)
      minibatches.check_batch(run.experiment.env.horizon, each, run.config.shared.minibatches)
    except ValueError as error:
      raise UsageError(f"--response_episodes: {error}") from error


class _Calibrating:
  """Stages of Algorithm 1 in chunks."""

  def __init__(self, run: Run, keys, mesh):
    self._run, self._mesh = run, mesh
    self._keys = parallel.replicate(keys["stages"], mesh)
    self._judge_keys = keys["judge"]

  def place(self, saved: Saved) -> Saved:
    return parallel.replicate(jax.tree.map(jnp.asarray, saved), self._mesh)

  def stage(self, saved: Saved) -> int:
    return int(np.asarray(saved.learners.shared.step)[0])

  def agents(self, saved: Saved):
    return saved.learners.shared.agent

  def settled(self, saved: Saved):
    """[S, d] where the calibration is, without exploration."""
    return saved.learners.settled

  def advance(self, saved: Saved, done: int):
    run = self._run
    count = min(run.report_every, run.stages - done)
    chunk = _stages(run.problem, run.config, count, self._mesh)
    learners, metrics = chunk(saved.learners, self._keys, saved.goals)
    saved = saved._replace(learners=learners)
    metrics = parallel.gather(metrics)
    row = _row(run, metrics, _judged(run, self, saved, self._judge_keys))
    return saved, done + count, row | {"env_steps": float(run.env_steps(done + count))}


class _Searching:
  """Holds of profiles that searchers choose, one searcher a seed."""

  def __init__(self, run: Run, keys, mesh):
    self._run, self._mesh = run, mesh
    self._keys = parallel.replicate(keys["stages"], mesh)
    self._judge_keys = keys["judge"]
    space = run.problem.space
    self._searchers = [
        searchers.make(run.method, space.size, run.seed + i, space.origin())
        for i in range(run.seeds)
    ]

  def place(self, saved: Saved) -> Saved:
    """Tells the searchers what they knew."""
    for searcher, points, scores in zip(
        self._searchers, np.asarray(saved.points), np.asarray(saved.scores)
    ):
      for point, score in zip(points, scores):
        searcher.tell(point, float(score))
    return parallel.replicate(jax.tree.map(jnp.asarray, saved), self._mesh)

  def stage(self, saved: Saved) -> int:
    return int(np.asarray(saved.learners.step)[0])

  def agents(self, saved: Saved):
    return saved.learners.agent

  def settled(self, saved: Saved):
    return saved.held

  def advance(self, saved: Saved, done: int):
    run = self._run
    last = done + run.hold >= run.stages
    points = np.stack([s.best()[0] if last else s.ask() for s in self._searchers])
    points = points.astype(np.float32)
    before = np.asarray(saved.held) if done else np.tile(run.problem.space.origin(), (run.seeds, 1))
    trial = _trial(run.problem, run.config, run.hold, self._mesh)
    held = parallel.replicate(points, self._mesh)
    shared, metrics = trial(saved.learners, self._keys, held, saved.goals)
    metrics = parallel.gather(metrics)
    saved = saved._replace(learners=shared, held=held)
    scores = metrics["last/reward"]
    if not last and np.isfinite(scores).all():  # if not, the loop ends here
      for searcher, point, score in zip(self._searchers, points, scores):
        searcher.tell(point, float(score))
      told = (
          np.concatenate([np.asarray(saved.points), points[:, None]], 1),
          np.concatenate([np.asarray(saved.scores), scores[:, None]], 1),
      )
      points_told, scores_told = parallel.replicate(told, self._mesh)
      saved = saved._replace(points=points_told, scores=scores_told)
    # One move, then rest.
    metrics["variation"] = np.abs(points - before).mean(1) / 2 / run.hold
    metrics["increment"] = metrics["variation"]
    metrics["last/profile"] = np.asarray(run.problem.space.numbers(jnp.asarray(points)))
    row = _row(run, metrics, _judged(run, self, saved, self._judge_keys))
    done += run.hold
    return saved, done, row | {"env_steps": float(run.env_steps(done))}


# Metrics.


def _judged(run: Run, move, saved: Saved, keys, times: int = 1) -> dict[str, np.ndarray]:
  judge = _judge(run.problem, run.config, times * run.judge_episodes)
  given = parallel.gather((move.agents(saved), move.settled(saved), saved.goals))
  agents, points, goals = jax.tree.map(jnp.asarray, given)
  return jax.tree.map(np.asarray, judge(agents, keys, points, goals))


# What is recorded of each seed.
_OF_SEEDS = ("train/reward", "judged/reward", "variation", "increment")


def _row(run: Run, metrics, judged) -> dict[str, float]:
  problem = run.problem
  series = {
      "train/reward": metrics["reward"],
      "judged/reward": judged["reward"],
      "judged/reward_of_means": judged["reward_of_means"],
      "variation": metrics["variation"],
      "increment": metrics["increment"],
  }
  for i, name in enumerate(problem.env.supertype_names):
    series[f"train/{name}/reward"] = metrics["supertype_rewards"][:, i]
    series[f"lowest/{name}/reward"] = metrics["lowest"][:, i]
    series[f"judged/{name}/reward"] = judged["supertype_rewards"][:, i]
  for i, target in enumerate(problem.targets):
    series[f"target/{target.name}"] = metrics["values"][:, i]
    series[f"judged/target/{target.name}"] = judged["values"][:, i]
  for i, name in enumerate(problem.space.names):
    series[f"profile/{name}"] = metrics["last/profile"][:, i]
  row: dict[str, float] = {}
  for name, values in series.items():
    row |= writers.over_seeds(name, values)
    of_seeds = name in _OF_SEEDS or name.startswith("lowest/")
    if of_seeds:
      row |= {f"seed_{i}/{name}": float(value) for i, value in enumerate(values)}
    elif name.startswith("profile/"):
      row[f"seed_0/{name}"] = float(values[0])
  if "spread" in metrics:
    row["spread"] = float(metrics["spread"].mean())
  learning = ("approx_kl", "kl_weight", "explained_variance", "entropy", "clip_frac")
  return row | {
      name: float(value.mean())
      for name, value in metrics.items()
      if name.rpartition("/")[0] in ("shared", "calibrator") and name.endswith(learning)
  }


def _final(run: Run, move, saved: Saved, keys, mesh) -> dict[str, float]:
  """Judged on more episodes, with certificates; each seed's numbers, too."""
  judged = _judged(run, move, saved, keys["judge"], times=4)
  problem = run.problem
  numbers = {"reward": judged["reward"], "reward_of_means": judged["reward_of_means"]}
  for i, name in enumerate(problem.env.supertype_names):
    numbers[f"{name}/reward"] = judged["supertype_rewards"][:, i]
  for i, target in enumerate(problem.targets):
    numbers[f"target/{target.name}"] = judged["values"][:, i]
    numbers[f"goal/{target.name}"] = np.asarray(saved.goals)[:, i]
  for i, name in enumerate(problem.space.names):
    numbers[f"profile/{name}"] = judged["profile"][:, i]
  answer = np.asarray(saved.answer)
  if np.isfinite(answer).all():
    settled = np.asarray(move.settled(saved))
    numbers["distance"] = np.abs(settled - answer).mean(-1) / 2
  if run.experiment.hidden:
    numbers["answer_reward"] = np.asarray(saved.answer_reward)
  if run.certify:
    certify = _certifier(
        problem, run.config, run.response_updates, run.response_episodes,
        4 * run.judge_episodes, mesh,
    )
    points = parallel.replicate(parallel.gather(move.settled(saved)), mesh)
    certificate = parallel.gather(certify(move.agents(saved), keys["certificate"], points))
    numbers["epsilon"] = certificate.epsilon.mean
    numbers["epsilon_error"] = certificate.epsilon.error
    numbers["value"] = certificate.value.mean
    if np.all(certificate.value.mean != 0):
      numbers["relative_epsilon"] = certificate.epsilon.mean / np.abs(certificate.value.mean)
  report: dict[str, float] = {}
  for name, values in numbers.items():
    report |= writers.over_seeds(f"eval/{name}", values)
    report |= {f"eval/seed_{i}/{name}": float(value) for i, value in enumerate(values)}
  return report


def summarised(run: Run, rows: list[Mapping[str, float]], report: Mapping[str, float]) -> dict:
  """The contents of summary.json.

  Args:
    run: the run.
    rows: its metrics.
    report: of `_final`.

  Returns:
    settings; of each seed the final reward, values and profile, the environment steps until
    judged/reward was 0.9 of the final one, and stayed there (None: not in the last row), how far
    the mean profile and each episode's moved a stage (means over all stages), the lowest reward of
    each supertype, and epsilon; and means and standard deviations over seeds.
  """
  seeds = []
  for i in range(run.seeds):
    prefix = f"eval/seed_{i}/"
    mine = {k.removeprefix(prefix): v for k, v in report.items() if k.startswith(prefix)}
    enough = _REACHED * mine["reward"]
    stages = np.diff([0, *(row["step"] for row in rows)])
    a_stage = lambda name: float(
        np.array([row[f"seed_{i}/{name}"] for row in rows]) @ stages / stages.sum()
    )
    lowest = {
        f"lowest/{name}/reward": min(row[f"seed_{i}/lowest/{name}/reward"] for row in rows)
        for name in run.problem.env.supertype_names
    }
    reached = None
    for row in reversed(rows):
      if row[f"seed_{i}/judged/reward"] < enough:
        break
      reached = row["env_steps"]
    seeds.append(
        {"seed": run.seed + i}
        | mine
        | lowest
        | {
            "steps_to_reach": reached,
            "variation": a_stage("variation"),
            "increment": a_stage("increment"),
        }
    )
  names = [k for k in seeds[0] if k != "seed" and all(seed[k] is not None for seed in seeds)]
  column = lambda name: np.array([seed[name] for seed in seeds])
  return {
      "experiment": run.experiment.name,
      "about": run.experiment.about,
      "method": run.method,
      "stages": run.stages,
      "env_steps": run.env_steps(run.stages),
      "seconds": rows[-1][writers.SECONDS],
      "targets": [
          {"name": t.name, "value": report[f"eval/goal/{t.name}"], "scale": t.scale}
          for t in run.problem.targets
      ],
      "profile": list(run.problem.space.names),
      "supertypes": list(run.problem.env.supertype_names),
      "settings": run.settings(),
      "mean": {name: float(column(name).mean()) for name in names},
      "sd": {
          name: float(column(name).std(ddof=1)) if len(seeds) > 1 else 0.0 for name in names
      },
      "seeds": seeds,
  }


def _draw(run: Run, say) -> None:
  try:
    from launch import calsheq_report
  except ImportError as error:
    say(f"no pictures: {error}; install the `programs` extra")
    return
  written = calsheq_report.draw([run.out], run.out)
  say(f"wrote {', '.join(map(str, written))}")


# The program.

_WORLD = ("customers", "horizon")
_RUN_FLAGS = {
    "seed": "of the first; the others follow",
    "seeds": "side by side",
    "stages": "of the whole run",
    "hold": "stages for which a searcher's profile is held",
    "hidden_updates": "of the shared policy at a hidden profile",
    "report_every": "stages between rows of metrics",
    "patience": loop.PATIENCE_MEANS,
    "save_every": "stages between checkpoints",
    "judge_episodes": "held out, for each row; four times as many at the end",
    "response_updates": "of a deviator, at the end",
    "response_episodes": "of an update of a deviator",
    "keep": "checkpoints kept",
}


def _define_flags(values: flags.FlagValues) -> None:
  own: dict[str, Any] = {"flag_values": values}
  flags.DEFINE_string("out", None, "directory of the run", **own)
  flags.DEFINE_enum("experiment", "1", list(experiments.EXPERIMENTS), "what to calibrate", **own)
  flags.DEFINE_enum("method", "calsheq", METHODS, "how", **own)
  for name in _WORLD:
    flags.DEFINE_integer(name, None, "of the market, where it differs", **own)
  run = {field.name: field.default for field in dataclasses.fields(Run)}
  for name, what in _RUN_FLAGS.items():
    flags.DEFINE_integer(name, run[name], what, **own)
  config = calsheq.Config()
  flags.DEFINE_integer("episodes", config.episodes, "of a stage", **own)
  flags.DEFINE_integer("wait", config.wait, "stages before the calibrator learns", **own)
  for name, net in (("hidden", config.network), ("calibrator_hidden", config.calibrator)):
    flags.DEFINE_list(name, list(map(str, net.hidden)), "sizes of tanh layers", **own)
  for name, learning, schedule in _learners(config):
    flags.DEFINE_float(f"{name}_rate", learning.learning_rate, "learning rate at first", **own)
    flags.DEFINE_float(f"{name}_power", schedule.power, "which it falls with; 0: never", **own)
    flags.DEFINE_float(f"{name}_delay", schedule.delay, "stages before it does", **own)
    flags.DEFINE_float(f"{name}_kl", learning.kl_target, "target of an update, nats", **own)
    flags.DEFINE_integer(f"{name}_epochs", learning.epochs, "of an update", **own)
    flags.DEFINE_integer(f"{name}_minibatches", learning.minibatches, "of an epoch", **own)
  moves = config.calibrator
  flags.DEFINE_float("pull", moves.pull, "part of the way to g that is gone", **own)
  flags.DEFINE_float("exploration", moves.exploration, "s.d. at first, half-widths", **own)
  flags.DEFINE_float("exploration_power", moves.exploration_rate.power, "it falls with", **own)
  flags.DEFINE_float("exploration_delay", moves.exploration_rate.delay, "stages before", **own)
  flags.DEFINE_float("least_exploration", moves.least_exploration, "s.d. in the end", **own)
  flags.DEFINE_bool("certify", True, "try deviations at the end", **own)
  flags.DEFINE_bool("tensorboard", False, "write events for TensorBoard", **own)
  flags.DEFINE_bool("figures", True, "draw pictures at the end", **own)


def _learners(config: calsheq.Config):
  """Name, learning and schedule of both."""
  return (
      ("shared", config.shared, config.shared_rate),
      ("calibrator", config.calibrator.learning, config.calibrator_rate),
  )


def _config(v: flags.FlagValues) -> calsheq.Config:
  default = calsheq.Config()
  learning, schedules = {}, {}
  for name, base, _ in _learners(default):
    get = lambda what, name=name: getattr(v, f"{name}_{what}")
    learning[name] = dataclasses.replace(
        base, learning_rate=get("rate"), kl_target=get("kl"), epochs=get("epochs"),
        minibatches=get("minibatches"),
    )
    schedules[name] = Schedule(get("power"), get("delay"))
  return calsheq.Config(
      episodes=v.episodes,
      network=dataclasses.replace(default.network, hidden=program.integers("hidden", v.hidden)),
      shared=learning["shared"],
      calibrator=calibrator.Config(
          hidden=program.integers("calibrator_hidden", v.calibrator_hidden),
          pull=v.pull,
          exploration=v.exploration,
          exploration_rate=Schedule(v.exploration_power, v.exploration_delay),
          least_exploration=v.least_exploration,
          learning=learning["calibrator"],
      ),
      shared_rate=schedules["shared"],
      calibrator_rate=schedules["calibrator"],
      wait=v.wait,
  )


def _run(v: flags.FlagValues) -> Run:
  if v.out is None:
    raise UsageError("--out=DIRECTORY is needed")
  if v.seed < 0:
    raise UsageError(f"--seed={v.seed} must be at least 0")
  program.at_least_one(
      v, "seeds", "stages", "hold", "hidden_updates", "report_every", "patience", "save_every",
      "judge_episodes", "response_updates", "response_episodes", "keep",
  )
  try:
    experiment = experiments.named(v.experiment)
    changes = {name: getattr(v, name) for name in _WORLD if getattr(v, name) is not None}
    if changes:
      experiment = experiments.resized(experiment, **changes)
    config = _config(v)
  except ValueError as error:
    raise UsageError(str(error)) from error
  if v.method in searchers.METHODS and (v.stages % v.hold or v.stages < 2 * v.hold):
    nearest = max(2, math.ceil(v.stages / v.hold)) * v.hold
    raise UsageError(
        f"--stages={v.stages} with --hold={v.hold}: a searcher needs a multiple of the hold, two"
        f" of them or more, such as --stages={nearest}"
    )
  return Run(
      experiment=experiment,
      method=v.method,
      config=config,
      out=pathlib.Path(v.out),
      certify=v.certify,
      tensorboard=v.tensorboard,
      figures=v.figures,
      **{name: getattr(v, name) for name in _RUN_FLAGS},
  )


def run_of(argv: list[str]) -> Run:
  """The run that a command line asks for. Raises UsageError."""
  return _run(program.parse(argv, _define_flags))


def main(argv: list[str]) -> int:
  """The program; returns its exit code."""
  return program.main(
      argv, name="calsheq_train", doc=__doc__, define=_define_flags, prepare=_run, work=train
  )


if __name__ == "__main__":
  sys.exit(main(sys.argv))
