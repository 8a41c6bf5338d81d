"""calsheq_jax.experiments: facts printed in the paper, and known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calsheq_jax import experiments, targets
from calsheq_jax.experiments import EXPERIMENTS
from envs.percentiles import percentiles


@pytest.mark.parametrize(
    "name, merchants, numbers, count",
    [("1", 5, 20, 10), ("2", 5, 20, 18), ("3", 8, 20, 19), ("4", 5, 23, 10), ("5", 10, 23, 19),
     ("recover", 5, 20, 20)],
)
def test_market_experiments(name, merchants, numbers, count):
  experiment = EXPERIMENTS[name]
  problem = experiment.problem()
  assert problem.env.num_agents == merchants
  assert problem.space.size == numbers == len(set(problem.space.names))
  assert len(problem.targets) == count
  assert f"{merchants} merchants, {numbers} parameters" in experiment.about
  goals = targets.goals_of(problem.targets)
  np.testing.assert_allclose(targets.reward(problem.targets, goals, goals), 1, rtol=1e-6)
  # The percentiles and the share of a supertype have the same total weight.
  weights = {}
  for target in problem.targets:
    group = (target.output, target.index[0])
    weights[group] = weights.get(group, 0) + target.weight
  np.testing.assert_allclose(list(weights.values()), 1)
  assert experiment.hidden == (name == "recover")


def test_what_the_paper_prints():
  """The 10% percentile of supertype 1 is 8 in experiment 2; there are 500 customers."""
  first = EXPERIMENTS["2"].targets[0]
  assert (first.output, first.index, first.value) == ("supertype_percentiles", (0, 0), 8)
  config = EXPERIMENTS["5"].env.config
  assert config.clusters * config.customers == 500
  assert all(5 <= e.env.num_agents <= 10 for e in EXPERIMENTS.values() if e.name in "12345")


@pytest.mark.parametrize("name", ["1", "3"])
def test_targets_can_be_met_but_not_by_the_first_profile(name):
  """Some histogram has the percentiles, and outputs of an untrained market do not."""
  problem = EXPERIMENTS[name].problem()
  numbers = [problem.space.start[i] for i in problem.space.positions]
  np.testing.assert_allclose(numbers, 0.3, rtol=1e-6)
  counts = jnp.zeros((2, 10), jnp.int32)
  counts = counts.at[0, 7:].set(jnp.array([33, 33, 34]))
  counts = counts.at[1].set(jnp.array([5, 10, 18, 10, 10, 18, 10, 12, 4, 3]))
  outputs = {
      "supertype_percentiles": percentiles(counts), "supertype_share": jnp.array([0.15, 0.5])
  }
  values = targets.values_of(problem.targets, outputs)
  goals = targets.goals_of(problem.targets)
  np.testing.assert_allclose(values, goals, rtol=1e-6)


def test_the_answer_of_the_small_game():
  experiment = EXPERIMENTS["linear_quadratic"]
  env, problem = experiment.env, experiment.problem()
  means = env.equilibrium_means(env.profile(*experiment.answer))
  np.testing.assert_allclose(means, targets.goals_of(problem.targets), rtol=1e-5)
  # The start is far from the answer.
  assert np.abs(problem.space.origin() - np.array(experiment.answer)).min() > 0.4


def test_another_market():
  small = experiments.resized(EXPERIMENTS["1"], customers=3, horizon=2)
  assert small.env.config.customers == 3 and small.env.horizon == 2
  assert small.env.num_agents == 5 and small.targets == EXPERIMENTS["1"].targets
  with pytest.raises(ValueError, match="linear_quadratic is not of the market: horizon"):
    experiments.resized(EXPERIMENTS["linear_quadratic"], horizon=2)
  with pytest.raises(ValueError, match="customers=0"):
    experiments.resized(EXPERIMENTS["1"], customers=0)


def test_hidden_profiles():
  problem = EXPERIMENTS["recover"].problem()

  def draw(seed):
    return experiments.hidden_coordinates(jax.random.key(seed), problem)

  x = np.array(draw(0))
  assert x.shape == (20,) and np.abs(x).max() <= 0.8 and x.std() > 0.3
  assert np.abs(x - draw(1)).max() > 0.1


def test_names():
  assert experiments.named("3") is EXPERIMENTS["3"]
  with pytest.raises(ValueError, match="experiment='6' is not one of 1, 2, 3, 4, 5, recover"):
    experiments.named("6")
