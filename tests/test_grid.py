"""The grid games and soccer as tables, and games with numbered states and actions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import discrete, grid
from envs.linear_quadratic import LinearQuadratic

NORTH, SOUTH, EAST, WEST, STAY = range(5)


def follow(table, state, *actions):
  """Rewards [2], and the probabilities of the next states by name."""
  k = table.state_names.index(state)
  row = table.transition[(k, *actions)]
  following = {table.state_names[i]: row[i] for i in np.flatnonzero(row)}
  return table.reward[(k, slice(None), *actions)].tolist(), following


@pytest.mark.parametrize("name, states, actions", [("grid1", 57, 4), ("grid2", 56, 4),
                                                   ("soccer", 56, 5)])
def test_tables_are_markov_games(name, states, actions):
  table = grid.TABLES[name]()
  assert table.num_states == states + 1 and table.num_actions == (actions, actions)
  assert table.terminal.sum() == 1 and table.terminal[-1] and table.state_names[-1] == "end"
  np.testing.assert_allclose(table.transition.sum(-1), 1)
  np.testing.assert_array_equal(table.transition[-1, ..., -1], 1)
  assert not table.reward[-1].any() and table.start.sum() == 1
  assert len(set(table.state_names)) == states + 1


@pytest.mark.parametrize("name", ["grid1", "grid2"])
def test_grid_games_are_mirror_images(name):
  """The two players swap, and east swaps with west."""
  table = grid.TABLES[name]()
  swap = [NORTH, SOUTH, WEST, EAST]

  def mirrored(text):
    a, b = text[1:3], text[5:7]
    return f"A{2 - int(b[0])}{b[1]} B{2 - int(a[0])}{a[1]}"

  order = [table.state_names.index(mirrored(x)) for x in table.state_names[:-1]] + [-1]
  turned = table.reward[order][:, ::-1].transpose(0, 1, 3, 2)[:, :, swap][:, :, :, swap]
  np.testing.assert_array_equal(turned, table.reward)
  turned = table.transition[order][..., order].transpose(0, 2, 1, 3)[:, swap][:, :, swap]
  np.testing.assert_array_equal(turned, table.transition)


def test_collisions_goals_and_walls_of_grid_game_1():
  table = grid.grid1()
  assert follow(table, "A00 B20", EAST, WEST) == ([-1, -1], {"A00 B20": 1})
  assert follow(table, "A00 B20", SOUTH, NORTH) == ([0, 0], {"A00 B21": 1})
  assert follow(table, "A12 B11", EAST, NORTH) == ([100, 0], {"end": 1})
  assert follow(table, "A12 B01", EAST, NORTH) == ([100, 100], {"end": 1})
  assert follow(table, "A00 B10", EAST, WEST) == ([0, 0], {"A10 B00": 1})
  assert follow(table, "A00 B10", EAST, SOUTH) == ([-1, -1], {"A00 B10": 1})


def test_barriers_of_grid_game_2():
  table = grid.grid2()
  rewards, following = follow(table, "A00 B20", NORTH, NORTH)
  assert rewards == [0, 0]
  assert following == {"A00 B20": 0.25, "A01 B20": 0.25, "A00 B21": 0.25, "A01 B21": 0.25}
  assert follow(table, "A02 B11", EAST, NORTH) == ([100, 100], {"end": 1})


def test_soccer_collisions_depend_on_the_order():
  table = grid.soccer()
  assert table.state_names[int(table.start.argmax())] == "A21 B11 B"
  # The ball goes over if its owner bumps, which it does if the other stays.
  assert follow(table, "A21 B11 B", STAY, EAST) == ([0, 0], {"A21 B11 A": 1})
  # Whoever bumps without the ball changes nothing.
  assert follow(table, "A21 B11 B", WEST, STAY) == ([0, 0], {"A21 B11 B": 1})
  # If A moves away first, B follows; if not, B bumps, and A then moves away with the ball.
  rewards, following = follow(table, "A21 B11 B", SOUTH, EAST)
  assert rewards == [0, 0] and following == {"A20 B21 B": 0.5, "A20 B11 A": 0.5}
  assert follow(table, "A10 B21 B", STAY, EAST) == ([-100, 100], {"end": 1})
  assert follow(table, "A11 B20 A", WEST, STAY) == ([100, -100], {"end": 1})
  np.testing.assert_array_equal(table.reward.sum(1), 0)


def test_a_table_is_played_by_its_probabilities():
  table = grid.grid2()
  game = discrete.TableGame(table, horizon=1)
  keys = jax.random.split(jax.random.key(0), 2000)
  state = jax.vmap(game.reset)(keys)
  assert set(np.asarray(state.number)) == {int(table.start.argmax())}
  actions = jnp.array([NORTH, WEST])
  after, reward, ended, cut = jax.vmap(game.step, (0, 0, None))(keys, state, actions)
  share = (np.asarray(after.number) == table.state_names.index("A01 B10")).mean()
  assert abs(share - 0.5) < 0.05
  assert not reward.any() and not ended.any() and cut.all()
  with pytest.raises(ValueError, match="horizon=0"):
    discrete.TableGame(table, 0)


def test_a_table_as_an_environment():
  table = grid.grid1()
  env = discrete.TableEnvironment(table, horizon=3)
  assert env == discrete.TableEnvironment(grid.grid1(), horizon=3) and len({env, env}) == 1
  assert env != discrete.TableEnvironment(grid.grid2(), horizon=3)
  key = jax.random.key(0)
  observed, state = env.reset(key, env.profile())
  assert observed.shape == (2, env.observation_size) == (2, 60)
  assert len(env.observation_names) == 60
  # Numbers beyond the last action are clipped: 9 is west, the last of four.
  observed, state, reward, done, info = env.step(key, state, jnp.array([[1.8], [9.0]]), ())
  np.testing.assert_array_equal(reward, [-1, -1])
  assert not done and not info["truncated"]
  assert table.state_names[int(observed[0, :58].argmax())] == "A00 B20"
  np.testing.assert_array_equal(observed[:, 58:], np.eye(2))
  for _ in range(2):
    observed, state, reward, done, info = env.step(key, state, jnp.zeros((2, 1)), ())
  assert done and info["truncated"]
  np.testing.assert_array_equal(env.outputs(state)["rewards"], [-1, -1])


def test_observations_and_actions_are_binned():
  env = LinearQuadratic()
  game = discrete.Binned(
      environment=env,
      menu=((0.0,), (1.0,), (-0.5,)),
      bins=(discrete.Bins(0, 0, (0.3, 0.6)), discrete.Bins(3, 1, (0.0,))),
  )
  assert game.num_states == 6 and game.num_actions == (3, 3, 3, 3)
  state = game.reset(jax.random.key(1))
  observed = state[0].at[0, 0].set(0.6).at[3, 1].set(-1.0)
  assert int(game.index((observed, state[1]))) == 4
  assert int(game.index((observed.at[0, 0].set(0.2), state[1]))) == 0
  after, reward, ended, cut = game.step(jax.random.key(0), state, jnp.array([0, 1, 2, 0]))
  np.testing.assert_array_equal(after[1].action, [0, 1, -0.5, 0])
  assert reward.shape == (4,) and ended and not cut


def test_bins_by_name_and_by_quantile():
  env = LinearQuadratic()
  bins = discrete.bins_for(env, {"type": (0.5,)})
  assert [item.agent for item in bins] == [0, 1, 2, 3] and bins[0].edges == (0.5,)
  assert discrete.quantile_edges(np.arange(101), 4) == (25, 50, 75)
  assert discrete.quantile_edges(np.zeros(5), 3) == (0,)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"menu": ((0.0, 1.0),)}, "menu must be one or more actions of 1 numbers"),
        ({"bins": (discrete.Bins(4, 0, (0.0,)),)}, "there are 4 agents with 2 observations"),
        ({"bins": (discrete.Bins(0, 0, (1.0, 0.0)),)}, "rising order"),
    ],
)
def test_bad_bins_are_named(change, message):
  options = {"environment": LinearQuadratic(), "menu": ((0.0,),), "bins": ()} | change
  with pytest.raises(ValueError, match=message):
    discrete.Binned(**options)


def test_an_unknown_observation_is_named():
  with pytest.raises(ValueError, match="'price' is no observation"):
    discrete.bins_for(LinearQuadratic(), {"price": (0.0,)})
