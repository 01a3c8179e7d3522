"""The sum over the other classes, which every class softmax shares.

The sum is taken at once where the B x K logits are few, and by blocks of classes where
they are many. By blocks, only a few arrays of B x block_size and block_size x D are
held beside inputs and outputs. The running softmax is that of FlashAttention (Dao et
al., 2022, https://arxiv.org/abs/2205.14135), with two changes. The own class stays out
of the sum, so that neither a margin nor a loss near zero costs precision. And the first
pass also computes the gradient in the embeddings, so that loss and gradient cost two
matrix products together; only trained centers need a second pass.

With a `sample_rate` below 1, a step visits a random part of the blocks only, as in
Partial FC (An et al., 2022, https://arxiv.org/abs/2203.15565).

On a `ClassMesh`, each device visits its own range of classes for all rows of its group;
a maximum and a sum over the devices then join the ranges into one softmax.

Letters after an underscore are the axes of a local array: B rows of the batch, C
classes of one block, D dimensions.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, DTypeLike, Float, Int, Key, Num

from ccl_jax import class_mesh
from ccl_jax.class_mesh import (
  CLASS_AXIS,
  CLASSES,
  DATA_AXIS,
  ROWS,
  WHOLE,
  ClassMesh,
)
from ccl_jax.labels import as_classes, drop_padding
from ccl_jax.vectors import check_dims, unit, widen

__all__ = ["Contrast", "Over", "contrast"]

# The most logits for which the sum is taken at once. Our choice lies between two
# measured sizes: both ways are even at 16 x 999, and blocks win at 128 x 11,264.
MOST_LOGITS = 2**20

# (carry, first class of a block, the block's class vectors, a weight's log) -> carry
Visit = Callable[[Any, Array, Array, float], Any]


class Over(TypedDict, total=False):
  """How the sum over the other classes is taken; the loss is the same in every way.

  Taken at once, a loss can be differentiated in every mode. By blocks, it can be
  differentiated in reverse mode, in embeddings and class vectors; it takes one product
  of 2BKD operations without a gradient, two with the gradient in the embeddings, and
  four with both gradients.

  Attributes:
    block_size: classes in a block; K need not be a multiple of it. A block of K classes
      or more takes the sum at once. Default: all at once up to `MOST_LOGITS` logits;
      above that, 1024 classes on a CPU, and up to 4096 on a GPU and 16384 on a TPU,
      fewer where the batch is large. What counts is the platform that the program is
      compiled for.
    product_dtype: the type in which large products are multiplied, for instance
      `jnp.bfloat16`; their sums stay in float32. Default: the type of the embeddings.
    mesh: lays the classes out over devices. The class vectors then have `mesh.num_rows`
      rows, of which the first K are classes, and B is a multiple of all devices;
      embeddings and labels are those of the global batch, as under `jit` with
      shardings. Without a mesh the class vectors lie on one device, or whole on each.
    sample_rate: the share, in (0, 1], of the blocks of other classes that is visited.
      Below 1, the sum of their exponentials is scaled up, which is an unbiased estimate
      of the sum over all blocks. The loss is then too small on average, since the
      logarithm is concave; a higher rate makes the error smaller. The own class always
      takes part. The gradient is that of the estimate; time shrinks with the rate.
    key: draws the blocks; needed where `sample_rate` is below 1.
    unit_length: whether the class vectors have unit length already, up to rounding, as
      the centers of a bank have; they are then taken as they are, and no block is
      scaled. Default: False.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import losses
    >>> embeddings, labels, proxies = jnp.eye(2, 4), jnp.array([0, 2]), jnp.eye(3, 4)
    >>> whole = losses.cosface(embeddings, labels, proxies)
    >>> by_blocks = losses.cosface(embeddings, labels, proxies, block_size=2)
    >>> print(bool(jnp.allclose(whole, by_blocks)))
    True
  """

  block_size: int | None
  product_dtype: DTypeLike | None
  mesh: ClassMesh | None
  sample_rate: float
  key: Key[Array, ""] | None
  unit_length: bool


class Contrast(NamedTuple):
  """A batch against its own classes and all others.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax.losses import blocks
    >>> found = blocks.contrast(2 * jnp.eye(2), jnp.array([0, 1]), jnp.eye(2), 1.0, {})
    >>> print(type(found).__name__, found.num_classes)
    Contrast 2
  """

  embeddings: Float[Array, "B D"]  # unit rows; zero for padding
  own: Float[Array, "B D"]  # the unit vector of each row's own class
  others: Float[Array, " B"]  # log of the sum of e^(scale * cosine) over the others
  num_classes: int  # K, without the padding of a mesh


class _How(NamedTuple):
  """`Over` with its defaults filled in, without the key, which is an array."""

  block_size: int | None
  product_dtype: DTypeLike | None
  mesh: ClassMesh | None
  sample_rate: float
  unit_length: bool
  bounded: bool  # whether sums of e^logit need no maximum taken off


def contrast(
  embeddings: Num[Array, "B D"],
  labels: Int[Array, " B"],
  class_vectors: Num[Array, "K D"],
  scale: float,
  over: Over,
) -> Contrast:
  """Unit embeddings, their own class vectors, and the sum over the other classes.

  Args:
    embeddings: [B, D], any length, any float type; computed in float32 at least.
    labels: [B]; a label that is no class gives numbers that the loss has to mask.
    class_vectors: [K, D], any length unless `over` says unit length; scaled and
      widened one block at a time.
    scale: the inverse temperature.
    over: how the sum is taken.

  Raises:
    ValueError: if shapes do not fit, the class vectors do not have the rows of the
      mesh, a block holds no class, or the sample rate is not in (0, 1] or lacks a key.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax.losses import blocks
    >>> embeddings, labels, proxies = jnp.eye(1, 2), jnp.array([0]), jnp.eye(2)
    >>> found = blocks.contrast(embeddings, labels, proxies, scale=4.0, over={})
    >>> print(found.own, found.others)  # the log of e^(4 * 0)
    [[1. 0.]] [0.]
  """
  how = _How(
    over.get("block_size"),
    over.get("product_dtype"),
    over.get("mesh"),
    over.get("sample_rate", 1.0),
    over.get("unit_length", False),
    bounded=False,
  )
  key = _check(how, over.get("key"))
  check_dims(embeddings=embeddings, class_vectors=class_vectors)
  if class_vectors.ndim != 2 or len(class_vectors) == 0:
    raise ValueError(
      f"class_vectors {class_vectors.shape}: expected [K, D] with a class at least"
    )
  num_classes = _num_classes(class_vectors, how.mesh)
  z = unit(drop_padding(embeddings, labels))
  z = z.astype(jnp.promote_types(z.dtype, jax.eval_shape(unit, class_vectors).dtype))
  how = how._replace(bounded=_bounded(scale, num_classes, how.product_dtype or z.dtype))
  classes = jnp.clip(as_classes(labels, num_classes), 0, num_classes - 1)
  way = _at_once if _few(len(labels), len(class_vectors), how) else _others_and_own
  others, own = way(scale * z, classes, class_vectors, key, how)
  return Contrast(z, own, others, num_classes)


def _check(how: _How, key):
  """Checks the options; returns the key if blocks are to be drawn, else None."""
  if how.block_size is not None and how.block_size < 1:
    raise ValueError(f"block_size={how.block_size}: a block holds at least 1 class")
  if not 0 < how.sample_rate <= 1:
    raise ValueError(f"sample_rate={how.sample_rate}: expected above 0, at most 1")
  if how.sample_rate < 1 and key is None:
    raise ValueError(f"sample_rate={how.sample_rate} needs a key, to draw the classes")
  return None if how.sample_rate == 1 else key


def _num_classes(class_vectors, mesh: ClassMesh | None) -> int:
  """K; on a mesh, the class vectors may have padding rows after the K-th row."""
  if mesh is None:
    return len(class_vectors)
  if len(class_vectors) != mesh.num_rows:
    raise ValueError(
      f"{len(class_vectors)} class vectors on a mesh of {mesh.num_rows} rows "
      f"({mesh.num_classes} classes): make them with mesh.num_rows"
    )
  return mesh.num_classes


def _few(num_rows: int, num_classes: int, how: _How) -> bool:
  """Whether the logits are few enough to take the sum at once."""
  if how.mesh is not None or how.sample_rate < 1:
    return False
  if how.block_size is not None:
    return how.block_size >= num_classes
  return num_rows * num_classes <= MOST_LOGITS


def _bounded(scale: float, num_classes: int, dtype: DTypeLike) -> bool:
  """Whether sums of e^(scale * cosine) over the classes stay within a type's range.

  In float32 and bfloat16 they do up to a scale of 64 and 10^10 classes.
  """
  if isinstance(scale, Tracer):
    return False
  most = 1.02 * abs(float(scale))  # rounding to bfloat16 makes rows longer than 1
  limits = jnp.finfo(dtype)
  fits = most + math.log(num_classes) < math.log(float(limits.max))
  return fits and most < -math.log(float(limits.tiny))


def _rows(vectors, how: _How) -> Float[Array, "N D"]:
  """Class vectors as rows of unit length, in float32 at least."""
  return widen(vectors) if how.unit_length else unit(vectors)


def _at_once(queries, labels, centers, key, how: _How):
  """Holds all B x K logits; JAX derives it in every mode."""
  del key
  logits_BK = _product(queries, _rows(centers, how).T, how)
  # Not -inf: with no other class at all, -inf - -inf would be NaN.
  own_BK = _left_out(labels, jnp.int32(0), centers, how)
  logits_BK = jnp.where(own_BK, jnp.finfo(logits_BK.dtype).min, logits_BK)
  return jax.nn.logsumexp(logits_BK, axis=-1), _rows(centers[labels], how)


def _value(
  queries: Float[Array, "B D"],
  labels: Int[Array, " B"],
  centers: Num[Array, "K D"],
  key: Key[Array, ""] | None,
  how: _How,
) -> tuple[Float[Array, " B"], Float[Array, "B D"]]:
  r""":math:`\log \sum_{k \ne y_i} e^{q_i \cdot c_k}`, and c_y, with c of unit length.

  The own centers are an output too, so that the backward pass can add their gradient in
  place to that of the other centers. A separate lookup outside of this function would
  make JAX hold a second gradient of K x D.
  """
  log_sum, _ = _softmax_over_others(queries, labels, centers, key, how, with_mean=False)
  return log_sum, _own_centers(labels, centers, how)


def _forward(queries, labels, centers, key, how):
  # symbolic_zeros wraps each argument; `perturbed` says whether it is differentiated.
  key = None if key is None else key.value
  arrays = queries.value, labels.value, centers.value, key
  log_sum, mean = _softmax_over_others(*arrays, how, with_mean=queries.perturbed)
  own = _own_centers(*arrays[1:3], how)
  return (log_sum, own), (log_sum, mean, arrays if centers.perturbed else None)


def _backward(how, residuals, cotangents):
  log_sum, mean, arrays = residuals
  by_log_sum, by_own = cotangents
  # The gradient of a log-sum-exp is the mean center under the softmax.
  by_queries = None if mean is None else by_log_sum[:, None] * mean
  if arrays is None:
    return by_queries, None, None, None
  queries, labels, centers, key = arrays
  of_rows = queries, labels, log_sum, by_log_sum, by_own
  return by_queries, None, _by_centers(centers, of_rows, key, how), None


_others_and_own = jax.custom_vjp(_value, nondiff_argnums=(4,))
_others_and_own.defvjp(_forward, _backward, symbolic_zeros=True)


def _own_centers(labels, centers, how: _How) -> Float[Array, "B D"]:
  """Row y_i of the centers, scaled to unit length."""
  if (mesh := how.mesh) is None:
    return _rows(centers[labels], how)

  # Each label's center lies on one device of the group; the others add zeros.
  def from_the_owners(labels, rows):
    places = class_mesh.gather_classes(labels) - mesh.first_class()
    here = (places >= 0) & (places < len(rows))
    found = _rows(rows.at[places].get(mode="clip"), how)
    return class_mesh.sum_to_own_rows(jnp.where(here[:, None], found, 0.0))

  return mesh.map_over(from_the_owners, (ROWS, CLASSES), ROWS)(labels, centers)


def _softmax_over_others(queries, labels, centers, key, how: _How, *, with_mean: bool):
  """Log of the sum over the other classes, and their mean center under the softmax."""
  if (mesh := how.mesh) is None:
    return _softmax_over_range(queries, labels, centers, key, how, with_mean=with_mean)

  def over_my_range(queries, labels, rows, key):
    queries, labels = class_mesh.gather_classes((_to_send(queries, how), labels))
    labels = labels - mesh.first_class()
    part, mean = _softmax_over_range(
      queries, labels, rows, _of_range(key), how, with_mean=with_mean
    )
    # The softmax of each range is relative to its own sum; `share` is the weight of
    # this range. A range without another class has the log-sum -inf: the maximum is
    # kept finite, since -inf - -inf would be NaN.
    lowest = jnp.finfo(part.dtype).min
    highest = jnp.maximum(jax.lax.pmax(part, CLASS_AXIS), lowest)
    share = jnp.exp(part - highest)
    total = jax.lax.psum(share, CLASS_AXIS)
    log_sum = class_mesh.own_rows(highest + jnp.log(total))
    if mean is not None:
      mean = class_mesh.sum_to_own_rows((share / jnp.maximum(total, 1))[:, None] * mean)
    return log_sum, mean

  return mesh.map_over(over_my_range, (ROWS, ROWS, CLASSES, WHOLE), ROWS)(
    queries, labels, centers, key
  )


def _of_range(key):
  """The key of this device's range of classes; to be called inside `map_over`."""
  return (
    None if key is None else jax.random.fold_in(key, jax.lax.axis_index(CLASS_AXIS))
  )


