"""Rows as directions, from zero to the largest number that a type holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax import losses
from ccl_jax.vectors import unit


@pytest.mark.parametrize("length", [1.0, 1e4, 1e17, 1.9e19, 1e25, 8e37])
def test_rows_of_any_length_become_unit_rows(length):
  rows = np.float32(np.random.default_rng(0).normal(size=(5, 12)) * length)
  weights = np.random.default_rng(1).normal(size=rows.shape)
  exact = np.float64(rows)
  lengths = np.linalg.norm(exact, axis=1, keepdims=True)
  expected = exact / lengths
  np.testing.assert_allclose(unit(jnp.asarray(rows)), expected, atol=1e-6)
  found = jax.grad(lambda v: (unit(v) * weights.astype(np.float32)).sum())(rows)
  if length < 1e10:  # a longer row's gradient is lost below the smallest float32
    along = (weights * expected).sum(axis=1, keepdims=True)
    by_hand = (weights - along * expected) / lengths
    np.testing.assert_allclose(found * lengths, by_hand * lengths, atol=1e-5)
  assert np.isfinite(found).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("length", [0.0, 1e-7, 1e-5, 1e-3])
def test_the_gradient_of_a_tiny_row_is_finite(length, dtype):
  rows = jax.random.normal(jax.random.key(0), (6, 8)) * length
  centers, labels = jnp.eye(4, 8), jnp.arange(6) % 4

  def loss(rows):
    return losses.mean_over_examples(losses.cosface(rows, labels, centers), labels)

  gradient = jax.grad(loss)(rows.astype(dtype))
  assert gradient.dtype == dtype
  assert np.isfinite(np.float32(gradient)).all()


def test_a_row_too_long_to_square_is_told_apart_from_zero():
  rows = jnp.float32([[3e38, 0, 0], [0, 0, 0]])
  labels, centers = jnp.array([0, 0]), jnp.eye(2, 3)
  long, zero = losses.center_contrastive(rows, labels, centers)
  expected, _ = losses.center_contrastive(jnp.eye(2, 3), labels, centers)
  assert long == pytest.approx(expected) and zero > long
