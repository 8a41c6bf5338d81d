"""The file of a trained network, and its card: a page in Markdown that says what the network is."""

from collections.abc import Mapping, Sequence
import datetime
import sys
from typing import Any

import jax
import jax.numpy as jnp

from launch.runtime import checkpoint, machine, parallel, writers
from launch.training.held_out import HeldOut, judge
from launch.training.settings import Run
import nes_jax
from nes_jax import network, pretrained, training
from nes_jax.games.files import replacing
from nes_jax.training import shape_name

# Flags that make no difference to the network, and are left out of the command of its card.
_FLAGS_LEFT_OUT = ("--out", "--export", "--notes")


def export(run: Run, held_out: Mapping[tuple[int, ...], HeldOut], say=print) -> None:
  """Writes the best network of a run, and its card.

  Args:
    run: a finished run.
    held_out: held-out games by shape, on which the card's figures are taken.
    say: gets lines for the user.
  """
  config, out = run.training, run.options.out
  path = checkpoint.best(out) or checkpoint.latest(out)
  assert path is not None and run.export is not None  # the run is finished, and asks for it
  like = jax.eval_shape(lambda key: training.init(key, config), jax.random.key(0))
  state = jax.tree.map(jnp.asarray, checkpoint.restore(path, like))
  facts = facts_of(run, state, held_out)
  if not parallel.is_main():
    return
  run.export.parent.mkdir(parents=True, exist_ok=True)
  with replacing(run.export) as file:
    pretrained.save(file, state.params, config, facts)
  run.export.with_suffix(".md").write_text(card(run.export.stem, config, facts), encoding="utf-8")
  say(f"wrote {run.export} and its card")


def facts_of(
    run: Run, state: training.State, held_out: Mapping[tuple[int, ...], HeldOut]
) -> dict[str, Any]:
  """The facts about a trained network that its file and its card hold."""
  config = run.training
  table = {}
  for shape, games in held_out.items():
    values = judge(state, config, shape, games)
    uniform = jnp.full_like(games.joint[0], 1 / games.joint[0].size)
    gaps = jax.vmap(lambda x, uniform=uniform: nes_jax.metrics.solver_gap(uniform, x))(games.joint)
    table[shape_name(shape)] = {
        "games": len(games.joint),
        "solver_gap": float(values["solver_gap"].mean()),
        "gap": float(values["gap"].mean()),
        "uniform_solver_gap": float(gaps.mean()),
    }
  rows = writers.read(run.options.out)
  hardware = machine.hardware()
  per_update = sum(config.batches) / len(config.batches)
  return {
      "command": " ".join(["python -m launch.nes_train", *_relevant(sys.argv[1:])]),
      "updates": int(state.step),
      "games": int(int(state.step) * per_update),
      "seconds": round(max((row[writers.SECONDS] for row in rows), default=0.0)),
      "parameters": network.num_parameters(state.params),
      "hardware": f"{hardware['cpu']}, {hardware['cores']} core(s), {hardware['devices']}"
                  f" {hardware['device']}",
      "versions": hardware["versions"],
      "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
      "table": table,
      "notes": run.notes,
      "earlier": earlier(run.start),
  }


def earlier(start: pretrained.Pretrained | None) -> list[dict[str, Any]]:
  """The runs that trained the network that a run starts from, oldest first."""
  if start is None:
    return []
  kept = ("command", "updates", "games", "seconds", "hardware", "date")
  return [*start.facts.get("earlier", []), {k: start.facts[k] for k in kept}]


def _relevant(argv: Sequence[str]) -> list[str]:
  """A command line without the flags that make no difference to the network."""
  return [word for word in argv if not word.startswith(_FLAGS_LEFT_OUT)]


def card(name: str, config: training.Config, facts: Mapping[str, Any]) -> str:
  """The card of a network.

  Args:
    name: name of the network.
    config: its training.
    facts: facts of `facts_of`.

  Returns:
    A page in Markdown.
  """
  lines = [
      f"# {name}",
      "",
      f"{config.network.concept.upper()} of {len(config.shapes[0])}-player games, selection"
      f" `{config.selection}`; inputs: payoffs{''.join(f', {x}' for x in config.network.inputs)}.",
      "",
      *_history(config, facts),
      "",
      "Held-out games, means, inference as shipped; gaps in normalised units:",
      "",
      "| size | games | solver gap | gap | solver gap of uniform play |",
      "|---|---|---|---|---|",
  ]
  lines += [
      f"| {size} | {row['games']} | {row['solver_gap']:.4f} | {row['gap']:.4f} |"
      f" {row['uniform_solver_gap']:.4f} |"
      for size, row in facts["table"].items()
  ]
  if facts["notes"]:
    lines += ["", facts["notes"]]
  return "\n".join(lines) + "\n"


def _history(config: training.Config, facts: Mapping[str, Any]) -> list[str]:
  """Items of a card: the network, its trainings, their settings, the machine and the command."""
  net = config.network
  newton = f", then {net.newton} Newton steps" if net.newton else ""
  shapes = ", ".join(f"{shape_name(s)} ({b})" for s, b in zip(config.shapes, config.batches))
  duals = f" with {config.label_duals:g} of the duals' logarithms" if config.label_duals else ""
  return [
      f"- {facts['parameters']} parameters: payoff layers {list(net.payoff_channels)}, duals"
      f" {net.dual_channel}, dual layers {list(net.dual_channels)}, {net.rounds} rounds"
      f"{newton}; answer `{net.answer}`; norm `{net.norm}`, payoffs centred over `{net.centre}`.",
      f"- Trained for {facts['updates']} updates on {facts['games']} games in"
      f" {facts['seconds'] / 60:.0f} minutes; shapes (batch): {shapes}.",
      *(
          f"- Before that, {past['updates']} updates on {past['games']} games in"
          f" {past['seconds'] / 60:.0f} minutes; {past['hardware']}; {past['date']};"
          f" `{past['command']}`"
          for past in facts["earlier"]
      ),
      f"- Loss `{config.loss}`{duals}; games `{config.sphere}`.",
      f"- Optimiser `{config.optimiser}`, learning rate {config.learning_rate}, schedule"
      f" `{config.schedule}`, clipping {config.clipping}, weight decay {config.weight_decay},"
      f" rho {config.rho:g}, loss by its logarithm above {config.log_loss_above:g}, moments"
      f" `{config.moments}`.",
      f"- {facts['hardware']}; " + ", ".join(f"{k} {v}" for k, v in facts["versions"].items()),
      f"- {facts['date']}; `{facts['command']}`",
  ]
