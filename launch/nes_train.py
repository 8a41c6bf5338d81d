"""Trains the network of the neural engine.

  python -m launch.nes_train --concept=cce --shapes=4x4,8x8,16x16 --batch=512,256,64 --out=out/me

Draws games, takes steps down the dual loss, and evaluates on held-out games against the exact
engine. Writes into --out: checkpoints, metrics.csv, metrics.jsonl (TensorBoard's events with
--tensorboard). The same command, given again, continues where it was; SIGTERM and SIGINT save
first.
--export=FILE.npz writes the best network seen, with a card, for `nes_jax.pretrained`; --start
begins with the parameters of such a network in place of new ones.

Metrics, of games of each shape such as 8x8: train/8x8/loss, gap, gradient; eval/8x8/solver_gap and
gap, means over held-out games in normalised units; eval/solver_gap, their mean over shapes, which
chooses the best checkpoint.
"""

import dataclasses
import datetime
import functools
import pathlib
import sys
from typing import Any

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from launch import benchmark
from launch.runtime import checkpoint, loop, parallel, program, writers
from launch.runtime.program import UsageError
import nes_jax
from nes_jax import network, pretrained
from nes_jax import training as learner
from nes_jax.games.files import replacing
from nes_jax.keys import example_keys
from nes_jax.training import shape_name
from nes_jax.types import CONCEPTS, Problem

# Held-out games come from a seed of their own.
_HELD_OUT_SEED = 2**31 - 1
# Training is judged against answers this much better than its own.
_REFERENCE_TOLERANCE = 1e-7


@dataclasses.dataclass(frozen=True)
class Run:
  """A run of the program."""

  training: learner.Config
  out: pathlib.Path
  seed: int = 0
  report_every: int = 100  # updates between rows of metrics
  patience: int = loop.PATIENCE
  save_every: int = 1000  # updates between evaluations and checkpoints
  keep: int = 3
  eval_shapes: tuple[tuple[int, ...], ...] = ()  # none: those of the training
  eval_games: int = 512
  tensorboard: bool = False
  export: pathlib.Path | None = None
  notes: str = ""  # for the card
  start: pretrained.Pretrained | None = None  # whose parameters to begin with


@dataclasses.dataclass(frozen=True)
class HeldOut:
  """Games that are not trained on, and their equilibria."""

  problem: Problem  # [B, ...]
  joint: jax.Array  # [B, A1, ..., AN]


def asked(config: learner.Config, problem: Problem) -> nes_jax.Selection:
  """The selection that a training draws problems [B, ...] for.

  The rho of training is finite to bound the loss; where the selection's own is not, the answer
  asked for is that of hard constraints.
  """
  host = jax.tree.map(np.asarray, problem)
  varied = learner.inputs(config.selection)
  return nes_jax.Selection(
      target=host.target if "target" in varied else None,
      epsilon=host.epsilon,
      welfare=host.welfare if "welfare" in varied else None,
      welfare_weight=host.welfare_weight / host.temperature,
      rho=float("inf") if problem.rho == config.rho else problem.rho,
      epsilon_max=float(host.epsilon_max.flat[0] / np.sqrt(host.target[0].size)),
  )


def held_out(config: learner.Config, shape: tuple[int, ...], games: int) -> HeldOut:
  """Draws held-out games as training does, and solves them exactly in float64.

  A network trained on plain uniform games is judged on the sphere, like all others.
  """
  keys = example_keys(jax.random.key(_HELD_OUT_SEED), games)
  norm = "l2" if config.sphere == learner.UNIFORM else config.sphere
  problem = jax.jit(learner.sample, static_argnums=(1, 2, 3, 4))(
      keys, config.selection, shape, config.rho, norm
  )
  selection = asked(config, problem)
  solution = nes_jax.solve(
      np.asarray(problem.payoffs),
      concept=config.network.concept,
      selection=selection,
      method="exact",
      precision="float64",
      tolerance=_REFERENCE_TOLERANCE,
      batched=True,
  )
  problem = dataclasses.replace(problem, rho=selection.rho)
  good = np.asarray(solution.converged)
  take = lambda x: jnp.asarray(np.asarray(x)[good])
  return HeldOut(jax.tree.map(take, problem), take(np.asarray(solution.joint, np.float32)))