def _softmax_over_range(queries, labels, centers, key, how: _How, *, with_mean: bool):
  """`_softmax_over_others` on one device, whose labels count from its first class.

  A label outside of the device's range leaves no class out.
  """

  def visit(carry, start, rows_CD, log_weight):
    highest_B, total_B, weighted_BD = carry
    unit_CD = _rows(rows_CD, how)
    logits_BC = _product(queries, unit_CD.T, how) + log_weight
    logits_BC = jnp.where(_left_out(labels, start, rows_CD, how), -jnp.inf, logits_BC)
    if not how.bounded:
      # All sums are relative to the highest logit so far, so that no exponential
      # overflows. Where a block raises it, the earlier sums shrink by `decay`.
      new_highest_B = jnp.maximum(highest_B, logits_BC.max(axis=-1))
      decay_B = jnp.exp(highest_B - new_highest_B)
      highest_B, total_B = new_highest_B, decay_B * total_B
      if with_mean:
        weighted_BD = decay_B[:, None] * weighted_BD
      logits_BC = logits_BC - highest_B[:, None]
    terms_BC = jnp.exp(logits_BC)
    total_B = total_B + terms_BC.sum(axis=-1)
    if how.unit_length:
      # Where products in bfloat16 are all that reads the rows, XLA on a TPU rounds the
      # whole bank ahead of the loop. So one number is read as it is; on a CPU that read
      # would make XLA copy the bank.
      total_B = jax.lax.platform_dependent(
        total_B,
        rows_CD[0, 0].astype(total_B.dtype),
        tpu=lambda total_B, one: total_B + 0 * one,
        default=lambda total_B, one: total_B,
      )
    if with_mean:
      weighted_BD = weighted_BD + _product(terms_BC, unit_CD, how)
    return highest_B, total_B, weighted_BD

  dtype = queries.dtype if queries.dtype == jnp.float64 else jnp.dtype(jnp.float32)
  limits, zeros_B = jnp.finfo(dtype), jnp.zeros(len(queries), dtype)
  # Not -inf: -inf - -inf would be NaN while a row has seen no class but its own.
  highest_B = zeros_B if how.bounded else jnp.full_like(zeros_B, limits.min)
  carry = highest_B, zeros_B, jnp.zeros(queries.shape, dtype) if with_mean else None
  highest_B, total_B, weighted_BD = _fold(visit, carry, len(queries), centers, key, how)
  # Without any other class both sums are 0, and so is the mean.
  if with_mean:
    weighted_BD = weighted_BD / jnp.maximum(total_B, limits.tiny)[:, None]
  return highest_B + jnp.log(total_B), weighted_BD


