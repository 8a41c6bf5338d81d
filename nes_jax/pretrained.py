"""Trained networks by name: those that ship in `nes_jax/weights`, and files like them.

A network is one `.npz` file: its parameters under "params/MODULE/NAME", the moments that inference
needs under "moments/SHAPE/MODULE/NAME" for the shapes that it was trained on, and its card, JSON,
under "card". Beside it lies the card for people, `.md`.
"""

from collections.abc import Mapping
import functools
import io
import json
import os
import pathlib
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from nes_jax import network
from nes_jax.training.config import Config as TrainingConfig
from nes_jax.training.config import shape_name
from nes_jax.training.moments import inference
from nes_jax.types import Concept

FORMAT = 2
DIRECTORY = pathlib.Path(__file__).parent / "weights"
# Number of significant bits of the parameters in a file, of the 24 that float32 has.
_BITS = 16


class Pretrained(NamedTuple):
  """A trained network and the facts of its card."""

  name: str
  params: hk.Params
  # Moments for inference, by shape, of shapes that it has met so far (`training.measure`).
  moments: dict[str, hk.State]
  # Settings of its training, with the configuration of the network.
  training: TrainingConfig
  # Facts of its card: command, updates, games, seconds, hardware, date, table, notes.
  facts: Mapping[str, Any]

  @property
  def config(self) -> network.Config:
    """Configuration of the network."""
    return self.training.network

  @property
  def players(self) -> int:
    """Number of players of the games that it was trained on."""
    return len(self.training.shapes[0])

  def variables(self, shape: tuple[int, ...]) -> network.Variables:
    """Parameters and moments for games of this shape, which may be new to the network."""
    name = shape_name(shape)
    if name not in self.moments:
      # Concrete also where the caller is being traced.
      with jax.ensure_compile_time_eval():
        self.moments[name] = inference(self.params, self.training, shape).state
    return network.Variables(self.params, self.moments[name])


def names() -> list[str]:
  """Names of the networks that ship with the package."""
  return sorted(path.stem for path in DIRECTORY.glob("*.npz"))


def load(name: str | os.PathLike) -> Pretrained:
  """Loads a network by name, or one of your own by the path of its `.npz` file.

  Raises:
    ValueError: there is none of that name, or the file is damaged or no network.
    OSError: there is no such file, or it cannot be read.
  """
  name = os.fspath(name)
  if name.endswith(".npz"):
    return _read(pathlib.Path(name))
  return _shipped(name)


@functools.cache
def _shipped(name: str) -> Pretrained:
  if name not in names():
    raise ValueError(
        f"unknown network {name!r}; those that ship are {', '.join(names()) or '(none)'}; for one"
        " of your own give the path of its .npz file"
    )
  return _read(DIRECTORY / f"{name}.npz")


def _read(path: pathlib.Path) -> Pretrained:
  content = io.BytesIO(path.read_bytes())
  try:
    with np.load(content) as archive:
      card = json.loads(str(archive["card"]))
      if card["format"] != FORMAT:
        raise ValueError(f"format {card['format']}, and this version reads {FORMAT}")
      training, facts = TrainingConfig.from_dict(card["training"]), card["facts"]
      params: dict[str, Any] = {}
      moments: dict[str, Any] = {}
      for key in archive.files:
        kind, _, rest = key.partition("/")
        if kind == "moments":
          shape, rest = rest.split("/", 1)
          modules = moments.setdefault(shape, {})
        else:
          modules = params
        if kind != "card":
          module, leaf = rest.rsplit("/", 1)
          modules.setdefault(module, {})[leaf] = jnp.asarray(archive[key])
  except Exception as error:  # NumPy, zlib and JSON raise whatever damage makes them
    raise ValueError(
        f"{path}: not a network of nes_jax.pretrained.save ({error}); give a .npz file written by"
        " it or by launch.nes_train --export"
    ) from error
  return Pretrained(path.stem, params, moments, training, facts)


def save(
    file: Any, params: hk.Params, training: TrainingConfig, facts: Mapping[str, Any]
) -> None:
  """Writes a network.

  Args:
    file: path, or a file open for writing bytes.
    params: parameters of the network, arrays of one device.
    training: settings of its training.
    facts: facts for the card, which JSON can hold.
  """
  params = jax.tree.map(_rounded, params)
  trees = {"params": params}
  for shape in training.shapes:
    trees[f"moments/{shape_name(shape)}"] = inference(params, training, shape).state
  arrays: dict[str, Any] = {
      f"{tree}/{module}/{leaf}": x
      for tree, modules in trees.items()
      for module, leaves in modules.items()
      for leaf, x in leaves.items()
  }
  card = {"format": FORMAT, "training": training.to_dict(), "facts": dict(facts)}
  np.savez_compressed(file, card=np.array(json.dumps(card)), **arrays)


def _rounded(x: Any) -> np.ndarray:
  """Rounds numbers to `_BITS` significant bits. Compression removes the bits that are zero."""
  mantissa, exponent = np.frexp(np.asarray(x, np.float32))
  return np.ldexp(np.round(np.ldexp(mantissa, _BITS)), exponent - _BITS).astype(np.float32)


def choose(concept: Concept, shape: tuple[int, ...], inputs: frozenset[str]) -> Pretrained:
  """Chooses a shipped network for games of this shape that sees what the selection varies.

  It was trained on the same number of players. Among several, the one with the fewest further
  inputs is taken, which knows its selection best. Among these it is one that was trained on this
  shape, and if possible on no other; else it is the one that was trained on most shapes.

  Args:
    concept: "cce" or "ce".
    shape: (A1, ..., AN).
    inputs: names of those of `network.INPUTS` that differ from maximum entropy's.

  Raises:
    ValueError: no network fits. The message lists those that there are.
  """
  known = [load(name) for name in names()]
  fitting = [
      one
      for one in known
      if one.config.concept == concept
      and one.players == len(shape)
      and inputs <= set(one.config.inputs)
  ]
  if not fitting:
    listing = "; ".join(
        f"{one.name} ({one.config.concept}, {one.players} players, {one.training.selection})"
        for one in known
    )
    wanted = f" with {', '.join(sorted(inputs))}" if inputs else ""
    raise ValueError(
        f"no shipped network solves for the {concept} of {len(shape)}-player games{wanted}; there"
        f" are {listing or 'none'}: use method='exact'"
    )

  def order(one: Pretrained):
    shapes = one.training.shapes
    trained = shape in shapes
    return len(one.config.inputs), not trained, len(shapes) if trained else -len(shapes), one.name

  return min(fitting, key=order)
