"""nes_jax.solving.checks: bad payoffs and options, and payoffs that can be read in two ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solutions import KNOWN, random_games

import nes_jax


def assert_refused(match, payoffs=None, **options):
  with pytest.raises(ValueError, match=match):
    nes_jax.solve(KNOWN if payoffs is None else payoffs, **options)


def select(**fields):
  return {"selection": nes_jax.Selection(**fields)}


def spoilt(value, index):
  games = KNOWN.copy()
  games[index] = value
  return games


@pytest.mark.parametrize(
    "payoffs, match",
    [
        (spoilt(np.nan, (2, 0, 1, 1)), r"1 of 4 games .*NaN or infinite .*game 2.*invalid='mark'"),
        (spoilt(np.inf, (slice(1, 3), 0)), "2 of 4 games .*game 1"),
        (spoilt(-np.inf, (0, 1, 0, 1))[0], r"1 payoffs are NaN or infinite .*\[1, 0, 1\]"),
        (np.zeros(()), "payoffs must be"),
        (np.zeros(3), "payoffs must be"),
        (np.zeros((2, 2)), r"\[2, 2\]"),
        (np.zeros((1, 3)), r"\[1, 3\] has a single player"),
        (np.zeros((5, 1, 3)), r"\[5, 1, 3\] has a single player"),
        (np.zeros((3, 2, 2)), "one axis of strategies for each player"),
        (np.zeros((4, 3, 2, 2)), r"\[4, 3, 2, 2\]"),
        (np.zeros((0, 2, 2, 2)), "no games"),
        (np.zeros((2, 0, 3)), "without strategies"),
        (np.zeros((3, 2, 8, 8)), "both ways: pass batched=True for 3 games of 2 players"),
        (np.zeros((2, 2, 2), complex), "real numbers, not complex128"),
        ([[["a", "b"]] * 2] * 2, "real numbers, not <U1"),
        ([[[1, 2], [3]], [[1, 2], [3, 4]]], "rectangular"),
        (None, "real numbers"),
        ([[[1, None], [3, 4]], [[1, 2], [3, 4]]], "not all real numbers"),
        (np.zeros((2, 2, 2), "datetime64[s]"), "real numbers"),
    ],
)
def test_bad_payoffs(payoffs, match):
  with pytest.raises(ValueError, match=match):
    nes_jax.solve(payoffs)


@pytest.mark.parametrize(
    "options, match",
    [
        ({"concept": "nash"}, "unknown concept 'nash'; use 'cce' or 'ce'"),
        ({"selection": "maxent"}, "unknown selection 'maxent'.*max_entropy"),
        ({"selection": "match_target"}, "needs target"),
        ({"selection": 3}, "a name or a nes_jax.Selection"),
        ({"method": "newton"}, "unknown method 'newton'; use one of auto, exact"),
        ({"precision": "float16"}, "precision must be None, 'float32' or 'float64', not 'float16'"),
        ({"tolerance": 0.0}, "tolerance must be positive, not 0.0"),
        ({"tolerance": -1e-3}, "tolerance must be positive"),
        ({"tolerance": np.nan}, "tolerance must be positive"),
        ({"max_iterations": 0}, "max_iterations must be at least 1"),
        ({"invalid": "ignore"}, "invalid must be 'raise' or 'mark'"),
        ({"batched": False}, r"\[4, 2, 2, 2\] fits not the first"),
        (select(target=np.eye(2)), r"sum to one.*sums lie in \[2, 2\]"),
        (select(target=np.array([[1.5, -0.5], [0, 0]])), "non-negative.*least entry is -0.5"),
        (select(target=np.full((2, 2), np.nan)), "non-negative and sum to one"),
        (select(target=np.full((3, 3), 1 / 9)), r"target must have shape \[2, 2\] or \[4, 2, 2\]"),
        (select(target=np.full((3, 2, 2), 0.25)), r"not \[3, 2, 2\]"),
        (select(epsilon=np.zeros(3)), r"shape \[\] or \[2\] or \[4, 2\], not \[3\]"),
        (select(epsilon=np.nan), "epsilon is NaN"),
        (select(epsilon=-np.inf), "infinite epsilon needs a finite rho"),
        (select(welfare=np.full((2, 2), np.nan)), "welfare holds NaN"),
        (select(welfare=np.zeros(4)), "welfare must have shape"),
        (select(welfare=np.eye(2), welfare_weight=-1.0), "welfare_weight must not be negative"),
        (select(welfare=np.eye(2), welfare_weight=np.nan), "welfare_weight must not be negative"),
        (select(rho=0.0), "rho must be positive"),
        (select(rho=-1.0), "rho must be positive"),
        (select(rho=float("nan")), "rho must be positive"),
        (select(epsilon_max=0.0), "epsilon_max must be positive"),
        ({"duals": (np.zeros((4, 3)), np.zeros((4, 2)))}, r"shapes \[\[4, 2\], \[4, 2\]\]"),
    ],
)
def test_bad_options(options, match):
  assert_refused(match, **options)


def test_float64_under_jit_without_x64():
  with pytest.raises(ValueError, match="needs jax_enable_x64"):
    jax.jit(lambda g: nes_jax.solve(g, precision="float64").joint)(jnp.asarray(KNOWN))


def test_ambiguous_shapes_are_read_as_told():
  games = random_games(8, 1, (3, 2, 2, 2))[0]
  assert nes_jax.solve(games, batched=True).joint.shape == (3, 2, 2)
  assert nes_jax.solve(games, batched=False).joint.shape == (2, 2, 2)