def _by_centers(centers, of_rows, key, how: _How):
  """The gradient in all centers, [K, D]."""
  if (mesh := how.mesh) is None:
    return _by_range(centers, of_rows, key, how)

  def by_my_range(rows, key, queries, *of_rows):
    of_rows = _to_send(queries, how), *of_rows
    queries, labels, *rest = class_mesh.gather_classes(of_rows)
    of_rows = queries, labels - mesh.first_class(), *rest
    return jax.lax.psum(_by_range(rows, of_rows, _of_range(key), how), DATA_AXIS)

  specs = CLASSES, WHOLE, *(ROWS for _ in of_rows)
  return mesh.map_over(by_my_range, specs, CLASSES)(centers, key, *of_rows)


def _by_range(centers, of_rows, key, how: _How):
  """The gradient in one device's centers, whose labels count from its first class."""
  queries, labels, log_sum, by_log_sum, by_own = of_rows
  normalize = partial(_rows, how=how)

  def visit(by_centers, start, rows_CD, log_weight):
    unit_CD, through_unit = jax.vjp(normalize, rows_CD)
    logits_BC = _product(queries, unit_CD.T, how) + log_weight
    share_BC = jnp.exp(logits_BC - log_sum[:, None]) * by_log_sum[:, None]
    share_BC = jnp.where(_left_out(labels, start, rows_CD, how), 0.0, share_BC)
    by_unit_CD = _product(share_BC.T, queries, how)
    if key is None:
      # `place` is past the block for a label before it; "drop" skips such rows. A
      # negative place would count from the block's end.
      place = jnp.where(labels < start, len(rows_CD), labels - start)
      by_unit_CD = by_unit_CD.at[place].add(by_own, mode="drop")
    (by_rows_CD,) = through_unit(by_unit_CD)
    return jax.lax.dynamic_update_slice_in_dim(by_centers, by_rows_CD, start, 0)

  if key is None:  # every row is written
    by_centers = jax.lax.empty(centers.shape, centers.dtype)
    by_centers = _fold(visit, by_centers, len(queries), centers, key, how)
    # Without the barrier, XLA on GPU takes the last block's gradient inside of the
    # optimizer's step, which then cannot write the new centers in place.
    return jax.lax.optimization_barrier(by_centers)
  by_centers = jnp.zeros_like(centers)
  by_centers = _fold(visit, by_centers, len(queries), centers, key, how)
  # The block of an own class may not have been drawn, so own centers are added here.
  place = jnp.where(labels < 0, len(centers), labels)
  _, through_unit = jax.vjp(normalize, centers.at[place].get(mode="clip"))
  return by_centers.at[place].add(*through_unit(by_own), mode="drop")


