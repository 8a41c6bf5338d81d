"""Calibration in one call, without files: of an environment with learning agents, or a simulator.

  problem = experiments.named("linear_quadratic").problem()
  result = calsheq_jax.calibrate(problem, stages=600, seed=0)
  print(result.numbers, result.reward, result.epsilon)

  box, observed = {"rate": (0, 1)}, {"mean": 0.4, "variance": 0.1}
  result = calsheq_jax.calibrate(simulator, box, observed, stages=20)
  print(result.report())

With agents this is CALSHEQ, judging and a certificate; `launch.calsheq_train` does the same with
several seeds, checkpoints, metrics, pictures and the baselines. Without agents it is `simulated`.

Glossary: d numbers that are calibrated, K targets, s supertypes, M stages, N judged episodes or
simulations.
"""

from collections.abc import Callable, Mapping
import functools
import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from calsheq_jax import calsheq, course, minibatches, policy, shared_game, simulated, uncertainty
from calsheq_jax import observed as observed_lib
from calsheq_jax import targets as targets_lib
from calsheq_jax.observed import Observed
from calsheq_jax.problem import Problem, parameters, space_of
from calsheq_jax.result import Calibration, named, result_of
from calsheq_jax.targets import goals_of
from calsheq_jax.types import Array
from envs.base import Environment, Profile

# (stages done, metrics of the last stage) -> nothing
Progress = Callable[[int, Mapping[str, Array]], Any]
# Functions from the outputs of an episode or a simulation to a number, by name
Statistics: TypeAlias = Mapping[str, Callable[[Mapping[str, Array]], Any]]


def calibrate(
    simulator: Problem | Environment | simulated.Simulator,
    box: Mapping[str, tuple[float, float]] | None = None,
    observed: Observed | Mapping[str, float] | None = None,
    *,
    config: calsheq.Config | simulated.Config | None = None,
    stages: int,
    seed: int = 0,
    statistics: Statistics | None = None,
    start: Profile | None = None,
    judge_episodes: int = 256,
    response_updates: int = 120,
    response_episodes: int = 64,
    level: float | None = None,
    report_every: int = 10,
    progress: Progress | None = None,
) -> Calibration:
  """Moves parameters until what is simulated meets what was observed.

  The same arguments give the same result on the same machine.

  Args:
    simulator: an environment of `envs.base`, in which agents learn a shared equilibrium; or a
      function (key, theta [d]) -> statistics that JAX can trace, where the statistics are a mapping
      from name to number, or an array in the order of `observed`; or a `Problem`, which says what
      `box` and `observed` say otherwise.
    box: bounds (low, high) by the name of a parameter. For a function, their order is that of
      theta. For an environment, names may be patterns (`fnmatch`) of numbers of the profile, and
      None means all numbers, with the environment's bounds.
    observed: the observed statistics, under the names of what the simulator gives, such as
      "share[0]" for the first number of a vector.
    config: settings, a `calsheq.Config` or for a function a `simulated.Config`; None takes the
      defaults.
    stages: number of stages, M.
    seed: seed of all random numbers.
    statistics: functions from the simulator's outputs (`env.outputs`) to a number, by name, for
      observed statistics that are not among them.
    start: first profile of an environment; numbers that are not in the box keep its values.
    judge_episodes: number N of held-out episodes or simulations on which the result is judged, and
      of those on which each deviation is.
    response_updates: number of updates of the deviator that looks for a profitable deviation; 0
      leaves the certificate out. A function has no agents, and so no certificate.
    response_episodes: number of episodes of each of these updates.
    level: probability of an interval for each calibrated number (`uncertainty`), such as 0.9; None
      leaves them out. The errors of the observed statistics must be known, or their number.
    report_every: number of stages between two calls of `progress`.
    progress: is called with the number of stages done and the metrics of the last stage.

  Returns:
    The result.

  Raises:
    ValueError: an argument cannot be, or does not go with the simulator.
    FloatingPointError: the reward of a stage is not finite, or no simulation of a stage is.
  """
  _at_least(stages=(stages, 1), judge_episodes=(judge_episodes, 4),
            response_updates=(response_updates, 0), report_every=(report_every, 1))
  known: Observed | None = None
  if isinstance(simulator, Problem):
    if not (box is None and observed is None and statistics is None and start is None):
      raise ValueError(
          "a Problem has its box, targets and start already: give `simulator=problem.env` to say"
          " them here, and settings as config=..."
      )
    problem: Problem | simulated.Simulation = simulator
  else:
    if observed is None:
      raise ValueError("observed=None: give the observed statistics, a mapping or an Observed")
    known = observed_lib.observed_of(observed)
    problem = _problem(simulator, box, known, statistics, start)
  _check_level(level, known)
  loop = functools.partial(_loop, report_every=report_every, progress=progress)
  key = jax.random.key(seed)
  if not isinstance(problem, Problem):
    plain = _config_of(config, simulated.Config)
    return _without_agents(problem, plain, known, loop, key, stages, judge_episodes, level)
  learning = _config_of(config, calsheq.Config)
  _check_agents(problem, learning, response_updates, response_episodes)
  return _with_agents(
      problem, learning, known, loop, key, stages, judge_episodes, response_updates,
      response_episodes, level,
  )


