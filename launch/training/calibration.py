"""The work of `launch.calsheq_train`: CALSHEQ, and the searchers that it is compared with.

Glossary: S seeds, which run side by side; d numbers that are calibrated, K targets, t profiles that
a searcher was told of; L lines (`calibration_steps`).
"""

import abc
from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calsheq_jax import calsheq, experiments, minibatches, pairs, ppo, shared_game
from calsheq_jax.search import History, Search
from calsheq_jax.targets import goals_of
from launch.runtime import loop, parallel, stopping, writers
from launch.runtime.flags import UsageError
from launch.training import calibration_steps, calibration_summary
from launch.training.calibration_run import Run

# Uses of random keys; the place of a use in this list is folded into the seed's key.
_KEYS = (
    "init", "stages", "judge", "certificate", "hidden", "hidden_init", "hidden_stages", "targets",
    "check", "choose", "rest", "last_rest",
)


class Saved(NamedTuple):
  """The contents of a checkpoint."""

  learners: Any  # [L] a calsheq.State, or a searcher's shared policy as ppo.State
  goals: jax.Array  # [S, K]
  answer: jax.Array  # [S, d] coordinates of the right profile; NaN if it is not known
  answer_reward: jax.Array  # [S] reward of the hidden profile; NaN if there is none
  held: jax.Array  # [S, d] coordinates of the profile that a searcher has held last
  points: jax.Array  # [S, t, d]
  scores: jax.Array  # [S, t]
  kept: Any = None  # [S] pairs.Kept, the best pair that was checked; None in a search


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
  def _first(self) -> tuple[Any, Any]:
    """Makes the first learners [L] and the kept pairs [S], or None in their place."""

  @abc.abstractmethod
  def _learners(self, done: int) -> tuple[Any, Any]:
    """The shapes of the learners and of the kept pairs when `done` stages are over."""

  @abc.abstractmethod
  def _told(self, done: int) -> int:
    """The number of profiles that a searcher was told of when `done` stages are over, t."""

  @abc.abstractmethod
  def stage(self, saved: Saved) -> int:
    """The number of stages that a state has had."""

  @abc.abstractmethod
  def candidates(self, saved: Saved) -> pairs.Pair:
    """The candidates for the result of each seed, [S, c]."""

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
    learners, kept = self._first()
    return Saved(
        learners, goals, answer, answer_reward,
        held=jnp.zeros((seeds, size)),
        points=jnp.zeros((seeds, 0, size)),
        scores=jnp.zeros((seeds, 0)),
        kept=kept,
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
      shared, _ = calibration_steps.trial(problem, config, count, mesh)(shared, *there)
    judge = calibration_steps.judge(problem, config, 4 * plan.judge_episodes)
    agent = parallel.gather(shared.agent)
    goals = judge(agent, keys["targets"], answer, goals)["values"]
    # The end of the run is judged on the same episodes as this reward.
    return answer, goals, judge(agent, keys["judge"], answer, goals)["reward"]

  def like(self, done: int) -> Saved:
    problem = self._run.problem  # made here, because tracing must not make its arrays
    seeds, size, told = self._run.plan.seeds, problem.space.size, self._told(done)

    def array(*shape):
      return jax.ShapeDtypeStruct((seeds, *shape), jnp.float32)

    learners, kept = self._learners(done)
    return Saved(
        learners, array(len(problem.targets)), array(size), array(), array(size),
        array(told, size), array(told), kept,
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

  def _row(
      self, state: Saved, pair: pairs.Pair, done: int, metrics: Mapping[str, np.ndarray]
  ) -> loop.Row:
    """The row of metrics of a chunk that ends after `done` stages with a pair of each seed, [S]."""
    judged = self._judged(pair, state.goals, "judge")
    row = calibration_summary.row(self._run, metrics, judged)
    return row | {"env_steps": float(self._run.env_steps(done))}

  def _judged(
      self, pair: pairs.Pair, goals: jax.Array, use: str, times: int = 1
  ) -> dict[str, np.ndarray]:
    """Judges pairs of each seed on `times` times --judge_episodes.

    Args:
      pair: [L]; L is a multiple of S, and the rows of a seed are neighbours.
      goals: [S, K].
      use: the use of the random key, one of _KEYS.
      times: factor on the number of episodes.

    Returns:
      The result of `calsheq.judge`, [L].
    """
    run = self._run
    judge = calibration_steps.judge(run.problem, run.config, times * run.plan.judge_episodes)
    given = parallel.gather((pair.shared.agent, pair.point, goals))
    agents, points, goals = jax.tree.map(jnp.asarray, given)
    each = len(points) // run.plan.seeds
    keys, goals = calibration_steps.repeated((self._keys[use], goals), each)
    return jax.tree.map(np.asarray, judge(agents, keys, points, goals))

  def _result(self, saved: Saved) -> tuple[pairs.Pair, dict[str, np.ndarray]]:
    """Makes the results of a finished run (`pairs`): pairs [S], and their origins as metrics."""
    config, goals = self._run.config, parallel.gather(saved.goals)
    candidates = parallel.gather(self.candidates(saved))
    each, margin = candidates.point.shape[1], config.rest_margin
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), candidates)
    rested = self._rested(flat, goals, "rest", config.rest)
    rewards = [self._judged(x, goals, "choose", times=4)["reward"] for x in (rested, flat)]
    choose = functools.partial(pairs.choose, margin=margin)
    chosen = np.asarray(jax.vmap(choose)(*(jnp.reshape(x, (-1, each)) for x in rewards)))
    join = calibration_steps.beside(len(chosen))
    pair = calibration_steps.taken(jax.tree.map(join, rested, flat), chosen)
    last = self._rested(pair, goals, "last_rest", config.last_rest)
    before = calibration_steps.taken(join(*rewards), chosen)
    after = self._judged(last, goals, "choose", times=4)["reward"]
    longer = jax.vmap(functools.partial(pairs.longer, margin=margin))
    origin = {"candidate": chosen.astype(float), "rested": (chosen < each).astype(float)}
    return longer(pair, last, jnp.asarray(before), jnp.asarray(after)), origin

  def _rested(self, given: pairs.Pair, goals: jax.Array, use: str, updates: int) -> pairs.Pair:
    """Lets pairs [L] rest, with the random keys of a use; the arguments are as in `_judged`."""
    each = len(given.point) // self._run.plan.seeds
    keys, goals = calibration_steps.repeated((self._keys[use], goals), each)
    rest = calibration_steps.rest(self._run.problem, self._run.config, updates, self._mesh)
    return parallel.gather(rest(*parallel.replicate((given, keys, goals), self._mesh)))

  def evaluate(self, state: Saved) -> loop.Row:
    """Judges the result of the run, with certificates; {} before the end."""
    if self.stage(state) < self.total:
      return {}
    pair, origin = self._result(state)
    judged = self._judged(pair, state.goals, "judge", times=4)
    numbers = calibration_summary.final_numbers(self._run, judged, np.asarray(state.goals))
    numbers |= origin
    answer = np.asarray(state.answer)
    if np.isfinite(answer).all():
      numbers["distance"] = np.abs(pair.point - answer).mean(-1) / 2
    if self._run.experiment.hidden:
      numbers["answer_reward"] = np.asarray(state.answer_reward)
    if self._run.plan.certify:
      numbers |= calibration_summary.certificate_numbers(self._certify(pair))
    return calibration_summary.final_row(numbers)

  def _certify(self, pair: pairs.Pair) -> shared_game.Certificate:
    """Certificates of the shared policies at their profiles, [S]."""
    run, plan = self._run, self._run.plan
    certify = calibration_steps.certifier(
        run.problem, run.config, plan.response_updates, plan.response_episodes,
        4 * plan.judge_episodes, self._mesh,
    )
    given = parallel.replicate(
        (pair.shared.agent, self._keys["certificate"], pair.point), self._mesh
    )
    return parallel.gather(certify(*given))


