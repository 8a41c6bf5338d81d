"""Trains the network of the neural engine.

  python -m launch.nes_train --concept=cce --shapes=4x4,8x8,16x16 --batch=512,256,64 --out=out/me

The program draws games, takes steps down the dual loss, and evaluates the network on held-out games
against the exact engine. It writes checkpoints, metrics.csv and metrics.jsonl into --out, and with
--tensorboard events for TensorBoard. The same command, given again, continues where it was; SIGTERM
and SIGINT save first.

With --export=FILE.npz it writes the best network of the run and its card, for
`nes_jax.pretrained`. With --start it begins with the parameters of such a network.

Metrics of games of each shape, such as 8x8: train/8x8/loss, train/8x8/gap and train/8x8/gradient;
eval/8x8/solver_gap and eval/8x8/gap, means over held-out games in normalised units. Their mean over
all shapes, eval/solver_gap, chooses the best checkpoint.
"""

from collections.abc import Sequence
import dataclasses
import sys

from launch.runtime import flags, loop, program
from launch.runtime.flags import UsageError
from launch.training.network import train
from launch.training.settings import Run
from nes_jax import network, pretrained, training

OPTIONS = flags.Section("Directory and reports", loop.Options)
GAMES = flags.Section(
    "Games and updates",
    training.Config,
    skip=("network",),
    names={"batches": "batch"},
    aliases={"log_loss_above": "bend"},
)
NETWORK = flags.Section(
    "Network",
    network.Config,
    skip=("inputs", "payoff_pools", "to_dual_pools", "dual_pools"),
    defaults={"concept": "cce"},
)
RUN = flags.Section("Start, evaluation and export", Run, skip=("training", "options"))
SECTIONS = (OPTIONS, NETWORK, GAMES, RUN)


def _run(values: flags.Values) -> Run:
  options = flags.build(values, OPTIONS)
  net = flags.build(values, NETWORK, inputs=training.inputs(values.selection))
  shapes, batches = values.shapes, values.batch
  batches = batches * len(shapes) if len(batches) == 1 else batches
  config = flags.build(values, GAMES, network=net, batches=batches)
  start = None if values.start is None else _start(values.start, config)
  return flags.build(values, RUN, training=config, options=options, start=start)


def _start(name: str, config: training.Config) -> pretrained.Pretrained:
  """Loads the network that a training begins with. Raises UsageError."""
  try:
    start = pretrained.load(name)
  except (ValueError, OSError) as error:
    raise UsageError(f"--start={name}: {error}") from error
  # Newton steps have no parameters, and training leaves them out.
  if dataclasses.replace(start.config, newton=config.network.newton) != config.network:
    wanted, has = config.network.to_dict(), start.config.to_dict()
    different = [f"{k} {has[k]} there, {wanted[k]} here" for k in wanted if has[k] != wanted[k]]
    raise UsageError(f"--start={name} is another network: {'; '.join(different)}")
  return start


def run_of(argv: Sequence[str]) -> Run:
  """The run that a command line asks for. Raises UsageError."""
  return _run(program.parse(argv, SECTIONS))


def main(argv: Sequence[str] | None = None) -> int:
  """The program; returns its exit code."""
  return program.main(
      argv, name="nes_train", doc=__doc__, define=SECTIONS, prepare=_run, work=train
  )


if __name__ == "__main__":
  sys.exit(main())
