"""Where the state and a batch live, and how one step is compiled for it.

The step is the same function everywhere; a `Placement` only says how to lay arrays out
on devices. `jit` computes on the global batch, split over a mesh by the compiler;
`pmap` runs one program a device, which names its axis and sums over it; the
class-sharded way is `jit` with the class vectors split over the devices too.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ccl_jax.class_mesh import DATA_AXIS, ClassMesh

Devices = Sequence[Any] | None  # of jax.Device; None: all there are


class Placement(NamedTuple):
  """One way to run the step.

  Attributes:
    axis_name: what the step and its losses must sum over; None where arrays are global.
    make_state: a function that draws a state -> the state of one copy, laid out as it
      is to be restored; a sharded part is drawn where it will stay.
    put_state: a state tree of one copy -> the same, on the devices.
    put_batch: this process's rows of a batch, as NumPy -> the batch, on the devices.
    compile_step: `(state, batch) -> (state, metrics)` -> the same, compiled; the old
      state is donated.
    compile_embed: `(state, images) -> [B, D]` -> a function of a state of one copy and
      this process's images, as NumPy, that gives the global batch's rows, as NumPy.
    one_copy: a placed state or metrics -> the tree of one copy, for evaluation and
      checkpoints.
  """

  axis_name: str | None
  make_state: Callable[[Callable[[], PyTree]], PyTree]
  put_state: Callable[[PyTree], PyTree]
  put_batch: Callable[[PyTree], PyTree]
  compile_step: Callable[[Callable[..., Any]], Callable[..., Any]]
  compile_embed: Callable[[Callable[..., Any]], Callable[..., np.ndarray]]
  one_copy: Callable[[PyTree], PyTree]


def data_mesh(devices: Devices = None) -> Mesh:
  """A mesh of one axis, `data`, over the given devices (all of them by default)."""
  devices = jax.devices() if devices is None else list(devices)
  return Mesh(np.asarray(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def split_batch(sharding: NamedSharding) -> Callable[[PyTree], PyTree]:
  """A function that lays this process's rows of a batch out over the devices."""

  def put(batch):
    return jax.tree.map(
      lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch
    )

  return put


def _embed_over(batch_sharding: NamedSharding) -> Callable[..., Any]:
  """`Placement.compile_embed` where a batch is split over a mesh."""
  everywhere = NamedSharding(batch_sharding.mesh, PartitionSpec())
  put_batch = split_batch(batch_sharding)

  def compile_embed(embed_step):
    compiled = jax.jit(embed_step, out_shardings=everywhere)
    return lambda state, images: np.asarray(compiled(state, put_batch(images)))

  return compile_embed


def with_jit(devices: Devices = None) -> Placement:
  """`jit` over a data mesh: batch split, state replicated; one device is one case."""
  mesh = data_mesh(devices)
  everywhere = NamedSharding(mesh, PartitionSpec())
  by_rows = NamedSharding(mesh, PartitionSpec(DATA_AXIS))

  def put_state(state):
    return jax.device_put(state, everywhere)

  return Placement(
    axis_name=None,
    make_state=lambda init: put_state(init()),
    put_state=put_state,
    put_batch=split_batch(by_rows),
    compile_step=lambda step: jax.jit(step, donate_argnums=0, out_shardings=everywhere),
    compile_embed=_embed_over(by_rows),
    one_copy=lambda tree: tree,
  )


def state_shardings(state: PyTree, mesh: ClassMesh) -> PyTree:
  """Of a train state: by class for what the objective has a row of for each class, and
  what the optimizer keeps of it; replicated for the rest.

  Args:
    state: arrays, or their shapes.
    mesh: of the classes.
  """
  everywhere = NamedSharding(mesh.mesh, PartitionSpec())

  def sharding_of(path, leaf):
    of_objective = "objective" in jax.tree_util.keystr(path)
    by_class = of_objective and leaf.ndim > 0 and leaf.shape[0] == mesh.num_rows
    return mesh.sharding if by_class else everywhere

  return jax.tree_util.tree_map_with_path(sharding_of, state)


def with_class_sharding(mesh: ClassMesh) -> Placement:
  """`jit` over a mesh (data, class): the batch is split over all devices, and so are
  the class vectors, with their counts and what the optimizer keeps of them; the model
  is replicated.

  Args:
    mesh: the one that the objective and its loss are bound to.
  """

  def make_state(init):
    shardings = state_shardings(jax.eval_shape(init), mesh)
    return jax.jit(init, out_shardings=shardings)()

  def compile_step(step):
    def placed(state, batch):
      new_state, metrics = step(state, batch)
      shardings = state_shardings(new_state, mesh)
      return jax.lax.with_sharding_constraint(new_state, shardings), metrics

    return jax.jit(placed, donate_argnums=0)

  return Placement(
    axis_name=None,
    make_state=make_state,
    put_state=lambda state: jax.device_put(state, state_shardings(state, mesh)),
    put_batch=split_batch(mesh.batch_sharding),
    compile_step=compile_step,
    compile_embed=_embed_over(mesh.batch_sharding),
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

  def compile_embed(embed_step):
    compiled = jax.jit(embed_step)
    return lambda state, images: np.asarray(compiled(state, images))

  return Placement(
    axis_name=DATA_AXIS,
    make_state=lambda init: init(),
    put_state=lambda state: jax.tree.map(stack, state),
    put_batch=lambda batch: jax.tree.map(split, batch),
    compile_step=lambda step: jax.pmap(
      step, axis_name=DATA_AXIS, donate_argnums=0, devices=devices
    ),
    compile_embed=compile_embed,
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