class Calibrating(_Training):
  """CALSHEQ: stages of Algorithm 1 in chunks, first of all starts and then of the best one."""

  longer = "to go on give more --stages"

  def _lines(self, done: int) -> int:
    """The number of starts of a seed that are alive when `done` stages are over."""
    config = self._run.config
    return config.starts if done < config.trial else 1

  def _starts(self, keys: jax.Array, count: int) -> jax.Array:
    """Keys of all starts of all seeds, [S] -> [S count]."""
    return jax.vmap(lambda key: pairs.start_keys(key, count))(keys).reshape(-1)

  def _make(self, key):
    return calsheq.init(key, self._run.problem, self._run.config)

  def _first(self):
    learners = jax.jit(jax.vmap(self._make))(self._starts(self._keys["init"], self._lines(0)))
    ones = jax.tree.map(lambda x: x[:: self._lines(0)], learners)
    return learners, jax.vmap(pairs.unchecked)(ones)

  def _learners(self, done: int):
    learners, kept = jax.eval_shape(self._first)
    rows = self._run.plan.seeds * self._lines(done)

    def resized(x):
      return jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype)

    return jax.tree.map(resized, learners), kept

  def _told(self, done: int) -> int:
    del done
    return 0

  def stage(self, saved: Saved) -> int:
    return int(np.asarray(saved.learners.shared.step)[0])

  def candidates(self, saved: Saved) -> pairs.Pair:
    learners, kept = jax.tree.map(jnp.asarray, parallel.gather((saved.learners, saved.kept)))
    if len(learners.recent) > self._run.plan.seeds:
      learners, _, _ = self._best(learners, saved.goals)
    return jax.vmap(pairs.candidates)(learners, kept)

  def _best(self, learners: calsheq.State, goals, times: int = 1):
    """Chooses the best start of each seed.

    Returns:
      The learners [S], the rewards [S] on the episodes of checks, and the indices [S].
    """
    judged = self._judged(pairs.of_state(learners), goals, "check", times)
    rewards = judged["reward"].reshape(self._run.plan.seeds, -1)
    return calibration_steps.taken(learners, rewards.argmax(1)), rewards.max(1), rewards.argmax(1)

  def describe(self, state: Saved, done: int) -> Sequence[str]:
    first, *more = super().describe(state, done)
    config = self._run.config
    assumption = "holds" if config.two_timescales else "is not met"
    first_rate, last_rate = (config.rate_ratio(m) for m in (0, self.total - 1))
    ratio = (
        f"Assumption 2 {assumption}; learning rate of the calibrator over that of the shared"
        f" policy: {first_rate:.2g} at first, {last_rate:.2g} at the end"
    )
    return [first, ratio, *more]

  def advance(self, state: Saved, done: int) -> tuple[Saved, int, loop.Row]:
    run, lines, trial = self._run, self._lines(done), self._run.config.trial
    count = min(run.options.report_every, self.total - done)
    if lines > 1:
      count = min(count, trial - done)
    chunk = calibration_steps.stages(run.problem, run.config, count, self._mesh)
    keys = self._starts(self._keys["stages"], lines)
    given = parallel.replicate((keys, calibration_steps.repeated(state.goals, lines)), self._mesh)
    learners, metrics = chunk(state.learners, *given)
    done += count
    over = lines > 1 and done == trial
    host = jax.tree.map(jnp.asarray, parallel.gather(learners))
    best, rewards, chosen = self._best(host, state.goals, times=4 if over else 1)
    kept = jax.jit(jax.vmap(pairs.keep))(
        jax.tree.map(jnp.asarray, parallel.gather(state.kept)), best, rewards
    )
    state = state._replace(
        learners=parallel.replicate(best, self._mesh) if over else learners,
        kept=parallel.replicate(kept, self._mesh),
    )
    metrics = calibration_steps.taken(parallel.gather(metrics), chosen)
    return state, done, self._row(state, pairs.of_state(best), done, metrics)


