"""Saves and restores a run: the train state and the position of the data iterator."""

import logging
from pathlib import Path
from typing import Any

import jax
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
  """

  def __init__(self, directory: str | Path, *, keep: int = 2, read_only: bool = False):
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
        state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data)
      ),
    )

  def restore(self, like: PyTree | None = None) -> tuple[PyTree, Any] | None:
    """The newest checkpoint that can be read, or None where there is none.

    Args:
      like: a state of the shapes, types and shardings that are wanted; the checkpoint
        may have been written on other devices. None takes the state as it was saved,
        as nested dicts on one device.

    Returns:
      The state and the data iterator's state.

    Raises:
      RuntimeError: if there are checkpoints and none can be read.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    failure = None
    for step in steps:
      try:
        wanted = self._as_saved(step) if like is None else like
        args = ocp.args.Composite(
          state=ocp.args.StandardRestore(_abstract(wanted)),
          data=ocp.args.JsonRestore(),
        )
        found = self._manager.restore(step, args=args)
        return found["state"], found["data"]
      except Exception as error:  # whatever a damaged file makes its reader raise
        _LOG.warning(
          "checkpoint %d is unreadable, trying the one before: %s", step, error
        )
        self._unreadable.add(step)
        failure = error
    if steps:
      raise RuntimeError(
        f"none of the checkpoints {steps} in {self._manager.directory} can be read; "
        "remove them to start anew"
      ) from failure
    return None

  def _as_saved(self, step: int) -> PyTree:
    """Shapes and types of a checkpoint, to be put on this process's first device."""
    with ocp.StandardCheckpointer() as reader:
      saved = reader.metadata(self._manager.directory / str(step) / "state")
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
      saved.item_metadata.tree,
    )


def _abstract(tree: PyTree) -> PyTree:
  return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
