"""Measures designs against linear programs and grid searches.

  python -m launch.checks.design

Parts:

  inverse   payoffs of random interior joints: how many have the joint as maximum-entropy CCE
  pigou     tolls of two roads and three drivers, tuned on the worst CCE and on the one of largest
            entropy; social costs by HiGHS beside those of the engine
  braess    tolls of Braess' network with four drivers, against a grid that is one batch
  contract  bonuses of two agents with four efforts, against a grid of 316 x 316 contracts that is
            one batch, for the worst, the best and the maximum-entropy epsilon-CCE

Prints a table for each part, in Markdown. Every time includes compilation.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from launch.runtime import flags, program, tables
from launch.runtime.flags import UsageError
import nes_jax
from nes_jax import design
from nes_jax.design import contracts, routing

PARTS = ("inverse", "pigou", "braess", "contract")
# Gain for which the agents of the contract do not deviate, in units of the revenue.
EPSILON = 0.005


@dataclasses.dataclass(frozen=True)
class Run:
  """A run of this program."""

  parts: tuple[str, ...] = flags.field(
      PARTS, "Parts to measure, separated by commas: " + ", ".join(PARTS) + "."
  )
  targets: int = flags.field(512, "Number of random joints of part inverse.")
  contracts: int = flags.field(316, "Number of bonuses of each agent in the grid of contracts.")
  starts: int = flags.field(10, "Number of random starts of each descent.")
  steps: int = flags.field(300, "Number of gradient steps.")
  seed: int = flags.field(0, "Seed of joints and starts.")


_SECTION = flags.Section("Check", Run)


def _prepare(values: flags.Values) -> Run:
  run = flags.build(values, _SECTION)
  unknown = [part for part in run.parts if part not in PARTS]
  if unknown:
    raise UsageError(f"--parts={','.join(run.parts)}: unknown part {unknown[0]!r}")
  for name in ("targets", "starts", "steps"):
    if getattr(run, name) < 1:
      raise UsageError(f"--{name}={getattr(run, name)}: one or more is expected")
  if run.contracts < 2:
    raise UsageError(f"--contracts={run.contracts}: two or more are expected")
  return run


def _not_negative(tolls: Any) -> Any:
  return jnp.maximum(tolls, 0)


def _bonuses(x: Any) -> Any:
  return jnp.clip(x, 0, 0.5)


def inverse(run: Run) -> list[dict[str, Any]]:
  """Payoffs of random joints 8x8, whose probabilities are uniform on the simplex."""
  rng = np.random.default_rng(run.seed)
  targets = rng.dirichlet(np.ones(64), run.targets).reshape(-1, 8, 8)
  rows = []
  for name, prior in (("zeros", None), ("normal", rng.normal(size=(run.targets, 2, 8, 8)))):
    began = time.monotonic()
    result = design.inverse(targets, prior, batched=True)
    rows.append({
        "prior": name,
        "targets": run.targets,
        "found": int(result.found.sum()),
        "total variation, largest": f"{result.total_variation.max():.1e}",
        "gap, largest": f"{result.solution.gap.max():.1e}",
        "distance, mean": f"{result.distance.mean():.2f}",
        "seconds": f"{time.monotonic() - began:.1f}",
    })
  return rows


def _range_by_highs(payoffs: np.ndarray, cost: np.ndarray) -> tuple[float, float]:
  """Smallest and largest expected cost of a CCE, by linear programs."""
  from scipy.optimize import linprog

  rows = np.array([
      (np.take(payoff, [k], axis=p) - payoff).ravel()
      for p, payoff in enumerate(payoffs)
      for k in range(payoff.shape[p])
  ])
  ends = [
      sign * linprog(
          sign * cost.ravel(), A_ub=rows, b_ub=np.zeros(len(rows)),
          A_eq=np.ones((1, cost.size)), b_eq=[1.0], method="highs",
      ).fun
      for sign in (1, -1)
  ]
  return ends[0], ends[1]


def _network_functions(net: routing.Network) -> tuple[Any, Any, np.ndarray]:
  """Loss, payoffs and social cost of a network."""
  cost = routing.social_cost(net)

  def loss(joint, payoffs, tolls):
    return jnp.sum(joint * cost)

  def payoffs(tolls):
    return routing.payoffs(net, tolls)

  return loss, payoffs, cost


def pigou(run: Run) -> list[dict[str, Any]]:
  """Tolls of two roads, by the equilibrium that they are tuned on."""
  net = routing.pigou()
  loss, payoffs, cost = _network_functions(net)
  rng = np.random.default_rng(run.seed)
  rows = []

  def add(name: str, games: np.ndarray, report: Sequence[design.Row], others: dict[str, Any]):
    best, entropy, worst = report
    low, high = _range_by_highs(games, cost)
    rows.append({
        "tolls": name,
        "best": f"{best.loss:.4f}",
        "entropy": f"{entropy.loss:.4f}",
        "worst": f"{worst.loss:.4f}",
        "best, HiGHS": f"{low:.4f}",
        "worst, HiGHS": f"{high:.4f}",
        "gap, largest": f"{max(row.gap for row in report):.0e}",
        "certified": "yes" if all(row.certified for row in report) else "NO",
        **others,
    })

  blank = {"starts there": "", "changes": "", "seconds": ""}
  fixed = {
      "none": payoffs(np.zeros(2)),
      "marginal cost": -(routing.times(net) + routing.externality(net)),
      "driver-specific (0, 0.75, 1)": payoffs(np.array([[0, 0], [0.75, 0], [1, 0]])),
  }
  for name, games in fixed.items():
    report = design.evaluate(loss, lambda x: x, np.asarray(games))
    add(name, np.asarray(games), report, blank)
  for kind, shape, high in (
      ("anonymous", (2,), 1.5), ("driver-specific", (3, 2), 1.5), ("anonymous, from 0", (2,), 0.0)
  ):
    starts = rng.uniform(0, high, (run.starts if high else 1, *shape))
    for aggregate in ("worst_case", "max_entropy"):
      began = time.monotonic()
      found = design.minimise(
          loss, payoffs, starts, starts=True, aggregate=aggregate, steps=run.steps,
          projection=_not_negative,
      )
      there = int((found.losses <= found.loss + 1e-3).sum())
      others = {
          "starts there": f"{there} of {len(starts)}",
          "changes": len({x.step for x in found.active_set_changed if x.start == found.start}),
          "seconds": f"{time.monotonic() - began:.0f}",
      }
      add(f"{kind}, on {aggregate}", np.asarray(payoffs(found.params)), found.report, others)
  return rows


def braess(run: Run) -> list[dict[str, Any]]:
  """Tolls of Braess' network: a grid of tolls of the three paths, and descents on all edges."""
  net = routing.braess()
  loss, payoffs, cost = _network_functions(net)
  began = time.monotonic()
  # The tolls of the paths count only up to a constant, and the upper and lower path are alike.
  edges = [net.edges.index(name) for name in ("ut", "uv", "sv")]
  level = np.linspace(0, 4, 101)
  first, second = (x.ravel() for x in np.meshgrid(level, level, indexing="ij"))
  grid = np.zeros((2 * first.size, len(net.edges)))
  grid[:, edges[0]] = np.tile(first, 2)
  grid[: first.size, edges[1]] = second
  grid[first.size :, edges[2]] = second
  games = np.stack([payoffs(x) for x in grid])
  worst = nes_jax.Selection(welfare=cost, welfare_weight=np.inf)
  solved: Any = nes_jax.solve(games, selection=worst, precision="float64", batched=True)
  costs = (np.asarray(solved.joint) * cost).reshape(len(grid), -1).sum(1)
  smallest = float(costs.min())
  rows = [{
      "tolls": f"grid of {len(grid)}",
      "worst": f"{smallest:.4f}",
      "above the grid": "",
      "best": "",
      "entropy": "",
      "certified": "yes" if np.all(solved.converged) else "NO",
      "seconds": f"{time.monotonic() - began:.1f}",
  }]
  rng = np.random.default_rng(run.seed)
  for kind, shape in (("anonymous", (5,)), ("driver-specific", (4, 5))):
    began = time.monotonic()
    found = design.minimise(
        loss, payoffs, rng.uniform(0, 1, (run.starts, *shape)), starts=True, steps=run.steps,
        projection=_not_negative,
    )
    best, entropy, last = found.report
    rows.append({
        "tolls": f"descent, {kind}",
        "worst": f"{last.loss:.4f}",
        "above the grid": f"{100 * (last.loss / smallest - 1):.2f} %",
        "best": f"{best.loss:.4f}",
        "entropy": f"{entropy.loss:.4f}",
        "certified": "yes" if all(row.certified for row in found.report) else "NO",
        "seconds": f"{time.monotonic() - began:.1f}",
    })
  return rows


