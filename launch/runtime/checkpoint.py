"""Training states on disk: any pytree, bit for bit, in .npz files without pickle.

A checkpoint is one file, `checkpoint-000000001200.npz` for step 1200, that holds

  metadata         JSON: format, step, config, metric
  schema           JSON, one entry a leaf: its path in the tree, its kind, and what the kind needs
  leaf-000000 ...  the arrays, in the order of the schema

The kinds: `array` (types that NumPy's format does not know, such as bfloat16, as integers of the
same width), `key` (a typed PRNG key, as its data and the name of its implementation), and Python's
`float` (an array, for its bits), `int`, `bool` and `str` (within the schema).

A file appears under its name when complete. All processes of a run share the directory; process 0
alone writes to it.
"""

from collections.abc import Mapping
import contextlib
import io
import json
import math
import os
import pathlib
import re
from typing import Any
import warnings
import zipfile

import jax
import jax.numpy as jnp
import numpy as np

from launch.runtime import parallel
from nes_jax.games.files import replacing

FORMAT = 1

Path = str | os.PathLike
Tree = Any

_NAME = re.compile(r"checkpoint-(\d{12,})\.npz")
_IN_SCHEMA = (bool, int, str)  # kinds that need no array


class CheckpointError(ValueError):
  """A checkpoint that cannot be used: which, what was wrong, and what to do."""

  def __init__(self, path: Path, problem: str, advice: str):
    super().__init__(f"{os.fspath(path)}: {problem}; {advice}")


# Writing.


def save(
    directory: Path,
    state: Tree,
    *,
    step: int,
    config: Mapping[str, Any] | None = None,
    metric: float | None = None,
    keep: int = 3,
) -> pathlib.Path:
  """Writes a checkpoint, then deletes those that are neither the best nor among the last.

  All processes call it, and what they hold parts of is put together; process 0 writes. Files that
  are no readable checkpoints are let be.

  Args:
    directory: made if need be.
    state: leaves are arrays of JAX or NumPy, typed PRNG keys, Python numbers or text.
    step: of the state; a checkpoint of the same step is replaced.
    config: goes into the metadata; has to be JSON.
    metric: how good the state is, lower is better (negate a reward). None or NaN: never the best.
    keep: how many of the highest steps stay. The best stays besides, and so does this one.

  Returns:
    The file.

  Raises:
    TypeError: a leaf that is none of these, or a config that is not JSON.
    ValueError: step or keep out of range.
    OSError: the disk.
  """
  if step < 0 or keep < 1:
    raise ValueError(f"step = {step} and keep = {keep}: at least 0 and at least 1 are expected")
  directory = pathlib.Path(directory)
  path = directory / f"checkpoint-{step:012d}.npz"
  metadata = json.dumps({
      "format": FORMAT,
      "step": int(step),
      "config": dict(config or {}),
      "metric": None if metric is None else float(metric),
  })
  leaves = _flatten(state)
  entries = [_entry(path, leaf) for path, leaf in leaves]
  leaves = parallel.gather([leaf for _, leaf in leaves])
  if not parallel.is_main():
    return path
  directory.mkdir(parents=True, exist_ok=True)
  for left in directory.glob(".checkpoint-*.tmp"):  # of a killed run
    left.unlink(missing_ok=True)
  arrays = {
      _member(i): _to_array(entry, leaf)
      for i, (entry, leaf) in enumerate(zip(entries, leaves))
      if "value" not in entry
  }
  with replacing(path) as file:
    np.savez(file, metadata=np.array(metadata), schema=np.array(json.dumps(entries)), **arrays)
  _delete_old(directory, path, keep)
  return path


def _flatten(tree: Tree) -> list[tuple[str, Any]]:
  """(path, leaf) in the order of the tree."""
  items = [
      (jax.tree_util.keystr(path), leaf)
      for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  ]
  if len({path for path, _ in items}) < len(items):
    raise TypeError("two leaves of the state have the same path: give its nodes distinct keys")
  return items


