"""calsheq_jax.simulated: steps by hand, known answers, seeds side by side, bad simulators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import calsheq_jax
from calsheq_jax import simulated, targets
from calsheq_jax.observed import Observed, targets_of
from calsheq_jax.problem import parameters

BOX = {"x": (-2.0, 2.0), "y": (0.0, 10.0)}
MATRIX = np.array([[1.0, 0.2], [0.5, -0.3], [0.0, 0.1]], np.float32)
ANSWER = np.array([0.7, 6.0], np.float32)
NOISE = 0.2


def linear(key, theta):
  return MATRIX @ theta + NOISE * jax.random.normal(key, (3,))


def problem_of(simulator=linear, values=MATRIX @ ANSWER, **more):
  observed = Observed(dict(zip("abc", map(float, values))), errors=[0.1, 0.2, 0.1], **more)
  return simulated.Simulation(simulator, parameters(BOX), targets_of(observed), observed.order)


CONFIG = simulated.Config(simulations=32)


def run(problem, key, stages=8, config=CONFIG):
  goals = targets.goals_of(problem.targets)

  def step(state, _):
    return simulated.stage(state, key, goals, problem, config)

  return jax.lax.scan(step, simulated.init(problem, config, stages), length=stages)


def test_one_step_by_hand():
  """One parameter, one statistic without noise, far from the answer: (regression) and (step)."""
  state = simulated.State(
      jnp.int32(1), jnp.array([0.25]), jnp.array([[0.5]]),
      jnp.array([[[-0.5], [0.0], [0.5], [0.75]]]), jnp.zeros((1, 4, 1)),
  )
  points = np.array([-0.5, 0.0, 0.5, 0.75])
  residuals = 3 - 2 * points + np.array([0.1, -0.1, -0.1, 0.1])
  found = simulated._moved(
      state, jnp.array(residuals, jnp.float32)[None, :, None], jnp.array([True]),
      simulated.Config(simulations=4, least_spread=1e-6),
  )
  u = (points - 0.25) / 0.5
  near = np.exp(-(u**2) / (2 * 3.0**2))
  loss = residuals**2
  order = np.argsort(loss)
  median = loss[order][np.searchsorted(np.cumsum(near[order]), near.sum() / 2)]
  weight = near * np.exp(-loss / (2 * median))
  weight /= weight.sum()
  slope, level = np.polyfit(u, residuals, 1, w=np.sqrt(weight))
  effective = 1 / (weight**2).sum()
  tau = (weight * (residuals - level - slope * u) ** 2).sum()
  tau *= effective / max(effective - 2, 1)
  h = 1 + slope**2 / tau
  move = -slope * level / tau / h
  # The ridge of 1e-4 on the slope is the difference.
  np.testing.assert_allclose(found[0], np.clip([0.25 + 0.5 * move], -1, 1), rtol=1e-2)
  np.testing.assert_allclose(found[1], [[0.5 / np.sqrt(h)]], rtol=1e-2)
  np.testing.assert_allclose(found[2], abs(level + slope * move), rtol=5e-2)


def test_the_first_stage_is_a_latin_hypercube_and_later_points_stay_in_the_box():
  config = simulated.Config(simulations=16)
  state = simulated.init(problem_of(), config, 2)
  first, keys = simulated.propose(state, jax.random.key(3))
  cells = np.sort(np.floor((np.asarray(first) + 1) * 8 - 1e-4 + 1).astype(int) % 16, 0)
  assert len(set(map(tuple, np.asarray(jax.random.key_data(keys)).tolist()))) == 16
  assert all(len(set(column)) >= 15 for column in cells.T)
  later = state._replace(step=jnp.int32(1), centre=jnp.array([0.9, -0.9]))
  points, _ = simulated.propose(later, jax.random.key(3))
  assert (np.abs(points) <= 1).all() and not np.array_equal(points, first)


def test_a_linear_simulator_is_calibrated_and_seeds_run_side_by_side():
  problem = problem_of()
  keys = jax.random.split(jax.random.key(0), 4)
  states, history = jax.jit(jax.vmap(lambda key: run(problem, key)))(keys)
  found = np.asarray(problem.parameters.numbers(states.centre))
  # Standard errors of least squares from 256 simulations; the cloud is local, so they are larger.
  weights = 1 / np.array([0.1, 0.2, 0.1]) ** 2
  bread = np.linalg.inv(MATRIX.T @ (MATRIX * weights[:, None]))
  score = MATRIX.T @ np.diag(weights**2 * NOISE**2) @ MATRIX
  error = np.sqrt(np.diag(bread @ score @ bread) / 256)
  assert (np.abs(found - ANSWER) < 6 * error).all()
  assert (history["finite"] == 1).all()
  assert (history["distance"][:, -1] < 0.2).all()
  assert (history["spread"][:, -1] < history["spread"][:, 0]).all()


def test_broken_simulations_are_left_out_and_what_nothing_shows_stays_wide():
  def broken(key, theta):
    return jnp.where(theta[0] < -0.5, jnp.nan, linear(key, theta.at[1].set(6.0)))

  state, history = jax.jit(lambda key: run(problem_of(broken), key))(jax.random.key(1))
  assert 0.4 < float(history["finite"][0]) < 0.9
  spread = np.sqrt((np.asarray(state.factor) ** 2).sum(1))
  assert spread[0] < 0.1 and spread[1] > 0.3
  np.testing.assert_allclose(problem_of().parameters.numbers(state.centre)[0], 0.7, atol=0.15)


# calsheq_jax.calibrate.


def named(key, theta):
  return dict(zip("abc", linear(key, theta)))


@pytest.fixture(scope="module")
def result():
  observed = Observed(
      {"a": 1.9, "b": float("nan"), "sum": 2.5}, errors={"a": 0.1, "sum": 0.2}, count=3
  )
  calls = []
  found = calsheq_jax.calibrate(
      named, BOX, observed, stages=5, seed=3, report_every=2, judge_episodes=50,
      config=simulated.Config(simulations=20), progress=lambda *call: calls.append(call),
      statistics={"sum": lambda outputs: outputs["a"] + outputs["c"]},
  )
  return found, calls


def test_the_result(result):
  found, calls = result
  assert list(found.numbers) == ["x", "y"] and list(found.values) == ["a", "sum"]
  np.testing.assert_array_equal(found.profile, np.float32(list(found.numbers.values())))
  x, y = found.profile
  assert abs(found.values["a"] - (x + 0.2 * y)) < 5 * NOISE / 50**0.5
  np.testing.assert_allclose(found.value_errors["sum"], NOISE * 2**0.5 / 50**0.5, rtol=0.4)
  # a = x + 0.2 y = 1.9, and a + c = x + 0.3 y = 2.5.
  np.testing.assert_allclose(found.profile, [0.7, 6.0], atol=0.6)
  assert found.observed == {"a": 1.9, "sum": 2.5} and found.missing == ("b",)
  assert found.epsilon is None and found.certificate is None and found.supertype_rewards == {}
  assert 0 < found.reward < found.reward_of_means <= 1
  assert found.history["profile"].shape == (5, 2) and found.history["values"].shape == (5, 2)
  assert [done for done, _ in calls] == [2, 4, 5]
  assert int(found.state.step) == 5 and found.state.points.shape == (5, 20, 2)


def test_the_report(result):
  found = result[0]
  lines = [line.split() for line in found.report().splitlines()]
  assert lines[1][:3] == ["a", "1.9", "0.1"] and lines[3] == ["b", "missing"]
  total = np.hypot(0.2, found.value_errors["sum"])
  expected = (found.values["sum"] - 2.5) / total
  np.testing.assert_allclose(float(lines[2][-1]), expected, atol=0.051)
  assert lines[5][0] == "x" and float(lines[5][1]) == pytest.approx(found.numbers["x"], rel=1e-3)


def test_arrays_are_in_the_order_of_the_observed_values():
  """`calibrate` compiles a stage in three parts; together they are `stage`."""
  values = {"first": 1.9, "second": float("nan"), "third": 0.6}
  config = simulated.Config(simulations=20)
  found = calsheq_jax.calibrate(
      linear, BOX, values, stages=4, seed=5, judge_episodes=4, config=config
  )
  np.testing.assert_allclose(found.profile, ANSWER, atol=0.5)
  assert found.observed_errors is None and "unknown" in found.report()
  observed = Observed(values)
  problem = simulated.Simulation(linear, parameters(BOX), targets_of(observed), observed.order)
  key = jax.random.split(jax.random.key(5))[0]
  state, _ = jax.jit(lambda key: run(problem, key, 4, config))(key)
  np.testing.assert_allclose(found.state.centre, state.centre, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"simulator": 3}, "the simulator is a int"),
        ({"simulator": lambda key: key}, "cannot be traced by JAX with theta of the shape"),
        ({"simulator": lambda key, theta: theta}, r"an array of the shape \[2\]: it must give.* 3"),
        ({"simulator": lambda key, theta: (1, 2, 3)}, "gives tuple: it must give a mapping"),
        ({"observed": {"d": 1.0}, "simulator": named}, "target d is on no output of named.*b, c"),
        ({"observed": None}, "observed=None"),
        ({"box": None}, "box=None: a function needs bounds"),
        ({"box": {}}, "the box is empty"),
        ({"box": {"x": (1, 0), "y": (0, 1)}}, "bounds 1 to 0 of x"),
        ({"box": {"x": 1, "y": (0, 1)}}, r"the bounds of x are 1: give \(low, high\)"),
        ({"box": calsheq_jax.Config()}, "the box is a Config"),
        ({"config": calsheq_jax.Config()}, r"takes a calsheq_jax.simulated.Config"),
        ({"start": 1}, "start is for environments"),
        ({"stages": 0}, "stages=0"),
    ],
)
def test_bad_arguments(changes, message):
  given = {"simulator": linear, "box": BOX, "observed": {"a": 1, "b": 1, "c": 1}, "stages": 2}
  with pytest.raises(ValueError, match=message):
    calsheq_jax.calibrate(**(given | changes))


def test_nothing_finite():
  def never(key, theta):
    return jnp.full(3, jnp.nan)

  with pytest.raises(FloatingPointError, match="no simulation was finite.*narrower box"):
    calsheq_jax.calibrate(never, BOX, {"a": 1, "b": 1, "c": 1}, stages=2)


@pytest.mark.parametrize(
    "more, message",
    [({"simulations": 1}, "simulations=1"), ({"locality": 0.0}, "locality=0.0"),
     ({"least_spread": -1.0}, "least_spread=-1.0")],
)
def test_bad_settings(more, message):
  with pytest.raises(ValueError, match=message):
    simulated.Config(**more)
