"""nes_jax.empirical: representation, bootstrap, coverage of intervals, regret."""

import itertools

import jax
import numpy as np
import pytest

import nes_jax
from nes_jax import empirical, metrics

KEY = jax.random.key(0)
CHICKEN = np.array([[[0.0, 7.0], [2.0, 6.0]], [[0.0, 2.0], [7.0, 6.0]]])
PAIR = ["dare", "yield"]


def samples_of(payoffs, episodes, deviation, seed=0):
  """Episodes [E, K, N] of a game [N, A1, ..., AN] with independent normal noise."""
  truth = payoffs.reshape(len(payoffs), -1).T
  noise = np.random.default_rng(seed).normal(size=(episodes, *truth.shape))
  return truth + deviation * noise


def chicken(episodes=50, deviation=0.5, seed=0):
  return empirical.from_samples(samples_of(CHICKEN, episodes, deviation, seed), labels=PAIR)


# Representation.


def test_profiles_of_roles_are_multisets():
  np.testing.assert_array_equal(
      empirical.all_profiles((2, 3, 3), (0, 1, 1))[:6],
      [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 1], [0, 1, 2], [0, 2, 2]],
  )
  assert len(empirical.all_profiles((2, 3, 3), (0, 1, 1))) == 12
  # 5 of one player times the multisets of 4 out of 5.
  assert len(empirical.all_profiles((5,) * 5, (0, 1, 1, 1, 1))) == 5 * 70
  assert len(empirical.all_profiles((2, 3, 3))) == 18


def test_moments_by_hand():
  samples = np.zeros((2, 4, 2))
  samples[:, 1] = [[1.0, 10.0], [3.0, 6.0]]
  game = empirical.from_samples(samples, labels=PAIR)
  np.testing.assert_array_equal(game.mean[1], [2, 8])
  np.testing.assert_array_equal(game.covariance[1], [[2, -4], [-4, 8]])
  np.testing.assert_array_equal(game.payoffs()[:, 0, 1], [2, 8])
  assert game.shape == (2, 2) and list(game.count) == [2] * 4
  assert game.name(1) == "(dare, yield)"


def test_dense_payoffs_pool_players_by_hand():
  """Every profile of a game with two roles, against a sum over seats by hand."""
  roles, shape = (0, 1, 0, 1), (2, 3, 2, 3)
  profiles = empirical.all_profiles(shape, roles)
  values = np.random.default_rng(1).normal(size=(len(profiles), 4))
  spread = np.tile(np.eye(4), (len(profiles), 1, 1))
  game = empirical.from_moments(values, spread, 1, profiles, roles=roles)
  dense = game.payoffs()
  rows = {tuple(profile): row for row, profile in enumerate(profiles.tolist())}
  for profile in itertools.product(*map(range, shape)):
    first, second = sorted(profile[::2]), sorted(profile[1::2])
    known = (first[0], second[0], first[1], second[1])
    for p in range(4):
      alike = [q for q in range(4) if roles[q] == roles[p] and known[q] == profile[p]]
      expected = np.mean([values[rows[known], q] for q in alike])
      np.testing.assert_allclose(dense[(p, *profile)], expected, rtol=1e-12)
  swapped = dense[[2, 1, 0, 3]].transpose(0, 3, 2, 1, 4)
  np.testing.assert_array_equal(dense, swapped)


def test_order_of_rows_and_of_players_does_not_matter():
  rng = np.random.default_rng(2)
  roles = (0, 0, 1)
  profiles = empirical.all_profiles((3, 3, 2), roles)
  samples = rng.normal(size=(6, len(profiles), 3))
  game = empirical.from_samples(samples, profiles, roles=roles)
  order = rng.permutation(len(profiles))
  # Players 0 and 1 change places in every profile.
  swapped = empirical.from_samples(
      samples[:, order][..., [1, 0, 2]], profiles[order][:, [1, 0, 2]], roles=roles
  )
  np.testing.assert_array_equal(game.profiles, swapped.profiles)
  np.testing.assert_allclose(game.payoffs(), swapped.payoffs(), rtol=1e-12)
  moments = empirical.from_moments(
      swapped.mean[order], swapped.covariance[order], 6, swapped.profiles[order], roles=roles
  )
  np.testing.assert_array_equal(moments.covariance, swapped.covariance)


def test_bad_episodes_are_named():
  samples = samples_of(CHICKEN, 5, 0.1)
  samples[3, 2, 1] = np.nan
  with pytest.raises(ValueError, match=r"\(yield, dare\), episode 3: the payoff of player 1 is n"):
    empirical.from_samples(samples, labels=PAIR)
  profiles = [[0, 0], [0, 1], [1, 1]]
  with pytest.raises(ValueError, match=r"profile \(yield, dare\) is missing"):
    empirical.from_samples(np.zeros((5, 3, 2)), profiles, labels=PAIR)
  with pytest.raises(ValueError, match=r"profile \(yield, dare\) is there twice"):
    empirical.from_samples(np.zeros((5, 3, 2)), [*profiles[:2], [1, 0]], labels=PAIR, roles=(0, 0))


