"""Two groups of parameters, each at its own rate; what decays, and what does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax import optim

PARAMS = {
  "model": {"kernel": jnp.full((2, 3), 4.0), "bias": jnp.full(3, 4.0)},
  "objective": {"centers": jnp.full((5, 3), 4.0)},
}


def updates_of(gradient, **settings):
  """The updates of the first step, for one gradient everywhere."""
  optimizer = optim.adamw(0.01, 0.5, steps=100, **settings)
  gradients = jax.tree.map(lambda p: jnp.full_like(p, gradient), PARAMS)
  return optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)[0]


def test_model_and_class_vectors_have_rates_of_their_own():
  """Adam's first step is its rate, whatever the length of the gradient."""
  updates = updates_of(7.0)
  np.testing.assert_allclose(updates["model"]["kernel"], -0.01, rtol=1e-4)
  np.testing.assert_allclose(updates["objective"]["centers"], -0.5, rtol=1e-4)


def test_only_the_models_matrices_decay():
  updates = updates_of(0.0, weight_decay=0.1)
  np.testing.assert_allclose(updates["model"]["kernel"], -0.01 * 0.1 * 4.0, rtol=1e-5)
  np.testing.assert_array_equal(updates["model"]["bias"], 0)
  np.testing.assert_array_equal(updates["objective"]["centers"], 0)


@pytest.mark.parametrize(
  ("step", "rate"), [(0, 0.0), (5, 0.1), (10, 0.2), (55, 0.1), (100, 0.0)]
)
def test_the_rate_rises_linearly_and_falls_as_a_cosine(step, rate):
  schedule = optim.warmup_cosine(0.2, 100, warmup_steps=10)
  np.testing.assert_allclose(schedule(step), rate, atol=1e-7)
