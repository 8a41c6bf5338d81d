"""Rules for arrays of payoffs: the types and the shapes that hold games.

An array is a batch of games, [B, N, A1, ..., AN], or one game, [N, A1, ..., AN]. The rank tells
which, except for a few shapes such as [3, 2, 8, 8] that fit both.
"""

import numpy as np

from nes_jax.games.sources import AmbiguousShapeError, GameFileError, Path

# Advice about numbers of a type that NumPy does not have.
CONVERT_ADVICE = "convert it with .astype(numpy.float64) before it is saved"


def check_dtype(path: Path, key: str, dtype: np.dtype) -> None:
  """Raises GameFileError unless the type is a real number of NumPy's own."""
  # Other packages, such as ml_dtypes, register types with NumPy; those have isbuiltin == 2.
  registered = dtype.isbuiltin == 2
  if dtype.kind in "fiub" and not registered:
    return
  problem, advice = f"of type {dtype}, not real numbers", "save it as float64"
  if dtype.hasobject:
    problem = "an object array (a pickle), which is never read"
  elif registered:
    problem, advice = f"of type {dtype}, which a .npz cannot keep", CONVERT_ADVICE
  elif dtype.kind == "V" and dtype.names is None:
    likely = {1: ", probably float8", 2: ", probably bfloat16"}.get(dtype.itemsize, "")
    problem = f"of void type {dtype}: NumPy saves the types of ml_dtypes like this{likely}"
    advice = CONVERT_ADVICE
  raise GameFileError(path, f"array {key!r} is {problem}", advice)


def fits_game_and_batch(shape: tuple[int, ...]) -> tuple[bool, bool]:
  """Whether an array of this shape can be one game, and whether it can be a batch."""
  one = len(shape) >= 3 and len(shape) == shape[0] + 1
  many = len(shape) >= 4 and len(shape) == shape[1] + 2
  return one, many


def interpret_shape(
    path: Path, key: str, shape: tuple[int, ...], batched: bool | None = None
) -> tuple[int, tuple[int, ...]]:
  """Splits the shape of an array into the number of games and the shape of a game.

  Args:
    path: input, for messages.
    key: name of the array, for messages.
    shape: shape of the array.
    batched: whether the first axis is a batch axis; None where the shape shall tell.

  Returns:
    B and (N, A1, ..., AN).

  Raises:
    AmbiguousShapeError: the shape fits both, and `batched` is None.
    GameFileError: the shape does not fit games, or not what `batched` says.
  """
  one, many = fits_game_and_batch(shape)
  if not one and not many:
    raise GameFileError(
        path,
        f"array {key!r} has shape {list(shape)}, which is not [B, N, A1, ..., AN] or"
        " [N, A1, ..., AN] with N at least 2",
        "put the player axis first, then one axis a player",
    )
  if min(shape) < 1:
    raise GameFileError(
        path,
        f"array {key!r} of shape {list(shape)} is empty",
        "give at least one game and one strategy",
    )
  if one and many and batched is None:
    raise AmbiguousShapeError(path, key, shape)
  if batched is not None and not (many if batched else one):
    wanted, found = ("a batch", "one game") if batched else ("one game", "a batch")
    raise GameFileError(
        path,
        f"array {key!r} of shape {list(shape)} can only be {found}, and {wanted} was asked for",
        "leave `batched` out: this shape can be read in one way only",
    )
  batched = many if batched is None else batched
  return (shape[0], shape[1:]) if batched else (1, shape)
