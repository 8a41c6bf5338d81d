"""Games on which tests compare the native engine with the JAX engine.

  python tests/native/cases.py

solves the games with the JAX engine and writes games and answers to tests/data/native.npz. The
compilation of its programs takes a quarter of an hour, which is too long for tests. The program
must be run again after a change of the JAX engine's answers. A slow test compares the file with the
JAX engine, and fails in that case.
"""

import functools
import os
import pathlib
import sys
import time
from typing import Any, NamedTuple

import jax
import numpy as np

import nes_jax
from nes_jax import selection
from nes_jax.games import gamut, spheres, structured
from nes_jax.selection import Selection

DATA = pathlib.Path(__file__).parent.parent / "data"
ANSWERS = DATA / "native.npz"
GAMUT = DATA / "gamut_8x8.npz"
CONCEPTS = ("cce", "ce")
PRECISIONS = ("float32", "float64")
# Classes of GAMUT.
CLASSES = (
    "BertrandOligopoly", "CovariantGame", "DispersionGame", "MinimumEffortGame", "RandomGame",
    "TravelersDilemma",
)
# Kinds of structured games that give games of 4x4 strategies.
KINDS = tuple(
    name
    for name in structured.NAMES
    if structured.sample(np.random.default_rng(0), name, 1, 4).shape == (1, 2, 4, 4)
)
# Noise of structured games, relative to the range of payoffs.
NOISES = (0.0, 1e-6)
# Number of games for each selection.
COUNT = 16
# Selections in groups with equal rho and epsilon-plus. The last two of "hard" are not in Table 3.
SELECTIONS = {
    "hard": (
        "max_entropy", "match_target", "max_welfare", "max_welfare_max_entropy",
        "min_relative_entropy", "infinite_weight", "negative_epsilon",
    ),
    "soft": (
        "epsilon_max_entropy", "epsilon_max_welfare_max_entropy", "epsilon_min_relative_entropy",
    ),
    "strength": ("max_strength",),
}


class Case(NamedTuple):
  """One call of `nes_jax.solve`."""

  name: str
  # Payoffs [B, N, A1, ..., AN].
  games: np.ndarray
  # Keyword arguments of the call.
  options: dict[str, Any]
  # Rows of the batch by the name of a set of games.
  sets: dict[str, slice]


def draw() -> dict[str, np.ndarray]:
  """Draws all random arrays, and returns them by name."""
  rng = np.random.default_rng(11)
  given = {"spheres": np.asarray(spheres.sample(jax.random.key(1), 64, (8, 8)))}
  # The pass in float64 leaves these games to the pass with raised limits, or nearly does so.
  rewards = (1.0007, 1.002, 1.01)
  given["travelers"] = np.stack([gamut.travelers_payoffs(x, (8, 8)) for x in rewards])
  for kind in KINDS:
    games = structured.sample(rng, kind, 3, 4)
    noisy = [structured.with_noise(rng, games, noise) for noise in NOISES]
    given[f"kind {kind}"] = np.concatenate(noisy)

  def games(count, *shape):
    scale = 10 ** rng.uniform(-2, 2, size=(count, len(shape)) + (1,) * len(shape))
    return scale * rng.normal(size=(count, len(shape), *shape))

  given["square"] = games(COUNT, 4, 4)
  given["three"] = games(48, 3, 2, 4)
  given["four"] = games(48, 2, 3, 1, 3)
  given["target"] = rng.dirichlet(np.full(16, 2.0), COUNT).reshape(COUNT, 4, 4)
  # Zeros of a target are replaced by small numbers.
  given["target"][:4, 0] = 0
  given["target"] /= given["target"].sum((1, 2), keepdims=True)
  given["welfare"] = rng.normal(size=(COUNT, 4, 4))
  given["epsilon"] = given["square"].std((2, 3)) * rng.uniform(0.05, 0.2, size=(COUNT, 2))
  for p in range(2):
    mask = rng.random((COUNT, 4)) < 0.7
    mask[np.arange(COUNT), rng.integers(0, 4, COUNT)] = True
    given[f"mask {p}"] = mask
  return given


def stacked(given, names) -> tuple[np.ndarray, dict[str, slice]]:
  """Puts the games of these names into one batch, and returns it with the rows of each name."""
  ends = np.cumsum([len(given[name]) for name in names])
  rows = {name: slice(end - len(given[name]), end) for name, end in zip(names, ends)}
  return np.concatenate([given[name].astype(np.float64) for name in names]), rows


def selected(given, name: str) -> Selection:
  """Makes a selection for the games "square"."""
  if name == "infinite_weight":
    return Selection(welfare=given["welfare"], welfare_weight=np.inf)
  if name == "negative_epsilon":
    return Selection(epsilon=-given["epsilon"])
  row = next(row for row in selection.TABLE if row.name == name)
  needed = {field: given[field] for field in row.needs}
  return selection.named(name, given["square"], player_axis=1, **needed)


