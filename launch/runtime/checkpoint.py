"""Training states on disk: any pytree, bit for bit, in .npz files without pickle.

A checkpoint is one file, `checkpoint-000000001200.npz` for step 1200, that holds

  metadata         JSON: format, step, config, metric
  schema           JSON, one entry a leaf: its path in the tree, its kind, and what the kind needs
  leaf-000000 ...  the arrays, in the order of the schema

The kinds of leaves are

  array            an array; types that NumPy's format does not know, such as bfloat16, are stored
                   as integers of the same width
  key              a typed PRNG key, stored as its data and the name of its implementation
  float            a Python float, stored as an array, which keeps its bits
  int, bool, str   Python values, stored in the schema

A file appears under its name when it is complete. All processes of a run share the directory;
process 0 alone writes to it.
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

# Version of the file format.
FORMAT = 1

Path = str | os.PathLike
Tree = Any

# Name of a checkpoint's file.
_NAME = re.compile(r"checkpoint-(\d{12,})\.npz")
# Types of leaves that are stored in the schema.
_IN_SCHEMA = (bool, int, str)


class CheckpointError(ValueError):
  """A checkpoint cannot be used; the message says which, why, and what to do."""

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

  All processes must call this together: arrays that are spread over them are gathered, and process
  0 writes. Files that are no readable checkpoints are left alone.

  Args:
    directory: the directory of the run; it is made if it does not exist.
    state: a pytree of arrays of JAX or NumPy, typed PRNG keys, Python numbers and text.
    step: number of steps of the state. A checkpoint of the same step is replaced.
    config: further metadata, which must be JSON.
    metric: quality of the state; lower is better, so a reward is negated. A checkpoint whose metric
      is None or NaN is never the best.
    keep: number of checkpoints of the highest steps that stay. The best one stays besides, and so
      does the new one.

  Returns:
    The path of the file.

  Raises:
    TypeError: a leaf has another type, or the config is not JSON.
    ValueError: step or keep is out of range.
    OSError: the disk failed.
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
  for left in directory.glob(".checkpoint-*.tmp"):  # left by a run that was killed
    left.unlink(missing_ok=True)
  arrays: dict[str, Any] = {
      _member(i): _to_array(entry, leaf)
      for i, (entry, leaf) in enumerate(zip(entries, leaves))
      if "value" not in entry
  }
  with replacing(path) as file:
    np.savez(file, metadata=np.array(metadata), schema=np.array(json.dumps(entries)), **arrays)
  _delete_old(directory, path, keep)
  return path


def _flatten(tree: Tree) -> list[tuple[str, Any]]:
  """The leaves with their paths, (path, leaf), in the order of the tree."""
  items = [
      (jax.tree_util.keystr(path), leaf)
      for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  ]
  if len({path for path, _ in items}) < len(items):
    raise TypeError("two leaves of the state have the same path: give its nodes distinct keys")
  return items


def _entry(path: str, leaf: Any) -> dict[str, Any]:
  """The schema's entry of a leaf, or of a ShapeDtypeStruct. It does not read an array's values."""
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
    # `jax.random.key_impl` needs a concrete key.
    known = {} if isinstance(leaf, jax.ShapeDtypeStruct) else {"impl": jax.random.key_impl(leaf)}
    return entry | {"kind": "key"} | {key: str(value) for key, value in known.items()}
  dtype = np.dtype(leaf.dtype)
  if dtype.kind not in "biufc" and not _is_extension(dtype):
    raise TypeError(f"{name} has the dtype {dtype}: it must be numeric")
  return entry | {"dtype": dtype.name}


def _to_array(entry: Mapping[str, Any], leaf: Any) -> np.ndarray:
  """The array that stores a leaf."""
  if entry["kind"] == "key":
    return np.asarray(jax.random.key_data(leaf))
  array = np.asarray(leaf, np.dtype(entry["dtype"]))
  return array.view(f"u{array.dtype.itemsize}") if _is_extension(array.dtype) else array


def _is_extension(dtype: np.dtype) -> bool:
  """Whether NumPy's file format would store the type as mere bytes, as it does bfloat16."""
  return dtype.isbuiltin == 2


def _member(index: int) -> str:
  return f"leaf-{index:06d}"


