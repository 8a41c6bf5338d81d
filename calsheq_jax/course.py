"""The course of a calibration with learning agents, for one seed and without files.

All starts run side by side for `config.trial` stages, the best one goes on, and `pairs` makes the
result of it.

Glossary: R starts that are alive, M stages, c candidates.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from calsheq_jax import calsheq, pairs
from calsheq_jax.problem import Problem
from calsheq_jax.types import Array

# (advance, state, advice, needed=..., stages=..., first=...) -> state, metrics [stages, ...]
Loop: TypeAlias = Callable[..., Any]

# Number of held-out episodes of a check, on which the best pair of a run is kept.
_CHECK = 64


class _Lines(NamedTuple):
  """All starts that are alive, and the best pair that was checked."""

  learners: calsheq.State  # [R]
  kept: pairs.Kept


def run(
    problem: Problem,
    config: calsheq.Config,
    goals: Array,
    init_key: Array,
    stage_key: Array,
    loop: Loop,
    stages: int,
    judge_episodes: int,
) -> tuple[calsheq.State, dict[str, np.ndarray], pairs.Pair]:
  """Runs all stages, and makes the result.

  Args:
    problem, config, goals: as in `calsheq.stage`.
    init_key, stage_key: random keys of the first start's parameters and stages.
    loop: runs stages in parts.
    stages: number of stages, M.
    judge_episodes: number of held-out episodes on which starts and candidates are compared.

  Returns:
    The learners of the best start, the metrics of `calsheq.stage` [M, ...], which in each part are
    those of the start that was best then, and the result.
  """
  more = jax.random.fold_in(init_key, config.starts)
  check_key, choose_key, rest_key = jax.random.split(more, 3)

  def advance(lines, count):
    keys = pairs.start_keys(stage_key, len(lines.learners.recent))
    learners, metrics = _stages(lines.learners, keys, goals, problem, config, count)
    rewards = _judged(pairs.of_state(learners), check_key, goals, problem, config, _CHECK)
    best = jnp.argmax(rewards)
    kept = pairs.keep(lines.kept, _take(learners, best), rewards[best])
    return _Lines(learners, kept), jax.tree.map(lambda x: x[:, best], metrics)

  together = functools.partial(
      loop, advance, advice="take lower learning rates in the config", needed="reward"
  )
  learners = _init(pairs.start_keys(init_key, config.starts), problem, config)
  lines = _Lines(learners, pairs.unchecked(_take(learners, 0)))
  trial = min(stages, config.trial) if config.starts > 1 else 0
  history: dict[str, np.ndarray] = {}
  if trial:
    lines, history = together(lines, stages=trial)
    rewards = _judged(
        pairs.of_state(lines.learners), choose_key, goals, problem, config, judge_episodes
    )
    best = jnp.argmax(rewards)
    lines = lines._replace(learners=jax.tree.map(lambda x: x[best][None], lines.learners))
  if stages > trial:
    lines, after = together(lines, stages=stages - trial, first=trial)
    history = {name: np.concatenate([history.get(name, x[:0]), x]) for name, x in after.items()}
  state = _take(lines.learners, 0)
  candidates = pairs.candidates(state, lines.kept)
  judged = functools.partial(
      _judged, key=choose_key, goals=goals, problem=problem, config=config, count=judge_episodes
  )
  rested = _rest(candidates, rest_key, goals, problem, config, config.rest)
  both = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), rested, candidates)
  rewards = judged(both)
  after, before = jnp.split(rewards, 2)
  chosen = pairs.choose(after, before, config.rest_margin)
  pair = jax.tree.map(lambda x: x[chosen][None], both)
  last = _rest(pair, jax.random.fold_in(rest_key, 1), goals, problem, config, config.last_rest)
  longer = functools.partial(pairs.longer, margin=config.rest_margin)
  result = jax.vmap(longer)(pair, last, rewards[chosen][None], judged(last))
  return state, history, _take(result, 0)


def _take(tree: Any, index: Array | int) -> Any:
  return jax.tree.map(lambda x: x[index], tree)


# Jitted once for each problem and config, however many runs there are.


@functools.partial(jax.jit, static_argnames=("problem", "config"))
def _init(keys, problem, config):
  return jax.vmap(lambda key: calsheq.init(key, problem, config))(keys)


@functools.partial(jax.jit, static_argnames=("problem", "config", "count"), donate_argnums=0)
def _stages(learners, keys, goals, problem, config, count):
  """Runs `count` stages of all starts: -> learners [R], metrics [count, R, ...]."""

  def one(state, key):
    return calsheq.stage(state, key, goals, problem, config)

  return jax.lax.scan(lambda s, _: jax.vmap(one)(s, keys), learners, length=count)


@functools.partial(jax.jit, static_argnames=("problem", "config", "count"))
def _judged(given, key, goals, problem, config, count):
  """Rewards of pairs on the same `count` episodes: [c] -> [c]."""

  def one(pair):
    agent = pair.shared.agent
    return calsheq.judge(agent, key, pair.point, goals, problem, config, count)["reward"]

  return jax.vmap(one)(given)


@functools.partial(jax.jit, static_argnames=("problem", "config", "updates"))
def _rest(given, key, goals, problem, config, updates):
  return jax.vmap(lambda pair: pairs.rest(pair, key, goals, problem, config, updates))(given)
