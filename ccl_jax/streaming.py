"""The center losses by blocks of classes, for K too large to hold B x K.

The same arguments and numbers as `ccl_jax.losses`; what is held beside inputs and
outputs is a few arrays of B x block_size and block_size x D. The running softmax is
that of FlashAttention (Dao et al., 2022, https://arxiv.org/abs/2205.14135), with two
changes: the own class stays out of it, so that a margin and a loss near zero cost no
precision, and the first pass already gathers the gradient in the embeddings, which
therefore costs two matrix products in all. Only trained centers take a second pass.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int, Num

from ccl_jax.centers import unit
from ccl_jax.labels import drop_padding, mask_loss

BLOCK_SIZE = 4096  # classes a block; our choice, see experiments/benchmarks/loss.py


def center_contrastive(
  embeddings: Num[Array, "B D"],
  labels: Int[Array, " B"],
  centers: Num[Array, "K D"],
  *,
  scale: float,
  margin: float,
  center_weight: float,
  block_size: int = BLOCK_SIZE,
  product_dtype: DTypeLike | None = None,
) -> Float[Array, " B"]:
  """`losses.center_contrastive`, by blocks of classes; see `cosface` below."""
  z, own, contrast = _contrast(
    embeddings, labels, centers, scale, margin, block_size, product_dtype
  )
  pull = jnp.sum((z - own) ** 2, axis=-1)
  return mask_loss(contrast + center_weight * pull, labels, len(centers))


def normalized_softmax(
  embeddings: Num[Array, "B D"],
  labels: Int[Array, " B"],
  proxies: Num[Array, "K D"],
  *,
  temperature: float = 0.05,
  block_size: int = BLOCK_SIZE,
  product_dtype: DTypeLike | None = None,
) -> Float[Array, " B"]:
  """`losses.normalized_softmax`, by blocks of classes; see `cosface` below."""
  return cosface(
    embeddings,
    labels,
    proxies,
    scale=1 / temperature,
    margin=0.0,
    block_size=block_size,
    product_dtype=product_dtype,
  )


def cosface(
  embeddings: Num[Array, "B D"],
  labels: Int[Array, " B"],
  proxies: Num[Array, "K D"],
  *,
  scale: float = 64.0,
  margin: float = 0.35,
  block_size: int = BLOCK_SIZE,
  product_dtype: DTypeLike | None = None,
) -> Float[Array, " B"]:
  """`losses.cosface`, by blocks of classes.

  Differentiable in reverse mode, in embeddings and proxies; without a gradient, in the
  embeddings alone, and in both, it takes one, two and four products of 2BKD operations.
  The proxies are to lie on one device, or whole on each: a block is a slice of them.

  Args:
    embeddings: [B, D], any length, any float type; computed in float32 at least.
    labels: [B]; a negative label marks padding (loss 0), one >= K gives NaN.
    proxies: [K, D], any length; only a block at a time is scaled and widened.
    scale: s, the inverse temperature.
    margin: m, in units of cosine.
    block_size: classes a block; K need not be a multiple of it.
    product_dtype: the type in which the two sides of a product are multiplied, for
      instance `jnp.bfloat16`; sums stay in float32. None: as they are.

  Returns:
    [B] float32, one value per example.
  """
  _, _, contrast = _contrast(
    embeddings, labels, proxies, scale, margin, block_size, product_dtype
  )
  return mask_loss(contrast, labels, len(proxies))


def _contrast(embeddings, labels, centers, scale, margin, block_size, product_dtype):
  """Unit embeddings and own centers [B, D], and the cross-entropy [B] between them."""
  if block_size < 1:
    raise ValueError(f"block_size={block_size}: a block holds at least 1 class")
  z = unit(drop_padding(embeddings, labels))
  labels = labels.astype(jnp.int32)
  others, rows = _others_and_own(scale * z, labels, centers, block_size, product_dtype)
  own = unit(rows)
  target = scale * (jnp.sum(z * own, axis=-1) - margin)
  # log(1 + sum of the others / own): full precision however small it is.
  return z, own, jax.nn.softplus(others - target)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _others_and_own(
  queries: Float[Array, "B D"],
  labels: Int[Array, " B"],
  centers: Num[Array, "K D"],
  block_size: int,
  product_dtype: DTypeLike | None,
) -> tuple[Float[Array, " B"], Num[Array, "B D"]]:
  r""":math:`\log \sum_{k \ne y_i} e^{q_i \cdot \mathrm{unit}(c_k)}`, and :math:`c_{y_i}`.

  The own rows are an output, as they are stored, so that their gradient is added in
  place to that of the others: gathered apart it would be a second array of K x D.
  """
  log_sum, _ = _softmax_over_others(
    queries, labels, centers, block_size, product_dtype, with_mean=False
  )
  return log_sum, _own_rows(labels, centers)


def _forward(queries, labels, centers, block_size, product_dtype):
  log_sum, mean = _softmax_over_others(
    queries.value,
    labels.value,
    centers.value,
    block_size,
    product_dtype,
    with_mean=queries.perturbed,
  )
  trained = (queries.value, labels.value, centers.value) if centers.perturbed else None
  rows = _own_rows(labels.value, centers.value)
  return (log_sum, rows), (log_sum, mean, trained)


def _backward(block_size, product_dtype, residuals, cotangents):
  log_sum, mean, trained = residuals
  by_log_sum, by_rows = cotangents
  by_queries = None if mean is None else by_log_sum[:, None] * mean
  if trained is None:
    return by_queries, None, None
  queries, labels, centers = trained

  def visit(by_centers, start, size):
    rows = jax.lax.dynamic_slice_in_dim(centers, start, size)
    directions, through_unit = jax.vjp(unit, rows)
    logits = _product(queries, directions.T, product_dtype)
    share = jnp.exp(logits - log_sum[:, None]) * by_log_sum[:, None]
    share = jnp.where(_is_own(labels, start, size), 0.0, share)
    (block,) = through_unit(_product(share.T, queries, product_dtype))
    return jax.lax.dynamic_update_slice_in_dim(by_centers, block, start, 0)

  by_centers = _fold_blocks(visit, jnp.zeros_like(centers), len(centers), block_size)
  return by_queries, None, by_centers.at[labels].add(by_rows, mode="clip")


_others_and_own.defvjp(_forward, _backward, symbolic_zeros=True)


def _softmax_over_others(
  queries, labels, centers, block_size, product_dtype, *, with_mean: bool
) -> tuple[Float[Array, " B"], Float[Array, "B D"] | None]:
  """Log of the sum over the other classes, and their mean center under the softmax."""

  def visit(carry, start, size):
    highest, total, weighted = carry
    directions = unit(jax.lax.dynamic_slice_in_dim(centers, start, size))
    logits = _product(queries, directions.T, product_dtype)
    logits = jnp.where(_is_own(labels, start, size), -jnp.inf, logits)
    new_highest = jnp.maximum(highest, logits.max(axis=-1))
    decay = jnp.exp(highest - new_highest)
    terms = jnp.exp(logits - new_highest[:, None])
    total = decay * total + terms.sum(axis=-1)
    if with_mean:
      weighted = decay[:, None] * weighted + _product(terms, directions, product_dtype)
    return new_highest, total, weighted

  # The lowest float and not -inf: where all classes so far are the own one, -inf minus
  # -inf would be NaN.
  zeros = jnp.zeros_like(queries[:, 0])
  lowest = jnp.full_like(zeros, jnp.finfo(queries.dtype).min)
  weighted = jnp.zeros_like(queries) if with_mean else None
  highest, total, weighted = _fold_blocks(
    visit, (lowest, zeros, weighted), len(centers), block_size
  )
  # The highest term is 1, so the sum is at least 1 unless there is no other class.
  mean = weighted / jnp.maximum(total, 1)[:, None] if with_mean else None
  return highest + jnp.log(total), mean


def _fold_blocks(
  visit: Callable[[Any, Any, int], Any], carry: Any, num_classes: int, block_size: int
) -> Any:
  """Folds `visit(carry, first class, size)` over all blocks; the last may be smaller."""
  size = min(block_size, num_classes)
  whole, rest = divmod(num_classes, size)
  carry = jax.lax.fori_loop(0, whole, lambda i, c: visit(c, i * size, size), carry)
  return visit(carry, whole * size, rest) if rest else carry


def _is_own(labels, start, size: int) -> Bool[Array, "B size"]:
  classes = jnp.asarray(start, jnp.int32) + jnp.arange(size, dtype=jnp.int32)
  return labels[:, None] == classes[None, :]


def _own_rows(labels, centers) -> Num[Array, "B D"]:
  return centers.at[labels].get(mode="clip")


def _product(left, right, product_dtype) -> Float[Array, "M N"]:
  """A matrix product that multiplies in `product_dtype` and sums in the type of left."""
  dtype = left.dtype
  if product_dtype is not None:
    left, right = left.astype(product_dtype), right.astype(product_dtype)
  return jnp.matmul(left, right, preferred_element_type=dtype)
