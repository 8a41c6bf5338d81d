"""Game files and helpers for tests of nes_jax.games that read and write files."""

from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np

# A game of 2x3 strategies. The strategy of player 1 runs fastest, so the columns of player 2 come
# one after the other.
PAYOFF_FORM = r"""NFG 1 R "A \"quoted\" title, with { braces }"
{ "Alice" "Bob \\" } { 2 3 }
"a comment { 1 2"

11 1.5  21 -2   12 1e2  22 .25   13 1/3  23 -4/8
"""
EXPECTED_2X3 = np.array([[[11, 12, 13], [21, 22, 23]], [[1.5, 100, 1 / 3], [-2, 0.25, -0.5]]])

OUTCOME_FORM = """NFG 1 R "outcomes" { "P1" "P2" }

{ { "up" "down" }
{ "left" "middle" right } }
""

{
{ "first" 1, -1 }
{ "" 2/4 7E-1 }
{ 3, 4. }
}
1 2 3 0 1 1
"""
EXPECTED_OUTCOMES = np.array([[[1, 3, 1], [0.5, 0, 1]], [[-1, 4, -1], [0.7, 0, -1]]])

THREE_PLAYERS = """NFG 1 D "2x2x2" { "a" "b" "c" } { 2 2 2 }
111 1 -1  211 2 -2  121 3 -3  221 4 -4  112 5 -5  212 6 -6  122 7 -7  222 8 -8"""

# Payoffs of one game, with two to four players of one to three strategies.
payoff_arrays = hnp.arrays(
    np.float64,
    st.lists(st.integers(1, 3), min_size=2, max_size=4).map(lambda a: (len(a), *a)),
    elements=st.floats(width=64),
)


def write(path, content):
  """Writes text or bytes, and returns the path."""
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return path


def games(num_games, *shape, seed=0):
  """Random payoffs [num_games, *shape]."""
  return np.random.default_rng(seed).normal(size=(num_games, *shape))
