"""Options of a run of `launch.nes_train`."""

import dataclasses
import pathlib

from launch.runtime import flags, loop
from nes_jax import pretrained, training


@dataclasses.dataclass(frozen=True)
class Run:
  """A training, its evaluation, and the network that it exports."""

  training: training.Config
  options: loop.Options
  seed: int = dataclasses.field(
      default=0, metadata={"help": "Seed of the parameters and of the games."}
  )
  start: pretrained.Pretrained | None = dataclasses.field(
      default=None,
      metadata={
          "kind": flags.Kind("NAME|FILE.npz", str),
          "help": "Trained network whose parameters the run begins with, in place of new ones: the"
                  " name of one that ships, or a file of --export.",
      },
  )
  eval_shapes: tuple[tuple[int, ...], ...] = dataclasses.field(
      default=(),
      metadata={"help": "Shapes of the held-out games. By default they are those of --shapes."},
  )
  eval_games: int = dataclasses.field(
      default=512, metadata={"help": "Number of held-out games of each shape."}
  )
  export: pathlib.Path | None = dataclasses.field(
      default=None,
      metadata={
          "metavar": "FILE.npz",
          "help": "File for the best network of the run; its card gets the same name with .md.",
      },
  )
  notes: str = dataclasses.field(
      default="", metadata={"help": "Text that is added to the card of the network."}
  )

  def __post_init__(self):
    flags.at_least_one(self, "eval_games")
    if self.export is not None and self.export.suffix != ".npz":
      raise ValueError(f"export={self.export}: give a name that ends in .npz")
