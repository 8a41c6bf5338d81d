"""nes_jax.psro.normal_form: a loop in NumPy, runs by hand, many seeds, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nes_jax
from nes_jax import psro

DILEMMA = np.array([[[3.0, 0.0], [5.0, 1.0]], [[3.0, 5.0], [0.0, 1.0]]])
ITERATIONS = 6


def games(count=3, shape=(9, 7), seed=0):
  return np.random.default_rng(seed).normal(size=(count, len(shape), *shape))


@pytest.fixture(scope="module", params=["cce", "ce"])
def runs(request):
  """The concept, three games, and a run of each."""
  payoffs, concept = games(), request.param
  return concept, payoffs, psro.jpsro(payoffs, ITERATIONS, concept=concept, batched=True)


def spread(joint, policies, counts, shape):
  """A joint over policies as a joint over the actions of the full game."""
  whole = np.zeros(shape)
  found = [chosen[:count] for chosen, count in zip(policies, counts)]
  whole[np.ix_(*found)] = joint[tuple(map(slice, counts))]
  assert whole.sum() == pytest.approx(joint.sum())  # no mass where there is no policy
  return whole


def action_values(own, joint, player):
  """[Ap recommended, Ap played] expected payoffs, weighted by the recommendation's mass."""
  own, joint = np.moveaxis(own, player, 0), np.moveaxis(joint, player, 0)
  return np.array([[(w * to).sum() for to in own] for w in joint])


def test_every_iteration_is_that_of_a_loop(runs):
  concept, payoffs, run = runs
  assert run.gap.shape == (3, ITERATIONS + 1) and run.joint.shape == (3, ITERATIONS + 1, 7, 7)
  assert run.converged.all() and (run.num_policies[:, 0] == 1).all()
  for r, t in np.ndindex(run.gap.shape):
    counts = run.num_policies[r, t]
    policies = [block[r] for block in run.policies]
    joint = spread(run.joint[r, t], policies, counts, payoffs.shape[2:])
    np.testing.assert_allclose(run.value[r, t], (payoffs[r] * joint).sum((1, 2)), atol=1e-9)
    # The joint is the equilibrium of the meta-game, alone.
    meta_game = payoffs[r][(slice(None), *np.ix_(*(x[:n] for x, n in zip(policies, counts))))]
    target = None
    if t == ITERATIONS:
      shares = [block[r][:n] / block[r].sum() for block, n in zip(run.repeats, counts)]
      target = np.multiply.outer(*shares)
      alone = nes_jax.solve(
          meta_game, concept=concept, selection=nes_jax.Selection(target=target),
          precision="float64", batched=False,
      )
      np.testing.assert_allclose(
          joint[np.ix_(*(x[:n] for x, n in zip(policies, counts)))], alone.joint, atol=2e-4
      )
    for p in range(2):
      values = action_values(payoffs[r, p], joint, p)
      kept = np.diag(values)
      if concept == "cce":
        values, kept = values.sum(0)[None], kept.sum()[None]
      gains = np.maximum(values.max(1) - kept, 0)
      np.testing.assert_allclose(run.gains[r, t, p], gains.sum(), atol=1e-9)
      if t == ITERATIONS:
        continue
      # The new best response that gains most is added.
      best, now = values.argmax(1), set(policies[p][:counts[p]])
      new = [i for i in range(len(values)) if best[i] not in now and values[i].max() > 1e-6]
      added = set(policies[p][: run.num_policies[r, t + 1, p]]) - now
      if concept == "cce":
        assert added == {best[i] for i in new}
      elif added:
        gain = max(gains[i] for i in range(len(values)) if best[i] in added)
        assert gain == pytest.approx(gains.max()) or gains[new].max() == pytest.approx(gain)
  np.testing.assert_allclose(run.gap, run.gains.sum(2), atol=1e-12)


def test_counts_add_up(runs):
  _, payoffs, run = runs
  for p, (policies, repeats) in enumerate(zip(run.policies, run.repeats)):
    assert (repeats.sum(1) == ITERATIONS + 1).all()
    for row, counts, n in zip(policies, repeats, run.num_policies[:, -1, p]):
      assert len(set(row[:n])) == n and (row[n:] == -1).all()
      assert ((0 <= row[:n]) & (row[:n] < payoffs.shape[2 + p])).all()
      assert (counts[:n] > 0).all() and (counts[n:] == 0).all()