def contract(run: Run) -> list[dict[str, Any]]:
  """The principal's profit from two agents: a grid of bonuses, and descents."""
  project = contracts.two_agents()
  level = np.linspace(0, 1, run.contracts)
  grid = np.stack(np.meshgrid(level, level, indexing="ij"), -1).reshape(-1, 2)
  cost = np.stack(np.broadcast_arrays(project.costs[0][:, None], project.costs[1]))
  games = grid[:, :, None, None] * project.success - cost
  rng = np.random.default_rng(run.seed)
  starts = rng.uniform(0, 0.5, (max(run.starts, 16), 2))

  def loss(joint, payoffs, bonuses):
    return -jnp.sum(joint * contracts.profit(project, bonuses))

  rows = []
  for aggregate, sign in (("worst_case", -1.0), ("max_entropy", 0.0), ("best_case", 1.0)):
    selection = nes_jax.Selection(epsilon=EPSILON)
    if sign:
      # The profit is success times what the bonuses leave, which is negative beyond the revenue.
      kept = 1 - grid.sum(1)[:, None, None]
      selection = dataclasses.replace(
          selection, welfare=sign * kept * project.success, welfare_weight=np.inf
      )
    began = time.monotonic()
    solved: Any = nes_jax.solve(games, selection=selection, precision="float64", batched=True)
    profits = (np.asarray(solved.joint) * project.success).sum((1, 2)) * (1 - grid.sum(1))
    middle = time.monotonic()
    found = design.minimise(
        loss, lambda x: contracts.payoffs(project, x), starts, starts=True, aggregate=aggregate,
        epsilon=EPSILON, steps=run.steps, projection=_bonuses,
        optimiser=optax.adam(optax.cosine_decay_schedule(0.02, run.steps)),
    )
    rows.append({
        "equilibrium": aggregate,
        "contracts": len(grid),
        "grid": f"{profits.max():.5f}",
        "bonuses of the grid": "{:.3f}, {:.3f}".format(*grid[profits.argmax()]),
        "descent": f"{-found.loss:.5f}",
        "bonuses": "{:.3f}, {:.3f}".format(*found.params),
        "certified": "yes" if all(row.certified for row in found.report) else "NO",
        "uncertified in the grid": int((~np.asarray(solved.converged)).sum()),
        "grid, s": f"{middle - began:.1f}",
        "descent, s": f"{time.monotonic() - middle:.1f}",
    })
  return rows


def take(
    run: Run, *, check_stop: Callable[[], None], say: Callable[[str], None]
) -> Mapping[str, float]:
  """Does the work of the program."""
  measures = {"inverse": inverse, "pigou": pigou, "braess": braess, "contract": contract}
  for part in run.parts:
    say(f"part {part}")
    rows = measures[part](run)
    check_stop()
    print(f"{part}\n\n{tables.markdown(rows)}\n", flush=True)
    jax.clear_caches()
  return {}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit code."""
  return program.main(
      argv, name="design", doc=__doc__, define=[_SECTION], prepare=_prepare, work=take
  )


if __name__ == "__main__":
  sys.exit(main())
