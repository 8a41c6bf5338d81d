"""Road networks by name, and reader of network files."""

import json
import pathlib
from typing import Any

from launch.runtime.flags import UsageError
from nes_jax.design import routing

NAMES = ("pigou", "braess")


def read(name: str) -> routing.Network:
  """The network of a name, or of a JSON file. Raises UsageError."""
  if name in NAMES:
    return routing.pigou() if name == "pigou" else routing.braess()
  try:
    content = json.loads(pathlib.Path(name).read_text(encoding="utf-8"))
  except (OSError, UnicodeDecodeError, json.JSONDecodeError) as fault:
    raise UsageError(
        f"--network={name}: {', '.join(NAMES)} or a JSON file is expected: {fault}"
    ) from None
  try:
    return _from_json(content)
  except (KeyError, TypeError, ValueError) as fault:
    message = f"{fault} is missing" if isinstance(fault, KeyError) else fault
    raise UsageError(f"--network={name}: {message}") from None


def _from_json(content: Any) -> routing.Network:
  edges = {
      str(name): routing.Edge(
          str(edge["from"]), str(edge["to"]), float(edge["intercept"]), float(edge["slope"])
      )
      for name, edge in content["edges"].items()
  }
  trips = []
  for group in content["drivers"]:
    trips += [(str(group["from"]), str(group["to"]))] * int(group.get("count", 1))
  return routing.from_graph(edges, trips)
