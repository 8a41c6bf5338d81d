"""launch.runtime.parallel: one global batch and one gradient on 1, 2 and 8 devices, and two hosts.

Devices have to be counted before JAX starts, so the work is done by functions of this file that
run in processes of their own and leave what they computed in an .npz.
"""

import functools
import os
import pathlib
import signal
import subprocess
import sys

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from launch.runtime import checkpoint, loop, parallel, progress, stopping, writers
from launch.runtime.parallel import AXIS, REPLICATED, SHARDED

ROOT = pathlib.Path(__file__).parent.parent
BATCH = 16
COUNTS = (1, 2, 8)


# A small learner. It has no Adam, which would hide a gradient that is too large by a factor.


def initial_params():
  return {"w": jnp.array([[0.5, -1.0], [2.0, 0.1], [0.3, 0.7]]), "b": jnp.array([0.1, -0.2])}


def gradient(params, key, axis_name=None):
  """The gradient of the mean loss of the global batch, and the examples [b, 3] of this device."""
  keys = parallel.example_keys(key, BATCH, axis_name)
  examples = jax.vmap(lambda k: jax.random.normal(k, (3,)))(keys)

  def loss(params):
    return jnp.mean((jnp.tanh(examples @ params["w"] + params["b"]) - examples[:, :2]) ** 2)

  gradients = jax.grad(loss)(params)
  if axis_name is not None:
    gradients = lax.pmean(gradients, axis_name)
  return gradients, examples


def update(state, key, axis_name=None):
  gradients, _ = gradient(state["params"], key, axis_name)
  params = jax.tree.map(lambda p, g: p - 0.1 * g, state["params"], gradients)
  return {"params": params, "step": state["step"] + 1, "key": jax.random.split(state["key"])[0]}


def flatten(prefix, tree):
  return {
      prefix + jax.tree_util.keystr(path): np.asarray(leaf)
      for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  }


# Functions that run in processes of their own.