def _entry(path: str, leaf: Any) -> dict[str, Any]:
  """A leaf, or the ShapeDtypeStruct of one, as the schema has it; its values are not touched."""
  name = f"leaf {path!r}" if path else "the state"
  for kind in _IN_SCHEMA:
    if type(leaf) is kind:
      return {"path": path, "kind": kind.__name__, "value": leaf}
  if type(leaf) is float:
    return {"path": path, "kind": "float", "dtype": "float64", "shape": []}
  if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
    raise TypeError(
        f"{name} is of type {type(leaf).__name__}: arrays, typed PRNG keys, int, float, bool and"
        " str can be saved"
    )
  entry = {"path": path, "kind": "array", "dtype": str(leaf.dtype), "shape": list(leaf.shape)}
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    # The implementation of an abstract key shows in its dtype alone.
    known = {} if isinstance(leaf, jax.ShapeDtypeStruct) else {"impl": jax.random.key_impl(leaf)}
    return entry | {"kind": "key"} | {key: str(value) for key, value in known.items()}
  dtype = np.dtype(leaf.dtype)
  if dtype.kind not in "biufc" and not _is_extension(dtype):
    raise TypeError(f"{name} has the dtype {dtype}: it must be numeric")
  return entry | {"dtype": dtype.name}


def _to_array(entry: Mapping[str, Any], leaf: Any) -> np.ndarray:
  """What is stored of a leaf."""
  if entry["kind"] == "key":
    return np.asarray(jax.random.key_data(leaf))
  array = np.asarray(leaf, np.dtype(entry["dtype"]))
  return array.view(f"u{array.dtype.itemsize}") if _is_extension(array.dtype) else array


def _is_extension(dtype: np.dtype) -> bool:
  """bfloat16 and its kin, which NumPy's file format would store as mere bytes."""
  return dtype.isbuiltin == 2


def _member(index: int) -> str:
  return f"leaf-{index:06d}"


def _delete_old(directory: pathlib.Path, written: pathlib.Path, keep: int) -> None:
  """Leaves the `keep` highest steps, the best and the one just written."""
  known = _readable(directory)
  paths = [path for path, _ in known]
  kept = {written, _best(known), *paths[-keep:]}
  for path in paths:
    if path not in kept:
      path.unlink(missing_ok=True)


# Finding.


def latest(directory: Path) -> pathlib.Path | None:
  """The checkpoint of the highest step that is whole, checksums compared; None if there is none.

  Warns (UserWarning) of every damaged one that it passes over.
  """
  for path in reversed(_paths(pathlib.Path(directory))):
    try:
      with _opened(path) as archive:
        _metadata(archive)
        damaged = archive.testzip()
        if damaged is not None:
          raise ValueError(f"the checksum of {damaged} differs")
      return path
    except (CheckpointError, OSError) as error:
      warnings.warn(f"{error}; taking the one before", stacklevel=2)
  return None


def best(directory: Path) -> pathlib.Path | None:
  """The checkpoint with the lowest metric, the earliest of equals; None if none has a metric."""
  return _best(_readable(pathlib.Path(directory)))


def _best(known: list[tuple[pathlib.Path, dict[str, Any]]]) -> pathlib.Path | None:
  measured = [
      (metadata["metric"], path)
      for path, metadata in known
      if metadata["metric"] is not None and not math.isnan(metadata["metric"])
  ]
  return min(measured, key=lambda item: item[0])[1] if measured else None


def _paths(directory: pathlib.Path) -> list[pathlib.Path]:
  """Files with the name of a checkpoint, by step."""
  if not directory.is_dir():
    return []
  named = [(_NAME.fullmatch(path.name), path) for path in directory.iterdir()]
  return [path for _, path in sorted((int(match[1]), path) for match, path in named if match)]


def _readable(directory: pathlib.Path) -> list[tuple[pathlib.Path, dict[str, Any]]]:
  """Checkpoints whose metadata can be read, by step, with it."""
  known = []
  for path in _paths(directory):
    with contextlib.suppress(CheckpointError, OSError):
      known.append((path, load_metadata(path)))
  return known


# Reading.


def load_metadata(path: Path) -> dict[str, Any]:
  """What was saved beside the state: `format`, `step`, `config`, `metric`.

  Raises:
    CheckpointError: not a checkpoint, or a damaged one.
    OSError: the file cannot be read.
  """
  with _opened(path) as archive:
    return _metadata(archive)


