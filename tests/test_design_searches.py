"""Descents against grid searches, which are batches of `solve`: Braess and a team's contract."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nes_jax
from nes_jax import design
from nes_jax.design import contracts


def test_contracts_by_hand():
  project = contracts.two_agents()
  assert project.success[0, 0] == pytest.approx(0.1)
  assert project.success[3, 3] == pytest.approx(0.95)
  payoffs = contracts.payoffs(project, np.array([0.5, 0.2]))
  assert payoffs[0, 3, 3] == pytest.approx(0.475 - 0.08)
  assert payoffs[1, 3, 0] == pytest.approx(0.2 * 0.35)
  assert contracts.profit(project, np.array([0.5, 0.2]))[3, 3] == pytest.approx(0.3 * 0.95)


def test_wrong_teams():
  with pytest.raises(ValueError, match="one axis for each agent"):
    contracts.team(np.ones((2, 2)), ([0, 1], [0, 1, 2]))
  with pytest.raises(ValueError, match="probabilities"):
    contracts.team(2 * np.ones((2, 2)), ([0, 1], [0, 1]))
  with pytest.raises(ValueError, match="bonuses must be"):
    contracts.payoffs(contracts.two_agents(), np.zeros(3))


@pytest.mark.slow
def test_a_contract_is_as_good_as_a_grid():
  project, epsilon = contracts.two_agents(), 0.005
  grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 101)] * 2, indexing="ij"), -1).reshape(-1, 2)
  games = np.stack([contracts.payoffs(project, x) for x in grid])
  selection = nes_jax.Selection(
      welfare=-project.success, welfare_weight=np.inf, epsilon=epsilon
  )
  solved = nes_jax.solve(games, selection=selection, precision="float64", batched=True)
  assert solved.converged.all()
  profits = (solved.joint * project.success).sum((1, 2)) * (1 - grid.sum(1))
  found = design.minimise(
      lambda joint, payoffs, x: -jnp.sum(joint * contracts.profit(project, x)),
      lambda x: contracts.payoffs(project, x),
      np.random.default_rng(0).uniform(0, 0.5, (16, 2)),
      starts=True, epsilon=epsilon, projection=lambda x: jnp.clip(x, 0, 0.5),
      optimiser=optax.adam(optax.cosine_decay_schedule(0.02, 300)),
  )
  assert -found.loss >= 0.99 * profits[grid.sum(1) <= 1].max()


@pytest.mark.slow
def test_tolls_of_braess_are_as_good_as_a_grid():
  net = design.routing.braess()
  cost = design.routing.social_cost(net)
  free = net.edges.index("uv")
  grid = np.zeros((201, 5))
  grid[:, free] = np.linspace(0, 4, 201)
  games = np.stack([design.routing.payoffs(net, x) for x in grid])
  selection = nes_jax.Selection(welfare=cost, welfare_weight=np.inf)
  solved = nes_jax.solve(games, selection=selection, precision="float64", batched=True)
  smallest = (solved.joint * cost).sum((1, 2, 3, 4)).min()
  assert smallest == pytest.approx(27.83, abs=0.01)
  found = design.minimise(
      lambda joint, payoffs, x: jnp.sum(joint * cost),
      lambda x: design.routing.payoffs(net, x),
      np.random.default_rng(0).uniform(0, 1, (10, 5)),
      starts=True, projection=lambda x: jnp.maximum(x, 0),
  )
  assert found.loss <= 1.01 * smallest
