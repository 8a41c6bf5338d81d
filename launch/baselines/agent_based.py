"""Calibrates the market of Brock & Hommes by `calsheq_jax.calibrate` and by black-it.

Both get the same observed series, moments and loss, which is black-it's with the identity matrix,
and at most the same number of simulations. Run s has the observed series of seed s, and seeds the
calibration with s. The points that both find are judged on the same fresh simulations:

  loss   squared distance of the observed moments from the mean moments of the fresh simulations
  error  root of the mean squared error of the four parameters

Glossary: K moments.
"""

from collections.abc import Callable, Mapping, Sequence
import json
import os
import pathlib
import subprocess
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import calsheq_jax
from calsheq_jax import simulated
from calsheq_jax.observed import Observed
from launch.baselines import brock_hommes

Row = Mapping[str, Any]

# Strategies of black-it's examples, see `launch.baselines.black_it`.
STRATEGIES = ("reinforcement", "mixture")

# Simulations of a stage of ours.
_BATCH = 24

# Least number of simulations on which `calsheq_jax.calibrate` judges its result.
_JUDGED = 4

# Seed of the fresh simulations that judge.
_JUDGE_SEED = 12345


def measure(
    python: str,
    seeds: int,
    simulations: int,
    fresh: int,
    strategies: Sequence[str],
    say: Callable[[str], None],
    check_stop: Callable[[], None],
) -> list[Row]:
  """Runs all calibrations.

  Args:
    python: the Python that has black-it.
    seeds: number of runs of each.
    simulations: number of simulations of a run.
    fresh: number of simulations that judge a result.
    strategies: some of `STRATEGIES`.
    say: shows a line about the work so far.
    check_stop: raises an error if the program is to stop.

  Returns:
    A row for each run, in the order of the runs.
  """
  # A cache of compiled programs would hide what compilation takes.
  jax.config.update("jax_enable_compilation_cache", False)
  rows: list[Row] = []
  for seed in range(seeds):
    prices = brock_hommes.observed(seed)
    runs: dict[str, dict[str, Any]] = {"ours": _ours(prices, seed, simulations)}
    for strategy in strategies:
      runs[f"black-it, {strategy}"] = _black_it(python, prices, seed, simulations, strategy)
    for name, run in runs.items():
      rows.append({"seed": seed, "method": name, **_judged(run.pop("parameters"), prices, fresh),
                   **run})
      say(", ".join(f"{key} {value}" for key, value in rows[-1].items()))
    check_stop()
  return rows


def summary(rows: Sequence[Row]) -> list[Row]:
  """Means over the runs of each method, and their largest loss."""
  lines: list[Row] = []
  for method in dict.fromkeys(row["method"] for row in rows):
    mine = [row for row in rows if row["method"] == method]
    numbers = {
        name: _mean([row[name] for row in mine])
        for name in ("loss", "error", "seconds", "cpu seconds", "seconds compiled")
    }
    worst = max(row["loss"] for row in mine)
    lines.append({"method": method, "runs": len(mine), "worst loss": worst, **numbers})
  return lines


def _mean(numbers: Sequence[float | None]) -> float | None:
  """The mean of numbers, None if one is unknown."""
  known = [number for number in numbers if number is not None]
  return float(np.mean(known)) if len(known) == len(numbers) else None


def _judged(parameters: Sequence[float], prices: np.ndarray, fresh: int) -> dict[str, Any]:
  """Judges parameters [4] on fresh simulations."""
  shown = _fresh(jax.random.key(_JUDGE_SEED), jnp.array(parameters, jnp.float32), fresh)
  off = np.asarray(shown, np.float64) - _moments(prices)
  return {
      "loss": float(off @ off),
      "error": float(np.sqrt(np.mean((np.array(parameters) - brock_hommes.TRUTH) ** 2))),
      **dict(zip(brock_hommes.BOX, map(float, parameters))),
  }


def _fresh(key: jax.Array, theta: jax.Array, count: int) -> jax.Array:
  """Mean moments [K] of simulations at theta [4]."""
  keys = jax.random.split(key, count)
  return _SIMULATE(keys, theta).mean(0)


_SIMULATE = jax.jit(jax.vmap(brock_hommes.simulate, (0, None)))


def _moments(prices: np.ndarray) -> np.ndarray:
  """The moments [K] of a series [T] in float64."""
  return np.asarray(brock_hommes.moments(jnp.asarray(prices, jnp.float32)), np.float64)


def _ours(prices: np.ndarray, seed: int, simulations: int) -> dict[str, Any]:
  """Calibrates by `calsheq_jax.calibrate`: first with compilation, then once more without."""
  moments = dict(zip(brock_hommes.NAMES, _moments(prices)))
  data = Observed(moments, covariance=np.eye(len(moments)))
  stages = (simulations - _JUDGED) // _BATCH

  # A new function in each run makes JAX compile again.
  def simulator(key, theta):
    return brock_hommes.simulate(key, theta)

  seconds, processor, found = [], [], None
  for _ in range(2):
    start, cpu = time.perf_counter(), time.process_time()
    found = calsheq_jax.calibrate(
        simulator, brock_hommes.BOX, data, stages=stages, seed=seed, report_every=stages,
        judge_episodes=_JUDGED, config=simulated.Config(simulations=_BATCH),
    )
    seconds.append(time.perf_counter() - start)
    processor.append(time.process_time() - cpu)
  assert found is not None, "the loop has run"
  return {
      "parameters": list(found.numbers.values()),
      "simulations": stages * _BATCH + _JUDGED,
      "seconds": seconds[0],
      "cpu seconds": processor[0],
      "seconds compiled": seconds[1],
  }


def _black_it(
    python: str, prices: np.ndarray, seed: int, simulations: int, strategy: str
) -> dict[str, Any]:
  """Calibrates by black-it in a process of its own.

  Raises:
    ImportError: the process has no black-it, or fails otherwise.
  """
  low, high = zip(*brock_hommes.BOX.values())
  request = {
      "observed": prices.tolist(), "noise_scale": brock_hommes.NOISE,
      "choice": brock_hommes.CHOICE, "low": low, "high": high, "simulations": simulations,
      "seed": seed, "strategy": strategy,
  }
  script = pathlib.Path(__file__).with_name("black_it.py")
  # The folder of the script is left out of the search for modules, since it has a black_it.py.
  done = subprocess.run(
      [python, "-P", str(script)], input=json.dumps(request), capture_output=True, text=True,
      check=False, env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
  )
  if done.returncode:
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    raise ImportError(f"{python} cannot run black-it: {last}; pip install black-it there")
  answer = json.loads(done.stdout)
  return {
      "parameters": answer["parameters"],
      "simulations": answer["simulations"],
      "seconds": answer["seconds"],
      "cpu seconds": answer["cpu_seconds"],
      "seconds compiled": answer["seconds"],
  }
