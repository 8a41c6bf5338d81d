"""Work spread over devices and hosts. Only this module knows of meshes.

Functions are written from the view of one device: a function sees its own rows of a sharded array
and the whole of a replicated one, and exchanges values with the other devices by
`lax.pmean(x, AXIS)`. A learner has an argument `axis_name`; where that is None, the same function
runs on one device:

  mesh = parallel.mesh()
  step = parallel.spmd(
      functools.partial(learner.update, axis_name=parallel.AXIS),
      mesh,
      inputs=(parallel.REPLICATED, parallel.REPLICATED),  # state, key
      outputs=parallel.REPLICATED,  # state, metrics
      donate=(0,),
  )
  state = parallel.replicate(state, mesh)

Random numbers belong to examples, not to devices. `example_keys` gives each device the keys of its
own part of one global batch, so that the same seed draws the same batch on any number of devices.

Glossary: D is the number of devices of all hosts, B the number of examples of the global batch, and
b = B / D the number of examples of one device.
"""

from collections.abc import Callable, Mapping, Sequence
import os
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from launch.runtime import progress
from nes_jax.keys import example_keys, example_slice

__all__ = (
    "AXIS", "REPLICATED", "SHARDED", "describe", "example_keys", "example_slice", "gather",
    "initialize", "is_main", "local_items", "max_over_processes", "mesh", "on_main_process",
    "per_device_batch", "replicate", "shard", "spmd", "sync_processes",
)

Tree = Any

# Name of the mesh's axis, for collectives.
AXIS = "devices"
# Placement of an argument or a result of `spmd` that is the same on all devices.
REPLICATED = PartitionSpec()
# Placement of an argument or a result of `spmd` whose rows are split over the devices.
SHARDED = PartitionSpec(AXIS)

# Environment variables that stand for the arguments of `initialize` that are not given.
_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


# Hosts.


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
) -> None:
  """Joins the processes of several hosts; with nothing given, this process is alone.

  It must be called before anything that starts JAX's backend, such as `jax.devices` or an array.

  Args:
    coordinator: "HOST:PORT" of process 0, or "auto" where JAX finds the other processes by itself
      (TPU pods, Slurm, Open MPI, Kubernetes). None stands for JAX_COORDINATOR_ADDRESS.
    num_processes: number of processes on all hosts. None stands for JAX_NUM_PROCESSES.
    process_id: number of this process, 0 to num_processes - 1. None stands for JAX_PROCESS_ID.
    environ: the environment in which the variables are looked up.

  Raises:
    ValueError: only some of the arguments are given, or they do not fit together.
    RuntimeError: the backend has started already, or the other processes do not answer.
  """
  given: list[Any] = [coordinator, num_processes, process_id]
  for i, name in enumerate(_VARIABLES):
    if given[i] is None and environ.get(name):
      given[i] = environ[name] if i == 0 else _integer(name, environ[name])
  coordinator, num_processes, process_id = given
  if coordinator == "auto":
    if num_processes is not None or process_id is not None:
      raise ValueError(
          f"coordinator 'auto' finds out the processes by itself, and num_processes ="
          f" {num_processes}, process_id = {process_id} are given: leave them out"
      )
    jax.distributed.initialize()
    return
  if coordinator is None and num_processes in (None, 1) and process_id in (None, 0):
    return
  names = ("coordinator", "num_processes", "process_id")
  missing = [f"{name} ({var})" for name, var, value in zip(names, _VARIABLES, given)
             if value is None]
  if missing:
    raise ValueError(
        f"several hosts need a coordinator, num_processes and process_id, and there is no"
        f" {' and no '.join(missing)}: give it, or coordinator 'auto' on TPU pods and Slurm"
    )
  assert coordinator is not None and num_processes is not None and process_id is not None
  if num_processes < 1 or not 0 <= process_id < num_processes:
    raise ValueError(
        f"process_id = {process_id} of num_processes = {num_processes}: must be 0 to"
        " num_processes - 1"
    )
  if not coordinator.rpartition(":")[2].isdecimal():
    raise ValueError(f"coordinator = {coordinator!r}: give HOST:PORT of process 0")
  jax.distributed.initialize(coordinator, num_processes, process_id)


def _integer(name: str, text: str) -> int:
  try:
    return int(text)
  except ValueError:
    raise ValueError(f"{name} = {text!r} in the environment: must be an integer") from None


def is_main() -> bool:
  """Whether this is process 0, which writes files and to the console."""
  return jax.process_index() == 0


def max_over_processes(value: int) -> int:
  """The largest of the values of all processes, which must call this together."""
  if jax.process_count() == 1:
    return value
  return int(multihost_utils.process_allgather(np.array(value)).max())


def sync_processes() -> None:
  """Waits until all processes have called this."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("sync_processes")


def local_items(items: Sequence[Any]) -> list[Any]:
  """The items that this process works on: one in every `jax.process_count()`.

  All processes get lists of the same length, so that they can wait for one another after every
  item. None stands for an item where there are too few.
  """
  count = jax.process_count()
  padded = [*items, *[None] * (-len(items) % count)]
  return padded[jax.process_index() :: count]


def on_main_process(work: Callable[[], None], failure: Exception) -> None:
  """Calls `work` on process 0 while the other processes wait.

  Raises:
    Exception: on process 0 the error of `work`; on all others then `failure`.
  """
  error = None
  if is_main():
    try:
      work()
    except Exception as caught:
      error = caught
  if max_over_processes(error is not None):
    raise error or failure


def describe() -> str:
  """Versions, platform, devices and hosts, in one line. Starts JAX's backend."""
  return progress.start_line("").removeprefix(": ")