def _check_level(level: float | None, observed: Observed | None) -> None:
  """Raises ValueError if intervals are asked for and cannot be."""
  if level is None:
    return
  if not 0 < level < 1:
    raise ValueError(f"level={level} must lie between 0 and 1, such as 0.9")
  if observed is None or (observed.covariance is None and observed.count is None):
    raise ValueError(
        f"level={level}: intervals need the errors of what was observed. Give observed as an"
        " Observed with errors, a covariance or a count"
    )


def _problem(
    simulator: Any,
    box: Mapping[str, tuple[float, float]] | None,
    observed: Observed,
    statistics: Statistics | None,
    start: Profile | None,
) -> Problem | simulated.Simulation:
  """Makes the problem that the arguments of `calibrate` describe."""
  targets = observed_lib.targets_of(observed, statistics)
  if hasattr(simulator, "profile_space"):
    return Problem(space_of(simulator, box, start), targets)
  if not callable(simulator):
    raise ValueError(
        f"the simulator is a {type(simulator).__name__}: give a Problem, an environment of"
        " envs.base, or a function (key, theta) -> statistics"
    )
  if box is None:
    raise ValueError("box=None: a function needs bounds (low, high) of each parameter, by name")
  if start is not None:
    raise ValueError("start is for environments: a function begins with its whole box")
  return simulated.Simulation(simulator, parameters(box), targets, observed.order)


def _config_of(config: Any, kind: type) -> Any:
  """The settings, or the defaults of their kind."""
  if config is None:
    return kind()
  if not isinstance(config, kind):
    raise ValueError(
        f"config is a {type(config).__module__}.{type(config).__name__}: this simulator takes a"
        f" {kind.__module__}.{kind.__name__}"
    )
  return config


def _at_least(**numbers: tuple[int, int]) -> None:
  """Raises ValueError for a number below its least value."""
  for name, (value, least) in numbers.items():
    if value < least:
      raise ValueError(f"{name}={value} must be at least {least}")


def _check_agents(
    problem: Problem, config: calsheq.Config, response_updates: int, response_episodes: int
) -> None:
  """Raises ValueError for settings of the learning that cannot be."""
  config.check(problem.env)
  if response_updates:
    try:
      minibatches.check_batch(problem.env.horizon, response_episodes, config.shared.minibatches)
    except ValueError as error:
      raise ValueError(f"response_episodes: {error}") from error


def _loop(
    advance: Callable[[Any, int], tuple[Any, dict[str, Array]]],
    state: Any,
    advice: str,
    *,
    needed: str,
    stages: int,
    report_every: int,
    progress: Progress | None,
    first: int = 0,
) -> tuple[Any, dict[str, np.ndarray]]:
  """Runs stages in parts.

  Args:
    advance: (state, number of stages) -> new state, metrics of each of these stages.
    state: the first state.
    advice: what to do if the metric called `needed` is not finite.
    needed: name of the metric that must be finite.
    stages: number of stages.
    report_every, progress: as in `calibrate`.
    first: number of stages of the run before these.

  Returns:
    The last state, and the metrics [stages, ...].

  Raises:
    FloatingPointError: the metric is not finite.
  """
  parts = []
  for done in range(0, stages, report_every):
    count = min(report_every, stages - done)
    state, metrics = advance(state, count)
    parts.append(jax.tree.map(np.asarray, metrics))
    if not np.isfinite(parts[-1][needed]).all():
      raise FloatingPointError(
          f"the {needed} is not finite within stages {first + done + 1} to"
          f" {first + done + count}: {advice}"
      )
    if progress is not None:
      progress(first + done + count, {name: x[-1] for name, x in parts[-1].items()})
  return state, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


# Environments, whose agents learn.


