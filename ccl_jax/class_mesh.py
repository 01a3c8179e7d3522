"""A mesh of devices with two axes, `data` and `class`.

The batch is split over all devices, the classes over the axis `class`; each group of
devices along `class` holds all classes once. Class vectors stay where they are: what
travels is the batch, its gradients, and a few numbers per row.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

DATA_AXIS, CLASS_AXIS = "data", "class"
ROWS = PartitionSpec((DATA_AXIS, CLASS_AXIS))  # splits the rows of the batch
WHOLE = PartitionSpec()  # keeps the whole array on every device
CLASSES = PartitionSpec(CLASS_AXIS)  # splits the rows of a bank; copies along `data`


class ClassMesh(NamedTuple):
  """K classes as equal ranges over the `class` axis of a mesh.

  A bank of this mesh has `num_rows` rows: K, rounded up to a multiple of the ranges.
  The rows from K on belong to no class; no loss sees them and no update moves them.

  Attributes:
    mesh: its axes are `data` and `class`; see `make`.
    num_classes: K.

  Example:
    >>> import jax
    >>> from ccl_jax import class_mesh
    >>> mesh = class_mesh.make(5, devices=jax.devices()[:1])
    >>> print(mesh.num_classes, mesh.num_rows)
    5 5
  """

  mesh: Mesh
  num_classes: int

  @property
  def num_rows(self) -> int:
    ranges = self.mesh.shape[CLASS_AXIS]
    return -(-self.num_classes // ranges) * ranges

  @property
  def sharding(self) -> NamedSharding:
    """The sharding of an array [num_rows, ...]: a range of classes on each device."""
    return NamedSharding(self.mesh, CLASSES)

  @property
  def batch_sharding(self) -> NamedSharding:
    """The sharding of an array [B, ...]: equal parts on all devices."""
    return NamedSharding(self.mesh, ROWS)

  def first_class(self) -> Int[Array, ""]:
    """The first class of this device's range; to be called inside `map_over`."""
    per_device = self.num_rows // self.mesh.shape[CLASS_AXIS]
    return jax.lax.axis_index(CLASS_AXIS) * per_device

  def map_over(
    self, function: Callable[..., Any], in_specs: Any, out_specs: Any
  ) -> Callable[..., Any]:
    """The function that runs `function` on each device's part of the arrays.

    The check of replication is off, since it refuses the sums over parts that the
    losses take themselves.
    """
    return jax.shard_map(
      function,
      mesh=self.mesh,
      in_specs=in_specs,
      out_specs=out_specs,
      check_vma=False,
    )


def make(
  num_classes: int,
  class_shards: int | None = None,
  devices: Sequence[Any] | None = None,
) -> ClassMesh:
  """A mesh whose `class` axis has `class_shards` devices.

  Args:
    num_classes: K, at least one class for each range.
    class_shards: devices in a group that shares the classes; each group holds the whole
      bank. None: one group of all devices.
    devices: `jax.Device` objects; None: all devices of all processes.

  Raises:
    ValueError: if the devices do not divide into such groups, or a group has more
      devices than K.

  Example:
    >>> import jax
    >>> from ccl_jax import centers, class_mesh
    >>> mesh = class_mesh.make(10, devices=jax.devices()[:1])
    >>> print(mesh.mesh.axis_names, mesh.mesh.devices.shape)
    ('data', 'class') (1, 1)
    >>> bank = centers.init(jax.random.key(0), num_classes=10, dim=4, mesh=mesh)
    >>> print(bank.centers.shape)
    (10, 4)
  """
  found = jax.devices() if devices is None else list(devices)
  shards = len(found) if class_shards is None else class_shards
  if shards < 1 or len(found) % shards:
    fitting = [n for n in range(1, len(found) + 1) if len(found) % n == 0]
    raise ValueError(
      f"class_shards={shards} does not divide the {len(found)} devices; "
      f"take one of {fitting}"
    )
  if num_classes < shards:
    raise ValueError(
      f"{num_classes} classes cannot be shared by {shards} devices; give class_shards "
      f"that divides {len(found)} and is at most {num_classes}"
    )
  axes = (DATA_AXIS, CLASS_AXIS)
  grid = np.asarray(found).reshape(-1, shards)
  return ClassMesh(Mesh(grid, axes, axis_types=(AxisType.Auto,) * 2), num_classes)


def gather_classes(tree: Any) -> Any:
  """Gathers the rows of a group on each of its devices; for use inside `map_over`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax import class_mesh
    >>> mesh = class_mesh.make(4, devices=jax.devices()[:1])
    >>> gather = mesh.map_over(
    ...   class_mesh.gather_classes, class_mesh.CLASSES, class_mesh.WHOLE
    ... )
    >>> print(gather(jnp.arange(4)))
    [0 1 2 3]
  """
  return jax.lax.all_gather(tree, CLASS_AXIS, tiled=True)


def own_rows(tree: Any) -> Any:
  """Undoes `gather_classes`: this device's rows of arrays that its group shares.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax import class_mesh
    >>> mesh = class_mesh.make(4, devices=jax.devices()[:1])
    >>> own = mesh.map_over(class_mesh.own_rows, class_mesh.WHOLE, class_mesh.CLASSES)
    >>> print(own(jnp.arange(4)))
    [0 1 2 3]
  """

  def part(rows):
    size = len(rows) // jax.lax.axis_size(CLASS_AXIS)
    start = jax.lax.axis_index(CLASS_AXIS) * size
    return jax.lax.dynamic_slice_in_dim(rows, start, size)

  return jax.tree.map(part, tree)


def sum_to_own_rows(rows: Array) -> Array:
  """Sums arrays of a group's rows over its devices, and keeps this device's rows.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax import class_mesh
    >>> mesh = class_mesh.make(4, devices=jax.devices()[:1])
    >>> add = mesh.map_over(
    ...   class_mesh.sum_to_own_rows, class_mesh.WHOLE, class_mesh.CLASSES
    ... )
    >>> print(add(jnp.arange(4)))
    [0 1 2 3]
  """
  return jax.lax.psum_scatter(rows, CLASS_AXIS, tiled=True)
