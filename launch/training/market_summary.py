"""Metrics, certificate, summary.json and pictures of a run of `launch.market_train`.

Glossary: S seeds, B episodes, T steps, n merchants.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from calsheq_jax.shared_game import Certificate
from envs.market import Market
from launch.runtime import writers
from launch.training.market_run import Run

# Names of the deviations that `Certificate.chosen` counts, without their mean actions.
_DEVIATIONS = ("the policy", "a deviator half trained", "a deviator fully trained")


def shown_row(
    env: Market, shown: Mapping[str, Any], groups: Mapping[str, np.ndarray]
) -> dict[str, float]:
  """The metrics of held-out episodes.

  Args:
    env: the market.
    shown: records of `MarketTraining.play`, leading axis [S].
    groups: indices of the agents of each supertype.

  Returns:
    eval/... metrics, means over seeds with their standard deviations.
  """
  outputs, h = shown["outputs"], env.config.half_spread
  price = shown["price"][..., None]
  report = writers.over_seeds("eval/facility/share", outputs["facility_share"].mean(-1))
  for i, (name, who) in enumerate(groups.items()):

    def mean(x, who=who):  # [S, ..., n] -> [S]
      return x[..., who].mean(tuple(range(1, x.ndim)))

    for metric, values in (
        ("reward", outputs["supertype_rewards"][..., i].mean(-1)),
        ("share", outputs["supertype_share"][..., i].mean(-1)),
        ("inventory", mean(outputs["inventory"])),
        ("hedged", mean(outputs["hedged"])),
        ("ask", mean((shown["ask"] - price) / h)),
        ("bid", mean((shown["bid"] - price) / h)),
    ):
      report |= writers.over_seeds(f"eval/{name}/{metric}", values)
  return report


def certificate_row(certificate: Certificate) -> dict[str, float]:
  """The metrics of certificates [S]; the relative epsilon is left out if a policy earns nothing."""
  epsilon, value = certificate.epsilon, certificate.value
  row = writers.over_seeds("eval/epsilon", epsilon.mean)
  row |= writers.over_seeds("eval/value", value.mean)
  row["eval/epsilon_error"] = float(np.sqrt((epsilon.error**2).mean()))
  if np.all(value.mean != 0):
    row |= writers.over_seeds("eval/relative_epsilon", epsilon.mean / np.abs(value.mean))
  return row


def deviation_name(chosen: int) -> str:
  """The name of a deviation that `Certificate.chosen` counts."""
  return _DEVIATIONS[chosen // 2] + (", its mean action" if chosen % 2 else "")


def say_certificate(certificate: Certificate, say: Callable[[str], None]) -> None:
  """Prints certificates [S], a line for each seed."""
  low, high = certificate.epsilon.interval()
  say("certificate: what the best deviation found gains over the policy, 95% intervals; a lower"
      " bound on epsilon")
  for i, chosen in enumerate(certificate.chosen):
    value, epsilon = certificate.value.mean[i], certificate.epsilon.mean[i]
    part = f": {100 * epsilon / abs(value):.2f}%" if value else ""
    say(
        f"  seed {i}: {epsilon:.4f} [{low[i]:.4f}, {high[i]:.4f}], of a mean reward of"
        f" {value:.4f}{part}; {deviation_name(int(chosen))}"
    )


def write(run: Run, certificate: Certificate, report: Mapping[str, float]) -> None:
  """Writes summary.json: the settings, the last evaluation, and the certificate of each seed."""
  low, high = certificate.epsilon.interval()
  seeds = [
      {
          "seed": run.plan.seed + i,
          "epsilon": float(certificate.epsilon.mean[i]),
          "epsilon_interval": [float(low[i]), float(high[i])],
          "deviation": deviation_name(int(certificate.chosen[i])),
          "value": float(certificate.value.mean[i]),
          "rewards": certificate.rewards.mean[i].tolist(),
      }
      for i in range(run.plan.seeds)
  ]
  summary = {"settings": run.settings(), "report": report, "seeds": seeds}
  writers.write_json(run.options.out / "summary.json", summary)


def draw(run: Run, shown: Mapping[str, Any], say: Callable[[str], None]) -> None:
  """Draws the pictures of a run, if matplotlib is installed.

  Args:
    run: the finished run.
    shown: records of `MarketTraining.play`.
    say: gets a line for the user.
  """
  try:
    from launch.figures import market as figures
  except ImportError as error:
    say(f"no pictures: {error}; install the `programs` extra")
    return
  out = run.options.out
  figures.draw_training(out / "training.png", writers.read(out), run.env, run.plan.seeds)
  figures.draw_policy(out / "policy.png", shown, run.env)
  figures.draw_episode(out / "episode.png", shown, run.env)
  say(f"wrote {out}/training.png, policy.png and episode.png")