def on_eight_devices(out):
  assert jax.device_count() == 8
  params, key = initial_params(), jax.random.key(3)
  results = flatten("none/", jax.jit(gradient)(params, key))
  compilations = []
  jax.monitoring.register_event_duration_secs_listener(
      lambda event, _, **__: compilations.append(event) if "backend_compile" in event else None
  )
  for count in COUNTS:
    mesh = parallel.mesh(jax.devices()[:count])
    compute = parallel.spmd(
        functools.partial(gradient, axis_name=AXIS),
        mesh, (REPLICATED, REPLICATED), (REPLICATED, SHARDED),
    )
    gradients, examples = compute(parallel.replicate(params, mesh), parallel.replicate(key, mesh))
    assert examples.addressable_shards[0].data.shape == (BATCH // count, 3)
    results |= flatten(f"{count}/", (gradients, parallel.gather(examples)))

    # Three steps of a donated state compile once and leave the arrays of the caller alone.
    traces = []

    def step(state, key):
      traces.append(1)
      return update(state, key, AXIS)

    step = parallel.spmd(step, mesh, (REPLICATED, REPLICATED), REPLICATED, donate=(0,))
    original = {"params": params, "step": jnp.int32(0), "key": key}
    state = first = parallel.replicate(original, mesh)
    step_key = parallel.replicate(key, mesh)
    jax.block_until_ready((state, step_key))
    compilations.clear()
    for _ in range(3):
      state = step(state, step_key)
    jax.block_until_ready(state)
    assert len(traces) == len(compilations) == 1
    assert first["params"]["w"].is_deleted() and not params["w"].is_deleted()
    np.testing.assert_array_equal(np.asarray(original["params"]["b"]), initial_params()["b"])
    results |= flatten(f"{count}/state", parallel.gather(state["params"]))

    rows = np.arange(2.0 * BATCH).reshape(BATCH, 2)
    placed = parallel.shard({"rows": rows, "keys": jax.random.split(key, BATCH)}, mesh)
    rows[:] = 0  # the placed array is a copy
    results[f"{count}/rows"] = parallel.gather(placed)["rows"]
    results[f"{count}/keys"] = jax.random.key_data(parallel.gather(placed)["keys"])
  np.savez(out, **results)


class Counting(loop.Training):
  """Three updates that count."""

  total = 3

  def metadata(self):
    return {"settings": {}}

  def init(self):
    return np.zeros(1)

  def place(self, state):
    return state

  def advance(self, state, done):
    return state + 1, done + 1, {}

  def evaluate(self, state):
    return {}


def as_one_of_two_hosts(out):
  parallel.initialize()
  out = pathlib.Path(out)
  me = jax.process_index()
  assert jax.process_count() == 2 and jax.device_count() == 4
  assert parallel.is_main() == (me == 0) and "2 host(s)" in parallel.describe()
  mesh = parallel.mesh()
  params, key = initial_params(), jax.random.key(3)
  compute = parallel.spmd(
      functools.partial(gradient, axis_name=AXIS), mesh, (REPLICATED, REPLICATED),
      (REPLICATED, SHARDED),
  )
  gradients, examples = compute(parallel.replicate(params, mesh), parallel.replicate(key, mesh))
  results = flatten("two/", parallel.gather((gradients, examples)))

  rows = np.arange(8.0).reshape(8, 1)
  mean = parallel.spmd(lambda x: lax.pmean(x.sum(), AXIS), mesh, (SHARDED,), REPLICATED)
  whole = parallel.shard(rows, mesh)
  own = parallel.shard(rows[4 * me : 4 * me + 4], mesh, whole=False)
  keys = parallel.shard(jax.random.split(key, 8), mesh)
  results["means"] = np.array([mean(whole), mean(own)])
  results["rows"] = parallel.gather(own)
  results["keys"] = jax.random.key_data(parallel.gather(keys))

  # One process saves the whole of an array that is spread over hosts.
  state = {"rows": own, "params": parallel.replicate(params, mesh), "keys": keys, "step": 5}
  path = checkpoint.save(out / "run", state, step=5)
  with writers.Writer(out / "run", console_every=None) as writer:
    writer.write(5, {"train/loss": mean(own)})
  if parallel.is_main():
    restored = checkpoint.restore(path, state)
    np.testing.assert_array_equal(restored["rows"], rows)
    np.testing.assert_array_equal(
        jax.random.key_data(restored["keys"]), results["keys"]
    )
    assert len(list((out / "run").iterdir())) == 3 and len(writers.read(out / "run")) == 1

  # One process is asked to stop, and both stop.
  def check_stop():
    if me == 1:
      raise stopping.Stopped(signal.SIGTERM)

  try:
    loop.run(Counting(), loop.Options(out / "stopped", save_every=3), check_stop=check_stop)
  except stopping.Stopped as stopped:
    results["stopped"] = np.array(stopped.signum)
    if parallel.is_main():
      assert checkpoint.load_metadata(checkpoint.latest(out / "stopped"))["step"] == 1
  np.savez(out / f"host-{me}.npz", **results)


def start(function, argument, **environment):
  environment = {
      name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))
  } | {
      "JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", **environment
  }
  code = f"import test_parallel; test_parallel.{function.__name__}({str(argument)!r})"
  return subprocess.Popen(
      [sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True
  )


def finish(*processes, seconds=120):
  try:
    for process in processes:
      _, stderr = process.communicate(timeout=seconds)
      assert process.returncode == 0, stderr[-3000:]
  finally:
    for process in processes:
      process.kill()


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
  out = tmp_path_factory.mktemp("eight") / "results.npz"
  finish(start(on_eight_devices, out, JAX_NUM_CPU_DEVICES="8"))
  with np.load(out) as archive:
    return dict(archive)


@pytest.mark.parametrize("count", COUNTS)
def test_examples_are_the_same_on_any_number_of_devices(eight, count):
  np.testing.assert_array_equal(eight[f"{count}/[1]"], eight["none/[1]"])
  assert len(np.unique(eight["none/[1]"])) == 3 * BATCH


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("leaf", ["[0]['w']", "[0]['b']"])
def test_gradients_are_the_same_on_any_number_of_devices(eight, count, leaf):
  # The gradients differ by 1e-7. A sum in place of a mean would be 2 or 8 times as large.
  np.testing.assert_allclose(eight[f"{count}/{leaf}"], eight[f"none/{leaf}"], rtol=1e-5, atol=1e-7)
  assert np.abs(eight[f"none/{leaf}"]).max() > 0.01


@pytest.mark.parametrize("count", COUNTS)
def test_three_updates_of_a_donated_state(eight, count):
  state = {"params": initial_params(), "step": jnp.int32(0), "key": jax.random.key(3)}
  for _ in range(3):
    state = update(state, jax.random.key(3))
  for name, value in state["params"].items():
    np.testing.assert_allclose(eight[f"{count}/state['{name}']"], value, rtol=1e-5)


@pytest.mark.parametrize("count", COUNTS)
def test_shard_keeps_the_rows_in_order(eight, count):
  np.testing.assert_array_equal(eight[f"{count}/rows"], np.arange(2.0 * BATCH).reshape(BATCH, 2))
  np.testing.assert_array_equal(
      eight[f"{count}/keys"], jax.random.key_data(jax.random.split(jax.random.key(3), BATCH))
  )


def test_two_hosts(tmp_path, coordinator):
  common = {
      "JAX_COORDINATOR_ADDRESS": coordinator, "JAX_NUM_PROCESSES": "2", "JAX_NUM_CPU_DEVICES": "2"
  }
  finish(*(
      start(as_one_of_two_hosts, tmp_path, JAX_PROCESS_ID=str(me), **common) for me in range(2)
  ))
  expected = flatten("two/", jax.jit(gradient)(initial_params(), jax.random.key(3)))
  expected |= {
      "means": np.array([7.0, 7.0]),  # (0 + ... + 7) / 4 devices
      "rows": np.arange(8.0).reshape(8, 1),
      "keys": jax.random.key_data(jax.random.split(jax.random.key(3), 8)),
      "stopped": np.array(signal.SIGTERM),
  }
  for me in range(2):
    with np.load(tmp_path / f"host-{me}.npz") as archive:
      assert set(archive) == set(expected)
      for name, value in expected.items():
        np.testing.assert_allclose(archive[name], value, rtol=1e-5, atol=1e-7, err_msg=name)


# Tests on the devices of this process.


def test_without_an_axis_the_slice_is_everything():
  np.testing.assert_array_equal(parallel.example_slice(5), np.arange(5))
  key = jax.random.key(0)
  keys = parallel.example_keys(key, 5)
  np.testing.assert_array_equal(
      jax.random.key_data(keys[3]), jax.random.key_data(jax.random.fold_in(key, 3))
  )


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_slices_are_a_partition_in_order(count):
  # vmap binds an axis as shard_map does.
  slices = jax.vmap(lambda _: parallel.example_slice(6, "d"), axis_name="d")(jnp.zeros(count))
  np.testing.assert_array_equal(slices, np.arange(6).reshape(count, 6 // count))


def test_what_does_not_divide_is_refused_with_its_numbers():
  mesh = parallel.mesh()
  assert parallel.per_device_batch(8 * mesh.size, mesh) == 8

  class Eight:
    size = 8

  with pytest.raises(ValueError, match="100 examples.*8 device.*such as 96"):
    parallel.per_device_batch(100, Eight)
  with pytest.raises(ValueError, match="0 examples"):
    parallel.per_device_batch(0, mesh)
  with pytest.raises(ValueError, match="7 examples.*2 devices"):
    jax.vmap(lambda _: parallel.example_slice(7, "d"), axis_name="d")(jnp.zeros(2))
  with pytest.raises(ValueError, match=r"\['x'\] of shape \[\]"):
    parallel.shard({"x": 1.0}, mesh)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_item_is_one_process_s_own(monkeypatch, count):
  monkeypatch.setattr(parallel.jax, "process_count", lambda: count)
  shares = []
  for me in range(count):
    monkeypatch.setattr(parallel.jax, "process_index", lambda me=me: me)
    shares.append(parallel.local_items("abcd"))
  assert {len(share) for share in shares} == {-(-4 // count)}
  assert sorted(x for share in shares for x in share if x) == list("abcd")


def test_describe_is_the_start_line_without_a_program():
  assert progress.start_line("p") == f"p: {parallel.describe()}"
  assert jax.__version__ in parallel.describe() and "\n" not in parallel.describe()


# Initialisation, with JAX's own call replaced.


@pytest.fixture
def calls(monkeypatch):
  calls = []
  monkeypatch.setattr(jax.distributed, "initialize", lambda *args: calls.append(args))
  return calls


def test_one_process_needs_no_initialisation(calls):
  parallel.initialize(environ={})
  parallel.initialize(None, 1, 0, environ={})
  parallel.initialize(environ={"JAX_NUM_PROCESSES": "1"})
  assert calls == [] and parallel.is_main()


def test_flags_come_before_the_environment(calls):
  environ = {
      "JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"
  }
  parallel.initialize(environ=environ)
  parallel.initialize("g:2", process_id=0, environ=environ)
  parallel.initialize("auto", environ={})
  assert calls == [("h:1", 4, 3), ("g:2", 4, 0), ()]


@pytest.mark.parametrize(
    "args, environ, message",
    [
        (("h:1", None, None), {}, "no num_processes .* and no process_id"),
        ((None, 2, 0), {}, "no coordinator"),
        (("h:1", 2, None), {"JAX_PROCESS_ID": "two"}, "JAX_PROCESS_ID = 'two'"),
        (("h:1", 2, 2), {}, "process_id = 2 of num_processes = 2"),
        (("host", 2, 1), {}, "HOST:PORT"),
        (("auto", 2, 1), {}, "leave them out"),
    ],
)
def test_half_an_initialisation_is_refused(calls, args, environ, message):
  with pytest.raises(ValueError, match=message):
    parallel.initialize(*args, environ=environ)
  assert calls == []
