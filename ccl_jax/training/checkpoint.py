"""Saves and restores a run: the train state and the position of the data iterator."""

import functools
import json
import logging
import math
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jaxtyping import Array, PyTree, UInt32

_LOG = logging.getLogger(__name__)


class Checkpoints:
  """The checkpoints of one run, newest last; a context manager.

  Saving is asynchronous and atomic: a run killed while it saves leaves the checkpoint
  before intact. Leaving the context waits for the save under way.

  A checkpoint holds a checksum of every leaf, taken of the arrays before they are
  written and of what is read back. The formats that Orbax writes have none of the
  arrays' values (zarr3's crc32c is of a shard's index alone), so that one flipped bit
  would train on in silence.

  Args:
    directory: made if it does not exist.
    keep: how many of the newest checkpoints stay.
    read_only: to look at a run that may still be going on; makes and removes nothing.
    num_classes: K. Saved beside the state, it lets a bank be restored with the padding
      of another mesh, and with more classes.

  Example:
    >>> import tempfile
    >>> import jax.numpy as jnp
    >>> from ccl_jax.training.checkpoint import Checkpoints
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   with Checkpoints(folder, keep=1) as saved:
    ...     saved.save(7, {"kernel": jnp.ones(3)}, {"next_index": 7})
    ...   with Checkpoints(folder, read_only=True) as saved:
    ...     state, position = saved.restore()
    ...
    >>> print(state["kernel"], position)
    [1. 1. 1.] {'next_index': 7}
  """

  def __init__(
    self,
    directory: str | Path,
    *,
    keep: int = 2,
    read_only: bool = False,
    num_classes: int | None = None,
  ):
    self._num_classes = num_classes
    self._manager = ocp.CheckpointManager(
      Path(directory).absolute(),
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=not read_only,
        # An unfinished save may belong to the run that is being looked at.
        cleanup_tmp_directories=not read_only,
      ),
    )
    self._unreadable: set[int] = set()

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self._manager.close()

  def save(self, step: int, state: PyTree, data: dict[str, Any]) -> None:
    """Saves the state, and the iterator's own `get_state()`, as of `step`.

    A step that is already there is left alone, since the same run always makes the same
    one, unless it could not be read: then it is replaced.

    Raises:
      FileNotFoundError: if the directory was deleted since.
    """
    if not self._manager.directory.exists():
      raise FileNotFoundError(f"{self._manager.directory} was deleted during the run")
    if step in self._unreadable:
      self._manager.delete(step)
      self._unreadable.remove(step)
    elif step in self._manager.all_steps():
      return
    about = {
      "num_classes": self._num_classes,
      "leaves": _checksums(state, self._num_classes),
      "data": _crc32(data),
    }
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        data=ocp.args.JsonSave(data),
        classes=ocp.args.JsonSave({**about, "crc32": _crc32(about)}),
      ),
    )

  def num_classes(self) -> int | None:
    """K of the newest checkpoint that tells; None where there is none."""
    for step in self._steps():
      try:
        return self._about(step)["num_classes"]
      except Exception as error:  # whatever a damaged file makes its reader raise
        _LOG.warning("checkpoint %d does not tell its classes: %s", step, _line(error))
    return None

  def restore(
    self, like: PyTree | None = None, *, leave: Sequence[str] = ()
  ) -> tuple[PyTree, Any] | None:
    """The newest checkpoint that can be read, or None where there is none.

    Args:
      like: a state of the shapes, types and shardings that are wanted; the checkpoint
        may have been written on other devices or on another mesh. Where the number of
        rows differs by the padding, or because there are more classes now, the rows of
        the old classes are restored and the others are those of `like`, as
        `centers.grow` does it. None takes the state as it was saved, as nested dicts
        on one device.
      leave: without `like`, names whose parts of the state stay on the disk.

    Returns:
      The state and the data iterator's state.

    Raises:
      ValueError: if there are fewer classes now than in the checkpoint.
      RuntimeError: if there are checkpoints and none can be read.
    """
    steps = self._steps()
    failure = None
    for step in steps:
      try:
        about = self._about(step)
        old_classes = about["num_classes"]
        shrunk = (old_classes or 0) > (self._num_classes or math.inf)
        if not shrunk:
          return self._read(step, like, leave, about)
      except Exception as error:  # whatever a damaged file makes its reader raise
        _LOG.warning(
          "checkpoint %d is unreadable, trying the one before: %s", step, _line(error)
        )
        self._unreadable.add(step)
        failure = error
      else:
        raise ValueError(
          f"checkpoint {step} in {self._manager.directory} has {old_classes} classes "
          f"and now there are {self._num_classes}; a bank only grows"
        )
    if steps:
      raise RuntimeError(
        f"none of the checkpoints {steps} in {self._manager.directory} can be read; "
        "remove them to start anew"
      ) from failure
    return None

  def _steps(self) -> list[int]:
    """Of all checkpoints, the newest first."""
    return sorted(self._manager.all_steps(), reverse=True)

  def _read(
    self, step: int, like: PyTree | None, leave: Sequence[str], about: dict[str, Any]
  ) -> tuple[PyTree, Any]:
    """The state and the data iterator's state, both as their checksums say."""
    args = ocp.args.Composite(data=ocp.args.JsonRestore())
    data = self._manager.restore(step, args=args)["data"]
    if "data" in about and _crc32(data) != about["data"]:
      raise ValueError(f"the data iterator's position {data} {_ALTERED}")
    if like is None:
      state = self._read_parts(step, leave)
      _check(state, about)
    else:
      state = self._read_like(step, like, about)
    return state, data

  def _read_like(self, step: int, like: PyTree, about: dict[str, Any]) -> PyTree:
    """The state of a checkpoint in the shapes and on the devices of `like`."""
    old_classes = about["num_classes"]
    saved = _shapes(self._metadata(step))
    resized = set()
    for name, shape in _shapes(like).items():
      if saved[name] != shape:
        told = old_classes is not None and self._num_classes is not None
        if not told or saved[name][1:] != shape[1:]:
          raise ValueError(f"{name} is {saved[name]} there and {shape} here")
        resized.add(name)
    # Not strict: missing rows come as zeros, rows too many stay on the disk.
    args = ocp.args.StandardRestore(_abstract(like), strict=not resized)
    read = self._manager.restore(step, args=ocp.args.Composite(state=args))["state"]
    _check(read, about, resized)
    return jax.tree_util.tree_map_with_path(
      lambda path, leaf, fresh: (
        _with_rows_of(leaf, fresh, old_classes or 0) if _name(path) in resized else leaf
      ),
      read,
      like,
    )

  def _about(self, step: int) -> dict[str, Any]:
    """What a checkpoint says of itself: its K, and its checksums.

    Checkpoints of versions before have no checksums, or do not tell K either.
    """
    if not (self._manager.directory / str(step) / "classes").exists():
      return {"num_classes": None}
    args = ocp.args.Composite(classes=ocp.args.JsonRestore())
    about = self._manager.restore(step, args=args)["classes"]
    if about.keys() != {"num_classes"} and about.pop("crc32", None) != _crc32(about):
      raise ValueError(f"the list of its checksums {_ALTERED}")
    return about

  def _read_parts(self, step: int, leave: Sequence[str]) -> PyTree:
    """A checkpoint as it was saved, or parts of it, on this process's first device."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
      _without(self._metadata(step), leave),
    )
    args = ocp.args.PyTreeRestore(
      item=wanted,
      restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
      partial_restore=True,
    )
    with ocp.PyTreeCheckpointer() as reader:
      return reader.restore(self._manager.directory / str(step) / "state", args=args)

  def _metadata(self, step: int) -> PyTree:
    """Shapes and types of a checkpoint, as nested dicts."""
    # Not by a checkpointer, which looks for the step's own file below the state, too,
    # and warns that it is not there.
    handler = ocp.StandardCheckpointHandler()
    try:
      return handler.metadata(self._manager.directory / str(step) / "state").tree
    finally:
      handler.close()


def _line(error: Exception) -> str:
  """The start of a message; TensorStore's go on for fifty lines."""
  return " ".join(str(error).split())[:300]


