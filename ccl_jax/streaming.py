"""The center losses by blocks of classes, for K too large to hold B x K.

The same arguments and numbers as `ccl_jax.losses`; what is held beside inputs and
outputs is a few arrays of B x block_size and block_size x D. The running softmax is
that of FlashAttention (Dao et al., 2022, https://arxiv.org/abs/2205.14135), with two
changes: the own class stays out of it, so that neither a margin nor a loss near zero
costs precision, and the first pass also gathers the gradient in the embeddings, which
therefore costs two matrix products in all. Only trained centers take a second pass.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int, Num

from ccl_jax.centers import unit
from ccl_jax.labels import drop_padding, mask_loss


def center_contrastive(
  embeddings: Num[Array, "B D"],
  labels: Int[Array, " B"],
  centers: Num[Array, "K D"],
  *,
  scale: float,
  margin: float,
  center_weight: float,
  block_size: int | None = None,
  product_dtype: DTypeLike | None = None,
) -> Float[Array, " B"]:
  """`losses.center_contrastive`, by blocks of classes: see `cosface` below."""
  blocks = block_size, product_dtype
  z, own, contrast = _contrast(embeddings, labels, centers, scale, margin, blocks)
  pull = jnp.sum((z - own) ** 2, axis=-1)
  return mask_loss(contrast + center_weight * pull, labels, len(centers))


def normalized_softmax(
  embeddings: Num[Array, "B D"],
  labels: Int[Array, " B"],
  proxies: Num[Array, "K D"],
  *,
  temperature: float = 0.05,
  block_size: int | None = None,
  product_dtype: DTypeLike | None = None,
) -> Float[Array, " B"]:
  """`losses.normalized_softmax`, by blocks of classes: see `cosface` below."""
  blocks = block_size, product_dtype
  *_, contrast = _contrast(embeddings, labels, proxies, 1 / temperature, 0.0, blocks)
  return mask_loss(contrast, labels, len(proxies))


def cosface(
  embeddings: Num[Array, "B D"],
  labels: Int[Array, " B"],
  proxies: Num[Array, "K D"],
  *,
  scale: float = 64.0,
  margin: float = 0.35,
  block_size: int | None = None,
  product_dtype: DTypeLike | None = None,
) -> Float[Array, " B"]:
  """`losses.cosface`, by blocks of classes.

  Differentiable in reverse mode, in embeddings and proxies; without a gradient, in the
  embeddings alone, and in both, it takes one, two and four products of 2BKD operations.
  The proxies are to lie on one device, or whole on each: a block is a slice of them.

  Args:
    embeddings: [B, D], any length, any float type; computed in float32 at least.
    labels: [B]; a negative label marks padding (loss 0), one >= K gives NaN.
    proxies: [K, D], any length; scaled, and widened, a block at a time.
    scale: s, the inverse temperature.
    margin: m, in units of cosine.
    block_size: classes a block; K need not be a multiple of it. None: 1024 on a CPU,
      whose cache then holds a block, and 4096 elsewhere, to launch fewer kernels.
    product_dtype: the type in which large products are multiplied, for instance
      `jnp.bfloat16`; their sums stay in float32. None: as they are.

  Returns:
    [B] float32, one value per example.
  """
  blocks = block_size, product_dtype
  *_, contrast = _contrast(embeddings, labels, proxies, scale, margin, blocks)
  return mask_loss(contrast, labels, len(proxies))


def _contrast(
  embeddings, labels, centers, scale, margin, blocks
) -> tuple[Array, Array, Array]:
  """Unit embeddings and own centers [B, D], and the cross-entropy [B] between them."""
  if blocks[0] is not None and blocks[0] < 1:
    raise ValueError(f"block_size={blocks[0]}: a block holds at least 1 class")
  z = unit(drop_padding(embeddings, labels))
  z = z.astype(jnp.promote_types(z.dtype, jax.eval_shape(unit, centers).dtype))
  classes = jnp.clip(labels.astype(jnp.int32), 0, len(centers) - 1)
  others, own = _others_and_own(scale * z, classes, centers, blocks)
  target = scale * (jnp.sum(z * own, axis=-1) - margin)
  # log(1 + sum of the others / own): full precision however small it is.
  return z, own, jax.nn.softplus(others - target)


def _value(
  queries: Float[Array, "B D"],
  labels: Int[Array, " B"],
  centers: Num[Array, "K D"],
  blocks: tuple[int | None, DTypeLike | None],
) -> tuple[Float[Array, " B"], Float[Array, "B D"]]:
  r""":math:`\log \sum_{k \ne y_i} e^{q_i \cdot c_k}`, and c_y, with c of unit length.

  The own centers are an output, so that the backward pass adds their gradient in place
  to that of the others: gathered apart, it would be a second array of K x D.
  """
  log_sum, _ = _softmax_over_others(queries, labels, centers, blocks, with_mean=False)
  return log_sum, unit(centers[labels])


def _forward(queries, labels, centers, blocks):
  # symbolic_zeros wraps each argument, to say whether it is differentiated.
  arrays = queries.value, labels.value, centers.value
  log_sum, mean = _softmax_over_others(*arrays, blocks, with_mean=queries.perturbed)
  own = unit(centers.value[labels.value])
  return (log_sum, own), (log_sum, mean, arrays if centers.perturbed else None)


def _backward(blocks, residuals, cotangents):
  log_sum, mean, arrays = residuals
  by_log_sum, by_own = cotangents
  by_queries = None if mean is None else by_log_sum[:, None] * mean
  if arrays is None:
    return by_queries, None, None
  queries, labels, centers = arrays

  def visit(by_centers, start, rows):
    directions, through_unit = jax.vjp(unit, rows)
    logits = _product(queries, directions.T, blocks)
    share = jnp.exp(logits - log_sum[:, None]) * by_log_sum[:, None]
    share = jnp.where(_is_own(labels, start, rows), 0.0, share)
    place = jnp.where(labels < start, len(rows), labels - start)
    by_directions = (
      _product(share.T, queries, blocks).at[place].add(by_own, mode="drop")
    )
    (by_rows,) = through_unit(by_directions)
    return jax.lax.dynamic_update_slice_in_dim(by_centers, by_rows, start, 0)

  return by_queries, None, _fold(visit, jnp.zeros_like(centers), centers, blocks)


_others_and_own = jax.custom_vjp(_value, nondiff_argnums=(3,))
_others_and_own.defvjp(_forward, _backward, symbolic_zeros=True)


def _softmax_over_others(queries, labels, centers, blocks, *, with_mean: bool):
  """Log of the sum over the other classes, and their mean center under the softmax."""

  def visit(carry, start, rows):
    highest, total, weighted = carry
    directions = unit(rows)
    logits = _product(queries, directions.T, blocks)
    logits = jnp.where(_is_own(labels, start, rows), -jnp.inf, logits)
    new_highest = jnp.maximum(highest, logits.max(axis=-1))
    decay = jnp.exp(highest - new_highest)
    terms = jnp.exp(logits - new_highest[:, None])
    total = decay * total + terms.sum(axis=-1)
    if with_mean:
      weighted = decay[:, None] * weighted + _product(terms, directions, blocks)
    return new_highest, total, weighted

  zeros = jnp.zeros_like(queries[:, 0])
  # Not -inf: -inf - -inf would be NaN where the own class is all that was seen so far.
  lowest = jnp.full_like(zeros, jnp.finfo(zeros.dtype).min)
  carry = lowest, zeros, jnp.zeros_like(queries) if with_mean else None
  highest, total, weighted = _fold(visit, carry, centers, blocks)
  # The highest term is 1, so the sum is at least 1 unless there is no other class.
  mean = weighted / jnp.maximum(total, 1)[:, None] if with_mean else None
  return highest + jnp.log(total), mean


def _fold(visit: Callable[[Any, Array, Array], Any], carry, centers, blocks) -> Any:
  """Folds `visit(carry, start, rows)` over all blocks; the last one may be smaller."""
  size = blocks[0] or (1024 if jax.default_backend() == "cpu" else 4096)
  size = min(size, len(centers))
  whole, rest = divmod(len(centers), size)

  def visit_slice(carry, start, size):
    # Without the barrier, XLA on CPU widens a half-precision bank as a whole, ahead.
    source, start = jax.lax.optimization_barrier((centers, start))
    return visit(carry, start, jax.lax.dynamic_slice_in_dim(source, start, size))

  def step(index, carry):
    return visit_slice(carry, index.astype(jnp.int32) * size, size)

  carry = jax.lax.fori_loop(0, whole, step, carry)
  return visit_slice(carry, jnp.int32(whole * size), rest) if rest else carry


def _is_own(labels, start, rows):
  return (labels - start)[:, None] == jnp.arange(len(rows), dtype=jnp.int32)[None, :]


def _product(left, right, blocks) -> Float[Array, "M N"]:
  """A matrix product in `product_dtype` that sums in the type of `left`."""
  dtype, product_dtype = left.dtype, blocks[1]
  if product_dtype is not None:
    left, right = left.astype(product_dtype), right.astype(product_dtype)
  return jnp.matmul(left, right, preferred_element_type=dtype)
