"""Settings of launch.nes_solve on small games, for tests of launch.nes_solve and launch.solving."""

import dataclasses
import pathlib

import numpy as np

from launch.solving.settings import Config
import nes_jax
from nes_jax.games import files

# One number of games and one part size, so that most tests share one compiled program.
NUM, PART = 40, 16
ROOT = pathlib.Path(__file__).parent.parent


def payoffs_of(num_games=NUM, seed=0):
  """Random payoffs of games with two players of four strategies."""
  return np.random.default_rng(seed).normal(size=(num_games, 2, 4, 4))


def new_config(tmp_path):
  """The configuration for a file of NUM games in parts of PART."""
  files.write_npz(tmp_path / "games.npz", payoffs_of())
  return Config(
      games=str(tmp_path / "games.npz"), out=str(tmp_path / "out.npz"), part_size=PART
  )


def argv(config, **changes):
  """The command line of a configuration with changes."""
  values = dataclasses.asdict(dataclasses.replace(config, **changes))
  flags = [f"--{name}={value}" for name, value in values.items() if value is not None]
  return ["nes_solve", *flags]


def load(path):
  """The arrays of a file of answers."""
  with np.load(path, allow_pickle=False) as archive:
    return dict(archive)


def assert_same(a, b):
  """Checks that two files of answers agree in all arrays but the description of the run."""
  assert a.keys() == b.keys()
  for key in a.keys() - {"meta"}:
    np.testing.assert_array_equal(a[key], b[key], err_msg=key)
    assert a[key].dtype == b[key].dtype


class Counting:
  """Stands in for nes_jax.solve, counts its calls, and fails at one of them."""

  def __init__(self, fail_at=None):
    self.calls, self.fail_at = 0, fail_at

  def __call__(self, payoffs, **options):
    if self.calls == self.fail_at:
      raise RuntimeError("killed")
    self.calls += 1
    return nes_jax.solve(payoffs, **options)


class Fake:
  """Stands in for nes_jax.solve, and answers at once.

  Joints are uniform, duals are one, and the gap is the first payoff of the game. A game that holds
  NaN is marked. A game whose first payoff is above 100 does not converge.
  """

  def __init__(self):
    self.calls = []  # Pairs of payoffs and options.

  def __call__(self, payoffs, **options):
    self.calls.append((payoffs, options))
    answers = [self.answer(game, options) for game in payoffs]
    if isinstance(payoffs, list):
      return answers
    return nes_jax.Solution(*(
        tuple(map(np.stack, zip(*field))) if isinstance(field[0], tuple) else np.stack(field)
        for field in zip(*answers)
    ))

  def answer(self, game, options):
    real, counts = np.dtype(options["precision"]), game.shape[1:]
    first = game[(0,) * game.ndim]
    mark = real.type(np.nan if np.isnan(game).any() else 1)
    residual = np.inf if first > 100 else 0
    square = options["concept"] == "ce"
    return nes_jax.Solution(
        joint=np.full(counts, mark / np.prod(counts), real),
        epsilon=np.zeros(len(counts), real),
        gap=real.type(first * mark),
        residual=real.type(residual * mark if residual else mark - 1),
        converged=np.bool_(residual == 0 and not np.isnan(mark)),
        duals=tuple(np.full((count, count) if square else count, mark, real) for count in counts),
        marginals=tuple(np.full(count, mark / count, real) for count in counts),
        iterations=np.int32(3),
        repeated=np.bool_(False),
    )
