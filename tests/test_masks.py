"""nes_jax.solve: strategies that do not exist, by masks and by payoffs of -infinity.

Games are float64 NumPy with x64 off unless a test says so. Compilation is what costs time here, so
tests share programs: [4, 2, 3, 3] with masks, whose sub-games are [4, 2, 2, 2], and a few others.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solutions import EXACT, GAMES, KNOWN, reference

import nes_jax
from nes_jax import selection
from nes_jax.selection import Selection
from nes_jax.solving import engines

HARD = ("max_entropy", "match_target", "max_welfare", "max_welfare_max_entropy",
        "min_relative_entropy")
SOFT = ("max_strength", "epsilon_max_entropy", "epsilon_max_welfare_max_entropy",
        "epsilon_min_relative_entropy")
# Kinds of payoffs where no strategy exists. Each game has one kind.
JUNK = ("random", np.nan, np.inf, -np.inf)


def random_masks(rng, count, shape, sub):
  """Random masks, bool [count, Ap] of each player, that leave `sub` strategies in every game."""
  masks = tuple(np.zeros((count, size), bool) for size in shape)
  for p, (size, left) in enumerate(zip(shape, sub)):
    for b in range(count):
      masks[p][b, rng.permutation(size)[:left]] = True
  return masks


def cells(masks, b):
  """The index of the joint strategies that exist in game b, for an array [A1, ..., AN]."""
  return np.ix_(*(np.flatnonzero(mask[b]) for mask in masks))


def restrict(x, masks, axes=0):
  """The sub-games of x [B, ..., A1, ..., AN], with `axes` axes between batch and strategies."""
  return np.stack([row[(slice(None),) * axes + cells(masks, b)] for b, row in enumerate(x)])


def masked_games(seed, shape, sub, count=4):
  """Games [B, N, *shape], their masks, and their sub-games [B, N, *sub].

  Where a strategy does not exist, the payoffs of a game are of one kind of JUNK.
  """
  rng = np.random.default_rng(seed)
  n = len(shape)
  ones = (1,) * n
  games = rng.normal(size=(count, n) + shape) * 10 ** rng.uniform(-2, 2, size=(count, n) + ones)
  masks = random_masks(rng, count, shape, sub)
  inner = restrict(games, masks, 1)
  for b in range(count):
    junk = JUNK[b % len(JUNK)]
    dead = np.ones(shape, bool)
    dead[cells(masks, b)] = False
    games[b][:, dead] = 1e3 * rng.normal(size=(n, dead.sum())) if junk == "random" else junk
  return games, masks, inner


def assert_same_as_sub(solution, masks, alone, concept, atol=1e-6):
  """Checks that masked games have the answers of their sub-games, and zeros elsewhere.

  Duals are not compared, since those of an answer on a face run off to infinity.
  """
  np.testing.assert_array_equal(solution.converged, alone.converged)
  assert np.all(solution.converged)
  np.testing.assert_allclose(restrict(solution.joint, masks), alone.joint, atol=atol)
  for b in range(len(solution.joint)):
    dead = np.ones(solution.joint.shape[1:], bool)
    dead[cells(masks, b)] = False
    assert dead.any() and (solution.joint[b][dead] == 0).all()
    for p, mask in enumerate(masks):
      left = mask[b]
      block, marginal = solution.duals[p][b], solution.marginals[p][b]
      exists = left if concept == "cce" else left[:, None] & left
      assert (block[~exists] == 0).all() and (marginal[~left] == 0).all()
      np.testing.assert_allclose(marginal[left], alone.marginals[p][b], atol=atol)
      assert (block[exists] >= 0).all() and np.isfinite(block[exists]).all()
  assert solution.epsilon.shape == alone.epsilon.shape
  assert np.abs(solution.residual - alone.residual).max() <= 1e-8


def payoff_sizes(games):
  """Sums over players of the standard deviations of payoffs [B], the unit of a gap."""
  return games.reshape(games.shape[:2] + (-1,)).std(2).sum(1)


def stacked_selections(names, games, masks, rng, **overrides):
  """The selections of these names, one for each game, as arrays in one `Selection`.

  The welfare holds numbers also where no strategy exists, which must not matter.

  Returns:
    The selection of the games, and that of their sub-games.
  """
  count, n, shape = len(names), games.shape[1], games.shape[2:]
  dead = [np.ones(shape, bool) for _ in names]
  for b in range(count):
    dead[b][cells(masks, b)] = False
  fields = {"target": [], "welfare": [], "welfare_weight": [], "epsilon": []}
  for b, name in enumerate(names):
    target = rng.dirichlet(np.full(int(np.prod(shape)), 2.0)).reshape(shape)
    target[dead[b]] = 0
    target /= target.sum()
    size = games[b][:, ~dead[b]].std(1)
    given = {
        "target": target,
        "welfare": rng.normal(size=shape),
        "epsilon": size * rng.uniform(0.05, 0.2, size=n),
    }
    row = next(row for row in selection.TABLE if row.name == name)
    payoffs = np.where(np.isfinite(games[b]), games[b], 0)
    chosen = selection.named(
        name, payoffs, player_axis=0, **{k: given[k] for k in row.needs}, **overrides
    )
    uniform = np.where(dead[b], 0, 1 / (~dead[b]).sum())
    fields["target"].append(uniform if chosen.target is None else chosen.target)
    fields["welfare"].append(np.zeros(shape) if chosen.welfare is None else chosen.welfare)
    weight = 0.0 if chosen.welfare is None else chosen.welfare_weight
    fields["welfare_weight"].append(weight)
    fields["epsilon"].append(np.broadcast_to(chosen.epsilon, (n,)))
  rest = {"rho": chosen.rho, "epsilon_max": chosen.epsilon_max}
  fields = {name: np.stack(values).astype(float) for name, values in fields.items()}
  inner = {k: restrict(v, masks) if k in ("target", "welfare") else v for k, v in fields.items()}
  return Selection(**fields, **rest), Selection(**inner, **rest)


# Answers of masked games and of their sub-games.


CONCEPTS_OF_MASKS = ["cce", pytest.param("ce", marks=pytest.mark.slow)]


@pytest.mark.parametrize("concept", CONCEPTS_OF_MASKS)
def test_masks_that_differ_from_game_to_game(concept):
  games, masks, inner = masked_games(0, (3, 3), (2, 2))
  solution = nes_jax.solve(games, concept=concept, strategies=masks, **EXACT)
  alone = nes_jax.solve(inner, concept=concept, **EXACT)
  assert_same_as_sub(solution, masks, alone, concept)
  assert (np.abs(solution.gap - alone.gap) <= 1e-7 * payoff_sizes(inner)).all()
  assert (solution.epsilon == 0).all()
  # Payoffs of strategies that do not exist have no influence at all.
  zeros = games.copy()
  for b in range(4):
    kept = games[b][(slice(None), *cells(masks, b))]
    zeros[b] = 0
    zeros[b][(slice(None), *cells(masks, b))] = kept
  again = nes_jax.solve(zeros, concept=concept, strategies=masks, **EXACT)
  jax.tree.map(np.testing.assert_array_equal, solution, again)


def test_one_mask_for_all_games():
  rng = np.random.default_rng(1)
  games = rng.normal(size=(4, 2, 3, 3))
  masks = (np.array([True, False, True]), np.array([False, True, True]))
  solution = nes_jax.solve(games, strategies=masks, **EXACT)
  rows = tuple(np.broadcast_to(mask, (4, 3)) for mask in masks)
  each = nes_jax.solve(games, strategies=rows, **EXACT)
  jax.tree.map(np.testing.assert_array_equal, solution, each)
  alone = nes_jax.solve(games[:, :, [0, 2]][..., [1, 2]], **EXACT)
  assert_same_as_sub(solution, rows, alone, "cce")


def test_one_game_of_a_batch_keeps_all_strategies():
  """Games without missing strategies have the same answer beside games with masks."""
  games = np.random.default_rng(2).normal(size=(4, 2, 3, 3))
  masks = (np.ones((4, 3), bool), np.ones((4, 3), bool))
  masks[0][1, 2] = masks[1][3, 0] = False
  solution = nes_jax.solve(games, strategies=masks, **EXACT)
  plain = nes_jax.solve(games, **EXACT)
  assert solution.converged.all()
  np.testing.assert_allclose(solution.joint[[0, 2]], plain.joint[[0, 2]], atol=1e-6)
  assert (solution.joint[1, 2] == 0).all() and (solution.joint[3][:, 0] == 0).all()
  for b in (1, 3):
    np.testing.assert_allclose(
        solution.joint[b][cells(masks, b)],
        reference(games[b][(slice(None), *cells(masks, b))], "cce"),
        atol=1e-4,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape, sub, concept",
    [((4, 4), (3, 3), "cce"), ((4, 4), (3, 3), "ce"), ((3, 3, 2), (2, 2, 2), "ce")],
)
def test_hard_selections(shape, sub, concept):
  """The five names with hard constraints, in one batch of eight games."""
  names = HARD + HARD[1:4]
  games, masks, inner = masked_games(3, shape, sub, len(names))
  outer_choice, inner_choice = stacked_selections(names, games, masks, np.random.default_rng(4))
  solution = nes_jax.solve(
      games, concept=concept, selection=outer_choice, strategies=masks, batched=True, **EXACT
  )
  alone = nes_jax.solve(inner, concept=concept, selection=inner_choice, batched=True, **EXACT)
  assert_same_as_sub(solution, masks, alone, concept)
  assert (np.abs(solution.gap - alone.gap) <= 1e-7 * payoff_sizes(inner)).all()
  # The first selection, of maximum entropy, is the default one.
  plain = nes_jax.solve(inner[:1], concept=concept, **EXACT)
  np.testing.assert_allclose(alone.joint[0], plain.joint[0], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape, sub, concept, overrides",
    [
        ((4, 4), (3, 3), "cce", {"rho": selection.STRENGTH_RHO,
                                 "epsilon_max": selection.STRENGTH_EPSILON_MAX}),
        ((4, 4), (3, 3), "ce", {"rho": selection.LARGE_RHO, "epsilon_max": 1.0}),
        ((3, 3, 2), (2, 2, 2), "cce", {"rho": selection.LARGE_RHO, "epsilon_max": 1.0}),
    ],
)
def test_soft_selections(shape, sub, concept, overrides):
  """The four names whose epsilon is a variable, in one batch and so with one rho."""
  games, masks, inner = masked_games(5, shape, sub)
  outer_choice, inner_choice = stacked_selections(
      SOFT, games, masks, np.random.default_rng(6), **overrides
  )
  solution = nes_jax.solve(
      games, concept=concept, selection=outer_choice, strategies=masks, batched=True, **EXACT
  )
  alone = nes_jax.solve(inner, concept=concept, selection=inner_choice, batched=True, **EXACT)
  assert_same_as_sub(solution, masks, alone, concept)
  scale = inner.reshape(inner.shape[:2] + (-1,)).std(2)
  np.testing.assert_allclose(solution.epsilon / scale, alone.epsilon / scale, atol=1e-6)
  assert (np.abs(solution.gap - alone.gap) <= 1e-6 * scale.sum(1)).all()


def test_nine_names_are_tested():
  assert sorted(HARD + SOFT) == sorted(selection.NAMES)


@pytest.mark.slow
def test_welfare_is_that_of_the_strategies_that_exist():
  games, masks, inner = masked_games(7, (3, 3), (2, 2))
  options = dict(selection="max_welfare", **EXACT)
  solution = nes_jax.solve(games, strategies=masks, **options)
  assert_same_as_sub(solution, masks, nes_jax.solve(inner, **options), "cce")


@pytest.mark.parametrize(
    "strategies, match",
    [
        ((np.ones(3, bool),), "one array for each of 2 players"),
        ((np.ones(3, bool), np.ones(2, bool)), r"player 1 must be booleans of shape \[3\] or \[4,"),
        ((np.ones(3), np.ones(3, bool)), "player 0 must be booleans .*not float64"),
        ((np.ones((3, 3), bool), np.ones(3, bool)), r"player 0 .*not bool of shape \[3, 3\]"),
        ((np.ones(3, bool), np.zeros(3, bool)), "4 of 4 games .*a player without strategies"),
    ],
)
def test_bad_strategies(strategies, match):
  with pytest.raises(ValueError, match=match):
    nes_jax.solve(GAMES, strategies=strategies)


def test_networks_see_whole_games():
  with pytest.raises(ValueError, match="use method='exact', not 'neural'"):
    nes_jax.solve(GAMES, strategies=(np.array([True, True, False]),) * 2, method="neural")


# Payoffs of -infinity.


def forbid(games, masks):
  """The games with own payoffs of -infinity for strategies that do not exist, and else finite."""
  games = np.where(np.isfinite(games), games, 0.0)
  for p, mask in enumerate(masks):
    for b in range(len(games)):
      np.moveaxis(games[b, p], p, 0)[~mask[b]] = -np.inf
  return games


@pytest.mark.parametrize("concept", CONCEPTS_OF_MASKS)
def test_minus_infinity_is_a_mask(concept):
  games, masks, _ = masked_games(0, (3, 3), (2, 2))
  expected = nes_jax.solve(games, concept=concept, strategies=masks, **EXACT)
  found = nes_jax.solve(forbid(games, masks), concept=concept, **EXACT)
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  # A mask gives the strategies of one player, and payoffs give those of the other.
  both = nes_jax.solve(
      forbid(games, (masks[0], np.ones((4, 3), bool))),
      concept=concept,
      strategies=(np.ones(3, bool), masks[1]),
      **EXACT,
  )
  jax.tree.map(np.testing.assert_array_equal, both, expected)


@pytest.mark.parametrize(
    "value, index, where",
    [
        (-np.inf, (2, 0, 1, 1), "1 of 4 games .*the first is game 2"),
        (np.inf, (1, 1, slice(None), 0), "1 of 4 games .*the first is game 1"),
        (np.nan, (0, 0, 1), "1 of 4 games .*the first is game 0"),
        # A payoff of -infinity to the other player forbids no strategy.
        (-np.inf, (3, 1, 2), "1 of 4 games .*the first is game 3"),
        (-np.inf, (slice(1, 3), 0), "2 of 4 games .*game 1.*player without strategies"),
    ],
)
def test_other_payoffs_that_are_not_finite(value, index, where):
  games = GAMES.copy()
  games[index] = value
  with pytest.raises(ValueError, match=rf"{where}.*-infinity, or is False in strategies="):
    nes_jax.solve(games)
  if not isinstance(index[0], slice):
    with pytest.raises(ValueError, match="payoffs are NaN or infinite .*-infinity, or is False in"):
      nes_jax.solve(games[index[0]])


def test_marked_games_leave_masked_ones_alone():
  games, masks, _ = masked_games(8, (3, 3), (2, 2))
  expected = nes_jax.solve(games, strategies=masks, **EXACT)
  broken = forbid(games, masks)
  first, second = (np.argmax(mask[1]) for mask in masks)
  broken[1, 0, first, second] = np.nan
  broken[2, 0] = -np.inf
  marked = nes_jax.solve(broken, invalid="mark", **EXACT)
  np.testing.assert_array_equal(marked.converged, [True, False, False, True])
  for x in (marked.joint, marked.gap, marked.residual, *marked.duals, *marked.marginals):
    assert np.isnan(x[[1, 2]]).all()
  jax.tree.map(
      lambda x, y: np.testing.assert_array_equal(x[[0, 3]], y[[0, 3]]), marked, expected
  )


# Transformations.


@pytest.mark.slow
def test_masks_under_jit_vmap_and_grad(x64):
  """The masks of player 0 are traced and mapped over. The mask of player 1 is a constant."""
  rng = np.random.default_rng(9)
  games = 3 * rng.normal(size=(4, 2, 3, 3)) + 1
  masks = random_masks(rng, 4, (3, 3), (2, 2))
  column = np.array([True, False, True])
  masks = (masks[0], np.broadcast_to(column, (4, 3)))
  weights = rng.normal(size=(4, 3, 3))
  targets = rng.dirichlet(np.full(9, 5.0), 4).reshape(4, 3, 3)
  alive = np.stack([np.logical_and.outer(*(m[b] for m in masks)) for b in range(4)])
  targets = np.where(alive, targets, 0)
  targets /= targets.sum((1, 2), keepdims=True)

  def run(payoffs, targets, weights, *masks):
    def loss(payoffs, target, weights, *mask):
      solution = nes_jax.solve(
          payoffs,
          selection=Selection(target=target, epsilon=0.3),
          tolerance=1e-11,
          strategies=(*mask, column) if mask else None,
      )
      return jnp.sum(weights * solution.joint), solution

    return jax.jit(jax.vmap(jax.value_and_grad(loss, (0, 1), has_aux=True)))(
        payoffs, targets, weights, *masks
    )

  junk = games.copy()
  for b, value in enumerate((np.nan, np.inf, -np.inf, 1e200)):
    junk[b][:, ~alive[b]] = value
  (values, solution), (gradient, slopes) = jax.tree.map(
      np.asarray, run(junk, targets, weights, masks[0])
  )
  inner = [restrict(x, masks) for x in (targets, weights)]
  (expected, alone), (inner_gradient, inner_slopes) = jax.tree.map(
      np.asarray, run(restrict(games, masks, 1), *inner)
  )
  assert max(x.max() for x in alone.duals) > 1e-2  # Some constraint binds.
  assert_same_as_sub(solution, masks, alone, "cce")
  np.testing.assert_allclose(values, expected, atol=1e-7)
  # Inside the simplex the duals of constraints that bind are unique.
  for p, mask in enumerate(masks):
    found = np.stack([x[m] for x, m in zip(solution.duals[p], mask)])
    np.testing.assert_allclose(found, alone.duals[p], atol=1e-5)
  size = np.abs(inner_gradient).max()
  assert size > 1e-2 and np.isfinite(gradient).all() and np.isfinite(slopes).all()
  np.testing.assert_allclose(restrict(gradient, masks, 1), inner_gradient, atol=1e-5 * size)
  np.testing.assert_allclose(restrict(slopes, masks), inner_slopes, atol=1e-5)
  assert (gradient[np.broadcast_to(~alive[:, None], gradient.shape)] == 0).all()
  assert (slopes[~alive] == 0).all()


@pytest.mark.slow
def test_traced_masks_of_a_batch_and_an_empty_player():
  """Under jit, a game whose player has no strategies is marked, and harms no other game."""
  games, masks, inner = masked_games(0, (3, 3), (2, 2))
  run = jax.jit(lambda games, masks: nes_jax.solve(games, strategies=masks))
  solution = jax.tree.map(np.asarray, run(games.astype(np.float32), masks))
  assert solution.converged.all()
  for b in range(4):
    np.testing.assert_allclose(
        solution.joint[b][cells(masks, b)], reference(inner[b], "cce"), atol=1e-2
    )
  empty = (masks[0].copy(), masks[1])
  empty[0][1] = False
  marked = jax.tree.map(np.asarray, run(games.astype(np.float32), empty))
  np.testing.assert_array_equal(marked.converged, [True, False, True, True])
  np.testing.assert_allclose(marked.joint[[0, 2, 3]], solution.joint[[0, 2, 3]], atol=1e-6)


def test_payoffs_of_minus_infinity_beside_a_traced_epsilon():
  rng = np.random.default_rng(6)
  games = rng.normal(size=(5, 2, 3, 4)).astype(np.float32)
  masked = games.copy()
  masked[:, 0, 1] = -np.inf

  def solve(epsilon):
    return nes_jax.solve(masked, selection=Selection(epsilon=epsilon))

  found = jax.jit(solve)(jnp.float32(0.1))
  expected = nes_jax.solve(np.delete(games, 1, axis=2), selection=Selection(epsilon=0.1))
  assert found.converged.all()
  np.testing.assert_array_equal(found.joint[:, 1], 0)
  np.testing.assert_allclose(np.delete(found.joint, 1, axis=1), expected.joint, atol=1e-5)


@pytest.mark.parametrize("concept", ["cce", "ce"])
def test_missing_strategies_constrain_nothing(concept, monkeypatch):
  """A deviation to a strategy that does not exist is no constraint, whatever it seems to gain."""
  monkeypatch.setattr(engines, "choose_engine", lambda *_, **__: "jax")
  rng = np.random.default_rng(4)
  # The payoffs of player 0 in the last column are so high that regrets exceed any unit.
  games = rng.normal(size=(96, 2, 4, 4)).astype(np.float32)
  games[:, 0, 0, 3] += 12
  padded = np.pad(games, [(0, 0), (0, 0), (0, 1), (0, 1)])
  exist = np.arange(5) < 4
  plain = nes_jax.solve(games, concept=concept)
  masked = nes_jax.solve(padded, concept=concept, strategies=(exist, exist))
  assert plain.converged.all() and masked.converged.all()
  distance = 0.5 * np.abs(np.asarray(masked.joint)[:, :4, :4] - plain.joint).sum((1, 2))
  # Pinsker's inequality bounds the distance, since both certificates are at most 1e-4.
  assert distance.max() <= 2 * np.sqrt(1e-4 / 2)
  assert np.median(distance) <= 1e-4


def test_marked_where_strategies_leave_a_player_none():
  """A row of `strategies` that is all False is marked, though its payoffs are finite."""
  none = np.array([[True, True], [False, False], [True, True], [True, True]])
  given = (none, np.ones((4, 2), bool))
  solution = nes_jax.solve(KNOWN, strategies=given, invalid="mark", precision="float64")
  np.testing.assert_array_equal(solution.converged, [True, False, True, True])
  assert np.isnan(solution.joint[1]).all() and np.isnan(solution.residual[1])
