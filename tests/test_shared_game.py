"""calsheq_jax.shared_game and self_play: V-hat, its gradient, certificates, Theorem 1."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from calsheq_jax import policy, ppo, rollout, self_play, shared_game
from envs import linear_quadratic, market, symmetric

GAME = linear_quadratic.LinearQuadratic()
PROFILE = GAME.profile()
COUPLING = GAME.config.coupling
MEAN_TYPE = (0.8 + 3 * 0.4) / 4  # over the random seat
CONSTANT = toys.Constant()
KEY = jax.random.key(0)
# Standard errors between an estimate and the truth: happens to one in 2000.
FAR = 3.5


def constant(x):
  return toys.constant(x, observation_size=2)


@jax.jit
def lq_values(first, second, key, profiles):
  return shared_game.values(GAME, CONSTANT, first, second, key, profiles)


def profiles(count, profile=PROFILE):
  return rollout.repeated(profile, count)


def lq_value(x, y, mean_type=MEAN_TYPE):
  """V-hat of two constants, by hand."""
  return x * (mean_type + COUPLING * y) - x**2 / 2


# V-hat.


def test_value_by_hand():
  result = shared_game.estimate(lq_values(constant([1.2]), constant([-0.5]), KEY, profiles(400)))
  expected = lq_value(1.2, -0.5)
  assert 0.001 < float(result.error) < 0.03
  assert abs(float(result.mean) - expected) < FAR * float(result.error)
  # The seat matters: types are of mean 0.8 in one seat of four, and 0.4 in the others.
  assert abs(lq_value(1.2, -0.5, 0.8) - expected) > FAR * float(result.error)
  low, high = result.interval()
  np.testing.assert_allclose(high - low, 2 * 1.96 * result.error, rtol=1e-5)


def test_error_is_that_of_the_mean():
  samples = jnp.asarray(np.random.default_rng(0).normal(3, 2, size=(5, 10000)))
  result = shared_game.estimate(samples)
  np.testing.assert_allclose(result.error, 0.02, rtol=0.05)
  np.testing.assert_allclose(result.mean, 3, atol=FAR * 0.02)
  with pytest.raises(ValueError, match="1 sample"):
    shared_game.estimate(jnp.zeros((3, 1)))


def test_symmetric_values_are_those_of_the_pair():
  net = policy.for_environment(GAME, policy.Config(hidden=(4,)))
  agent = ppo.init(KEY, net, ppo.Config()).agent
  pair = shared_game.values(GAME, net, agent, agent, KEY, profiles(6))
  each = shared_game.symmetric_values(GAME, net, agent, KEY, profiles(6))
  assert each.shape == (6, 4)
  np.testing.assert_allclose(pair, each.mean(-1), rtol=1e-4, atol=1e-6)
  # An agent at its mean action is another strategy.
  mean = shared_game.values(GAME, net, agent, agent, KEY, profiles(6), mean_action=True)
  assert np.abs(pair - mean).max() > 0.01


def test_discount():
  env, still = toys.Countdown(), toys.constant([0.0, 0.0], 4)
  value = lambda d: shared_game.values(
      env, toys.Constant(2), still, still, KEY, profiles(3, toys.rules(3)), discount=d
  )
  trajectory = jax.vmap(
      lambda key: rollout.episode(
          env, key, toys.rules(3), lambda k, x: policy.decide(toys.Constant(2), still, k, x)
      ).trajectory.reward.mean(-1)
  )(rollout.keys_of(KEY, 3))
  expected = trajectory[:, :3] @ jnp.array([1, 0.5, 0.25])
  np.testing.assert_allclose(value(0.5), expected, rtol=1e-4, atol=1e-6)


def test_matrix_of_a_finite_set():
  actions = jnp.array([[0.2], [0.9], [-0.4]])
  samples = jax.jit(lambda a: shared_game.matrix(GAME, CONSTANT, a, KEY, profiles(200)))(
      constant(actions)
  )
  assert samples.shape == (3, 3, 200)
  for i in range(3):
    for j in range(3):
      alone = lq_values(constant(actions[i]), constant(actions[j]), KEY, profiles(200))
      np.testing.assert_allclose(samples[i, j], alone, rtol=1e-4, atol=1e-6)
  found = shared_game.gains(samples)
  x = actions[:, 0]
  u = lq_value(x[:, None], x[None])
  expected = (u - jnp.diag(u)).T
  away = jnp.abs(found.mean - expected)
  assert (away <= FAR * found.error + 1e-6).all() and found.mean.shape == (3, 3)
  # Paired: that types are random hardly counts.
  assert float(found.error.max()) < 0.3 * float(shared_game.estimate(samples).error.max()) + 0.02


def test_certificate_by_hand():
  """Of constants against a constant, in the game whose values are known."""
  judge = jax.jit(
      lambda a, b: shared_game.certificate(GAME, CONSTANT, a, b, KEY, profiles(800))
  )
  result = judge(constant([[0.1], [0.9], [2.0]]), constant([0.4]))
  assert int(result.chosen) // 2 == 1
  for found, expected in (
      (result.value, lq_value(0.4, 0.4)),
      (result.epsilon, lq_value(0.9, 0.4) - lq_value(0.4, 0.4)),
  ):
    assert abs(float(found.mean) - expected) < FAR * float(found.error)
  by_seat = lq_value(0.4, 0.4, np.array([0.8, 0.4, 0.4, 0.4]))
  assert (np.abs(result.rewards.mean - by_seat) < FAR * result.rewards.error).all()
  nothing = judge(constant([[0.4]] * 3), constant([0.4]))
  np.testing.assert_allclose([nothing.epsilon.mean, nothing.epsilon.error], 0, atol=1e-6)
  with pytest.raises(ValueError, match="3 profile"):
    shared_game.certificate(
        GAME, CONSTANT, constant([[0.4]]), constant([0.4]), KEY, profiles(3)
    )


def test_certificate_tries_mean_actions():
  """What noise alone costs: half the variance of the action, s^2 / 2."""
  net = policy.for_environment(GAME, policy.Config(hidden=(4,), initial_scale=0.1))
  agent = ppo.init(KEY, net, ppo.Config()).agent
  one = jax.tree.map(lambda x: x[None], agent)
  result = jax.jit(
      lambda: shared_game.certificate(GAME, net, one, agent, KEY, profiles(2000))
  )()
  assert int(result.chosen) == 1
  expected = (0.1 * float(GAME.action_space.high[0])) ** 2 / 2
  assert abs(float(result.epsilon.mean) - expected) < FAR * float(result.epsilon.error)
  assert float(result.epsilon.error) < expected / 4


# Gradient (4).

NET = policy.for_environment(GAME, policy.Config(hidden=(6,), initial_scale=0.3))


def moved_agent(net, env, scale=0.3):
  """An agent away from its start, so that no layer is near zero."""
  agent = ppo.init(jax.random.key(3), net, ppo.Config()).agent
  rng = np.random.default_rng(0)
  shift = lambda x: x + scale * rng.normal(size=x.shape).astype(np.float32)
  return agent._replace(params=jax.tree.map(shift, agent.params))


def test_gradient_is_the_mean_over_agents_of_scores_times_returns():
  """Against (3), written as loops over agents and steps."""
  env = toys.Countdown(horizon=3)
  net = policy.for_environment(env, policy.Config(hidden=(3,)))
  agent = moved_agent(net, env)
  t = rollout.collect(env, net, agent, KEY, profiles(2, toys.rules(2))).trajectory
  ours = shared_game.gradient(net, agent, t, discount=0.9)

  @jax.jit
  def score(params, observation, action):
    log_prob = lambda p: net.distribution(
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
  other = shared_game.gradient(net, agent, t, discount=0.9, baseline=True)
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
      lambda key: shared_game.slopes(
          GAME, NET, agent, direction, key, profiles(20000), step=0.02, baseline=True
      )
  )
  found = check(jax.random.key(seed))
  error = np.hypot(found.gradient.error, found.difference.error)
  assert abs(float(found.gradient.mean - found.difference.mean)) < FAR * error
  # The slope is seen, and so is that of moving all agents at once, which is another.
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
  """Many steps, discrete customers, types: the same, along the score's own gradient."""
  env = market.Market(market.Config(num_merchants=2, clusters=2, customers=4, horizon=4))
  net = policy.for_environment(env, policy.Config(hidden=(6,)))
  agent = moved_agent(net, env, 0.1)
  many = profiles(20000, env.profile(0.7))
  trajectory = rollout.collect(env, net, agent, KEY, profiles(4000, env.profile(0.7))).trajectory
  direction = jax.jit(lambda t: shared_game.gradient(net, agent, t, baseline=True))(trajectory)
  size = np.sqrt(sum(float(jnp.vdot(x, x)) for x in jax.tree.leaves(direction)))
  direction = jax.tree.map(lambda x: x / size, direction)
  found = jax.jit(
      lambda key: shared_game.slopes(
          env, net, agent, direction, key, many, step=0.1, baseline=True
      )
  )(jax.random.key(1))
  error = np.hypot(found.gradient.error, found.difference.error)
  assert abs(float(found.gradient.mean - found.difference.mean)) < FAR * error
  assert float(found.gradient.mean) > 5 * error


