"""calsheq_jax.calibrate: against stages by hand, seeds, chunks, bad arguments, a known answer."""

import dataclasses
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest

import calsheq_jax
from calsheq_jax import calsheq, experiments, pairs, targets
from calsheq_jax.observed import Observed

PROBLEM = experiments.named("linear_quadratic").problem()
LEARNING = dataclasses.replace(calsheq_jax.CalibratorConfig().learning, epochs=1, minibatches=2)
CONFIG = calsheq_jax.Config(
    episodes=8,
    network=calsheq_jax.PolicyConfig(hidden=(4,)),
    shared=calsheq_jax.PPOConfig(epochs=1, minibatches=2),
    calibrator=calsheq_jax.CalibratorConfig(hidden=(4,), learning=LEARNING),
    starts=2,
    trial=3,
    rest=2,
    last_rest=2,
)
FEW = {"stages": 5, "judge_episodes": 8, "response_updates": 2, "response_episodes": 8}


def calibrate(**changes):
  return calsheq_jax.calibrate(PROBLEM, config=CONFIG, **{**FEW, **changes})


@pytest.fixture(scope="module")
def result():
  return calibrate(report_every=2)


def test_fields(result):
  low, high = PROBLEM.space.low, PROBLEM.space.high
  assert tuple(result.numbers) == PROBLEM.space.names
  assert all(a <= x <= b for a, x, b in zip(low, result.numbers.values(), high))
  np.testing.assert_allclose(
      [result.profile.mean1, result.profile.mean2], list(result.numbers.values()), rtol=1e-6
  )
  values = np.float32([result.values[target.name] for target in PROBLEM.targets])
  goals = targets.goals_of(PROBLEM.targets)
  np.testing.assert_allclose(
      result.reward_of_means, targets.reward(PROBLEM.targets, values, goals), rtol=1e-5
  )
  assert 0 < result.reward <= 1 and set(result.supertype_rewards) == {"supertype_1", "supertype_2"}
  assert result.epsilon == float(result.certificate.epsilon.mean)
  assert result.certificate.rewards.mean.shape == (6,)
  assert int(result.state.shared.step) == 5


def by_hand(state, stage_key, count):
  """Learners after `count` stages, and the metrics of each."""
  goals = targets.goals_of(PROBLEM.targets)
  step = jax.jit(lambda state: calsheq.stage(state, stage_key, goals, PROBLEM, CONFIG))
  rows = []
  for _ in range(count):
    state, metrics = step(state)
    rows.append(metrics)
  return state, rows


def first(key):
  return jax.jit(lambda key: calsheq.init(key, PROBLEM, CONFIG))(key)


def test_the_better_start_goes_on(result):
  """Both starts by hand: one of them, with the run's own key after the trial, is the result."""
  init_key, key, _, _ = jax.random.split(jax.random.key(0), 4)
  ends = []
  for start, stages in zip(pairs.start_keys(init_key, 2), pairs.start_keys(key, 2)):
    state, _ = by_hand(first(start), stages, CONFIG.trial)
    ends.append(by_hand(state, key, FEW["stages"] - CONFIG.trial)[0].recent)
  assert not np.allclose(*ends, atol=1e-3)
  assert any(np.allclose(end, result.state.recent, atol=1e-4) for end in ends)


def test_history_is_that_of_the_stages():
  """The stages of a run with one start, by hand."""
  config = dataclasses.replace(CONFIG, starts=1)
  alone = calsheq_jax.calibrate(PROBLEM, config=config, report_every=2, **FEW)
  init_key, key, _, _ = jax.random.split(jax.random.key(0), 4)
  state, rows = by_hand(first(init_key), key, 5)
  chex.assert_trees_all_close(state, alone.state, rtol=1e-3, atol=1e-4)
  assert set(alone.history) == set(rows[0])
  for name, values in alone.history.items():
    expected = np.stack([row[name] for row in rows])
    np.testing.assert_allclose(values, expected, rtol=2e-3, atol=1e-4, err_msg=name)


def test_seeds_and_progress(result):
  calls = []
  again = calibrate(report_every=2, progress=lambda *call: calls.append(call))
  chex.assert_trees_all_equal(again.state, result.state)
  assert (again.numbers, again.reward, again.epsilon) == (
      result.numbers, result.reward, result.epsilon
  )
  assert [stage for stage, _ in calls] == [2, 3, 5]  # the trial ends after 3 stages
  for stage, metrics in calls:
    assert float(metrics["reward"]) == result.history["reward"][stage - 1]
  assert calibrate(report_every=2, seed=1).numbers != result.numbers


