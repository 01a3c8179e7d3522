"""Where the state and a batch live, and how one step is compiled for it.

The step is the same function everywhere; a `Placement` only says how to lay arrays out
on devices. `jit` computes on the global batch, split over a mesh by the compiler;
`pmap` runs one program a device, which names its axis and sums over it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

DATA_AXIS = "data"
Devices = Sequence[Any] | None  # of jax.Device; None: all there are


class Placement(NamedTuple):
  """One way to run the step.

  Attributes:
    axis_name: what the step and its losses must sum over; None where arrays are global.
    put_state: a state tree of one copy -> the same, on the devices.
    put_batch: this process's rows of a batch, as NumPy -> the batch, on the devices.
    compile_step: `(state, batch) -> (state, metrics)` -> the same, compiled; the old
      state is donated.
    one_copy: a placed state or metrics -> the tree of one copy, for evaluation and
      checkpoints.
  """

  axis_name: str | None
  put_state: Callable[[PyTree], PyTree]
  put_batch: Callable[[PyTree], PyTree]
  compile_step: Callable[[Callable[..., Any]], Callable[..., Any]]
  one_copy: Callable[[PyTree], PyTree]


def data_mesh(devices: Devices = None) -> Mesh:
  """A mesh of one axis, `data`, over the given devices (all of them by default)."""
  devices = jax.devices() if devices is None else list(devices)
  return Mesh(np.asarray(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def split_batch(mesh: Mesh) -> Callable[[PyTree], PyTree]:
  """A function that lays this process's rows out over the mesh's data axis."""
  sharding = NamedSharding(mesh, PartitionSpec(DATA_AXIS))

  def put(batch):
    return jax.tree.map(
      lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch
    )

  return put


def with_jit(devices: Devices = None) -> Placement:
  """`jit` over a data mesh: batch split, state replicated; one device is one case."""
  mesh = data_mesh(devices)
  everywhere = NamedSharding(mesh, PartitionSpec())
  return Placement(
    axis_name=None,
    put_state=lambda state: jax.device_put(state, everywhere),
    put_batch=split_batch(mesh),
    compile_step=lambda step: jax.jit(step, donate_argnums=0, out_shardings=everywhere),
    one_copy=lambda tree: tree,
  )


def with_pmap(devices: Devices = None) -> Placement:
  """`pmap`: a copy of the state a device, stacked along a leading axis."""
  devices = jax.local_devices() if devices is None else list(devices)
  mesh = data_mesh(devices)
  by_device = NamedSharding(mesh, PartitionSpec(DATA_AXIS))

  def stack(leaf):
    return jax.device_put(np.stack([np.asarray(leaf)] * len(devices)), by_device)

  def split(rows):
    return rows.reshape(len(devices), -1, *rows.shape[1:])

  return Placement(
    axis_name=DATA_AXIS,
    put_state=lambda state: jax.tree.map(stack, state),
    put_batch=lambda batch: jax.tree.map(split, batch),
    compile_step=lambda step: jax.pmap(
      step, axis_name=DATA_AXIS, donate_argnums=0, devices=devices
    ),
    one_copy=lambda tree: jax.tree.map(lambda leaf: leaf[0], tree),
  )


def check_batch_size(batch_size: int, num_devices: int) -> None:
  """Raises where a batch cannot be split evenly.

  Raises:
    ValueError: naming the batch sizes nearby that would fit.
  """
  if batch_size < 1 or batch_size % num_devices:
    below = batch_size // num_devices * num_devices
    fitting = [str(size) for size in (below, below + num_devices) if size > 0]
    raise ValueError(
      f"batch_size={batch_size} does not divide over {num_devices} devices; "
      f"{' or '.join(fitting)} would"
    )
