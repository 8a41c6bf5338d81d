"""calsheq_jax.calibrator: the policy over increments, its noise, and problems of one step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calsheq_jax import calibrator, policy, ppo


def policy_and_params(**changes):
  moves = calibrator.Increments(start=(-1.0, 0.0, 0.5), **{"hidden": (8,), **changes})
  return moves, moves.init(jax.random.key(0))


def test_mean_increments_pull_towards_a_place_that_may_lie_beyond_the_walls():
  moves, params = policy_and_params(pull=0.3)
  x = jax.random.uniform(jax.random.key(1), (50, 3), minval=-1, maxval=1)
  # At the beginning g is near the start, also for numbers on a wall of the box.
  place = moves.place(params, x)
  np.testing.assert_allclose(place, np.tile([-1, 0, 0.5], (50, 1)), atol=0.05)
  mean = moves.distribution(moves.apply(params, x)[0]).mean()
  np.testing.assert_allclose(mean, 0.3 * (place - x), atol=1e-6)
  # However large the network's numbers are, the place stays near the box and reaches the walls.
  wild = jax.tree.map(lambda w: 1e3 * (w + 0.1), params)
  place = jnp.abs(moves.place(wild, x))
  assert 1.2 < place.max() <= 1.5


@pytest.mark.parametrize("scale", [0.02, 0.5])
def test_noise_has_the_scale_of_the_schedule_and_is_not_learnt(scale):
  moves, _ = policy_and_params()
  learning = calibrator.Config().learning
  state = ppo.init(jax.random.key(2), moves, learning)
  state = calibrator.exploring(state, jnp.float32(scale))
  x = jnp.zeros((20_000, 3))
  decision = policy.act(moves, state.agent, jax.random.key(3), x)
  centred = decision.action - moves.distribution(decision.parameters).mean()
  # The standard error of a standard deviation of 60,000 draws is about 0.3%.
  np.testing.assert_allclose(centred.std(), scale, rtol=0.02)
  gradient = jax.grad(lambda p: moves.apply(p, x)[0].sum())(state.agent.params)
  assert gradient["raw_scale"] == 0
  assert jnp.abs(gradient["network"]["place_head"]["b"]).min() > 0


def test_exploration_shrinks_to_its_least():
  config = calibrator.Config(exploration=0.4, least_exploration=0.05)
  scales = np.array(config.scale(jnp.arange(20_000)))
  np.testing.assert_allclose(scales[0], 0.4)
  assert (np.diff(scales) <= 0).all() and scales[-1] == np.float32(0.05)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"pull": 0.0}, "pull=0.0 must lie"),
        ({"hidden": (0,)}, "hidden=.0,.: sizes"),
        ({"exploration": 3.0}, "exploration=3.0 must lie between 0.001 and 2"),
        ({"least_exploration": 0.5}, "least_exploration=0.5 is above exploration=0.3"),
        ({"learning": ppo.Config()}, "normalise_observations must be False"),
    ],
)
def test_bad_configs(change, message):
  with pytest.raises(ValueError, match=message):
    calibrator.Config(**change)


def test_one_step_problems():
  moves, params = policy_and_params()
  state = ppo.init(jax.random.key(2), moves, calibrator.Config().learning)
  x, reward = jnp.zeros((4, 3)), jnp.arange(4.0)
  decision = policy.act(moves, state.agent, jax.random.key(0), x)
  mine = calibrator.one_step(decision, x, reward)
  given = {**decision._asdict(), "observation": x, "reward": reward}
  for name, value in given.items():
    np.testing.assert_array_equal(getattr(mine, name), value[None])
  assert mine.done.all() and not mine.truncated.any() and (mine.weight == 1).all()
  assert mine.last_value.shape == (4,) and not mine.last_value.any()
  # Nothing follows the step, so that advantages are rewards minus values.
  got = ppo.advantages(
      mine.reward, mine.value, mine.last_value, mine.done, mine.truncated, 1.0, 0.95
  )
  np.testing.assert_allclose(got[0], reward - decision.value, rtol=1e-6)
