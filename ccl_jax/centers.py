"""The center bank: one unit-length direction per class, as plain functional state.

A *rule* says where a batch moves the bank: a function from the batch's unit embeddings
to directions, whose mean over the rows of a class is what the class's center moves to.
`class_means` and `repulsion` are rules; any function of the same form is another.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num

from ccl_jax.class_mesh import (
  CLASS_AXIS,
  CLASSES,
  DATA_AXIS,
  ROWS,
  ClassMesh,
  gather_classes,
  sum_to_own_rows,
)
from ccl_jax.labels import as_classes, drop_padding
from ccl_jax.vectors import EPSILON, check_dims, unit, widen

__all__ = [
  "CenterBank",
  "Rule",
  "class_means",
  "grow",
  "init",
  "repulsion",
  "update",
  "visits",
]

# (unit embeddings [B, D], labels [B]) -> directions [B, D]; see `update`.
Rule = Callable[[Float[Array, "B D"], Int[Array, " B"]], Float[Array, "B D"]]


class CenterBank(NamedTuple):
  """One direction per class, moved by every batch.

  Attributes:
    centers: f32[K, D], rows of unit length, which a loss over the bank takes as they
      are; `vectors.unit` makes them of others.
    counts: i32[K], examples seen so far; 0: never visited.

  Example:
    >>> import numpy as np
    >>> from ccl_jax import CenterBank
    >>> centers = np.eye(2, dtype=np.float32)
    >>> bank = CenterBank(centers, counts=np.zeros(2, np.int32))
    >>> print(bank._asdict().keys())  # what to save of it
    dict_keys(['centers', 'counts'])
  """

  centers: Float[Array, "K D"]
  counts: Int[Array, " K"]


def init(
  key: Key[Array, ""], num_classes: int, dim: int, *, mesh: ClassMesh | None = None
) -> CenterBank:
  """A bank of random directions that no example has visited.

  Args:
    key: a JAX random key.
    num_classes: K.
    dim: D, the length of an embedding.
    mesh: splits the bank by class over devices: it then has `mesh.num_rows` rows, K and
      the padding that equal ranges need, each drawn on the device where it stays.

  Raises:
    ValueError: if there are fewer than two classes or no dimension, or the mesh is for
      another number of classes.

  Example:
    >>> import jax
    >>> from ccl_jax import centers
    >>> bank = centers.init(jax.random.key(0), num_classes=3, dim=2)
    >>> print(bank.centers.shape, bank.counts)
    (3, 2) [0 0 0]
  """
  if num_classes < 2 or dim < 1:
    raise ValueError(
      f"num_classes={num_classes}, dim={dim}: a bank contrasts at least 2 classes "
      "in at least 1 dimension"
    )
  if mesh is None:
    return _draw(key, num_classes, dim)
  if mesh.num_classes != num_classes:
    raise ValueError(
      f"num_classes={num_classes} on a mesh of {mesh.num_classes} classes: make the"
      f" mesh with class_mesh.make({num_classes})"
    )
  draw = jax.jit(_draw, static_argnums=(1, 2), out_shardings=mesh.sharding)
  return draw(key, mesh.num_rows, dim)


def _draw(key, num_rows: int, dim: int) -> CenterBank:
  centers = unit(jax.random.normal(key, (num_rows, dim)))
  return CenterBank(centers, jnp.zeros(num_rows, jnp.int32))


def class_means(
  embeddings: Float[Array, "B D"], labels: Int[Array, " B"]
) -> Float[Array, "B D"]:
  """A rule: each center moves to the mean embedding of its class.

  The nearest reading of "real time" in the paper (arXiv 2308.00458, abstract), which
  names no rule; it goes well with a momentum of .5.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax import centers
    >>> bank = centers.init(jax.random.key(0), num_classes=2, dim=2)
    >>> embeddings, labels = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([0, 0])
    >>> bank = centers.update(bank, embeddings, labels, rule=centers.class_means)
    >>> print(bank.centers[0].round(3))
    [0.707 0.707]
  """
  del labels
  return embeddings


def repulsion(
  embeddings: Float[Array, "B D"], labels: Int[Array, " B"], *, sharpness: float = 8.0
) -> Float[Array, "B D"]:
  r"""A rule: each center moves to its class, and away from the batch's other classes.

  .. math::
    d_i = \mathrm{unit}\Big(z_i - \sum_{j : y_j \ne y_i} w_{ij} z_j\Big),
    \qquad w_{ij} \propto e^{\tau z_i \cdot z_j}

  with weights that sum to one. Class means keep whatever all embeddings have in common,
  which no contrast then removes, and their centers crowd. Gradients would push a center
  away from the embeddings of other classes, and this rule does so without a gradient.
  Ours, not the paper's; measured in experiments/results/glyphs. `functools.partial`
  binds another sharpness.

  Args:
    embeddings: [B, D] of unit length.
    labels: [B], of the global batch; rows with a negative label repel nothing.
    sharpness: tau, 0 or more: 0 subtracts the mean of the other classes, a large one
      mostly the nearest embeddings.

  Returns:
    [B, D] of unit length. An example without another class in the batch stays.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import centers
    >>> embeddings, labels = jnp.array([[0.8, 0.6], [0.6, 0.8]]), jnp.array([0, 1])
    >>> print(centers.repulsion(embeddings, labels).round(3))
    [[ 0.707 -0.707]
     [-0.707  0.707]]
  """
  rivals = (labels[:, None] != labels[None, :]) & (labels >= 0)[None, :]
  weights = jax.nn.softmax(sharpness * embeddings @ embeddings.T, axis=1, where=rivals)
  return unit(embeddings - weights @ embeddings)


def update(
  bank: CenterBank,
  embeddings: Num[Array, "B D"],
  labels: Int[Array, " B"],
  *,
  rule: Rule = repulsion,
  momentum: float = 0.9,
  mesh: ClassMesh | None = None,
) -> CenterBank:
  r"""Moves the centers of the batch's classes to where a rule says.

  .. math:: c_k \leftarrow \mathrm{unit}(\mu c_k + (1 - \mu) \bar d_k)

  where :math:`\bar d_k` is the mean of the rule's directions over the batch's examples
  of class k; a class's first visit sets :math:`c_k \leftarrow \mathrm{unit}(\bar d_k)`.
  Classes absent from the batch keep their centers. The paper says that the bank is
  updated "in real time" (arXiv 2308.00458, abstract) and not how: rule and momentum are
  our choice.

  The embeddings are read through `stop_gradient`, and only the rows of the batch's
  classes are touched: no array of the size of the bank is made beside it.

  Args:
    bank: K centers of dimension D.
    embeddings: [B, D] of the global batch, any length, any float type.
    labels: [B]; rows whose label is < 0 (padding) or >= K change nothing.
    rule: from unit embeddings [B, D] and labels [B] to directions [B, D]: `repulsion`,
      `class_means` or your own. Rows that change nothing come as zeros, labeled -1.
    momentum: mu in [0, 1]; 0 forgets the old center, 1 freezes it. It is of a batch,
      not of an image: with M images of each class, mu ** M remembers as many.
    mesh: of a bank that is split by class, each range moved by its owner.

  Returns:
    The new bank.

  Raises:
    ValueError: if shapes do not fit, or the labels' type is too narrow for K.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax import centers
    >>> bank = centers.init(jax.random.key(0), num_classes=3, dim=2)
    >>> embeddings, labels = jnp.array([[3.0, 4.0], [1.0, 0.0]]), jnp.array([1, 0])
    >>> bank = centers.update(bank, embeddings, labels, rule=centers.class_means)
    >>> print(bank.centers[:2].round(3), bank.counts)
    [[1.  0. ]
     [0.6 0.8]] [1 1 0]
  """
  bank = CenterBank(*map(jnp.asarray, bank))  # NumPy's, where it comes from a file
  check_dims(embeddings=embeddings, centers=bank.centers)
  embeddings = jax.lax.stop_gradient(embeddings)
  if mesh is None:
    num_classes = len(bank.centers)
    labels = as_classes(labels, num_classes)
    directions, labels = _directions(rule, embeddings, labels, num_classes)
    return _move(bank, directions, labels, momentum)

  def update_my_range(bank, embeddings, labels):
    axes = (DATA_AXIS, CLASS_AXIS)
    embeddings, labels = jax.lax.all_gather((embeddings, labels), axes, tiled=True)
    # The rule sees the whole batch: classes of other devices repel, too.
    directions, labels = _directions(rule, embeddings, labels, mesh.num_classes)
    return _move(bank, directions, labels - mesh.first_class(), momentum)

  labels = as_classes(labels, mesh.num_rows)
  return mesh.map_over(update_my_range, (CLASSES, ROWS, ROWS), CLASSES)(
    bank, embeddings, labels
  )


def _directions(rule: Rule, embeddings, labels, num_classes: int):
  """What the rule makes of the batch, and its labels: -1 for rows without a class."""
  labels = jnp.where((labels >= 0) & (labels < num_classes), labels, -1)
  return rule(unit(drop_padding(embeddings, labels)), labels), labels


def _move(bank: CenterBank, directions, labels, momentum: float) -> CenterBank:
  """Moves the rows of a range of classes; labels outside of it name no row."""
  size, num_rows = len(bank.centers), len(labels)
  known = (labels >= 0) & (labels < size)
  # One slot per distinct class of the batch, so that what is computed is B x D however
  # large the bank is. Row `size`, out of bounds, stands for "no class": it is read
  # clipped and written nowhere.
  classes, slots = jnp.unique(
    jnp.where(known, labels, size), size=num_rows, fill_value=size, return_inverse=True
  )
  sums = jax.ops.segment_sum(directions, slots, num_rows)
  seen = jax.ops.segment_sum(known.astype(jnp.int32), slots, num_rows)

  old = widen(bank.centers.at[classes].get(mode="clip"))
  visits = bank.counts.at[classes].get(mode="clip")
  mean = (sums / jnp.maximum(seen, 1)[:, None].astype(sums.dtype)).astype(old.dtype)
  mixed = jnp.where(visits[:, None] == 0, mean, momentum * old + (1 - momentum) * mean)
  # Where old and new cancel, or the directions are zero, there is nowhere to go.
  length = jnp.linalg.norm(mixed, axis=-1, keepdims=True)
  new = jnp.where(length > EPSILON, unit(mixed), old)
  return CenterBank(
    bank.centers.at[classes].set(new.astype(bank.centers.dtype), mode="drop"),
    bank.counts.at[classes].add(seen, mode="drop"),
  )


def visits(
  bank: CenterBank, labels: Int[Array, " B"], *, mesh: ClassMesh | None = None
) -> Int[Array, " B"]:
  """How many examples of each row's class the bank has seen.

  Args:
    bank: K centers.
    labels: [B].
    mesh: of a bank that is split by class.

  Returns:
    [B]; -1 for labels < 0 (padding) or >= K, which are no class.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from ccl_jax import centers
    >>> bank = centers.init(jax.random.key(0), num_classes=2, dim=2)
    >>> bank = centers.update(bank, jnp.eye(2), jnp.array([1, 1]))
    >>> print(centers.visits(bank, jnp.array([0, 1, -1, 2])))
    [ 0  2 -1 -1]
  """
  num_classes = len(bank.counts) if mesh is None else mesh.num_classes
  labels = as_classes(labels, num_classes)
  if mesh is None:
    found = jnp.asarray(bank.counts).at[labels].get(mode="clip")
  else:

    def from_the_owners(counts, labels):
      places = gather_classes(labels) - mesh.first_class()
      here = (places >= 0) & (places < len(counts))
      return sum_to_own_rows(jnp.where(here, counts.at[places].get(mode="clip"), 0))

    look_up = mesh.map_over(from_the_owners, (CLASSES, ROWS), ROWS)
    found = look_up(bank.counts, labels)
  return jnp.where((labels >= 0) & (labels < num_classes), found, -1)


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

  Example:
    >>> import jax
    >>> from ccl_jax import centers
    >>> bank = centers.init(jax.random.key(0), num_classes=3, dim=2)
    >>> larger = centers.grow(bank, jax.random.key(1), num_classes=5)
    >>> print(larger.centers.shape, bool((larger.centers[:3] == bank.centers).all()))
    (5, 2) True
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
