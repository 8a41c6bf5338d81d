"""Pictures of a market during training and at its shared equilibrium.

Glossary: S seeds, T steps, B episodes, n merchants, R rows of metrics.
"""

from collections.abc import Mapping, Sequence
import os
from typing import Any

from matplotlib import axes, figure
import numpy as np

from envs.market import Market
from launch.figures.style import BLUE, DPI, GREEN, ORANGE, PURPLE, SIZE, tidy

# Colours of the supertypes, in their order.
_COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
_FACILITY = "0.55"
# Number of intervals of inventory over which actions are averaged.
_BINS = 12
# Font size of labels.
_SMALL = SIZE - 1.5

Row = Mapping[str, float]


def _shown_name(name: str) -> str:
  """supertype_1 -> supertype 1."""
  return name.replace("_", " ")


def _label_axes(ax: axes.Axes, title: str, x: str, y: str) -> None:
  ax.set_title(title, fontsize=SIZE, weight="bold", loc="left")
  ax.set_xlabel(x, fontsize=_SMALL)
  ax.set_ylabel(y, fontsize=_SMALL)
  tidy(ax, _SMALL)


def _save(fig: figure.Figure, path: str | os.PathLike) -> None:
  fig.tight_layout(w_pad=1.6, h_pad=1.6)
  fig.savefig(path, dpi=DPI, facecolor="white")


def _draw_series(ax: axes.Axes, rows: Sequence[Row], metric: str, colour: str, label: str) -> None:
  """Draws a metric over updates, with a band of one standard deviation over seeds."""
  rows = [row for row in rows if metric in row]
  step = np.array([row["step"] for row in rows])
  value = np.array([row[metric] for row in rows])
  spread = np.array([row.get(f"{metric}_sd", 0.0) for row in rows])
  ax.plot(step, value, color=colour, lw=1.4, marker="o" if len(step) < 12 else "", ms=3.5,
          label=label)
  ax.fill_between(step, value - spread, value + spread, color=colour, alpha=0.2, lw=0)


def draw_training(path: str | os.PathLike, rows: Sequence[Row], env: Market, seeds: int) -> None:
  """Draws rewards by supertype, market shares, epsilon and inventories during training.

  Args:
    path: file of the picture.
    rows: the R rows that `writers.read` returns.
    env: the market, which names the supertypes.
    seeds: the number S of seeds; bands are +- one standard deviation over them.
  """
  fig = figure.Figure(figsize=(9, 6.2))
  panels = fig.subplots(2, 2)
  for name, colour in zip(env.supertype_names, _COLOURS):
    _draw_series(panels[0, 0], rows, f"train/{name}/reward", colour, _shown_name(name))
    _draw_series(panels[0, 1], rows, f"eval/{name}/share", colour, _shown_name(name))
    _draw_series(panels[1, 1], rows, f"eval/{name}/inventory", colour, f"{_shown_name(name)}, held")
  _draw_series(panels[0, 1], rows, "eval/facility/share", _FACILITY, "reference facility")
  certified = [row for row in rows if "eval/relative_epsilon" in row]
  step = np.array([row["step"] for row in certified])
  relative = np.array([row["eval/relative_epsilon"] for row in certified])
  spread = np.array([row.get("eval/relative_epsilon_sd", 0.0) for row in certified])
  panels[1, 0].errorbar(
      step, 100 * relative, 100 * spread, color="black", lw=1.2, marker="o", ms=4, capsize=2
  )
  panels[1, 0].axhline(0, color="0.8", lw=0.8)
  bands = f"update ({seeds} seeds, band +-1 s.d.)" if seeds > 1 else "update (one seed)"
  _label_axes(panels[0, 0], "Reward of a merchant", bands, "per episode, in h x volume")
  _label_axes(panels[0, 1], "Market share", "update", "part of the traded quantity")
  _label_axes(panels[1, 0], "Gain of the best deviation", "update", "% of the mean reward")
  _label_axes(panels[1, 1], "Inventory after hedging", "update", "mean size, units")
  for ax in (panels[0, 0], panels[0, 1], panels[1, 1]):
    ax.legend(fontsize=SIZE - 2, frameon=False)
  for ax in (panels[0, 1], panels[1, 1]):
    ax.set_ylim(bottom=0)
  _save(fig, path)


