"""The work of `launch.calsheq_train`: CALSHEQ, and the searchers that it is compared with.

Glossary: S seeds, which run side by side; d numbers that are calibrated, K targets, t profiles that
a searcher was told of.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calsheq_jax import calsheq, experiments, minibatches, policy, ppo, shared_game
from calsheq_jax.search import History, Search
from calsheq_jax.targets import goals_of
from launch.runtime import loop, parallel, stopping, writers
from launch.runtime.flags import UsageError
from launch.training import calibration_summary
from launch.training.calibration_run import Run

# Uses of random keys; the place of a use in this list is folded into the seed's key.
_KEYS = (
    "init", "stages", "judge", "certificate", "hidden", "hidden_init", "hidden_stages", "targets"
)


class Saved(NamedTuple):
  """The contents of a checkpoint."""

  learners: Any  # [S] a calsheq.State, or a searcher's shared policy as ppo.State
  goals: jax.Array  # [S, K]
  answer: jax.Array  # [S, d] coordinates of the right profile; NaN if it is not known
  answer_reward: jax.Array  # [S] reward of the hidden profile; NaN if there is none
  held: jax.Array  # [S, d] coordinates of the profile that a searcher has held last
  points: jax.Array  # [S, t, d]
  scores: jax.Array  # [S, t]


# Compiled functions, cached by their arguments: a run that continues compiles nothing twice.


@functools.cache
def _stages(problem, config, count, mesh):
  """(states [S], keys [S], goals [S, K]) -> states, metrics of `count` stages [S]."""

  def chunk(states, keys, goals):
    def stage(state, key, goals):
      return calsheq.stage(state, key, goals, problem, config, parallel.AXIS)

    return _scanned(lambda states: jax.vmap(stage)(states, keys, goals), states, count)

  return parallel.spmd(chunk, mesh, (parallel.REPLICATED,) * 3, parallel.REPLICATED, donate=(0,))


@functools.cache
def _trial(problem, config, count, mesh):
  """(policies [S], keys [S], points [S, d], goals [S, K]) -> policies, metrics of a trial [S]."""

  def chunk(shared, keys, points, goals):
    def stage(state, key, point, goals):
      return calsheq.trial_stage(state, key, point, goals, problem, config, parallel.AXIS)

    return _scanned(lambda shared: jax.vmap(stage)(shared, keys, points, goals), shared, count)

  return parallel.spmd(chunk, mesh, (parallel.REPLICATED,) * 4, parallel.REPLICATED, donate=(0,))


def _scanned(step, states, count):
  """Scans `count` stages.

  Returns:
    States, and metrics [S]: means over stages, lowest rewards over stages, and some metrics of the
    last stage.
  """
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

  def all_seeds(agents, keys, points):
    return jax.lax.map(lambda one: certify(*one), (agents, keys, points))

  return parallel.spmd(all_seeds, mesh, (parallel.REPLICATED,) * 3, parallel.REPLICATED)


# Training.


class _Training(loop.Training):
  """The common part of both kinds of calibration; its state is a `Saved`."""

  unit = "stages"
  shown = ("train/reward", "judged/reward", "variation")
  advice = "start anew with a lower --shared_rate or --calibrator_rate"
  old_names = ppo.FORMER_NAMES

  def __init__(self, run: Run, *, check_stop: Callable[[], None], say: Callable[[str], None]):
    """Prepares the calibration.

    Args:
      run: the run.
      check_stop: raises `stopping.Stopped` when a stop is asked for while `init` trains at hidden
        profiles.
      say: gets lines for the user.

    Raises:
      UsageError: episodes do not divide over devices and minibatches.
      ImportError: the method's package is not installed.
    """
    self.total = run.plan.stages
    self._run, self._mesh = run, parallel.mesh()
    self._check_stop, self._say = check_stop, say
    self._check_batches()
    seeds = jax.vmap(jax.random.key)(run.plan.seed + jnp.arange(run.plan.seeds))
    self._keys = {
        kind: jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(seeds)
        for i, kind in enumerate(_KEYS)
    }
    self._stage_keys = parallel.replicate(self._keys["stages"], self._mesh)

  def _check_batches(self) -> None:
    run = self._run
    try:
      run.config.check(run.experiment.env, self._mesh.size)
    except ValueError as error:
      raise UsageError(f"--episodes: {error}") from error
    if run.plan.certify:
      try:
        each = parallel.per_device_batch(run.plan.response_episodes, self._mesh)
        minibatches.check_batch(run.experiment.env.horizon, each, run.config.shared.minibatches)
      except ValueError as error:
        raise UsageError(f"--response_episodes: {error}") from error

  # Methods in which the two kinds differ, besides `advance`.

  @abc.abstractmethod
  def _make(self, key):
    """Makes the learners of one seed."""

  @abc.abstractmethod
  def _told(self, done: int) -> int:
    """The number of profiles that a searcher was told of when `done` stages are over, t."""

  @abc.abstractmethod
  def stage(self, saved: Saved) -> int:
    """The number of stages that a state has had."""

  @abc.abstractmethod
  def agents(self, saved: Saved) -> Any:
    """The shared policies, [S]."""

  @abc.abstractmethod
  def settled(self, saved: Saved) -> jax.Array:
    """Coordinates of the calibrated profiles, without exploration: [S, d]."""

  # The protocol of the loop.

  def metadata(self) -> dict[str, Any]:
    return {"settings": self._run.settings()}

  def init(self) -> Saved:
    run = self._run
    problem, seeds, size = run.problem, run.plan.seeds, run.problem.space.size
    goals = jnp.broadcast_to(goals_of(problem.targets), (seeds, len(problem.targets)))
    answer, answer_reward = jnp.full((seeds, size), jnp.nan), jnp.full(seeds, jnp.nan)
    if run.experiment.answer is not None:
      known = problem.space.from_numbers(np.array(run.experiment.answer, np.float32))
      answer = jnp.broadcast_to(known, (seeds, size))
    if run.experiment.hidden:
      answer, goals, answer_reward = self._train_at_hidden_profiles(goals)
    return Saved(
        jax.jit(jax.vmap(self._make))(self._keys["init"]), goals, answer, answer_reward,
        held=jnp.zeros((seeds, size)),
        points=jnp.zeros((seeds, 0, size)),
        scores=jnp.zeros((seeds, 0)),
    )

  def _train_at_hidden_profiles(self, goals):
    """Draws hidden profiles, trains a shared policy at each, and measures what it shows.

    Args:
      goals: [S, K] of any value, for their shape.

    Returns:
      Coordinates of the hidden profiles [S, d], the goals [S, K] and their own rewards [S].
    """
    run, mesh, keys = self._run, self._mesh, self._keys
    problem, config, plan = run.problem, run.config, run.plan
    self._say(f"training at the hidden profiles, {plan.hidden_updates} updates")
    answer = jax.vmap(lambda key: experiments.hidden_coordinates(key, problem))(keys["hidden"])
    there = parallel.replicate((keys["hidden_stages"], answer, goals), mesh)
    fresh = jax.jit(jax.vmap(lambda key: calsheq.init_shared(key, problem.env, config)))
    shared = parallel.replicate(fresh(keys["hidden_init"]), mesh)
    for done in range(0, plan.hidden_updates, plan.hold):
      stopping.check_together(self._check_stop)
      count = min(plan.hold, plan.hidden_updates - done)
      shared, _ = _trial(problem, config, count, mesh)(shared, *there)
    judge = _judge(problem, config, 4 * plan.judge_episodes)
    agent = parallel.gather(shared.agent)
    goals = judge(agent, keys["targets"], answer, goals)["values"]
    # The end of the run is judged on the same episodes as this reward.
    return answer, goals, judge(agent, keys["judge"], answer, goals)["reward"]

  def like(self, done: int) -> Saved:
    problem = self._run.problem  # made here, because tracing must not make its arrays
    seeds, size, told = self._run.plan.seeds, problem.space.size, self._told(done)

    def array(*shape):
      return jax.ShapeDtypeStruct((seeds, *shape), jnp.float32)

    return Saved(
        jax.eval_shape(jax.vmap(self._make), self._keys["init"]),
        array(len(problem.targets)), array(size), array(), array(size), array(told, size),
        array(told),
    )

  def describe(self, state: Saved, done: int) -> Sequence[str]:
    run, plan = self._run, self._run.plan
    lines = [
        f"{run.experiment.name}: {run.experiment.about}; {plan.method}, {plan.seeds} seed(s),"
        f" stages {done} to {plan.stages} of {run.config.episodes} episodes,"
        f" {run.env_steps(plan.stages)} environment steps a seed"
    ]
    if run.experiment.hidden:
      scores = np.asarray(state.answer_reward).round(3).tolist()
      lines.append(f"the hidden profiles themselves score {scores}")
    return lines

  def place(self, state: Saved) -> Saved:
    return parallel.replicate(jax.tree.map(jnp.asarray, state), self._mesh)

  def _row(self, state: Saved, done: int, metrics: Mapping[str, np.ndarray]) -> loop.Row:
    """The row of metrics of a chunk that ends after `done` stages."""
    row = calibration_summary.row(self._run, metrics, self._judged(state))
    return row | {"env_steps": float(self._run.env_steps(done))}

  def _judged(self, saved: Saved, times: int = 1) -> dict[str, np.ndarray]:
    """Judges the calibrated profiles on `times` times --judge_episodes, [S]."""
    run = self._run
    judge = _judge(run.problem, run.config, times * run.plan.judge_episodes)
    given = parallel.gather((self.agents(saved), self.settled(saved), saved.goals))
    agents, points, goals = jax.tree.map(jnp.asarray, given)
    return jax.tree.map(np.asarray, judge(agents, self._keys["judge"], points, goals))

  def evaluate(self, state: Saved) -> loop.Row:
    """Judges the end of the run on more episodes, with certificates; {} before the end."""
    if self.stage(state) < self.total:
      return {}
    judged = self._judged(state, times=4)
    numbers = calibration_summary.final_numbers(self._run, judged, np.asarray(state.goals))
    answer = np.asarray(state.answer)
    if np.isfinite(answer).all():
      numbers["distance"] = np.abs(np.asarray(self.settled(state)) - answer).mean(-1) / 2
    if self._run.experiment.hidden:
      numbers["answer_reward"] = np.asarray(state.answer_reward)
    if self._run.plan.certify:
      numbers |= calibration_summary.certificate_numbers(self._certify(state))
    return calibration_summary.final_row(numbers)

  def _certify(self, saved: Saved) -> shared_game.Certificate:
    """Certificates of the shared policies at the calibrated profiles, [S]."""
    run, plan = self._run, self._run.plan
    certify = _certifier(
        run.problem, run.config, plan.response_updates, plan.response_episodes,
        4 * plan.judge_episodes, self._mesh,
    )
    points = parallel.replicate(parallel.gather(self.settled(saved)), self._mesh)
    return parallel.gather(certify(self.agents(saved), self._keys["certificate"], points))


class Calibrating(_Training):
  """CALSHEQ: stages of Algorithm 1 in chunks."""

  longer = "to go on give more --stages"

  def _make(self, key):
    return calsheq.init(key, self._run.problem, self._run.config)

  def _told(self, done: int) -> int:
    del done
    return 0

  def stage(self, saved: Saved) -> int:
    return int(np.asarray(saved.learners.shared.step)[0])

  def agents(self, saved: Saved) -> Any:
    return saved.learners.shared.agent

  def settled(self, saved: Saved) -> jax.Array:
    return saved.learners.settled

  def describe(self, state: Saved, done: int) -> Sequence[str]:
    first, *rest = super().describe(state, done)
    config = self._run.config
    assumption = "holds" if config.two_timescales else "is not met"
    first_rate, last_rate = (config.rate_ratio(m) for m in (0, self.total - 1))
    ratio = (
        f"Assumption 2 {assumption}; learning rate of the calibrator over that of the shared"
        f" policy: {first_rate:.2g} at first, {last_rate:.2g} at the end"
    )
    return [first, ratio, *rest]

  def advance(self, state: Saved, done: int) -> tuple[Saved, int, loop.Row]:
    run = self._run
    count = min(run.options.report_every, self.total - done)
    chunk = _stages(run.problem, run.config, count, self._mesh)
    learners, metrics = chunk(state.learners, self._stage_keys, state.goals)
    state, done = state._replace(learners=learners), done + count
    return state, done, self._row(state, done, parallel.gather(metrics))


class Searching(_Training):
  """The baselines: trials of profiles that searchers choose, with one searcher for each seed."""

  longer = "to go on give another --out, too"

  def __init__(self, run: Run, **more):
    super().__init__(run, **more)
    seeds = range(run.plan.seed, run.plan.seed + run.plan.seeds)
    self._search = Search(run.plan.method, run.trials, run.problem.space.origin(), seeds)

  def _make(self, key):
    # The first half of the key gives the same policy as in CALSHEQ's run with this seed.
    shared_key = jax.random.split(key)[0]
    return calsheq.init_shared(shared_key, self._run.problem.env, self._run.config)

  def _told(self, done: int) -> int:
    return self._run.trials.told_after(done)

  def stage(self, saved: Saved) -> int:
    return int(np.asarray(saved.learners.step)[0])

  def agents(self, saved: Saved) -> Any:
    return saved.learners.agent

  def settled(self, saved: Saved) -> jax.Array:
    return saved.held

  def place(self, state: Saved) -> Saved:
    self._search.replay(History(np.asarray(state.points), np.asarray(state.scores)))
    return super().place(state)

  def advance(self, state: Saved, done: int) -> tuple[Saved, int, loop.Row]:
    run, space, hold = self._run, self._run.problem.space, self._run.plan.hold
    points = self._search.ask(done)
    before = np.asarray(state.held) if done else np.tile(space.origin(), (len(points), 1))
    trial = _trial(run.problem, run.config, hold, self._mesh)
    held = parallel.replicate(points, self._mesh)
    shared, metrics = trial(state.learners, self._stage_keys, held, state.goals)
    metrics = parallel.gather(metrics)
    history = History(np.asarray(state.points), np.asarray(state.scores))
    history = self._search.tell(done, points, metrics["last/reward"], history)
    told, scores = parallel.replicate(tuple(history), self._mesh)
    state = state._replace(learners=shared, held=held, points=told, scores=scores)
    # The profile moves once at the start of the trial, and then rests.
    metrics["variation"] = np.abs(points - before).mean(1) / 2 / hold
    metrics["increment"] = metrics["variation"]
    metrics["last/profile"] = np.asarray(space.numbers(jnp.asarray(points)))
    done += hold
    return state, done, self._row(state, done, metrics)


def train(
    run: Run,
    *,
    check_stop: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = print,
) -> Mapping[str, float]:
  """Calibrates to the end of the run, from the last checkpoint in its directory if there is one.

  Returns:
    The most telling numbers of the final evaluation, with means over seeds.

  Raises:
    UsageError: the directory holds another run, or episodes do not divide over the devices.
    ImportError: the method's package is not installed.
    stopping.Stopped: raised by check_stop; the state is saved.
  """
  training = (Searching if run.searches else Calibrating)(run, check_stop=check_stop, say=say)
  state, report = loop.run(training, run.options, check_stop=check_stop, say=say)
  report = report or training.evaluate(state)
  if parallel.is_main():
    summary = calibration_summary.summary(run, writers.read(run.options.out), report)
    writers.write_json(run.options.out / "summary.json", summary)
    if run.plan.figures:
      calibration_summary.draw(run, say)
  shown = ("reward", "reward_of_means", "distance", "epsilon", "answer_reward")
  return {f"eval/{name}": report[f"eval/{name}"] for name in shown if f"eval/{name}" in report}
