"""nes_jax.solving.ragged: lists of games that differ in shape."""

import jax
import numpy as np
import pytest
from solutions import EXACT, GAMES, KNOWN, assert_solution, reference
from test_metrics import loop_violations

import nes_jax
from nes_jax.selection import Selection
from nes_jax.solving import ragged


def listed_games(shapes, seed=10):
  rng = np.random.default_rng(seed)
  return [rng.normal(size=(len(s), *s)) * 10 ** rng.uniform(-1, 1) for s in shapes]


def test_list_of_games():
  """The answers to a list equal those to batches of one shape, and those of SciPy."""
  games = [GAMES[0], KNOWN[2], listed_games([(3, 4)])[0], GAMES[1]]
  solutions = nes_jax.solve(games, **EXACT)
  assert isinstance(solutions, list) and len(solutions) == 4
  for solution, game in zip(solutions, games, strict=True):
    shape = game.shape[1:]
    assert isinstance(solution, nes_jax.Solution)
    assert solution.joint.shape == shape and solution.joint.dtype == np.float64
    assert [x.shape for x in solution.duals] == [(count,) for count in shape]
    assert [x.shape for x in solution.marginals] == [(count,) for count in shape]
    for x in (solution.gap, solution.residual, solution.converged, solution.iterations):
      assert np.shape(x) == ()
    assert solution.epsilon.shape == (2,)
    assert_solution(jax.tree.map(lambda x: x[None], solution), game[None], "cce")
    np.testing.assert_allclose(solution.joint, reference(game, "cce"), atol=1e-4)
  square, small = nes_jax.solve(GAMES, **EXACT), nes_jax.solve(KNOWN, **EXACT)
  for solution, (batch, row) in zip(
      [solutions[0], solutions[1], solutions[3]], [(square, 0), (small, 2), (square, 1)]
  ):
    np.testing.assert_allclose(solution.joint, batch.joint[row], atol=1e-6)


@pytest.mark.slow
def test_list_of_games_of_two_and_three_players():
  games = listed_games([(2, 3, 2), (3, 2), (2, 2, 2), (3, 2)])
  solutions = nes_jax.solve(tuple(games), concept="ce", **EXACT)
  for index in (0, 1, 3):
    alone = nes_jax.solve(games[index], concept="ce", batched=False, **EXACT)
    assert solutions[index].converged and alone.converged
    for found, expected in zip(jax.tree.leaves(solutions[index]), jax.tree.leaves(alone)):
      assert np.shape(found) == np.shape(expected)
    np.testing.assert_allclose(solutions[index].joint, alone.joint, atol=1e-6)
  np.testing.assert_allclose(solutions[2].joint, reference(games[2], "ce"), atol=1e-4)


@pytest.mark.slow
def test_list_of_selections():
  """Every game of a list may have a selection of its own."""
  games = listed_games([(3, 3), (2, 4), (3, 3), (2, 2), (4, 4), (3, 3), (3, 2)])
  rng = np.random.default_rng(11)
  choices = [
      Selection(
          target=rng.dirichlet(np.full(game[0].size, 2.0)).reshape(game.shape[1:]),
          welfare=rng.normal(size=game.shape[1:]),
          welfare_weight=rng.uniform(0, 2),
          epsilon=0.1 * b,
      )
      for b, game in enumerate(games)
  ]
  solutions = nes_jax.solve(games, selection=choices, **EXACT)
  for solution, game, choice in zip(solutions, games, choices, strict=True):
    assert solution.converged
    np.testing.assert_array_equal(solution.epsilon, [choice.epsilon] * 2)
    found = loop_violations(game, solution.joint, choice.epsilon, "cce").sum()
    np.testing.assert_allclose(solution.gap, found, atol=1e-12 * np.abs(game).max())
  square = [0, 2, 5]

  def stack(name):
    return np.stack([np.asarray(getattr(choices[b], name)) for b in square])

  alone = nes_jax.solve(
      np.stack([games[b] for b in square]),
      selection=Selection(
          **{name: stack(name) for name in ("target", "welfare", "welfare_weight")},
          epsilon=np.repeat(stack("epsilon")[:, None], 2, 1),
      ),
      batched=True,
      **EXACT,
  )
  for row, index in enumerate(square):
    np.testing.assert_allclose(solutions[index].joint, alone.joint[row], atol=1e-6)


def test_few_programs_for_many_shapes():
  rng = np.random.default_rng(12)
  shapes = rng.integers(2, 17, size=(100, 2))
  games = [np.zeros((2, *shape)) for shape in shapes]
  found = ragged.buckets(games, "max_entropy")
  assert len(found) <= 4
  assert sorted(sum((bucket.numbers for bucket in found), [])) == list(range(100))
  for bucket in found:
    count = len(bucket.payoffs)
    assert count & (count - 1) == 0 and count < 2 * len(bucket.numbers)
    for row, index in enumerate(bucket.numbers):
      assert tuple(mask[row].sum() for mask in bucket.strategies) == tuple(shapes[index])
      assert all(mask[row][:size].all() for mask, size in zip(bucket.strategies, shapes[index]))


@pytest.mark.parametrize(
    "shape, padded",
    [((2, 2), (4, 4)), ((5, 2), (8, 8)), ((3, 17), (4, 32)), ((16, 9), (16, 16)),
     ((2, 5, 3), (4, 8, 4)), ((2, 3, 2), (4, 4, 4)), ((1, 1), (4, 4))],
)
def test_padded_shape(shape, padded):
  assert ragged.padded_shape(shape) == padded


def spoilt_list():
  games = listed_games([(2, 2), (3, 3), (2, 3), (3, 3)])
  games[3][1, 0, 2] = np.nan
  return games


@pytest.mark.parametrize(
    "games, options, match",
    [
        (spoilt_list(), {}, "the first is game 3"),
        ([KNOWN[0], np.zeros((3, 2, 2))], {}, r"game 1 of the list has shape \[3, 2, 2\]"),
        ([np.zeros((2, 2, 2)), np.zeros((2, 0, 2))], {}, "game 1 of the list"),
        ([KNOWN, GAMES[0]], {}, r"game 0 of the list has shape \[4, 2, 2, 2\]"),
        ([GAMES[0], KNOWN[0]], {"selection": Selection(target=np.eye(3) / 3)},
         "a target or welfare has the shape of one game.*a list of selections"),
        ([GAMES[0], KNOWN[0]], {"selection": [Selection()]}, "1 selections for 2 games"),
        ([GAMES[0], KNOWN[0]], {"selection": [Selection(), "ME"]}, "selection 1 of the list"),
        ([GAMES[0], KNOWN[0]], {"duals": (np.zeros(3), np.zeros(3))}, "takes neither duals"),
        ([GAMES[0], KNOWN[0]], {"strategies": (np.ones(3, bool),) * 2}, "nor strategies"),
        ([GAMES[0], KNOWN[0]], {"concept": "nash"}, "unknown concept"),
        ([GAMES[0], KNOWN[0]], {"selection": "match_target"}, "needs target"),
        ([GAMES[0], KNOWN[0].astype(complex)], {}, "real numbers"),
    ],
)
def test_bad_lists(games, options, match):
  with pytest.raises(ValueError, match=match):
    nes_jax.solve(games, **options)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("field", ["target", "welfare"])
def test_targets_that_do_not_fit_their_games(field, size):
  choice = Selection(**{field: np.eye(size) / size})
  with pytest.raises(ValueError, match=field):
    ragged.buckets([GAMES[0], KNOWN[0]], [choice] * 2)