# Best responses.

LEARNING = ppo.Config(learning_rate=3e-3, kl_target=0.03)


@pytest.mark.slow
def test_best_response_to_a_policy_that_does_nothing_much():
  """Against means of 0 an agent of type theta does best with theta, and earns theta^2 / 2."""
  frozen = jax.tree.map(jnp.array, ppo.init(KEY, NET, LEARNING).agent)
  respond = jax.jit(
      lambda key: self_play.best_response(frozen, key, GAME, NET, LEARNING, profiles(256), 150)
  )
  response, metrics = respond(jax.random.key(1))
  assert metrics["reward"].shape == (150,)
  result = jax.jit(
      lambda r: shared_game.certificate(
          GAME, NET, r, frozen, jax.random.key(2), profiles(2000)
      )
  )(response)
  spread = GAME.config.spread**2 / 3
  best = (0.8**2 + 3 * 0.4**2) / 8 + spread / 2
  earned = float(result.epsilon.mean + result.value.mean)
  # A lower bound, up to what is random; seen: 0.175 of 0.182.
  assert 0.9 * best < earned < best + FAR * float(result.epsilon.error + result.value.error)


@pytest.mark.slow
def test_self_play_learns_the_equilibrium_in_closed_form():
  """Five seeds: mean actions within 2% of it; a best response gains below 1% of its value."""
  # A bonus that fades: without one actions lose their spread before their mean has settled, with
  # a steady one they keep it, which costs half its square.
  learning = ppo.Config(learning_rate=3e-3, kl_target=0.03, entropy_weight=0.2, minibatches=2)
  rates = jnp.linspace(1, 0, 300)

  @jax.jit
  @jax.vmap
  def train(key):
    play_key, respond_key, judge_key = jax.random.split(key, 3)
    state, _ = jax.lax.scan(
        lambda s, rate: self_play.update(
            s, play_key, GAME, NET, learning, profiles(512), rate, rate
        ),
        ppo.init(key, NET, learning), rates,
    )
    response, _ = self_play.best_response(
        state.agent, respond_key, GAME, NET, LEARNING, profiles(256), 150
    )
    return state.agent, shared_game.certificate(
        GAME, NET, response, state.agent, judge_key, profiles(4000)
    )

  agents, judged = train(jax.random.split(jax.random.key(0), 5))
  observation = jnp.stack(
      [jnp.concatenate([jnp.linspace(0.3, 1.3, 50), jnp.linspace(-0.1, 0.9, 50)]),
       jnp.repeat(jnp.array([-1.0, 1.0]), 50)], -1
  )
  action = jax.vmap(lambda a: policy.decide(NET, a, None, observation).action)(agents)
  known = GAME.equilibrium(observation, PROFILE)
  error = jnp.sqrt(jnp.mean((action - known) ** 2, (1, 2)) / jnp.mean(known**2))
  assert error.shape == (5,) and float(error.max()) < 0.02, error
  value = float((GAME.equilibrium_value(PROFILE) @ jnp.array([1, 3])) / 4)
  _, high = judged.epsilon.interval()
  assert float(high.max()) < 0.01 * value, (judged.epsilon, value)
  np.testing.assert_allclose(judged.value.mean, value, rtol=0.03)


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
  sequence = shared_game.self_play_sequence(payoff, start, epsilon, choose)
  # The end is an epsilon-equilibrium: on the flat tops of two games, one that is near.
  last = sequence[-1]
  assert payoff[:, last].max() <= payoff[last, last] + epsilon
  assert abs(GRID[last] - game.equilibrium) <= (0 if name == "piecewise_potential" else 0.05)
  for x, y in zip(sequence, sequence[1:]):
    assert payoff[y, x] > payoff[x, x] + epsilon
  skill = np.asarray(game.skill(GRID))
  delta = shared_game.skill_gain(payoff, skill, epsilon)
  assert delta > float(game.delta(epsilon)) > 0
  steps = len(sequence) - 1
  assert steps <= shared_game.step_bound(skill, delta) <= game.steps(epsilon)
  longest = shared_game.transitivity(payoff, epsilon).longest
  assert steps <= longest <= shared_game.step_bound(skill, delta)