def test_without_a_certificate(result):
  short = calibrate(report_every=2, response_updates=0, response_episodes=1)
  assert short.epsilon is None and short.certificate is None
  assert short.numbers == result.numbers and short.reward == result.reward


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"stages": 0}, "stages=0 must be at least 1"),
        ({"judge_episodes": 3}, "judge_episodes=3 must be at least 4"),
        ({"report_every": 0}, "report_every=0 must be at least 1"),
        ({"response_updates": -1}, "response_updates=-1 must be at least 0"),
        ({"response_episodes": 7}, "response_episodes: 7 episodes of 1 steps.*multiple of 2"),
    ],
)
def test_bad_arguments(changes, message):
  with pytest.raises(ValueError, match=message):
    calibrate(**changes)


def test_an_environment_with_observed_values():
  """The same as with a `Problem` of the same targets."""
  env = PROBLEM.env
  data = Observed(
      {"supertype_action[0]": 1.0, "gap": 0.2, "supertype_action[1]": float("nan")},
      errors=[0.1, 0.05, float("nan")], count=4,
  )
  found = calsheq_jax.calibrate(
      env, {"*/mean": (-0.5, 0.9)}, data, start=env.profile(0.1, 0.2), config=CONFIG,
      statistics={"gap": gap}, **{**FEW, "response_updates": 0},
  )
  problem = calsheq_jax.Problem(
      calsheq_jax.space(
          env, env.profile(0.1, 0.2), low=dict.fromkeys(env.profile_names, -0.5),
          high=dict.fromkeys(env.profile_names, 0.9),
      ),
      (
          calsheq_jax.Target("supertype_action", 1.0, 0.2, index=(0,)),
          calsheq_jax.Target("gap", 0.2, 0.1, function=gap),
      ),
  )
  same = calsheq_jax.calibrate(problem, config=CONFIG, **{**FEW, "response_updates": 0})
  assert found.numbers == same.numbers and found.values == same.values
  assert found.observed == {"supertype_action[0]": 1.0, "gap": 0.2}
  assert found.observed_errors == {"supertype_action[0]": 0.1, "gap": 0.05}
  assert same.observed_errors is None and found.missing == ("supertype_action[1]",)
  assert all(error > 0 for error in found.value_errors.values())
  assert ["supertype_action[1]", "missing"] in [x.split() for x in found.report().splitlines()]


def gap(outputs):
  """The difference of both supertypes' mean actions."""
  return outputs["supertype_action"][0] - outputs["supertype_action"][1]


@pytest.mark.parametrize(
    "given, message",
    [
        ({"box": {"x": (0, 1)}}, "a Problem has its box, targets and start already"),
        ({"simulator": PROBLEM.env}, "observed=None"),
        ({"level": 0.9}, "level=0.9: intervals need the errors of what was observed"),
        ({"level": 90}, "level=90 must lie between 0 and 1"),
        ({"simulator": PROBLEM.env, "observed": {"share": 1.0}}, "on no output of LinearQuadratic"),
        ({"config": CONFIG.shared}, "this simulator takes a calsheq_jax.calsheq.Config"),
    ],
)
def test_arguments_that_do_not_go_together(given, message):
  with pytest.raises(ValueError, match=message):
    calsheq_jax.calibrate(**{"simulator": PROBLEM, "stages": 1, **given})


@pytest.mark.slow
def test_the_known_answer_of_the_small_game_is_found():
  """Means of types (0.6, 0.3), and an equilibrium: a best response gains next to nothing."""
  result = calsheq_jax.calibrate(PROBLEM, stages=400)
  # Over seeds 0 to 3 the numbers are at most 0.01 off, the reward of means is at least 0.92, and
  # epsilon is at most 0.2% of the value.
  np.testing.assert_allclose(list(result.numbers.values()), [0.6, 0.3], atol=0.03)
  assert result.reward_of_means > 0.85 and result.reward < result.reward_of_means
  assert result.epsilon < 0.01 * float(result.certificate.value.mean)


def test_public_names():
  for name in calsheq_jax.__all__:
    assert getattr(calsheq_jax, name) is not None
  # The environments stand alone.
  code = (
      "import envs, sys;"
      "print([name for name in ('distrax', 'haiku', 'calsheq_jax') if name in sys.modules])"
  )
  found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert found.stdout == "[]\n"
