"""The train state, and the one train step that serves every loss and placement."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Key, Num, PyTree

from ccl_jax import accumulate
from ccl_jax.objectives import Objective, global_mean

# {"image": [B, H, W, C], "label": [B]}, and whatever else the objective reads
Batch = Mapping[str, Any]


@struct.dataclass
class TrainState:
  """All that a run carries from step to step: arrays only, one tree.

  Its shardings and its checkpoint are trees of the same shape.

  Example:
    >>> import dataclasses
    >>> from ccl_jax.training import step
    >>> print([field.name for field in dataclasses.fields(step.TrainState)])
    ['step', 'params', 'model_state', 'objective_state', 'opt_state']
  """

  step: PyTree  # i32 scalar: steps taken
  params: PyTree  # {"model": ..., "objective": ...}
  model_state: PyTree  # the model's other variables, such as batch statistics
  objective_state: PyTree  # the center bank, a memory, or nothing
  opt_state: PyTree


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]


def init_state(
  key: Key[Array, ""],
  model: nn.Module,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  image: Num[np.ndarray, "..."],
) -> TrainState:
  """Draws the parameters; `image` is any example and gives the shape and type.

  Example:
    >>> import jax, jax.numpy as jnp, numpy as np, optax
    >>> from ccl_jax import losses, objectives
    >>> from ccl_jax.models.glyph_net import GlyphNet
    >>> from ccl_jax.training import step
    >>> model, optimizer = GlyphNet(dim=4), optax.sgd(0.1)
    >>> objective = objectives.with_bank(losses.arcface, num_classes=3, dim=4)
    >>> image = np.zeros((8, 8, 1), np.uint8)
    >>> state = step.init_state(jax.random.key(0), model, objective, optimizer, image)
    >>> print(int(state.step), state.objective_state.centers.shape)
    0 (3, 4)
  """
  model_key, objective_key = jax.random.split(key)
  variables = jax.jit(model.init)(model_key, image[None])
  model_state = {name: v for name, v in variables.items() if name != "params"}
  objective_params, objective_state = objective.init(objective_key)
  params = {"model": variables["params"], "objective": objective_params}
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    model_state=model_state,
    objective_state=objective_state,
    opt_state=optimizer.init(params),
  )


def make_train_step(
  model: nn.Module,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  *,
  key: Key[Array, ""],
  axis_name: str | None = None,
  chunks: int = 1,
) -> TrainStep:
  """A pure step `(state, batch) -> (state, metrics)`, for `placement` to compile.

  Args:
    model: maps images [B, H, W, C] to embeddings [B, D].
    objective: the loss with its parameters and its state.
    optimizer: updates the params `{"model", "objective"}`.
    key: randomness of the model and of the objective. Every step folds its number in,
      so that a resumed run draws the same numbers as an uninterrupted run.
    axis_name: the mapped axis under `pmap`; None under `jit`, where the batch is global
      and needs no collective.
    chunks: parts of the batch whose activations are held one after the other. Loss and
      gradient are those of the whole batch, and the objective's state moves once; see
      `ccl_jax.accumulate`. But batch statistics are those of a chunk: the running ones
      become the mean of what each chunk would leave, and each chunk has its own
      dropout.

  Returns:
    The step. Its metrics are scalars: `loss`, the mean over the examples of the global
    batch, and `grad_norm`.

  Example:
    >>> import jax, jax.numpy as jnp, numpy as np, optax
    >>> from ccl_jax import losses, objectives
    >>> from ccl_jax.models.glyph_net import GlyphNet
    >>> from ccl_jax.training import step
    >>> model, optimizer = GlyphNet(dim=4), optax.sgd(0.1)
    >>> objective = objectives.with_bank(losses.arcface, num_classes=3, dim=4)
    >>> image = np.zeros((8, 8, 1), np.uint8)
    >>> state = step.init_state(jax.random.key(0), model, objective, optimizer, image)
    >>> train = step.make_train_step(model, objective, optimizer, key=jax.random.key(1))
    >>> batch = {"image": np.stack([image, image + 1]), "label": jnp.array([0, 1])}
    >>> state, metrics = jax.jit(train)(state, batch)
    >>> print(int(state.step), sorted(metrics), state.objective_state.counts)
    1 ['grad_norm', 'loss'] [1 1 0]
  """

  def train_step(state: TrainState, batch: Batch):
    model_key, objective_key = jax.random.split(jax.random.fold_in(key, state.step))

    def embed(params, images, number):
      """The embeddings of a chunk, and the model's state after it."""
      return model.apply(
        {"params": params["model"], **state.model_state},
        images,
        train=True,
        mutable=list(state.model_state),
        rngs={"dropout": jax.random.fold_in(model_key, number)},
      )

    def contrast(params, embeddings, rows):
      """The part of the loss that these rows have, and the objective's new state."""
      losses, objective_state = objective.apply(
        params["objective"], state.objective_state, embeddings, rows, objective_key
      )
      return global_mean(losses, batch["label"], axis_name), objective_state

    if chunks == 1:
      differentiate = _at_once
    else:
      way = _rows_apart if objective.rows_apart else _rows_together
      differentiate = functools.partial(way, chunks=chunks)
    grads, (loss, model_state, objective_state) = differentiate(
      embed, contrast, state.params, batch
    )
    if axis_name is not None:
      grads = jax.lax.pmean(grads, axis_name)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    new_state = TrainState(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      model_state=model_state,
      objective_state=objective_state,
      opt_state=opt_state,
    )
    return new_state, {"loss": loss, "grad_norm": optax.tree.norm(grads)}

  return train_step


