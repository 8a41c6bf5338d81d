"""Times calls of `nes_jax.solve` in another process: a first call, or those of an older version.

`launch.benchmark` starts this file (`Process`) with a checkout in PYTHONPATH. As that may be an
older one, the file imports nothing else of it, and gives `solve` only arguments that it knows.

The process reads requests, a line of JSON each: `file` (.npy of payoffs), `concept` and `batched`.
It answers each with a line of JSON: `seconds` of one call until its arrays are there, `games`, how
many of them are `converged`, and `module`, the file of nes_jax. Imports are not part of the time;
the start of JAX's backend, where nothing before needed it, is.
"""

import inspect
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

# JAX would take most of a GPU's memory, of which the benchmark's own process has its part, and
# would find the first call's programs compiled.
_ENVIRONMENT = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
_CLEARED = "JAX_COMPILATION_CACHE_DIR"


class Process:
  """A process that has imported nes_jax of a checkout, and times calls of its `solve`."""

  def __init__(self, root: str | os.PathLike):
    """Starts it.

    Args:
      root: directory that holds the package nes_jax.
    """
    self._root = pathlib.Path(root).resolve()
    self._folder = tempfile.TemporaryDirectory(prefix="timed-solve-")
    environment = {name: value for name, value in os.environ.items() if name != _CLEARED}
    environment |= _ENVIRONMENT | {"PYTHONPATH": str(self._root)}
    # -P keeps this file's directory out of the path.
    self._process = subprocess.Popen(
        [sys.executable, "-P", __file__], cwd=self._folder.name, env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    self._files: dict[int, tuple[str, np.ndarray]] = {}

  def solve(self, payoffs: np.ndarray, concept: str, batched: bool) -> dict[str, Any]:
    """Solves games in one call.

    Args:
      payoffs: float32 [B, N, A1, ..., AN], which are on the device before the time starts, or, not
        batched, [N, A1, ..., AN], which are not.
      concept: "cce" or "ce".
      batched: whether there is a batch axis.

    Returns:
      What the module says.

    Raises:
      RuntimeError: the process has ended, or its nes_jax is not that of the checkout.
    """
    if id(payoffs) not in self._files:
      path = os.path.join(self._folder.name, f"{len(self._files)}.npy")
      np.save(path, np.asarray(payoffs))
      self._files[id(payoffs)] = path, payoffs  # which keeps its id from being used again
    request = {"file": self._files[id(payoffs)][0], "concept": concept, "batched": batched}
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
    """Ends the process."""
    self._process.stdin.close()
    self._process.wait()
    self._process.stdout.close()
    self._folder.cleanup()

  def __enter__(self) -> "Process":
    return self

  def __exit__(self, *_) -> None:
    self.close()


def _serve() -> None:
  import jax

  import nes_jax

  known = inspect.signature(nes_jax.solve).parameters
  answers, sys.stdout = sys.stdout, sys.stderr
  given: dict[str, np.ndarray] = {}
  for line in sys.stdin:
    request = json.loads(line)
    path, batched = request["file"], request["batched"]
    if path not in given:
      given[path] = np.load(path)
    payoffs = given[path]
    if batched:
      payoffs = jax.block_until_ready(jax.device_put(payoffs))
    options = {"concept": request["concept"], "precision": "float32", "batched": batched}
    options = {name: value for name, value in options.items() if name in known}
    start = time.perf_counter()
    solution = jax.block_until_ready(nes_jax.solve(payoffs, **options))
    seconds = time.perf_counter() - start
    converged = np.asarray(solution.converged)
    answer = {
        "seconds": seconds,
        "games": converged.size,
        "converged": int(converged.sum()),
        "module": nes_jax.__file__,
    }
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
  _serve()
