"""The two games in which intervals of calibrated profiles are compared with known truths.

  linear_quadratic  2 means of types, 2 mean actions; the shared equilibrium is known exactly
  market            a small market, in which 2 connection probabilities of supertype 1 are
                    calibrated to 4 statistics that identify them; the truth's policy is trained

Glossary: R runs, d parameters, K targets, E episodes.
"""

from collections.abc import Callable
import dataclasses

import jax

from calsheq_jax import calsheq, policy, ppo, response, rollout
from calsheq_jax.problem import Problem, space
from calsheq_jax.schedules import Schedule
from calsheq_jax.targets import Target, goals_of, vector_targets
from calsheq_jax.types import Array, Decision
from envs import linear_quadratic, market

# Part of the box from which true profiles are drawn, in coordinates.
_TRUTHS = 0.7

# (key, coordinates [d] of the truth) -> observed statistics [E, K]
Observe = Callable[[Array, Array], Array]


@dataclasses.dataclass(frozen=True)
class Game:
  """A calibration whose answer is known, and its size."""

  name: str
  problem: Problem
  config: calsheq.Config
  stages: int  # stages of a calibration
  design: response.Config
  observed: int  # number of observed episodes, E
  observe: Observe
  learned: bool = False  # whether the observed agents learned, and are at no exact equilibrium

  def truths(self, key: Array, runs: int) -> Array:
    """Draws true profiles, uniform over the middle 70% of the box: [R, d]."""
    return jax.random.uniform(
        key, (runs, self.problem.space.size), minval=-_TRUTHS, maxval=_TRUTHS
    )


def linear_quadratic_game() -> Game:
  """Makes the linear-quadratic game of 6 agents; observed agents act by its exact equilibrium."""
  env = linear_quadratic.LinearQuadratic(
      linear_quadratic.Config(num_agents=6, first=3, coupling=0.5, spread=0.2)
  )
  problem = Problem(
      space(env, env.profile(0.0, 0.0)),
      vector_targets("supertype_action", (0.0, 0.0), scale=0.2),
  )
  episodes = 64

  def observe(key, truth):
    profile = problem.space.profile(truth)

    def act(key, observation):
      del key
      zero = observation[:, 0] * 0
      return Decision(env.equilibrium(observation, profile), zero, zero, zero)

    def play(key):
      return rollout.episode(env, key, profile, act).states

    return problem.values(jax.vmap(play)(jax.random.split(key, episodes)))

  return Game(
      name="linear_quadratic",
      problem=problem,
      config=calsheq.Config(
          episodes=64, network=policy.Config(hidden=(16,)), shared=ppo.Config(minibatches=4)
      ),
      stages=150,
      design=response.Config(profiles=8, centres=8, stages=40, episodes=32, held_out=64),
      observed=episodes,
      observe=observe,
  )


def market_game() -> Game:
  """Makes a market of 2 merchants and 2 clusters of 20 customers, with 10 steps.

  The connection probabilities of supertype 1 are calibrated, between 0.1 and 0.7; those of
  supertype 2 are 0.3. Targets are the numbers of transactions of each supertype with each cluster.
  Merchants tolerate inventory, so that quotes alone are learned.
  """
  env = market.Market(market.Config(num_merchants=2, clusters=2, customers=20, horizon=10))
  names = ("supertype_1/connection_1", "supertype_1/connection_2")
  start = env.profile(connection=0.3, tolerance=1.0, variance=0.0)
  problem = Problem(
      space(env, start, names, low=dict.fromkeys(names, 0.1), high=dict.fromkeys(names, 0.7)),
      tuple(
          Target("supertype_counts", 0.0, scale=20.0, index=(i, j)) for i in (0, 1) for j in (0, 1)
      ),
  )
  config = calsheq.Config(
      episodes=32,
      network=policy.Config(hidden=(16,)),
      shared=ppo.Config(minibatches=4, learning_rate=2e-3),
  )
  episodes, stages = 16, 150
  net = policy.for_environment(env, config.network)
  learning = dataclasses.replace(config, shared_rate=Schedule(1.0, 60))

  def observe(key, truth):
    init_key, learn_key, play_key = jax.random.split(key, 3)

    def step(shared, _):
      goals = goals_of(problem.targets)
      shared, _ = calsheq.trial_stage(shared, learn_key, truth, goals, problem, learning)
      return shared, None

    shared = calsheq.init_shared(init_key, env, config)
    shared, _ = jax.lax.scan(step, shared, length=stages)
    profiles = rollout.repeated(problem.space.profile(truth), episodes)
    return problem.values(rollout.collect(env, net, shared.agent, play_key, profiles).states)

  return Game(
      name="market",
      problem=problem,
      config=config,
      stages=200,
      design=response.Config(profiles=8, centres=8),
      observed=episodes,
      observe=observe,
      learned=True,
  )


GAMES: dict[str, Callable[[], Game]] = {
    "linear_quadratic": linear_quadratic_game, "market": market_game
}
