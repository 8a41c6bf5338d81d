"""The machine that a program runs on: processor, devices, versions of packages, commit of the code.

Figures mean little without them, so they are written beside every measurement and every network.
"""

from collections.abc import Sequence
import datetime
from importlib import metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax

# Directory that holds the packages of this project.
ROOT = pathlib.Path(__file__).resolve().parents[2]

# Packages whose versions are always reported.
PACKAGES = ("jax", "jaxlib", "numpy")


def hardware(packages: Sequence[str] = ()) -> dict[str, Any]:
  """The facts of this machine. Starts JAX's backend.

  Args:
    packages: names of distributions whose versions are reported besides those of `PACKAGES`, where
      they are installed.

  Returns:
    cpu: the model of the processor.
    cores: the number of processor cores that this process may use.
    platform, device, devices: JAX's platform, the kind of its first device, the number of devices.
    load_average: the mean number of running processes over the last minute; None on Windows.
    versions: name -> version, of Python and the packages.
    commit: as in `commit`.
    date: the time now, in UTC.
  """
  device = jax.devices()[0]
  affinity = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
  return {
      "cpu": _processor(),
      "cores": len(affinity(0)),
      "platform": device.platform,
      "device": device.device_kind,
      "devices": jax.device_count(),
      "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
      "versions": {"python": platform.python_version()} | _versions([*PACKAGES, *packages]),
      "commit": commit(ROOT),
      "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
  }


def _processor() -> str:
  """The model of the processor."""
  cpuinfo = pathlib.Path("/proc/cpuinfo")
  if cpuinfo.exists():
    for line in cpuinfo.read_text(encoding="utf-8").splitlines():
      if line.startswith("model name"):
        return line.split(":", 1)[1].strip()
  return platform.processor() or platform.machine()


def _versions(names: Sequence[str]) -> dict[str, str]:
  """The versions of those distributions that are installed."""
  found = {}
  for name in names:
    try:
      found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      pass
  return found


def commit(root: str | os.PathLike) -> str | None:
  """The commit of a checkout, with a plus sign if files differ from it; None without git."""
  command = ["git", "-C", os.fspath(root), "describe", "--always", "--exclude=*", "--dirty=+"]
  try:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
  except OSError:
    return None
  return result.stdout.strip() or None
