"""calsheq_jax.theory: the gradient of V-hat, self-play sequences, Theorem 1."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from calsheq_jax import policy, ppo, rollout, shared_game, theory
from envs import linear_quadratic, market, symmetric

GAME = linear_quadratic.LinearQuadratic()
PROFILE = GAME.profile()
CONSTANT = toys.Constant()
KEY = jax.random.key(0)
# Distance between an estimate and the truth, in standard errors, that one test in 2000 exceeds.
FAR = 3.5
NET = policy.for_environment(GAME, policy.Config(hidden=(6,), initial_scale=0.3))


def profiles(count, profile=PROFILE):
  return rollout.repeated(profile, count)


# Proposition 1.


def moved_agent(net, env, scale=0.3):
  """An agent away from its start, so that no layer is near zero."""
  agent = ppo.init(jax.random.key(3), net, ppo.Config()).agent
  rng = np.random.default_rng(0)

  def shift(x):
    return x + scale * rng.normal(size=x.shape).astype(np.float32)

  return agent._replace(params=jax.tree.map(shift, agent.params))


def test_gradient_is_the_mean_over_agents_of_scores_times_returns():
  """`gradient` agrees with (3), written as loops over agents and steps."""
  env = toys.Countdown(horizon=3)
  net = policy.for_environment(env, policy.Config(hidden=(3,)))
  agent = moved_agent(net, env)
  t = rollout.collect(env, net, agent, KEY, profiles(2, toys.rules(2))).trajectory
  ours = theory.gradient(net, agent, t, discount=0.9)

  @jax.jit
  def score(params, observation, action):
    def log_prob(p):
      return net.distribution(
          net.apply(p, policy.normalised(agent, observation))[0]
      ).log_prob(action)

    return jax.grad(log_prob)(params)

  total = jax.tree.map(jnp.zeros_like, agent.params)
  for i in range(3):
    for b in range(2):
      for step in range(2):
        earned = sum(0.9**s * t.reward[s, b, i] for s in range(step, 2))
        one = score(agent.params, t.observation[step, b, i], t.action[step, b, i])
        total = jax.tree.map(lambda x, g, w=earned: x + w * g / 6, total, one)
  chex.assert_trees_all_close(ours, total, rtol=1e-3, atol=1e-5)
  other = theory.gradient(net, agent, t, discount=0.9, baseline=True)
  assert np.abs(other["policy_head"]["b"] - ours["policy_head"]["b"]).max() > 0.01


def direction_of(params, seed):
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)


@pytest.mark.parametrize("seed", [0, 1])
def test_proposition_1(seed):
  """The gradient of all agents on one policy is that of V-hat in its first argument alone."""
  agent = moved_agent(NET, GAME)
  direction = direction_of(agent.params, seed)
  check = jax.jit(
      lambda key: theory.slopes(
          GAME, NET, agent, direction, key, profiles(20000), step=0.02, baseline=True
      )
  )
  found = check(jax.random.key(seed))
  error = np.hypot(found.gradient.error, found.difference.error)
  assert abs(float(found.gradient.mean - found.difference.mean)) < FAR * error
  # Both slopes differ from 0, and from the slope of moving all agents at once.
  assert abs(float(found.difference.mean)) > 5 * error

  def together(by):
    params = jax.tree.map(lambda x, d: x + by * d, agent.params, direction)
    moved = agent._replace(params=params)
    return shared_game.symmetric_values(
        GAME, NET, moved, jax.random.key(9), profiles(20000)
    ).mean(-1)

  all_at_once = shared_game.estimate((together(0.02) - together(-0.02)) / 0.04)
  assert abs(float(all_at_once.mean - found.difference.mean)) > 5 * float(all_at_once.error)


@pytest.mark.slow
def test_proposition_1_on_a_small_market():
  """Proposition 1 with many steps, customers and types, along the estimated gradient."""
  env = market.Market(market.Config(num_merchants=2, clusters=2, customers=4, horizon=4))
  net = policy.for_environment(env, policy.Config(hidden=(6,)))
  agent = moved_agent(net, env, 0.1)
  many = profiles(20000, env.profile(0.7))
  trajectory = rollout.collect(env, net, agent, KEY, profiles(4000, env.profile(0.7))).trajectory
  direction = jax.jit(lambda t: theory.gradient(net, agent, t, baseline=True))(trajectory)
  size = np.sqrt(sum(float(jnp.vdot(x, x)) for x in jax.tree.leaves(direction)))
  direction = jax.tree.map(lambda x: x / size, direction)
  found = jax.jit(
      lambda key: theory.slopes(
          env, net, agent, direction, key, many, step=0.1, baseline=True
      )
  )(jax.random.key(1))
  error = np.hypot(found.gradient.error, found.difference.error)
  assert abs(float(found.gradient.mean - found.difference.mean)) < FAR * error
  assert float(found.gradient.mean) > 5 * error


# Finite sets of policies.

GRID = np.linspace(0, 1, 41)


def payoffs(game):
  return np.asarray(game.payoff(GRID[:, None], GRID[None]), np.float64)


def least(candidates, gains):
  return candidates[gains.argmin()]


def at_random(seed):
  rng = np.random.default_rng(seed)
  return lambda candidates, gains: int(rng.choice(candidates))


@pytest.mark.parametrize("choose", [None, least, at_random(0), at_random(1)])
@pytest.mark.parametrize("start", [0, 17, 40])
@pytest.mark.parametrize("name", sorted(symmetric.GAMES))
def test_self_play_ends_at_the_equilibrium_within_the_bound(name, start, choose):
  game = symmetric.GAMES[name]
  payoff, epsilon = payoffs(game), 1e-3
  sequence = theory.self_play_sequence(payoff, start, epsilon, choose)
  # The end is an epsilon-equilibrium. In two games with flat tops it is only near the equilibrium.
  last = sequence[-1]
  assert payoff[:, last].max() <= payoff[last, last] + epsilon
  assert abs(GRID[last] - game.equilibrium) <= (0 if name == "piecewise_potential" else 0.05)
  for x, y in zip(sequence, sequence[1:]):
    assert payoff[y, x] > payoff[x, x] + epsilon
  skill = np.asarray(game.skill(GRID))
  delta = theory.skill_gain(payoff, skill, epsilon)
  assert delta > float(game.delta(epsilon)) > 0
  steps = len(sequence) - 1
  assert steps <= theory.step_bound(skill, delta) <= game.steps(epsilon)
  longest = theory.transitivity(payoff, epsilon).longest
  assert steps <= longest <= theory.step_bound(skill, delta)


def test_the_slowest_sequence_goes_over_the_whole_grid():
  payoff = payoffs(symmetric.PIECEWISE_POTENTIAL)
  assert theory.self_play_sequence(payoff, 0, 1e-3, least) == list(range(41))
  assert theory.self_play_sequence(payoff, 0, 1e-3) == [0, 40]
  result = theory.transitivity(payoff, 1e-3)
  assert result.holds and result.longest == 40 and result.cycle is None
  np.testing.assert_array_equal(result.skill, np.arange(41))
  # This skill has delta = 1 by construction.
  assert theory.skill_gain(payoff, result.skill, 1e-3) == 1


def rock_paper_scissors():
  """The payoffs of the game, with a fourth strategy that loses to all others."""
  return np.array([[0.0, -1, 1, 2], [1, 0, -1, 2], [-1, 1, 0, 2], [-2, -2, -2, 0]])


def test_cycles_are_found():
  payoff = rock_paper_scissors()
  result = theory.transitivity(payoff)
  assert not result.holds and result.skill is None and result.longest is None
  better = theory.improvements(payoff)
  assert sorted(result.cycle) == [0, 1, 2]
  for x, y in zip(result.cycle, result.cycle[1:] + result.cycle[:1]):
    assert better[x, y]
  with pytest.raises(ValueError, match="goes round policies"):
    theory.self_play_sequence(payoff, 3)
  # No deviation gains more than 2.
  assert theory.transitivity(payoff, 2.0).longest == 0
  assert theory.skill_gain(payoff, np.zeros(4), 2.0) == np.inf


@pytest.mark.parametrize("seed", range(3))
def test_transitivity_agrees_with_brute_force(seed):
  """A random game is transitive if and only if no power of the improvements has a cycle."""
  rng = np.random.default_rng(seed)
  found = set()
  for _ in range(100):
    payoff = rng.normal(size=(4, 4)) + 1.5 * np.eye(4)
    better = theory.improvements(payoff).astype(int)
    powers = [np.linalg.matrix_power(better, k) for k in range(1, 5)]
    result = theory.transitivity(payoff)
    assert result.holds == (not any(np.trace(p) for p in powers))
    found.add(result.holds)
    if result.holds:
      assert result.longest == max([k for k in range(1, 5) if powers[k - 1].any()], default=0)
      if better.any():
        assert theory.skill_gain(payoff, result.skill) >= 1
    else:
      way = result.cycle + result.cycle[:1]
      assert all(better[x, y] for x, y in zip(way, way[1:]))
  assert found == {True, False}


def test_gains_within_their_errors_do_not_count():
  payoff = rock_paper_scissors()
  error = np.full((4, 4), 0.6)
  assert theory.transitivity(payoff, error=error).longest == 1  # only gains of 2 count
  assert not theory.transitivity(payoff, error=error, z=1.0).holds


def test_matrix_of_a_game_by_simulation():
  """V-hat of a symmetric game is its payoff, and self-play ends at the same strategy."""
  env = symmetric.SymmetricGame(symmetric.PIECEWISE_POTENTIAL)
  grid = jnp.linspace(0, 1, 9)
  samples = shared_game.matrix(
      env, CONSTANT, toys.constant(grid[:, None]), KEY, profiles(2, env.profile())
  )
  expected = symmetric.PIECEWISE_POTENTIAL.payoff(grid[:, None], grid[None])
  np.testing.assert_allclose(samples[..., 0], expected, rtol=1e-5)
  np.testing.assert_array_equal(theory.gains(samples).error, 0)
  assert theory.self_play_sequence(samples.mean(-1), 0)[-1] == 8


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: theory.improvements(np.zeros((2, 3))), r"shape \[2, 3\]: a square matrix"),
        (lambda: theory.self_play_sequence(np.full((2, 2), np.nan), 0), "finite numbers"),
        (lambda: theory.step_bound(np.arange(3), 0.0), "delta=0.0 must be positive"),
    ],
)
def test_bad_payoffs(call, match):
  with pytest.raises(ValueError, match=match):
    call()
