"""The networks that ship: each loads, is small, and does what its card says."""

import json
import pathlib

import jax
import numpy as np
import pytest

from launch.training import held_out
import nes_jax
from nes_jax import network, pretrained, training
from nes_jax.games import spheres

DATA = pathlib.Path(__file__).parent / "data"


@pytest.mark.parametrize("name", pretrained.names())
def test_card_is_true(name):
  net = pretrained.load(name)
  path = pretrained.DIRECTORY / f"{name}.npz"
  assert path.stat().st_size < 1e6 and path.with_suffix(".md").exists()
  assert network.num_parameters(net.params) == net.facts["parameters"]
  shape = min(net.training.shapes, key=lambda shape: abs(shape[0] - 8))
  test = held_out.draw(net.training, shape, 512)
  answer = nes_jax.solve(
      test.problem.payoffs,
      concept=net.config.concept,
      selection=training.selection_of(test.problem, net.training),
      method="neural",
      trained=net,
      batched=True,
  )
  gaps = 0.5 * np.abs(np.asarray(answer.joint - test.joint)).reshape(len(test.joint), -1).sum(1)
  said = net.facts["table"][training.shape_name(shape)]
  # The card's games: few are most of the mean, and rounding moves those most.
  np.testing.assert_allclose(gaps.mean(), said["solver_gap"], rtol=0.1, atol=1e-5)
  # The exact engine ends a network with a joint, and its gaps below the tolerance are rounding.
  smallest = 1e-5 if net.config.answer == "duals" else 1e-4
  np.testing.assert_allclose(np.asarray(answer.gap).mean(), said["gap"], rtol=0.2, atol=smallest)


@pytest.mark.parametrize("missing", ["format", "training", "facts"])
def test_a_card_that_lacks_something_is_refused(tmp_path, missing):
  with np.load(pretrained.DIRECTORY / "me_cce_2p.npz") as archive:
    arrays = dict(archive)
  card = json.loads(str(arrays.pop("card")))
  del card[missing]
  np.savez(tmp_path / "net.npz", card=np.array(json.dumps(card)), **arrays)
  with pytest.raises(ValueError, match=f"net.npz: not a network.*{missing}"):
    pretrained.load(tmp_path / "net.npz")


def test_a_network_is_chosen_by_concept_and_shape():
  for concept in ("cce", "ce"):
    assert pretrained.choose(concept, (8, 8), frozenset()).config.concept == concept
  with pytest.raises(ValueError, match="no shipped network.*2-player games with epsilon"):
    pretrained.choose("ce", (8, 8), frozenset({"epsilon"}))
  with pytest.raises(ValueError, match="no shipped network.*5-player games"):
    pretrained.choose("cce", (2,) * 5, frozenset())


def gamut_games():
  """880 games of 8x8 strategies, of all classes of GAMUT."""
  with np.load(DATA / "gamut_8x8.npz") as archive:
    return np.concatenate([archive[name] for name in archive.files])


@pytest.mark.parametrize(
    "concept, draw, share",
    [
        # Seen: 1.0 of 4.3 steps.
        ("cce", lambda: spheres.sample(jax.random.key(9), 128, (8, 8)), 0.5),
        # Seen: 4.9 of 10.3 and 6.2 of 11.6 steps.
        ("ce", gamut_games, 0.5),
        ("ce", lambda: spheres.sample(jax.random.key(9), 128, (8, 8)), 0.56),
    ],
)
def test_refined_saves_steps(concept, draw, share):
  """Refinement takes about half the steps of a cold start, to the tolerance of float32."""
  games, steps = draw(), {}
  for method in ("exact", "refined"):
    solution = nes_jax.solve(games, concept=concept, method=method, precision="float32")
    assert solution.converged.all()
    steps[method] = float(np.mean(solution.iterations))
  assert steps["refined"] <= share * steps["exact"], steps


def test_shapes_that_a_network_was_not_trained_on():
  """The moments of a new shape are measured at its first use, also while the caller is traced."""
  net = pretrained.load("me_cce_2p")
  net.moments.pop("5x7", None)
  games = spheres.sample(jax.random.key(10), 64, (5, 7))
  traced = jax.jit(lambda games: nes_jax.solve(games, method="neural").joint)(games)
  assert "5x7" in net.moments
  again = nes_jax.solve(games, method="neural").joint
  np.testing.assert_allclose(traced, again, atol=1e-5)
  exact = nes_jax.solve(games, method="exact").joint
  gap = 0.5 * np.abs(np.asarray(again - exact)).sum((1, 2)).mean()
  uniform = 0.5 * np.abs(np.asarray(1 / 35 - exact)).sum((1, 2)).mean()
  assert gap < 0.2 * uniform, gap


def test_files_that_are_no_network(tmp_path):
  with pytest.raises(ValueError, match="unknown network 'best'; those that ship"):
    pretrained.load("best")
  with pytest.raises(FileNotFoundError):
    pretrained.load(tmp_path / "none.npz")
  (tmp_path / "text.npz").write_text("not an archive")
  np.savez(tmp_path / "other.npz", payoffs=np.zeros(3))
  for name in ("text", "other"):
    with pytest.raises(ValueError, match="not a network of nes_jax.pretrained.save"):
      pretrained.load(tmp_path / f"{name}.npz")
