"""What a run takes over from another one: all, to train longer, or its parameters."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ccl_jax.training.checkpoint import Checkpoints
from ccl_jax.training.loop import BatchIterator
from ccl_jax.training.step import TrainState
from configs import base
from configs.base import Config
from experiments.run import show, workdir
from experiments.run.command_line import InputError

# A run that differs from another in these alone takes the same steps, only more.
_SAME_STEPS = {
  "init_from",
  "steps",
  "parallel",
  "class_shards",
  "log_every",
  "eval_every",
  "checkpoint_every",
  "keep_checkpoints",
  "profile_steps",
  "recall_at",
  "neighbors",
  "few_shot_tasks",
}


def goes_on(config: Config) -> bool:
  """Whether a run only trains the one that it starts from for longer."""
  there = base.fields(workdir.read_config(Path(config.init_from or "")))
  here = base.fields(config)
  return {name for name in here if here[name] != there[name]} <= _SAME_STEPS


def take_over(
  config: Config, classes: list[str], state: TrainState, batches: BatchIterator
) -> TrainState:
  """A fresh state with what the run `config.init_from` has learned.

  If only the steps are more, it is that run's state, with its step count, class vectors
  and optimizer, and the batches go on where it stopped. Otherwise step count and
  optimizer start anew, and the state has the run's model, and its class vectors where
  the classes are the same and the loss keeps arrays of the same shapes.

  Args:
    config: of the run that starts.
    classes: names of its K train classes.
    state: its fresh state.
    batches: of step 0.

  Raises:
    InputError, ValueError: if there is no such run, it has no checkpoint, or its model
      differs; the message says where.
  """
  folder = Path(config.init_from or "")
  there = workdir.read_config(folder)
  if not workdir.has_checkpoint(folder):
    raise InputError(
      f"init_from={folder} holds no checkpoint yet: let its run reach one"
    )
  path = folder / workdir.CHECKPOINTS
  with Checkpoints(path, read_only=True, num_classes=len(classes)) as saved:
    if goes_on(config):
      return _go_on(config, saved, state, batches)
    same_classes = workdir.read_classes(folder) == classes
    vectors = ("objective", "objective_state")
    restored = saved.restore(leave=("opt_state", *(() if same_classes else vectors)))
  assert restored is not None
  read, _ = restored
  try:
    model = _filled(state.params["model"], read["params"]["model"])
    model_state = _filled(state.model_state, read["model_state"])
  except ValueError as error:
    here = vars(config.model)
    fields = ", ".join(
      f"model.{name} is {value} there and {here[name]} here"
      for name, value in vars(there.model).items()
      if value != here[name]
    )
    raise ValueError(
      f"init_from={folder}: {fields or 'another model'}: {error}"
    ) from error
  state = state.replace(
    params={**state.params, "model": model}, model_state=model_state
  )
  told = "are drawn anew, since the classes are others"
  if same_classes:
    state, told = _with_vectors(state, read)
  show.tell(
    f"starts from the model of {folder} at step {read['step']}; class vectors {told}"
  )
  return state


def _go_on(
  config: Config, saved: Checkpoints, state: TrainState, batches: BatchIterator
) -> TrainState:
  restored = saved.restore(state)
  assert restored is not None
  for leaf in jax.tree.leaves(state):
    leaf.delete()  # or a second state would fill the devices' memory to the end
  state, position = restored
  if state.step >= config.steps:
    raise InputError(
      f"init_from={config.init_from} is at step {state.step} already: give more than"
      f" steps={config.steps} to train longer, or other data or settings to fine-tune"
    )
  batches.set_state(position)
  show.tell(f"goes on with {config.init_from} at step {state.step} of {config.steps}")
  return state


def _with_vectors(state: TrainState, read: PyTree) -> tuple[TrainState, str]:
  """The state with the class vectors that were read, if they fit, and what was done."""
  fresh = {"params": state.params["objective"], "state": state.objective_state}
  found = {
    "params": read["params"].get("objective", {}),
    "state": read.get("objective_state", {}),
  }
  try:
    filled = _filled(fresh, found)
  except ValueError as error:
    return state, f"are drawn anew, since the loss is another ({error})"
  params = {**state.params, "objective": filled["params"]}
  return state.replace(params=params, objective_state=filled["state"]), "go on"


def _filled(fresh: PyTree, read: PyTree) -> PyTree:
  """Arrays that were read, in the structure and on the devices of a fresh tree.

  Raises:
    ValueError: naming the first array that is missing, too many or of another shape.
  """
  found, wanted = _by_name(read), _by_name(fresh)
  for name in [*wanted, *found]:
    shapes = [
      np.shape(tree[name]) if name in tree else None for tree in (found, wanted)
    ]
    if shapes[0] != shapes[1]:
      there, here = (f"of shape {s}" if s is not None else "missing" for s in shapes)
      raise ValueError(f"{name} is {there} there and {here} here")
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: jax.device_put(found[_name(path)], leaf.sharding), fresh
  )


def _by_name(tree: PyTree) -> dict[str, Any]:
  return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")
