"""The center bank: one unit-length direction per class, as plain functional state."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num

from ccl_jax.class_mesh import CLASS_AXIS, CLASSES, DATA_AXIS, ROWS, ClassMesh
from ccl_jax.labels import as_classes, drop_padding, gather_rows, widen

# Rows shorter than this count as zero vectors; it bounds the gradient of `unit`.
EPSILON = 1e-6


class CenterBank(NamedTuple):
  """One direction per class, moved by every batch."""

  centers: Float[Array, "K D"]  # rows of unit length
  counts: Int[Array, " K"]  # examples seen so far; 0 = never visited


def unit(vectors: Num[Array, "*N D"]) -> Float[Array, "*N D"]:
  """Scales rows to unit length, in float32 at least; a zero row stays zero.

  `v / max(|v|, eps)` has a NaN gradient at v = 0; this form has a finite one.
  """
  vectors = widen(vectors)
  squared = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
  return vectors * jax.lax.rsqrt(jnp.maximum(squared, EPSILON**2))


def init(key: Key[Array, ""], num_classes: int, dim: int) -> CenterBank:
  """A bank of random directions that no example has visited.

  Args:
    key: a JAX random key.
    num_classes: K.
    dim: D, the length of an embedding.

  Raises:
    ValueError: if there are fewer than two classes or no dimension.
  """
  if num_classes < 2 or dim < 1:
    raise ValueError(
      f"num_classes={num_classes}, dim={dim}: a bank contrasts at least 2 classes "
      "in at least 1 dimension"
    )
  centers = unit(jax.random.normal(key, (num_classes, dim)))
  return CenterBank(centers, jnp.zeros(num_classes, jnp.int32))


def update(
  bank: CenterBank,
  embeddings: Num[Array, "B D"],
  labels: Int[Array, " B"],
  *,
  momentum: float,
  sharpness: float | None = None,
  axis_name: str | None = None,
  mesh: ClassMesh | None = None,
) -> CenterBank:
  r"""Moves the centers of the batch's classes towards their mean embedding.

  .. math:: c_k \leftarrow \mathrm{unit}(\mu c_k + (1 - \mu) \bar z_k)

  where :math:`\bar z_k` is the mean of the unit embeddings of class k in the batch; a
  class's first visit sets :math:`c_k \leftarrow \mathrm{unit}(\bar z_k)`. Classes
  absent from the batch keep their centers. The paper says that the bank is updated "in
  real time" (arXiv 2308.00458, abstract) and not how: this rule is our choice.

  The embeddings are read through `stop_gradient`, and only the rows of the batch's
  classes are touched: no array of the size of the bank is made beside it.

  Args:
    bank: K centers of dimension D.
    embeddings: [B, D], any length, any float type.
    labels: [B]; rows whose label is < 0 (padding) or >= K change nothing.
    momentum: mu in [0, 1]; 0 forgets the old center, 1 freezes it.
    sharpness: tau of `repel`, whose directions then take the place of the unit
      embeddings; None takes these as they are.
    axis_name: a mapped axis (`pmap`, or `shard_map` with `check_vma=False`) over which
      the batch is split. The batch is gathered over it, so that every device makes the
      same update.
    mesh: of a bank that is split by class: `mesh.num_rows` rows, each moved by its
      owner. The batch is the global one, as under `jit` with shardings.

  Returns:
    The new bank.

  Raises:
    ValueError: if the labels' type is too narrow for K.
  """
  if mesh is not None:
    return _update_on_mesh(bank, embeddings, labels, momentum, sharpness, mesh)
  embeddings = gather_rows(jax.lax.stop_gradient(embeddings), axis_name)
  num_classes = bank.counts.shape[0]
  labels = as_classes(gather_rows(labels, axis_name), num_classes)
  num_rows = labels.shape[0]
  known = (labels >= 0) & (labels < num_classes)
  labels = jnp.where(known, labels, -1)

  # One slot per distinct class of the batch; row K (out of bounds) stands for "none".
  classes, slots = jnp.unique(
    jnp.where(known, labels, num_classes),
    size=num_rows,
    fill_value=num_classes,
    return_inverse=True,
  )
  z = unit(drop_padding(embeddings, labels))
  if sharpness is not None:
    z = repel(z, labels, sharpness=sharpness)
  sums = jax.ops.segment_sum(z, slots, num_rows)
  seen = jax.ops.segment_sum(known.astype(jnp.int32), slots, num_rows)

  old = widen(bank.centers.at[classes].get(mode="clip"))
  visits = bank.counts.at[classes].get(mode="clip")
  mean = (sums / jnp.maximum(seen, 1)[:, None].astype(sums.dtype)).astype(old.dtype)
  mixed = jnp.where(visits[:, None] == 0, mean, momentum * old + (1 - momentum) * mean)
  # Where old and new cancel, or the embeddings are zero, there is no direction to take.
  length = jnp.linalg.norm(mixed, axis=-1, keepdims=True)
  new = jnp.where(length > EPSILON, unit(mixed), old)
  return CenterBank(
    bank.centers.at[classes].set(new.astype(bank.centers.dtype), mode="drop"),
    bank.counts.at[classes].add(seen, mode="drop"),
  )


def _update_on_mesh(
  bank, embeddings, labels, momentum, sharpness, mesh: ClassMesh
) -> CenterBank:
  """Every device sees the whole batch, and knows the classes of its own range only."""

  def update_my_range(bank, embeddings, labels):
    axes = (DATA_AXIS, CLASS_AXIS)
    embeddings, labels = jax.lax.all_gather((embeddings, labels), axes, tiled=True)
    known = labels < mesh.num_classes  # the rows beyond belong to no class
    if sharpness is not None:  # also by classes of other devices
      embeddings = repel(embeddings, jnp.where(known, labels, -1), sharpness=sharpness)
    labels = jnp.where(known, labels - mesh.first_class(), -1)
    return update(bank, embeddings, labels, momentum=momentum)

  labels = as_classes(labels, mesh.num_rows)
  return mesh.map_over(update_my_range, (CLASSES, ROWS, ROWS), CLASSES)(
    bank, jax.lax.stop_gradient(embeddings), labels
  )


def repel(
  embeddings: Num[Array, "B D"],
  labels: Int[Array, " B"],
  *,
  sharpness: float,
) -> Float[Array, "B D"]:
  r"""Directions from the batch's other classes to each embedding, for `update`.

  .. math::
    \tilde z_i = \mathrm{unit}\Big(z_i - \sum_{j : y_j \ne y_i} w_{ij} z_j\Big),
    \qquad w_{ij} \propto e^{\tau z_i \cdot z_j}

  with z of unit length and weights that sum to one. A bank that is moved by class means
  alone keeps whatever all embeddings have in common, which no contrast then removes,
  and its centers crowd; gradients would push a center away from others' embeddings,
  and this does so too without a gradient: sharpness 0 subtracts the mean of the other
  classes, a larger one mostly the nearest embeddings. Ours, not the paper's; measured
  in experiments/README.md.

  Args:
    embeddings: [B, D], any length, any float type; read through `stop_gradient`.
    labels: [B], of the global batch; a negative label marks padding, which repels
      nothing. K is not known here: mark labels >= K too, as `update` does.
    sharpness: tau, 0 or more.

  Returns:
    [B, D] of unit length. An example without another class in the batch stays.
  """
  z = unit(drop_padding(jax.lax.stop_gradient(embeddings), labels))
  rivals = (labels[:, None] != labels) & (labels >= 0)
  weights = jax.nn.softmax(sharpness * z @ z.T, axis=1, where=rivals)
  return unit(z - weights @ z)


def grow(bank: CenterBank, key: Key[Array, ""], num_classes: int) -> CenterBank:
  """Adds classes that were not known before; the old ones keep row and center.

  Args:
    bank: K centers.
    key: a JAX random key for the new rows.
    num_classes: the new K, at least the old one.

  Returns:
    A bank of `num_classes` rows, the new ones never visited.

  Raises:
    ValueError: if `num_classes` is smaller than the bank.
  """
  old_classes, dim = bank.centers.shape
  if num_classes < old_classes:
    raise ValueError(
      f"num_classes={num_classes} is smaller than the bank's {old_classes}; "
      "a bank only grows"
    )
  rows = unit(jax.random.normal(key, (num_classes - old_classes, dim)))
  new_counts = jnp.zeros(num_classes - old_classes, jnp.int32)
  return CenterBank(
    jnp.concatenate([bank.centers, rows.astype(bank.centers.dtype)]),
    jnp.concatenate([bank.counts, new_counts]),
  )