def draw_policy(path: str | os.PathLike, shown: Mapping[str, Any], env: Market) -> None:
  """Draws mean quotes and mean hedging by supertype, over the inventory held before the step.

  Args:
    path: file of the picture.
    shown: "mean_action" [S, T, B, n, 3], clipped to its bounds; "inventory_before" [S, T, B, n],
      in units of `volume`.
    env: the market.
  """
  fig = figure.Figure(figsize=(9, 3.6))
  quotes, hedging = fig.subplots(1, 2)
  for i, (name, colour) in enumerate(zip(env.supertype_names, _COLOURS)):
    who = np.flatnonzero(np.array(env.supertypes) == i)
    inventory = shown["inventory_before"][..., who].ravel()
    action = shown["mean_action"][..., who, :].reshape(-1, 3)
    x, bid, ask, beta = _binned_means(
        inventory, [inventory, -(1 + action[:, 0]), 1 + action[:, 1], action[:, 2]]
    )
    label = _shown_name(name)
    quotes.plot(x, ask, color=colour, marker="v", ms=4, lw=1.2, label=f"{label}: ask")
    quotes.plot(x, bid, color=colour, marker="^", ms=4, lw=1.2, ls="--", label=f"{label}: bid")
    hedging.plot(x, beta, color=colour, marker="o", ms=4, lw=1.2, label=label)
  for level in (-1, 1):
    quotes.axhline(level, color="0.7", lw=0.9, ls=":")
  quotes.axhline(0, color="0.85", lw=0.8)
  _label_axes(
      quotes, "Quotes against own inventory", "inventory, in equal shares of a step's trade",
      "from the price, half-spreads"
  )
  _label_axes(
      hedging, "Hedging against own inventory", "inventory, in equal shares of a step's trade",
      "part sent to the facility"
  )
  quotes.set_ylim(-2.1, 2.1)
  hedging.set_ylim(-0.02, 1.02)
  for ax in (quotes, hedging):
    ax.legend(fontsize=SIZE - 2, frameon=False)
  _save(fig, path)


def _binned_means(by: np.ndarray, values: Sequence[np.ndarray]) -> list[np.ndarray]:
  """Means of several arrays over the same intervals.

  Args:
    by: [K] numbers whose quantiles bound the intervals.
    values: arrays [K] to average.

  Returns:
    For each array the means over all intervals that are not empty.
  """
  edges = np.unique(np.quantile(by, np.linspace(0, 1, _BINS + 1)))
  if len(edges) < 2:  # All numbers are equal.
    edges = edges[0] + np.array([0.0, 1.0])
  index = np.clip(np.searchsorted(edges, by, side="right") - 1, 0, len(edges) - 2)
  count = np.bincount(index, minlength=len(edges) - 1)
  filled = count > 0
  sums = [np.bincount(index, value, minlength=len(count)) for value in values]
  return [total[filled] / count[filled] for total in sums]


def draw_episode(path: str | os.PathLike, shown: Mapping[str, Any], env: Market) -> None:
  """Draws an episode of the first seed: price, quotes of merchant 1, inventories, rewards so far.

  Args:
    path: file of the picture.
    shown: "price" [S, T, B], and "bid", "ask", "inventory", "rewards" [S, T, B, n].
    env: the market.
  """
  first = {name: shown[name][0, :, 0] for name in ("price", "bid", "ask", "inventory", "rewards")}
  time = np.arange(1, len(first["price"]) + 1)
  h = env.config.half_spread
  fig = figure.Figure(figsize=(9, 6.6))
  prices, inventories, rewards = fig.subplots(3, 1, sharex=True, height_ratios=(1.4, 1, 1))
  prices.fill_between(
      time, first["price"] - h, first["price"] + h, color="0.88", lw=0, step="mid",
      label="facility's prices",
  )
  prices.step(time, first["price"], where="mid", color="black", lw=1, label="reference price")
  for name, style in (("ask", "-"), ("bid", "--")):
    prices.step(
        time, first[name][:, 0], where="mid", color=_COLOURS[0], lw=1.2, ls=style,
        label=f"{_shown_name(env.agent_names[0])}'s {name}",
    )
  for i, name in enumerate(env.agent_names):
    line: dict[str, Any] = {
        "color": _COLOURS[env.supertypes[i]], "lw": 1.6 if i == 0 else 0.9,
        "alpha": 1.0 if i == 0 else 0.75,
    }
    label = _shown_name(name) if i == 0 else ("the others" if i == 1 else None)
    inventories.step(time, first["inventory"][:, i], where="mid", label=label, **line)
    rewards.plot(time, first["rewards"][:, i], label=label, **line)
  inventories.axhline(0, color="0.8", lw=0.8)
  _label_axes(prices, "One episode", "", "price, money a unit")
  _label_axes(inventories, "", "", "inventory, units")
  _label_axes(rewards, "", "step (rewards in h x volume)", "reward so far")
  for ax in (prices, inventories, rewards):
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.3 * (high - low))  # The legend needs room at the top.
    ax.legend(fontsize=SIZE - 2, frameon=False, ncols=4, loc="upper left")
  _save(fig, path)
