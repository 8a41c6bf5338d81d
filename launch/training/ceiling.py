"""The work of `launch.checks.ceiling`: the best reward of each experiment at an equilibrium.

A search of one experiment is a `loop.Training` whose unit is a generation. The first generation
trains and scores the starts; designed ones are corrected in the meantime. CMA-ES begins at the best
of them. At the end, finalists are trained longer and judged on fresh episodes, from which nobody
has chosen (`Search.result`).

Glossary: N profiles side by side, d numbers that are calibrated, K targets, g generations, C
clusters of the market.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calsheq_jax import calsheq, ceiling, ceiling_starts, policy, ppo, rollout
from calsheq_jax.searchers import Evolution
from calsheq_jax.shared_game import certify
from calsheq_jax.targets import goals_of
from launch.runtime import loop, writers
from launch.runtime.flags import UsageError
from launch.training import ceiling_report
from launch.training.ceiling_run import Plan, profiles_of

# Uses of random keys; the place of a use in this list is folded into the seed's key.
_KEYS = ("init", "search", "final", "choice", "report", "certificate", "fill")

# Largest coordinate of the point at which CMA-ES begins.
_INSIDE = 0.998

# Distance to a bound, in half-widths of the box, at which a coordinate of that point counts as
# being there by design.
_AT_BOUND = 0.05

# Factor of the first standard deviation of such coordinates: if all of them left their bounds as
# far as others move, the design would be lost.
_BOUND_SPREAD = 0.1

# Power of the first correction of a design, and number of rounds after which it has halved.
_STEERING, _STEERING_DELAY = 0.5, 15

# Number of last rounds without corrections, whose mean reward is the score of a start.
_LAST_ROUNDS = 5

# Number of rounds between two lines about the starts.
_SAID_EVERY = 5


class Saved(NamedTuple):
  """The contents of a checkpoint."""

  shared: ppo.State  # [N] policies of the last generation
  parents: jax.Array  # [N, d] coordinates of the last generation
  points: jax.Array  # [g, N, d] coordinates of all generations
  scores: jax.Array  # [g, N]


# Compiled functions, cached by their arguments.


@functools.cache
def _generation(problem, config, judge_episodes, falling):
  """(shared [N], points [N, d], key, goals, updates) -> `ceiling.generation`."""

  def run(shared, points, key, goals, updates):
    return ceiling.generation(
        shared, points, key, goals, problem, config, updates, judge_episodes, falling
    )

  return jax.jit(run)


@functools.cache
def _shown(problem, config, count):
  """(agent, key, point [d]) -> `ceiling_starts.shown` [2, C] of `count` episodes."""
  net = policy.for_environment(problem.env, config.network)

  def run(agent, key, point):
    profiles = rollout.repeated(problem.space.profile(point), count)
    played = rollout.collect(problem.env, net, agent, key, profiles)
    return ceiling_starts.shown(problem, played.states)

  return jax.jit(run)


@functools.cache
def _describer(problem, config, count):
  """(agent, key, point [d], goals) -> `ceiling.Detail` of `count` episodes."""

  def run(agent, key, point, goals):
    return ceiling.detail(agent, key, point, goals, problem, config, count)

  return jax.jit(run)


@functools.cache
def _certifier(problem, config, updates, judge_episodes):
  """(agent, key, point [d]) -> `shared_game.Certificate`."""
  env = problem.env
  net = policy.for_environment(env, config.network)

  def run(agent, key, point):
    return certify(
        env, net, agent, key, problem.space.profile(point), config.shared,
        updates=updates, episodes=config.episodes, judge_episodes=judge_episodes,
    )

  return jax.jit(run)


class Search(loop.Training):
  """The search of one experiment."""

  unit = "generations"
  shown = ("score/best", "score/mean", "spread")
  longer = "to go on give more --generations"

  def __init__(self, name: str, plan: Plan, say: Callable[[str], None]):
    """Prepares the search.

    Raises:
      UsageError: episodes do not divide into minibatches, there are more starts than the population
        has places, or a run of --runs is not finished or of another space.
    """
    self.total = plan.generations
    self._plan, self._say = plan, say
    self._experiment = plan.chosen(name)
    self._problem = self._experiment.problem()
    self._config = calsheq.Config(episodes=plan.episodes)
    try:
      self._config.check(self._problem.env)
    except ValueError as error:
      raise UsageError(f"--episodes: {error}") from error
    self._goals = goals_of(self._problem.targets)
    key = jax.random.key(plan.seed)
    self._keys = {kind: jax.random.fold_in(key, i) for i, kind in enumerate(_KEYS)}
    self._starts, self._wanted = self._read_starts()
    self._evolution: Evolution | None = None

  # Starts.

  def _read_starts(self) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Profiles of runs, designs, the experiment's own start, and random ones.

    Returns:
      Coordinates [N, d]; and the customers that designs want, by their places among the starts.
    """
    space, plan = self._problem.space, self._plan
    found = [point for run in plan.runs for point in profiles_of(run, self._experiment)]
    designs = ceiling_starts.starts(self._experiment)[: max(0, plan.population - len(found))]
    wanted = {len(found) + i: design.wanted for i, design in enumerate(designs)}
    found = [*found, *(design.point for design in designs), space.origin()][: plan.population]
    missing = plan.population - len(found)
    rest = jax.random.uniform(self._keys["fill"], (missing, space.size), jnp.float32, -1, 1)
    return np.concatenate([np.array(found, np.float32), np.asarray(rest)]), wanted

  # The protocol of the loop.

  def metadata(self) -> dict[str, Any]:
    plan = dataclasses.asdict(self._plan)
    own = {
        name: plan[name]
        for name in ("seed", "population", "spread", "episodes", "start_updates", "steer_every",
                     "updates", "judge_episodes")
    }
    env = repr(self._problem.env)
    return {"settings": own | {"experiment": self._experiment.name, "env": env}}

  def init(self) -> Saved:
    count, size = self._starts.shape

    def make(key):
      return calsheq.init_shared(key, self._problem.env, self._config)

    return Saved(
        jax.jit(jax.vmap(make))(jax.random.split(self._keys["init"], count)),
        jnp.asarray(self._starts),
        jnp.zeros((0, count, size)),
        jnp.zeros((0, count)),
    )

  def like(self, done: int) -> Saved:
    count, size = self._starts.shape
    fresh = jax.eval_shape(self.init)
    return fresh._replace(
        points=jax.ShapeDtypeStruct((done, count, size), jnp.float32),
        scores=jax.ShapeDtypeStruct((done, count), jnp.float32),
    )

  def describe(self, state: Saved, done: int) -> Sequence[str]:
    return [
        f"{self._experiment.name}: {self._experiment.about}; generations {done} to {self.total} of"
        f" {len(self._starts)} profiles, {self.calibrations(self.total):.1f} times the steps of a"
        " calibration"
    ]

  def place(self, state: Saved) -> Saved:
    state = jax.tree.map(jnp.asarray, state)
    self._evolution = None
    for points, scores in zip(np.asarray(state.points), np.asarray(state.scores)):
      self._tell(points, scores)
    return state

  def _tell(self, points: np.ndarray, scores: np.ndarray) -> None:
    """Tells the search the scores [N] of a generation at points [N, d], at first of the starts."""
    if self._evolution is None:
      best = points[np.argmax(scores)]
      at_bound = np.abs(best) > 1 - _AT_BOUND
      spread = self._plan.spread * np.where(at_bound, _BOUND_SPREAD, 1.0)
      start = np.clip(best, -_INSIDE, _INSIDE)
      self._evolution = Evolution(
          len(best), self._plan.seed, start, spread, self._plan.population
      )
      return
    for point, score in zip(points, scores):
      self._evolution.tell(point, float(score))

  def _train(
      self,
      shared: ppo.State,
      points: np.ndarray,
      key: jax.Array,
      updates: int,
      falling: bool = False,
  ) -> tuple[ppo.State, dict[str, np.ndarray]]:
    """Does `ceiling.generation` at points [N, d], as many at a time as --together says."""
    step = _generation(self._problem, self._config, self._plan.judge_episodes, falling)
    width, count = self._plan.together, len(points)
    rows = np.minimum(np.arange(count + -count % width), count - 1)  # the last one fills up
    parts = []
    for first in range(0, len(rows), width):
      chosen = rows[first : first + width]
      policies = jax.tree.map(lambda x, chosen=chosen: x[chosen], shared)
      parts.append(step(policies, points[chosen], key, self._goals, updates))
    both = jax.tree.map(lambda *x: jnp.concatenate(x)[:count], *parts)
    return both[0], jax.tree.map(np.asarray, both[1])

  def _train_starts(
      self, shared: ppo.State, key: jax.Array
  ) -> tuple[ppo.State, np.ndarray, dict[str, np.ndarray]]:
    """Trains at the starts, and corrects the designed ones after every --steer_every updates.

    Returns:
      The policies [N], the corrected starts [N, d], and the judged numbers [N], which are means
      over the last rounds, so that a policy that is on the way elsewhere does not win by chance.
    """
    plan, points = self._plan, self._starts.copy()
    show = _shown(self._problem, self._config, plan.episodes)
    count = -(-plan.start_updates // plan.steer_every)
    rounds: list[dict[str, np.ndarray]] = []
    for turn in range(count):
      key_of_turn = jax.random.fold_in(key, turn)
      shared, judged = self._train(shared, points, key_of_turn, plan.steer_every)
      rounds.append(judged)
      if turn % _SAID_EVERY == 0 or turn == count - 1:
        self._say(f"starts, round {turn + 1} of {count}: {judged['reward'].round(3).tolist()}")
      for place, wanted in self._wanted.items() if turn < count - _LAST_ROUNDS else ():
        agent = jax.tree.map(lambda x, place=place: x[place], shared.agent)
        seen = np.asarray(show(agent, key_of_turn, points[place]))
        rate = _STEERING / (1 + turn / _STEERING_DELAY)
        points[place] = ceiling_starts.steered(
            self._problem.space, points[place], wanted, seen, rate
        )
    last = rounds[-_LAST_ROUNDS:]
    return shared, points, {name: np.mean([one[name] for one in last], 0) for name in last[0]}

  def advance(self, state: Saved, done: int) -> tuple[Saved, int, loop.Row]:
    plan = self._plan
    key = jax.random.fold_in(self._keys["search"], done)
    if self._evolution is None:
      shared, points, judged = self._train_starts(state.shared, key)
    else:
      points = self._evolution.generation().astype(np.float32)
      inherited = ceiling.inherit(state.shared, state.parents, jnp.asarray(points))
      shared, judged = self._train(inherited, points, key, plan.updates)
    scores = np.asarray(judged["reward"])
    if not np.isfinite(scores).all():
      raise FloatingPointError(f"a score of generation {done} is not finite")
    self._tell(points, scores)
    state = Saved(
        shared,
        jnp.asarray(points),
        jnp.concatenate([state.points, points[None]]),
        jnp.concatenate([state.scores, scores[None]]),
    )
    assert self._evolution is not None
    best = int(np.argmax(scores))
    row = {
        "score/best": float(scores.max()),
        "score/mean": float(scores.mean()),
        "score/of_means": float(judged["reward_of_means"][best]),
        "spread": self._evolution.spread(),
        "calibrations": self.calibrations(done + 1),
    }
    return state, done + 1, row

  def calibrations(self, generations: int) -> float:
    """Episodes of a search of so many generations, finals included, over those of a calibration.

    A calibration has 400 stages of 64 episodes. Certificates are left out on both sides.
    """
    plan = self._plan
    each = plan.updates * plan.episodes + plan.judge_episodes
    rounds = -(-plan.start_updates // plan.steer_every)
    first = rounds * (plan.steer_every * plan.episodes + plan.judge_episodes)
    # Each correction of a design plays further episodes.
    steering = len(self._wanted) * max(0, rounds - _LAST_ROUNDS) * plan.episodes
    final = plan.final_updates * plan.episodes + plan.judge_episodes + plan.final_episodes
    profiles = (generations - 1) * each + first
    ends = ceiling_report.FINALISTS * final + plan.final_episodes
    total = plan.population * profiles + steering + ends
    return total / ceiling_report.CALIBRATION_EPISODES

  # The end.

  def evaluate(self, state: Saved) -> loop.Row:
    """Trains the finalists longer and judges the winner on fresh episodes; {} before the end."""
    if len(state.points) < self.total:
      return {}
    return ceiling_report.flat(self.result(state))

  def finalists(self, state: Saved) -> np.ndarray:
    """Coordinates [FINALISTS, d]: the centre of the search, its best point, and the best start.

    Without a search after the starts, they are the best starts.
    """
    points, scores = np.asarray(state.points), np.asarray(state.scores)
    order = np.argsort(-scores[0])
    if len(points) == 1:
      return points[0, order[: ceiling_report.FINALISTS]]
    assert self._evolution is not None
    later = points[1:].reshape(-1, points.shape[-1])
    best = later[np.argmax(scores[1:])]
    return np.stack([self._evolution.centre().astype(np.float32), best, points[0, order[0]]])

  def result(self, state: Saved) -> ceiling_report.Final:
    """The winner of the finalists, described and certified."""
    plan, problem = self._plan, self._problem
    points = self.finalists(state)
    self._say(f"training {len(points)} finalists, {plan.final_updates} updates each")
    inherited = ceiling.inherit(state.shared, state.parents, jnp.asarray(points))
    shared, _ = self._train(
        inherited, points, self._keys["final"], plan.final_updates, falling=True
    )
    describe = _describer(problem, self._config, plan.final_episodes)
    agents = [jax.tree.map(lambda x, i=i: x[i], shared.agent) for i in range(len(points))]
    scores = np.array([
        describe(agent, self._keys["choice"], point, self._goals).reward
        for agent, point in zip(agents, points)
    ])
    winner = int(np.argmax(scores))
    agent, point = agents[winner], jnp.asarray(points[winner])
    detail = describe(agent, self._keys["report"], point, self._goals)
    judge = _certifier(problem, self._config, plan.response_updates, plan.final_episodes // 4)
    certificate = judge(agent, self._keys["certificate"], point)
    return ceiling_report.Final(
        jax.tree.map(np.asarray, detail),
        np.asarray(problem.space.numbers(point)),
        jax.tree.map(np.asarray, certificate),
        scores,
        float(np.asarray(state.scores)[0].max()),
    )

  def entry(self, row: Mapping[str, float], seconds: float) -> dict[str, Any]:
    """The entry of this experiment in ceiling.json."""
    spent = {
        "generations": self.total,
        "calibrations": self.calibrations(self.total),
        "env_steps": int(
            self.calibrations(self.total)
            * ceiling_report.CALIBRATION_EPISODES * self._problem.env.horizon
        ),
        "seconds": seconds,
    }
    return ceiling_report.entry(self._experiment, self._problem, row) | spent


def find(
    plan: Plan,
    *,
    check_stop: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
  """Searches one experiment after another, and writes ceiling.json and ceiling.md after each.

  Searches that are finished are read again; others go on from their last checkpoint.

  Returns:
    The best reward of each experiment.

  Raises:
    UsageError: the directory holds another search, or `Search` refuses the plan.
    stopping.Stopped: raised by check_stop; the state is saved.
  """
  rewards = {}
  for name in plan.experiments:
    check_stop()
    search = Search(name, plan, say)
    options = loop.Options(plan.out / name, report_every=1, save_every=1, keep=2)
    state, row = loop.run(search, options, check_stop=check_stop, say=say)
    rows = writers.read(options.out)
    row = row or {k: v for k, v in rows[-1].items() if k.startswith("final/")}
    if not row:
      row = search.evaluate(state)
    entry = search.entry(row, rows[-1][writers.SECONDS])
    ceiling_report.add(plan.out, name, entry)
    print(ceiling_report.line(name, entry), flush=True)
    rewards[f"reward/{name}"] = entry["reward"]
  print((plan.out / ceiling_report.TABLE).read_text(encoding="utf-8"))
  return rewards