# Each of the following takes `embed` and `contrast` of a step, and returns the gradient
# and (loss, model state, objective state) after the batch.


def _at_once(embed, contrast, params, batch):
  def loss_fn(params):
    embeddings, model_state = embed(params, batch["image"], 0)
    loss, objective_state = contrast(params, embeddings, batch)
    return loss, (loss, model_state, objective_state)

  return jax.grad(loss_fn, has_aux=True)(params)


def _rows_together(embed, contrast, params, batch, *, chunks: int):
  """Embeds by chunks, twice, since the loss compares all rows."""

  def loss_fn(params):
    embeddings, model_states = accumulate.map_chunks(
      functools.partial(embed, params), batch["image"], chunks=chunks
    )
    loss, objective_state = contrast(params, accumulate.join(embeddings), batch)
    return loss, (loss, _mean_over_chunks(model_states), objective_state)

  return jax.grad(loss_fn, has_aux=True)(params)


def _rows_apart(embed, contrast, params, batch, *, chunks: int):
  """Goes through the batch once; all its embeddings then move the state together."""

  def loss_fn(params, rows, number):
    embeddings, model_state = embed(params, rows["image"], number)
    loss, _ = contrast(params, embeddings, rows)
    return loss, (embeddings, model_state)

  (loss, (embeddings, model_states)), grads = accumulate.value_and_grad(
    loss_fn, params, batch, chunks=chunks
  )
  _, objective_state = contrast(params, accumulate.join(embeddings), batch)
  return grads, (loss, _mean_over_chunks(model_states), objective_state)


def _mean_over_chunks(states: PyTree) -> PyTree:
  return jax.tree.map(lambda leaf: leaf.mean(axis=0, dtype=leaf.dtype), states)


def make_embed_step(
  model: nn.Module, method: str | None = None
) -> Callable[[TrainState, Any], Float[Array, "B D"]]:
  """A pure step `(state, images [B, H, W, C]) -> [B, D]`, float32, for evaluation.

  `method` names the model's method that embeds; None: the method that trains.

  Example:
    >>> import jax, jax.numpy as jnp, numpy as np, optax
    >>> from ccl_jax import losses, objectives
    >>> from ccl_jax.models.glyph_net import GlyphNet
    >>> from ccl_jax.training import step
    >>> model, optimizer = GlyphNet(dim=4), optax.sgd(0.1)
    >>> objective = objectives.with_bank(losses.arcface, num_classes=3, dim=4)
    >>> image = np.zeros((8, 8, 1), np.uint8)
    >>> state = step.init_state(jax.random.key(0), model, objective, optimizer, image)
    >>> embed = jax.jit(step.make_embed_step(model))
    >>> print(embed(state, image[None]).shape)
    (1, 4)
  """

  def embed_step(state: TrainState, images):
    variables = {"params": state.params["model"], **state.model_state}
    embeddings = model.apply(variables, images, train=False, method=method)
    return jnp.asarray(embeddings, jnp.float32)

  return embed_step
