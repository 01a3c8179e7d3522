"""Vectors as directions: widened to float32, and scaled to unit length."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

__all__ = ["EPSILON", "check_arrays", "check_dims", "unit", "unit_rows", "widen"]

# Shorter rows are not scaled to unit length; this bounds the gradient of `unit`.
EPSILON = 1e-6
# The same for float16, whose largest number is 65504: the gradient of a loss of scale
# 64 is up to 128 for a row of unit length. Our choice.
EPSILON_HALF = 2e-3


def widen(array: Num[Array, "..."]) -> Float[Array, "..."]:
  """Casts half precision and integers to float32; keeps float64.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import vectors
    >>> print(vectors.widen(jnp.ones(2, jnp.bfloat16)).dtype)
    float32
  """
  return array if array.dtype == jnp.float64 else array.astype(jnp.float32)


def unit(vectors: Num[Array, "*N D"]) -> Float[Array, "*N D"]:
  """Scales rows to unit length, in float32 at least; a zero row stays zero.

  `v / max(|v|, eps)` has a NaN gradient at v = 0; this form has a finite one. Rows of
  float16 below `EPSILON_HALF` are not scaled either, since their gradient, which is
  float16 too, would be infinite.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import vectors
    >>> print(vectors.unit(jnp.array([[3.0, 4.0], [0.0, 0.0]])).round(3))
    [[0.6 0.8]
     [0.  0. ]]
  """
  epsilon = EPSILON_HALF if vectors.dtype == jnp.float16 else EPSILON
  vectors = widen(vectors)
  squared = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
  is_finite = jnp.isfinite(squared)
  # The square of a finite row may be infinite; it is then made smaller before. That is
  # a second pass over the rows, so it is taken only where there is such a row.
  down = 2.0 ** -int(0.6 * float(jnp.finfo(vectors.dtype).maxexp))

  def usual(vectors, squared):
    del vectors
    return jnp.maximum(squared, epsilon**2)

  def rare(vectors, squared):
    smaller = vectors * down
    again = jnp.sum(smaller * smaller, axis=-1, keepdims=True)
    return jnp.where(jnp.isfinite(squared), usual(vectors, squared), again)

  # Without the checkpoint, the gradient would keep what the rare branch computes.
  length = jax.lax.cond(is_finite.all(), usual, jax.checkpoint(rare), vectors, squared)
  return vectors * jnp.where(is_finite, 1.0, down) * jax.lax.rsqrt(length)


def unit_rows(
  rows: Num[Array | np.ndarray, "N D"], name: str
) -> Float[np.ndarray, "N D"]:
  """Scales rows to unit length on the host, in float32; a zero row stays zero.

  Args:
    rows: [N, D], any length; unlike `unit`, of rows up to the largest float32 too.
    name: of the rows, for a message.

  Raises:
    ValueError: if these are not rows, or one of them is not finite in float32.

  Example:
    >>> import numpy as np
    >>> from ccl_jax import vectors
    >>> print(vectors.unit_rows(np.array([[3e30, 4e30], [0.0, 0.0]]), "rows").round(3))
    [[0.6 0.8]
     [0.  0. ]]
  """
  check_arrays(**{name: rows})
  if rows.ndim != 2 or len(rows) == 0:
    raise ValueError(f"{name} must be [rows, D] with a row at least, got {rows.shape}")
  with np.errstate(over="ignore"):  # a float64 too large is reported below
    rows = np.asarray(rows, np.float32)
  # By the largest entry first, since float32 cannot hold the square of 1e30.
  largest = np.maximum(rows.max(axis=1), -rows.min(axis=1))
  if not np.isfinite(largest).all():
    bad = int(np.argmin(np.isfinite(largest)))
    raise ValueError(f"{name} row {bad} is not finite in float32")
  rows = rows / np.where(largest > 0, largest, 1)[:, None]
  length = np.sqrt(np.einsum("nd,nd->n", rows, rows))
  rows /= np.where(length > 0, length, 1)[:, None]
  return rows


def check_arrays(**arrays: Any) -> None:
  """Raises where something is no array of real numbers with an axis at least.

  Args:
    **arrays: name -> what was given.

  Raises:
    ValueError: naming the first that is not, with its type or shape.

  Example:
    >>> import numpy as np
    >>> from ccl_jax import vectors
    >>> print(vectors.check_arrays(embeddings=np.ones((2, 3))))
    None
  """
  for name, array in arrays.items():
    is_array = isinstance(array, jax.Array | np.ndarray)
    kind: Any = array.dtype if is_array else type(array).__name__
    if not is_array or not (
      jnp.issubdtype(kind, jnp.floating) or jnp.issubdtype(kind, jnp.integer)
    ):
      raise ValueError(f"{name}: expected an array of numbers, got {kind}")
    if array.ndim == 0:
      raise ValueError(f"{name}: expected an array [..., D], got a single number")


def check_dims(**arrays: Num[Array | np.ndarray, "..."]) -> None:
  """Raises where vectors that are to be compared differ in length.

  Args:
    **arrays: name -> [..., D].

  Raises:
    ValueError: naming each of the arrays with its shape.

  Example:
    >>> import jax.numpy as jnp
    >>> from ccl_jax import vectors
    >>> vectors.check_dims(queries=jnp.ones((2, 3)), gallery=jnp.ones((5, 4)))
    Traceback (most recent call last):
      ...
    ValueError: queries (2, 3) and gallery (5, 4) differ in dimension, their last axis
  """
  check_arrays(**arrays)
  if len({array.shape[-1] for array in arrays.values()}) > 1:
    shapes = " and ".join(f"{name} {array.shape}" for name, array in arrays.items())
    raise ValueError(f"{shapes} differ in dimension, their last axis")
