"""Vectors as directions: widened to float32, and scaled to unit length."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

__all__ = ["EPSILON", "check_dims", "unit", "widen"]

# Shorter rows are not scaled to unit length; this bounds the gradient of `unit`.
EPSILON = 1e-6


def widen(array: Num[Array, "..."]) -> Float[Array, "..."]:
  """Casts half precision and integers to float32; keeps float64."""
  return array if array.dtype == jnp.float64 else array.astype(jnp.float32)


def unit(vectors: Num[Array, "*N D"]) -> Float[Array, "*N D"]:
  """Scales rows to unit length, in float32 at least; a zero row stays zero.

  `v / max(|v|, eps)` has a NaN gradient at v = 0; this form has a finite one.
  """
  vectors = widen(vectors)
  squared = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
  return vectors * jax.lax.rsqrt(jnp.maximum(squared, EPSILON**2))


def check_dims(**arrays: Num[Array | np.ndarray, "..."]) -> None:
  """Raises where vectors that are to be compared differ in length.

  Args:
    **arrays: name -> [..., D].

  Raises:
    ValueError: naming each of the arrays with its shape.
  """
  if len({array.shape[-1] for array in arrays.values()}) > 1:
    shapes = " and ".join(f"{name} {array.shape}" for name, array in arrays.items())
    raise ValueError(f"{shapes} differ in dimension, their last axis")
