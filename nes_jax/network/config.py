"""Configuration of the network."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from nes_jax.network import layers, pooling
from nes_jax.types import CONCEPTS, Concept

INPUTS: tuple[str, ...] = ("target", "epsilon", "welfare")
CENTRES: tuple[str, ...] = ("own", "mean")
ACTIVATIONS: tuple[str, ...] = ("relu", "none")
ANSWERS: tuple[str, ...] = ("duals", "joint")


@dataclasses.dataclass(frozen=True)
class Config:
  """Configuration of a network. Lists become tuples; errors name the field that is wrong."""

  concept: Concept = dataclasses.field(
      metadata={
          "help": "Equilibrium to solve for: coarse correlated (cce) or correlated (ce).",
          "choices": CONCEPTS,
      }
  )
  inputs: tuple[str, ...] = dataclasses.field(
      default=(),
      metadata={"help": "Names of the inputs that the network sees beside the payoffs."},
  )
  payoff_channels: tuple[int, ...] = dataclasses.field(
      default=(32, 32, 32, 32), metadata={"help": "Number of channels of each payoff layer."}
  )
  dual_channel: int = dataclasses.field(
      default=64,
      metadata={"help": "Number of channels of the layer that leads from payoffs to duals."},
  )
  dual_channels: tuple[int, ...] = dataclasses.field(
      default=(32, 32),
      metadata={"help": "Number of channels of each dual layer but the last, which has one."},
  )
  answer: str = dataclasses.field(
      default="duals",
      metadata={
          "help": (
              "The network's answer: duals, of which a joint follows by eq. (9), or a joint and"
              " duals side by side. The latter needs labels."
          ),
          "choices": ANSWERS,
      },
  )
  rounds: int = dataclasses.field(
      default=0,
      metadata={
          "help": (
              "Number of rounds of descent after the dual layers. A round sees the answer so far"
              " and the gradient of the loss, and changes the answer."
          )
      },
  )
  newton: int = dataclasses.field(
      default=0,
      metadata={
          "help": (
              "Number of Newton steps that follow the network at inference: of the barrier method"
              " on duals, or of the interior-point method on a joint and duals. Training leaves"
              " them out."
          )
      },
  )
  centre: str = dataclasses.field(
      default="own",
      metadata={
          "help": (
              "Mean that is subtracted from payoffs: over a player's own strategies (own), or over"
              " all joint strategies (mean)."
          ),
          "choices": CENTRES,
      },
  )
  activation: str = dataclasses.field(
      default="relu",
      metadata={
          "help": "Activation of all layers but the last. With none the network is linear.",
          "choices": ACTIVATIONS,
      },
  )
  norm: str = dataclasses.field(
      default="batch",
      metadata={"help": "Normalisation of the layers' activations.", "choices": layers.NORMS},
  )
  payoff_pools: tuple[str, ...] = dataclasses.field(
      default=pooling.PAYOFF_POOLS, metadata={"help": "Pools of the payoff layers."}
  )
  to_dual_pools: tuple[str, ...] = dataclasses.field(
      default=pooling.TO_DUAL_POOLS,
      metadata={"help": "Pools of the layer that leads from payoffs to duals."},
  )
  dual_pools: tuple[str, ...] | None = dataclasses.field(
      default=None,
      metadata={"help": "Pools of the dual layers. By default all those of the concept."},
  )

  def __post_init__(self):
    _check_member("concept", self.concept, CONCEPTS)
    _check_member("centre", self.centre, CENTRES)
    _check_member("activation", self.activation, ACTIVATIONS)
    _check_member("answer", self.answer, ANSWERS)
    _check_member("norm", self.norm, layers.NORMS)
    if self.dual_pools is None:
      default = pooling.CCE_POOLS if self.concept == "cce" else pooling.CE_POOLS
      object.__setattr__(self, "dual_pools", default)
    for field, allowed in (
        ("inputs", INPUTS),
        ("payoff_pools", pooling.VALID["payoffs"]),
        ("to_dual_pools", pooling.VALID["to_duals"]),
        ("dual_pools", pooling.VALID[self.concept]),
    ):
      names = _as_tuple(field, getattr(self, field))
      object.__setattr__(self, field, names)
      for name in names:
        _check_member(field, name, allowed)
      if len(set(names)) < len(names):
        raise ValueError(f"{field}={names} names something twice")
    for field, needed in (("payoff_pools", "self"), ("dual_pools", "self")):
      if needed not in getattr(self, field):
        raise ValueError(f"{field}={getattr(self, field)} lacks {needed!r}, the identity")
    if not any("/rest/" in name or "/regret/" in name for name in self.to_dual_pools):
      raise ValueError(
          f"to_dual_pools={self.to_dual_pools} tells a player's strategies apart by nothing; add"
          " e.g. 'self/rest/mean'"
      )
    for field in ("payoff_channels", "dual_channels"):
      object.__setattr__(self, field, _as_tuple(field, getattr(self, field)))
    for field in ("payoff_channels", "dual_channels", "dual_channel"):
      value = getattr(self, field)
      for size in value if isinstance(value, tuple) else (value,):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
          raise ValueError(f"{field}={value!r}: channels are integers of at least 1")
    for field in ("rounds", "newton"):
      value = getattr(self, field)
      if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{field}={value!r} is not an integer of at least 0")

  def to_dict(self) -> dict[str, Any]:
    """Plain lists, strings and numbers, for JSON."""
    fields = dataclasses.asdict(self)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> "Config":
    """Inverse of `to_dict`. Raises ValueError on a field that does not exist."""
    check_fields(cls, fields)
    return cls(**fields)


def check_fields(cls: type, fields: Mapping[str, Any]) -> None:
  """Raises ValueError if the dataclass `cls` lacks one of `fields`."""
  known = [field.name for field in dataclasses.fields(cls)]
  unknown = sorted(set(fields) - set(known))
  if unknown:
    raise ValueError(
        f"unknown fields {unknown}; the fields of {cls.__name__} are {', '.join(known)}"
    )


def _check_member(field, value, allowed):
  if value not in allowed:
    raise ValueError(f"{field}={value!r} is not one of {', '.join(sorted(allowed))}")


def _as_tuple(field, value):
  if isinstance(value, str) or not hasattr(value, "__iter__"):
    raise ValueError(f"{field}={value!r} is not a list or tuple")
  return tuple(value)
