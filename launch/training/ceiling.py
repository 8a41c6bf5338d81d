"""The work of `launch.checks.ceiling`: the best reward of each experiment at an equilibrium.

A search of one experiment is a `loop.Training` whose unit is a generation. Generation 0 trains and
scores the starts. CMA-ES then begins at the best of them. At the end, finalists are trained longer
and judged on fresh episodes, from which nobody has chosen (`Search.evaluate`).

Glossary: N profiles side by side, d numbers that are calibrated, K targets, g generations.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calsheq_jax import calsheq, ceiling, ceiling_starts, experiments, policy, ppo, shared_game
from calsheq_jax.experiments import Experiment
from calsheq_jax.searchers import Evolution
from calsheq_jax.targets import goals_of
from launch.runtime import flags, loop, writers
from launch.runtime.flags import UsageError
from launch.training import ceiling_report

# Uses of random keys; the place of a use in this list is folded into the seed's key.
_KEYS = ("init", "search", "final", "choice", "report", "certificate", "fill")

# Largest coordinate of the point at which CMA-ES begins.
_INSIDE = 0.998

# Distance to a bound, in half-widths of the box, at which a coordinate of that point counts as being
# there by design.
_AT_BOUND = 0.05

# Factor of the first standard deviation of such coordinates: if all of them left their bounds as far
# as others move, the design would be lost.
_BOUND_SPREAD = 0.1

# Number of the best seeds of a run whose profiles are starts.
_BEST_SEEDS = 2


@dataclasses.dataclass(frozen=True)
class Plan:
  """The size of a search, the same for all experiments."""

  out: pathlib.Path = flags.field(
      pathlib.Path("out/ceiling"),
      "Directory of the results, with a directory for each experiment.",
      metavar="DIRECTORY",
  )
  experiments: tuple[str, ...] = flags.field(
      ("1", "3", "5", "2", "4"), "Experiments.", metavar="NAME,..."
  )
  runs: tuple[str, ...] = flags.field(
      (), "Directories of finished runs of calsheq_train, whose profiles are starts, too.",
      metavar="DIRECTORY,...",
  )
  seed: int = flags.field(0, "Seed of the search.")
  population: int = flags.field(12, "Number of profiles of a generation.")
  generations: int = flags.field(
      100, "Number of generations of the whole search, with that of the starts."
  )
  spread: float = flags.field(
      0.1, "Standard deviation of the first generation of CMA-ES, in half-widths of the box; numbers"
      " that start at a bound have a tenth of it."
  )
  episodes: int = flags.field(32, "Number of episodes of an update of a shared policy.")
  start_updates: int = flags.field(80, "Number of updates at each start.")
  updates: int = flags.field(6, "Number of updates at each further profile.")
  judge_episodes: int = flags.field(192, "Number of held-out episodes that score a profile.")
  together: int = flags.field(
      1, "Number of profiles that learn in one call, a divisor of --population; all of them on an"
      " accelerator, and one on a CPU, is fastest."
  )
  final_updates: int = flags.field(300, "Number of updates at each finalist.")
  final_episodes: int = flags.field(
      1024, "Number of held-out episodes that choose among the finalists, and of those that judge"
      " the winner."
  )
  response_updates: int = flags.field(120, "Number of updates of the deviator of the certificate.")
  customers: int | None = flags.field(
      None,
      "Number of customers in each cluster of the market, if it differs from the experiment's.",
  )
  horizon: int | None = flags.field(
      None, "Number of steps in an episode of the market, if it differs from the experiment's."
  )

  def __post_init__(self):
    flags.at_least_one(
        self, "generations", "start_updates", "updates", "final_updates", "response_updates"
    )
    for field, least in (("population", 4), ("judge_episodes", 2), ("final_episodes", 16)):
      if getattr(self, field) < least:
        raise ValueError(f"{field}={getattr(self, field)} must be at least {least}")
    if self.together < 1 or self.population % self.together:
      raise ValueError(
          f"together={self.together} must divide the population of {self.population} profiles"
      )
    if self.seed < 0:
      raise ValueError(f"seed={self.seed} must be at least 0")
    if not 0 < self.spread <= 1:
      raise ValueError(f"spread={self.spread} must be positive and at most 1")
    if not self.experiments:
      raise ValueError("experiments=: name one or more")
    for name in self.experiments:
      self.chosen(name)

  def chosen(self, name: str) -> Experiment:
    """An experiment, with another market if one was asked for.

    Raises:
      ValueError: the experiment is unknown, its goals come from a hidden profile, it is not about
        the market though another market was asked for, or the market refuses a size.
    """
    experiment = experiments.named(name)
    if experiment.hidden:
      raise ValueError(
          f"experiments={name}: its goals differ from seed to seed, and the hidden profile's own"
          " reward is its mark"
      )
    sizes = {"customers": self.customers, "horizon": self.horizon}
    changes = {key: size for key, size in sizes.items() if size is not None}
    return experiments.resized(experiment, **changes) if changes else experiment


class Saved(NamedTuple):
  """The contents of a checkpoint."""

  shared: ppo.State  # [N] policies of the last generation
  parents: jax.Array  # [N, d] coordinates of the last generation
  points: jax.Array  # [g, N, d] coordinates of all generations
  scores: jax.Array  # [g, N]


# Compiled functions, cached by their arguments.


@functools.cache
def _generation(problem, config, judge_episodes):
  """(shared [M], parents [M, d], points [N, d], key, goals, updates) -> `ceiling.generation`."""

  def run(shared, parents, points, key, goals, updates):
    return ceiling.generation(
        shared, parents, points, key, goals, problem, config, updates, judge_episodes
    )

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

  def certify(agent, key, point):
    return shared_game.certify(
        env, net, agent, key, problem.space.profile(point), config.shared,
        updates=updates, episodes=config.episodes, judge_episodes=judge_episodes,
    )

  return jax.jit(certify)


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
    self._starts = self._read_starts()
    self._evolution: Evolution | None = None

  # Starts.

  def _read_starts(self) -> np.ndarray:
    """Coordinates [N, d]: profiles of runs, designs, the experiment's own start, random ones."""
    space, plan = self._problem.space, self._plan
    found = [
        *(point for run in plan.runs for point in _profiles(run, self._experiment)),
        *ceiling_starts.starts(self._experiment),
        space.origin(),
    ]
    found = found[: plan.population]
    missing = plan.population - len(found)
    rest = jax.random.uniform(self._keys["fill"], (missing, space.size), jnp.float32, -1, 1)
    return np.concatenate([np.array(found, np.float32), np.asarray(rest)])

  # The protocol of the loop.

  def metadata(self) -> dict[str, Any]:
    plan = dataclasses.asdict(self._plan)
    own = {
        name: plan[name]
        for name in ("seed", "population", "spread", "episodes", "start_updates", "updates",
                     "judge_episodes")
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
      self, state: Saved, points: np.ndarray, key: jax.Array, updates: int
  ) -> tuple[ppo.State, dict[str, np.ndarray]]:
    """Does `ceiling.generation` at points [N, d], as many at a time as --together says."""
    step = _generation(self._problem, self._config, self._plan.judge_episodes)
    width = self._plan.together
    padded = np.concatenate([points, np.repeat(points[-1:], -len(points) % width, axis=0)])
    parts = []
    for first in range(0, len(padded), width):
      rows = padded[first : first + width]
      parts.append(step(state.shared, state.parents, rows, key, self._goals, updates))
    both = jax.tree.map(lambda *x: jnp.concatenate(x)[: len(points)], *parts)
    return both[0], jax.tree.map(np.asarray, both[1])

  def advance(self, state: Saved, done: int) -> tuple[Saved, int, loop.Row]:
    plan = self._plan
    points, updates = self._starts, plan.start_updates
    if self._evolution is not None:
      points, updates = self._evolution.generation().astype(np.float32), plan.updates
    key = jax.random.fold_in(self._keys["search"], done)
    shared, judged = self._train(state, points, key, updates)
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
    first = plan.start_updates * plan.episodes + plan.judge_episodes
    final = plan.final_updates * plan.episodes + plan.judge_episodes + plan.final_episodes
    profiles = (generations - 1) * each + first
    total = plan.population * profiles + ceiling_report.FINALISTS * final + plan.final_episodes
    return total / ceiling_report.CALIBRATION_EPISODES

  # The end.

  def evaluate(self, state: Saved) -> loop.Row:
    """Trains the finalists longer and judges the winner on fresh episodes; {} before the end."""
    if len(state.points) < self.total:
      return {}
    return ceiling_report.flat(self.result(state))

  def finalists(self, state: Saved) -> np.ndarray:
    """Coordinates [FINALISTS, d]: the centre of the search, and its best point, the best start."""
    points, scores = np.asarray(state.points), np.asarray(state.scores)
    assert self._evolution is not None
    flat, order = points.reshape(-1, points.shape[-1]), np.argmax(scores)
    start = points[0, np.argmax(scores[0])]
    return np.stack([self._evolution.centre().astype(np.float32), flat[order], start])

  def result(self, state: Saved) -> ceiling_report.Final:
    """The winner of the finalists, described and certified."""
    plan, problem = self._plan, self._problem
    points = self.finalists(state)
    self._say(f"training {len(points)} finalists, {plan.final_updates} updates each")
    shared, _ = self._train(state, points, self._keys["final"], plan.final_updates)
    describe = _describer(problem, self._config, plan.final_episodes)
    agents = [jax.tree.map(lambda x, i=i: x[i], shared.agent) for i in range(len(points))]
    scores = np.array([
        describe(agent, self._keys["choice"], point, self._goals).reward
        for agent, point in zip(agents, points)
    ])
    winner = int(np.argmax(scores))
    agent, point = agents[winner], jnp.asarray(points[winner])
    detail = describe(agent, self._keys["report"], point, self._goals)
    certify = _certifier(problem, self._config, plan.response_updates, plan.final_episodes // 4)
    certificate = certify(agent, self._keys["certificate"], point)
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


def _profiles(directory: str, experiment: Experiment) -> list[np.ndarray]:
  """Coordinates [d] of the profiles of the best seeds of a run of calsheq_train.

  A run of another experiment gives none.

  Raises:
    UsageError: the directory holds no finished run, or its profiles have other numbers.
  """
  path = pathlib.Path(directory) / "summary.json"
  try:
    summary = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise UsageError(f"--runs: {path} is no summary of a finished run: {error}") from error
  if summary["experiment"] != experiment.name:
    return []
  space = experiment.problem().space
  if tuple(summary["profile"]) != space.names:
    raise UsageError(f"--runs: the profile of {path} has other numbers than the experiment")
  seeds = sorted(summary["seeds"], key=lambda seed: -seed["reward"])[:_BEST_SEEDS]
  return [
      np.clip(
          space.from_numbers(np.array([seed[f"profile/{n}"] for n in space.names], np.float32)),
          -1, 1,
      )
      for seed in seeds
  ]


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
