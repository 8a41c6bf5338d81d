"""Times calls of `nes_jax.solve` in another process: a first call, or calls of an older version.

The process runs `launch/baselines/timed_solve.py` with a checkout in PYTHONPATH.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

_PROGRAM = pathlib.Path(__file__).with_name("timed_solve.py")
# JAX must leave memory of a GPU to the process that started this one.
_ENVIRONMENT = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
# Without the cache the first call compiles.
_CLEARED = "JAX_COMPILATION_CACHE_DIR"


class Process:
  """A process that imports nes_jax from a checkout and times calls of its `solve`."""

  def __init__(self, root: str | os.PathLike):
    """Starts the process.

    Args:
      root: the directory that holds the package nes_jax.
    """
    self._root = pathlib.Path(root).resolve()
    self._folder = tempfile.TemporaryDirectory(prefix="timed-solve-")
    environment = {name: value for name, value in os.environ.items() if name != _CLEARED}
    # The caller may have put packages on PYTHONPATH.
    path = os.pathsep.join(filter(None, [str(self._root), environment.get("PYTHONPATH")]))
    environment |= _ENVIRONMENT | {"PYTHONPATH": path}
    # The option -P keeps the directory of the program out of the module search path.
    self._process = subprocess.Popen(
        [sys.executable, "-P", str(_PROGRAM)], cwd=self._folder.name, env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    self._files: dict[int, tuple[str, np.ndarray]] = {}

  def solve(self, payoffs: np.ndarray, concept: str, batched: bool) -> dict[str, Any]:
    """Solves games in one call.

    Args:
      payoffs: float32 [B, N, A1, ..., AN] if batched, which are put on the device before the time
        starts; [N, A1, ..., AN] otherwise, which are not.
      concept: "cce" or "ce".
      batched: whether payoffs have a batch axis.

    Returns:
      The answer, as `launch.baselines.timed_solve` describes it.

    Raises:
      RuntimeError: the process has ended, or its nes_jax is not in the checkout.
    """
    if id(payoffs) not in self._files:
      path = os.path.join(self._folder.name, f"{len(self._files)}.npy")
      np.save(path, np.asarray(payoffs))
      # The reference to the array keeps its id from being used again.
      self._files[id(payoffs)] = path, payoffs
    request = {"file": self._files[id(payoffs)][0], "concept": concept, "batched": batched}
    assert self._process.stdout is not None
    try:
      print(json.dumps(request), file=self._process.stdin, flush=True)
      line = self._process.stdout.readline()
    except BrokenPipeError:
      line = ""
    if not line:
      raise RuntimeError(
          f"the process that solves with {self._root} has ended with exit code"
          f" {self._process.wait()}: its message is above"
      )
    answer = json.loads(line)
    if self._root not in pathlib.Path(answer["module"]).resolve().parents:
      raise RuntimeError(f"nes_jax is {answer['module']}, not of {self._root}: is it a checkout?")
    return answer

  def close(self) -> None:
    """Ends the process, and removes its files."""
    assert self._process.stdin is not None and self._process.stdout is not None
    self._process.stdin.close()
    self._process.wait()
    self._process.stdout.close()
    self._folder.cleanup()

  def __enter__(self) -> "Process":
    return self

  def __exit__(self, *_) -> None:
    self.close()
