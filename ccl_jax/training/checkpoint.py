"""Saves and restores a run: the train state and the position of the data iterator."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jaxtyping import PyTree

_LOG = logging.getLogger(__name__)


class Checkpoints:
  """The checkpoints of one run, newest last; a context manager.

  Saving is asynchronous and atomic: a run killed while it saves leaves the checkpoint
  before intact. Leaving the context waits for the save under way.

  Args:
    directory: made if it does not exist.
    keep: how many of the newest checkpoints stay.
    read_only: to look at a run that may still be going on; makes and removes nothing.
    num_classes: K. Saved beside the state, it lets a bank be restored with the padding
      of another mesh, and with more classes.
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
    """
    if step in self._unreadable:
      self._manager.delete(step)
      self._unreadable.remove(step)
    elif step in self._manager.all_steps():
      return
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        data=ocp.args.JsonSave(data),
        classes=ocp.args.JsonSave({"num_classes": self._num_classes}),
      ),
    )

  def num_classes(self) -> int | None:
    """K of the newest checkpoint; None where there is none, or it does not tell."""
    newest = self._manager.latest_step()
    return None if newest is None else self._num_classes_at(newest)

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
    steps = sorted(self._manager.all_steps(), reverse=True)
    failure = None
    for step in steps:
      try:
        old_classes = self._num_classes_at(step)
        shrunk = (old_classes or 0) > (self._num_classes or math.inf)
        if not shrunk:
          if like is None:
            state = self._read_parts(step, leave)
          else:
            state = self._read_like(step, like, old_classes)
          args = ocp.args.Composite(data=ocp.args.JsonRestore())
          return state, self._manager.restore(step, args=args)["data"]
      except Exception as error:  # whatever a damaged file makes its reader raise
        _LOG.warning(
          "checkpoint %d is unreadable, trying the one before: %s", step, error
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

  def _read_like(self, step: int, like: PyTree, old_classes: int | None) -> PyTree:
    """The state of a checkpoint in the shapes and on the devices of `like`."""
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
    return jax.tree_util.tree_map_with_path(
      lambda path, leaf, fresh: (
        _with_rows_of(leaf, fresh, old_classes or 0) if _name(path) in resized else leaf
      ),
      read,
      like,
    )

  def _num_classes_at(self, step: int) -> int | None:
    if not (self._manager.directory / str(step) / "classes").exists():
      return None
    args = ocp.args.Composite(classes=ocp.args.JsonRestore())
    return self._manager.restore(step, args=args)["classes"]["num_classes"]

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
    with ocp.StandardCheckpointer() as reader:
      saved = reader.metadata(self._manager.directory / str(step) / "state")
    return saved.item_metadata.tree


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


def _abstract(tree: PyTree) -> PyTree:
  return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
