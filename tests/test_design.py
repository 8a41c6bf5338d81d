"""Design by gradient: reports, derivatives, descents, active sets and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from programs import cost_range
import pytest

import nes_jax
from nes_jax import design
from nes_jax.design import active, cases
from nes_jax.solving import engines

PIGOU = design.routing.pigou()
COST = design.routing.social_cost(PIGOU)
# Payoffs of Chicken, whose strategies are dare and yield.
CHICKEN = np.array([[[0.0, 7.0], [2.0, 6.0]], [[0.0, 2.0], [7.0, 6.0]]])


def social_cost(joint, payoffs, tolls):
  return jnp.sum(joint * COST)


def with_tolls(tolls):
  return design.routing.payoffs(PIGOU, tolls)


def not_negative(tolls):
  return jnp.maximum(tolls, 0)


def by_name(report):
  return {row.selection: row for row in report}


# Reports.


@pytest.mark.parametrize(
    "tolls, best, worst",
    [
        ([0.0, 0.0], 19 / 3, 7.5),
        ([0.75, 0.0], 6.0, 6.65625),
        ([[0.0, 0.0], [0.75, 0.0], [1.0, 0.0]], 6.0, 6.0),
    ],
)
def test_reports_of_the_two_roads(tolls, best, worst):
  tolls = np.array(tolls)
  assert cost_range(with_tolls(tolls), COST) == pytest.approx((best, worst))
  report = by_name(design.evaluate(social_cost, with_tolls, tolls))
  assert all(row.certified and row.gap <= 1e-8 for row in report.values())
  found = [report[name] for name in ("best_case", "worst_case")]
  assert [row.loss for row in found] == pytest.approx([best, worst], abs=1e-6)
  assert [row.bound for row in found] == pytest.approx([best, worst], abs=1e-6)
  assert best - 1e-6 <= report["max_entropy"].loss <= worst + 1e-6


def test_marginal_cost_tolls():
  charged = -(design.routing.times(PIGOU) + design.routing.externality(PIGOU))
  assert cost_range(charged, COST) == pytest.approx((6.0, 6.65625))
  report = design.evaluate(social_cost, lambda _: jnp.asarray(charged), np.zeros(1))
  assert [report[0].loss, report[2].loss] == pytest.approx([6.0, 6.65625], abs=1e-6)


@pytest.mark.parametrize("concept, epsilon", [("cce", 0.0), ("ce", 0.0), ("cce", 0.3), ("ce", 0.3)])
def test_cases_equal_linear_programs(concept, epsilon):
  games = np.random.default_rng(1).normal(size=(2, 3, 4))

  def loss(joint, payoffs, params):
    return 2 - jnp.sum(joint * payoffs.sum(0))

  report = by_name(
      design.evaluate(loss, lambda x: x, games, concept=concept, epsilon=epsilon)
  )
  low, high = cost_range(games, 2 - games.sum(0), concept, epsilon)
  for name, value in (("best_case", low), ("worst_case", high)):
    assert report[name].certified
    assert report[name].loss == pytest.approx(value, abs=1e-6)
    assert report[name].bound == pytest.approx(value, abs=1e-6)


def test_selections_of_all_kinds():
  def generous(payoffs, params):
    return nes_jax.Selection(welfare=params["weight"] * payoffs[0], welfare_weight=1e3)

  report = by_name(
      design.evaluate(
          lambda joint, payoffs, params: jnp.sum(joint**2),
          lambda params: params["payoffs"],
          {"payoffs": CHICKEN, "weight": np.ones(())},
          selections={
              "entropy": "ME",
              "strong": "max_strength",
              "first": generous,
              "second": nes_jax.Selection(welfare=CHICKEN[1], welfare_weight=1e3),
          },
          concept="ce",
      )
  )
  assert list(report) == ["entropy", "strong", "first", "second"]
  entropy = nes_jax.solve(CHICKEN, concept="ce", precision="float64")
  np.testing.assert_allclose(report["entropy"].joint, entropy.joint, atol=1e-7)
  assert (report["first"].joint * CHICKEN[0]).sum() == pytest.approx(7, abs=1e-2)
  np.testing.assert_allclose(report["first"].joint, report["second"].joint.T, atol=1e-6)
  assert np.isnan(report["entropy"].bound)


# Derivatives.


@pytest.mark.parametrize("name, sign", [("best_case", 0), ("worst_case", 1)])
@pytest.mark.parametrize("tolls", [(0.4, 0.0), (1.1, 0.1)])
def test_slopes_of_cases_are_those_of_linear_programs(name, sign, tolls):
  with engines.precision(np.dtype("float64")):
    model = cases.Model(social_cost, with_tolls, {name: name}, "cce")

    def value(tolls):
      return cases.solve_traced(model, tolls[None], jnp.inf, (name,))[name].objective[0]

    slope = jax.jit(jax.grad(value))(jnp.array(tolls))
  step = 1e-4
  for k in range(2):
    ends = [np.array(tolls) + s * step * np.eye(2)[k] for s in (-1, 1)]
    low, high = (cost_range(with_tolls(end), COST)[sign] for end in ends)
    assert slope[k] == pytest.approx((high - low) / (2 * step), abs=2e-3)


# Descents.


def tuned(tolls, aggregate="largest", steps=150, **options):
  return design.minimise(
      social_cost, with_tolls, tolls, aggregate=aggregate, steps=steps, starts=True,
      projection=not_negative, **options,
  )


def test_anonymous_tolls_against_the_worst_case():
  found = tuned(np.array([[0.1, 0.0], [1.3, 0.0], [0.2, 0.3]]))
  assert found.loss == pytest.approx(6.65625, abs=1e-5)
  np.testing.assert_allclose(found.losses, 6.65625, atol=1e-4)
  assert found.params[0] - found.params[1] == pytest.approx(0.75, abs=0.01)
  assert all(row.certified for row in found.report)
  assert found.history["worst_case"].shape == (150, 3)
  assert found.skipped == 0


@pytest.mark.slow
def test_driver_specific_tolls_against_the_worst_case():
  tolls = np.random.default_rng(0).uniform(0, 1.5, (4, 3, 2))
  found = tuned(tolls)
  assert found.loss == pytest.approx(6.0, abs=1e-6)
  assert cost_range(with_tolls(found.params), COST)[1] == pytest.approx(6.0, abs=1e-6)
  assert found.active_set_changed


@pytest.mark.slow
def test_tolls_tuned_on_entropy_alone_stop_early():
  found = tuned(np.array([[0.0, 0.0]]), aggregate="max_entropy")
  report = by_name(found.report)
  assert report["max_entropy"].loss == pytest.approx(6.704, abs=1e-3)
  assert report["worst_case"].loss > 7.0


@pytest.mark.slow
def test_descents_are_no_worse_than_their_starts():
  """With one large step, the start itself is the best iterate."""
  found = tuned(np.array([[0.75, 0.0]]), steps=1, optimiser=optax.sgd(100.0))
  assert found.loss == pytest.approx(6.65625, abs=1e-6)


# Active sets.


def test_changes_are_reported_where_they_happen():
  """The first strategy of both players is dominant while the parameter is positive."""

  def payoffs(x):
    own = jnp.array([1.0, 0.0]) * x
    return jnp.stack([jnp.broadcast_to(own[:, None], (2, 2)), jnp.broadcast_to(own, (2, 2))])

  found = design.minimise(
      lambda joint, payoffs, x: x + 0 * joint.sum(), payoffs, np.float64(0.25),
      selections=["worst_case"], optimiser=optax.sgd(0.1), steps=5,
  )
  # The parameter is 0.25, 0.15, 0.05, -0.05, -0.15.
  support = [x for x in found.active_set_changed if x.what == "support"]
  assert [(x.step, x.selection, x.start) for x in support] == [(3, "worst_case", 0)]
  assert set(support[0].places) == {(0, 0), (1, 1)}
  assert {x.step for x in found.active_set_changed} == {3}


def test_changes_of_two_sets():
  one = active.Active((np.array([[True, False]]),), np.array([[[True, False]]]), np.ones(1))
  two = active.Active((np.array([[True, True]]),), np.array([[[False, True]]]), np.ones(1))
  assert active.changes(7, "x", one, one) == []
  constraint, support = active.changes(7, "x", one, two)
  assert constraint == active.Change(7, 0, "x", "constraint", ((0, 1),))
  assert support == active.Change(7, 0, "x", "support", ((0, 0), (0, 1)))


def test_strictness_is_the_distance_to_another_worst_case():
  """The second player is indifferent, and its second strategy costs less by a small amount."""
  games = np.array([[[1.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
  for less in (0.1, 1e-4):
    cost = np.array([[1.0, 1.0 - less], [0.0, 0.0]])
    (row,) = design.evaluate(
        lambda joint, payoffs, x, cost=cost: jnp.sum(joint * cost), lambda x: x, games,
        selections=["worst_case"],
    )
    assert row.loss == pytest.approx(1.0, abs=1e-6)
    # In units of the standard deviation of the cost.
    assert row.strictness <= less / cost.std() * 1.01
  assert row.strictness > 1e-5


# Errors.


def nothing(joint, payoffs, params):
  return jnp.sum(joint)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"selections": []}, "selections are empty"),
        ({"selections": ["best"]}, "unknown name 'best'"),
        ({"selections": ["match_target"]}, "needs target"),
        ({"selections": [nes_jax.Selection()]}, "need names"),
        ({"selections": {"mine": 3}}, "neither a name"),
        ({"aggregate": "sum"}, "unknown aggregate 'sum'"),
        ({"concept": "nash"}, "unknown concept 'nash'"),
        ({"epsilon": -1.0}, "epsilon=-1"),
        ({"steps": 0}, "steps=0"),
        ({"welfare_weights": (10.0, 1.0)}, "two positive numbers"),
        ({"starts": True, "params": {"x": np.zeros(2), "y": np.zeros(3)}}, "same leading axis"),
        ({"params": np.array([np.nan, 0.0])}, "finite real arrays"),
        ({"params": {}}, "one array or more"),
        ({"payoffs": lambda x: x}, "one game"),
        ({"loss": lambda joint, payoffs, x: joint.sum(0)}, "one real number"),
        ({"loss": lambda joint, payoffs, x: jnp.inf * joint.sum()}, "not finite"),
        ({"loss": lambda joint, payoffs, x: jnp.sum(joint**2)}, "affine in the joint"),
    ],
)
def test_what_is_wrong_is_said(options, message):
  given = {"loss": nothing, "payoffs": with_tolls, "params": np.zeros(2)} | options
  loss, payoffs, params = (given.pop(name) for name in ("loss", "payoffs", "params"))
  with pytest.raises(ValueError, match=message):
    design.minimise(loss, payoffs, params, **given)
