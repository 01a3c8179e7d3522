"""Exact gradients over a batch that does not fit in memory, by chunks of its rows.

A loss over pairs needs the embeddings of the whole batch at once, but not the
activations of the whole batch: those are made again, chunk by chunk, on the way back.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

__all__ = ["embed", "join", "map_chunks", "split", "value_and_grad"]


def embed(
  model: Callable[[Any], Float[Array, "C D"]], inputs: PyTree, *, chunks: int
) -> Float[Array, "B D"]:
  """Embeds a batch by chunks, so that its gradient holds one chunk's activations.

  The value and the gradient are those of `model(inputs)`, to rounding, where a row's
  embedding depends on its own row. The price is a second forward pass: the gradient at
  the embeddings is taken first, and each chunk then embeds its rows again.

  Args:
    model: maps inputs [C, ...] to embeddings [C, D]; parameters reach it as a closure
      and get their gradient as usual.
    inputs: arrays [B, ...], split by rows.
    chunks: how many; B must be a multiple.

  Raises:
    ValueError: if the chunks do not divide the rows.

  Example:
    >>> import jax, jax.numpy as jnp, ccl_jax
    >>> images, labels = jnp.arange(24.0).reshape(8, 3) % 5, jnp.arange(8) // 2
    >>> def loss_fn(weights):
    ...   def model(images):
    ...     return jnp.tanh(images @ weights)
    ...   embeddings = ccl_jax.accumulate.embed(model, images, chunks=4)
    ...   return ccl_jax.losses.supcon(embeddings, labels).mean()
    >>> print(jax.grad(loss_fn)(jnp.eye(3)).shape)
    (3, 3)

  References:
    Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup
    (GradCache), 2021, https://arxiv.org/abs/2101.06983
  """
  return join(map_chunks(lambda rows, _: model(rows), inputs, chunks=chunks))


def map_chunks(
  function: Callable[[Any, Array], PyTree], rows: PyTree, *, chunks: int
) -> PyTree:
  """Calls `function(rows of a chunk, number of the chunk)` for one chunk at a time.

  Returns:
    The results of all chunks, stacked on a new first axis. Of what a chunk computes,
    only its result stays for the gradient; the rest is computed again.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import accumulate
    >>> rows = jnp.arange(4)
    >>> print(accumulate.map_chunks(lambda rows, number: rows + number, rows, chunks=2))
    [[0 2]
     [2 4]]
  """
  # Inside a loop, nothing can be shared with the first pass, so no barrier is needed.
  again = jax.checkpoint(lambda chunk: function(*chunk), prevent_cse=False)
  return jax.lax.map(again, (split(rows, chunks), jnp.arange(chunks)))


def value_and_grad(
  loss_fn: Callable[[PyTree, Any, Array], tuple[Float[Array, ""], PyTree]],
  params: PyTree,
  rows: PyTree,
  *,
  chunks: int,
) -> tuple[tuple[Float[Array, ""], PyTree], PyTree]:
  """The sum over the chunks of a loss and of its gradient, in one pass over the rows.

  For a loss that is a sum over rows, such as a class softmax: no chunk needs to see the
  others, and nothing is embedded twice.

  Args:
    loss_fn: `(params, rows of a chunk, number of the chunk) -> (loss, others)`.
    params: what is differentiated.
    rows: arrays [B, ...], split by rows.
    chunks: how many; B must be a multiple.

  Returns:
    ((loss, others), gradient), where `others` of all chunks are stacked on a new first
    axis, and loss and gradient are sums.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import accumulate
    >>> def loss_fn(weight, rows, number):
    ...   return (weight * rows).sum(), number
    >>> (loss, _), slope = accumulate.value_and_grad(
    ...   loss_fn, jnp.array(2.0), jnp.arange(4.0), chunks=2
    ... )
    >>> print(loss, slope)
    12.0 6.0
  """

  def visit(total, chunk):
    (loss, others), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, *chunk)
    return jax.tree.map(jnp.add, total, grads), (loss, others)

  zeros = jax.tree.map(jnp.zeros_like, params)
  parts = split(rows, chunks), jnp.arange(chunks)
  grads, (losses, others) = jax.lax.scan(visit, zeros, parts)
  return (losses.sum(), others), grads


def split(rows: PyTree, chunks: int) -> PyTree:
  """Arrays [B, ...] to [chunks, B / chunks, ...]; chunk c has the rows c, c + chunks, …

  A batch that is split over devices by ranges of rows then has a part of each chunk on
  each device, and nothing moves between them.

  Raises:
    ValueError: if the chunks do not divide the rows.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import accumulate
    >>> print(accumulate.split(jnp.arange(6), 2))
    [[0 2 4]
     [1 3 5]]
  """

  def of(array):
    if chunks < 1 or len(array) % chunks:
      raise ValueError(
        f"{len(array)} rows in {chunks} chunks: give a number that divides the rows"
      )
    return array.reshape(-1, chunks, *array.shape[1:]).swapaxes(0, 1)

  return jax.tree.map(of, rows)


def join(chunks: PyTree) -> PyTree:
  """Undoes `split`: arrays [chunks, C, ...] to [chunks * C, ...].

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import accumulate
    >>> print(accumulate.join(jnp.array([[0, 2, 4], [1, 3, 5]])))
    [0 1 2 3 4 5]
  """
  return jax.tree.map(
    lambda array: array.swapaxes(0, 1).reshape(-1, *array.shape[2:]), chunks
  )
