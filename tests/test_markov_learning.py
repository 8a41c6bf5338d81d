"""Tabular learners of Markov games, and their training."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from markov_games import APART
import numpy as np
import pytest

from envs import discrete, grid
from envs.linear_quadratic import Config, LinearQuadratic
from nes_jax import markov
from nes_jax.solving import engines

PENNIES = np.array([[[1.0, -1.0], [-1.0, 2.0]], [[-1.0, 1.0], [1.0, -2.0]]])


def repeated(payoffs, horizon=1):
  """A table with one state, in which a game is played, and the end after it."""
  players, *actions = payoffs.shape
  reward = np.zeros((2, players, *actions))
  reward[0] = payoffs
  transition = np.zeros((2, *actions, 2))
  transition[..., 1] = 1
  return grid.Table(
      reward=reward, transition=transition, start=np.array([1.0, 0.0]),
      terminal=np.array([False, True]), discount=0.9, name="one shot", state_names=("game", "end"),
      action_names=tuple(tuple(map(str, range(count))) for count in actions),
      agent_names=("A", "B"),
  )


def learner_of(table, kind=markov.CorrelatedQ, **options):
  options = {"discount": table.discount} | options
  return kind(num_states=table.num_states, num_actions=table.num_actions, **options)


@pytest.mark.parametrize("concept, worth", [("ce", 1.0), ("cce", 2.5)])
def test_ce_and_cce_differ(concept, worth):
  table = repeated(APART)
  state, curves = markov.train(
      learner_of(table, concept=concept), discrete.TableGame(table), [0, 1, 2], 200, points=2
  )
  np.testing.assert_allclose(state.q[:, 0], np.broadcast_to(APART, (3, 2, 3, 3)), atol=1e-9)
  np.testing.assert_allclose(state.values[:, 0], worth, atol=1e-2)
  assert curves.episodes.sum() == 600 and state.steps.tolist() == [200] * 3
  assert state.joint.dtype == np.float64 and state.gap.max() < 1e-6
  if concept == "ce":  # a seed learns what it learns alone
    alone, _ = markov.train(
        learner_of(table, concept=concept), discrete.TableGame(table), 1, 200, points=2
    )
    np.testing.assert_array_equal(alone.visits[0], state.visits[1])
    np.testing.assert_allclose(alone.q[0], state.q[1], atol=1e-9)


def test_minimax_q_learns_a_zero_sum_game():
  table = repeated(PENNIES)
  state, _ = markov.train(
      learner_of(table, markov.MinimaxQ), discrete.TableGame(table), 0, 100, points=1
  )
  # (2 * 1 - 1) / (1 + 2 + 1 + 1) = 1/5, with (3, 2) / 5 for both.
  np.testing.assert_allclose(state.values[0, 0], (0.2, -0.2), atol=1e-4)
  np.testing.assert_allclose(state.joint[0, 0], np.outer((0.6, 0.4), (0.6, 0.4)), atol=1e-3)
  with pytest.raises(ValueError, match="MinimaxQ is for two players"):
    markov.MinimaxQ(num_states=1, num_actions=(2, 2, 2))


def test_an_update_is_the_formula():
  learner = markov.CorrelatedQ(
      num_states=3, num_actions=(2, 2), discount=0.5, step_size=0.5, decay=1.0
  )
  with engines.precision(np.float64):
    state = learner.init()
    state = state._replace(values=state.values.at[2].set(jnp.array([4.0, -2.0])))
    action, reward = jnp.array([1, 0]), jnp.array([1.0, 2.0])
    update = jax.jit(learner.update)
    state = update(state, 1, action, reward, 2, False)
    np.testing.assert_allclose(state.q[1, :, 1, 0], (0.5 * 3, 0.5 * 1))
    state = update(state, 1, action, reward, 2, True)  # the second step size is 1/4
    np.testing.assert_allclose(state.q[1, :, 1, 0], (0.75 * 1.5 + 0.25, 0.75 * 0.5 + 0.5))
    # With a delay the second step size is 0.5 / (1 + 1 / 3).
    slow = dataclasses.replace(learner, delay=3.0)
    again = slow.init()
    for _ in range(2):
      again = slow.update(again, 1, action, jnp.ones(2), 2, True)
    np.testing.assert_allclose(again.q[1, :, 1, 0], 0.5 + 0.375 * 0.5)
    assert int(state.visits[1, 1, 0]) == 2 and int(state.visits.sum()) == 2
    np.testing.assert_allclose(state.values[1], state.q[1, :, 1, 0], atol=1e-3)
    np.testing.assert_allclose(state.joint[1, 1, 0], 1, atol=1e-3)


def test_actions_follow_the_joint_and_explore():
  learner = markov.CorrelatedQ(num_states=1, num_actions=(2, 3), exploration=0.0)
  with engines.precision(np.float64):
    state = learner.init()
    joint = jnp.array([[[0.0, 0.25, 0.0], [0.75, 0.0, 0.0]]])
    state = state._replace(joint=joint)
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = np.asarray(jax.vmap(learner.act, (None, None, 0))(state, 0, keys))
    counts = np.zeros((2, 3))
    np.add.at(counts, tuple(drawn.T), 1 / len(drawn))
    np.testing.assert_allclose(counts, joint[0], atol=0.03)
    explored = jax.vmap(functools.partial(learner.act, exploration=1.0), (None, None, 0))
    drawn = np.asarray(explored(state, 0, keys))
    counts = np.zeros((2, 3))
    np.add.at(counts, tuple(drawn.T), 1 / len(drawn))
    np.testing.assert_allclose(counts, np.full((2, 3), 1 / 6), atol=0.03)


def test_all_seeds_are_one_call_of_the_solver():
  learner = markov.CorrelatedQ(num_states=2, num_actions=(3, 3))
  with engines.precision(np.float64):
    states = jax.vmap(lambda _: learner.init())(jnp.arange(5))
    arguments = (jnp.zeros(5, int), jnp.zeros((5, 2), int), jnp.ones((5, 2)), jnp.ones(5, int),
                 jnp.zeros(5, bool))
    program = str(jax.make_jaxpr(jax.vmap(learner.update))(states, *arguments))
  assert program.count("ffi_call[") == 1 and "f64[5,1,2,3,3]" in program


def test_grid_game_1_is_learnt():
  table = grid.grid1()
  learner = learner_of(table, weights=(2, 1), decay=0.2, concept="cce", exploration=0.5)
  state, curves = markov.train(learner, discrete.TableGame(table), [0, 1], 4000, points=4)
  assert curves.values[:, -1].min() > 90 and curves.steps.tolist() == [1000, 2000, 3000, 4000]
  # The greedy policies reach both goals, which is worth 100 to each player.
  for joint in state.joint:
    reward = np.einsum("snab,sab->sn", table.reward, joint)
    move = np.einsum("sabt,sab->st", table.transition, joint)
    score = table.start @ np.linalg.solve(np.eye(58) - 0.9999 * move, reward)
    np.testing.assert_allclose(score, 100, atol=1)


def test_an_environment_is_learnt_by_a_menu():
  """The equilibrium of a linear-quadratic game is in the menu, and all others are not."""
  env = LinearQuadratic(Config(num_agents=2, first=1, coupling=0.5, spread=1e-6))
  profile = env.profile(1.0, 0.5)
  # A = mu + A'/2 for each agent: A1 = 5/3, A2 = 4/3.
  np.testing.assert_allclose(env.equilibrium_means(profile), (5 / 3, 4 / 3), atol=1e-5)
  game = discrete.Binned(
      environment=env, menu=((5 / 3,), (4 / 3,), (0.0,)), bins=(), profile=type(profile)(1.0, 0.5)
  )
  learner = markov.CorrelatedQ(num_states=game.num_states, num_actions=game.num_actions)
  state, curves = markov.train(learner, game, [0], 300, points=1)
  np.testing.assert_allclose(state.joint[0, 0, 0, 1], 1, atol=1e-3)
  worth = np.array([(5 / 3) ** 2, (4 / 3) ** 2]) / 2
  np.testing.assert_allclose(state.values[0, 0], worth, atol=1e-3)
  assert curves.episodes[0, 0] == 300


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_actions": (2,)}, "two players"),
        ({"num_actions": 2}, "a tuple of integers"),
        ({"discount": 1.0}, "less than 1"),
        ({"step_size": 0.0}, "from 0 to 1 are expected"),
        ({"exploration": 2.0}, "must be a probability"),
        ({"selection": "best"}, "unknown selection 'best'"),
        ({"concept": "nash"}, "unknown concept 'nash'"),
        ({"weights": (1.0,)}, "for each of 2 players"),
    ],
)
def test_bad_options_are_named(change, message):
  options = {"num_states": 2, "num_actions": (2, 2)} | change
  with pytest.raises(ValueError, match=message):
    markov.CorrelatedQ(**options)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"steps": 15}, "steps=15 must be a multiple of points=10"),
        ({"steps": 0}, "steps must be an integer"),
        ({"seeds": 0.5}, "seeds must be one integer"),
        ({"learner": 3}, "learner must be a CorrelatedQ or a MinimaxQ"),
        ({"learner": markov.CorrelatedQ(num_states=2, num_actions=(2, 2, 2))}, r"a reward \[3\]"),
        ({"learner": markov.CorrelatedQ(num_states=9, num_actions=(2, 2))}, "has 2 states"),
        ({"learner": markov.CorrelatedQ(num_states=2, num_actions=(2, 3))}, r"actions \(2, 2\)"),
    ],
)
def test_bad_training_is_named(change, message):
  table = repeated(PENNIES)
  options = {"learner": learner_of(table), "environment": discrete.TableGame(table), "seeds": 0,
             "steps": 20, "points": 10} | change
  with pytest.raises(ValueError, match=message):
    markov.train(**options)


def test_learners_need_float64():
  learner = markov.CorrelatedQ(num_states=2, num_actions=(2, 2))
  with jax.enable_x64(False):
    with pytest.raises(ValueError, match="jax_enable_x64"):
      learner.init()
  assert learner == dataclasses.replace(learner) and hash(learner) == hash(
      dataclasses.replace(learner)
  )
