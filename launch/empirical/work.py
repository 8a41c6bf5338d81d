"""The work of `launch.market_game`."""

from collections.abc import Callable, Mapping
import dataclasses
import time

import jax
import numpy as np

from calsheq_jax import empirical as simulation
from calsheq_jax import policy, ppo
from calsheq_jax.types import Agent
from launch.empirical import plain, report
from launch.empirical.settings import Deviator, Equilibrium, Game
from launch.runtime import loop
from launch.training.market_run import Run, profile_of
from launch.training.market_stored import PolicyTraining, stored_agent
from nes_jax import empirical

# Number of resamples of the plain loop that solves whole problems, each of which takes seconds.
_DENSE = 3


@dataclasses.dataclass(frozen=True)
class Task:
  """A run of the program."""

  game: Game
  equilibrium: Equilibrium
  deviator: Deviator
  training: Run  # the run that trains the policy; its market and its profile are those of the game


def run(
    task: Task,
    *,
    check_stop: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = print,
) -> Mapping[str, float]:
  """Trains a policy, plays all profiles, solves the game, and looks for deviations.

  Returns:
    Nothing: the tables are printed.

  Raises:
    UsageError: a directory or a flag is wrong.
    stopping.Stopped: raised by check_stop. The training of the policy is saved, and the rest begins
      anew.
  """
  env, out = task.training.env, task.game.out
  out.mkdir(parents=True, exist_ok=True)
  net, agent, learning = _policy(task, check_stop, say)
  policies = _policies(task.game, net, agent)
  profile = profile_of(env, task.training.profile)
  play_key, resample_key, deviate_key = jax.random.split(jax.random.key(task.game.game_seed), 3)
  check_stop()
  start = time.monotonic()
  game = simulation.simulate(
      play_key, env, policies, task.game.episodes, symmetric=task.game.symmetric, profile=profile
  )
  count = len(game.profiles)
  say(
      f"{count} profiles of {task.game.episodes} episodes in {time.monotonic() - start:.0f} s;"
      f" one row an episode in {out}/episodes.csv"
  )
  empirical.to_csv(game, out / "episodes.csv")
  check_stop()
  names = _names(task, game)
  found, seconds = _solve(task, game, resample_key)
  say(f"{found.resamples} resamples in {seconds:.1f} s")
  table = report.rows(game, found, names)
  print(report.text(table, found, task.equilibrium.level))
  deviations = {}
  for seat in report.seats_of(game) if task.deviator.response_updates else ():
    check_stop()
    name = names[game.roles[seat]]
    deviations[name] = simulation.deviate(
        jax.random.fold_in(deviate_key, seat), env, policies, found, seat, net, learning,
        start=agent, updates=task.deviator.response_updates,
        episodes=task.deviator.response_episodes, judge_episodes=task.deviator.judge_episodes,
        profile=profile,
    )
    print(report.deviation_text(name, deviations[name]), flush=True)
  report.write(out / "report.csv", table, deviations)
  _draw(task, game, found, names, deviations, say)
  if task.equilibrium.plain:
    check_stop()
    print(_comparison(task, game, found, seconds))
  return {}


def _policy(
    task: Task, check_stop: Callable[[], None], say: Callable[[str], None]
) -> tuple[policy.ActorCritic, Agent, ppo.Config]:
  """The policy of the run that is given, or of one that is trained."""
  if task.game.policy is not None:
    return stored_agent(task.game.policy, task.training.env)
  loop.run(
      PolicyTraining(task.training), task.training.options, check_stop=check_stop, say=say
  )
  return stored_agent(task.training.options.out, task.training.env)


def _policies(
    game: Game, net: policy.ActorCritic, agent: Agent
) -> dict[str, simulation.Strategy]:
  """The policies by their labels; the trained one takes its mean actions."""
  policies = {
      f"quote {quote:g}": simulation.constant([quote - 1, quote - 1, game.hedge])
      for quote in game.quotes
  }
  # Nobody trades at quotes that are worse than the facility's.
  policies["never trade"] = simulation.constant([1, 1, 0])
  policies["trained"] = simulation.trained(net, agent, mean_action=True)
  return policies


def _names(task: Task, game: empirical.EmpiricalGame) -> dict[int, str]:
  """Names of the roles: supertypes of merchants, or merchants."""
  env = task.training.env
  names = env.supertype_names if task.game.symmetric else env.agent_names
  return {role: names[role].replace("_", " ") for role in game.roles}


def _solve(task: Task, game: empirical.EmpiricalGame, key: jax.Array):
  """The report of the game, and the seconds that it took."""
  options = task.equilibrium
  start = time.monotonic()
  found = empirical.solve(
      game, options.concept, options.selection, resamples=options.resamples, key=key,
      level=options.level, threshold=options.threshold,
  )
  return found, time.monotonic() - start


def _comparison(
    task: Task, game: empirical.EmpiricalGame, found: empirical.Report, seconds: float
) -> str:
  joint, count = np.asarray(found.solution.joint), task.equilibrium.plain
  reduced = plain.bootstrap(game, joint, task.game.game_seed, count)
  dense = plain.bootstrap(
      game, joint, task.game.game_seed, min(_DENSE, count), reduced=False
  )
  return report.comparison_text(game, found, task.equilibrium.level, reduced, dense, seconds)


def _draw(task, game, found, names, deviations, say) -> None:
  """Draws the picture, if matplotlib is installed."""
  try:
    from launch.figures import empirical as figures
  except ImportError as error:
    say(f"no picture: {error}; install the `programs` extra")
    return
  path = task.game.out / "market_game.png"
  figures.draw_report(path, game, found, names, deviations, task.equilibrium.level)
  say(f"wrote {path} and {task.game.out}/report.csv")