def test_the_slowest_sequence_goes_over_the_whole_grid():
  payoff = payoffs(symmetric.PIECEWISE_POTENTIAL)
  assert shared_game.self_play_sequence(payoff, 0, 1e-3, least) == list(range(41))
  assert shared_game.self_play_sequence(payoff, 0, 1e-3) == [0, 40]
  result = shared_game.transitivity(payoff, 1e-3)
  assert result.holds and result.longest == 40 and result.cycle is None
  np.testing.assert_array_equal(result.skill, np.arange(41))
  # delta = 1 by construction.
  assert shared_game.skill_gain(payoff, result.skill, 1e-3) == 1


def rock_paper_scissors():
  """With a fourth that loses to all and is never come back to."""
  return np.array([[0.0, -1, 1, 2], [1, 0, -1, 2], [-1, 1, 0, 2], [-2, -2, -2, 0]])


def test_cycles_are_found():
  payoff = rock_paper_scissors()
  result = shared_game.transitivity(payoff)
  assert not result.holds and result.skill is None and result.longest is None
  better = shared_game.improvements(payoff)
  assert sorted(result.cycle) == [0, 1, 2]
  for x, y in zip(result.cycle, result.cycle[1:] + result.cycle[:1]):
    assert better[x, y]
  with pytest.raises(ValueError, match="goes round policies"):
    shared_game.self_play_sequence(payoff, 3)
  # Nothing gains more than 2.
  assert shared_game.transitivity(payoff, 2.0).longest == 0
  assert shared_game.skill_gain(payoff, np.zeros(4), 2.0) == np.inf


