"""Calibrates the market of Brock & Hommes by black-it, in a process that may have its own packages.

This file runs under the Python that has black-it, and imports nothing of this project. It reads one
request from stdin, a JSON text, and answers with one on stdout.

Request: "observed" [T], "noise_scale", "choice", "low", "high" [4], "simulations", "seed",
"strategy". Strategies are those of black-it's examples, in each of which one simulation is one
draw:

  reinforcement  RL_to_combine_search_methods.ipynb: a bandit chooses between random forest, XGBoost
                 and best batch, one simulation at a time
  mixture        main.py: Halton, random forest and best batch in turn, here with batches of five

Answer: "parameters" [4] of the least loss, "loss", the loss of this one simulation, "seconds" and
"cpu_seconds" of the calibration without imports, and "import_seconds".
"""

import contextlib
import json
import sys
import time
import warnings

import numpy as np


def model(request):
  """The market as a function (theta, T, seed) -> [T, 1], as black-it wants it."""
  scale, choice = request["noise_scale"], request["choice"]

  def simulate(theta, length, seed):
    # np.random.seed is what the example uses, and gives the same series.
    np.random.seed(seed)
    noise = np.random.standard_normal(length - 2)
    g, b = np.array([0.0, theta[0], theta[2], 1.01]), np.array([0.0, theta[1], theta[3], 0.0])
    prices = np.zeros(length + 2)
    prices[:3] = 0.1
    for t, shock in enumerate(noise, 3):
      now, before, earlier = prices[t], prices[t - 1], prices[t - 2]
      part = np.exp(choice * (now - before) * (g * earlier + b - before))
      prices[t + 1] = sum(part * (g * now + b) / part.sum()) + scale * shock
    return prices[2:, None]

  return simulate


def samplers(strategy):
  """The arguments of a Calibrator that choose points, and the simulations of a batch."""
  from black_it.samplers.best_batch import BestBatchSampler
  from black_it.samplers.halton import HaltonSampler
  from black_it.samplers.random_forest import RandomForestSampler

  if strategy == "mixture":
    kinds = (HaltonSampler, RandomForestSampler, BestBatchSampler)
    return {"samplers": [kind(batch_size=5) for kind in kinds]}, 5
  from black_it.samplers.xgboost import XGBoostSampler
  from black_it.schedulers.rl.agents.epsilon_greedy import MABEpsilonGreedy
  from black_it.schedulers.rl.envs.mab import MABCalibrationEnv
  from black_it.schedulers.rl.rl_scheduler import RLScheduler

  scheduler = RLScheduler(
      agent=MABEpsilonGreedy(alpha=0.1, eps=0.1, initial_values=0.05, n_actions=3),
      env=MABCalibrationEnv(nb_samplers=3),
      samplers=[RandomForestSampler(1), XGBoostSampler(1), BestBatchSampler(1)],
  )
  return {"scheduler": scheduler}, 1


def calibrate(request):
  """Answers a request."""
  begun = time.perf_counter()
  from black_it.calibrator import Calibrator
  from black_it.loss_functions.msm import MethodOfMomentsLoss

  chosen, batch = samplers(request["strategy"])
  imported = time.perf_counter()
  observed = np.array(request["observed"])[:, None]
  cpu = time.process_time()
  calibrator = Calibrator(
      loss_function=MethodOfMomentsLoss(),
      model=model(request),
      parameters_bounds=[request["low"], request["high"]],
      parameters_precision=[0.01] * len(request["low"]),
      sim_length=len(observed),
      ensemble_size=1,
      real_data=observed,
      random_state=request["seed"],
      n_jobs=1,
      **chosen,
  )
  parameters, losses = calibrator.calibrate(request["simulations"] // batch)
  return {
      "parameters": parameters[0].tolist(),
      "loss": float(losses[0]),
      "simulations": len(losses),
      "seconds": time.perf_counter() - imported,
      "cpu_seconds": time.process_time() - cpu,
      "import_seconds": imported - begun,
  }


if __name__ == "__main__":
  warnings.filterwarnings("ignore")
  with contextlib.redirect_stdout(sys.stderr):
    found = calibrate(json.load(sys.stdin))
  print(json.dumps(found))
