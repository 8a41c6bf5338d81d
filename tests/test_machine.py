"""launch.runtime.machine: facts for the record of a measurement."""

import json
import subprocess

import jax
import numpy as np

from launch.runtime import machine


def test_hardware():
  facts = machine.hardware(["scipy", "no-such-distribution"])
  assert list(facts) == [
      "cpu", "cores", "platform", "device", "devices", "load_average", "versions", "commit", "date"
  ]
  assert facts["cpu"] and facts["cores"] >= 1
  assert facts["platform"] == jax.default_backend() and facts["devices"] == jax.device_count()
  assert facts["versions"]["numpy"] == np.__version__
  assert set(facts["versions"]) == {"python", "jax", "jaxlib", "numpy", "scipy"}
  assert json.loads(json.dumps(facts)) == facts


def test_commit(tmp_path):
  def git(*command):
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", "-C", str(tmp_path), *identity, *command], check=True)

  assert machine.commit(tmp_path) is None
  git("init", "--quiet")
  (tmp_path / "file").write_text("one")
  git("add", "file")
  git("commit", "--quiet", "--message=one")
  clean = machine.commit(tmp_path)
  assert len(clean) >= 4 and not clean.endswith("+")
  (tmp_path / "file").write_text("two")
  assert machine.commit(tmp_path) == f"{clean}+"