def _with_agents(
    problem: Problem,
    config: calsheq.Config,
    observed: Observed | None,
    loop: course.Loop,
    key: Array,
    stages: int,
    judge_episodes: int,
    response_updates: int,
    response_episodes: int,
    level: float | None,
) -> Calibration:
  """Calibrates an environment by Algorithm 1."""
  init_key, stage_key, judge_key, certify_key = jax.random.split(key, 4)
  goals = goals_of(problem.targets)
  state, history, pair = course.run(
      problem, config, goals, init_key, stage_key, loop, stages, judge_episodes
  )
  agent, point = pair.shared.agent, pair.point
  judged = _judge(agent, judge_key, point, goals, problem, config, judge_episodes)
  certificate = None
  if response_updates:
    certificate = _certify(
        agent, certify_key, point, problem, config, response_updates, response_episodes,
        judge_episodes,
    )
  intervals = None
  if level is not None and observed is not None:
    # The observed agents are taken to have learned, too.
    intervals = uncertainty.of_equilibrium(
        problem, config, agent, point, observed.values, jax.random.fold_in(certify_key, 1),
        covariance=observed.covariance, count=observed.count, level=level, learned=True,
    )
  return result_of(
      problem, observed, judged,
      profile=problem.space.profile(point),
      numbers=named(problem.space.names, judged["profile"]),
      supertype_rewards=named(problem.env.supertype_names, judged["supertype_rewards"]),
      epsilon=None if certificate is None else float(certificate.epsilon.mean),
      certificate=certificate,
      history=history,
      state=state,
      coordinates=np.asarray(point),
      agent=agent,
      uncertainty=intervals,
  )


# Jitted once for each problem and config, however often `calibrate` is called.


@functools.partial(jax.jit, static_argnames=("problem", "config", "count"))
def _judge(agent, key, point, goals, problem, config, count):
  """Judges by `calsheq.judge`, one episode a key, so that the values [N, K] of each are known."""

  def episode(key):
    return calsheq.judge(agent, key, point, goals, problem, config, 1)

  each = jax.vmap(episode)(jax.random.split(key, count))
  means = jax.tree.map(lambda x: x.mean(0), each)
  return means | {"values": each["values"]}


@functools.partial(
    jax.jit, static_argnames=("problem", "config", "updates", "episodes", "judge_episodes")
)
def _certify(agent, key, point, problem, config, updates, episodes, judge_episodes):
  env = problem.env
  net = policy.for_environment(env, config.network)
  return shared_game.certify(
      env, net, agent, key, problem.space.profile(point), config.shared,
      updates=updates, episodes=episodes, judge_episodes=judge_episodes,
  )


# Plain simulators.


def _without_agents(
    problem: simulated.Simulation,
    config: simulated.Config,
    observed: Observed | None,
    loop: Callable[..., Any],
    key: Array,
    stages: int,
    judge_episodes: int,
    level: float | None,
) -> Calibration:
  """Calibrates a function by `simulated`."""
  stage_key, judge_key = jax.random.split(key)
  goals = goals_of(problem.targets)
  box, targets = problem.parameters, problem.targets

  def advance(state, count):
    rows = []
    for _ in range(count):
      points, keys, numbers = _propose(state, stage_key, box)
      values = _simulate(keys, numbers, problem)
      state, metrics = _learn(state, points, values, goals, box, targets, config)
      rows.append(metrics)
    return state, jax.tree.map(lambda *x: np.stack(x), *rows)

  state, history = loop(
      advance, simulated.init(problem, config, stages),
      "no simulation was finite so far, so give a narrower box, or more simulations in the config",
      needed="distance",
      stages=stages,
  )
  numbers = history["profile"][-1]
  values = _simulate_at(numbers, judge_key, problem, config.simulations, judge_episodes)
  reward = targets_lib.reward(targets, values, goals).mean()
  intervals = None
  if level is not None and observed is not None:
    intervals = uncertainty.of_simulator(
        problem.values, box.low, box.high, numbers, observed.values,
        jax.random.fold_in(judge_key, 1), covariance=observed.covariance, count=observed.count,
        names=box.names, level=level,
    )
  return result_of(
      problem, observed, {"reward": reward, "values": values},
      profile=numbers,
      numbers=named(box.names, numbers),
      supertype_rewards={},
      epsilon=None,
      certificate=None,
      history=history,
      state=state,
      coordinates=np.asarray(state.centre),
      agent=None,
      uncertainty=intervals,
  )


def _simulate_at(
    numbers: np.ndarray, key: Array, problem: simulated.Simulation, batch: int, count: int
) -> Array:
  """Simulates `count` times with parameters [d], as many at once as in a stage: [count, K]."""
  batches = math.ceil(count / batch)
  keys = jax.random.split(key, (batches, batch))
  everywhere = np.tile(numbers, (batch, 1))
  values = [_simulate(keys[i], everywhere, problem) for i in range(batches)]
  return jnp.concatenate(values)[:count]


# Compiled apart: the user's simulator is compiled once, for stages and for judging.


@functools.partial(jax.jit, static_argnames="parameters")
def _propose(state, key, parameters):
  points, keys = simulated.propose(state, key)
  return points, keys, parameters.numbers(points)


@functools.partial(jax.jit, static_argnames="problem")
def _simulate(keys, numbers, problem):
  return simulated.simulate(keys, numbers, problem)


@functools.partial(jax.jit, static_argnames=("parameters", "targets", "config"))
def _learn(state, points, values, goals, parameters, targets, config):
  return simulated.learn(state, points, values, goals, parameters, targets, config)