def _delete_old(directory: pathlib.Path, written: pathlib.Path, keep: int) -> None:
  """Deletes all checkpoints but the `keep` highest steps, the best and the one just written."""
  known = _readable(directory)
  paths = [path for path, _ in known]
  kept = {written, _best(known), *paths[-keep:]}
  for path in paths:
    if path not in kept:
      path.unlink(missing_ok=True)


# Finding.


def latest(directory: Path) -> pathlib.Path | None:
  """The undamaged checkpoint of the highest step; None if there is none.

  It compares checksums. Every damaged checkpoint that it passes over gives a UserWarning.
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
  """The checkpoint with the lowest metric, the first of equals; None if none has a metric."""
  return _best(_readable(pathlib.Path(directory)))


def _best(known: list[tuple[pathlib.Path, dict[str, Any]]]) -> pathlib.Path | None:
  """`best` of checkpoints with their metadata."""
  measured = [
      (metadata["metric"], path)
      for path, metadata in known
      if metadata["metric"] is not None and not math.isnan(metadata["metric"])
  ]
  return min(measured, key=lambda item: item[0])[1] if measured else None


def _paths(directory: pathlib.Path) -> list[pathlib.Path]:
  """The files that have the name of a checkpoint, sorted by step."""
  if not directory.is_dir():
    return []
  named = [(_NAME.fullmatch(path.name), path) for path in directory.iterdir()]
  return [path for _, path in sorted((int(match[1]), path) for match, path in named if match)]


def _readable(directory: pathlib.Path) -> list[tuple[pathlib.Path, dict[str, Any]]]:
  """The checkpoints whose metadata can be read, with these metadata, sorted by step."""
  known = []
  for path in _paths(directory):
    with contextlib.suppress(CheckpointError, OSError):
      known.append((path, load_metadata(path)))
  return known


# Reading.


def load_metadata(path: Path) -> dict[str, Any]:
  """Reads the metadata of a checkpoint: `format`, `step`, `config` and `metric`.

  Raises:
    CheckpointError: the file is no checkpoint, or a damaged one.
    OSError: the file cannot be read.
  """
  with _opened(path) as archive:
    return _metadata(archive)


def restore(path: Path, like: Tree) -> Tree:
  """Reads a state.

  Args:
    path: the file of the checkpoint.
    like: a tree with the structure, shapes and dtypes of the state. Its values do not matter, and
      an array may be a ShapeDtypeStruct.

  Returns:
    A tree with the structure of `like`. Its leaves are NumPy arrays, which the caller places on
    devices, keys on the default device, and Python numbers and text. Weakly typed arrays of JAX
    become arrays of the same dtype that are not weakly typed.

  Raises:
    CheckpointError: the file is damaged or no checkpoint, or differs from `like` in structure,
      shape or dtype; the message names the first leaf that differs.
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
  """The first difference between the leaves of a file and the wanted ones; None if none."""
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
  """The leaf of an entry, which is number `index` of the schema."""
  if entry["kind"] in [kind.__name__ for kind in _IN_SCHEMA]:
    return entry["value"]
  array = _array(archive, _member(index))
  if entry["kind"] == "key":
    return jax.random.wrap_key_data(jnp.asarray(array), impl=entry["impl"])
  dtype = jnp.dtype(entry["dtype"])
  array = array.view(dtype) if _is_extension(dtype) else array
  if array.dtype != dtype or list(array.shape) != entry["shape"]:
    raise ValueError(f"{_member(index)} is not what the schema says")
  return float(array) if entry["kind"] == "float" else array


@contextlib.contextmanager
def _opened(path: Path):
  """Opens an archive; damage that shows while it is read becomes a CheckpointError."""
  try:
    with zipfile.ZipFile(path) as archive:
      yield archive
  except CheckpointError:
    raise
  except OSError as error:
    # An error of the disk names the file. One without a name comes from a wrong offset in the
    # directory of a damaged archive.
    if error.filename is not None:
      raise
    raise _damaged(path, error) from error
  except Exception as error:  # damage makes NumPy, zipfile, zlib and json raise many types
    raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CheckpointError:
  reason = " ".join(str(error).split()) or type(error).__name__
  return CheckpointError(
      path, f"not a checkpoint, or a damaged one ({reason:.120})", "delete it, or use another"
  )


def _metadata(archive: zipfile.ZipFile) -> dict[str, Any]:
  """The metadata of an open checkpoint, whose format is checked."""
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
  # Reading the whole member compares its checksum before the header is trusted.
  data = archive.read(f"{name}.npy")
  return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