@pytest.mark.parametrize("seed", range(3))
def test_transitivity_agrees_with_brute_force(seed):
  """On random games: it holds just if no product of improvements comes back."""
  rng = np.random.default_rng(seed)
  found = set()
  for _ in range(100):
    payoff = rng.normal(size=(4, 4)) + 1.5 * np.eye(4)
    better = shared_game.improvements(payoff).astype(int)
    powers = [np.linalg.matrix_power(better, k) for k in range(1, 5)]
    result = shared_game.transitivity(payoff)
    assert result.holds == (not any(np.trace(p) for p in powers))
    found.add(result.holds)
    if result.holds:
      assert result.longest == max([k for k in range(1, 5) if powers[k - 1].any()], default=0)
      if better.any():
        assert shared_game.skill_gain(payoff, result.skill) >= 1
    else:
      way = result.cycle + result.cycle[:1]
      assert all(better[x, y] for x, y in zip(way, way[1:]))
  assert found == {True, False}


def test_gains_within_their_errors_do_not_count():
  payoff = rock_paper_scissors()
  error = np.full((4, 4), 0.6)
  assert shared_game.transitivity(payoff, error=error).longest == 1  # only gains of 2 are left
  assert not shared_game.transitivity(payoff, error=error, z=1.0).holds


def test_matrix_of_a_game_by_simulation():
  """V-hat of a symmetric game is its payoff; self-play on it is self-play on the payoffs."""
  env = symmetric.SymmetricGame(symmetric.PIECEWISE_POTENTIAL)
  grid = jnp.linspace(0, 1, 9)
  samples = shared_game.matrix(
      env, CONSTANT, toys.constant(grid[:, None]), KEY, profiles(2, env.profile())
  )
  expected = symmetric.PIECEWISE_POTENTIAL.payoff(grid[:, None], grid[None])
  np.testing.assert_allclose(samples[..., 0], expected, rtol=1e-5)
  np.testing.assert_array_equal(shared_game.gains(samples).error, 0)
  assert shared_game.self_play_sequence(samples.mean(-1), 0)[-1] == 8


@pytest.mark.slow
def test_gradient_self_play_ends_at_one_in_the_piecewise_potential_game():
  env = symmetric.SymmetricGame(symmetric.PIECEWISE_POTENTIAL)
  net = policy.for_environment(env, policy.Config(hidden=(4,)))
  config = ppo.Config(learning_rate=5e-3, kl_target=0.03)

  @jax.jit
  def train(state):
    return jax.lax.scan(
        lambda s, _: self_play.update(s, KEY, env, net, config, profiles(32, env.profile())),
        state, length=60,
    )

  state = ppo.init(jax.random.key(4), net, config)
  seen = jnp.ones((1, 1))
  first = policy.decide(net, state.agent, None, seen).action
  assert abs(float(first[0, 0]) - 0.5) < 0.05
  state, _ = train(state)
  last = policy.decide(net, state.agent, None, seen).action
  assert float(last[0, 0]) >= 1  # which the environment takes for 1


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: shared_game.improvements(np.zeros((2, 3))), r"shape \[2, 3\]: a square matrix"),
        (lambda: shared_game.self_play_sequence(np.full((2, 2), np.nan), 0), "finite numbers"),
        (lambda: shared_game.step_bound(np.arange(3), 0.0), "delta=0.0 must be positive"),
    ],
)
def test_bad_payoffs(call, match):
  with pytest.raises(ValueError, match=match):
    call()