def train(run: Run, *, check_stop=lambda: None, say=print) -> dict[str, float]:
  """Trains to the end of the run, from the last checkpoint in run.out if there is one.

  Returns:
    The last evaluation.

  Raises:
    UsageError: run.out holds another run, or a batch does not divide over the devices.
    stopping.Stopped: asked to stop; the state is saved.
  """
  config = run.training
  mesh = parallel.mesh()
  try:
    for batch in config.batches:
      parallel.per_device_batch(batch, mesh)
  except ValueError as error:
    raise UsageError(f"--batch: {error}") from error
  per_cycle = len(config.shapes)
  key = jax.random.key(run.seed)
  metadata = {
      "training": config.to_dict(), "seed": run.seed, "start": _earlier(run.start)
  }
  state = jax.jit(learner.init, static_argnums=1)(jax.random.fold_in(key, 0), config)
  if run.start is not None:
    state = state._replace(params=jax.tree.map(jnp.array, run.start.params))
  update_key = jax.random.fold_in(key, 1)
  last = checkpoint.latest(run.out)
  if last is not None:
    old = checkpoint.load_metadata(last)["config"]
    loop.check_same(run.out, _settings(old), _settings(metadata))
    state = checkpoint.restore(last, state)
  done = int(state.step)
  say(
      f"{network.num_parameters(state.params)} parameters; updates {done} to"
      f" {config.updates}, games a batch"
      f" {', '.join(f'{shape_name(s)} {b}' for s, b in zip(config.shapes, config.batches))}"
  )
  if done >= config.updates:
    say(f"{run.out} is finished; a longer run needs another --out: schedules stretch to --updates")
    if run.export is None:
      return {}

  @functools.cache
  def cycles(count: int):
    return parallel.spmd(
        functools.partial(learner.cycles, config=config, count=count, axis_name=parallel.AXIS),
        mesh,
        inputs=(parallel.REPLICATED, parallel.REPLICATED),
        outputs=parallel.REPLICATED,
        donate=(0,),
    )

  shapes = run.eval_shapes or config.shapes
  tests = {shape: held_out(config, shape, run.eval_games) for shape in shapes}
  state, update_key = parallel.replicate((state, update_key), mesh)

  def advance(state, done):
    count = max(1, min(run.report_every, config.updates - done) // per_cycle)
    state, reports = cycles(count)(state, update_key)
    row = {
        f"train/{shape}/{name}": float(value)
        for shape, values in reports.items()
        for name, value in values.items()
    }
    return state, done + count * per_cycle, row

  def evaluate(state) -> dict[str, float]:
    report = {}
    here = parallel.gather(state)
    for shape, test in tests.items():
      values = judge(here, config, shape, test)
      report |= {
          f"eval/{shape_name(shape)}/{k}": float(values[k].mean()) for k in ("solver_gap", "gap")
      }
    gaps = [report[f"eval/{shape_name(shape)}/solver_gap"] for shape in tests]
    report["eval/solver_gap"] = float(np.mean(gaps))
    return report

  _, report = loop.run(
      state,
      run.out,
      done=done,
      total=config.updates,
      advance=advance,
      evaluate=evaluate,
      save_every=run.save_every,
      config=metadata,
      keep=run.keep,
      metric="eval/solver_gap",
      patience=run.patience,
      tensorboard=run.tensorboard,
      check_stop=check_stop,
  )
  if run.export is not None:
    export(run, tests, say)
  return report


def _settings(metadata: dict[str, Any]) -> dict[str, Any]:
  """What makes a run that run: all of it has to be the same for a checkpoint to be continued."""
  settings = {**metadata["training"], **metadata["training"]["network"]}
  del settings["network"]
  return settings | {"seed": metadata["seed"], "start": len(metadata["start"])}


def _earlier(start: pretrained.Pretrained | None) -> list[dict[str, Any]]:
  """What trained the network that a run starts from: a dictionary for each run, oldest first."""
  if start is None:
    return []
  kept = ("command", "updates", "games", "seconds", "hardware", "date")
  return [*start.facts.get("earlier", []), {k: start.facts[k] for k in kept}]


_evaluate = jax.jit(learner.evaluate, static_argnums=1)


def judge(
    state: learner.State, config: learner.Config, shape: tuple[int, ...], test: HeldOut
) -> dict[str, jax.Array]:
  """`learner.evaluate` of the network on held-out games of a shape, as it would ship."""
  variables = learner.inference(state.params, config, shape)
  return _evaluate(variables, config.network, test.problem, test.joint)


def export(run: Run, tests: dict[tuple[int, ...], HeldOut], say=print) -> None:
  """Writes the best network of the run and its card."""
  config = run.training
  path = checkpoint.best(run.out) or checkpoint.latest(run.out)
  like = jax.eval_shape(lambda key: learner.init(key, config), jax.random.key(0))
  state = checkpoint.restore(path, like)
  state = jax.tree.map(jnp.asarray, state)
  table = {}
  for shape, test in tests.items():
    values = judge(state, config, shape, test)
    uniform = jnp.full_like(test.joint[0], 1 / test.joint[0].size)
    table[shape_name(shape)] = {
        "games": len(test.joint),
        "solver_gap": float(values["solver_gap"].mean()),
        "gap": float(values["gap"].mean()),
        "uniform_solver_gap": float(
            jax.vmap(lambda x: nes_jax.metrics.solver_gap(uniform, x))(test.joint).mean()
        ),
    }
  rows = writers.read(run.out)
  hardware = benchmark.hardware()
  per_update = sum(config.batches) / len(config.batches)
  facts = {
      "command": " ".join(["python -m launch.nes_train", *_what_counts(sys.argv[1:])]),
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
      "earlier": _earlier(run.start),
  }
  if not parallel.is_main():
    return
  run.export.parent.mkdir(parents=True, exist_ok=True)
  with replacing(run.export) as file:
    pretrained.save(file, state.params, config, facts)
  run.export.with_suffix(".md").write_text(card(run.export.stem, config, facts), encoding="utf-8")
  say(f"wrote {run.export} and its card")


def _what_counts(argv: list[str]) -> list[str]:
  """The command line without what makes no difference to the network."""
  paths = ("--out", "--export", "--notes")
  return [word for word in argv if not word.startswith(paths)]


def card(name: str, config: learner.Config, facts: dict[str, Any]) -> str:
  """The card of a network, for people: Markdown."""
  net = config.network
  newton = f", then {net.newton} Newton steps" if net.newton else ""
  shapes = ", ".join(f"{shape_name(s)} ({b})" for s, b in zip(config.shapes, config.batches))
  lines = [
      f"# {name}",
      "",
      f"{net.concept.upper()} of {len(config.shapes[0])}-player games, selection"
      f" `{config.selection}`; inputs: payoffs{''.join(f', {x}' for x in net.inputs)}.",
      "",
      f"- {facts['parameters']} parameters: payoff layers {list(net.payoff_channels)}, duals"
      f" {net.dual_channel}, dual layers {list(net.dual_channels)}, {net.rounds} rounds"
      f"{newton}; norm `{net.norm}`, payoffs centred over `{net.centre}`.",
      f"- Trained for {facts['updates']} updates on {facts['games']} games in"
      f" {facts['seconds'] / 60:.0f} minutes; shapes (batch): {shapes}.",
      *(
          f"- Before that, {past['updates']} updates on {past['games']} games in"
          f" {past['seconds'] / 60:.0f} minutes; {past['hardware']}; {past['date']};"
          f" `{past['command']}`"
          for past in facts["earlier"]
      ),
      f"- Optimiser `{config.optimiser}`, learning rate {config.learning_rate}, schedule"
      f" `{config.schedule}`, clipping {config.clipping}, weight decay {config.weight_decay},"
      f" rho {config.rho:g}, loss by its logarithm above {config.log_loss_above:g}, moments `{config.moments}`.",
      f"- {facts['hardware']}; " + ", ".join(f"{k} {v}" for k, v in facts["versions"].items()),
      f"- {facts['date']}; `{facts['command']}`",
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


# The program.


def _define_flags(values: flags.FlagValues) -> None:
  own: dict[str, Any] = {"flag_values": values}
  flags.DEFINE_string("out", None, "directory of the run", **own)
  flags.DEFINE_enum("concept", "cce", CONCEPTS, "coarse correlated or correlated", **own)
  flags.DEFINE_string(
      "selection", "max_entropy", f"what to train for: {', '.join(learner.SELECTIONS)}", **own
  )
  flags.DEFINE_list("shapes", ["8x8"], "of games, taken in turn", **own)
  flags.DEFINE_list("batch", ["4096"], "games of an update: one number, or one a shape", **own)
  flags.DEFINE_integer("updates", 100_000, "of the whole run; schedules stretch to it", **own)
  flags.DEFINE_integer("seed", 0, "of everything", **own)
  default = learner.Config(network.Config("cce"))
  flags.DEFINE_enum("optimiser", default.optimiser, learner.OPTIMISERS, "what steps", **own)
  flags.DEFINE_float("learning_rate", default.learning_rate, "try 0.02 with muon", **own)
  flags.DEFINE_enum("schedule", default.schedule, learner.SCHEDULES, "of the learning rate", **own)
  flags.DEFINE_float("clipping", default.clipping, "of gradients, adaptive", **own)
  flags.DEFINE_float("weight_decay", default.weight_decay, "a loss", **own)
  flags.DEFINE_float("rho", default.rho, "in place of an infinite one", **own)
  flags.DEFINE_enum("moments", default.moments, learner.MOMENTS, "batches normalise by", **own)
  flags.DEFINE_float("bend", default.log_loss_above, "losses of a game above it count by logarithm", **own)
  spheres = (*nes_jax.invariance.NORMS, learner.UNIFORM)
  flags.DEFINE_enum("sphere", default.sphere, spheres, "games' norm, or plain uniform games", **own)
  net = default.network
  flags.DEFINE_list("payoff_channels", list(map(str, net.payoff_channels)), "a layer", **own)
  flags.DEFINE_integer("dual_channel", net.dual_channel, "of the layer into the duals", **own)
  flags.DEFINE_list("dual_channels", list(map(str, net.dual_channels)), "a dual layer", **own)
  flags.DEFINE_integer("rounds", net.rounds, "of descent after the dual layers", **own)
  flags.DEFINE_integer("newton", net.newton, "Newton steps in the end, at inference", **own)
  flags.DEFINE_enum("activation", net.activation, ("relu", "none"), "none: linear", **own)
  flags.DEFINE_enum("centre", net.centre, ("own", "mean"), "what payoffs are centred over", **own)
  flags.DEFINE_string("norm", net.norm, "of layers: batch, rms or none", **own)
  flags.DEFINE_integer("report_every", 100, "updates between rows of metrics", **own)
  flags.DEFINE_integer("save_every", 1000, "updates between evaluations and checkpoints", **own)
  flags.DEFINE_integer("patience", loop.PATIENCE, loop.PATIENCE_MEANS, **own)
  flags.DEFINE_integer("keep", 3, "checkpoints kept, beside the best", **own)
  flags.DEFINE_list("eval_shapes", [], "of held-out games; none: those of --shapes", **own)
  flags.DEFINE_integer("eval_games", 512, "held-out games of each shape", **own)
  flags.DEFINE_bool("tensorboard", False, "write events for TensorBoard", **own)
  flags.DEFINE_string("export", None, "FILE.npz for the best network", **own)
  flags.DEFINE_string("notes", "", "for the card", **own)
  flags.DEFINE_string(
      "start", None, "network to start from: a name that ships, or FILE.npz", **own
  )


def _shape(text: str) -> tuple[int, ...]:
  try:
    return tuple(int(part) for part in text.split("x"))
  except ValueError:
    raise UsageError(f"{text!r} is no shape: write 8x8, or 4x4x4 for three players") from None


def _run(v: flags.FlagValues) -> Run:
  if v.out is None:
    raise UsageError("--out=DIRECTORY is needed")
  shapes = tuple(map(_shape, v.shapes))
  batches = program.integers("batch", v.batch)
  if v.export is not None and not v.export.endswith(".npz"):
    raise UsageError(f"--export={v.export}: give a name that ends in .npz")
  try:
    training = learner.Config(
        network=network.Config(
            concept=v.concept,
            inputs=learner.inputs(v.selection) if v.selection in learner.SELECTIONS else (),
            payoff_channels=program.integers("payoff_channels", v.payoff_channels),
            dual_channel=v.dual_channel,
            dual_channels=program.integers("dual_channels", v.dual_channels),
            centre=v.centre,
            activation=v.activation,
            rounds=v.rounds,
            newton=v.newton,
            norm=v.norm,
        ),
        selection=v.selection,
        shapes=shapes,
        batches=batches * len(shapes) if len(batches) == 1 else batches,
        updates=v.updates,
        optimiser=v.optimiser,
        learning_rate=v.learning_rate,
        schedule=v.schedule,
        clipping=v.clipping,
        weight_decay=v.weight_decay,
        rho=v.rho,
        log_loss_above=v.bend,
        moments=v.moments,
        sphere=v.sphere,
    )
  except ValueError as error:
    raise UsageError(str(error)) from error
  start = None if v.start is None else _start(v.start, training)
  program.at_least_one(v, "report_every", "save_every", "patience", "keep", "eval_games")
  return Run(
      training=training,
      out=pathlib.Path(v.out),
      seed=v.seed,
      report_every=v.report_every,
      patience=v.patience,
      save_every=v.save_every,
      keep=v.keep,
      eval_shapes=tuple(map(_shape, v.eval_shapes)),
      eval_games=v.eval_games,
      tensorboard=v.tensorboard,
      export=None if v.export is None else pathlib.Path(v.export),
      notes=v.notes,
      start=start,
  )


def _start(name: str, training: learner.Config) -> pretrained.Pretrained:
  try:
    start = pretrained.load(name)
  except (ValueError, OSError) as error:
    raise UsageError(f"--start={name}: {error}") from error
  # Newton steps have no parameters, and training goes without.
  if dataclasses.replace(start.config, newton=training.network.newton) != training.network:
    wanted, has = training.network.to_dict(), start.config.to_dict()
    different = [f"{k} {has[k]} there, {wanted[k]} here" for k in wanted if has[k] != wanted[k]]
    raise UsageError(f"--start={name} is another network: {'; '.join(different)}")
  return start


def run_of(argv: list[str]) -> Run:
  """The run that a command line asks for. Raises UsageError."""
  return _run(program.parse(argv, _define_flags))


def main(argv: list[str]) -> int:
  """The program; returns its exit code."""
  return program.main(
      argv, name="nes_train", doc=__doc__, define=_define_flags, prepare=_run, work=train
  )


if __name__ == "__main__":
  sys.exit(main(sys.argv))
