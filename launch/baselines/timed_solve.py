"""Times calls of `nes_jax.solve` as another process asks for them (`launch.baselines.checkout`).

The nes_jax in PYTHONPATH may be an older version. This file therefore imports nothing of this
project but nes_jax, and passes only arguments that its `solve` has.

The program reads requests, each a line of JSON: "file" (.npy of payoffs), "concept" and "batched".
It answers each with a line of JSON: "seconds" of one call until its arrays are there, "games", the
number of games, "converged", the number of games that converged, and "module", the file of nes_jax.
The time leaves out imports. In the first call it includes the start of JAX's backend, unless
payoffs were put on a device before.
"""

import inspect
import json
import sys
import time

import jax
import numpy as np

import nes_jax


def serve() -> None:
  """Answers requests until stdin ends. Output of nes_jax goes to stderr."""
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
  serve()