def test_dilemma_ends_in_its_dominant_strategy():
  run = psro.jpsro(DILEMMA, 3, seeds=range(8))
  assert (run.policies[0][:, 0] == 0).any() and (run.policies[0][:, 0] == 1).any()
  np.testing.assert_allclose(run.gap[:, -1], 0, atol=1e-6)
  np.testing.assert_allclose(run.value[:, -1], 1, atol=1e-6)
  # Whoever begins with cooperation gains 2 or 1 by defection, as the other one plays.
  for first, second, gain in zip(run.policies[0][:, 0], run.policies[1][:, 0], run.gains[:, 0]):
    np.testing.assert_allclose(gain[0], 0 if first == 1 else [2, 1][second])


@pytest.mark.slow
def test_runs_depend_on_their_own_seed_and_game_alone():
  payoffs = games(count=4, shape=(4, 3, 3))
  together = psro.jpsro(payoffs, 4, seeds=[5, 6, 7, 8], batched=True)
  alone = psro.jpsro(payoffs[1], 4, seeds=6, batched=False)
  for name in ("gap", "value", "num_policies"):
    np.testing.assert_allclose(getattr(together, name)[1], getattr(alone, name)[0], atol=1e-7)
  np.testing.assert_array_equal(together.policies[2][1], alone.policies[2][0])
  longer = psro.jpsro(payoffs, 5, seeds=5, batched=True)  # the seeds of further games count up
  np.testing.assert_allclose(longer.gap[:, :5], together.gap, atol=1e-7)
  assert np.all(together.gap[:, -1] < together.gap[:, 0])


@pytest.mark.slow
def test_ties_are_broken_at_random_or_not():
  payoffs = np.zeros((2, 6, 6))
  first = psro.jpsro(payoffs, 1, seeds=range(64), oracle="first")
  assert all((block[:, 1:] <= 0).all() for block in first.policies)  # action 0, or it was there
  spread_out = psro.jpsro(payoffs, 1, seeds=range(64))
  assert set(spread_out.policies[0][:, 0]) == set(range(6))
  assert set(spread_out.policies[1][:, 1]) == set(range(-1, 6))
  assert (spread_out.gap == 0).all()


@pytest.mark.slow
def test_an_oracle_of_the_user():
  """A player who only ever answers with the last action never learns to defect."""

  def last(values, key):
    del key
    return jnp.full((), len(values) - 1)

  swapped = DILEMMA[:, ::-1, ::-1]
  run = psro.jpsro(swapped, 2, seeds=range(8), oracle=last)
  stuck = (run.policies[0][:, 0] == 1) & (run.policies[1][:, 0] == 1)
  assert stuck.any()
  np.testing.assert_allclose(run.gap[stuck], 4)  # the true gain of both, 5 - 3 each


@pytest.mark.slow
def test_ignore_repeats_and_selections():
  payoffs = np.zeros((2, 2, 2))
  run = psro.jpsro(payoffs, 3, seeds=range(8), ignore_repeats=True)
  full = (run.num_policies[:, -1] == 2).all(1)
  assert full.any()
  np.testing.assert_allclose(run.joint[full, -1], 0.25, atol=1e-4)
  # With two actions each, all found, the joint of most welfare is (1, 1), where both get 1.
  run = psro.jpsro(np.stack([np.eye(2)] * 2), 3, seeds=range(8), selection="max_welfare")
  full = (run.num_policies[:, -1] == 2).all(1)
  np.testing.assert_allclose(run.value[:, -1], 1, atol=1e-2)


def test_meta_games_without_certificate_are_named():
  """Callers that forbid promotions are served, too."""
  forbidden = jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise")
  text = r"\d of 3 meta-games .* iteration \d of run 0"
  with forbidden[0], forbidden[1], pytest.warns(psro.UncertifiedWarning, match=text):
    run = psro.jpsro(games()[0], 2, tolerance=1e-300)
  assert not run.converged.all()
  with pytest.raises(psro.UncertifiedError):
    psro.jpsro(games()[0], 2, tolerance=1e-300, uncertified="raise")


@pytest.mark.parametrize(
    "args, options, message",
    [
        ((DILEMMA, -1), {}, "0 or more"),
        ((DILEMMA, 2.0), {}, "0 or more"),
        ((DILEMMA, 1), {"oracle": "best"}, "oracle must be"),
        ((DILEMMA, 1), {"seeds": [0.5]}, "seeds must be"),
        ((DILEMMA, 1), {"seeds": []}, "seeds must be"),
        ((games(), 1), {"seeds": [1, 2], "batched": True}, "2 seeds for 3 games"),
        ((DILEMMA + np.inf, 1), {}, "NaN or infinite"),
        ((DILEMMA[0], 1), {}, "N >= 2 players"),
        ((DILEMMA, 1), {"concept": "nash"}, "unknown concept"),
        ((DILEMMA, 1), {"selection": "eps-ME"}, "needs epsilon"),
    ],
)
def test_wrong_arguments(args, options, message):
  with pytest.raises(ValueError, match=message):
    psro.jpsro(*args, **options)
