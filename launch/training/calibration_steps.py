"""Compiled functions of `launch.training.calibration`, over all devices.

They are cached by their arguments, so that a run that continues compiles nothing twice.

Glossary: L lines, which are calibrations side by side: all seeds, and in the trial all starts of
each seed; d numbers that are calibrated, K targets.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from calsheq_jax import calsheq, pairs, policy, shared_game
from launch.runtime import parallel


@functools.cache
def stages(problem, config, count, mesh):
  """(states [L], keys [L], goals [L, K]) -> states, metrics of `count` stages [L]."""

  def chunk(states, keys, goals):
    def stage(state, key, goals):
      return calsheq.stage(state, key, goals, problem, config, parallel.AXIS)

    return _scanned(lambda states: jax.vmap(stage)(states, keys, goals), states, count)

  return parallel.spmd(chunk, mesh, (parallel.REPLICATED,) * 3, parallel.REPLICATED, donate=(0,))


@functools.cache
def trial(problem, config, count, mesh):
  """(policies [L], keys [L], points [L, d], goals [L, K]) -> policies, metrics of a trial [L]."""

  def chunk(shared, keys, points, goals):
    def stage(state, key, point, goals):
      return calsheq.trial_stage(state, key, point, goals, problem, config, parallel.AXIS)

    return _scanned(lambda shared: jax.vmap(stage)(shared, keys, points, goals), shared, count)

  return parallel.spmd(chunk, mesh, (parallel.REPLICATED,) * 4, parallel.REPLICATED, donate=(0,))


def _scanned(step, states, count):
  """Scans `count` stages.

  Returns:
    States, and metrics [L]: means over stages, lowest rewards over stages, and some metrics of the
    last stage.
  """
  states, metrics = jax.lax.scan(lambda s, _: step(s), states, length=count)
  means = jax.tree.map(lambda x: x.mean(0), metrics)
  means["lowest"] = metrics["supertype_rewards"].min(0)
  means |= {f"last/{name}": metrics[name][-1] for name in ("reward", "profile") if name in metrics}
  return states, means


@functools.cache
def judge(problem, config, count):
  """(agents [L], keys [L], points [L, d], goals [L, K]) -> `calsheq.judge` [L]."""
  return jax.jit(
      jax.vmap(functools.partial(calsheq.judge, problem=problem, config=config, count=count))
  )


@functools.cache
def rest(problem, config, updates, mesh):
  """(pairs [L], keys [L], goals [L, K]) -> `pairs.rest` [L]."""

  def all_lines(given, keys, goals):
    def one(pair, key, goals):
      return pairs.rest(pair, key, goals, problem, config, updates, parallel.AXIS)

    return jax.vmap(one)(given, keys, goals)

  return parallel.spmd(all_lines, mesh, (parallel.REPLICATED,) * 3, parallel.REPLICATED)


@functools.cache
def certifier(problem, config, updates, episodes, judge_episodes, mesh):
  """(agents [L], keys [L], points [L, d]) -> `shared_game.Certificate` [L]."""
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


# Rows of lines, on the host.


def repeated(tree: Any, times: int) -> Any:
  """Repeats each row `times` times: [S, ...] -> [S times, ...]."""
  return jax.tree.map(lambda x: jnp.repeat(x, times, axis=0), tree)


def taken(tree: Any, which: np.ndarray) -> Any:
  """Takes the row `which` [S] of the rows of each seed: [L, ...] -> [S, ...]."""
  seeds = np.arange(len(which))

  def take(x):
    return x.reshape(len(which), -1, *x.shape[1:])[seeds, which]

  return jax.tree.map(take, tree)


def beside(seeds: int) -> Callable[[Any, Any], np.ndarray]:
  """Makes a function that joins the rows of each seed: [L, ...], [L, ...] -> [2 L, ...]."""

  def join(x, y):
    parts = [np.reshape(z, (seeds, -1, *np.shape(z)[1:])) for z in (x, y)]
    return np.concatenate(parts, 1).reshape(-1, *np.shape(x)[1:])

  return join