def restore(path: Path, like: Tree) -> Tree:
  """Reads a state.

  Args:
    path: of the checkpoint.
    like: a tree of the structure, shapes and dtypes that the state has; its values do not matter,
      and a ShapeDtypeStruct does for an array.

  Returns:
    A tree of the structure of `like`: NumPy arrays, for the caller to place on devices, keys on
    the default device, and Python numbers and text. A weak type of JAX becomes a proper one.

  Raises:
    CheckpointError: damaged, no checkpoint, or of another structure, shape or dtype than `like`;
      the first leaf that differs is named.
    OSError: the file cannot be read.
  """
  wanted = [_entry(*item) for item in _flatten(like)]
  with _opened(path) as archive:
    _metadata(archive)
    schema = json.loads(_text(archive, "schema"))
    found = {entry["path"]: (index, entry) for index, entry in enumerate(schema)}
    problem = _difference(found, wanted)
    if problem is not None:
      raise CheckpointError(path, problem, "restore it with the code and config that saved it")
    leaves = [_load(archive, *found[entry["path"]]) for entry in wanted]
  return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _difference(
    found: Mapping[str, tuple[int, dict[str, Any]]], wanted: list[dict[str, Any]]
) -> str | None:
  """The first leaf in which the file is not what was asked for."""
  for entry in wanted:
    name = f"leaf {entry['path']!r}"
    if entry["path"] not in found:
      return f"{name} is missing: it has {len(found)} leaves and {len(wanted)} are expected"
    saved = found[entry["path"]][1]
    for what in ("kind", "dtype", "shape", "impl"):
      if what in entry and saved.get(what) != entry[what]:
        return f"{name} has the {what} {saved.get(what)}, and {entry[what]} is expected"
  known = {entry["path"] for entry in wanted}
  extra = next((path for path in found if path not in known), None)
  return None if extra is None else f"leaf {extra!r} is there and not expected"


def _load(archive: zipfile.ZipFile, index: int, entry: dict[str, Any]) -> Any:
  if entry["kind"] in [kind.__name__ for kind in _IN_SCHEMA]:
    return entry["value"]
  array = _array(archive, _member(index))
  if entry["kind"] == "key":
    return jax.random.wrap_key_data(array, impl=entry["impl"])
  dtype = jnp.dtype(entry["dtype"])
  array = array.view(dtype) if _is_extension(dtype) else array
  if array.dtype != dtype or list(array.shape) != entry["shape"]:
    raise ValueError(f"{_member(index)} is not what the schema says")
  return float(array) if entry["kind"] == "float" else array


@contextlib.contextmanager
def _opened(path: Path):
  """The open archive; whatever damage shows while it is read is a CheckpointError."""
  try:
    with zipfile.ZipFile(path) as archive:
      yield archive
  except CheckpointError:
    raise
  except OSError as error:
    # Of the disk; but an offset that a damaged directory gives is not the disk's fault.
    if error.filename is not None:
      raise
    raise _damaged(path, error) from error
  except Exception as error:  # NumPy, zipfile, zlib, tokenize and json raise what damage makes them
    raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CheckpointError:
  reason = " ".join(str(error).split()) or type(error).__name__
  return CheckpointError(
      path, f"not a checkpoint, or a damaged one ({reason:.120})", "delete it, or use another"
  )


def _metadata(archive: zipfile.ZipFile) -> dict[str, Any]:
  metadata = json.loads(_text(archive, "metadata"))
  if metadata["format"] != FORMAT:
    raise CheckpointError(
        archive.filename or "",
        f"it is of format {metadata['format']}, and this program reads {FORMAT}",
        "use the version of the program that wrote it",
    )
  if not {"step", "config", "metric"} <= set(metadata):
    raise ValueError("incomplete metadata")
  return metadata


def _text(archive: zipfile.ZipFile, name: str) -> str:
  return str(_array(archive, name).item())


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
  # As a whole, so that the checksum is compared before the header is believed.
  data = archive.read(f"{name}.npy")
  return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