@pytest.mark.parametrize(
    "samples, options, message",
    [
        (np.zeros((5, 4)), {}, r"\[E, K, N\] is expected"),
        (np.zeros((5, 4, 2)), {}, "give profiles"),
        (np.zeros((1, 4, 2)), {"labels": PAIR}, "1 episode"),
        (np.zeros((5, 3, 2)), {"labels": PAIR}, "of 3 profiles, and the game has 4"),
        (np.zeros((5, 4, 2)), {"labels": [PAIR] * 3}, "of 3 players, and payoffs of 2"),
        (np.zeros((5, 4, 2)), {"labels": ["a", "a"]}, "all different"),
        (np.zeros((5, 4, 2)), {"labels": [PAIR, ["a", "b"]], "roles": (0, 0)}, "different strateg"),
        (np.zeros((5, 4, 2)), {"labels": PAIR, "roles": (0,)}, "1 entries for 2 players"),
        (np.zeros((5, 4, 2)), {"profiles": np.zeros((4, 2))}, "integers"),
        (np.zeros((5, 1, 2)), {"profiles": [[0, 2]], "labels": PAIR}, "strategy 2 of player 1"),
    ],
)
def test_bad_samples(samples, options, message):
  with pytest.raises(ValueError, match=message):
    empirical.from_samples(samples, **options)


def test_bad_moments_are_named():
  mean, spread = np.zeros((4, 2)), np.tile(np.eye(2), (4, 1, 1))
  with pytest.raises(ValueError, match=r"\(dare, yield\): the covariance is not symmetric"):
    empirical.from_moments(
        mean, spread * np.array([1, -1, 1, 1])[:, None, None], 5, labels=PAIR
    )
  with pytest.raises(ValueError, match=r"\(yield, dare\): count is 0"):
    empirical.from_moments(mean, spread, [5, 5, 0, 5], labels=PAIR)
  with pytest.raises(ValueError, match=r"\(yield, yield\): the mean payoff of player 0 is inf"):
    empirical.from_moments(mean + np.diag([0, 0, 0, np.inf])[:, [3, 0]].clip(0), spread, 5,
                           labels=PAIR)


# Bootstrap.


def test_point_is_the_equilibrium_of_the_mean():
  game = chicken()
  report = empirical.solve(game, resamples=20)
  expected = nes_jax.solve(game.payoffs(), precision="float64")
  np.testing.assert_array_equal(report.solution.joint, expected.joint)
  earned = (expected.joint * game.payoffs()).sum((1, 2))
  np.testing.assert_allclose(report.payoffs.point, earned)
  np.testing.assert_allclose(report.welfare.point, earned.sum())
  np.testing.assert_allclose(report.regret.point, 0, atol=1e-7)
  assert report.uncertified == 0 and report.resamples == 20 and bool(report.solution.converged)


@pytest.mark.parametrize("concept", ["cce", "ce"])
def test_regret_is_the_gap_of_the_joint(concept):
  rng = np.random.default_rng(3)
  payoffs = rng.normal(size=(4, 3, 2, 3, 4))
  joint = rng.dirichlet(np.ones(24)).reshape(2, 3, 4)
  regret = empirical.regrets(payoffs, joint, concept)
  assert regret.shape == (4, 3) and regret.min() >= 0
  for game, found in zip(payoffs, regret):
    gap = metrics.gap(jax.numpy.asarray(game), jax.numpy.asarray(joint), np.zeros(3), concept)
    np.testing.assert_allclose(found.sum(), gap, rtol=1e-5)


def test_resamples_have_the_moments_of_the_mean():
  rng = np.random.default_rng(4)
  spread = np.array([[1.0, 0.6], [0.6, 2.0]])
  samples = rng.multivariate_normal([0, 0], spread, size=(80, 4))
  paired = empirical.from_samples(samples, labels=PAIR)
  alone = empirical.from_moments(paired.mean, paired.covariance, 80, labels=PAIR)
  for game in (paired, alone):
    drawn = empirical.resampled_means(game, KEY, 8000)
    np.testing.assert_allclose(drawn.mean(0), game.mean, atol=0.01)
    for k in range(4):
      np.testing.assert_allclose(
          80 * np.cov(drawn[:, k], rowvar=False), game.covariance[k], atol=0.15
      )
  # Only the samples know that profiles share random numbers.
  shared = empirical.from_samples(np.repeat(samples[:, :1], 4, 1), labels=PAIR)
  drawn = empirical.resampled_means(shared, KEY, 10)
  np.testing.assert_allclose(drawn[:, 0], drawn[:, 3])


