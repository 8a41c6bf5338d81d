"""Settings of a training."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from nes_jax import network
from nes_jax import selection as selections
from nes_jax.invariance import NORMS

# A selection beside the rows of Table 3. All inputs are random, so that one network serves every
# selection.
ALL_INPUTS = "epsilon_max_welfare_min_relative_entropy"
SELECTIONS: tuple[str, ...] = selections.NAMES + (ALL_INPUTS,)
SCHEDULES: tuple[str, ...] = ("paper", "cosine")
OPTIMISERS: tuple[str, ...] = ("adam", "muon")
MOMENTS: tuple[str, ...] = ("batch", "inference")
LOSSES: tuple[str, ...] = ("dual", "labels")
# Value of `sphere` for the paper's ablation of invariant preprocessing. Payoffs are uniform in
# (-sqrt 3, sqrt 3), of unit variance in the mean, and the network sees them as drawn, neither
# centred nor scaled.
UNIFORM = "uniform"
# Value of `sphere` for games half of which are those of the L2 sphere, and half have structure
# (`nes_jax.games.varied`).
VARIED = "varied"

# Former names of fields, in files of earlier versions, and their names of today.
FORMER_NAMES = {"norm": "sphere", "bend": "log_loss_above"}


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings of a training. Defaults are the paper's, but for the length of the run.

  Raises:
    ValueError: a field is out of its range, or the network does not see what the selection varies.
  """

  network: network.Config
  selection: str = dataclasses.field(
      default="max_entropy",
      metadata={"help": "Selection to train for.", "choices": SELECTIONS},
  )
  shapes: tuple[tuple[int, ...], ...] = dataclasses.field(
      default=((8, 8),),
      metadata={"help": "Shapes of the games, such as 8x8 or 4x4x4. Updates take them in turn."},
  )
  batches: tuple[int, ...] = dataclasses.field(
      default=(4096,),
      metadata={
          "help": (
              "Number of games in an update, over all devices: one number, or one for each shape."
          )
      },
  )
  updates: int = dataclasses.field(
      default=100_000,
      metadata={"help": "Number of updates of the whole run. Schedules stretch to it."},
  )
  optimiser: str = dataclasses.field(
      default="adam",
      metadata={
          "help": "Optimiser. Muon learns faster, at a learning rate of about 0.02.",
          "choices": OPTIMISERS,
      },
  )
  learning_rate: float = dataclasses.field(
      default=4e-4, metadata={"help": "Learning rate at the beginning of the schedule."}
  )
  schedule: str = dataclasses.field(
      default="paper",
      metadata={"help": "Schedule of the learning rate.", "choices": SCHEDULES},
  )
  clipping: float = dataclasses.field(
      default=1e-3, metadata={"help": "Adaptive clipping factor of gradients."}
  )
  weight_decay: float = dataclasses.field(
      default=1e-7,
      metadata={"help": "Weight of the L2 loss of the parameters, which passes the optimiser."},
  )
  rho: float = dataclasses.field(
      default=1e5,
      metadata={
          "help": (
              "Weight of the approximation target in training, in place of an infinite one. It"
              " keeps the loss bounded below."
          )
      },
  )
  loss: str = dataclasses.field(
      default="dual",
      metadata={
          "help": (
              "Loss of a game: the paper's dual loss (dual), or the divergence of the network's"
              " joint from the exact engine's (labels)."
          ),
          "choices": LOSSES,
      },
  )
  label_duals: float = dataclasses.field(
      default=0.0,
      metadata={
          "help": "Weight of the error of the duals' logarithms in the loss with labels."
      },
  )
  moments: str = dataclasses.field(
      default="batch",
      metadata={
          "help": (
              "Moments that batch normalisation uses in training: those of the batch (batch) or"
              " those of inference (inference), which suits networks that are trained already."
          ),
          "choices": MOMENTS,
      },
  )
  log_loss_above: float = dataclasses.field(
      default=math.inf,
      metadata={
          "help": (
              "Loss of a game above which its logarithm counts, so that few games with large losses"
              " do not drown all others."
          )
      },
  )
  sphere: str = dataclasses.field(
      default="l2",
      metadata={
          "help": (
              "Norm of the invariant sphere that games are drawn from. With varied, half of them"
              " are of the L2 sphere, and half have ties, dominated strategies and other structure."
              " With uniform, payoffs are drawn independently and not normalised."
          ),
          "choices": (*NORMS, VARIED, UNIFORM),
      },
  )

  def __post_init__(self):
    object.__setattr__(self, "shapes", tuple(tuple(shape) for shape in self.shapes))
    object.__setattr__(self, "batches", tuple(self.batches))
    for field in dataclasses.fields(self):
      allowed, value = field.metadata.get("choices"), getattr(self, field.name)
      if allowed is not None and value not in allowed:
        raise ValueError(f"{field.name}={value!r} is not one of {', '.join(allowed)}")
    if not self.shapes or any(len(shape) < 2 or min(shape) < 1 for shape in self.shapes):
      raise ValueError(
          f"shapes={self.shapes}: give one or more, each of two or more players, as (8, 8)"
      )
    if len(self.batches) != len(self.shapes) or min(self.batches) < 1:
      raise ValueError(
          f"batches={self.batches}: give one positive size for each of {len(self.shapes)} shapes"
      )
    needed = set(inputs(self.selection))
    if needed - set(self.network.inputs):
      raise ValueError(
          f"selection {self.selection!r} varies {sorted(needed)}, and the network sees only"
          f" {list(self.network.inputs)}: network.Config(inputs={sorted(needed)})"
      )
    if self.moments == "inference" and self.network.norm != "batch":
      raise ValueError(f"moments='inference': norm {self.network.norm!r} has none: take 'batch'")
    if self.network.answer == "joint" and self.loss != "labels":
      raise ValueError("loss='dual' does not train a joint: network.answer='joint' needs 'labels'")
    if not 0 <= self.label_duals < math.inf:
      raise ValueError(f"label_duals={self.label_duals} must be at least 0 and finite")
    if not self.log_loss_above > 0:
      raise ValueError(
          f"log_loss_above={self.log_loss_above} must be positive; infinity leaves losses alone"
      )
    for name in ("updates", "learning_rate", "clipping", "rho"):
      if not 0 < getattr(self, name) < math.inf:
        raise ValueError(f"{name}={getattr(self, name)} must be positive and finite")

  def to_dict(self) -> dict[str, Any]:
    """Plain lists, strings and numbers, for JSON."""
    fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    return fields | {
        "network": self.network.to_dict(),
        "shapes": [list(shape) for shape in self.shapes],
        "batches": list(self.batches),
    }

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> "Config":
    """Inverse of `to_dict`, also for files of earlier versions.

    Raises:
      ValueError: a field does not exist.
    """
    fields = {FORMER_NAMES.get(name, name): value for name, value in fields.items()}
    network.check_fields(cls, fields)
    return cls(**{**fields, "network": network.Config.from_dict(fields["network"])})


def shape_name(shape: tuple[int, ...]) -> str:
  """(8, 8) -> "8x8"."""
  return "x".join(map(str, shape))


def inputs(selection: str) -> tuple[str, ...]:
  """Names of those of `network.INPUTS` that differ from game to game under a selection."""
  if selection == ALL_INPUTS:
    return network.INPUTS
  return {row.name: row.needs for row in selections.TABLE}[selection]
