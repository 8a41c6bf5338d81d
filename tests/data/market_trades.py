"""Makes market_trades.csv: 60 simulated trading days of a small market at a known profile.

  python tests/data/market_trades.py

Each day is an episode of a market of 3 merchants, 4 clusters and 10 steps, after 150 updates of the
merchants' policy at the profile that `TRUTH` names. Six cells are left empty, as if they had not
been recorded.
"""

import csv
import pathlib

import jax
import numpy as np

from calsheq_jax import policy, ppo, rollout, self_play
from envs import market

ENV = market.Market(market.Config(num_merchants=3, clusters=4, customers=10, horizon=10))
# The profile that a calibration to these data looks for.
TRUTH = {"connection": 0.3, "connection1": [0.6, 0.6, 0.3, 0.3]}
UPDATES = 150
DAYS = 60
# Cells that are empty: (day, column), both from 0.
MISSING = {(7, 2), (7, 3), (7, 4), (18, 0), (33, 8), (41, 6)}


def days() -> dict[str, np.ndarray]:
  """Statistics [DAYS] of all days, by the name of the column."""
  net, config, profile = policy.for_environment(ENV), ppo.Config(), ENV.profile(**TRUTH)
  profiles = rollout.repeated(profile, 64)
  update = jax.jit(
      lambda state, key: self_play.update(state, key, ENV, net, config, profiles)[0]
  )
  state = ppo.init(jax.random.key(0), net, config)
  for i in range(UPDATES):
    state = update(state, jax.random.fold_in(jax.random.key(1), i))
  played = jax.jit(rollout.collect, static_argnums=(0, 1))(
      ENV, net, state.agent, jax.random.key(2), rollout.repeated(profile, DAYS)
  )
  shown = jax.tree.map(np.asarray, jax.vmap(ENV.outputs)(played.states))
  columns = {f"supertype_share[{i}]": shown["supertype_share"][:, i] for i in (0, 1)}
  for i in (0, 1):
    for j in (0, 4, 8):
      name = f"supertype_smooth_percentiles[{i},{j}]"
      columns[name] = shown["supertype_smooth_percentiles"][:, i, j]
  return columns | {"concentration": (shown["share"] ** 2).sum(1)}


def main() -> None:
  columns = days()
  table = np.stack(list(columns.values()), 1)
  path = pathlib.Path(__file__).with_suffix(".csv")
  with path.open("w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["day", *columns])
    for day, row in enumerate(table):
      cells = ("" if (day, k) in MISSING else f"{value:.4f}" for k, value in enumerate(row))
      writer.writerow([day + 1, *cells])


if __name__ == "__main__":
  main()