def test_common_random_numbers_cancel():
  """Noise that all profiles share changes payoffs, and no equilibrium."""
  noise = np.random.default_rng(5).normal(size=(60, 1, 1))
  samples = samples_of(CHICKEN, 60, 0) + noise
  report = empirical.solve(empirical.from_samples(samples, labels=PAIR), resamples=200)
  width = report.weights[0].interval.high - report.weights[0].interval.low
  np.testing.assert_allclose(width, 0, atol=1e-6)
  np.testing.assert_allclose(report.regret.interval.high, 0, atol=1e-6)
  error = noise.std(ddof=1) / np.sqrt(60)
  width = report.payoffs.interval.high - report.payoffs.interval.low
  np.testing.assert_allclose(width, 2 * 1.96 * error, rtol=0.2)


def test_support_counts_resamples():
  """A strategy that is dominant by a little is so in the resamples that say so."""
  payoffs = np.array([[[0.0, 0.0], [0.1, 0.1]], [[0.0, 0.1], [0.0, 0.1]]])
  game = empirical.from_samples(samples_of(payoffs, 100, 0.3), labels=PAIR)
  report = empirical.solve(game, resamples=200, key=KEY, threshold=0.999)
  drawn = game.dense(empirical.resampled_means(game, KEY, 200))
  share = np.all(drawn[:, 0, 1] - drawn[:, 0, 0] > 0, axis=1).mean()
  assert 0.3 < share < 1
  assert abs(report.support[0][1] - share) < 0.15
  assert np.all(report.support[0] + report.support[1] <= 2)


def test_uncertified_resamples_are_counted_and_widen(monkeypatch):
  from nes_jax.empirical import solving

  solve_games = solving.solve_games

  def failing(*args, **options):
    found = solve_games(*args, **options)
    return found._replace(converged=np.arange(len(found.joint)) % 10 != 9)

  monkeypatch.setattr(solving, "solve_games", failing)
  report = empirical.solve(chicken(), resamples=100)
  np.testing.assert_allclose(report.uncertified, 0.1)
  assert np.all(np.isinf(report.payoffs.interval.high))
  assert np.all(np.isfinite(report.regret.interval.high))  # regret needs no equilibrium


@pytest.mark.parametrize(
    "options, message",
    [
        ({"resamples": 0}, "resamples=0"),
        ({"level": 95}, "between 0 and 1"),
        ({"concept": "nash"}, "nash"),
        ({"selection": "nothing"}, "nothing"),
    ],
)
def test_bad_options(options, message):
  with pytest.raises(ValueError, match=message):
    empirical.solve(chicken(5), **options)


def test_other_concepts_and_selections():
  report = empirical.solve(chicken(), "ce", "max_welfare", resamples=50)
  # Chicken's best correlated equilibrium, by hand: 1/2 at (yield, yield), 1/4 at the others.
  np.testing.assert_allclose(report.welfare.point, 10.5, rtol=0.05)
  assert report.welfare.interval.low < report.welfare.point < report.welfare.interval.high


# Coverage.


@pytest.mark.slow
def test_intervals_cover_the_truth():
  """A known game with correlated noise, measured 200 times with 1000 resamples each.

  An interval of 95% covers a number in 95% of the measurements, with a standard error of 1.5% for
  one player. Regret cannot be negative, and the point's joint has none, so that its intervals begin
  at 0 and err on one side only: they cover 97.5%.
  """
  rng = np.random.default_rng(1)
  truth = rng.normal(size=(3, 4, 4, 4))
  root = np.linalg.cholesky([[1, 0.5, 0.2], [0.5, 1, 0.3], [0.2, 0.3, 1]])
  solution = nes_jax.solve(truth, precision="float64", batched=False)
  earned = np.einsum("pabc,abc->p", truth, solution.joint)
  covered, narrow = [], []
  for repetition in range(200):
    noise = rng.normal(size=(100, 64, 3)) @ root.T
    game = empirical.from_samples(truth.reshape(3, -1).T + noise, labels=["a", "b", "c", "d"])
    report = empirical.solve(game, key=jax.random.key(repetition))
    assert report.uncertified == 0
    regret = empirical.regrets(truth[None], report.solution.joint)[0]
    number = [*earned, *regret]
    low, high = (
        np.concatenate([getattr(x.interval, end) for x in (report.payoffs, report.regret)])
        for end in ("low", "high")
    )
    covered.append((low <= number) & (number <= high))
    # A third of the width covers 48% of a normal distribution.
    middle, half = (low[:3] + high[:3]) / 2, (high[:3] - low[:3]) / 2
    narrow.append(abs(earned - middle) <= half / 3)
  share = np.mean(covered, 0)
  assert 0.92 <= share[:3].mean() <= 0.98 and 0.92 <= share[3:].mean() <= 0.98
  assert np.all((0.9 <= share) & (share <= 0.995))
  assert 0.4 < np.mean(narrow) < 0.56