def _name(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
  """Of the arrays of a tree, by their place in it."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {_name(path): tuple(leaf.shape) for path, leaf in leaves}


def _without(tree: PyTree, names: Sequence[str]) -> PyTree:
  """Nested dicts without the entries of some names."""
  if not isinstance(tree, dict):
    return tree
  return {k: _without(v, names) for k, v in tree.items() if k not in names}


def _with_rows_of(read: jax.Array, fresh: jax.Array, first: int) -> jax.Array:
  """`read`, with the rows from `first` on replaced by those of `fresh`."""

  def fill(read, fresh):
    old = jnp.arange(len(read)) < first
    return jnp.where(old.reshape(-1, *[1] * (read.ndim - 1)), read, fresh)

  return jax.jit(fill, donate_argnums=0, out_shardings=fresh.sharding)(read, fresh)


_ALTERED = "is not what was saved: the file was altered, or the disk is failing"


def _crc32(value: Any) -> int:
  """Of a value as JSON."""
  return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _check(state: PyTree, about: dict[str, Any], resized: Collection[str] = ()) -> None:
  """Compares the checksums of what was read with those of what was saved.

  Args:
    state: as read, or a part of it.
    about: of the checkpoint.
    resized: names of leaves that were read in another number of rows; of these the
      rows of the classes count, and what pads them does not.

  Raises:
    ValueError: naming the first leaf that differs.
  """
  if "leaves" not in about:
    return
  for name, found in _checksums(state, about["num_classes"]).items():
    compared = 1 if name in resized else 2
    if found[:compared] != about["leaves"][name][:compared]:
      raise ValueError(f"{name} {_ALTERED}")


def _checksums(state: PyTree, num_classes: int | None) -> dict[str, list[int]]:
  """Of each leaf by its name: of the first K rows, and of the others.

  The arrays stay where they are, split or not: what travels is two numbers a leaf.
  """
  leaves = jax.tree_util.tree_leaves_with_path(state)
  if not leaves:
    return {}
  sums = jax.device_get(_checksum_all([leaf for _, leaf in leaves], num_classes))
  return {
    _name(path): pair for (path, _), pair in zip(leaves, sums.tolist(), strict=True)
  }


@functools.partial(jax.jit, static_argnums=1)
def _checksum_all(
  leaves: list[Array], num_classes: int | None
) -> UInt32[Array, "leaves 2"]:
  return jnp.stack([_checksum(leaf, num_classes) for leaf in leaves])


def _checksum(leaf: Array, num_classes: int | None) -> UInt32[Array, "2"]:
  """The bits of each element times an odd number of its place, summed modulo 2^32.

  An odd factor keeps every flipped bit: the product differs. Zero rows add nothing, as
  those that come where a bank has grown.
  """
  if leaf.dtype == jnp.bool_:
    leaf = leaf.astype(jnp.uint8)
  unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32)
  bits = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
  rows = jnp.zeros((1,) * bits.ndim, jnp.uint32)
  if leaf.ndim:
    rows = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, 0)
  place = jnp.zeros_like(bits)
  for axis, size in enumerate(bits.shape):
    place = place * size + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
  terms = bits * (2 * place + 1)
  first = rows < jnp.uint32(2**32 - 1 if num_classes is None else num_classes)
  total = terms.sum(dtype=jnp.uint32)
  of_first = jnp.where(first, terms, 0).sum(dtype=jnp.uint32)
  return jnp.stack([of_first, total - of_first])


def _abstract(tree: PyTree) -> PyTree:
  return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