def all_selected(given, names) -> Selection:
  """Concatenates selections that have equal rho and epsilon-plus into one selection."""
  chosen = [selected(given, name) for name in names]
  uniform, nothing = np.full((COUNT, 4, 4), 1 / 16), np.zeros((COUNT, 4, 4))
  weights = [0.0 if x.welfare is None else x.welfare_weight for x in chosen]
  return Selection(
      target=np.concatenate([uniform if x.target is None else x.target for x in chosen]),
      epsilon=np.concatenate([np.broadcast_to(x.epsilon, (COUNT, 2)) for x in chosen]),
      welfare=np.concatenate([nothing if x.welfare is None else x.welfare for x in chosen]),
      welfare_weight=np.repeat(np.array(weights, float), COUNT),
      rho=chosen[0].rho,
      epsilon_max=chosen[0].epsilon_max,
  )


def rough_duals(given, concept: str) -> tuple[np.ndarray, ...]:
  """Duals for a warm start of the games "square", which are not near their solutions."""
  shape = (COUNT,) + (4,) * (1 if concept == "cce" else 2)
  sizes = given["square"].std((2, 3))
  return tuple(np.full(shape, 0.2) / sizes[:, p].reshape((-1,) + (1,) * (len(shape) - 1))
               for p in range(2))


def cases(given: dict[str, np.ndarray]) -> list[Case]:
  """Makes all cases, in the order in which their answers are stored."""
  found = []
  with np.load(GAMUT) as archive:
    eights = given | {name: archive[name][:8] for name in CLASSES}
  eights = stacked(eights, ("spheres", *CLASSES, "travelers"))
  kinds = stacked(given, [f"kind {kind}" for kind in KINDS])
  square = given["square"]
  for concept in CONCEPTS:
    for precision in PRECISIONS:

      def add(name, games, sets=None, concept=concept, precision=precision, **options):
        options |= {"concept": concept, "precision": precision, "batched": True}
        sets = {name: slice(None)} if sets is None else sets
        found.append(Case(f"{name} {concept} {precision}", games, options, sets))

      add("eights", *eights)
      add("kinds", *kinds)
      add("masks", square, strategies=(given["mask 0"], given["mask 1"]))
      for group, names in SELECTIONS.items():
        if group == "strength" and precision == "float32":
          continue
        rows = {name: slice(k * COUNT, (k + 1) * COUNT) for k, name in enumerate(names)}
        games = np.concatenate([square] * len(names))
        add(group, games, rows, selection=all_selected(given, names))
      if precision == "float32":
        add("one step", square, max_iterations=1)
      else:
        add("warm", square, duals=rough_duals(given, concept))
      if concept == "cce":
        add("three", given["three"])
        add("four", given["four"])
  return found


def answer(case: Case) -> dict[str, np.ndarray]:
  """Solves a case, and returns the fields of the answer by name.

  The duals of all players are one array [B, D], and so are the marginals.
  """
  solution = nes_jax.solve(case.games, **case.options)._asdict()
  count = len(case.games)
  for name in ("duals", "marginals"):
    blocks = [np.asarray(x).reshape(count, -1) for x in solution[name]]
    solution[name] = np.concatenate(blocks, 1)
  return {name: np.asarray(x) for name, x in solution.items()}


@functools.cache
def _stored() -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
  """Reads the random arrays, by name, and the answers, by the names of the case and the field."""
  with np.load(ANSWERS) as archive:
    arrays = {key: archive[key] for key in archive.files}
  drawn, answers = {}, {}
  for key, array in arrays.items():
    case, _, field = key.rpartition("/")
    if case == "given":
      drawn[field] = array
    else:
      answers.setdefault(case, {})[field] = array
  return drawn, answers


def given() -> dict[str, np.ndarray]:
  """The random arrays that `draw` returned when the file was written."""
  return _stored()[0]


def load() -> tuple[list[Case], dict[str, dict[str, np.ndarray]]]:
  """The cases, and the JAX engine's answers by the names of the case and the field."""
  drawn, answers = _stored()
  return cases(drawn), answers


def main() -> None:
  os.environ["NES_JAX_CPU"] = "none"
  drawn = draw()
  stored = {f"given/{name}": array for name, array in drawn.items()}
  for case in cases(drawn):
    began = time.monotonic()
    stored |= {f"{case.name}/{name}": x for name, x in answer(case).items()}
    print(f"{case.name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
  np.savez_compressed(ANSWERS, **stored)


if __name__ == "__main__":
  main()
