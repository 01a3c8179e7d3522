"""Where the state and a batch live, and how one step is compiled for it.

The step is the same function everywhere; a `Placement` only says how to lay arrays out
on devices. `jit` computes on the global batch, split over a mesh by the compiler;
`pmap` runs the same program on each device, which names its axis and sums over it; the
class-sharded placement is `jit` with the class vectors split over the devices too. Each
placement keeps a single tree of the state, without an axis of devices.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ccl_jax.class_mesh import DATA_AXIS, ClassMesh

Devices = Sequence[Any] | None  # jax.Device objects; None: all devices


class Placement(NamedTuple):
  """One way to run the step.

  Attributes:
    axis_name: the axis that the step and its losses must sum over; None where arrays
      are global.
    make_state: calls a function that draws a state, and lays the state out on the
      devices. A restored state must have the same shardings.
    put_batch: lays this process's rows of a batch (NumPy) out on the devices.
    compile_step: compiles a step `(state, batch) -> (state, metrics)`. The old state is
      donated, and the new state has its layout.
    compile_embed: compiles `(state, images) -> [B, D]` to a function of a state and
      this process's images (NumPy), which returns the rows of the global batch (NumPy).

  Example:
    >>> import jax
    >>> from ccl_jax.training import placement
    >>> print(placement.with_jit(jax.devices()[:1]).axis_name)
    None
    >>> print(placement.with_pmap(jax.devices()[:1]).axis_name)
    data
  """

  axis_name: str | None
  make_state: Callable[[Callable[[], PyTree]], PyTree]
  put_batch: Callable[[PyTree], PyTree]
  compile_step: Callable[[Callable[..., Any]], Callable[..., Any]]
  compile_embed: Callable[[Callable[..., Any]], Callable[..., np.ndarray]]


def data_mesh(devices: Devices = None) -> Mesh:
  """A mesh of one axis, `data`, over the given devices (all of them by default).

  Example:
    >>> import jax
    >>> from ccl_jax.training import placement
    >>> print(placement.data_mesh(jax.devices()[:1]).axis_names)
    ('data',)
  """
  devices = jax.devices() if devices is None else list(devices)
  return Mesh(np.asarray(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def split_batch(sharding: NamedSharding) -> Callable[[PyTree], PyTree]:
  """A function that lays this process's rows of a batch out over the devices.

  Example:
    >>> import jax, numpy as np
    >>> from jax.sharding import NamedSharding, PartitionSpec
    >>> from ccl_jax.training import placement
    >>> mesh = placement.data_mesh(jax.devices()[:1])
    >>> put = placement.split_batch(NamedSharding(mesh, PartitionSpec("data")))
    >>> print(put({"label": np.arange(4)})["label"].shape)
    (4,)
  """

  def put(batch):
    return jax.tree.map(
      lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch
    )

  return put


def _make_state(
  init: Callable[[], PyTree], shardings_of: Callable[[PyTree], PyTree]
) -> PyTree:
  """Draws a state directly on its devices, so that no device ever holds all of it."""
  shardings = shardings_of(jax.eval_shape(init))
  return jax.jit(init, out_shardings=shardings)()


def _embed_over(batch_sharding: NamedSharding) -> Callable[..., Any]:
  """The `compile_embed` of a placement that splits a batch over a mesh."""
  everywhere = NamedSharding(batch_sharding.mesh, PartitionSpec())
  put_batch = split_batch(batch_sharding)

  def compile_embed(embed_step):
    compiled = jax.jit(embed_step, out_shardings=everywhere)
    return lambda state, images: np.asarray(compiled(state, put_batch(images)))

  return compile_embed


def _with_shardings(
  batch_sharding: NamedSharding, shardings_of: Callable[[PyTree], PyTree]
) -> Placement:
  """`jit` on global arrays.

  Args:
    batch_sharding: splits the rows of a batch over the devices.
    shardings_of: maps a state, or its shapes, to a tree of shardings of the same form.
  """

  def compile_step(step):
    def placed(state, batch):
      state, metrics = step(state, batch)
      # Otherwise the compiler may choose another layout for the new state, which could
      # then not reuse the memory of the old state.
      return jax.lax.with_sharding_constraint(state, shardings_of(state)), metrics

    return jax.jit(placed, donate_argnums=0)

  return Placement(
    axis_name=None,
    make_state=lambda init: _make_state(init, shardings_of),
    put_batch=split_batch(batch_sharding),
    compile_step=compile_step,
    compile_embed=_embed_over(batch_sharding),
  )


def _replicated(mesh: Mesh) -> Callable[[PyTree], PyTree]:
  """A function from a tree to shardings that replicate each of its arrays."""
  everywhere = NamedSharding(mesh, PartitionSpec())
  return lambda tree: jax.tree.map(lambda _: everywhere, tree)


def with_jit(devices: Devices = None) -> Placement:
  """`jit` over a data mesh: the batch is split, the state is replicated.

  Example:
    >>> import jax, jax.numpy as jnp, numpy as np
    >>> from ccl_jax.training import placement
    >>> place = placement.with_jit(jax.devices()[:1])
    >>> state = place.make_state(lambda: jnp.zeros(()))
    >>> step = place.compile_step(lambda s, b: (s + b.sum(), {"mean": b.mean()}))
    >>> state, metrics = step(state, place.put_batch(np.arange(4.0)))
    >>> print(state, metrics["mean"])
    6.0 1.5
  """
  mesh = data_mesh(devices)
  by_rows = NamedSharding(mesh, PartitionSpec(DATA_AXIS))
  return _with_shardings(by_rows, _replicated(mesh))


def state_shardings(state: PyTree, mesh: ClassMesh) -> PyTree:
  """Shardings of a train state: class vectors and their optimizer moments are split by
  class, everything else is replicated.

  Args:
    state: arrays, or their shapes.
    mesh: the mesh that the classes are split over.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax import class_mesh
    >>> from ccl_jax.training import placement
    >>> mesh = class_mesh.make(4, devices=jax.devices()[:1])
    >>> params = {"centers": jnp.ones((4, 2))}
    >>> state = {"objective": params, "model": {"bias": jnp.ones(4)}}
    >>> shardings = placement.state_shardings(state, mesh)
    >>> print(shardings["objective"]["centers"] == mesh.sharding)
    True
    >>> print(shardings["model"]["bias"] == mesh.sharding)
    False
  """
  everywhere = NamedSharding(mesh.mesh, PartitionSpec())

  def sharding_of(path, leaf):
    of_objective = "objective" in jax.tree_util.keystr(path)
    by_class = of_objective and leaf.ndim > 0 and leaf.shape[0] == mesh.num_rows
    return mesh.sharding if by_class else everywhere

  return jax.tree_util.tree_map_with_path(sharding_of, state)


def with_class_sharding(mesh: ClassMesh) -> Placement:
  """`jit` over a mesh (data, class): the batch is split over all devices, the class
  vectors over the class axis, and the model is replicated.

  Args:
    mesh: the mesh that the objective was made with.

  Example:
    >>> import jax, numpy as np
    >>> from ccl_jax import class_mesh
    >>> from ccl_jax.training import placement
    >>> mesh = class_mesh.make(4, devices=jax.devices()[:1])
    >>> place = placement.with_class_sharding(mesh)
    >>> print(place.put_batch(np.arange(4)).shape)
    (4,)
  """
  return _with_shardings(
    mesh.batch_sharding, lambda state: state_shardings(state, mesh)
  )


def with_pmap(devices: Devices = None) -> Placement:
  """`pmap`: each device runs the step on its rows; the state is one replicated tree.

  Example:
    >>> import jax, numpy as np
    >>> from ccl_jax.training import placement
    >>> place = placement.with_pmap(jax.devices()[:1])
    >>> print(place.axis_name, place.put_batch(np.arange(4)).shape)  # by device
    data (1, 4)
  """
  devices = jax.local_devices() if devices is None else list(devices)
  mesh = data_mesh(devices)
  by_rows = NamedSharding(mesh, PartitionSpec(DATA_AXIS))

  def split(rows):
    return rows.reshape(len(devices), -1, *rows.shape[1:])

  def compile_step(step):
    # The step sums over all devices, so each computes the same new state; neither the
    # state nor the metrics need an axis of devices.
    return jax.pmap(
      step,
      axis_name=DATA_AXIS,
      in_axes=(None, 0),
      out_axes=(None, None),
      donate_argnums=0,
      devices=devices,
    )

  return Placement(
    axis_name=DATA_AXIS,
    make_state=lambda init: _make_state(init, _replicated(mesh)),
    put_batch=lambda batch: jax.tree.map(split, batch),
    compile_step=compile_step,
    compile_embed=_embed_over(by_rows),
  )


def check_batch_size(batch_size: int, num_devices: int, accumulate: int = 1) -> None:
  """Checks that a batch can be split evenly over the devices, in chunks on each.

  Raises:
    ValueError: if it cannot; the message names the nearest sizes that fit.

  Example:
    >>> from ccl_jax.training import placement
    >>> placement.check_batch_size(128, num_devices=8)
    >>> placement.check_batch_size(100, num_devices=8)
    Traceback (most recent call last):
      ...
    ValueError: batch_size=100 does not divide over 8 devices; 96 or 104 would
  """
  parts = num_devices * accumulate
  if batch_size < 1 or batch_size % parts:
    below = batch_size // parts * parts
    fitting = [str(size) for size in (below, below + parts) if size > 0]
    over = f"{num_devices} devices"
    if accumulate > 1:
      over += f" in accumulate={accumulate} parts each"
    raise ValueError(
      f"batch_size={batch_size} does not divide over {over}; "
      f"{' or '.join(fitting)} would"
    )