# Devices.


def mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """A mesh of one axis, `AXIS`, over `devices`; None stands for the devices of all hosts.

  Devices of one process stand side by side. The rows of a sharded array that a process holds are
  therefore consecutive, and in the order of the processes.
  """
  devices = jax.devices() if devices is None else devices
  ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
  return Mesh(np.array(ordered), (AXIS,), axis_types=(AxisType.Auto,))


def per_device_batch(global_batch: int, mesh: Mesh) -> int:
  """The number of examples of one device, b = B / D.

  Raises:
    ValueError: the number of devices D does not divide `global_batch`, B.
  """
  count = mesh.size
  if global_batch < 1 or global_batch % count:
    nearest = max(1, round(global_batch / count)) * count
    raise ValueError(
        f"a global batch of {global_batch} examples does not divide over {count} device(s): use a"
        f" multiple of {count}, such as {nearest}"
    )
  return global_batch // count


def spmd(
    function: Callable[..., Tree],
    mesh: Mesh,
    inputs: Sequence[Tree],
    outputs: Tree,
    *,
    donate: Sequence[int] = (),
) -> Callable[..., Tree]:
  """Jits `function` to run once on each device, with `AXIS` as the name for collectives.

  Args:
    function: a function that sees b rows of a sharded argument, and all of a replicated one. A
      result that it returns as replicated must be equal on all devices, which nothing checks: take
      means over `AXIS`.
    mesh: the devices.
    inputs: REPLICATED or SHARDED for each positional argument. For an argument with parts of both
      kinds, a tuple or dict of them in the argument's structure. Place arguments with `replicate`
      and `shard` at every call or at none: a change between the two compiles again.
    outputs: the same for the result.
    donate: positions of arguments whose memory the result may take over. Such an argument must not
      be used again. `replicate` and `shard` give arrays that share memory with nothing else.

  Returns:
    The function on global arrays, [B, ...] where they are sharded. It takes positional arguments
    only.
  """
  # With check_vma=True JAX sums the gradient of a replicated argument over devices already, and a
  # pmean of it would be D times too large.
  mapped = jax.shard_map(
      function, mesh=mesh, in_specs=tuple(inputs), out_specs=outputs, check_vma=False
  )
  return jax.jit(mapped, donate_argnums=tuple(donate))


def replicate(tree: Tree, mesh: Mesh) -> Tree:
  """Puts a copy of every leaf on every device. All processes must give the same values."""
  return jax.tree.map(lambda leaf: _place(leaf, NamedSharding(mesh, REPLICATED), True), tree)


def shard(tree: Tree, mesh: Mesh, *, whole: bool = True) -> Tree:
  """Splits the leading axis of every leaf over the devices.

  Args:
    tree: leaves [B, ...]; where `whole` is False, the rows [B / processes, ...] of this process.
    mesh: the devices.
    whole: whether every process gives the whole array. Where it is False, each process gives its
      own rows, in the order of the processes. Both are the same for a single process.

  Returns:
    Global arrays [B, ...], with b rows on each device.

  Raises:
    ValueError: a leaf does not divide over the devices.
  """
  sharding = NamedSharding(mesh, SHARDED)
  count = mesh.size if whole else len(sharding.addressable_devices)

  def place(path, leaf):
    shape = np.shape(leaf)
    if not shape or shape[0] % count:
      raise ValueError(
          f"leaf {jax.tree_util.keystr(path) or 'of the tree'} of shape {list(shape)} cannot be"
          f" split over {count} device(s): its leading axis must be a multiple of {count}"
      )
    return _place(leaf, sharding, whole)

  return jax.tree_util.tree_map_with_path(place, tree)


def _place(leaf: Any, sharding: NamedSharding, whole: bool) -> jax.Array:
  """A new array that shares no memory with `leaf`, so that it can be donated."""
  if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    data = _place(jax.random.key_data(leaf), sharding, whole)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
  dtype = jnp.result_type(leaf)
  if jax.process_count() == 1:
    # Without the copy device_put shares memory with its source, even with may_alias=False.
    return jax.device_put(jnp.array(leaf, dtype, copy=True), sharding)
  leaf = np.array(leaf, dtype)
  if whole:
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])
  rows = len(leaf) * sharding.mesh.size // len(sharding.addressable_devices)
  return jax.make_array_from_process_local_data(sharding, leaf, (rows, *leaf.shape[1:]))


def gather(tree: Tree) -> Tree:
  """Brings every array to the host, whole, as a NumPy array on every process.

  Typed keys stay JAX arrays, and leaves that are no arrays stay as they are. If an array is sharded
  over hosts, all processes must call this together.
  """

  def to_host(leaf):
    if not isinstance(leaf, jax.Array):
      return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      data = to_host(jax.random.key_data(leaf))
      return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    if leaf.is_fully_addressable or leaf.is_fully_replicated:
      return np.asarray(leaf)
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

  return jax.tree.map(to_host, tree)
