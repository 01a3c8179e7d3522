"""Compiles the step of a class-sharded loss for simulated devices."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from ccl_jax import class_mesh, losses, objectives
from ccl_jax.centers import class_means, repulsion
from ccl_jax.training import placement
from ccl_jax.training.step import TrainState

Centers = Literal["bank", "bank in bfloat16", "repelling bank", "trained"]


def simulate_devices(count: int) -> None:
  """Gives this process `count` CPU devices; to be called before JAX is used."""
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", count)


def compile_step(
  num_classes: int,
  class_shards: int | None,
  *,
  rows: int,
  dim: int,
  centers: Centers = "bank",
  devices: Any = None,
) -> Any:
  """Compiles loss, gradient in the embeddings, and the centers' step; no model.

  Args:
    num_classes: K.
    class_shards: devices that share the classes; None: all devices.
    rows: B, rows of the global batch.
    dim: D.
    centers: a bank of class means in float32 or bfloat16, a bank with repulsion, or
      centers that Adam trains.
    devices: None: all devices.

  Returns:
    The compiled program `(state, {"embedding": [B, D], "label": [B]}) -> (new state,
    (loss, gradient [B, D]))`.
  """
  mesh = class_mesh.make(num_classes, class_shards, devices)
  place = placement.with_class_sharding(mesh)
  loss = losses.center_contrastive
  if centers == "trained":
    objective = objectives.with_trained_centers(loss, num_classes, dim, mesh=mesh)
  else:
    rule = repulsion if centers == "repelling bank" else class_means
    objective = objectives.with_bank(loss, num_classes, dim, rule=rule, mesh=mesh)
  optimizer = optax.adam(1e-2)

  def init():
    params, bank = objective.init(jax.random.key(0))
    if centers == "bank in bfloat16":
      bank = bank._replace(centers=bank.centers.astype(jnp.bfloat16))
    params = {"objective": params}
    step = jnp.zeros((), jnp.int32)
    return TrainState(step, params, {}, bank, optimizer.init(params))

  def step(state, batch):
    def mean_loss(params, embeddings):
      values, bank = objective.apply(
        params["objective"], state.objective_state, embeddings, batch
      )
      return values.mean(), bank

    (value, bank), (by_params, gradient) = jax.value_and_grad(
      mean_loss, (0, 1), has_aux=True
    )(state.params, batch["embedding"])
    updates, opt_state = optimizer.update(by_params, state.opt_state)
    params = optax.apply_updates(state.params, updates)
    state = TrainState(state.step + 1, params, {}, bank, opt_state)
    gradient = jax.lax.with_sharding_constraint(gradient, mesh.batch_sharding)
    return state, (value, gradient)

  batch = {
    "embedding": jax.ShapeDtypeStruct(
      (rows, dim), jnp.float32, sharding=mesh.batch_sharding
    ),
    "label": jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=mesh.batch_sharding),
  }
  described = jax.eval_shape(init)
  state = jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    described,
    placement.state_shardings(described, mesh),
  )
  return place.compile_step(step).lower(state, batch).compile()