class Searching(_Training):
  """The baselines: trials of profiles that searchers choose, with one searcher for each seed."""

  longer = "to go on give another --out, too"

  def __init__(self, run: Run, **more):
    super().__init__(run, **more)
    seeds = range(run.plan.seed, run.plan.seed + run.plan.seeds)
    self._search = Search(run.plan.method, run.trials, run.problem.space.origin(), seeds)

  def _make(self, key):
    # The first half of the key gives the same policy as in CALSHEQ's first start with this seed.
    shared_key = jax.random.split(key)[0]
    return calsheq.init_shared(shared_key, self._run.problem.env, self._run.config)

  def _first(self):
    return jax.jit(jax.vmap(self._make))(self._keys["init"]), None

  def _learners(self, done: int):
    del done
    return jax.eval_shape(self._first)

  def _told(self, done: int) -> int:
    return self._run.trials.told_after(done)

  def stage(self, saved: Saved) -> int:
    return int(np.asarray(saved.learners.step)[0])

  def candidates(self, saved: Saved) -> pairs.Pair:
    pair = pairs.Pair(saved.learners, saved.held)
    return jax.tree.map(lambda x: jnp.asarray(x)[:, None], parallel.gather(pair))

  def place(self, state: Saved) -> Saved:
    self._search.replay(History(np.asarray(state.points), np.asarray(state.scores)))
    return super().place(state)

  def advance(self, state: Saved, done: int) -> tuple[Saved, int, loop.Row]:
    run, space, hold = self._run, self._run.problem.space, self._run.plan.hold
    points = self._search.ask(done)
    before = np.asarray(state.held) if done else np.tile(space.origin(), (len(points), 1))
    trial = calibration_steps.trial(run.problem, run.config, hold, self._mesh)
    held = parallel.replicate(points, self._mesh)
    keys = parallel.replicate(self._keys["stages"], self._mesh)
    shared, metrics = trial(state.learners, keys, held, state.goals)
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
    return state, done, self._row(state, pairs.Pair(shared, held), done, metrics)


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