def _fold(visit: Visit, carry, num_rows: int, centers, key, how: _How) -> Any:
  """Folds `visit(carry, start, rows, log_weight)` over all blocks, or over drawn ones.

  The default size of a block follows the platform that the program is compiled for,
  which need not be the platform that compiles it.
  """
  fold = partial(_fold_blocks, visit, centers=centers, key=key, how=how)
  if how.block_size is not None:
    return fold(carry, size=how.block_size)
  sizes = {
    "cpu": 1024,  # measured: its cache then holds the block
    # Not measured: XLA keeps so many logits on a TPU's chip, and models smaller blocks
    # as slower; a GPU's cache holds the logits of the default.
    "tpu": min(max(2**24 // num_rows, 1024), 16384),
    "default": min(max(2**22 // num_rows, 1024), 4096),
  }
  return jax.lax.platform_dependent(
    carry, **{platform: partial(fold, size=size) for platform, size in sizes.items()}
  )


def _fold_blocks(visit: Visit, carry, *, size: int, centers, key, how: _How) -> Any:
  """`_fold` by blocks of `size` classes.

  The last block may be smaller than the others. Where blocks are drawn, a smaller last
  block is always visited, with the weight 1; a drawn block has the weight (whole blocks
  / drawn blocks), so that it stands for those that were not drawn too.
  """
  if key is not None and how.block_size is None:
    size = min(size, max(len(centers) // 64, 1))  # enough blocks to draw from
  size = min(size, len(centers))
  whole, rest = divmod(len(centers), size)
  visits, order, log_weight = whole, None, 0.0
  if key is not None:
    visits = max(round(how.sample_rate * whole), 1)
    order = jax.random.permutation(key, jnp.arange(whole, dtype=jnp.int32))
    log_weight = math.log(whole / visits)

  def visit_slice(carry, start, size, log_weight):
    # Without the barrier, XLA on CPU widens a whole half-precision bank ahead.
    source, start = jax.lax.optimization_barrier((centers, start))
    rows = jax.lax.dynamic_slice_in_dim(source, start, size)
    return visit(carry, start, rows, log_weight)

  def step(index, carry):
    place = index if order is None else order[index]
    return visit_slice(carry, place * size, size, log_weight)

  carry = jax.lax.fori_loop(0, visits, step, carry)
  if rest:
    carry = visit_slice(carry, jnp.int32(whole * size), rest, 0.0)
  return carry


def _left_out(labels, start, rows, how: _How):
  """bool[B, C]: the classes of a block that do not count among a row's other classes.

  These are the row's own class, and the padding rows of a mesh, which are no class.
  """
  places = start + jax.lax.broadcasted_iota(jnp.int32, (len(labels), len(rows)), 1)
  own = labels[:, None] == places
  if how.mesh is None or how.mesh.num_rows == how.mesh.num_classes:
    return own
  return own | (how.mesh.first_class() + places >= how.mesh.num_classes)


def _to_send(queries, how: _How) -> Float[Array, "B D"]:
  """Queries in the type in which products read them, where it is below float32."""
  dtype = jnp.dtype(how.product_dtype or queries.dtype)
  halved = queries.dtype == jnp.float32 and dtype.itemsize < 4
  return queries.astype(dtype) if halved else queries


def _product(left, right, how: _How) -> Float[Array, "M N"]:
  """A matrix product in `product_dtype` that sums in the type of `left`, or float32."""
  dtype = left.dtype if left.dtype == jnp.float64 else jnp.float32
  if how.product_dtype is not None:
    left, right = left.astype(how.product_dtype), right.astype(how.product_dtype)
  return jnp.matmul(left, right, preferred_element_type=dtype)
