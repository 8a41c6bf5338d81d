"""nes_jax.network.config: the conversion to JSON and back, and the errors of bad fields."""

import dataclasses
import json

import pytest

from nes_jax import network


def test_config_round_trip():
  config = network.Config("ce", inputs=["epsilon", "target"], dual_channels=[3], norm="rms")
  assert config.inputs == ("epsilon", "target")
  assert network.Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
  assert hash(config) == hash(dataclasses.replace(config))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"concept": "nash"}, "concept='nash'"),
        ({"inputs": ("payoffs",)}, "inputs='payoffs'"),
        ({"inputs": "target"}, "inputs='target' is not a list"),
        ({"inputs": ("target", "target")}, "twice"),
        ({"centre": "none"}, "centre='none'"),
        ({"norm": "layer"}, "norm='layer'"),
        ({"rounds": -1}, "rounds=-1 is not an integer of at least 0"),
        ({"newton": 0.5}, "newton=0.5 is not an integer of at least 0"),
        ({"payoff_channels": (32, 0)}, "payoff_channels"),
        ({"dual_channel": 1.5}, "dual_channel=1.5"),
        ({"payoff_pools": ("self/own/mean",)}, "lacks 'self'"),
        ({"payoff_pools": ("self", "self/own/median")}, "self/own/median"),
        ({"to_dual_pools": ("self/all/mean",)}, "to_dual_pools"),
        ({"to_dual_pools": ("self/own/mean",)}, "self/own/mean"),
        ({"dual_pools": ("self", "transpose")}, "dual_pools='transpose'"),
    ],
)
def test_config_errors(fields, message):
  with pytest.raises(ValueError) as error:
    network.Config(**{"concept": "cce", **fields})
  assert message in str(error.value)


def test_unknown_field():
  with pytest.raises(ValueError, match="unknown fields \\['width'\\]"):
    network.Config.from_dict({"concept": "cce", "width": 3})
