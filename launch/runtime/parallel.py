"""Work spread over devices and hosts: the one place that knows of meshes.

The view is that of one device: a function sees its own rows of what is sharded and the whole of
what is replicated, and meets the other devices in `lax.pmean(x, AXIS)`. A learner takes `axis_name`
and is the same function without devices when that is None:

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

Glossary: D devices of all hosts, B examples of the global batch, b = B / D those of one device.
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
    "AXIS", "REPLICATED", "SHARDED", "by_main", "describe", "example_keys", "example_slice",
    "gather", "initialize", "is_main", "meet", "mesh", "most", "own", "per_device_batch",
    "replicate", "shard", "spmd",
)

Tree = Any

AXIS = "devices"
# What `spmd` is told of an argument or a result: the same on all devices, or rows split over them.
REPLICATED = PartitionSpec()
SHARDED = PartitionSpec(AXIS)

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

  Comes before anything else that starts JAX's backend, `jax.devices` and arrays included.

  Args:
    coordinator: "HOST:PORT" of process 0, or "auto" where JAX finds the others by itself (TPU
      pods, Slurm, Open MPI, Kubernetes). None: JAX_COORDINATOR_ADDRESS.
    num_processes: of all hosts. None: JAX_NUM_PROCESSES.
    process_id: of this one, 0 to num_processes - 1. None: JAX_PROCESS_ID.
    environ: where the variables are looked up.

  Raises:
    ValueError: some are given and others not, or they don't fit together.
    RuntimeError: the backend has started already, or the others don't answer.
  """
  given = [coordinator, num_processes, process_id]
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
  """Whether this is process 0, the one that writes files and to the console."""
  return jax.process_index() == 0


def most(value: int) -> int:
  """The largest of the processes' values; all call it together."""
  if jax.process_count() == 1:
    return value
  return int(multihost_utils.process_allgather(np.array(value)).max())


def meet() -> None:
  """Waits until all processes are here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("meet")


def own(items: Sequence[Any]) -> list[Any]:
  """Every so-manieth of the items, those that are for this process to work on.

  All processes get lists of one length, so that they can meet at every item: None fills them up.
  """
  count = jax.process_count()
  padded = [*items, *[None] * (-len(items) % count)]
  return padded[jax.process_index() :: count]


def by_main(work: Callable[[], None], failure: Exception) -> None:
  """Process 0 does `work` while the others wait.

  Raises:
    What `work` raises, on process 0; then `failure` on all others.
  """
  error = None
  if is_main():
    try:
      work()
    except Exception as caught:
      error = caught
  if most(error is not None):
    raise error or failure


def describe() -> str:
  """Versions, platform, devices and hosts, in one line. Starts JAX's backend."""
  return progress.start_line("").removeprefix(": ")


# Devices.


def mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """One axis, `AXIS`, over `devices`; None: those of all hosts.

  Devices of one process stand side by side, so that the rows of a sharded array that a process
  holds are consecutive, and in the order of the processes.
  """
  devices = jax.devices() if devices is None else devices
  ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
  return Mesh(np.array(ordered), (AXIS,), axis_types=(AxisType.Auto,))


def per_device_batch(global_batch: int, mesh: Mesh) -> int:
  """b = B / D.

  Raises:
    ValueError: D does not divide B.
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
    function: sees b rows of a sharded argument, and all of a replicated one. What it returns as
      replicated must be equal on all devices, which nothing checks: take means over `AXIS`.
    inputs: REPLICATED or SHARDED for each positional argument; a tuple or dict of them, by the
      argument's structure, where it is part this and part that. Place arguments with `replicate`
      and `shard` at every call or at none: a change between the two compiles again.
    outputs: the same for the result.
    donate: positions of arguments whose memory the result may take over; they must not be used
      again. `replicate` and `shard` give arrays that share memory with nothing else.

  Returns:
    The function on global arrays: [B, ...] for what is sharded. Positional arguments only.
  """
  # With check_vma=True the gradient of a replicated argument is already summed over devices, and
  # a pmean of it comes out D times too large.
  mapped = jax.shard_map(
      function, mesh=mesh, in_specs=tuple(inputs), out_specs=outputs, check_vma=False
  )
  return jax.jit(mapped, donate_argnums=tuple(donate))


def replicate(tree: Tree, mesh: Mesh) -> Tree:
  """A copy of every leaf on every device. With several hosts all give the same values."""
  return jax.tree.map(lambda leaf: _place(leaf, NamedSharding(mesh, REPLICATED), True), tree)


def shard(tree: Tree, mesh: Mesh, *, whole: bool = True) -> Tree:
  """Splits the leading axis of every leaf over the devices.

  Args:
    tree: leaves [B, ...]; with `whole` False, the [B / processes, ...] of this process.
    mesh: where they go.
    whole: whether every process gives the whole array, or each its own rows, in the order of the
      processes. The same thing for one process.

  Returns:
    Global arrays [B, ...], b rows of them on each device.

  Raises:
    ValueError: a leaf that does not divide over the devices.
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
  """A new array; `leaf` is not aliased, so that donating the one leaves the other."""
  if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    data = _place(jax.random.key_data(leaf), sharding, whole)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
  dtype = jnp.result_type(leaf)
  if jax.process_count() == 1:
    # device_put alone shares memory with its source, whatever its may_alias.
    return jax.device_put(jnp.array(leaf, dtype, copy=True), sharding)
  leaf = np.array(leaf, dtype)
  if whole:
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])
  rows = len(leaf) * sharding.mesh.size // len(sharding.addressable_devices)
  return jax.make_array_from_process_local_data(sharding, leaf, (rows, *leaf.shape[1:]))


def gather(tree: Tree) -> Tree:
  """Every array as NumPy, whole, on every process; typed keys and what is no array stay.

  All processes call it together where something is sharded over hosts.
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
